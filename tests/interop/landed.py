"""What rows must look like when a client's messages have passed the strict server into its memory store."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import numpy as np

from spoolq.columns.names import fold
from spoolq.server import MemoryStore
from spoolq.values import (
    Char,
    DateMillis,
    Geohash,
    Long256,
    ServerTimestamp,
    TimestampMicros,
    TimestampNanos,
    micros_of_datetime,
)
from tests.interop.peer import Row

SERVER_NANOS = 1_700_000_000_123_456_789
"""The clock of the server in these tests."""
INT64_MIN = -(1 << 63)
NULL_UUID = uuid.UUID(int=(1 << 127) | (1 << 63))
NULL_LONG256 = sum(1 << (64 * word + 63) for word in range(4))


def as_landed(value: Any) -> Any:
    """A value of ``row()`` as the table shows it; what reads as NULL is None (wire.md 4.2)."""
    if isinstance(value, bool | str | Geohash) or value is None:
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, datetime):
        return micros_of_datetime(value)
    if isinstance(value, Char):
        return None if value.value == "\0" else value.value
    if isinstance(value, Long256):
        return None if value.value == NULL_LONG256 else value.value
    if isinstance(value, uuid.UUID):
        return None if value == NULL_UUID else value
    if isinstance(value, Decimal):
        return value if value.is_finite() else None
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, TimestampMicros | TimestampNanos | DateMillis):
        value = value.value
    if isinstance(value, int):
        return None if value == INT64_MIN else int(value)
    if isinstance(value, float):
        return None if value != value else value
    return value if int(value) else None  # IPv4Address: 0.0.0.0 is NULL


def expected_rows(batches: Sequence[Sequence[Row]], table: str) -> list[dict[str, Any]]:
    """The rows of one table by folded column name, ``timestamp`` for the designated one.

    The first batch makes the table and so settles the unit: nanoseconds when it has such a row, else microseconds.
    """
    parts = [part for batch in batches if (part := [row for row in batch if row.table == table])]
    nanos = any(isinstance(row.at, TimestampNanos) for row in parts[0])
    rows = [row for part in parts for row in part]
    booleans = {fold(n) for row in rows for n, value in row.columns.items() if isinstance(value, bool)}
    names = {
        fold(name) for row in rows for part in (row.symbols, row.columns) for name, v in part.items() if v is not None
    }
    found = []
    for row in rows:
        values = dict.fromkeys(names) | dict.fromkeys(booleans, False)
        for name, value in (*row.symbols.items(), *row.columns.items()):
            if value is not None:
                values[fold(name)] = as_landed(value)
        if row.at is ServerTimestamp:
            values["timestamp"] = SERVER_NANOS if nanos else SERVER_NANOS // 1_000
        else:
            fraction = 1_000 if isinstance(row.at, TimestampNanos) and not nanos else 1
            values["timestamp"] = as_landed(row.at) // fraction
        found.append(values)
    return found


def landed_rows(store: MemoryStore, table: str) -> list[dict[str, Any]]:
    """The rows of a table by folded column name; NaN in arrays is a value, so that it equals itself here."""
    return [{fold(name): value for name, value in row.items()} for row in store.rows(table)]


def comparable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in a form in which equal means equal: NaN equals NaN, 0.0 is not -0.0, True is not 1."""
    return [{name: _form(value) for name, value in row.items()} for row in rows]


def _form(value: Any) -> Any:
    return value if isinstance(value, Decimal) else (type(value).__name__, repr(value))
