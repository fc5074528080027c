"""`replay`: what one server recorded, sent to another."""

from __future__ import annotations

import pandas as pd
import pytest
import questdb

from spoolq.errors import ConnectError
from spoolq.qwp.responses import ErrorFrame, Ok
from spoolq.testing import Auth, Close, Drop, QwpServer, Refuse, Reject, Script, replay
from tests.server.raw_client import one_row

pytestmark = pytest.mark.filterwarnings("ignore:questdb.Sender. Detected a burst of reconnections")


def test_a_client_from_one_server_to_another() -> None:
    frame = pd.DataFrame({"s": [f"sym{n % 9}" for n in range(50_000)], "v": range(50_000)})
    with QwpServer() as first, QwpServer() as second:
        with questdb.Sender.from_conf(first.conf) as sender:
            sender.dataframe(frame, table_name="t", at=questdb.TimestampNanos(1), symbols=["s"])
        record = next(record for record in first.connections if record.message_count)
        found = replay(record.messages, second.port)
        assert second.store.rows("t") == first.store.rows("t")
        assert second.connections[0].messages == record.messages
    assert found.is_whole
    last = found.responses[-1]
    assert isinstance(last, Ok)
    assert last.sequence == len(record.messages) - 1
    assert found.close_code is None


def test_an_error_is_an_answer() -> None:
    with QwpServer(script=Script(reject=(Reject(1, 0x09, "no"),))) as server:
        found = replay([one_row(), one_row(), one_row()], server.port)
    assert found.responses == [Ok(0, (("t", 1),)), ErrorFrame(0x09, 1, "no")]
    assert found.is_whole


def test_a_server_that_ends_it() -> None:
    with QwpServer(script=[Script(close=Close(1, 1011)), Script(drop=Drop(after_frames=0, reset=True))]) as server:
        closed = replay([one_row()] * 3, server.port)
        assert (closed.close_code, closed.is_whole) == (1011, False)
        assert closed.responses in ([Ok(0, (("t", 1),))], [])
        dropped = replay([one_row()] * 3, server.port)
        assert (dropped.responses, dropped.is_whole) == ([], False)


@pytest.mark.parametrize(
    "script", [Script(refuse=Refuse(503)), Script(upgrade_nbytes_max=10), Script(upgrade_headers=(("Upgrade", None),))]
)
def test_an_upgrade_that_is_not_taken(script: Script) -> None:
    with QwpServer(script=script) as server, pytest.raises(ConnectError):
        replay([], server.port)


def test_headers() -> None:
    with QwpServer(auth=Auth(tokens=frozenset({"tok"}))) as server:
        assert replay([one_row()], server.port, headers=[("Authorization", "Bearer tok")]).is_whole


def test_a_large_message() -> None:
    payload = b"QWP1" + bytes(300_000)
    with QwpServer() as server:
        (error,) = replay([payload], server.port).responses
        assert isinstance(error, ErrorFrame)
        assert server.connections[0].messages == [payload]
