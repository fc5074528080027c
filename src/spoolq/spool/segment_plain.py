"""A segment, plain body: frames back to back behind a header (slot.md 2.2).

    0   u32 magic SF01 | u8 version | u8 flags | u16 zero
    8   i64 base: FSN of the first frame
    16  u64 creation time, microseconds since the epoch
    24  frames: u32 CRC-32C of length and payload | i32 length | payload

Order inside a frame: payload, length, CRC, then the frame counts.  Written by the producer, read by
the I/O thread up to ``count``.
"""

from __future__ import annotations

import struct
import time
from array import array
from typing import Final

from spoolq import limits
from spoolq.errors import StorageError
from spoolq.spool.crc import crc32c

HEADER: Final = struct.Struct("<IBBHqQ")
FRAME: Final = struct.Struct("<Ii")
LENGTH: Final = struct.Struct("<i")
MAGIC: Final = 0x31304653
VERSION: Final = 1


class Room:
    """Space for one payload; see `spool.store.Room`."""

    __slots__ = ("nbytes", "offset", "segment", "view")

    def __init__(self, segment: Segment, offset: int, nbytes: int) -> None:
        self.segment = segment
        self.offset = offset
        self.nbytes = nbytes
        start = offset + limits.FRAME_HEADER_BYTES
        self.view = memoryview(segment.data)[start : start + nbytes]


class Run:
    """Frames back to back; see `spool.store.Run`."""

    __slots__ = ("_segment", "data", "first_fsn", "last_fsn")

    def __init__(self, segment: Segment, first_fsn: int, last_fsn: int, start: int, end: int) -> None:
        segment.pins += 1
        self._segment: Segment | None = segment
        self.first_fsn = first_fsn
        self.last_fsn = last_fsn
        self.data = memoryview(segment.data)[start:end].toreadonly()

    def payloads(self) -> list[memoryview]:
        """The payload of each frame."""
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
        """Gives the segment free."""
        if self._segment is not None:
            self._segment.pins -= 1
            self._segment = None
            self.data.release()


class Segment:
    """One segment of fixed size."""

    __slots__ = ("_ends", "append_offset", "base", "count", "data", "pins")

    def __init__(self, base: int, nbytes: int) -> None:
        self.data = bytearray(nbytes)
        self.pins = 0
        self.reset(base)

    def reset(self, base: int) -> None:
        """Makes it empty, with a new base."""
        self.base = base
        self.count = 0
        self.append_offset = limits.SEGMENT_HEADER_BYTES
        self._ends = array("Q", [self.append_offset])
        HEADER.pack_into(self.data, 0, MAGIC, VERSION, 0, 0, base, time.time_ns() // 1_000)

    @property
    def nbytes(self) -> int:
        """Size of the segment, header included."""
        return len(self.data)

    @property
    def end_fsn(self) -> int:
        """FSN behind the last frame."""
        return self.base + self.count

    def reserve(self, nbytes: int) -> Room | None:
        """Room behind the last frame; None when it does not fit."""
        if self.append_offset + limits.FRAME_HEADER_BYTES + nbytes > len(self.data):
            return None
        return Room(self, self.append_offset, nbytes)

    def publish(self, room: Room) -> int:
        """Seals the frame in ``room`` and counts it; its FSN."""
        length = LENGTH.pack(room.nbytes)
        crc = crc32c(room.view, crc32c(length))
        room.view.release()
        self.data[room.offset : room.offset + 8] = struct.pack("<I", crc) + length
        self.append_offset = room.offset + limits.FRAME_HEADER_BYTES + room.nbytes
        self._ends.append(self.append_offset)
        self.count += 1  # last: from here on a reader may see the frame
        return self.base + self.count - 1

    def run(self, first_fsn: int, max_frames: int, max_nbytes: int) -> Run:
        """Frames from ``first_fsn``, at least one; it must be in this segment."""
        index = first_fsn - self.base
        start, last = self._ends[index], index
        end_index = min(self.count, index + max_frames)
        while last + 1 < end_index and self._ends[last + 2] - start <= max_nbytes:
            last += 1
        return Run(self, first_fsn, self.base + last, start, self._ends[last + 1])
