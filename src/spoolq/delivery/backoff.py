"""How long to wait before the next round (behaviour.md 5.3).

``base = min(max, initial * 2**n)``; the pause is uniform in [base, 2 * base).
"""

from __future__ import annotations

from random import Random

_EXPONENT_MAX = 62  # overflow-safe: beyond it the maximum rules in any case


class Backoff:
    """Counts the rounds that failed in a row."""

    def __init__(self, initial_millis: int, max_millis: int, rng: Random) -> None:
        self.initial_millis = initial_millis
        self.max_millis = max_millis
        self._rng = rng
        self._failures = 0

    def reset(self) -> None:
        """Something succeeded: the next pause is the shortest again."""
        self._failures = 0

    def next_millis(self) -> int:
        """The pause after one more failure."""
        base = min(self.max_millis, self.initial_millis << min(self._failures, _EXPONENT_MAX))
        self._failures += 1
        return int(base * (1 + self._rng.random()))
