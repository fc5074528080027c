"""What a row buffer must hold after the calls that it took: the obvious model, in lists and dicts.

`Model` takes the rows that were not refused and says what `decode` must find: tables in order of
their first row, columns in order of first appearance under the first spelling, without the columns
that have no value in these rows.
"""

from __future__ import annotations

import struct
from typing import Any

from spoolq.columns import ColumnType
from spoolq.qwp.decode import Message
from spoolq.qwp.stored import as_stored

Cells = list[tuple[str, ColumnType, Any]]


def comparable(value: Any) -> Any:
    """Equal exactly when two decoded values are the same: floats by their bits, bool apart from int."""
    if isinstance(value, float):
        return "float", struct.pack("<d", value)
    if isinstance(value, tuple):
        return value[0], [comparable(element) for element in value[1]]
    return type(value).__name__, value


class _Table:
    def __init__(self) -> None:
        self.columns: dict[str, tuple[str, ColumnType]] = {}  # by folded name, in order of appearance
        self.rows: list[dict[str, Any]] = []


class Model:
    """Rows by table, as stored forms."""

    def __init__(self) -> None:
        self.tables: dict[str, _Table] = {}

    def add(self, table: str, cells: Cells, designated: tuple[ColumnType, int] | None) -> None:
        """A row that the buffer took."""
        found = self.tables.setdefault(table, _Table())
        row = {}
        for name, column_type, value in cells:
            if value is not None:
                found.columns.setdefault(name.lower(), (name, column_type))
                row[name.lower()] = value
        if designated is not None:
            found.columns.setdefault("", ("", designated[0]))
            row[""] = designated[1]
        found.rows.append(row)

    def drop(self, table_index: int, count: int) -> None:
        """The first rows of a table went away."""
        name = list(self.tables)[table_index]
        del self.tables[name].rows[:count]
        if not self.tables[name].rows:
            del self.tables[name]

    def expected(self) -> list[tuple[str, int, list[tuple[str, ColumnType, list[Any]]]]]:
        """(table, rows, columns) as a decoder must find them."""
        out = []
        for name, table in self.tables.items():
            columns = [
                (spelling, column_type, [comparable(as_stored(column_type, row.get(folded))) for row in table.rows])
                for folded, (spelling, column_type) in table.columns.items()
                if any(folded in row for row in table.rows)
            ]
            out.append((name, len(table.rows), columns))
        return out


def decoded(message: Message) -> list[tuple[str, int, list[tuple[str, ColumnType, list[Any]]]]]:
    """A decoded message in the form of `Model.expected`."""
    return [
        (
            table.name,
            table.row_count,
            [(column.name, column.type, [comparable(value) for value in column.values]) for column in table.columns],
        )
        for table in message.tables
    ]
