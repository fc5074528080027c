"""Hostile bytes: the decoder answers with a message or a `WireFault`, in bounded work, and nothing else.

Three sources: random bytes behind a good header, valid messages of any types with bytes changed,
inserted or cut out, and small messages that claim large things.  Work is bounded by what the message
itself has bytes for; memory is measured.

Seen red with: the bound of the dictionary count against the payload left out; UnicodeDecodeError let
through; the row count bound left out; `struct.error` of a short array let through.
"""

from __future__ import annotations

import struct
import tracemalloc
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spoolq import limits
from spoolq.columns import ColumnType, RowBuffer, SymbolTable
from spoolq.qwp import encode
from spoolq.qwp.decode import Dictionary, Message, WireFault, decode
from tests.columns.strategies import TYPES, at_of, value_of


def frame(payload: bytes, *, flags: int = 8, tables: int = 1) -> bytes:
    """A header that fits the payload."""
    return struct.pack("<4sBBHI", b"QWP1", 1, flags, tables, len(payload)) + payload


def attempt(message: bytes, symbols: list[str]) -> Message | None:
    """Decodes; None for a fault.  The dictionary never shrinks and a section that is bad changes nothing."""
    dictionary = Dictionary()
    dictionary.apply(0, symbols)
    found, fault = None, None
    try:
        found = decode(message, dictionary)
    except WireFault as error:
        fault = error
    if found is None:
        assert fault is not None
        assert fault.status in (3, 5, 6, 9, 13)
        assert 0 < len(fault.text.encode(errors="replace")) <= limits.ERROR_TEXT_BYTES_MAX
        assert len(dictionary) >= len(symbols)
        return None
    for table in found.tables:
        assert all(len(column.values) == table.row_count for column in table.columns)
    return found


def valid(seed: int, *, gorilla: bool) -> bytes:
    """One message of a few rows of a few types."""
    rng, rows = Random(seed), RowBuffer(SymbolTable())
    kinds = rng.sample(TYPES, rng.randint(1, 5))
    for index in range(rng.randint(1, 12)):
        cells = [(kind.name, kind, None if rng.random() < 0.3 else value_of(kind, rng)) for kind in kinds]
        rows.typed_row("t", cells, at_of("micros", rng, index))
    room = bytearray(encode.frame_bytes(rows, gorilla=gorilla))
    encode.write(rows, room, gorilla=gorilla)
    return bytes(room)


@settings(max_examples=1_500, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32), st.booleans(), st.integers(0, 2**32), st.booleans())
def test_a_valid_message_with_bytes_changed_inserted_or_cut(
    seed: int, gorilla: bool, damage: int, mend_length: bool
) -> None:
    rng = Random(damage)
    mutated = bytearray(valid(seed, gorilla=gorilla))
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(mutated) + 1)
        if (what := rng.randrange(4)) == 0:
            mutated[at:at] = rng.randbytes(rng.randint(1, 4))
        elif what == 1:
            del mutated[at : at + rng.randint(1, 9)]
        else:
            mutated[at : at + 1] = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80", rng.randbytes(1)))
        mutated[:12] = mutated[:12].ljust(12, b"\0")
    if mend_length:
        mutated[8:12] = struct.pack("<I", len(mutated) - 12)
    attempt(bytes(mutated), ["a", "b"])


@settings(max_examples=1_500, deadline=None)
@given(st.binary(max_size=200), st.sampled_from((0, 1, 4, 8, 9, 12, 13)), st.integers(0, 3))
def test_random_bytes_behind_a_good_header(payload: bytes, flags: int, tables: int) -> None:
    attempt(frame(payload, flags=flags, tables=tables), ["a", "b"])


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=80))
def test_random_bytes(message: bytes) -> None:
    attempt(message, [])


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(TYPES), st.integers(0, 40), st.binary(max_size=120), st.sampled_from((0, 4, 8, 12)))
def test_random_data_of_each_column_type(column_type: ColumnType, rows: int, data: bytes, flags: int) -> None:
    section = b"\0\0" if flags & 8 else b""
    attempt(frame(section + b"\1t" + bytes([rows, 1]) + b"\1v" + bytes([column_type]) + data, flags=flags), ["a"])


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


