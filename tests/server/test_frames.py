"""Every row of wire.md 2 from a raw socket: what the server does with frames and how it closes."""

from __future__ import annotations

import struct

import pytest

from spoolq.server import QwpServer

from .raw_client import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Ended, RawClient, frame, ok, one_row

SMALL = {"receive_buffer_nbytes": 1_000}


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, struct.pack(">H", code) + reason)


ACKS_THEN = {
    "fragmented binary": (frame(BINARY, b"x", fin=False), 1002),
    "continuation": (frame(CONTINUATION, b"x"), 1002),
    "text": (frame(TEXT, b"x"), 1003),
    "fragmented text": (frame(TEXT, b"x", fin=False), 1003),
    "too big": (frame(BINARY, bytes(993)), 1009),
    "too big, from the header alone": (bytes((0x82, 0xFF)) + struct.pack(">Q", 1 << 40), 1009),
}


@pytest.mark.parametrize(("data", "code"), ACKS_THEN.values(), ids=ACKS_THEN)
def test_pending_acks_then_close(data: bytes, code: int) -> None:
    with QwpServer(**SMALL) as server, RawClient(server.port) as client:
        client.upgrade()
        client.send(frame(BINARY, one_row()) + data)
        assert client.answer() == ok(0, ("t", 1))
        assert client.close_code() == code
        client.expect_end()
        record = server.connections[0]
        assert (record.closed_by, record.close_code) == ("server_close", code)
        assert record.close_reason


def test_a_client_in_the_middle_of_a_large_frame_hears_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it still sends is drained for a moment, so that no RST overtakes the CLOSE; however long that takes here."""
    monkeypatch.setattr("spoolq.server.loop._LINGER_MILLIS", 60_000)
    with QwpServer(**SMALL) as server, RawClient(server.port) as client:
        client.upgrade()
        client.send(bytes((0x82, 0xFF)) + struct.pack(">Q", 30_000_000) + bytes(4 + 30_000_000))
        assert client.close_code() == 1009
        client.expect_end()


NO_ACKS = {
    "unmasked": frame(BINARY, b"x", masked=False),
    "rsv1": frame(BINARY, b"x", rsv=4),
    "rsv2": frame(BINARY, b"x", rsv=2),
    "rsv3": frame(BINARY, b"x", rsv=1),
    **{f"opcode {code:x}": frame(code) for code in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "fragmented ping": frame(9, b"x", fin=False),
    "long ping": frame(9, bytes(126)),
    "64-bit length with the top bit": bytes((0x82, 0xFF)) + struct.pack(">Q", 1 << 63) + bytes(4),
    "close of one byte": frame(CLOSE, b"x"),
}


@pytest.mark.parametrize("data", NO_ACKS.values(), ids=NO_ACKS)
def test_a_broken_frame_ends_the_connection_without_acks(data: bytes) -> None:
    with QwpServer() as server, RawClient(server.port) as client:
        client.upgrade()
        client.send(frame(BINARY, one_row()) + data)
        assert client.close_code() == 1002
        client.expect_end()
        assert server.store.count("t") == 1  # it was committed, only its OK is missing


@pytest.mark.parametrize("form", [7, 16, 64])
def test_lengths_need_not_be_the_shortest(form: int) -> None:
    with QwpServer() as server, RawClient(server.port) as client:
        client.upgrade()
        client.send(frame(BINARY, one_row(), length_form=form))
        assert client.answer() == ok(0, ("t", 1))


def test_the_largest_frame_is_taken() -> None:
    with QwpServer(**SMALL) as server, RawClient(server.port) as client:
        assert client.upgrade()["x-qwp-max-batch-size"] == "986"
        client.send(frame(BINARY, bytes(986), length_form=64))
        assert client.answer()[0] == 0x05  # not a message, but read whole


def test_a_mask_of_zeros_is_legal() -> None:
    data = one_row()
    with QwpServer() as server, RawClient(server.port) as client:
        client.upgrade()
        client.send(bytes((0x82, 0x80 | len(data))) + bytes(4) + data)
        assert client.answer() == ok(0, ("t", 1))


@pytest.mark.parametrize("payload", [b"", b"hello", bytes(125)])
def test_ping_flushes_acks_and_is_answered(payload: bytes) -> None:
    with QwpServer() as server, RawClient(server.port) as client:
        client.upgrade()
        assert client.ping(payload) == []
        client.message(one_row())
        assert client.ping(payload) == [ok(0, ("t", 1))]
        assert server.connections[0].pings == 2


def test_the_acks_go_out_before_the_pong() -> None:
    with QwpServer() as server, RawClient(server.port) as client:
        client.upgrade()
        client.send(frame(BINARY, one_row()) + frame(PING, b"x") + frame(BINARY, one_row()))
        assert client.frame() == (BINARY, ok(0, ("t", 1)))
        assert client.frame() == (PONG, b"x")
        assert client.frame() == (BINARY, ok(1, ("t", 2)))


def test_pong_is_ignored() -> None:
    with QwpServer() as server, RawClient(server.port) as client:
        client.upgrade()
        client.send(frame(PONG, b"x"))
        assert client.ping() == []


ECHO = [
    *((1000, 1000), (1001, 1001), (1002, 1002), (1003, 1003), (1004, 1002), (1005, 1000), (1006, 1000), (1015, 1000)),
    *((1007, 1007), (1014, 1014), (2000, 1002), (2999, 1002), (3000, 3000), (4999, 4999), (5000, 1000), (0, 1000)),
    *((999, 1000), (None, 1000)),
]


@pytest.mark.parametrize(("code", "echo"), ECHO)
def test_close_is_answered(code: int | None, echo: int) -> None:
    with QwpServer() as server, RawClient(server.port) as client:
        client.upgrade()
        client.send(frame(BINARY, one_row()) + (frame(CLOSE) if code is None else close(code, b"bye")))
        assert client.answer() == ok(0, ("t", 1))
        assert client.frame() == (CLOSE, struct.pack(">H", echo))
        client.expect_end()
        record = server.connections[0]
        assert (record.closed_by, record.close_code) == ("client_close", code)
        assert record.close_reason == ("" if code is None else "bye")


def test_frames_cut_anywhere() -> None:
    data = b"".join(frame(BINARY, one_row(value=n)) for n in range(3))
    with QwpServer() as server:
        for size in (1, 2, 3, 7, 50):
            with RawClient(server.port) as client:
                client.upgrade()
                for at in range(0, len(data), size):
                    client.send(data[at : at + size])
                server.wait_for(lambda: server.connections[-1].message_count == 3)
        assert [row["v"] for row in server.store.rows("t")] == [0, 1, 2] * 5


def test_data_behind_a_close_has_no_effect() -> None:
    with QwpServer() as server, RawClient(server.port) as client:
        client.upgrade()
        client.send(close(1000) + frame(BINARY, one_row()))
        assert client.close_code() == 1000
        client.expect_end()
        assert server.connections[0].message_count == 0


def test_a_server_that_stops_drops_its_connections() -> None:
    server = QwpServer().start()
    with RawClient(server.port) as client:
        client.upgrade()
        server.stop()
        client.expect_end()
        assert server.connections[0].closed_by == "server_stop"
        with pytest.raises((ConnectionRefusedError, Ended)):
            RawClient(server.port)
