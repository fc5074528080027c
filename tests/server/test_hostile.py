"""Clients that mean harm, or are broken: the server's memory stays bounded and others are served meanwhile."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spoolq.qwp.decode import Dictionary, WireFault, blocks
from spoolq.server import Drop, MemoryStore, QwpServer, Script, ServerOptions
from spoolq.server.store import Batch

from .hostile import ATTACKS, attacked
from .raw_client import BINARY, PING, Ended, RawClient, frame, good_headers, message, ok, one_row
from .test_script import REQUEST, Machine, data
from .test_sql import every_type

HEAD = "\r\n".join(["GET /write/v4 HTTP/1.1", *(f"{k}: {v}" for k, v in good_headers().items()), ""]).encode()


def serves_others(server: QwpServer[Any], table: str = "honest") -> None:
    with RawClient(server.port) as client:
        client.upgrade()
        client.message(one_row(table))
        assert client.answer()[0] == 0


@pytest.fixture
def server() -> Iterator[QwpServer[Any]]:
    with QwpServer(receive_buffer_nbytes=10_000) as server:
        yield server
        serves_others(server)  # whatever the test did


class TestHead:
    def test_a_head_without_an_end_is_cut_off(self, server: QwpServer[Any]) -> None:
        with RawClient(server.port) as client:
            client.send(HEAD + b"X: y\r\n" * 20_000)
            assert client.response()[0] == 431

    def test_a_long_line(self, server: QwpServer[Any]) -> None:
        with RawClient(server.port) as client:
            client.send(HEAD + b"X: " + b"y" * 9_000 + b"\r\n\r\n")
            assert client.response()[0] == 431

    @pytest.mark.parametrize(
        "line",
        [
            b"\0" * 100 + b"\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET /write/v4 HTTP/2\r\n\r\n",
            b"GET  /x HTTP/1.1\r\n\r\n",
            b"GET /x HTTP/1.1\r\nno colon\r\n\r\n",
            b"GET /x HTTP/1.1\r\n: empty\r\n\r\n",
            b"GET /x HTTP/1.1\r\n folded: x\r\n\r\n",
        ],
    )
    def test_what_is_no_request(self, server: QwpServer[Any], line: bytes) -> None:
        with RawClient(server.port) as client:
            client.send(line)
            assert client.response()[0] == 400

    def test_a_head_that_never_ends_runs_out_of_time(self) -> None:
        machine = Machine(Script(), handshake_timeout_millis=500)
        for now in range(1_000, 1_500, 100):
            assert machine.at(now) == b""
            assert machine.put(b"x") == b""
        assert machine.connection.deadline_millis == 1_500
        assert machine.at(1_500).startswith(b"HTTP/1.1 408 ")
        assert machine.connection.has_ended

    def test_the_loop_carries_that_out(self) -> None:
        with QwpServer(handshake_timeout_millis=1) as server, RawClient(server.port) as client:
            client.send(b"G")
            assert client.response()[0] == 408
            client.read_to_end()


class TestConnections:
    def test_more_than_the_limit_are_closed_at_once(self) -> None:
        with QwpServer(connections_max=3) as server:
            clients = [RawClient(server.port) for _ in range(3)]
            try:
                for client in clients:
                    client.upgrade()
                with RawClient(server.port) as fourth:
                    fourth.expect_end()
                clients[0].message(one_row())
                assert clients[0].answer() == ok(0, ("t", 1))
            finally:
                for client in clients:
                    client.socket.close()
            server.wait_for(lambda: all(record.closed_by for record in server.connections))
            serves_others(server)

    def test_thousands_opened_and_dropped(self) -> None:
        with QwpServer() as server:
            for _ in range(3_000):
                socket.create_connection(("127.0.0.1", server.port)).close()
            serves_others(server)
            server.wait_for(lambda: server.stats()["connections_open"] == 0)
            assert server.stats()["connections"] == 3_001
            loop = server._loop
            assert loop is not None
            assert server._call(lambda: len(loop._timers)) < 100 + 2 * server._call(lambda: len(loop.channels))

    def test_without_a_free_descriptor_others_are_served_and_later_ones_wait(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refused, free = [], threading.Event()
        accept = socket.socket.accept

        def none_free(listener: socket.socket) -> Any:
            if free.is_set():
                return accept(listener)
            refused.append(listener)
            raise OSError(errno.EMFILE, "too many open files")

        with QwpServer() as server, RawClient(server.port) as old:
            old.upgrade()
            monkeypatch.setattr(socket.socket, "accept", none_free)
            with RawClient(server.port) as waiting:
                waiting.request()
                server.wait_for(lambda: refused)
                for _ in range(300):
                    assert old.ping() == []
                assert len(refused) < 100  # a few times a second, not in each round
                free.set()
                assert waiting.response()[0] == 101

    def test_records_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from spoolq.server import server as module

        monkeypatch.setattr(module, "_CONNECTIONS_RECORDED_MAX", 5)
        with QwpServer() as server:
            for _ in range(9):
                serves_others(server)
            assert [record.index for record in server.connections] == [4, 5, 6, 7, 8]
            assert server.store.count("honest") == 9
            found = server.stats()
            assert (found["connections"], found["messages"], found["rows"]) == (9, 9, 9)  # counters never go back

    def test_resets_at_any_time(self, server: QwpServer[Any]) -> None:
        for sent in (b"", b"GET", REQUEST, REQUEST + data(1)[:10], REQUEST + data(3)):
            client = RawClient(server.port)
            client.send(sent)
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.socket.close()


class TestFrames:
    def test_endless_fragments(self, server: QwpServer[Any]) -> None:
        with RawClient(server.port) as client:
            client.upgrade()
            client.send(frame(BINARY, b"x", fin=False) * 1_000)
            assert client.close_code() == 1002

    def test_a_frame_that_promises_much_holds_nothing(self, server: QwpServer[Any]) -> None:
        with RawClient(server.port) as client:
            client.upgrade()
            client.send(bytes((0x82, 0xFF)) + struct.pack(">Q", (1 << 63) - 1))
            assert client.close_code() == 1009

    def test_a_slow_client_is_no_hindrance(self, server: QwpServer[Any]) -> None:
        with RawClient(server.port) as slow:
            slow.upgrade()
            for byte in data(1):
                slow.send(bytes((byte,)))
                server.wait_for(lambda: True)
            assert slow.answer() == ok(0, ("t", 1))

    def test_a_client_that_does_not_read_is_not_read_either(self) -> None:
        """PINGs without end: their PONGs pile up to the bound, then the server stops reading."""
        with QwpServer(outgoing_nbytes_max=10_000) as server, RawClient(server.port) as client:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            client.upgrade()
            client.socket.settimeout(0.2)
            pings = frame(PING, bytes(125)) * 1_000
            with pytest.raises(TimeoutError):
                send_for_ever(client, pings)
            loop = server._loop
            assert loop is not None
            held = server._call(lambda: [len(channel.outgoing) for channel in loop.channels.values()])
            assert max(held) < 2_000_000  # the bound and the answers to one read
            serves_others(server)

    def test_a_bomb_of_null_columns(self, server: QwpServer[Any]) -> None:
        """A message of a few bytes that says it has a million rows."""
        rows = b"\xc0\x84\x3d"  # 1,000,000
        with RawClient(server.port) as client:
            client.upgrade()
            client.message(message(b"\1t" + rows + b"\1" + b"\1v\5" + b"\1", tables=1))
            assert client.answer()[0] == 0x05

    def test_random_bytes(self, server: QwpServer[Any]) -> None:
        for _ in range(200):
            with RawClient(server.port) as client:
                client.upgrade()
                client.send(os.urandom(500))


def send_for_ever(client: RawClient, data: bytes) -> None:
    """Until the socket takes no more; a bound, so that a server that reads everything fails the test."""
    for _ in range(2_000):
        client.send(data)


MUTATIONS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=5)


@given(st.binary(max_size=300), st.integers(1, 50))
@settings(max_examples=300, deadline=None)
@example(b"", 1)
def test_any_bytes_behind_the_upgrade(payload: bytes, size: int) -> None:
    """The machine ends in order or waits for more; it never raises and holds no more than a frame."""
    machine = Machine(Script(), receive_buffer_nbytes=200).upgraded()
    for at in range(0, len(payload), size):
        machine.put(payload[at : at + size])
    assert machine.connection._frames.waiting_nbytes <= 200 + 300


@given(MUTATIONS, st.integers(1, 500))
@settings(max_examples=300, deadline=None)
def test_a_good_stream_with_some_bytes_changed(mutations: list[tuple[float, int]], size: int) -> None:
    stream = bytearray(data(4))
    for place, value in mutations:
        stream[int(place * len(stream))] = value
    machine = Machine(Script()).upgraded()
    out = b"".join(machine.put(bytes(stream[at : at + size])) for at in range(0, len(stream), size))
    assert b"internal error" not in out
    if not mutations:
        assert machine.record.message_count == 4


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_for_a_request(head: bytes) -> None:
    machine = Machine(Script())
    out = machine.put(head) + machine.put(b"\r\n\r\n")
    assert out.startswith(b"HTTP/1.1 4")


@given(st.binary(min_size=1, max_size=120))
@settings(max_examples=300, deadline=None)
def test_any_message_gets_an_ok_or_an_error_frame(payload: bytes) -> None:
    machine = Machine(Script()).upgraded()
    for head in (b"", b"QWP1\1\0\1\0" + struct.pack("<I", len(payload))):
        answer = machine.put(frame(BINARY, head + payload))
        assert b"internal error" not in answer
    assert machine.record.message_count == 2


@given(MUTATIONS, st.booleans())
@settings(max_examples=600, deadline=None)
def test_a_message_of_every_type_with_some_bytes_changed(mutations: list[tuple[float, int]], gorilla: bool) -> None:
    """Whatever passes the checks can be read: values are made later, and must not fail then."""
    payload = bytearray(every_type())
    for place, value in mutations:
        payload[int(place * len(payload))] = value
    if gorilla:
        payload[5] |= 0x04
    store = MemoryStore()
    store.configure(ServerOptions(accept_long_arrays=True))
    batch = Batch(store)
    try:
        for table in blocks(bytes(payload), Dictionary())[1]:
            batch.add(table, 0)
    except WireFault:
        return
    batch.commit()
    for name in store.tables():
        assert len(store.rows(name)) == store.count(name)
        with suppress(WireFault):  # a decimal that is wider than Arrow has them
            assert store.arrow(name).num_rows == store.count(name)


def test_a_dropped_group_of_a_lost_connection_holds_no_rows() -> None:
    with QwpServer(script=Script(drop=Drop(after_frames=1))) as server, RawClient(server.port) as client:
        client.upgrade()
        client.message(one_row(flags=0x09))
        with pytest.raises(Ended):
            client.read(1)
        assert server.store.count("t") == 0


def test_a_process_bears_a_fiftieth_of_make_hostile(capsys: pytest.CaptureFixture[str]) -> None:
    assert attacked(0.02)
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(ATTACKS)
