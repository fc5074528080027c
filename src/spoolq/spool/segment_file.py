"""One segment file that takes appends, or is about to (slot.md 2.2).

    made = SegmentFile.create(files, directory, name, ...)    a spare, or the first of a slot
    made.promote(base)                                        it will be the active one
    made.frames                                               what stands in it: `Segment`
    made.close()                                              sealed: its file stays

Small frames are put together in the mapping, where it gives memory; larger ones, and all of them on
the plain body, in a buffer that `write_staged` writes (a fresh page costs more than a `pwrite`).
The CRC is written last, so a frame that was cut short is none.

`sync` proves the frames: after one that failed the next writes again what stands behind the last proof.

Owned by `DiskStore`.  A creation that fails leaves no descriptor, no mapping and no file.
"""

from __future__ import annotations

import os
import struct
from array import array
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from spoolq import limits
from spoolq.errors import StorageError
from spoolq.spool import segment_layout as layout
from spoolq.spool.crc import crc32c
from spoolq.spool.files import File, Files, take_back
from spoolq.spool.mapping import Mapping
from spoolq.spool.segment import Memory, Room, Segment
from spoolq.spool.syncing import Proof

_BASE: Final = struct.Struct("<q")
_CHUNK_BYTES: Final = 256 << 10


@dataclass(slots=True)
class StoredSegment:
    """A segment of a chain, as it stands on disk: ``nbytes`` is the file's length."""

    path: str
    base: int
    count: int
    append_offset: int
    nbytes: int

    @property
    def end_fsn(self) -> int:
        """FSN behind the last frame."""
        return self.base + self.count


class SegmentFile:
    """An open, mapped segment with its frames."""

    __slots__ = ("_files", "_header_proof", "_mapping", "_proof", "_proven_offset", "file", "frames", "nbytes")

    def __init__(self, files: Files, file: File, mapping: Mapping, frames: Segment) -> None:
        self._files = files
        self._mapping: Mapping | None = mapping
        self._proof = Proof()
        self._header_proof = Proof()
        self._proven_offset = 0
        self.file = file
        self.frames = frames
        self.nbytes = frames.nbytes

    @classmethod
    def create(
        cls, files: Files, directory: str, name: str, *, nbytes: int, base: int, flags: int, created_micros: int
    ) -> SegmentFile:
        """Makes a segment without frames: blocks, header and name are durable, every page is there."""
        path = os.path.join(directory, name)
        file = files.create(path)
        try:
            files.reserve(file, nbytes)
            files.write(file, 0, layout.header(base, flags=flags, created_micros=created_micros))
            files.sync_all(file)
            files.sync_directory(directory)
            return cls._mapped(files, file, nbytes, base, None)
        except BaseException:
            with suppress(StorageError):
                take_back(files, file)
            raise

    @classmethod
    def open(cls, files: Files, stored: StoredSegment) -> SegmentFile:
        """Opens the active segment of a slot that was there; its blocks are reserved again."""
        file = files.open(stored.path)
        try:
            files.reserve(file, stored.nbytes)
            return cls._mapped(files, file, stored.nbytes, stored.base, _frame_ends(files, file, stored.append_offset))
        except BaseException:
            with suppress(StorageError):
                files.close(file)
            raise

    @classmethod
    def _mapped(cls, files: Files, file: File, nbytes: int, base: int, ends: array[int] | None) -> SegmentFile:
        mapping = files.map(file, nbytes)
        try:
            files.populate(file, mapping)
            frames = Segment(base, nbytes, mapping if mapping.direct else None, ends)
        except BaseException:
            with suppress(StorageError):
                files.unmap(file, mapping)
            raise
        return cls(files, file, mapping, frames)

    @property
    def stored(self) -> StoredSegment:
        """What a reader of the file needs."""
        frames = self.frames
        return StoredSegment(self.file.path, frames.base, frames.count, frames.append_offset, self.nbytes)

    @property
    def direct(self) -> bool:
        """Whether the frames are in memory."""
        return self._mapping is not None and self._mapping.direct

    def promote(self, base: int) -> None:
        """Stores the base; durable after `sync_header`."""
        self._files.write(self.file, layout.BASE_OFFSET, _BASE.pack(base))
        self.frames.reset(base)

    def set_flags(self, flags: int) -> None:
        """Stores the flags; durable after `sync_header`."""
        self._files.write(self.file, layout.FLAGS_OFFSET, bytes([flags]))

    def sync_header(self) -> None:
        """The header's page is durable when this returns; frames need not be."""
        mapping = self._mapping
        assert mapping is not None, "a closed segment is not promoted"
        self._header_proof.sync(
            lambda: self._files.sync_mapped(self.file, mapping, 0, limits.SEGMENT_HEADER_BYTES),
            self._store_header_again,
        )

    def sync(self) -> None:
        """Every frame that was counted before the call is durable when this returns; by one thread at a time."""
        end = self.frames.append_offset
        self._proof.sync(lambda: self._files.sync(self.file), self._store_again)
        self._proven_offset = end

    def doubt(self) -> None:
        """The next `sync` writes all frames again: see `Proof.doubt`."""
        self._proof.doubt()

    def _store_header_again(self) -> None:
        store_again(self._files, self.file, 0, limits.SEGMENT_HEADER_BYTES)

    def _store_again(self) -> None:
        store_again(self._files, self.file, self._proven_offset, self.frames.append_offset)

    def room(self, nbytes: int, staging: Memory | None) -> Room | None:
        """Room behind the last frame: in ``staging`` when there is one, else in memory."""
        if staging is None:
            return self.frames.reserve(nbytes)
        return Room(self.frames, self.frames.append_offset, nbytes, staging, staged=True)

    def write_staged(self, room: Room) -> None:
        """Writes a staged frame, its CRC last; it is not counted yet.  A failure leaves `clear_behind` to do."""
        room.seal()
        with memoryview(room.memory) as frame:
            end = limits.FRAME_HEADER_BYTES + room.nbytes
            self._files.write(self.file, room.offset + layout.CRC.size, frame[layout.CRC.size : end])
            self._files.write(self.file, room.offset, frame[: layout.CRC.size])

    def clear_behind(self, nbytes: int) -> None:
        """Zeros over what a failed append may have left: that many bytes behind the last frame."""
        offset = self.frames.append_offset
        self._files.write(self.file, offset, bytes(min(nbytes, self.nbytes - offset)))

    def close(self) -> None:
        """Gives mapping and descriptor back.  While a run still reads there (`frames.pins`) its end unmaps."""
        self.frames.release()
        mapping, self._mapping = self._mapping, None
        try:
            if mapping is not None:
                self._files.unmap(self.file, mapping)
        except BufferError:
            pass
        finally:
            self._files.close(self.file)


