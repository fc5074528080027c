"""The short way from the row buffer into the store, compiled body; `handover_plain` says what each name does.

    measure -> place in the active segment -> write -> length, CRC, count -> forget the rows

in one call that runs no Python code, so neither a signal handler nor another thread comes between two
of these steps (a CRC of 2 KiB or more may give the GIL away; the sender's lock is held then).  It is
taken only where none of the steps can block or be refused; everything else is `Publisher.publish`'s,
which gives the same bytes.
"""

cimport cython
from cpython.dict cimport PyDict_Size
from libc.stdint cimport int64_t
from spoolq.columns._rows cimport RowBuffer
from spoolq.qwp._encode cimport Message
from spoolq.spool._segment cimport Appender

from spoolq import limits

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident()
    Py_ssize_t PyByteArray_GET_SIZE(object)

cdef Py_ssize_t ROWS_MAX = limits.ROWS_PER_TABLE_MAX
cdef Py_ssize_t TABLES_MAX = limits.TABLES_PER_MESSAGE_MAX
cdef Py_ssize_t NBYTES_MAX = 64 << 10  # above, these steps are what costs; and a long copy would keep the GIL


@cython.final
cdef class Handover:
    """See `handover_plain.Handover`."""

    cdef RowBuffer rows
    cdef Appender store
    cdef object symbols
    cdef bint gorilla
    cdef public Py_ssize_t frame_nbytes_max
    cdef public object sleeper
    cdef readonly Py_ssize_t taken

    def __init__(self, RowBuffer rows not None, Appender store not None, *, bint gorilla):
        self.rows = rows
        self.store = store
        self.symbols = rows.symbols
        self.gorilla = gorilla

    def flush(self):
        """For a caller without the sender's lock."""
        cdef int64_t fsn
        if self.rows.owner:
            return -1
        self.rows.take_lock()
        fsn = self.hand_over()
        self.rows.give_lock()
        if fsn >= 0:
            self.wake()
        return fsn

    def publish(self):
        """For a caller that holds the sender's lock."""
        cdef int64_t fsn
        if self.rows.owner != PyThread_get_thread_ident():
            raise RuntimeError("a handover by a thread that has not locked the row buffer")
        fsn = self.hand_over()
        if fsn >= 0:
            self.wake()
        return fsn

    cdef int wake(self) except -1:
        if self.sleeper is not None and self.sleeper.asleep:
            self.sleeper.wake()
        return 0

    cdef int64_t hand_over(self) noexcept:
        """The FSN; -1 when nothing was done, for whatever reason: the ordinary way tells it."""
        cdef RowBuffer rows = self.rows
        if rows.row_total == 0 or rows.row_total > ROWS_MAX or len(rows.batch) > TABLES_MAX:
            return -1
        if rows.latched is not None or rows.tables_nbytes > NBYTES_MAX:
            return -1
        if self.store.room is not None or self.store.active is None:
            return -1
        try:
            return self.put()
        except Exception:
            return -1

    cdef int64_t put(self) except? -1:
        cdef RowBuffer rows = self.rows
        cdef Appender store = self.store
        cdef Py_ssize_t symbols = self.symbols.published_count
        cdef Message message
        cdef Py_ssize_t nbytes
        cdef unsigned char* place
        cdef int64_t fsn
        if PyDict_Size(rows.ids) != symbols or symbols > store.symbols_ahead:
            return -1
        message = Message.__new__(Message)
        message.gather_known(rows, symbols, self.gorilla)
        nbytes = message.nbytes()
        if nbytes > self.frame_nbytes_max:
            return -1
        place = store._direct_place(nbytes)
        if place == NULL:
            return -1
        try:
            message.write(<char*> place, nbytes)
            fsn = store._publish_direct(nbytes)
        except Exception:
            store._clear_direct(nbytes)
            return -1
        rows.forget_rows()
        rows.published_nbytes = PyByteArray_GET_SIZE(rows.wire)
        self.taken += 1
        try:
            rows.forget_idle_tables()
        except MemoryError:
            pass  # they stay one batch longer
        return fsn
