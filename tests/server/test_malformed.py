"""Every row of wire.md 8 and 5.3 from a raw socket: the status, the sequence, and that nothing stays."""

from __future__ import annotations

import struct

import pytest

from spoolq.server import QwpServer

from .raw_client import (
    DELTA,
    EMPTY,
    GORILLA,
    RawClient,
    block,
    error_of,
    longs,
    message,
    ok,
    one_row,
    string,
    varint,
)

STAMP = ("", 0x0A, longs(1))
DIFFERING = b"\0" + b"\1" + struct.pack("<i", 0) + b"\2" + struct.pack("<2i", 0, 0)
BIG = b"\xff" * 8 + b"\x7f"  # 63 bits
OVER = b"\x80" * 9 + b"\x02"
BIT_63 = b"\x80" * 9 + b"\x01"


def header(
    payload: bytes = b"", *, version: int = 1, flags: int = 0, tables: int = 0, length: int | None = None
) -> bytes:
    return b"QWP1" + struct.pack("<BBHI", version, flags, tables, len(payload) if length is None else length) + payload


def column(code: int, data: bytes, rows: int = 1, name: str | bytes = "v", **options: int) -> bytes:
    """A message with one table of one column."""
    return message(block("t", rows, (name, code, data)), **options)


def dictionary(section: bytes) -> bytes:
    return header(section, flags=DELTA)


def varchar(*offsets: int, data: bytes = b"", code: int = 0x0F) -> bytes:
    return column(code, b"\0" + struct.pack(f"<{len(offsets)}I", *offsets) + data, rows=len(offsets) - 1)


def raw_block(name: bytes, rows: bytes, columns: bytes, rest: bytes = b"") -> bytes:
    return message(name + rows + columns + rest, tables=1)


def array(*shape: int, elements: int = 0, code: int = 0x11) -> bytes:
    data = b"\0" + bytes((len(shape),)) + struct.pack(f"<{len(shape)}i", *shape) + bytes(8 * elements)
    return column(code, data)


