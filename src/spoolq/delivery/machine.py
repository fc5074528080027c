"""The delivery machine: which run of frames goes out next, what an answer means, when to try again.

No sockets, no clock, no threads: `Delivery.handle(event, now_millis)` gives the actions that runtime/
carries out, in order.  The same events and the same random generator give the same actions.

| state      | means                                   | leaves by                                     |
|------------|-----------------------------------------|-----------------------------------------------|
| idle       | not begun                               | Begin -> connecting                           |
| connecting | a `Connect` is under way                | Connected -> connected; else connecting, waiting |
| connected  | frames go out, answers come in          | a loss or a rejection -> waiting or connecting |
| waiting    | a pause before the next round           | TimerDue -> connecting                        |
| failed     | a terminal error was latched            | -                                             |

A running sender never gives up by time (ours.md 25); only a blocking first connect has a budget.
After a lost connection the next attempt is immediate only when that connection brought ack progress
(ours.md 29a); otherwise the backoff applies, so that a server which accepts and drops sees a falling
rate.

The log is told to settle only what was handed to the socket whole.  An answer that overtakes the
end of its own send waits for `RunSent`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from random import Random
from typing import Final, Protocol

from spoolq.delivery import events, policy
from spoolq.delivery.acks import WireMap
from spoolq.delivery.actions import (
    Action,
    Connect,
    ConnectionEvent,
    Disconnect,
    Latch,
    Report,
    SendRun,
    ServerErrorEvent,
    SetTimer,
    Settle,
    Warn,
)
from spoolq.delivery.backoff import Backoff
from spoolq.delivery.events import Event, FailureKind
from spoolq.delivery.hosts import Hosts, HostState
from spoolq.delivery.poison import PoisonDetector
from spoolq.errors import AuthError, ConnectError, RoleMismatchError, ServerRejection, SpoolqError
from spoolq.qwp.layout import Status
from spoolq.qwp.responses import ErrorFrame, Ok

RUN_FRAMES_MAX: Final = 4_096
RUN_NBYTES_MAX: Final = 1 << 20
_ORDERLY: Final = (1000, 1001)
_PACING_EXPONENT_MAX: Final = 6


class FrameLog(Protocol):
    """What the machine has to know of the log; `spool.Store` has it."""

    @property
    def published_fsn(self) -> int:
        """Newest frame; -1 when none."""

    @property
    def acked_fsn(self) -> int:
        """Newest settled frame; -1 when none."""


@dataclass(frozen=True, slots=True)
class DeliveryOptions:
    """Settings of the machine; ``endpoints`` are names for texts, in order of preference."""

    endpoints: tuple[str, ...]
    backoff_initial_millis: int = 100
    backoff_max_millis: int = 5_000
    max_frame_rejections: int = 4
    poison_window_millis: int = 5_000
    policies: Mapping[str, str] = field(default_factory=dict)


class State(Enum):
    """See the table in the module's text."""

    IDLE = "idle"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    WAITING = "waiting"
    FAILED = "failed"


