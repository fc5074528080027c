"""decode.py: what the encoder wrote comes back, and every fault of wire.md 8 has its status."""

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
FAULTS: list[tuple[str, bytes, int, str]] = [
    ("1 to 11 bytes", b"QWP1\1\0\0\0\0\0\0", 5, "header too short"),
    ("0 bytes", b"", 5, "header too short"),
    ("version byte not the negotiated one", b"QWP1\2\0\0\0\0\0\0\0", 5, "does not match"),
    ("version is looked at before the magic", b"XXXX\2\0\0\0\0\0\0\0", 5, "does not match"),
    ("wrong magic", b"QWP2\1\0\0\0\0\0\0\0", 5, "magic"),
    ("unknown flag bits", frame(b"", flags=0x40, tables=0), 5, "flag bits"),
    ("flag 10", frame(b"", flags=0x10, tables=0), 5, "flag bits"),
    ("flag 02", frame(b"", flags=0x02, tables=0), 5, "flag bits"),
    ("payload_length > 16 MiB", frame(b"", length=16_777_217), 5, "maximum size"),
    ("payload_length beyond the frame", frame(b"\0\0", tables=0, length=3), 5, "beyond the frame"),
    ("frame longer than 12 + payload_length", frame(b"\0\0\0", tables=0, length=2), 5, "after the payload"),
    ("bytes left after the last block", frame(b"\0\0\0", tables=0), 5, "after the last"),
    ("fewer blocks than table_count", frame(block(LONG_V), tables=2), 5, "incomplete varint"),
    ("varint truncated", frame(b"\x80", tables=0), 5, "incomplete varint"),
    ("varint over 10 bytes", frame(b"\x80" * 10 + b"\1", tables=0), 5, "overflow"),
    ("varint bits above 63", frame(b"\xff" * 9 + b"\x02", tables=0), 5, "overflow"),
    ("flag 08 and empty payload", frame(b"", tables=0), 5, "truncated delta"),
    ("delta_start > dictionary size", frame(b"\1\0", tables=0), 0x0D, "gap"),
    ("delta_start above int32", frame(b"\xff\xff\xff\xff\x08\0", tables=0), 5, "out of range"),
    ("delta_count above int32", frame(b"\0\xff\xff\xff\xff\x08", tables=0), 5, "out of range"),
    ("start + count > 2 000 000", frame(b"\0\x81\x89\x7a", tables=0), 5, "above 2000000"),
    ("count > bytes left", frame(b"\0\3\0\0", tables=0), 5, "beyond the payload"),
    ("entry truncated", frame(b"\0\1\5ab", tables=0), 5, "needed"),
    ("entry not UTF-8", frame(b"\0\1\1\xff", tables=0), 5, "UTF-8"),
    ("symbol id >= dictionary size", frame(block(b"\1s\x09\0\0")), 5, "out of range"),
    ("table name empty", frame(block(LONG_V, name=b"\0")), 5, "empty table name"),
    ("table name > 127 bytes", frame(block(LONG_V, name=b"\x80\1" + b"t" * 128)), 5, "name of 128"),
    ("table name with an illegal character", frame(block(LONG_V, name=b"\2a?")), 6, "failed to create"),
    ("table name not UTF-8", frame(block(LONG_V, name=b"\1\xff")), 5, "UTF-8"),
    ("row_count > limit", frame(b"\0\0\1t\xc1\x84\x3d\1" + LONG_V), 5, "row count"),
    ("column_count > 2048", frame(b"\0\0\1t\1\x81\x10" + LONG_V), 5, "column count"),
    ("row_count with bit 63 set", frame(b"\0\0\1t" + b"\xff" * 9 + b"\1\1" + LONG_V), 5, "bit 63"),
    ("column_count 0 with rows", frame(block(b"", count=0)), 5, "without a column"),
    ("column name > 127 bytes", frame(block(b"\x80\1" + b"v" * 128 + b"\5\0" + bytes(8))), 5, "name of 128"),
    ("illegal column name", frame(block(b"\3a-b\5\0" + bytes(8))), 6, "failed to create"),
    ("empty column name, type not 0A/10", frame(block(b"\0\5\0" + bytes(8))), 5, "without a name"),
    ("two empty-named columns", frame(block(b"\0\x0a\0\x0a" + (b"\0" + bytes(8)) * 2, count=2)), 5, "two columns"),
    ("two names equal ignoring case", frame(block(b"\1v\5\1V\5" + (b"\0" + bytes(8)) * 2, count=2)), 5, "two columns"),
    ("type code 00", frame(block(b"\1v\0\0")), 5, "type code"),
    ("type code 08", frame(block(b"\1v\x08\0")), 5, "type code"),
    ("type code above 18", frame(block(b"\1v\x19\0")), 5, "type code"),
    ("column data missing", frame(block(b"\1v\5")), 5, "unexpected end"),
    ("bitmap truncated", frame(block(b"\1v\5\1", rows=9)), 5, "needed"),
    ("values truncated", frame(block(b"\1v\5\0" + bytes(7))), 5, "needed"),
    ("timestamp encoding byte not 0/1", frame(block(b"\1v\x0a\0\2" + bytes(8)), flags=0x0C), 5, "encoding"),
    ("Gorilla stream too short", frame(block(b"\1v\x0a\0\1" + bytes(16), rows=3), flags=0x0C), 5, "available bits"),
    ("offset[0] != 0", frame(block(b"\1v\x0f\0" + struct.pack("<2I", 1, 1) + b"x")), 5, "first offset"),
    ("last offset too large", frame(block(b"\1v\x0f\0" + struct.pack("<2I", 0, 9))), 5, "last offset"),
    ("last offset negative", frame(block(b"\1v\x0f\0" + struct.pack("<2i", 0, -1))), 5, "last offset"),
    (
        "decreasing offsets",
        frame(block(b"\1v\x0f\0" + struct.pack("<4I", 0, 2, 1, 2) + b"xy", rows=3)),
        5,
        "decrease",
    ),
    ("VARCHAR not UTF-8", frame(block(b"\1v\x0f\0" + struct.pack("<2I", 0, 1) + b"\xff")), 5, "UTF-8"),
    ("GEOHASH precision 0", frame(block(b"\1v\x0e\1\1\0")), 5, "precision 0"),
    ("GEOHASH precision > 60", frame(block(b"\1v\x0e\0\x3d" + bytes(8))), 5, "precision 61"),
    ("array nDims 0", frame(block(b"\1v\x11\0\0")), 5, "0 dimensions"),
    ("array nDims > 32", frame(block(b"\1v\x11\0\x21" + bytes(132))), 5, "33 dimensions"),
    ("array negative dimension", frame(block(b"\1v\x11\0\1" + struct.pack("<i", -1))), 5, "shape"),
    ("array product overflow", frame(block(b"\1v\x11\0\3" + struct.pack("<3i", 1 << 20, 1 << 20, 0))), 5, "shape"),
    ("array elements truncated", frame(block(b"\1v\x11\0\1" + struct.pack("<i", 2) + bytes(8))), 5, "needed"),
    (
        "differing nDims within a column",
        frame(block(b"\1v\x11\0\1" + bytes(4) + b"\2" + bytes(8), rows=2)),
        3,
        "differing dimensions",
    ),
    ("decimal scale above 76", frame(block(b"\1v\x13\0\x4d" + bytes(8))), 5, "scale 77"),
]


