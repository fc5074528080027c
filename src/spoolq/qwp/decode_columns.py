"""Column data of every type (wire.md 4), read strictly; one small function a layout.

Each reader gets the number of values present (nulls of a bitmap are not stored) and gives a list of
just those; `column_data` spreads them over the rows.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any, Final

from spoolq import limits
from spoolq.columns.types import DECIMALS, FIXED_BYTES, TIMESTAMPS, ColumnType
from spoolq.qwp import gorilla, layout
from spoolq.qwp.layout import Status
from spoolq.qwp.reader import Reader, WireFault

_INT32_END: Final = 1 << 31


@dataclass(slots=True)
class DecodedColumn:
    """A column of a block: one Python value a row, None for a NULL by bitmap.

    Values: bool, int, float, str (SYMBOL, VARCHAR, CHAR), bytes (BINARY, UUID as 16 RFC bytes),
    Decimal; GEOHASH int with ``precision``; arrays ``(shape, flat list)``.  DATE and timestamps are
    ints in the unit of the type, IPV4 and LONG256 ints.  ``has_bitmap``: the nulls, if any, were told.
    """

    name: str
    type: ColumnType
    values: list[Any]
    precision: int = 0
    scale: int = 0
    has_bitmap: bool = False


def column_data(
    reader: Reader, name: str, column_type: ColumnType, rows: int, flags: int, symbols: list[str]
) -> DecodedColumn:
    """Reads one column of ``rows`` rows."""
    nulls = _nulls(reader, rows)
    present = rows if nulls is None else rows - sum(nulls)
    column = DecodedColumn(name, column_type, [], has_bitmap=nulls is not None)
    found: list[Any]
    if column_type is ColumnType.SYMBOL:
        found = _symbols(reader, present, flags, symbols)
    elif column_type in TIMESTAMPS and flags & layout.FLAG_GORILLA:
        found = _encoded_timestamps(reader, present)
    elif column_type is ColumnType.GEOHASH:
        column.precision, found = _geohashes(reader, present)
    elif column_type in DECIMALS:
        column.scale, found = _decimals(reader, present, FIXED_BYTES[column_type])
    else:
        found = _READERS[column_type](reader, present)
    if nulls is not None:
        left = iter(found)
        found = [None if null else next(left) for null in nulls]
    column.values = found
    return column


def _nulls(reader: Reader, rows: int) -> list[bool] | None:
    if reader.byte() == 0:
        return None
    return _bits(reader, rows)


def _bits(reader: Reader, count: int) -> list[bool]:
    """LSB first; padding bits are not looked at."""
    out: list[bool] = []
    for byte in reader.take((count + 7) // 8, "bits"):
        out += _BITS_OF[byte]
    return out[:count]


_BITS_OF: Final = [[bool(byte >> bit & 1) for bit in range(8)] for byte in range(256)]


def _numbers(code: str, nbytes: int) -> Callable[[Reader, int], list[Any]]:
    def read(reader: Reader, count: int) -> list[Any]:
        values = array(code)
        values.frombytes(reader.take(count * nbytes, "column values"))
        return values.tolist()

    return read


def _chars(reader: Reader, count: int) -> list[str]:
    return [chr(unit) for unit in struct.unpack(f"<{count}H", reader.take(2 * count, "column values"))]


def _wide(reader: Reader, count: int) -> list[int]:
    data = bytes(reader.take(32 * count, "column values"))
    return [int.from_bytes(data[at : at + 32], "little") for at in range(0, len(data), 32)]


def _uuids(reader: Reader, count: int) -> list[bytes]:
    data = bytes(reader.take(16 * count, "column values"))
    return [data[at : at + 16][::-1] for at in range(0, len(data), 16)]


def _pieces(reader: Reader, count: int) -> list[bytes]:
    offsets = struct.unpack(f"<{count + 1}I", reader.take(4 * (count + 1), "offsets"))
    if offsets[0] != 0:
        raise WireFault(Status.PARSE_ERROR, f"the first offset is {offsets[0]}, not 0")
    if offsets[-1] >= _INT32_END or offsets[-1] > reader.left:
        raise WireFault(Status.PARSE_ERROR, f"the last offset {offsets[-1]} is beyond the payload")
    if any(b < a for a, b in pairwise(offsets)):
        raise WireFault(Status.PARSE_ERROR, "offsets decrease")
    data = bytes(reader.take(offsets[-1], "text bytes"))
    return [data[a:b] for a, b in pairwise(offsets)]


def _varchars(reader: Reader, count: int) -> list[str]:
    try:
        return [piece.decode() for piece in _pieces(reader, count)]
    except UnicodeDecodeError:
        raise WireFault(Status.PARSE_ERROR, "a VARCHAR value is not UTF-8") from None


def _symbols(reader: Reader, count: int, flags: int, symbols: list[str]) -> list[str]:
    if not flags & layout.FLAG_DELTA_DICTIONARY:
        size = reader.varint()
        if size > limits.DICTIONARY_ENTRIES_MAX or size > reader.left:
            raise WireFault(Status.PARSE_ERROR, f"a symbol dictionary of {size} entries")
        symbols = [reader.text("symbol") for _ in range(size)]
    ids = [reader.varint() for _ in range(count)]
    if ids and max(ids) >= len(symbols):
        raise WireFault(Status.PARSE_ERROR, f"symbol index out of range: {max(ids)} of {len(symbols)}")
    return [symbols[symbol_id] for symbol_id in ids]


def _encoded_timestamps(reader: Reader, count: int) -> list[int]:
    encoding = reader.byte()
    if encoding == layout.TIMESTAMPS_RAW:
        values: list[int] = _READERS[ColumnType.TIMESTAMP](reader, count)
        return values
    if encoding != layout.TIMESTAMPS_GORILLA:
        raise WireFault(Status.PARSE_ERROR, f"unknown timestamp encoding {encoding}")
    found = gorilla.decode(reader.data, reader.offset, count)
    if found is None:
        raise WireFault(Status.PARSE_ERROR, "attempt to read beyond available bits")
    reader.offset = found[1]
    return found[0]


def _geohashes(reader: Reader, count: int) -> tuple[int, list[int]]:
    precision = reader.varint()
    if not 1 <= precision <= limits.GEOHASH_BITS_MAX:
        raise WireFault(Status.PARSE_ERROR, f"invalid GeoHash precision {precision}")
    width = (precision + 7) // 8
    data = bytes(reader.take(width * count, "column values"))
    return precision, [int.from_bytes(data[at : at + width], "little") for at in range(0, len(data), width)]


def _decimals(reader: Reader, count: int, width: int) -> tuple[int, list[Decimal]]:
    scale = reader.byte()
    if scale > limits.DECIMAL_SCALE_MAX:
        raise WireFault(Status.PARSE_ERROR, f"decimal scale {scale} above {limits.DECIMAL_SCALE_MAX}")
    data = bytes(reader.take(width * count, "column values"))
    numbers = (int.from_bytes(data[at : at + width], "little", signed=True) for at in range(0, len(data), width))
    return scale, [decimal_of(number, scale) for number in numbers]


def decimal_of(unscaled: int, scale: int) -> Decimal:
    """``unscaled / 10**scale``, exact whatever the decimal context says."""
    return Decimal((int(unscaled < 0), tuple(map(int, str(abs(unscaled)))), -scale))


def _arrays(code: str) -> Callable[[Reader, int], list[Any]]:
    def read(reader: Reader, count: int) -> list[Any]:
        found = [_one_array(reader, code) for _ in range(count)]
        if len({len(shape) for shape, _ in found}) > 1:
            raise WireFault(Status.SCHEMA_MISMATCH, "arrays of differing dimensions in one column")
        return found

    return read


def _one_array(reader: Reader, code: str) -> tuple[tuple[int, ...], list[Any]]:
    dimensions = reader.byte()
    if not 1 <= dimensions <= limits.ARRAY_DIMENSIONS_MAX:
        raise WireFault(Status.PARSE_ERROR, f"an array of {dimensions} dimensions")
    shape = struct.unpack(f"<{dimensions}i", reader.take(4 * dimensions, "array shape"))
    product = 1
    for dimension in shape:
        product *= dimension
        if dimension < 0 or product >= _INT32_END:
            raise WireFault(Status.PARSE_ERROR, f"an array of shape {shape}")
    elements = array(code)
    elements.frombytes(reader.take(8 * product, "array elements"))
    return shape, elements.tolist()


_READERS: Final[dict[ColumnType, Callable[[Reader, int], list[Any]]]] = {
    ColumnType.BOOLEAN: _bits,
    ColumnType.BYTE: _numbers("b", 1),
    ColumnType.SHORT: _numbers("h", 2),
    ColumnType.INT: _numbers("i", 4),
    ColumnType.LONG: _numbers("q", 8),
    ColumnType.FLOAT: _numbers("f", 4),
    ColumnType.DOUBLE: _numbers("d", 8),
    ColumnType.TIMESTAMP: _numbers("q", 8),
    ColumnType.TIMESTAMP_NANOS: _numbers("q", 8),
    ColumnType.DATE: _numbers("q", 8),
    ColumnType.UUID: _uuids,
    ColumnType.LONG256: _wide,
    ColumnType.VARCHAR: _varchars,
    ColumnType.BINARY: _pieces,
    ColumnType.DOUBLE_ARRAY: _arrays("d"),
    ColumnType.LONG_ARRAY: _arrays("q"),
    ColumnType.CHAR: _chars,
    ColumnType.IPV4: _numbers("I", 4),
}
