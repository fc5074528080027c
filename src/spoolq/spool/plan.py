"""What opening a slot would do: reads everything, decides, changes nothing.

`plan_slot` lists and scans the slot and gives a `SlotPlan`; `recovery` carries it out, and
``spoolq verify`` prints it.  No lock is taken here: who will act on a plan holds the slot's lock before.

A slot is opened to append to it, or only to send what it holds (``replay_only``).  What differs is a transaction
of another client that was never committed, at the end of the log (slot.md 5.5): who appends cuts it off first, else
the next frame would be its commit for everybody who opens the slot later (invariant 38); who only sends leaves it out.

- Damage that recovery can deal with is in the plan.
- Damage it cannot: ``verdict`` is "unreplayable", with the reason.
- What cannot be judged raises SlotRefusedError: a file that cannot be listed or read, a version or flag that this
  package does not know, the early ``.sfs`` layout (ours.md 15d, 15h).

Memory: some 300 bytes a segment file, the dictionary, one buffer.  One file is open at a time.

A large slot takes as long as its disk needs to read it.  ``stopped``, asked before each segment, ends that with
`scan.Stopped`; nothing was changed then.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from spoolq import limits
from spoolq.columns.symbols import SymbolTable
from spoolq.errors import SlotRefusedError, StorageError
from spoolq.frozen import Frozen
from spoolq.spool import chain as chains
from spoolq.spool import manifest, records, symbol_log, watermark
from spoolq.spool.chain import Decision, Unreplayable, decide
from spoolq.spool.dictionary import DictionaryPlan, ToSend, plan_dictionary
from spoolq.spool.files import Files
from spoolq.spool.manifest import ManifestState
from spoolq.spool.scan import Reader, Segment, UnknownFormat, never
from spoolq.spool.symbol_log import UnknownDictionaryVersion
from spoolq.spool.watermark import WatermarkState

OLD_SUFFIX: Final = ".sfs"
_NUMBER_MAX: Final = (1 << 64) - 1


class Seed(Frozen):
    """Where the counters start (slot.md 5.3).

    FSN of the oldest stored frame, of the next one to be published, of the newest that is settled; the first FSN
    of a transaction that was never committed and that stays (``next_fsn`` when there is none): it is not sent, and
    settled as soon as everything below is; the FSN behind the newest frame that commits deferred ones, 0 when there
    is none.
    """

    first_fsn: int = 0
    next_fsn: int = 0
    acked_fsn: int = -1
    deferred_fsn: int = 0
    grouped_end_fsn: int = 0


class Tail(Frozen):
    """A transaction that was never committed and that will be cut off, with all that is behind.

    ``nframes`` frames; it begins in ``chain[index]``, at byte ``offset``, behind ``count`` frames that stay.
    """

    nframes: int
    index: int
    count: int
    offset: int


@dataclass(slots=True)
class SlotPlan:
    """What `recovery` will do with a slot.

    ``verdict``: "fresh" (nothing to go on with), "recover", or "unreplayable" (then ``reason``, and only ``segments``
    and ``manifest`` mean something).  ``segments``: every segment file as found.  ``hushed``: deferred frames are
    settled by nothing but the watermark, so it must be durable before another frame follows them.
    """

    slot: str
    verdict: Literal["fresh", "recover", "unreplayable"]
    replay_only: bool = False
    reason: str = ""
    segments: Sequence[Segment] = ()
    manifest: ManifestState | None = None
    watermark: WatermarkState | None = None
    decision: Decision = field(default_factory=lambda: Decision(()))
    seed: Seed = field(default_factory=Seed)
    tail: Tail | None = None
    hushed: bool = False
    dictionary: DictionaryPlan = field(default_factory=lambda: DictionaryPlan(SymbolTable(), "create", 0))
    symbols_nbytes: tuple[int, int] = (0, 0)
    copy_symbols: bool = False
    remaining: tuple[int, int] = (0, 0)
    next_number: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def chain(self) -> tuple[Segment, ...]:
        """The segments that hold frames to go on with, the active one last."""
        return self.decision.chain

    @property
    def kept(self) -> tuple[Segment, ...]:
        """`chain` as it is without ``tail``."""
        if self.tail is None:
            return self.chain
        last = self.chain[self.tail.index].replaced(count=self.tail.count, append_offset=self.tail.offset)
        return (*self.chain[: self.tail.index], last)


def plan_slot(files: Files, slot: str, stopped: Callable[[], bool] = never, *, replay_only: bool = False) -> SlotPlan:
    """See the module's text.  A directory that does not exist is a fresh slot."""
    try:
        return _plan(Reader(files, slot, stopped), replay_only=replay_only)
    except StorageError as error:
        if isinstance(error, SlotRefusedError):
            raise
        raise _refused(slot, str(error)) from error
    except (UnknownFormat, UnknownDictionaryVersion, records.UnknownVersion) as error:
        raise _refused(slot, f"{error}; a newer version of some client wrote it") from error


