"""The end-to-end report: from `row()` to the acknowledgement: `python -m bench.latency [--quick]`.

One row, its flush, and the wait for its acknowledgement, again and again, by us and by the official client, each in a
process of its own, against the strict server, which checks every byte and stores the rows, in a third (NFR-04).
Prints a line a client: the percentiles of the whole way, and how many lines the client logged at INFO and above on
its way: a client that works says nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

CLIENTS = ("spoolq", "questdb")
_SERVER = """
import sys
from spoolq.testing import QwpServer
with QwpServer(record_nbytes_max=0) as server:
    print(server.conf, flush=True)
    sys.stdin.read()
"""
_CLIENT = """
import importlib, json, logging, sys, time
class Count(logging.Handler):
    lines = 0
    def emit(self, record):
        self.lines += 1
count = Count(logging.INFO)
logging.basicConfig(level=logging.INFO, handlers=[count])
client, conf, rows = importlib.import_module(sys.argv[1]), sys.argv[2], int(sys.argv[3])
clock, nanos = time.perf_counter_ns, []
with client.Sender.from_conf(conf + "auto_flush=off;") as sender:
    for n in range(rows + rows // 10):
        began = clock()
        sender.row("t", symbols={"s": "a"}, columns={"n": n}, at=client.TimestampNanos(n + 1))
        if not sender.await_acked_fsn(sender.flush_and_get_fsn(), timeout_millis=10_000):
            raise SystemExit(f"row {n} was not acknowledged within 10 s")
        nanos.append(clock() - began)
nanos = sorted(nanos[rows // 10 :])
print(json.dumps({"logged": count.lines, **{f"p{part}_ns": nanos[int(rows * part / 100)] for part in (50, 99, 99.9)}}))
"""


def measure(client: str, conf: str, rows: int) -> dict[str, int]:
    """One client's figures; what it wrote to its standard error counts as logged."""
    done = subprocess.run([sys.executable, "-c", _CLIENT, client, conf, str(rows)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{client} failed:\n{done.stderr}")
    found: dict[str, int] = json.loads(done.stdout)
    found["logged"] += len(done.stderr.splitlines())
    return found


def main() -> None:
    """Both clients, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m bench.latency", description="row, flush, acknowledgement")
    parser.add_argument("--quick", action="store_true", help="a few rows, to see that it works")
    rows = 100 if parser.parse_args().quick else 20_000
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        conf = server.stdout.readline().strip()
        for client in CLIENTS:
            found = measure(client, conf, rows)
            shown = ", ".join(
                f"{key.removesuffix('_ns')} {found[key] / 1e3:,.0f} us" for key in found if key != "logged"
            )
            print(f"{client:>8}: row + flush + acknowledged {shown}; {found['logged']} lines logged", flush=True)
        server.communicate()  # its standard input ends, and so does it


if __name__ == "__main__":
    main()
