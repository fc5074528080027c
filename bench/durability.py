"""What a flush costs in each durability mode: `python -m bench.durability [directory]`.

A sender without a server, a row and a `flush()` a turn; a line a mode with the percentiles of the two calls together.
Then eight threads on one sender: how many syncs served how many flushes.  A filesystem's sync is most of it.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

from spoolq import Sender, TimestampNanos

_TURNS: Final = 2_000
_CONF: Final = "ws::addr=127.0.0.1:1;initial_connect_retry=async;close_flush_timeout_millis=0;auto_flush=off;"


def turn(sender: Sender) -> int:
    """Nanoseconds of one row and its flush."""
    started = time.perf_counter_ns()
    sender.row("t", symbols={"s": "ETH-USD"}, columns={"n": 1, "x": 2.5}, at=TimestampNanos(1))
    sender.flush()
    return time.perf_counter_ns() - started


def measure(mode: str, directory: Path) -> str:
    """One mode; its line."""
    with Sender.from_conf(_CONF, sf_dir=directory / mode, sf_durability=mode) as sender:
        nanos = sorted(turn(sender) for _ in range(_TURNS))
        syncs = sender.stats().total_syncs
    p50, p99 = (nanos[int(_TURNS * part)] / 1e3 for part in (0.5, 0.99))
    return f"{mode:8} row + flush p50 {p50:,.1f} us, p99 {p99:,.1f} us, {syncs:,} syncs for {_TURNS:,} flushes"


def together(directory: Path) -> str:
    """Eight threads on one sender in `flush` mode."""
    with Sender.from_conf(_CONF, sf_dir=directory / "together", sf_durability="flush") as sender:
        threads = [threading.Thread(target=lambda: [turn(sender) for _ in range(250)]) for _ in range(8)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - started
        syncs = sender.stats().total_syncs
    return f"flush    8 threads: {2_000 / seconds:,.0f} flushes/s, {syncs:,} syncs for 2,000 flushes"


def main() -> None:
    """See the module's text."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as directory:
        for mode in ("memory", "periodic", "flush", "append"):
            print(measure(mode, Path(directory)), flush=True)
        print(together(Path(directory)), flush=True)


if __name__ == "__main__":
    main()
