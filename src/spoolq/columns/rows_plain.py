"""The row buffer, plain body: slow, obvious, the oracle of the compiled one and its fallback.

A `RowBuffer` holds the rows of one batch, a `Table` each, a `Column` each: the values as a list of
stored forms (`convert`), None for NULL.  The compiled body keeps the same columns in wire form.

Order of calls: ``row`` / ``rows`` / ``typed_row`` any number of times, an encoder reads ``tables``,
then ``clear`` (all published) or ``drop_rows`` (a part of a split published).

A row is prepared as a whole before anything of it is stored, so a row that fails leaves no trace:
no column, no symbol id, no table (ours.md 8).  A row whose trigger fails is taken out again, unless the
trigger has published it: the row of a call that raises is not taken (`spoolq.errors`).

The buffer is also the sender's lock: a context manager, re-entered only by the triggers.  A
conversion hook of the same thread that calls back gets ReentryError instead of a deadlock
(ours.md 10).  Everything but the row calls and the lock itself is called with the lock held.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from spoolq import limits
from spoolq.columns import convert, faults, sizes
from spoolq.columns.names import as_dict, as_names, as_values, check_column_name, check_shape, check_table_name, fold
from spoolq.columns.symbols import SymbolTable
from spoolq.columns.types import ARRAYS, DECIMALS, OFFSETS, ColumnType
from spoolq.errors import SpoolqError


class Column:
    """One column of a batch: name in UTF-8, type, one stored form a row (None = NULL).

    ``data_nbytes``: wire form of the values that are there.  What all values share once the first
    is there: ``scale`` of decimals, ``precision`` of geohashes, ``dimensions`` of arrays.
    """

    __slots__ = ("data_nbytes", "dimensions", "name", "precision", "scale", "text", "type", "values")

    def __init__(self, text: str, name: bytes, column_type: ColumnType, rows: int) -> None:
        self.text = text
        self.name = name
        self.type = column_type
        self.values: list[Any] = [None] * rows
        self.scale: int | None = None
        self.precision: int | None = None
        self.dimensions: int | None = None
        self.data_nbytes = 0

    def append(self, value: Any) -> None:
        """Adds a stored form that `RowBuffer` has checked."""
        if value is not None:
            if self.type in DECIMALS:
                value = self._rescaled(value)
            elif self.type is ColumnType.GEOHASH:
                self.precision = value[1]
            elif self.type in ARRAYS:
                self.dimensions = len(value[0])
            self.data_nbytes += sizes.value_nbytes(self.type, value)
        self.values.append(value)

    def take_last(self, scale: int | None, precision: int | None, dimensions: int | None) -> None:
        """Takes the last value away again; scale, precision and dimensions are those of before it."""
        value = self.values.pop()
        if value is not None:
            self.data_nbytes -= sizes.value_nbytes(self.type, value)
        if scale is not None and self.scale is not None and scale < self.scale:
            factor = 10 ** (self.scale - scale)
            self.values = [None if v is None else (v[0] // factor, scale) for v in self.values]
        self.scale, self.precision, self.dimensions = scale, precision, dimensions

    def _rescaled(self, value: tuple[int, int]) -> tuple[int, int]:
        unscaled, scale = value
        if self.scale is None or scale > self.scale:
            factor = 10 ** (scale - (self.scale or 0))
            self.values = [None if v is None else (v[0] * factor, scale) for v in self.values]
            self.scale = scale
        return unscaled * 10 ** (self.scale - scale), self.scale


class Table:
    """The rows of one table in a batch, columns in order of first appearance."""

    __slots__ = ("by_fold", "columns", "designated", "name", "row_count", "text")

    def __init__(self, text: str, name: bytes) -> None:
        self.text = text
        self.name = name
        self.row_count = 0
        self.columns: list[Column] = []
        self.by_fold: dict[str, Column] = {}
        self.designated: Column | None = None

    @property
    def nbytes(self) -> int:
        """Upper bound of the encoded block."""
        total = len(self.name) + sizes.TABLE_BYTES
        for column in self.columns:
            total += len(column.name) + sizes.COLUMN_BYTES + (self.row_count + 7) // 8
            total += sizes.sentinel_nbytes(column.type) * self.row_count or column.data_nbytes
        return total

    def add(self, column: Column) -> None:
        """A column that appears now."""
        self.columns.append(column)
        if column.name:
            self.by_fold[fold(column.text)] = column
        else:
            self.designated = column


class _Row:
    """A row on its way: which value goes to which column, and the columns that are new with it."""

    __slots__ = ("new", "table", "values")

    def __init__(self, table: Table) -> None:
        self.table = table
        self.values: dict[Column, Any] = {}
        self.new: list[Column] = []


class _Mark:
    """A table as it was before a row: for a Ctrl-C while the row is stored (ours.md 33), and for its trigger."""

    def __init__(self, rows: RowBuffer, table: Table) -> None:
        self._rows, self._table = rows, table
        self._counts = len(rows.tables), len(rows), table.row_count
        self._designated, self._by_fold = table.designated, dict(table.by_fold)
        self._columns = [
            (column, column.values, column.data_nbytes, column.scale, column.precision, column.dimensions)
            for column in table.columns
        ]

    def restore(self) -> None:
        """Takes back whatever of the row was stored."""
        rows, table = self._rows, self._table
        tables, rows._rows, table.row_count = self._counts
        del rows.tables[tables:]
        if not table.row_count:
            rows._by_text.pop(table.text, None)
        table.columns = [column for column, *_ in self._columns]
        table.designated, table.by_fold = self._designated, self._by_fold
        for column, values, data_nbytes, scale, precision, dimensions in self._columns:
            del values[table.row_count :]
            column.values, column.data_nbytes = values, data_nbytes
            column.scale, column.precision, column.dimensions = scale, precision, dimensions

    def withdraw(self) -> bool:
        """Takes the row out again when its trigger has failed; False when that has published it.

        Rows before it may be gone: what is published goes from the front.
        """
        rows, table = self._rows, self._table
        if table not in rows.tables:
            return False
        rows._rows -= 1
        table.row_count -= 1
        if not table.row_count:
            rows.tables.remove(table)
            del rows._by_text[table.text]
            return True
        table.columns = [column for column, *_ in self._columns]
        table.designated, table.by_fold = self._designated, self._by_fold
        for column, _, _, *shared in self._columns:
            column.take_last(*shared)
        return True


class RowBuffer:
    """Rows of one batch, with the triggers of auto-flush.

    ``symbols``: the dictionary that SYMBOL values are interned in.  ``max_name_bytes``: UTF-8 bytes
    of a table or column name.  Triggers (0 = off) are looked at when a row is complete; then
    ``on_trigger()`` runs with the lock held.  Its errors come out of the row call, with ``in_doubt``: False,
    and the row was taken out again, or True, and the trigger has published it.  ``after_trigger()`` runs behind
    it in the same call, without the lock.
    ``row_bytes_max`` (0 = off): a row, or a new symbol, that alone needs a larger message is refused.
    ``row_result`` is what `row` returns: the sender it belongs to.
    ``initial_nbytes`` (0 = off): room the columns of a table begin with together, where memory is the
    body's own: the compiled one's.
    """

    def __init__(self, symbols: SymbolTable, *, max_name_bytes: int = limits.NAME_BYTES_MAX) -> None:
        self.symbols = symbols
        self.tables: list[Table] = []
        self.row_trigger = 0
        self.byte_trigger = 0
        self.row_bytes_max = 0
        self.initial_nbytes = 0
        self.on_trigger: Callable[[], object] | None = None
        self.on_first_row: Callable[[], object] | None = None
        self.after_trigger: Callable[[], object] | None = None
        self.row_result: object = None
        self.latched: SpoolqError | None = None
        self._max_name_bytes = max_name_bytes
        self._by_text: dict[str, Table] = {}
        self._rows = 0
        self._lock = threading.Lock()
        self._owner: int | None = None
        self._triggered = False
        self._sentinels = faults.SentinelLog()

    # -- the sender's lock ---------------------------------------------------------------------
    def lock(self, blocking: bool = True) -> bool:
        """Takes the sender's lock; False when it is held and ``blocking`` is False.

        Raises ReentryError when this very thread holds it.
        """
        if self._owner == threading.get_ident():
            raise faults.reentry()
        if not self._lock.acquire(blocking):
            return False
        self._owner = threading.get_ident()
        return True

    def unlock(self) -> None:
        """Gives the sender's lock back; RuntimeError when this thread does not hold it."""
        if self._owner != threading.get_ident():
            raise RuntimeError("unlock of a row buffer that this thread has not locked")
        self._owner = None
        self._lock.release()

    def refuse_reentry(self) -> None:
        """Raises ReentryError when this very thread holds the sender's lock."""
        if self._owner == threading.get_ident():
            raise faults.reentry()

    def after_fork(self) -> None:
        """In a forked child: frees the lock, which a thread may hold that is not here (ours.md 32)."""
        self._owner = None
        self._lock = threading.Lock()

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
        return sizes.DICTIONARY_BYTES + new + sum(table.nbytes for table in self.tables)

    def clear(self) -> None:
        """Forgets all rows; the next row starts the columns anew."""
        self.tables = []
        self._by_text = {}
        self._rows = 0

    def drop_rows(self, table_index: int, count: int) -> None:
        """Forgets the first ``count`` rows of a table; a table without rows goes away."""
        table = self.tables[table_index]
        if not 0 <= count <= table.row_count:
            raise ValueError(f"table {table.text!r} has {table.row_count} rows, {count} cannot be dropped")
        self._rows -= count
        if count == table.row_count:
            del self.tables[table_index]
            del self._by_text[table.text]
            return
        table.row_count -= count
        for column in table.columns:
            dropped, column.values = column.values[:count], column.values[count:]
            column.data_nbytes -= sum(sizes.value_nbytes(column.type, v) for v in dropped if v is not None)

    # -- rows ----------------------------------------------------------------------------------
    def row(
        self,
        table_name: str,
        *,
        symbols: Mapping[str, str | None] | None = None,
        columns: Mapping[str, Any] | None = None,
        at: Any,
    ) -> Any:
        """Buffers one row, whole or not at all; returns ``row_result``.

        ``symbols``: SYMBOL columns by name; ``columns``: all others, the type by the value
        (`convert.natural`); None = NULL.  ``at``: the designated timestamp.

        Raises InputError (table, column and kind of value named), ReentryError, a copy of the latched error, or
        what the trigger raises; the row is not taken then, unless ``in_doubt``.
        """
        self._locked(lambda: self._append(table_name, lambda row: self._fill(row, symbols, columns), at))
        return self.row_result

    def rows(
        self,
        table_name: str,
        rows: Iterable[Sequence[Any]],
        *,
        symbols: Sequence[str] = (),
        columns: Sequence[str] = (),
        at: Any = None,
    ) -> int:
        """Buffers many rows of one shape; the number of rows buffered.

        Each row is a sequence: the values of ``symbols``, then those of ``columns``, then the
        designated timestamp, unless ``at`` gives one for all.  The first row that is refused is
        undone and raises; the rows before it stay, ``rows_taken`` of the error says how many.
        """
        check_table_name(table_name, self._max_name_bytes)
        symbols, columns = as_names(table_name, symbols), as_names(table_name, columns)
        width = len(check_shape(table_name, symbols, columns, self._max_name_bytes)) + (at is None)
        done = 0
        for given in rows:
            try:
                values = as_values(table_name, done, given)
                if len(values) != width:
                    raise faults.wrong_width(table_name, done, len(values), width)
                self.row(
                    table_name,
                    symbols=dict(zip(symbols, values, strict=False)),
                    columns=dict(zip(columns, values[len(symbols) :], strict=False)),
                    at=values[-1] if at is None else at,
                )
            except (SpoolqError, KeyboardInterrupt) as error:
                faults.note_row(error, done)
                raise
            done += 1
        return done

    def typed_row(self, table: str, cells: Iterable[tuple[str, ColumnType, Any]], at: Any) -> None:
        """Buffers one row whose column types are given; values are stored forms (`convert`), None = NULL.

        A SYMBOL cell takes its text.  This is the way of the types that no Python value has by nature.
        """
        self._locked(lambda: self._append(table, lambda row: self._fill_typed(row, list(cells)), at))

    def _locked(self, call: Callable[[], None]) -> None:
        """With the lock, which no Ctrl-C leaves taken: the ``with`` of a lock is one step."""
        if self._owner == threading.get_ident() and self._lock.locked():
            raise faults.reentry()
        with self._lock:
            self._owner = threading.get_ident()
            try:
                call()
            finally:
                self._owner = None
                triggered, self._triggered = self._triggered, False
        if triggered and self.after_trigger is not None:
            self.after_trigger()

    def _append(self, table_name: str, fill: Callable[[_Row], None], at: Any) -> None:
        if self.latched is not None:
            faults.raise_latched(self.latched)
        symbols_before, first = len(self.symbols), not self._rows
        mark: _Mark | None = None
        try:
            row = self._prepare(table_name, fill, at)
            mark = _Mark(self, row.table)
            self._store(row)
        except BaseException:  # of _store: Ctrl-C
            if mark is not None:
                mark.restore()
            self.symbols.truncate(symbols_before)
            raise
        try:
            if first and self.on_first_row is not None:
                self.on_first_row()
            full = self.row_trigger and self._rows >= self.row_trigger
            if self.on_trigger is not None and (full or (self.byte_trigger and self.nbytes >= self.byte_trigger)):
                self.on_trigger()
                self._triggered = True
        except BaseException as error:
            faults.note_outcome(error, taken=not mark.withdraw())
            if isinstance(error, Exception):  # a Ctrl-C may have left an id in the slot's dictionary
                self.symbols.truncate(max(symbols_before, self.symbols.published_count))
            raise

    def _prepare(self, table_name: str, fill: Callable[[_Row], None], at: Any) -> _Row:
        """Everything that can fail."""
        table = self._by_text.get(table_name) if isinstance(table_name, str) else None
        if table is None:
            table = Table(table_name, check_table_name(table_name, self._max_name_bytes))
        row = _Row(table)
        fill(row)
        try:
            designated = convert.designated(at)
        except faults.Refused as why:
            raise faults.at_refused(table_name, why) from None
        if designated is not None:
            self._set_designated(row, *designated)
        elif not row.values:
            raise faults.no_value(table_name)
        if len(table.columns) + len(row.new) > limits.COLUMNS_PER_TABLE_MAX:
            raise faults.too_many_columns(table_name)
        if self.row_bytes_max:
            cells = [(column.name, column.type, value) for column, value in row.values.items()]
            nbytes = sizes.alone_nbytes(table.name, cells)
            if nbytes > self.row_bytes_max:
                raise faults.row_too_large(table_name, nbytes, self.row_bytes_max)
        return row

    def _fill(self, row: _Row, symbols: Mapping[str, Any] | None, columns: Mapping[str, Any] | None) -> None:
        table = row.table.text
        texts, values = as_dict(table, "symbols", symbols), as_dict(table, "columns", columns)
        check_shape(table, list(texts), list(values), self._max_name_bytes)
        cells = list(values.items())  # a conversion hook may change the caller's dict
        for name, text in list(texts.items()):
            if text is not None:
                self._set(row, name, ColumnType.SYMBOL, text)
        for name, value in cells:
            try:
                found = convert.natural(value)
            except faults.Refused as why:
                raise faults.refused(table, name, why) from None
            if found is not None:
                self._set(row, name, *found)

    def _fill_typed(self, row: _Row, cells: list[tuple[str, ColumnType, Any]]) -> None:
        check_shape(row.table.text, (), [name for name, _, _ in cells], self._max_name_bytes)
        for name, column_type, value in cells:
            if value is not None:
                self._set(row, name, column_type, value)

    def _set(self, row: _Row, name: str, column_type: ColumnType, value: Any) -> None:
        table = row.table
        column = table.by_fold.get(fold(name))
        if column is None:
            encoded = check_column_name(name, self._max_name_bytes, table=table.text)
            column = Column(name, encoded, column_type, table.row_count)
            row.new.append(column)
        try:
            value = self._fitted(column, column_type, value, table.text, name)
        except faults.Refused as why:
            raise faults.refused(table.text, name, why) from None
        if convert.reads_as_null(column.type, value):
            self._sentinels.say(table.text, name, value)
        row.values[column] = value

    def _fitted(self, column: Column, column_type: ColumnType, value: Any, table: str, name: str) -> Any:
        """The stored form for this column; Refused when type, range or shape differ."""
        if column.type is not column_type:
            if column.type is ColumnType.DOUBLE and column_type is ColumnType.LONG:
                return convert.exact_double(value)
            raise faults.type_changed(column.type, column_type)
        if column_type is ColumnType.SYMBOL:
            return self._symbol_id(convert.symbol_text(value), table, name)
        if column_type in OFFSETS and column.data_nbytes + len(value) > limits.COLUMN_BYTES_MAX:
            raise faults.column_full()
        value = convert.fitted(column_type, value)
        if column_type in DECIMALS and column.scale is not None:
            convert.rescaled(column_type, value[0], value[1], max(column.scale, value[1]))
            for earlier in column.values:
                if earlier is not None and value[1] > column.scale:
                    convert.rescaled(column_type, earlier[0], column.scale, value[1])
        elif column.precision is not None:
            convert.fit_precision(column.precision, value[1])
        elif column.dimensions is not None:
            convert.fit_dimensions(column.dimensions, len(value[0]))
        return value

    def _symbol_id(self, text: str, table: str, name: str) -> int:
        known = self.symbols.ids.get(text)
        if known is not None:
            return known
        new = self.symbols.intern(text, table, name)
        needed = self.symbols.entries_nbytes(new, new + 1) + sizes.SYMBOL_MESSAGE_BYTES
        if 0 < self.row_bytes_max < needed:
            raise faults.symbol_too_large(table, name, text, needed, self.row_bytes_max)
        return new

    def _set_designated(self, row: _Row, column_type: ColumnType, number: int) -> None:
        column = row.table.designated
        if column is None:
            column = Column("", b"", column_type, row.table.row_count)
            row.new.append(column)
        elif column.type is not column_type:
            raise faults.mixed_units(row.table.text, column_type, column.type)
        row.values[column] = number

    def _store(self, row: _Row) -> None:
        """The row is good: nothing below fails."""
        table = row.table
        if not table.row_count:
            self.tables.append(table)
            self._by_text[table.text] = table
        for column in row.new:
            table.add(column)
        for column in table.columns:
            column.append(row.values.get(column))
        table.row_count += 1
        self._rows += 1
