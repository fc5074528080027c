"""The ports of tests/ports.py are refused, belong to nobody else, and take a server."""

from __future__ import annotations

import socket

import pytest

from spoolq.testing import QwpServer
from tests.ports import HOST, NOBODY, free_port
from tests.server.raw_client import RawClient


def test_nobody_listens_there() -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, free_port()), 10)


def test_nobody_else_gets_it() -> None:
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((HOST, free_port()))


def test_no_server_gets_the_one_of_nobody_and_who_dials_it_is_refused() -> None:
    port = int(NOBODY.rpartition(":")[2])
    with pytest.raises(OSError, match="in use"), QwpServer(port=port):
        pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, port), 10)


def test_a_server_listens_there_again_and_again_and_between_that_nobody_does() -> None:
    server, port = QwpServer(port=free_port()), 0
    for _ in range(3):
        with server, RawClient(server.port) as client:
            assert port in (0, server.port)
            port = server.port
            client.upgrade()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, port), 10)


def test_two_in_a_row_are_two() -> None:
    assert len({free_port() for _ in range(32)}) == 32
