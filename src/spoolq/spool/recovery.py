"""Opens a slot: takes the lock, plans, carries the plan out, hands over what the store goes on with.

    opened = open_slot(files, sf_dir, sender_id)     lock, plan, apply; set aside when unreplayable
    opened.fresh                                     True: the store makes the first segment itself
    opened.close()                                   on an error of the store: closes the files, then unlocks

The order of the changes (slot.md 5.1, ours.md 15, 16), none before the whole plan stands:

    1  residue of sealed segments: copied aside, zeroed
    2  a promoted spare gets its base
    3  an unusable manifest is renamed, an unwritten one removed, a missing one made; the boundaries move up to a
       promoted segment; before step 5 it is durable, whoever wrote it
    4  every member gets the flag that a manifest is required
    5  segments without unsent frames are removed
    6  corrupt files are renamed
    7  residue of the active segment: copied aside unless it is one unfinished frame, zeroed; a transaction that
       was never committed, too, from the end on: a segment that holds nothing else is emptied, the manifest steps
       back to the one before, and it is removed (docs/decisions.md)
    8  the dictionary is cut, set aside or made, and completed by what the frames told
    9  the watermark is made or mended

After a failure or a kill at any step the next opening gives the same frames: every step can be repeated,
copies are synced before what they hold is zeroed, and the manifest is durable before a flag asks for it.

A slot that is proven unreplayable is set aside (`_set_aside`) and a fresh one takes the name.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

from spoolq import limits
from spoolq.columns.symbols import SymbolTable
from spoolq.errors import SlotUnreplayableError, StorageError
from spoolq.spool import evidence, manifest, symbol_log, watermark
from spoolq.spool.files import Files
from spoolq.spool.lock import SlotLock, logical_lock
from spoolq.spool.manifest import Boundaries, Manifest, ManifestState
from spoolq.spool.plan import Seed, SlotPlan, Tail, plan_slot
from spoolq.spool.report import Cut, RecoveryReport
from spoolq.spool.scan import Segment, never
from spoolq.spool.segment_layout import BASE_OFFSET, FLAG_MANIFEST_REQUIRED, FLAGS_OFFSET
from spoolq.spool.sentinels import write_failed
from spoolq.spool.slot import do_all
from spoolq.spool.symbol_log import SymbolLog
from spoolq.spool.watermark import Watermark

_LOG = logging.getLogger("spoolq.spool")
_I64: Final = struct.Struct("<q")


@dataclass(slots=True)
class OpenedSlot:
    """A slot that is locked and ready; whoever gets it closes it.

    - ``fresh``: nothing is in it; ``manifest``, ``watermark`` and ``symbol_log`` are None, the store makes them.
    - ``chain``: segments in order, the active one last, as the files are now.
    - ``seed``: where the counters start.  ``symbols``: the dictionary, all of it published.
    - ``next_number``: of the next segment's name.
    """

    path: str
    lock: SlotLock
    fresh: bool = True
    chain: tuple[Segment, ...] = ()
    seed: Seed = field(default_factory=Seed)
    symbols: SymbolTable = field(default_factory=SymbolTable)
    manifest: Manifest | None = None
    watermark: Watermark | None = None
    symbol_log: SymbolLog | None = None
    next_number: int = 0
    report: RecoveryReport = field(default_factory=lambda: RecoveryReport(""))

    def close(self) -> None:
        """Closes what is open and unlocks, whatever fails on the way; the first error is raised."""
        steps: list[Callable[[], None]] = [f.close for f in (self.symbol_log, self.watermark, self.manifest) if f]
        do_all([*steps, self.lock.release])


def open_slot(
    files: Files, sf_dir: str, sender_id: str, *, stopped: Callable[[], bool] = never, place: str = ""
) -> OpenedSlot:
    """Opens the slot ``sender_id`` below ``sf_dir``, which must exist; makes the slot's directory.

    ``stopped`` ends the reading (`plan`); ``place`` says where it is opened, for whoever comes second.

    Raises SlotBusyError when somebody holds it, SlotRefusedError when it cannot be judged (nothing was changed),
    StorageError when a step failed (nothing is lost, open it again), `scan.Stopped` (nothing was changed).
    """
    slot = os.path.join(sf_dir, sender_id)
    with _Locked(files, slot, place) as locked:
        plan = plan_slot(files, slot, stopped)
        opened = None if plan.verdict == "unreplayable" else locked.keep(carry_out(files, plan, locked.lock))
    if opened is None:  # unlocked, for the logical lock comes first (ours.md 15g)
        opened = _set_aside(files, sf_dir, sender_id, place)
    bad = opened.report.cut or opened.report.quarantined or opened.report.warnings
    _LOG.log(logging.WARNING if bad else logging.INFO, "%s", opened.report.line())
    return opened


def carry_out(files: Files, plan: SlotPlan, lock: SlotLock) -> OpenedSlot:
    """Does what ``plan`` says.  The lock was held when the plan was made; on an error the caller releases it.

    Of a plan with ``replay_only``, a dictionary file that is missing or useless is not made anew, for nobody will
    append (``symbol_log`` is None then).  Raises SlotUnreplayableError for an unreplayable slot, which it leaves as
    it is.
    """
    if plan.verdict == "unreplayable":
        raise SlotUnreplayableError(f"the slot {plan.slot} cannot be sent: {plan.reason}", reason=plan.reason)
    opened = OpenedSlot(plan.slot, lock, next_number=plan.next_number)
    try:
        lock.check()
        work = _Work(files, plan)
        if plan.verdict == "fresh":
            work.start_anew()
        else:
            work.recover(opened)
    except BaseException:
        do_all([f.close for f in (opened.symbol_log, opened.watermark, opened.manifest) if f])
        raise
    opened.report = work.report()
    return opened


class _Work:
    """The steps, and what they did."""

    def __init__(self, files: Files, plan: SlotPlan) -> None:
        self._files = files
        self._plan = plan
        self._slot = plan.slot
        self._cut: list[Cut] = []
        self._quarantined: list[tuple[str, str]] = []
        self._removed: list[str] = []

    def start_anew(self) -> None:
        """No segment is left to go on with: clears the way for the first one.

        The manifest goes last: until then the leftovers are those of a slot that ends where it begins.
        """
        state = self._plan.manifest
        if state is not None and state.boundaries is not None and self._plan.decision.removed:
            opened = Manifest.open(self._files, self._slot, state)
            do_all([opened.renew, opened.close])
        self._remove(segment.name for segment in self._plan.decision.removed)
        if self._plan.decision.quarantined:  # their frames can be read with its symbols only
            self._set_symbols_aside()
        self._quarantine(segment.name for segment in self._plan.decision.quarantined)
        names = [watermark.NAME, symbol_log.NAME]
        if state is not None and state.boundaries is None:
            self._clear_manifest(state)
        elif state is not None:
            names.append(manifest.NAME)
        self._remove(name for name in names if self._files.stat(os.path.join(self._slot, name)) is not None)

    def recover(self, opened: OpenedSlot) -> None:
        """Steps 1 to 9 of the module's text."""
        chain, active = self._plan.chain, self._plan.chain[-1]
        for segment in chain[:-1]:
            self._cut_residue(segment, sealed=True)
        if self._plan.decision.rebase:
            self._store(active.name, BASE_OFFSET, _I64.pack(active.base), sync=True)
        opened.manifest = self._manifest(chain)
        for segment in chain:
            if not segment.flags & FLAG_MANIFEST_REQUIRED:
                # not synced: a flag that a power cut loses is set by the next opening
                self._store(segment.name, FLAGS_OFFSET, bytes([segment.flags | FLAG_MANIFEST_REQUIRED]), sync=False)
        self._remove(segment.name for segment in self._plan.decision.removed)
        self._quarantine(segment.name for segment in self._plan.decision.quarantined)
        if self._plan.tail is None:
            self._cut_residue(active, sealed=False)
        else:
            self._cut_transaction(self._plan.tail, opened.manifest)
        opened.symbol_log = self._symbol_log()
        opened.watermark = self._watermark()
        opened.fresh = False
        opened.seed = self._plan.seed
        opened.symbols = self._plan.dictionary.table
        opened.chain = tuple(
            segment.replaced(flags=segment.flags | FLAG_MANIFEST_REQUIRED, residue=None) for segment in self._plan.kept
        )

    def report(self) -> RecoveryReport:
        """What was found and done."""
        plan, seed = self._plan, self._plan.seed
        recovered = plan.verdict == "recover"
        table = plan.dictionary.table
        return RecoveryReport(
            slot=self._slot,
            recovered=recovered,
            migrated=recovered and (plan.manifest is None or plan.manifest.boundaries is None),
            segments=len(plan.kept),
            segment_nbytes=sum(segment.nbytes for segment in plan.kept),
            first_fsn=seed.first_fsn,
            next_fsn=seed.next_fsn,
            acked_fsn=seed.acked_fsn,
            frames_remaining=plan.remaining[0],
            remaining_nbytes=plan.remaining[1],
            frames_deferred=plan.tail.nframes if plan.tail else seed.next_fsn - seed.deferred_fsn,
            symbols=len(table),
            symbols_rebuilt=len(table) - plan.dictionary.from_file,
            cut=tuple(self._cut),
            quarantined=tuple(self._quarantined),
            removed=tuple(self._removed),
            promoted=plan.decision.promoted,
            warnings=plan.warnings,
        )

    def _cut_residue(self, segment: Segment, *, sealed: bool) -> None:
        found = segment.residue
        if found is None:
            return
        copy = ""
        if sealed or not found.unfinished:
            copy = evidence.keep_copy(self._files, self._slot, segment.name, segment.append_offset, found.end)
        evidence.clear(self._files, self._slot, segment.name, segment.append_offset, found.end)
        self._cut.append(Cut(segment.name, segment.append_offset, found.end - segment.append_offset, copy, sealed))

    def _cut_transaction(self, tail: Tail, opened: Manifest) -> None:
        """From the end on: after each step what is left of it is a shorter one, at the end of a valid log."""
        chain = self._plan.chain
        for before, segment in reversed(list(pairwise(chain[tail.index :]))):
            self._cut_from(segment, limits.SEGMENT_HEADER_BYTES)
            opened.step_back(before.base)
            self._files.unlink(os.path.join(self._slot, segment.name))
            self._files.sync_directory(self._slot)
        self._cut_from(chain[tail.index], tail.offset)

    def _cut_from(self, segment: Segment, offset: int) -> None:
        end = segment.append_offset if segment.residue is None else segment.residue.end
        if offset < end:
            copy = evidence.keep_copy(self._files, self._slot, segment.name, offset, end)
            evidence.clear(self._files, self._slot, segment.name, offset, end)
            self._cut.append(Cut(segment.name, offset, end - offset, copy, False))

    def _store(self, name: str, offset: int, data: bytes, *, sync: bool) -> None:
        """Changes a segment's header."""
        file = self._files.open(os.path.join(self._slot, name))
        try:
            self._files.write(file, offset, data)
            if sync:
                self._files.sync(file)
        finally:
            self._files.close(file)

    def _manifest(self, chain: tuple[Segment, ...]) -> Manifest:
        head, active, state = chain[0].base, chain[-1].base, self._plan.manifest
        if state is None or state.boundaries is None:
            if state is not None:
                self._clear_manifest(state)
            return Manifest.create(self._files, self._slot, head, active)
        opened = Manifest.open(self._files, self._slot, state)
        try:
            if self._plan.decision.removed or opened.boundaries != Boundaries(head, active):
                opened.update(head, active)
        except BaseException:
            opened.close()
            raise
        return opened

    def _clear_manifest(self, state: ManifestState) -> None:
        """An unusable one is renamed; one whose creation a kill cut short is no evidence of anything."""
        if state.unwritten:
            self._remove([manifest.NAME])
        else:
            self._quarantine([manifest.NAME])

    def _symbol_log(self) -> SymbolLog | None:
        """Opens or makes the file and stores what was only known from frames: they may be trimmed next."""
        table = self._plan.dictionary.table
        if self._plan.replay_only and self._plan.dictionary.action != "keep":
            if self._plan.dictionary.action == "replace":
                self._set_symbols_aside()
            return None
        log = self._kept_symbol_log() if self._plan.dictionary.action == "keep" else self._new_symbol_log()
        try:
            if log.count < len(table):
                log.write_ahead(table, len(table), len(table))
                log.sync()
                self._files.sync_directory(self._slot)
        except BaseException:
            log.close()
            raise
        return log

    def _kept_symbol_log(self) -> SymbolLog:
        trusted, nbytes = self._plan.symbols_nbytes
        if self._plan.copy_symbols:
            copy = evidence.keep_copy(self._files, self._slot, symbol_log.NAME, trusted, nbytes)
            self._cut.append(Cut(symbol_log.NAME, trusted, nbytes - trusted, copy, False))
        count = self._plan.dictionary.from_file
        return SymbolLog.open(self._files, self._slot, count=count, trusted_nbytes=trusted, nbytes=nbytes)

    def _new_symbol_log(self) -> SymbolLog:
        if self._plan.dictionary.action == "replace":
            self._set_symbols_aside()
        return SymbolLog.create(self._files, self._slot)

    def _set_symbols_aside(self) -> None:
        if self._files.stat(os.path.join(self._slot, symbol_log.NAME)) is not None:
            self._quarantine([symbol_log.NAME])

    def _watermark(self) -> Watermark:
        state = self._plan.watermark
        opened = Watermark.open(self._files, self._slot, state)
        try:
            if state is not None and state.fsn is not None and state.fsn >= self._plan.seed.next_fsn:
                opened.write(self._plan.seed.first_fsn - 1)
                opened.sync()
            elif self._plan.hushed and not self._plan.replay_only:
                opened.write(self._plan.seed.acked_fsn)
                opened.sync()
        except BaseException:
            opened.close()
            raise
        return opened

    def _remove(self, names: Iterable[str]) -> None:
        done = []
        for name in names:
            self._files.unlink(os.path.join(self._slot, name))
            done.append(name)
        if done:
            self._files.sync_directory(self._slot)
        self._removed += done

    def _quarantine(self, names: Iterable[str]) -> None:
        done = [(name, evidence.quarantine(self._files, self._slot, name)) for name in names]
        if done:
            self._files.sync_directory(self._slot)
        self._quarantined += done


