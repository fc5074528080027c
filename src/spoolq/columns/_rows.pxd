# The rows of a batch as the encoder reads them: `batch` has the tables in order of first appearance.
# Everything here is read with the sender's lock held.
from cpython.ref cimport PyObject
from spoolq.columns._column cimport Column, int64_t
from spoolq.columns._table cimport Plan, Table

cdef class RowBuffer:
    cdef readonly object symbols
    cdef list batch         # tables with rows
    cdef unsigned long owner
    cdef public Py_ssize_t row_trigger
    cdef public Py_ssize_t byte_trigger
    cdef public Py_ssize_t row_bytes_max
    cdef public Py_ssize_t initial_nbytes
    cdef public object on_trigger
    cdef public object on_first_row
    cdef public object after_trigger
    cdef public object row_result   # what `row` returns
    cdef bint triggered     # in the call that holds the lock
    cdef public object latched
    cdef Py_ssize_t row_total
    cdef Py_ssize_t tables_nbytes
    cdef Py_ssize_t max_name_bytes
    cdef Py_ssize_t column_bytes_max
    cdef Py_ssize_t columns_max
    cdef dict ids           # of `symbols`
    cdef object wire        # of `symbols`
    cdef dict tables        # all known ones, so that a repeated shape keeps its plan and memory
    cdef Table last_table
    cdef object sentinels
    cdef object gate
    cdef Py_ssize_t waiting
    cdef PyObject** values  # of the row on its way
    cdef Py_ssize_t values_room
    cdef Py_ssize_t held_from    # values[held_from:held_end] are owned
    cdef Py_ssize_t held_end
    cdef Py_ssize_t added   # bytes of the row on its way that count in data_nbytes
    cdef bint rescaled      # by the row on its way
    cdef Py_ssize_t published_nbytes     # of `symbols`, as last looked at
    cdef Py_ssize_t order_before
    cdef Py_ssize_t symbols_before
    cdef Table table_at(self, Py_ssize_t index)
    cdef int take_lock(self) except -1
    cdef void give_lock(self) noexcept
    cdef bint took_trigger(self) noexcept
    cdef Py_ssize_t new_symbols_nbytes(self) noexcept
    cdef void forget_rows(self) noexcept
    cdef void empty(self, Table table) noexcept
    cdef int forget_idle_tables(self) except -1
    cdef int append(self, object name, object symbols, object columns, object at) except -1
    cdef int append_tuple(self, Table table, Plan plan, tuple values, object at) except -1
    cdef int append_typed(self, object name, object cells, object at) except -1
    cdef int check_latched(self) except -1
    cdef Table table_of(self, object name)
    cdef bint gather(self, Plan plan, dict symbols, dict columns) except -1
    cdef void start_row(self, Table table) noexcept
    cdef Py_ssize_t walk(self, Table table, Plan plan, PyObject** values, bint owned) except -1
    cdef bint becomes(self, Table table, Column* column, int column_type, Plan plan, Py_ssize_t index) except -1
    cdef int enter(self, Table table, Column* column, int column_type, object encoded) except -1
    cdef bint put_str(self, Column* column, Py_ssize_t row, PyObject* value) except -1
    cdef bint put_binary(self, Column* column, Py_ssize_t row, PyObject* value) except -1
    cdef bint put_flat(self, Column* column, Py_ssize_t row, const char* text, Py_ssize_t nbytes) except -1
    cdef bint hold(self, PyObject** values, Py_ssize_t first, Py_ssize_t end) except -1
    cdef int let_go(self) except -1
    cdef bint store_natural(self, Table table, Plan plan, Py_ssize_t index, object value) except -1
    cdef int store(
        self, Table table, Column* column, object name, object encoded, object column_type, object value
    ) except -1
    cdef object symbol_id(self, str text, str table, object name)
    cdef int finish(self, Table table, Py_ssize_t count, object at) except -1
    cdef int convert_at(self, Table table, Py_ssize_t count, object at) except -1
    cdef int put_at(self, Table table, int column_type, int64_t number) except -1
    cdef int check_row_size(self, Table table) except -1
    cdef void undo(self, Table table) noexcept
    cdef int commit(self, Table table) except -1
    cdef int tell(self, Table table, object call) except -1
    cdef int take_out(self, Table table, object error) except -1
    cdef bint withdraw(self, Table table) except -1
