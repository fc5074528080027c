"""Server frames out of a byte stream, strictly (wire.md 2).

Bytes go in by `feed`, whole frames come out as small objects.  Fragments are put together; a masked,
text or RSV-bearing frame, a length form that is not the shortest, a bad CLOSE payload are breaches.
What is buffered is bounded by `limits.RESPONSE_BYTES_MAX`; a longer message is a breach as soon as
its head is there.  After a breach or a CLOSE everything is thrown away.
"""

from __future__ import annotations

import struct
from typing import Final

from spoolq import limits
from spoolq.frozen import Frozen

_CLOSE_CODES: Final = frozenset({*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)})
_CONTINUATION, _BINARY, _CLOSE, _PING, _PONG = 0, 2, 8, 9, 10


class Binary(Frozen):
    """A whole binary message."""

    payload: bytes


class Ping(Frozen):
    """To be answered with the same payload."""

    payload: bytes


class Close(Frozen):
    """The server's CLOSE; ``code`` is None when it gave none."""

    code: int | None
    reason: str


class Breach(Frozen):
    """Framing that no QuestDB server sends; nothing after it can be trusted."""

    text: str


class Lost(Frozen):
    """The stream ended or broke."""

    text: str


Inbound = Binary | Ping | Close | Breach | Lost


class _Bad(Exception):
    pass


class FrameReader:
    """The receiving half of one connection."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._fragments: bytearray | None = None
        self._ended = False

    def feed(self, data: bytes) -> list[Inbound]:
        """Takes bytes; every frame that is whole now.  After a `Breach` or `Close` nothing more comes."""
        found: list[Inbound] = []
        self._buffer += data
        try:
            while not self._ended and (item := self._next()) is not None:
                if not isinstance(item, bool):
                    found.append(item)
        except _Bad as why:
            self._ended = True
            found.append(Breach(str(why)))
        if self._ended:
            self._buffer.clear()
            self._fragments = None
        return found

    def _next(self) -> Inbound | bool | None:
        """One frame; None when it is not whole, True for one that says nothing."""
        head = self._head()
        if head is None:
            return None
        final, opcode, start, length = head
        if len(self._buffer) < start + length:
            return None
        with memoryview(self._buffer) as view:  # a slice of the bytearray would be a second copy: 16 MiB at worst
            payload = bytes(view[start : start + length])
        del self._buffer[: start + length]
        if opcode == _CLOSE:
            self._ended = True
            return _close(payload)
        if opcode == _PING:
            return Ping(payload)
        if opcode == _PONG:
            return True
        return self._message(final, opcode, payload)

    def _head(self) -> tuple[bool, int, int, int] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        first, second = buffer[0], buffer[1]
        opcode, length, start = first & 0x0F, second & 0x7F, 2
        if first & 0x70:
            raise _Bad("server frame has RSV bits set")
        if second & 0x80:
            raise _Bad("server frame must not be masked")
        if opcode not in (_CONTINUATION, _BINARY, _CLOSE, _PING, _PONG):
            raise _Bad("server response was not a binary frame" if opcode == 1 else f"reserved opcode {opcode}")
        if opcode >= _CLOSE and (not first & 0x80 or length > 125):
            raise _Bad("a control frame that is fragmented or longer than 125 bytes")
        if length >= 126:
            size, form = (2, ">H") if length == 126 else (8, ">Q")
            if len(buffer) < 2 + size:
                return None
            length = struct.unpack_from(form, buffer, 2)[0]
            start += size
            if length < (126 if size == 2 else 1 << 16):
                raise _Bad(f"a length of {length} in a form that is not the shortest")
        held = len(self._fragments or b"")
        if opcode < _CLOSE and length + held > limits.RESPONSE_BYTES_MAX:
            raise _Bad(f"a message of {length + held} bytes; an answer has at most {limits.RESPONSE_BYTES_MAX}")
        return bool(first & 0x80), opcode, start, length

    def _message(self, final: bool, opcode: int, payload: bytes) -> Inbound | bool:
        if (opcode == _CONTINUATION) != (self._fragments is not None):
            raise _Bad("a continuation frame out of place")
        if self._fragments is None and final:
            return Binary(payload)
        if self._fragments is None:
            self._fragments = bytearray()
        self._fragments += payload
        if not final:
            return True
        whole, self._fragments = bytes(self._fragments), None
        return Binary(whole)


def _close(payload: bytes) -> Close:
    if not payload:
        return Close(None, "")
    if len(payload) == 1:
        raise _Bad("a CLOSE payload of 1 byte")
    code = struct.unpack_from(">H", payload)[0]
    if code not in _CLOSE_CODES:
        raise _Bad(f"the CLOSE code {code} may not be on the wire")
    try:
        return Close(code, payload[2:].decode())
    except UnicodeDecodeError:
        raise _Bad("a CLOSE reason that is not UTF-8") from None
