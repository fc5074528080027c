"""The worked examples of wire.md, from rows to bytes."""

from __future__ import annotations

from spoolq.columns import RowBuffer, SymbolTable
from spoolq.qwp import encode, gorilla
from spoolq.values import ServerTimestamp, TimestampMicros

T = 1_700_000_000_000_000


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
    by_bitmap = (
        "51575031 01 0C 0100 76000000 0002 03455448 03425443 067472616465730504 0373796D09 046E6F74650F 0371747905"
        "000A 010200010001 0102 00000000 02000000 02000000 04000000 06000000 6869C3A96F6B"
        "0106 0700000000000000 FFFFFFFFFFFFFFFF 0900000000000000"
        "0001 00401E18240A0600 40822D18240A0600 2AEC32"
    )
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
