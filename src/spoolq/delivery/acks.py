"""Which FSN a wire sequence means on one connection (behaviour.md 4.1, 4.3; slot.md 6).

The server numbers the messages of a connection from 0.  ``catch_up`` dictionary messages come first,
then the frames from ``fsn_at_zero`` on: ``fsn = fsn_at_zero + (wire - catch_up)``, frames that are
never sent left out.
"""

from __future__ import annotations


class WireMap:
    """Wire sequences of one connection; ``sent_fsn`` is the last frame handed to the socket.

    ``unsent``: the first and the end of the frames that are never sent.
    """

    def __init__(self, fsn_at_zero: int, catch_up: int, unsent: tuple[int, int] = (0, 0)) -> None:
        self.fsn_at_zero = fsn_at_zero
        self.catch_up = catch_up
        self.sent_fsn = fsn_at_zero - 1
        self._unsent = unsent

    def fsn_of(self, sequence: int) -> int:
        """The frame a sequence means; below ``fsn_at_zero`` for a catch-up message."""
        fsn = self.fsn_at_zero + sequence - self.catch_up
        first, end = self._unsent
        return fsn + end - first if self.fsn_at_zero <= first <= fsn else fsn
