"""Sequences of calls on a row buffer, good and bad ones, for the comparison of the two bodies.

Hypothesis draws `Step`s: which call, on which table, with which columns, how many rows, what is wrong
with it.  `call_of` makes the arguments, once for both bodies; the values come from the case's seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from random import Random
from typing import Any

import numpy as np
from hypothesis import strategies as st

from spoolq.columns import ColumnType
from spoolq.values import Geohash, TimestampMicros, TimestampNanos
from tests.columns.strategies import AT_KINDS, NATURAL_TYPES, TYPES, Plan, at_of, natural, plans, value_of

TABLES = ["t", "t", "T", "ü.x-y"]

BAD_VALUES: dict[str, Any] = {
    "int of 65 bits": 1 << 64,
    "numpy uint64": np.uint64(1 << 63),
    "list": [1.0],
    "object": object,
    "surrogate": "\ud800",
    "float32 array": np.zeros(2, dtype="float32"),
    "scale 77": Decimal("1e-77"),
    "257 bits": Decimal(1 << 256),
    "four dimensions": np.zeros((1, 1, 1, 1)),
    "geohash of 59 bits": Geohash(1, 59),
    "bytes": b"x",
    "micros": TimestampMicros(7),
    "bool": True,
    "float": 0.5,
    "int": 3,
    "inexact int": (1 << 53) + 1,
    "decimal": Decimal("123.456"),
    "text": "text",
}
BAD_TYPED: dict[str, tuple[ColumnType, Any]] = {
    "byte 128": (ColumnType.BYTE, 128),
    "short": (ColumnType.SHORT, -(1 << 15) - 1),
    "int 2**31": (ColumnType.INT, 1 << 31),
    "float above binary32": (ColumnType.FLOAT, 1e39),
    "decimal64 of 65 bits": (ColumnType.DECIMAL64, (1 << 63, 0)),
    "decimal128 of 129 bits": (ColumnType.DECIMAL128, (1 << 127, 1)),
    "scale -1": (ColumnType.DECIMAL64, (1, -1)),
    "33 dimensions": (ColumnType.LONG_ARRAY, ((1,) * 33, bytes(8))),
    "symbol that is no str": (ColumnType.SYMBOL, 5),
}
BAD_NAMES = ["", "a?", "a.b", "a-b", "n" * 128, "\ud800", 5, None, "SAME", "a\0"]
BAD_TABLES = ["", ".a", "a..b", "a?", "n" * 128, "\ud800", 5, None]
BAD_AT: list[Any] = [None, 5, TimestampMicros(-1), TimestampNanos(-1), np.datetime64("NaT"), "now"]
FAULTS = ["none"] * 6 + ["value", "value", "name", "table", "at", "symbol", "columns", "same name", "width"]


@dataclass(frozen=True)
class Step:
    """One drawn call."""

    kind: str
    table: str
    columns: list[Plan]
    at_kind: str
    count: int
    fault: str
    which: int


Call = Callable[[Any], object]


def steps() -> st.SearchStrategy[list[Step]]:
    """Up to seven steps."""
    kinds = ["row"] * 4 + ["typed_row"] * 4 + ["rows"] * 2 + ["repeat"] * 2
    kinds += ["clear", "drop_rows", "publish", "abandon"]
    one = st.builds(
        Step,
        st.sampled_from(kinds),
        st.sampled_from(TABLES),
        plans(max_columns=5),
        st.sampled_from(["micros", "micros", *AT_KINDS]),
        st.integers(1, 5),
        st.sampled_from(FAULTS),
        st.integers(0, 63),
    )
    return st.lists(one, min_size=1, max_size=7)


class Case:
    """What the calls of one case agree on: a column of a table has one type, unless a fault says otherwise."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self._known: dict[tuple[str, str], Plan] = {}
        self._at: dict[str, str] = {}
        self._index = 0

    def forget(self) -> None:
        """From now on, in the next batch, names may have other types and tables other units."""
        self._known.clear()
        self._at.clear()

    def columns(self, step: Step, types: list[ColumnType]) -> list[Plan]:
        """The step's columns as the table knows them."""
        known = [self._known.setdefault((step.table, plan.name.lower()), plan) for plan in step.columns]
        return [plan for plan in known if plan.type in types]

    def at(self, step: Step) -> Any:
        """A designated timestamp in the table's unit; a bad one for the fault "at"."""
        if step.fault == "at":
            return BAD_AT[step.which % len(BAD_AT)]
        self._index += 1
        return at_of(self._at.setdefault(step.table, step.at_kind), self.rng, self._index)

    def value(self, plan: Plan) -> Any:
        """A stored form, or None."""
        share = {"none": 0.0, "all": 1.0, "alternating": 0.5, "random": 0.5}.get(plan.pattern, 0.2)
        return None if self.rng.random() < share else value_of(plan.type, self.rng, plan.shape)


