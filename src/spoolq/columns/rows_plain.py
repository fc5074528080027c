"""The row buffer, plain body: slow, obvious, the oracle of the compiled one and its fallback.

A `RowBuffer` holds the rows of one batch, a `Table` each, a `Column` each: the values as a list of
stored forms (`convert`), None for NULL.  The compiled body keeps the same columns in wire form.

Order of calls: ``row`` / ``rows`` / ``typed_row`` any number of times, an encoder reads ``tables``,
then ``clear`` (all published) or ``drop_rows`` (a part of a split published).

A row is prepared as a whole before anything of it is stored, so a row that fails leaves no trace:
no column, no symbol id, no table (ours.md 8).

The buffer is also the sender's lock: a context manager, re-entered only by the triggers.  A
conversion hook of the same thread that calls back gets ReentryError instead of a deadlock
(ours.md 10).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NoReturn

from spoolq import limits
from spoolq.columns import convert
from spoolq.columns.names import check_column_name, check_table_name, fold
from spoolq.columns.symbols import SymbolTable
from spoolq.columns.types import DECIMALS, FIXED_BYTES, OFFSETS, ColumnType
from spoolq.errors import FrameTooLarge, InputError, ReentryError, SpoolqError
from spoolq.values import Geohash

_LOG = logging.getLogger("spoolq.rows")
_INT_RANGES: Final = {
    ColumnType.BYTE: (-(1 << 7), (1 << 7) - 1),
    ColumnType.SHORT: (-(1 << 15), (1 << 15) - 1),
    ColumnType.INT: (-(1 << 31), (1 << 31) - 1),
}
_READS_AS_NULL: Final = {
    ColumnType.LONG: convert.INT64_MIN,
    ColumnType.DATE: convert.INT64_MIN,
    ColumnType.TIMESTAMP: convert.INT64_MIN,
    ColumnType.TIMESTAMP_NANOS: convert.INT64_MIN,
}


class Column:
    """One column of a batch: name in UTF-8, type, one stored form a row (None = NULL)."""

    __slots__ = ("array_dimensions", "data_nbytes", "geohash_bits", "name", "scale", "text", "type", "values")

    def __init__(self, text: str, name: bytes, column_type: ColumnType, rows: int) -> None:
        self.text = text
        self.name = name
        self.type = column_type
        self.values: list[Any] = [None] * rows
        self.scale: int | None = None
        self.geohash_bits: int | None = None
        self.array_dimensions: int | None = None
        self.data_nbytes = 0

    def nbytes(self, rows: int) -> int:
        """Upper bound of the encoded column: schema, null section, values."""
        fixed = FIXED_BYTES.get(self.type, 4 if self.type in OFFSETS else 1)
        return len(self.name) + 24 + (rows + 7) // 8 + rows * fixed + self.data_nbytes

    def append(self, value: Any) -> None:
        """Adds a stored form that `RowBuffer` has checked."""
        if value is not None:
            if self.type in DECIMALS:
                value = self._rescaled(value)
            self.data_nbytes += variable_nbytes(self.type, value)
        self.values.append(value)

    def _rescaled(self, value: tuple[int, int]) -> tuple[int, int]:
        unscaled, scale = value
        if self.scale is None or scale > self.scale:
            factor = 10 ** (scale - (self.scale or 0))
            self.values = [None if v is None else (v[0] * factor, scale) for v in self.values]
            self.scale = scale
        return unscaled * 10 ** (self.scale - scale), self.scale


def variable_nbytes(column_type: ColumnType, value: Any) -> int:
    """Bytes of a stored form beyond what its type always takes."""
    if column_type in OFFSETS:
        return len(value)
    if column_type is ColumnType.SYMBOL:
        return max(1, (int(value).bit_length() + 6) // 7)
    if column_type is ColumnType.GEOHASH:
        return 8
    if column_type in (ColumnType.DOUBLE_ARRAY, ColumnType.LONG_ARRAY):
        return 1 + 4 * len(value[0]) + len(value[1])
    return 0


class Table:
    """The rows of one table in a batch, columns in order of first appearance."""

    __slots__ = ("by_fold", "by_text", "columns", "designated", "name", "row_count", "text")

    def __init__(self, text: str, name: bytes) -> None:
        self.text = text
        self.name = name
        self.row_count = 0
        self.columns: list[Column] = []
        self.by_text: dict[str, Column] = {}
        self.by_fold: dict[str, Column] = {}
        self.designated: Column | None = None

    @property
    def nbytes(self) -> int:
        """Upper bound of the encoded block."""
        return len(self.name) + 24 + sum(column.nbytes(self.row_count) for column in self.columns)

    def add(self, column: Column) -> None:
        """A column that appears now."""
        self.columns.append(column)
        if column.name:
            self.by_text[column.text] = self.by_fold[fold(column.text)] = column
        else:
            self.designated = column


class _Row:
    """A row on its way: which value goes to which column, and the columns that are new with it."""

    __slots__ = ("new", "new_by_fold", "table", "values")

    def __init__(self, table: Table) -> None:
        self.table = table
        self.values: dict[Column, Any] = {}
        self.new: list[Column] = []
        self.new_by_fold: dict[str, Column] = {}


class RowBuffer:
    """Rows of one batch, with the triggers of auto-flush.

    ``symbols``: the dictionary that SYMBOL values are interned in.  ``max_name_bytes``: UTF-8 bytes
    of a table or column name.  Triggers (0 = off) are looked at when a row is complete; then
    ``on_trigger()`` runs with the lock held, and its errors come out of the row call although the
    row stays buffered.
    """

    def __init__(self, symbols: SymbolTable, *, max_name_bytes: int = limits.NAME_BYTES_MAX) -> None:
        self.symbols = symbols
        self.tables: list[Table] = []
        self.row_trigger = 0
        self.byte_trigger = 0
        self.row_bytes_max = 0
        self.on_trigger: Callable[[], object] | None = None
        self.on_first_row: Callable[[], object] | None = None
        self.latched: SpoolqError | None = None
        self._max_name_bytes = max_name_bytes
        self._by_text: dict[str, Table] = {}
        self._rows = 0
        self._lock = threading.Lock()
        self._owner: int | None = None
        self._warned: set[tuple[str, str]] = set()

    # -- the sender's lock ---------------------------------------------------------------------
    def lock(self, blocking: bool = True) -> bool:
        """Takes the sender's lock; False when it is held and ``blocking`` is False.

        Raises ReentryError when this very thread holds it.
        """
        if self._owner == threading.get_ident():
            raise ReentryError(
                "a conversion hook or handler called into the sender that is calling it; "
                "collect what it wants to write and write it after the call"
            )
        if not self._lock.acquire(blocking):
            return False
        self._owner = threading.get_ident()
        return True

    def unlock(self) -> None:
        """Gives the sender's lock back."""
        self._owner = None
        self._lock.release()

    def __enter__(self) -> RowBuffer:
        self.lock()
        return self

    def __exit__(self, *_: object) -> None:
        self.unlock()

    # -- what is buffered ----------------------------------------------------------------------
    def __len__(self) -> int:
        return self._rows

    @property
    def table_count(self) -> int:
        """Tables with buffered rows."""
        return len(self.tables)

    def table_rows(self, table_index: int) -> int:
        """Rows buffered for a table."""
        return self.tables[table_index].row_count

    def table_name(self, table_index: int) -> str:
        """Name of a table."""
        return self.tables[table_index].text

    @property
    def nbytes(self) -> int:
        """Upper bound of the encoded payload, dictionary section included."""
        symbols = self.symbols
        new = symbols.entries_nbytes(symbols.published_count, len(symbols))
        return 20 + new + sum(table.nbytes for table in self.tables)

    def clear(self) -> None:
        """Forgets all rows; the next row starts the columns anew."""
        self.tables = []
        self._by_text = {}
        self._rows = 0

    def drop_rows(self, table_index: int, count: int) -> None:
        """Forgets the first ``count`` rows of a table; a table without rows goes away."""
        table = self.tables[table_index]
        self._rows -= count
        if count == table.row_count:
            del self.tables[table_index]
            del self._by_text[table.text]
            return
        table.row_count -= count
        for column in table.columns:
            dropped, column.values = column.values[:count], column.values[count:]
            column.data_nbytes -= sum(variable_nbytes(column.type, v) for v in dropped if v is not None)

    # -- rows ----------------------------------------------------------------------------------
    def row(
        self,
        table: str,
        *,
        symbols: Mapping[str, str | None] | None = None,
        columns: Mapping[str, Any] | None = None,
        at: Any,
    ) -> None:
        """Buffers one row, whole or not at all.

        ``symbols``: SYMBOL columns by name; ``columns``: all others, the type by the value
        (`convert.natural`); None = NULL.  ``at``: the designated timestamp.

        Raises InputError (table, column and kind of value named), ReentryError, or the latched error.
        """
        self.lock()
        try:
            self._append(table, lambda row: self._fill(row, symbols, columns), at)
        finally:
            self.unlock()

    def rows(
        self,
        table: str,
        rows: Iterable[Sequence[Any]],
        *,
        symbols: Sequence[str] = (),
        columns: Sequence[str] = (),
        at: Any = None,
    ) -> int:
        """Buffers many rows of one shape; the number of rows buffered.

        Each row is a sequence: the values of ``symbols``, then those of ``columns``, then the
        designated timestamp, unless ``at`` gives one for all.  The first row that is refused is
        undone and raises; the rows before it stay.
        """
        done, width = 0, len(symbols) + len(columns)
        for values in rows:
            if len(values) != width + (at is None):
                raise InputError(
                    f"row {done} for table {table!r} has {len(values)} values; {len(symbols)} symbols, "
                    f"{len(columns)} columns{' and a timestamp' if at is None else ''} were named",
                    table=table,
                )
            self.row(
                table,
                symbols=dict(zip(symbols, values, strict=False)),
                columns=dict(zip(columns, values[len(symbols) :], strict=False)),
                at=values[width] if at is None else at,
            )
            done += 1
        return done

    def typed_row(self, table: str, cells: Iterable[tuple[str, ColumnType, Any]], at: Any) -> None:
        """Buffers one row whose column types are given; values are stored forms (`convert`), None = NULL.

        A SYMBOL cell takes its text.  This is the way of the types that no Python value has by nature.
        """
        self.lock()
        try:
            self._append(table, lambda row: self._fill_typed(row, cells), at)
        finally:
            self.unlock()

    def _append(self, table_name: str, fill: Callable[[_Row], None], at: Any) -> None:
        if self.latched is not None:
            raise self.latched.with_traceback(None)
        symbols_before = len(self.symbols)
        try:
            row = self._prepare(table_name, fill, at)
        except BaseException:
            self.symbols.truncate(symbols_before)
            raise
        first = not self._rows
        self._store(row)
        if first and self.on_first_row is not None:
            self.on_first_row()
        full = self.row_trigger and self._rows >= self.row_trigger
        if self.on_trigger is not None and (full or (self.byte_trigger and self.nbytes >= self.byte_trigger)):
            self.on_trigger()

    def _prepare(self, table_name: str, fill: Callable[[_Row], None], at: Any) -> _Row:
        """Everything that can fail."""
        table = self._by_text.get(table_name) if isinstance(table_name, str) else None
        if table is None:
            table = Table(table_name, check_table_name(table_name, self._max_name_bytes))
        row = _Row(table)
        fill(row)
        try:
            designated = convert.designated(at)
        except convert.Refused as why:
            raise InputError(f"row for table {table_name!r}: {why}", table=table_name) from None
        if designated is not None:
            self._set_designated(row, *designated)
        elif not row.values:
            raise InputError(
                f"the row for table {table_name!r} has no value at all: every column is None and 'at' is "
                "ServerTimestamp; give it a timestamp or leave it out",
                table=table_name,
            )
        if len(table.columns) + len(row.new) > limits.COLUMNS_PER_TABLE_MAX:
            raise InputError(
                f"table {table_name!r} would have over {limits.COLUMNS_PER_TABLE_MAX} columns in a batch",
                table=table_name,
            )
        self._check_row_size(row)
        return row

    def _fill(self, row: _Row, symbols: Mapping[str, Any] | None, columns: Mapping[str, Any] | None) -> None:
        for name, text in (symbols or {}).items():
            if text is None:
                self._check_unset(row, name)
                continue
            if not isinstance(text, str):
                self._refuse(row, name, f"a symbol takes str or None, not {convert.kind_of(text)}")
            self._set(row, name, ColumnType.SYMBOL, text)
        for name, value in (columns or {}).items():
            try:
                found = convert.natural(value)
            except convert.Refused as why:
                self._refuse(row, name, str(why))
            if found is None:
                self._check_unset(row, name)
            else:
                self._set(row, name, *found)

    def _fill_typed(self, row: _Row, cells: Iterable[tuple[str, ColumnType, Any]]) -> None:
        for name, column_type, value in cells:
            if value is None:
                self._check_unset(row, name)
            else:
                self._set(row, name, column_type, value)

    def _refuse(self, row: _Row, name: str, why: str) -> NoReturn:
        raise InputError(f"table {row.table.text!r}, column {name!r}: {why}", table=row.table.text, column=name)

    def _check_unset(self, row: _Row, name: str) -> None:
        """A None is no value, but its name is checked as any other."""
        if name not in row.table.by_text:
            check_column_name(name, self._max_name_bytes, table=row.table.text)

    def _find(self, row: _Row, name: str, column_type: ColumnType) -> Column:
        table = row.table
        column = table.by_text.get(name)
        if column is None:
            encoded = check_column_name(name, self._max_name_bytes, table=table.text)
            folded = fold(name)
            column = table.by_fold.get(folded) or row.new_by_fold.get(folded)
            if column is None:
                column = Column(name, encoded, column_type, table.row_count)
                row.new.append(column)
                row.new_by_fold[folded] = column
        return column

    def _set(self, row: _Row, name: str, column_type: ColumnType, value: Any) -> None:
        column = self._find(row, name, column_type)
        if column in row.values:
            self._refuse(row, name, f"the row names this column twice, also as {column.text!r} (case is ignored)")
        try:
            value = self._fitted(column, column_type, value)
        except convert.Refused as why:
            self._refuse(row, name, str(why))
        if _READS_AS_NULL.get(column.type, self) == value:
            self._warn_sentinel(row.table.text, name, value)
        row.values[column] = value

    def _fitted(self, column: Column, column_type: ColumnType, value: Any) -> Any:
        """The stored form for this column; Refused when type, range or shape differ."""
        if column.type is not column_type:
            if column.type is ColumnType.DOUBLE and column_type is ColumnType.LONG:
                return _exact_float(value)
            raise convert.Refused(
                f"the column is {column.type.name} in this batch and cannot take a {column_type.name} value"
            )
        if column_type is ColumnType.SYMBOL:
            convert.encode_text(value)
            return self.symbols.intern(str(value))
        if column_type in _INT_RANGES:
            low, high = _INT_RANGES[column_type]
            if not low <= value <= high:
                raise convert.Refused(f"{value} is outside {low} to {high}")
        elif column_type in DECIMALS:
            _check_decimal_fits(column, *value)
        elif column_type is ColumnType.GEOHASH:
            return _fitted_geohash(column, *value)
        elif column_type in (ColumnType.DOUBLE_ARRAY, ColumnType.LONG_ARRAY):
            _check_dimensions(column, value[0])
        return value

    def _set_designated(self, row: _Row, column_type: ColumnType, number: int) -> None:
        column = row.table.designated
        if column is None:
            column = Column("", b"", column_type, row.table.row_count)
            row.new.append(column)
        elif column.type is not column_type:
            raise InputError(
                f"table {row.table.text!r}: 'at' is {column_type.name} in this row and {column.type.name} in "
                "earlier rows of the batch; use one unit, or flush between",
                table=row.table.text,
            )
        row.values[column] = number

    def _check_row_size(self, row: _Row) -> None:
        """A row that alone is larger than a frame is refused now; earlier rows stay (behaviour.md 3.5)."""
        if not self.row_bytes_max:
            return
        nbytes = limits.HEADER_BYTES + 44 + len(row.table.name)
        for column, value in row.values.items():
            fixed = FIXED_BYTES.get(column.type, 8)
            nbytes += len(column.name) + 24 + fixed + variable_nbytes(column.type, value)
            if column.type is ColumnType.SYMBOL:
                nbytes += self.symbols.entries_nbytes(value, value + 1)
        if nbytes > self.row_bytes_max:
            raise FrameTooLarge(
                f"one row for table {row.table.text!r} needs about {nbytes} bytes; the limit of one frame is "
                f"{self.row_bytes_max}",
                size=nbytes,
                limit=self.row_bytes_max,
                table=row.table.text,
            )

    def _warn_sentinel(self, table: str, column: str, value: int) -> None:
        if (table, column) in self._warned or len(self._warned) >= 1_000:
            return
        self._warned.add((table, column))
        _LOG.warning("table %r, column %r: the value %d reads back as NULL (said once a column)", table, column, value)

    def _store(self, row: _Row) -> None:
        """The row is good: nothing below fails."""
        table = row.table
        if not table.row_count:
            self.tables.append(table)
            self._by_text[table.text] = table
        for column in row.new:
            table.add(column)
        for column, value in row.values.items():
            if column.type is ColumnType.GEOHASH:
                column.geohash_bits = value[1]
            elif column.type in (ColumnType.DOUBLE_ARRAY, ColumnType.LONG_ARRAY):
                column.array_dimensions = len(value[0])
        for column in table.columns:
            column.append(row.values.get(column))
        table.row_count += 1
        self._rows += 1


