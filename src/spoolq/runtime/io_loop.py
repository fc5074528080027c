"""The I/O loop: carries the delivery machine's actions out and tells it what happened.

One `IoLoop` per sender.  `run_until` drives it on the caller's thread (a blocking first connect),
`run` on the I/O thread until `stop`; never both at once.  It owns the connection.  A drainer has one
while it is at work; the machine outlives it, and `resume` goes on where a pause of the machine ended.

Sleeping: within `LINGER_MILLIS` of its last work it polls with waits of at least 1 ms, so that a
producer need not wake it; after that ``asleep`` is set and the producer wakes it (ours.md 13).  The
socket is always watched, also when nothing waits for an answer (ours.md 29b).
"""

from __future__ import annotations

import errno
import logging
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from spoolq import limits, link
from spoolq.delivery import Delivery, State, actions, events
from spoolq.errors import DeadLettersFullError, FrameTooLarge, StorageError
from spoolq.link import ConnectFailure, Connection, ConnectOptions, Endpoint, Kind
from spoolq.link.poller import POLLIN, POLLOUT
from spoolq.qwp.layout import is_deferred
from spoolq.qwp.responses import BadResponse, ErrorFrame, parse
from spoolq.runtime.clock import Clock
from spoolq.runtime.new_life import Life
from spoolq.runtime.throttle import Throttle
from spoolq.runtime.wakeup import Wakeup
from spoolq.spool import Outgoing, Run

_LOG = logging.getLogger("spoolq.delivery")
LINGER_MILLIS: Final = 50
_POLL_MILLIS: Final = 1
_WARN_MILLIS: Final = 5_000  # behaviour.md 5.3
_SCARCE: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # what the process or the system is short of for now
_FAILURE: Final = {
    Kind.AUTH: events.FailureKind.AUTH,
    Kind.ROLE: events.FailureKind.ROLE,
    Kind.STATUS: events.FailureKind.STATUS,
    Kind.DURABLE: events.FailureKind.DURABLE,
    Kind.TOKEN: events.FailureKind.TOKEN,
}


