"""What a seed decides before the first step: the sender's settings, the world's habits, its few kinds of faults.

Each world has only some kinds of faults, each with its own weight ("swarm"): a world with everything in
it never gets far into anything.
"""

from __future__ import annotations

from random import Random
from typing import Final

REFUSALS: Final = {
    "tcp": 6, "timeout": 3, "dns": 2, "tls": 1, "handshake": 2, "status 503": 4, "status 404": 2,
    "role REPLICA": 3, "role PRIMARY_CATCHUP": 3, "status 421": 1, "auth 401": 0.15, "auth 403": 0.1,
}  # fmt: skip
ENDS: Final = {
    "fin": 5, "reset": 5, "half": 2, "mid": 3, "silent": 2, "stall": 2, "close": 6, "error": 14,
    "garbage": 4, "breach": 0.4, "none": 10,
}  # fmt: skip
ERRORS: Final = {
    0x06: 5, 0x09: 6, 0x0C: 5, 0x0D: 4, 0x01: 1, 0x0A: 1, 0xFF: 1, 0x03: 0.4, 0x05: 0.3, 0x08: 0.3,
}  # fmt: skip
_STATUSES: Final = {
    0x03: "schema_mismatch", 0x05: "parse_error", 0x06: "internal_error", 0x08: "security_error", 0x09: "write_error",
}  # fmt: skip
"""Whose policies can be chosen."""
CLOSE_CODES: Final = {1000: 4, 1001: 3, 1002: 1, 1003: 1, 1008: 1, 1009: 2, 1011: 3, 4000: 1, 0: 1}
GARBAGE: Final = ("empty", "short", "trailing", "negative", "long text", "negative error", "bad table")
BREACHES: Final = ("text", "masked", "rsv", "long form", "close 1005", "close of 1 byte", "continuation")


