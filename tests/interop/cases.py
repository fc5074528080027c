"""Rows as hypothesis makes them, for both clients: schemas, nulls, unicode, extremes, tables, late columns.

`cases()` gives `Case`: batches, the types in it, and the trap that was laid, if one was.  A trap is a row that
the two clients are known to treat differently (`rules.Rule`) or that both refuse; a case has at most one, and
then only one table and one text for all symbols, so that one rule must be enough to explain it.
"""

from __future__ import annotations

import ipaddress
import math
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from spoolq.values import Char, DateMillis, Geohash, Long256, ServerTimestamp, TimestampMicros, TimestampNanos
from tests.interop.peer import Row

INT64 = 1 << 63
_INT64 = st.integers(-INT64, INT64 - 1) | st.sampled_from((0, -1, 1, INT64 - 1, -INT64, -INT64 + 1, 1 << 53))
_TEXT = st.text(max_size=6) | st.sampled_from(("", "\0", "ß𝄞", "日本語", "\uffff", "a" * 130, "é" * 64, "\u202e"))
_ZONES = (None, UTC, timezone(timedelta(hours=-11, minutes=-30)), timezone(timedelta(hours=14)))
_DAYS = st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29), timezones=st.sampled_from(_ZONES))
_LATER = st.datetimes(
    min_value=datetime(1970, 1, 2), max_value=datetime(9999, 12, 29), timezones=st.sampled_from(_ZONES)
)
_FLOATS = st.floats(allow_nan=False) | st.sampled_from(
    (math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308)
)


@st.composite
def _decimals(draw: st.DrawFn) -> st.SearchStrategy[Decimal]:
    """One scale for all: growing ones are a trap."""
    scale = draw(st.sampled_from((0, 0, 1, 2, 18, 76)))
    number = st.integers(-(1 << 255), (1 << 255) - 1) | st.integers(-1000, 1000)
    return number.map(lambda unscaled: Decimal((int(unscaled < 0), tuple(map(int, str(abs(unscaled)))), -scale)))


@st.composite
def _geohashes(draw: st.DrawFn) -> st.SearchStrategy[Geohash]:
    precision = draw(st.sampled_from((1, 5, 8, 16, 25, 40, 56, 60)))
    full = (1 << precision) - 1
    return (st.integers(0, full) | st.sampled_from((0, full))).map(lambda bits: Geohash(bits, precision))


@st.composite
def _arrays(draw: st.DrawFn) -> st.SearchStrategy[np.ndarray]:
    dimensions = draw(st.integers(1, 3))
    layout = draw(
        st.sampled_from((np.asarray, np.asfortranarray, np.flip, lambda a: np.repeat(a, 2, axis=-1)[..., ::2]))
    )

    def make(shape: tuple[int, ...], first: float) -> np.ndarray:
        values = np.arange(math.prod(shape), dtype="float64")
        values[:1] = first
        return layout(values.reshape(shape))

    return st.builds(make, st.tuples(*[st.integers(0, 3)] * dimensions), _FLOATS)


KINDS: dict[str, Callable[[], st.SearchStrategy[st.SearchStrategy[Any]]]] = {
    "bool": lambda: st.just(st.booleans()),
    "int": lambda: st.just(_INT64),
    "float": lambda: st.just(_FLOATS),
    "str": lambda: st.just(_TEXT),
    "bytes": lambda: st.just(
        st.binary(max_size=6) | st.binary(max_size=3).map(bytearray) | st.just(memoryview(b"view"))
    ),
    "datetime": lambda: st.just(_DAYS),
    "TimestampMicros": lambda: st.just(st.builds(TimestampMicros, st.integers(0, INT64 - 1))),
    "TimestampNanos": lambda: st.just(st.builds(TimestampNanos, st.integers(0, INT64 - 1))),
    "DateMillis": lambda: st.just(st.builds(DateMillis, _INT64)),
    "Decimal": _decimals,
    "UUID": lambda: st.just(st.uuids() | st.sampled_from((uuid.UUID(int=0), uuid.UUID(int=1 << 127 | 1 << 63)))),
    "IPv4Address": lambda: st.just(st.ip_addresses(v=4) | st.just(ipaddress.IPv4Address(0))),
    "Char": lambda: st.just(st.integers(0, 0xFFFF).map(lambda unit: Char(chr(unit)))),
    "Long256": lambda: st.just(
        st.builds(Long256, st.integers(0, (1 << 256) - 1) | st.sampled_from((0, (1 << 256) - 1)))
    ),
    "Geohash": _geohashes,
    "ndarray": _arrays,
}
"""Name of a Python type -> a draw of the strategy that gives a column's values."""

_NAMES = ("a", "b", "Größe", "価格", " x", "\x10", "n" * 127, "İ", "x y", "Σ", "_", "é" * 63)
_TABLES = ("t", "T", "日 本", "a-b.c", "n" * 127)


class Case(NamedTuple):
    """What both clients get."""

    batches: list[list[Row]]
    kinds: frozenset[str]
    trap: str | None


