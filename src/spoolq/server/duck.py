"""The store behind SQL: DuckDB, in memory or in a file that survives a restart.  Needs the ``[sql]`` extra.

    append(table, parts)   stages rows; they are the next transaction
    sync()                 writes what is staged, all tables in one DuckDB transaction: before each OK, each query
    query(sql)             one SELECT, on any thread

What DuckDB does not know of a column (its wire type, precision, dimensions) and each table's transaction number
stand in the schema ``spoolq`` of the database, written in the same transaction as the rows.  Names ignore case, as
in QuestDB: ``T`` is the table ``t`` when that was first.  A decimal column is text from its first value of more
than 38 digits on.  Files, extensions and settings are out of reach of a query.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from spoolq.errors import ConfigError
from spoolq.qwp.decode import ColumnType, Table, fold
from spoolq.server import convert
from spoolq.server.http_side import QueryError, Result, Rows
from spoolq.server.options import ServerOptions
from spoolq.server.schema import Column, Fitted, Schema
from spoolq.server.sql_values import json_columns, type_name
from spoolq.server.store import StoreFault

QUERY_ROWS_MAX: Final = 1_000_000
_IN_MEMORY: Final = ":memory:"
_STAGED: Final = "spoolq?staged"  # a name that no table can have
_NUMBER: Final = "spoolq?number"  # nor a column
_log = logging.getLogger("spoolq.server")
_META: Final = """
CREATE SCHEMA IF NOT EXISTS spoolq;
CREATE TABLE IF NOT EXISTS spoolq.tables (name VARCHAR PRIMARY KEY, designated VARCHAR, transaction BIGINT);
CREATE TABLE IF NOT EXISTS spoolq.columns
    (table_name VARCHAR, ordinal INTEGER, name VARCHAR, type UTINYINT, "precision" INTEGER, scale INTEGER,
     dimensions INTEGER);
