"""Frames in memory, plain body: the segment, its rooms and runs, and the producer's end of a store.

`segment_layout` draws the bytes.  The order of calls for one frame:

    room = appender.reserve(nbytes)      the length is stored
    room.view[:] = payload
    fsn = appender.publish(room)         the CRC is stored, then the frame counts, then `published_fsn`

A reader may take every frame up to `published_fsn`, by `Segment.run`.  One thread at a time appends
(it holds the sender's lock) and one takes and releases runs.

A room that is given up is cleared, so that nothing but zeros stands behind the last frame: a sealed
segment with a residue is refused by peers (slot.md 5.1, step 8).
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from itertools import pairwise
from typing import Any

from spoolq import limits
from spoolq.errors import StorageError
from spoolq.spool.crc import crc32c
from spoolq.spool.segment_layout import CRC, FRAME, LENGTH

_STALE = "this room is stale: it was published, abandoned or reserved over"


class Memory(bytearray):
    """Zeroed memory of a fixed size: ``Memory(nbytes)``."""

    __slots__ = ()


def live_native_bytes() -> int:
    """Memory that this body took outside of Python's own: none."""
    return 0


class Room:
    """Space for one payload at ``offset`` (of the frame) in a segment.

    ``memory`` is where the frame is put together: the segment's own memory, or for a `staged` room a
    buffer that begins with the frame and is written to the file afterwards.
    """

    __slots__ = ("memory", "nbytes", "offset", "segment", "staged", "view")

    def __init__(self, segment: Segment, offset: int, nbytes: int, memory: Any, *, staged: bool) -> None:
        self.segment = segment
        self.offset = offset
        self.nbytes = nbytes
        self.memory = memory
        self.staged = staged
        start = (0 if staged else offset) + limits.FRAME_HEADER_BYTES
        self.view = memoryview(memory)[start : start + nbytes]
        if offset < 0 or nbytes < 0 or len(self.view) != nbytes:
            raise ValueError(f"a room of {nbytes} bytes at {offset} leaves its memory")
        LENGTH.pack_into(memory, start - LENGTH.size, nbytes)

    def close(self) -> None:
        """Ends the writing.  (The compiled body raises BufferError while somebody holds a view of the view.)"""
        self.view.release()

    def seal(self) -> int:
        """Ends the writing and stores the CRC; what it is."""
        self.close()
        start = 0 if self.staged else self.offset
        with memoryview(self.memory) as whole:
            crc = crc32c(whole[start + CRC.size : start + limits.FRAME_HEADER_BYTES + self.nbytes])
        CRC.pack_into(self.memory, start, crc)
        return crc

    def clear(self) -> None:
        """Ends the writing; the bytes are zero again."""
        self.close()
        if not self.staged:
            end = self.offset + limits.FRAME_HEADER_BYTES + self.nbytes
            with memoryview(self.memory) as whole:
                whole[self.offset : end] = bytes(end - self.offset)


class Run:
    """Frames back to back: bytes ``start`` to ``end`` of ``memory``; see `spool.store.Run`.

    ``segment``, when given, counts it as a pin until `release`.
    """

    __slots__ = ("_segment", "data", "first_fsn", "last_fsn", "nbytes")

    def __init__(
        self, memory: Any, start: int, end: int, first_fsn: int, last_fsn: int, segment: Segment | None = None
    ) -> None:
        self.data = memoryview(memory)[start:end].toreadonly()
        self.nbytes = end - start
        if not 0 <= start < end or len(self.data) != self.nbytes:
            raise ValueError(f"bytes {start} to {end} are no run")
        self.first_fsn = first_fsn
        self.last_fsn = last_fsn
        self._segment = segment
        if segment is not None:
            segment.pins += 1

    def payloads(self) -> list[memoryview]:
        """The payload of each frame; lengths are checked again.  Raises StorageError."""
        found: list[memoryview] = []
        offset, end = 0, len(self.data)
        while offset < end:
            length = FRAME.unpack_from(self.data, offset)[1] if offset + limits.FRAME_HEADER_BYTES <= end else -1
            start = offset + limits.FRAME_HEADER_BYTES
            if length < 0 or start + length > end:
                raise StorageError(
                    f"the frame with FSN {self.first_fsn + len(found)} has the length {length}, which leaves its "
                    "segment; the memory of the spool was overwritten"
                )
            found.append(self.data[start : start + length])
            offset = start + length
        return found

    def release(self) -> None:
        """Gives the segment free; a second call does nothing."""
        if self._segment is not None:
            self._segment.pins -= 1
            self._segment = None
        self.data.release()


