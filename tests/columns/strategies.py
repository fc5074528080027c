"""Schemas, null patterns, values and whole calls for the codec's property tests.

Hypothesis draws the structure (types, rows, patterns, order of calls), so that a failure shrinks to
a small structure; the values come from a `random.Random` that hypothesis seeds, because a draw for
each of a million cells would take minutes.  `value_of` makes one stored form (`columns.convert`) of
a type, edges often; `natural` gives the Python value that ``row()`` turns into that stored form.
"""

from __future__ import annotations

import ipaddress
import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
from hypothesis import strategies as st

from spoolq.columns import ColumnType
from spoolq.values import (
    Char,
    DateMillis,
    Geohash,
    Long256,
    ServerTimestamp,
    TimestampMicros,
    TimestampNanos,
)

INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1
TYPES = list(ColumnType)
NATURAL_TYPES = [
    ColumnType.BOOLEAN,
    ColumnType.LONG,
    ColumnType.DOUBLE,
    ColumnType.SYMBOL,
    ColumnType.TIMESTAMP,
    ColumnType.DATE,
    ColumnType.UUID,
    ColumnType.LONG256,
    ColumnType.GEOHASH,
    ColumnType.VARCHAR,
    ColumnType.TIMESTAMP_NANOS,
    ColumnType.DOUBLE_ARRAY,
    ColumnType.DECIMAL256,
    ColumnType.CHAR,
    ColumnType.BINARY,
    ColumnType.IPV4,
]
TEXTS = ["", "a", "é", "日本", "🦀", "\0", "a\nb", "ﬀ", "x" * 127, "y" * 128, "ETH-USD", "​", "\ufeff", "z" * 300]
FLOATS = [0.0, -0.0, 1.5, -2.25, float("inf"), float("-inf"), float("nan"), 5e-324, 1.7976931348623157e308]
UUID_NULL = (bytes(7) + b"\x80") * 2


def _int(bits: int, *extra: int) -> Callable[[Random], int]:
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1

    def make(rng: Random) -> int:
        if rng.random() < 0.3:
            return rng.choice((low, high, 0, 1, -1, low + 1, *extra))
        return rng.randint(low, high) >> rng.randrange(bits)

    return make


def _uint(bits: int) -> Callable[[Random], int]:
    return lambda rng: rng.choice((0, 1, (1 << bits) - 1)) if rng.random() < 0.3 else rng.getrandbits(bits)


def _float(rng: Random) -> float:
    return rng.choice(FLOATS) if rng.random() < 0.3 else rng.uniform(-1e6, 1e6)


def _float32(rng: Random) -> float:
    return rng.choice(FLOATS[:7]) if rng.random() < 0.3 else rng.uniform(-1e6, 1e6)


def _text(rng: Random) -> str:
    return (
        rng.choice(TEXTS) if rng.random() < 0.4 else "".join(map(chr, rng.choices(range(32, 900), k=rng.randrange(9))))
    )


def _array(code: str) -> Callable[[Random, int], Any]:
    def make(rng: Random, dimensions: int) -> Any:
        shape = tuple(rng.choice((0, 1, 2, 3)) for _ in range(dimensions))
        count = int(np.prod(shape, dtype=np.int64))
        data = struct.pack(f"<{count}{code}", *((_float if code == "d" else _int(64))(rng) for _ in range(count)))
        return shape, data

    return make


_ARRAYS = {ColumnType.DOUBLE_ARRAY: _array("d"), ColumnType.LONG_ARRAY: _array("q")}
_DECIMAL_BITS = {ColumnType.DECIMAL64: 64, ColumnType.DECIMAL128: 128, ColumnType.DECIMAL256: 256}
_MAKERS: dict[ColumnType, Callable[[Random], Any]] = {
    ColumnType.BOOLEAN: lambda rng: rng.random() < 0.5,
    ColumnType.BYTE: _int(8),
    ColumnType.SHORT: _int(16),
    ColumnType.INT: _int(32),
    ColumnType.LONG: _int(64),
    ColumnType.FLOAT: _float32,
    ColumnType.DOUBLE: _float,
    ColumnType.SYMBOL: _text,
    ColumnType.TIMESTAMP: _int(64, 1_700_000_000_000_000),
    ColumnType.DATE: _int(64, 1_700_000_000_000),
    ColumnType.UUID: lambda rng: rng.choice((UUID_NULL, bytes(16))) if rng.random() < 0.2 else rng.randbytes(16),
    ColumnType.LONG256: _uint(256),
    ColumnType.VARCHAR: lambda rng: _text(rng).encode(),
    ColumnType.TIMESTAMP_NANOS: _int(64, 1_700_000_000_000_000_000),
    ColumnType.CHAR: lambda rng: rng.choice((0, 65, 0xD800, 0xFFFF)) if rng.random() < 0.3 else rng.randrange(1 << 16),
    ColumnType.BINARY: lambda rng: rng.randbytes(rng.randrange(12)),
    ColumnType.IPV4: _uint(32),
}


@dataclass(frozen=True)
class Shape:
    """What the values of one column must agree on: geohash precision, number of dimensions, scales.

    ``scaled``: a decimal column has many scales and room to bring them to the largest one; without
    it, scale 0 and the extremes of the type.
    """

    precision: int = 8
    dimensions: int = 1
    scaled: bool = True


