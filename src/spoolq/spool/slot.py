"""A slot that is open for appends: its files.  How a fresh one begins and a drained one ends.

`LiveSlot` is what `DiskStore` takes over: from `fresh_slot` here, or from `recovery`.  The lock is held
already, and released last by `LiveSlot.close`.  Whoever makes, removes or opens a file by its path asks
`SlotLock.check` first: the path may lead to another sender's slot by now.

Order of a fresh start (slot.md 4) in a directory that recovery found empty or cleared, and what a kill
behind each step leaves:

    1  `.symbol-dict` and `.ack-watermark` made                     nothing to recover
    2  first segment, base 0, flags 0, durable                      a legacy slot without frames
    3  manifest (0, 0), durable                                     a manifested slot, active not flagged
    4  flag bit 0 in the segment, durable                           steady state
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from spoolq import limits
from spoolq.errors import StorageError
from spoolq.spool import manifest as manifest_file
from spoolq.spool import segment_layout as layout
from spoolq.spool import symbol_log, watermark
from spoolq.spool.chain import INITIAL_NAME, SUFFIX, generation
from spoolq.spool.files import Files
from spoolq.spool.lock import SlotLock
from spoolq.spool.manifest import Manifest
from spoolq.spool.segment_file import SegmentFile, StoredSegment
from spoolq.spool.symbol_log import SymbolLog
from spoolq.spool.watermark import Watermark


def segment_name(generation: int) -> str:
    """File name of a segment."""
    return f"sf-{generation:016x}{SUFFIX}"


def removal_order(names: list[str]) -> list[str]:
    """The segments of a drained slot: the initial one, then by generation, then all others (slot.md 4)."""

    def rank(name: str) -> tuple[int, int, str]:
        if name == INITIAL_NAME:
            return (0, 0, name)
        number = generation(name)
        return (1, number, name) if number >= 0 else (2, 0, name)

    return sorted((name for name in names if name.endswith(SUFFIX)), key=rank)


@dataclass(slots=True)
class LiveSlot:
    """``segments`` is the chain, the active one last; ``symbol_log`` None means dense frames.

    Frames from ``deferred_fsn`` on were found and belong to a transaction that nobody committed: they are not sent,
    and settled once everything below them is (slot.md 5.5).  None when there are none, as always in a slot that
    takes appends: recovery has cut them off.
    ``grouped_end_fsn``: behind the newest frame that was found to commit deferred ones; 0 when there is none.
    """

    directory: str
    lock: SlotLock
    manifest: Manifest
    watermark: Watermark
    symbol_log: SymbolLog | None
    segments: list[StoredSegment]
    acked_fsn: int
    next_generation: int
    deferred_fsn: int | None = None
    grouped_end_fsn: int = 0

    @property
    def next_fsn(self) -> int:
        """FSN of the next frame."""
        return self.segments[-1].end_fsn

    def close(self, *, remove: Callable[[], None] | None = None) -> None:
        """Gives every file back, calls ``remove``, and the lock back last, whatever fails on the way."""
        steps: list[Callable[[], None]] = [self.manifest.close, self.watermark.close]
        if self.symbol_log is not None:
            steps.append(self.symbol_log.close)
        if remove is not None:
            steps.append(remove)
        steps.append(self.lock.release)
        do_all(steps)


def do_all(steps: list[Callable[[], None]]) -> None:
    """Does every step, then raises the first error."""
    first: BaseException | None = None
    for step in steps:
        try:
            step()
        except BaseException as error:
            first = first or error
    if first is not None:
        raise first


def fresh_slot(
    files: Files, directory: str, lock: SlotLock, *, segment_nbytes: int, next_generation: int, created_micros: int
) -> LiveSlot:
    """Starts a slot without segments; its first one gets the name of ``next_generation``.

    Raises StorageError; then no file is left that was made here, the lock is still held, and starting
    again is right (invariants 37, 42).
    """
    opened: list[Callable[[], None]] = []
    made: list[str] = []  # in the order in which they can be taken back
    try:
        log = SymbolLog.create(files, directory)
        opened.append(log.close)
        made.append(symbol_log.NAME)
        made.append(watermark.NAME)  # it does not take itself back
        mark = Watermark.open(files, directory, None)
        opened.append(mark.close)
        name = segment_name(next_generation)
        first = SegmentFile.create(
            files, directory, name, nbytes=segment_nbytes, base=0, flags=0, created_micros=created_micros
        )
        stored = first.stored
        try:
            made.insert(0, name)
            manifest = Manifest.create(files, directory, 0, 0)
            opened.append(manifest.close)
            made.insert(1, manifest_file.NAME)  # behind the segment: a flagged one without it refuses to open
            first.set_flags(layout.FLAG_MANIFEST_REQUIRED)
            first.sync_header()
        finally:
            first.close()
    except BaseException:
        with suppress(StorageError):
            do_all(opened)
        with suppress(StorageError):  # what cannot be removed is a slot that starts fresh again
            lock.check()
            for path in (os.path.join(directory, leftover) for leftover in made):
                if files.stat(path) is not None:
                    files.unlink(path)
        raise
    return LiveSlot(directory, lock, manifest, mark, log, [stored], -1, next_generation + 1)


def remove_drained(files: Files, directory: str, lock: SlotLock) -> None:
    """Removes what a drained slot holds; its manifest must be collapsed (head = active) already.

    Stops at the first segment that cannot be removed: the slot is still a drained one then.  Raises StorageError.
    """
    names = files.names(directory)
    for name in removal_order(names):
        lock.check()
        files.unlink(os.path.join(directory, name))
    files.sync_directory(directory)
    for name in (watermark.NAME, symbol_log.NAME, manifest_file.NAME):
        if name in names:
            lock.check()
            files.unlink(os.path.join(directory, name))
    files.sync_directory(directory)


def check_sizes(segment_nbytes: int, total_nbytes: int) -> None:
    """Raises StorageError when the cap does not hold two segments (ours.md 19)."""
    if segment_nbytes < limits.SEGMENT_BYTES_MIN or total_nbytes < 2 * segment_nbytes:
        raise StorageError(
            f"a spool of {total_nbytes} bytes in segments of {segment_nbytes} is too small: a segment has at "
            f"least {limits.SEGMENT_BYTES_MIN} bytes and two must fit"
        )
