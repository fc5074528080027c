"""The official client's buffer remembers tables and columns over flushes; this takes that memory out of a message.

`Memory` follows what its buffer knows: tables in order of first appearance, in each the columns, both for as long
as the sender lives.  A later message therefore has tables and columns in that order, under the first spelling, and
a column that none of its rows sets is still there, all NULL.  `forget` gives the message that a buffer without
memory would have sent: the bytes of each column stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from spoolq.columns.names import fold
from spoolq.columns.types import ColumnType
from spoolq.columns.varint import varint
from spoolq.qwp import layout
from spoolq.qwp.decode import Dictionary
from spoolq.qwp.decode_columns import column_data
from spoolq.qwp.reader import Reader
from spoolq.values import ServerTimestamp
from tests.interop.peer import Row

AT = ""
_NULLS: dict[ColumnType, Any] = {ColumnType.BOOLEAN: False, ColumnType.CHAR: "\0", ColumnType.LONG: -(1 << 63)}


class _Column(NamedTuple):
    type: ColumnType
    values: list[Any]
    raw: bytes


def written(row: Row) -> Iterator[tuple[str, bool]]:
    """Columns that a row gives a value, as (name, is it a symbol), the designated timestamp last, as `AT`."""
    yield from ((name, True) for name, text in row.symbols.items() if text is not None)
    for name, value in row.columns.items():
        if value is not None and not (isinstance(value, Decimal) and not value.is_finite()):
            yield name, False
    if row.at is not ServerTimestamp:
        yield AT, False


class Memory:
    """What the buffer has seen: table -> folded column -> is it a symbol."""

    def __init__(self) -> None:
        self._tables: dict[str, dict[str, bool]] = {}

    def learn(self, row: Row) -> None:
        """A row that the official client took."""
        columns = self._tables.setdefault(row.table, {})
        for name, symbol in written(row):
            columns.setdefault(fold(name), symbol)

    def symbols(self, batch: Sequence[Row]) -> list[str]:
        """Symbol texts of a batch in the order in which the flush meets them: by table, by column, by row."""
        found: dict[str, None] = {}
        for table, columns in self._tables.items():
            rows = [row for row in batch if row.table == table]
            for column in (name for name, symbol in columns.items() if symbol):
                for row in rows:
                    texts = (text for name, text in row.symbols.items() if fold(name) == column)
                    found.update((text, None) for text in texts if text is not None)
        return list(found)


def forget(message: bytes, batch: Sequence[Row], dictionary: Dictionary) -> bytes:
    """The message of these rows without what earlier ones left in the buffer."""
    reader = Reader(memoryview(message)[12:])
    start, count = reader.varint(), reader.varint()
    dictionary.apply(start, [reader.text("symbol") for _ in range(count)])
    section = bytes(reader.data[: reader.offset])
    blocks = {}
    while reader.left:
        name = reader.text("table")
        row_count, column_count = reader.varint(), reader.varint()
        heads = [(reader.text("column"), ColumnType(reader.byte())) for _ in range(column_count)]
        blocks[name] = row_count, dict(_columns(reader, heads, row_count, dictionary))
    payload = section
    for table in dict.fromkeys(row.table for row in batch):
        row_count, columns = blocks.pop(table)
        payload += _block(table, row_count, columns, [row for row in batch if row.table == table])
    assert not blocks, f"tables that no row wrote: {list(blocks)}"
    count = len({row.table for row in batch})
    return layout.HEADER.pack(layout.MAGIC, 1, layout.FLAG_DELTA_DICTIONARY, count, len(payload)) + payload


def _columns(
    reader: Reader, heads: list[tuple[str, ColumnType]], rows: int, dictionary: Dictionary
) -> Iterator[tuple[str, _Column]]:
    for name, column_type in heads:
        begin = reader.offset
        found = column_data(reader, name, column_type, rows, layout.FLAG_DELTA_DICTIONARY, dictionary.texts)
        yield fold(name), _Column(column_type, found.values, bytes(reader.data[begin : reader.offset]))


def _block(table: str, row_count: int, columns: dict[str, _Column], rows: list[Row]) -> bytes:
    spelled: dict[str, str] = {}
    for row in rows:
        for name, _ in written(row):
            spelled.setdefault(fold(name), name)
    schema, data = b"", b""
    for folded, name in spelled.items():
        column = columns.pop(folded)
        schema += _string(name) + bytes([column.type])
        data += column.raw
    for folded, column in columns.items():
        assert all(map(_is_null, [column.type] * row_count, column.values)), f"{folded!r} is not all NULL"
    return _string(table) + varint(row_count) + varint(len(spelled)) + schema + data


def _is_null(column_type: ColumnType, value: Any) -> bool:
    return value is None or value != value or value == _NULLS.get(column_type)


def _string(text: str) -> bytes:
    return varint(len(text.encode())) + text.encode()