def _set_aside(files: Files, sf_dir: str, sender_id: str, place: str) -> OpenedSlot:
    """Renames an unreplayable slot and opens a fresh one in its place (ours.md 15d).

    Under the logical lock and the slot's own, and only if the slot is still unreplayable then.  The reason is
    written into the slot first, so that no drainer adopts it under its new name.
    """
    outer = logical_lock(files, sf_dir, sender_id)
    try:
        opened = _set_aside_locked(files, sf_dir, os.path.join(sf_dir, sender_id), place)
    except BaseException:
        outer.release()
        raise
    try:
        outer.release()
    except BaseException:
        opened.close()
        raise
    return opened


def _set_aside_locked(files: Files, sf_dir: str, slot: str, place: str) -> OpenedSlot:
    """`_set_aside` under the logical lock."""
    with _Locked(files, slot, place) as locked:
        plan = plan_slot(files, slot)
        if plan.verdict != "unreplayable":  # somebody mended it meanwhile
            return locked.keep(carry_out(files, plan, locked.lock))
        target = _aside_name(files, slot)
        locked.lock.check()
        write_failed(files, slot, f"unreplayable: {plan.reason}\n")
        files.rename(slot, target)
        files.sync_directory(sf_dir)
    _LOG.error(
        "the slot %s cannot be sent: %s. It is now %s and untouched, a fresh slot takes its place; "
        "'spoolq verify' and 'spoolq repair' work on it",
        slot,
        plan.reason,
        target,
    )
    with _Locked(files, slot, place) as locked:
        opened = locked.keep(carry_out(files, plan_slot(files, slot), locked.lock))
    warning = f"what it held before cannot be sent: {plan.reason}"
    opened.report = replace(opened.report, set_aside=target, warnings=(*opened.report.warnings, warning))
    return opened


class _Locked:
    """The slot's lock for a while: released at the end of the block, unless what was opened under it is kept."""

    def __init__(self, files: Files, slot: str, place: str) -> None:
        self.lock = SlotLock.acquire(files, slot, place=place)
        self._kept = False

    def __enter__(self) -> _Locked:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._kept:
            self.lock.release()

    def keep(self, opened: OpenedSlot) -> OpenedSlot:
        """The lock belongs to ``opened`` from now on."""
        self._kept = True
        return opened


def _aside_name(files: Files, slot: str) -> str:
    for number in range(limits.SET_ASIDE_MAX):
        target = f"{slot}.unreplayable-{number}"
        if files.stat(target) is None:
            return target
    raise StorageError(
        f"the slot {slot} cannot be sent, and {limits.SET_ASIDE_MAX} such slots are set aside already: move them "
        "away, and look for what damages the slot again and again"
    )
