"""One connection over a socket pair: what goes out, what comes in."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from spoolq.link import Binary, Close, Connection, Lost
from spoolq.qwp.upgrade import Accepted

UPGRADE = Accepted(version=1, cap_nbytes=None, role="", durable_ack=False)


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(10)
    connection = Connection(ours, UPGRADE)
    yield connection, theirs
    connection.close()
    theirs.close()


def test_a_message_goes_out_masked(pair: tuple[Connection, socket.socket]) -> None:
    connection, peer = pair
    connection.queue_message(b"abc")
    assert connection.flush()
    data = peer.recv(100)
    assert data[:2] == b"\x82\x83"
    assert bytes(byte ^ data[2 + index % 4] for index, byte in enumerate(data[6:])) == b"abc"


def test_whole_frames_come_in(pair: tuple[Connection, socket.socket]) -> None:
    connection, peer = pair
    peer.sendall(b"\x82\x01x\x88\x02\x03\xe8")
    assert connection.receive() == [Binary(b"x"), Close(1000, "")]


def test_the_end_of_the_stream_is_told(pair: tuple[Connection, socket.socket]) -> None:
    connection, peer = pair
    peer.close()
    assert isinstance(connection.receive()[0], Lost)
