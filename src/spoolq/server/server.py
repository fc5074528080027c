"""`QwpServer`: a strict QWP server in the process, for tests and for trying things out.

    with QwpServer() as server:
        ...                                   a client connects to server.conf
        server.wait_for_messages(1)
        server.store.rows("trades")

Its thread starts with `start` (or the ``with``) and is gone, with all its sockets, when `stop` returns; it may be
started again and then has the same port.  All calls may come from any thread.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar, cast, overload

from spoolq.errors import ConfigError
from spoolq.qwp.layout import Status
from spoolq.qwp.upgrade import Refusal
from spoolq.server import script as scripts
from spoolq.server.connection import Connection, Controls
from spoolq.server.http_side import HttpSide
from spoolq.server.loop import Channel, Loop, monotonic_millis
from spoolq.server.memory import MemoryStore
from spoolq.server.options import ROLES, ServerOptions
from spoolq.server.record import Budget, ConnectionRecord
from spoolq.server.script import Script
from spoolq.server.store import Store
from spoolq.server.transport import Plain, Tls

if TYPE_CHECKING:
    import ssl

S = TypeVar("S", bound=Store)
T = TypeVar("T")
_CONNECTIONS_RECORDED_MAX: Final = 10_000
_AGED_SPARE: Final = 64
_BACKLOG: Final = 512
_WAIT_SECONDS: Final = 10.0
_COUNTERS: Final = ("messages", "rows", "received_bytes", "pings", "refusals")


class QwpServer(Generic[S]):
    """A server on ``host:port`` (0: a free port).

    ``store`` keeps the rows (default: a new `MemoryStore`); the caller closes a store it brought.  ``script``: one
    `Script` or several, for the first connection, the second, ...; the last one repeats.  ``tls``: a server-side
    `ssl.SSLContext`.  ``wall_nanos``: the clock for rows without a timestamp.  Further keywords are those of
    `ServerOptions`.  Raises ConfigError for a wrong option, OSError from `start` when the port is taken.
    """

    store: S

    @overload
    def __init__(
        self: QwpServer[MemoryStore],
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        store: None = None,
        script: Script | Sequence[Script] | None = None,
        tls: ssl.SSLContext | None = None,
        wall_nanos: Callable[[], int] = time.time_ns,
        **options: Any,
    ) -> None: ...

    @overload
    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        store: S,
        script: Script | Sequence[Script] | None = None,
        tls: ssl.SSLContext | None = None,
        wall_nanos: Callable[[], int] = time.time_ns,
        **options: Any,
    ) -> None: ...

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        store: Any = None,
        script: Script | Sequence[Script] | None = None,
        tls: ssl.SSLContext | None = None,
        wall_nanos: Callable[[], int] = time.time_ns,
        **options: Any,
    ) -> None:
        self.host = host
        self.port = port
        self.options = ServerOptions(**options)
        self.store = cast("S", MemoryStore() if store is None else store)
        self._scripts: Sequence[Script] = (script,) if isinstance(script, Script) else tuple(script or ())
        self._tls = tls
        self._wall_nanos = wall_nanos
        self._controls = Controls()
        self._http = HttpSide(self.store, self.stats, self.options.query_timeout_millis)
        self._changed = threading.Condition()
        self._loop: Loop | None = None
        self._budget = Budget(self.options.record_nbytes_max)
        self._records: deque[ConnectionRecord] = deque(maxlen=_CONNECTIONS_RECORDED_MAX)
        self._connection_count = 0
        self._forgotten = dict.fromkeys(_COUNTERS, 0)  # of connections that are in `connections` no more
        self._aged: list[ConnectionRecord] = []  # of those the ones that are open, and still count

    # --- life ----------------------------------------------------------------------------------

    def start(self) -> Self:
        """Listens; connections are taken when this returns."""
        if self._loop is not None:
            raise RuntimeError("the server runs already")
        self.store.configure(self.options)
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = socket.create_server((self.host, self.port), family=family, backlog=_BACKLOG)
        self.port = listener.getsockname()[1]
        self._loop = Loop(
            listener,
            opened=self._opened,
            round_done=self._round_done,
            execute=self._http.execute,
            interrupt=self._http.interrupt,
            connections_max=self.options.connections_max,
            outgoing_nbytes_max=self.options.outgoing_nbytes_max,
            held_nbytes_max=self.options.held_nbytes_max,
        )
        self._loop.start()
        return self

    def stop(self) -> None:
        """Ends all connections, without a CLOSE, and the thread.  A second call does nothing."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def conf(self) -> str:
        """A connect string for this server, without credentials; valid while it runs."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'ws' if self._tls is None else 'wss'}::addr={host}:{self.port};"

    # --- what happened -------------------------------------------------------------------------

    @property
    def connections(self) -> list[ConnectionRecord]:
        """The connections so far, oldest first; of more than 10,000 the latest."""
        with self._changed:
            return list(self._records)

    @property
    def message_count(self) -> int:
        """Binary frames of all `connections`."""
        return sum(record.message_count for record in self.connections)

    def stats(self) -> dict[str, int]:
        """Counters, as ``/stats`` and ``/metrics`` show them."""
        with self._changed:
            self._forget_ended()
            records, forgotten = [*self._aged, *self._records], dict(self._forgotten)
        found = {
            "connections": self._connection_count,
            "connections_open": sum(record.closed_by is None for record in records),
            "held_bytes": self._loop.held_nbytes if self._loop is not None else 0,
        }
        for record in records:
            for name, count in _counts(record).items():
                forgotten[name] += count
        return found | forgotten

    def wait_for(self, predicate: Callable[[], Any], timeout_seconds: float = _WAIT_SECONDS) -> Any:
        """Waits until ``predicate()`` is true and gives its value; it is asked after each round of the thread.

        A predicate that looks for what is not there yet (LookupError) is not true.  Raises TimeoutError, which
        says what the server saw.
        """

        def asked() -> Any:
            try:
                return predicate()
            except LookupError:
                return None

        with self._changed:
            value = self._changed.wait_for(asked, timeout_seconds)
        if not value:
            seen = ", ".join(map(repr, self.connections[-3:]))
            raise TimeoutError(f"not within {timeout_seconds} s; the latest connections: {seen or 'none'}")
        return value

    def wait_for_messages(self, count: int, timeout_seconds: float = _WAIT_SECONDS) -> None:
        """Waits until that many binary frames have come, over all connections, and have been processed."""
        self.wait_for(lambda: sum(r.message_count for r in self._records) >= count, timeout_seconds)

    def wait_for_rows(self, table: str, count: int, timeout_seconds: float = _WAIT_SECONDS) -> None:
        """Waits until a table has that many committed rows (memory store)."""
        store: Any = self.store
        self.wait_for(lambda: store.count(table) >= count, timeout_seconds)

    # --- live controls -------------------------------------------------------------------------

    def hold_acks(self) -> None:
        """From now on responses are kept back, on all connections; frames are processed and stored all the same."""
        self._call(lambda: setattr(self._controls, "acks_held", True))

    def release_acks(self) -> None:
        """What was kept back goes out."""

        def release() -> None:
            self._controls.acks_held = False
            self._for_each(lambda connection: connection.release(monotonic_millis()))

        self._call(release)

    def drop_connections(self, *, reset: bool = False) -> int:
        """Ends every open connection by FIN, or RST; how many there were."""
        return self._for_each(lambda connection: connection.drop("server_drop", reset))

    def close_connections(self, code: int | None = 1000, reason: str = "") -> int:
        """Ends every open WebSocket by CLOSE, pending acks before it; how many connections there were.

        With `refuse_new` of 421 and a role it is what a node does that is being demoted (wire.md 2).
        """
        return self._for_each(lambda connection: connection.close(code, reason, monotonic_millis()))

    def ping_connections(self, payload: bytes = b"") -> int:
        """Sends a PING on every open WebSocket; `ConnectionRecord.pongs` counts the answers."""
        return self._for_each(lambda connection: connection.ping(payload, monotonic_millis()))

    def demote(self, role: str = "REPLICA", *, by_status: bool = False) -> None:
        """This node takes no rows any more: new upgrades are answered with 421 and ``role`` (wire.md 5.3).

        Open connections end as a server ends them, by CLOSE 1000, pending acks before it.  ``by_status``: they
        stay open and each block is answered with 0C, the status that is reserved for it (wire.md 5).
        """
        self._change_role(role, (Status.NOT_WRITABLE.value, f"the node is a {role} now") if by_status else None)
        if not by_status:
            self.close_connections(1000, f"the node is a {role} now")

    def promote(self, role: str = "PRIMARY") -> None:
        """This node takes rows (again)."""
        self._change_role(role, None)

    def _change_role(self, role: str, forbidden: tuple[int, str] | None) -> None:
        if role not in ROLES:
            raise ConfigError(f"role is {role!r}; it takes one of {', '.join(ROLES)}", key="role")

        def change() -> None:
            self._controls.role, self._controls.forbidden = role, forbidden

        self._call(change)

    def refuse_new(
        self, status: int, *, role: str | None = None, body: str = "", retry_after_seconds: int | None = None
    ) -> None:
        """Every upgrade from now on is answered with this status."""
        headers = [("X-QuestDB-Role", role)] if role is not None else []
        if retry_after_seconds is not None:
            headers.append(("Retry-After", str(retry_after_seconds)))
        refusal = Refusal(status, body, tuple(headers))
        self._call(lambda: setattr(self._controls, "refusal", refusal))

    def accept_new(self) -> None:
        """Upgrades are taken again."""
        self._call(lambda: setattr(self._controls, "refusal", None))

    def set_script(self, script: Script | Sequence[Script]) -> None:
        """Scripts for the connections from now on: the first one is for the next connection."""
        wanted = (script,) if isinstance(script, Script) else tuple(script)

        def change() -> None:
            self._scripts = wanted
            self._scripts_from = self._connection_count

        self._call(change)

    # --- inside --------------------------------------------------------------------------------

    _scripts_from = 0

    def _for_each(self, change: Callable[[Connection], None]) -> int:
        """Does something to every open connection, on the thread, and sends what comes of it."""

        def run() -> int:
            if self._loop is None:
                return 0
            channels = list(self._loop.channels.values())
            for channel in channels:
                change(channel.connection)
            self._loop.pump_all()
            return len(channels)

        return self._call(run)

    def _call(self, function: Callable[[], T]) -> T:
        if self._loop is None:
            return function()
        return self._loop.call(function)

    def _opened(self, sock: socket.socket, now_millis: int) -> Channel:
        """The loop has a new socket."""
        with self._changed:
            index = self._connection_count
            self._connection_count += 1
            record = ConnectionRecord(index, self._budget)
            if len(self._records) == self._records.maxlen:
                self._aged.append(self._records.popleft())
                if len(self._aged) > _AGED_SPARE + 2 * self.options.connections_max:
                    self._forget_ended()
            self._records.append(record)
        connection = Connection(
            self.options,
            self.store,
            scripts.for_connection(self._scripts, index - self._scripts_from),
            record,
            self._controls,
            self._http.answer,
            self._wall_nanos,
            now_millis,
        )
        return Channel(sock, Plain() if self._tls is None else Tls(self._tls), connection, record)

    def _forget_ended(self) -> None:
        """Of old connections that have ended nothing but their counts is kept."""
        for record in self._aged:
            if record.closed_by is not None:
                for name, count in _counts(record).items():
                    self._forgotten[name] += count
        self._aged = [record for record in self._aged if record.closed_by is None]

    def _round_done(self) -> None:
        with self._changed:
            self._changed.notify_all()


def _counts(record: ConnectionRecord) -> dict[str, int]:
    """What a connection adds to the counters of its server."""
    refused = int(record.closed_by == "server_refusal")
    found = (record.message_count, record.row_count, record.received_nbytes, record.pings, refused)
    return dict(zip(_COUNTERS, found, strict=True))
