"""Opens the disk store of a sender: lock, recovery or fresh start, then the store.

    opened = open_store(Files(), sf_dir, sender_id, segment_nbytes=..., total_nbytes=...)
    opened.store, opened.symbols, opened.report

``opened.symbols`` is the dictionary that the row buffer and the catch-up go on with.  On an error nothing
stays open and the lock is free; what was on disk is still there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from spoolq import limits
from spoolq.columns.symbols import SymbolTable
from spoolq.errors import StorageError
from spoolq.frozen import Frozen
from spoolq.spool.disk import DiskStore
from spoolq.spool.files import Files
from spoolq.spool.recovery import OpenedSlot, open_slot
from spoolq.spool.report import RecoveryReport
from spoolq.spool.scan import never
from spoolq.spool.segment_file import StoredSegment
from spoolq.spool.slot import LiveSlot, check_sizes, fresh_slot
from spoolq.spool.store import Durability


class OpenedStore(Frozen):
    """The store, the symbols of all its frames, and what recovery found and did."""

    store: DiskStore
    symbols: SymbolTable
    report: RecoveryReport


def open_store(
    files: Files,
    sf_dir: str,
    sender_id: str,
    *,
    segment_nbytes: int,
    total_nbytes: int,
    durability: Durability = "memory",
    sync_interval_millis: int = limits.SYNC_INTERVAL_MILLIS_DEFAULT,
    stopped: Callable[[], bool] = never,
    place: str = "",
) -> OpenedStore:
    """Opens ``<sf_dir>/<sender_id>``; ``sf_dir`` must exist.  See `DiskStore` for ``durability``.

    ``stopped``, ``place`` and what is raised: see `recovery.open_slot`.
    """
    check_sizes(segment_nbytes, total_nbytes)
    opened = open_slot(files, sf_dir, sender_id, stopped=stopped, place=place)
    try:
        live = _start(files, opened, segment_nbytes) if opened.fresh else live_slot(opened)
    except BaseException:
        opened.close()
        raise
    store = DiskStore.open(
        files,
        live,
        segment_nbytes=segment_nbytes,
        total_nbytes=total_nbytes,
        durability=durability,
        sync_interval_millis=sync_interval_millis,
    )
    return OpenedStore(store, opened.symbols, opened.report)


def _start(files: Files, opened: OpenedSlot, segment_nbytes: int) -> LiveSlot:
    return fresh_slot(
        files,
        opened.path,
        opened.lock,
        segment_nbytes=segment_nbytes,
        next_generation=opened.next_number,
        created_micros=time.time_ns() // 1_000,
    )


def live_slot(opened: OpenedSlot) -> LiveSlot:
    """The files of a recovered slot, for the store that takes them over."""
    if opened.manifest is None or opened.watermark is None:
        raise StorageError(f"recovery of {opened.path} left no manifest or no watermark; please report it")
    return LiveSlot(
        directory=opened.path,
        lock=opened.lock,
        manifest=opened.manifest,
        watermark=opened.watermark,
        symbol_log=opened.symbol_log,
        segments=[
            StoredSegment(os.path.join(opened.path, s.name), s.base, s.count, s.append_offset, s.nbytes)
            for s in opened.chain
        ],
        acked_fsn=opened.seed.acked_fsn,
        next_generation=opened.next_number,
        deferred_fsn=opened.seed.deferred_fsn,
        grouped_end_fsn=opened.seed.grouped_end_fsn,
    )