def store_again(files: Files, file: File, offset: int, end: int) -> None:
    """Header and frames from ``offset`` to ``end``, both where a frame begins, as they are read back.

    Checked, for a filesystem may drop what it could not write; then StorageError.
    """
    if offset < limits.SEGMENT_HEADER_BYTES:
        files.write(file, 0, files.read(file, 0, limits.SEGMENT_HEADER_BYTES))
        offset = limits.SEGMENT_HEADER_BYTES
    while offset < end:
        piece = files.read(file, offset, min(_CHUNK_BYTES, end - offset))
        whole = _whole_frames(piece)
        if not whole and len(piece) == _CHUNK_BYTES:  # one frame that is larger than a piece
            length = layout.FRAME.unpack_from(piece, 0)[1]
            piece = files.read(file, offset, min(limits.FRAME_HEADER_BYTES + max(length, 0), end - offset))
            whole = _whole_frames(piece)
        if not whole:
            raise StorageError(
                f"{file.path} lost the frame at offset {offset} when a sync failed: it may have been delivered, "
                "but it is not on the disk; replace the disk",
                filename=file.path,
            )
        files.write(file, offset, memoryview(piece)[:whole])
        offset += whole


def _whole_frames(piece: bytes) -> int:
    """How many bytes of ``piece`` are whole frames with a good CRC."""
    offset = 0
    view = memoryview(piece)
    while offset + limits.FRAME_HEADER_BYTES <= len(piece):
        crc, length = layout.FRAME.unpack_from(piece, offset)
        end = offset + limits.FRAME_HEADER_BYTES + length
        if length < 0 or end > len(piece) or crc32c(view[offset + layout.CRC.size : end]) != crc:
            break
        offset = end
    return offset


def _frame_ends(files: Files, file: File, append_offset: int) -> array[int]:
    """Offsets of the first frame and behind each, up to ``append_offset``, which recovery has proven.

    Raises StorageError when that does not hold any more.
    """
    ends = array("Q", [limits.SEGMENT_HEADER_BYTES])
    while ends[-1] < append_offset:
        start = ends[-1]
        chunk = files.read(file, start, min(_CHUNK_BYTES, append_offset - start))
        while ends[-1] - start + limits.FRAME_HEADER_BYTES <= len(chunk):
            length = layout.FRAME.unpack_from(chunk, ends[-1] - start)[1]
            if length < 0:
                break
            ends.append(ends[-1] + limits.FRAME_HEADER_BYTES + length)
        if ends[-1] == start:
            break
    if ends[-1] != append_offset:
        raise StorageError(
            f"{file.path} was changed while it was being opened: its frames ended at byte {append_offset} and do not "
            "any more; look for another program that writes there, and open the slot again",
            filename=file.path,
        )
    return ends
