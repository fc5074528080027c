"""split.plan: what a batch above the frame limit becomes, and what the planning costs.

Seen red with: rows halved out of order; symbols behind the rows; the limit compared with `<`; the
table limit left out; the planning of one row more than there is; a scan of all symbols per message.
"""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spoolq import limits
from spoolq.columns import ColumnType, RowBuffer, SymbolTable
from spoolq.errors import FrameTooLarge
from spoolq.qwp import encode, split
from spoolq.qwp.cut import Cut
from spoolq.qwp.decode import Dictionary, Message, decode
from spoolq.qwp.stored import as_stored
from spoolq.values import TimestampMicros
from tests.columns.bodies import Body
from tests.columns.model import comparable
from tests.columns.strategies import AT_KINDS, TYPES, Plan, Shape, at_of, plans, value_of

MESSAGE = Body("the switch's", rows=None, encode=encode)  # type: ignore[arg-type]


def messages(rows: RowBuffer, cuts: list[Cut], *, gorilla: bool = False) -> list[bytes]:
    """The parts' bytes, each into a room of exactly its size."""
    return [MESSAGE.message(rows, cut, gorilla=gorilla) for cut in cuts]


def cells(found: list[Message]) -> dict[str, list[dict[str, Any]]]:
    """Every row in order of arrival, by table; cells that are NULL, told or by sentinel, left out.

    A column of which one part has no value is not in that part, so nulls compare as absence.
    """
    out: dict[str, list[dict[str, Any]]] = {}
    for message in found:
        for table in message.tables:
            rows: list[dict[str, Any]] = [{} for _ in range(table.row_count)]
            for column in table.columns:
                null = comparable(as_stored(column.type, None))
                for row, value in zip(rows, column.values, strict=True):
                    if comparable(value) != null:
                        row[column.name] = comparable(value)
            out.setdefault(table.name, []).extend(rows)
    return out


def shape_of(cuts: list[Cut]) -> list[tuple[int, int, int]]:
    """(table, first row, end row) of each part; a part that only registers symbols as (-1, first, end)."""
    return [cut.tables[0] if cut.tables else (-1, cut.symbol_start, cut.symbol_end) for cut in cuts]


@st.composite
def filled(draw: st.DrawFn) -> RowBuffer:
    """Up to three tables of any types, some symbols published before."""
    rng = Random(draw(st.integers(0, 2**32)))
    symbols = SymbolTable()
    for index in range(draw(st.integers(0, 3))):
        symbols.intern(f"old {index}")
    symbols.published_count = len(symbols)
    rows = RowBuffer(symbols)
    for table in ["t", "u", "a table"][: draw(st.integers(1, 3))]:
        columns = draw(plans(max_columns=4)) or [Plan("v", ColumnType.LONG, "none", Shape())]
        kind = draw(st.sampled_from(AT_KINDS[:2]))
        for index in range(draw(st.integers(1, 40))):
            typed = [
                (plan.name, plan.type, None if rng.random() < 0.3 else value_of(plan.type, rng, plan.shape))
                for plan in columns
            ]
            rows.typed_row(table, typed, at_of(kind, rng, index))
    return rows


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(filled(), st.integers(400, 4_000), st.booleans())
def test_parts_decode_to_the_same_rows_in_order(rows: RowBuffer, limit: int, gorilla: bool) -> None:
    try:
        cuts = split.plan(rows, limit, gorilla=gorilla)
    except FrameTooLarge:
        assert largest_alone(rows, gorilla) > limit
        return
    parts = messages(rows, cuts, gorilla=gorilla)
    assert max(map(len, parts)) <= limit
    old = [rows.symbols.text_of(index) for index in range(rows.symbols.published_count)]
    dictionary, whole_dictionary = Dictionary(), Dictionary()
    dictionary.apply(0, old)
    whole_dictionary.apply(0, old)
    (whole,) = messages(rows, [whole_cut(rows)], gorilla=gorilla)
    assert cells([decode(part, dictionary) for part in parts]) == cells([decode(whole, whole_dictionary)])
    assert dictionary.texts == whole_dictionary.texts
    assert (len(whole) <= limit) == (len(cuts) == 1 and bool(cuts[0].tables))
    ahead = [not cut.tables for cut in cuts]
    assert ahead == sorted(ahead, reverse=True)  # symbols go first
    if len(cuts) > 1:
        assert all(cut.symbol_start == cut.symbol_end for cut in cuts if cut.tables)
    assert all(len(cut.tables) <= 1 for cut in cuts) or len(cuts) == 1


