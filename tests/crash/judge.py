"""What must hold: the ledger of what landed, and the judge who heard what was promised.

`Ledger` is the server's store: it looks at every row at its commit and keeps only its number.  `Judge` hears the
reports of the writer, looks at the files of the dead, and compares.  Neither believes anything that the writer's
memory alone says: only a report that left the process counts.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import fastcrc

from spoolq.server import MemoryStore, convert
from spoolq.server.schema import Fitted
from tests.crash.rows import Row, row

_HEADER_NBYTES = 24
_FAULTS_MAX = 20


class Wrong(AssertionError):
    """Something was lost, altered, invented, out of order, or left over."""


class Landing(Protocol):
    """What the judge asks: numbers of the rows that landed until now, and what was seen to be wrong with them."""

    @property
    def landed(self) -> set[int]:
        """Numbers of the rows that were committed."""

    @property
    def faults(self) -> list[str]:
        """Rows that are altered or came out of order, in words; the first few."""


class Arrivals:
    """Numbers of rows in the order in which they were committed."""

    def __init__(self) -> None:
        self.landed: set[int] = set()
        self.twice = 0
        self.faults: list[str] = []
        self._latest: dict[str, int] = {}  # newest first arrival of each table

    def note(self, table: str, number: int) -> None:
        """A row as it should be; its first arrival must be behind those of all smaller numbers of its table."""
        if number in self.landed:
            self.twice += 1
            return
        latest = self._latest.get(table, -1)
        if number < latest:
            self.wrong(f"row {number} of {table} arrived first behind row {latest}")
        self._latest[table] = max(number, latest)
        self.landed.add(number)

    def wrong(self, text: str) -> None:
        """For the judge; of many the first."""
        if len(self.faults) < _FAULTS_MAX:
            self.faults.append(text)


class Ledger(MemoryStore, Arrivals):
    """A server's store: numbers of the rows that were committed."""

    def __init__(self, text_nbytes_max: int) -> None:
        MemoryStore.__init__(self)
        Arrivals.__init__(self)
        self._text_nbytes_max = text_nbytes_max

    def append(self, table: str, parts: list[Fitted]) -> int:
        """Looks at each row; nothing is stored."""
        for found in rows_of(table, parts):
            self.arrived(found)
        return super().append(table, [])

    def arrived(self, found: Row) -> None:
        """One row, committed."""
        if found == row(found.n, self._text_nbytes_max):
            self.note(found.table, found.n)
        else:
            self.wrong(f"row {found.n} landed altered: {found}")


def rows_of(table: str, parts: list[Fitted]) -> Iterator[Row]:
    """The rows of a commit."""
    for part in parts:
        columns = [convert.python_values(part.columns[name]) for name in ("s", "n", "x", "text", "timestamp")]
        for values in zip(*columns, strict=True):
            yield Row(table, *values)


class Judge:
    """Of one slot, over all its writers."""

    def __init__(self, ledger: Landing, slot: Path, counts: Counter[str]) -> None:
        self._ledger = ledger
        self._slot = slot
        self._counts = counts
        self.announced_end = 0  # rows below were handed to row(), or may have been
        self._promised: list[tuple[int, int]] = []
        self._fsn = -1  # newest frame of this slot life that somebody has told of
        self._contents: dict[int, bytes] = {}  # of this slot life: FSN -> digest

    def heard(self, report: list[Any]) -> None:
        """One report of a writer; raises Wrong."""
        match report[1:]:
            case ["open", found]:
                self._opened(found)
            case ["batch", first, end, _]:
                if first < self.announced_end:
                    raise Wrong(f"the harness hands row {first} out twice")
                self.announced_end = end
            case ["flushed", covered, fsn]:
                if fsn is not None and fsn < self._fsn:
                    raise Wrong(f"a flush of the rows {covered} got FSN {fsn}, {self._fsn} is told already")
                self._fsn = -1 if fsn is None else fsn
                self._promised += [(first, end) for first, end in covered]
                self._counts["rows whose flush returned"] += sum(end - first for first, end in covered)
                self._counts["flushes"] += 1
            case ["failed", text]:
                raise Wrong(f"the writer failed: {text}")

    def _opened(self, found: dict[str, Any]) -> None:
        self._counts["openings"] += 1
        for bad in ("quarantined", "set_aside", "copies", "deferred", "warnings"):
            if found[bad]:
                raise Wrong(f"recovery reports {bad}: {found[bad]}")
        published = -1 if found["published"] is None else found["published"]
        if found["recovered"] and published >= 0:
            self._counts["slots recovered"] += 1
            self._counts["frames replayed"] += found["remaining"]
            self._counts["torn tails"] += bool(found["torn"])
            self._counts["symbols rebuilt"] += found["symbols_rebuilt"]
            if published < self._fsn:
                raise Wrong(f"FSN {self._fsn} was told, recovery knows only {published}")
            self._fsn = published
            return
        if published >= 0:
            raise Wrong(f"a new slot begins behind FSN {published}")
        self.settle(f"the slot began anew, FSN {self._fsn} was told")
        self._fsn = -1
        self._contents.clear()

    def autopsy(self) -> None:
        """The writer is dead, all that it said was heard: nothing may be invented; raises Wrong.

        No row may have landed that it was not about to hand to row(), and no FSN of this slot life may stand for
        other bytes than before.
        """
        landed = max(self._ledger.landed, default=-1)
        if landed >= self.announced_end:
            raise Wrong(f"row {landed} landed and was never handed to row()")
        for path in self._slot.glob("*.sfa"):
            for fsn, digest in _frames(path):
                known = self._contents.setdefault(fsn, digest)
                if known != digest:
                    raise Wrong(f"FSN {fsn} in {path.name} has another content than before")

    def settle(self, when: str) -> None:
        """Everything that was promised must be there; raises Wrong."""
        landed = self._ledger.landed
        if self._ledger.faults:
            raise Wrong("; ".join(self._ledger.faults))
        for first, end in self._promised:
            lost = [n for n in range(first, end) if n not in landed]
            if lost:
                raise Wrong(f"{when}: the flush of rows {first} to {end - 1} returned, lost are {lost}")
        self._promised.clear()

    def clean(self) -> None:
        """A drained slot holds nothing but its lock; raises Wrong."""
        left = sorted(path.name for path in self._slot.iterdir())
        if left != [".lock", ".lock.pid"]:
            raise Wrong(f"the drained slot holds {left}")


def _frames(path: Path) -> list[tuple[int, bytes]]:
    """FSN and digest of each whole frame, read without any of spoolq's own code (slot.md 2.2)."""
    data = path.read_bytes()
    if len(data) < _HEADER_NBYTES:
        return []
    (base,) = struct.unpack_from("<q", data, 8)
    found, at = [], _HEADER_NBYTES
    while at + 8 <= len(data):
        crc, nbytes = struct.unpack_from("<Ii", data, at)
        if nbytes <= 0 or at + 8 + nbytes > len(data):
            break
        if fastcrc.crc32.iscsi(data[at + 4 : at + 8 + nbytes]) != crc:
            break
        found.append((base + len(found), hashlib.blake2b(data[at + 8 : at + 8 + nbytes], digest_size=16).digest()))
        at += 8 + nbytes
    return found
