"""A new slot life: the ids of symbols begin anew while the sender runs on (ours.md 4).

A dictionary only grows: the file, every catch-up, and the ids in each frame grow with it, until rows are
refused at its limits.  At a drained idle point nothing that is left names an id, and it may start again:

    1  the slot holds no frame any more, and its symbol file no entry      `Store.restart_dictionary`
    2  `SymbolTable` and the row buffer's measure of it begin anew         `NewLife.begin`
    3  `Life.number` rises; a connection of an older number is left        `IoLoop`, `Delivery`

FSNs go on: what callers hold of them keeps its meaning.  A kill behind any step leaves a slot that anybody
opens, with the old dictionary or with an empty one, and no frame.

A drained idle point: everything published is settled, no row is buffered, and the sender's lock is held, so
that none of this changes.  Who calls what:

- the I/O thread, behind each acknowledgement: `wanted_now`, which costs a comparison until the dictionary is
  large; True: the keeper has to be woken;
- the keeper: `due`, then with the sender's lock `begin`.  Nobody else begins a life, so no Ctrl-C can come
  between the steps, and no caller pays for the syncs except by waiting for the lock;
- the I/O thread holds `Life.lock` while it reads the dictionary for a catch-up.

Between 2 and 3 nothing is published, for the lock is held: a frame with new ids is seen only by those who see
the new number too.  A busy producer that never drains gets the WARN and the error of the limits.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from spoolq import limits
from spoolq.columns import RowBuffer, SymbolTable
from spoolq.spool import Store

_LOG = logging.getLogger("spoolq.symbols")


class Life:
    """Which dictionary the ids are of: ``number`` counts; ``lock`` guards it and the dictionary's beginning anew."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.number = 0


class NewLife:
    """See the module's text.

    ``entries_max``: a dictionary of more entries begins anew.  ``allowed`` says that the sender neither closes
    nor has failed; ``on_begun`` is called when a connection may have to be left.
    """

    def __init__(
        self,
        rows: RowBuffer,
        symbols: SymbolTable,
        store: Store,
        *,
        allowed: Callable[[], bool],
        on_begun: Callable[[], None],
    ) -> None:
        self._rows = rows
        self._symbols = symbols
        self._store = store
        self._allowed = allowed
        self._on_begun = on_begun
        self._wanted = False
        self.life = Life()
        self.entries_max = limits.DICTIONARY_RESTART_ENTRIES

    def wanted_now(self) -> bool:
        """Whether the keeper has to look: the dictionary is large and nothing waits for its acknowledgement."""
        if not self._is_time():
            return False
        self._wanted = True
        return True

    @property
    def due(self) -> bool:
        """Whether `begin` is worth a try.  Changes nothing: an acknowledgement may come just now."""
        return self._wanted and self._is_time() and self._allowed()

    def begin(self) -> bool:
        """Begins a new life if this is a drained idle point; the sender's lock is held.

        Raises StorageError: then the old life goes on, and trying again is right.
        """
        if not self.due:
            return False
        if len(self._rows):
            self._wanted = False  # the acknowledgement of these rows will say so again
            return False
        entries = len(self._symbols)
        self._wanted = self._store.restart_dictionary()
        if not self._wanted:
            return False
        with self.life.lock:
            self._symbols.restart()
            self._rows.clear()  # it holds no row; it measures the new symbols anew
            self.life.number += 1
        self._wanted = False
        _LOG.info("all is acknowledged: the symbol dictionary of %d entries begins anew", entries)
        self._on_begun()
        return True

    def _is_time(self) -> bool:
        store = self._store
        return len(self._symbols) > self.entries_max and store.acked_fsn >= store.published_fsn
