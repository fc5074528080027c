"""Servers that mean harm: the sender never hangs, never grows, and no row is lost by them (issue 8, done when 5).

Each of them is alone at the address first; then an honest server takes the port, and what was published while the
hostile one was there must land, by the same sender or, when the harm is one that ends a sender (behaviour.md 5.2),
by the next one on the slot.
"""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import struct
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from spoolq import Sender, ServerRejection, SpoolqError
from spoolq.testing import Close, QwpServer, Reject, Script

from .harness import TIMEOUT_SECONDS, Call, free_port, numbers, publish, put

_CONF = (
    "initial_connect_retry=async;auto_flush=off;reconnect_initial_backoff_millis=1;reconnect_max_backoff_millis=20;"
    "auth_timeout_ms=300;close_flush_timeout_millis=10000;max_frame_rejections=1000000;"
)
_MIB = 1 << 20
_GROWTH_NBYTES_MAX = 40 * _MIB  # one answer of 16 MiB, buffered and taken out
_VISITS = 3
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

Harm = Callable[[socket.socket, bytes], None]


class Hostile:
    """Does the same harm to each connection; `visited` is set behind the third."""

    def __init__(self, harm: Harm) -> None:
        self._harm = harm
        self._listener = socket.create_server(("127.0.0.1", free_port()), backlog=64)
        self.port = self._listener.getsockname()[1]
        self.visited = threading.Event()
        self._stopping = False
        self._current: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Its sockets and its thread are gone."""
        if self._stopping:
            return
        self._stopping = True
        self._listener.shutdown(socket.SHUT_RDWR)
        if self._current is not None:
            self._current.close()
        self._thread.join(TIMEOUT_SECONDS)
        assert not self._thread.is_alive()
        self._listener.close()

    def _run(self) -> None:
        visits = 0
        while not self._stopping:
            try:
                self._current, _ = self._listener.accept()
            except OSError:
                return
            with self._current as sock:
                try:
                    sock.settimeout(0.5)
                    request = b""
                    while b"\r\n\r\n" not in request:
                        data = sock.recv(1 << 16)
                        if not data:
                            break
                        request += data
                    else:
                        self._harm(sock, request)
                except OSError:
                    pass  # the client had enough, or `stop` has closed it
            visits += 1
            if visits >= _VISITS:
                self.visited.set()


def _accept(request: bytes, *more: bytes) -> bytes:
    """A good answer to the upgrade, with further headers."""
    found = re.search(rb"(?i)sec-websocket-key: (\S+)", request)
    assert found is not None
    lines = (
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + base64.b64encode(hashlib.sha1(found[1] + _GUID).digest()),
        b"X-QWP-Version: 1",
        *more,
    )
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _frame(payload: bytes, opcode: int = 2, *, final: bool = True, told: int | None = None) -> bytes:
    """A server's frame; ``told`` is the length in its head when that is to be another one."""
    length = len(payload) if told is None else told
    first = (0x80 if final else 0) | opcode
    if length < 126:
        head = struct.pack(">BB", first, length)
    elif length < 1 << 16:
        head = struct.pack(">BBH", first, 126, length)
    else:
        head = struct.pack(">BBQ", first, 127, length)
    return head + payload


def _ok(sequence: int, tables: int = 0) -> bytes:
    return _frame(struct.pack("<BqH", 0, sequence, tables))


def _read_until_gone(sock: socket.socket) -> None:
    while sock.recv(1 << 16):
        pass


def says(*pieces: bytes | Callable[[], Iterator[bytes]]) -> Harm:
    """Takes the upgrade and the beginning of the first message, says this, and then only reads."""

    def harm(sock: socket.socket, request: bytes) -> None:
        sock.sendall(_accept(request))
        sock.recv(1)
        for piece in pieces:
            for data in (piece,) if isinstance(piece, bytes) else piece():
                sock.sendall(data)
        _read_until_gone(sock)

    return harm


