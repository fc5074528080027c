"""Writers on a slot as processes, and the ledger of what they reported.

`Ledger`   which rows were reported (a flush returned), which only tried; judges what has landed, and the FSNs.
`Writer`   a `slot_writer` process; every line it says goes into the ledger.  Killed when its ``with`` block ends.

The ledger knows nothing but the lines that the processes said.  What it demands of a store:
every reported row lands, equal in all cells; a row that was tried when its process was killed lands with its whole
flush or not at all; no other row lands; each table gets its rows in order.  A row may land again only where its
acknowledgement was not settled (`Ledger.settle`).
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from spoolq.server import MemoryStore, QwpServer
from tests.interop import slot_writer
from tests.ports import NOBODY
from tests.spool import slot_maker

SENDER_ID = "shared"
CLIENTS = ("official", "ours")
NOWHERE = f"ws::addr={NOBODY};"
_WAIT_SECONDS = 120.0
_PROGRAM = slot_writer.__file__
_SRC = str(Path(__file__).parents[2] / "src")

Server = QwpServer[MemoryStore]
Shape = tuple[int, int, int]
"""Rows a flush, tables, symbols."""


class Ledger:
    """All lives of one slot; ``fsns``: FSNs that the next opener may find as the newest."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, Any]] = {}
        self.tables: dict[int, str] = {}
        self.kept: list[range] = []
        self.doubtful: list[range] = []
        self.next_row = 0
        self.newest_fsn = -1
        self.fsns = {-1}
        self._trying: range | None = None
        self._fsn_rows: dict[int, range] = {}
        self._settled: dict[int, int] = {}
        self._connections_before = 0

    # --- what a process says ---------------------------------------------------------------------

    def opened(self, fsn: int) -> None:
        """A process has the slot and found ``fsn`` as the newest frame."""
        assert fsn in self.fsns, f"the newest frame found has FSN {fsn}; one of {sorted(self.fsns)} is right"
        if fsn < self.newest_fsn:
            self._fsn_rows.clear()  # a new life of the slot
        self.newest_fsn = fsn
        self.fsns = {fsn}

    def plan(self, first: int, flushes: int, shape: Shape) -> None:
        """These rows may be tried from now on."""
        rows, tables, symbols = shape
        for n in range(first, first + flushes * rows):
            self.tables[n], texts, columns, at = slot_writer.row_of(n, tables, symbols)
            self.rows[n] = {**texts, **columns, "timestamp": at}
        self.next_row = first + flushes * rows

    def tried(self, first: int, end: int) -> None:
        self._trying = range(first, end)
        self.fsns = {self.newest_fsn, self.newest_fsn + 1}

    def reported(self, fsn: int, first: int, end: int) -> None:
        assert self._trying == range(first, end)
        assert fsn == self.newest_fsn + 1, f"FSN {fsn} behind {self.newest_fsn}"
        self._trying = None
        self.kept.append(range(first, end))
        self._fsn_rows[fsn] = range(first, end)
        self.newest_fsn = fsn
        self.fsns = {fsn}

    def closing(self) -> None:
        """A close has begun: where everything is acknowledged the slot ends and the next life starts at FSN 0."""
        self.fsns = {self.newest_fsn, -1}

    def closed(self, drained: bool | None) -> None:
        """``drained``: whether the slot is empty now; None: it depends on how fast the server was."""
        if drained is not None:
            self.fsns = {-1} if drained else {self.newest_fsn}

    def ended(self) -> None:
        """The process is gone: what was tried and not reported may be there or not."""
        if self._trying is not None:
            self.doubtful.append(self._trying)
            self._trying = None

    def settle(self, fsn: int, server: Server) -> int:
        """An acknowledgement up to ``fsn`` was reported and its process closed in peace: these rows never land again.

        How many rows.
        """
        rows = [n for f, numbers in self._fsn_rows.items() if f <= fsn for n in numbers]
        landed = landings(server)
        self._settled.update({n: landed[n] for n in rows})
        return len(rows)

    def forget(self, server: Server) -> None:
        """All that was written has landed and the slot is empty: none of it may land from now on."""
        for kept in (self.rows, self.tables, self._fsn_rows, self._settled, self.kept, self.doubtful):
            kept.clear()
        self._connections_before = len(server.connections)
        server.store.clear()

    # --- the judgement ---------------------------------------------------------------------------

    def judge(self, server: Server, *, whole: bool) -> Counter[str]:
        """AssertionError when the store is not as the ledger demands; ``whole``: all that was reported must be there.

        Counts by name: rows landed, rows landed again, flushes in doubt and how many of them landed.
        No client may be there any more.  What one sent before it was killed is read to its end first: later it would
        land between the rows of the next one, or in a table that is cleared by then.
        """
        server.wait_for(lambda: all(record.closed_by for record in server.connections))
        connections = len(server.connections) - self._connections_before
        trying = [] if self._trying is None else [self._trying]
        allowed = {n for numbers in (*self.kept, *self.doubtful, *trying) for n in numbers}
        for table in server.store.tables():
            for row in server.store.rows(table):
                n = row["n"]
                assert n in allowed, f"row {n} of {table} was never written"
                assert (table, row) == (self.tables[n], self.rows[n]), f"row {n} landed in {table} as {row}"
            _judge_order(table, [row["n"] for row in server.store.rows(table)], connections)
        landed = landings(server)
        for n, count in self._settled.items():
            assert landed[n] == count, f"row {n} was acknowledged and landed {landed[n] - count} times more"
        if whole:
            lost = [n for numbers in self.kept for n in numbers if n not in landed]
            assert not lost, f"{len(lost)} rows whose flush returned are lost, the first ones {lost[:5]}"
            for numbers in self.doubtful:
                assert len({n in landed for n in numbers}) == 1, f"only a part of the flush {numbers} landed"
        return Counter(
            {
                "rows landed": len(landed),
                "rows landed again": landed.total() - len(landed),
                "flushes in doubt": len(self.doubtful),
                "flushes in doubt that landed": sum(numbers[0] in landed for numbers in self.doubtful),
            }
        )


