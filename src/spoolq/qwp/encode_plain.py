"""The encoder, plain body: columns of `rows_plain` become one QWP message (wire.md 3 and 4).

Slow and obvious: each column is built as bytes and joined.  The compiled body gives the same bytes.
`frame_bytes` is exact; `write` fills a writable buffer of just that size.
"""

from __future__ import annotations

import struct
from typing import Any

from spoolq import limits
from spoolq.columns.rows_plain import Column, RowBuffer, Table
from spoolq.columns.types import (
    ARRAYS,
    DECIMALS,
    FIXED_BYTES,
    OFFSETS,
    SENTINEL_NULL,
    SENTINELS,
    TIMESTAMPS,
    ColumnType,
)
from spoolq.columns.varint import varint
from spoolq.qwp import gorilla as gorilla_codec
from spoolq.qwp import layout
from spoolq.qwp.cut import Cut

_FORMATS = {
    ColumnType.BYTE: "<b",
    ColumnType.SHORT: "<h",
    ColumnType.INT: "<i",
    ColumnType.LONG: "<q",
    ColumnType.FLOAT: "<f",
    ColumnType.DOUBLE: "<d",
    ColumnType.TIMESTAMP: "<q",
    ColumnType.TIMESTAMP_NANOS: "<q",
    ColumnType.DATE: "<q",
    ColumnType.CHAR: "<H",
    ColumnType.IPV4: "<I",
}


def frame_bytes(rows: RowBuffer, cut: Cut | None = None, *, gorilla: bool = False) -> int:
    """Exact size of the message in bytes."""
    return len(_message(rows, cut, gorilla))


def write(rows: RowBuffer, buffer: Any, cut: Cut | None = None, *, gorilla: bool = False) -> None:
    """Fills ``buffer``, any object with a contiguous writable buffer of exactly `frame_bytes`.

    ValueError, and nothing written, when its size is another one; TypeError or BufferError when it
    cannot be written.
    """
    message = _message(rows, cut, gorilla)
    with memoryview(buffer) as view, view.cast("B") as flat:
        if flat.nbytes != len(message):
            raise ValueError(f"the buffer has {flat.nbytes} bytes, the message {len(message)}")
        flat[:] = message


def _message(rows: RowBuffer, cut: Cut | None, gorilla: bool) -> bytes:
    if cut is None:
        symbols = rows.symbols
        everything = tuple((index, 0, table.row_count) for index, table in enumerate(rows.tables))
        cut = Cut(everything, symbols.published_count, len(symbols))
    flags = layout.FLAG_DELTA_DICTIONARY | (layout.FLAG_GORILLA if gorilla else 0)
    payload = bytearray(varint(cut.symbol_start) + varint(cut.symbol_end - cut.symbol_start))
    payload += rows.symbols.entries(cut.symbol_start, cut.symbol_end)
    for index, first, end in cut.tables:
        payload += _block(rows.tables[index], first, end, gorilla)
    header = layout.HEADER.pack(layout.MAGIC, limits.PROTOCOL_VERSION, flags, len(cut.tables), len(payload))
    return header + bytes(payload)


def _string(text: bytes) -> bytes:
    return varint(len(text)) + text


def _block(table: Table, first: int, end: int, gorilla: bool) -> bytes:
    # A column that holds only nulls in these rows is left out, as the official client does.
    cut = [(column, column.values[first:end]) for column in table.columns]
    columns = [(column, values) for column, values in cut if any(value is not None for value in values)]
    out = bytearray(_string(table.name) + varint(end - first) + varint(len(columns)))
    for column, _ in columns:
        out += _string(column.name) + bytes([column.type])
    for column, values in columns:
        out += _column(column, values, gorilla)
    return bytes(out)


def _bitmap(flags: list[bool]) -> bytes:
    """LSB first, zero-padded."""
    bits = sum(1 << index for index, flag in enumerate(flags) if flag)
    return bits.to_bytes((len(flags) + 7) // 8, "little")


def _column(column: Column, values: list[Any], gorilla: bool) -> bytes:
    column_type = column.type
    if column_type is ColumnType.BOOLEAN:
        return b"\0" + _bitmap([bool(value) for value in values])
    if column_type in SENTINEL_NULL:
        null = SENTINELS[column_type]
        return b"\0" + b"".join(null if value is None else _fixed(column_type, value) for value in values)
    present = [value for value in values if value is not None]
    if len(present) == len(values) and not _could_look_null(column):
        return b"\0" + _packed(column, present, gorilla)
    return b"\1" + _bitmap([value is None for value in values]) + _packed(column, present, gorilla)


def _could_look_null(column: Column) -> bool:
    """A geohash that fills its bytes: all ones would read as NULL without a bitmap (wire.md 4.8).

    The official client gives such a column its bitmap whatever the values are, and so do we.
    """
    return column.precision is not None and column.precision % 8 == 0


def _fixed(column_type: ColumnType, value: Any) -> bytes:
    if value != value:
        return SENTINELS[column_type]  # ours.md 1: one NaN a type
    return struct.pack(_FORMATS[column_type], value)


def _packed(column: Column, present: list[Any], gorilla: bool) -> bytes:
    """The values that are there, behind the null section."""
    column_type = column.type
    if column_type in TIMESTAMPS and gorilla:
        if gorilla_codec.fits(present):
            return bytes([layout.TIMESTAMPS_GORILLA]) + gorilla_codec.encode(present)
        return bytes([layout.TIMESTAMPS_RAW]) + struct.pack(f"<{len(present)}q", *present)
    if column_type in _FORMATS:
        return b"".join(struct.pack(_FORMATS[column_type], value) for value in present)
    if column_type in OFFSETS:
        offset, out = 0, [struct.pack("<I", 0)]
        for value in present:
            offset += len(value)
            out.append(struct.pack("<I", offset))
        return b"".join(out + present)
    if column_type is ColumnType.SYMBOL:
        return b"".join(map(varint, present))
    if column_type is ColumnType.UUID:
        return b"".join(present)
    if column_type is ColumnType.LONG256:
        return b"".join(value.to_bytes(32, "little") for value in present)
    if column_type is ColumnType.GEOHASH:
        bits = column.precision or 1
        return varint(bits) + b"".join(value.to_bytes((bits + 7) // 8, "little") for value, _ in present)
    if column_type in DECIMALS:
        width = FIXED_BYTES[column_type]
        unscaled = b"".join(value.to_bytes(width, "little", signed=True) for value, _ in present)
        return bytes([column.scale or 0]) + unscaled
    assert column_type in ARRAYS, column_type
    return b"".join(bytes([len(shape)]) + struct.pack(f"<{len(shape)}i", *shape) + data for shape, data in present)
