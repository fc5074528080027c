"""The delivery machine: which run of frames goes out next, what an answer means, when to try again.

No sockets, no clock, no threads: `Delivery.handle(event, now_millis)` gives the actions that runtime/
carries out, in order.  The same events and the same random generator give the same actions.

| state      | means                                   | leaves by                                     |
|------------|-----------------------------------------|-----------------------------------------------|
| idle       | not begun                               | Begin -> connecting                           |
| connecting | a `Connect` is under way                | Connected -> connected; else connecting, waiting |
| connected  | frames go out, answers come in          | a loss or a rejection -> waiting or connecting |
| waiting    | a pause before the next attempt         | TimerDue -> connecting                        |
| deciding   | the resolver is asked about a refusal   | Decided, TimerDue -> saving, waiting, ...     |
| saving     | a refused frame becomes a dead letter   | LetterSaved -> waiting, connecting; LetterFailed -> failed |
| failed     | a terminal error was latched            | -                                             |

An event that has no meaning in a state is ignored: it is an echo of something that ended.

When the next connection is tried (ours.md 29a; the pauses are in `backoff`):

| the connection ended by                      | on it                    | pause                              |
|----------------------------------------------|--------------------------|------------------------------------|
| loss, orderly close                          | worthwhile progress      | none                               |
| a cap that is too small, a frame that was    | progress                 | none                               |
| dropped                                      |                          |                                    |
| any of these                                 | less                     | backoff; from its shortest after a |
|                                              |                          | long connection that owed nothing  |
| the ids of symbols that begin anew           | -                        | none, to the same endpoint         |
| NOT_WRITABLE                                 | -                        | none the first time, then paced    |
| a strike                                     | -                        | paced by the strikes               |

Worthwhile: frames were settled, at least twice as many as on the connection before, or it stood long.  Only then
does the backoff begin again: a server that takes a little and drops sees a falling rate too.  How much is in flight
on a connection that follows a loss is in `window`.

A running sender never gives up by time unless there is an outage budget (`outage`); a blocking first
connect has a budget of its own (ours.md 25).  What is terminal is in `verdicts`.

The log is told to settle only what was handed to the socket whole.  A rejection settles nothing, unless its
policy is drop and the frame has become a dead letter.  The connection is left before the resolver is asked or
a letter made: what it still says is not heard, and the next one begins with a catch-up that registers the
symbols of a dropped frame (ours.md 22).

With durable acks an OK settles nothing either: it moves ``ok_fsn``, and the frames are settled when they
are durable (`durable`).  Replay, pauses and the budget go by what is settled; a rejection and a strike
concern the first frame without an OK on this connection.  A frame that is to be dropped while one before it
is not durable is held back on the next connection until it is the oldest one: settling it settles those too.

Frames that other clients left may belong together as one transaction (`groups`).  Such a group is settled, replayed
and left for another endpoint from its first frame.  A refusal of any of its frames concerns all of it; none
is dropped, for the others would land as half a transaction.
"""

from __future__ import annotations

from enum import Enum
from random import Random
from typing import Final

from spoolq import limits
from spoolq.delivery import events, policy, verdicts
from spoolq.delivery.acks import WireMap
from spoolq.delivery.actions import (
    Action,
    Committed,
    Connect,
    ConnectionEvent,
    Decide,
    Disconnect,
    Latch,
    Ping,
    Report,
    SaveLetter,
    SendRun,
    SetTimer,
    Settle,
    Warn,
)
from spoolq.delivery.backoff import Backoff
from spoolq.delivery.cap_gap import CapGap
from spoolq.delivery.durable import DurableAcks, SeqTxns, TooManyTables, joined
from spoolq.delivery.events import Event, FailureKind
from spoolq.delivery.groups import Groups
from spoolq.delivery.hosts import Hosts, HostState
from spoolq.delivery.options import DeliveryOptions, FrameLog, TablesOf
from spoolq.delivery.outage import OutageBudget
from spoolq.delivery.poison import PoisonDetector
from spoolq.delivery.policy import Refusal
from spoolq.delivery.pulse import Pulse
from spoolq.delivery.rounds import Rounds
from spoolq.delivery.window import Window
from spoolq.errors import SpoolqError
from spoolq.printable import printable
from spoolq.qwp.layout import Status
from spoolq.qwp.responses import DurableAck, Entries, ErrorFrame, Ok

