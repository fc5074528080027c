"""A loss, ours and the official client beside each other (behaviour.md 4.3, 4.5): SND-03, SND-04, SND-06.

Each is run with both clients against the strict server, which decodes every message with the dictionary of its own
connection and refuses what does not decode; `frames` does the same once more, from what came.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import questdb

from spoolq import TimestampMicros
from spoolq.testing import QwpServer

from .beside import CLIENTS, OURS, Sending, opened
from .harness import frames


@pytest.fixture
def server() -> Iterator[QwpServer]:
    with QwpServer() as running:
        yield running


def _put(sender: Sending, number: int, table: str = "t", symbol: str = "") -> None:
    at: Any = TimestampMicros(number + 1) if sender.client == OURS else questdb.TimestampMicros(number + 1)
    sender.sender.row(table, symbols={"s": symbol or f"sym-{number}"}, columns={"n": number}, at=at)


def _publish(sender: Sending, *numbers: int, tables: tuple[str, ...] = ("t",)) -> int:
    for number in numbers:
        for table in tables:
            _put(sender, number, table)
    fsn: int = sender.sender.flush_and_get_fsn()
    return fsn


def _landed(server: QwpServer[Any], table: str = "t") -> list[int]:
    """The numbers, in order; each has its own symbol."""
    found = []
    for row in server.store.rows(table):
        assert row["s"] == f"sym-{row['n']}", row
        found.append(row["n"])
    return found


@pytest.mark.parametrize("client", CLIENTS)
def test_SND_03_each_connection_decodes_alone(server: QwpServer, client: str) -> None:
    """Old symbols by id, behind a catch-up that the later frames build on."""
    with opened(client, server.conf) as sender:
        for lap in range(4):
            for number in range(5):
                fsn = _publish(sender, 10 * lap + number, 0)
            assert sender.acked(fsn, 10_000)
            server.drop_connections()
    found = frames(server)
    assert len([connection for connection in found if connection]) == 4
    assert sorted(n for connection in found for n in connection) == sorted(_landed(server))
    assert set(_landed(server)) == {10 * lap + number for lap in range(4) for number in range(5)}
    assert len(_landed(server)) == 40


@pytest.mark.parametrize("client", CLIENTS)
def test_SND_04_symbols_of_frames_that_were_not_acked_are_right_after_a_loss(server: QwpServer, client: str) -> None:
    """What the lost connection had been told counts for nothing: new symbols come again, and no id is taken twice."""
    with opened(client, server.conf) as sender:
        assert sender.acked(_publish(sender, 0), 10_000)
        server.hold_acks()
        _publish(sender, 1, 2)  # symbols that are published, and not acked
        server.wait_for_rows("t", 3)
        server.drop_connections()
        last = _publish(sender, 2, 3, 0)
        server.release_acks()
        assert sender.acked(last, 10_000)
        assert sender.acked(_publish(sender, 4, 1), 10_000)
    assert _landed(server) == [0, 1, 2, 1, 2, 2, 3, 0, 4, 1]
    assert [connection for connection in frames(server) if connection] == [[0, 1, 2], [1, 2, 2, 3, 0, 4, 1]]


@pytest.mark.parametrize("client", CLIENTS)
def test_SND_06_several_tables_survive_a_loss(server: QwpServer, client: str) -> None:
    tables = ("a", "b", "c")
    with opened(client, server.conf) as sender:
        server.hold_acks()
        for number in range(10):
            _publish(sender, number, tables=tables)
        server.wait_for_rows("c", 10)
        server.drop_connections()
        last = _publish(sender, 10, tables=tables)
        server.release_acks()
        assert sender.acked(last, 10_000)
    for table in tables:
        assert _landed(server, table) == [*range(10), *range(11)]