def _exact_float(value: int) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = 0.5
    if number != value:
        raise convert.Refused(f"the int {value} is not exact as a DOUBLE")
    return number


def _check_decimal_fits(column: Column, unscaled: int, scale: int) -> None:
    """Both this value and, when the scale grows, all earlier ones must fit the type."""
    if not 0 <= scale <= limits.DECIMAL_SCALE_MAX:
        raise convert.Refused(f"scale {scale} is outside 0 to {limits.DECIMAL_SCALE_MAX}")
    if column.scale is None or scale == column.scale:
        convert.check_decimal(column.type, unscaled)
    elif scale < column.scale:
        convert.check_decimal(column.type, unscaled * 10 ** (column.scale - scale))
    else:
        convert.check_decimal(column.type, unscaled)
        for earlier in column.values:
            if earlier is not None:
                convert.check_decimal(column.type, earlier[0] * 10 ** (scale - column.scale))


def _fitted_geohash(column: Column, bits: int, precision: int) -> tuple[int, int]:
    Geohash(bits, precision)  # checks the ranges
    if column.geohash_bits is not None and column.geohash_bits != precision:
        raise convert.Refused(
            f"a geohash of {precision} bits in a batch whose first one has {column.geohash_bits}; "
            "one precision a column and batch"
        )
    return bits, precision


def _check_dimensions(column: Column, shape: tuple[int, ...]) -> None:
    if column.array_dimensions is not None and column.array_dimensions != len(shape):
        raise convert.Refused(
            f"an array of {len(shape)} dimensions in a batch whose first one has {column.array_dimensions}; "
            "the server takes one number of dimensions a column"
        )