# name -> (message, status, a word of the text or "")
ROWS: dict[str, tuple[bytes, int, str]] = {
    **{f"{n} bytes": (one_row()[:n], 0x05, "message header too short") for n in range(12)},
    "version 2": (header(version=2), 0x05, "message version 2 does not match negotiated version 1"),
    "version before magic": (b"XXXX\2" + bytes(7), 0x05, "version"),
    "magic": (b"QWP2" + header()[4:], 0x05, "invalid magic bytes"),
    **{f"flag {bit:02x}": (header(flags=bit), 0x05, "flag") for bit in (0x02, 0x10, 0x20, 0x40, 0x80)},
    "payload above 16 MiB": (header(length=16_777_217), 0x05, "payload exceeds maximum size"),
    "payload beyond the frame": (
        header(b"\0\0", flags=DELTA, length=3),
        0x05,
        "payload length 3 is beyond the frame's 2 bytes",
    ),
    "bytes behind the payload": (header() + b"\0", 0x05, "1 bytes after the payload"),
    "bytes behind the last block": (
        message(block("t", 1, STAMP), b"\0", tables=1),
        0x05,
        "1 bytes after the last table block",
    ),
    "fewer blocks than said": (message(block("t", 1, STAMP), tables=2), 0x05, "incomplete varint"),
    "varint cut": (raw_block(string("t"), b"\x80", b""), 0x05, "incomplete varint"),
    "varint too long": (raw_block(string("t"), OVER, b"\1"), 0x05, "varint overflow"),
    "eleven bytes of varint": (raw_block(string("t"), b"\x80" * 10 + b"\1", b"\1"), 0x05, "varint overflow"),
    "dictionary missing": (header(flags=DELTA), 0x05, "truncated delta symbol dictionary"),
    "dictionary gap": (
        message(dictionary=(1, ["a"])),
        0x0D,
        "symbol dictionary gap: delta starts at 1, 0 entries are known",
    ),
    "delta_start above int32": (
        dictionary(varint(1 << 31) + b"\0"),
        0x05,
        "symbol dictionary start or count out of range",
    ),
    "delta_count above int32": (
        dictionary(b"\0" + varint(1 << 31)),
        0x05,
        "symbol dictionary start or count out of range",
    ),
    "entry length above int32": (
        dictionary(b"\0\1" + varint(1 << 31)),
        0x05,
        "symbol dictionary entry: 2147483648 bytes needed, 0 left",
    ),
    "too many entries": (dictionary(b"\0" + varint(2_000_001)), 0x05, "symbol dictionary above 2000000 entries"),
    "count above the bytes left": (dictionary(b"\0\3\0\0"), 0x05, "symbol dictionary count is beyond the payload"),
    "entry cut": (dictionary(b"\0\1\5ab"), 0x05, "symbol dictionary entry: 5 bytes needed, 2 left"),
    "entry not UTF-8": (dictionary(b"\0\1\1\xff"), 0x05, "symbol dictionary entry is not UTF-8"),
    "symbol id": (column(0x09, b"\0\1", dictionary=(0, ["a"])), 0x05, "symbol index out of range"),
    "local symbol id": (column(0x09, b"\0\1\1a\1", flags=0), 0x05, "symbol index out of range"),
    "local dictionary above the bytes left": (
        column(0x09, b"\0\x09\1a\0", flags=0),
        0x05,
        "a symbol dictionary of 9 entries",
    ),
    "empty table name": (message(block("", 1, STAMP)), 0x05, "empty table name"),
    "long table name": (message(block("x" * 128, 1, STAMP)), 0x05, "table name of 128 bytes"),
    "table name not UTF-8": (message(block(b"\xff", 1, STAMP)), 0x05, "table name is not UTF-8"),
    **{
        f"table name {name!r}": (message(block(name, 1, STAMP)), 0x06, "t")
        for name in ("t?", ".t", "t.", "t..t", "\x7ft")
    },
    "rows above the limit": (raw_block(string("t"), varint(1_000_001), b"\1"), 0x05, "row count 1000001 above 1000000"),
    "columns above the limit": (raw_block(string("t"), b"\1", varint(2_049)), 0x05, "column count 2049 above 2048"),
    "row count bit 63": (raw_block(string("t"), BIT_63, b"\1"), 0x05, "varint has bit 63 set"),
    "column count bit 63": (raw_block(string("t"), b"\1", BIT_63), 0x05, "varint has bit 63 set"),
    "row count of 63 bits": (raw_block(string("t"), BIG, b"\1"), 0x05, "row count 9223372036854775807 above 1000000"),
    "rows without columns": (raw_block(string("t"), b"\1", b"\0"), 0x05, "rows without a column"),
    "long column name": (column(0x05, longs(1), name="x" * 128), 0x05, "column name of 128 bytes"),
    "column name not UTF-8": (column(0x05, longs(1), name=b"\xff"), 0x05, "column name is not UTF-8"),
    **{f"column name {name!r}": (column(0x05, longs(1), name=name), 0x06, "t") for name in ("a.b", "a-b", "a?", "\r")},
    "empty name of a LONG": (column(0x05, longs(1), name=""), 0x05, "a column of type LONG without a name"),
    "two empty names": (message(block("t", 1, STAMP, STAMP)), 0x05, "two columns are named '' (case is ignored)"),
    "designated by both names": (
        message(block("t", 1, STAMP, ("timestamp", 0x0A, longs(1)))),
        0x05,
        "two columns are the designated timestamp",
    ),
    "names equal ignoring case": (
        message(block("t", 1, ("Ä", 5, longs(1)), ("ä", 5, longs(1)))),
        0x05,
        "two columns are named 'ä' (case is ignored)",
    ),
    **{
        f"type {code:02x}": (column(code, longs(1)), 0x05, f"invalid column type code: 0x{code:x}")
        for code in (0x00, 0x08, 0x19, 0x85, 0xFF)
    },
    "column data missing": (
        raw_block(string("t"), b"\1", b"\1" + string("v") + b"\5"),
        0x05,
        "unexpected end of the payload",
    ),
    "bitmap cut": (column(0x05, b"\1", rows=9), 0x05, "bits: 2 bytes needed, 0 left"),
    "values cut": (column(0x05, longs(1)[:-1]), 0x05, "column values: 8 bytes needed, 7 left"),
    "booleans cut": (column(0x01, b"\0", rows=9), 0x05, "bits: 2 bytes needed, 0 left"),
    "timestamp encoding": (column(0x0A, b"\0\2" + bytes(8), flags=DELTA | GORILLA), 0x05, "unknown timestamp encoding"),
    "Gorilla too short": (
        column(0x0A, b"\0\1" + bytes(16), rows=3, flags=DELTA | GORILLA),
        0x05,
        "attempt to read beyond available bits",
    ),
    "Gorilla without its first values": (
        column(0x0A, b"\0\1" + bytes(7), flags=DELTA | GORILLA),
        0x05,
        "attempt to read beyond available bits",
    ),
    "offset[0]": (varchar(1, 1), 0x05, "the first offset is 1, not 0"),
    "last offset negative": (varchar(0, 0x8000_0000), 0x05, "the last offset 2147483648 is beyond the payload"),
    "last offset too large": (varchar(0, 2, data=b"a"), 0x05, "the last offset 2 is beyond the payload"),
    "offsets decrease": (varchar(0, 2, 1, 2, data=b"ab"), 0x05, "offsets decrease"),
    "offsets decrease below the end": (varchar(0, 3, 1, data=b"a"), 0x05, "offsets decrease"),
    "offsets cut": (column(0x0F, b"\0\0\0\0"), 0x05, "offsets: 8 bytes needed, 3 left"),
    "binary offsets decrease": (varchar(0, 2, 1, 2, data=b"ab", code=0x17), 0x05, "offsets decrease"),
    "VARCHAR not UTF-8": (varchar(0, 1, data=b"\xff"), 0x05, "a VARCHAR value is not UTF-8"),
    "VARCHAR cut inside a character": (varchar(0, 1, 2, data="é".encode()), 0x05, "a VARCHAR value is not UTF-8"),
    "geohash precision 0": (column(0x0E, b"\0\0"), 0x05, "invalid GeoHash precision"),
    "geohash precision 61": (column(0x0E, b"\0\x3d" + bytes(8)), 0x05, "invalid GeoHash precision"),
    "geohash precision 0, all null": (column(0x0E, b"\1\1\0"), 0x05, "invalid GeoHash precision"),
    "array of 0 dimensions": (array(), 0x05, "an array of 0 dimensions"),
    "array of 33 dimensions": (array(*[1] * 33, elements=1), 0x05, "an array of 33 dimensions"),
    "negative dimension": (array(-1), 0x05, "an array of shape (-1,)"),
    "product overflow before a zero": (array(1 << 20, 1 << 20, 0), 0x05, "an array of shape (1048576, 1048576, 0)"),
    "elements cut": (array(2, elements=1), 0x05, "array elements: 16 bytes needed, 8 left"),
    "differing dimensions in a column": (
        column(0x11, DIFFERING, rows=2),
        0x03,
        "",
    ),
    "differing dimensions before a cut column": (
        message(block("t", 2, ("v", 0x11, DIFFERING), ("w", 0x05, b"\0"))),
        0x05,
        "column values: 16 bytes needed, 0 left",
    ),
    "differing dimensions in a table with a bad name": (message(block("t?", 2, ("v", 0x11, DIFFERING))), 0x06, ""),
    "long array": (array(1, elements=1, code=0x12), 0x09, "long arrays are not supported, only double arrays"),
    "decimal scale": (column(0x13, b"\0\x4d" + bytes(8)), 0x05, "decimal scale 77 above 76"),
    # several faults in one message: block by block, each parsed whole before it is checked
    "gap before a bad block": (
        message(b"\xff", dictionary=(9, []), tables=1),
        0x0D,
        "symbol dictionary gap: delta starts at 9, 0 entries are known",
    ),
    "a bad name before a bad block": (message(block("t?", 1, STAMP), b"\0", tables=2), 0x06, ""),
    "bad data before its own bad name": (
        message(block("t?", 1, ("v", 0x99, b""))),
        0x05,
        "invalid column type code: 0x99",
    ),
}


