"""Endpoints whose cap is below something that has to be sent (ours.md 6; behaviour.md 6.5 c).

What is too large is the frame at the head, or one entry of the dictionary that goes ahead of it.
Such an endpoint is left for another one, and nothing is lost by it.  Only when every endpoint has
been found too small, the last of them at least ``window_millis`` ago, and such a place was met ``gaps_min``
times in a row, is there no way.
"""

from __future__ import annotations


class CapGap:
    """Since when each endpoint is known to be too small for the head."""

    def __init__(self, endpoints: int, window_millis: int, gaps_min: int = 1) -> None:
        self._endpoints = endpoints
        self._gaps_min = gaps_min
        self._gaps = 0
        self._window_millis = window_millis
        self._since_millis: dict[int, int] = {}

    def progressed(self) -> None:
        """The head is another frame now."""
        self._since_millis.clear()
        self._gaps = 0

    def found(self, endpoint: int, now_millis: int) -> bool:
        """This endpoint is too small; True when that is news."""
        self._gaps += 1
        news = endpoint not in self._since_millis
        self._since_millis.setdefault(endpoint, now_millis)
        return news

    def proven(self, now_millis: int) -> bool:
        """Whether no endpoint will ever take it."""
        if len(self._since_millis) < self._endpoints or self._gaps < self._gaps_min:
            return False
        return now_millis - max(self._since_millis.values()) >= self._window_millis
