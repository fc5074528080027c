"""What may be in flight behind a lost connection, and what it was worth (ours.md 29a), judged from outside.

Where it cannot be known from outside (the peer lied; a run was under way of which nothing had gone whole) there
is no judgement until a connection has ended for certain.
"""

from __future__ import annotations


class Flight:
    """The connections of one sender; ``start``: settled when the present one began."""

    def __init__(self) -> None:
        self._answered_before: int | None = 0  # how many frames, on the connection before; None: unknown
        self._settled_before = 0
        self._limited: bool | None = False  # None: unknown
        self._in_flight = 0  # when the connection before ended

    def may_be_limited(self) -> bool:
        """Whether a part of the frames may be held up on this connection."""
        return self._limited is not False

    def most(self, answered: int) -> int | None:
        """How many frames may be in flight when so many were answered; None: not known, or no limit."""
        if self._limited and self._answered_before is not None:
            return max(1, 2 * max(self._answered_before, answered))
        return None

    def grew(self, settled: int) -> bool:
        """Whether so many settled frames make a connection worth another one at once."""
        return settled >= max(1, 2 * self._settled_before)

    def ended(self, answered: int | None, settled: int, *, in_flight: int, drained: bool) -> None:
        """A connection is over.  ``answered`` None: it lied."""
        self._in_flight = in_flight
        self._answered_before, self._settled_before = answered, settled
        if answered is None:
            self._limited = None
        elif in_flight:
            self._limited = True
        elif drained:
            self._limited = False
        elif not self._limited:
            self._limited = None

    def dropped(self) -> None:
        """The frame behind the answered ones became a dead letter: it counts with them."""
        if self._in_flight == 1:
            self._limited = None  # it was all that was in flight
        self._settled_before += 1
        if self._answered_before is not None:
            self._answered_before += 1
