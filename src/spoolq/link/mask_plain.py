"""WebSocket client frames of stored messages, plain body (wire.md 2).

`pack_run` walks stored frames back to back (u32 CRC, i32 length, payload) and gives one buffer of
WebSocket frames: FIN + binary, masked, shortest length form.  Each frame has a mask of its own from
a small generator that the connection seeds from the operating system; masks keep proxies from being
fooled and are no secret.
"""

from __future__ import annotations

import struct
from typing import Final

from spoolq.errors import StorageError

BINARY: Final = 0x82
_U64: Final = (1 << 64) - 1


class MaskKeys:
    """xorshift64*: the masks of one connection, from a seed."""

    def __init__(self, seed: int) -> None:
        self.state = seed & _U64 or 1

    def next(self) -> bytes:
        """Four bytes."""
        x = self.state
        x ^= x >> 12
        x ^= x << 25 & _U64
        x ^= x >> 27
        self.state = x
        return struct.pack("<I", x * 0x2545F4914F6CDD1D >> 32 & 0xFFFFFFFF)


def mask(payload: bytes | memoryview, key: bytes) -> bytes:
    """The payload XOR the repeated key."""
    length = len(payload)
    pad = (key * (length // 4 + 1))[:length]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(pad, "little")).to_bytes(length, "little")


def frame(opcode_byte: int, payload: bytes | memoryview, key: bytes) -> bytes:
    """One masked frame with the shortest length form."""
    length = len(payload)
    if length < 126:
        head = struct.pack(">BB", opcode_byte, 0x80 | length)
    elif length < 1 << 16:
        head = struct.pack(">BBH", opcode_byte, 0xFE, length)
    else:
        head = struct.pack(">BBQ", opcode_byte, 0xFF, length)
    return head + key + mask(payload, key)


def pack_run(data: memoryview, keys: MaskKeys, out: bytearray, max_frame_nbytes: int | None = None) -> int:
    """Appends a WebSocket frame for each stored frame in ``data``; their number.

    Ends before the first payload above ``max_frame_nbytes``.  Raises StorageError for a length that
    leaves ``data``; ``out`` is then as before.
    """
    size = len(out)
    offset = count = 0
    while offset < len(data):
        length = struct.unpack_from("<i", data, offset + 4)[0] if offset + 8 <= len(data) else -1
        if length < 0 or offset + 8 + length > len(data):
            del out[size:]
            raise StorageError(f"a stored frame has the length {length}; the memory of the spool was overwritten")
        if max_frame_nbytes is not None and length > max_frame_nbytes:
            break
        out += frame(BINARY, data[offset + 8 : offset + 8 + length], keys.next())
        offset += 8 + length
        count += 1
    return count
