"""The store in RAM: a ring of segments, lost with the process.

One active segment takes appends, sealed ones wait for their acknowledgement, at most one spare is
ready.  The bytes of all segments, the spare's too, stay within the cap.

- Only a fully acked sealed segment is trimmed; its memory becomes the spare (touched memory is fast).
- A fully acked active segment stays until it is full; the cap of two segments or more always takes the
  next one then, and the full one is trimmed (ours.md 19).  The FSNs go on.
- A run that is not released pins its segment: pinned memory is not used again.

In RAM the producer may make a segment itself; the keeper only does so ahead of need.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable

from spoolq import limits
from spoolq.columns.symbols import SymbolTable
from spoolq.errors import FrameTooLarge, StorageError
from spoolq.spool.chores import FULL_LOG_MILLIS, Chore, Chores
from spoolq.spool.segment import Appender, Memory, Room, Run, Segment
from spoolq.spool.store import StoreStats

_LOG = logging.getLogger("spoolq.spool")


class MemoryStore(Appender):
    """See `spool.store.Store`.  ``total_nbytes`` is the cap and holds at least two segments.

    Appending and the watermarks are `Appender`'s; `synced_fsn` stays -1, for nothing here survives.
    """

    def __init__(
        self,
        segment_nbytes: int = limits.SEGMENT_BYTES_DEFAULT,
        total_nbytes: int = limits.SPOOL_BYTES_DEFAULT_MEMORY,
    ) -> None:
        if segment_nbytes < limits.SEGMENT_BYTES_MIN or total_nbytes < 2 * segment_nbytes:
            raise StorageError(
                f"a spool of {total_nbytes} bytes in segments of {segment_nbytes} is too small: a segment has at "
                f"least {limits.SEGMENT_BYTES_MIN} bytes and two must fit"
            )
        self._segment_nbytes = segment_nbytes
        self._total_nbytes = total_nbytes
        super().__init__(self.frame_nbytes_max, symbols_ahead=limits.DICTIONARY_ENTRIES_MAX)
        # The list of segments: producer, I/O thread and keeper change it.  A signal handler may ask for `stats`.
        self._lock = threading.RLock()
        self._segments: deque[Segment] = deque([self._new_segment(0)])
        self.active = self._segments[-1]
        self._spare: Segment | None = None
        self._closed = False
        self._blocked = False  # an append waits for an acknowledgement
        self._untold = False  # and the log does not say so yet
        self._chores = Chores(
            [Chore("telling that the queue is full", self._is_full, self._log_full, pause_millis=FULL_LOG_MILLIS)]
        )
        self.on_work: Callable[[], None] | None = None
        self.on_synced: Callable[[], None] | None = None

    @property
    def frame_nbytes_max(self) -> int:
        """Largest payload one segment takes."""
        return self._segment_nbytes - limits.SEGMENT_HEADER_BYTES - limits.FRAME_HEADER_BYTES

    def _reserve_slowly(self, nbytes: int) -> Room | None:
        """The active segment has no room for it."""
        if not 0 < nbytes <= self.frame_nbytes_max:
            raise FrameTooLarge(
                f"a frame of {nbytes} bytes does not fit a segment, which takes 1 to {self.frame_nbytes_max}; "
                "raise sf_max_segment_bytes",
                size=nbytes,
                limit=self.frame_nbytes_max,
            )
        if self._closed:
            raise StorageError("the spool is closed")
        with self._lock:
            rotated = self._rotate()
            self._blocked = self._untold = not rotated
            room: Room | None = None
            if rotated:
                self.active = self._segments[-1]
                room = self.active.reserve(nbytes)
        if self.on_work is not None:
            self.on_work()  # the spare was used, or there is something to tell
        return room

    def run(self, first_fsn: int, max_frames: int, max_nbytes: int) -> Run | None:
        """Published frames from ``first_fsn`` on, of one segment; None when there is none."""
        with self._lock:
            published = self.published_fsn
            if not self.acked_fsn < first_fsn <= published or self._closed:
                return None
            bases = [segment.base for segment in self._segments]
            segment = self._segments[bisect_right(bases, first_fsn) - 1]
            return segment.run(first_fsn, min(max_frames, published - first_fsn + 1), max_nbytes)

    def acknowledge(self, fsn: int) -> bool:
        """Settles all frames up to ``fsn``; True when room was freed."""
        with self._lock:
            fsn = min(fsn, self.published_fsn)
            if fsn <= self.acked_fsn or self._closed:
                return False
            self.acked_fsn = fsn
            return self._trim()

    @property
    def grouped_end_fsn(self) -> int:
        """None of the frames here is deferred (ours.md 5)."""
        return 0

    @property
    def dense(self) -> bool:
        """Never: nothing is recovered from memory, so delta frames need no symbols beside them."""
        return False

    def write_ahead(self, symbols: SymbolTable, first: int, end: int) -> None:
        """Nothing to do: see `dense`."""

    def restart_dictionary(self) -> bool:
        """True when everything is settled: nobody reads those frames again."""
        with self._lock:
            return not self._closed and self.acked_fsn >= self.published_fsn

    def keep_due_millis(self, now_millis: int) -> int | None:
        """At once while there is no spare and the cap takes one; else when to tell that the cap blocks an append."""
        return now_millis if self._needs_spare() else self._chores.due_millis(now_millis)

    def keep(self, now_millis: int) -> bool:
        """Prepares the next segment ahead of need.  (An append makes its own when this comes too late.)

        One WARN when the cap blocks an append, at most every 30 s (behaviour.md 3.4).
        """
        self._chores.run(now_millis)
        if self._needs_spare():
            made = self._new_segment(0)
            with self._lock:
                if self._needs_spare():
                    self._spare = made
        return False

    def sync(self, fsn: int | None = None) -> None:  # noqa: ARG002 - the protocol's
        """Raises StorageError: memory does not survive a power cut."""
        raise StorageError("this sender keeps its frames in memory, which nothing can sync; set sf_dir to keep them")

    def request_sync(self, fsn: int) -> None:
        """Nothing to do: see `sync`."""

    @property
    def sync_wanted(self) -> bool:
        """False: see `sync`."""
        return False

    @property
    def sync_failure(self) -> StorageError | None:
        """None: nothing is synced here."""
        return None

    def stats(self) -> StoreStats:
        """A snapshot."""
        with self._lock:
            return StoreStats(
                frames_unacked=self.published_fsn - self.acked_fsn,
                allocated_nbytes=self._allocated(),
                total_nbytes_max=self._total_nbytes,
                segments=len(self._segments),
            )

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self, *, sync: bool = True) -> None:  # noqa: ARG002 - the protocol's
        """Frees the memory; a second call does nothing."""
        with self._lock:
            self._closed = True
            self.active = self._spare = None
            self._segments.clear()

    def _needs_spare(self) -> bool:
        return (
            self._spare is None and not self._closed and self._allocated() + self._segment_nbytes <= self._total_nbytes
        )

    def _is_full(self) -> bool:
        return self._blocked and self._untold and not self._closed and not self._may_rotate()

    def _log_full(self) -> bool:
        with self._lock:
            self._untold = False
            allocated, unacked = self._allocated(), self.published_fsn - self.acked_fsn
        _LOG.warning(
            "the queue in memory is full: %d of %d bytes, %d frames wait for their acknowledgement; "
            "appends wait for it",
            allocated,
            self._total_nbytes,
            unacked,
        )
        return False

    def _may_rotate(self) -> bool:
        return self._spare is not None or self._allocated() + self._segment_nbytes <= self._total_nbytes

    def _new_segment(self, base: int) -> Segment:
        return Segment(base, self._segment_nbytes, Memory(self._segment_nbytes))

    def _allocated(self) -> int:
        return self._segment_nbytes * (len(self._segments) + (self._spare is not None))

    def _trim(self) -> bool:
        """Takes fully acked sealed segments away; True when there was one."""
        trimmed = None
        while len(self._segments) > 1 and self._segments[0].end_fsn - 1 <= self.acked_fsn:
            trimmed = self._segments.popleft()
            if self._spare is None and not trimmed.pins:
                self._spare = trimmed
        return trimmed is not None

    def _rotate(self) -> bool:
        """Makes an empty segment the last one; False while the cap blocks."""
        self._trim()  # the active one of the last rotation may have been acked before it was sealed
        full = self._segments[-1]
        if self._spare is not None:
            fresh, self._spare = self._spare, None
            fresh.reset(full.end_fsn)
            self._segments.append(fresh)
        elif self._allocated() + self._segment_nbytes <= self._total_nbytes:
            self._segments.append(self._new_segment(full.end_fsn))
        else:
            return False
        return True
