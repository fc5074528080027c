"""decode(encode(x)) == as_stored(x): every type, null pattern and class of row count, at least 50 times each.

Seen red with: null BOOLEAN encoded as true; the bitmap most significant bit first; geohash bytes
big-endian; a geohash of all ones without a bitmap; a late column without the nulls of the rows
before it; a decimal not brought to the column's scale; `as_stored` of a null LONG as 0.
"""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spoolq.columns import ColumnType, SymbolTable
from spoolq.columns.convert import designated
from spoolq.qwp.decode import Dictionary, decode, table_names
from spoolq.qwp.stored import as_read
from spoolq.values import TimestampMicros
from tests.columns.bodies import BODIES, Body
from tests.columns.model import Model, decoded
from tests.columns.strategies import (
    AT_KINDS,
    NATURAL_TYPES,
    PATTERNS,
    TYPES,
    Plan,
    Shape,
    at_of,
    natural,
    plans,
    value_of,
)
from tests.qwp.coverage import CLASSES, LEAST, Coverage

PRECISIONS = (1, 5, 7, 8, 9, 16, 24, 25, 59, 60)
SIZES = {"1": (1, 1), "2-7": (4, 7), "8-9": (8, 9), "10-100": (10, 40), ">100": (101, 130)}


def fill(rows: Any, model: Model, table: str, columns: list[Plan], count: int, at_kind: str, rng: Random) -> None:
    """Buffers ``count`` rows, by ``row()`` where every type has a Python value, else typed."""
    nulls = [PATTERNS[plan.pattern](count, rng) for plan in columns]
    by_row = all(plan.type in NATURAL_TYPES for plan in columns)
    for index in range(count):
        cells = [
            (plan.name, plan.type, None if nulls[at][index] else value_of(plan.type, rng, plan.shape))
            for at, plan in enumerate(columns)
        ]
        at = at_of(at_kind, rng, index)
        if all(value is None for _, _, value in cells) and designated(at) is None:
            at = TimestampMicros(index)  # a row without any value is refused
        if by_row:
            # row() takes the symbols first, so they appear first.
            cells = [c for c in cells if c[1] is ColumnType.SYMBOL] + [
                c for c in cells if c[1] is not ColumnType.SYMBOL
            ]
            rows.row(
                table,
                symbols={name: value for name, kind, value in cells if kind is ColumnType.SYMBOL},
                columns={
                    name: None if value is None else natural(kind, value, rng)
                    for name, kind, value in cells
                    if kind is not ColumnType.SYMBOL
                },
                at=at,
            )
        else:
            rows.typed_row(table, cells, at)
        model.add(table, cells, designated(at))


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.name)
def test_every_type_null_pattern_and_row_count_comes_back(body: Body, capsys: pytest.CaptureFixture[str]) -> None:
    """One table of all types a message; the types take turns with the patterns, so that each cell fills evenly."""
    coverage, rng = Coverage(), Random(20_130_101)
    patterns, symbols, dictionary = list(PATTERNS), SymbolTable(), Dictionary()
    for name in CLASSES:
        rounds = 2 * LEAST if name == "1" else 6 * LEAST
        for turn in range(rounds):
            count = rng.randint(*SIZES[name])
            columns = [
                Plan(
                    f"{kind.name}",
                    kind,
                    ("none", "all")[(turn + at) % 2] if count == 1 else patterns[(turn + at) % 6],
                    Shape(rng.choice(PRECISIONS), rng.randint(1, 3), rng.random() < 0.5),
                )
                for at, kind in enumerate(TYPES)
            ]
            rows, model = body.buffer(symbols), Model()
            fill(rows, model, "t", columns, count, AT_KINDS[turn % 4], rng)
            message = body.message(rows, gorilla=turn % 2 == 0)
            symbols.published_count = len(symbols)
            found = decode(message, dictionary)
            assert decoded(found) == model.expected()
            table = model.tables["t"]
            for column in found.tables[0].columns:
                if column.type is ColumnType.GEOHASH:  # all ones must not read as NULL (wire.md 4.8)
                    assert as_read(column) == column.values
            nulls = {plan.type: [plan.name.lower() not in row for row in table.rows] for plan in columns}
            coverage.add(message, nulls)
    with capsys.disabled():
        print(f"\n{body.name} body: {coverage.table()}")
    assert coverage.missing() == {}


@st.composite
def batches(draw: st.DrawFn) -> list[tuple[str, list[Plan], int, str]]:
    """Several tables, filled in turns, so that columns appear late."""
    out = []
    kinds: dict[str, str] = {}
    schemas: dict[str, dict[str, Plan]] = {}
    for _ in range(draw(st.integers(1, 4))):
        table = draw(st.sampled_from(["t", "T", "trades 1", "ü.x-y"]))
        known = schemas.setdefault(table, {})
        types = draw(st.sampled_from((TYPES, NATURAL_TYPES)))
        columns = [known.setdefault(plan.name.lower(), plan) for plan in draw(plans(types))]
        kind = kinds.setdefault(table, draw(st.sampled_from(AT_KINDS)))
        out.append((table, columns, draw(st.integers(1, 12)), kind))
    return out


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.name)
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(frames=st.lists(st.tuples(batches(), st.booleans()), min_size=1, max_size=3), seed=st.integers(0, 2**32))
def test_many_tables_late_columns_and_dictionary_deltas_come_back(
    body: Body, frames: list[tuple[list[tuple[str, list[Plan], int, str]], bool]], seed: int
) -> None:
    rng, symbols, dictionary = Random(seed), SymbolTable(), Dictionary()
    for batch, gorilla in frames:
        rows, model = body.buffer(symbols), Model()
        for table, columns, count, kind in batch:
            fill(rows, model, table, columns, count, kind, rng)
        message = body.message(rows, gorilla=gorilla)
        assert len(message) - 12 <= rows.nbytes
        found = decode(message, dictionary)
        assert list(table_names(message)) == [table.name for table in found.tables], "and it needs no dictionary"
        assert found.delta_start == symbols.published_count
        symbols.published_count = len(symbols)
        assert decoded(found) == model.expected()
        assert dictionary.texts == [symbols.text_of(index) for index in range(len(symbols))]
