"""decode.py: what the encoder wrote comes back, and what only other clients write (wire.md 8: test_wire_8.py)."""

from __future__ import annotations

import contextlib
import math
import struct
from datetime import UTC, datetime
from decimal import Decimal
from ipaddress import IPv4Address
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolq.columns import ColumnType, RowBuffer, SymbolTable
from spoolq.qwp import encode
from spoolq.qwp.decode import Dictionary, WireFault, decode, decode_all
from spoolq.values import Char, DateMillis, Geohash, Long256, TimestampMicros, TimestampNanos


def message(rows: RowBuffer, *, gorilla: bool = False) -> bytes:
    room = bytearray(encode.frame_bytes(rows, gorilla=gorilla))
    encode.write(rows, room, gorilla=gorilla)
    return bytes(room)


VALUES: list[tuple[Any, Any]] = [
    (True, True),
    (-5, -5),
    (2.5, 2.5),
    ("é", "é"),
    (b"\0\xff", b"\0\xff"),
    (datetime(2013, 1, 1, tzinfo=UTC), 1_356_998_400_000_000),
    (TimestampNanos(-7), -7),
    (Decimal("-12.345"), Decimal("-12.345")),
    (UUID(int=0x0123456789ABCDEF0123456789ABCDEF), bytes.fromhex("0123456789abcdef0123456789abcdef")),
    (IPv4Address("192.168.0.1"), 0xC0A80001),
    (Char("é"), "é"),
    (DateMillis(-1), -1),
    (Long256(1 << 255 | 3), 1 << 255 | 3),
    (Geohash.from_string("u33d8"), 0x1A18D88),
    (np.array([[1.0, 2.0], [3.0, 4.0]]), ((2, 2), [1.0, 2.0, 3.0, 4.0])),
    (np.array([[1.0, 2.0], [3.0, 4.0]]).T, ((2, 2), [1.0, 3.0, 2.0, 4.0])),
    (np.float32(0.5), 0.5),
    (np.int16(-3), -3),
    (np.datetime64("2013-01-01", "ns"), 1_356_998_400_000_000_000),
]
SENTINEL = {ColumnType.BOOLEAN: False, ColumnType.LONG: -(1 << 63), ColumnType.CHAR: "\0"}


