"""The worked examples of wire.md 4, 6 and 7, from rows to bytes and back.

7 (c) is in test_catchup.py, 7 (d) in test_responses.py.

Seen red with: the flags byte, the payload length, the order of the columns and each layout changed.
"""

from __future__ import annotations

import struct
from typing import Any
from uuid import UUID

import pytest

from spoolq.columns import ColumnType, RowBuffer, SymbolTable
from spoolq.qwp import encode, gorilla
from spoolq.qwp.decode import Dictionary, decode, decode_all
from spoolq.qwp.stored import as_stored
from spoolq.values import ServerTimestamp, TimestampMicros
from tests.columns.bodies import BODIES, Body
from tests.columns.model import comparable

T = 1_700_000_000_000_000
SEVEN_B = (
    "51575031 01 0C 0100 76000000 0002 03455448 03425443 067472616465730504 0373796D09 046E6F74650F 0371747905"
    "000A 010200010001 0102 00000000 02000000 02000000 04000000 06000000 6869C3A96F6B"
    "0106 0700000000000000 FFFFFFFFFFFFFFFF 0900000000000000"
    "0001 00401E18240A0600 40822D18240A0600 2AEC32"
)


def message(rows: RowBuffer, *, with_gorilla: bool = False) -> bytes:
    room = bytearray(encode.frame_bytes(rows, gorilla=with_gorilla))
    encode.write(rows, room, gorilla=with_gorilla)
    return bytes(room)


def smallest() -> RowBuffer:
    rows = RowBuffer(SymbolTable())
    rows.row("t", columns={"v": 1}, at=TimestampMicros(T))
    return rows


def test_wire_7_a_smallest_useful_message() -> None:
    assert message(smallest()) == bytes.fromhex(
        "51575031 01 08 0100 1D000000 0000 01740102 017605 000A 000100000000000000 0000401E18240A0600"
    )


def test_wire_7_a2_the_same_under_the_gorilla_flag() -> None:
    assert message(smallest(), with_gorilla=True) == bytes.fromhex(
        "51575031 01 0C 0100 1E000000 0000 01740102 017605 000A 000100000000000000 000000401E18240A0600"
    )


def test_wire_7_a3_server_clock() -> None:
    rows = RowBuffer(SymbolTable())
    rows.row("t", columns={"v": 1}, at=ServerTimestamp)
    body = "01740101 017605 000100000000000000"
    assert message(rows) == bytes.fromhex("51575031 01 08 0100 12000000 0000" + body)


def test_wire_7_b_five_rows_with_nulls_symbols_and_gorilla() -> None:
    rows = RowBuffer(SymbolTable())
    lines = [
        ("ETH", "hi", 7, T),
        (None, None, None, T + 1_000_000),
        ("BTC", "", None, T + 2_000_000),
        ("ETH", "é", -1, T + 3_000_005),
        ("BTC", "ok", 9, T + 3_999_905),
    ]
    for sym, note, qty, at in lines:
        rows.row("trades", symbols={"sym": sym}, columns={"note": note, "qty": qty}, at=TimestampMicros(at))
    # As wire.md 7 (b), but qty: ours stores null numbers as sentinels (ours.md 1), the example by bitmap.
    by_bitmap = SEVEN_B
    null = "0000000000000080"
    ours = by_bitmap.replace("76000000", "85000000").replace(
        "0106 0700000000000000 FFFFFFFFFFFFFFFF 0900000000000000",
        f"00 0700000000000000 {null} {null} FFFFFFFFFFFFFFFF 0900000000000000",
    )
    assert message(rows, with_gorilla=True) == bytes.fromhex(ours)


def test_wire_4_5_gorilla_worked_example_both_ways() -> None:
    encoded = gorilla.encode([0, 10, 25])
    assert encoded[16:] == bytes.fromhex("1500")
    assert gorilla.decode(memoryview(encoded), 0, 3) == ([0, 10, 25], len(encoded))


EXAMPLES_BACK = {
    "a": (
        "51575031 01 08 0100 1D000000 0000 01740102 017605 000A 000100000000000000 0000401E18240A0600",
        {"t": [{"v": 1, "": T}]},
    ),
    "a2": (
        "51575031 01 0C 0100 1E000000 0000 01740102 017605 000A 000100000000000000 000000401E18240A0600",
        {"t": [{"v": 1, "": T}]},
    ),
    "a3": ("51575031 01 00 0100 10000000 01740101 017605 000100000000000000", {"t": [{"v": 1}]}),
    "b": (
        SEVEN_B,
        {
            "trades": [
                {"sym": "ETH", "note": "hi", "qty": 7, "": T},
                {"sym": None, "note": None, "qty": None, "": T + 1_000_000},
                {"sym": "BTC", "note": "", "qty": None, "": T + 2_000_000},
                {"sym": "ETH", "note": "é", "qty": -1, "": T + 3_000_005},
                {"sym": "BTC", "note": "ok", "qty": 9, "": T + 3_999_905},
            ]
        },
    ),
    "c": ("51575031 01 08 0000 0A000000 0002 03455448 03425443", {}),
    "c deferred": ("51575031 01 09 0000 0A000000 0002 03455448 03425443", {}),
    "6.3 empty": ("51575031 01 00 0000 00000000", {}),
    "6.3 empty with a section": ("51575031 01 08 0000 02000000 0000", {}),
}


