"""One connection over a socket pair: what goes out, what comes in, how it ends."""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from spoolq.link import Binary, Breach, Close, Connection, Lost
from spoolq.qwp.upgrade import Accepted
from spoolq.spool import MemoryStore
from tests.link.test_mask import decoded

UPGRADE = Accepted(version=1, cap_nbytes=None, role="", durable_ack=False)
Pair = tuple[Connection, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(10)
    connection = Connection(ours, UPGRADE)
    yield connection, theirs
    connection.close()
    theirs.close()


def read(peer: socket.socket, connection: Connection | None = None) -> bytes:
    """Everything that is there, and what is still queued."""
    data = b""
    while True:
        done = connection is None or connection.flush()
        peer.setblocking(False)
        try:
            while piece := peer.recv(1 << 20):
                data += piece
        except BlockingIOError:
            pass
        peer.setblocking(True)
        if done:
            return data


def filled(connection: Connection, messages: int = 40, nbytes: int = 100_000) -> None:
    """More queued than the socket takes."""
    for number in range(messages):
        connection.queue_message(bytes([number % 256]) * nbytes)
    assert not connection.flush()
    assert connection.wants_write


def test_a_message_goes_out_masked(pair: Pair) -> None:
    connection, peer = pair
    connection.queue_message(b"abc")
    assert connection.flush()
    data = peer.recv(100)
    assert data[:2] == b"\x82\x83"
    assert bytes(byte ^ data[2 + index % 4] for index, byte in enumerate(data[6:])) == b"abc"


def test_snd_01_a_run_goes_out_as_it_is_stored(pair: Pair) -> None:
    connection, peer = pair
    store = MemoryStore(4_096, 8_192)
    for payload in (b"one", b"two" * 100, b"three"):
        room = store.reserve(len(payload))
        assert room is not None
        room.view[:] = payload
        store.publish(room)
    run = store.run(0, 10, 1 << 20)
    assert run is not None
    assert connection.queue_run(run, 300) == 3
    assert connection.queue_run(run, 299) == 1
    run.release()
    store.close()
    assert [payload for _, payload in decoded(read(peer, connection))] == [b"one", b"two" * 100, b"three", b"one"]


def test_a_full_socket_keeps_the_rest_and_knows_what_is_gone(pair: Pair) -> None:
    connection, peer = pair
    assert connection.unsent_messages() == 0
    filled(connection)
    unsent = connection.unsent_messages()
    assert 0 < unsent < 40
    data = read(peer)
    assert data.count(b"\x82\xff") >= 40 - unsent
    assert len(data) >= (40 - unsent) * 100_014
    assert len(data) < (40 - unsent + 1) * 100_014
    data += read(peer, connection)
    assert connection.unsent_messages() == 0
    assert [(len(payload), payload[0]) for _, payload in decoded(data)] == [(100_000, number) for number in range(40)]


def test_whole_frames_come_in(pair: Pair) -> None:
    connection, peer = pair
    peer.sendall(b"\x82\x01x\x88\x02\x03\xe8")
    assert connection.receive() == [Binary(b"x"), Close(1000, "")]
    assert decoded(read(peer, connection)) == [(8, b"\x03\xe8")]


def test_what_came_behind_the_upgrade_is_read_first() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        connection = Connection(ours, UPGRADE, b"\x82\x02a")
        assert connection.unread
        assert connection.receive() == []
        assert not connection.unread
        theirs.sendall(b"b")
        assert connection.receive() == [Binary(b"ab")]
        connection.close()


def test_29b_a_ping_is_answered_with_its_payload(pair: Pair) -> None:
    connection, peer = pair
    peer.sendall(b"\x89\x02hi")
    assert connection.receive() == []
    assert connection.wants_write
    assert decoded(read(peer, connection)) == [(10, b"hi")]


def test_a_pong_stands_between_whole_frames(pair: Pair) -> None:
    connection, peer = pair
    filled(connection)
    peer.sendall(b"\x89\x02hi")
    assert connection.receive() == []
    frames = decoded(read(peer, connection))
    assert [opcode for opcode, _ in frames] == [2] * 40 + [10]


def test_a_flood_of_pings_grows_nothing(pair: Pair) -> None:
    connection, peer = pair
    filled(connection)
    size = len(connection._out)
    for number in range(200):
        peer.sendall(b"\x89\x7d" + bytes([number]) * 125)
        connection.receive()
    assert len(connection._out) == size
    assert decoded(read(peer, connection))[40:] == [(10, bytes([199]) * 125)]


def test_a_chattering_peer_does_not_keep_the_thread(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[Connection.__module__], "_RECEIVE_NBYTES", 1_000)
    connection, peer = pair
    peer.sendall(b"\x82\x00" * 20_000)
    assert [len(connection.receive()) for _ in range(4)] == [8_000, 8_000, 4_000, 0]


def test_the_end_of_the_stream_is_told(pair: Pair) -> None:
    connection, peer = pair
    peer.sendall(b"\x82\x01x\x82\x05hal")
    peer.close()
    assert connection.receive() == [Binary(b"x")]
    (lost,) = connection.receive()
    assert isinstance(lost, Lost)
    assert "without a CLOSE" in lost.text


def test_a_breach_is_told(pair: Pair) -> None:
    connection, peer = pair
    peer.sendall(b"\x81\x01x")
    assert isinstance(connection.receive()[0], Breach)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    ours.setblocking(False)
    return ours, theirs


def test_a_reset_is_told_on_both_ways() -> None:
    ours, theirs = tcp_pair()
    connection = Connection(ours, UPGRADE)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    assert select.select([connection], [], [], 10)[0]
    (lost,) = connection.receive()
    assert isinstance(lost, Lost)
    assert "reset" in lost.text
    connection.queue_message(b"x")
    with pytest.raises(OSError):
        connection.flush()
    connection.close()


def test_abort_ends_a_send_that_the_peer_does_not_take() -> None:
    ours, theirs = tcp_pair()
    with theirs:
        connection = Connection(ours, UPGRADE)
        filled(connection, 250)
        thread = threading.Thread(target=connection.abort)
        thread.start()
        thread.join()
        with pytest.raises(OSError):
            connection.flush()
        assert isinstance(connection.receive()[-1], Lost)
        connection.close()
        connection.abort()


def test_close_says_so_and_twice_is_once(pair: Pair) -> None:
    connection, peer = pair
    connection.close()
    connection.close()
    assert connection.fileno() == -1
    assert decoded(peer.recv(100)) == [(8, b"\x03\xe8")]
    assert peer.recv(100) == b""


def test_close_in_the_middle_of_a_frame_says_nothing(pair: Pair) -> None:
    connection, peer = pair
    filled(connection)
    gone = connection._sent
    data = read(peer)  # there is room again
    connection.close()
    data += read(peer)
    assert len(data) == gone  # the last one is cut, and nothing stands behind it
    assert not connection.wants_write


def test_close_of_a_forked_copy_says_nothing(pair: Pair) -> None:
    connection, peer = pair
    connection.close(None)
    assert peer.recv(100) == b""


def test_frk_02_a_close_ends_the_connection_whatever_copy_a_forked_child_has(pair: Pair) -> None:
    """A child that was born in the middle of a connect has a descriptor that nobody there knows of."""
    connection, peer = pair
    copy = os.dup(connection.fileno())
    try:
        connection.close()
        assert peer.recv(100)[0] == 0x88
        assert peer.recv(100) == b""
    finally:
        os.close(copy)


def test_close_after_an_error_of_the_socket(pair: Pair) -> None:
    connection, peer = pair
    peer.close()
    connection.queue_message(b"x")
    with pytest.raises(OSError):
        connection.flush()
    connection.close()
    assert connection.fileno() == -1


class FailingSend(socket.socket):
    """As a TLS socket does, its `send` is a Python function whose frame keeps what it was given."""

    def send(self, data: Any, flags: int = 0) -> int:
        raise ConnectionResetError(104, "Connection reset by peer", len(data))


def test_what_came_is_taken_while_the_error_of_a_send_is_handled() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    connection = Connection(FailingSend(fileno=ours.detach()), UPGRADE)
    theirs.sendall(b"\x88\x02\x03\xe8")
    connection.queue_message(b"abc")
    try:
        connection.flush()
        raise AssertionError("the send did not fail")
    except ConnectionResetError:
        assert connection.receive() == [Close(1000, "")]
    connection.close()
    theirs.close()


# --- PINGs of our own --------------------------------------------------------------------------------------


def test_dua_05_a_ping_stands_between_whole_frames_and_one_waits_at_most(pair: Pair) -> None:
    connection, peer = pair
    filled(connection)
    connection.queue_ping()
    connection.queue_ping()
    peer.sendall(b"\x89\x02hi")
    connection.receive()
    assert connection.unsent_messages() > 0
    frames = decoded(read(peer, connection))
    assert [opcode for opcode, _ in frames] == [2] * 40 + [10, 9]
    assert frames[-1] == (9, b"")
    assert not connection.wants_write


def test_a_pong_counts_as_bytes_that_came_and_says_nothing_else(pair: Pair) -> None:
    connection, peer = pair
    peer.sendall(b"\x8a\x00")
    assert connection.receive() == []
    assert connection.received_nbytes == 2
    assert not connection.wants_write


def test_what_the_peer_has_not_confirmed_is_known() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
        ours.setblocking(False)
        connection = Connection(ours, UPGRADE)
        assert connection.unacknowledged_nbytes() == 0
        filled(connection, 200)
        held = connection.unacknowledged_nbytes()
        assert held > 0
        taken = 0
        while taken < held:
            taken += len(theirs.recv(1 << 20))
        assert connection.unacknowledged_nbytes() < held
        connection.close()
        theirs.close()
        assert connection.unacknowledged_nbytes() == 0
