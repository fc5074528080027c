"""What the server does with the messages of one connection (wire.md 5, 6).  No sockets, no frames.

    message(payload) -> responses      one binary frame of the client
    flush() -> responses               the bytes received so far are consumed; PING; CLOSE

Nothing has to be done at the end of a connection: rows of an open group are nowhere but here.

Sequences count every binary frame from 0.  An OK is cumulative and goes out when 8 frames have been processed
since the last one, when a frame closes a deferred group, before an error, and at each `flush`.  After an error
the connection is latched: later messages count and have no effect and no answer (`latched=False`: the next one
is processed).  A refused message leaves no rows, and neither does the open group before it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from spoolq.qwp.decode import Dictionary, WireFault, blocks
from spoolq.qwp.layout import Status
from spoolq.qwp.responses import DurableAck, ErrorFrame, Ok, Response
from spoolq.server.options import ServerOptions
from spoolq.server.store import Batch, Store, StoreFault

FRAMES_PER_ACK: Final = 8
_SYMBOL_NBYTES: Final = 64  # of a short Python text, beside its characters
_log = logging.getLogger("spoolq.server")

# Frame number -> status, text and sequence of the error to answer with, or None: how a script refuses a frame.
Refuse = Callable[[int], tuple[int, str, int] | None]
# Status and text for a block, whatever is in it, or None: who may not write, or cannot now.
Forbid = Callable[[], tuple[int, str] | None]


class Processor:
    """The data side of one connection.

    ``wall_nanos`` gives the wall clock for rows without a timestamp; ``refuse`` may refuse a frame by its number,
    ``forbid`` every block of a frame that is whole.
    """

    def __init__(
        self,
        options: ServerOptions,
        store: Store,
        wall_nanos: Callable[[], int],
        *,
        durable_ack: bool = False,
        refuse: Refuse | None = None,
        forbid: Forbid | None = None,
    ) -> None:
        self._options = options
        self._store = store
        self._wall_nanos = wall_nanos
        self._refuse = refuse
        self._forbid = forbid
        self._batch = Batch(store)
        self._tables: set[str] = set()
        self._advanced: dict[str, int] = {}  # table -> transaction, since the last OK
        self._durable = _DurableAcks(options.durable_ack_delay_millis) if durable_ack else None
        self._dictionary = Dictionary()
        self._acked = -1
        self._ackable = -1
        self._frames_since_ack = 0
        self._symbol_nbytes = 0
        self._group_nbytes = 0
        self._in_group = False  # a deferred frame waits for the one that commits it
        self._rowless_waits = False  # one of them has no rows: no early commit covers it (wire.md 6.2)
        self._has_failed = False  # what was committed is not stored: no OK any more
        self._unsynced = False  # something is committed that no `sync` has seen
        self._failed_syncs = 0  # of the store, before that
        self.sequence = -1  # of the last message
        self.latched = False

    def message(self, payload: bytes, now_millis: int) -> list[Response]:
        """One message; what the server says at once."""
        self.sequence += 1
        if self.latched:
            return []
        refused = self._refuse(self.sequence) if self._refuse is not None else None
        if refused is not None:
            with suppress(WireFault):
                blocks(payload, self._dictionary)  # a refused message's symbols stay (wire.md 3.3)
            return self._fail(*refused)
        try:
            closed_group = self._process(payload, now_millis)
        except WireFault as fault:
            return self._fail(fault.status, fault.text)
        except Exception as error:
            _log.exception("message %d could not be processed", self.sequence)
            return self._fail(Status.INTERNAL_ERROR, f"internal error: {type(error).__name__}")
        self._frames_since_ack += 1
        if closed_group or self._frames_since_ack >= FRAMES_PER_ACK:
            return self._acks()
        return []

    @property
    def row_count(self) -> int:
        """Rows this connection has committed."""
        return self._batch.committed_row_count

    @property
    def held_nbytes(self) -> int:
        """About what its symbols and the messages of an open group take."""
        return self._symbol_nbytes + self._group_nbytes

    def flush(self, now_millis: int) -> list[Response]:
        """Pending acks, durable ones too."""
        responses = self._acks()
        if self._durable is not None and not self._has_failed:
            due = self._durable.due(now_millis)
            responses += (self._lost() or due) if due else []
        return responses

    def _process(self, payload: bytes, now_millis: int) -> bool:
        """Applies a message; whether it closed a deferred group.  Raises WireFault."""
        if not self._unsynced:
            self._failed_syncs = self._store.failed_syncs
        known = len(self._dictionary)
        message, tables = blocks(payload, self._dictionary, rows_max=self._options.rows_per_block_max)
        self._symbol_nbytes += sum(_SYMBOL_NBYTES + len(text) for text in self._dictionary.texts[known:])
        rows, now_nanos = 0, self._wall_nanos()
        for block in tables:
            if self._forbid is not None and (forbidden := self._forbid()) is not None:
                raise WireFault(Status(forbidden[0]), forbidden[1])
            self._know(block.name)
            self._batch.add(block, now_nanos)
            rows += block.row_count
            if message.is_deferred and self._batch.rows(block.name) > self._options.uncommitted_rows_max:
                self._committed({block.name: self._batch.commit_table(block.name)}, now_millis)
        if not message.is_deferred:
            self._committed(self._batch.commit(), now_millis)
            self._group_nbytes = 0
            self._ackable = self.sequence
            closed, self._in_group = self._in_group, False
            self._rowless_waits = False
            return closed
        self._in_group = True
        self._rowless_waits = self._rowless_waits or not rows
        self._group_nbytes += len(payload)
        if not self._rowless_waits and not self._batch:
            self._ackable = self.sequence  # all of it was committed early (wire.md 6.2)
        return False

    def _know(self, table: str) -> None:
        self._tables.add(table)
        if len(self._tables) > self._options.tables_max:
            self._tables.discard(table)
            raise WireFault(Status.WRITE_ERROR, f"too many distinct tables, limit: {self._options.tables_max}")

    def _committed(self, transactions: dict[str, int], now_millis: int) -> None:
        self._unsynced = self._unsynced or bool(transactions)
        self._advanced.update(transactions)
        if self._durable is not None and transactions:
            self._durable.add(transactions, now_millis)

    def _acks(self) -> list[Response]:
        if self._ackable <= self._acked or self._has_failed:
            return []
        lost = self._lost()
        if lost:
            return lost
        response = Ok(self._ackable, tuple(self._advanced.items()))
        self._acked = self._ackable
        self._advanced = {}
        self._frames_since_ack = 0
        return [response]

    def _lost(self) -> list[Response]:
        """Before anything is said to be stored: nothing, or the error where it is not.  The sync that failed may be
        another connection's, or a query's: rows that were committed early may have waited for theirs.
        """
        try:
            self._store.sync()
            if self._unsynced and self._store.failed_syncs != self._failed_syncs:
                raise StoreFault("rows that waited for their sync were lost in one that failed")
        except StoreFault as fault:
            self.latched = self._has_failed = True
            self._batch.rollback()
            return [ErrorFrame(Status.INTERNAL_ERROR, self._acked + 1, str(fault))]
        self._unsynced = False
        return []

    def _fail(self, status: int, text: str, sequence: int | None = None) -> list[Response]:
        self._batch.rollback()
        self._in_group, self._rowless_waits, self._group_nbytes = False, False, 0
        responses = self._acks()
        if self._has_failed:
            return responses
        self.latched = self._options.latched
        return [*responses, ErrorFrame(status, self.sequence if sequence is None else sequence, text)]


class _DurableAcks:
    """Commits on their way to the object store; they arrive ``delay_millis`` after the commit (wire.md 5.5)."""

    def __init__(self, delay_millis: int) -> None:
        self._delay_millis = delay_millis
        self._waiting: deque[tuple[int, dict[str, int]]] = deque()

    def add(self, transactions: dict[str, int], now_millis: int) -> None:
        """A commit."""
        self._waiting.append((now_millis + self._delay_millis, transactions))

    def due(self, now_millis: int) -> list[Response]:
        """One response for everything that has arrived."""
        arrived: dict[str, int] = {}
        while self._waiting and self._waiting[0][0] <= now_millis:
            arrived.update(self._waiting.popleft()[1])
        return [DurableAck(tuple(arrived.items()))] if arrived else []
