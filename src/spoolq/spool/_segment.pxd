"""What a segment offers to compiled code: `Run` is what the pump walks, without the GIL.

A `Run` holds ``nbytes`` at ``start``, valid until its `release` or its end.  The marks of an
`Appender` may be loaded without the GIL.
"""

from libc.stdint cimport int64_t, uint64_t

cdef extern from "spoolq/spool/marks.h" nogil:
    ctypedef struct spoolq_mark:  # opaque: a C11 atomic
        pass
    ctypedef struct spoolq_marks:
        spoolq_mark published
        spoolq_mark acked
        spoolq_mark synced
    int64_t spoolq_mark_load(spoolq_mark* mark)
    void spoolq_mark_store(spoolq_mark* mark, int64_t value)
    void spoolq_stores_in_order()


cdef class Memory:
    cdef unsigned char* start
    cdef readonly Py_ssize_t nbytes


cdef class Segment:
    cdef Py_buffer source
    cdef unsigned char* start
    cdef readonly object memory
    cdef readonly Py_ssize_t nbytes
    cdef readonly Py_ssize_t append_offset
    cdef readonly int64_t base
    cdef public Py_ssize_t pins
    cdef spoolq_mark frames
    cdef uint64_t* ends
    cdef Py_ssize_t ends_room
    cdef int _grow_ends(self, Py_ssize_t frames) except -1
    cdef bint _fits(self, Py_ssize_t nbytes) noexcept
    cdef int64_t _count_frame(self, Py_ssize_t nbytes) except -1
    cdef int64_t _publish(self, Room room) except -1
    cdef int _extent(self, int64_t first_fsn, Py_ssize_t max_frames, Py_ssize_t max_nbytes,
                     int64_t* last_fsn, Py_ssize_t* first, Py_ssize_t* end) except -1


cdef class Room:
    cdef readonly Segment segment
    cdef readonly object memory
    cdef readonly bint staged
    cdef readonly Py_ssize_t offset
    cdef readonly Py_ssize_t nbytes
    cdef unsigned char* frame
    cdef Py_buffer source
    cdef object handed_out
    cdef Py_ssize_t exports
    cdef int _close(self) except -1
    cdef int _seal(self) except -1
    cdef int _clear(self) except -1


cdef class Run:
    cdef const unsigned char* start
    cdef readonly Py_ssize_t nbytes
    cdef readonly int64_t first_fsn
    cdef readonly int64_t last_fsn
    cdef Segment segment
    cdef Py_buffer source
    cdef Py_ssize_t offset
    cdef void _release(self) noexcept


cdef class Appender:
    cdef public Segment active
    cdef public Py_ssize_t direct_nbytes_max
    cdef public Py_ssize_t symbols_ahead
    cdef Room room
    cdef spoolq_marks marks
    cdef int _forget_room(self) except -1
    cdef unsigned char* _direct_place(self, Py_ssize_t nbytes) except? NULL
    cdef int64_t _publish_direct(self, Py_ssize_t nbytes) except -1
    cdef void _clear_direct(self, Py_ssize_t nbytes) noexcept