class IoLoop:
    """See the module's text.

    ``catch_up(cap)`` gives the dictionary messages a new connection begins with; ``on_settled`` is
    called after an acknowledgement reached the store, ``on_committed`` after an OK that settles nothing
    yet (durable acks), ``on_latched`` with a terminal error,
    ``on_report`` with what the user's handlers may want to know, ``on_cap`` with a new endpoint's cap.
    ``save_letter`` makes a dead letter or raises StorageError; ``ask`` passes a question on, answered by `post`;
    both are for a machine that may drop and ask.
    ``recovered``: there were frames before this sender, so that the first connection needs the
    dictionary too.  ``life`` says which dictionary the log's ids are of: a connection that was told an older one
    is left before the next frame goes out.  ``on_warn`` gets topic and text of a warning in place of the log.
    ``connect`` is `link.connect`, or what stands for the network in the simulator.
    """

    def __init__(
        self,
        machine: Delivery,
        store: Outgoing,
        clock: Clock,
        endpoints: list[Endpoint],
        options: ConnectOptions,
        *,
        catch_up: Callable[[int], Iterator[bytes]],
        on_settled: Callable[[], None],
        on_latched: Callable[[actions.Latch], None],
        on_report: Callable[[actions.Report], None],
        on_cap: Callable[[int], None],
        save_letter: Callable[[actions.ServerErrorEvent], object] | None = None,
        ask: Callable[[actions.Decide], None] | None = None,
        on_committed: Callable[[], None] = lambda: None,
        recovered: bool = False,
        life: Life | None = None,
        connect: Callable[[Endpoint, ConnectOptions, int, int | None], Connection] | None = None,
        on_warn: Callable[[str, str], None] | None = None,
    ) -> None:
        self.machine = machine
        self._store = store
        self._clock = clock
        self._endpoints = endpoints
        self._options = options
        self._resolver = link.Resolver()
        self._catch_up = catch_up
        self._on_settled = on_settled
        self._on_committed = on_committed
        self._on_latched = on_latched
        self._on_report = on_report
        self._on_cap = on_cap
        self._save_letter = save_letter
        self._ask = ask
        self._recovered = recovered
        self._life = life or Life()
        self._life_told = 0  # of the connection
        self._connect_to = connect or partial(link.connect, resolver=self._resolver)
        self._on_warn = on_warn or self._log_warning
        self._wake = Wakeup()
        try:
            self._cancel = Wakeup()
        except BaseException:
            self._wake.close()
            raise
        self._connection: Connection | None = None
        self._pending: list[actions.Action] = []
        self._sending: tuple[int, int] | None = None
        self._timer_millis: int | None = None
        self._last_work_millis = clock.now_millis()
        self._heard_millis = self._last_work_millis  # the last sign of life of the peer
        self._unacknowledged_nbytes = 0
        self._told_fsn = -1
        self._throttles: dict[str, Throttle] = {}
        self._stopping = False
        self._posted: deque[events.Decided] = deque()
        self.asleep = False
        self.frames_sent = 0
        self.frames_replayed = 0
        self.acks = 0
        self.reconnect_attempts = 0
        self._replay_high_fsn = -1

    # -- from other threads --------------------------------------------------------------------
    def wake(self) -> None:
        """There may be new frames.

        Only the loop says that it is awake again: an interrupt just here leaves ``asleep`` as it was, so the
        next call wakes it.
        """
        if self.asleep:
            self._wake.set()

    def hurry(self) -> None:
        """Somebody is about to wait for what was published: it is looked at now, not at the end of a poll.

        Within its linger the loop is not woken by a flush (ours.md 13); who waits would lose up to `_POLL_MILLIS`.
        """
        if self.asleep or self._store.published_fsn > self._told_fsn:
            self._wake.set()

    def post(self, event: events.Decided) -> None:
        """Tells the machine something, on the thread that drives it."""
        self._posted.append(event)
        if not self._stopping:
            self._wake.set()

    def stop(self) -> None:
        """Makes `run` or `run_until` end soon, whatever they are doing."""
        self._stopping = True
        self._cancel.set()
        self._wake.set()

    # -- the loop ------------------------------------------------------------------------------
    def begin(self, budget_millis: int | None) -> None:
        """The first event; nothing is done yet."""
        self._tell(events.Begin(budget_millis))

    def resume(self) -> None:
        """The machine has waited as long as it wanted to, with no loop around it."""
        self._tell(events.TimerDue())

    @property
    def timer_millis(self) -> int | None:
        """When the machine wants to be told the time."""
        return self._timer_millis

    def run(self) -> None:
        """Until `stop` or a terminal error."""
        self.run_until(lambda: False)

    def run_until(self, done: Callable[[], bool]) -> None:
        """Until ``done()``, `stop` or a terminal error.

        What an event leads to is done whole: who sees an error latched and closes at once must not keep it from
        being told.
        """
        while not self._stopping and not done():
            if self._pending:
                if isinstance(self._pending[0], actions.Connect):
                    self._do(self._pending.pop(0))
                self._drain()
            elif self.machine.state is State.FAILED:
                return
            else:
                self._wait_and_look()

    def connect_millis(self, millis: int) -> None:
        """Another bound for the TCP connects from now on; while nobody drives the loop."""
        self._options = self._options.replaced(connect_millis=millis)

    def close(self) -> None:
        """Closes the connection and the descriptors; after `run` has ended."""
        self._drop_connection()
        self._wake.close()
        self._cancel.close()

    def forked(self) -> None:
        """In a forked child: closes its copies of the descriptors; the parent goes on with its own."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close(None)
        self._resolver.forked()
        self._wake.forked()
        self._cancel.forked()

    def _tell(self, event: events.Event) -> None:
        self._pending += self.machine.handle(event, self._clock.now_millis())

    def _wait_and_look(self) -> None:
        connection = self._connection
        timeout = self._timeout_millis()
        poll = self._clock.poller()
        poll.register(self._wake, POLLIN)
        if connection is not None:
            writing = POLLOUT if connection.wants_write else 0
            poll.register(connection, POLLIN | writing)
        ready = dict(self._clock.poll(poll, timeout))
        self.asleep = False
        if self._wake.fileno() in ready:
            self._wake.clear()
        while self._posted:
            self._tell(self._posted.popleft())
            self._drain()  # a pause that begins now must not end by the time that this was waited for
        now = self._clock.now_millis()
        if connection is not None and (mask := ready.get(connection.fileno())):
            self._look_at(connection, mask)
        if self._timer_millis is not None and now >= self._timer_millis:  # after the answers: one may end an outage
            self._timer_millis = None
            self._tell(events.TimerDue())
        self._beat(now)  # after what came has been heard
        if self._is_of_an_older_life():
            self._last_work_millis = now
            self._tell(events.DictionaryRestarted())
        elif self._store.published_fsn > self._told_fsn and self._connection is not None:
            self._last_work_millis = now
            self._told_fsn = self._store.published_fsn
            self._tell(events.Published())

    def _beat(self, now: int) -> None:
        """Tells the machine when it has to ask whether the peer is still there."""
        due = self.machine.pulse_due_millis(self._heard_millis)
        if due is None or now < due or self._connection is None:
            return
        before, self._unacknowledged_nbytes = self._unacknowledged_nbytes, self._connection.unacknowledged_nbytes()
        if 0 < self._unacknowledged_nbytes < before:  # on its way: what is behind it, a PING too, waits its turn
            self._heard_millis = now
        else:
            self._tell(events.PulseDue(self._heard_millis))

    def _timeout_millis(self) -> int | None:
        """How long to wait; sets ``asleep`` before the last look at the log, so that no wake is lost."""
        now = self._clock.now_millis()
        due = [at for at in (self._timer_millis, self.machine.pulse_due_millis(self._heard_millis)) if at is not None]
        timer = max(0, min(due) - now) if due else None
        if self._connection is not None and now - self._last_work_millis < LINGER_MILLIS:
            return _POLL_MILLIS if timer is None else min(timer, _POLL_MILLIS)
        self.asleep = self._connection is not None
        if self.asleep and (self._store.published_fsn > self._told_fsn or self._is_of_an_older_life()):
            return 0
        return timer

    def _is_of_an_older_life(self) -> bool:
        """Whether the connection knows a dictionary that has begun anew since."""
        return self._connection is not None and self._life_told != self._life.number

    def _look_at(self, connection: Connection, mask: int) -> None:
        if mask & POLLOUT:  # it was full: the peer has taken something
            self._heard_millis = self._clock.now_millis()
        if mask & ~POLLOUT:
            self._take(connection)
        if self._connection is connection and connection.wants_write:
            self._flush(connection)

    def _take(self, connection: Connection) -> None:
        """Tells the machine what came, until one of it ends the connection.

        What it wants to send meanwhile goes out behind that: a send that fails would be told before what has come.
        """
        before = connection.received_nbytes
        items = connection.receive()
        if connection.received_nbytes > before:
            self._heard_millis = self._clock.now_millis()
        if items:  # the answer to a PING is no work: keepalive does not make the loop linger
            self._last_work_millis = self._clock.now_millis()
        if items and self._sending is not None:
            self._tell_partly_sent(connection, self._sending)
        for item in items:
            if self._connection is connection:
                self._tell(self._event_of(item))
                self._drain(sends=False)
        self._drain()

    def _tell_partly_sent(self, connection: Connection, sending: tuple[int, int]) -> None:
        """A run is blocked in the socket: answers are measured against what is really gone."""
        gone = sending[1] - connection.unsent_messages()
        if gone >= sending[0]:
            self._count_sent(sending[0], gone)
            self._sending = (gone + 1, sending[1])
            self._tell(events.RunPartlySent(gone))

    def _event_of(self, item: link.Inbound) -> events.Event:
        match item:
            case link.Binary(payload):
                try:
                    response = parse(payload)
                except BadResponse as error:
                    return events.Undecodable(str(error))
                self.acks += payload[0] == 0
                if isinstance(response, ErrorFrame):
                    response = response.replaced(text=self._options.hide(response.text))
                return events.Answered(response)
            case link.Close(code, reason):
                return events.PeerClosed(code, self._options.hide(reason))
            case link.Breach(text):
                return events.ProtocolBreach(text)
            case link.Lost(text):
                return events.Lost(text)
        raise AssertionError(item)

    def _drain(self, *, sends: bool = True) -> None:
        """Carries out what is pending, so that a Disconnect takes effect before the next answer is told.

        A peer that takes a whole backlog as fast as it goes out gives no other occasion to see a `stop`.
        """
        left: list[actions.Action] = []
        while self._pending and not isinstance(self._pending[0], actions.Connect):
            if self._stopping and isinstance(self._pending[0], actions.SendRun):
                break
            action = self._pending.pop(0)
            if sends or not isinstance(action, actions.SendRun):
                self._do(action)
            else:
                left.append(action)
        self._pending[:0] = left

    # -- actions -------------------------------------------------------------------------------
    def _do(self, action: actions.Action) -> None:
        match action:
            case actions.Connect(index, limit_millis):
                self._connect(index, limit_millis)
            case actions.SendRun():
                self._send_run(action)
            case actions.Settle(fsn):
                self._store.acknowledge(fsn)
                self._on_settled()
            case actions.Committed():
                self._on_committed()
            case actions.Ping():
                if self._connection is not None:
                    self._connection.queue_ping()
                    self._flush(self._connection)
            case actions.Disconnect():
                self._drop_connection()
            case actions.SetTimer(at_millis):
                self._timer_millis = at_millis
            case actions.SaveLetter(fsn, event):
                self._make_letter(fsn, event)
            case actions.Decide() if self._ask is not None:
                self._ask(action)
            case actions.Latch():
                self._on_latched(action)
            case actions.Report():
                self._on_report(action)
            case actions.Warn(topic, text):
                self._on_warn(topic, text)

    def _log_warning(self, topic: str, text: str) -> None:
        if self._throttles.setdefault(topic, Throttle(self._clock, _WARN_MILLIS)).due():
            _LOG.warning("%s", text)

    def _connect(self, index: int, limit_millis: int | None) -> None:
        endpoint = self._endpoints[index]
        self.reconnect_attempts += self.machine.was_ever_connected
        try:
            connection = self._connect_to(endpoint, self._options, self._cancel.fileno(), limit_millis)
        except ConnectFailure as failure:
            if failure.kind is Kind.CANCELLED:
                return
            kind = _FAILURE.get(failure.kind, events.FailureKind.TRANSPORT)
            self._tell(
                events.ConnectFailed(kind, failure.text, failure.status, failure.role, failure.retry_after_millis)
            )
            return
        self._told_fsn = -1
        self._sending = None
        self._last_work_millis = self._heard_millis = self._clock.now_millis()
        self._unacknowledged_nbytes = 0
        told = connection.upgrade.cap_nbytes
        cap = told or limits.BATCH_BYTES_ASSUMED
        count = 0
        self._replay_high_fsn = self._store.published_fsn if self.machine.was_ever_connected else -1
        try:
            with self._life.lock:  # no id changes its meaning meanwhile
                self._life_told = self._life.number
                if self.machine.mirror_needed or self._recovered:
                    for message in self._catch_up(cap):
                        connection.queue_message(message)
                        count += 1
        except FrameTooLarge as error:
            connection.close()
            self._tell(events.ConnectFailed(events.FailureKind.CAP, f"{endpoint}: {error}", cap_nbytes=told))
            return
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._on_cap(cap)
        self._tell(events.Connected(count, told))
        self._flush(connection)
        self._drain()  # what this leads to comes before the next thing that is told
        if self._connection is connection and connection.unread:  # came with the 101: no select shows it
            self._take(connection)

    def _make_letter(self, fsn: int, refusal: actions.ServerErrorEvent) -> None:
        try:
            if self._save_letter is None:
                raise StorageError("there is no place for dead letters here")
            self._save_letter(refusal)
        except StorageError as error:
            self._tell(events.LetterFailed(fsn, str(error), isinstance(error, DeadLettersFullError)))
        else:
            self._tell(events.LetterSaved(fsn))

    def _send_run(self, action: actions.SendRun) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            run = self._store.run(action.first_fsn, action.max_frames, action.max_nbytes)
            if run is None:
                raise StorageError(f"the frame with FSN {action.first_fsn} was published and is not in the spool")
            try:
                if self._is_of_an_older_life():  # looked at behind the run: whoever published it has begun the life
                    self._tell(events.DictionaryRestarted())
                    return
                count = connection.queue_run(run, action.max_frame_nbytes)
                if count:
                    self._sending = (run.first_fsn, run.first_fsn + count - 1)
                    if run.first_fsn < self._store.grouped_end_fsn:
                        self._tell_deferred(run, count)
                else:
                    self._tell(events.FrameTooLarge(run.first_fsn, run.payloads()[0].nbytes))
            finally:
                run.release()
        except StorageError as error:
            if error.errno in _SCARCE:  # the log is whole; and the connection, too, holds what there is too little of
                self._tell(events.Lost(f"the log cannot be read just now: {error}"))
                return
            self._tell(events.StorageBroken(error))
            return
        self._flush(connection)

    def _tell_deferred(self, run: Run, count: int) -> None:
        """Which of the first ``count`` frames leave their commit to a later one."""
        first, end = run.first_fsn, run.first_fsn + count
        for fsn, payload in enumerate(run.payloads()[:count], first):
            if not is_deferred(payload):
                if first < fsn:
                    self._tell(events.DeferredQueued(first, fsn - 1))
                first = fsn + 1
        if first < end:
            self._tell(events.DeferredQueued(first, end - 1))

    def _flush(self, connection: Connection) -> None:
        try:
            done = connection.flush()
        except OSError as error:
            self._take(connection)  # the reason may have come before the end
            if self._connection is connection:
                self._tell(events.Lost(f"sending failed: {error.strerror or error}"))
                self._drain()
            return
        if done and self._sending is not None:
            (first, last), self._sending = self._sending, None
            self._last_work_millis = self._clock.now_millis()
            self._count_sent(first, last)
            self._tell(events.RunSent(last))

    def _count_sent(self, first: int, last: int) -> None:
        """Frames that were handed to the socket whole (behaviour.md 4.5)."""
        self.frames_sent += max(0, last - first + 1)
        self.frames_replayed += max(0, min(self._replay_high_fsn, last) - first + 1)

    def _drop_connection(self) -> None:
        if self._connection is not None:
            if self._sending is not None:
                self._count_sent(self._sending[0], self._sending[1] - self._connection.unsent_messages())
            self._connection.close()
            self._connection = None
        self._sending = None
