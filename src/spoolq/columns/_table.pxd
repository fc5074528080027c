# The rows of a table as the encoder reads them: `order` has the columns in order of first appearance.
from cpython.ref cimport PyObject
from spoolq.columns._column cimport Column

# A named value of a row shape: the name as the caller spells it, and where it goes.
cdef struct Cell:
    PyObject* key           # kept alive by the plan's names
    Column* column          # owned by the table

cdef class Plan:
    cdef tuple names        # symbols, then columns
    cdef list encoded       # the same in UTF-8
    cdef Py_ssize_t symbol_count
    cdef Py_ssize_t column_count
    cdef Cell* cells
    cdef Py_ssize_t generation   # of the table it was made for

cdef class Table:
    cdef readonly str text
    cdef readonly bytes name
    cdef Py_ssize_t row_count
    cdef Column** columns   # all that were ever seen; the first is the designated timestamp
    cdef Py_ssize_t column_count
    cdef Py_ssize_t column_room
    cdef Column** order     # those in the batch, in order of first appearance
    cdef Py_ssize_t order_count
    cdef dict by_fold
    cdef dict plans
    cdef Plan last_plan
    cdef Py_ssize_t generation
    cdef list names         # keeps the names of the columns in the batch alive
    cdef Py_ssize_t static_nbytes
    cdef Py_ssize_t sentinel_nbytes
    cdef Py_ssize_t data_nbytes
    cdef Py_ssize_t bound
    cdef Column* column_of(self, str folded) except NULL
    cdef int enter(self, Column* column, int column_type, object name) except -1
    cdef void leave_since(self, Py_ssize_t order_count) noexcept
    cdef Py_ssize_t measured(self) noexcept
    cdef int settle(self) except -1
    cdef Plan plan_of(self, dict symbols, dict columns, Py_ssize_t max_name_bytes)
    cdef Plan new_plan(self, tuple shape)
    cdef int bind(self, Plan plan, tuple names) except -1
    cdef int limit_idle_columns(self) except -1
    cdef Py_ssize_t native(self) noexcept