class _Table:
    """A table's columns in one batch: name -> (kind, values)."""

    def __init__(self, draw: st.DrawFn, name: str, kinds: set[str], symbol: str | None) -> None:
        self.name = name
        names = draw(st.lists(st.sampled_from(_NAMES), min_size=1, max_size=5, unique_by=str.lower))
        self.symbols = {n for n in names[1:] if draw(st.integers(0, 3)) == 0} if len(names) > 1 else set()
        if draw(st.integers(0, 5)) == 0:
            self.symbols = set(names)
        self.values: dict[str, st.SearchStrategy[Any]] = {}
        for column in names:
            if column in self.symbols:
                kinds.add("symbol")
                self.values[column] = st.just(symbol) if symbol else _TEXT
            else:
                kind = draw(st.sampled_from(tuple(KINDS)))
                kinds.add(kind)
                self.values[column] = draw(KINDS[kind]())

    def row(self, draw: st.DrawFn, at: Any, *, whole: bool = False) -> Row:
        """A row with at least one value; unless it is whole, others are None, or not there at all."""
        symbols, columns = {}, {}
        sure = draw(st.sampled_from(tuple(self.values)))
        for name, values in self.values.items():
            fate = 2 if whole or name == sure else draw(st.integers(0, 4))
            if fate == 0:
                continue
            spelled = name.upper() if fate == 4 and name.isascii() else name
            (symbols if name in self.symbols else columns)[spelled] = None if fate == 1 else draw(values)
        return Row(self.name, symbols, columns, at)


_ATS: tuple[st.SearchStrategy[Any], ...] = (
    st.builds(TimestampNanos, st.integers(0, INT64 - 1)),
    st.builds(TimestampMicros, st.integers(0, INT64 - 1)) | _LATER,
    st.just(ServerTimestamp),
)


@st.composite
def cases(draw: st.DrawFn, *, traps: bool = True) -> Case:
    """One to three batches, one or two tables; types and the unit of ``at`` hold for the case.

    Without a trap there are two kinds: schemas that vary from flush to flush, with one text for all symbols; and free
    symbols, where each batch begins with a whole row of each table.
    """
    kinds: set[str] = set()
    trap = draw(st.sampled_from((None,) * 30 + tuple(TRAPS))) if traps else None
    free_symbols = not trap and draw(st.booleans())
    names = draw(st.lists(st.sampled_from(_TABLES), min_size=1, max_size=1 if trap else 2, unique=True))
    tables = [_Table(draw, name, kinds, None if free_symbols else "only") for name in names]
    at = draw(st.sampled_from(_ATS[:2] if trap else _ATS))
    if not free_symbols and not trap and draw(st.integers(0, 3)) == 0:
        at = at | _ATS[2]
    batches = []
    for _ in range(1 if trap else draw(st.integers(1, 3))):
        rows = [table.row(draw, draw(at), whole=True) for table in tables] if free_symbols or trap else []
        rows += [draw(st.sampled_from(tables)).row(draw, draw(at)) for _ in range(draw(st.integers(1, 8)))]
        batches.append(rows)
    if trap:
        batch = draw(st.sampled_from(batches))
        laid = TRAPS[trap]()
        where = draw(st.integers(0, len(batch)))
        batch[where:where] = [Row(batch[0].table, symbols, columns, batch[0].at) for symbols, columns in laid]
    return Case(batches, frozenset(kinds), trap)


def _columns(*columns: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [({}, each) for each in columns]


TRAPS: dict[str, Callable[[], list[tuple[dict[str, Any], dict[str, Any]]]]] = {
    "ALL_NONE": lambda: _columns({"trap": None}, {}),
    "CASE_TWICE": lambda: _columns({"trap": 1, "Trap": 2}),
    "NONE_NAME": lambda: _columns({"trap": 1, "tr?p": None}),
    "INT_IN_DOUBLE": lambda: _columns({"trap": 1.5}, {"trap": 1 << 60}),
    "DECIMAL_SCALE": lambda: _columns({"trap": Decimal("1.5")}, {"trap": Decimal("-1.55")}),
    "DECIMAL_ZERO": lambda: _columns({"trap": Decimal("0E+77")}),
    "LONE_NAN_DECIMAL": lambda: _columns({"trap": Decimal("NaN")}, {"trap": None, "trap2": Decimal("-Infinity")}),
    "NAN_BITS": lambda: _columns({"trap": -math.nan}),
    "NUMPY_SCALAR": lambda: _columns({"trap": np.int32(5)}, {"trap2": np.datetime64(5, "ns")}),
    "SUBCLASS": lambda: [({"trap": _Text("only")}, {}), ({}, {"trap2": _Text("text")})],
    "NEGATIVE_WRAPPER": lambda: _columns({"trap": TimestampMicros(-1)}),
    "DIMENSIONS": lambda: _columns({"trap": np.zeros(1)}, {"trap": np.zeros((1, 1))}),
    "BOTH_REFUSE_TYPE": lambda: _columns({"trap": 1}, {"trap": "x", "new": 1}, {"trap": 2, "new": 2.5}),
    "BOTH_REFUSE_VALUE": lambda: [({"new": "lost"}, {"trap": object()}), ({"new": "only"}, {"trap": 1 << 63})],
    "BOTH_REFUSE_NAME": lambda: _columns({"trap": 1, "tr.p": 1}, {"trap": 1, "t" * 128: 1}),
}
"""Name of the rule that must explain it, or BOTH_..., which must need none -> its rows as (symbols, columns)."""


class _Text(str):
    """A str that is not exactly one."""