MILLION = varint(limits.ROWS_PER_TABLE_MAX)
CLAIMS = {
    "a million rows": b"\0\0\1t" + MILLION + b"\1\1v\5\0",
    "a million rows by bitmap": b"\0\0\1t" + MILLION + b"\1\1v\5\1\0",
    "a million texts": b"\0\0\1t" + MILLION + b"\1\1v\x0f\0",
    "a million symbols": b"\0\0\1t" + MILLION + b"\1\1v\x09\0",
    "a million arrays": b"\0\0\1t" + MILLION + b"\1\1v\x11\0",
    "a million bools": b"\0\0\1t" + MILLION + b"\1\1v\1\0",
    "a million geohashes": b"\0\0\1t" + MILLION + b"\1\1v\x0e\0\x3c",
    "a million decimals": b"\0\0\1t" + MILLION + b"\1\1v\x15\0\0",
    "two million dictionary entries": b"\0" + varint(2_000_000),
    "an entry of 2 GiB": b"\0\1" + varint((1 << 31) - 1),
    "an array of 2**31 - 1 elements": b"\0\0\1t\1\1\1v\x11\0\1" + struct.pack("<i", (1 << 31) - 1),
    "32 dimensions of 1 and a large one": b"\0\0\1t\1\1\1v\x11\0\x20" + struct.pack("<32i", *[1] * 31, 1 << 30),
    "a text of 2 GiB": b"\0\0\1t\1\1\1v\x0f\0" + struct.pack("<2I", 0, (1 << 31) - 1),
    "2,048 columns": b"\0\0\1t\1" + varint(2_048),
    "a table name of 2 GiB": b"\0\0" + varint(1 << 31),
}


@pytest.mark.parametrize("payload", CLAIMS.values(), ids=list(CLAIMS))
@pytest.mark.parametrize("flags", [8, 12])
def test_a_claim_without_the_bytes_costs_no_memory(payload: bytes, flags: int) -> None:
    message = frame(payload, flags=flags)
    attempt(message, [])  # imports and caches
    tracemalloc.start()
    try:
        assert attempt(message, []) is None
        assert tracemalloc.get_traced_memory()[1] < 64 << 10
    finally:
        tracemalloc.stop()


def test_65_535_tables_claimed_without_one() -> None:
    assert attempt(frame(b"\0\0", tables=65_535), []) is None


# What a small message can legally ask for: rows of a column that take a bit, or nothing, each.
LEGAL = {
    "nulls only": b"\1t" + varint(80_000) + b"\1\1v\5\1" + b"\xff" * 10_000,
    "bools": b"\1t" + varint(80_000) + b"\1\1v\1\0" + b"\xff" * 10_000,
    "no column bytes, no rows": (b"\1t\0\0") * 2_000,
}


@pytest.mark.parametrize(("name", "payload"), LEGAL.items(), ids=list(LEGAL))
def test_memory_is_in_step_with_the_message(name: str, payload: bytes) -> None:
    message = frame(b"\0\0" + payload, tables=2_000 if name.startswith("no") else 1)
    tracemalloc.start()
    try:
        assert attempt(message, []) is not None
        assert tracemalloc.get_traced_memory()[1] < 400 * len(message)
    finally:
        tracemalloc.stop()


def test_a_dictionary_section_that_is_bad_in_its_last_byte_changes_nothing() -> None:
    for bad in (b"\0\3\1x\1y\1\xff", b"\0\3\1x\1y\2z", b"\0\3\1x\1y"):
        dictionary = Dictionary()
        dictionary.apply(0, ["a", "b"])
        with pytest.raises(WireFault):
            decode(frame(bad, tables=0), dictionary)
        assert dictionary.texts == ["a", "b"]
