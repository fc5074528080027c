"""A QWP message as a table of bytes (wire.md 3), and the names of its codes.

offset  size  field
0       4     magic ``QWP1``
4       1     version
5       1     flags
6       2     table_count, u16
8       4     payload_length, u32: what follows
12            dictionary section, when flag 08 is set:
                  varint delta_start, varint delta_count, delta_count x string
              table_count x block:
                  string name, varint row_count, varint column_count
                  column_count x (string name, u8 type)
                  column_count x column data

string = varint length + UTF-8; all integers little-endian.

column data = null section + values (wire.md 4)
null section = ``00``, or ``01`` + bitmap of ceil(rows / 8) bytes, 1 = NULL
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

MAGIC: Final = b"QWP1"
HEADER: Final = struct.Struct("<4sBBHI")
VERSION_OFFSET: Final = 4
FLAGS_OFFSET: Final = 5

FLAG_DEFER_COMMIT: Final = 0x01
FLAG_GORILLA: Final = 0x04
FLAG_DELTA_DICTIONARY: Final = 0x08
FLAGS_KNOWN: Final = FLAG_DEFER_COMMIT | FLAG_GORILLA | FLAG_DELTA_DICTIONARY

TIMESTAMPS_RAW: Final = 0
TIMESTAMPS_GORILLA: Final = 1


def is_deferred(payload: bytes | memoryview) -> bool:
    """Whether a stored payload is a message that leaves its commit to a later one; an opaque payload is not."""
    return (
        len(payload) >= HEADER.size
        and payload[FLAGS_OFFSET] & FLAG_DEFER_COMMIT != 0
        and payload[: len(MAGIC)] == MAGIC
    )


class Status(IntEnum):
    """First byte of a response (wire.md 5)."""

    OK = 0x00
    DURABLE_ACK = 0x02
    SCHEMA_MISMATCH = 0x03
    PARSE_ERROR = 0x05
    INTERNAL_ERROR = 0x06
    SECURITY_ERROR = 0x08
    WRITE_ERROR = 0x09
    NOT_WRITABLE = 0x0C
    DICTIONARY_GAP = 0x0D
