"""Time for the rooms that may have it: now, a wait on a condition, a wait for descriptors.

One small class, so that a test can put its own clock in the place of the system's: everything in
runtime/ that depends on time asks its `Clock`, nothing calls `time` itself.  The machine in
delivery/ gets ``now_millis`` as an argument.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any, Protocol

from spoolq.link.poller import Poller


class Pollable(Protocol):
    """A `spoolq.link.poller.Poller`."""

    def register(self, what: Any, mask: int, /) -> None:
        """A descriptor, or what has one, and the conditions to wait for."""

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]:
        """Waits for what was registered."""


class Clock:
    """The monotonic system clock."""

    def now_millis(self) -> int:
        """Milliseconds of a clock that never goes back; the zero is arbitrary."""
        return time.monotonic_ns() // 1_000_000

    def wait(self, condition: threading.Condition, timeout_millis: int | None) -> None:
        """Waits on a held condition, one of an RLock, until it is notified or the time is over; None = no limit.

        Its lock is held again afterwards, also when an interrupt came just behind its release: there
        `threading.Condition` would leave it free, and the caller's ``with`` would fail in place of the interrupt.
        """
        try:
            condition.wait(None if timeout_millis is None else max(timeout_millis, 0) / 1_000)
        except BaseException:
            with suppress(RuntimeError):  # it is not held
                condition.release()
            condition.acquire()
            raise

    def poller(self) -> Pollable:
        """An empty set of descriptors for `poll`; the simulator has its own (tests/sim)."""
        return Poller()

    def poll(self, poller: Pollable, timeout_millis: int | None) -> list[tuple[int, int]]:
        """Waits until a registered descriptor is ready or the time is over; None = no limit."""
        return poller.poll(timeout_millis)