@pytest.mark.parametrize(("text", "rows"), EXAMPLES_BACK.values(), ids=list(EXAMPLES_BACK))
def test_wire_7_the_examples_are_read(text: str, rows: dict[str, Any]) -> None:
    data = bytes.fromhex(text)
    dictionary = Dictionary()
    assert decode_all(data, dictionary) == rows
    if data[5] & 8 and rows.keys() != {"t"} and len(data) > 14:
        assert dictionary.texts == ["ETH", "BTC"]


COLUMNS: dict[str, tuple[ColumnType, list[Any], str]] = {
    "4.1 rows 0, 2, 9 of 10 null": (
        ColumnType.DATE,
        [None, 1, None, *[1] * 6, None],
        "01 0502" + "0100000000000000" * 7,
    ),
    "4.2 UUID": (ColumnType.UUID, [UUID(int=1 << 64 | 2).bytes[::-1]], "00 0200000000000000 0100000000000000"),
    "4.2 IPv4 192.168.0.1": (ColumnType.IPV4, [0xC0A80001], "00 0100A8C0"),
    "4.2 FLOAT null": (ColumnType.FLOAT, [1.0, None], "00 0000803F 0000C07F"),
    "4.2 DOUBLE null": (ColumnType.DOUBLE, [1.0, None], "00 000000000000F03F 000000000000F87F"),
    "4.2 BOOLEAN null": (ColumnType.BOOLEAN, [True, None, True], "00 05"),
    "4.6 an empty and a null text": (
        ColumnType.VARCHAR,
        [b"", None, b"a"],
        "01 02 00000000 00000000 01000000 61",
    ),
    "4.8 u33d8": (ColumnType.GEOHASH, [(0x1A18D88, 25)], "00 19 888DA101"),
    "4.8 all ones of a whole byte": (ColumnType.GEOHASH, [(255, 8)], "01 00 08 FF"),
    "4.8 whole bytes, as the official client": (ColumnType.GEOHASH, [(254, 8)], "01 00 08 FE"),
    "4.9 a matrix": (
        ColumnType.DOUBLE_ARRAY,
        [((2, 2), struct.pack("<4d", 1, 2, 3, 4))],
        "00 02 02000000 02000000" + struct.pack("<4d", 1, 2, 3, 4).hex(),
    ),
    "4.9 empty": (ColumnType.DOUBLE_ARRAY, [((0,), b"")], "00 01 00000000"),
    "4.9 empty ones of two dimensions": (
        ColumnType.DOUBLE_ARRAY,
        [((2, 0), b""), ((0, 5), b"")],
        "00 02 02000000 00000000 02 00000000 05000000",
    ),
    "4.10 -12.345": (ColumnType.DECIMAL128, [(-12345, 3)], "00 03 C7CF" + "FF" * 14),
    "4.10 the largest scale": (
        ColumnType.DECIMAL64,
        [(15, 1), (125, 2)],
        "00 02 9600000000000000 7D00000000000000",
    ),
}


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.name)
@pytest.mark.parametrize(("column_type", "values", "text"), COLUMNS.values(), ids=list(COLUMNS))
def test_wire_4_the_worked_columns(body: Body, column_type: ColumnType, values: list[Any], text: str) -> None:
    rows = body.buffer()
    rows.typed_row("t", [("v", column_type, values[0])], TimestampMicros(0))
    for value in values[1:]:
        rows.typed_row("t", [("v", column_type, value)], TimestampMicros(0))
    data = body.message(rows)
    designated = b"\0" + bytes(8 * len(values))
    head = b"\1t" + bytes([len(values), 2])
    schema = [b"\1v" + bytes([column_type]), b"\0\x0a"]
    parts = [bytes.fromhex(text), designated]
    if values[0] is None:  # the column appears after the designated timestamp
        schema.reverse()
        parts.reverse()
    assert data[12:] == b"\0\0" + head + b"".join(schema + parts)
    (table,) = decode(data, Dictionary()).tables
    found = next(column for column in table.columns if column.name)
    assert [comparable(value) for value in found.values] == [comparable(as_stored(column_type, v)) for v in values]
