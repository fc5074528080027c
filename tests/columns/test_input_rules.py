"""Every input rule of ours.md 7 and 8 on both bodies: what is refused, how it is said, and that nothing of it stays.

One test a phrase; the parameter's id is the phrase.  `refused` checks, for each: type of the error,
table, column and kind of value named, the buffer byte for byte as before (tables, columns, symbols,
nbytes), and that the rows before and a row after it come out of the decoder.

Seen red with: the check left out (each phrase), symbols not taken back, a new column kept after the
refusal, the table created before the check.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from spoolq import limits
from spoolq.columns import ColumnType, SymbolTable
from spoolq.errors import FrameTooLarge, InputError, InvalidNameError, SymbolDictionaryFull
from spoolq.qwp.decode import decode_all
from spoolq.values import Geohash, ServerTimestamp, TimestampMicros, TimestampNanos
from tests.columns.bodies import Body, state_of

AT = TimestampMicros(1_700_000_000_000_000)
LINE = np.array([1.0, 2.0])
FORBIDDEN = "?,'\"\\/:)(+*%~\r\n\0\x7f\ufeff" + "".join(map(chr, [*range(0x01, 0x0A), 0x0B, 0x0C, 0x0E, 0x0F]))
EARLIER = [
    ("t", {"s": "x"}, {"i": 1, "d": 1.5, "text": "é", "flag": True, "line": LINE, "when": TimestampMicros(5)}),
    ("t", {"s": "y"}, {"i": 2, "geo": Geohash(1, 5), "num": Decimal("1.25")}),
    ("u", {"s": "x"}, {"i": 3}),
]


def buffer_with_earlier_rows(body: Body, **options: Any) -> Any:
    """Three rows in two tables, one column of each kind that the rules speak of."""
    rows = body.buffer(SymbolTable(), **options)
    for table, symbols, columns in EARLIER:
        rows.row(table, symbols=symbols, columns=columns, at=AT)
    return rows


def refused(
    body: Body, call: Callable[[Any], object], error: type[BaseException], *words: str, rows: Any = None
) -> BaseException:
    """Makes the call, expects the error with all words in its text, and that no trace of the row is left."""
    rows = buffer_with_earlier_rows(body) if rows is None else rows
    before = state_of(body, rows)
    with pytest.raises(error) as caught:
        call(rows)
    for word in words:
        assert word.lower() in str(caught.value).lower(), (word, str(caught.value))
    assert state_of(body, rows) == before
    rows.row("t", symbols={"s": "z"}, columns={"i": 9}, at=AT)
    found = decode_all(body.message(rows))
    assert [row["i"] for row in found["t"]] == [1, 2, 9]
    assert [row["s"] for row in found["t"]] == ["x", "y", "z"]
    assert [row["i"] for row in found["u"]] == [3]
    return caught.value


def refused_value(body: Body, name: str, value: Any, *words: str) -> InputError:
    """A value of a column of table ``t``, with a new symbol and a new column that must go with it."""

    def call(rows: Any) -> None:
        rows.row("t", symbols={"s": "new", "s2": "new 2"}, columns={"first": 1, name: value, "last": 2}, at=AT)

    error = refused(body, call, InputError, "'t'", repr(name), *words)
    assert isinstance(error, InputError)
    assert (error.table, error.column) == ("t", name)
    return error


# -- ours.md 8: forbidden characters in names ----------------------------------------------------
@pytest.mark.parametrize("character", FORBIDDEN, ids=lambda c: f"U+{ord(c):04X}")
@pytest.mark.parametrize("place", ["first", "inside"])
def test_ours_8_forbidden_character_in_a_table_name(body: Body, character: str, place: str) -> None:
    name = character + "ab" if place == "first" else f"a{character}b"
    error = refused(body, lambda rows: rows.row(name, columns={"i": 1}, at=AT), InvalidNameError, "table", repr(name))
    assert error.table == name  # type: ignore[attr-defined]


@pytest.mark.parametrize("character", FORBIDDEN + ".-", ids=lambda c: f"U+{ord(c):04X}")
@pytest.mark.parametrize("keyword", ["symbols", "columns"])
def test_ours_8_forbidden_character_in_a_column_name(body: Body, character: str, keyword: str) -> None:
    name = f"a{character}b"
    values: dict[str, Any] = {"first": "1", name: "2"}
    error = refused(
        body, lambda rows: rows.row("t", **{keyword: values}, at=AT), InvalidNameError, "table 't': column", repr(name)
    )
    assert (error.table, error.column) == ("t", name)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", [".a", "a.", "a..b", "."])
def test_ours_8_dot_first_last_or_doubled_in_a_table_name(body: Body, name: str) -> None:
    refused(body, lambda rows: rows.row(name, columns={"i": 1}, at=AT), InvalidNameError, "dot", repr(name))


@pytest.mark.parametrize("name", ["a.b", "a-b", " a b", "\x10", "\x1f", "ü", "日本", "n" * 127, "é" * 63])
def test_wire_3_4_table_names_that_are_taken(body: Body, name: str) -> None:
    rows = body.buffer()
    rows.row(name, columns={"i": 1}, at=AT)
    assert [row["i"] for row in decode_all(body.message(rows))[name]] == [1]


@pytest.mark.parametrize("name", [" a b", "\x10", "\x1f", "ü", "日本", "n" * 127, "é" * 63])
def test_wire_3_4_column_names_that_are_taken(body: Body, name: str) -> None:
    rows = body.buffer()
    rows.row("t", columns={name: 1}, at=AT)
    assert [row[name] for row in decode_all(body.message(rows))["t"]] == [1]


@pytest.mark.parametrize("name", ["", 5, None, b"a", "\ud800"], ids=["empty", "int", "None", "bytes", "surrogate"])
def test_ours_8_a_name_that_is_none(body: Body, name: Any) -> None:
    refused(body, lambda rows: rows.row(name, columns={"i": 1}, at=AT), InvalidNameError, "table name")
    refused(body, lambda rows: rows.row("t", columns={name: 1}, at=AT), InvalidNameError, "table 't': ", "column name")
    refused(
        body, lambda rows: rows.row("t", symbols={name: "x"}, at=AT), InvalidNameError, "table 't': ", "column name"
    )


def test_ours_8_the_name_of_a_none_is_checked_too(body: Body) -> None:
    refused(body, lambda rows: rows.row("t", columns={"i": 1, "a?": None}, at=AT), InvalidNameError, "'a?'")
    refused(body, lambda rows: rows.row("t", symbols={"a?": None}, columns={"i": 1}, at=AT), InvalidNameError, "'a?'")


# -- name too long in bytes ---------------------------------------------------------------------
@pytest.mark.parametrize("name", ["n" * 128, "é" * 64, "🦀" * 32])
def test_ours_8_name_too_long_in_bytes(body: Body, name: str) -> None:
    refused(body, lambda rows: rows.row(name, columns={"i": 1}, at=AT), InvalidNameError, "table", "128 bytes", "127")
    refused(
        body, lambda rows: rows.row("t", columns={name: 1}, at=AT), InvalidNameError, "table 't'", "128 bytes", "127"
    )


def test_ours_8_a_symbol_above_the_frame_limit_names_its_column(body: Body) -> None:
    rows = body.buffer()
    rows.row_bytes_max = 1_000
    with pytest.raises(FrameTooLarge, match=r"table 't', column 's': the symbol 'xxx.*1000") as caught:
        rows.row("t", symbols={"s": "x" * 2_000}, at=AT)
    assert (caught.value.table, caught.value.column, caught.value.limit) == ("t", "s", 1_000)


def test_ours_8_the_limit_of_names_is_the_one_given(body: Body) -> None:
    rows = buffer_with_earlier_rows(body, max_name_bytes=16)
    refused(body, lambda r: r.row("n" * 17, columns={"i": 1}, at=AT), InvalidNameError, "17 bytes", "16", rows=rows)


# -- values -------------------------------------------------------------------------------------
@pytest.mark.parametrize("value", [1 << 63, -(1 << 63) - 1, 10**400, np.uint64(1 << 63)], ids=str)
@pytest.mark.parametrize("name", ["i", "fresh"])
def test_ours_8_int_outside_64_bits(body: Body, name: str, value: Any) -> None:
    refused_value(body, name, value, "int", "64 bits")


@pytest.mark.parametrize("value", [True, np.True_, "1"], ids=["bool", "numpy bool", "str"])
@pytest.mark.parametrize("name", ["i", "d", "num"])
def test_ours_8_bool_or_str_in_a_number_column(body: Body, name: str, value: Any) -> None:
    refused_value(body, name, value, "VARCHAR" if value == "1" else "BOOLEAN")


@pytest.mark.parametrize("value", [1.5, 2.0, np.float32(1.0), float("nan")], ids=["1.5", "2.0", "float32", "nan"])
def test_ours_8_float_in_an_integer_column(body: Body, value: Any) -> None:
    refused_value(body, "i", value, "DOUBLE", "LONG")


@pytest.mark.parametrize(
    "value", [[1.0], [[1.0, 2.0], [3.0, 4.0]], (1.0,), [], {"a": 1}, {1.0}], ids=lambda value: repr(value)
)
@pytest.mark.parametrize("name", ["line", "fresh"])
def test_ours_8_nested_lists(body: Body, name: str, value: Any) -> None:
    refused_value(body, name, value, type(value).__name__)


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (object(), "object"),
        (1j, "complex"),
        (np.array([1, 2]), "int64"),
        (np.array([1.0], dtype="float32"), "float32"),
        (np.array(1.0), "dimensions"),
        (np.zeros((0, 2), dtype="O"), "object"),
        (np.timedelta64(5, "s"), "timedelta64"),
        (np.datetime64("2013", "Y"), "'Y'"),
        (timedelta(1), "timedelta"),
        ("\ud800", "surrogate"),
        (Decimal("1e-77"), "scale 77"),
        (Decimal(1 << 255), "256 bits"),
        (Decimal("1e80"), "256 bits"),
        (ServerTimestamp, "ServerTimestamp"),
        (int, "type"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_ours_8_a_value_without_a_column_type(body: Body, value: Any, word: str) -> None:
    refused_value(body, "fresh", value, word)


@pytest.mark.parametrize("text", [5, b"x", True, 1.5, ["a"]], ids=lambda value: repr(value))
def test_ours_8_a_symbol_that_is_no_str(body: Body, text: Any) -> None:
    error = refused(
        body,
        lambda rows: rows.row("t", symbols={"s2": "new", "s": text}, columns={"i": 1}, at=AT),
        InputError,
        "'t'",
        "'s'",
        type(text).__name__,
    )
    assert (error.table, error.column) == ("t", "s")  # type: ignore[attr-defined]


def test_ours_8_a_symbol_that_is_no_unicode(body: Body) -> None:
    refused(body, lambda rows: rows.row("t", symbols={"s": "\udfff"}, at=AT), InputError, "'s'", "Unicode")


CHANGES: list[tuple[str, Any, tuple[str, str]]] = [
    ("i", b"x", ("LONG", "BINARY")),
    ("text", 1, ("VARCHAR", "LONG")),
    ("flag", 1, ("BOOLEAN", "LONG")),
    ("when", TimestampNanos(5), ("TIMESTAMP", "TIMESTAMP_NANOS")),
    ("d", Decimal(1), ("DOUBLE", "DECIMAL256")),
    ("num", 1, ("DECIMAL256", "LONG")),
]


@pytest.mark.parametrize(("name", "value", "types"), CHANGES, ids=[f"{c[0]}-{c[2][1]}" for c in CHANGES])
def test_ours_8_a_column_that_changes_its_type_in_a_batch(
    body: Body, name: str, value: Any, types: tuple[str, str]
) -> None:
    refused_value(body, name, value, *types)


def test_ours_8_a_symbol_and_a_column_of_one_name(body: Body) -> None:
    call = lambda rows: rows.row("t", symbols={"s2": "new"}, columns={"s": "x"}, at=AT)  # noqa: E731
    refused(body, call, InputError, "'t'", "'s'", "SYMBOL", "VARCHAR")
    call = lambda rows: rows.row("t", symbols={"text": "new"}, at=AT)  # noqa: E731
    refused(body, call, InputError, "'t'", "'text'", "SYMBOL", "VARCHAR")


# -- the designated timestamp ---------------------------------------------------------------------
NEGATIVE: list[Any] = [
    TimestampMicros(-1),
    TimestampNanos(-1),
    TimestampMicros(-(1 << 63)),
    datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    np.datetime64("1969-12-31", "us"),
]


@pytest.mark.parametrize("at", NEGATIVE, ids=lambda at: type(at).__name__)
def test_ours_8_negative_designated_timestamp(body: Body, at: Any) -> None:
    def call(rows: Any) -> None:
        rows.row("t", symbols={"s": "new"}, columns={"i": 1, "fresh": 2}, at=at)

    error = refused(body, call, InputError, "'t'", "before 1970", type(at).__name__)
    assert error.table == "t"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("at", "word"),
    [(None, "NoneType"), (5, "int"), (5.0, "float"), ("now", "str"), (np.datetime64("NaT"), "NaT")],
    ids=["None", "int", "float", "str", "NaT"],
)
def test_ours_8_no_at(body: Body, at: Any, word: str) -> None:
    call = lambda rows: rows.row("t", symbols={"s": "new"}, columns={"fresh": 1}, at=at)  # noqa: E731
    error = refused(body, call, InputError, "'t'", "'at'", word)
    assert error.table == "t"  # type: ignore[attr-defined]


def test_ours_8_at_left_out(body: Body) -> None:
    refused(body, lambda rows: rows.row("t", symbols={"s": "new"}, columns={"fresh": 1}), TypeError, "at")


def test_ours_8_wrong_keyword(body: Body) -> None:
    refused(body, lambda rows: rows.row("t", symbol={"s": "new"}, columns={"fresh": 1}, at=AT), TypeError, "symbol")
    refused(body, lambda rows: rows.row("t", {"s": "new"}, {"fresh": 1}, at=AT), TypeError)


@pytest.mark.parametrize("keyword", ["symbols", "columns"])
@pytest.mark.parametrize("value", [[("a", 1)], "ab", 5, {"a"}], ids=["list", "str", "int", "set"])
def test_ours_8_keyword_that_takes_a_dict(body: Body, keyword: str, value: Any) -> None:
    call = lambda rows: rows.row("t", **{keyword: value}, at=AT)  # noqa: E731
    error = refused(body, call, InputError, "'t'", keyword, type(value).__name__)
    assert error.table == "t"  # type: ignore[attr-defined]


def test_ours_8_micros_and_nanos_as_at_in_one_batch(body: Body) -> None:
    call = lambda rows: rows.row("t", symbols={"s": "new"}, columns={"fresh": 1}, at=TimestampNanos(5))  # noqa: E731
    refused(body, call, InputError, "'t'", "'at'", "TIMESTAMP_NANOS")


# -- a value above the frame limits ---------------------------------------------------------------
@pytest.mark.parametrize(
    ("symbols", "columns"),
    [
        ({}, {"text": "x" * 5_000}),
        ({}, {"fresh": b"x" * 5_000}),
        ({}, {"line": np.zeros(700)}),
        ({"s": "x" * 5_000}, {}),
        ({}, {f"c{index}": index for index in range(400)}),
    ],
    ids=["VARCHAR", "BINARY", "DOUBLE_ARRAY", "SYMBOL", "many columns"],
)
def test_ours_8_a_value_above_the_frame_limits(body: Body, symbols: Any, columns: Any) -> None:
    rows = buffer_with_earlier_rows(body)
    rows.row_bytes_max = 4_096
    call = lambda r: r.row("t", symbols=symbols, columns=columns, at=AT)  # noqa: E731
    error = refused(body, call, FrameTooLarge, "'t'", "4096", rows=rows)
    assert isinstance(error, FrameTooLarge)
    assert (error.table, error.limit) == ("t", 4_096)
    assert error.size > 4_096


def test_ours_8_a_row_below_the_frame_limits_is_taken_and_fits(body: Body) -> None:
    rows = body.buffer()
    rows.row_bytes_max = 4_096
    rows.row("t", columns={"text": "x" * 3_900}, at=AT)
    assert body.encode.frame_bytes(rows) <= 4_096


def test_ours_4_a_full_dictionary_names_column_and_advice(body: Body) -> None:
    rows = body.buffer(SymbolTable(max_entries=3))
    for text in ("x", "y", "x"):
        rows.row("t", symbols={"s": text}, columns={"i": 1}, at=AT)
    rows.row("u", symbols={"other": "w"}, columns={"i": 1}, at=AT)
    before = state_of(body, rows)
    with pytest.raises(SymbolDictionaryFull, match="VARCHAR") as caught:
        rows.row("u", symbols={"other": "v"}, columns={"fresh": 1}, at=AT)
    assert "'s'" in str(caught.value)  # the column with most values
    assert (caught.value.table, caught.value.column) == ("u", "other")
    assert state_of(body, rows) == before
    rows.row("u", symbols={"other": "x"}, columns={"i": 1}, at=AT)  # a known text still goes


# -- ours.md 7 --------------------------------------------------------------------------------------
@pytest.mark.parametrize("columns", [{}, None, {"i": None}, {"i": None, "fresh": None}])
def test_ours_7_a_row_without_any_value_and_without_a_timestamp(body: Body, columns: Any) -> None:
    call = lambda rows: rows.row("t", symbols={"s": None}, columns=columns, at=ServerTimestamp)  # noqa: E731
    error = refused(body, call, InputError, "'t'", "no value")
    assert error.table == "t"  # type: ignore[attr-defined]


@pytest.mark.parametrize("columns", [{}, None, {"i": None}])
def test_ours_7_a_row_of_none_with_a_timestamp_is_sent(body: Body, columns: Any) -> None:
    rows = body.buffer()
    rows.row("t", columns={"i": 1}, at=AT)
    rows.row("t", symbols={"s": None}, columns=columns, at=AT)
    assert decode_all(body.message(rows))["t"] == [{"i": 1, "": AT.value}, {"i": -(1 << 63), "": AT.value}]
    alone = body.buffer()
    alone.row("t", columns=columns, at=AT)
    assert decode_all(body.message(alone))["t"] == [{"": AT.value}]


@pytest.mark.parametrize(
    ("symbols", "columns"),
    [
        ({}, {"Fresh": 1, "fRESH": 2}),
        ({}, {"i": 1, "I": 2}),
        ({"fresh": "a"}, {"FRESH": 1}),
        ({"s": "a"}, {"S": "a"}),
        ({"s": "a", "S": "b"}, {}),
        ({}, {"ü": 1, "Ü": 2}),
        ({"same": "a"}, {"same": 1}),
    ],
)
def test_ours_7_two_names_equal_ignoring_case_in_one_row(body: Body, symbols: Any, columns: Any) -> None:
    call = lambda rows: rows.row("t", symbols=symbols, columns=columns, at=AT)  # noqa: E731
    error = refused(body, call, InputError, "'t'", "twice" if "same" not in symbols else "")
    assert error.table == "t"  # type: ignore[attr-defined]


def test_ours_7_spellings_of_several_rows_are_one_column_under_the_first(body: Body) -> None:
    rows = body.buffer()
    rows.row("t", columns={"Col": 1}, at=AT)
    rows.row("t", columns={"cOL": 2}, at=AT)
    assert [row["Col"] for row in decode_all(body.message(rows))["t"]] == [1, 2]


def test_ours_7_more_than_2048_columns_of_one_row(body: Body) -> None:
    columns = {f"c{index}": 1 for index in range(limits.COLUMNS_PER_TABLE_MAX)}
    refused(body, lambda rows: rows.row("v", columns=columns, at=AT), InputError, "'v'", "2048")
    rows = body.buffer()
    columns.popitem()  # the designated timestamp counts as one
    rows.row("v", columns=columns, at=AT)
    assert len(decode_all(body.message(rows))["v"][0]) == limits.COLUMNS_PER_TABLE_MAX


def test_ours_7_more_than_2048_columns_of_several_rows(body: Body) -> None:
    rows = buffer_with_earlier_rows(body)
    rows.row("u", columns={f"c{index}": 1 for index in range(limits.COLUMNS_PER_TABLE_MAX - 3)}, at=AT)
    call = lambda r: r.row("u", columns={"one more": 1}, at=AT)  # noqa: E731
    before = state_of(body, rows)
    with pytest.raises(InputError, match="2048"):
        call(rows)
    assert state_of(body, rows) == before


def test_ours_7_differing_array_dimensions_in_a_batch(body: Body) -> None:
    refused_value(body, "line", np.zeros((1, 1)), "2 dimensions", "1")
    rows = buffer_with_earlier_rows(body)
    rows.clear()
    rows.row("t", columns={"line": np.zeros((1, 1))}, at=AT)  # the next batch starts anew


def test_ours_7_differing_geohash_precision_in_a_batch(body: Body) -> None:
    refused_value(body, "geo", Geohash(1, 6), "6 bits", "5")


def test_ours_8_a_decimal_that_pushes_an_earlier_one_out_of_the_type(body: Body) -> None:
    rows = body.buffer()
    rows.row("t", columns={"num": Decimal(10**76)}, at=AT)
    before = state_of(body, rows)
    with pytest.raises(InputError, match="256 bits"):
        rows.row("t", columns={"num": Decimal("0.1234567")}, at=AT)
    assert state_of(body, rows) == before
    with pytest.raises(InputError, match="256 bits"):
        rows.row("t", columns={"fresh": 1, "num": Decimal("0.01")}, at=AT)
    assert state_of(body, rows) == before


# -- rows and typed_row: the same rules ------------------------------------------------------------
def test_rows_undoes_the_first_bad_row_and_keeps_those_before_it(body: Body) -> None:
    rows = buffer_with_earlier_rows(body)
    many = [("p", 1, AT), ("q", 2, AT), ("r", 1.5, AT), ("never", 4, AT)]
    with pytest.raises(InputError, match=r"'i'.*DOUBLE") as caught:
        rows.rows("t", many, symbols=["s"], columns=["i"])
    assert (caught.value.table, caught.value.column) == ("t", "i")
    found = decode_all(body.message(rows))
    assert [(row["s"], row["i"]) for row in found["t"]] == [("x", 1), ("y", 2), ("p", 1), ("q", 2)]
    assert [rows.symbols.text_of(index) for index in range(len(rows.symbols))] == ["x", "y", "p", "q"]


@pytest.mark.parametrize("bad", [("p", 1), ("p", 1, AT, 5), ()], ids=["short", "long", "empty"])
def test_rows_of_the_wrong_width(body: Body, bad: tuple[Any, ...]) -> None:
    call = lambda rows: rows.rows("t", [bad], symbols=["s"], columns=["i"])  # noqa: E731
    refused(body, call, InputError, "'t'", str(len(bad)))


TYPED: list[tuple[ColumnType, Any, str]] = [
    (ColumnType.BYTE, 128, "128"),
    (ColumnType.BYTE, -129, "-129"),
    (ColumnType.SHORT, 1 << 15, "32768"),
    (ColumnType.INT, -(1 << 31) - 1, "-2147483649"),
    (ColumnType.DECIMAL64, (1 << 63, 0), "64 bits"),
    (ColumnType.DECIMAL128, (-(1 << 127) - 1, 0), "128 bits"),
    (ColumnType.DECIMAL64, (1, 77), "77"),
]


@pytest.mark.parametrize(("column_type", "value", "word"), TYPED, ids=[f"{t[0].name}-{t[2]}" for t in TYPED])
def test_typed_row_out_of_range(body: Body, column_type: ColumnType, value: Any, word: str) -> None:
    cells = [("first", ColumnType.LONG, 1), ("s3", ColumnType.SYMBOL, "new"), ("v", column_type, value)]
    error = refused(body, lambda rows: rows.typed_row("t", cells, AT), InputError, "'t'", "'v'", word)
    assert (error.table, error.column) == ("t", "v")  # type: ignore[attr-defined]
