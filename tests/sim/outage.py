"""How long a sender has waited, judged from outside: the outage budget, and the first connect's (ours.md 25).

The budget runs from the last ack progress, or from when there was first something to wait for; with nothing to wait for
from the loss of the connection.  It shares nothing with `delivery.outage`.

The judge tells what happens (`published`, `bound`, `settled`, `owes`, `begins`) and asks `left_millis`, before it lets
the sender wait, and `is_used_up`, when it gave up.  Where the machine may have seen two things in either order, both
times are taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.sim.scenario import Scenario

LATE_MILLIS: Final = 80  # a connect may take so long beyond a budget


class Outage:
    """The budgets of one sender, from now on."""

    def __init__(self, scenario: Scenario, now: Callable[[], int]) -> None:
        self._scenario = scenario
        self._now = now
        self.ever_connected = False
        self._begun_millis = now()
        self._since_millis: int | None = now()  # since when there was no ack progress, where some is due
        self._owed_until: tuple[int, int | None] = (-1, None)  # a connection that found nothing owed; since when before
        self._may_be_since_millis: int | None = None
        self._was_over = False  # while the resolver was asked

    @property
    def runs(self) -> bool:
        """Whether something is owed, or there is no connection."""
        return self._since_millis is not None

    def published(self) -> None:
        """A frame waits."""
        bound_millis, since_millis = self._owed_until
        if bound_millis == self._now():  # the machine may have seen it before the connection
            self._may_be_since_millis = since_millis
        self.owes()

    def owes(self) -> None:
        """Frames wait, or the connection is gone: it runs, when it did not already."""
        if self._since_millis is None:
            self.begins()

    def begins(self) -> None:
        """It runs from now on, whatever was before."""
        self._since_millis = self._now()

    def bound(self, *, owed: bool) -> None:
        """The machine is told of a connection; ``owed``: frames wait."""
        if not self.ever_connected and self._scenario.begin_budget_millis is not None:
            self._since_millis = None  # that was the first connect's time
        self.ever_connected = True
        if owed:
            self.owes()
        else:
            self._owed_until, self._since_millis = (self._now(), self._since_millis), None

    def settled(self, *, owed: bool) -> None:
        """Ack progress; ``owed``: more frames wait."""
        self._may_be_since_millis = None
        self._since_millis = self._now() if owed else None

    def decided(self) -> None:
        """The resolver has answered: what ran out meanwhile may end the sender until it connects."""
        self._was_over = self.left_millis() <= 0

    def connects(self) -> None:
        """It looked at its budget, and goes on."""
        self._was_over = False

    def left_millis(self) -> int:
        """A large number without a budget."""
        scenario = self._scenario
        budget, since = scenario.outage_budget_millis, self._since_millis
        if not self.ever_connected and scenario.begin_budget_millis is not None:
            budget, since = scenario.begin_budget_millis, self._begun_millis
        return since + budget - self._now() if budget and since is not None else 1 << 40

    def is_used_up(self) -> bool:
        """Now, not long ago."""
        if self._was_over:
            return True
        left, earlier = self.left_millis(), self._may_be_since_millis
        least = -self._scenario.oversleep_millis - LATE_MILLIS
        if earlier is not None:
            since = self._since_millis or 0
            return least <= left + earlier - since <= 0 or least <= left <= 0
        return least <= left <= 0