class Segment:
    """Where the frames of one segment stand: ``nbytes`` with the header, ``count`` frames from FSN ``base`` on.

    ``memory`` holds them (any writable buffer of that size) or is None when they are only in a file.
    ``ends`` are the offsets of frames that are there already: of the first one, then behind each.
    """

    __slots__ = ("_ends", "append_offset", "base", "count", "memory", "nbytes", "pins")

    def __init__(self, base: int, nbytes: int, memory: Any, ends: array[int] | None = None) -> None:
        if memory is not None and memoryview(memory).nbytes != nbytes:
            raise ValueError(f"a segment of {nbytes} bytes in other memory")
        self.memory = memory
        self.nbytes = nbytes
        self.pins = 0
        self.reset(base)
        if ends is not None:
            rising = all(end - start >= limits.FRAME_HEADER_BYTES for start, end in pairwise(ends))
            if ends[0] != limits.SEGMENT_HEADER_BYTES or ends[-1] > nbytes or not rising:
                raise ValueError("these ends are not of this segment")
            self._ends = array("Q", ends)
            self.append_offset = ends[-1]
            self.count = len(ends) - 1

    def reset(self, base: int) -> None:
        """Forgets all frames and begins with another base; the bytes stay what they are."""
        self.base = base
        self.count = 0
        self.append_offset = limits.SEGMENT_HEADER_BYTES
        self._ends = array("Q", [self.append_offset])

    @property
    def end_fsn(self) -> int:
        """FSN behind the last frame."""
        return self.base + self.count

    def fits(self, nbytes: int) -> bool:
        """Whether a payload of that size still fits."""
        return nbytes >= 0 and self.append_offset + limits.FRAME_HEADER_BYTES + nbytes <= self.nbytes

    def reserve(self, nbytes: int) -> Room | None:
        """Room behind the last frame, in memory; None when it does not fit."""
        if self.memory is None or not self.fits(nbytes):
            return None
        return Room(self, self.append_offset, nbytes, self.memory, staged=False)

    def publish(self, room: Room) -> int:
        """Seals the frame in ``room`` and counts it; its FSN."""
        if room.segment is not self or room.staged or room.offset != self.append_offset:
            raise StorageError(_STALE)
        room.seal()
        return self.count_frame(room.nbytes)

    def count_frame(self, nbytes: int) -> int:
        """A frame with ``nbytes`` of payload stands behind the last one now; its FSN."""
        if not self.fits(nbytes):
            raise StorageError(f"a frame of {nbytes} bytes behind {self.append_offset} leaves its segment")
        self.append_offset += limits.FRAME_HEADER_BYTES + nbytes
        self._ends.append(self.append_offset)
        self.count += 1  # last: from here on a reader may see the frame
        return self.base + self.count - 1

    def extent(self, first_fsn: int, max_frames: int, max_nbytes: int) -> tuple[int, int, int]:
        """Frames from ``first_fsn``, which must be here: (last FSN, offset of the first, offset behind the last)."""
        index = first_fsn - self.base
        if not 0 <= index < self.count:
            raise StorageError(f"FSN {first_fsn} is not in the segment of {self.base} to {self.end_fsn - 1}")
        start = self._ends[index]
        furthest = min(self.count, index + max(max_frames, 1))
        end_index = bisect_right(self._ends, start + max(max_nbytes, 0), index + 1, furthest + 1) - 1
        end_index = max(end_index, index + 1)
        return self.base + end_index - 1, start, self._ends[end_index]

    def run(self, first_fsn: int, max_frames: int, max_nbytes: int) -> Run:
        """Frames from ``first_fsn`` on, at least one, in this segment's memory."""
        last_fsn, start, end = self.extent(first_fsn, max_frames, max_nbytes)
        return Run(self.memory, start, end, first_fsn, last_fsn, self)

    def release(self) -> None:
        """Lets go of the memory."""
        self.memory = None


