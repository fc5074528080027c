"""Sends recorded messages again, byte for byte, to any server: what did a client send, and how is it answered now?

    found = replay(server.connections[0].messages, other.port)
    found.responses                 as `spoolq.qwp.responses` parses them

A plain client of its own, without the sender's queue and retries, so that nothing is added or left out.
"""

from __future__ import annotations

import base64
import os
import select
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from spoolq.errors import ConnectError
from spoolq.qwp import upgrade
from spoolq.qwp.inbound import unmask
from spoolq.qwp.responses import Response, parse

_TIMEOUT_SECONDS: Final = 30.0
_HEAD_NBYTES_MAX: Final = 32 << 10
_READ_NBYTES: Final = 1 << 16
_BINARY, _CLOSE, _PING, _PONG = 0x2, 0x8, 0x9, 0xA
_FIN, _MASKED = 0x80, 0x80


@dataclass(slots=True)
class Replayed:
    """How the messages were answered.

    ``responses`` in order; ``close_code``: of a CLOSE the server sent (None: without a code, or no CLOSE);
    ``is_whole``: everything was sent, and the server answered the PING behind it.
    """

    responses: list[Response] = field(default_factory=list)
    close_code: int | None = None
    is_whole: bool = False


def replay(
    messages: Iterable[bytes],
    port: int,
    host: str = "127.0.0.1",
    *,
    headers: Sequence[tuple[str, str]] = (),
    timeout_seconds: float = _TIMEOUT_SECONDS,
) -> Replayed:
    """Opens a connection, sends the messages in order, then a PING, and reads up to its PONG.

    ``headers``: more of them for the upgrade, such as Authorization.  A server that ends the connection on the way
    ends the replay; that is a result and no error.  Raises ConnectError when nobody is there or the upgrade is not
    taken, ValueError for a response that cannot be decoded, TimeoutError when nothing comes for ``timeout_seconds``.
    """
    found = Replayed()
    with _connected(host, port, timeout_seconds) as sock:
        stream = _Stream(sock, _upgrade(sock, host, port, headers), found)
        try:
            for message in messages:
                sock.sendall(_frame(_BINARY, message))
                stream.read_what_is_there()
            sock.sendall(_frame(_PING, b""))
            while not (found.is_whole or stream.has_ended):
                stream.read()
        except ConnectionError:
            stream.read_the_rest()
    return found


def _connected(host: str, port: int, timeout_seconds: float) -> socket.socket:
    try:
        return socket.create_connection((host, port), timeout_seconds)
    except OSError as error:
        raise ConnectError(f"{host}:{port} cannot be reached: {error.strerror or error}") from None


def _frame(opcode: int, payload: bytes) -> bytes:
    length = len(payload)
    if length < 126:
        head = bytes((_FIN | opcode, _MASKED | length))
    elif length < 1 << 16:
        head = bytes((_FIN | opcode, _MASKED | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((_FIN | opcode, _MASKED | 127)) + length.to_bytes(8, "big")
    mask = os.urandom(4)
    return head + mask + unmask(payload, mask)


def _upgrade(sock: socket.socket, host: str, port: int, more: Sequence[tuple[str, str]]) -> bytes:
    """The handshake; the bytes read past it."""
    key = base64.b64encode(os.urandom(16)).decode()
    headers = [
        ("Host", f"{host}:{port}"),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", key),
        (upgrade.MAX_VERSION, "1"),
        *more,
    ]
    lines = [f"GET {upgrade.PATH} HTTP/1.1", *(f"{name}: {value}" for name, value in headers), "", ""]
    sock.sendall("\r\n".join(lines).encode("latin-1"))
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(_READ_NBYTES)
        if not piece or len(data) > _HEAD_NBYTES_MAX:
            raise ConnectError(f"{host}:{port} ended the connection during the upgrade, or answered without an end")
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *found = head.decode("latin-1").split("\r\n")
    if first.split(" ")[1:2] != ["101"]:
        raise ConnectError(f"{host}:{port} refused the upgrade: {first[:80]!r}")
    pairs = [(name, value.strip()) for name, _, value in (line.partition(":") for line in found)]
    try:
        upgrade.accepted(pairs, key)
    except upgrade.BadUpgrade as error:
        raise ConnectError(f"{host}:{port}: {error}") from None
    return rest


class _Stream:
    """The server's frames, put into a `Replayed`."""

    def __init__(self, sock: socket.socket, data: bytes, found: Replayed) -> None:
        self._socket = sock
        self._data = data
        self._found = found
        self.has_ended = False
        self._take()

    def read_what_is_there(self) -> None:
        """Without waiting, so that a server whose answers nobody reads does not stop."""
        while not self.has_ended and select.select([self._socket], [], [], 0)[0]:
            self.read()
        if self.has_ended:
            raise ConnectionError("the server ended the connection")

    def read_the_rest(self) -> None:
        """What came before the end that a write has met: why it ended."""
        with suppress(ConnectionError):
            while not self.has_ended:
                self.read()

    def read(self) -> None:
        """One read; waits for it."""
        piece = self._socket.recv(_READ_NBYTES)
        if not piece:
            self.has_ended = True
        self._data += piece
        self._take()

    def _take(self) -> None:
        while (frame := self._next()) is not None:
            opcode, payload = frame
            if opcode == _BINARY:
                self._found.responses.append(parse(payload))
            elif opcode == _PONG:
                self._found.is_whole = True
            elif opcode == _CLOSE:
                self._found.close_code = int.from_bytes(payload[:2], "big") if payload else None
                self.has_ended = True

    def _next(self) -> tuple[int, bytes] | None:
        if len(self._data) < 2:
            return None
        length, start = self._data[1], 2
        extended = {126: 2, 127: 8}.get(length, 0)
        if extended:
            start += extended
            length = int.from_bytes(self._data[2:start], "big")
        if len(self._data) < start + length:
            return None
        opcode, payload = self._data[0] & 0x0F, self._data[start : start + length]
        self._data = self._data[start + length :]
        return opcode, payload
