"""A clock that stands still until a test moves it.

Waits on descriptors look at the real ones every millisecond, and at this clock's time.  A wait lasts from when its
thread has looked at the clock: an `advance` between the look and the wait counts, as where time passes by itself.
"""

from __future__ import annotations

import select
import threading

from spoolq.runtime.clock import Clock


class ManualClock(Clock):
    """`advance` moves it and ends the waits that are due; `wait_for_waiters` needs no sleep."""

    def __init__(self, start_millis: int = 1_000) -> None:
        self._now_millis = start_millis
        self._lock = threading.Condition()
        self._waits: dict[threading.Condition, int | None] = {}
        self._looked = threading.local()

    def now_millis(self) -> int:
        self._looked.millis = now = self._now_millis
        return now

    def _due_millis(self, timeout_millis: int | None) -> int | None:
        if timeout_millis is None:
            return None
        looked: int = getattr(self._looked, "millis", self._now_millis)
        return looked + timeout_millis

    def wait(self, condition: threading.Condition, timeout_millis: int | None) -> None:
        with self._lock:
            self._waits[condition] = due = self._due_millis(timeout_millis)
            is_over = due is not None and due <= self._now_millis
            self._lock.notify_all()
        try:
            if not is_over:
                condition.wait()
        finally:
            with self._lock:
                self._waits.pop(condition, None)

    def poll(self, poller: select.poll, timeout_millis: int | None) -> list[tuple[int, int]]:
        due = self._due_millis(timeout_millis)
        while True:
            ready = poller.poll(1)
            if ready or (due is not None and self._now_millis >= due):
                return ready

    def waiting(self, count: int = 1) -> list[int | None]:
        """Blocks until ``count`` threads wait; when each of them is due (None = no limit)."""
        with self._lock:
            assert self._lock.wait_for(lambda: len(self._waits) >= count, 10), "nobody came to wait"
            return list(self._waits.values())

    def advance(self, millis: int) -> None:
        """Moves the clock and wakes every wait that is due now."""
        with self._lock:
            self._now_millis += millis
            due = [condition for condition, at in self._waits.items() if at is not None and at <= self._now_millis]
        for condition in due:
            with condition:
                condition.notify_all()
