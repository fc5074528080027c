"""``sf-manifest.bin``: where the chain of segments begins and ends (slot.md 2.5).

A container of two records (`records`) with magic ``SFM1`` and two values: the base of the first live
segment (head) and of the one that takes appends (active), 0 <= head <= active.  Neither ever falls, but in a recovery
that takes a segment away from the end (`Manifest.step_back`).

`read_manifest` changes nothing.  `Manifest` is the open file: `create` in a slot that has none,
`open`, then `update`, then `close`.  It belongs to the store, which calls it under its own lock.
"""

from __future__ import annotations

import os
from typing import Final

from spoolq import limits
from spoolq.frozen import Frozen
from spoolq.spool import records
from spoolq.spool.files import Files, take_back
from spoolq.spool.records import RecordFile

NAME: Final = "sf-manifest.bin"
MAGIC: Final = 0x314D4653  # SFM1


class Boundaries(Frozen):
    """Base of the first live segment, base of the active one."""

    head: int
    active: int


class ManifestState(Frozen):
    """What `read_manifest` found: the boundaries, None when the file cannot be used, and its length.

    ``one_record``: the other one is damaged or was never written.  ``unwritten``: the file holds not one byte that
    is not zero, as after a kill in `Manifest.create`.
    """

    boundaries: Boundaries | None
    generation: int
    nbytes: int
    one_record: bool
    unwritten: bool = False


def parse_manifest(data: bytes) -> ManifestState:
    """The state of a file with this content.  Raises records.UnknownVersion."""
    valid = [r for r in records.parse(data, MAGIC, 2) if 0 <= r.values[0] <= r.values[1] <= limits.FSN_MAX]
    if not valid:
        return ManifestState(None, 0, len(data), False, len(data) <= records.CONTAINER_BYTES and not any(data))
    head, active = valid[0].values
    return ManifestState(Boundaries(head, active), valid[0].generation, len(data), len(valid) == 1)


def read_manifest(files: Files, slot: str) -> ManifestState | None:
    """The state of a slot's manifest; None when there is none.

    A directory of that name cannot be used, as a file of another length (slot.md 5.2).  Raises
    StorageError when it cannot be read, records.UnknownVersion.
    """
    path = os.path.join(slot, NAME)
    found = files.stat(path)
    if found is None:
        return None
    if found.kind == "directory":
        return ManifestState(None, 0, 0, False)
    file = files.open(path, write=False)
    try:
        return parse_manifest(records.read_container(files, file))
    finally:
        files.close(file)


class Manifest:
    """The open manifest; ``boundaries`` is what the file says, synced or not.

    Of one that was just opened nobody knows whether it was ever synced, so the first `update` that must be durable
    stores it again, also when it changes nothing: segments are removed because it says so.
    """

    def __init__(self, record_file: RecordFile, boundaries: Boundaries) -> None:
        self._records = record_file
        self._durable = False
        self.boundaries = boundaries

    @classmethod
    def create(cls, files: Files, slot: str, head: int, active: int) -> Manifest:
        """Makes the file, durable with its name when this returns (slot.md 2.5: exclusive, zeros, g = 1).

        On failure no file is left, unless removing it failed as well.
        """
        path = os.path.join(slot, NAME)
        file = files.create(path)
        try:
            files.truncate(file, records.CONTAINER_BYTES)
            made = cls(RecordFile(files, file, MAGIC, 0), Boundaries(head, active))
            made._records.write((head, active))
            files.sync_all(file)
            files.sync_directory(slot)
            made._durable = True
        except BaseException:
            take_back(files, file)
            raise
        return made

    @classmethod
    def open(cls, files: Files, slot: str, state: ManifestState) -> Manifest:
        """Opens what `read_manifest` found usable; a 128-byte ancestor becomes a file of today, synced."""
        assert state.boundaries is not None, "an unusable manifest is set aside, never opened"
        file = files.open(os.path.join(slot, NAME))
        opened = cls(RecordFile(files, file, MAGIC, state.generation), state.boundaries)
        if state.nbytes != records.CONTAINER_BYTES:
            try:
                opened._records.extend((state.boundaries.head, state.boundaries.active))
                files.sync_all(file)
            except BaseException:
                files.close(file)
                raise
        return opened

    def update(self, head: int, active: int, *, sync: bool = True) -> None:
        """Moves the boundaries up; a value that would fall stays (invariant 16).

        Durable when this returns, whatever became of an earlier one; without ``sync`` not before `sync` returns.
        """
        raised = Boundaries(max(head, self.boundaries.head), max(active, self.boundaries.active))
        if raised == self.boundaries and (self._durable or not sync):
            return
        self._store(raised)
        if sync:
            self.sync()

    def step_back(self, active: int) -> None:
        """A segment before takes the appends again: durable when this returns."""
        self._store(Boundaries(self.boundaries.head, active))
        self.sync()

    def renew(self) -> None:
        """Stores what the file says once more and syncs it: nobody knows whether whoever wrote it did."""
        self._store(self.boundaries)
        self.sync()

    def sync(self) -> None:
        """What was written is durable when this returns."""
        self._records.sync()
        self._durable = True

    def _store(self, boundaries: Boundaries) -> None:
        self._durable = False
        self._records.write((boundaries.head, boundaries.active))
        self.boundaries = boundaries

    def close(self) -> None:
        """Gives the descriptor back."""
        self._records.close()