def answers_raw(*pieces: bytes | Callable[[], Iterator[bytes]]) -> Harm:
    """Says this instead of an answer to the upgrade."""

    def harm(sock: socket.socket, _: bytes) -> None:
        for piece in pieces:
            for data in (piece,) if isinstance(piece, bytes) else piece():
                sock.sendall(data)
        _read_until_gone(sock)

    return harm


def silent(sock: socket.socket, _: bytes) -> None:
    """Neither answer nor end."""
    _read_until_gone(sock)


def never_reads(sock: socket.socket, request: bytes) -> None:
    """Takes the upgrade and nothing more: the client's socket fills."""
    sock.sendall(_accept(request))
    threading.Event().wait(0.3)


def a_byte_at_a_time(sock: socket.socket, request: bytes) -> None:
    """The upgrade's answer so slowly that it never becomes whole in time."""
    for byte in _accept(request):
        sock.sendall(bytes([byte]))
        threading.Event().wait(0.02)


def slow_frames(sock: socket.socket, request: bytes) -> None:
    """A good upgrade, then half of an OK, a byte at a time."""
    sock.sendall(_accept(request))
    for byte in _ok(0)[:7]:
        sock.sendall(bytes([byte]))
        threading.Event().wait(0.05)


def endless(piece: bytes, nbytes: int = 64 * _MIB) -> Callable[[], Iterator[bytes]]:
    """So many bytes that whoever keeps them all is found out."""

    def pieces() -> Iterator[bytes]:
        block = piece * max(1, (1 << 16) // len(piece))
        for _ in range(nbytes // len(block)):
            yield block

    return pieces


JUNK = bytes(range(256)) * 4_096 * 16  # 16 MiB

HARMLESS_IN_THE_END: dict[str, Harm] = {
    "no answer to the upgrade": silent,
    "endless headers": answers_raw(b"HTTP/1.1 101 Switching Protocols\r\n", endless(b"X-A: b\r\n")),
    "one endless header": answers_raw(b"HTTP/1.1 101 Switching Protocols\r\nX: ", endless(b"a")),
    "an endless status line": answers_raw(endless(b"H")),
    "an endless body of a refusal": answers_raw(b"HTTP/1.1 503 Busy\r\n\r\n", endless(b"no ")),
    "a body that is never as long as told": answers_raw(b"HTTP/1.1 503 Busy\r\nContent-Length: 99999999999\r\n\r\nno"),
    "16 MiB of junk instead of an answer": answers_raw(JUNK),
    "an upgrade a byte at a time": a_byte_at_a_time,
    "half of an OK a byte at a time": slow_frames,
    "an OK of -1": says(_ok(-1)),
    "an OK of the least sequence": says(_ok(-(1 << 63))),
    "16 MiB in one answer": says(_frame(bytes(16 * _MIB))),
    "a message of garbage": says(_frame(b"\xff" * 1_000)),
    "an OK with more tables than bytes": says(_ok(0, tables=65_535)),
    "an error text that is longer than the frame": says(_frame(struct.pack("<BqH", 6, 0, 1_024))),
    "PINGs without end": says(endless(_frame(b"x" * 125, 9), _MIB // 4)),
    "PONGs that nobody asked for": says(_frame(b"", 10) * 2_000),
    "an endless CLOSE": says(_frame(struct.pack(">H", 1011) + b"a" * 123, 8), endless(b"x", 4 * _MIB)),
    "it never reads": never_reads,
}
ENDS_THE_SENDER: dict[str, Harm] = {
    "16 MiB of junk behind the upgrade": says(JUNK),
    "a frame of 2**62 bytes": says(_frame(b"", told=1 << 62)),
    "fragments without end": says(_frame(b"a" * 1_000, final=False), endless(_frame(b"a" * 65_000, 0, final=False))),
    "a frame of 16 MiB and a byte": says(_frame(bytes(16 * _MIB + 1))),
    "a text frame": says(_frame(b"hello", 1)),
}


@contextmanager
def bounded_growth() -> Iterator[None]:
    """Fails when Python held much more in between than before."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < _GROWTH_NBYTES_MAX, f"{(peak - before) / _MIB:.0f} MiB"


def _conf(port: int, sf_dir: Path) -> str:
    return f"ws::addr=127.0.0.1:{port};sf_dir={sf_dir};{_CONF}"


@pytest.mark.parametrize("name", HARMLESS_IN_THE_END)
def test_harm_that_a_sender_gets_over(tmp_path: Path, name: str) -> None:
    """The same sender delivers everything as soon as there is an honest server."""
    hostile = Hostile(HARMLESS_IN_THE_END[name])
    try:
        with Sender.from_conf(_conf(hostile.port, tmp_path)) as sender:
            with bounded_growth():
                for n in range(3):
                    publish(sender, n)
                assert hostile.visited.wait(TIMEOUT_SECONDS), "it goes on trying"
            assert sender.acked_fsn() is None
            hostile.stop()
            with QwpServer(port=hostile.port) as server:
                server.wait_for_rows("t", 3)
                Call(sender.close).outcome()
                assert numbers(server) == [0, 1, 2]
    finally:
        hostile.stop()


@pytest.mark.parametrize("name", ENDS_THE_SENDER)
def test_harm_that_ends_a_sender_leaves_the_rows_in_the_slot(tmp_path: Path, name: str) -> None:
    """Framing that no server of ours sends is terminal (behaviour.md 5.2); the next sender delivers."""
    hostile = Hostile(ENDS_THE_SENDER[name])
    try:
        with bounded_growth():
            sender = Sender.from_conf(_conf(hostile.port, tmp_path))
            try:
                put(sender, 0, 1, 2)
                with pytest.raises(ServerRejection) as raised:  # by the flush, or by the wait behind it
                    Call(sender.flush, wait=True).outcome()
            finally:
                with pytest.raises(SpoolqError):
                    Call(sender.close).outcome()
        assert raised.value.category == "protocol_violation"
    finally:
        hostile.stop()
    with QwpServer() as server:
        with Sender.from_conf(_conf(server.port, tmp_path)):
            pass
        assert numbers(server) == [0, 1, 2]


def test_a_close_at_each_byte_of_the_handshake_costs_no_row(tmp_path: Path) -> None:
    """One sender through all of them, about 200 connections."""
    with QwpServer() as server, Sender.from_conf(server.conf + _CONF) as sender:
        sender.close()
        head = len(_accept(b"Sec-WebSocket-Key: " + base64.b64encode(bytes(16))))
    scripts = [Script(upgrade_nbytes_max=count) for count in range(head + 60)]
    with QwpServer(script=[*scripts, Script()]) as server:
        with Sender.from_conf(_conf(server.port, tmp_path)) as sender:
            publish(sender, 0, 1, 2)
            server.wait_for_rows("t", 3, timeout_seconds=60)
            sender.drain()
            attempts = sender.stats().total_connect_attempts
        assert set(numbers(server)) == {0, 1, 2}
    assert attempts >= head


LIES: dict[str, Script] = {
    "OKs ahead": Script(ack_ahead=1_000),
    "OKs twice": Script(ack_twice=True),
    "OKs out of order": Script(ack_swapped=True),
    "a rejection of a frame far ahead": Script(reject=(Reject(0, 0x06),), ack_ahead=50, close=Close(5, 1011)),
    "OKs for every seventh only": Script(ack_every=7, close=Close(20, 1000)),
}


@pytest.mark.parametrize("name", LIES)
def test_lies_about_sequences_cost_no_row(tmp_path: Path, name: str) -> None:
    with QwpServer(script=[LIES[name], Script()]) as server:
        with Sender.from_conf(_conf(server.port, tmp_path)) as sender:
            for n in range(60):
                publish(sender, n)
                if n == 30:
                    if LIES[name].ack_ahead:  # what is on its way when such a server dies is lost by its word
                        server.wait_for_rows("t", n + 1)
                    server.drop_connections()
            Call(sender.drain).outcome()
        assert sorted(set(numbers(server))) == list(range(60))
        assert list(dict.fromkeys(numbers(server))) == list(range(60)), "first arrivals in order"
