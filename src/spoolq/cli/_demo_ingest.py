"""The demo's ingesting process: all rows by `Sender.row` into a slot, from where the slot ends.

    python -m spoolq.cli._demo_ingest CONF SF_DIR [ROWS]

One flush every `BATCH_ROWS` rows and none in between, so that frame k holds the rows from k * BATCH_ROWS on: what
recovery says is published tells where to go on, to the row.  Reports are JSON objects, a line each, on standard
output:

    {"next_row", "frames", "unacked"}    the slot is open: frames that were ever published, those not acknowledged yet
    {"done", "unacked", "connected"}     rows handed over so far, frames that wait for their acknowledgement, whether
                                         this process has had a connection
    {"waits": true}                      it goes on when it reads a line from standard input
    {"acknowledged", "reconnects"}       all frames, how often a connection was made again; it closes when standard
                                         input ends, so not before it is let go
    {"failed": text}                     and exit 1

It waits once, before the last batch: this process has had a connection, everything before is acknowledged and told.
So whatever the demo does to a server at a report happens to a writer that needs a server again, however late the demo
reads it.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from spoolq.cli._demo_data import DataMissing, Table, load
from spoolq.errors import SpoolqError

if TYPE_CHECKING:
    from spoolq import ConnectionEvent

BATCH_ROWS: Final = 1_000
_ACK_MILLIS: Final = 60_000
_ACK_STEP_MILLIS: Final = 100


class _Failed(Exception):
    """What must not happen; the text is for the report."""


def main(arguments: list[str]) -> int:
    """Exit 0 when everything is acknowledged and the slot is drained."""
    conf, sf_dir, *limit = arguments
    try:
        _ingest(conf, sf_dir, load(int(limit[0]) if limit else None))
    except (DataMissing, SpoolqError, _Failed) as error:
        _tell(failed=str(error))
        return 1
    return 0


def _ingest(conf: str, sf_dir: str, tables: list[Table]) -> None:
    from spoolq import Sender

    connected = threading.Event()

    def listen(event: ConnectionEvent) -> None:
        if event.kind == "connected":
            connected.set()

    with Sender.from_conf(conf, sf_dir=sf_dir, auto_flush="off", connection_listener=listen) as sender:

        def tell() -> None:
            _tell(done=done, unacked=sender.stats().frames_unacked, connected=connected.is_set())

        def await_acks() -> None:
            deadline = time.monotonic() + _ACK_MILLIS / 1_000
            while not (
                sender.await_acked_fsn(frame - 1, timeout_millis=_ACK_STEP_MILLIS)
                and connected.wait(_ACK_STEP_MILLIS / 1_000)
            ):
                tell()
                if time.monotonic() > deadline:
                    raise _Failed(f"frame {frame - 1} was not acknowledged within {_ACK_MILLIS} ms")

        published = sender.published_fsn()
        frame = 0 if published is None else published + 1
        total = sum(len(table.rows) for table in tables)
        done = min(frame * BATCH_ROWS, total)
        _tell(next_row=done, frames=frame, unacked=sender.stats().frames_unacked)
        calls = islice(_calls(tables), done, None)
        while batch := list(islice(calls, BATCH_ROWS)):
            if frame and done + len(batch) == total:
                await_acks()
                tell()
                _wait_for_the_demo()
            for name, symbols, columns, at in batch:
                sender.row(name, symbols=symbols, columns=columns, at=at)
            fsn = sender.flush_and_get_fsn()
            if fsn != frame:
                raise _Failed(f"the rows from {done} on are in frame {fsn}, and frame {frame} was to hold them")
            frame += 1
            done += len(batch)
            tell()
        await_acks()
        _tell(acknowledged=frame, reconnects=sender.stats().total_reconnects_succeeded)
        sys.stdin.read()


def _wait_for_the_demo() -> None:
    _tell(waits=True)
    if not sys.stdin.readline():
        raise _Failed("the demo is gone")


def _calls(tables: list[Table]) -> Any:
    """What `Sender.row` takes, row by row, in the one order that both lives of the process share."""
    from spoolq import TimestampMicros

    for table in tables:
        middle = len(table.symbols)
        numbers = (*table.longs, *table.doubles)
        for row, micros in zip(table.rows, table.micros, strict=True):
            symbols = dict(zip(table.symbols, row[:middle], strict=True))
            yield table.name, symbols, dict(zip(numbers, row[middle:-1], strict=True)), TimestampMicros(micros)


def _tell(**report: Any) -> None:
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
