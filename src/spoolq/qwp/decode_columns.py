"""Column data of every type (wire.md 4), read strictly; one small function a layout.

Each reader gets the number of values present (nulls of a bitmap are not stored), checks their bytes whole and
gives a `Later`: a function that makes the list of just those values.  It is called when somebody looks at
`DecodedColumn.values`, so a server that only keeps a message pays for the checks alone.  A `Later` never fails
and never changes: it holds the message's bytes, and the dictionary as it was (`Dictionary.apply`).
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from spoolq import limits
from spoolq.columns.types import DECIMALS, FIXED_BYTES, TIMESTAMPS, ColumnType
from spoolq.qwp import gorilla, inbound, layout
from spoolq.qwp.layout import Status
from spoolq.qwp.reader import Reader, WireFault

if TYPE_CHECKING:
    from decimal import Decimal

Later = Callable[[], list[Any]]

_INT32_END: Final = 1 << 31
_TRUNCATED: Final = -1
MIXED_DIMENSIONS: Final = -1


class DecodedColumn:
    """A column of a block: one Python value a row, None for a NULL by bitmap.

    Values: bool, int, float, str (SYMBOL, VARCHAR, CHAR), bytes (BINARY, UUID as 16 RFC bytes),
    Decimal; GEOHASH int with ``precision``; arrays ``(shape, flat list)``.  DATE and timestamps are
    ints in the unit of the type, IPV4 and LONG256 ints.  ``has_bitmap``: the nulls, if any, were told;
    ``null_count``: how many there are by bitmap; ``dimensions``: of an array column with a value, else 0, or
    `MIXED_DIMENSIONS` (`decode.check_dimensions`).

    ``buffers``: the values present as they stand on the wire, for who can use them so: (numbers,) where the type
    has a fixed width that is a machine's, (offsets, bytes) of VARCHAR and BINARY, else ().
    """

    __slots__ = (
        *("name", "type", "precision", "scale", "dimensions", "has_bitmap", "null_count", "buffers"),
        *("_bitmap", "_later", "_values"),
    )

    def __init__(
        self,
        name: str,
        type: ColumnType,
        values: list[Any] | None = None,
        precision: int = 0,
        scale: int = 0,
        has_bitmap: bool = False,
    ) -> None:
        self.name = name
        self.type = type
        self.precision = precision
        self.scale = scale
        self.dimensions = 0
        self.buffers: tuple[memoryview, ...] = ()
        self.has_bitmap = has_bitmap
        self.null_count = values.count(None) if values is not None else 0
        self._values = values
        self._later: Later = list
        self._bitmap: memoryview | None = None

    @property
    def values(self) -> list[Any]:
        """One value a row; made at the first look."""
        if self._values is None:
            found = self._later()
            if self.null_count:
                assert self._bitmap is not None
                left, rows = iter(found), len(found) + self.null_count
                found = [None if null else next(left) for null in _unpacked(self._bitmap, rows)]
            self._values, self._later, self._bitmap = found, list, None
        return self._values

    def __repr__(self) -> str:
        return f"DecodedColumn({self.name!r}, {self.type.name})"


def column_data(
    reader: Reader, name: str, column_type: ColumnType, rows: int, flags: int, symbols: Sequence[str]
) -> DecodedColumn:
    """Reads one column of ``rows`` rows."""
    column = DecodedColumn(name, column_type)
    if reader.byte() != 0:
        column.has_bitmap = True
        column._bitmap = reader.take((rows + 7) // 8, "bits")
        # Padding bits are not looked at.
        column.null_count = (int.from_bytes(column._bitmap, "little") & (1 << rows) - 1).bit_count()
    present = rows - column.null_count
    if column_type is ColumnType.SYMBOL:
        later = _symbols(reader, present, flags, symbols)
    elif column_type in TIMESTAMPS and flags & layout.FLAG_GORILLA:
        later = _encoded_timestamps(reader, present)
    elif column_type is ColumnType.GEOHASH:
        column.precision, later = _geohashes(reader, present)
    elif column_type in DECIMALS:
        column.scale, later = _decimals(reader, present, FIXED_BYTES[column_type])
    elif column_type in _ARRAY_CODES:
        column.dimensions, later = _arrays(reader, present, _ARRAY_CODES[column_type])
    elif column_type is ColumnType.VARCHAR:
        column.buffers, later = _varchars(reader, present)
    elif column_type is ColumnType.BINARY:
        column.buffers, later = _binaries(reader, present)
    else:
        start = reader.offset
        later = _READERS[column_type](reader, present)
        if column_type in _MACHINE_NUMBERS:
            column.buffers = (reader.data[start : reader.offset],)
    column._later, column._values = later, None
    return column


_BITS_OF: Final = [[bool(byte >> bit & 1) for bit in range(8)] for byte in range(256)]


def _unpacked(bits: memoryview, count: int) -> list[bool]:
    """LSB first; padding bits are not looked at."""
    out: list[bool] = []
    for byte in bits:
        out += _BITS_OF[byte]
    return out[:count]


def _booleans(reader: Reader, count: int) -> Later:
    bits = reader.take((count + 7) // 8, "bits")
    return lambda: _unpacked(bits, count)


def _numbers(code: str, nbytes: int) -> Callable[[Reader, int], Later]:
    def read(reader: Reader, count: int) -> Later:
        data = reader.take(count * nbytes, "column values")

        def later() -> list[Any]:
            values = array(code)
            values.frombytes(data)
            return values.tolist()

        return later

    return read


def _chars(reader: Reader, count: int) -> Later:
    data = reader.take(2 * count, "column values")
    return lambda: [chr(unit) for unit in struct.unpack(f"<{count}H", data)]


def _wide(reader: Reader, count: int) -> Later:
    data = reader.take(32 * count, "column values")
    return lambda: [int.from_bytes(piece, "little") for piece in _split(data, 32)]


def _uuids(reader: Reader, count: int) -> Later:
    data = reader.take(16 * count, "column values")
    return lambda: [piece[::-1] for piece in _split(data, 16)]


def _split(data: memoryview, width: int) -> list[bytes]:
    """Pieces of the same width."""
    whole = bytes(data)
    return [whole[at : at + width] for at in range(0, len(whole), width)]


def _checked_pieces(reader: Reader, count: int) -> tuple[memoryview, memoryview]:
    """Offsets and bytes of VARCHAR or BINARY."""
    offsets = reader.take(4 * (count + 1), "offsets")
    first, last = int.from_bytes(offsets[:4], "little"), int.from_bytes(offsets[-4:], "little")
    if first != 0:
        raise WireFault(Status.PARSE_ERROR, f"the first offset is {first}, not 0")
    if last >= _INT32_END or last > reader.left:
        raise WireFault(Status.PARSE_ERROR, f"the last offset {last} is beyond the payload")
    if not inbound.offsets_rise(offsets):
        raise WireFault(Status.PARSE_ERROR, "offsets decrease")
    return offsets, reader.take(last, "text bytes")


def _pieces_of(offsets: memoryview, data: memoryview) -> list[bytes]:
    whole = bytes(data)
    return [whole[a:b] for a, b in pairwise(struct.unpack(f"<{len(offsets) // 4}I", offsets))]


def _binaries(reader: Reader, count: int) -> tuple[tuple[memoryview, memoryview], Later]:
    offsets, data = _checked_pieces(reader, count)
    return (offsets, data), lambda: _pieces_of(offsets, data)


def _varchars(reader: Reader, count: int) -> tuple[tuple[memoryview, memoryview], Later]:
    offsets, data = _checked_pieces(reader, count)
    try:
        text = str(data, "utf-8")
    except UnicodeDecodeError:
        raise WireFault(Status.PARSE_ERROR, "a VARCHAR value is not UTF-8") from None
    if len(text) != len(data) and not inbound.cuts_between_characters(offsets, data):
        raise WireFault(Status.PARSE_ERROR, "a VARCHAR value is not UTF-8")
    return (offsets, data), lambda: [piece.decode() for piece in _pieces_of(offsets, data)]


def _symbols(reader: Reader, count: int, flags: int, symbols: Sequence[str]) -> Later:
    if not flags & layout.FLAG_DELTA_DICTIONARY:
        size = reader.varint()
        if size > limits.DICTIONARY_ENTRIES_MAX or size > reader.left:
            raise WireFault(Status.PARSE_ERROR, f"a symbol dictionary of {size} entries")
        symbols = [reader.text("symbol") for _ in range(size)]
    data, start = reader.data, reader.offset
    end, largest = inbound.varints_end(data, start, count)
    if end < 0:
        text = "incomplete varint" if end == _TRUNCATED else "varint overflow"
        raise WireFault(Status.PARSE_ERROR, text)
    if count and largest >= len(symbols):
        raise WireFault(Status.PARSE_ERROR, f"symbol index out of range: {largest} of {len(symbols)}")
    reader.offset = end
    return lambda: [symbols[symbol_id] for symbol_id in inbound.varints(data, start, count)]


def _encoded_timestamps(reader: Reader, count: int) -> Later:
    encoding = reader.byte()
    if encoding == layout.TIMESTAMPS_RAW:
        return _READERS[ColumnType.TIMESTAMP](reader, count)
    if encoding != layout.TIMESTAMPS_GORILLA:
        raise WireFault(Status.PARSE_ERROR, f"unknown timestamp encoding {encoding}")
    data, start = reader.data, reader.offset
    end = inbound.gorilla_end(data, start, count)
    if end < 0:
        raise WireFault(Status.PARSE_ERROR, "attempt to read beyond available bits")
    reader.offset = end

    def later() -> list[Any]:
        found = gorilla.decode(data, start, count)
        assert found is not None  # `gorilla_end` has walked it
        return found[0]

    return later


def _geohashes(reader: Reader, count: int) -> tuple[int, Later]:
    precision = reader.varint()
    if not 1 <= precision <= limits.GEOHASH_BITS_MAX:
        raise WireFault(Status.PARSE_ERROR, f"invalid GeoHash precision {precision}")
    width = (precision + 7) // 8
    data = reader.take(width * count, "column values")
    return precision, lambda: [int.from_bytes(piece, "little") for piece in _split(data, width)]


def _decimals(reader: Reader, count: int, width: int) -> tuple[int, Later]:
    scale = reader.byte()
    if scale > limits.DECIMAL_SCALE_MAX:
        raise WireFault(Status.PARSE_ERROR, f"decimal scale {scale} above {limits.DECIMAL_SCALE_MAX}")
    data = reader.take(width * count, "column values")

    def later() -> list[Any]:
        numbers = (int.from_bytes(piece, "little", signed=True) for piece in _split(data, width))
        return [decimal_of(number, scale) for number in numbers]

    return scale, later


def decimal_of(unscaled: int, scale: int) -> Decimal:
    """``unscaled / 10**scale``, exact whatever the decimal context says."""
    from decimal import Decimal  # a slot is opened with this module, and seldom holds a decimal that is looked at

    return Decimal((int(unscaled < 0), tuple(map(int, str(abs(unscaled)))), -scale))


def _arrays(reader: Reader, count: int, code: str) -> tuple[int, Later]:
    """The dimensions of the column, 0 without a value."""
    found = [_one_array(reader) for _ in range(count)]
    dimensions = {len(shape) for shape, _ in found}
    return MIXED_DIMENSIONS if len(dimensions) > 1 else max(dimensions, default=0), lambda: [
        (shape, list(struct.unpack(f"<{len(data) // 8}{code}", data))) for shape, data in found
    ]


def _one_array(reader: Reader) -> tuple[tuple[int, ...], memoryview]:
    dimensions = reader.byte()
    if not 1 <= dimensions <= limits.ARRAY_DIMENSIONS_MAX:
        raise WireFault(Status.PARSE_ERROR, f"an array of {dimensions} dimensions")
    shape = struct.unpack(f"<{dimensions}i", reader.take(4 * dimensions, "array shape"))
    product = 1
    for dimension in shape:
        product *= dimension
        if dimension < 0 or product >= _INT32_END:
            raise WireFault(Status.PARSE_ERROR, f"an array of shape {shape}")
    return shape, reader.take(8 * product, "array elements")


_ARRAY_CODES: Final = {ColumnType.DOUBLE_ARRAY: "d", ColumnType.LONG_ARRAY: "q"}
_READERS: Final[dict[ColumnType, Callable[[Reader, int], Later]]] = {
    ColumnType.BOOLEAN: _booleans,
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
    ColumnType.CHAR: _chars,
    ColumnType.IPV4: _numbers("I", 4),
}
_MACHINE_NUMBERS: Final = frozenset(
    {
        *(ColumnType.BYTE, ColumnType.SHORT, ColumnType.INT, ColumnType.LONG, ColumnType.FLOAT, ColumnType.DOUBLE),
        *(ColumnType.TIMESTAMP, ColumnType.TIMESTAMP_NANOS, ColumnType.DATE),
    }
)
