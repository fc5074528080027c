"""Query results as QuestDB's REST has them: names of types, and values ready for JSON.  Needs pyarrow.

Timestamps are ISO text of UTC with as many digits as the type has (ms 3, us 6, ns 9) and a Z; decimals, UUIDs
text; binary hexadecimal text; NaN and infinities null, as JSON has none.  What DuckDB does not tell apart is not
told apart here: SYMBOL, CHAR and IPv4 columns come back as VARCHAR.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import pyarrow as pa

_NAMES: Final = {
    "BOOLEAN": "BOOLEAN",
    "TINYINT": "BYTE",
    "SMALLINT": "SHORT",
    "UTINYINT": "SHORT",
    "INTEGER": "INT",
    "USMALLINT": "INT",
    "BIGINT": "LONG",
    "UINTEGER": "LONG",
    "UBIGINT": "LONG",
    "HUGEINT": "LONG",
    "FLOAT": "FLOAT",
    "DOUBLE": "DOUBLE",
    "TIMESTAMP": "TIMESTAMP",
    "TIMESTAMP_S": "TIMESTAMP",
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMP",
    "TIMESTAMP_NS": "TIMESTAMP_NS",
    "TIMESTAMP_MS": "DATE",
    "DATE": "DATE",
    "UUID": "UUID",
    "BLOB": "BINARY",
}
_UNIT_DIGITS: Final = {"s": 0, "ms": 3, "us": 6, "ns": 9}


def type_name(duck: str) -> str:
    """QuestDB's name of a DuckDB type."""
    base, brackets = duck.rstrip("[]"), duck.count("[]")
    if base.startswith("DECIMAL"):
        return base
    return _NAMES.get(base, "VARCHAR") + "[]" * brackets


def json_columns(table: Any, duck_types: list[str]) -> list[list[Any]]:
    """The columns of a `pyarrow.Table` as lists that `json.dumps` takes."""
    return [_values(column, duck) for column, duck in zip(table.columns, duck_types, strict=True)]


def _values(column: Any, duck: str) -> list[Any]:
    kind = column.type
    if pa.types.is_timestamp(kind):
        return _each(column.cast(pa.int64()).to_pylist(), _iso(_UNIT_DIGITS[kind.unit]))
    if pa.types.is_date(kind):
        return _each(column.cast(pa.timestamp("ms")).cast(pa.int64()).to_pylist(), _iso(3))
    values: list[Any] = column.to_pylist()
    if pa.types.is_floating(kind):
        return [value if value is not None and math.isfinite(value) else None for value in values]
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_string(kind):
        return values
    if duck in ("HUGEINT", "UHUGEINT"):
        return _each(values, int)
    return _each(values, _plain)


def _each(values: list[Any], change: Callable[[Any], Any]) -> list[Any]:
    return [None if value is None else change(value) for value in values]


def _plain(value: Any) -> Any:
    """A single value of the rarer types."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value)


def _iso(digits: int) -> Callable[[int], str]:
    """Ticks of 10**-digits seconds since 1970 as ISO text; any year, exactly."""
    per_day = 86_400 * 10**digits
    days: dict[int, str] = {}

    def text(ticks: int) -> str:
        day, rest = divmod(ticks, per_day)
        date = days.get(day)
        if date is None:
            date = days[day] = _date(day)
        seconds, fraction = divmod(rest, 10**digits)
        clock = f"{date}T{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        return f"{clock}.{fraction:0{digits}}Z" if digits else f"{clock}Z"

    return text


def _date(day: int) -> str:
    """A day since 1970 in the Gregorian calendar, by eras of 400 years; Python's own ends at the year 9999."""
    era, day_of_era = divmod(day + 719_468, 146_097)
    year_of_era = (day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month = (5 * day_of_year + 2) // 153
    year = year_of_era + 400 * era + (month >= 10)
    return f"{year:04}-{month + 3 if month < 10 else month - 9:02}-{day_of_year - (153 * month + 2) // 5 + 1:02}"
