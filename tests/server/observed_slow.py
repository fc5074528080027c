"""The rows of observed.md that take longer than a test may: `make observed`, about two minutes.

| row | what is looked at |
|---|---|
| 1, backoff | pauses between failed connects: at once, then 0.1 doubling, each times 0.5 to 1.5 |
| 2, 0C | pauses grow, no strike: still trying after 20 s |
| 3, the same again | connections a second of a server that accepts and drops |
| 3, no OK at all | no read timeout in 35 s |
| 5, dataframe without an OK | FailoverRetry after 30 s; the client has no setting for it |

Prints a line for each row and ends with 1 when one is not as the page says.  The clock is this machine's: an
overloaded one can fail it, which is why none of this is in the suite.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pandas as pd
import pytest
import questdb
from questdb import QuestDBError

from spoolq.server import Drop, QwpServer, Script

from .official import OFF, connected, rejecting, send


def arrivals(server: QwpServer[Any], seconds: float) -> list[float]:
    """When each new connection came, in seconds from now."""
    start, found, known = time.monotonic(), list[float](), len(server.connections)
    while (now := time.monotonic() - start) < seconds:
        count = len(server.connections)
        found += [now] * (count - known)
        known = count
        time.sleep(0.002)
    return found


def backoff() -> str:
    """A lost connection, then refusals."""
    with QwpServer() as server, connected(server.conf + OFF) as sender:
        sender.await_acked_fsn(send(sender), 5_000)
        server.refuse_new(503)
        server.drop_connections()
        send(sender)
        found = arrivals(server, 8)
    pauses = [later - earlier for earlier, later in pairwise(found)]
    assert found[0] < 0.1, found
    for number, pause in enumerate(pauses):
        base = min(5.0, 0.1 * 2**number)
        assert 0.5 * base - 0.02 <= pause <= 1.5 * base + 0.1, (number, pause)
    return f"first after {found[0]:.3f} s, then {', '.join(f'{pause:.2f}' for pause in pauses)}"


def not_writable() -> str:
    """0C on every connection."""
    with rejecting(0x0C, 0) as server, connected(server.conf + OFF) as sender:
        send(sender)
        found = [0.0, *arrivals(server, 25)]
        assert sender.acked_fsn() is None
    pauses = [later - earlier for earlier, later in pairwise(found)]
    assert pauses[0] < 0.1, pauses
    assert max(pauses) > 1.0, pauses
    assert max(pauses) < 11.0, pauses
    return f"pauses {', '.join(f'{pause:.2f}' for pause in pauses)}"


def storm() -> str:
    """A server that takes the frame and drops the connection before its OK."""
    with QwpServer(script=Script(drop=Drop(after_frames=1, before_ack=True))) as server:
        with connected(server.conf + OFF) as sender:
            send(sender)
            before = server.stats()["connections"]
            time.sleep(3)
            rate = (server.stats()["connections"] - before) / 3
        rows = server.store.count("t")
    assert rate > 100, rate
    return f"{rate:.0f} connections a second, the row is there {rows} times"


def no_ok() -> str:
    """Nothing is answered."""
    with (
        QwpServer(script=Script(no_ack=True)) as server,
        connected(server.conf + OFF + "close_flush_timeout_millis=50;") as sender,
    ):
        fsn = send(sender)
        assert sender.await_acked_fsn(fsn, 35_000) is False
        assert len(server.connections) == 1
    return "one connection throughout"


def dataframe_without_an_ok() -> str:
    """Its first batch is not acknowledged."""
    with QwpServer(script=[Script(), Script(no_ack=True)]) as server, connected(server.conf) as sender:
        start = time.monotonic()
        with pytest.raises(QuestDBError, match="temporarily unavailable") as caught:
            sender.dataframe(pd.DataFrame({"v": [1]}), table_name="t", at=questdb.ServerTimestamp)
        seconds = time.monotonic() - start
    assert (caught.value.code.name, caught.value.in_doubt) == ("FailoverRetry", True)
    assert 28 < seconds < 35, seconds
    return f"FailoverRetry after {seconds:.1f} s"


ROWS: dict[str, Callable[[], str]] = {
    "1, backoff": backoff,
    "2, 0C": not_writable,
    "3, the same again": storm,
    "3, no OK at all": no_ok,
    "5, dataframe without an OK": dataframe_without_an_ok,
}


def main() -> int:
    """All rows; the number of those that are not as the page says, at most 1."""
    failed = 0
    for name, look in ROWS.items():
        try:
            print(f"{name}: {look()}", flush=True)
        except (AssertionError, pytest.fail.Exception) as error:
            failed = 1
            print(f"{name}: NOT AS OBSERVED: {error}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
