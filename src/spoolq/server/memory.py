"""The store in RAM: what tests read back.  Columnar inside, rows are built when somebody asks.

A committed part keeps the decoded columns as they are; `rows` and `arrow` join them over the table's schema.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from spoolq.qwp.decode import ColumnType, Table, WireFault, fold
from spoolq.qwp.layout import Status
from spoolq.server import convert
from spoolq.server.options import ServerOptions
from spoolq.server.schema import Column, Fitted, Schema

if TYPE_CHECKING:
    import pyarrow


ROWS_MAX: Final = 100_000_000


@dataclass(slots=True)
class _Table:
    """Parts in the order of their commits."""

    schema: Schema
    parts: list[Fitted] = field(default_factory=list)
    row_count: int = 0
    transaction: int = 0


class MemoryStore:
    """Tables in RAM, ``rows_max`` rows together; a message above that is refused with 09.

    Reading calls may come from any thread.
    """

    def __init__(self, rows_max: int = ROWS_MAX) -> None:
        self._rows_left = rows_max
        self._rows_max = rows_max
        self._lock = threading.Lock()
        self._tables: dict[str, _Table] = {}
        self._options = ServerOptions()

    def configure(self, options: ServerOptions) -> None:
        """Takes over names and limits of the server that starts."""
        with self._lock:
            self._options = options

    def fit(self, block: Table, now_nanos: int) -> Fitted:
        """The block in the table's types; raises WireFault."""
        with self._lock:
            if block.row_count > self._rows_left:
                text = f"the memory store is full: it takes {self._rows_max} rows"
                raise WireFault(Status.WRITE_ERROR, text)
            table = self._tables.get(block.name)
            schema = table.schema if table is not None else Schema(block.name, self._options.timestamp_name)
            fitted = schema.fit(block, self._options, now_nanos)
            if table is None:
                self._tables[block.name] = _Table(schema)
            else:
                table.transaction += fitted.columns_added  # each is an ALTER of its own (wire.md 5.1)
            return fitted

    def append(self, table: str, parts: list[Fitted]) -> int:
        """Rows become visible."""
        with self._lock:
            found = self._tables[table]
            found.parts += [part for part in parts if part.row_count]
            count = sum(part.row_count for part in parts)
            found.row_count += count
            self._rows_left -= count
            found.transaction += 1
            return found.transaction

    def sync(self) -> None:
        """Memory is as durable as it gets."""

    @property
    def failed_syncs(self) -> int:
        """None ever."""
        return 0

    def close(self) -> None:
        """Rows stay readable after the server has stopped."""

    def tables(self) -> list[str]:
        """Names of the tables, in the order in which they came."""
        with self._lock:
            return list(self._tables)

    def count(self, table: str) -> int:
        """Rows of a table; 0 for one that does not exist."""
        with self._lock:
            found = self._tables.get(table)
            if found is None:
                return 0
            if table not in self._options.dedup_keys:
                return found.row_count
        return len(self.rows(table))

    def types(self, table: str) -> dict[str, ColumnType]:
        """Columns of a table and their wire types; raises KeyError for one that does not exist."""
        with self._lock:
            return {column.name: column.type for column in self._tables[table].schema.columns.values()}

    def rows(self, table: str) -> list[dict[str, Any]]:
        """All rows in the order in which they were committed, values as `convert.python_values` gives them.

        A column a row does not have is None.  The designated timestamp stands under its name, ``timestamp``
        unless the server says otherwise.  [] for a table that does not exist.
        """
        names, columns = self._columns(table)
        return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]

    def arrow(self, table: str) -> pyarrow.Table:
        """A table as Arrow, as it was committed; needs pyarrow; raises KeyError for one that does not exist."""
        from spoolq.server.arrow import table_arrow

        with self._lock:
            found = self._tables[table]
            columns, parts = list(found.schema.columns.values()), list(found.parts)
        return table_arrow(columns, parts)

    def clear(self) -> None:
        """Forgets all tables."""
        with self._lock:
            self._tables.clear()
            self._rows_left = self._rows_max

    def _columns(self, table: str) -> tuple[list[str], list[list[Any]]]:
        with self._lock:
            found = self._tables.get(table)
            if found is None:
                return [], []
            columns = list(found.schema.columns.values())
            parts = list(found.parts)
            keys = self._options.dedup_keys.get(table)
        joined = [_join(column, parts) for column in columns]
        if keys is not None:
            joined = _dedup(columns, joined, {fold(key) for key in (*keys, self._options.timestamp_name)})
        return [column.name for column in columns], joined


def _join(column: Column, parts: list[Fitted]) -> list[Any]:
    """One column of all parts."""
    key, values = fold(column.name), list[Any]()
    for part in parts:
        found = part.columns.get(key)
        values += [convert.absent(column.type)] * part.row_count if found is None else convert.python_values(found)
    return values


def _dedup(columns: list[Column], values: list[list[Any]], keys: set[str]) -> list[list[Any]]:
    """Of rows with equal keys the last one, at the place of the first."""
    key_columns = [found for column, found in zip(columns, values, strict=True) if fold(column.name) in keys]
    last: dict[tuple[Any, ...], int] = {}
    for index, key in enumerate(zip(*key_columns, strict=True)):
        last[key] = index
    return [[found[index] for index in last.values()] for found in values]
