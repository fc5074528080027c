"""Slots that nobody writes any more: finding them, and taking one over to deliver what it holds.

    find_orphans(files, sf_dir, sender_id)   names of the candidates, sorted (behaviour.md 7.1)
    adopt(files, sf_dir, name)               the slot locked and recovered, or why not: `Adopted`

A candidate is a directory below ``sf_dir`` that is not our own slot, holds a segment file and no
``.failed``.  Its name does not matter, so a slot that somebody set aside without ``.failed`` is one too.
Links are not followed.  Whether a slot is in use is not asked here: only taking its lock tells.

Adoption in this order (slot.md 3, 7; ours.md 15g): the logical lock; the slot's own, of a directory that
is there; the logical one back; is it still a candidate; recovery for replay.  On an error nothing stays
open and both locks are free.  A slot that is proven damaged is handed over as it was found, locked,
so that the reason can be written into it.

For replay nothing is made that only a producer needs: no segment, no spare, no dictionary file.  What
recovery changes besides is what it changes for a sender (`recovery`), so either can go on with it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from spoolq import limits
from spoolq.columns.symbols import SymbolTable
from spoolq.errors import StorageError
from spoolq.spool.chain import SUFFIX
from spoolq.spool.files import Files
from spoolq.spool.lock import LOGICAL_DIRECTORY, SlotLock, logical_lock
from spoolq.spool.opening import live_slot
from spoolq.spool.plan import SlotPlan, plan_slot
from spoolq.spool.recovery import carry_out
from spoolq.spool.replay import ReplayStore
from spoolq.spool.report import RecoveryReport
from spoolq.spool.scan import never
from spoolq.spool.sentinels import FAILED_NAME, remove_last_error

_LOG = logging.getLogger("spoolq.spool")
_SHOWN: Final = 5


def find_orphans(files: Files, sf_dir: str, sender_id: str) -> list[str]:
    """Names of the candidates, at most `limits.ORPHANS_MAX`.

    Never raises for a disk: what cannot be read is told by a WARN and left out.
    """
    try:
        names = sorted(files.names_if_there(sf_dir) or ())
    except StorageError as error:
        _LOG.warning("orphaned slots are not looked for: %s", error)
        return []
    names = [name for name in names if name not in (sender_id, LOGICAL_DIRECTORY)]
    found = [name for name in names if _holds_frames(files, sf_dir, name)]
    if len(found) > limits.ORPHANS_MAX:
        _LOG.warning(
            "%d orphaned slots in %s; the first %d are drained, the others by a later sender",
            len(found),
            sf_dir,
            limits.ORPHANS_MAX,
        )
        del found[limits.ORPHANS_MAX :]
    if found:
        shown = ", ".join(found[:_SHOWN]) + (", ..." if len(found) > _SHOWN else "")
        _LOG.info("%d orphaned slots in %s: %s", len(found), sf_dir, shown)
    return found


def _holds_frames(files: Files, sf_dir: str, name: str) -> bool:
    try:
        return is_candidate(files, os.path.join(sf_dir, name))
    except StorageError as error:
        _LOG.warning("%s is not drained: %s", os.path.join(sf_dir, name), error)
        return False


def is_candidate(files: Files, slot: str) -> bool:
    """Whether the directory ``slot`` holds a segment and was not given up.  Raises StorageError."""
    stat = files.stat(slot)
    if stat is None or stat.kind != "directory":
        return False
    names = files.names_if_there(slot) or ()
    return FAILED_NAME not in names and any(name.endswith(SUFFIX) for name in names)


@dataclass(slots=True)
class Adopted:
    """A slot that was taken over; whoever gets it calls `close`.

    ``store`` is None where there is nothing to send: ``damage`` says what is wrong with the slot, or is
    empty when it held nothing and was cleared.  ``symbols`` is the dictionary of the frames.
    """

    lock: SlotLock
    store: ReplayStore | None
    symbols: SymbolTable
    report: RecoveryReport
    damage: str = ""

    def close(self) -> None:
        """Gives all of it back, the lock last; a drained slot is emptied.  Raises StorageError."""
        if self.store is not None:
            self.store.close()
        self.lock.release()


def adopt(files: Files, sf_dir: str, name: str, stopped: Callable[[], bool] = never) -> Adopted | None:
    """Takes over the slot ``name``; None when it is no candidate any more.

    Raises SlotBusyError when somebody has it, SlotRefusedError when it cannot be judged, StorageError
    when a step failed, `scan.Stopped` when ``stopped`` ended the reading; nothing is lost then and it may be tried
    again.
    """
    slot = os.path.join(sf_dir, name)
    lock = _lock(files, sf_dir, name)
    if lock is None:
        return None
    try:
        adopted = _recover(files, slot, lock, stopped) if is_candidate(files, slot) else None
    except BaseException:
        lock.release()
        raise
    if adopted is None:
        lock.release()
    return adopted


def _lock(files: Files, sf_dir: str, name: str) -> SlotLock | None:
    """The slot's own lock, taken under the logical one; None when it is no candidate any more."""
    slot = os.path.join(sf_dir, name)
    outer, lock = logical_lock(files, sf_dir, name), None
    try:
        if is_candidate(files, slot):  # else it was set aside, or drained, before the lock was ours
            lock = SlotLock.acquire(files, slot, make=False, place="by a background drainer")
    finally:
        try:
            outer.release()
        except BaseException:
            if lock is not None:
                lock.release()
            raise
    return lock


def _recover(files: Files, slot: str, lock: SlotLock, stopped: Callable[[], bool]) -> Adopted:
    """Recovery for replay, under the lock."""
    plan = plan_slot(files, slot, stopped, replay_only=True)
    damage = _damage(plan)
    if damage:
        return Adopted(lock, None, SymbolTable(), RecoveryReport(slot), damage)
    opened = carry_out(files, plan, lock)
    try:
        if opened.fresh:
            remove_last_error(files, slot)
            return Adopted(lock, None, opened.symbols, opened.report)
        # A frame that carries all its symbols needs no other; else what names them must not be removed before it is.
        may_trim = opened.symbol_log is not None or all(segment.start_max == 0 for segment in opened.chain)
        return Adopted(lock, ReplayStore(files, live_slot(opened), may_trim=may_trim), opened.symbols, opened.report)
    except BaseException:
        opened.close()
        raise


def _damage(plan: SlotPlan) -> str:
    """Why nobody can send what the slot holds; empty when somebody can, or it holds nothing."""
    if plan.verdict == "unreplayable":
        return plan.reason
    if plan.verdict == "fresh" and plan.decision.quarantined:  # no chain says what they held, or that it is settled
        first = plan.decision.quarantined[0]
        return f"every segment is corrupt; {first.name}: {first.fault or 'it holds no whole frame'}"
    return ""
