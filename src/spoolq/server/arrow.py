"""Columns of a table as Arrow arrays; needs pyarrow, which is imported when this module is.

BOOLEAN bool, BYTE int8, SHORT int16, INT int32, LONG int64, FLOAT float, DOUBLE double, BINARY binary
TIMESTAMP, TIMESTAMP_NANOS, DATE        timestamp of us, ns, ms (UTC, without a zone)
SYMBOL, VARCHAR, CHAR, IPV4, UUID       string
LONG256                                 string, 0x and hexadecimal digits
GEOHASH                                 string, base 32 where the precision is a multiple of 5, else binary digits
DECIMAL64, DECIMAL128, DECIMAL256       decimal128(38) of the column's scale, decimal256(76) where that is asked for,
                                        string where a value has more than 38 digits (`Column.as_text`)
DOUBLE_ARRAY, LONG_ARRAY                lists, nested as deep as the column has dimensions
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, InvalidOperation, localcontext
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from spoolq.qwp.decode import ColumnType, DecodedColumn, WireFault, fold
from spoolq.qwp.layout import Status
from spoolq.server import convert
from spoolq.server.schema import Column, Fitted
from spoolq.values import Geohash

_GEOHASH_ALPHABET: Final = "0123456789bcdefghjkmnpqrstuvwxyz"
_NARROW_DIGITS: Final = 38
_WIDE_DIGITS: Final = 76

_PLAIN: Final[dict[ColumnType, Any]] = {
    ColumnType.BOOLEAN: pa.bool_(),
    ColumnType.BYTE: pa.int8(),
    ColumnType.SHORT: pa.int16(),
    ColumnType.INT: pa.int32(),
    ColumnType.LONG: pa.int64(),
    ColumnType.FLOAT: pa.float32(),
    ColumnType.DOUBLE: pa.float64(),
    ColumnType.TIMESTAMP: pa.timestamp("us"),
    ColumnType.TIMESTAMP_NANOS: pa.timestamp("ns"),
    ColumnType.DATE: pa.timestamp("ms"),
    ColumnType.BINARY: pa.binary(),
}
_FLOATS: Final = (ColumnType.FLOAT, ColumnType.DOUBLE)
_LEAST: Final = pa.scalar(-(1 << 63), pa.int64())
_SENTINELS: Final = {
    ColumnType.INT: pa.scalar(-(1 << 31), pa.int32()),
    ColumnType.LONG: _LEAST,
    ColumnType.TIMESTAMP: _LEAST,
    ColumnType.TIMESTAMP_NANOS: _LEAST,
    ColumnType.DATE: _LEAST,
}
_ARRAYS: Final = {ColumnType.DOUBLE_ARRAY: pa.float64(), ColumnType.LONG_ARRAY: pa.int64()}


def arrow_type(column: Column, *, wide: bool = False) -> Any:
    """The Arrow type of a column; ``wide``: decimals of 76 digits."""
    if column.type in convert.DECIMALS:
        if wide:
            return pa.decimal256(_WIDE_DIGITS, column.scale)
        if column.as_text:
            return pa.string()
        return pa.decimal128(_NARROW_DIGITS, min(column.scale, _NARROW_DIGITS))
    if column.type in _ARRAYS:
        kind = _ARRAYS[column.type]
        for _ in range(column.dimensions):
            kind = pa.list_(kind)
        return kind
    return _PLAIN.get(column.type, pa.string())


def part_arrow(columns: list[Column], part: Fitted, *, wide: bool = False) -> Any:
    """One part as a `pyarrow.Table` with all the columns; raises WireFault for a value that does not fit."""
    arrays = [_array(column, part, wide) for column in columns]
    return pa.Table.from_arrays(arrays, names=[column.name for column in columns])


def table_arrow(columns: list[Column], parts: list[Fitted]) -> Any:
    """All parts as one `pyarrow.Table`."""
    schema = pa.schema([(column.name, arrow_type(column, wide=True)) for column in columns])
    return pa.concat_tables([schema.empty_table(), *(part_arrow(columns, part, wide=True) for part in parts)])


def needs_text(column: Column, part: Fitted) -> bool:
    """Whether a decimal column has a value here that 38 digits do not hold."""
    if column.type not in convert.DECIMALS or column.as_text:
        return False
    found = part.columns.get(fold(column.name))
    if found is None:
        return False
    values = (value for value in found.values if value)
    return column.scale > _NARROW_DIGITS or any(v.adjusted() + column.scale >= _NARROW_DIGITS for v in values)


def concatenated(tables: list[Any], columns: list[Column]) -> Any:
    """Parts of one table below each other; a column that came after a part is filled up."""
    whole = []
    for table in tables:
        known = set(table.column_names)
        arrays = [
            table.column(column.name).cast(arrow_type(column))  # text, since a later part is so wide
            if column.name in known
            else pa.array([convert.absent(column.type)] * len(table), arrow_type(column))
            for column in columns
        ]
        whole.append(pa.Table.from_arrays(arrays, names=[column.name for column in columns]))
    return pa.concat_tables(whole)


def _array(column: Column, part: Fitted, wide: bool) -> Any:
    kind = arrow_type(column, wide=wide)
    found = part.columns.get(fold(column.name))
    if found is None:
        return pa.array([convert.absent(column.type)] * part.row_count, kind)
    if found.buffers and not found.null_count:
        return _from_buffers(kind, found, part.row_count)
    values = convert.python_values(found)
    if column.type in convert.DECIMALS:
        digits = _WIDE_DIGITS if wide or column.as_text else _NARROW_DIGITS
        values = [None if value is None else _rescaled(column, value, digits) for value in values]
        if column.as_text and not wide:
            values = [None if value is None else f"{value:f}" for value in values]
    elif (as_text := _TEXTS.get(column.type)) is not None:
        values = [None if value is None else as_text(value) for value in values]
    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, OverflowError, UnicodeError) as error:
        text = f"a value cannot be stored: {error} [column={column.name}]"
        raise WireFault(Status.WRITE_ERROR, text) from None


def _from_buffers(kind: Any, column: DecodedColumn, rows: int) -> Any:
    """Values as they stand in the message; the ones that read as NULL become it.  No Python value is made.

    Gorilla timestamps and nulls by bitmap do not come here: they have no such form.
    """
    # bytes() copies: a slice of a message may start anywhere, Arrow wants its buffers aligned.
    found = pa.Array.from_buffers(kind, rows, [None, *(pa.py_buffer(bytes(buffer)) for buffer in column.buffers)])
    sentinel = _SENTINELS.get(column.type) if column.name else None  # the designated timestamp has none
    if sentinel is not None:
        numbers = found.view(sentinel.type)
        if pc.any(pc.equal(numbers, sentinel)).as_py():
            found = pc.if_else(pc.equal(numbers, sentinel), pa.scalar(None, kind), found)
    elif column.type in _FLOATS and pc.any(pc.is_nan(found)).as_py():
        found = pc.if_else(pc.is_nan(found), pa.scalar(None, kind), found)
    return found


def _rescaled(column: Column, value: Decimal, digits: int) -> Decimal:
    """The value with the column's scale, exactly, or a WireFault; too many digits are found by Arrow."""
    scale = min(column.scale, digits)
    with localcontext(prec=2 * _WIDE_DIGITS) as context:
        context.Emin, context.Emax = -999_999, 999_999
        try:
            changed = value.quantize(Decimal(1).scaleb(-scale))
        except InvalidOperation:
            changed = Decimal("NaN")
        if changed != value:
            text = f"a decimal has more digits behind the point than the {scale} of the column [column={column.name}]"
            raise WireFault(Status.SCHEMA_MISMATCH, text)
    return changed


def geohash_text(value: Geohash) -> str:
    """Base 32, five bits a character; binary digits where the precision is no multiple of five."""
    bits, precision = value.bits, value.precision
    if precision % 5:
        return f"{bits:0{precision}b}"
    return "".join(_GEOHASH_ALPHABET[bits >> shift & 31] for shift in range(precision - 5, -1, -5))


_TEXTS: Final[dict[ColumnType, Callable[[Any], str]]] = {
    ColumnType.IPV4: str,
    ColumnType.UUID: str,
    ColumnType.LONG256: hex,
    ColumnType.GEOHASH: geohash_text,
}