class Scenario:
    """Everything that is fixed for a run; whatever happens later is drawn from the same generator."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        chance, between = rng.random, self.between
        self.endpoints = 1 if chance() < 0.45 else between(2, 3)
        calm = chance() < 0.12
        self.heal_millis = 0 if calm else between(200, 4_000) if chance() < 0.75 else between(4_000, 40_000)
        # what the servers and the network do
        self.refusing = 0.0 if calm else chance() * 0.5
        self.refusals = self._some(REFUSALS)
        self.ends = self._some(ENDS)
        self.errors = self._some(ERRORS)
        self.close_codes = self._some(CLOSE_CODES)
        self.frames_before_end = 2 if chance() < 0.4 else 12
        self.lying = 0.0 if chance() < 0.75 else chance() * 0.3
        self.skipping = 0.0 if chance() < 0.8 else 0.1
        self.latched = chance() < 0.7
        self.early = 0.0 if chance() < 0.6 else 0.15
        self.caps = chance() < 0.35
        self.slow_answers = chance() < 0.3
        self.blips = 0 if calm or chance() < 0.6 else between(1, 3)
        self.latency = (0, between(0, 3)) if chance() < 0.7 else (between(0, 20), between(20, 60))
        self.room_nbytes = 1 << 16 if chance() < 0.5 else between(64, 2_000)
        self.pieces = chance() * 0.3
        self.encrypted = chance() < 0.15
        # the producer
        self.frames = between(1, 12) if chance() < 0.4 else between(10, 60)
        self.burst = between(1, 12)
        self.pause_millis = between(0, 30) if chance() < 0.6 else between(50, 600)
        self.frame_nbytes = 60 if chance() < 0.5 else between(100, 900)
        self.symbols = chance() * 2.5
        self.symbol_nbytes = 10 if chance() < 0.7 else 120
        self.preempt = 0.0 if chance() < 0.3 else chance() * 0.4
        # the log
        self.segment_nbytes = between(1_500, 4_000)
        self.segments = between(2, 8)
        self.breaks_at = 1 << 30 if chance() < 0.98 else between(0, 20)  # that read of the log fails
        # the sender
        self.backoff_initial_millis = 100 if chance() < 0.6 else between(5, 50)
        self.backoff_max_millis = 5_000 if chance() < 0.5 else self.backoff_initial_millis * between(1, 20)
        self.max_frame_rejections = 4 if chance() < 0.6 else between(1, 8)
        self.poison_window_millis = 5_000 if chance() < 0.5 else between(0, 1_500)
        self.cap_gap_window_millis = 300_000 if chance() < 0.7 else between(0, 600)
        self.outage_budget_millis = 0 if chance() < 0.9 else between(500, 8_000)
        self.policies = self._policies()
        if "drop" in self.policies.values():
            self.errors |= {status: 5.0 for status, category in _STATUSES.items() if category in self.policies}
            if chance() < 0.5:  # a refusal must name the frame for sure
                self.lying, self.frames_before_end, self.burst = 0.5, 2, 1
        self.letters = chance() < 0.8  # there is a place for dead letters
        self.letters_failing = 0.0 if chance() < 0.4 else 0.5
        first = chance()
        self.begin_budget_millis = None if first < 0.8 else 0 if first < 0.9 else between(1_000, 20_000)
        self.restarts = 0 if chance() < 0.8 else between(1, 2)
        self.oversleep_millis = 12 if chance() < 0.8 else 0
        self.renewable_token = chance() < 0.2
        if self.renewable_token and chance() < 0.5:
            self.refusals["auth 401"] = 3
        self.durable = chance() < 0.3
        self.durable_millis = between(0, 60) if chance() < 0.6 else between(100, 2_000)
        self.keepalive_millis = between(20, 300)
        self.half_open_millis = 0 if chance() < 0.7 else between(400, 4_000)
        if self.durable and chance() < 0.4:
            self.refusals["durable"] = 4
        self.idle_millis = 0 if chance() < 0.8 else between(60, 400)
        # what another client left at the head of the log
        groups = 0 if chance() < 0.8 else between(0, 5)
        self.left_groups = [between(1, 2) if chance() < 0.4 else between(2, 8) for _ in range(groups)]
        self.oks_deferred = chance() < 0.3  # servers say OK before the commit
        self.commits_early = 0.0 if chance() < 0.7 else 0.2
        # a server that works so long on the first frame of a connection that it answers no PING meanwhile
        self.busy_millis = 0
        if self.half_open_millis and chance() < 0.3:
            self.busy_millis = int(self.half_open_millis * (0.5 + 4 * chance()))
        self.slow_names = 0.0 if chance() < 0.8 else 0.1 + chance() * 0.5
        self.watermark_behind = chance() * 0.8  # of a sender that was killed
        self.new_lives = 0.0 if chance() < 0.7 else 0.3 + chance() * 0.6  # of the dictionary, when all is settled
        # the resolver of refusals
        self.decide_millis = None if chance() < 0.85 else between(20, 100) if chance() < 0.5 else between(100, 600)
        self.unanswered = chance() * 0.5
        if self.decide_millis is not None:  # a refusal must be what it seems
            self.lying = self.early = 0.0
            self.errors |= {status: 4.0 for status in _STATUSES if chance() < 0.6}
            self.ends["error"] = 30

    def between(self, low: int, high: int) -> int:
        """Uniform, both ends included."""
        return low + int(self.rng.random() * (high - low + 1))

    def pick(self, weights: dict) -> object:
        """One of the keys."""
        return self.rng.choices(list(weights), list(weights.values()))[0]

    def _some(self, weights: dict) -> dict:
        """Some of the kinds, some of these more often."""
        chance = self.rng.random
        few = 0.25 + 0.75 * chance()
        found = {kind: weight * (4 if chance() < 0.2 else 1) for kind, weight in weights.items() if chance() < few}
        return found or dict([self.rng.choice(list(weights.items()))])

    def _policies(self) -> dict[str, str]:
        if self.rng.random() < 0.7:
            return {}
        policies = ("terminal", "retriable", "retriable_other", "drop", "drop")
        return {category: self.rng.choice(policies) for category in _STATUSES.values() if self.rng.random() < 0.4}
