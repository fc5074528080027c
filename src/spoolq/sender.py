"""`Sender`: what people use.  It orchestrates and decides nothing; `runtime.engine` does the work.

    with Sender.from_conf("ws::addr=localhost:9000;") as sender:
        sender.row("trades", symbols={"symbol": "ETH-USD"}, columns={"price": 2615.54}, at=TimestampNanos.now())

Opening connects (mode OFF and SYNC) or starts connecting (ASYNC) and raises what fails.  Rows are
buffered, published as frames by a flush or a trigger, sent by a thread, and let go when the server
has acknowledged them.  FSN = frame sequence number, from 0.

A sender may be shared by threads: `row` is atomic, `flush` publishes under the sender's lock.  A
conversion hook that calls back into the same sender gets ReentryError.

``sender.row`` and ``sender.rows`` are the row buffer's own bound methods, put on the instance, so
that a call has no Python frame in between; their documentation is `row` and `rows` below.  A subclass
that has its own keeps it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from spoolq import config as configuration
from spoolq import limits
from spoolq.config import SenderConfig
from spoolq.dropin import DropIn, refuse_arguments
from spoolq.errors import ConfigError
from spoolq.runtime.engine import Engine
from spoolq.runtime.opening import open_engine
from spoolq.runtime.steps import attach
from spoolq.stats import DrainerStatus, SenderStats

if TYPE_CHECKING:
    from spoolq.events import ErrorEvent
    from spoolq.runtime.clock import Clock
    from spoolq.runtime.decisions import ErrorPolicy
    from spoolq.runtime.reports import ConnectionListener, ErrorHandler, ProgressHandler
    from spoolq.spool.dead_letters import DeadLetter
    from spoolq.spool.report import RecoveryReport


class Sender(DropIn):
    """A store-and-forward client of one QuestDB server, or of several that stand in for each other.

    ``Sender(addr="localhost:9000", ...)`` takes the settings of docs/configuration.md as keywords;
    ``Sender("ws", "localhost", 9000)`` is the same.  `from_conf` takes a connect string, `from_env`
    the one in ``QDB_CLIENT_CONF``.

    ``error_handler(ErrorEvent)`` is called for each refusal of the server and for the terminal error,
    ``connection_listener(ConnectionEvent)`` for what happens to the connection,
    ``progress_handler(acked_fsn)`` when that has risen, only the newest one while it is busy; each on a
    thread of its own, as things happen.  They may call into the sender, `close` included.

    ``token`` may be a callable: it is asked for a bearer token before each connect of the sender and of its
    drainers, on a thread of its own and never by two at once; it may cache, and may call `close`.
    A connect waits at most 60 s for it.  `close` does not: a call that has not come back is left behind on its
    daemon thread, which holds nothing of the sender's, and a WARN says so.

    What a refused frame leads to (behaviour.md 6.2), the first answer counts: ``error_policy(ErrorEvent)``,
    called on a thread of its own for at most 5 s, gives the name of a policy, or None for
    ``event.policy``; ``category_policies`` such as ``{"schema_mismatch": "drop"}``; the settings
    ``on_schema_error`` and so on, ``on_server_error``; the default.  Policies: ``terminal`` (or ``halt``),
    ``retriable``, ``retriable_other``, ``drop``.

    ``drop`` keeps the frame as a dead letter beside the slot (`dead_letters`, `requeue`), counts it as
    acknowledged and goes on; it needs ``sf_dir``.  Where no letter can be made the sender stops instead.

    In a forked child every call on an inherited sender raises ForkedError; `repr` and `bool` do not.

    Raises ConfigError before anything is touched; ConnectError and below when the first connect
    fails (modes OFF and SYNC).
    """

    def __init__(
        self,
        protocol: str = "ws",
        host: str | None = None,
        port: int | str | None = None,
        *,
        error_handler: ErrorHandler | None = None,
        connection_listener: ConnectionListener | None = None,
        error_policy: ErrorPolicy | None = None,
        category_policies: Mapping[str, str] | None = None,
        progress_handler: ProgressHandler | None = None,
        **settings: Any,
    ) -> None:
        if "::" in str(protocol):
            raise ConfigError(
                "a connect string goes to Sender.from_conf(...); Sender(...) takes its settings as keywords"
            )
        if host is not None:
            if "addr" in settings:
                raise ConfigError("the server is given as host and as addr; give it once", key="addr")
            settings["addr"] = _address(host, port)
        elif port is not None:
            raise ConfigError("a port needs a host", key="addr")
        self._open(
            configuration.parse(f"{protocol}::", **settings),
            error_handler,
            connection_listener,
            error_policy=error_policy,
            category_policies=category_policies,
            progress_handler=progress_handler,
        )

    @classmethod
    def from_conf(
        cls,
        conf_str: str,
        *,
        error_handler: ErrorHandler | None = None,
        connection_listener: ConnectionListener | None = None,
        error_policy: ErrorPolicy | None = None,
        category_policies: Mapping[str, str] | None = None,
        progress_handler: ProgressHandler | None = None,
        **settings: Any,
    ) -> Self:
        """Opens a sender from a connect string such as ``ws::addr=localhost:9000;``; keywords add to it."""
        sender = cls.__new__(cls)
        sender._open(
            configuration.parse(conf_str, **settings),
            error_handler,
            connection_listener,
            error_policy=error_policy,
            category_policies=category_policies,
            progress_handler=progress_handler,
        )
        return sender

    @classmethod
    def from_env(
        cls,
        *,
        error_handler: ErrorHandler | None = None,
        connection_listener: ConnectionListener | None = None,
        error_policy: ErrorPolicy | None = None,
        category_policies: Mapping[str, str] | None = None,
        progress_handler: ProgressHandler | None = None,
        **settings: Any,
    ) -> Self:
        """Opens a sender from the connect string in ``QDB_CLIENT_CONF``."""
        sender = cls.__new__(cls)
        sender._open(
            configuration.from_env(**settings),
            error_handler,
            connection_listener,
            error_policy=error_policy,
            category_policies=category_policies,
            progress_handler=progress_handler,
        )
        return sender

    def _open(
        self,
        config: SenderConfig,
        error_handler: ErrorHandler | None,
        connection_listener: ConnectionListener | None,
        clock: Clock | None = None,
        *,
        error_policy: ErrorPolicy | None = None,
        category_policies: Mapping[str, str] | None = None,
        progress_handler: ProgressHandler | None = None,
    ) -> None:
        self._engine = open_engine(
            lambda cancel, place: Engine(
                config,
                error_handler=error_handler,
                connection_listener=connection_listener,
                error_policy=error_policy,
                category_policies=category_policies,
                progress_handler=progress_handler,
                clock=clock,
                cancel=cancel,
                place=place,
            )
        )
        rows, kind = self._engine.rows, self.__class__  # no call from here on, behind which a Ctrl-C could come
        rows.row_result = self
        if kind.row is Sender.row:
            self.row = rows.row  # type: ignore[method-assign]
        if kind.rows is Sender.rows:
            self.rows = rows.rows  # type: ignore[method-assign]

    # -- rows ------------------------------------------------------------------------------------
    def row(
        self,
        table_name: str,
        *,
        symbols: Mapping[str, str | None] | None = None,
        columns: Mapping[str, Any] | None = None,
        at: Any,
    ) -> Self:
        """Buffers one row, whole or not at all; the sender itself, so that calls can be chained.

        ``symbols``: SYMBOL columns by name.  ``columns``: all other columns by name; the type follows
        from the value: bool, int (64 bits), float, str, bytes, datetime, Decimal, UUID, IPv4Address,
        a numpy scalar, a float64 array, or a wrapper (TimestampMicros, DateMillis, Char, Long256,
        Geohash ...).  None is NULL.  ``at``: the designated timestamp as TimestampNanos,
        TimestampMicros, datetime (naive counts as UTC), numpy.datetime64, or ServerTimestamp.

        Raises InputError and below for a row that cannot be sent: it is undone, earlier rows stay.
        When the row trips an auto-flush, errors of the flush come out here and the row is undone, too: a row whose
        call raises is not taken, unless the error says ``in_doubt``; then it is published.  So a full queue holds
        no more than ``max_buf_size`` beside it.  A latched terminal error is raised by every call.
        """
        self._engine.rows.row(table_name, symbols=symbols, columns=columns, at=at)
        return self

    def rows(
        self,
        table_name: str,
        rows: Iterable[Sequence[Any]],
        *,
        symbols: Sequence[str] = (),
        columns: Sequence[str] = (),
        at: Any = None,
    ) -> int:
        """Buffers many rows of one shape; how many.

        Each row is a sequence: the values of ``symbols``, then those of ``columns``, then the
        designated timestamp unless ``at`` gives one for all.  The first row that is refused is undone
        and raises, as with `row`; the rows before it stay, and ``rows_taken`` of the error says how many those are.
        """
        return self._engine.rows.rows(table_name, rows, symbols=symbols, columns=columns, at=at)

    def table(self, name: str, *, symbols: Sequence[str] = (), columns: Sequence[str] = ()) -> TableWriter:
        """A writer bound to one table and its columns."""
        return TableWriter(self, name, tuple(symbols), tuple(columns))

    @property
    def _here(self) -> Engine:
        """The engine.  Raises ForkedError in a forked child: what it says there is the parent's of that moment."""
        self._engine.check_process()
        return self._engine

    def __len__(self) -> int:
        """Bytes that the buffered rows take as a message, at most; 0 without any.  `stats` counts the rows."""
        rows = self._here.rows
        return limits.HEADER_BYTES + rows.nbytes if len(rows) else 0

    def __bool__(self) -> bool:
        """True: a sender without buffered rows is still a sender."""
        return True

    # -- publishing and waiting --------------------------------------------------------------------
    def flush(
        self, buffer: None = None, clear: bool = True, transactional: bool = False, *, wait: bool = False
    ) -> None:
        """Publishes the buffered rows; with ``wait`` also waits until all that is published is acked.

        Without ``wait`` it never waits for the server, except for room in the queue, at most
        ``sf_append_deadline_millis``; then BackpressureError, and the rows stay buffered.  What a timer flush failed
        with does not keep it from trying again: it raises only what it fails with itself.

        With ``sf_durability`` ``flush`` or ``append`` everything published so far, by auto-flush too, survives
        a power cut when this returns.  When the sync fails: StorageError with ``in_doubt`` True, for the rows
        are queued and may be delivered; until a sync succeeds each flush tries one first and raises
        StorageError, ``in_doubt`` False, its rows still buffered.

        ``buffer``, ``clear`` and ``transactional`` are the official client's; other values raise UnsupportedError.
        """
        if buffer is not None or not clear or transactional:
            refuse_arguments(buffer, clear, transactional)
        if wait:
            self._engine.flush_and_wait()
        else:
            self._engine.flush()

    def flush_and_get_fsn(self, buffer: None = None) -> int | None:
        """`flush`; the FSN of the last frame it published, None when nothing was buffered."""
        if buffer is not None:
            refuse_arguments(buffer, True, False)
        return self._engine.flush()

    def await_acked_fsn(self, fsn: int, timeout_millis: int | None = None) -> bool:
        """Waits until the server has acknowledged ``fsn``; False when the time ran out first.

        With ``request_durable_ack`` that is when it is durable, without when it is committed.  None
        waits without a limit, 0 or less only looks.  An FSN that is not published yet is waited for.
        Raises the latched terminal error, ClosedError when the sender closes meanwhile.
        """
        return self._engine.await_acked(fsn, timeout_millis)

    def await_ok_fsn(self, fsn: int, timeout_millis: int | None = None) -> bool:
        """Waits until the server has committed ``fsn`` to its WAL; else as `await_acked_fsn`.

        The same as that, unless ``request_durable_ack`` is on.
        """
        return self._engine.await_ok(fsn, timeout_millis)

    def await_durable_fsn(self, fsn: int, timeout_millis: int | None = None) -> bool:
        """Waits until ``fsn`` is in the server's object store; else as `await_acked_fsn`.

        Raises ConfigError without ``request_durable_ack``: the server would not say.
        """
        if not self._engine.config.request_durable_ack:
            raise ConfigError(
                f"whether FSN {fsn} is durable is told only with request_durable_ack=on; "
                "await_acked_fsn waits until the server has committed it",
                key="request_durable_ack",
            )
        return self._engine.await_acked(fsn, timeout_millis)

    def wait(self, timeout_millis: int = 0) -> None:
        """Waits until everything published so far is acked.

        ``timeout_millis`` counts only time without progress; 0 = no limit.  Raises DeliveryTimeout;
        the frames stay queued.
        """
        self._engine.await_all(timeout_millis or None)

    def drain(self, timeout_millis: int | None = None) -> bool:
        """`flush`, then waits until everything is acked; False when the time ran out first."""
        return self._engine.drain(timeout_millis)

    # -- watermarks --------------------------------------------------------------------------------
    def published_fsn(self) -> int | None:
        """Newest published frame; None before the first.  Never raises but ForkedError."""
        return _fsn(self._here.store.published_fsn)

    def ok_fsn(self) -> int | None:
        """Newest frame a server has committed to its WAL; None before the first.  Never raises but ForkedError."""
        return _fsn(self._here.ok_fsn)

    def acked_fsn(self) -> int | None:
        """Newest frame that is the server's for good: committed, or durable with ``request_durable_ack``.

        None before the first.  Never raises but ForkedError.
        """
        return _fsn(self._here.store.acked_fsn)

    def synced_fsn(self) -> int | None:
        """Newest frame that survives a power cut; None while there is none, always with ``memory``.

        Never raises but ForkedError.
        """
        return _fsn(self._here.store.synced_fsn)

    def await_synced_fsn(self, fsn: int, timeout_millis: int | None = None) -> bool:
        """Waits until frame ``fsn`` survives a power cut; False when the time ran out first.

        It is synced at once, for all who wait, whatever ``sf_sync_interval_millis`` says: so
        `flush_and_get_fsn` in ``periodic`` mode and this call later let a caller go on meanwhile.  None waits
        without a limit, 0 or less only looks.  Never waits for the server.

        Raises StorageError (``in_doubt``) when the sync fails, ConfigError where nothing is ever synced: without
        ``sf_dir``, and with ``sf_durability=memory``.
        """
        if self._engine.config.sf_durability == "memory":
            raise ConfigError(
                f"nobody syncs FSN {fsn} to a disk: that needs sf_dir and an sf_durability other than memory; "
                "await_acked_fsn waits for the server",
                key="sf_durability",
            )
        return self._engine.await_synced(fsn, timeout_millis)

    # -- state -------------------------------------------------------------------------------------
    @property
    def was_ever_connected(self) -> bool:
        """Whether an upgrade was ever complete."""
        return self._here.machine.was_ever_connected

    @property
    def must_close(self) -> bool:
        """True once a terminal error is latched: the sender will not send any more."""
        return self._here.progress.error is not None

    @property
    def recovery(self) -> RecoveryReport | None:
        """What opening the slot found and did; None for a queue in memory."""
        return self._here.storage.recovery

    def poll_error(self) -> ErrorEvent | None:
        """The oldest error event that was not polled yet; independent of the handler.  Never raises but ForkedError."""
        return self._here.reports.poll_error()

    def stats(self) -> SenderStats:
        """Counters and gauges of now.  Never raises but ForkedError."""
        return self._engine.stats()

    def background_drainers(self) -> list[DrainerStatus]:
        """Each orphaned slot this sender drains or has drained (``drain_orphans=on``); empty without any."""
        return self._engine.background_drainers()

    # -- dead letters ------------------------------------------------------------------------------
    def dead_letters(self) -> list[DeadLetter]:
        """The frames that were taken out of this sender's queue and are kept beside its slot, oldest first.

        Those of earlier senders on the slot too.  Raises ConfigError without ``sf_dir``, StorageError.
        """
        return self._here.letters.kept.letters()

    def requeue(self, letter: DeadLetter) -> int:
        """Puts a dead letter's frame back into the queue, behind what is buffered and published; its FSN.

        Correct first what the server complained of.  The letter is removed when the frame survives a power
        cut in the slot; a crash before that leaves both.  Raises what `flush` raises, ConfigError without
        ``sf_dir``, StorageError for a letter that is gone or damaged; the letter stays then.
        """
        return self._engine.requeue(letter)

    def skip_head_frame(self) -> DeadLetter:
        """Takes out the frame that stopped this sender: the last act before `close`.

        For a sender whose terminal error (`ServerRejection`) names one stored frame, right after the refusal or
        when it came again after a restart.  The frame becomes a dead letter and counts as acknowledged;
        this sender stays stopped, the next one on the slot goes on behind the frame.

            sender.skip_head_frame()
            sender.close()              raises the terminal error once more, as always

        Raises NothingToSkipError when no stored frame stopped the sender, or it was skipped already;
        ConfigError without ``sf_dir``; ClosedError; StorageError when no letter could be made: the frame
        stays then.
        """
        return self._engine.skip_head_frame()

    # -- the end -----------------------------------------------------------------------------------
    def close(self, flush: bool = True) -> None:
        """Publishes what is buffered, waits for the acknowledgements, ends the threads.

        The wait lasts at most ``close_flush_timeout_millis`` (0 or less: not at all); then
        DeliveryTimeout, everything being closed nevertheless.  A Ctrl-C ends the wait, and goes on when everything
        is closed; what was not delivered is in its notes.  A latched terminal error is raised by
        the first call, with a note that names the frames not delivered and where they are, and the number of rows
        that could not be published.  ``flush=False`` forgets the buffered rows; published frames are still waited
        for.  A second call does nothing.

        In a signal handler, and in a token provider, it may run inside another call of this sender on the same
        thread, which cannot end meanwhile.  Then closing begins on a thread of its own and this returns at once;
        the next call of ``close`` waits for the end and raises its errors, and so does the interpreter's exit,
        which logs them.  So this is safe, and loses no row that was buffered:

            def stop(signum, frame):
                sender.close()
                sys.exit()             not os._exit, which waits for nothing

        A conversion hook that calls it gets ReentryError.

        With ``sf_durability`` other than ``memory``, what is not acknowledged is synced to the disk.  When that
        fails, StorageError: the threads have ended, but the slot's lock and its data are kept; mend the disk and
        call ``close()`` again, or ``close(flush=False)`` to let go of the slot without the sync.
        """
        self._engine.close(flush=flush)

    def __reduce__(self) -> NoReturn:
        """It cannot be pickled or copied: raises TypeError."""
        raise TypeError(
            "a Sender has a connection and threads, and cannot be pickled or copied: pass the connect string on, and "
            "open one in the process that sends"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """`close`; left by an exception, buffered rows are forgotten and errors are attached to it."""
        try:
            self.close(flush=error is None)
        except Exception as closing:
            if error is None:
                raise
            attach(error, closing)

    def __repr__(self) -> str:
        return self._engine.describe()


class TableWriter:
    """Rows of one table by position; made by `Sender.table`.

    ``writer.row("ETH-USD", "sell", 2615.54, 0.00044, at=...)``: the values of the symbols, then those
    of the columns.
    """

    __slots__ = ("_columns", "_name", "_sender", "_symbols")

    def __init__(self, sender: Sender, name: str, symbols: tuple[str, ...], columns: tuple[str, ...]) -> None:
        self._sender = sender
        self._name = name
        self._symbols = symbols
        self._columns = columns

    def row(self, *values: Any, at: Any) -> None:
        """Buffers one row; see `Sender.row`."""
        self._sender.rows(self._name, (values,), symbols=self._symbols, columns=self._columns, at=at)

    def rows(self, rows: Iterable[Sequence[Any]], *, at: Any = None) -> int:
        """Buffers many rows; see `Sender.rows`."""
        return self._sender.rows(self._name, rows, symbols=self._symbols, columns=self._columns, at=at)


def _address(host: Any, port: int | str | None) -> str:
    """``host:port`` for ``addr``."""
    if not isinstance(host, str):
        text = f"the host is a str, not {type(host).__name__}, and stands behind the protocol"
        raise ConfigError(f"{text}: Sender('ws', 'localhost', 9000)", key="addr")
    bracketed = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return bracketed if port is None else f"{bracketed}:{port}"


def _fsn(fsn: int) -> int | None:
    return None if fsn < 0 else fsn
