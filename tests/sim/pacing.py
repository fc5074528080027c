"""When a connect is allowed (ours.md 29a), judged from outside: times, progress, how the last one ended.

- To the same endpoint again: paid for by a connection that was worth it, by the first NOT_WRITABLE, or by the
  shortest pause.  Worth it: it settled at least twice as much as the one before (`flight`), or stood long.
- After a connection that was not: the shortest pause; after the k-th strike ``initial * 2**(k-1)``,
  after a repeated NOT_WRITABLE likewise; never more than the maximum, which the jitter may double.
- After a round of refusals: the largest Retry-After among them, up to the maximum.
- Without such connections the number of connects is logarithmic in the time, then one a maximum pause.

Where a budget of time may cut a pause, only the rate counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.sim.scenario import Scenario

_SLACK_MILLIS: Final = 60


class Wrong(AssertionError):
    """Something that must hold does not."""


class Pacing:
    """The connects of one sender."""

    def __init__(self, scenario: Scenario, now_millis: int) -> None:
        self._scenario = scenario
        self._low = min(scenario.backoff_initial_millis, scenario.backoff_max_millis)
        self._last: dict[int, tuple[int, int]] = {}  # endpoint -> when, and how much had been paid by then
        self._paid = 0
        self._attempts = 0  # without progress
        self._quiet_since_millis = now_millis
        self._ended_millis = now_millis
        self._least_millis = 0
        self._why = ""
        self._hint_millis = 0

    def base_millis(self, count: int) -> int:
        """The shortest pause after the ``count``-th in a row."""
        return min(self._scenario.backoff_max_millis, self._scenario.backoff_initial_millis << min(count - 1, 6))

    def progressed(self, now_millis: int) -> None:
        """A connection was worth it, or a long one owed nothing."""
        self._paid += 1
        self._attempts = 0
        self._quiet_since_millis = now_millis

    def free(self) -> None:
        """One connect is owed no pause."""
        self._paid += 1

    def refused(self, now_millis: int, retry_after_millis: int) -> None:
        """A connect failed."""
        self._ended_millis = now_millis
        self._least_millis = 0
        self._hint_millis = max(self._hint_millis, min(retry_after_millis, self._scenario.backoff_max_millis))

    def ended(self, now_millis: int, why: str, least_millis: int) -> None:
        """A connection ended."""
        self._ended_millis = now_millis
        self._why = why
        self._least_millis = least_millis
        self._hint_millis = 0

    def connects(self, endpoint: int, now_millis: int, exact: bool) -> None:
        """Raises Wrong when it is too early or too late; ``exact``: no budget may have cut the pause."""
        scenario = self._scenario
        high = scenario.backoff_max_millis
        pause = now_millis - self._ended_millis
        if pause > 2 * high + scenario.oversleep_millis + _SLACK_MILLIS:
            raise Wrong(f"no connect for {pause} ms; the longest pause is below {2 * high}")
        last_millis, paid = self._last.get(endpoint, (-(1 << 60), -1))
        if exact:
            if paid == self._paid and now_millis - last_millis < self._low:
                raise Wrong(f"endpoint {endpoint} again after {now_millis - last_millis} ms, without progress")
            if pause < self._least_millis:
                raise Wrong(f"a connect {pause} ms after {self._why}; the pause is at least {self._least_millis}")
            if pause and pause < self._hint_millis:
                raise Wrong(f"a connect after {pause} ms in spite of Retry-After, {self._hint_millis} ms")
        if pause:
            self._hint_millis = 0
        self._least_millis = 0
        self._last[endpoint] = (now_millis, self._paid)
        self._attempts += 1
        quiet = now_millis - self._quiet_since_millis
        rounds = 3 * ((quiet // self._low + 2).bit_length() + quiet // high + 2)
        if self._attempts > scenario.endpoints * rounds:
            raise Wrong(f"{self._attempts} connects in {quiet} ms without any progress")