@pytest.mark.parametrize(("payload", "status", "text"), ROWS.values(), ids=ROWS)
def test_the_status_of_each_fault(payload: bytes, status: int, text: str) -> None:
    with QwpServer() as server, RawClient(server.port) as client:
        client.upgrade()
        client.message(EMPTY)
        assert client.answer() == ok(0)
        client.message(payload)
        found = error_of(client.answer())
        assert found[:2] == (status, 1)
        assert text in found[2]
        assert len(found[2]) > 5
        assert all(server.store.count(table) == 0 for table in server.store.tables())
        client.message(one_row("later"))
        assert client.ping() == []  # latched
        assert "later" not in server.store.tables()


TAKEN: dict[str, bytes] = {
    "overlong varint": message(string("t") + b"\x81\x00" + b"\1" + string("v") + b"\5" + longs(1), tables=1),
    "row count 0": message(block("t", 0, ("v", 5, b"\0"))),
    "no rows, no columns": message(block("t", 0)),
    "null flag 2": column(0x05, b"\2\1"),
    "bitmap padding": column(0x05, b"\1\xff"),
    "boolean padding": column(0x01, b"\0\xff"),
    "a dictionary that overlaps": message(dictionary=(0, [""])),
    "a local dictionary": column(0x09, b"\0\2\1a\1b\1", flags=0),
    "two blocks of a table": message(block("t", 1, ("v", 5, longs(1))), block("t", 1, ("v", 5, longs(2)))),
    "2048 columns": message(block("t", 1, *((f"c{n}", 1, b"\0\1") for n in range(2_047)), STAMP)),
    "an all-null array nobody knows": column(0x11, b"\1\1"),
    "a name with a dash, a blank and a dot": message(block(" t-a.b", 1, STAMP)),
    "a name with U+0010": column(0x05, longs(1), name="\x10"),
    "127 bytes of name": message(block("é" * 63 + "x", 1, STAMP)),
}