def largest_alone(rows: RowBuffer, gorilla: bool) -> int:
    """The size of the largest message that cannot be divided: one row, or one symbol with what peers reserve."""
    end = len(rows.symbols)
    alone = [
        encode.frame_bytes(rows, Cut(((table, index, index + 1),), end, end), gorilla=gorilla)
        for table in range(rows.table_count)
        for index in range(rows.table_rows(table))
    ]
    new = range(rows.symbols.published_count, end)
    return max(alone + [rows.symbols.entries_nbytes(index, index + 1) + 28 for index in new])


def whole_cut(rows: RowBuffer) -> Cut:
    """Everything in one message, whatever its size."""
    everything = tuple((index, 0, rows.table_rows(index)) for index in range(rows.table_count))
    return Cut(everything, rows.symbols.published_count, len(rows.symbols))


def simple(counts: list[int], *, text: str = "x" * 50) -> RowBuffer:
    """Tables of equal rows without symbols."""
    rows = RowBuffer(SymbolTable())
    for table, count in enumerate(counts):
        for _ in range(count):
            rows.row(f"t{table}", columns={"v": text}, at=TimestampMicros(1))
    return rows


def test_what_fits_is_one_message_to_the_byte() -> None:
    rows = simple([5, 5])
    exact = encode.frame_bytes(rows)
    assert split.plan(rows, exact) == [whole_cut(rows)]
    assert shape_of(split.plan(rows, exact - 1)) == [(0, 0, 5), (1, 0, 5)]


def test_a_table_that_does_not_fit_is_halved_down_to_one_row() -> None:
    rows = simple([8])
    one = encode.frame_bytes(rows, Cut(((0, 0, 1),), 0, 0))
    assert shape_of(split.plan(rows, one)) == [(0, index, index + 1) for index in range(8)]
    two = encode.frame_bytes(rows, Cut(((0, 0, 2),), 0, 0))
    assert shape_of(split.plan(rows, two)) == [(0, index, index + 2) for index in range(0, 8, 2)]


def test_a_row_that_was_taken_under_a_larger_limit_has_a_message_of_its_own_behind_the_other_tables() -> None:
    rows = simple([4, 4, 4])
    small = encode.frame_bytes(rows, Cut(((2, 0, 4),), 0, 0))
    rows.row("t1", columns={"v": "y" * 2_000}, at=TimestampMicros(1))
    rows.row("t1", columns={"v": "x"}, at=TimestampMicros(1))
    large = encode.frame_bytes(rows, Cut(((1, 4, 5),), 0, 0))
    assert large > small
    with pytest.raises(FrameTooLarge):
        split.plan(rows, small, alone_nbytes_max=large - 1)
    cuts = split.plan(rows, small, alone_nbytes_max=large)
    assert shape_of(cuts)[:2] == [(0, 0, 4), (2, 0, 4)]
    assert [cut.tables[0][0] for cut in cuts[2:]] == [1] * len(cuts[2:])
    ends = [(first, end) for ((_, first, end),) in (cut.tables for cut in cuts[2:])]
    assert ends[0][0] == 0
    assert ends[-1][1] == 6
    assert all(one[1] == two[0] for one, two in pairwise(ends))
    assert [cut.tables for cut in cuts if encode.frame_bytes(rows, cut) > small] == [((1, 4, 5),)]


def test_a_symbol_that_was_taken_under_a_larger_limit_is_registered_alone() -> None:
    rows = RowBuffer(SymbolTable())
    for text in ("a", "b" * 500, "c"):
        rows.row("t", symbols={"s": text}, at=TimestampMicros(1))
    with pytest.raises(FrameTooLarge):
        split.plan(rows, 300, alone_nbytes_max=400)
    assert shape_of(split.plan(rows, 300, alone_nbytes_max=1_000))[:3] == [(-1, 0, 1), (-1, 1, 2), (-1, 2, 3)]


