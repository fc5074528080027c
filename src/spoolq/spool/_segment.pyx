"""Frames in memory, compiled body; `segment_plain` says what each name does and in which order.

Small frames are checksummed by the CPU's instruction (crc32c.h), larger ones by fastcrc.  The frame
count and the watermarks are C11 atomics (marks.h): who loads one sees every byte stored before it.
A run keeps its memory by a buffer, so a mapping cannot be taken away below it.
"""

from cpython.buffer cimport (
    PyBUF_READ,
    PyBUF_SIMPLE,
    PyBUF_WRITABLE,
    PyBuffer_FillInfo,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.memoryview cimport PyMemoryView_FromMemory, PyMemoryView_FromObject
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset

cimport cython

from fastcrc.crc32 import iscsi

from spoolq.errors import StorageError

cdef extern from "spoolq/spool/crc32c.h" nogil:
    void spoolq_crc_init()
    uint32_t spoolq_crc32c(const unsigned char* data, size_t nbytes, uint32_t crc)

spoolq_crc_init()

cdef Py_ssize_t HEADER_NBYTES = 24
cdef Py_ssize_t FRAME_NBYTES = 8
cdef Py_ssize_t CRC_NBYTES = 4
cdef Py_ssize_t LARGE_NBYTES = 2048  # from here on fastcrc is faster, its call included
cdef Py_ssize_t PAYLOAD_NBYTES_MAX = 0x7FFFFFFF

cdef int64_t live = 0
cdef str STALE = "this room is stale: it was published, abandoned or reserved over"


cdef inline int32_t _length_at(const unsigned char* frame) noexcept nogil:
    cdef int32_t length
    memcpy(&length, frame + 4, 4)
    return length


cdef int _seal_frame(unsigned char* frame, Py_ssize_t nbytes) except -1:
    """Stores the CRC of a frame whose length and payload are there."""
    cdef uint32_t crc
    if 4 + nbytes < LARGE_NBYTES:
        crc = spoolq_crc32c(frame + CRC_NBYTES, 4 + nbytes, 0)
    else:
        crc = spoolq_crc32c(frame + CRC_NBYTES, 4, 0)
        crc = iscsi(PyMemoryView_FromMemory(<char*>frame + FRAME_NBYTES, nbytes, PyBUF_READ), crc)
    spoolq_stores_in_order()
    memcpy(frame, &crc, 4)
    return 0


def live_native_bytes():
    """Memory that this body holds outside of Python's own."""
    return live


cdef class Memory:
    """Zeroed memory of a fixed size."""

    def __cinit__(self, Py_ssize_t nbytes):
        global live
        if nbytes < 1:
            raise ValueError("memory has at least one byte")
        self.start = <unsigned char*>calloc(nbytes, 1)
        if self.start == NULL:
            raise MemoryError(f"no memory for a segment of {nbytes} bytes")
        self.nbytes = nbytes
        live += nbytes

    def __dealloc__(self):
        global live
        if self.start != NULL:
            free(self.start)
            live -= self.nbytes

    def __len__(self):
        return self.nbytes

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.start, self.nbytes, 0, flags)


