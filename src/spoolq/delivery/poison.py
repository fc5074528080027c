"""Notices a frame that will never be accepted (behaviour.md 6.4).

A strike is a retriable rejection, an undecodable response, or a close that is not orderly, while the
same oldest unacked frame stands at the head.  Any ack progress clears.  At ``max_strikes`` and
at least ``window_millis`` after the first one the frame is poisoned.
"""

from __future__ import annotations


class PoisonDetector:
    """Strikes against the frame at the head."""

    def __init__(self, max_strikes: int, window_millis: int) -> None:
        self._max_strikes = max_strikes
        self._window_millis = window_millis
        self._since_millis = 0
        self.strikes = 0

    def progressed(self) -> None:
        """A frame was acknowledged: the head is another one now."""
        self.strikes = 0

    def strike(self, now_millis: int) -> bool:
        """One more; True when the frame is poisoned."""
        if not self.strikes:
            self._since_millis = now_millis
        self.strikes += 1
        return self.strikes >= self._max_strikes and now_millis - self._since_millis >= self._window_millis
