"""What the opening of a slot found and did: one dataclass, one log line.

Made by `recovery`, kept by the store, read by the sender's user.  Holds names, numbers and texts, nothing open.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cut:
    """Bytes that were zeroed behind the last whole frame of ``segment``, from ``offset`` on.

    ``copy`` is the file that holds them now, "" when they were one frame whose writer was stopped (it was
    never published).  ``sealed``: the segment was full, so no frame was lost.
    """

    segment: str
    offset: int
    nbytes: int
    copy: str
    sealed: bool


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """Of one opening.

    - ``recovered``: False when the slot is new, or held nothing to go on with.
    - ``segments``, ``segment_nbytes``: in the chain, and the bytes of their files.
    - ``first_fsn``, ``next_fsn``, ``acked_fsn``: oldest frame that is stored, the next one's number, newest that is
      settled (-1: none).
    - ``frames_remaining``, ``remaining_nbytes``: frames that will be sent, and the bytes of their payloads.
    - ``frames_deferred``: of a transaction that was never committed (slot.md 5.5); they are not sent, and cut when
      the slot was opened to append to it.
    - ``symbols``: entries of the dictionary; ``symbols_rebuilt`` of them came from frames, not from the file.
    - ``cut``, ``quarantined`` (old name, new name), ``removed``: what was done to files.
    - ``promoted``: the segment that became the active one although the manifest did not say so.
    - ``set_aside``: where the unreplayable slot that had this name is now, "" when there was none.
    - ``warnings``: what somebody should look at.
    """

    slot: str
    recovered: bool = False
    migrated: bool = False
    segments: int = 0
    segment_nbytes: int = 0
    first_fsn: int = 0
    next_fsn: int = 0
    acked_fsn: int = -1
    frames_remaining: int = 0
    remaining_nbytes: int = 0
    frames_deferred: int = 0
    symbols: int = 0
    symbols_rebuilt: int = 0
    cut: tuple[Cut, ...] = ()
    quarantined: tuple[tuple[str, str], ...] = ()
    removed: tuple[str, ...] = ()
    promoted: str = ""
    set_aside: str = ""
    warnings: tuple[str, ...] = ()

    def line(self) -> str:
        """All of it in one line."""
        if not self.recovered:
            found = f"slot {self.slot}: new, the first frame gets FSN 0"
        else:
            found = (
                f"slot {self.slot}: {self.frames_remaining} frames ({self.remaining_nbytes} bytes) to send of FSN "
                f"{self.first_fsn} to {self.next_fsn - 1} in {self.segments} segments, acknowledged up to "
                f"{self.acked_fsn}, {self.symbols} symbols"
            )
        parts = [found]
        if self.migrated:
            parts.append("a manifest was made")
        if self.frames_deferred:
            parts.append(f"{self.frames_deferred} frames of an uncommitted transaction are not sent")
        if self.symbols_rebuilt:
            parts.append(f"{self.symbols_rebuilt} symbols rebuilt from frames")
        parts += [
            f"cut {cut.nbytes} bytes of {cut.segment} at {cut.offset}"
            + (f", kept as {cut.copy}" if cut.copy else ", a frame that was never finished")
            for cut in self.cut
        ]
        parts += [f"{old} renamed to {new}" for old, new in self.quarantined]
        if self.removed:
            parts.append(f"{len(self.removed)} files without unsent frames removed")
        if self.promoted:
            parts.append(f"{self.promoted} became the active segment")
        if self.set_aside:
            parts.append(f"the unreplayable slot is now {self.set_aside}")
        return "; ".join((*parts, *self.warnings))
