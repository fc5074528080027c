"""What connections of a server hold together, beside what is stored, is bounded; who adds to it beyond that ends."""

from __future__ import annotations

import gc
import struct
import weakref
from collections.abc import Callable
from contextlib import ExitStack

from spoolq.server import QwpServer

from .raw_client import BINARY, EMPTY, RawClient, block, frame, message, one_row
from .test_hostile import HEAD, serves_others

BOUND = 100_000


def ends_the_last(bring: Callable[[RawClient], None], part_nbytes: int) -> None:
    """Clients that bring ``part_nbytes`` each; those within the bound stay."""
    within = BOUND // part_nbytes
    with QwpServer(held_nbytes_max=BOUND) as server, ExitStack() as stack:
        clients = [stack.enter_context(RawClient(server.port)) for _ in range(within + 1)]
        for client in clients[:-1]:
            bring(client)
        server.wait_for(lambda: server.stats()["held_bytes"] >= within * part_nbytes * 0.9)
        assert [record.closed_by for record in server.connections] == [None] * (within + 1)
        bring(clients[-1])
        server.wait_for(lambda: server.connections[-1].closed_by)
        assert server.connections[-1].closed_by in ("server_close", "server_drop")
        assert clients[0].socket.fileno() >= 0
        for client in clients:
            client.socket.close()
        server.wait_for(lambda: server.stats()["held_bytes"] == 0)
        serves_others(server)


def test_half_frames() -> None:
    def bring(client: RawClient) -> None:
        client.upgrade()
        client.send(frame(BINARY, bytes(40_000))[:-1])

    ends_the_last(bring, 40_000)


def test_half_heads() -> None:
    ends_the_last(lambda client: client.send(HEAD + b"X: " + b"y" * 8_000 + b"\r\nZ: " + b"y" * 8_000), 16_000)


def test_symbols() -> None:
    def bring(client: RawClient) -> None:
        client.upgrade()
        client.message(message(dictionary=(0, ["s" * 10] * 400)))

    ends_the_last(bring, 400 * 74)


def test_open_groups() -> None:
    def bring(client: RawClient) -> None:
        client.upgrade()
        text = b"\0" + struct.pack("<2I", 0, 30_000) + b"x" * 30_000
        client.message(message(block("t", 1, ("v", 0x0F, text)), flags=0x09))

    ends_the_last(bring, 30_000)


def test_what_a_connection_held_is_free_when_it_ends() -> None:
    """At once: without the garbage collector, and though a timer may still know it."""
    gc.disable()
    try:
        with QwpServer() as server:
            with RawClient(server.port) as client:
                client.upgrade()
                client.message(one_row(flags=0x09))
                assert client.ping() == []
                loop = server._loop
                assert loop is not None
                (channel,) = server._call(lambda: list(loop.channels.values()))
                gone = weakref.ref(channel.connection._processor)
            server.wait_for(lambda: gone() is None)
    finally:
        gc.enable()


def test_a_group_that_ends_is_held_no_more() -> None:
    with QwpServer() as server, RawClient(server.port) as client:
        client.upgrade()
        for last in (EMPTY, b"bad"):
            client.message(one_row(flags=0x09))
            assert client.ping() == []
            server.wait_for(lambda: server.stats()["held_bytes"] > 0)  # it is weighed behind the answer
            client.message(last)
            client.answer()
            server.wait_for(lambda: server.stats()["held_bytes"] == 0)
