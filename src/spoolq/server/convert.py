"""From wire values to what a person reads, and the coercions into an existing column (wire.md 8).

`python_values(column)`: what `spoolq.qwp.decode` gives, as Python objects: what a reader takes for NULL becomes
None (`qwp.stored.as_read`), UUID and IPV4 their classes, GEOHASH a `Geohash`, arrays nested lists.  DATE
and timestamps stay ints in the unit of the type.

`coerce(column, target)`: the column in another type, or a `WireFault`.  Taken: whole numbers into wider or
narrower ones that hold every value and into FLOAT and DOUBLE; FLOAT into DOUBLE and back; SYMBOL and VARCHAR
into each other; TIMESTAMP and TIMESTAMP_NANOS into each other; decimals into another width.  All else is 03.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any, Final
from uuid import UUID

from spoolq.qwp.decode import ColumnType, DecodedColumn, WireFault
from spoolq.qwp.layout import Status
from spoolq.qwp.stored import as_read
from spoolq.values import Geohash

_INT64_MIN: Final = -(1 << 63)
_INT64: Final = range(_INT64_MIN, 1 << 63)
_NANOS_IN_MICRO: Final = 1_000


def python_values(column: DecodedColumn) -> list[Any]:
    """One value a row, None for NULL."""
    kind, values = column.type, as_read(column)
    match kind:
        case ColumnType.BOOLEAN | ColumnType.BYTE | ColumnType.SHORT:
            return [absent(kind) if value is None else value for value in values]
        case ColumnType.IPV4:
            return [None if value is None else IPv4Address(value) for value in values]
        case ColumnType.UUID:
            return [None if value is None else UUID(bytes=value) for value in values]
        case ColumnType.GEOHASH:
            mask = (1 << column.precision) - 1
            return [None if value is None else Geohash(value & mask, column.precision) for value in values]
        case ColumnType.DOUBLE_ARRAY | ColumnType.LONG_ARRAY:
            return [None if value is None else _nested(*value) for value in values]
    return values


def _nested(shape: tuple[int, ...], flat: list[Any]) -> list[Any]:
    """Nested lists of that shape; a dimension of 0 ends the nesting there."""
    if len(shape) == 1:
        return flat
    width = math.prod(shape[1:])
    return [_nested(shape[1:], flat[row * width : (row + 1) * width]) for row in range(shape[0])]


def absent(kind: ColumnType) -> Any:
    """What a row has that does not set a column: NULL, where the type has one (wire.md 4.2)."""
    return {ColumnType.BOOLEAN: False, ColumnType.BYTE: 0, ColumnType.SHORT: 0}.get(kind)


_WHOLE: Final[dict[ColumnType, range]] = {
    ColumnType.BYTE: range(-(1 << 7), 1 << 7),
    ColumnType.SHORT: range(-(1 << 15), 1 << 15),
    ColumnType.INT: range(-(1 << 31), 1 << 31),
    ColumnType.LONG: _INT64,
}
_FLOATS: Final = (ColumnType.FLOAT, ColumnType.DOUBLE)
_TEXTS: Final = (ColumnType.SYMBOL, ColumnType.VARCHAR)
_TIMES: Final = (ColumnType.TIMESTAMP, ColumnType.TIMESTAMP_NANOS)
DECIMALS: Final = (ColumnType.DECIMAL64, ColumnType.DECIMAL128, ColumnType.DECIMAL256)


def coerce(column: DecodedColumn, target: ColumnType) -> DecodedColumn:
    """The column as one of type ``target``; raises WireFault 03 (09 where microseconds do not fit nanoseconds)."""
    kind = column.type
    if kind is target:
        return column
    values = python_values(column)
    if kind in _TEXTS and target in _TEXTS:
        return DecodedColumn(column.name, target, values)
    if kind in _WHOLE and target in _WHOLE:
        return DecodedColumn(column.name, target, _each(column, values, target, _whole(target)))
    if (kind in _WHOLE or kind in _FLOATS) and target in _FLOATS:
        return DecodedColumn(column.name, target, _each(column, values, target, _float(target)))
    if kind in _TIMES and target in _TIMES:
        return DecodedColumn(column.name, target, convert_times(values, kind, target))
    if kind in DECIMALS and target in DECIMALS:
        digits = {ColumnType.DECIMAL64: 63, ColumnType.DECIMAL128: 127, ColumnType.DECIMAL256: 255}[target]
        found = _each(column, values, target, _decimal(digits, column.scale))
        return DecodedColumn(column.name, target, found, scale=column.scale)
    raise mismatch(column.name, kind, target)


def mismatch(name: str, kind: ColumnType, target: ColumnType) -> WireFault:
    """The 03 of a type that cannot be written to the existing column."""
    text = f"type coercion from {kind.name} to {target.name} is not supported [column={name}]"
    return WireFault(Status.SCHEMA_MISMATCH, text)


def _each(column: DecodedColumn, values: list[Any], target: ColumnType, change: Callable[[Any], Any]) -> list[Any]:
    """Each value changed, None left alone; a value that does not fit is a 03 that names the column."""
    try:
        return [None if value is None else change(value) for value in values]
    except (OverflowError, ValueError):
        text = f"a {column.type.name} value does not fit {target.name} [column={column.name}]"
        raise WireFault(Status.SCHEMA_MISMATCH, text) from None


def _whole(target: ColumnType) -> Callable[[int], int]:
    def change(value: int) -> int:
        if value not in _WHOLE[target]:
            raise OverflowError
        return value

    return change


def _float(target: ColumnType) -> Callable[[float], float]:
    if target is ColumnType.DOUBLE:
        return float
    return lambda value: float(struct.unpack("<f", struct.pack("<f", value))[0])


def _decimal(bits: int, scale: int) -> Callable[[Any], Any]:
    def change(value: Any) -> Any:
        if abs(int(value.scaleb(scale))) >> bits:
            raise OverflowError
        return value

    return change


def convert_times(values: list[Any], kind: ColumnType, target: ColumnType) -> list[Any]:
    """Timestamps in the other unit: to micros toward zero, to nanos exact or 09 (wire.md 4.4)."""
    if kind is target:
        return values
    if target is ColumnType.TIMESTAMP:
        return [
            None if value is None else int(math.copysign(1, value)) * (abs(value) // _NANOS_IN_MICRO)
            for value in values
        ]
    if any(value is not None and value * _NANOS_IN_MICRO not in _INT64 for value in values):
        raise WireFault(Status.WRITE_ERROR, "timestamp overflow: microseconds do not fit nanoseconds")
    return [None if value is None else value * _NANOS_IN_MICRO for value in values]
