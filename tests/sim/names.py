"""Names that resolve at once, slowly, or not at all: what stands for the system's resolver and its thread.

`link.Resolver` is the real one; `Names.begin` starts a lookup in the place of a thread.  A lookup that nobody waits for
any more goes on, as `getaddrinfo` does, and what it brings late may serve the next connect.

Checked here: one lookup at a time, whoever is given an address asked for it, an answer serves once, and none is asked
for again while it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from tests.sim.pacing import Wrong

if TYPE_CHECKING:
    from tests.sim.judge import Judge
    from tests.sim.scenario import Scenario
    from tests.sim.scheduler import Scheduler

_FRESH_MILLIS: Final = 10_000  # as `resolve._FRESH_SECONDS`

Place = tuple[str, int]


class Unresolvable(OSError):
    """This name cannot be resolved."""

    def __init__(self, place: Place) -> None:
        super().__init__(-2, "Name or service not known")
        self.place = place


class Names:
    """All lookups of one sender; ``healed`` says whether every name is quick and good from now on."""

    def __init__(self, scheduler: Scheduler, judge: Judge, scenario: Scenario, healed: Callable[[], bool]) -> None:
        self._scheduler = scheduler
        self._judge = judge
        self._scenario = scenario
        self._healed = healed
        self._newest: Lookup | None = None

    def begin(self, place: Place) -> Any:
        """In the place of a thread that looks a name up."""
        before, now, scenario = self._newest, self._scheduler.now_millis, self._scenario
        if before is not None and before.ended_millis is None:
            raise Wrong(f"{place} is looked up while {before.place} still is")
        if before is not None and before.place == place and not (before.taken or before.is_of_no_use(place)):
            raise Wrong(f"{place} is looked up again, and the answer is there")
        bad = scenario.slow_names and not self._healed()
        slow = bad and scenario.rng.random() < scenario.slow_names
        fails = bad and scenario.rng.random() < 0.3
        lookup = self._newest = Lookup(self._scheduler, self._judge, place, fails=fails)
        millis = scenario.between(500, 25_000) if slow else scenario.between(0, 3)
        self._scheduler.at(now + millis, lookup.end)
        self._judge.counts["names looked up"] += 1
        return lookup

    @staticmethod
    def check(place: Place, found: Sequence[Any]) -> None:
        """The addresses are those of the name."""
        if [entry[4] for entry in found] != [place]:
            raise Wrong(f"{place} is connected to {found}")


class Lookup:
    """As `resolve._Lookup`; `end` is when the system's resolver returns."""

    def __init__(self, scheduler: Scheduler, judge: Judge, place: Place, *, fails: bool) -> None:
        self._scheduler = scheduler
        self._judge = judge
        self._fails = fails
        self.place = place
        self.ended_millis: int | None = None
        self.left = False  # who waited for it has gone
        self.taken = False

    def end(self) -> None:
        self.ended_millis = self._scheduler.now_millis

    def wait(self, wait: Callable[[Any], None]) -> None:
        if self.ended_millis is None:
            try:
                wait(self)
            except BaseException:
                self.left = True
                raise

    def found(self) -> Sequence[Any]:
        if self.taken:
            raise Wrong(f"the answer for {self.place} is used twice")
        self.taken = True
        self._judge.counts["names that came late and were used"] += self.left
        if self._fails:
            raise Unresolvable(self.place)
        return [(0, 0, 0, "", self.place)]

    def is_of_no_use(self, place: Place) -> bool:
        ended = self.ended_millis
        return ended is not None and (self.place != place or self._scheduler.now_millis - ended > _FRESH_MILLIS)
