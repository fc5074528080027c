"""A server that is only a socket: it accepts one upgrade and then does what the test says, frame by frame."""

from __future__ import annotations

import base64
import hashlib
import socket
import struct
from types import TracebackType
from typing import Self

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TIMEOUT_SECONDS = 10.0
BINARY, CLOSE, PING, PONG = 2, 8, 9, 10


class RawServer:
    """`conf` for the sender; `accept` takes its upgrade; then `send` and `read`."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(TIMEOUT_SECONDS)
        self.socket: socket.socket | None = None
        self._rest = b""
        self._thread = None

    @property
    def conf(self) -> str:
        """ASYNC, so that one thread can open the sender and be the server."""
        return f"ws::addr=127.0.0.1:{self._listener.getsockname()[1]};"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.socket is not None:
            self.socket.close()
        self._listener.close()

    def accept(self, *headers: str, behind: bytes = b"") -> None:
        """The next connection, answered with these headers too, ``behind`` in one piece; the one before is closed."""
        if self.socket is not None:
            self.socket.close()
        self.socket, _ = self._listener.accept()
        self.socket.settimeout(TIMEOUT_SECONDS)
        self._rest = b""
        head = b""
        while b"\r\n\r\n" not in head:
            head += self._more()
        key = next(line[19:] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: "))
        accept = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {accept}",
            "X-QWP-Version: 1",
            *headers,
        ]
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode() + behind)

    def send(self, opcode: int, payload: bytes = b"") -> None:
        """One unmasked frame of less than 126 bytes."""
        assert self.socket is not None
        self.socket.sendall(bytes([0x80 | opcode, len(payload)]) + payload)

    def ok(self, sequence: int) -> None:
        """An OK without tables."""
        self.send(BINARY, struct.pack("<BqH", 0, sequence, 0))

    def read(self) -> tuple[int, bytes]:
        """The next frame of the client, unmasked."""
        first, second = self._exactly(2)
        length = second & 0x7F
        if length >= 126:
            length = int.from_bytes(self._exactly(2 if length == 126 else 8), "big")
        key = self._exactly(4)
        data = self._exactly(length)
        return first & 0x0F, bytes(byte ^ key[n % 4] for n, byte in enumerate(data))

    def come(self) -> list[bytes]:
        """The binary frames that have come whole by now."""
        assert self.socket is not None
        self.socket.setblocking(False)
        try:
            while more := self.socket.recv(1 << 16):
                self._rest += more
        except BlockingIOError:
            pass
        finally:
            self.socket.settimeout(TIMEOUT_SECONDS)
        return self._binaries()

    def finish(self) -> list[bytes]:
        """Ends its half of the connection; the binary frames that come until the client ends the other one."""
        assert self.socket is not None
        self.socket.shutdown(socket.SHUT_WR)
        while more := self.socket.recv(1 << 16):
            self._rest += more
        return self._binaries()

    def _binaries(self) -> list[bytes]:
        found = []
        while self._rest:
            opcode, payload = self.read()
            found += [payload] if opcode == BINARY else []
        return found

    def _exactly(self, count: int) -> bytes:
        while len(self._rest) < count:
            self._rest += self._more()
        data, self._rest = self._rest[:count], self._rest[count:]
        return data

    def _more(self) -> bytes:
        assert self.socket is not None
        data = self.socket.recv(1 << 16)
        assert data, "the client ended the connection"
        return data