def test_a_dense_dictionary_above_the_limit_is_not_repeated_for_each_row() -> None:
    rows = RowBuffer(SymbolTable())
    for index in range(100):
        rows.row("t", symbols={"s": f"symbol {index}"}, at=TimestampMicros(1))
    assert len(split.plan(rows, 500, alone_nbytes_max=20_000, dense=True)) == 1
    with pytest.raises(FrameTooLarge):
        split.plan(rows, 500, alone_nbytes_max=1_000, dense=True)


def test_one_row_that_is_too_large_plans_nothing() -> None:
    rows = simple([3])
    rows.row("t0", columns={"v": "y" * 500}, at=TimestampMicros(1))
    rows.row("t0", columns={"v": "z"}, at=TimestampMicros(1))
    before = messages(rows, [whole_cut(rows)])
    with pytest.raises(FrameTooLarge, match="row 3 of table 't0'") as caught:
        split.plan(rows, 300)
    assert (caught.value.table, caught.value.limit) == ("t0", 300)
    assert caught.value.size == encode.frame_bytes(rows, Cut(((0, 3, 4),), 0, 0))
    assert messages(rows, [whole_cut(rows)]) == before
    assert len(rows) == 5


def test_one_symbol_that_is_too_large_plans_nothing() -> None:
    rows = RowBuffer(SymbolTable())
    for text in ("a", "b" * 400, "c"):
        rows.row("t", symbols={"s": text}, at=TimestampMicros(1))
    with pytest.raises(FrameTooLarge, match="VARCHAR") as caught:
        split.plan(rows, 300)
    assert caught.value.limit == 300
    assert caught.value.size > 300