"""
_FENCE: Final = ("SET python_enable_replacements = false", "SET enable_external_access = false")


@dataclass(slots=True)
class _Table:
    """``written``: columns that DuckDB has already; ``staged``: rows that it does not have yet; ``widened``: written
    columns that are text from now on.
    """

    schema: Schema
    transaction: int = 0
    written: int = 0
    staged: list[Fitted] = field(default_factory=list)
    widened: list[Column] = field(default_factory=list)


class DuckStore:
    """Tables in DuckDB.  ``path`` None: in memory.  Raises ConfigError without the extra, or for a bad file."""

    def __init__(self, path: str | None = None) -> None:
        try:
            import duckdb

            from spoolq.server import arrow
        except ImportError:
            raise ConfigError("the SQL store needs DuckDB and pyarrow: pip install 'spoolq[sql]'") from None
        self._duckdb, self._arrow = duckdb, arrow
        self._lock = threading.RLock()
        self._options = ServerOptions()
        self._dedup_keys: dict[str, tuple[str, ...]] = {}
        self._failed_syncs = 0
        try:
            self._database = duckdb.connect(_IN_MEMORY if path is None else path)
            self._database.execute(_META)
        except duckdb.Error as error:
            raise ConfigError(f"the database {path!r} cannot be opened: {_first_part(error)}") from None
        for setting in _FENCE:
            self._database.execute(setting)
        self._reader = self._database.cursor()
        self._tables: dict[str, _Table] = {}  # by folded name; `Schema.table` is the name
        self._load()

    def _load(self) -> None:
        """The tables of an earlier run."""
        for name, designated, transaction in self._rows("SELECT name, designated, transaction FROM spoolq.tables"):
            self._tables[fold(name)] = _Table(Schema(name, designated), transaction)
        columns = 'SELECT table_name, name, type, "precision", scale, dimensions FROM spoolq.columns ORDER BY ordinal'
        for table, name, kind, *details in self._rows(columns):
            found = self._tables[fold(table)]
            found.schema.columns[fold(name)] = Column(name, ColumnType(kind), *details)
            found.written += 1

    def _rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self._database.execute(sql, list(parameters)).fetchall()
        return found

    # --- writing -------------------------------------------------------------------------------

    def configure(self, options: ServerOptions) -> None:
        """Takes over names and limits of the server that starts."""
        with self._lock:
            self._options = options
            self._dedup_keys = {fold(table): keys for table, keys in options.dedup_keys.items()}

    def fit(self, block: Table, now_nanos: int) -> Fitted:
        """The block in the table's types, and as Arrow, so that nothing is left that could fail; raises WireFault."""
        with self._lock:
            table = self._tables.get(fold(block.name)) or _Table(Schema(block.name, self._options.timestamp_name))
            fitted = table.schema.fit(block, self._options, now_nanos)
            self._widen(table, fitted)
            fitted.arrow = self._arrow.part_arrow(list(table.schema.columns.values()), fitted)
            if fold(block.name) in self._tables:
                table.transaction += fitted.columns_added  # each is an ALTER of its own (wire.md 5.1)
            self._tables[fold(block.name)] = table
            return fitted

    def _widen(self, table: _Table, fitted: Fitted) -> None:
        """Decimal columns that become text for what is in these rows."""
        for ordinal, column in enumerate(table.schema.columns.values()):
            if self._arrow.needs_text(column, fitted):
                column.as_text = True
                if ordinal < table.written:
                    table.widened.append(column)

    def append(self, table: str, parts: list[Fitted]) -> int:
        """Stages rows; gives the transaction number they will have."""
        with self._lock:
            found = self._tables[fold(table)]
            found.staged += [part for part in parts if part.row_count]
            found.transaction += 1
            return found.transaction

    def sync(self) -> None:
        """Everything staged, in one transaction; raises StoreFault, and then it is staged no more."""
        with self._lock:
            changed = [
                table
                for table in self._tables.values()
                if table.staged or table.widened or table.written < len(table.schema.columns)
            ]
            if not changed:
                return
            try:
                self._database.begin()
                for table in changed:
                    self._write(table.schema.table, table)
                self._database.commit()
            except self._duckdb.Error as error:
                self._failed_syncs += 1
                self._database.rollback()
                self._database.unregister(_STAGED)
                raise StoreFault(f"the rows could not be written: {_first_part(error)}") from error
            finally:
                for table in changed:
                    table.staged = []
            for table in changed:
                table.written, table.widened = len(table.schema.columns), []

    @property
    def failed_syncs(self) -> int:
        """How many syncs failed; each lost what was staged."""
        return self._failed_syncs

    def _write(self, name: str, table: _Table) -> None:
        """Definition first, then rows."""
        columns = list(table.schema.columns.values())
        added = columns[table.written :]
        for column in table.widened:
            self._database.execute(f"ALTER TABLE {_quoted(name)} ALTER COLUMN {_quoted(column.name)} TYPE VARCHAR")
        if added and not table.written:
            self._database.execute(f"CREATE TABLE {_quoted(name)} ({', '.join(map(_definition, added))})")
        elif added:
            for column in added:
                self._database.execute(f"ALTER TABLE {_quoted(name)} ADD COLUMN {_definition(column)}")
        for ordinal, column in enumerate(added, table.written):
            details = (column.name, int(column.type), column.precision, column.scale, column.dimensions)
            self._database.execute("INSERT INTO spoolq.columns VALUES (?, ?, ?, ?, ?, ?, ?)", [name, ordinal, *details])
        entry = [name, table.schema.designated, table.transaction]
        self._database.execute("INSERT OR REPLACE INTO spoolq.tables VALUES (?, ?, ?)", entry)
        if table.staged:
            self._insert(name, table, columns)

    def _insert(self, name: str, table: _Table, columns: list[Column]) -> None:
        staged = self._arrow.concatenated([part.arrow for part in table.staged], columns)
        self._database.register(_STAGED, staged)
        try:
            names = ", ".join(_quoted(column.name) for column in columns)
            keys = self._dedup_keys.get(fold(name))
            if keys is None:
                self._database.execute(f"INSERT INTO {_quoted(name)} ({names}) SELECT {names} FROM {_quoted(_STAGED)}")
            else:
                known = table.schema.columns  # a column that nobody has sent yet is NULL in every row
                self._replace(name, names, [table.schema.designated, *(key for key in keys if fold(key) in known)])
        finally:
            with suppress(self._duckdb.Error):  # in a transaction that failed; `sync` does it then
                self._database.unregister(_STAGED)

    def _replace(self, name: str, names: str, keys: list[str]) -> None:
        """Of rows with equal keys the last one stays."""
        table, quoted, staged, number = (
            _quoted(name),
            [_quoted(key) for key in keys],
            _quoted(_STAGED),
            _quoted(_NUMBER),
        )
        equal = " AND ".join(f"{table}.{key} IS NOT DISTINCT FROM {staged}.{key}" for key in quoted)
        self._database.execute(f"DELETE FROM {table} USING {staged} WHERE {equal}")
        numbered = f"SELECT *, row_number() OVER () AS {number} FROM {staged}"
        last = f"row_number() OVER (PARTITION BY {', '.join(quoted)} ORDER BY {number} DESC) = 1"
        rows = f"SELECT {names} FROM ({numbered}) QUALIFY {last} ORDER BY {number}"
        self._database.execute(f"INSERT INTO {table} ({names}) {rows}")

    # --- reading -------------------------------------------------------------------------------

    def query(self, sql: str, rows: Rows = None) -> Result:
        """One SELECT, ``rows`` of it or all; raises QueryError.  At most `QUERY_ROWS_MAX` rows."""
        try:
            self.sync()
            sql.encode()
        except (StoreFault, UnicodeEncodeError) as error:
            raise QueryError(str(error)) from None
        try:
            statements = self._reader.extract_statements(sql)
            if len(statements) != 1 or statements[0].type != self._duckdb.StatementType.SELECT:
                raise QueryError("only one SELECT at a time: this server takes rows by QWP and nothing by SQL")
            relation = self._reader.sql(sql)
            names = list(zip(relation.columns, map(str, relation.types), strict=True))
            first, end = rows if rows is not None else (0, QUERY_ROWS_MAX + 1)
            found = relation.limit(min(end - first, QUERY_ROWS_MAX + 1), first).to_arrow_table()
        except self._duckdb.Error as error:
            raise QueryError(_first_part(error)) from None
        if len(found) > QUERY_ROWS_MAX:
            raise QueryError(f"the result has more than {QUERY_ROWS_MAX} rows; add a LIMIT")
        columns = json_columns(found, [kind for _, kind in names])
        designated = fold(self._options.timestamp_name)
        places = [n for n, (name, kind) in enumerate(names) if fold(name) == designated and "TIMESTAMP" in kind]
        dataset = [list(row) for row in zip(*columns, strict=True)]
        return Result([(name, type_name(kind)) for name, kind in names], dataset, places[0] if places else -1)

    def tables(self) -> list[str]:
        """Names of the tables."""
        with self._lock:
            return [table.schema.table for table in self._tables.values()]

    def count(self, table: str) -> int:
        """Rows of a table that queries see; 0 for one that does not exist."""
        with self._lock:
            found = self._tables.get(fold(table))
            if found is None or not found.written:
                return 0
            return int(self._rows(f"SELECT count(*) FROM {_quoted(found.schema.table)}")[0][0])

    def interrupt(self) -> None:
        """Ends a running query."""
        self._reader.interrupt()

    def close(self) -> None:
        """Writes what is staged and closes the file; what cannot be written was acknowledged to nobody."""
        with self._lock:
            try:
                self.sync()
            except StoreFault as fault:
                _log.error("%s", fault)
            self._reader.close()
            self._database.close()