def value_of(column_type: ColumnType, rng: Random, shape: Shape = Shape()) -> Any:
    """One stored form; a SYMBOL is its text, as ``typed_row`` takes it."""
    if column_type is ColumnType.GEOHASH:
        bits = (1 << shape.precision) - 1 if rng.random() < 0.15 else rng.getrandbits(shape.precision)
        return bits, shape.precision
    if column_type in _DECIMAL_BITS:
        bits, digits = _DECIMAL_BITS[column_type], {64: 5, 128: 15, 256: 35}[_DECIMAL_BITS[column_type]]
        if not shape.scaled:
            return _int(bits)(rng), 0
        return rng.randint(-(10**digits), 10**digits), rng.randrange(digits)
    if column_type in _ARRAYS:
        return _ARRAYS[column_type](rng, shape.dimensions)
    return _MAKERS[column_type](rng)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def natural(column_type: ColumnType, stored: Any, rng: Random) -> Any:
    """A Python value of ``row()`` that has this stored form; the type must be in `NATURAL_TYPES`."""
    if column_type is ColumnType.LONG:
        return np.int64(stored) if rng.random() < 0.1 else stored
    if column_type is ColumnType.DOUBLE:
        return np.float64(stored) if rng.random() < 0.1 else stored
    if column_type is ColumnType.TIMESTAMP:
        in_years = abs(stored) < 10**15 and rng.random() < 0.5
        return _EPOCH + timedelta(microseconds=stored) if in_years else TimestampMicros(stored)
    if column_type is ColumnType.TIMESTAMP_NANOS:
        return TimestampNanos(stored)
    if column_type is ColumnType.DATE:
        return DateMillis(stored)
    if column_type is ColumnType.UUID:
        return uuid.UUID(bytes=stored[::-1])
    if column_type is ColumnType.LONG256:
        return Long256(stored)
    if column_type is ColumnType.GEOHASH:
        return Geohash(*stored)
    if column_type is ColumnType.VARCHAR:
        return stored.decode()
    if column_type is ColumnType.DOUBLE_ARRAY:
        return np.frombuffer(stored[1], dtype="<f8").reshape(stored[0])
    if column_type is ColumnType.DECIMAL256:
        unscaled, scale = stored
        return Decimal((int(unscaled < 0), tuple(map(int, str(abs(unscaled)))), -scale))
    if column_type is ColumnType.CHAR:
        return Char(chr(stored))
    if column_type is ColumnType.BINARY:
        return rng.choice((bytes, bytearray, memoryview))(stored)
    if column_type is ColumnType.IPV4:
        return ipaddress.IPv4Address(stored)
    return stored


def _random_nulls(rows: int, rng: Random) -> list[bool]:
    """No other pattern, where there are rows enough for that."""
    while True:
        nulls = [rng.random() < 0.5 for _ in range(rows)]
        if rows < 4 or pattern_of(nulls) == "random":
            return nulls


# -- null patterns -----------------------------------------------------------------------------
PATTERNS: dict[str, Callable[[int, Random], list[bool]]] = {
    "none": lambda rows, _: [False] * rows,
    "all": lambda rows, _: [True] * rows,
    "first": lambda rows, _: [True] + [False] * (rows - 1),
    "last": lambda rows, _: [False] * (rows - 1) + [True],
    "alternating": lambda rows, rng: [
        (index + phase) % 2 == 0 for phase in [rng.randrange(2)] for index in range(rows)
    ],
    "random": lambda rows, rng: _random_nulls(rows, rng),
}


def pattern_of(nulls: list[bool]) -> str:
    """The name of what a column really has, whatever made it; the first that fits, ``random`` is the rest."""
    count = sum(nulls)
    if count == 0:
        return "none"
    if count == len(nulls):
        return "all"
    if count == 1 and nulls[0]:
        return "first"
    if count == 1 and nulls[-1]:
        return "last"
    if all(a != b for a, b in pairwise(nulls)):
        return "alternating"
    return "random"


# -- schemas -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Plan:
    """A column of a made schema."""

    name: str
    type: ColumnType
    pattern: str
    shape: Shape


NAMES = ["a", "B", "col c", "dé", "Ünï", "日", "x_1", "n" * 127]
AT_KINDS = ["micros", "nanos", "server", "mixed"]


def at_of(kind: str, rng: Random, index: int) -> Any:
    """A designated timestamp; times rise mostly, so that Gorilla has all its buckets."""
    if kind == "server" or (kind == "mixed" and rng.random() < 0.5):
        return ServerTimestamp
    step = rng.choice((0, 1, 60, 250, 2_000, 10**6, 10**11))
    number = 1_700_000_000_000_000 + index * 1_000 + rng.randrange(step + 1)
    if rng.random() < 0.05:
        number = rng.choice((0, INT64_MAX))
    return TimestampNanos(number) if kind == "nanos" else TimestampMicros(number)


def plans(types: list[ColumnType] = TYPES, *, max_columns: int = 6) -> st.SearchStrategy[list[Plan]]:
    """Schemas: up to ``max_columns`` columns of distinct names."""
    one = st.builds(
        Plan,
        st.sampled_from(NAMES),
        st.sampled_from(types),
        st.sampled_from(sorted(PATTERNS)),
        st.builds(Shape, st.sampled_from((1, 5, 8, 16, 25, 56, 60)), st.integers(1, 3), st.booleans()),
    )
    return st.lists(one, max_size=max_columns, unique_by=lambda plan: plan.name.lower())
