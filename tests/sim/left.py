"""What another client left at the head of the log: transactions of several frames.

Frames of a group are deferred but for the last one, which commits it (behaviour.md 3.6).  (A group without a commit
is cut off before a sender appends, and not given to a drainer: it is no part of any log here.)

`Left` says what holds of these frames, for the log that the sender reads and for the judge.  It is fixed before the
first sender begins, and shares nothing with `delivery.groups`.
"""

from __future__ import annotations


class Left:
    """``groups``: first frame and commit of each, in order."""

    def __init__(self) -> None:
        self.groups: list[tuple[int, int]] = []

    @property
    def grouped_end_fsn(self) -> int:
        """Behind the newest commit of a group; 0 when there is none."""
        return self.groups[-1][1] + 1 if self.groups else 0

    def group_of(self, fsn: int) -> tuple[int, int]:
        """First frame and commit; ``fsn`` twice when it stands alone."""
        return next(((first, commit) for first, commit in self.groups if first <= fsn <= commit), (fsn, fsn))

    def settled_by(self, fsn: int) -> int:
        """The newest frame that is settled when a server says OK up to ``fsn``: no part of a group."""
        first, commit = self.group_of(fsn)
        return fsn if fsn == commit else first - 1
