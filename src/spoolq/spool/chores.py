"""What the keeper does for a store: a list of chores, each tried again when it failed.

A chore says when it is due and does one thing.  One that fails is tried again after a second, or what it
says, and does not stop the others; what failed is logged at most every 5 s, counted, and can be asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from spoolq.errors import StorageError

_LOG = logging.getLogger("spoolq.spool")
RETRY_MILLIS: Final = 1_000  # slot.md 4, trim
FULL_LOG_MILLIS: Final = 30_000  # how often a store says that it is full (behaviour.md 3.4)
_LOG_MILLIS: Final = 5_000


class Chore:
    """``due()`` says whether there is work; ``do()`` does it and says whether an append may go on now.

    ``delay_millis``: the work may wait that long, so that one run of it serves many reasons.
    ``pause_millis``: after it was done it is not done again for that long; ``retry_millis``: after it failed.
    """

    def __init__(
        self,
        name: str,
        due: Callable[[], bool],
        do: Callable[[], bool],
        delay_millis: int = 0,
        pause_millis: int = 0,
        retry_millis: int = RETRY_MILLIS,
    ) -> None:
        self.name = name
        self.due = due
        self.do = do
        self.delay_millis = delay_millis
        self.pause_millis = pause_millis
        self.retry_millis = retry_millis
        self.since_millis: int | None = None  # when the work was first seen
        self.next_millis = 0
        self.error: StorageError | None = None

    def due_millis(self, now_millis: int) -> int | None:
        """When to call `do`; None while there is no work."""
        if not self.due():
            self.since_millis = None
            return None
        if self.since_millis is None:
            self.since_millis = now_millis
        return max(self.since_millis + self.delay_millis, self.next_millis)


class Chores:
    """Runs them in order; used by one thread at a time."""

    def __init__(self, chores: list[Chore]) -> None:
        self._chores = chores
        self._logged_millis: int | None = None
        self.failures = 0

    def due_millis(self, now_millis: int) -> int | None:
        """When `run` has something to do; None when nothing is to be done."""
        return min(
            (at for at in (chore.due_millis(now_millis) for chore in self._chores) if at is not None), default=None
        )

    def run(self, now_millis: int) -> bool:
        """Does what is due; True when an append may go on now."""
        freed = False
        for chore in self._chores:
            at = chore.due_millis(now_millis)
            if at is None or at > now_millis:
                continue
            try:
                freed = chore.do() or freed
            except StorageError as error:
                self._failed(chore, error, now_millis)
            else:
                chore.error = None
                chore.since_millis = None
                chore.next_millis = now_millis + chore.pause_millis
        return freed

    @property
    def trouble(self) -> str:
        """What fails now, in words; empty when nothing does."""
        return "; ".join(f"{chore.name}: {chore.error}" for chore in self._chores if chore.error is not None)

    def _failed(self, chore: Chore, error: StorageError, now_millis: int) -> None:
        chore.error = error
        chore.next_millis = now_millis + chore.retry_millis
        self.failures += 1
        if self._logged_millis is None or now_millis - self._logged_millis >= _LOG_MILLIS:
            self._logged_millis = now_millis
            _LOG.warning("%s failed and is tried again: %s", chore.name, error)