def calls_of(case: Case, step: Step) -> list[Call]:
    """The calls that a step makes; each takes a row buffer and is made on both bodies."""
    good = replace(step, fault="none")  # the fault is in the last call, so that it meets rows of its table
    if step.kind == "row":
        return [_row(case, good) for _ in range(1, step.count)] + [_row(case, step)]
    if step.kind == "typed_row":
        return [_typed_row(case, good) for _ in range(1, step.count)] + [_typed_row(case, step)]
    if step.kind == "rows":
        return [_rows(case, step)]
    if step.kind == "repeat":  # one shape again and again: the way of a plan that is known
        return [_row(case, good) for _ in range(6)]
    if step.kind == "drop_rows":
        return [lambda rows: _drop(rows, step)]
    if step.which % 2:
        case.forget()
    return [{"clear": _clear, "publish": _publish, "abandon": _abandon}[step.kind]]


def _row(case: Case, step: Step) -> Call:
    columns = case.columns(step, NATURAL_TYPES)
    symbols: Any = {}
    others: Any = {}
    for plan in columns:
        value = case.value(plan)
        if plan.type is ColumnType.SYMBOL:
            symbols[plan.name] = value
        else:
            others[plan.name] = None if value is None else natural(plan.type, value, case.rng)
    table: Any = step.table
    bad = list(BAD_VALUES.values())
    if step.fault == "value":
        name = columns[step.which % len(columns)].name if columns else "fresh"
        others[name] = bad[step.which % len(bad)]
    elif step.fault == "name":
        (symbols if step.which % 2 else others)[BAD_NAMES[step.which % len(BAD_NAMES)]] = (
            "x" if step.which % 3 else None
        )
    elif step.fault == "table":
        table = BAD_TABLES[step.which % len(BAD_TABLES)]
    elif step.fault == "symbol":
        symbols["sym"] = [5, b"x", "\ud800", "a" * 2_000, None][step.which % 5]
    elif step.fault == "columns":
        others = [[("a", 1)], "ab", 5, None][step.which % 4]
    elif step.fault == "same name":
        others.update({"twice": 1, "TWICE": 2} if step.which % 2 else {name.upper(): 1 for name in [*symbols, *others]})
    at = case.at(step)
    return lambda rows: rows.row(table, symbols=symbols, columns=others, at=at)


def _typed_row(case: Case, step: Step) -> Call:
    cells: list[Any] = [(plan.name, plan.type, case.value(plan)) for plan in case.columns(step, TYPES)]
    bad = list(BAD_TYPED.values())
    if step.fault == "value":
        name = cells[step.which % len(cells)][0] if cells and step.which % 2 else "fresh"
        cells.append((name, *bad[step.which % len(bad)]))
    elif step.fault == "name":
        cells.append((BAD_NAMES[step.which % len(BAD_NAMES)], ColumnType.LONG, 1))
    elif step.fault == "same name" and cells:
        cells.append(cells[0])
    at = case.at(step)
    return lambda rows: rows.typed_row(step.table, cells, at)


def _rows(case: Case, step: Step) -> Call:
    columns = case.columns(step, NATURAL_TYPES)
    symbols = [plan for plan in columns if plan.type is ColumnType.SYMBOL]
    others = [plan for plan in columns if plan.type is not ColumnType.SYMBOL]
    shared_at = case.at(step) if step.which % 3 == 0 and step.fault != "at" else None
    many: list[Any] = []
    for index in range(step.count):
        values: list[Any] = []
        for plan in symbols + others:
            value = case.value(plan)
            by_nature = value is None or plan.type is ColumnType.SYMBOL
            values.append(value if by_nature else natural(plan.type, value, case.rng))
        last = index == step.count - 1 and step.fault != "none"
        if last and step.fault == "value" and values:
            values[step.which % len(values)] = list(BAD_VALUES.values())[step.which % len(BAD_VALUES)]
        if shared_at is None:
            values.append(case.at(step) if last or step.fault != "at" else TimestampMicros(index))
        if last and step.fault == "width":
            values = values[:-1] if step.which % 2 else [*values, 5]
        many.append(tuple(values) if step.which % 5 else values)
    names = [plan.name for plan in symbols], [plan.name for plan in others]
    if step.fault == "name":
        names[1].append(BAD_NAMES[step.which % len(BAD_NAMES)])  # type: ignore[arg-type]
    if step.fault == "same name" and names[1]:
        names[1].append(names[1][0].upper())
    return lambda rows: rows.rows(step.table, many, symbols=names[0], columns=names[1], at=shared_at)


def _drop(rows: Any, step: Step) -> None:
    if rows.table_count:
        index = step.which % rows.table_count
        rows.drop_rows(index, 1 + step.count % rows.table_rows(index))


def _clear(rows: Any) -> None:
    rows.clear()


def _publish(rows: Any) -> None:
    rows.symbols.published_count = len(rows.symbols)
    rows.clear()


def _abandon(rows: Any) -> None:
    rows.clear()
    rows.symbols.truncate(rows.symbols.published_count)
