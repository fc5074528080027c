"""The store on disk: a slot of segment files (slot.md), behind `spool.store.Store`.

    store = DiskStore.open(files, slot, segment_nbytes=..., total_nbytes=...)
    store.on_work = keeper.wake          then `keep` does what is due, from the keeper's thread only

Who does what (ours.md 11, 15 to 19):

- The producer fills the active segment.  Full, it takes the spare: stores its base, writes the
  manifest's record, goes on; it never creates, syncs or removes a file.
- The keeper syncs that rotation (header page, then manifest), closes what was sealed, makes the next
  spare, stores the watermark, trims.  At most one rotation is not synced: the next one waits for it.
- The I/O thread takes runs (from the mapping, or by positioned reads) and acknowledges.

That is ``memory``.  The other durability modes (behaviour.md 9) promise something for a power cut:

- `sync` proves frames and their symbols; many callers share one (`syncing.GroupCommit`).  When it is called
  is for the caller: behind each explicit flush (``flush``), behind each append (``append``); in ``periodic``
  the keeper does it, ``sync_interval_millis`` after it first saw a frame that no sync covers.
- The producer rotates in this order: the full segment synced, the spare's header synced, the manifest
  synced, then the first frame.  So whatever is not synced stands in the active segment.
- While the last sync has failed no append succeeds; the keeper tries again at least every second.
- What was found at opening is written again where only this process can tell, and synced.

A rotation that failed once its record was being written freezes the active segment: the file may
name the new base already, so no frame may follow in the old one.  Each append then tries the rotation
again and raises its error; nothing is lost meanwhile.

A store whose directory was moved, removed or replaced (`SlotLock.check`) touches nothing there: it makes no segment,
removes none, and `close` says so.

Descriptors: lock, manifest, watermark, symbols, active, spare or sealed, reader, a directory being synced.
Mappings: active, spare, and at most two sealed ones that runs still read; then runs are copies.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from bisect import bisect_right
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from spoolq import limits
from spoolq.columns.symbols import SymbolTable
from spoolq.errors import FrameTooLarge, StorageError
from spoolq.spool import segment_layout as layout
from spoolq.spool.chores import FULL_LOG_MILLIS, RETRY_MILLIS, Chore, Chores
from spoolq.spool.files import FORBIDDEN, Files
from spoolq.spool.sealed_reader import SealedReader
from spoolq.spool.segment import Appender, Memory, Room, Run, Segment
from spoolq.spool.segment_file import SegmentFile, StoredSegment, store_again
from spoolq.spool.slot import LiveSlot, check_sizes, do_all, remove_drained, segment_name
from spoolq.spool.store import Durability, StoreStats
from spoolq.spool.symbol_log import Mark
from spoolq.spool.syncing import GroupCommit
from spoolq.spool.trim import Trimmer

_LOG = logging.getLogger("spoolq.spool")
_WATERMARK_DELAY_MILLIS: Final = 100


def _give_back(files: Files, slot: LiveSlot) -> None:
    is_new = len(slot.segments) == 1 and not slot.next_fsn
    slot.close(remove=(lambda: remove_drained(files, slot.directory, slot.lock)) if is_new else None)


class DiskStore(Appender):
    """An open slot.  ``total_nbytes`` is the cap of all segment files, those that were found too."""

    def __init__(
        self,
        files: Files,
        slot: LiveSlot,
        active: SegmentFile,
        *,
        segment_nbytes: int,
        total_nbytes: int,
        durability: Durability = "memory",
        sync_interval_millis: int = limits.SYNC_INTERVAL_MILLIS_DEFAULT,
    ) -> None:
        super().__init__(limits.MAPPED_FRAME_BYTES_MAX if active.direct else 0)
        self._mapped_nbytes_max = self.direct_nbytes_max
        self._files = files
        self._slot = slot
        self.symbols_ahead = self._symbols_stored()
        self._segment_nbytes = segment_nbytes
        self._total_nbytes = total_nbytes
        self._syncs = durability != "memory"
        # Which segments there are; held for moments, never during a sync.  A signal handler may ask for `stats`.
        self._lock = threading.RLock()
        self._keep_lock = threading.Lock()  # one keeper at a time, and none while closing
        self._sealed: list[StoredSegment] = slot.segments[:-1]
        self._active_file = active
        self._spare: SegmentFile | None = None
        self._retired: SegmentFile | None = None  # sealed by the last rotation, not closed yet
        self._pinned: list[Segment] = []  # closed, and a run still reads in its mapping
        self._unsynced: SegmentFile | None = None  # promoted, its header and the manifest not synced yet
        self._allocated = sum(segment.nbytes for segment in slot.segments)
        self._reader = SealedReader(files, slot.lock)
        self._trimmer = Trimmer(files, slot, self._reader)
        self._staging: Memory | None = None
        self._dirty_nbytes = 0  # behind the last frame, left by an append that failed
        self._frozen = False  # a rotation failed half-way
        self._symbol_mark: tuple[Mark, int] | None = None
        self._blocked = False  # an append waits for the keeper
        self._untold = False  # and the log does not say so yet
        self._closed = False
        self._in_doubt = False
        self._wanted_fsn = -1  # somebody waits for a sync of it
        #: Called when `keep_due_millis` may have changed; the keeper sets it.
        self.on_work: Callable[[], None] | None = None
        #: Called, without a lock, when a sync has ended, well or not.
        self.on_synced: Callable[[], None] | None = None
        self.published_fsn = slot.next_fsn - 1
        self.grouped_end_fsn = slot.grouped_end_fsn
        self.acked_fsn = slot.acked_fsn
        self._watermark_fsn = slot.acked_fsn  # in the file
        self._commit = GroupCommit(
            synced_fsn=-1,
            published=lambda: self.published_fsn,
            sync=self._sync_active if self._syncs else self._sync_all,
            proven=self._proven,
            failed=self._sync_failed,
            ended=self._sync_ended,
        )
        self._chores = Chores(
            [
                *(self._sync_chores(durability, sync_interval_millis) if self._syncs else ()),
                Chore("syncing the new segment", lambda: self._unsynced is not None, self._settle_rotation),
                Chore("closing a full segment", lambda: self._retired is not None, self._close_retired),
                Chore("trimming", self._can_trim, self._trim),
                Chore("removing acknowledged segments", lambda: bool(self._trimmer.leftover), self._remove_leftover),
                Chore("preparing a segment", self._wants_spare, self._make_spare),
                Chore(
                    "storing the watermark",
                    lambda: self.acked_fsn > self._watermark_fsn,
                    self._store_watermark,
                    delay_millis=_WATERMARK_DELAY_MILLIS,
                ),
                Chore("telling that the slot is full", self._is_full, self._log_full, pause_millis=FULL_LOG_MILLIS),
            ]
        )
        self.active = active.frames

    @classmethod
    def open(
        cls,
        files: Files,
        slot: LiveSlot,
        *,
        segment_nbytes: int,
        total_nbytes: int,
        durability: Durability = "memory",
        sync_interval_millis: int = limits.SYNC_INTERVAL_MILLIS_DEFAULT,
    ) -> DiskStore:
        """Takes over ``slot``; not with ``memory``, everything in it is durable when this returns.

        On an error every file of it is given back, the lock last; a slot that has just begun leaves none.
        """
        active: SegmentFile | None = None
        try:
            check_sizes(segment_nbytes, total_nbytes)
            active = SegmentFile.open(files, slot.segments[-1])
            slot.lock.check()  # behind the last file that is opened by its path: they are all of this slot
            store = cls(
                files,
                slot,
                active,
                segment_nbytes=segment_nbytes,
                total_nbytes=total_nbytes,
                durability=durability,
                sync_interval_millis=sync_interval_millis,
            )
        except BaseException:
            with suppress(StorageError):
                do_all([*([active.close] if active is not None else []), lambda: _give_back(files, slot)])
            raise
        if durability != "memory":
            try:
                store._sync_found()
            except BaseException:
                with suppress(StorageError):
                    store.close(sync=False)
                raise
        return store

    # --- the producer -------------------------------------------------------------------------------

    @property
    def frame_nbytes_max(self) -> int:
        """Largest payload one segment takes."""
        return self._segment_nbytes - limits.SEGMENT_HEADER_BYTES - limits.FRAME_HEADER_BYTES

    @property
    def dense(self) -> bool:
        """Whether each frame must carry all its symbols, for they are not written ahead (slot.md 4)."""
        return self._slot.symbol_log is None or not self._slot.symbol_log.usable

    def write_ahead(self, symbols: SymbolTable, first: int, end: int) -> None:
        """Stores the ids below ``end``; ``first`` to ``end`` are new in the frame about to be published.

        Called between `reserve` and `publish`, for every frame that is not dense.  Taken back by
        `abandon`, or by the next call when the frame did not come.  Raises StorageError.
        """
        self._take_back_symbols()
        log = self._slot.symbol_log
        if log is not None and log.usable:
            self.symbols_ahead = -1  # until it is known what the file holds, whatever interrupts this
            try:
                if self._syncs and log.cut_unsynced:
                    log.sync()  # else a power cut could bring back what was taken back, in place of these
                self._symbol_mark = (log.write_ahead(symbols, first, end), self.published_fsn)
            finally:
                self.symbols_ahead = self._symbols_stored()

    def abandon(self, room: Room) -> None:
        """Nothing happened: the room's bytes are zero, its symbols are taken back."""
        super().abandon(room)
        self._take_back_symbols()

    def _take_back_symbols(self) -> None:
        pending, self._symbol_mark = self._symbol_mark, None
        log = self._slot.symbol_log
        if pending is not None and log is not None and self.published_fsn == pending[1]:
            self.symbols_ahead = -1
            log.rollback(pending[0])
            self.symbols_ahead = self._symbols_stored()

    def _symbols_stored(self) -> int:
        log = self._slot.symbol_log
        return log.count if log is not None and log.usable else -1

    def _reserve_slowly(self, nbytes: int) -> Room | None:
        """A large frame, a full segment, or one that a failure left unusable."""
        if not 0 < nbytes <= self.frame_nbytes_max:
            raise FrameTooLarge(
                f"a frame of {nbytes} bytes does not fit a segment, which takes 1 to {self.frame_nbytes_max}; "
                "raise sf_max_segment_bytes",
                size=nbytes,
                limit=self.frame_nbytes_max,
            )
        if self._closed:
            raise StorageError(f"the slot {self._slot.directory} is closed")
        self._check_synced()
        if self._dirty_nbytes:
            self._clear_behind()
            self.active = None if self._frozen else self._active_file.frames
        if (self._frozen or not self._active_file.frames.fits(nbytes)) and not self._rotate():
            self._blocked = self._untold = True
            self._tell_keeper()
            return None
        return self._active_file.room(nbytes, None if nbytes <= self._mapped_nbytes_max else self._staging_of(nbytes))

    def _staging_of(self, nbytes: int) -> Memory:
        """The buffer in which a large frame is put together."""
        needed = limits.FRAME_HEADER_BYTES + nbytes
        if self._staging is None or len(self._staging) < needed:
            self._staging = None  # give it back before the larger one is taken
            self._staging = Memory(min(1 << (needed - 1).bit_length(), self._segment_nbytes))
        return self._staging

    def _write_staged(self, room: Room) -> None:
        try:
            self._active_file.write_staged(room)
        except BaseException:
            # Zeros must follow the last frame before another one does; until then nothing is appended.
            self._dirty_nbytes = max(self._dirty_nbytes, limits.FRAME_HEADER_BYTES + room.nbytes)
            self.active = None
            raise

    def _rotate(self) -> bool:
        """Makes the spare the active segment; False when an append has to wait for the keeper."""
        with self._lock:
            spare, full = self._spare, self._active_file
            if spare is None or self._unsynced is not None or self._retired is not None:
                return False
        base = full.frames.end_fsn
        if self._syncs:
            try:
                self._commit.cover(base - 1)  # before anything says that the chain goes on behind it
            except StorageError as error:
                error.in_doubt = False  # of the append that wants the room nothing is queued
                raise
        spare.promote(base)
        if self._syncs:
            spare.sync_header()  # before the manifest names it (invariant 14)
        with self._lock:
            self._frozen, self.active = True, None
            self._slot.manifest.update(self._head(), base, sync=False)
        if self._syncs:
            self._slot.manifest.sync()
        stored = full.stored
        # One that is empty was too small for this frame, as found: two files must not share a base for long.
        leaves_to = self._sealed if stored.count else self._trimmer.leftover
        with self._lock:  # one call, the last: signals are looked at behind calls, so a Ctrl-C finds all of it or none
            self._retired, self._active_file, self._spare = full, spare, None
            self._unsynced = None if self._syncs else spare
            self.active = spare.frames
            self._frozen = self._blocked = False
            leaves_to.append(stored)
        self._tell_keeper()
        return True

    def _head(self) -> int:
        """Base of the first segment in use."""
        return self._sealed[0].base if self._sealed else self._active_file.frames.base

    # --- the I/O thread -----------------------------------------------------------------------------

    def run(self, first_fsn: int, max_frames: int, max_nbytes: int) -> Run | None:
        """Published frames from ``first_fsn`` on, of one segment; None when there is none.  Raises StorageError."""
        with self._lock:
            published = self.published_fsn
            if not self.acked_fsn < first_fsn <= published or self._closed:
                return None
            # A frame is in its segment before it is published: sent too early its acknowledgement would be lost.
            max_frames = min(max_frames, published - first_fsn + 1)
            active = self._active_file
            if first_fsn >= active.frames.base:
                self._pinned = [frames for frames in self._pinned if frames.pins]
                if active.direct and not self._pinned:
                    return active.frames.run(first_fsn, max_frames, max_nbytes)
                stored = active.stored
            else:
                index = bisect_right(self._sealed, first_fsn, key=lambda segment: segment.base) - 1
                stored = self._sealed[index]
        return self._reader.run(stored, first_fsn, max_frames, max_nbytes)

    def acknowledge(self, fsn: int) -> bool:
        """Settles all frames up to ``fsn``; False, for the keeper is who frees room."""
        with self._lock:
            fsn = min(fsn, self.published_fsn)
            if fsn <= self.acked_fsn or self._closed:
                return False
            first_news = self.acked_fsn == self._watermark_fsn
            self.acked_fsn = fsn
        if first_news or self._blocked or self._can_trim():
            self._tell_keeper()
        return False

    # --- the keeper ---------------------------------------------------------------------------------

    def keep_due_millis(self, now_millis: int) -> int | None:
        """When `keep` has something to do; None when nothing is to be done."""
        return None if self._closed else self._chores.due_millis(now_millis)

    def keep(self, now_millis: int) -> bool:
        """Does what is due; True when an append that waits may be tried again.  Never raises for a disk."""
        with self._keep_lock:
            if self._closed:
                return False
            return self._chores.run(now_millis)

    def restart_dictionary(self) -> bool:
        """See `spool.store.Store`; False also while there is no segment to go on in.

        The frames first, an empty segment at the next FSN taking their place (watermark, directory, manifest,
        unlink, directory: slot.md 4), then the entries.  Cut short anywhere: a slot without a frame to send.
        """
        with self._keep_lock:
            if self._closed or self.acked_fsn < self.published_fsn:
                return False
            self.forget_room()  # an interrupt may have left one, and its bytes behind the last frame
            self._take_back_symbols()
            self._remove_settled()
            if self._active_file.frames.count and not self._begin_segment():
                return False
            self._remove_settled()
            log = self._slot.symbol_log
            if log is not None:
                self.symbols_ahead = -1
                try:
                    log.restart()
                finally:
                    self.symbols_ahead = self._symbols_stored()
            return True

    def _remove_settled(self) -> None:
        """Every sealed segment goes, whatever it takes; all of them are settled."""
        self._settle_rotation()
        self._close_retired()
        while self._can_trim():
            self._trim()
        self._remove_leftover()

    def _begin_segment(self) -> bool:
        """Goes on in an empty segment; False when the cap has no room for one."""
        if self._dirty_nbytes:  # zeros behind the last frame, before it is sealed
            self._clear_behind()
            self.active = None if self._frozen else self._active_file.frames
        if self._wants_spare():
            self._make_spare()
        return self._rotate()

    def check_slot(self) -> None:
        """Raises StorageError when the slot's path leads somewhere else by now: see `SlotLock.check`."""
        self._slot.lock.check()

    def stats(self) -> StoreStats:
        """A snapshot."""
        commit = self._commit
        with self._lock:
            return StoreStats(
                frames_unacked=self.published_fsn - self.acked_fsn,
                allocated_nbytes=self._allocated,
                total_nbytes_max=self._total_nbytes,
                segments=len(self._sealed) + 1,
                trouble=self._chores.trouble,
                failures=self._chores.failures,
                syncs=commit.syncs,
                sync_failures=commit.failures,
                last_sync_micros=commit.last_micros,
                sync_failure=self.sync_failure,
            )

    def _tell_keeper(self) -> None:
        if self.on_work is not None:
            self.on_work()

    def _settle_rotation(self) -> bool:
        promoted = self._unsynced
        if promoted is None:
            return False
        promoted.sync_header()
        self._slot.manifest.sync()
        self._unsynced = None
        return True

    def _close_retired(self) -> bool:
        with self._lock:
            retired, self._retired = self._retired, None
            if retired is None:
                return False
            if retired.frames.pins:
                self._pinned.append(retired.frames)
        retired.close()
        return True

    def _wants_spare(self) -> bool:
        return self._spare is None and self._may_grow() and (self._blocked or not self._is_bare())

    def _is_bare(self) -> bool:
        """Whether a new life has begun and has no frame yet: then a kill must not meet a spare that is half made.

        The official client takes it for a damaged segment, and beside one of those it believes no empty one.
        """
        active = self._active_file.frames
        return active.base > 0 and not active.count and not self._sealed

    def _may_grow(self) -> bool:
        """Whether the cap takes one more segment; also when all that is there is settled and will go.

        It may be larger than the cap, as found; what could not be removed is no such promise.
        """
        if self._allocated + self._segment_nbytes <= self._total_nbytes:
            return True
        goes = not self._sealed and not self._trimmer.leftover
        return self._blocked and goes and self.acked_fsn >= self.published_fsn

    def _make_spare(self) -> bool:
        self._slot.lock.check()
        with self._lock:
            base = self._active_file.frames.end_fsn  # a guess; rewritten at promotion
            name = segment_name(self._slot.next_generation)
            self._slot.next_generation += 1
        made = SegmentFile.create(
            self._files,
            self._slot.directory,
            name,
            nbytes=self._segment_nbytes,
            base=base,
            flags=layout.FLAG_MANIFEST_REQUIRED,
            created_micros=time.time_ns() // 1_000,
        )
        with self._lock:
            self._spare = made
            self._allocated += made.nbytes
        return True

    def _can_trim(self) -> bool:
        first = self._sealed[:1]  # a copy: the keeper may take it away just now
        return bool(first) and first[0].end_fsn - 1 <= self.acked_fsn

    def _trim(self) -> bool:
        """Takes fully acked sealed segments out, 64 at most, behind their barriers (slot.md 4; invariant 17)."""
        self._settle_rotation()
        self._close_retired()
        with self._lock:
            acked = self.acked_fsn
            count = 0
            while count < min(len(self._sealed), limits.TRIM_SEGMENTS_MAX) and self._sealed[count].end_fsn - 1 <= acked:
                count += 1
            batch = self._sealed[:count]
        if self._slot.symbol_log is not None:
            self._slot.symbol_log.sync()  # the frames that could give lost symbols back are about to go
        self._trimmer.make_watermark_durable(acked)
        self._watermark_fsn = acked
        with self._lock:
            active = self._active_file.frames.base
            head = self._sealed[count].base if count < len(self._sealed) else active
            self._slot.manifest.update(head, active, sync=False)
        self._slot.manifest.sync()
        with self._lock:
            del self._sealed[:count]
        self._trimmer.leftover.extend(batch)
        return False  # the files go next

    def _remove_leftover(self) -> bool:
        before = self._trimmer.removed_nbytes
        try:
            self._trimmer.remove_leftover()
        finally:
            freed = self._trimmer.removed_nbytes - before
            with self._lock:
                self._allocated -= freed
        return freed > 0

    def _store_watermark(self) -> bool:
        acked = self.acked_fsn
        self._slot.watermark.write(acked)
        self._watermark_fsn = acked
        return False

    def _is_full(self) -> bool:
        return self._blocked and self._untold and self._spare is None and not self._may_grow()

    def _log_full(self) -> bool:
        self._untold = False
        _LOG.warning(
            "the slot %s is full: %d of %d bytes, %d frames wait for their acknowledgement; appends wait for it",
            self._slot.directory,
            self._allocated,
            self._total_nbytes,
            self.published_fsn - self.acked_fsn,
        )
        return False

    # --- syncs: any thread ---------------------------------------------------------------------------

    def sync(self, fsn: int | None = None) -> None:
        """Everything published before the call, or up to ``fsn``, survives a power cut when this returns.

        One sync serves all who wait.  Raises StorageError, ``in_doubt``: the frames are queued all the same.
        """
        target = self.published_fsn if fsn is None else fsn
        try:
            if self._closed:
                raise StorageError(f"the slot {self._slot.directory} is closed")
            self._commit.cover(target)
        except StorageError:
            if not self._closed or self.acked_fsn < target:
                raise  # else it was closed meanwhile, and the server has what nobody synced

    def request_sync(self, fsn: int) -> None:
        """The keeper syncs up to ``fsn`` as soon as it is published."""
        self._wanted_fsn = max(fsn, self._wanted_fsn)
        self._tell_keeper()

    @property
    def sync_wanted(self) -> bool:
        """Whether somebody waits for a sync of a frame that none covers."""
        return self._wanted_fsn > self.synced_fsn

    @property
    def sync_failure(self) -> StorageError | None:
        """Why appends are refused, while the last sync has failed; always None with ``memory``."""
        failure = self._commit.failure
        return None if failure is None or not self._syncs else self._commit.error_of(failure)

    def _check_synced(self) -> None:
        failure = self.sync_failure
        if failure is not None:
            failure.in_doubt = False  # of this call nothing is queued
            raise failure

    def _proven(self, fsn: int) -> None:
        self.synced_fsn = fsn
        self.direct_nbytes_max = self._mapped_nbytes_max

    def _sync_failed(self) -> None:
        if self._syncs:
            self.direct_nbytes_max = 0  # so that every append asks `_reserve_slowly`, which refuses it

    def _sync_ended(self) -> None:
        if self.on_synced is not None:
            self.on_synced()
        if self._commit.failure is not None:
            self._tell_keeper()  # who tries again

    def _sync_active(self) -> None:
        """One sync of a mode that syncs: what no sync covers stands in the active segment (see `_rotate`)."""
        with self._lock:
            active = self._active_file
        if self._slot.symbol_log is not None:
            self._slot.symbol_log.sync()  # before the frames that use them (invariant 29)
        active.sync()

    def _sync_all(self) -> None:
        """One sync of ``memory``, where nobody has synced sealed segments."""
        with self._keep_lock:
            in_doubt, self._in_doubt = self._in_doubt, True  # see `syncing.Proof`
            with self._lock:
                sealed = [segment for segment in self._sealed if segment.end_fsn - 1 > self.synced_fsn]
                active = self._active_file
            if self._slot.symbol_log is not None:
                self._slot.symbol_log.sync()
            self._sync_sealed(sealed, again=in_doubt)
            active.sync()
            self._settle_rotation()
            self._in_doubt = False

    def _sync_sealed(self, sealed: list[StoredSegment], *, again: bool = False) -> None:
        for segment in sealed:
            file = self._files.open(segment.path)
            try:
                self._slot.lock.check()  # else it is a file of somebody else
                if again:
                    store_again(self._files, file, 0, segment.append_offset)
                self._files.sync(file)
            finally:
                self._files.close(file)

    def _sync_found(self) -> None:
        """Everything that was found is durable: data, then what makes it reachable."""
        self._sync_sealed(self._sealed)
        if self._slot.symbol_log is not None:
            self._slot.symbol_log.doubt()
        self._active_file.doubt()
        self._sync_active()
        self._slot.manifest.renew()
        self._files.sync_directory(self._slot.directory)
        sf_dir = os.path.join(self._slot.directory, os.pardir)  # holds the name of the slot
        self._files.sync_directory(sf_dir)
        self._sync_name(os.path.join(sf_dir, os.pardir))
        self._commit.synced_fsn = self.synced_fsn = self.published_fsn

    def _sync_name(self, above: str) -> None:
        """The name of sf_dir in the directory above it; who only may pass that one cannot sync it."""
        try:
            self._files.sync_directory(above)
        except StorageError as error:
            if error.errno not in FORBIDDEN:
                raise
            _LOG.warning(
                "the directory above sf_dir, %s, may not be read by this process, so it cannot sync the name of sf_dir "
                "there: right after somebody else made sf_dir a power cut could still take it away, until a 'sync'",
                os.path.normpath(above),
            )

    def _sync_chores(self, durability: Durability, interval_millis: int) -> list[Chore]:
        retry_millis = min(interval_millis, RETRY_MILLIS)
        chores = [
            Chore(
                "syncing what a caller waits for",
                lambda: self.synced_fsn < min(self._wanted_fsn, self.published_fsn),
                self._checkpoint,
                retry_millis=retry_millis,
            ),
            Chore(
                "syncing again",
                lambda: self._commit.failure is not None,
                self._checkpoint,
                delay_millis=retry_millis,
                retry_millis=retry_millis,
            ),
        ]
        if durability == "periodic":
            chores.append(
                Chore(
                    "the checkpoint",
                    lambda: self.synced_fsn < self.published_fsn,
                    self._checkpoint,
                    delay_millis=interval_millis,
                    retry_millis=retry_millis,
                )
            )
        return chores

    def _checkpoint(self) -> bool:
        self._commit.cover(self.published_fsn)
        return True  # an append may have been refused, and somebody may wait for this

    # --- the end ------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether `close` was called and its sync did not fail."""
        return self._closed

    def close(self, *, sync: bool = True) -> None:
        """Closes the slot, the lock last; a drained one leaves no file but the lock's.  A second call does nothing.

        Not with ``memory``, what is not acknowledged is synced before.  When that fails nothing is closed, the
        lock is still held, and calling again is right; ``sync=False`` closes without it.  Of all other steps every
        one is done whatever fails; then the first error is raised.
        """
        if sync and self._syncs and not self._closed and self.acked_fsn < self.published_fsn:
            self.sync()
        self._commit.close()
        with self._keep_lock:
            with self._lock:
                if self._closed:
                    return
                self._closed = True
                self.active = None
            drained = self.acked_fsn >= self.published_fsn and not self._frozen
            steps = [self._take_back_symbols, self._reader.close, self._clear_behind, self._settle]
            steps.append(self._collapse if drained else self._leave)
            steps += [f.close for f in (self._active_file, self._spare, self._retired) if f is not None]
            self._staging = None
            try:
                do_all(steps)
            except BaseException:
                with suppress(StorageError):
                    self._slot.close()
                raise
            self._slot.close(remove=self._remove_all if drained else None)

    def _settle(self) -> None:
        self._settle_rotation()

    def _clear_behind(self) -> None:
        if self._dirty_nbytes:
            self._active_file.clear_behind(self._dirty_nbytes)
            self._dirty_nbytes = 0

    def _collapse(self) -> None:
        self._trimmer.collapse(self.acked_fsn)

    def _remove_all(self) -> None:
        if self._spare is not None:  # first: it may have the base of the active one, and would pass for it
            self._slot.lock.check()
            self._files.unlink(self._spare.file.path)
        remove_drained(self._files, self._slot.directory, self._slot.lock)

    def _leave(self) -> None:
        """What stays is to be delivered by the next who opens the slot."""
        self._slot.lock.check()  # else nobody will find it there
        if self.acked_fsn > self._watermark_fsn:
            self._store_watermark()
        self._trimmer.remove_leftover()
