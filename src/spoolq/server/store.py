"""Where rows go: the interface between a connection and a store, and what a connection holds uncommitted.

    batch = Batch(store)
    batch.add(block, ...)      rows of the open group; nobody else sees them; WireFault when they cannot be written
    batch.commit() -> {table: seqTxn}    visible, table by table
    batch.rollback()           the rows were never there; columns that were added stay
    store.sync()               before an OK goes out: what was committed survives what the store promises to survive

A store is shared by all connections, all calls come from the server's thread except the reading ones
(`rows`, `count`, `tables`), which any thread may make; each store has its own lock for that.
"""

from __future__ import annotations

from typing import Protocol

from spoolq.qwp.decode import Table
from spoolq.server.options import ServerOptions
from spoolq.server.schema import Fitted


class StoreFault(Exception):
    """A store cannot write; the rows of the transaction are lost and must come again (status 06)."""


class Store(Protocol):
    """A place for rows."""

    def configure(self, options: ServerOptions) -> None:
        """Called by a server that starts on it: names, limits, dedup keys."""

    def fit(self, block: Table, now_nanos: int) -> Fitted:
        """The block as its table takes it; the table is created, columns are added; raises WireFault."""

    def append(self, table: str, parts: list[Fitted]) -> int:
        """Commits rows of one table and gives its new transaction number."""

    def sync(self) -> None:
        """Everything appended is as durable as this store makes it; raises StoreFault."""

    @property
    def failed_syncs(self) -> int:
        """How many `sync` failed so far, whoever called them: each lost what all connections had appended."""

    def close(self) -> None:
        """No more calls follow."""


class Batch:
    """What one connection has appended and not committed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._parts: dict[str, list[Fitted]] = {}
        self._rows: dict[str, int] = {}
        self.committed_row_count = 0

    def __bool__(self) -> bool:
        return bool(self._parts)

    def add(self, block: Table, now_nanos: int) -> None:
        """Rows of one block; raises WireFault."""
        fitted = self._store.fit(block, now_nanos)
        if fitted.row_count or fitted.columns_added:
            self._parts.setdefault(block.name, []).append(fitted)
            self._rows[block.name] = self._rows.get(block.name, 0) + fitted.row_count

    def rows(self, table: str) -> int:
        """Uncommitted rows of a table."""
        return self._rows.get(table, 0)

    def commit(self) -> dict[str, int]:
        """All of it, table by table; the tables with their new transaction numbers."""
        return {table: self.commit_table(table) for table in list(self._parts)}

    def commit_table(self, table: str) -> int:
        """One table of it."""
        parts = self._parts.pop(table)
        self.committed_row_count += self._rows.pop(table)
        return self._store.append(table, parts)

    def rollback(self) -> None:
        """Forget it."""
        self._parts.clear()
        self._rows.clear()