@cython.freelist(16)
@cython.no_gc_clear  # which would drop a buffer without releasing it
@cython.final
cdef class Room:
    """Space for one payload; exports a writable buffer of just that."""

    def __init__(self, Segment segment not None, Py_ssize_t offset, Py_ssize_t nbytes, memory, *, bint staged):
        cdef Py_ssize_t first = 0 if staged else offset
        cdef int32_t length = <int32_t>nbytes
        if self.segment is not None:
            raise TypeError("a room is made once")
        if nbytes < 0 or nbytes > PAYLOAD_NBYTES_MAX or offset < 0:
            raise ValueError(f"no room of {nbytes} bytes at {offset}")
        if not staged and memory is segment.memory and segment.start != NULL:
            if first + FRAME_NBYTES + nbytes > segment.nbytes:
                raise ValueError(f"a room of {nbytes} bytes at {offset} leaves its segment")
            self.frame = segment.start + first
        else:
            PyObject_GetBuffer(memory, &self.source, PyBUF_WRITABLE)
            if first + FRAME_NBYTES + nbytes > self.source.len:
                raise ValueError(f"a room of {nbytes} bytes at {offset} leaves its memory")
            self.frame = <unsigned char*>self.source.buf + first
        self.segment = segment
        self.offset = offset
        self.nbytes = nbytes
        self.memory = memory
        self.staged = staged
        memcpy(self.frame + CRC_NBYTES, &length, 4)

    def __dealloc__(self):
        PyBuffer_Release(&self.source)  # does nothing when there is none

    @property
    def view(self):
        """Writable, of just the payload; the same object each time."""
        if self.frame == NULL and self.handed_out is None:
            raise ValueError("operation forbidden on a released room")
        if self.handed_out is None:
            self.handed_out = PyMemoryView_FromObject(self)
        return self.handed_out

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        if self.frame == NULL:
            raise BufferError(STALE)
        PyBuffer_FillInfo(buffer, self, self.frame + FRAME_NBYTES, self.nbytes, 0, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer* buffer):
        self.exports -= 1

    cdef int _close(self) except -1:
        if self.handed_out is not None:
            self.handed_out.release()
        if self.exports:
            raise BufferError("the payload of this room is still being written")
        return 0

    cdef int _seal(self) except -1:
        if self.frame == NULL:
            raise StorageError(STALE)
        self._close()
        return _seal_frame(self.frame, self.nbytes)

    cdef int _clear(self) except -1:
        self._close()
        if self.frame != NULL and not self.staged:
            memset(self.frame, 0, FRAME_NBYTES + self.nbytes)
        self.frame = NULL
        return 0

    def close(self):
        self._close()

    def seal(self):
        cdef uint32_t crc
        self._seal()
        memcpy(&crc, self.frame, 4)
        return crc

    def clear(self):
        self._clear()


cdef Room _direct_room(Segment segment, Py_ssize_t nbytes):
    """`Room` behind the last frame of a segment that has memory and where it fits; without the checks again."""
    cdef Room room = Room.__new__(Room)
    cdef int32_t length = <int32_t>nbytes
    room.segment = segment
    room.offset = segment.append_offset
    room.nbytes = nbytes
    room.memory = segment.memory
    room.frame = segment.start + segment.append_offset
    memcpy(room.frame + CRC_NBYTES, &length, 4)
    return room


@cython.no_gc_clear
@cython.final
cdef class Run:
    """Frames back to back in memory that stays until `release`."""

    def __cinit__(
        self, memory, Py_ssize_t start, Py_ssize_t end, int64_t first_fsn, int64_t last_fsn, Segment segment=None
    ):
        PyObject_GetBuffer(memory, &self.source, PyBUF_SIMPLE)
        if not 0 <= start < end <= self.source.len:
            raise ValueError(f"bytes {start} to {end} are no run")
        self.start = <const unsigned char*>self.source.buf + start
        self.offset = start
        self.nbytes = end - start
        self.first_fsn = first_fsn
        self.last_fsn = last_fsn
        self.segment = segment
        if segment is not None:
            segment.pins += 1

    def __dealloc__(self):
        self._release()

    cdef void _release(self) noexcept:
        self.start = NULL
        if self.segment is not None:
            self.segment.pins -= 1
            self.segment = None
        PyBuffer_Release(&self.source)  # does nothing when there is none

    @property
    def data(self):
        """The stored frames, read-only."""
        if self.start == NULL:
            raise ValueError("operation forbidden on a released run")
        return PyMemoryView_FromObject(self.source.obj).cast("B")[self.offset : self.offset + self.nbytes].toreadonly()

    def payloads(self):
        """The payload of each frame; lengths are checked again."""
        cdef Py_ssize_t offset = 0
        cdef int32_t length
        cdef list found = []
        data = self.data
        while offset < self.nbytes:
            length = _length_at(self.start + offset) if offset + FRAME_NBYTES <= self.nbytes else -1
            if length < 0 or offset + FRAME_NBYTES + length > self.nbytes:
                raise StorageError(
                    f"the frame with FSN {self.first_fsn + len(found)} has the length {length}, which leaves its "
                    "segment; the memory of the spool was overwritten"
                )
            found.append(data[offset + FRAME_NBYTES : offset + FRAME_NBYTES + length])
            offset += FRAME_NBYTES + length
        return found

    def release(self):
        """Gives the segment free; a second call does nothing."""
        self._release()


