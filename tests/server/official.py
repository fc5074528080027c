"""The official client 6.0.0 as the tests of its behaviour use it: test_observed*.py, and the tables in tests/sender."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import questdb
from questdb import QuestDBError

from spoolq.server import QwpServer, Reject, Script
from tests.sender.harness import Call

OFF = "auto_flush=off;"
QUICK = "reconnect_initial_backoff_millis=5;reconnect_max_backoff_millis=20;"
FEW = "max_frame_rejections=2;poison_min_escalation_window_millis=0;"
SEGMENT_ROOM = 4 * 1024 * 1024 - 32
FOR_EVER = 4  # repetitions that stand for it
NEVER_SECONDS = 0.5  # a bounded look at what does not happen


def row(sender: Any, value: int = 1, table: str = "t") -> None:
    sender.row(table, columns={"v": value}, at=questdb.TimestampNanos(value))


def send(sender: Any, value: int = 1) -> int:
    row(sender, value)
    fsn: int = sender.flush_and_get_fsn()
    return fsn


@contextmanager
def connected(conf: str, **options: Any) -> Iterator[Any]:
    """A sender; its close may fail, for the test has had its error."""
    sender = questdb.Sender.from_conf(conf, **options)
    sender.establish()
    try:
        yield sender
    finally:
        with suppress(QuestDBError):
            sender.close(flush=False)


def retried(server: QwpServer[Any], conf: str, times: int) -> None:
    """A connect that is refused so often, and comes to an end as soon as the server takes it."""

    def connect() -> None:
        with connected(server.conf + conf):
            pass

    before = len(server.connections)
    connecting = Call(connect)
    server.wait_for(lambda: len(server.connections) >= before + times)
    server.accept_new()
    connecting.outcome()


def send_and_wait_for_ever(sender: Any) -> None:
    for number in range(1_000):
        sender.await_acked_fsn(send(sender, number), 5_000)


def values(server: QwpServer[Any]) -> list[int]:
    return [found["v"] for found in server.store.rows("t")]


def acked(server: QwpServer[Any], conf: str = "", script: Any = None) -> list[int]:
    """One row by a client that must get it through; what the server has then."""
    with questdb.Sender.from_conf(server.conf + conf) as sender:
        row(sender)
    return values(server)


def rejecting(status: int, frame: int = 1, **options: Any) -> Any:
    """Every connection rejects that frame."""
    return QwpServer(script=Script(reject=(Reject(frame, status, "no"),)), **options)


def both(first: QwpServer[Any], second: QwpServer[Any]) -> str:
    """A connect string for two servers."""
    return f"ws::addr=127.0.0.1:{first.port},127.0.0.1:{second.port};"


def never(server: QwpServer[Any], predicate: Any) -> None:
    """Something that this client does not do, however long one waits; half a second stands for that."""
    with pytest.raises(TimeoutError):
        server.wait_for(predicate, NEVER_SECONDS)
