"""What becomes of a value: what a decoder finds of it, and what a reader of the table sees.

`as_stored(type, value)` takes the stored form that the row buffer keeps (`columns.convert`) and gives
the value that `decode` finds in the message.  It is the right side of ``decode(encode(x)) ==
as_stored(x)`` (ours.md 1) and says in one place what is not kept:

| type                      | NULL is found as | a value is found as                              |
|---------------------------|------------------|--------------------------------------------------|
| BOOLEAN                   | False            | the same                                         |
| BYTE, SHORT               | 0                | the same                                         |
| INT, LONG                 | -2**31, -2**63   | the same                                         |
| FLOAT, DOUBLE             | NaN              | the nearest binary32; the same, all NaN one NaN  |
| CHAR                      | ``"\\0"``         | the character                                    |
| all others                | None             | str, bytes, int, Decimal, (shape, flat list)     |

`as_read(column)` gives a decoded column as SQL shows it: a value that QuestDB takes for NULL
(wire.md 4.2) is None there.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from spoolq.columns.types import ARRAYS, DECIMALS, ColumnType
from spoolq.qwp.decode_columns import DecodedColumn, decimal_of

_INT32_MIN: Final = -(1 << 31)
_INT64_MIN: Final = -(1 << 63)
_NAN: Final = float("nan")

_NULLS: Final[dict[ColumnType, Any]] = {
    ColumnType.BOOLEAN: False,
    ColumnType.BYTE: 0,
    ColumnType.SHORT: 0,
    ColumnType.INT: _INT32_MIN,
    ColumnType.LONG: _INT64_MIN,
    ColumnType.FLOAT: _NAN,
    ColumnType.DOUBLE: _NAN,
    ColumnType.CHAR: "\0",
}

_READ_AS_NULL: Final[dict[ColumnType, Any]] = {
    ColumnType.INT: _INT32_MIN,
    ColumnType.LONG: _INT64_MIN,
    ColumnType.TIMESTAMP: _INT64_MIN,
    ColumnType.TIMESTAMP_NANOS: _INT64_MIN,
    ColumnType.DATE: _INT64_MIN,
    ColumnType.UUID: (b"\x80" + bytes(7)) * 2,
    ColumnType.LONG256: int.from_bytes((bytes(7) + b"\x80") * 4, "little"),
    ColumnType.CHAR: "\0",
    ColumnType.IPV4: 0,
}


def as_stored(column_type: ColumnType, value: Any) -> Any:
    """What `decode` finds of a stored form; ``value`` None = NULL."""
    if value is None:
        return _NULLS.get(column_type)
    if column_type is ColumnType.FLOAT:
        return struct.unpack("<f", struct.pack("<f", value))[0]
    if column_type is ColumnType.CHAR:
        return chr(value)
    if column_type is ColumnType.VARCHAR:
        return value.decode()
    if column_type is ColumnType.UUID:
        return value[::-1]
    if column_type is ColumnType.GEOHASH:
        return value[0]
    if column_type in DECIMALS:
        return decimal_of(*value)
    if column_type in ARRAYS:
        shape, data = value
        code = "d" if column_type is ColumnType.DOUBLE_ARRAY else "q"
        return tuple(shape), list(struct.unpack(f"<{len(data) // 8}{code}", data))
    return value


def as_read(column: DecodedColumn) -> list[Any]:
    """The column's values with None for each one that reads as NULL.

    A GEOHASH of all ones reads as NULL only where no bitmap says otherwise (wire.md 4.8).  A null
    row of the designated timestamp stays None here; the server puts its clock there.
    """
    if column.type is ColumnType.FLOAT or column.type is ColumnType.DOUBLE:
        return [None if value is None or value != value else value for value in column.values]
    null = _READ_AS_NULL.get(column.type)
    if not column.name:
        return list(column.values)  # the designated timestamp has no sentinel
    if column.type is ColumnType.GEOHASH and not column.has_bitmap:
        null = (1 << 8 * ((column.precision + 7) // 8)) - 1
    if null is None:
        return list(column.values)
    return [None if value == null else value for value in column.values]