@cython.no_gc_clear
@cython.final
cdef class Segment:
    """Where the frames of one segment stand."""

    def __cinit__(self, int64_t base, Py_ssize_t nbytes, memory, ends=None):
        if memory is not None:
            PyObject_GetBuffer(memory, &self.source, PyBUF_WRITABLE)
            if self.source.len != nbytes:
                raise ValueError(f"a segment of {nbytes} bytes in other memory")
            self.start = <unsigned char*>self.source.buf
        self.memory = memory
        self.nbytes = nbytes
        self._grow_ends(0)
        self.reset(base)
        if ends is not None:
            self._adopt(ends)

    def __dealloc__(self):
        global live
        if self.ends != NULL:
            free(self.ends)
            live -= self.ends_room * sizeof(uint64_t)
        PyBuffer_Release(&self.source)  # does nothing when there is none

    def _adopt(self, ends):
        cdef Py_ssize_t index, count = len(ends) - 1
        if ends[0] != HEADER_NBYTES or ends[count] > self.nbytes:
            raise ValueError("these ends are not of this segment")
        self._grow_ends(count)
        for index in range(count + 1):
            self.ends[index] = ends[index]
            if index and self.ends[index] < self.ends[index - 1] + FRAME_NBYTES:
                raise ValueError("these ends are not of this segment")
        self.append_offset = self.ends[count]
        spoolq_mark_store(&self.frames, count)

    cdef int _grow_ends(self, Py_ssize_t frames) except -1:
        """Makes room for the ends of that many frames."""
        global live
        cdef Py_ssize_t room
        cdef uint64_t* grown
        if frames + 1 <= self.ends_room:
            return 0
        room = max(frames + 1, 2 * self.ends_room, 64)
        grown = <uint64_t*>realloc(self.ends, room * sizeof(uint64_t))
        if grown == NULL:
            raise MemoryError(f"no memory for the ends of {room} frames")
        live += (room - self.ends_room) * <Py_ssize_t>sizeof(uint64_t)
        self.ends = grown
        self.ends_room = room
        return 0

    def reset(self, int64_t base):
        """Forgets all frames and begins with another base; the bytes stay what they are."""
        self.base = base
        spoolq_mark_store(&self.frames, 0)
        self.append_offset = HEADER_NBYTES
        self.ends[0] = HEADER_NBYTES

    @property
    def count(self):
        """Frames that a reader may take."""
        return spoolq_mark_load(&self.frames)

    @property
    def end_fsn(self):
        """FSN behind the last frame."""
        return self.base + spoolq_mark_load(&self.frames)

    cdef bint _fits(self, Py_ssize_t nbytes) noexcept:
        return 0 <= nbytes <= PAYLOAD_NBYTES_MAX and self.append_offset + FRAME_NBYTES + nbytes <= self.nbytes

    def fits(self, Py_ssize_t nbytes):
        """Whether a payload of that size still fits."""
        return self._fits(nbytes)

    def reserve(self, Py_ssize_t nbytes):
        """Room behind the last frame, in memory; None when it does not fit."""
        if self.start == NULL or not self._fits(nbytes):
            return None
        return _direct_room(self, nbytes)

    cdef int64_t _publish(self, Room room) except -1:
        if room.segment is not self or room.staged or room.offset != self.append_offset or self.start == NULL:
            raise StorageError(STALE)
        self._grow_ends(spoolq_mark_load(&self.frames) + 1)  # what can fail, before the frame is there
        room._seal()
        room.frame = NULL
        return self._count_frame(room.nbytes)

    def publish(self, Room room not None):
        """Seals the frame in ``room`` and counts it; its FSN."""
        return self._publish(room)

    cdef int64_t _count_frame(self, Py_ssize_t nbytes) except -1:
        cdef int64_t count = spoolq_mark_load(&self.frames)
        if not self._fits(nbytes):
            raise StorageError(f"a frame of {nbytes} bytes behind {self.append_offset} leaves its segment")
        self._grow_ends(count + 1)
        self.append_offset += FRAME_NBYTES + nbytes
        self.ends[count + 1] = self.append_offset
        spoolq_mark_store(&self.frames, count + 1)  # last: from here on a reader may see the frame
        return self.base + count

    def count_frame(self, Py_ssize_t nbytes):
        """A frame with ``nbytes`` of payload stands behind the last one now; its FSN."""
        return self._count_frame(nbytes)

    cdef int _extent(self, int64_t first_fsn, Py_ssize_t max_frames, Py_ssize_t max_nbytes,
                     int64_t* last_fsn, Py_ssize_t* first, Py_ssize_t* end) except -1:
        cdef int64_t index = first_fsn - self.base
        cdef int64_t count = spoolq_mark_load(&self.frames)
        cdef int64_t low, high, middle
        cdef uint64_t furthest
        if not 0 <= index < count:
            raise StorageError(f"FSN {first_fsn} is not in the segment of {self.base} to {self.base + count - 1}")
        furthest = self.ends[index] + <uint64_t>max(max_nbytes, 0)
        low = index + 1
        high = min(count, index + max(max_frames, 1))
        while low < high:  # the last end that is not behind `furthest`, and at least one frame
            middle = (low + high + 1) // 2
            if self.ends[middle] <= furthest:
                low = middle
            else:
                high = middle - 1
        last_fsn[0] = self.base + low - 1
        first[0] = self.ends[index]
        end[0] = self.ends[low]
        return 0

    def extent(self, int64_t first_fsn, Py_ssize_t max_frames, Py_ssize_t max_nbytes):
        """Frames from ``first_fsn``: (last FSN, offset of the first, offset behind the last)."""
        cdef int64_t last_fsn
        cdef Py_ssize_t first, end
        self._extent(first_fsn, max_frames, max_nbytes, &last_fsn, &first, &end)
        return last_fsn, first, end

    def run(self, int64_t first_fsn, Py_ssize_t max_frames, Py_ssize_t max_nbytes):
        """Frames from ``first_fsn`` on, at least one, in this segment's memory."""
        cdef int64_t last_fsn
        cdef Py_ssize_t first, end
        self._extent(first_fsn, max_frames, max_nbytes, &last_fsn, &first, &end)
        return Run(self.memory, first, end, first_fsn, last_fsn, self)

    def release(self):
        """Lets go of the memory."""
        self.start = NULL
        self.memory = None
        PyBuffer_Release(&self.source)  # does nothing when there is none


