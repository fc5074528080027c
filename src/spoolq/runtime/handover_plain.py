"""The short way from the row buffer into the store, plain body: there is none.

`Publisher.publish` is written in Python already and takes every batch; what the compiled body stores
must be what it stores, byte by byte (tests/runtime/test_handover.py).
"""

from __future__ import annotations

from typing import Protocol

from spoolq.columns import RowBuffer
from spoolq.spool import Store


class Sleeper(Protocol):
    """Who is woken behind a published frame: the I/O loop, and the keeper where a checkpoint is due then."""

    @property
    def asleep(self) -> bool:
        """Whether `wake` is needed."""

    def wake(self) -> None:
        """There may be new frames."""


class Handover:
    """Publishes the whole batch as one frame where that is sure to work at once; else does nothing.

    Taken are batches below 64 KiB whose symbols are all published, which are one frame of at most
    ``frame_nbytes_max``, and for which the active segment has room.  Not taken: an empty buffer, one with a
    latched error, a store that wants dense frames, that is closed or whose last room was interrupted.

    ``sleeper`` is looked at and woken behind a frame.  ``taken`` counts the frames.
    """

    def __init__(self, rows: RowBuffer, store: Store, *, gorilla: bool) -> None:  # noqa: ARG002 - the compiled one's
        self.frame_nbytes_max = 0
        self.sleeper: Sleeper | None = None
        self.taken = 0

    def flush(self) -> int:
        """For a caller without the sender's lock: the FSN, or -1, and nothing was done (also when it is held)."""
        return -1

    def publish(self) -> int:
        """For a caller that holds the sender's lock: the FSN, or -1, and nothing was done."""
        return -1
