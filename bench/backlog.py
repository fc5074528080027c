"""What a large backlog costs: `python -m bench.backlog [--mib 10 10240]` (issue: descriptors, mappings, memory).

For each size, in fresh processes: one fills a slot without a server (frames of 1 MiB), one opens it with
RLIMIT_NOFILE=64, delivers everything to `bench.sink`, and says how long the opening and the delivery took, and the
most memory, descriptors and mappings of the slot it had.  Prints one JSON object a size; exit 1 when the largest
backlog had more than 8 descriptors or 4 mappings (ours.md 18), or 16 MiB more memory than the smallest.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

_DESCRIPTORS_MAX = 64
_ROW_BYTES = 1 << 20
_EXTRA_MEMORY = 16 << 20
_MOST = {"slot_descriptors_max": 8, "slot_mappings_max": 4}  # ours.md 18: whatever the backlog
_NOBODY = "ws::addr=127.0.0.1:1;initial_connect_retry=async;close_flush_timeout_millis=0;auto_flush=off;"


def fill(folder: str, mib: int) -> dict[str, Any]:
    """Writes a backlog of ``mib`` frames of about 1 MiB."""
    from spoolq import Sender, TimestampNanos

    payload = os.urandom(_ROW_BYTES - 200)
    began = time.perf_counter()
    with Sender.from_conf(_NOBODY, sf_dir=folder, sf_max_total_bytes="64g") as sender:
        for number in range(mib):
            sender.row("t", columns={"data": payload}, at=TimestampNanos(number))
            sender.flush()
    return {"fill_mib_per_s": round(mib / (time.perf_counter() - began))}


class Watch(threading.Thread):
    """The most of everything that was seen while it ran."""

    def __init__(self, folder: str) -> None:
        super().__init__(daemon=True)
        self._folder = os.path.realpath(folder)
        self._ended = threading.Event()
        self.descriptors = self.mappings = 0

    def look(self) -> None:
        with open("/proc/self/maps", encoding="utf-8") as maps:
            mappings = sum(self._folder in line for line in maps)
        self.mappings = max(self.mappings, mappings)
        self.descriptors = max(self.descriptors, self._in_slot())

    def _in_slot(self) -> int:
        count = 0
        for number in os.listdir("/proc/self/fd"):
            try:
                count += os.readlink(f"/proc/self/fd/{number}").startswith(self._folder)
            except OSError:
                continue  # closed meanwhile
        return count

    def run(self) -> None:
        while not self._ended.wait(0.002):
            self.look()

    def stop(self) -> None:
        self._ended.set()
        self.join()


def deliver(folder: str, port: int) -> dict[str, Any]:
    """Opens the slot with few descriptors and delivers it."""
    from spoolq import Sender

    resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS_MAX, _DESCRIPTORS_MAX))
    watch = Watch(folder)
    watch.start()
    began = time.perf_counter()
    sender = Sender.from_conf(f"ws::addr=127.0.0.1:{port};close_flush_timeout_millis=600000;", sf_dir=folder)
    opened = time.perf_counter()
    assert sender.recovery is not None
    frames, nbytes = sender.recovery.frames_remaining, sender.recovery.remaining_nbytes
    sender.close()
    ended = time.perf_counter()
    watch.stop()
    return {
        "frames": frames,
        "recovery_s": round(opened - began, 3),
        "recovery_mib_per_s": round(nbytes / (1 << 20) / (opened - began)),
        "deliver_mib_per_s": round(nbytes / (1 << 20) / (ended - opened)),
        "rss_max_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "slot_descriptors_max": watch.descriptors,
        "slot_mappings_max": watch.mappings,
        "left": sorted(os.listdir(os.path.join(folder, "default"))),
    }


def _run(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.backlog", *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main(sizes_mib: list[int], where: str | None) -> int:
    """Each size; 1 when a larger one costs more."""
    found = []
    with subprocess.Popen(
        [sys.executable, "-m", "bench.sink"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as sink:
        assert sink.stdout is not None
        port = sink.stdout.readline().strip()
        for mib in sizes_mib:
            with tempfile.TemporaryDirectory(dir=where) as folder:
                line = {"mib": mib, **_run("--fill", folder, str(mib)), **_run("--deliver", folder, port)}
            print(json.dumps(line), flush=True)
            found.append(line)
        assert sink.stdin is not None
        sink.stdin.close()
    small, large = found[0], found[-1]
    more = [name for name, most in _MOST.items() if large[name] > most]
    if large["rss_max_mib"] > small["rss_max_mib"] + _EXTRA_MEMORY / (1 << 20):
        more.append("rss_max_mib")
    print(f"too much with {large['mib']} MiB beside {small['mib']}: {', '.join(more) or 'nothing'}")
    return 1 if more else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="what a large backlog costs")
    parser.add_argument("--mib", type=int, nargs="+", default=[10, 10_240], help="sizes of the backlog")
    parser.add_argument("--dir", help="where the slots are made (default: the system's temporary directory)")
    parser.add_argument("--fill", nargs=2, metavar=("DIR", "MIB"), help=argparse.SUPPRESS)
    parser.add_argument("--deliver", nargs=2, metavar=("DIR", "PORT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.fill:
        print(json.dumps(fill(given.fill[0], int(given.fill[1]))))
    elif given.deliver:
        print(json.dumps(deliver(given.deliver[0], int(given.deliver[1]))))
    else:
        sys.exit(main(given.mib, given.dir))
