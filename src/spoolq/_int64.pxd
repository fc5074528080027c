# One signed 64-bit number with a meaning; the row buffer reads `number`.
from libc.stdint cimport int64_t

cdef class Int64:
    cdef int64_t number

cdef class TimestampMicros(Int64):
    pass

cdef class TimestampNanos(Int64):
    pass

cdef class DateMillis(Int64):
    pass
