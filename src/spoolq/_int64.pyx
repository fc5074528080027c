"""`TimestampMicros`, `TimestampNanos`, `DateMillis`, compiled body: a C number in a Python object.

Same names, meaning and errors as `int64_plain`, whose rules are used for all but a plain int.
"""

cimport cython

import time

from spoolq.int64_plain import number_of, restored

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object, int*) except? -1


cdef class Int64:
    """See `int64_plain._Int64`."""

    def __cinit__(self, value):
        cdef int overflow = 0
        if type(value) is int:
            self.number = PyLong_AsLongLongAndOverflow(value, &overflow)
            if not overflow:
                return
        self.number = number_of(type(self).__name__, value)

    @property
    def value(self):
        """The number, in the unit of the class."""
        return self.number

    @classmethod
    def from_datetime(cls, moment):
        """From a datetime; a naive one counts as UTC."""
        return cls(moment)

    def __setattr__(self, name, value):
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __eq__(self, other):
        return type(other) is type(self) and (<Int64> other).number == self.number

    def __hash__(self):
        return hash((type(self).__name__, self.number))

    def __repr__(self):
        return f"{type(self).__name__}({self.number})"

    def __reduce__(self):
        return restored, (type(self).__name__, self.number)


@cython.final
cdef class TimestampMicros(Int64):
    """Microseconds since 1970-01-01 UTC, from an int or a datetime."""

    @classmethod
    def now(cls):
        """The system clock, now."""
        return cls(time.time_ns() // 1_000)


@cython.final
cdef class TimestampNanos(Int64):
    """Nanoseconds since 1970-01-01 UTC, from an int or a datetime."""

    @classmethod
    def now(cls):
        """The system clock, now."""
        return cls(time.time_ns())


@cython.final
cdef class DateMillis(Int64):
    """Milliseconds since 1970-01-01 UTC for a DATE column, from an int or a datetime."""

    @classmethod
    def now(cls):
        """The system clock, now."""
        return cls(time.time_ns() // 1_000_000)
