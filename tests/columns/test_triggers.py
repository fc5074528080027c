"""A row whose trigger fails is as if it never was, unless the trigger has published it (`spoolq.errors`).

Seen red with: the row left in the buffer; its symbols, its new columns or its decimals' scale left; the
values of the row before taken instead; ``in_doubt`` the other way round.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spoolq.errors import BackpressureError, InputError
from spoolq.values import Geohash, TimestampMicros
from tests.columns.bodies import BODIES, Body, state_of
from tests.columns.strategies import AT_KINDS, Plan, at_of, plans, value_of

AT = TimestampMicros(5)
CELLS = {"i": 1, "t": "a", "f": 0.5, "d": Decimal("1.5"), "g": Geohash(1, 8), "b": True, "a": np.zeros(2)}
MORE = {"t": "bb", "d": Decimal("0.0001"), "g": Geohash(3, 8), "b": True, "new": Decimal(7), "a": np.ones(2), "u": b"x"}


def put(rows: Any, *, times: int = 1) -> None:
    for _ in range(times):
        rows.row("t", symbols={"s": "x"}, columns=CELLS, at=AT)


def failing(
    rows: Any, before: Callable[[], object] = lambda: None, error: type[BaseException] = BackpressureError
) -> None:
    """From now on each row trips a trigger that does that and raises."""

    def fail() -> None:
        before()
        raise error("no room")

    rows.row_trigger, rows.on_trigger = 1, fail


def repeated(rows: Any, body: Body) -> None:
    """The encoder has looked at the batch: nulls at the end of columns are stored now."""
    body.message(rows)


@pytest.mark.parametrize("earlier", [0, 1, 9])
@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize("table", ["t", "other"])
def test_the_row_is_taken_out_whole(body: Body, earlier: int, encoded: bool, table: str) -> None:
    rows = body.buffer()
    put(rows, times=earlier)
    before = state_of(body, rows)
    failing(rows, (lambda: repeated(rows, body)) if encoded else lambda: None)
    for _ in range(3):
        with pytest.raises(BackpressureError, match="no room") as caught:
            rows.row(table, symbols={"s": "y", "s2": "z"}, columns=MORE, at=AT)
        assert (caught.value.in_doubt, caught.value.rows_taken) == (False, None)
        assert caught.value.__notes__ == [
            "an auto-flush failed with this; the row of this call was not taken: it may be repeated"
        ]
        assert state_of(body, rows) == before
    rows.on_trigger = None
    other = body.buffer()
    put(other, times=earlier)
    for buffer in (rows, other):
        buffer.row(table, symbols={"s": "z"}, columns={"new": 1, "d": Decimal(3)}, at=AT)
    assert state_of(body, rows) == state_of(body, other)


def test_a_row_that_the_trigger_published_is_in_doubt(body: Body) -> None:
    rows = body.buffer()
    put(rows, times=2)
    failing(rows, rows.clear)
    with pytest.raises(BackpressureError) as caught:
        put(rows)
    assert (caught.value.in_doubt, len(rows)) == (True, 0)
    assert caught.value.__notes__ == [
        "an auto-flush failed with this; the row of this call is published: do not repeat it"
    ]


def test_a_row_of_a_published_table_is_in_doubt_and_one_of_another_is_not(body: Body) -> None:
    for table, taken in (("t", True), ("u", False)):
        rows = body.buffer()
        put(rows, times=2)
        rows.row("u", columns={"n": 1}, at=AT)
        failing(rows, lambda rows=rows: rows.drop_rows(0, rows.table_rows(0)))
        with pytest.raises(BackpressureError) as caught:
            rows.row(table, columns={"i": 2, "n": 2}, at=AT)
        assert caught.value.in_doubt is taken
        assert [(rows.table_name(0), rows.table_rows(0), len(rows))] == [("u", 1, 1)]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["on_trigger", "on_first_row"])
def test_ours_33_whatever_the_trigger_raises(body: Body, error: type[BaseException], where: str) -> None:
    rows = body.buffer()
    failing(rows, error=error)
    if where == "on_first_row":
        rows.on_first_row, rows.on_trigger = rows.on_trigger, None
    with pytest.raises(error) as caught:
        put(rows)
    assert (caught.value.in_doubt, len(rows), rows.table_count) == (False, 0, 0)  # type: ignore[attr-defined]
    # What a Ctrl-C met may have written the symbol to the slot's dictionary: its id stays as it is.
    assert len(rows.symbols) == (error is KeyboardInterrupt)
    rows.on_trigger = rows.on_first_row = None
    put(rows)
    assert len(rows) == 1


def test_published_symbols_of_the_row_stay(body: Body) -> None:
    rows = body.buffer()
    put(rows)

    def publish_symbols() -> None:
        rows.symbols.published_count = len(rows.symbols)

    failing(rows, publish_symbols)
    with pytest.raises(BackpressureError):
        rows.row("t", symbols={"s": "new"}, columns={"i": 2}, at=AT)
    assert (rows.symbols.ids, len(rows)) == ({"x": 0, "new": 1}, 1)


@pytest.mark.parametrize("taken", [False, True])
def test_rows_says_how_many_were_taken(body: Body, taken: bool) -> None:
    rows = body.buffer()
    given_rows = [(number, AT) for number in range(5)]
    rows.row_trigger = 3

    def fail() -> None:
        if taken:
            rows.clear()
        raise BackpressureError("no room")

    rows.on_trigger = fail
    with pytest.raises(BackpressureError) as caught:
        rows.rows("t", given_rows, columns=["i"])
    assert (caught.value.in_doubt, caught.value.rows_taken, len(rows)) == (taken, 2 + taken, 0 if taken else 2)
    rows.on_trigger = None
    with pytest.raises(InputError) as refused:
        rows.rows("t", [(1, AT), ("not an int", AT)], columns=["j"])
    assert refused.value.rows_taken == 1


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[Plan], int, int, int, str]:
    """Columns, rows, how many of them the trigger drops, a seed, and the kind of ``at``."""
    count = draw(st.integers(1, 20))
    return (
        draw(plans(max_columns=5)),
        count,
        draw(st.integers(0, count - 1)),
        draw(st.integers(0, 2**32)),
        draw(st.sampled_from(AT_KINDS[:2])),
    )


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(batches(), st.booleans())
def test_behind_a_part_that_is_published_the_rest_is_as_without_the_row(batch: Any, encoded: bool) -> None:
    columns, count, dropped, seed, kind = batch
    for body in BODIES:
        with_row, without = body.buffer(), body.buffer()
        for rows in (with_row, without):
            rng = Random(seed)
            for index in range(count + (rows is with_row)):
                # The last row has every column, some for the first time; half of the cells before are NULL.
                last = index == count
                cells = [
                    (plan.name, plan.type, value if last or rng.random() < 0.5 else None)
                    for plan in columns
                    for value in [value_of(plan.type, rng, plan.shape)]
                ]
                at = at_of(kind, rng, index)
                if not last:
                    rows.typed_row("t", cells, at)
                    continue

                def part() -> None:
                    if encoded:
                        repeated(with_row, body)  # noqa: B023
                    with_row.drop_rows(0, dropped)  # noqa: B023

                failing(rows, part)
                with pytest.raises(BackpressureError) as caught:
                    rows.typed_row("t", cells, at)
                assert caught.value.in_doubt is False
        if encoded:
            repeated(without, body)
        without.drop_rows(0, dropped)
        assert state_of(body, with_row) == state_of(body, without)
