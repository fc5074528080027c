"""What a server does on one connection, decided by its `Plan`, and how strictly it reads.

A server numbers the messages of a connection from 0, refused ones too, checks cap and dictionary, and
commits.  Answers are cumulative.  After an error it is latched (no answer, no effect) or, as older
ones, goes on.  The reading is the judge's: a message that a correct client cannot send is `Wrong`.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from spoolq.qwp import responses
from tests.sim import frames
from tests.sim.judge import Judge
from tests.sim.network import BINARY, Wire
from tests.sim.pacing import Wrong
from tests.sim.scenario import BREACHES, GARBAGE, Scenario
from tests.sim.view import Item

if TYPE_CHECKING:
    from tests.sim.scheduler import Scheduler

_NEVER: Final = 1 << 30
_PING, _PONG = 0x89, 0x8A
_TABLES: Final = 3


def frame(payload: bytes, first: int = BINARY) -> bytes:
    """A server's frame: not masked, shortest form."""
    if len(payload) < 126:
        return bytes((first, len(payload))) + payload
    return bytes((first, 126)) + len(payload).to_bytes(2, "big") + payload


@dataclass
class Plan:
    """How one connection goes.  ``end`` happens when message ``end_at`` has come; "none" never."""

    end: str = "none"
    end_at: int = _NEVER
    status: int = 0
    code: int = 0
    latched: bool = True
    answers_before_end: bool = True
    skips: bool = False  # the error comes without the OK of what is before it
    beyond: bool = False  # the error names a message that was never sent
    ack_each: int = 1
    ack_delay_millis: int = 0
    doubles: bool = False
    lies_at: int = _NEVER  # an OK beyond what came
    oks_deferred: bool = False  # an OK may cover what waits for its commit
    cap_nbytes: int | None = None
    good: bool = True

    @classmethod
    def drawn(cls, scenario: Scenario, healed: bool) -> Plan:
        """A good one, with its habits, or one that ends badly."""
        chance = scenario.rng.random
        plan = cls()
        if chance() < 0.5:
            plan.ack_each = 1 + int(chance() * 8)
            plan.ack_delay_millis = int(chance() * (400 if scenario.slow_answers else 15))
        plan.doubles = chance() < 0.1
        plan.oks_deferred = scenario.oks_deferred
        if healed:
            return plan
        plan.good = False
        plan.end = str(scenario.pick(scenario.ends))
        if plan.end != "none":
            plan.end_at = int(chance() * scenario.frames_before_end)
        if plan.end == "error":
            plan.status = int(scenario.pick(scenario.errors))  # type: ignore[call-overload]
            plan.latched = scenario.latched
            plan.skips = chance() < scenario.skipping
            plan.beyond = chance() < scenario.lying
        elif plan.end == "close":
            plan.code = int(scenario.pick(scenario.close_codes))  # type: ignore[call-overload]
        plan.answers_before_end = chance() < 0.6
        if chance() < scenario.lying:
            plan.lies_at = int(chance() * 6)
        if scenario.caps and chance() < 0.7:
            plan.cap_nbytes = scenario.between(40, 800)
        return plan


class Wal:
    """What one server has committed, and what of it is in the object store by now."""

    def __init__(self, judge: Judge, delay_millis: int) -> None:
        self._judge = judge
        self._delay_millis = delay_millis
        self._transactions: dict[str, int] = {}
        self._waiting: deque[tuple[int, str, int, bytes]] = deque()
        self.marks: dict[str, int] = {}

    def commit(self, payload: bytes, now_millis: int) -> tuple[str, int]:
        """The table of a frame, and the transaction that it is."""
        table = f"t{frames.trailer(payload)[0] % _TABLES}"
        transaction = self._transactions[table] = self._transactions.get(table, 0) + 1
        self._waiting.append((now_millis, table, transaction, payload))
        return table, transaction

    def advance(self, now_millis: int) -> None:
        """What is old enough has been uploaded."""
        while self._waiting and self._waiting[0][0] + self._delay_millis <= now_millis:
            _, table, transaction, payload = self._waiting.popleft()
            self.marks[table] = transaction
            self._judge.made_durable(payload)


