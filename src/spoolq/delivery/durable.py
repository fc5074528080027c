"""When what the server has committed is durable too (behaviour.md 4.4, wire.md 5.5).

An OK says that frames are in the server's WAL and which transaction of which table they ended in; a
DURABLE_ACK says up to which transaction each table has reached the object store.  A frame is durable
when every table of the OK that covers it, and every OK before, has reached its transaction.

```
ok(fsn, entries)      an OK, in the order of the connection
durable(entries)      a DURABLE_ACK; it may come before the OK it covers
fsn                   newest durable frame, after either
```

One `DurableAcks` a connection: the transactions of another one may count differently, so nothing is
carried over.  Owned by the delivery machine.

Bounds: tables and the bytes of their names (`TooManyTables` above them: no server has so many), and
what waits.  When that is full an OK joins the one before it: both are then durable together, later
than they could be and never earlier.

`SeqTxns` keeps the highest transaction of each table for people to look at.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from spoolq import limits
from spoolq.qwp.responses import Entries, Ok

_NONE: Final = -(1 << 63) - 1  # below every i64


class TooManyTables(ValueError):
    """The answers of one connection name more tables than a server can have."""


class _Waiting:
    """Frames up to ``fsn`` wait for these tables (by number) to reach these transactions."""

    __slots__ = ("fsn", "needs")

    def __init__(self, fsn: int, needs: dict[int, int]) -> None:
        self.fsn = fsn
        self.needs = needs


class DurableAcks:
    """See the module's text; ``fsn`` at the beginning is the newest frame that is settled."""

    def __init__(self, fsn: int) -> None:
        self.fsn = fsn
        self._numbers: dict[str, int] = {}
        self._names_length = 0
        self._marks: list[int] = []  # by the table's number; they only rise
        self._waiting: deque[_Waiting] = deque()
        self._held = 0  # entries and OKs in `_waiting`

    def ok(self, fsn: int, entries: Entries) -> None:
        """The frames up to ``fsn`` are committed.  Raises TooManyTables."""
        needs: dict[int, int] = {}
        for table, transaction in entries:
            number = self._number(table)
            if transaction > self._marks[number]:
                needs[number] = max(transaction, needs.get(number, _NONE))
        tail = self._waiting[-1] if self._waiting else None
        if tail is None or (needs and fsn > tail.fsn and self._held + len(needs) < limits.DURABLE_WAITING_MAX):
            self._waiting.append(_Waiting(max(fsn, self.fsn), needs))
            self._held += 1 + len(needs)
        else:  # nothing of its own to wait for, or no frame of its own, or no room
            tail.fsn = max(tail.fsn, fsn)
            before = len(tail.needs)
            for number, transaction in needs.items():
                tail.needs[number] = max(transaction, tail.needs.get(number, _NONE))
            self._held += len(tail.needs) - before
        self._pop()

    def durable(self, entries: Entries) -> None:
        """The tables have reached these transactions.  Raises TooManyTables."""
        for table, transaction in entries:
            number = self._number(table)
            self._marks[number] = max(transaction, self._marks[number])
        self._pop()

    def _pop(self) -> None:
        """From the head, as long as nothing is missing."""
        while self._waiting:
            head = self._waiting[0]
            while head.needs:
                number, transaction = head.needs.popitem()
                if self._marks[number] < transaction:
                    head.needs[number] = transaction
                    return
                self._held -= 1
            self._waiting.popleft()
            self._held -= 1
            self.fsn = head.fsn

    def _number(self, table: str) -> int:
        number = self._numbers.get(table)
        if number is None:
            number = len(self._marks)
            self._names_length += len(table)
            if number >= limits.DURABLE_TABLES_MAX or self._names_length > limits.DURABLE_NAMES_LENGTH_MAX:
                raise TooManyTables(f"more than {number} tables in the answers of one connection")
            self._numbers[table] = number
            self._marks.append(_NONE)
        return number


class SeqTxns:
    """Table -> highest transaction a server named; the first tables only, so that it stays small."""

    def __init__(self) -> None:
        self._highest: dict[str, int] = {}

    def rise(self, entries: Entries) -> None:
        """Takes the entries of an answer."""
        highest = self._highest
        for table, transaction in entries:
            known = highest.get(table)
            if known is None:
                if len(highest) < limits.SEQ_TXN_TABLES_MAX and len(table) <= limits.NAME_BYTES_MAX:
                    highest[table] = transaction
            elif transaction > known:
                highest[table] = transaction

    def copy(self) -> dict[str, int]:
        """As it is now; from any thread."""
        return dict(self._highest)


def joined(first: Ok | None, second: Ok) -> Ok:
    """One OK that says what both say."""
    if first is None:
        return second
    entries = dict(first.entries)
    for table, transaction in second.entries:
        entries[table] = max(transaction, entries.get(table, transaction))
    return Ok(max(first.sequence, second.sequence), tuple(entries.items()))
