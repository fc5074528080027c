"""A message taken out of its dictionary says the same rows, and needs nothing before it (ours.md 22)."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spoolq.columns import RowBuffer, SymbolTable
from spoolq.qwp import encode, layout
from spoolq.qwp.decode import Dictionary, decode
from spoolq.qwp.reader import WireFault
from spoolq.qwp.standalone import stand_alone, take_apart
from spoolq.values import TimestampMicros
from tests.columns.bodies import BODIES
from tests.columns.model import Model, decoded
from tests.columns.strategies import Plan
from tests.qwp.test_roundtrip import batches, fill


def symbols_of(*texts: str) -> SymbolTable:
    symbols = SymbolTable()
    for text in texts:
        symbols.intern(text)
    symbols.published_count = len(symbols)
    return symbols


def message_of(symbols: SymbolTable, *values: str | None) -> bytes:
    """A message with a row a value; what is new in it is published."""
    rows = RowBuffer(symbols)
    for number, value in enumerate(values):
        rows.row("t", symbols={"s": value}, columns={"n": number}, at=TimestampMicros(1))
    room = bytearray(encode.frame_bytes(rows))
    encode.write(rows, room)
    symbols.published_count = len(symbols)
    return bytes(room)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    frames=st.lists(st.tuples(batches(), st.booleans()), min_size=1, max_size=3),
    seed=st.integers(0, 2**32),
    late=st.booleans(),
)
def test_dlq_03_the_same_rows_from_id_0_with_just_the_symbols_in_use(
    frames: list[tuple[list[tuple[str, list[Plan], int, str]], bool]], seed: int, late: bool
) -> None:
    """Every type and null pattern; ``late``: looked at when the dictionary has grown beyond the message."""
    rng, symbols, made = Random(seed), SymbolTable(), []
    for batch, gorilla in frames:
        rows, model = BODIES[0].buffer(symbols), Model()
        for table, columns, count, kind in batch:
            fill(rows, model, table, columns, count, kind, rng)
        message = BODIES[0].message(rows, gorilla=gorilla)
        symbols.published_count = len(symbols)
        made.append((message, model.expected(), None if late else stand_alone(message, symbols)))
    for message, expected, early in made:
        alone = early or stand_alone(message, symbols)
        found = decode(alone, Dictionary())
        assert decoded(found) == expected
        used = {
            value
            for table in found.tables
            for column in table.columns
            if column.type.name == "SYMBOL"
            for value in column.values
            if value is not None
        }
        assert (found.delta_start, found.flags) == (0, message[layout.FLAGS_OFFSET])
        assert sorted(found.symbols) == sorted(used)
        assert stand_alone(alone, SymbolTable()) == alone


def test_dlq_03_symbols_from_before_the_message_come_along_and_others_do_not() -> None:
    symbols = symbols_of("never", "old")
    message = message_of(symbols, "new", "old", None, "new")
    alone = decode(stand_alone(message, symbols), Dictionary())
    assert alone.symbols == ["new", "old"]
    assert alone.tables[0].columns[0].values == ["new", "old", None, "new"]


def test_its_own_section_counts_before_what_is_known_now() -> None:
    """A frame of another client may register again what stands there already."""
    symbols = symbols_of("a", "b")
    message = message_of(SymbolTable(), "x")
    assert take_apart(message, symbols).texts == ("x",)


def test_a_message_whose_symbols_are_not_known_raises() -> None:
    symbols = symbols_of("a", "b")
    message = message_of(symbols, "b", "c")
    with pytest.raises(WireFault, match="go on at id 2, and 0 are known"):
        take_apart(message)
    with pytest.raises(WireFault, match="go on at id 2, and 1 are known"):
        take_apart(message, symbols_of("a"))


def test_a_message_that_carries_its_symbols_in_its_columns_is_left_as_it_is() -> None:
    """Flag 08 clear: an older client's frame (wire.md 4.10)."""
    column = b"\x00" + b"\x02\x01a\x01b" + b"\x01\x00\x01"  # no nulls, two entries, three ids
    block = b"\x01t\x03\x01" + b"\x01s\x09" + column
    message = layout.HEADER.pack(layout.MAGIC, 1, 0, 1, len(block)) + block
    assert decode(message, Dictionary()).tables[0].columns[0].values == ["b", "a", "b"]
    assert take_apart(message, symbols_of("x")).texts == ()
    assert stand_alone(message, symbols_of("x")) == message


@given(st.data())
def test_damaged_bytes_raise_a_wire_fault_or_give_a_message_that_decodes(data: st.DataObject) -> None:
    symbols = symbols_of("a", "b")
    message = bytearray(message_of(symbols, "b", "c", None))
    if data.draw(st.booleans()):
        del message[data.draw(st.integers(0, len(message))) :]
    else:
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    try:
        alone = stand_alone(bytes(message), symbols)
    except WireFault:
        return
    take_apart(alone)  # names apart, which are the server's to refuse


def test_other_ids_and_a_commit_of_its_own() -> None:
    symbols = symbols_of("old")
    message = bytearray(message_of(symbols, "old", "new"))
    message[layout.FLAGS_OFFSET] |= layout.FLAG_DEFER_COMMIT
    parts = take_apart(bytes(message), symbols)
    there = Dictionary()
    there.apply(0, ["x", "new", "y"])
    found = decode(parts.together(3, [b"old"], [3, 1], commit=True), there)
    assert found.tables[0].columns[0].values == ["old", "new"]
    assert not found.is_deferred
    assert decode(parts.together(3, [b"old"], [3, 1]), there).is_deferred
