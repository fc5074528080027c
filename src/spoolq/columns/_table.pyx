"""Tables of the compiled row buffer, and the shapes of their rows.

A `Table` owns its columns.  They outlive the batch: between batches they are empty and of no type,
but their memory and the plans that point to them stay, so that the next batch starts at full speed.
What is kept is limited; `generation` rises when a plan may point to a column that is gone.

Owner: the row buffer, under the sender's lock.  Names were checked by the caller.
"""

cimport cython
from cpython.ref cimport PyObject
from spoolq.columns._column cimport (
    SENTINEL, Column, enter_batch, leave_batch, native_alloc, native_free, native_nbytes, pad, release,
)

from spoolq.columns import sizes
from spoolq.columns.names import check_shape, fold

cdef extern from "Python.h":
    Py_ssize_t PyList_GET_SIZE(PyObject*)
    int PyList_SetSlice(PyObject*, Py_ssize_t, Py_ssize_t, PyObject*)  # NULL: the items go

cdef Py_ssize_t TABLE_BYTES = sizes.TABLE_BYTES
cdef Py_ssize_t COLUMN_BYTES = sizes.COLUMN_BYTES
cdef Py_ssize_t PLANS_MAX = 64
cdef Py_ssize_t IDLE_COLUMNS_MAX = 4_096


@cython.final
@cython.no_gc
cdef class Plan:
    """The shape of a row: its names, and the columns they mean."""

    def __dealloc__(self):
        native_free(self.cells, sizeof(Cell) * max(self.symbol_count + self.column_count, 1))


@cython.final
@cython.no_gc
cdef class Table:
    """The rows of one table; columns and plans outlive the batch."""

    def __cinit__(self, str text, bytes name):
        self.text = text
        self.name = name
        self.by_fold = {}
        self.plans = {}
        self.names = []
        self.column_of("")
        self.static_nbytes = len(name) + TABLE_BYTES

    def __dealloc__(self):
        cdef Py_ssize_t index
        for index in range(self.column_count):
            release(self.columns[index])
            native_free(self.columns[index], sizeof(Column))
        native_free(self.columns, sizeof(Column*) * self.column_room)
        native_free(self.order, sizeof(Column*) * self.column_room)

    cdef Column* column_of(self, str folded) except NULL:
        """The column of a folded name, a new one when it was never seen."""
        cdef Py_ssize_t room, index
        cdef Column** columns
        cdef Column** order
        known = self.by_fold.get(folded)
        if known is not None:
            return self.columns[<Py_ssize_t> known]
        if self.column_count == self.column_room:
            room = max(2 * self.column_room, 8)
            columns = <Column**> native_alloc(sizeof(Column*) * room)
            try:
                order = <Column**> native_alloc(sizeof(Column*) * room)
            except MemoryError:
                native_free(columns, sizeof(Column*) * room)
                raise
            for index in range(self.column_count):
                columns[index] = self.columns[index]
                order[index] = self.order[index]
            native_free(self.columns, sizeof(Column*) * self.column_room)
            native_free(self.order, sizeof(Column*) * self.column_room)
            self.columns, self.order, self.column_room = columns, order, room
        self.columns[self.column_count] = <Column*> native_alloc(sizeof(Column))
        self.by_fold[folded] = self.column_count
        self.column_count += 1
        return self.columns[self.column_count - 1]

    cdef int enter(self, Column* column, int column_type, object name) except -1:
        """A column appears."""
        self.names.append(name)
        enter_batch(column, column_type, name)
        self.order[self.order_count] = column
        self.order_count += 1
        self.static_nbytes += column.name_size + COLUMN_BYTES
        if column.storage == SENTINEL:
            self.sentinel_nbytes += column.width
        return 0

    cdef void leave_since(self, Py_ssize_t order_count) noexcept:
        """The columns that appeared last go again."""
        cdef Column* column
        while self.order_count > order_count:
            self.order_count -= 1
            column = self.order[self.order_count]
            self.static_nbytes -= column.name_size + COLUMN_BYTES
            if column.storage == SENTINEL:
                self.sentinel_nbytes -= column.width
            leave_batch(column)
        PyList_SetSlice(<PyObject*> self.names, order_count, PyList_GET_SIZE(<PyObject*> self.names), NULL)

    cdef Py_ssize_t measured(self) noexcept:
        """Upper bound of the encoded block (`sizes`)."""
        return (
            self.static_nbytes
            + self.order_count * ((self.row_count + 7) >> 3)
            + self.sentinel_nbytes * self.row_count
            + self.data_nbytes
        )

    cdef int settle(self) except -1:
        """Stores the nulls at the end of columns that the last rows did not set."""
        cdef Py_ssize_t index
        for index in range(self.order_count):
            pad(self.order[index], self.row_count)
        return 0

    cdef Plan plan_of(self, dict symbols, dict columns, Py_ssize_t max_name_bytes):
        """The plan of a row with these keys.  InputError for a name that cannot be."""
        cdef Plan plan
        shape = (tuple(symbols), tuple(columns))
        plan = self.plans.get(shape)
        if plan is None or plan.generation != self.generation:
            check_shape(self.text, list(symbols), list(columns), max_name_bytes)
            plan = self.new_plan(shape)
        else:
            self.bind(plan, shape[0] + shape[1])  # equal keys, but other objects: compare with these from now on
        self.last_plan = plan
        return plan

    cdef Plan new_plan(self, tuple shape):
        """Of names that were checked."""
        cdef Plan plan = Plan.__new__(Plan)
        cdef tuple names = shape[0] + shape[1]
        cdef Py_ssize_t index
        if len(self.plans) >= PLANS_MAX:
            self.plans.clear()
        self.limit_idle_columns()
        plan.symbol_count = len(shape[0])
        plan.column_count = len(shape[1])
        plan.cells = <Cell*> native_alloc(sizeof(Cell) * max(len(names), 1))
        plan.encoded = [name.encode() for name in names]
        plan.generation = self.generation
        for index in range(len(names)):
            plan.cells[index].column = self.column_of(fold(names[index]))
        self.bind(plan, names)
        self.plans[shape] = plan
        return plan

    cdef int bind(self, Plan plan, tuple names) except -1:
        cdef Py_ssize_t index
        plan.names = names
        for index in range(len(names)):
            plan.cells[index].key = <PyObject*> names[index]
        return 0

    cdef int limit_idle_columns(self) except -1:
        """Frees the columns that are not in the batch when they are many; plans that know them are stale then."""
        cdef Py_ssize_t index, left = 1
        cdef Column* column
        cdef dict by_fold = {"": 0}
        cdef dict folds
        if self.column_count <= IDLE_COLUMNS_MAX + self.order_count:
            return 0
        folds = {number: folded for folded, number in self.by_fold.items()}
        self.generation += 1
        self.plans.clear()
        self.last_plan = None
        for index in range(1, self.column_count):
            column = self.columns[index]
            if column.type:
                by_fold[folds[index]] = left
                self.columns[left] = column
                left += 1
            else:
                release(column)
                native_free(column, sizeof(Column))
        self.column_count = left
        self.by_fold = by_fold
        return 0

    cdef Py_ssize_t native(self) noexcept:
        cdef Py_ssize_t index, total = 0
        for index in range(self.column_count):
            total += sizeof(Column) + native_nbytes(self.columns[index])
        return total