def _refused(slot: str, why: str) -> SlotRefusedError:
    return SlotRefusedError(
        f"the slot {slot} was not opened, and nothing in it was changed: {why}. "
        f"'spoolq verify' shows what is there, 'spoolq repair' works on a copy"
    )


def _plan(reader: Reader, *, replay_only: bool) -> SlotPlan:
    files, slot = reader.files, reader.slot
    names = files.names_if_there(slot) or []
    old = [name for name in names if name.endswith(OLD_SUFFIX)]
    if old:
        raise _refused(slot, f"{min(old)} is of an early Java layout (sealed segments in {OLD_SUFFIX} files)")
    segments = _scan_all(reader, names)
    try:
        state = manifest.read_manifest(files, slot)
    except records.UnknownVersion as error:
        raise _refused(slot, f"{manifest.NAME} has {error}") from error
    plan = SlotPlan(slot, "fresh", replay_only, segments=segments, manifest=state)
    plan.next_number = _next_number(slot, names)
    try:
        plan.decision = decide(segments, state.boundaries if state else None)
        _complete(reader, plan)
    except Unreplayable as error:
        plan.verdict, plan.reason = "unreplayable", str(error)
    return plan


def _scan_all(reader: Reader, names: Sequence[str]) -> list[Segment]:
    found, slot = [], reader.slot
    mine = sorted(name for name in names if name.endswith(chains.SUFFIX))
    if len(mine) > limits.SEGMENTS_PER_SLOT_MAX:
        raise _refused(slot, f"it holds {len(mine)} segments, and {limits.SEGMENTS_PER_SLOT_MAX} is the most")
    for name in mine:
        stat = reader.files.stat(os.path.join(slot, name))
        if stat is None or stat.kind != "file":
            raise _refused(slot, f"{name} is {'gone' if stat is None else f'no file but a {stat.kind}'}")
        found.append(reader.scan(name, stat.nbytes))
    return found


def _next_number(slot: str, names: Sequence[str]) -> int:
    number = 1 + max((chains.generation(name) for name in names), default=-1)
    if number > _NUMBER_MAX:
        raise _refused(slot, "its segment numbers are used up")
    return number


