"""The opt-in outage budget: how long frames may wait without any acknowledgement (ours.md 25).

It runs from the last ack progress, or from when there was first something to wait for; without anything to
wait for, from the loss of the connection.  A connection alone does not end it, so a server that takes
frames and never answers uses it up as well as one that is away (behaviour.md 5.5).
"""

from __future__ import annotations


class OutageBudget:
    """``deadline_millis``: when it is used up; None while it does not run, always with ``millis`` 0."""

    def __init__(self, millis: int) -> None:
        self._millis = millis
        self.deadline_millis: int | None = None

    def runs(self, now_millis: int) -> None:
        """Frames wait, or there is no connection: it runs from now, when it did not already."""
        if self._millis and self.deadline_millis is None:
            self.deadline_millis = now_millis + self._millis

    def progressed(self, now_millis: int, *, owed: bool) -> None:
        """Frames were acknowledged; ``owed``: more of them wait."""
        self.deadline_millis = now_millis + self._millis if self._millis and owed else None

    def connected(self, now_millis: int, *, owed: bool) -> None:
        """A connection came: with nothing to wait for that is the end of the outage."""
        if owed:
            self.runs(now_millis)
        else:
            self.deadline_millis = None
