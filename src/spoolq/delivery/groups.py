"""Transactions of several frames on one connection (behaviour.md 3.6; wire.md 6): settled whole or not at all.

A group is a row of deferred frames and the frame behind them, which commits it.  We write none; slots of other
clients hold them.  The rows of a group that is open when a connection ends are gone, so it is sent again
from its first frame, and nothing of it may be settled, stored as watermark or trimmed before its commit is
acknowledged: also when the server says OK in the middle, as it does when it has to commit early.

```
deferred(first, last)    these frames were queued and are deferred; before any answer to them
committed(fsn)           an OK up to fsn came: up to where it settles
of(fsn)                  first frame and commit of the group that fsn is in
```

One `Groups` a connection, owned by the delivery machine.  Until the commit of the last group is queued, the
frame behind its last deferred one stands for it: it is the commit, or moves it on.

Bound: `limits.GROUPS_MAX` of them wait.  Above it a group joins the one before: both are then settled together,
later than they could be and never earlier.
"""

from __future__ import annotations

from collections import deque

from spoolq import limits


class Groups:
    """See the module's text."""

    def __init__(self) -> None:
        self._groups: deque[tuple[int, int]] = deque()  # first frame and commit, in order

    def deferred(self, first_fsn: int, last_fsn: int) -> None:
        """The frames ``first_fsn`` to ``last_fsn`` were queued behind all others, and are deferred."""
        groups = self._groups
        if groups and (first_fsn == groups[-1][1] or len(groups) >= limits.GROUPS_MAX):
            first_fsn, _ = groups.pop()
        groups.append((first_fsn, last_fsn + 1))

    def committed(self, fsn: int) -> int:
        """The newest frame that an OK up to ``fsn`` settles; the groups it closes are forgotten."""
        groups = self._groups
        while groups and groups[0][1] <= fsn:
            groups.popleft()
        return groups[0][0] - 1 if groups and groups[0][0] <= fsn else fsn

    def of(self, fsn: int) -> tuple[int, int]:
        """First frame and commit of the group of ``fsn``; ``fsn`` twice when it is in none."""
        for first, commit in reversed(self._groups):  # what is asked for is mostly near the end
            if fsn > commit:
                break
            if fsn >= first:
                return first, commit
        return fsn, fsn
