"""What callers wait for: acknowledgements, room in the spool, the end.

One condition for the waits of the caller's threads.  The I/O thread calls `advanced` after each
acknowledgement and `fail` with the terminal error; closing calls `begin_closing`, which ends the
appends that wait for room, and `end` when the drain is over, which ends every wait.  A thread that
waits gives a test to `wait_until`.  Notifying costs nothing while nobody waits.

A latched terminal error is kept here: the first one wins (behaviour.md 6.3).  Each call raises a copy of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from spoolq.errors import ClosedError, SpoolqError, fresh
from spoolq.runtime.clock import Clock


class Progress:
    """The condition, the latched error and whether the sender is closing."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._make_condition()
        self._waiting = 0
        self.error: SpoolqError | None = None
        self.closing = False
        self.closed = False

    def _make_condition(self) -> None:
        # The plain lock is what `with` takes: a Ctrl-C inside the condition's own methods would leave it locked.  One
        # inside `notify`, or at the end of `wait`, leaves a waiter in its list that waits no more, and the next
        # `notify` wakes that one and nobody else: each is a `notify_all`, also where one thread waits.
        self._lock = threading.RLock()
        self._condition = threading.Condition(self._lock)

    def advanced(self) -> None:
        """Something that callers wait for has moved."""
        if self._waiting:
            with self._lock:
                self._condition.notify_all()

    def fail(self, error: SpoolqError) -> bool:
        """Latches the terminal error; False when another was there first."""
        with self._lock:
            if self.error is not None:
                return False
            self.error = error
            self._condition.notify_all()
            return True

    def begin_closing(self) -> None:
        """Ends the waits for room with `ClosedError`; the others go on while the sender drains."""
        with self._lock:
            self.closing = True
            self._condition.notify_all()

    def end(self) -> None:
        """Ends every wait with `ClosedError`."""
        with self._lock:
            self.closing = self.closed = True
            self._condition.notify_all()

    def forked(self, error: SpoolqError) -> None:
        """In a forked child: the condition may be held by a thread that does not exist here."""
        self._make_condition()
        self.error = error
        self.closing = self.closed = True

    @property
    def held_here(self) -> bool:
        """Whether this thread holds the lock: a signal handler has interrupted it outside the wait itself."""
        held: bool = self._condition._is_owned()  # type: ignore[attr-defined]
        return held

    def wait_until(
        self, reached: Callable[[], bool], timeout_millis: int | None, *, while_closing: bool = True
    ) -> bool:
        """Waits until ``reached()``; False when the time ran out first (None = no limit).

        Order (behaviour.md 3.3, D-14): a latched error is raised first, then the test is made, then
        a timeout of 0 or less returns False.  ``while_closing=False`` is for an append that waits
        for room: it ends as soon as the sender begins to close.

        Raises the latched error, or ClosedError when the sender closes meanwhile.
        """
        deadline = None if timeout_millis is None else self._clock.now_millis() + timeout_millis
        with self._lock:
            self._waiting += 1
            try:
                while True:
                    if self.error is not None:
                        raise fresh(self.error)
                    if reached():
                        return True
                    if self.closed or (self.closing and not while_closing):
                        raise ClosedError("the sender was closed while this call waited")
                    left = None if deadline is None else deadline - self._clock.now_millis()
                    if left is not None and left <= 0:
                        return False
                    self._clock.wait(self._condition, left)
            finally:
                self._waiting -= 1