def walk(data: Any, offset: int, max_frames: int, max_nbytes: int) -> tuple[int, int]:
    """Whole frames in ``data`` from ``offset``: (how many, offset behind them).

    At most ``max_frames`` and ``max_nbytes``, but one when there is a whole one.  A length that is
    negative ends the walk, as does a frame that ends behind the data.
    """
    frames = 0
    start = offset
    with memoryview(data) as view:
        while frames < max_frames and offset + limits.FRAME_HEADER_BYTES <= len(view):
            length = FRAME.unpack_from(view, offset)[1]
            end = offset + limits.FRAME_HEADER_BYTES + length
            if length < 0 or end > len(view) or (frames and end - start > max_nbytes):
                break
            offset = end
            frames += 1
    return frames, offset


class Appender:
    """The producer's end of a store, and its watermarks.

    ``active`` takes appends; payloads up to ``direct_nbytes_max`` go straight into its memory.  What
    does not goes to the store by the two methods it defines:

    - ``_reserve_slowly(nbytes) -> Room | None``: a staged room, or rotate; raises FrameTooLarge;
    - ``_write_staged(room)``: store its bytes; it is counted behind that, with no place between for a Ctrl-C.

    ``symbols_ahead``: a frame that uses only ids below it needs nothing written ahead; -1 while none can be.
    """

    __slots__ = ("_room", "acked_fsn", "active", "direct_nbytes_max", "published_fsn", "symbols_ahead", "synced_fsn")

    def __init__(self, direct_nbytes_max: int, *, symbols_ahead: int = -1) -> None:
        self.active: Segment | None = None
        self.direct_nbytes_max = direct_nbytes_max
        self.symbols_ahead = symbols_ahead
        self._room: Room | None = None
        #: Newest frame that a reader may take; -1 when none.
        self.published_fsn = -1
        #: Newest frame that is settled; -1 when none.
        self.acked_fsn = -1
        #: Newest frame that survives a power cut; -1 when none.
        self.synced_fsn = -1

    def _reserve_slowly(self, nbytes: int) -> Room | None:
        raise TypeError(f"{type(self).__name__} has no _reserve_slowly for {nbytes} bytes")

    def _write_staged(self, room: Room) -> None:
        raise TypeError(f"{type(self).__name__} has no _write_staged for {room.nbytes} bytes")

    def reserve(self, nbytes: int) -> Room | None:
        """Room for a payload of ``nbytes``; None while the cap blocks."""
        self._forget_room()
        if self.active is not None and 0 < nbytes <= self.direct_nbytes_max:
            self._room = self.active.reserve(nbytes)
            if self._room is not None:
                return self._room
        self._room = self._reserve_slowly(nbytes)
        return self._room

    def publish(self, room: Room) -> int:
        """Stores the CRC, makes the frame visible, returns its FSN."""
        if room is not self._room or room.segment is not self.active:
            raise StorageError(_STALE)
        if room.staged:
            self._write_staged(room)
            fsn = room.segment.count_frame(room.nbytes)
        else:
            fsn = room.segment.publish(room)
        self._room = None
        self.published_fsn = fsn
        return fsn

    def abandon(self, room: Room) -> None:
        """Nothing happened."""
        if room is self._room:
            self._forget_room()

    def forget_room(self) -> None:
        """A room that was neither published nor abandoned is zero again."""
        self._forget_room()

    def _forget_room(self) -> None:
        if self._room is not None:
            self._room.clear()
            self._room = None