_DUCK_TYPES: Final = {
    ColumnType.BOOLEAN: "BOOLEAN",
    ColumnType.BYTE: "TINYINT",
    ColumnType.SHORT: "SMALLINT",
    ColumnType.INT: "INTEGER",
    ColumnType.LONG: "BIGINT",
    ColumnType.FLOAT: "FLOAT",
    ColumnType.DOUBLE: "DOUBLE",
    ColumnType.TIMESTAMP: "TIMESTAMP",
    ColumnType.TIMESTAMP_NANOS: "TIMESTAMP_NS",
    ColumnType.DATE: "TIMESTAMP_MS",
    ColumnType.UUID: "UUID",
    ColumnType.BINARY: "BLOB",
}
_ARRAYS: Final = {ColumnType.DOUBLE_ARRAY: "DOUBLE", ColumnType.LONG_ARRAY: "BIGINT"}
_DEFAULTS: Final = {ColumnType.BOOLEAN: "false", ColumnType.BYTE: "0", ColumnType.SHORT: "0"}


def _definition(column: Column) -> str:
    """A column in SQL; types that have no null get a default, as rows before it need one."""
    if column.type in _ARRAYS:
        kind = _ARRAYS[column.type] + "[]" * column.dimensions
    elif column.type in convert.DECIMALS:
        kind = "VARCHAR" if column.as_text else f"DECIMAL(38, {min(column.scale, 38)})"
    else:
        kind = _DUCK_TYPES.get(column.type, "VARCHAR")
    default = _DEFAULTS.get(column.type)
    return f"{_quoted(column.name)} {kind}" + (f" DEFAULT {default}" if default is not None else "")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _first_part(error: Exception) -> str:
    """DuckDB's words without the picture of the query."""
    return str(error).partition("\n\nLINE ")[0].strip()
