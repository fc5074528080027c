"""A client made of a plain socket: sends any bytes, reads what comes.  Shares no code with the package."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import struct
from types import TracebackType
from typing import Self

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
TIMEOUT_SECONDS = 10.0
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class Ended(Exception):
    """The server ended the connection."""


class RawClient:
    """One connection to a port of this machine."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS)
        self.rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    # --- bytes ---------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self, count: int) -> bytes:
        """Exactly that many bytes; Ended when there are fewer."""
        while len(self.rest) < count:
            try:
                more = self.socket.recv(1 << 16)
            except ConnectionResetError:
                raise Ended("RST") from None
            if not more:
                raise Ended(f"FIN behind {self.rest!r}")
            self.rest += more
        data, self.rest = self.rest[:count], self.rest[count:]
        return data

    def read_to_end(self) -> bytes:
        """Everything up to FIN or RST."""
        while True:
            try:
                more = self.socket.recv(1 << 16)
            except ConnectionResetError:
                more = b""
            if not more:
                data, self.rest = self.rest, b""
                return data
            self.rest += more

    # --- HTTP ----------------------------------------------------------------------------------

    def request(self, headers: dict[str, str] | None = None, path: str = "/write/v4", method: str = "GET") -> None:
        lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in (headers or good_headers()).items())]
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def response(self) -> tuple[int, dict[str, str]]:
        """Status and headers, names in lower case; of the body only what `body` reads."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.read(1)
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        pairs = (line.split(": ", 1) for line in lines)
        return int(first.split(" ")[1]), {name.lower(): value for name, value in pairs}

    def upgrade(self, **headers: str) -> dict[str, str]:
        """The whole handshake; the headers of the 101."""
        self.request(good_headers() | {name.replace("_", "-"): value for name, value in headers.items()})
        status, found = self.response()
        assert status == 101, status
        assert found["sec-websocket-accept"] == accept(KEY)
        return found

    # --- WebSocket -----------------------------------------------------------------------------

    def message(self, payload: bytes) -> None:
        self.send(frame(BINARY, payload))

    def frame(self) -> tuple[int, bytes]:
        """Opcode and payload of the next server frame, which must be whole and unmasked."""
        first, second = self.read(2)
        assert first & 0xF0 == 0x80, f"first byte {first:02x}"
        assert not second & 0x80, "a masked server frame"
        length = second
        if length == 126:
            (length,) = struct.unpack(">H", self.read(2))
            assert length > 125
        elif length == 127:
            (length,) = struct.unpack(">Q", self.read(8))
            assert length > 65535
        return first & 0x0F, self.read(length)

    def answer(self) -> bytes:
        """Payload of the next frame, which must be binary."""
        opcode, payload = self.frame()
        assert opcode == BINARY, (opcode, payload)
        return payload

    def close_code(self) -> int | None:
        """The next frame must be CLOSE; its code."""
        opcode, payload = self.frame()
        assert opcode == CLOSE, (opcode, payload)
        return int.from_bytes(payload[:2], "big") if payload else None

    def ping(self, payload: bytes = b"") -> list[bytes]:
        """Sends PING and gives the binary payloads that came before its PONG."""
        self.send(frame(PING, payload))
        found = []
        while True:
            opcode, data = self.frame()
            if opcode == PONG:
                assert data == payload
                return found
            assert opcode == BINARY
            found.append(data)

    def expect_end(self) -> None:
        """FIN or RST, nothing before it."""
        assert self.read_to_end() == b""


def good_headers() -> dict[str, str]:
    return {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
        "X-QWP-Max-Version": "1",
    }


def accept(key: str) -> str:
    digest = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
    return base64.b64encode(digest).decode()


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    length_form: int | None = None,
) -> bytes:
    """Any client frame, wrong ones too; ``length_form`` forces 7, 16 or 64 bits."""
    length = len(payload)
    form = length_form or (7 if length < 126 else 16 if length < 65536 else 64)
    second = {7: length, 16: 126, 64: 127}[form] | (0x80 if masked else 0)
    extended = {7: b"", 16: struct.pack(">H", length & 0xFFFF), 64: struct.pack(">Q", length)}[form]
    head = bytes((opcode | rsv << 4 | (0x80 if fin else 0), second)) + extended
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


# --- messages ------------------------------------------------------------------------------------

DEFER, GORILLA, DELTA = 0x01, 0x04, 0x08
EMPTY = bytes.fromhex("515750310108000002000000") + b"\0\0"
EMPTY_DEFERRED = bytes.fromhex("515750310109000002000000") + b"\0\0"


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return varint(len(data)) + data


def message(
    *blocks: bytes, flags: int = DELTA, dictionary: tuple[int, list[str]] = (0, []), tables: int | None = None
) -> bytes:
    """A message around the blocks."""
    section = b""
    if flags & DELTA:
        section = varint(dictionary[0]) + varint(len(dictionary[1])) + b"".join(map(string, dictionary[1]))
    payload = section + b"".join(blocks)
    count = len(blocks) if tables is None else tables
    return b"QWP1" + struct.pack("<BBHI", 1, flags, count, len(payload)) + payload


def block(table: str | bytes, rows: int, *columns: tuple[str | bytes, int, bytes]) -> bytes:
    """A table block: columns are (name, type code, data with its null section)."""
    schema = b"".join(string(name) + bytes((code,)) for name, code, _ in columns)
    return string(table) + varint(rows) + varint(len(columns)) + schema + b"".join(data for *_, data in columns)


def longs(*values: int) -> bytes:
    return b"\0" + struct.pack(f"<{len(values)}q", *values)


def one_row(table: str = "t", value: int = 1, stamp: int = 1_000_000, flags: int = DELTA) -> bytes:
    """Table, LONG ``v``, designated timestamp."""
    return message(block(table, 1, ("v", 0x05, longs(value)), ("", 0x0A, longs(stamp))), flags=flags)


# --- responses -----------------------------------------------------------------------------------


def ok(sequence: int, *entries: tuple[str, int]) -> bytes:
    """The exact bytes of an OK."""
    out = struct.pack("<BqH", 0, sequence, len(entries))
    for table, transaction in entries:
        out += struct.pack("<H", len(table.encode())) + table.encode() + struct.pack("<q", transaction)
    return out


def error_of(response: bytes) -> tuple[int, int, str]:
    """Status, sequence, text of an error frame, checked to its last byte."""
    status, sequence, length = struct.unpack_from("<BqH", response)
    assert status not in (0, 2), response
    assert len(response) == 11 + length
    return status, sequence, response[11:].decode()