RUN_FRAMES_MAX: Final = 4_096
RUN_NBYTES_MAX: Final = 1 << 20
_ORDERLY: Final = (1000, 1001)


class State(Enum):
    """See the table in the module's text."""

    IDLE = "idle"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    WAITING = "waiting"
    DECIDING = "deciding"
    SAVING = "saving"
    FAILED = "failed"


class Delivery:
    """The machine of one sender.

    Readable: ``state``, ``was_ever_connected`` (sticky), ``attempts`` (all connects tried),
    ``reconnects_succeeded``, ``outage_since_millis`` (None while connected), ``mirror_needed``;
    ``ok_fsn``, the newest frame a server has committed; ``durable_acks`` and ``durable_advances``, the
    answers of that kind and how often they settled something; ``acked_txns`` and ``durable_txns``.
    """

    def __init__(
        self, options: DeliveryOptions, log: FrameLog, rng: Random, tables_of: TablesOf = lambda *_: ()
    ) -> None:
        self._options = options
        self._log = log
        self._tables_of = tables_of
        self._hosts = Hosts(len(options.endpoints))
        self._backoff = Backoff(options.backoff_initial_millis, options.backoff_max_millis, rng)
        self._poison = PoisonDetector(options.max_frame_rejections, options.poison_window_millis)
        self._cap_gap = CapGap(len(options.endpoints), options.cap_gap_window_millis, options.cap_gaps_min)
        self._actions: list[Action] = []
        self._now = 0
        self._acked = log.acked_fsn
        # the connection
        self._endpoint = 0
        self._bound: int | None = None
        self._caps: dict[int, int | None] = {}
        self._wire = WireMap(0, 0)
        self._groups = Groups()
        self._sending = False
        self._answered = self._acked  # newest frame with an OK on this connection
        self._durable: DurableAcks | None = None
        self._window = Window()
        self._pulse = Pulse(options.durable_keepalive_millis, max(0, options.half_open_millis))
        self._pending_ok: Ok | None = None
        self._too_large: events.FrameTooLarge | None = None
        self._progressed = False
        self._connected_at = 0
        self._not_writable = 0
        # a refusal that is being decided or dropped
        self._refusal: Refusal | None = None
        self._questions = 0
        self._held = -1  # to be dropped, not sent before all in front of it is settled
        # between connections
        self._deadline: int | None = None  # of a blocking first connect
        self._budget = OutageBudget(options.outage_budget_millis)
        self._budget_watched = False
        self._one_round = False
        self._rounds = Rounds(options.endpoints)
        self._token_refused = False  # at the last attempt
        self._tokens_refused = 0  # since one was taken
        self.state = State.IDLE
        self.was_ever_connected = False
        self.outage_since_millis: int | None = None
        self.attempts = 0
        self.reconnects_succeeded = 0
        self.ok_fsn = self._acked
        self.durable_acks = 0
        self.durable_advances = 0
        self.acked_txns = SeqTxns()
        self.durable_txns = SeqTxns()

    @property
    def mirror_needed(self) -> bool:
        """Whether a connection has to begin with a catch-up: frames that named symbols may be gone."""
        return self.was_ever_connected or self._acked >= 0

    def pulse_due_millis(self, heard_millis: int) -> int | None:
        """When `PulseDue` has to be told, as it looks now; ``heard_millis`` as there.  None: never."""
        if self.state is not State.CONNECTED:
            return None
        due = self._pulse.due_millis(waits=self._waits, asks=self._asks, heard_millis=heard_millis)
        opens = self._window.opens_millis
        return opens if due is None else due if opens is None else min(due, opens)

    def handle(self, event: Event, now_millis: int) -> list[Action]:
        """Takes one event; the actions it leads to, in order."""
        self._now = now_millis
        self._actions = []
        match event, self.state:
            case events.Begin(), State.IDLE:
                self._begin(event)
            case events.Connected(), State.CONNECTING:
                self._connected(event)
            case events.ConnectFailed(), State.CONNECTING:
                self._connect_failed(event)
            case events.TimerDue(), State.WAITING:
                self._resume()
            case events.TimerDue(), State.CONNECTED:
                self._budget_watched = False
                self._watch_budget()
            case events.StorageBroken(error), State.CONNECTED | State.CONNECTING | State.WAITING:
                self._fail(error)
            case events.Decided(number, chosen), State.DECIDING if number == self._questions:
                self._decided(chosen)
            case events.TimerDue(), State.DECIDING:
                self._warn("decide", "error_policy gave no answer in time: what the settings say is done instead")
                self._decided(None)
            case events.LetterSaved(), State.SAVING:
                self._dropped()
            case events.LetterFailed(_, text, full), State.SAVING:
                self._not_saved(text, full)
            case _, State.CONNECTED:
                self._on_connection(event)
        return self._actions

    # -- connecting ----------------------------------------------------------------------------
    def _begin(self, event: events.Begin) -> None:
        if event.budget_millis is not None:
            self._deadline = self._now + event.budget_millis
            self._one_round = event.budget_millis == 0
        else:
            self._budget.runs(self._now)
        self.outage_since_millis = self._now
        self._rounds.begin()
        self._resume()

    def _resume(self) -> None:
        """The next endpoint of this round, or the first of a new one."""
        if not self._one_round and self._budget_is_over():
            self._give_up()
            return
        if self._hosts.next() is None:
            self._hosts.new_round()
            self._rounds.again()
        self._try_next()

    def _try_next(self) -> None:
        endpoint = self._hosts.next()
        if endpoint is None:
            self._round_used_up()
            return
        self._connect_to(endpoint)

    def _connect_to(self, endpoint: int) -> None:
        self.state = State.CONNECTING
        self._endpoint = endpoint
        self.attempts += 1
        self._rounds.attempt += 1
        due = self._due_millis
        limit = None if due is None or self._one_round else max(1, due - self._now)
        self._actions.append(Connect(endpoint, limit))

    def _connected(self, event: events.Connected) -> None:
        index, previous = self._endpoint, self._bound
        self._hosts.succeeded(index)
        self.state = State.CONNECTED
        self._bound = index
        self._caps[index] = event.cap_nbytes
        self._wire = WireMap(self._acked + 1, event.catch_up)
        self._groups = Groups()
        self._answered = self._acked
        self._window.begin(self._acked)
        self._durable = DurableAcks(self._acked) if self._options.durable_ack else None
        self._pulse.begin(self._now)
        self._sending = False
        self._pending_ok = None
        self._too_large = None
        self._progressed = False
        self._token_refused, self._tokens_refused = False, 0
        self._connected_at = self._now
        self._deadline = None
        self._one_round = False
        self.outage_since_millis = None
        kind = "connected" if previous is None else "reconnected" if previous == index else "failed_over"
        self.reconnects_succeeded += previous is not None
        self.was_ever_connected = True
        self._report_connection(kind, index, previous=previous)
        self._pump()
        self._budget.connected(self._now, owed=self._owed)
        self._budget_watched = False
        self._watch_budget()

    def _connect_failed(self, event: events.ConnectFailed) -> None:
        name = self._name
        if event.kind is FailureKind.AUTH:
            if event.status == 401 and self._tries_another_token():
                self._report_connection("endpoint_attempt_failed", self._endpoint, printable(event.text))
                self._connect_to(self._endpoint)
                return
            self._fail(verdicts.unauthorized(name, event.text, event.status or 0))
            self._report_connection("auth_failed", self._endpoint, printable(event.text))
            return
        self._token_refused = False
        self._report_connection("endpoint_attempt_failed", self._endpoint, printable(event.text))
        self._hosts.failed(self._endpoint, self._rounds.failed(self._endpoint, event))
        if event.kind is FailureKind.CAP:
            self._caps[self._endpoint] = event.cap_nbytes
            if self._endpoint_is_too_small(printable(event.text), self._acked + 1):
                return
        if not self._one_round and self._budget_is_over():
            self._give_up()
        else:
            self._try_next()

    def _tries_another_token(self) -> bool:
        """A 401 is tried once more, at once: the token may have run out since the provider gave it.

        Two in a row are the end.  What failed otherwise in between makes the next 401 one of a new token, and
        there is another try; without a token that was taken they are counted, so that it ends in any case.
        """
        if not self._options.renewable_token or self._token_refused:
            return False
        self._token_refused = True
        self._tokens_refused += 1
        return self._tokens_refused < limits.TOKENS_REFUSED_MAX

    def _round_used_up(self) -> None:
        """Every endpoint was tried once: pause, or give up when there was to be one round."""
        outcomes = self._rounds.text
        self._report_connection("all_endpoints_unreachable", None, outcomes)
        if self._rounds.none_is_durable:
            self._fail(verdicts.no_durable_acks(outcomes))
            return
        if self._one_round:
            self._give_up()
            return
        self._warn("reconnect", f"no endpoint can be reached, trying again: {outcomes}")
        hint = min(self._rounds.retry_after_millis, self._options.backoff_max_millis)
        self._wait(max(self._backoff.next_millis(), hint))

    @property
    def _due_millis(self) -> int | None:
        """When there is no more time: for the first connect, or for the outage."""
        return self._budget.deadline_millis if self._deadline is None else self._deadline

    def _budget_is_over(self) -> bool:
        due = self._due_millis
        return due is not None and self._now >= due

    def _watch_budget(self) -> None:
        """On a connection: ends it when the budget is used up, else sees to it that somebody looks again."""
        due = self._budget.deadline_millis
        if due is None or self._budget_watched:
            return
        if self._now >= due:
            self._rounds.only(self._endpoint, "connected, but it acknowledges nothing")
            self._give_up()
            return
        self._budget_watched = True
        self._actions.append(SetTimer(due))

    def _give_up(self) -> None:
        tag = verdicts.CONNECTION_LOST if self.was_ever_connected else verdicts.NEVER_CONNECTED
        tag_told = None if self._one_round else tag
        said = self._rounds
        self._fail(verdicts.no_connection(said.text, tag_told, said.by_role, said.kinds))
        if not self._one_round:
            self._report_connection("budget_exhausted", None, tag)

    def _wait(self, pause_millis: int) -> None:
        self.state = State.WAITING
        due, last = self._now + pause_millis, self._due_millis
        self._actions.append(SetTimer(due if last is None else max(self._now, min(due, last))))

    # -- on a connection -----------------------------------------------------------------------
    def _on_connection(self, event: Event) -> None:
        match event:
            case events.Published():
                self._pump()
                if self._owed:
                    self._budget.runs(self._now)
                    self._watch_budget()
            case events.RunSent(last_fsn):
                self._run_sent(last_fsn)
            case events.RunPartlySent(fsn):
                self._sent_up_to(fsn)
            case events.DeferredQueued(first, last):
                self._groups.deferred(first, last)
            case events.FrameTooLarge():
                self._sending = False
                self._too_large = event
                self._leave_too_small()
            case events.Answered(Ok() as ok):
                self.acked_txns.rise(ok.entries)
                self._ok(ok)
            case events.Answered(DurableAck(entries)):
                self._durable_ack(entries)
            case events.Answered(ErrorFrame() as rejection):
                self._rejected(rejection)
            case events.Undecodable(text):
                self._strike(f"an answer could not be decoded: {text}", None)
            case events.ProtocolBreach(text):
                first, last = self._unsettled
                self._fail(verdicts.protocol_violation(self._name, text, first, last, stored=self._options.stored))
            case events.PeerClosed(code, reason):
                self._peer_closed(code, reason)
            case events.Lost(text):
                self._reconnect(text)
            case events.PulseDue(heard_millis):
                self._beat(heard_millis)
            case events.DictionaryRestarted():
                self._renew()

    def _pump(self) -> None:
        """The next run, when there is one to send, none is under way, and nothing holds it up."""
        next_fsn = self._wire.sent_fsn + 1
        if self._sending or self._too_large is not None or next_fsn > self._log.published_fsn:
            return
        frames_max = min(RUN_FRAMES_MAX, self._room(next_fsn))
        if self._holding:
            frames_max = min(frames_max, self._held - next_fsn)
        if frames_max > 0:
            if not self._waits:
                self._pulse.owed(self._now)
            self._sending = True
            cap = self._caps[self._endpoint]
            self._actions.append(SendRun(next_fsn, frames_max, RUN_NBYTES_MAX, cap))

    def _room(self, next_fsn: int) -> int:
        """How many frames the window lets out; in the middle of a group as many again as it has, up to its commit."""
        room = self._window.room(self._answered, next_fsn)
        if room <= 0:
            room = next_fsn - self._groups.of(next_fsn)[0]
        if room > 0:
            self._window.moves_on()
        else:
            self._window.held_up(self._now)
        return room

    @property
    def _holding(self) -> bool:
        """Whether a frame is held back, and what is behind it."""
        return self._acked + 1 < self._held

    def _run_sent(self, last_fsn: int) -> None:
        self._sending = False
        self._sent_up_to(last_fsn)
        self._pump()

    def _sent_up_to(self, fsn: int) -> None:
        self._wire.sent_fsn = max(self._wire.sent_fsn, fsn)
        self._pulse.went_out(self._now)
        if self._pending_ok is not None:
            pending, self._pending_ok = self._pending_ok, None
            self._ok(pending)

    def _ok(self, ok: Ok) -> None:
        fsn, sent = self._wire.fsn_of(ok.sequence), self._wire.sent_fsn
        if fsn > sent and self._sending:  # it may have overtaken the end of its own send: looked at again then
            self._pending_ok = joined(self._pending_ok, ok)
        elif fsn > sent:
            self._warn_clamped(f"an OK for message {ok.sequence}", fsn)
        fsn = self._groups.committed(min(fsn, sent))
        if self._durable is None:
            self._settle(fsn)
        else:
            self._committed(self._durable, fsn, ok.entries)
        if self._window.opens_millis is not None and self.state is State.CONNECTED:
            self._pump()

    def _committed(self, durable: DurableAcks, fsn: int, entries: Entries) -> None:
        """An OK while only durable acks settle."""
        if not self._asks:
            self._pulse.went_out(self._now)  # from now on there is something to ask for
        self._answered = max(self._answered, fsn)
        if fsn > self.ok_fsn:
            self.ok_fsn = fsn
            self._poison.progressed()  # no connection has come so far before
            self._pulse.progressed()
            self._actions.append(Committed(fsn))
        try:
            durable.ok(fsn, entries)
        except TooManyTables as error:
            self._strike(f"an answer cannot be taken: {error}", None)
            return
        self._settle(durable.fsn)

    def _durable_ack(self, entries: Entries) -> None:
        """Ignored when nobody asked for it (behaviour.md 4.4)."""
        durable = self._durable
        if durable is None:
            return
        self.durable_acks += 1
        self.durable_txns.rise(entries)
        try:
            durable.durable(entries)
        except TooManyTables as error:
            self._strike(f"an answer cannot be taken: {error}", None)
            return
        self.durable_advances += durable.fsn > self._acked
        self._settle(durable.fsn)

    def _settle(self, fsn: int) -> None:
        if fsn <= self._acked:
            return
        self._progressed = True
        held = self._holding
        self._settled(fsn)
        self._leave_too_small()
        if held and self.state is State.CONNECTED:
            self._pump()

    def _settled(self, fsn: int) -> None:
        """The head is another frame now."""
        self._acked = fsn
        self._answered = max(self._answered, self._acked)
        self.ok_fsn = max(self.ok_fsn, self._acked)
        self._poison.progressed()
        self._pulse.progressed()
        self._cap_gap.progressed()
        self._budget.progressed(self._now, owed=self._owed)
        self._actions.append(Settle(fsn))

    def _warn_clamped(self, what: str, fsn: int) -> None:
        sent = self._wire.sent_fsn
        self._warn("clamp", f"{self._name} sent {what} (FSN {fsn}), beyond the last one sent; taken as FSN {sent}")

    # -- rejections ----------------------------------------------------------------------------
    def _rejected(self, rejection: ErrorFrame) -> None:
        fsn = self._wire.fsn_of(rejection.sequence)
        if not self._sent_anything or fsn < self._wire.fsn_at_zero:  # of nothing, or of a catch-up message
            self._refused(self._refusal_of(rejection, *self._unsettled))
            return
        bound = self._wire.sent_fsn
        if self._sending:  # any frame of the run under way may be there already
            bound = min(bound + RUN_FRAMES_MAX, self._log.published_fsn)
        answered = self._answered
        if self._pending_ok is not None:
            answered = max(answered, self._wire.fsn_of(self._pending_ok.sequence))
        named, (first, commit) = fsn, self._groups.of(fsn)
        if fsn > bound:
            self._warn_clamped(f"a rejection of message {rejection.sequence}", fsn)
            fsn = bound
        elif first > answered + 1:
            category = policy.category_of(rejection.status)
            self._fail(
                verdicts.skipped(self._name, category, rejection, self._answered + 1, fsn, stored=self._options.stored)
            )
            return
        # Nothing but the very frame that was named may be dropped, with an OK for all before it; no part of a group.
        exact = named == fsn == self._answered + 1 and fsn <= self._wire.sent_fsn and first == commit
        tables = self._tables_of(fsn) if fsn > self._acked else ()
        refusal = self._refusal_of(rejection, fsn, fsn, tables, droppable=exact and self._options.can_drop)
        if fsn <= self._acked:
            self._actions.append(Report(refusal.event(refusal.policy)))
        else:
            self._refused(refusal)

    def _refusal_of(
        self, rejection: ErrorFrame, first: int, last: int, tables: tuple[str, ...] = (), *, droppable: bool = False
    ) -> Refusal:
        return Refusal.of(rejection, self._options.policies, first, last, tables, droppable=droppable)

    def _refused(self, refusal: Refusal) -> None:
        """Does what the policy says, or asks the resolver first."""
        if self._options.decide_millis is None or not refusal.choices:
            self._apply(refusal, refusal.policy)
            return
        self._leave(self._refusal_text(refusal))
        self.state = State.DECIDING
        self._refusal = refusal
        self._questions += 1
        self._actions.append(Decide(self._questions, refusal.event(refusal.policy), refusal.choices))
        self._actions.append(SetTimer(self._now + self._options.decide_millis))

    def _decided(self, chosen: str | None) -> None:
        refusal = self._taken_refusal()
        self._apply(refusal, chosen if chosen in refusal.choices else refusal.policy)

    def _taken_refusal(self) -> Refusal:
        refusal, self._refusal = self._refusal, None
        assert refusal is not None
        return refusal

    def _refusal_text(self, refusal: Refusal) -> str:
        frames = verdicts.frames(refusal.first_fsn, refusal.last_fsn, refusal.tables)
        return f"{frames} refused: {verdicts.refusal(refusal.category, refusal.rejection)}"

    def _apply(self, refusal: Refusal, chosen: str) -> None:
        """What the policy says."""
        rejection, text = refusal.rejection, self._refusal_text(refusal)
        if chosen == policy.TERMINAL:
            frames = refusal.first_fsn, refusal.last_fsn, refusal.tables
            self._fail(verdicts.rejected(self._name, refusal.category, rejection, *frames, stored=self._options.stored))
            return
        if chosen == policy.DROP and refusal.first_fsn > self._acked + 1:
            self._held = refusal.first_fsn
            self._reconnect(f"{text}; it is dropped when all before it is durable", HostState.HEALTHY, ours=True)
            return
        if chosen == policy.DROP:
            self._leave(text)
            self.state = State.SAVING
            self._refusal = refusal
            self._actions.append(SaveLetter(refusal.first_fsn, refusal.event(chosen)))
            return
        self._actions.append(Report(refusal.event(chosen)))
        state = HostState.TOPOLOGY_REJECT if chosen == policy.RETRIABLE_OTHER else HostState.TRANSPORT_ERROR
        if rejection.status == Status.NOT_WRITABLE:
            again = 0 if self._worthwhile else self._not_writable
            self._reconnect(text, state, paced=again)
            self._not_writable = again + 1
        else:
            self._strike(text, rejection, state, refusal.first_fsn)

    def _dropped(self) -> None:
        """The frame is a dead letter: that is told, then it is settled, so that who has waited for it finds the event.

        The log goes on behind it, on a new connection.  No progress in the sense of the pauses: a server that refuses
        everything must not be asked at full speed.
        """
        refusal = self._taken_refusal()
        self._actions.append(Report(refusal.event(policy.DROP)))
        self._settled(refusal.first_fsn)
        self._reconnect(f"{self._refusal_text(refusal)}, dropped", HostState.HEALTHY, ours=True)

    def _not_saved(self, why: str, full: bool) -> None:
        refusal = self._taken_refusal()
        frame = refusal.rejection, refusal.first_fsn, refusal.tables
        self._fail(verdicts.not_saved(self._name, refusal.category, *frame, why, full))

    def _peer_closed(self, code: int | None, reason: str) -> None:
        text = "the server closed" + (" without a code" if code is None else f" with code {code}")
        if said := printable(reason):
            text += f": {said}"
        if code in _ORDERLY:
            self._reconnect(text)
        else:
            self._strike(text, None)

    def _strike(
        self,
        why: str,
        rejection: ErrorFrame | None,
        state: HostState = HostState.TRANSPORT_ERROR,
        refused_fsn: int | None = None,
    ) -> None:
        """Drops the connection; counted against the frame at the head, or its group, when it can be its fault."""
        head = self._answered + 1
        if not self._sent_anything or head > self._log.published_fsn:
            self._reconnect(why, state)
        elif self._poison.strike(self._now):
            ours = refused_fsn is not None and self._groups.of(refused_fsn)[0] == head
            named = refused_fsn if ours and refused_fsn is not None else head
            self._fail(
                verdicts.poisoned(self._name, named, self._poison.strikes, why, rejection, stored=self._options.stored)
            )
        else:
            self._reconnect(why, state, paced=self._poison.strikes)

    # -- is anybody there ----------------------------------------------------------------------
    @property
    def _waits(self) -> bool:
        """Whether frames of this connection wait for their end."""
        return self._sending or self._wire.sent_fsn > self._acked

    @property
    def _asks(self) -> bool:
        """Whether the server owes durable acks that it will give only when asked."""
        return self._answered > self._acked and not self._sending

    def _beat(self, heard_millis: int) -> None:
        if self._window.open(self._now):
            self._pump()
        what = self._pulse.beat(self._now, waits=self._waits, asks=self._asks, heard_millis=heard_millis)
        if what == "ping":
            self._actions.append(Ping())
        elif what == "lost":
            silent = self._pulse.silent_millis(self._now, heard_millis)
            self._reconnect(f"nothing came for {silent} ms, no answer to a PING either, while frames wait for one")

    # -- a frame above the cap -----------------------------------------------------------------
    def _leave_too_small(self) -> None:
        """Goes to another endpoint as soon as the frame that does not fit here, or its group, is the oldest one."""
        frame = self._too_large
        if frame is None or self._groups.of(frame.fsn)[0] > self._acked + 1:
            return
        text = f"FSN {frame.fsn} takes {frame.nbytes} bytes, {self._name} at most {self._caps[self._endpoint]}"
        if not self._endpoint_is_too_small(text, frame.fsn):
            self._reconnect(text, HostState.TOPOLOGY_REJECT, ours=True)

    def _endpoint_is_too_small(self, what: str, fsn: int) -> bool:
        """Notes it; True when no endpoint is left and the sender ended, because of this frame."""
        if self._cap_gap.found(self._endpoint, self._now):
            self._warn("cap", f"{what}: not sent there; another endpoint is looked for and the data is kept")
        if not self._cap_gap.proven(self._now):
            return False
        caps = ", ".join(
            f"{name} {self._caps.get(index) or 'unknown'}" for index, name in enumerate(self._options.endpoints)
        )
        self._fail(verdicts.too_large(what, caps, fsn, stored=self._options.stored))
        return True

    # -- the end of a connection, or of the sender ---------------------------------------------
    def _reconnect(
        self, why: str, state: HostState = HostState.TRANSPORT_ERROR, *, paced: int | None = None, ours: bool = False
    ) -> None:
        """The connection is gone, or has to go; no pause behind one that was worth it, else the backoff's.

        ``paced``: the pause of so many strikes or refusals in a row instead, 0 = none.  ``ours``: we leave a
        server that has done its part, so any progress is worth it.
        """
        owed_nothing = self._acked >= self._log.published_fsn
        worthwhile = self._progressed if ours else self._worthwhile
        if worthwhile or (owed_nothing and self._stood_long):
            self._backoff.reset()
            self._not_writable = 0
        if paced is None:
            pause_millis = 0 if worthwhile else self._backoff.next_millis()
        else:
            pause_millis = self._backoff.paced_millis(paced) if paced else 0
        in_flight = self._sending or self._wire.sent_fsn > self._answered
        drained = self._answered >= self._log.published_fsn
        self._window.end(self._acked, self._answered, in_flight=in_flight, drained=drained)
        self._leave(why)
        self._look_for_another(why, state, pause_millis)

    @property
    def _worthwhile(self) -> bool:
        """Whether this connection has brought so much that the next one need not wait (ours.md 29a)."""
        return self._progressed and (self._stood_long or self._window.grew(self._acked))

    @property
    def _stood_long(self) -> bool:
        """Whether connections like this one are few anyway."""
        return self._now - self._connected_at >= 2 * self._options.backoff_max_millis

    def _look_for_another(self, why: str, state: HostState, pause_millis: int) -> None:
        self._hosts.lost(self._endpoint, state)
        self._rounds.lost(self._endpoint, why, goes_on=self._hosts.next() is not None)  # else `_resume` begins one
        self.outage_since_millis = self._now
        self._budget.runs(self._now)
        if pause_millis:
            self._wait(pause_millis)
        else:
            self._resume()

    def _renew(self) -> None:
        """Another connection to the same endpoint, at once: this one's dictionary is not the log's any more.

        Nothing went wrong, so nothing is counted or warned of.
        """
        why = "the symbol dictionary begins anew"
        self._actions.append(Disconnect(why))
        self._report_connection("disconnected", self._endpoint, why)
        self.state = State.WAITING
        self._hosts.new_round()  # else the next one would be tried before this one
        self._look_for_another(why, HostState.HEALTHY, 0)

    def _leave(self, why: str) -> None:
        if self.state is State.CONNECTED:
            self._actions.append(Disconnect(why))
            self._report_connection("disconnected", self._endpoint, why)
            self._warn("lost", f"lost {self._name}: {why}")

    def _fail(self, error: SpoolqError) -> None:
        """Latches first, then tells, then leaves the connection (behaviour.md 6.3)."""
        self._actions.append(Latch(error))
        self._actions.append(Report(verdicts.event_of(error, *self._unsettled)))
        self._leave(str(error))
        self.state = State.FAILED

    @property
    def _name(self) -> str:
        return self._options.endpoints[self._endpoint]

    @property
    def _unsettled(self) -> tuple[int, int]:
        """First and last frame not settled; the next one when there is none."""
        return self._acked + 1, max(self._log.published_fsn, self._acked + 1)

    @property
    def _owed(self) -> bool:
        """Whether frames wait for their acknowledgement."""
        return self._acked < self._log.published_fsn

    @property
    def _sent_anything(self) -> bool:
        """Whether an answer on this connection can mean something."""
        return self._sending or self._wire.catch_up > 0 or self._wire.sent_fsn >= self._wire.fsn_at_zero

    def _warn(self, topic: str, text: str) -> None:
        self._actions.append(Warn(topic, text))

    def _report_connection(
        self, kind: str, endpoint: int | None, cause: str = "", *, previous: int | None = None
    ) -> None:
        said = self._rounds
        self._actions.append(Report(ConnectionEvent(kind, endpoint, cause, previous, said.attempt, said.number)))
