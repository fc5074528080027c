"""The column types of the wire, with what each one costs and how it says NULL (wire.md 4.2, ours.md 1).

| code | type            | one value                     | null                       |
|------|-----------------|-------------------------------|----------------------------|
| 01   | BOOLEAN         | one bit, LSB first            | false                      |
| 02   | BYTE            | int8                          | 0                          |
| 03   | SHORT           | int16                         | 0                          |
| 04   | INT             | int32                         | -2**31                     |
| 05   | LONG            | int64                         | -2**63                     |
| 06   | FLOAT           | binary32                      | NaN 00 00 C0 7F            |
| 07   | DOUBLE          | binary64                      | NaN 00 .. F8 7F            |
| 09   | SYMBOL          | varint id                     | bitmap                     |
| 0A   | TIMESTAMP       | int64 microseconds            | bitmap                     |
| 0B   | DATE            | int64 milliseconds            | bitmap                     |
| 0C   | UUID            | low 64 bits, high 64 bits     | bitmap                     |
| 0D   | LONG256         | 32 bytes, least significant first | bitmap                 |
| 0E   | GEOHASH         | ceil(precision / 8) bytes     | bitmap                     |
| 0F   | VARCHAR         | u32 end offset + UTF-8        | bitmap                     |
| 10   | TIMESTAMP_NANOS | int64 nanoseconds             | bitmap                     |
| 11   | DOUBLE_ARRAY    | dimensions + binary64         | bitmap                     |
| 12   | LONG_ARRAY      | dimensions + int64            | bitmap                     |
| 13   | DECIMAL64       | 8 bytes unscaled              | bitmap                     |
| 14   | DECIMAL128      | 16 bytes unscaled             | bitmap                     |
| 15   | DECIMAL256      | 32 bytes unscaled             | bitmap                     |
| 16   | CHAR            | u16, one UTF-16 code unit     | 0                          |
| 17   | BINARY          | u32 end offset + bytes        | bitmap                     |
| 18   | IPV4            | u32 of the numeric address    | bitmap                     |

All little-endian.  Imports nothing of spoolq.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final


class ColumnType(IntEnum):
    """The type byte of a column."""

    BOOLEAN = 0x01
    BYTE = 0x02
    SHORT = 0x03
    INT = 0x04
    LONG = 0x05
    FLOAT = 0x06
    DOUBLE = 0x07
    SYMBOL = 0x09
    TIMESTAMP = 0x0A
    DATE = 0x0B
    UUID = 0x0C
    LONG256 = 0x0D
    GEOHASH = 0x0E
    VARCHAR = 0x0F
    TIMESTAMP_NANOS = 0x10
    DOUBLE_ARRAY = 0x11
    LONG_ARRAY = 0x12
    DECIMAL64 = 0x13
    DECIMAL128 = 0x14
    DECIMAL256 = 0x15
    CHAR = 0x16
    BINARY = 0x17
    IPV4 = 0x18


FIXED_BYTES: Final[dict[ColumnType, int]] = {
    ColumnType.BYTE: 1,
    ColumnType.SHORT: 2,
    ColumnType.INT: 4,
    ColumnType.LONG: 8,
    ColumnType.FLOAT: 4,
    ColumnType.DOUBLE: 8,
    ColumnType.TIMESTAMP: 8,
    ColumnType.DATE: 8,
    ColumnType.UUID: 16,
    ColumnType.LONG256: 32,
    ColumnType.TIMESTAMP_NANOS: 8,
    ColumnType.DECIMAL64: 8,
    ColumnType.DECIMAL128: 16,
    ColumnType.DECIMAL256: 32,
    ColumnType.CHAR: 2,
    ColumnType.IPV4: 4,
}
"""Bytes of one value of the types whose values all have the same size."""

SIGNED_BITS: Final = {
    ColumnType.BYTE: 8,
    ColumnType.SHORT: 16,
    ColumnType.INT: 32,
    ColumnType.LONG: 64,
    ColumnType.DATE: 64,
    ColumnType.TIMESTAMP: 64,
    ColumnType.TIMESTAMP_NANOS: 64,
}
UNSIGNED_BITS: Final = {ColumnType.CHAR: 16, ColumnType.IPV4: 32, ColumnType.LONG256: 256}

SENTINELS: Final[dict[ColumnType, bytes]] = {
    ColumnType.BYTE: bytes(1),
    ColumnType.SHORT: bytes(2),
    ColumnType.CHAR: bytes(2),
    ColumnType.INT: struct.pack("<i", -(1 << 31)),
    ColumnType.LONG: struct.pack("<q", -(1 << 63)),
    ColumnType.FLOAT: bytes.fromhex("0000c07f"),
    ColumnType.DOUBLE: bytes.fromhex("000000000000f87f"),
}
"""Null of the types that have no bitmap here, except BOOLEAN, whose null is a clear bit (ours.md 1)."""

SENTINEL_NULL: Final = frozenset(SENTINELS) | {ColumnType.BOOLEAN}
"""Types whose nulls are stored as a value; all others carry a bitmap (ours.md 1)."""

TIMESTAMPS: Final = frozenset({ColumnType.TIMESTAMP, ColumnType.TIMESTAMP_NANOS})
ARRAYS: Final = frozenset({ColumnType.DOUBLE_ARRAY, ColumnType.LONG_ARRAY})
DECIMALS: Final = frozenset({ColumnType.DECIMAL64, ColumnType.DECIMAL128, ColumnType.DECIMAL256})
OFFSETS: Final = frozenset({ColumnType.VARCHAR, ColumnType.BINARY})