def test_symbols_above_the_limit_go_ahead_in_messages_of_their_own() -> None:
    rows = RowBuffer(SymbolTable())
    for index in range(100):
        rows.row("t", symbols={"s": f"symbol {index:04}"}, at=TimestampMicros(1))
    rows.symbols.published_count = 10
    cuts = split.plan(rows, 400)
    ahead = [cut for cut in cuts if not cut.tables]
    assert ahead[0].symbol_start == 10
    assert all(a.symbol_end == b.symbol_start for a, b in pairwise(ahead))
    assert ahead[-1].symbol_end == 100
    assert all(cut.symbol_start == cut.symbol_end == 100 for cut in cuts[len(ahead) :])
    # As large as the catch-up of a later connection may make them: 28 bytes beside the entries.
    assert len(ahead) == -(-90 // ((400 - 28) // 12))


def test_dense_parts_each_carry_the_whole_dictionary() -> None:
    rows = RowBuffer(SymbolTable())
    rows.row("t", symbols={"s": "old"}, at=TimestampMicros(0))
    rows.symbols.published_count = 1
    for number in range(40):
        rows.row("t", symbols={"s": f"name-{number}"}, columns={"x": number}, at=TimestampMicros(number))
    cuts = split.plan(rows, 600, dense=True)
    assert len(cuts) > 1
    assert {(cut.symbol_start, cut.symbol_end) for cut in cuts} == {(0, 41)}
    parts = messages(rows, cuts)
    assert max(map(len, parts)) <= 600
    found = [decode(message, Dictionary()) for message in parts]  # each alone, on a connection of its own
    assert [row["s"][1] for row in cells(found)["t"]] == ["old", *(f"name-{number}" for number in range(40))]


def test_only_a_dictionary_is_planned_too() -> None:
    rows = RowBuffer(SymbolTable())
    for index in range(50):
        rows.symbols.intern(f"symbol {index}")
    assert split.plan(rows, 10_000) == [Cut((), 0, 50)]
    cuts = split.plan(rows, 100)
    assert len(cuts) > 1
    assert all(not cut.tables for cut in cuts)
    assert split.plan(RowBuffer(SymbolTable()), 100) == [Cut((), 0, 0)]


@pytest.fixture(scope="module")
def many_tables() -> RowBuffer:
    """One table more than a message can count."""
    rows = RowBuffer(SymbolTable())
    for index in range(limits.TABLES_PER_MESSAGE_MAX + 1):
        rows.row(f"t{index}", at=TimestampMicros(index))
    return rows


def test_65_535_tables_are_one_message_and_65_536_are_not(many_tables: RowBuffer) -> None:
    cuts = split.plan(many_tables, limits.PAYLOAD_BYTES_MAX)
    assert shape_of(cuts) == [(index, 0, 1) for index in range(limits.TABLES_PER_MESSAGE_MAX + 1)]
    many_tables.drop_rows(0, 1)
    (cut,) = split.plan(many_tables, limits.PAYLOAD_BYTES_MAX)
    (message,) = messages(many_tables, [cut])
    assert message[6:8] == b"\xff\xff"
    assert len(decode(message, Dictionary()).tables) == 65_535


def test_a_million_rows_of_a_table_are_one_block_and_one_more_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ROWS_PER_TABLE_MAX", 8)  # the bound is compared as it stands, a million rows are slow
    assert len(split.plan(simple([8]), 10_000)) == 1
    assert shape_of(split.plan(simple([9]), 10_000)) == [(0, 0, 4), (0, 4, 9)]


def test_fits_whole_is_never_wrong_when_it_says_yes() -> None:
    rows = simple([5, 5])
    exact = encode.frame_bytes(rows)
    assert not split.fits_whole(rows, exact - 1)
    assert split.fits_whole(rows, rows.nbytes + limits.HEADER_BYTES)
    assert exact <= rows.nbytes + limits.HEADER_BYTES


class Work:
    """Rows that the encoder was asked to size: what planning costs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows = self.calls = 0
        real = encode.frame_bytes

        def counted(rows: RowBuffer, cut: Cut | None = None, *, gorilla: bool = False) -> int:
            assert cut is not None
            self.calls += 1
            self.rows += sum(end - first for _, first, end in cut.tables)
            return real(rows, cut, gorilla=gorilla)

        monkeypatch.setattr(encode, "frame_bytes", counted)


@pytest.mark.parametrize("parts", [2, 8, 64])
def test_planning_looks_at_each_row_once_a_halving(monkeypatch: pytest.MonkeyPatch, parts: int) -> None:
    count = 4_096
    rows = simple([count], text="x")
    limit = encode.frame_bytes(rows, Cut(((0, 0, count // parts),), 0, 0))
    work = Work(monkeypatch)
    cuts = split.plan(rows, limit)
    assert len(cuts) == parts
    # Once as a whole batch, then once for each level of halving: n * (2 + log2 parts).
    assert work.rows == count * (1 + parts.bit_length())
    assert work.calls == 2 * parts


def test_planning_100_000_symbols_looks_each_one_up_once_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = RowBuffer(SymbolTable())
    for index in range(100_000):
        rows.symbols.intern(f"symbol {index:06}")
    rows.row("t", symbols={"s": "symbol 000000"}, at=TimestampMicros(1))
    calls = []
    for name in ("entries", "entries_nbytes", "entries_end", "text_of"):
        real = getattr(rows.symbols, name)
        counted = lambda *args, name=name, real=real: (calls.append(name), real(*args))[1]  # noqa: E731
        monkeypatch.setattr(rows.symbols, name, counted, raising=False)
    cuts = split.plan(rows, 2_000)
    parts = len(cuts) - 1
    assert parts == -(-100_000 // ((2_000 - 28) // 14))
    assert len(calls) <= 2 * len(cuts) + 10
    # Every message's section is a slice of its own entries: nothing is copied twice.
    assert sum(cut.symbol_end - cut.symbol_start for cut in cuts) == 100_000


@pytest.mark.parametrize("column_type", TYPES, ids=lambda kind: kind.name)
def test_every_type_can_be_cut_between_any_two_rows(column_type: ColumnType) -> None:
    rng, rows = Random(7), RowBuffer(SymbolTable())
    for index in range(9):
        value = None if index in (0, 3, 4) else value_of(column_type, rng)
        rows.typed_row("t", [("v", column_type, value)], TimestampMicros(index))
    dictionary = Dictionary()
    (whole,) = messages(rows, [whole_cut(rows)])
    expected = cells([decode(whole, dictionary)])
    end = len(rows.symbols)
    for middle in range(1, 9):
        cuts = [Cut(((0, 0, middle),), end, end), Cut(((0, middle, 9),), end, end)]
        for gorilla in (False, True):
            assert cells([decode(part, dictionary) for part in messages(rows, cuts, gorilla=gorilla)]) == expected
