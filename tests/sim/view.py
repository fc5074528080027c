"""What the judge knows of one connection, of one thing that the client reads, and of a question to the resolver."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from tests.sim.network import Wire

CATEGORIES: Final = {
    0x03: "schema_mismatch", 0x05: "parse_error", 0x06: "internal_error", 0x08: "security_error",
    0x09: "write_error", 0x0C: "not_writable", 0x0D: "dictionary_gap",
}  # fmt: skip
DEFAULTS: Final = {
    "schema_mismatch": "terminal", "parse_error": "terminal", "security_error": "terminal",
    "internal_error": "retriable", "write_error": "retriable",
}  # fmt: skip
"""Behaviour.md 6.1: what a status means, and the policy of the categories that may have another one."""


class Item(NamedTuple):
    """One thing that the client reads: ok, durable, error, close, bad, breach, ping, pong, part, late, fin, reset."""

    kind: str
    status: int = 0
    sequence: int = 0
    code: int = 0
    entries: tuple[tuple[str, int], ...] = ()


class View:
    """One connection as the client may see it."""

    def __init__(self, wire: Wire, fsn_at_zero: int, cap_nbytes: int | None, now_millis: int) -> None:
        self.wire = wire
        self.fsn_at_zero = fsn_at_zero
        self.cap_nbytes = cap_nbytes
        self.since_millis = now_millis
        self.catch_up = 0  # messages of the dictionary that go ahead
        self.catch_up_handed = 0
        self.handed_fsn = fsn_at_zero - 1
        self.handed_nbytes = 0
        self.ok_fsn = fsn_at_zero - 1  # what OKs cover, not clamped; with durable acks, what is durable too
        self.answered_fsn = fsn_at_zero - 1
        self.waiting: deque[tuple[int, dict[str, int]]] = deque()  # OKs that are not durable yet
        self.marks: dict[str, int] = {}
        self.heard_millis = self.handed_millis = now_millis
        self.pings = 0
        self.bound = False  # the machine has been told of it
        self.moved_millis = now_millis  # when it was sent a frame
        self.may_have_opened = False  # the window
        self.progressed = False
        self.vague = False  # the peer lies
        self.ended = ""  # by what it has ended for certain
        self.maybe_ended = ""
        self.broken = False  # a send failed: what has come by then still counts
        self.must_latch = ""
        self.may_latch: set[str] = set()
        self.life = 0  # whose dictionary it knows
        self.least_millis: int | None = None  # the pause that this end is worth
        self.owed_nothing_before = False  # when it was closed


class Question:
    """A refusal that the resolver has its say in: what the settings say, and what else may be chosen."""

    def __init__(self, view: View, item: Item, fsn: int, category: str, policy: str, choices: frozenset[str]) -> None:
        self.view = view
        self.item = item
        self.fsn = fsn
        self.category = category
        self.policy = policy
        self.choices = choices
        self.number = 0  # of the question, when it was asked
        self.asked_millis = 0

    def outcome(self, chosen: str | None) -> str:
        """What an answer leads to; None: there was none in time."""
        return chosen if chosen in self.choices else self.policy