def _judge_order(table: str, numbers: list[int], connections: int) -> None:
    """A row lands first behind the row before it; only a new connection may begin again at one that is there."""
    ordered = sorted(set(numbers))
    behind = dict(pairwise([-1, *ordered]))
    newest = previous = -1
    restarts = 0
    for n in numbers:
        if n != behind.get(previous):
            restarts += 1
            assert n <= newest, f"row {n} of {table} landed behind {previous}, before {behind.get(previous)}"
        newest, previous = max(n, newest), n
    assert restarts < max(connections, 1), f"{restarts} times from an older row in {connections} connections"


def landings(server: Server) -> Counter[int]:
    """How often each row has landed."""
    return Counter(row["n"] for table in server.store.tables() for row in server.store.rows(table))


class Writer:
    """A client on the slot ``sf_dir``/``sender_id``; returns from its constructor when it has opened or was refused.

    ``wait=False`` does not wait for the opening.  ``refused`` is the text of a failed opening.
    """

    def __init__(
        self,
        client: str,
        server: str,
        sf_dir: Path,
        ledger: Ledger,
        extra: str = "",
        *,
        wait: bool = True,
        sender_id: str = SENDER_ID,
    ) -> None:
        conf = (
            f"{server}sf_dir={sf_dir};sender_id={sender_id};auto_flush=off;initial_connect_retry=async;"
            f"reconnect_initial_backoff_millis=5;reconnect_max_backoff_millis=20;{extra}"
        )
        self.client = client
        self.ledger = ledger
        self.refused = ""
        self.closed = ""
        self.kept = 0  # flushes that it has reported
        self.opened = False
        self._pending = b""
        self._process = subprocess.Popen(
            [sys.executable, _PROGRAM, client, conf],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
        )
        if wait:
            self._read_until({"open", "failed"})

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    # --- what it is told -------------------------------------------------------------------------

    def begin(self, flushes: int, shape: Shape) -> None:
        """It writes rows from now on; nothing is waited for."""
        first = self.ledger.next_row
        self.ledger.plan(first, flushes, shape)
        self._tell("write", first, flushes, *shape)

    def write(self, flushes: int, shape: Shape) -> None:
        """Rows whose every flush has returned."""
        self.begin(flushes, shape)
        self._read_until({"written"})

    def read_flushes(self, count: int) -> None:
        """Reads until that many flushes of this process were reported, or all that it began."""
        while self.kept < count and self._line(_WAIT_SECONDS) != "written":
            pass

    def read_for(self, seconds: float) -> None:
        """Reads what it says within that time: the way to a random moment."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and self._line(left):
            pass

    def await_acked(self, fsn: int) -> None:
        """Until the server has acknowledged ``fsn``."""
        self._tell("await", fsn)
        assert self._read_until({"acked", "not"}) == "acked"

    def close(self, *, drained: bool | None) -> str:
        """A close; ``drained``: whether it must leave an empty slot (None: it may).  The text of its error."""
        self._tell("close")
        self._read_until({"closed"})
        self.ledger.closed(drained)
        self._reap()
        return self.closed

    def begin_close(self) -> None:
        """It closes from now on; nothing is waited for."""
        self._tell("close")

    def kill(self) -> None:
        """SIGKILL; what it had said before is read."""
        if self._process.returncode is None:
            self._process.kill()
            self._reap()

    # --- inside ----------------------------------------------------------------------------------

    def _tell(self, *words: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write((" ".join(map(str, words)) + "\n").encode())
        self._process.stdin.flush()

    def _reap(self) -> None:
        """Reads to the end of the pipe, a last line without its end left out, and waits for the process."""
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        while self._line(_WAIT_SECONDS):
            pass
        self._process.wait()
        self._process.stdout.close()
        self._process.stdin.close()
        self.ledger.ended()

    def _read_until(self, wanted: set[str]) -> str:
        while (word := self._line(_WAIT_SECONDS)) not in wanted:
            assert word, f"the {self.client} client said nothing more; waiting for {sorted(wanted)}"
        return word

    def _line(self, seconds: float) -> str:
        """Takes one line into the ledger; its first word, "" at the end of the pipe or of the time."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._pending:
            if not select.select([descriptor], [], [], seconds)[0]:
                return ""
            data = os.read(descriptor, 1 << 16)
            if not data:
                return ""
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        word, *rest = line.decode().split(" ")
        self._note(word, rest)
        return word

    def _note(self, word: str, rest: list[str]) -> None:
        if word == "open":
            self.opened = True
            self.ledger.opened(int(rest[0]))
        elif word == "try":
            self.ledger.tried(*map(int, rest))
        elif word == "kept":
            self.kept += 1
            self.ledger.reported(*map(int, rest))
        elif word == "closing":
            self.ledger.closing()
        elif word == "closed":
            self.closed = " ".join(rest)
        elif word == "failed":
            self.refused = " ".join(rest)


