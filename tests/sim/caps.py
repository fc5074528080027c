"""Which endpoints are known to be too small for what has to be sent next, judged from outside (behaviour.md 6.5 c).

What is too large is the frame at the head, another one of its group, or one entry of the dictionary that goes ahead.
Only when every endpoint has been found too small, the last of them some time ago, may a sender end by it.  It shares
nothing with `delivery.cap_gap`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from spoolq.columns.symbols import SymbolTable
    from tests.sim.left import Left
    from tests.sim.scenario import Scenario

_ENTRY_HEAD_NBYTES: Final = 28  # what an entry needs beside itself (slot.md 6)


class Caps:
    """What one sender has found; ``payloads``: every frame that was published, by its FSN."""

    def __init__(self, scenario: Scenario, payloads: Sequence[bytes], symbols: SymbolTable, left: Left) -> None:
        self._scenario = scenario
        self._payloads = payloads
        self._symbols = symbols
        self._left = left
        self._since_millis: dict[int, int] = {}

    def progressed(self) -> None:
        """The head is another frame now."""
        self._since_millis.clear()

    def is_too_small(self, cap_nbytes: int | None, head_fsn: int) -> bool:
        """Whether the frame at the head, with its group, or a symbol is above it."""
        if cap_nbytes is None:
            return False
        _, commit = self._left.group_of(head_fsn)
        if any(len(payload) > cap_nbytes for payload in self._payloads[head_fsn : commit + 1]):
            return True
        symbols = self._symbols
        most = max((symbols.entries_nbytes(one, one + 1) for one in range(len(symbols))), default=0)
        return most > cap_nbytes - _ENTRY_HEAD_NBYTES

    def found(self, endpoint: int, now_millis: int) -> None:
        """This endpoint is too small; the first time counts."""
        self._since_millis.setdefault(endpoint, now_millis)

    def no_way_is_left(self, now_millis: int) -> bool:
        """Whether the sender may end by it."""
        if len(self._since_millis) < self._scenario.endpoints:
            return False
        return now_millis - max(self._since_millis.values()) >= self._scenario.cap_gap_window_millis