def walk(data, Py_ssize_t offset, Py_ssize_t max_frames, Py_ssize_t max_nbytes):
    """Whole frames in ``data`` from ``offset``: (how many, offset behind them)."""
    cdef Py_buffer source
    cdef Py_ssize_t frames = 0, start = offset, end
    cdef int32_t length
    cdef const unsigned char* at
    if offset < 0:
        raise ValueError("a walk starts inside the data")
    PyObject_GetBuffer(data, &source, PyBUF_SIMPLE)
    try:
        at = <const unsigned char*>source.buf
        with nogil:
            while frames < max_frames and offset + FRAME_NBYTES <= source.len:
                length = _length_at(at + offset)
                end = offset + FRAME_NBYTES + length
                if length < 0 or end > source.len or (frames and end - start > max_nbytes):
                    break
                offset = end
                frames += 1
    finally:
        PyBuffer_Release(&source)
    return frames, offset


cdef class Appender:
    """The producer's end of a store, and its watermarks."""

    def __init__(self, Py_ssize_t direct_nbytes_max, *, Py_ssize_t symbols_ahead=-1):
        self.direct_nbytes_max = direct_nbytes_max
        self.symbols_ahead = symbols_ahead
        spoolq_mark_store(&self.marks.published, -1)
        spoolq_mark_store(&self.marks.acked, -1)
        spoolq_mark_store(&self.marks.synced, -1)

    @property
    def published_fsn(self):
        """Newest frame that a reader may take; -1 when none."""
        return spoolq_mark_load(&self.marks.published)

    @published_fsn.setter
    def published_fsn(self, int64_t fsn):
        spoolq_mark_store(&self.marks.published, fsn)

    @property
    def acked_fsn(self):
        """Newest frame that is settled; -1 when none."""
        return spoolq_mark_load(&self.marks.acked)

    @acked_fsn.setter
    def acked_fsn(self, int64_t fsn):
        spoolq_mark_store(&self.marks.acked, fsn)

    @property
    def synced_fsn(self):
        """Newest frame that survives a power cut; -1 when none."""
        return spoolq_mark_load(&self.marks.synced)

    @synced_fsn.setter
    def synced_fsn(self, int64_t fsn):
        spoolq_mark_store(&self.marks.synced, fsn)

    def _reserve_slowly(self, nbytes):
        raise TypeError(f"{type(self).__name__} has no _reserve_slowly for {nbytes} bytes")

    def _write_staged(self, room):
        raise TypeError(f"{type(self).__name__} has no _write_staged for {room.nbytes} bytes")

    def reserve(self, Py_ssize_t nbytes):
        """Room for a payload of ``nbytes``; None while the cap blocks."""
        if self.room is not None:
            self._forget_room()
        if self.active is not None and 0 < nbytes <= self.direct_nbytes_max:
            if self.active.start != NULL and self.active._fits(nbytes):
                self.room = _direct_room(self.active, nbytes)
                return self.room
        self.room = self._reserve_slowly(nbytes)
        return self.room

    def publish(self, Room room not None):
        """Stores the CRC, makes the frame visible, returns its FSN."""
        cdef int64_t fsn
        if room is not self.room or room.segment is not self.active:
            raise StorageError(STALE)
        if room.staged:  # counted here, where no signal is looked at: a Ctrl-C finds the frame published or not there
            room.segment._grow_ends(spoolq_mark_load(&room.segment.frames) + 1)  # what can fail, before it is there
            self._write_staged(room)
            fsn = room.segment._count_frame(room.nbytes)
        else:
            fsn = room.segment._publish(room)
        self.room = None
        spoolq_mark_store(&self.marks.published, fsn)
        return fsn

    def abandon(self, room):
        """Nothing happened."""
        if room is self.room and room is not None:
            self._forget_room()

    def forget_room(self):
        """A room that was neither published nor abandoned is zero again."""
        if self.room is not None:
            self._forget_room()

    cdef int _forget_room(self) except -1:
        self.room._clear()
        self.room = None
        return 0

    # -- the short way of compiled code, without a `Room`: between the two calls nothing else is called --
    cdef unsigned char* _direct_place(self, Py_ssize_t nbytes) except? NULL:
        """Where a payload may be written now, its length stored before it; NULL when only `reserve` can make room.

        Takes nothing: behind it comes `_publish_direct` or `_clear_direct`.
        """
        cdef Segment active = self.active
        cdef unsigned char* frame
        cdef int32_t length
        if self.room is not None or active is None or not 0 < nbytes <= self.direct_nbytes_max:
            return NULL
        if active.start == NULL or not active._fits(nbytes):
            return NULL
        active._grow_ends(spoolq_mark_load(&active.frames) + 1)  # what can fail, before the frame is there
        frame = active.start + active.append_offset
        length = <int32_t>nbytes
        memcpy(frame + CRC_NBYTES, &length, 4)
        return frame + FRAME_NBYTES

    cdef int64_t _publish_direct(self, Py_ssize_t nbytes) except -1:
        """The payload stands at `_direct_place`: seals it, makes it visible; its FSN."""
        cdef Segment active = self.active
        cdef unsigned char* frame = active.start + active.append_offset
        cdef int64_t fsn
        _seal_frame(frame, nbytes)
        fsn = active._count_frame(nbytes)
        spoolq_mark_store(&self.marks.published, fsn)
        return fsn

    cdef void _clear_direct(self, Py_ssize_t nbytes) noexcept:
        """Zeros behind the last frame again."""
        memset(self.active.start + self.active.append_offset, 0, FRAME_NBYTES + nbytes)
