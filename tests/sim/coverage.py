"""What many runs met, by class, and which pairs of state and event of the machine they never met."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import get_args

from spoolq.delivery import State, events
from tests.sim.world import Outcome

_OUTSIDE = {
    (State.IDLE, events.Begin),
    (State.CONNECTING, events.Connected),
    (State.CONNECTING, events.ConnectFailed),
    (State.WAITING, events.TimerDue),
    (State.DECIDING, events.Decided),
    (State.DECIDING, events.TimerDue),
    (State.SAVING, events.LetterSaved),
    (State.SAVING, events.LetterFailed),
}
"""What means something while there is no connection."""
_NOT_ON_A_CONNECTION = (
    *(events.Begin, events.Connected, events.ConnectFailed, events.TimerDue),
    *(events.LetterSaved, events.LetterFailed, events.Decided),
)


def meaningful() -> set[tuple[str, str]]:
    """The pairs that the machine gives a meaning."""
    on_it = {(State.CONNECTED, kind) for kind in get_args(events.Event) if kind not in _NOT_ON_A_CONNECTION}
    return {(state.value, kind.__name__) for state, kind in _OUTSIDE | on_it}


class Total:
    """Runs added up."""

    def __init__(self) -> None:
        self.runs = 0
        self.millis = 0
        self.counts: Counter[str] = Counter()
        self.pairs: set[tuple[str, str]] = set()
        self.wrong: list[Outcome] = []

    def add(self, outcome: Outcome) -> None:
        """One more run."""
        self.runs += 1
        self.millis += outcome.millis
        self.counts.update(outcome.counts)
        self.pairs |= outcome.pairs
        if outcome.wrong:
            self.wrong.append(outcome)

    def merge(self, other: Total) -> None:
        """Those of another process."""
        self.runs += other.runs
        self.millis += other.millis
        self.counts.update(other.counts)
        self.pairs |= other.pairs
        self.wrong += other.wrong

    def lines(self) -> Iterable[str]:
        """For a person."""
        for name, count in sorted(self.counts.items()):
            if count:
                yield f"{count:>12,}  {name}"
        yield f"{len(self.pairs):>12,}  pairs of state and event: {_pairs(self.pairs)}"
        never = meaningful() - self.pairs
        yield f"{len(never):>12,}  never met" + (f": {_pairs(never)}" if never else "")


def _pairs(pairs: set[tuple[str, str]]) -> str:
    return ", ".join(f"{state}/{event}" for state, event in sorted(pairs))