@pytest.mark.parametrize("payload", TAKEN.values(), ids=TAKEN)
def test_what_is_no_fault(payload: bytes) -> None:
    with QwpServer() as server, RawClient(server.port) as client:
        client.upgrade()
        client.message(payload)
        answer = client.answer()
        assert answer[:9] == ok(0)[:9], answer


SECOND: dict[str, tuple[bytes, int]] = {
    "illegal column name, known table": (column(0x05, longs(1), name="a.b"), 0x09),
    "LONG into VARCHAR": (column(0x05, longs(1), name="text"), 0x03),
    "DOUBLE into LONG": (column(0x07, b"\0" + struct.pack("<d", 1.5)), 0x03),
    "VARCHAR into LONG": (column(0x0F, b"\0" + struct.pack("<2I", 0, 1) + b"1"), 0x03),
    "UUID into LONG": (column(0x0C, b"\0" + bytes(16)), 0x03),
    "LONG as the designated timestamp": (column(0x05, longs(1), name="timestamp"), 0x03),
    "array of other dimensions": (
        column(0x11, b"\0\2" + struct.pack("<2i", 0, 0), name="array"),
        0x03,
    ),
    "geohash of another precision": (column(0x0E, b"\0\5\1", name="geo"), 0x03),
    "micros that do not fit nanos": (
        message(block("nanos", 1, ("", 0x0A, longs(1 << 62)))),
        0x09,
    ),
    "the dictionary is unchanged by a bad section": (dictionary(b"\0\2\1x\1\xff"), 0x05),
}


