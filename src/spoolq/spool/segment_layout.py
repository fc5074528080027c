"""How a segment is laid out (slot.md 2.2); all integers little-endian.

    0   u32 magic SF01 | u8 version | u8 flags (bit 0: a manifest is required) | u16 zero
    8   i64 base: FSN of the first frame
    16  u64 creation time, microseconds since the epoch; never interpreted
    24  frames, back to back: u32 CRC-32C of length and payload | i32 length | payload

What follows the last frame is zero.  The order of the stores inside a frame is length, payload, CRC:
a frame whose CRC is there is whole, and one that a kill cut short still tells its extent.
"""

from __future__ import annotations

import struct
from typing import Final

HEADER: Final = struct.Struct("<IBBHqQ")
FRAME: Final = struct.Struct("<Ii")
LENGTH: Final = struct.Struct("<i")
CRC: Final = struct.Struct("<I")
MAGIC: Final = 0x31304653
VERSION: Final = 1
FLAG_MANIFEST_REQUIRED: Final = 1
BASE_OFFSET: Final = 8
FLAGS_OFFSET: Final = 5


def header(base: int, *, flags: int, created_micros: int) -> bytes:
    """The first 24 bytes of a segment."""
    return HEADER.pack(MAGIC, VERSION, flags, 0, base, created_micros)
