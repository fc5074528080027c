"""Runs of frames from segment files that are not mapped, by positioned reads.

However long the backlog, one descriptor and one buffer a run are all it takes.  Frames are asked for
in order, so the place behind the last run is kept; any other place is found by walking the lengths
from the segment's start, once.

A file is opened by its path, behind which `SlotLock.check` tells that it is one of this slot.

Used by the I/O thread (`run`) and the keeper (`forget`, when a file is removed); guarded by its own lock.
"""

from __future__ import annotations

import threading
from typing import Final

from spoolq import limits
from spoolq.errors import StorageError
from spoolq.spool import segment_layout as layout
from spoolq.spool.files import File, Files
from spoolq.spool.lock import SlotLock
from spoolq.spool.segment import Run, walk
from spoolq.spool.segment_file import StoredSegment

_WALK_BYTES: Final = 256 << 10


class SealedReader:
    """Keeps one file open and one place in it."""

    def __init__(self, files: Files, lock: SlotLock) -> None:
        self._files = files
        self._slot_lock = lock
        self._lock = threading.Lock()
        self._file: File | None = None
        self._fsn = -1  # the frame that starts at `_offset` of `_file`
        self._offset = 0

    def run(self, segment: StoredSegment, first_fsn: int, max_frames: int, max_nbytes: int) -> Run:
        """Frames of ``segment`` from ``first_fsn``, which must be in it, at least one.  Raises StorageError."""
        with self._lock:
            self._open(segment)
            self._seek(segment, first_fsn)
            max_frames = max(1, min(max_frames, segment.end_fsn - first_fsn))
            data = self._read(segment, max_nbytes)
            frames, end = walk(data, 0, max_frames, max_nbytes)
            if frames == 0:
                raise self._damaged(segment)
            self._fsn += frames
            self._offset += end
            return Run(data, 0, end, first_fsn, first_fsn + frames - 1)

    def forget(self, path: str) -> None:
        """Closes the file when it is that one."""
        with self._lock:
            if self._file is not None and self._file.path == path:
                self._close()

    def close(self) -> None:
        """Gives the descriptor back; a second call does nothing."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            self._files.close(file)

    def _open(self, segment: StoredSegment) -> None:
        if self._file is None or self._file.path != segment.path:
            self._close()
            self._file = self._files.open(segment.path, write=False)
            self._fsn, self._offset = segment.base, limits.SEGMENT_HEADER_BYTES
            try:
                self._slot_lock.check()  # else these are the frames of somebody else
            except BaseException:
                self._close()
                raise

    def _seek(self, segment: StoredSegment, fsn: int) -> None:
        """Walks to the frame ``fsn``, from where the last run ended when that is on the way."""
        assert self._file is not None
        if fsn < self._fsn:
            self._fsn, self._offset = segment.base, limits.SEGMENT_HEADER_BYTES
        while self._fsn < fsn:
            data = self._read(segment, _WALK_BYTES)
            frames, end = walk(data, 0, fsn - self._fsn, len(data))
            if frames == 0:
                raise self._damaged(segment)
            self._fsn += frames
            self._offset += end

    def _read(self, segment: StoredSegment, max_nbytes: int) -> bytearray:
        """Up to ``max_nbytes`` from the place on, but the whole next frame."""
        assert self._file is not None
        left = segment.append_offset - self._offset
        head = self._files.read(self._file, self._offset, min(left, limits.FRAME_HEADER_BYTES))
        if len(head) < limits.FRAME_HEADER_BYTES:
            raise self._damaged(segment)
        first = limits.FRAME_HEADER_BYTES + max(layout.FRAME.unpack(head)[1], 0)
        data = bytearray(min(left, max(first, max_nbytes)))
        if self._files.read_into(self._file, self._offset, memoryview(data)) < len(data):
            raise self._damaged(segment)
        return data

    def _damaged(self, segment: StoredSegment) -> StorageError:
        return StorageError(
            f"{segment.path} was changed while this process had it: there is no frame with FSN {self._fsn} at byte "
            f"{self._offset}; close the sender, keep a copy of the slot and look for another program that writes there"
        )
