"""The strict decoder: one message, byte by byte, against a connection's dictionary (wire.md 3, 4, 8).

`decode(message, dictionary)` gives a `Message` or raises `WireFault(status, text)`.  Faults are found
in the order of wire.md 8: header, dictionary section, then block by block.  When the section itself
is bad the dictionary is as before; when a later block is bad the new entries stay (wire.md 3.3).

Values come out as Python objects, None for NULL by bitmap; a sentinel stays the value it is
(`stored.as_read` says which ones a reader takes for NULL).  What the decoder is stricter in
than the reference server is marked "(Adopt)" in wire.md 8.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from spoolq import limits
from spoolq.columns.names import check_column_name, check_table_name, fold
from spoolq.columns.types import TIMESTAMPS, ColumnType
from spoolq.errors import InvalidNameError
from spoolq.qwp import layout
from spoolq.qwp.decode_columns import MIXED_DIMENSIONS, DecodedColumn, column_data
from spoolq.qwp.layout import Status
from spoolq.qwp.reader import Reader, WireFault

__all__ = [
    "ColumnType",
    "DecodedColumn",
    "Dictionary",
    "Message",
    "Table",
    "WireFault",
    "blocks",
    "check_column_name",
    "check_dimensions",
    "check_names",
    "decode",
    "fold",
    "read_block_head",
    "read_header",
    "table_names",
]

_INT32_MAX: Final = (1 << 31) - 1


class Dictionary:
    """The symbols of one connection; ids are positions.  Empty after every upgrade."""

    def __init__(self, max_entries: int = limits.DICTIONARY_ENTRIES_MAX) -> None:
        self.texts: list[str] = []
        self.max_entries = max_entries

    def __len__(self) -> int:
        return len(self.texts)

    def apply(self, start: int, entries: list[str]) -> None:
        """Registers ids ``start`` on; ids that are known get the new text (overlap is legal).

        Columns decoded before hold ``texts`` and look into it later, so a text that changes changes a copy.
        """
        known = self.texts[start : start + len(entries)]
        if known != entries[: len(known)]:
            self.texts = self.texts.copy()
        self.texts[start : start + len(entries)] = entries


@dataclass(slots=True)
class Table:
    """One block: name, number of rows, columns in schema order."""

    name: str
    row_count: int
    columns: list[DecodedColumn]

    @property
    def designated(self) -> DecodedColumn | None:
        """The column with the empty name."""
        return next((column for column in self.columns if not column.name), None)


@dataclass(slots=True)
class Message:
    """One message: flags, dictionary section, blocks."""

    flags: int
    delta_start: int
    symbols: list[str]
    tables: list[Table]

    @property
    def is_deferred(self) -> bool:
        """Flag 01: the rows wait for a later commit."""
        return bool(self.flags & layout.FLAG_DEFER_COMMIT)


def decode(
    message: bytes | bytearray | memoryview, dictionary: Dictionary, *, version: int = limits.PROTOCOL_VERSION
) -> Message:
    """One message.  ``version`` is the negotiated one.  Raises WireFault."""
    found, tables = blocks(message, dictionary, version=version)
    for table in tables:
        check_names(table)
        for column in table.columns:
            check_dimensions(column)
        found.tables.append(table)
    return found


def blocks(
    message: bytes | bytearray | memoryview,
    dictionary: Dictionary,
    *,
    version: int = limits.PROTOCOL_VERSION,
    rows_max: int = limits.ROWS_PER_TABLE_MAX,
) -> tuple[Message, Iterator[Table]]:
    """The message without its tables, and the tables one by one as they are parsed.

    For a server that checks each block against its tables before it looks at the next one (wire.md 8).
    Header and dictionary section are done when this returns; names and dimensions are not checked (`check_names`,
    `check_dimensions`).
    Raises WireFault, now or from the iterator.
    """
    # Columns look into the message later: one that may change under them is copied.
    whole = message if isinstance(message, bytes) else bytes(message)
    flags, table_count, reader = read_header(memoryview(whole), version)
    start, symbols = 0, list[str]()
    if flags & layout.FLAG_DELTA_DICTIONARY:
        start, symbols = _dictionary_section(reader, dictionary)
        dictionary.apply(start, symbols)
    return Message(flags, start, symbols, []), _tables(reader, table_count, flags, dictionary, rows_max)


def _tables(reader: Reader, table_count: int, flags: int, dictionary: Dictionary, rows_max: int) -> Iterator[Table]:
    for _ in range(table_count):
        yield _block(reader, flags, dictionary.texts, rows_max)
    if reader.left:
        raise WireFault(Status.PARSE_ERROR, f"{reader.left} bytes after the last table block")


def table_names(message: bytes | memoryview) -> Iterator[str]:
    """The table of each block, as it stands.  Needs no dictionary: no symbol is looked up.  Raises WireFault."""
    flags, table_count, reader = read_header(memoryview(message))
    if flags & layout.FLAG_DELTA_DICTIONARY:
        reader.varint()
        for _ in range(reader.varint()):
            reader.text("symbol dictionary entry")
    any_symbols = cast(Sequence[str], range(limits.DICTIONARY_ENTRIES_MAX))
    for _ in range(table_count):
        yield _block(reader, flags, any_symbols, limits.ROWS_PER_TABLE_MAX).name


def read_header(message: memoryview, version: int = limits.PROTOCOL_VERSION) -> tuple[int, int, Reader]:
    """Flags, number of tables, and a reader of the payload, which starts with the dictionary section if any."""
    if len(message) < limits.HEADER_BYTES:
        raise WireFault(Status.PARSE_ERROR, "message header too short")
    magic, its_version, flags, table_count, length = layout.HEADER.unpack_from(message)
    if its_version != version:
        text = f"message version {its_version} does not match negotiated version {version}"
        raise WireFault(Status.PARSE_ERROR, text)
    if magic != layout.MAGIC:
        raise WireFault(Status.PARSE_ERROR, "invalid magic bytes")
    if flags & ~layout.FLAGS_KNOWN:
        raise WireFault(Status.PARSE_ERROR, f"unknown flag bits 0x{flags & ~layout.FLAGS_KNOWN:02x}")
    if length > limits.PAYLOAD_BYTES_MAX:
        raise WireFault(Status.PARSE_ERROR, "payload exceeds maximum size")
    body = message[limits.HEADER_BYTES :]
    if length > len(body):
        raise WireFault(Status.PARSE_ERROR, f"payload length {length} is beyond the frame's {len(body)} bytes")
    if length < len(body):
        raise WireFault(Status.PARSE_ERROR, f"{len(body) - length} bytes after the payload")
    return flags, table_count, Reader(body)


def _dictionary_section(reader: Reader, dictionary: Dictionary) -> tuple[int, list[str]]:
    if not reader.left:
        raise WireFault(Status.PARSE_ERROR, "truncated delta symbol dictionary")
    start, count = reader.varint(), reader.varint()
    if start > _INT32_MAX or count > _INT32_MAX:
        raise WireFault(Status.PARSE_ERROR, "symbol dictionary start or count out of range")
    if start > len(dictionary):
        text = f"symbol dictionary gap: delta starts at {start}, {len(dictionary)} entries are known"
        raise WireFault(Status.DICTIONARY_GAP, text)
    if start + count > dictionary.max_entries:
        raise WireFault(Status.PARSE_ERROR, f"symbol dictionary above {dictionary.max_entries} entries")
    if count > reader.left:
        raise WireFault(Status.PARSE_ERROR, "symbol dictionary count is beyond the payload")
    return start, [reader.text("symbol dictionary entry") for _ in range(count)]


def _block(reader: Reader, flags: int, symbols: Sequence[str], rows_max: int) -> Table:
    """One block, parsed whole."""
    name, row_count, schema = read_block_head(reader, rows_max)
    table = Table(name, row_count, [])
    for column_name, column_type in schema:
        table.columns.append(column_data(reader, column_name, column_type, row_count, flags, symbols))
    return table


def read_block_head(
    reader: Reader, rows_max: int = limits.ROWS_PER_TABLE_MAX
) -> tuple[str, int, list[tuple[str, ColumnType]]]:
    """Table name, number of rows, and (name, type) of each column; the columns' data comes next, in that order."""
    name = _name(reader, "table")
    if not name:
        raise WireFault(Status.PARSE_ERROR, "empty table name")
    row_count, column_count = reader.varint(), reader.varint()
    if row_count > rows_max:
        raise WireFault(Status.PARSE_ERROR, f"row count {row_count} above {rows_max}")
    if column_count > limits.COLUMNS_PER_TABLE_MAX:
        raise WireFault(Status.PARSE_ERROR, f"column count {column_count} above {limits.COLUMNS_PER_TABLE_MAX}")
    if row_count and not column_count:
        raise WireFault(Status.PARSE_ERROR, "rows without a column")
    schema = [_column_head(reader) for _ in range(column_count)]
    _check_unique(schema)
    return name, row_count, schema


