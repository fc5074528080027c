"""Virtual time: what happens when, and the clock and poller that the I/O loop sees.

Events of one millisecond happen in a random order.  A wait ends when a descriptor is ready, or late:
up to ``oversleep_millis`` after its time, as on a busy machine.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any

from spoolq.runtime.clock import Clock
from spoolq.runtime.wakeup import Wakeup
from tests.sim.judge import Judge, Wrong
from tests.sim.network import Wire

_POLLS_AT_ONCE_MAX = 40


class Scheduler:
    """A heap of events; `run_until` moves the time."""

    def __init__(self, rng: Random) -> None:
        self.now_millis = 1_000
        self.rng = rng
        self._random = rng.random
        self._heap: list[tuple[int, float, Callable[[], None]]] = []

    def at(self, millis: int, what: Callable[[], None]) -> None:
        """``what`` is called at that time, or now when it has passed."""
        heappush(self._heap, (max(millis, self.now_millis), self._random(), what))

    @property
    def next_millis(self) -> int | None:
        """When the next event is; None when there is none."""
        return self._heap[0][0] if self._heap else None

    def step(self) -> None:
        """The next event."""
        self.now_millis, _, what = heappop(self._heap)
        what()

    def step_if_due(self) -> None:
        """The next event, if it is of this millisecond."""
        if self._heap and self._heap[0][0] <= self.now_millis:
            self.step()

    def run_until(self, millis: int) -> None:
        """Every event up to then; it is then."""
        while self._heap and self._heap[0][0] <= millis:
            self.step()
        self.now_millis = max(self.now_millis, millis)


class Poller:
    """What the loop registers; no descriptor is real but the wake-up's."""

    def __init__(self) -> None:
        self.wakeup: Wakeup | None = None
        self.wire: Wire | None = None
        self.mask = 0

    def register(self, what: Any, mask: int) -> None:
        if what.fileno() < 0:
            raise ValueError("file descriptor cannot be a negative integer (-1)")
        if isinstance(what, Wakeup):
            self.wakeup = what
        else:
            self.wire, self.mask = what._socket, mask


class SimClock(Clock):
    """The scheduler's time; a wait lets the world go on.

    ``idle`` is called when nothing will ever happen any more; it raises or ends the run.  ``sleeps`` is
    called when the loop waits without a limit and nothing is ready, with whether its socket takes more.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        judge: Judge,
        oversleep_millis: int,
        idle: Callable[[], None],
        sleeps: Callable[[bool], None],
    ) -> None:
        self._scheduler = scheduler
        self._judge = judge
        self._oversleep_millis = oversleep_millis
        self._idle = idle
        self._sleeps = sleeps
        self._wake = select.poll()
        self._wake_fileno = -1
        self._at_once = 0
        self._last = (-1, -1)

    def now_millis(self) -> int:
        return self._scheduler.now_millis

    def poller(self) -> Any:
        return Poller()

    def poll(self, poller: Any, timeout_millis: int | None) -> list[tuple[int, int]]:
        scheduler = self._scheduler
        self._judge.waits(timeout_millis)
        self._count_polls()
        due = None if timeout_millis is None else scheduler.now_millis + timeout_millis
        if timeout_millis:
            late = self._oversleep_millis
            due += int(scheduler.rng.random() * (late + 1)) if late else 0
        if timeout_millis is None and not self._ready(poller):
            self._sleeps(not poller.mask & select.POLLOUT)
        while True:
            ready = self._ready(poller)
            if ready:
                return ready
            upcoming = scheduler.next_millis
            if upcoming is None and due is None:
                self._idle()
                return []
            if upcoming is None or (due is not None and upcoming > due):
                scheduler.now_millis = max(scheduler.now_millis, due)
                return []
            scheduler.step()

    def _count_polls(self) -> None:
        """A loop that polls again and again while nothing moves and no time passes is a spin."""
        last = self._scheduler.now_millis, self._judge.work
        self._at_once = self._at_once + 1 if last == self._last else 0
        self._last = last
        if self._at_once > _POLLS_AT_ONCE_MAX:
            raise Wrong(f"a spin: {self._at_once} polls within one millisecond")

    def _ready(self, poller: Poller) -> list[tuple[int, int]]:
        found = []
        wakeup = poller.wakeup
        if wakeup is not None:
            fileno = wakeup.fileno()
            if fileno != self._wake_fileno:
                self._wake = select.poll()
                self._wake.register(fileno, select.POLLIN)
                self._wake_fileno = fileno
            if self._wake.poll(0):
                found.append((fileno, select.POLLIN))
        if poller.wire is not None and (mask := poller.wire.readiness(poller.mask)):
            found.append((poller.wire.fileno(), mask))
        return found