class Session:
    """The server's side of one connection."""

    def __init__(
        self, scheduler: Scheduler, judge: Judge, scenario: Scenario, wire: Wire, plan: Plan, wal: Wal
    ) -> None:
        self._scheduler = scheduler
        self._judge = judge
        self._scenario = scenario
        self._wire = wire
        self.plan = plan
        self._wal = wal
        self._advanced: dict[str, int] = {}  # tables, since the last OK
        self._durable: dict[str, int] = {}  # marks that this client was told
        self._count = 0
        self._answered = 0
        self._committed = 0  # messages that an OK may cover
        self.open: list[bytes] = []  # deferred, without their commit: gone with the connection
        self._latched = False
        self._timer = False
        self._known = 0  # symbols
        self._busy_millis = scenario.busy_millis  # with the next message that has rows
        self._pings = 0
        self._ended = False

    # -- what comes ------------------------------------------------------------------------------
    def took(self, first: int, payload: bytes) -> None:
        """A whole message."""
        if first != BINARY:
            if first == _PONG:
                self._judge.counts["pongs"] += 1
            elif first == _PING and not self._ended:
                self._answer()
                self._tell_durable()
                self._wire.respond(frame(payload, _PONG), Item("pong"))
            return
        self._known = self._judge.dictionaries.read(payload, self._known, self.plan.cap_nbytes, self._wire.life)
        if self._busy_millis and frames.is_data(payload) and not self._ended:
            busy_millis, self._busy_millis = self._busy_millis, 0
            self._wire.reading = False
            self._judge.counts["frames that a server works on for long"] += 1
            self._scheduler.at(self._scheduler.now_millis + busy_millis, lambda: self._has_worked(payload))
        else:
            self._process(payload)

    def _has_worked(self, payload: bytes) -> None:
        """Also when nobody waits for it any more: what it did is done."""
        self._process(payload)
        self._wire.reading = self.plan.end != "stall" or not self._ended
        self._wire.read()

    def _process(self, payload: bytes) -> None:
        sequence = self._count
        self._count += 1
        if self._latched or self._ended:
            return
        plan = self.plan
        if sequence >= plan.end_at:
            self._end(sequence, payload)
            return
        self._commit(payload)
        if not self.open or plan.oks_deferred:
            self._committed = self._count
        if sequence >= plan.lies_at:
            plan.lies_at = _NEVER
            self._judge.lies(self._wire)
            self._ok(sequence + 1 + int(self._scenario.rng.random() * 5))
        elif plan.ack_each == 1 and not plan.ack_delay_millis:
            self._answer()
        elif not self._timer:
            self._timer = True
            self._scheduler.at(self._scheduler.now_millis + plan.ack_delay_millis, self._answer_later)
        elif self._committed - self._answered >= plan.ack_each and not plan.ack_delay_millis:
            self._answer()
        self._tell_durable()

    def _commit(self, payload: bytes) -> None:
        """What was deferred goes with it; a deferred one waits, unless the server has to commit early."""
        self.open.append(payload)
        if frames.is_data(payload) and frames.is_deferred(payload):
            if self._scenario.rng.random() >= self._scenario.commits_early:
                return
            self._judge.counts["early commits"] += 1
            self._committed = self._count
        for one in self.open:
            self._judge.committed(one)
            if frames.is_data(one):
                table, transaction = self._wal.commit(one, self._scheduler.now_millis)
                self._advanced[table] = transaction
        self.open.clear()

    def _tell_durable(self) -> None:
        """Durable acks are told when something came, never by themselves; unasked ones have no meaning."""
        if not self._scenario.durable and self._scenario.rng.random() < 0.9:
            return
        self._wal.advance(self._scheduler.now_millis)
        new = {table: mark for table, mark in self._wal.marks.items() if mark > self._durable.get(table, 0)}
        if new:
            self._durable |= new
            entries = tuple(new.items())
            self._wire.respond(frame(responses.build(responses.DurableAck(entries))), Item("durable", entries=entries))

    def took_part(self) -> None:
        """A part of the next message."""
        if self.plan.end == "mid" and not self._ended and self._count >= self.plan.end_at:
            self._ended = True
            self._wire.break_off()

    def ping(self) -> None:
        """A PING that has to be answered with the same payload."""
        self._pings += 1
        self._wire.respond(frame(struct.pack("<I", self._pings), 0x89), Item("ping"))

    # -- answers ---------------------------------------------------------------------------------
    def _answer_later(self) -> None:
        self._timer = False
        if not self._ended:
            self._answer()

    def _answer(self) -> None:
        if self._committed > self._answered:
            self._ok(self._committed - 1)
            if self.plan.doubles:
                self._ok(max(0, self._committed - 1 - int(self._scenario.rng.random() * 3)))
            self._answered = self._committed

    def _ok(self, sequence: int) -> None:
        entries = tuple(self._advanced.items())
        self._advanced.clear()
        data = responses.build(responses.Ok(sequence, entries))
        item = Item("ok", sequence=sequence, entries=entries)
        rng = self._scenario.rng
        if rng.random() < 0.02:  # fragments are put together
            cut = 1 + int(rng.random() * (len(data) - 1))
            self._wire.respond(frame(data[:cut], 0x02) + frame(data[cut:], 0x80), item)
            return
        piece = 1 + int(rng.random() * len(data)) if rng.random() < self._scenario.pieces else 0
        self._wire.respond(frame(data), item, piece=piece)

    # -- how it ends -----------------------------------------------------------------------------
    def _end(self, sequence: int, payload: bytes) -> None:
        plan, wire, rng = self.plan, self._wire, self._scenario.rng
        if plan.answers_before_end and not plan.skips:
            self._answer()
        elif plan.end not in ("error",) and rng.random() < 0.5:  # committed, and the OK never comes
            self._commit(payload)
        if plan.end == "error":
            self._refuse(sequence)
            return
        self._ended = True
        if plan.end == "fin":
            wire.finish()
        elif plan.end in ("reset", "mid"):
            if plan.answers_before_end and rng.random() < 0.5:
                wire.break_off_behind()
            else:
                wire.break_off()
        elif plan.end == "half":
            data = frame(responses.build(responses.Ok(sequence)))
            wire.respond(data[: 1 + int(rng.random() * (len(data) - 1))], Item("part"))
            wire.finish()
        elif plan.end == "close":
            self._close(plan.code)
        elif plan.end == "garbage":
            self._garbage(rng.choice(GARBAGE))
        elif plan.end == "breach":
            self._breach(rng.choice(BREACHES))
        elif plan.end == "stall":
            wire.reading = False
        # "silent": it goes on reading and never answers again

    def _refuse(self, sequence: int) -> None:
        plan, wire, rng = self.plan, self._wire, self._scenario.rng
        if not plan.skips:
            self._answer()
        self._judge.counts["refusals inside a group"] += bool(self.open)
        self.open.clear()
        if plan.beyond:
            sequence += 1 + int(rng.random() * 40)
            self._judge.lies(wire)
        data = frame(responses.build(responses.ErrorFrame(plan.status, sequence, "no")))
        wire.respond(data, Item("error", status=plan.status, sequence=sequence))
        if plan.latched:
            self._latched = True
            if rng.random() < 0.2:
                wire.break_off_behind()
        else:  # an older server goes on, and its OKs number past the refused message
            plan.end_at = _NEVER
            self._answered = self._committed = self._count

    def _close(self, code: int) -> None:
        wire, rng = self._wire, self._scenario.rng
        payload = code.to_bytes(2, "big") + b"bye" if code else b""
        wire.respond(frame(payload, 0x88), Item("close", code=code))
        if rng.random() < 0.3:  # nothing behind a CLOSE counts
            wire.respond(frame(responses.build(responses.Ok(self._count + 3))), Item("late"))
        if rng.random() < 0.8:
            wire.finish()
        elif rng.random() < 0.7:
            wire.break_off_behind()

    def _garbage(self, kind: str) -> None:
        ok = responses.build(responses.Ok(0))
        data = {
            "empty": b"",
            "short": b"\xff",
            "trailing": ok + b"\0",
            "negative": struct.pack("<BqH", 0, -1, 0),
            "long text": struct.pack("<BqH", 9, 0, 1_025) + b"x" * 1_025,
            "negative error": struct.pack("<BqH", 9, -1, 0),
            "bad table": struct.pack("<BqHH", 0, 0, 1, 0),
        }[kind]
        self._wire.respond(frame(data), Item("bad"))

    def _breach(self, kind: str) -> None:
        data = {
            "text": frame(b"hello", 0x81),
            "masked": b"\x82\x81\0\0\0\0x",
            "rsv": frame(b"x", 0xC2),
            "long form": b"\x82\x7e\0\x01x",
            "close 1005": frame(b"\x03\xed", 0x88),
            "close of 1 byte": frame(b"\x03", 0x88),
            "continuation": frame(b"x", 0x80),
        }[kind]
        self._wire.respond(data, Item("breach"))


def early(scenario: Scenario, judge: Judge, wire: Wire) -> bytes:
    """What a server sends in one piece with its 101, before anything was sent to it."""
    rng = scenario.rng
    kind = rng.choice(("ok", "error", "close", "bad", "ping"))
    if kind == "ok":
        judge.lies(wire)
        return wire.beforehand(frame(responses.build(responses.Ok(0))), Item("ok", sequence=0))
    if kind == "error":
        judge.lies(wire)
        status = int(scenario.pick(scenario.errors))  # type: ignore[call-overload]
        return wire.beforehand(
            frame(responses.build(responses.ErrorFrame(status, 0, "early"))), Item("error", status=status, sequence=0)
        )
    if kind == "close":
        return wire.beforehand(frame(b"\x03\xe9", 0x88), Item("close", code=1001))
    if kind == "bad":
        return wire.beforehand(frame(b"\xff"), Item("bad"))
    return wire.beforehand(frame(b"hi", 0x89), Item("ping"))


__all__ = ["Plan", "Session", "Wrong", "early", "frame"]