@pytest.mark.parametrize(("value", "stored"), VALUES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("present", [[True], [True, False], [False, True, False], [True] * 9 + [False] * 8])
@pytest.mark.parametrize("gorilla", [False, True])
def test_every_type_of_row_comes_back_with_nulls_at_each_place(
    value: Any, stored: Any, present: list[bool], gorilla: bool
) -> None:
    rows = RowBuffer(SymbolTable())
    for index, there in enumerate(present):
        cells = {"v": value if there else None}
        rows.row("t", symbols={"s": "x" if there else None}, columns=cells, at=TimestampMicros(index * index))
    (table,) = decode(message(rows, gorilla=gorilla), Dictionary()).tables
    columns = {column.name: column for column in table.columns}
    null = SENTINEL.get(columns["v"].type)
    found = columns["v"].values
    if columns["v"].type is ColumnType.DOUBLE:
        found, null = ["nan" if x is not None and math.isnan(x) else x for x in found], "nan"
    assert found == [stored if there else null for there in present]
    assert columns["s"].values == ["x" if there else None for there in present]
    assert columns[""].values == [index * index for index in range(len(present))]


def test_a_dictionary_goes_on_over_messages() -> None:
    symbols, dictionary = SymbolTable(), Dictionary()
    for batch in (["a", "b"], ["b", "c"], ["c"], ["a", "d"]):
        rows = RowBuffer(symbols)
        for text in batch:
            rows.row("t", symbols={"s": text}, at=TimestampMicros(1))
        found = decode_all(message(rows), dictionary)
        symbols.published_count = len(symbols)
        assert [row["s"] for row in found["t"]] == batch
    assert dictionary.texts == ["a", "b", "c", "d"]


def frame(payload: bytes, *, flags: int = 8, tables: int = 1, length: int | None = None) -> bytes:
    size = len(payload) if length is None else length
    return struct.pack("<4sBBHI", b"QWP1", 1, flags, tables, size) + payload


def block(columns: bytes, *, name: bytes = b"\1t", rows: int = 1, count: int = 1) -> bytes:
    return b"\0\0" + name + bytes([rows, count]) + columns


LONG_V = b"\1v\5" + b"\0" + bytes(8)


def test_wire_3_3_entries_stay_when_a_later_block_is_bad_and_overlap_is_legal() -> None:
    dictionary = Dictionary()
    with pytest.raises(WireFault, match="type code"):
        decode(frame(b"\0\2\1a\1b\1t\1\1\1v\0\0"), dictionary)
    assert dictionary.texts == ["a", "b"]
    decode(frame(b"\1\2\1x\1y", tables=0), dictionary)
    assert dictionary.texts == ["a", "x", "y"]


# One value of each type, packed, and what is found of it: for the bitmap that our encoder does not
# write for numbers, and for the sentinels that it does not write for all others (wire.md 4.3).
PACKED: list[tuple[ColumnType, bytes, bytes, Any]] = [
    (ColumnType.BOOLEAN, b"", b"\1", True),
    (ColumnType.BYTE, b"", b"\xfb", -5),
    (ColumnType.SHORT, b"", struct.pack("<h", -300), -300),
    (ColumnType.INT, b"", struct.pack("<i", 70_000), 70_000),
    (ColumnType.LONG, b"", struct.pack("<q", -(1 << 40)), -(1 << 40)),
    (ColumnType.FLOAT, b"", struct.pack("<f", 0.5), 0.5),
    (ColumnType.DOUBLE, b"", struct.pack("<d", 2.5), 2.5),
    (ColumnType.SYMBOL, b"", b"\1", "b"),
    (ColumnType.TIMESTAMP, b"", struct.pack("<q", -7), -7),
    (ColumnType.DATE, b"", struct.pack("<q", 9), 9),
    (ColumnType.UUID, b"", bytes(range(16)), bytes(range(16))[::-1]),
    (ColumnType.LONG256, b"", b"\1" + bytes(30) + b"\x80", 1 << 255 | 1),
    (ColumnType.GEOHASH, b"\x19", bytes.fromhex("888DA101"), 0x1A18D88),
    (ColumnType.VARCHAR, b"", struct.pack("<2I", 0, 2) + "é".encode(), "é"),
    (ColumnType.TIMESTAMP_NANOS, b"", struct.pack("<q", 5), 5),
    (ColumnType.DOUBLE_ARRAY, b"", b"\1" + struct.pack("<id", 1, 1.5), ((1,), [1.5])),
    (ColumnType.LONG_ARRAY, b"", b"\1" + struct.pack("<iq", 1, -1), ((1,), [-1])),
    (ColumnType.DECIMAL64, b"\3", struct.pack("<q", -12345), Decimal("-12.345")),
    (ColumnType.DECIMAL128, b"\3", bytes.fromhex("C7CF") + b"\xff" * 14, Decimal("-12.345")),
    (ColumnType.DECIMAL256, b"\0", b"\xff" * 32, Decimal(-1)),
    (ColumnType.CHAR, b"", "é".encode("utf-16-le"), "é"),
    (ColumnType.BINARY, b"", struct.pack("<2I", 0, 1) + b"\xff", b"\xff"),
    (ColumnType.IPV4, b"", bytes.fromhex("0100A8C0"), 0xC0A80001),
]
NO_VALUES = {ColumnType.VARCHAR: bytes(4), ColumnType.BINARY: bytes(4)}


def test_each_type_is_packed_once() -> None:
    assert [packed[0] for packed in PACKED] == list(ColumnType)


@pytest.mark.parametrize(("column_type", "prefix", "data", "value"), PACKED, ids=[p[0].name for p in PACKED])
@pytest.mark.parametrize("gorilla", [False, True])
def test_wire_4_1_a_bitmap_is_read_on_every_type(
    column_type: ColumnType, prefix: bytes, data: bytes, value: Any, gorilla: bool
) -> None:
    encoding = b"\0" if gorilla and column_type in (ColumnType.TIMESTAMP, ColumnType.TIMESTAMP_NANOS) else b""
    head = b"\1v" + bytes([column_type])
    for nulls, values, found in (
        (b"\1\5", data, [None, value, None]),  # rows 0 and 2
        (b"\1\7", NO_VALUES.get(column_type, b""), [None, None, None]),  # all null: prefix and no values
    ):
        payload = b"\0\2\1a\1b\1t\3\1" + head + nulls + encoding + prefix + values
        (table,) = decode(frame(payload, flags=0x0C if gorilla else 8), Dictionary()).tables
        assert table.columns[0].values == found
        assert table.columns[0].has_bitmap


@given(st.data())
def test_mutated_messages_are_decoded_or_refused_and_never_anything_else(data: st.DataObject) -> None:
    rows = RowBuffer(SymbolTable())
    for index, (value, _) in enumerate(data.draw(st.lists(st.sampled_from(VALUES), min_size=1, max_size=6))):
        rows.row("t", symbols={"s": str(index)}, columns={f"c{index}": value}, at=TimestampMicros(index))
    mutated = bytearray(message(rows, gorilla=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(mutated)))
    for candidate in (bytes(mutated), bytes(mutated[:cut])):
        with contextlib.suppress(WireFault):
            decode(candidate, Dictionary())
