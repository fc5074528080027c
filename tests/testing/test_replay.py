"""`replay`: what one server recorded, sent to another."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pandas as pd
import pytest
import questdb

from spoolq.errors import ConnectError
from spoolq.qwp.responses import ErrorFrame, Ok
from spoolq.testing import Auth, Close, Drop, QwpServer, Refuse, Reject, Script, replay
from tests.ports import free_port
from tests.server.raw_client import one_row


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


def test_what_a_server_said_is_heard_also_when_a_write_finds_out_first() -> None:
    """A CLOSE is in our socket, a RST behind it: the next message cannot be written."""
    with QwpServer() as server:
        loop = server._loop
        assert loop is not None

        def reset() -> None:
            (channel,) = loop.channels.values()
            channel.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            loop._discard(channel, "server_drop")

        def messages() -> Iterator[bytes]:
            server.wait_for(lambda: server.connections[0].is_upgraded)
            server.close_connections(1011, "no more")
            server._call(reset)
            yield one_row()
            pytest.fail("it was written")

        found = replay(messages(), server.port)
    assert (found.close_code, found.is_whole) == (1011, False)


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


def test_nobody_there_is_a_connect_error() -> None:
    port = free_port()
    with pytest.raises(ConnectError, match=f"127.0.0.1:{port} cannot be reached"):
        replay([one_row()], port)
