"""WebSocket frames as a strict server reads and writes them (RFC 6455, wire.md 2).  No I/O.

byte 0   FIN 1 bit, RSV 3 bits, opcode 4 bits
byte 1   MASK 1 bit, length 7 bits: up to 125, or 126 = 16 bits follow, or 127 = 64 bits follow (big-endian)
then     4 bytes of mask, from a client always, from a server never
then     the payload, masked byte by byte with the mask repeated

`FrameReader.feed` takes bytes as they come, `FrameReader.next` gives whole frames, unmasked, and raises
`FrameFault` from the header alone, before the payload has arrived.  Not-shortest lengths are taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from spoolq.qwp.inbound import unmask

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

FIN: Final = 0x80
MASKED: Final = 0x80
RSV: Final = 0x70
CONTROL_NBYTES_MAX: Final = 125
_OPCODES: Final = frozenset({CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG})
_CONTROL_BIT: Final = 0x8
_MASK_NBYTES: Final = 4
_COMPACT_NBYTES: Final = 1 << 16

NORMAL: Final = 1000
PROTOCOL_ERROR: Final = 1002
UNSUPPORTED: Final = 1003
TOO_BIG: Final = 1009


class FrameFault(Exception):
    """A frame the server does not take: the CLOSE code, and whether pending acks go out before it (wire.md 2)."""

    def __init__(self, code: int, text: str, *, acks_first: bool) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.acks_first = acks_first


@dataclass(frozen=True, slots=True)
class Frame:
    """One whole frame of a client, unmasked."""

    opcode: int
    payload: bytes


def _broken(text: str) -> FrameFault:
    return FrameFault(PROTOCOL_ERROR, text, acks_first=False)


class FrameReader:
    """Frames of one client.  ``frame_nbytes_max`` bounds header and payload together, and so the memory held."""

    def __init__(self, frame_nbytes_max: int) -> None:
        self._frame_nbytes_max = frame_nbytes_max
        self._buffer = bytearray()
        self._at = 0

    @property
    def waiting_nbytes(self) -> int:
        """Bytes of a frame that is not whole yet."""
        return len(self._buffer) - self._at

    def feed(self, data: bytes | memoryview) -> None:
        """Bytes from the socket."""
        if self._at == len(self._buffer) or self._at > _COMPACT_NBYTES:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += data

    def next(self) -> Frame | None:
        """The next whole frame, or None until more bytes are here; raises FrameFault."""
        head = self._head()
        if head is None:
            return None
        opcode, header_nbytes, payload_nbytes = head
        start = self._at + header_nbytes
        end = start + payload_nbytes
        if end > len(self._buffer):
            return None
        with memoryview(self._buffer) as view:
            payload = unmask(view[start:end], bytes(view[start - _MASK_NBYTES : start]))
        self._at = end
        return Frame(opcode, payload)

    def _head(self) -> tuple[int, int, int] | None:
        """(opcode, header bytes, payload bytes) when they are known and allowed."""
        buffer, at = self._buffer, self._at
        left = len(buffer) - at
        if left < 2:
            return None
        first, second = buffer[at], buffer[at + 1]
        opcode, length = first & 0x0F, second & 0x7F
        self._check_bits(first, opcode, second)
        extended_nbytes = {126: 2, 127: 8}.get(length, 0)
        if opcode & _CONTROL_BIT and extended_nbytes:
            raise _broken(f"a control frame of more than {CONTROL_NBYTES_MAX} bytes")
        if left < 2 + extended_nbytes:
            return None
        if extended_nbytes:
            length = int.from_bytes(buffer[at + 2 : at + 2 + extended_nbytes], "big")
        if length >> 63:
            raise _broken("a 64-bit length with the top bit set")
        if opcode == CLOSE and length == 1:
            raise _broken("a CLOSE payload of one byte")
        header_nbytes = 2 + extended_nbytes + _MASK_NBYTES
        if header_nbytes + length > self._frame_nbytes_max:
            text = f"a frame of {header_nbytes + length} bytes, more than the {self._frame_nbytes_max} of the buffer"
            raise FrameFault(TOO_BIG, text, acks_first=True)
        if left < header_nbytes:
            return None
        return opcode, header_nbytes, length

    @staticmethod
    def _check_bits(first: int, opcode: int, second: int) -> None:
        if first & RSV:
            raise _broken("an RSV bit is set and no extension was agreed")
        if opcode not in _OPCODES:
            raise _broken(f"reserved opcode 0x{opcode:x}")
        if not second & MASKED:
            raise _broken("a client frame without a mask")
        if opcode & _CONTROL_BIT:
            if not first & FIN:
                raise _broken("a fragmented control frame")
        elif opcode == CONTINUATION or (opcode == BINARY and not first & FIN):
            raise FrameFault(PROTOCOL_ERROR, "fragmented WebSocket frames are not supported", acks_first=True)
        elif opcode == TEXT:
            raise FrameFault(UNSUPPORTED, "text frames are not supported", acks_first=True)


def build(opcode: int, payload: bytes) -> bytes:
    """A server's frame: whole, unmasked, shortest length."""
    return build_header(opcode, len(payload)) + payload


def build_header(opcode: int, payload_nbytes: int) -> bytes:
    """Header of a server's frame."""
    if payload_nbytes <= CONTROL_NBYTES_MAX:
        return bytes((FIN | opcode, payload_nbytes))
    if payload_nbytes < 1 << 16:
        return bytes((FIN | opcode, 126)) + payload_nbytes.to_bytes(2, "big")
    return bytes((FIN | opcode, 127)) + payload_nbytes.to_bytes(8, "big")


def build_close(code: int | None, reason: str = "") -> bytes:
    """A CLOSE frame; without a code its payload is empty; a reason that is too long is cut at a character."""
    if code is None:
        return build(CLOSE, b"")
    text = reason.encode()[: CONTROL_NBYTES_MAX - 2].decode(errors="ignore").encode()
    return build(CLOSE, code.to_bytes(2, "big") + text)


def echo_code(payload: bytes) -> int:
    """The code that answers a client's CLOSE (wire.md 2)."""
    code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 0
    if code == 1004 or 2000 <= code <= 2999:
        return PROTOCOL_ERROR
    if not 1000 <= code <= 4999 or code in (1005, 1006, 1015):
        return NORMAL
    return code