def _complete(reader: Reader, plan: SlotPlan) -> None:
    """Watermark, counters and dictionary of a slot whose chain is settled."""
    files = reader.files
    warnings = [_why(segment) for segment in plan.decision.quarantined]
    try:
        plan.watermark = watermark.read_watermark(files, plan.slot)
    except records.UnknownVersion as error:
        raise _refused(plan.slot, f"{watermark.NAME} has {error}") from error
    if plan.manifest is not None and plan.manifest.boundaries is None and not plan.manifest.unwritten:
        warnings.append(f"{manifest.NAME} was unusable")
    if not plan.chain:
        plan.warnings = tuple(warnings)
        return
    plan.verdict = "recover"
    _count(reader, plan)
    fsn = plan.watermark.fsn if plan.watermark else None
    if fsn is not None and fsn >= plan.seed.next_fsn:
        warnings.append(f"the watermark {fsn} is above the newest frame and was ignored")
    if plan.decision.promoted:
        warnings.append(f"the manifest did not name {plan.decision.promoted} yet, as after a power cut")
    try:
        symbols = symbol_log.read_symbols(files, plan.slot)
    except UnknownDictionaryVersion as error:
        raise _refused(plan.slot, f"{symbol_log.NAME} has {error}") from error
    to_send = ToSend(plan.seed.acked_fsn + 1, plan.seed.deferred_fsn)
    plan.dictionary = plan_dictionary(reader, plan.kept, symbols, to_send)
    plan.symbols_nbytes = symbols.trusted_nbytes, symbols.nbytes
    plan.copy_symbols = symbols.rest == "damaged"
    plan.remaining = _remaining(reader, plan, to_send)
    plan.warnings = (*warnings, *filter(None, [plan.dictionary.warning]))


def _why(segment: Segment) -> str:
    """Why a file is renamed."""
    if segment.residue is not None:
        return f"{segment.name} holds bytes from {segment.residue.first} on that are no whole frame"
    return f"{segment.name} is corrupt: {segment.fault or 'all of it is zero'}"


def _count(reader: Reader, plan: SlotPlan) -> None:
    """Seeds the counters; finds the transaction that was never committed."""
    chain, next_fsn = plan.chain, plan.chain[-1].end_fsn
    floor = chain[0].base  # next_fsn when nothing is stored
    fsn = plan.watermark.fsn if plan.watermark else None
    acked_fsn = floor - 1 if fsn is None or fsn >= next_fsn else max(floor - 1, fsn)
    committed = next((s.base + s.commit_index + 1 for s in reversed(chain) if s.commit_index >= 0), floor)
    deferred_fsn = max(committed, acked_fsn + 1)
    plan.hushed = committed <= acked_fsn
    if deferred_fsn < next_fsn and not plan.replay_only:
        plan.tail = _tail(reader, plan, deferred_fsn)
        next_fsn = deferred_fsn
    elif deferred_fsn == acked_fsn + 1:  # nothing below is left, so the tail is settled here and now
        acked_fsn, deferred_fsn = next_fsn - 1, next_fsn
    plan.seed = Seed(floor, next_fsn, acked_fsn, deferred_fsn, _grouped_end(chain))


def _tail(reader: Reader, plan: SlotPlan, fsn: int) -> Tail:
    """The frames from ``fsn`` on: where they begin."""
    chain = plan.chain
    index = bisect_right(chain, fsn, key=lambda segment: segment.base) - 1
    segment = chain[index]
    frames = reader.walk(segment)
    try:
        offset = next(frame.offset for frame in frames if segment.base + frame.index == fsn)
    finally:
        frames.close()
    return Tail(chain[-1].end_fsn - fsn, index, fsn - segment.base, offset)


def _grouped_end(chain: tuple[Segment, ...]) -> int:
    """FSN behind the newest frame that commits deferred ones; 0 when there is none."""
    for at in range(len(chain) - 1, -1, -1):
        segment, before = chain[at], chain[at - 1] if at else None
        if segment.closing_index >= 0:
            return segment.base + segment.closing_index + 1
        if segment.commit_index >= 0 and before is not None and before.commit_index < before.count - 1:
            return segment.base + 1  # its first frame
    return 0


def _remaining(reader: Reader, plan: SlotPlan, to_send: ToSend) -> tuple[int, int]:
    """Number of the frames that will be sent, and the bytes of their payloads."""
    nbytes = 0
    for segment in plan.kept:
        if to_send.first <= segment.base and segment.end_fsn <= to_send.end:
            nbytes += segment.payload_nbytes
        elif to_send.first < segment.end_fsn and segment.base < to_send.end:
            frames = reader.walk(segment)
            nbytes += sum(frame.nbytes for frame in frames if to_send.holds(segment.base + frame.index))
    return max(0, to_send.end - to_send.first), nbytes
