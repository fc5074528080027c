"""A life of a slot, step by step, and what must hold whoever ends it where.

`Life.run` opens a store, publishes frames with their symbols, acknowledges, lets the keeper work, and
closes.  It notes what it was told: which frames were published, up to where they are acknowledged and
synced.  `Life.check` opens what is left with the real files layer and compares.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from spoolq.columns.symbols import SymbolTable
from spoolq.errors import StorageError
from spoolq.spool.disk import DiskStore
from spoolq.spool.files import Files
from spoolq.spool.opening import OpenedStore, open_store
from spoolq.spool.store import Durability
from tests.spool import slot_maker
from tests.spool.disk_slot import SEGMENT, replay
from tests.spool.files_double import UnsyncedFiles

ID = "writer"


def frame_of(fsn: int, symbol: int) -> bytes:
    """30 bytes, two of which fill a segment: a message that registers a symbol."""
    return slot_maker.message(symbol, [f"s{symbol:03d}"], body=b"frame %05d" % fsn)


@dataclass
class Life:
    """``drained``: everything is acknowledged before the close.  ``total``: the cap."""

    sf_dir: Path
    drained: bool = False
    total: int = 600
    frames: int = 9
    published: dict[int, bytes] = field(default_factory=dict)
    tried: dict[int, bytes] = field(default_factory=dict)
    acked: int = -1
    synced: int = -1
    errors: list[StorageError] = field(default_factory=list)
    store: DiskStore | None = None

    def open(self, files: Files, *, durability: Durability = "memory") -> OpenedStore:
        opened = open_store(
            files, str(self.sf_dir), ID, segment_nbytes=SEGMENT, total_nbytes=self.total, durability=durability
        )
        self.store = opened.store
        return opened

    @contextmanager
    def noting(self) -> Iterator[None]:
        """A storage error is noted; the life goes on."""
        try:
            yield
        except StorageError as error:
            self.errors.append(error)

    def run(self, files: Files, *, durability: Durability = "memory") -> None:
        """The whole life; storage errors are noted and the step is tried again later."""
        opened = None
        for _ in range(3):
            with self.noting():
                opened = self.open(files, durability=durability)
                break
        if opened is None:
            return
        store, symbols = opened.store, opened.symbols
        now = 0
        for step in range(self.frames):
            for _ in range(3):
                now += 1_000
                store.keep(now)
                with self.noting():
                    if self.append(store, symbols):
                        break
            if step == 5:
                self.acknowledge(store, 3)
            if step == 6:
                with self.noting():
                    store.sync()
                    self.synced = store.synced_fsn
        for _ in range(3):
            now += 1_000
            store.keep(now)
        if self.drained:  # sealed segments that nobody trimmed are left for the close
            self.acknowledge(store, store.published_fsn)
        with self.noting():
            store.close()

    def acknowledge(self, store: DiskStore, fsn: int) -> None:
        self.acked = max(self.acked, min(fsn, store.published_fsn))
        store.acknowledge(fsn)

    def append(self, store: DiskStore, symbols: SymbolTable) -> bool:
        fsn = store.published_fsn + 1
        new = symbols.published_count  # the frame's own number, unless a power cut took settled symbols
        payload = frame_of(fsn, new)
        room = store.reserve(len(payload))
        if room is None:
            return False
        room.view[:] = payload
        self.tried[fsn] = payload
        try:
            if len(symbols) == new:
                symbols.intern(f"s{new:03d}")
            if not store.dense:
                store.write_ahead(symbols, new, new + 1)
            store.publish(room)
        except BaseException:
            if store.published_fsn < fsn:
                store.abandon(room)
            raise
        symbols.published_count = new + 1
        self.published[fsn] = payload
        return True

    def check(self, *, at_least: int | None = None, unsuspicious: bool = False) -> None:
        """Opens what is left, twice; nothing that must be there is missing, nothing is invented.

        ``unsuspicious``: and recovery finds nothing that somebody should look at.
        """
        promised = {fsn: p for fsn, p in self.published.items() if fsn > self.acked}
        if at_least is not None:
            promised = {fsn: p for fsn, p in promised.items() if fsn <= at_least}
        next_fsn = None
        for _ in range(2):
            opened = open_store(UnsyncedFiles(), str(self.sf_dir), ID, segment_nbytes=SEGMENT, total_nbytes=10_000)
            store, symbols = opened.store, opened.symbols
            assert opened.report.set_aside == ""
            if unsuspicious:
                assert (opened.report.warnings, opened.report.quarantined) == ((), ())
            first = store.acked_fsn + 1
            found = dict(enumerate(replay(store, first), first))
            assert promised.items() <= found.items(), (sorted(promised), sorted(found), store.acked_fsn)
            assert found.items() <= self.tried.items()
            assert store.acked_fsn <= max(self.acked, -1)
            assert store.published_fsn <= max(self.tried, default=-1)
            assert (
                symbols.published_count
                == len(symbols)
                >= max((payload[12] + 1 for payload in found.values()), default=0)
            )
            assert symbols.entries(0, len(symbols)) == slot_maker.entries([f"s{n:03d}" for n in range(len(symbols))])
            assert next_fsn in (None, store.published_fsn + 1)
            store.keep(0)
            fresh = store.published_fsn + 1
            self.append_any(store, symbols)
            next_fsn = fresh + 1
            promised = {**promised, fresh: self.tried[fresh]}
            store.close()

    def append_any(self, store: DiskStore, symbols: SymbolTable) -> None:
        for _ in range(2):
            if self.append(store, symbols):
                return
            store.keep(0)
        raise AssertionError(f"no append: {store.stats()}")