def drain(client: str, server: str, sf_dir: Path, ledger: Ledger) -> None:
    """A client opens the slot, writes nothing, delivers everything and closes."""
    with Writer(client, server, sf_dir, ledger, "close_flush_timeout_millis=100000;") as writer:
        assert writer.close(drained=True) == ""


def adopt(server: Server, sf_dir: Path, ledger: Ledger, client: str = "official") -> None:
    """A client, on a slot of its own, finds the shared one as an orphan and drains it in the background.

    Something must be left to deliver: its first message says that the drainer has the lock, and the lock says when it
    is done.
    """
    before = server.message_count
    with Writer(client, server.conf, sf_dir, Ledger(), "drain_orphans=on;", sender_id="neighbour") as neighbour:
        server.wait_for_messages(before + 1)
        with (sf_dir / SENDER_ID / ".lock").open("r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
        assert neighbour.close(drained=True) == ""
    ledger.closed(drained=True)


def left_in(sf_dir: Path) -> list[str]:
    """Names in the slot, lock files left out."""
    return sorted({path.name for path in (sf_dir / SENDER_ID).iterdir()} - {".lock", ".lock.pid"})


def environment() -> dict[str, str]:
    """Of a process that imports the package from here."""
    return {**os.environ, "PYTHONPATH": _SRC}


def demand_empty(sf_dir: Path) -> int:
    """A drained slot holds nothing but files whose making a signal had ended; they are removed; how many.

    The official client renames a segment without a header to ``.corrupt``; it must be all zero.
    """
    names = left_in(sf_dir)
    for name in names:
        path = sf_dir / SENDER_ID / name
        assert name.endswith(".sfa.corrupt"), f"a drained slot holds {name}: {path.read_bytes()[:400].hex()}"
        assert not path.read_bytes().strip(b"\0"), f"{name} holds data"
        path.unlink()
    return len(names)


class Active(NamedTuple):
    """The segment that took the last frames, as the disk has it: its frames' payloads, the offset behind them."""

    path: Path
    data: bytes
    base: int
    payloads: list[bytes]
    end: int


def active_segment(sf_dir: Path) -> Active | None:
    """Read by the slot maker's eyes; None when no segment has a frame."""
    used = {}
    for path in (sf_dir / SENDER_ID).glob("*.sfa"):
        data = path.read_bytes()
        if data[24:].strip(b"\0"):
            used[struct.unpack_from("<q", data, 8)[0]] = path, data
    if not used:
        return None
    path, data = used[max(used)]
    return Active(path, data, max(used), *slot_maker.whole_frames(data))
