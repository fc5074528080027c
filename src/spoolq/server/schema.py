"""What a table looks like and what may be written to it (wire.md 4.4, 5.3, 8).

`Schema` of one table is owned by its store and changed only under the store's lock.  `Schema.fit(table, ...)`
checks a block against it, adds columns it does not know, and gives the block as the table takes it: columns of
the table's types, the designated timestamp complete and in the table's unit.  Added columns stay, whatever
happens to the block (wire.md 5.2).  Raises `WireFault` with the status for the cause.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from spoolq.qwp.decode import ColumnType, DecodedColumn, Table, WireFault, check_dimensions, check_names, fold
from spoolq.qwp.layout import Status
from spoolq.server import convert
from spoolq.server.options import ServerOptions

_TIMES: Final = (ColumnType.TIMESTAMP, ColumnType.TIMESTAMP_NANOS)
_ARRAYS: Final = (ColumnType.DOUBLE_ARRAY, ColumnType.LONG_ARRAY)
_NANOS_IN_MICRO: Final = 1_000
_DESIGNATED: Final = ""  # so named on the wire, and here: it has no value that reads as NULL (wire.md 4.2)


@dataclass(slots=True)
class Column:
    """One column of a table; ``precision`` of a GEOHASH, ``scale`` of a decimal, ``dimensions`` of an array.

    ``as_text``: a decimal with values of more digits than the store has numbers for, which keeps it as text.
    """

    name: str
    type: ColumnType
    precision: int = 0
    scale: int = 0
    dimensions: int = 0
    as_text: bool = False


@dataclass(slots=True)
class Fitted:
    """Rows as the table takes them: columns by folded name, all of the table's type.

    ``arrow``: the same as a `pyarrow.Table`, for a store that wants it.
    """

    row_count: int
    columns: dict[str, DecodedColumn]
    columns_added: int
    arrow: Any = None


@dataclass(slots=True)
class Schema:
    """Columns of one table by folded name, in the order in which they came."""

    table: str
    designated: str
    columns: dict[str, Column] = field(default_factory=dict)

    def fit(self, block: Table, options: ServerOptions, now_nanos: int) -> Fitted:
        """The block in the table's types; ``now_nanos`` (wall clock) for rows without a designated timestamp."""
        check_names(block, known=bool(self.columns))
        self._check_target(options)
        stamp, others = self._split(block)
        before = len(self.columns)
        fitted = {}
        for column in others:
            found = self._column(column, options)
            if found is not None:
                fitted[fold(column.name)] = _fit_one(column, found, block.row_count)
        fitted[fold(self.designated)] = self._stamp(stamp, block.row_count, now_nanos)
        return Fitted(block.row_count, fitted, len(self.columns) - before)

    def _check_target(self, options: ServerOptions) -> None:
        """Whether rows may go into this table at all (wire.md 5.3)."""
        why = None
        if self.table in options.non_wal_tables:
            raise WireFault(Status.SCHEMA_MISMATCH, f"the table is not WAL [table={self.table}]")
        if self.table in options.views:
            why = "it is a view"
        elif not self.columns and not options.create_tables:
            why = "tables are not created automatically"
        if why is not None:
            raise WireFault(Status.INTERNAL_ERROR, f"failed to create table update details for: {self.table} ({why})")

    def _split(self, block: Table) -> tuple[DecodedColumn | None, list[DecodedColumn]]:
        """The designated timestamp, by its empty or its real name, and the rest."""
        mine = [column for column in block.columns if not column.name or fold(column.name) == fold(self.designated)]
        if len(mine) > 1:
            raise WireFault(Status.PARSE_ERROR, "two columns are the designated timestamp")
        if mine and mine[0].type not in _TIMES:
            raise convert.mismatch(mine[0].name, mine[0].type, ColumnType.TIMESTAMP)
        stamp = mine[0] if mine else None
        return stamp, [column for column in block.columns if column is not stamp]

    @property
    def designated_is_known(self) -> bool:
        """Whether the table is an old one: the designated timestamp is what a new one gets last."""
        return fold(self.designated) in self.columns

    def _column(self, column: DecodedColumn, options: ServerOptions) -> Column | None:
        """The table's column; added when it is new; None for one that tells nothing (all-null array)."""
        if column.type is ColumnType.LONG_ARRAY and not options.accept_long_arrays:
            text = "long arrays are not supported, only double arrays"
            raise WireFault(Status.WRITE_ERROR, text)
        check_dimensions(column)
        key = fold(column.name)
        found = self.columns.get(key)
        if found is None:
            rank = column.dimensions
            if column.type in _ARRAYS and not rank:
                return None
            if self.designated_is_known and not options.create_columns:
                text = f"new columns are not added automatically [table={self.table}, column={column.name}]"
                raise WireFault(Status.WRITE_ERROR, text)
            if len(self.columns) + (not self.designated_is_known) >= options.columns_max:  # it counts (wire.md 3.4)
                text = f"too many columns, limit: {options.columns_max} [table={self.table}]"
                raise WireFault(Status.WRITE_ERROR, text)
            found = Column(column.name, column.type, column.precision, column.scale, rank)
            self.columns[key] = found
        return found

    def _stamp(self, column: DecodedColumn | None, rows: int, now_nanos: int) -> DecodedColumn:
        """The designated timestamp of every row in the table's unit; all rows without one share one instant."""
        key = fold(self.designated)
        known = self.columns.get(key)
        if known is None:
            kind = column.type if column is not None else ColumnType.TIMESTAMP
            known = self.columns[key] = Column(self.designated, kind)
        now = now_nanos if known.type is ColumnType.TIMESTAMP_NANOS else now_nanos // _NANOS_IN_MICRO
        if column is None:
            return DecodedColumn(_DESIGNATED, known.type, [now] * rows)
        if column.type is known.type and not column.null_count and not column.name:
            return column
        values = convert.convert_times(column.values, column.type, known.type)
        return DecodedColumn(_DESIGNATED, known.type, [now if value is None else value for value in values])


def _fit_one(column: DecodedColumn, found: Column, row_count: int) -> DecodedColumn:
    if column.type is not found.type:
        return convert.coerce(column, found.type)
    if column.type in _ARRAYS:
        rank = column.dimensions
        if rank and rank != found.dimensions:
            text = f"array dimensions {rank}, the column has {found.dimensions} [column={column.name}]"
            raise WireFault(Status.SCHEMA_MISMATCH, text)
    elif column.type is ColumnType.GEOHASH and column.precision != found.precision and column.null_count < row_count:
        text = f"geohash of {column.precision} bits, the column has {found.precision} [column={column.name}]"
        raise WireFault(Status.SCHEMA_MISMATCH, text)
    return column
