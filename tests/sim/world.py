"""One run: a seed's scenario, the real loop and machine in it, one sender after the other."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from spoolq.columns.symbols import SymbolTable
from spoolq.delivery import Delivery, DeliveryOptions, State, actions, events
from spoolq.errors import StorageError
from spoolq.link import ConnectFailure, Connection, ConnectOptions, Endpoint, Kind, Resolver
from spoolq.qwp.catchup import catch_up_messages
from spoolq.qwp.upgrade import Accepted
from spoolq.runtime.io_loop import IoLoop
from spoolq.spool import MemoryStore
from tests.sim.judge import Judge, Wrong
from tests.sim.left import Left
from tests.sim.names import Names, Place, Unresolvable
from tests.sim.network import TlsWire, Wire
from tests.sim.producer import Producer
from tests.sim.scenario import Scenario
from tests.sim.scheduler import Scheduler, SimClock
from tests.sim.servers import Plan, Session, Wal, early

_PORT: Final = 9_000
_PATIENCE_MILLIS: Final = 200_000  # from the healing on; a cap gap and its pauses fit
_PATIENCE_OF_BUSY: Final = 30  # times what a server works on a first frame: each connection is waited for longer
_FRAME_NBYTES: Final = 1 << 20
_POLICIES: Final = ("terminal", *("retriable", "retriable_other") * 3, *("drop",) * 4)
_KINDS: Final = {
    "tcp": Kind.TCP,
    "timeout": Kind.TIMEOUT,
    "dns": Kind.DNS,
    "tls": Kind.TLS,
    "handshake": Kind.HANDSHAKE,
    "durable": Kind.DURABLE,
}


class WatchedDelivery(Delivery):
    """The machine, with a note of what it met; no event may lead to many actions."""

    def watch(self, judge: Judge, pairs: set[tuple[str, str]], actions_max: int) -> None:
        """Before the first event."""
        self._judge, self._pairs, self._actions_max = judge, pairs, actions_max

    def handle(self, event: events.Event, now_millis: int) -> list[actions.Action]:
        kind = type(event).__name__
        self._pairs.add((self.state.value, kind))
        if kind == "Connected":
            self._judge.bound()
        elif isinstance(event, events.Decided):
            self._judge.answered(event.number, event.policy)
        elif kind == "TimerDue":
            self._judge.gives_up_asking()
        found = super().handle(event, now_millis)
        if len(found) > self._actions_max:
            raise Wrong(f"{kind} is answered by {len(found)} actions")
        return found


class WatchedLog:
    """The store as the loop and the machine see it: the judge sees what is settled; other threads come between."""

    def __init__(
        self, store: MemoryStore, judge: Judge, producer: Producer, scheduler: Scheduler, scenario: Scenario, left: Left
    ) -> None:
        self.grouped_end_fsn = left.grouped_end_fsn
        self._store = store
        self._judge = judge
        self._producer = producer
        self._scheduler = scheduler
        self._preempt = scenario.preempt
        self._watermark_behind = scenario.watermark_behind
        self._random = scenario.rng.random
        self._reads_left = scenario.breaks_at

    @property
    def published_fsn(self) -> int:
        found = self._store.published_fsn
        if self._preempt and (chance := self._random()) < self._preempt:
            if chance < self._preempt * 0.7:
                self._producer.come_between()
            else:
                self._scheduler.step_if_due()
            if chance < self._preempt * 0.2:  # it came before the look, not behind it
                found = self._store.published_fsn
        return found

    @property
    def acked_fsn(self) -> int:
        return self._store.acked_fsn

    def run(self, first_fsn: int, max_frames: int, max_nbytes: int) -> Any:
        self._reads_left -= 1
        if self._reads_left == -1:
            self._judge.storage_breaks()
            raise StorageError("the segment cannot be read")
        return self._store.run(first_fsn, max_frames, max_nbytes)

    def acknowledge(self, fsn: int) -> bool:
        self._judge.settles(fsn)
        freed = self._store.acknowledge(fsn)
        self.check(fsn + 1, fsn + 1)
        return freed

    def restart(self) -> None:
        """What a killed sender leaves: its watermark may be an older one, of frames that are still there."""
        store, dictionaries = self._store, self._judge.dictionaries
        floor = max(store._segments[0].base - 1, bisect_left(dictionaries.of_frame, dictionaries.life) - 1)
        older = [fsn for fsn in (-1, *self._judge.settled) if floor <= fsn < store.acked_fsn]
        if older and self._random() < self._watermark_behind:
            store.acked_fsn = older[int(self._random() * len(older))]
            self._judge.begins_behind(store.acked_fsn)

    def check(self, first: int, last: int) -> None:
        """These frames, where published, are still there, byte for byte."""
        for fsn in range(first, min(last, self._store.published_fsn) + 1):
            run = self._store.run(fsn, 1, _FRAME_NBYTES)
            if run is None:
                raise Wrong(f"FSN {fsn} is not settled and not in the log any more")
            same = run.payloads()[0] == self._judge.payloads[fsn]
            run.release()
            if not same:
                raise Wrong(f"FSN {fsn} is not what it was in the log")


def _nothing(*_: object) -> None:
    """A callback that nobody needs here."""


@dataclass
class Outcome:
    """What a run came to."""

    seed: int
    wrong: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    pairs: set[tuple[str, str]] = field(default_factory=set)
    millis: int = 0
    trace: list[str] | None = None


def run_seed(seed: int, *, trace: bool = False) -> Outcome:
    """One run.  Nothing is raised: what is wrong stands in the outcome."""
    outcome = Outcome(seed, trace=[] if trace else None)
    logger = logging.getLogger("spoolq.delivery")
    before, logger.disabled = logger.disabled, True
    world = World(seed, outcome)
    try:
        world.run()
    except Exception as error:
        outcome.wrong = f"{type(error).__name__}: {error}" if not isinstance(error, Wrong) else str(error)
        if trace and not isinstance(error, Wrong):
            raise
    finally:
        logger.disabled = before
        world.close()
        outcome.millis = world.scheduler.now_millis
    return outcome


class World:
    """See the module's text."""

    def __init__(self, seed: int, outcome: Outcome) -> None:
        rng = Random(seed)
        self._outcome = outcome
        self._scenario = scenario = Scenario(rng)
        self._rng = rng
        self.scheduler = scheduler = Scheduler(rng)
        self._symbols = SymbolTable()
        self._store = MemoryStore(scenario.segment_nbytes, scenario.segment_nbytes * scenario.segments)
        self._left = Left()
        self._judge = judge = Judge(scenario, self._symbols, outcome.counts, self._left)
        judge.trace = outcome.trace
        self._producer = Producer(scenario, scheduler, self._symbols, self._store, judge, lambda: self.loop)
        self._clock = SimClock(scheduler, judge, scenario.oversleep_millis, self._idle, self._sleeps)
        self._endpoints = [Endpoint("host", _PORT + index) for index in range(scenario.endpoints)]
        self._heal_millis = scheduler.now_millis + scenario.heal_millis
        self._wires: list[Wire] = []
        self._wals = [Wal(judge, scenario.durable_millis) for _ in self._endpoints]
        self._done_millis: int | None = None
        self._asleep_for_good = False
        self.loop: IoLoop | None = None
        judge.start(self._clock.now_millis, self._store)
        self._producer.leave(self._left)
        self._log = WatchedLog(self._store, judge, self._producer, scheduler, scenario, self._left)

    # -- the run ---------------------------------------------------------------------------------
    def run(self) -> None:
        scenario, scheduler, between = self._scenario, self.scheduler, self._scenario.between
        scheduler.at(scheduler.now_millis + between(0, 30), self._producer.burst)
        scheduler.at(self._heal_millis, self._heal)
        for _ in range(scenario.blips):
            scheduler.at(scheduler.now_millis + between(0, scenario.heal_millis), self._blip)
        for _ in range(between(0, 2)):
            scheduler.at(scheduler.now_millis + between(0, 2_000), self._ping)
        for life in range(scenario.restarts + 1):
            if life:
                self._log.restart()
                self._judge.another_sender()
                self._outcome.counts["senders that took over"] += 1
            self._live(last=life == scenario.restarts)
            if self._done():
                break
        self._log.check(self._judge.acked + 1, self._store.published_fsn)
        if self._judge.error is None:
            self._everything_arrived()

    def _live(self, *, last: bool) -> None:
        """One sender, until all is settled, it is stopped, or it ends."""
        scenario, judge = self._scenario, self._judge
        machine = WatchedDelivery(self._options(), self._log, Random(self._rng.getrandbits(32)))
        machine.watch(judge, self._outcome.pairs, 8 + 2 * scenario.endpoints)
        names = Names(self.scheduler, judge, scenario, lambda: self.scheduler.now_millis >= self._heal_millis)
        self._resolver = Resolver(names.begin)
        self.loop = loop = IoLoop(
            machine,
            self._log,  # type: ignore[arg-type]
            self._clock,
            self._endpoints,
            ConnectOptions(),
            catch_up=self._catch_up,
            on_settled=_nothing,
            on_latched=lambda latch: judge.latches(latch.error),
            on_report=self._reported,
            on_cap=_nothing,
            save_letter=self._save_letter,
            ask=self._ask,
            recovered=bool(self._symbols.published_count),
            connect=self._connect,
        )
        try:
            if not last:
                self.scheduler.at(self.scheduler.now_millis + scenario.between(30, 3_000), lambda: self._stop(loop))
            loop.begin(scenario.begin_budget_millis)
            if scenario.begin_budget_millis is not None:
                loop.run_until(lambda: machine.state is State.CONNECTED or self._done())
            loop.run_until(self._done)
        finally:
            judge.stopping = True
            loop.close()
            self.loop = None
        left = bool(loop._pending)  # a stop, or the end of the run, may overtake the error
        if judge.error is None and machine.state is State.FAILED and not left:
            raise Wrong("the machine failed without a terminal error")

    def _options(self) -> DeliveryOptions:
        scenario = self._scenario
        return DeliveryOptions(
            endpoints=tuple(map(str, self._endpoints)),
            backoff_initial_millis=scenario.backoff_initial_millis,
            backoff_max_millis=scenario.backoff_max_millis,
            max_frame_rejections=scenario.max_frame_rejections,
            poison_window_millis=scenario.poison_window_millis,
            policies=scenario.policies,
            cap_gap_window_millis=scenario.cap_gap_window_millis,
            outage_budget_millis=scenario.outage_budget_millis,
            renewable_token=scenario.renewable_token,
            can_drop=scenario.letters,
            durable_ack=scenario.durable,
            durable_keepalive_millis=scenario.keepalive_millis,
            half_open_millis=scenario.half_open_millis,
            decide_millis=scenario.decide_millis,
        )

    def close(self) -> None:
        """Frees what the run has left."""
        if self.loop is not None:
            self.loop.close()
        self._store.close()

    # -- what the loop calls -----------------------------------------------------------------------
    def _catch_up(self, cap_nbytes: int) -> Iterator[bytes]:
        messages = list(catch_up_messages(self._symbols, self._symbols.published_count, cap_nbytes))
        self._judge.catch_up(len(messages))
        return iter(messages)

    def _reported(self, report: actions.Report) -> None:
        event = report.event
        kind = event.kind if isinstance(event, actions.ConnectionEvent) else event.category
        self._outcome.counts[f"event: {kind}"] += 1

    def _save_letter(self, event: actions.ServerErrorEvent) -> None:
        fails = self._rng.random() < self._scenario.letters_failing
        self._judge.saves_letter(event.from_fsn, event.to_fsn, fails)
        if fails:
            raise StorageError("the store of dead letters is full")

    def _ask(self, question: actions.Decide) -> None:
        """The resolver answers at its time, perhaps at the last moment, behind another question, or never.

        Some of its answers cannot be done.
        """
        self._judge.asks(question)
        rng, loop = self._rng, self.loop
        if rng.random() < self._scenario.unanswered * 0.5:
            return
        answer = events.Decided(question.number, rng.choice((None, "nonsense", *_POLICIES)))
        limit = self._scenario.decide_millis or 0
        when = rng.random()
        delay = (
            int(rng.random() * limit) if when < 0.6 else limit + int(rng.random() * (12 if when < 0.8 else 8 * limit))
        )

        def post() -> None:
            if loop is not None and loop is self.loop:
                loop.post(answer)

        self.scheduler.at(self.scheduler.now_millis + delay, post)

    def _connect(
        self, endpoint: Endpoint, options: ConnectOptions, wake_fileno: int, limit_millis: int | None = None
    ) -> Connection:
        """In the place of `link.connect`: the world goes on while it takes its time."""
        scenario, scheduler, judge = self._scenario, self.scheduler, self._judge
        index = endpoint.port - _PORT
        judge.connects(index)
        loop = self.loop
        assert loop is not None
        limit_millis = self._resolve(loop, endpoint, index, options, limit_millis)
        if scheduler.now_millis < self._heal_millis and self._rng.random() < scenario.refusing:
            self._refuse(loop, endpoint, index, options, limit_millis)
        self._pass(loop, scenario.between(*scenario.latency))
        healed = scheduler.now_millis >= self._heal_millis
        kind = TlsWire if scenario.encrypted else Wire
        wire = kind(scheduler, judge, index, latency=scenario.latency, room_nbytes=scenario.room_nbytes)
        plan = Plan.drawn(scenario, healed)
        wire.session = Session(scheduler, judge, scenario, wire, plan, self._wals[index])
        self._wires = [one for one in self._wires if not one.closed] + [wire]
        judge.connected(wire, plan.cap_nbytes)
        rest = early(scenario, judge, wire) if not healed and self._rng.random() < scenario.early else b""
        return Connection(wire, Accepted(1, plan.cap_nbytes, "", scenario.durable), rest)  # type: ignore[arg-type]

    def _resolve(
        self, loop: IoLoop, endpoint: Endpoint, index: int, options: ConnectOptions, limit_millis: int | None
    ) -> int | None:
        """What is left of the limit when the name has an address.  Raises as `link.connect` does."""
        place: Place = (f"{endpoint.host}-{index}.test", endpoint.port)
        scheduler, begun = self.scheduler, self.scheduler.now_millis
        end = begun + (options.connect_millis if limit_millis is None else min(limit_millis, options.connect_millis))

        def wait(lookup: Any) -> None:
            while lookup.ended_millis is None and not loop._stopping:
                upcoming = scheduler.next_millis
                if upcoming is None or upcoming > end:
                    scheduler.run_until(end)
                    self._judge.refused(index, "slow name", None)
                    raise ConnectFailure(Kind.TIMEOUT, "the name resolution timed out")
                scheduler.step()
            if loop._stopping:
                raise ConnectFailure(Kind.CANCELLED, "cancelled")

        try:
            Names.check(place, self._resolver.addresses(*place, wait))
        except Unresolvable as error:
            if error.place != place:
                raise Wrong(f"{place} cannot be resolved, because {error.place} cannot") from error
            self._judge.refused(index, "no such name", None)
            raise ConnectFailure(Kind.DNS, str(error)) from None
        return None if limit_millis is None else max(1, limit_millis - (scheduler.now_millis - begun))

    def _refuse(
        self, loop: IoLoop, endpoint: Endpoint, index: int, options: ConnectOptions, limit_millis: int | None
    ) -> None:
        """Raises the refusal."""
        name = str(self._scenario.pick(self._scenario.refusals))
        took = options.connect_millis if name == "timeout" else self._scenario.between(0, 20)
        if limit_millis is not None and took > limit_millis:
            name, took = "timeout", limit_millis
        self._pass(loop, took)
        kind, status, role, hint = _KINDS.get(name, Kind.STATUS), None, "", None
        word, _, value = name.partition(" ")
        if word == "role":
            kind, status, role = Kind.ROLE, 421, value
        elif word in ("status", "auth"):
            status = int(value)
            kind = Kind.AUTH if word == "auth" else Kind.STATUS
            hint = self._rng.choice((None, 1, 2, 30)) if status == 503 else None
        hint_millis = None if hint is None else hint * 1_000
        self._judge.refused(index, name, hint_millis)
        raise ConnectFailure(kind, name, status=status, role=role, retry_after_millis=hint_millis)

    def _pass(self, loop: IoLoop, millis: int) -> None:
        self.scheduler.run_until(self.scheduler.now_millis + millis)
        if loop._stopping:
            raise ConnectFailure(Kind.CANCELLED, "cancelled")

    # -- what happens by itself --------------------------------------------------------------------
    def _heal(self) -> None:
        self._judge.say("every server is good from now on")
        for wire in self._wires:
            if not wire.session.plan.good:
                wire.break_off()

    def _blip(self) -> None:
        self._judge.say("the network is gone for a moment")
        for wire in self._wires:
            wire.break_off()

    def _ping(self) -> None:
        for wire in self._wires:
            wire.session.ping()

    def _stop(self, loop: IoLoop) -> None:
        if loop is self.loop:
            self._judge.say("the sender is stopped")
            self._judge.stopping = True
            loop.stop()

    def _done(self) -> bool:
        """Everything is settled, and stayed so for a while."""
        now = self.scheduler.now_millis
        if not (self._producer.done and self._judge.acked == self._store.published_fsn):
            if now > self._heal_millis + _PATIENCE_MILLIS + _PATIENCE_OF_BUSY * self._scenario.busy_millis:
                raise Wrong(f"{self._store.published_fsn - self._judge.acked} frames are not settled for a long time")
            return False
        if self._done_millis is None:
            self._done_millis = now
        return self._asleep_for_good or now - self._done_millis >= self._scenario.idle_millis

    def _idle(self) -> None:
        if not (self._producer.done and self._judge.acked == self._store.published_fsn):
            raise Wrong(f"it sleeps for ever, FSN {self._judge.acked} is settled of {self._store.published_fsn}")
        self._asleep_for_good = True

    def _sleeps(self, room: bool) -> None:
        if self._producer.at_rest:
            self._judge.sleeps(room)

    def _everything_arrived(self) -> None:
        judge = self._judge
        if judge.acked != len(judge.payloads) - 1 or self._store.acked_fsn != judge.acked:
            raise Wrong(f"FSN {judge.acked} is settled of {len(judge.payloads) - 1}")
        missing = [
            fsn for fsn, count in enumerate(judge.commits) if not (count or fsn in judge.letters or fsn in judge.kept)
        ]
        if missing and not judge.lied:
            raise Wrong(f"no server has FSN {missing}")
        self._outcome.counts["runs: everything arrived"] += 1
        self._outcome.counts["frames published"] += len(judge.payloads)
        self._outcome.counts["groups delivered"] += len(self._left.groups)