@pytest.mark.parametrize(("payload", "status"), SECOND.values(), ids=SECOND)
def test_faults_against_a_known_table(payload: bytes, status: int) -> None:
    first = message(
        block(
            "t",
            1,
            ("v", 5, longs(1)),
            ("text", 0x0F, b"\0" + struct.pack("<2I", 0, 0)),
            ("array", 0x11, b"\0\1" + struct.pack("<i", 0)),
            ("geo", 0x0E, b"\0\6\1"),
            ("s", 0x09, b"\0\0"),
            STAMP,
        ),
        block("nanos", 1, ("", 0x10, longs(1))),
        dictionary=(0, ["a"]),
    )
    with QwpServer(latched=False) as server, RawClient(server.port) as client:
        client.upgrade()
        client.message(first)
        assert client.answer() == ok(0, ("t", 1), ("nanos", 1))
        client.message(payload)
        assert error_of(client.answer())[:2] == (status, 1)
        assert (server.store.count("t"), server.store.count("nanos")) == (1, 1)
        client.message(message(block("t", 1, ("s", 0x09, b"\0\0"), STAMP), dictionary=(1, [])))
        assert client.answer()[0] == 0
        assert server.store.rows("t")[1]["s"] == "a"


def test_too_many_tables() -> None:
    with QwpServer(tables_max=2) as server, RawClient(server.port) as client:
        client.upgrade()
        for table in ("a", "b", "a"):
            client.message(one_row(table))
            assert client.answer()[0] == 0
        client.message(one_row("c"))
        assert error_of(client.answer()) == (0x09, 3, "too many distinct tables, limit: 2")
        assert server.store.tables() == ["a", "b"]


def test_too_many_columns_over_messages() -> None:
    with QwpServer(columns_max=2) as server, RawClient(server.port) as client:
        client.upgrade()
        client.message(one_row())
        assert client.answer()[0] == 0
        client.message(column(0x05, longs(1), name="w"))
        assert error_of(client.answer())[:2] == (0x09, 1)


@pytest.mark.parametrize("stamped", [True, False])
def test_the_designated_timestamp_is_one_of_a_tables_columns_also_where_the_server_adds_it(stamped: bool) -> None:
    """wire.md 3.4; the columns that fit stay (wire.md 5.2), and so does room for the timestamp."""
    columns = [(name, 0x05, longs(1)) for name in "abc"]
    stamp = [("", 0x0A, longs(1_000_000))] if stamped else []
    with QwpServer(columns_max=3, latched=False) as server, RawClient(server.port) as client:
        client.upgrade()
        client.message(message(block("t", 1, *columns, *stamp)))
        assert error_of(client.answer()) == (0x09, 0, "too many columns, limit: 3 [table=t]")
        client.message(message(block("t", 1, *columns[:2], *stamp)))
        assert client.answer()[0] == 0
        assert [*server.store.rows("t")[0]] == ["a", "b", "timestamp"]


def test_a_lower_row_limit() -> None:
    with QwpServer(rows_per_block_max=1) as server, RawClient(server.port) as client:
        client.upgrade()
        client.message(column(0x05, longs(1)))
        assert client.answer()[0] == 0
        client.message(column(0x05, longs(1, 2), rows=2))
        assert error_of(client.answer())[:2] == (0x05, 1)


def test_long_arrays_by_option() -> None:
    with QwpServer(accept_long_arrays=True) as server, RawClient(server.port) as client:
        client.upgrade()
        client.message(array(2, 1, elements=2, code=0x12))
        assert client.answer() == ok(0, ("t", 1))
        assert server.store.rows("t")[0]["v"] == [[0], [0]]
