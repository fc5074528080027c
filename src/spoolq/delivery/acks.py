"""Which FSN a wire sequence means on one connection (behaviour.md 4.1, 4.3; slot.md 6).

The server numbers the messages of a connection from 0.  ``catch_up`` dictionary messages come first,
then the frames from ``fsn_at_zero`` on: ``fsn = fsn_at_zero + (wire - catch_up)``.
"""

from __future__ import annotations


class WireMap:
    """Wire sequences of one connection; ``sent_fsn`` is the last frame handed to the socket."""

    def __init__(self, fsn_at_zero: int, catch_up: int) -> None:
        self.fsn_at_zero = fsn_at_zero
        self.catch_up = catch_up
        self.sent_fsn = fsn_at_zero - 1

    def fsn_of(self, sequence: int) -> int:
        """The frame a sequence means; below ``fsn_at_zero`` for a catch-up message."""
        return self.fsn_at_zero + sequence - self.catch_up
