"""stored.py: what comes back of a value (ours.md 1) and what reads as NULL (wire.md 4.2).

Seen red with: one entry of either table changed; as_read of a designated timestamp by sentinel;
the all-ones geohash read as NULL under a bitmap.
"""

from __future__ import annotations

import math
import struct
from decimal import Decimal
from typing import Any

import pytest

from spoolq.columns import ColumnType
from spoolq.qwp.decode_columns import DecodedColumn
from spoolq.qwp.stored import as_read, as_stored

NULLS = {
    ColumnType.BOOLEAN: False,
    ColumnType.BYTE: 0,
    ColumnType.SHORT: 0,
    ColumnType.CHAR: "\0",
    ColumnType.INT: -(2**31),
    ColumnType.LONG: -(2**63),
}


@pytest.mark.parametrize("column_type", ColumnType, ids=lambda kind: kind.name)
def test_ours_1_what_comes_back_of_null(column_type: ColumnType) -> None:
    found = as_stored(column_type, None)
    if column_type in (ColumnType.FLOAT, ColumnType.DOUBLE):
        assert math.isnan(found)
    else:
        assert found == NULLS.get(column_type)
        assert type(found) is type(NULLS.get(column_type))


STORED: list[tuple[ColumnType, Any, Any]] = [
    (ColumnType.FLOAT, 0.1, struct.unpack("<f", struct.pack("<f", 0.1))[0]),
    (ColumnType.CHAR, 0xE9, "é"),
    (ColumnType.VARCHAR, "é".encode(), "é"),
    (ColumnType.UUID, bytes(range(16)), bytes(range(16))[::-1]),
    (ColumnType.GEOHASH, (5, 9), 5),
    (ColumnType.DECIMAL64, (-12345, 3), Decimal("-12.345")),
    (ColumnType.DOUBLE_ARRAY, ((1, 2), struct.pack("<2d", 1, 2)), ((1, 2), [1.0, 2.0])),
    (ColumnType.LONG_ARRAY, ((2, 1), struct.pack("<2q", 1, 2)), ((2, 1), [1, 2])),
    (ColumnType.SYMBOL, "a", "a"),
    (ColumnType.LONG, 7, 7),
]


@pytest.mark.parametrize(("column_type", "stored", "found"), STORED, ids=[s[0].name for s in STORED])
def test_ours_1_what_comes_back_of_a_value(column_type: ColumnType, stored: Any, found: Any) -> None:
    assert as_stored(column_type, stored) == found


def test_a_decimal_is_exact_beyond_the_context() -> None:
    assert as_stored(ColumnType.DECIMAL256, (10**76 + 1, 76)) == Decimal("1." + "0" * 75 + "1")


MIN64 = -(1 << 63)
SENTINELS: list[tuple[ColumnType, Any]] = [
    (ColumnType.INT, -(1 << 31)),
    (ColumnType.LONG, MIN64),
    (ColumnType.FLOAT, math.nan),
    (ColumnType.DOUBLE, math.nan),
    (ColumnType.TIMESTAMP, MIN64),
    (ColumnType.TIMESTAMP_NANOS, MIN64),
    (ColumnType.DATE, MIN64),
    (ColumnType.UUID, bytes.fromhex("80000000000000008000000000000000")),
    (ColumnType.LONG256, sum((1 << 63) << 64 * word for word in range(4))),
    (ColumnType.CHAR, "\0"),
    (ColumnType.IPV4, 0),
]


@pytest.mark.parametrize(("column_type", "value"), SENTINELS, ids=[s[0].name for s in SENTINELS])
def test_wire_4_2_a_sentinel_reads_as_null(column_type: ColumnType, value: Any) -> None:
    assert as_read(DecodedColumn("v", column_type, [value, None])) == [None, None]


@pytest.mark.parametrize("column_type", [ColumnType.BOOLEAN, ColumnType.BYTE, ColumnType.SHORT])
def test_wire_4_2_types_whose_null_is_lost(column_type: ColumnType) -> None:
    assert as_read(DecodedColumn("v", column_type, [as_stored(column_type, None)])) == [as_stored(column_type, None)]


def test_wire_4_2_the_designated_timestamp_has_no_sentinel() -> None:
    assert as_read(DecodedColumn("", ColumnType.TIMESTAMP, [MIN64, None])) == [MIN64, None]


@pytest.mark.parametrize(
    ("precision", "value", "has_bitmap", "null"),
    [
        (8, 255, False, True),
        (8, 255, True, False),
        (8, 254, False, False),
        (5, 31, False, False),
        (5, 255, False, True),
    ],
)
def test_wire_4_8_a_geohash_of_all_ones(precision: int, value: int, has_bitmap: bool, null: bool) -> None:
    column = DecodedColumn("g", ColumnType.GEOHASH, [value], precision=precision, has_bitmap=has_bitmap)
    assert as_read(column) == [None if null else value]
