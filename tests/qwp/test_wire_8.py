"""wire.md 8, row by row: `ROWS` is its table in its order, each row with the bytes that prove it.

A row that a decoder cannot prove, because it is about frames of the WebSocket or about the tables that
a server already has, names the test that does (`ELSEWHERE`); that test must exist.

Seen red with: each check of decode.py, decode_columns.py and reader.py taken out, one by one (the one
for a known table's column names is the server's: tests/server/test_malformed.py).
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from spoolq.qwp.decode import Dictionary, WireFault, decode

Case = tuple[str, bytes, int, str]


def frame(payload: bytes, *, flags: int = 8, tables: int = 1, length: int | None = None) -> bytes:
    size = len(payload) if length is None else length
    return struct.pack("<4sBBHI", b"QWP1", 1, flags, tables, size) + payload


def block(columns: bytes, *, name: bytes = b"\1t", rows: int = 1, count: int = 1) -> bytes:
    return b"\0\0" + name + bytes([rows, count]) + columns


LONG_V = b"\1v\5" + b"\0" + bytes(8)
ROWS: dict[str, list[Case]] = {
    "1 to 11 bytes": [
        ("1 to 11 bytes", b"QWP1\1\0\0\0\0\0\0", 5, "header too short"),
        ("one byte", b"Q", 5, "header too short"),
    ],
    "0 bytes": [
        ("0 bytes", b"", 5, "header too short"),
    ],
    "version byte not the negotiated one": [
        ("version byte not the negotiated one", b"QWP1\2\0\0\0\0\0\0\0", 5, "does not match"),
    ],
    "wrong magic (with a right version byte; otherwise the row above)": [
        ("wrong magic", b"QWP2\1\0\0\0\0\0\0\0", 5, "magic"),
        ("version is looked at before the magic", b"XXXX\2\0\0\0\0\0\0\0", 5, "does not match"),
    ],
    "unknown flag bits, flag 10": [
        ("unknown flag bits", frame(b"", flags=0x40, tables=0), 5, "flag bits"),
        ("flag 10", frame(b"", flags=0x10, tables=0), 5, "flag bits"),
    ],
    "flag 02": [
        ("flag 02", frame(b"", flags=0x02, tables=0), 5, "flag bits"),
    ],
    "payload_length > 16 MiB": [
        ("payload_length > 16 MiB", frame(b"", length=16_777_217), 5, "maximum size"),
    ],
    "payload_length beyond the frame": [
        ("payload_length beyond the frame", frame(b"\0\0", tables=0, length=3), 5, "beyond the frame"),
    ],
    "frame longer than 12 + payload_length; bytes left after the last block": [
        ("frame longer than 12 + payload_length", frame(b"\0\0\0", tables=0, length=2), 5, "after the payload"),
        ("bytes left after the last block", frame(b"\0\0\0", tables=0), 5, "after the last"),
    ],
    "fewer blocks than table_count": [
        ("fewer blocks than table_count", frame(block(LONG_V), tables=2), 5, "incomplete varint"),
    ],
    "varint truncated, or over 10 bytes / bits above 63": [
        ("varint truncated", frame(b"\x80", tables=0), 5, "incomplete varint"),
        ("varint over 10 bytes", frame(b"\x80" * 10 + b"\1", tables=0), 5, "overflow"),
        ("varint bits above 63", frame(b"\xff" * 9 + b"\x02", tables=0), 5, "overflow"),
        ("varint of bit 63", frame(b"\xff" * 9 + b"\1\0", tables=0), 5, "bit 63"),
    ],
    "flag 08 and empty payload": [
        ("flag 08 and empty payload", frame(b"", tables=0), 5, "truncated delta"),
    ],
    "delta_start > dictionary size": [
        ("delta_start > dictionary size", frame(b"\1\0", tables=0), 0x0D, "gap"),
    ],
    "delta_start, delta_count or entry length above int32; start + count > 2 000 000; count > bytes left; "
    "entry truncated; entry not UTF-8": [
        ("delta_start above int32", frame(b"\xff\xff\xff\xff\x08\0", tables=0), 5, "out of range"),
        ("delta_count above int32", frame(b"\0\xff\xff\xff\xff\x08", tables=0), 5, "out of range"),
        ("start + count > 2 000 000", frame(b"\0\x81\x89\x7a", tables=0), 5, "above 2000000"),
        ("count > bytes left", frame(b"\0\3\0\0", tables=0), 5, "beyond the payload"),
        ("entry truncated", frame(b"\0\1\5ab", tables=0), 5, "needed"),
        ("entry not UTF-8", frame(b"\0\1\1\xff", tables=0), 5, "UTF-8"),
        ("entry length above int32", frame(b"\0\1\xff\xff\xff\xff\x08ab", tables=0), 5, "needed"),
        (
            "start in the dictionary, start + count above the limit",
            frame(b"\0\x81\x89\x7a" + bytes(9), tables=0),
            5,
            "above 2000000",
        ),
    ],
    "symbol id >= dictionary size": [
        ("symbol id >= dictionary size", frame(block(b"\1s\x09\0\0")), 5, "out of range"),
        ("a local dictionary above the payload", frame(b"\1t\1\1\1s\x09\0\x7f", flags=0), 5, "of 127 entries"),
        ("of a local dictionary", frame(b"\1t\1\1\1s\x09\0\1\1a\1", flags=0), 5, "out of range"),
    ],
    "table name empty, or > 127 bytes": [
        ("table name empty", frame(block(LONG_V, name=b"\0")), 5, "empty table name"),
        ("table name > 127 bytes", frame(block(LONG_V, name=b"\x80\1" + b"t" * 128)), 5, "name of 128"),
    ],
    "table name with an illegal character": [
        ("table name with an illegal character", frame(block(LONG_V, name=b"\2a?")), 6, "failed to create"),
    ],
    "table or column name not UTF-8": [
        ("table name not UTF-8", frame(block(LONG_V, name=b"\1\xff")), 5, "UTF-8"),
        ("column name not UTF-8", frame(block(b"\1\xff\5\0" + bytes(8))), 5, "UTF-8"),
    ],
    "row_count > limit; column_count > 2048": [
        ("row_count > limit", frame(b"\0\0\1t\xc1\x84\x3d\1" + LONG_V), 5, "row count"),
        ("column_count > 2048", frame(b"\0\0\1t\1\x81\x10" + LONG_V), 5, "column count"),
    ],
    "row_count or column_count with bit 63 set": [
        ("row_count with bit 63 set", frame(b"\0\0\1t" + b"\xff" * 9 + b"\1\1" + LONG_V), 5, "bit 63"),
        ("column_count with bit 63 set", frame(b"\0\0\1t\1" + b"\xff" * 9 + b"\1" + LONG_V), 5, "bit 63"),
    ],
    "column_count 0 with rows": [
        ("column_count 0 with rows", frame(block(b"", count=0)), 5, "without a column"),
    ],
    "column name > 127 bytes": [
        ("column name > 127 bytes", frame(block(b"\x80\1" + b"v" * 128 + b"\5\0" + bytes(8))), 5, "name of 128"),
    ],
    "illegal column name": [
        ("illegal column name", frame(block(b"\3a-b\5\0" + bytes(8))), 6, "failed to create"),
    ],
    "empty column name, type not 0A/10": [
        ("empty column name, type not 0A/10", frame(block(b"\0\5\0" + bytes(8))), 5, "without a name"),
    ],
    "two empty-named columns; two names equal ignoring case": [
        ("two empty-named columns", frame(block(b"\0\x0a\0\x0a" + (b"\0" + bytes(8)) * 2, count=2)), 5, "two columns"),
        (
            "two names equal ignoring case",
            frame(block(b"\1v\5\1V\5" + (b"\0" + bytes(8)) * 2, count=2)),
            5,
            "two columns",
        ),
    ],
    "type code 00, 08, or above 18": [
        ("type code 00", frame(block(b"\1v\0\0")), 5, "type code"),
        ("type code 08", frame(block(b"\1v\x08\0")), 5, "type code"),
        ("type code above 18", frame(block(b"\1v\x19\0")), 5, "type code"),
    ],
    "column data missing, bitmap truncated, values truncated": [
        ("column data missing", frame(block(b"\1v\5")), 5, "unexpected end"),
        ("bitmap truncated", frame(block(b"\1v\5\1", rows=9)), 5, "needed"),
        ("values truncated", frame(block(b"\1v\5\0" + bytes(7))), 5, "needed"),
        ("bools truncated", frame(block(b"\1v\1\0\0", rows=9)), 5, "needed"),
        ("offsets truncated", frame(block(b"\1v\x0f\0" + bytes(7))), 5, "needed"),
        ("symbol ids truncated", frame(block(b"\1v\x09\0")), 5, "incomplete varint"),
        ("array shape truncated", frame(block(b"\1v\x11\0\2" + bytes(4))), 5, "needed"),
        ("decimal scale missing", frame(block(b"\1v\x13\0")), 5, "unexpected end"),
    ],
    "timestamp encoding byte not 0/1": [
        ("timestamp encoding byte not 0/1", frame(block(b"\1v\x0a\0\2" + bytes(8)), flags=0x0C), 5, "encoding"),
    ],
    "Gorilla stream too short": [
        ("Gorilla stream too short", frame(block(b"\1v\x0a\0\1" + bytes(16), rows=3), flags=0x0C), 5, "available bits"),
        (
            "first two values truncated",
            frame(block(b"\1v\x0a\0\1" + bytes(15), rows=3), flags=0x0C),
            5,
            "available bits",
        ),
    ],
    "offset[0] != 0, last offset negative or too large, decreasing offsets": [
        ("offset[0] != 0", frame(block(b"\1v\x0f\0" + struct.pack("<2I", 1, 1) + b"x")), 5, "first offset"),
        ("last offset too large", frame(block(b"\1v\x0f\0" + struct.pack("<2I", 0, 9))), 5, "last offset"),
        ("last offset negative", frame(block(b"\1v\x0f\0" + struct.pack("<2i", 0, -1))), 5, "last offset"),
        (
            "decreasing offsets",
            frame(block(b"\1v\x0f\0" + struct.pack("<4I", 0, 2, 1, 2) + b"xy", rows=3)),
            5,
            "decrease",
        ),
    ],
    "VARCHAR not UTF-8": [
        ("VARCHAR not UTF-8", frame(block(b"\1v\x0f\0" + struct.pack("<2I", 0, 1) + b"\xff")), 5, "UTF-8"),
        (
            "VARCHAR cut inside a character",
            frame(block(b"\1v\x0f\0" + struct.pack("<3I", 0, 1, 2) + "é".encode(), rows=2)),
            5,
            "UTF-8",
        ),
    ],
    "GEOHASH precision 0 or > 60 (even all null)": [
        ("GEOHASH precision 0", frame(block(b"\1v\x0e\1\1\0")), 5, "precision 0"),
        ("GEOHASH precision > 60", frame(block(b"\1v\x0e\0\x3d" + bytes(8))), 5, "precision 61"),
        ("GEOHASH precision > 60, all null", frame(block(b"\1v\x0e\1\1\x3d")), 5, "precision 61"),
    ],
    "array nDims 0 or > 32, negative dimension, product overflow, elements truncated": [
        ("array nDims 0", frame(block(b"\1v\x11\0\0")), 5, "0 dimensions"),
        ("array nDims > 32", frame(block(b"\1v\x11\0\x21" + bytes(132))), 5, "33 dimensions"),
        ("array negative dimension", frame(block(b"\1v\x11\0\1" + struct.pack("<i", -1))), 5, "shape"),
        ("array product overflow", frame(block(b"\1v\x11\0\3" + struct.pack("<3i", 1 << 20, 1 << 20, 0))), 5, "shape"),
        ("array elements truncated", frame(block(b"\1v\x11\0\1" + struct.pack("<i", 2) + bytes(8))), 5, "needed"),
    ],
    "differing nDims within a column, or against the table": [
        (
            "differing nDims within a column",
            frame(block(b"\1v\x11\0\1" + bytes(4) + b"\2" + bytes(8), rows=2)),
            3,
            "differing dimensions",
        ),
    ],
    "decimal scale above 76": [
        ("decimal scale above 76", frame(block(b"\1v\x13\0\x4d" + bytes(8))), 5, "scale 77"),
    ],
}

ACCEPTED: dict[str, list[tuple[str, bytes]]] = {
    "overlong varint": [
        ("in the dictionary section", frame(b"\x80\0\0", tables=0)),
        ("of ten bytes", frame(b"\x80" * 9 + b"\0\0", tables=0)),
        ("as row count", frame(b"\0\0\1t\x81\0\1" + LONG_V)),
    ],
    "row_count 0": [
        ("with a column", frame(block(b"\1v\5\0", rows=0))),
        ("without", frame(block(b"", rows=0, count=0))),
    ],
    "null flag other than 0/1": [("7", frame(block(b"\1v\5\7\0" + bytes(8)))), ("255", frame(block(b"\1v\5\xff\1")))],
    "bitmap padding bits, boolean padding bits set": [
        ("bitmap", frame(block(b"\1v\5\1\xfe" + bytes(8)))),
        ("boolean", frame(block(b"\1v\1\0\xff"))),
    ],
    "not in the table, but legal": [
        ("empty message", frame(b"", flags=0, tables=0)),
        ("empty message with an empty section", frame(b"\0\0", tables=0)),
        ("a local symbol dictionary", frame(b"\1t\1\1\1s\x09\0\2\1a\1b\1", flags=0)),
        ("two blocks of one table", frame(block(LONG_V) + block(LONG_V)[2:], tables=2)),
        ("a dictionary that starts inside the known one", frame(b"\0\1\1z", tables=0)),
    ],
}
ELSEWHERE = {
    "frame above the receive buffer": "server/test_frames.py::test_pending_acks_then_close",
    "illegal column name, existing table": "server/test_malformed.py::test_faults_against_a_known_table",
    "nDims against the table": "server/test_malformed.py::test_faults_against_a_known_table",
    "LONG_ARRAY": "server/test_malformed.py::test_the_status_of_each_fault",
    "type not coercible to the existing column": "server/test_malformed.py::test_faults_against_a_known_table",
    "table limit exceeded": "server/test_malformed.py::test_too_many_tables",
    "any binary frame after an error (latched)": "server/test_malformed.py::test_the_status_of_each_fault",
    "text / fragmented / continuation frame": "server/test_frames.py::test_pending_acks_then_close",
    "unmasked or otherwise invalid WebSocket frame": "server/test_frames.py::"
    "test_a_broken_frame_ends_the_connection_without_acks",
    "handshake faults": "server/test_upgrade.py::test_a_bad_handshake_is_refused_and_the_connection_ends",
}


@pytest.mark.parametrize(
    ("data", "status", "text"),
    [case[1:] for cases in ROWS.values() for case in cases],
    ids=[f"{row} | {case[0]}" for row, cases in ROWS.items() for case in cases],
)
def test_wire_8(data: bytes, status: int, text: str) -> None:
    """The status and the text of the fault; the dictionary is as before."""
    dictionary = Dictionary()
    with pytest.raises(WireFault, match=text) as caught:
        decode(data, dictionary)
    assert caught.value.status == status
    assert dictionary.texts == []


@pytest.mark.parametrize(
    "data",
    [data for cases in ACCEPTED.values() for _, data in cases],
    ids=[f"{row} | {name}" for row, cases in ACCEPTED.items() for name, _ in cases],
)
def test_wire_8_accepted(data: bytes) -> None:
    decode(data, Dictionary())


@pytest.mark.parametrize(("row", "place"), ELSEWHERE.items(), ids=list(ELSEWHERE))
def test_wire_8_the_rows_of_the_server_have_their_test(row: str, place: str) -> None:
    path, name = place.split("::")
    text = (Path(__file__).parents[1] / path).read_text()
    assert re.search(rf"^def {name}\(", text, re.MULTILINE), f"{row}: {place} is not there"


# Several faults in one message (Adopt): header, then dictionary section, then block by block, each first
# parsed whole (05) and then checked against names (06).
BAD_NAME = block(LONG_V, name=b"\2a?")[2:]
GOOD = block(LONG_V)[2:]
SEVERAL: list[Case] = [
    ("header before section", frame(b"\1\0", flags=0x48, tables=0), 5, "flag bits"),
    ("version before magic", b"XXXX\2\0\0\0\0\0\0\0", 5, "does not match"),
    ("flags before length", struct.pack("<4sBBHI", b"QWP1", 1, 0x40, 0, 1 << 30), 5, "flag bits"),
    ("section before block", frame(b"\1\0" + BAD_NAME), 0x0D, "gap"),
    ("a name of a block before a fault of the next", frame(b"\0\0" + BAD_NAME + b"\1t\1\1\1v\0", tables=2), 6, "a\\?"),
    ("a fault of a block before the name of the next", frame(b"\0\0\1t\1\1\1v\0" + BAD_NAME, tables=2), 5, "type code"),
    ("a block is parsed whole before its name", frame(b"\0\0\2a?\1\1\1v\5\0\0"), 5, "needed"),
    ("a missing block after a bad name", frame(b"\0\0" + BAD_NAME, tables=2), 6, "a\\?"),
    ("bytes left are looked at last", frame(b"\0\0" + BAD_NAME + b"\0"), 6, "a\\?"),
    ("a good block does not hide it", frame(b"\0\0" + GOOD + GOOD[:-1], tables=2), 5, "needed"),
]


@pytest.mark.parametrize(("data", "status", "text"), [c[1:] for c in SEVERAL], ids=[c[0] for c in SEVERAL])
def test_wire_8_the_first_of_several_faults(data: bytes, status: int, text: str) -> None:
    test_wire_8(data, status, text)
