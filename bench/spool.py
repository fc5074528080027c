"""The append latency report: the store alone, without rows and sockets: `python -m bench.spool [--quick] [directory]`.

Appends with a keeper beside it and everything acknowledged on the way, so that segments are made and
removed all the time.  Prints a line a case: frames a second over the whole, and the percentiles of one
append (reserve, copy the payload in, publish), the waits for the keeper included.  ``sync off`` leaves the frames to
the page cache, ``sync on`` makes each of them durable before the next one (NFR-03).  ``--quick`` only shows that it
works.

Without a directory the slots are made in the system's temporary one; what a filesystem's syncs cost
is most of the difference between machines.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from dataclasses import dataclass

from spoolq.spool.disk import DiskStore
from spoolq.spool.files import Files
from spoolq.spool.opening import open_store

_ACK_EVERY = 256


@dataclass(frozen=True)
class Case:
    """Payload bytes, segment bytes, how many segments are filled; ``synced``: each frame is, before the next."""

    nbytes: int
    segment_nbytes: int
    rotations: int
    synced: bool = False


CASES = (
    Case(512, 64 << 10, 2_000),
    Case(512, 4 << 20, 100),
    Case(1 << 20, 4 << 20, 200),
    Case(1 << 20, 64 << 20, 20),
    Case(512, 64 << 10, 40, synced=True),
    Case(1 << 20, 4 << 20, 40, synced=True),
)
QUICK = (Case(512, 64 << 10, 2), Case(512, 64 << 10, 1, synced=True))


class _Keeper:
    """The keeper's thread, reduced to the store's part."""

    def __init__(self, store: DiskStore) -> None:
        self._store = store
        self._work = threading.Event()
        self._ended = False
        self.room = threading.Condition()
        store.on_work = self._work.set
        self._work.set()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._ended = True
        self._work.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended:
            self._work.wait()
            self._work.clear()
            now = time.monotonic_ns() // 1_000_000
            while (due := self._store.keep_due_millis(now)) is not None and due <= now and not self._ended:
                if self._store.keep(now):
                    with self.room:
                        self.room.notify()


def measure(case: Case, directory: str) -> str:
    """Runs a case; its line."""
    store = open_store(Files(), directory, "bench", segment_nbytes=case.segment_nbytes, total_nbytes=1 << 30).store
    keeper = _Keeper(store)
    payload = os.urandom(case.nbytes)
    count = (case.segment_nbytes - 24) // (case.nbytes + 8) * case.rotations
    nanos = []
    clock = time.perf_counter_ns
    begun = clock()
    for index in range(count):
        started = clock()
        room = store.reserve(case.nbytes)
        if room is None:
            with keeper.room:
                while (room := store.reserve(case.nbytes)) is None:
                    keeper.room.wait(0.05)
        room.view[:] = payload
        store.publish(room)
        if case.synced:
            store.sync()
        nanos.append(clock() - started)
        if index % _ACK_EVERY == 0:
            store.acknowledge(store.published_fsn)
    seconds = (clock() - begun) / 1e9
    keeper.stop()
    store.acknowledge(store.published_fsn)
    store.close()
    nanos.sort()
    p50, p99, p999 = (nanos[int(count * part)] for part in (0.5, 0.99, 0.999))
    return (
        f"sync {'on ' if case.synced else 'off'} {case.nbytes:>8} B, "
        f"segments of {case.segment_nbytes >> 10:>6} KiB, {case.rotations:>5} rotations: "
        f"{count / seconds:>11,.0f} frames/s {count * case.nbytes / seconds / 1e6:>7,.0f} MB/s, "
        f"p50 {p50 / 1e3:,.2f} us, p99 {p99 / 1e3:,.2f} us, p99.9 {p999 / 1e3:,.2f} us"
    )


def main() -> None:
    """The cases in turn, each in a slot of its own."""
    parser = argparse.ArgumentParser(prog="python -m bench.spool", description="the append latency report")
    parser.add_argument("directory", nargs="?", help="where the slots are made (default: the temporary directory)")
    parser.add_argument("--quick", action="store_true", help="a few frames, to see that it works")
    words = parser.parse_args()
    for case in QUICK if words.quick else CASES:
        with tempfile.TemporaryDirectory(dir=words.directory) as directory:
            print(measure(case, directory), flush=True)


if __name__ == "__main__":
    main()
