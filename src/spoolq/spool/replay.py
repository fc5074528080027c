"""The store of a slot that is only drained: it gives frames out, settles them, removes what is settled.

    store = ReplayStore(files, live_slot, may_trim=True)
    store.run(...), store.acknowledge(fsn)       the sending side, as of every store
    store.keep(now_millis)                       after an acknowledgement: watermark, trim
    store.close()                                emptied when drained, left for the next one when not

A transaction at the end that nobody committed stays where it is and is not given out: ``published_fsn`` is the frame
before it.  It is settled with that one.

It takes no frame, so it has no active segment: every file is read by positioned reads, through one
descriptor.  Nobody waits for it either, so it needs no keeper: the thread that drains calls `keep`.
A chore that failed is tried again at a later acknowledgement, at the earliest after a second, or by `close`.

Frames whose symbols nobody else has told must stay until all are settled (``may_trim`` False): when a
kill comes first, the next one could not send the rest.

Used by one thread at a time; the watermarks may be read from any.  The barriers of a trim and of the
end are those of `DiskStore` (slot.md 4; invariants 17, 24).
"""

from __future__ import annotations

from bisect import bisect_right

from spoolq import limits
from spoolq.spool.chores import Chore, Chores
from spoolq.spool.files import Files
from spoolq.spool.sealed_reader import SealedReader
from spoolq.spool.segment import Run
from spoolq.spool.sentinels import remove_last_error
from spoolq.spool.slot import LiveSlot, do_all, remove_drained
from spoolq.spool.trim import Trimmer


class ReplayStore:
    """See the module's text.  Takes over ``slot`` and gives it back in `close`, the lock last."""

    def __init__(self, files: Files, slot: LiveSlot, *, may_trim: bool) -> None:
        self._files = files
        self._slot = slot
        self._segments = list(slot.segments)  # the active one last; it is never trimmed
        self._reader = SealedReader(files, slot.lock)
        self._trimmer = Trimmer(files, slot, self._reader)
        self._may_trim = may_trim
        self._closed = False
        self._stored_fsn = slot.next_fsn - 1  # newest frame, of a transaction nobody committed (slot.md 5.5) too
        self.published_fsn = self._stored_fsn if slot.deferred_fsn is None else slot.deferred_fsn - 1
        self.grouped_end_fsn = slot.grouped_end_fsn
        self.acked_fsn = slot.acked_fsn
        self._watermark_fsn = slot.acked_fsn  # in the file
        self._chores = Chores(
            [
                Chore("trimming", self._can_trim, self._trim),
                Chore("removing acknowledged segments", lambda: bool(self._trimmer.leftover), self._remove_leftover),
                Chore("storing the watermark", lambda: self._settled_fsn > self._watermark_fsn, self._store_watermark),
            ]
        )

    @property
    def drained(self) -> bool:
        """Whether everything is settled."""
        return self.acked_fsn >= self.published_fsn

    @property
    def _settled_fsn(self) -> int:
        """What the files shall say: the frames that are not sent are settled as soon as all before them are."""
        return self._stored_fsn if self.drained else self.acked_fsn

    def run(self, first_fsn: int, max_frames: int, max_nbytes: int) -> Run | None:
        """As `Store.run`.  Raises StorageError."""
        last_fsn = self.published_fsn
        if not self.acked_fsn < first_fsn <= last_fsn or self._closed:
            return None
        index = bisect_right(self._segments, first_fsn, key=lambda segment: segment.base) - 1
        return self._reader.run(self._segments[index], first_fsn, min(max_frames, last_fsn - first_fsn + 1), max_nbytes)

    def acknowledge(self, fsn: int) -> bool:
        """Settles all frames up to ``fsn``, clamped to published; only rises.  False: no append waits for room."""
        if not self._closed:
            self.acked_fsn = max(self.acked_fsn, min(fsn, self.published_fsn))
        return False

    def keep(self, now_millis: int) -> None:
        """Does what is due: trim, watermark.  Never raises for a disk: what failed is logged and tried again."""
        if not self._closed:
            self._chores.run(now_millis)

    def close(self) -> None:
        """Ends it; a drained slot holds no file afterwards but the lock's and what clients never remove.

        Every step is done whatever fails; then the first error is raised.  A second call does nothing.
        """
        if self._closed:
            return
        self._closed = True
        try:
            do_all([self._reader.close, self._collapse if self.drained else self._leave])
        except BaseException:
            self._slot.close()
            raise
        self._slot.close(remove=self._remove_all if self.drained else None)

    def _can_trim(self) -> bool:
        return self._may_trim and len(self._segments) > 1 and self._segments[0].end_fsn - 1 <= self._settled_fsn

    def _trim(self) -> bool:
        acked, count = self._settled_fsn, 0
        while count < min(len(self._segments) - 1, limits.TRIM_SEGMENTS_MAX) and (
            self._segments[count].end_fsn - 1 <= acked
        ):
            count += 1
        if self._slot.symbol_log is not None:
            self._slot.symbol_log.sync()  # the frames that could give lost symbols back are about to go
        self._trimmer.make_watermark_durable(acked)
        self._watermark_fsn = acked
        self._slot.manifest.update(self._segments[count].base, self._segments[-1].base)
        self._trimmer.leftover.extend(self._segments[:count])
        del self._segments[:count]
        return False  # the files go next

    def _remove_leftover(self) -> bool:
        self._trimmer.remove_leftover()
        return False

    def _store_watermark(self) -> bool:
        acked = self._settled_fsn
        self._slot.watermark.write(acked)
        self._watermark_fsn = acked
        return False

    def _collapse(self) -> None:
        self._trimmer.collapse(self._settled_fsn)

    def _remove_all(self) -> None:
        remove_drained(self._files, self._slot.directory, self._slot.lock)
        remove_last_error(self._files, self._slot.directory)

    def _leave(self) -> None:
        """What stays is for the next who opens the slot."""
        self._slot.lock.check()  # else nobody will find it there
        if self._settled_fsn > self._watermark_fsn:
            self._store_watermark()
        self._trimmer.remove_leftover()