def _name(reader: Reader, kind: str) -> str:
    length = reader.varint()
    if length > limits.NAME_BYTES_MAX:
        raise WireFault(Status.PARSE_ERROR, f"{kind} name of {length} bytes")
    return reader.utf8(length, f"{kind} name")


def _column_head(reader: Reader) -> tuple[str, ColumnType]:
    name = _name(reader, "column")
    code = reader.byte()
    try:
        column_type = ColumnType(code)
    except ValueError:
        raise WireFault(Status.PARSE_ERROR, f"invalid column type code: 0x{code:x}") from None
    if not name and column_type not in TIMESTAMPS:
        raise WireFault(Status.PARSE_ERROR, f"a column of type {column_type.name} without a name")
    return name, column_type


def _check_unique(schema: list[tuple[str, ColumnType]]) -> None:
    seen: set[str] = set()
    for name, _ in schema:
        if fold(name) in seen:
            raise WireFault(Status.PARSE_ERROR, f"two columns are named {name!r} (case is ignored)")
        seen.add(fold(name))


def check_names(table: Table, *, known: bool = False) -> None:
    """Raises WireFault for a name the server refuses: 06, or 09 for a column of a table it knows (wire.md 8)."""
    try:
        check_table_name(table.name)
        for column in table.columns:
            if column.name:
                check_column_name(column.name, table=table.name)
    except InvalidNameError as error:
        if known:
            raise WireFault(Status.WRITE_ERROR, str(error)) from None
        text = f"failed to create table update details for: {table.name} ({error})"
        raise WireFault(Status.INTERNAL_ERROR, text) from None


def check_dimensions(column: DecodedColumn) -> None:
    """Raises WireFault 03 for arrays of differing dimensions: a fault that is looked for when the block is whole."""
    if column.dimensions == MIXED_DIMENSIONS:
        text = f"arrays of differing dimensions in one column [column={column.name}]"
        raise WireFault(Status.SCHEMA_MISMATCH, text)


def decode_all(message: bytes, dictionary: Dictionary | None = None) -> dict[str, list[dict[str, Any]]]:
    """Every row of a message as a dict by table; for tests and tools."""
    found: dict[str, list[dict[str, Any]]] = {}
    for table in decode(message, dictionary if dictionary is not None else Dictionary()).tables:
        rows = found.setdefault(table.name, [])
        lists = [(column.name, column.values) for column in table.columns]
        rows += [{name: values[index] for name, values in lists} for index in range(table.row_count)]
    return found
