"""How long to wait before the next attempt (behaviour.md 5.3, ours.md 29a).

| after                               | base                             |
|-------------------------------------|----------------------------------|
| a round without a connection, or a  | min(max, initial * 2**n)         |
| connection that was not worth it    |                                  |
| the k-th strike or NOT_WRITABLE in  | min(max, initial * 2**min(m, 6)) |
| a row; m is k - 1 or n, the larger  |                                  |

n counts all of these since the last connection that was worth it; which one was is the machine's to say (`reset`).
The pause is uniform in [base, 2 * base) and not clamped again.  A round in which every endpoint refused by
its role grows like any other (ours.md 29a over behaviour.md 5.3: the official client asks a replica ten times a
second for ever).
"""

from __future__ import annotations

from random import Random

_EXPONENT_MAX = 62  # overflow-safe: beyond it the maximum rules in any case
_PACING_EXPONENT_MAX = 6


class Backoff:
    """Counts what failed in a row."""

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
        pause = self._jittered(min(self._failures, _EXPONENT_MAX))
        self._failures += 1
        return pause

    def paced_millis(self, count: int) -> int:
        """The pause after the ``count``-th strike or refusal in a row, from 1; it counts as one more failure."""
        exponent = max(count - 1, self._failures)
        self._failures = exponent + 1
        return self._jittered(min(exponent, _PACING_EXPONENT_MAX))

    def _jittered(self, exponent: int) -> int:
        base = min(self.max_millis, self.initial_millis << exponent)
        return int(base * (1 + self._rng.random()))