class Delivery:
    """The machine of one sender."""

    def __init__(self, options: DeliveryOptions, log: FrameLog, rng: Random) -> None:
        self._options = options
        self._log = log
        self._rng = rng
        self._hosts = Hosts(len(options.endpoints))
        self._backoff = Backoff(options.backoff_initial_millis, options.backoff_max_millis, rng)
        self._poison = PoisonDetector(options.max_frame_rejections, options.poison_window_millis)
        self._actions: list[Action] = []
        self._now = 0
        self._endpoint = 0
        self._bound: int | None = None
        self._wire: WireMap | None = None
        self._sending = False
        self._pending_ack: int | None = None
        self._progressed = False
        self._acked = log.acked_fsn
        self._deadline: int | None = None
        self._one_round = False
        self._round: list[tuple[int, events.ConnectFailed]] = []
        self.state = State.IDLE
        self.was_ever_connected = False
        self.outage_since_millis: int | None = None
        self.attempts = 0
        self.reconnects_succeeded = 0

    @property
    def mirror_needed(self) -> bool:
        """Whether the next connection has to begin with a catch-up: frames went out on an earlier one."""
        return self.was_ever_connected

    def handle(self, event: Event, now_millis: int) -> list[Action]:
        """Takes one event; the actions it leads to, in order."""
        self._now = now_millis
        self._actions = []
        match event:
            case events.Begin():
                self._begin(event)
            case events.Connected():
                self._connected(event)
            case events.ConnectFailed():
                self._connect_failed(event)
            case events.TimerDue():
                if self.state is State.WAITING:
                    self._new_round()
            case _ if self.state is State.CONNECTED:
                self._on_connection(event)
        return self._actions

    # -- connecting ----------------------------------------------------------------------------
    def _begin(self, event: events.Begin) -> None:
        if event.budget_millis is not None:
            self._deadline = self._now + event.budget_millis
            self._one_round = event.budget_millis == 0
        self.outage_since_millis = self._now
        self._new_round()

    def _new_round(self) -> None:
        self._hosts.new_round()
        self._round = []
        self._try_next()

    def _try_next(self) -> None:
        endpoint = self._hosts.next()
        if endpoint is None:
            self._round_used_up()
            return
        self.state = State.CONNECTING
        self._endpoint = endpoint
        self.attempts += 1
        self._actions.append(Connect(endpoint))

    def _connected(self, event: events.Connected) -> None:
        index, previous = self._endpoint, self._bound
        self._hosts.succeeded(index)
        self.state = State.CONNECTED
        self._bound = index
        self._wire = WireMap(self._acked + 1, event.catch_up)
        self._sending = False
        self._pending_ack = None
        self._progressed = False
        self._deadline = None
        self.outage_since_millis = None
        kind = "connected" if previous is None else "reconnected" if previous == index else "failed_over"
        self.reconnects_succeeded += previous is not None
        self.was_ever_connected = True
        self._report(ConnectionEvent(kind, index, previous_endpoint_index=previous, attempt=self.attempts))
        self._pump()

    def _connect_failed(self, event: events.ConnectFailed) -> None:
        name = self._options.endpoints[self._endpoint]
        kind = "auth_failed" if event.kind is FailureKind.AUTH else "endpoint_attempt_failed"
        self._report(ConnectionEvent(kind, self._endpoint, event.text, attempt=self.attempts))
        if event.kind is FailureKind.AUTH:
            text = f"ws-upgrade-failed: {name} refused the credentials: {event.text}; no other endpoint is tried"
            self._fail(AuthError(text, status=event.status or 0))
            return
        state = HostState.TRANSPORT_ERROR
        if event.kind is FailureKind.ROLE:
            catching_up = event.role.upper() == "PRIMARY_CATCHUP"
            state = HostState.TRANSIENT_REJECT if catching_up else HostState.TOPOLOGY_REJECT
        self._hosts.failed(self._endpoint, state)
        self._round.append((self._endpoint, event))
        self._try_next()

    def _round_used_up(self) -> None:
        """Every endpoint was tried once: pause, or give up when the budget of the first connect is gone."""
        outcomes = "; ".join(f"{self._options.endpoints[index]}: {event.text}" for index, event in self._round)
        left = None if self._deadline is None else self._deadline - self._now
        if left is not None and (self._one_round or left <= 0):
            self._fail(self._never_connected(outcomes))
            return
        self._report(ConnectionEvent("all_endpoints_unreachable", None, outcomes, attempt=self.attempts))
        self._actions.append(Warn("reconnect", f"no endpoint can be reached, trying again: {outcomes}"))
        hint = max((event.retry_after_millis or 0 for _, event in self._round), default=0)
        pause = max(self._backoff.next_millis(), min(hint, self._options.backoff_max_millis))
        self._wait(pause if left is None else min(pause, left))

    def _never_connected(self, outcomes: str) -> ConnectError:
        tag = None if self._one_round else "never-connected-budget-exhausted"
        text = f"no endpoint gave a connection: {outcomes}; check address, port and firewall"
        if tag is not None:
            text = f"{tag}: {text}"
        if any(event.kind is FailureKind.ROLE for _, event in self._round):
            return RoleMismatchError(f"role mismatch, no endpoint takes writes now: {text}", tag=tag)
        return ConnectError(text, tag=tag)

    def _wait(self, pause_millis: int) -> None:
        self.state = State.WAITING
        self._actions.append(SetTimer(self._now + pause_millis))

    # -- on a connection -----------------------------------------------------------------------
    def _on_connection(self, event: Event) -> None:
        match event:
            case events.Published():
                self._pump()
            case events.RunSent(last_fsn):
                self._run_sent(last_fsn)
            case events.Answered(Ok(sequence)):
                self._ok(sequence)
            case events.Answered(ErrorFrame() as rejection):
                self._rejected(rejection)
            case events.Undecodable(text):
                self._strike_and_reconnect(f"an answer could not be decoded: {text}", None)
            case events.ProtocolBreach(text):
                self._protocol_violation(text)
            case events.PeerClosed(code, reason):
                self._peer_closed(code, reason)
            case events.Lost(text):
                self._reconnect(text)

    def _pump(self) -> None:
        assert self._wire is not None
        if not self._sending and self._wire.sent_fsn < self._log.published_fsn:
            self._sending = True
            self._actions.append(SendRun(self._wire.sent_fsn + 1, RUN_FRAMES_MAX, RUN_NBYTES_MAX))

    def _run_sent(self, last_fsn: int) -> None:
        assert self._wire is not None
        self._wire.sent_fsn = last_fsn
        self._sending = False
        if self._pending_ack is not None:
            pending, self._pending_ack = self._pending_ack, None
            self._ok(pending)
        self._pump()

    def _ok(self, sequence: int) -> None:
        wire = self._wire
        assert wire is not None
        fsn, clamped = wire.clamped(sequence)
        if clamped:
            if self._sending:  # it may have overtaken the end of its own send: looked at again then
                self._pending_ack = max(sequence, self._pending_ack or 0)
            else:
                self._actions.append(
                    Warn("clamp", f"an OK for message {sequence} is beyond the last one sent; taken as FSN {fsn}")
                )
        if fsn > self._acked:
            self._acked = fsn
            self._progressed = True
            self._poison.progressed()
            self._backoff.reset()
            self._actions.append(Settle(fsn))

    def _rejected(self, rejection: ErrorFrame) -> None:
        wire = self._wire
        assert wire is not None
        category = policy.category_of(rejection.status)
        chosen = policy.policy_of(category, self._options.policies)
        first, last = self._range_of(rejection.sequence)
        if last <= self._acked:
            self._report_rejection(category, chosen, rejection, first, last)
            return
        text = f"{category.replace('_', ' ')} (status 0x{rejection.status:02x}): {rejection.text}"
        self._report_rejection(category, chosen, rejection, first, last)
        if chosen == policy.TERMINAL:
            where = f"the server refused FSN {first}" + (f" to {last}" if last != first else "")
            self._fail(
                ServerRejection(
                    f"{where}, {text}; the frame is kept and would come first again: fix the table, then open anew",
                    category=category,
                    status=rejection.status,
                    server_text=rejection.text,
                    message_sequence=rejection.sequence,
                    from_fsn=first,
                    to_fsn=last,
                )
            )
        elif rejection.status == Status.NOT_WRITABLE:
            self._reconnect(text, HostState.TOPOLOGY_REJECT)
        else:
            self._strike_and_reconnect(f"FSN {first} was refused: {text}", rejection.status)

    def _range_of(self, sequence: int) -> tuple[int, int]:
        """The frames a rejection concerns (behaviour.md 4.3)."""
        wire = self._wire
        assert wire is not None
        if not wire.sent_anything or wire.fsn_of(sequence) < wire.fsn_at_zero:
            return self._acked + 1, max(self._log.published_fsn, self._acked + 1)
        fsn, _ = wire.clamped(sequence)
        return fsn, fsn

    def _peer_closed(self, code: int | None, reason: str) -> None:
        text = f"the server closed with code {code}" + (f": {reason}" if reason else "")
        if code in _ORDERLY or self._wire is None or not self._wire.sent_anything:
            self._reconnect(text)
        else:
            self._strike_and_reconnect(text, None)

    def _protocol_violation(self, text: str) -> None:
        self._fail(
            ServerRejection(
                f"{self._options.endpoints[self._endpoint]} broke the WebSocket protocol: {text}",
                category="protocol_violation",
                from_fsn=self._acked + 1,
                to_fsn=self._log.published_fsn,
            )
        )

    def _strike_and_reconnect(self, text: str, status: int | None) -> None:
        if self._poison.strike(self._now):
            head, strikes = self._acked + 1, self._poison.strikes
            self._fail(
                ServerRejection(
                    f"FSN {head} was refused {strikes} times without ack progress; last: {text}",
                    category="protocol_violation",
                    status=status,
                    from_fsn=head,
                    to_fsn=head,
                )
            )
            return
        exponent = min(self._poison.strikes - 1, _PACING_EXPONENT_MAX)
        pause = min(self._options.backoff_initial_millis << exponent, self._options.backoff_max_millis)
        self._reconnect(text, pause_millis=int(pause * (1 + self._rng.random())))

    def _reconnect(
        self, why: str, state: HostState = HostState.TRANSPORT_ERROR, pause_millis: int | None = None
    ) -> None:
        """The connection is gone, or has to go."""
        self._leave(why)
        self._hosts.lost(self._endpoint, state)
        self.outage_since_millis = self._now
        if pause_millis is not None:
            self._wait(pause_millis)
        elif self._progressed:
            self._new_round()
        else:
            self._wait(self._backoff.next_millis())

    def _leave(self, why: str) -> None:
        if self.state is State.CONNECTED:
            self._actions.append(Disconnect(why))
            self._report(ConnectionEvent("disconnected", self._endpoint, why))
            self._actions.append(Warn("lost", f"lost {self._options.endpoints[self._endpoint]}: {why}"))
        self._wire = None

    def _fail(self, error: SpoolqError) -> None:
        """Latches first, then leaves the connection (behaviour.md 6.3)."""
        self._actions.append(Latch(error))
        self._leave(str(error))
        self.state = State.FAILED

    def _report(self, event: ConnectionEvent) -> None:
        self._actions.append(Report(event))

    def _report_rejection(
        self, category: str, chosen: str, rejection: ErrorFrame, first_fsn: int, last_fsn: int
    ) -> None:
        self._actions.append(
            Report(
                ServerErrorEvent(
                    category, chosen, rejection.status, rejection.text, rejection.sequence, first_fsn, last_fsn
                )
            )
        )