@pytest.mark.parametrize(("data", "status", "text"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_wire_8(data: bytes, status: int, text: str) -> None:
    dictionary = Dictionary()
    with pytest.raises(WireFault, match=text) as caught:
        decode(data, dictionary)
    assert caught.value.status == status
    assert len(dictionary) == 0


@pytest.mark.parametrize(
    "data",
    [
        frame(b"\x80\0\0", tables=0),
        frame(block(b"\1v\5\7\0" + bytes(8))),
        frame(block(b"\1v\5\1\xfe" + bytes(8))),
        frame(block(b"\1v\1\0\xff")),
        frame(block(b"\1v\5\0", rows=0)),
        frame(b"", flags=0, tables=0),
        frame(b"\1t\1\1\1s\x09\0\2\1a\1b\1", flags=0),
    ],
    ids=[
        "overlong varint",
        "null flag other than 0/1",
        "bitmap padding bits set",
        "boolean padding bits set",
        "row_count 0",
        "empty message",
        "a local symbol dictionary",
    ],
)
def test_wire_8_accepted(data: bytes) -> None:
    decode(data, Dictionary())


def test_wire_3_3_entries_stay_when_a_later_block_is_bad_and_overlap_is_legal() -> None:
    dictionary = Dictionary()
    with pytest.raises(WireFault, match="type code"):
        decode(frame(b"\0\2\1a\1b\1t\1\1\1v\0\0"), dictionary)
    assert dictionary.texts == ["a", "b"]
    decode(frame(b"\1\2\1x\1y", tables=0), dictionary)
    assert dictionary.texts == ["a", "x", "y"]


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
