"""Log lines at most every so often.

`Throttle.due` says whether a line may be written now, and counts the ones that were held back so
that the next line can say so.
"""

from __future__ import annotations

from spoolq.runtime.clock import Clock


class Throttle:
    """One kind of line, at most once in ``interval_millis``."""

    def __init__(self, clock: Clock, interval_millis: int) -> None:
        self._clock = clock
        self._interval_millis = interval_millis
        self._next_millis: int | None = None
        self.held_back = 0

    def due(self) -> bool:
        """True when a line may be written now; the caller writes it."""
        now = self._clock.now_millis()
        if self._next_millis is not None and now < self._next_millis:
            self.held_back += 1
            return False
        self._next_millis = now + self._interval_millis
        self.held_back = 0
        return True
