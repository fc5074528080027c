"""How many bytes the parts of a message take, or at most take: what the triggers and the row limit go by.

`nbytes` of a row buffer is an upper bound that can be kept up in constant time a row; both bodies
keep the same one, so that a trigger fires at the same row.  `alone_nbytes` is the size of a message
that carries just one row: exact, but for the encoding byte that only Gorilla needs.
"""

from __future__ import annotations

from typing import Any, Final

from spoolq import limits
from spoolq.columns.types import ARRAYS, FIXED_BYTES, OFFSETS, SENTINELS, TIMESTAMPS, ColumnType
from spoolq.columns.varint import varint_nbytes

DICTIONARY_BYTES: Final = 20
"""At most: the two varints of a dictionary section."""
TABLE_BYTES: Final = 24
"""At most: a block's name length, row count and column count."""
COLUMN_BYTES: Final = 16
"""At most: a column's name length, type, null flag, and the first offset, scale, precision or encoding byte."""
SYMBOL_MESSAGE_BYTES: Final = limits.HEADER_BYTES + 16
"""A message that registers one symbol, without the symbol; the peers reserve as much (slot.md 6)."""


def sentinel_nbytes(column_type: ColumnType) -> int:
    """Bytes of every row of a column, null or not; 0 when nulls take none."""
    return len(SENTINELS.get(column_type, b""))


def value_nbytes(column_type: ColumnType, value: Any) -> int:
    """Bytes of a stored form (`convert`) in wire form, without bits, offset 0 and what the column has once."""
    fixed = FIXED_BYTES.get(column_type)
    if fixed is not None:
        return fixed
    if column_type is ColumnType.SYMBOL:
        return varint_nbytes(value)
    if column_type in OFFSETS:
        return 4 + len(value)
    if column_type is ColumnType.GEOHASH:
        return (int(value[1]) + 7) // 8
    if column_type in ARRAYS:
        return 1 + 4 * len(value[0]) + len(value[1])
    return 0  # BOOLEAN: a bit


def alone_nbytes(table_name: bytes, cells: list[tuple[bytes, ColumnType, Any]]) -> int:
    """A message with one row and no symbols: header, an empty dictionary section, one block."""
    total = limits.HEADER_BYTES + 6 + _string(table_name) + 1 + varint_nbytes(len(cells))
    for name, column_type, value in cells:
        total += _string(name) + 2 + column_nbytes(column_type) + value_nbytes(column_type, value)
    return total


def column_nbytes(column_type: ColumnType) -> int:
    """Bytes of a column of one row beside its null flag and value."""
    if column_type in OFFSETS:
        return 4  # offset 0
    if column_type is ColumnType.GEOHASH:
        return 2  # precision; a bitmap when all bits are set
    if column_type in (ColumnType.SYMBOL, *ARRAYS) or column_type in SENTINELS:
        return 0
    if column_type is ColumnType.BOOLEAN or column_type in TIMESTAMPS:
        return 1  # the bit's byte; the encoding byte
    return 1 if column_type in _SCALED else 0


_SCALED: Final = frozenset({ColumnType.DECIMAL64, ColumnType.DECIMAL128, ColumnType.DECIMAL256})


def _string(text: bytes) -> int:
    return varint_nbytes(len(text)) + len(text)
