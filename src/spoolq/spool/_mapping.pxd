cdef class Mapping:
    """``start`` is NULL once closed.  Who keeps ``start`` beyond a call holds a buffer or adds to ``users``."""
    cdef unsigned char* start
    cdef readonly Py_ssize_t nbytes
    cdef Py_ssize_t users
    cdef int _check(self, Py_ssize_t offset, Py_ssize_t nbytes) except -1
