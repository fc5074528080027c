"""The row buffer, compiled body: same names, rules, errors and bytes as `rows_plain`.

A table (`_table`) keeps its columns in wire form (`_column.pxd`).  A row of a known shape costs one
look at the plan: the keys of its dicts are compared by identity with those of the table's last row,
and the values go straight into their columns.  Other keys look their plan up, unknown ones make one.

Fast are exact bool, int, float, str, bytes, None, TimestampMicros, TimestampNanos and a datetime of
`datetime.UTC`; every other value, and everything that is refused, goes through `convert`, so that
rules and texts are the plain body's.  A fast value runs no Python code; before any code runs, the
row's values are held, so a conversion hook may change the caller's dict.

A row that fails is undone by marks: each column it touched goes back to where it was, columns and
symbols that came with it go.  A row whose trigger fails is the last of its table and taken away there, for
the marks do not hold behind what the trigger did.  Under the GIL; other threads are kept out by the
sender's lock, an owner id that costs two stores while nobody else wants it.
"""

import threading
from datetime import UTC

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItemWithError, PyDict_Next, PyDict_Size
from cpython.mem cimport PyMem_Realloc, PyMem_Free
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
cimport cython
from cpython.datetime cimport (
    PyDateTime_CheckExact, PyDateTime_DATE_GET_HOUR, PyDateTime_DATE_GET_MICROSECOND, PyDateTime_DATE_GET_MINUTE,
    PyDateTime_DATE_GET_SECOND, PyDateTime_GET_DAY, PyDateTime_GET_MONTH, PyDateTime_GET_YEAR, datetime, import_datetime,
)
from spoolq._int64 cimport Int64, TimestampMicros, TimestampNanos
from spoolq.columns._cells cimport (
    BINARY_T, BOOLEAN_T, DOUBLE_T, LONG_T, NANOS_T, SYMBOL_T, TIMESTAMP_T, VARCHAR_T, put,
)
from spoolq.columns._column cimport (
    FIXED, OFFSETS, Column, begin, drop_front, drop_last, ensure, int64_t, keep, pad, put_8, put_bit, put_bytes, put_text,
    put_varint, rescale, take_back, uint64_t,
)
from spoolq.columns._table cimport Plan, Table

from spoolq import limits
from spoolq.columns import convert, faults, sizes
from spoolq.columns.names import as_dict, as_names, as_values, check_shape, check_table_name, fold
from spoolq.columns.types import SENTINELS, ColumnType
from spoolq.errors import SpoolqError

cdef extern from "Python.h":
    ctypedef struct PyTypeObject:
        pass
    PyTypeObject PyFloat_Type, PyLong_Type, PyUnicode_Type, PyBool_Type, PyBytes_Type
    PyTypeObject* Py_TYPE(PyObject*)
    double PyFloat_AS_DOUBLE(PyObject*)
    long long PyLong_AsLongLongAndOverflow(PyObject*, int*)
    PyObject* Py_True
    PyObject* Py_None
    bint PyUnicode_IS_COMPACT_ASCII(PyObject*)
    Py_ssize_t PyUnicode_GET_LENGTH(PyObject*)
    char* PyUnicode_DATA(PyObject*)
    object PyUnicode_AsUTF8String(object)
    Py_ssize_t PyByteArray_GET_SIZE(object)
    unsigned long PyThread_get_thread_ident()
    ctypedef struct PyTupleObject:
        PyObject** ob_item

import_datetime()

cdef PyTypeObject* MICROS = <PyTypeObject*> <PyObject*> TimestampMicros
cdef PyTypeObject* NANOS = <PyTypeObject*> <PyObject*> TimestampNanos

cdef int64_t EXACT_DOUBLE = 1 << 53
cdef int64_t INT64_LOWEST = <int64_t> (<uint64_t> 1 << 63)
cdef uint64_t DOUBLE_NAN = int.from_bytes(SENTINELS[ColumnType.DOUBLE], "little")
cdef object REFUSED = faults.Refused

# What is kept between batches; beyond it, what no row is in goes.
cdef Py_ssize_t IDLE_TABLES_MAX = 256
cdef Py_ssize_t IDLE_BYTES_MAX = 16 << 20


cdef Py_ssize_t ROW_OVERHEAD = limits.HEADER_BYTES + 6
cdef Py_ssize_t DICTIONARY_BYTES = sizes.DICTIONARY_BYTES


@cython.final
cdef class RowBuffer:
    """See `rows_plain.RowBuffer`."""

    def __init__(self, symbols, *, max_name_bytes=limits.NAME_BYTES_MAX):
        self.symbols = symbols
        self.ids = symbols.ids
        self.wire = symbols.wire
        self.max_name_bytes = max_name_bytes
        self.column_bytes_max = limits.COLUMN_BYTES_MAX
        self.columns_max = limits.COLUMNS_PER_TABLE_MAX
        self.batch = []
        self.tables = {}
        self.sentinels = faults.SentinelLog()
        self.gate = threading.Lock()
        self.gate.acquire()

    def __dealloc__(self):
        PyMem_Free(self.values)

    # -- the sender's lock: `owner` is the thread that holds it, 0 when free --------------------
    cdef int take_lock(self) except -1:
        cdef unsigned long me = PyThread_get_thread_ident()
        if self.owner == me:
            raise faults.reentry()
        while self.owner:
            # `gate` is closed while nobody was let through; `give_lock` opens it for one who waits.
            # Whoever passes looks again, for another thread may have been quicker.
            self.waiting += 1
            try:
                self.gate.acquire()
            finally:
                self.waiting -= 1
        self.owner = me
        return 0

    cdef void give_lock(self) noexcept:
        self.owner = 0
        if self.waiting and self.gate.locked():
            self.gate.release()

    def lock(self, blocking=True):
        """Takes the sender's lock; False when it is held and ``blocking`` is False."""
        if not blocking and self.owner and self.owner != PyThread_get_thread_ident():
            return False
        self.take_lock()
        return True

    def unlock(self):
        """Gives the sender's lock back; RuntimeError when this thread does not hold it."""
        if self.owner != PyThread_get_thread_ident():
            raise RuntimeError("unlock of a row buffer that this thread has not locked")
        self.give_lock()

    def refuse_reentry(self):
        """Raises ReentryError when this very thread holds the sender's lock."""
        if self.owner == PyThread_get_thread_ident():
            raise faults.reentry()

    def after_fork(self):
        """In a forked child: frees the lock, which a thread may hold that is not here (ours.md 32)."""
        self.owner = 0
        self.waiting = 0
        self.gate = threading.Lock()
        self.gate.acquire()

    def __enter__(self):
        self.take_lock()
        return self

    def __exit__(self, *_):
        self.unlock()

    # -- what is buffered ----------------------------------------------------------------------
    def __len__(self):
        return self.row_total

    @property
    def table_count(self):
        """Tables with buffered rows."""
        return len(self.batch)

    def table_rows(self, Py_ssize_t table_index):
        """Rows buffered for a table."""
        return self.table_at(table_index).row_count

    def table_name(self, Py_ssize_t table_index):
        """Name of a table."""
        return self.table_at(table_index).text

    cdef Table table_at(self, Py_ssize_t index):
        """A table with rows; IndexError when there is none."""
        if not 0 <= index < len(self.batch):
            raise IndexError(f"table {index} of a batch of {len(self.batch)}")
        return self.batch[index]

    @property
    def nbytes(self):
        """Upper bound of the encoded payload, dictionary section included."""
        self.published_nbytes = self.symbols.entries_nbytes(0, self.symbols.published_count)
        return self.tables_nbytes + self.new_symbols_nbytes()

    cdef Py_ssize_t new_symbols_nbytes(self) noexcept:
        """At most, for `published_nbytes` may be old."""
        return DICTIONARY_BYTES + PyByteArray_GET_SIZE(self.wire) - self.published_nbytes

    def clear(self):
        """Forgets all rows; the next row starts the columns anew."""
        self.forget_rows()
        self.published_nbytes = self.symbols.entries_nbytes(0, self.symbols.published_count)
        self.forget_idle_tables()

    cdef void forget_rows(self) noexcept:
        """Runs no Python code, so that nothing comes between publishing a frame and this."""
        cdef Table table
        for table in self.batch:
            self.empty(table)
        self.batch.clear()
        self.row_total = self.tables_nbytes = 0

    cdef void empty(self, Table table) noexcept:
        self.tables_nbytes -= table.bound
        table.leave_since(0)
        table.row_count = table.data_nbytes = table.bound = 0

    cdef int forget_idle_tables(self) except -1:
        """Keeps memory and plans of past batches within limits."""
        cdef Table table
        cdef Py_ssize_t total = 0
        if len(self.tables) <= len(self.batch) + IDLE_TABLES_MAX:
            for table in self.tables.values():
                if not table.row_count:
                    total += table.native()
            if total <= IDLE_BYTES_MAX:
                return 0
        self.last_table = None
        for table in list(self.tables.values()):
            if not table.row_count:
                table.generation += 1
                del self.tables[table.text]
        return 0

    def drop_rows(self, Py_ssize_t table_index, Py_ssize_t count):
        """Forgets the first ``count`` rows of a table; a table without rows goes away."""
        cdef Table table = self.table_at(table_index)
        cdef Py_ssize_t index
        if not 0 <= count <= table.row_count:
            raise ValueError(f"table {table.text!r} has {table.row_count} rows, {count} cannot be dropped")
        self.row_total -= count
        if count == table.row_count:
            self.empty(table)
            del self.batch[table_index]
            return
        table.row_count -= count
        table.data_nbytes = 0
        for index in range(table.order_count):
            drop_front(table.order[index], count)
            if table.order[index].storage >= FIXED:
                table.data_nbytes += table.order[index].data.size + table.order[index].text.size
        self.tables_nbytes -= table.bound
        table.bound = table.measured()
        self.tables_nbytes += table.bound

    # -- rows ----------------------------------------------------------------------------------
    def row(self, table_name, *, symbols=None, columns=None, at):
        """Buffers one row, whole or not at all; see `rows_plain.RowBuffer.row`."""
        cdef bint triggered = False
        self.take_lock()
        try:
            self.append(table_name, symbols, columns, at)
            triggered = self.took_trigger()
        finally:
            if self.held_end:
                self.let_go()
            self.give_lock()
        if triggered and self.after_trigger is not None:
            self.after_trigger()
        return self.row_result

    def rows(self, table_name, rows, *, symbols=(), columns=(), at=None):
        """Buffers many rows of one shape; see `rows_plain.RowBuffer.rows`."""
        cdef Table known = None
        cdef Plan plan = None
        cdef tuple shape
        cdef object values, moment
        cdef Py_ssize_t done = 0, width
        cdef bint triggered = False
        check_table_name(table_name, self.max_name_bytes)
        shape = (as_names(table_name, symbols), as_names(table_name, columns))
        width = len(check_shape(table_name, shape[0], shape[1], self.max_name_bytes)) + (at is None)
        for given in rows:
            try:
                values = given if type(given) is tuple else tuple(as_values(table_name, done, given))
                if len(<tuple> values) != width:
                    raise faults.wrong_width(table_name, done, len(values), width)
                moment = (<tuple> values)[width - 1] if at is None else at
                self.take_lock()
                try:
                    if known is None or plan.generation != known.generation:
                        known = self.table_of(table_name)
                        plan = known.plans.get(shape)
                        if plan is None:
                            plan = known.new_plan(shape)
                    self.append_tuple(known, plan, <tuple> values, moment)
                    triggered = self.took_trigger()
                finally:
                    self.give_lock()
                if triggered and self.after_trigger is not None:
                    self.after_trigger()
            except (SpoolqError, KeyboardInterrupt) as error:
                faults.note_row(error, done)
                raise
            done += 1
        return done

    def typed_row(self, table, cells, at):
        """Buffers one row of given column types; see `rows_plain.RowBuffer.typed_row`."""
        cdef bint triggered = False
        self.take_lock()
        try:
            self.append_typed(table, cells, at)
            triggered = self.took_trigger()
        finally:
            self.give_lock()
        if triggered and self.after_trigger is not None:
            self.after_trigger()

    cdef int append(self, object name, object symbols, object columns, object at) except -1:
        cdef Table table
        cdef Plan plan
        cdef Py_ssize_t count
        self.check_latched()
        table = self.last_table
        if table is None or table.text is not name:
            table = self.table_of(name)
        if type(symbols) is not dict:
            symbols = as_dict(table.text, "symbols", symbols)
        if type(columns) is not dict:
            columns = as_dict(table.text, "columns", columns)
        plan = table.last_plan
        if plan is None or not self.gather(plan, <dict> symbols, <dict> columns):
            plan = table.plan_of(<dict> symbols, <dict> columns, self.max_name_bytes)
            if not self.gather(plan, <dict> symbols, <dict> columns):
                raise RuntimeError("the dicts of a row changed while it was read")
        self.start_row(table)
        try:
            count = self.walk(table, plan, self.values, False)
            self.finish(table, count, at)
        except BaseException:
            self.undo(table)
            raise
        return self.commit(table)

    cdef int append_tuple(self, Table table, Plan plan, tuple values, object at) except -1:
        cdef Py_ssize_t count
        self.check_latched()
        self.start_row(table)
        try:
            count = self.walk(table, plan, items_of(values), True)
            self.finish(table, count, at)
        except BaseException:
            self.undo(table)
            raise
        return self.commit(table)

    cdef int append_typed(self, object name, object cells, object at) except -1:
        cdef Table table
        cdef Py_ssize_t count = 0
        self.check_latched()
        table = self.table_of(name)
        table.limit_idle_columns()
        given = list(cells)
        self.start_row(table)
        try:
            check_shape(table.text, (), [text for text, _, _ in given], self.max_name_bytes)
            for text, column_type, value in given:
                if value is not None:
                    self.store(table, table.column_of(fold(text)), text, text.encode(), column_type, value)
                    count += 1
            self.finish(table, count, at)
        except BaseException:
            self.undo(table)
            raise
        return self.commit(table)

    cdef int check_latched(self) except -1:
        if self.latched is not None:
            faults.raise_latched(self.latched)
        return 0

    cdef Table table_of(self, object name):
        """The table of that name, with rows or without."""
        cdef Table table = self.tables.get(name) if isinstance(name, str) else None
        if table is None:
            encoded = check_table_name(name, self.max_name_bytes)
            if len(self.tables) > len(self.batch) + 2 * IDLE_TABLES_MAX:
                self.forget_idle_tables()
            table = Table.__new__(Table, str(name), encoded)
            self.tables[table.text] = table
        self.last_table = table
        return table

    cdef bint gather(self, Plan plan, dict symbols, dict columns) except -1:
        """The row's values, borrowed, into `values`; False when the keys are not the plan's."""
        cdef Py_ssize_t at = 0, index = 0, size
        cdef PyObject* key
        cdef PyObject* value
        cdef PyObject** values
        if PyDict_Size(symbols) != plan.symbol_count or PyDict_Size(columns) != plan.column_count:
            return False
        size = plan.symbol_count + plan.column_count
        if size > self.values_room:
            values = <PyObject**> PyMem_Realloc(self.values, size * sizeof(PyObject*))
            if values == NULL:
                raise MemoryError
            self.values, self.values_room = values, size
        values = self.values
        while PyDict_Next(symbols, &at, &key, &value):
            if plan.cells[index].key != key:
                return False
            values[index] = value
            index += 1
        at = 0
        while PyDict_Next(columns, &at, &key, &value):
            if plan.cells[index].key != key:
                return False
            values[index] = value
            index += 1
        return True

    cdef void start_row(self, Table table) noexcept:
        self.order_before = table.order_count
        self.symbols_before = PyDict_Size(self.ids)
        self.added = 0
        self.rescaled = False

    cdef Py_ssize_t walk(self, Table table, Plan plan, PyObject** values, bint owned) except -1:
        """Stores the values; how many of them are no NULL."""
        cdef Py_ssize_t index, count = 0, end = plan.symbol_count + plan.column_count, nbytes
        cdef Py_ssize_t row = table.row_count
        cdef PyObject* value
        cdef PyObject* found
        cdef PyTypeObject* kind
        cdef Column* column
        cdef int64_t number
        cdef double real
        cdef int overflow
        for index in range(plan.symbol_count):
            value = values[index]
            if value == Py_None:
                continue
            count += 1
            column = plan.cells[index].column
            if Py_TYPE(value) == &PyUnicode_Type and (column.type == SYMBOL_T or column.type == 0):
                found = PyDict_GetItemWithError(self.ids, <object> value)
                if found != NULL:
                    if column.type == 0:
                        self.enter(table, column, SYMBOL_T, plan.encoded[index])
                    nbytes = column.data.size
                    number = <object> found
                    put_varint(column, row, <uint64_t> number)
                    self.added += column.data.size - nbytes
                    continue
            if not owned:
                owned = self.hold(values, index, end)
            self.store(table, column, plan.names[index], plan.encoded[index], SYMBOL_T, <object> value)
        for index in range(plan.symbol_count, end):
            value = values[index]
            if value == Py_None:
                continue
            count += 1
            column = plan.cells[index].column
            kind = Py_TYPE(value)
            if kind == &PyFloat_Type:
                if column.type == DOUBLE_T or self.becomes(table, column, DOUBLE_T, plan, index):
                    real = PyFloat_AS_DOUBLE(value)
                    put_8(column, row, &real if real == real else <double*> &DOUBLE_NAN)
                    continue
            elif kind == &PyLong_Type:
                number = PyLong_AsLongLongAndOverflow(value, &overflow)
                if overflow == 0 and number != INT64_LOWEST:
                    if column.type == DOUBLE_T:
                        if -EXACT_DOUBLE <= number <= EXACT_DOUBLE:
                            real = <double> number
                            put_8(column, row, &real)
                            continue
                    elif column.type == LONG_T or self.becomes(table, column, LONG_T, plan, index):
                        put_8(column, row, &number)
                        continue
            elif kind == &PyUnicode_Type:
                if self.becomes(table, column, VARCHAR_T, plan, index) and self.put_str(column, row, value):
                    continue
            elif kind == &PyBool_Type:
                if self.becomes(table, column, BOOLEAN_T, plan, index):
                    put_bit(column, row, value == Py_True)
                    continue
            elif kind == &PyBytes_Type:
                if self.becomes(table, column, BINARY_T, plan, index) and self.put_binary(column, row, value):
                    continue
            elif kind == NANOS or kind == MICROS:
                if self.becomes(table, column, NANOS_T if kind == NANOS else TIMESTAMP_T, plan, index):
                    number = (<Int64> value).number
                    if number != INT64_LOWEST:
                        put_8(column, row, &number)
                        self.added += 8
                        continue
            elif is_utc(<object> value):
                if self.becomes(table, column, TIMESTAMP_T, plan, index):
                    number = micros_of_utc(<object> value)
                    put_8(column, row, &number)
                    self.added += 8
                    continue
            if not owned:
                owned = self.hold(values, index, end)
            count -= not self.store_natural(table, plan, index, <object> value)
        return count

    cdef bint becomes(self, Table table, Column* column, int column_type, Plan plan, Py_ssize_t index) except -1:
        """Whether the column is of that type; one that is not in the batch yet becomes so."""
        if column.type == column_type:
            return True
        if column.type:
            return False
        self.enter(table, column, column_type, plan.encoded[index])
        return True

    cdef int enter(self, Table table, Column* column, int column_type, object encoded) except -1:
        """The column comes into the batch, with its share of the room that was asked for."""
        cdef Py_ssize_t share
        table.enter(column, column_type, encoded)
        if self.initial_nbytes:
            share = self.initial_nbytes // table.column_count
            if column.storage == OFFSETS:
                ensure(&column.text, share)
            else:
                ensure(&column.data, share)
        return 0

    cdef bint put_str(self, Column* column, Py_ssize_t row, PyObject* value) except -1:
        """A VARCHAR value; False when it has to be refused."""
        if not PyUnicode_IS_COMPACT_ASCII(value):
            try:
                encoded = PyUnicode_AsUTF8String(<object> value)
            except UnicodeEncodeError:
                return False
            return self.put_binary(column, row, <PyObject*> encoded)
        return self.put_flat(column, row, PyUnicode_DATA(value), PyUnicode_GET_LENGTH(value))

    cdef bint put_binary(self, Column* column, Py_ssize_t row, PyObject* value) except -1:
        return self.put_flat(column, row, PyBytes_AS_STRING(<object> value), PyBytes_GET_SIZE(<object> value))

    cdef bint put_flat(self, Column* column, Py_ssize_t row, const char* text, Py_ssize_t nbytes) except -1:
        if column.data.size + column.text.size + nbytes > self.column_bytes_max:
            return False
        put_text(column, row, text, nbytes)
        self.added += 4 + nbytes
        return True

    # -- values that take Python code ----------------------------------------------------------
    cdef bint hold(self, PyObject** values, Py_ssize_t first, Py_ssize_t end) except -1:
        """Owns the values from here on: what runs now may drop the caller's references."""
        cdef Py_ssize_t index
        for index in range(first, end):
            Py_INCREF(<object> values[index])
        self.held_from, self.held_end = first, end
        return True

    cdef int let_go(self) except -1:
        cdef Py_ssize_t index, first = self.held_from, end = self.held_end
        self.held_from = self.held_end = 0
        for index in range(first, end):
            Py_DECREF(<object> self.values[index])
        return 0

    cdef bint store_natural(self, Table table, Plan plan, Py_ssize_t index, object value) except -1:
        """A value of ``columns=`` by `convert.natural`; False when that makes it NULL."""
        name = plan.names[index]
        try:
            found = convert.natural(value)
        except REFUSED as why:
            raise faults.refused(table.text, name, why) from None
        if found is None:
            return False
        self.store(table, plan.cells[index].column, name, plan.encoded[index], found[0], found[1])
        return True

    cdef int store(
        self, Table table, Column* column, object name, object encoded, object column_type, object value
    ) except -1:
        """A stored form (`convert`), checked; InputError names table and column."""
        cdef Py_ssize_t before
        try:
            if column.type == 0:
                self.enter(table, column, column_type, encoded)
            elif column.type != column_type:
                if column.type != DOUBLE_T or column_type != LONG_T:
                    raise faults.type_changed(column.type, column_type)
                value = convert.exact_double(value)
            if column.type == SYMBOL_T:
                value = self.symbol_id(convert.symbol_text(value), table.text, name)
            elif column.storage == OFFSETS:
                if column.data.size + column.text.size + <Py_ssize_t> len(value) > self.column_bytes_max:
                    raise faults.column_full()
            else:
                value = convert.fitted(ColumnType(column.type), value)
            pad(column, table.row_count)
            before = column.data.size + column.text.size
            if put(column, table.row_count, value):
                self.rescaled = True
            if column.storage >= FIXED:
                self.added += column.data.size + column.text.size - before
        except REFUSED as why:
            raise faults.refused(table.text, name, why) from None
        if convert.reads_as_null(ColumnType(column.type), value):
            self.sentinels.say(table.text, name, value)
        return 0

    cdef object symbol_id(self, str text, str table, object name):
        known = self.ids.get(text)
        if known is not None:
            return known
        symbols = self.symbols
        new = symbols.intern(text, table, name)
        needed = symbols.entries_nbytes(new, new + 1) + sizes.SYMBOL_MESSAGE_BYTES
        if 0 < self.row_bytes_max < needed:
            raise faults.symbol_too_large(table, name, text, needed, self.row_bytes_max)
        return new

    # -- the end of a row ----------------------------------------------------------------------
    cdef int finish(self, Table table, Py_ssize_t count, object at) except -1:
        """The designated timestamp, and what the row must be as a whole."""
        cdef int64_t number
        cdef PyTypeObject* kind = Py_TYPE(<PyObject*> at)
        if kind == NANOS or kind == MICROS:
            number = (<Int64> at).number
            if number >= 0:
                self.put_at(table, NANOS_T if kind == NANOS else TIMESTAMP_T, number)
            else:
                self.convert_at(table, count, at)
        elif is_utc(at) and PyDateTime_GET_YEAR(at) >= 1970:
            self.put_at(table, TIMESTAMP_T, micros_of_utc(at))
        else:
            self.convert_at(table, count, at)
        if table.order_count > self.columns_max:
            raise faults.too_many_columns(table.text)
        if self.row_bytes_max and (
            ROW_OVERHEAD + table.static_nbytes + table.order_count + table.sentinel_nbytes + self.added
            > self.row_bytes_max
        ):
            self.check_row_size(table)
        return 0

    cdef int convert_at(self, Table table, Py_ssize_t count, object at) except -1:
        """``at`` by `convert.designated`."""
        try:
            found = convert.designated(at)
        except REFUSED as why:
            raise faults.at_refused(table.text, why) from None
        if found is not None:
            return self.put_at(table, found[0], found[1])
        if not count:
            raise faults.no_value(table.text)
        return 0

    cdef int put_at(self, Table table, int column_type, int64_t number) except -1:
        cdef Column* column = table.columns[0]
        if column.type == 0:
            self.enter(table, column, column_type, b"")
        elif column.type != column_type:
            raise faults.mixed_units(table.text, column_type, column.type)
        put_8(column, table.row_count, &number)
        self.added += 8
        return 0

    cdef int check_row_size(self, Table table) except -1:
        """FrameTooLarge when a message of this row alone would be above the limit."""
        cdef Py_ssize_t index, total, row = table.row_count, cells = 0
        cdef Column* column
        total = sizes.alone_nbytes(table.name, [])
        for index in range(table.order_count):
            column = table.order[index]
            if column.rows == row + 1:
                cells += 1
                total += 1 + column.name_size + 2 + <Py_ssize_t> sizes.column_nbytes(ColumnType(column.type))
                if column.storage >= FIXED:
                    total += column.data.size - column.mark_data + column.text.size - column.mark_text
                else:
                    total += column.width
        total += <Py_ssize_t> sizes.varint_nbytes(cells) - 1
        if total > self.row_bytes_max:
            raise faults.row_too_large(table.text, total, self.row_bytes_max)
        return 0

    cdef void undo(self, Table table) noexcept:
        """Back to before the row."""
        cdef Py_ssize_t index
        table.leave_since(self.order_before)
        for index in range(table.order_count):
            take_back(table.order[index], table.row_count)
        if PyDict_Size(self.ids) > self.symbols_before:
            self.symbols.truncate(self.symbols_before)

    cdef int commit(self, Table table) except -1:
        """The row stays; then the triggers."""
        cdef Py_ssize_t index
        cdef bint first = self.row_total == 0
        if self.rescaled:
            for index in range(table.order_count):
                keep(table.order[index])
        if table.row_count == 0:
            self.batch.append(table)
        table.row_count += 1
        self.row_total += 1
        table.data_nbytes += self.added
        self.tables_nbytes -= table.bound
        table.bound = table.measured()
        self.tables_nbytes += table.bound
        if first and self.on_first_row is not None:
            self.tell(table, self.on_first_row)
        if self.on_trigger is not None:
            if (self.row_trigger and self.row_total >= self.row_trigger) or (
                self.byte_trigger
                and self.tables_nbytes + self.new_symbols_nbytes() >= self.byte_trigger
                and self.nbytes >= self.byte_trigger
            ):
                self.tell(table, self.on_trigger)
                self.triggered = self.after_trigger is not None
        return 0

    cdef int tell(self, Table table, object call) except -1:
        """Calls what follows from a row that is stored; when that fails the row goes again, unless it is published."""
        try:
            call()
        except BaseException as error:
            self.take_out(table, error)
            raise
        return 0

    cdef int take_out(self, Table table, object error) except -1:
        """The row goes again, unless it is published, and the error says which."""
        faults.note_outcome(error, taken=not self.withdraw(table))
        if isinstance(error, Exception):  # a Ctrl-C may have left an id in the slot's dictionary
            self.symbols.truncate(max(self.symbols_before, self.symbols.published_count))
        return 0

    cdef bint withdraw(self, Table table) except -1:
        """Takes the last row out again; False when it is published.  Rows before it may be gone."""
        cdef Py_ssize_t index
        if table.row_count == 0:
            return False
        self.row_total -= 1
        if table.row_count == 1:
            self.empty(table)
            self.batch.remove(table)
            return True
        table.row_count -= 1
        table.leave_since(self.order_before)
        table.data_nbytes = 0
        for index in range(table.order_count):
            drop_last(table.order[index], table.row_count)
            if table.order[index].storage >= FIXED:
                table.data_nbytes += table.order[index].data.size + table.order[index].text.size
        self.tables_nbytes -= table.bound
        table.bound = table.measured()
        self.tables_nbytes += table.bound
        return True

    cdef bint took_trigger(self) noexcept:
        """Whether this call's row tripped one, for what is to be done without the lock."""
        cdef bint was = self.triggered
        self.triggered = False
        return was


cdef inline bint is_utc(object value):
    """Whether it is a datetime that says it is UTC by the one object for it."""
    return PyDateTime_CheckExact(value) and (<datetime> value).tzinfo is UTC


cdef int64_t micros_of_utc(object moment):
    """Microseconds since the epoch by the civil calendar, years counted from March (years 1 to 9999)."""
    cdef int64_t year = PyDateTime_GET_YEAR(moment), month = PyDateTime_GET_MONTH(moment)
    cdef int64_t day = PyDateTime_GET_DAY(moment), days
    if month <= 2:
        year -= 1
        month += 12
    days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * (month - 3) + 2) // 5 + day - 1 - 719_468
    return (
        (days * 24 + PyDateTime_DATE_GET_HOUR(moment)) * 3_600_000_000
        + PyDateTime_DATE_GET_MINUTE(moment) * <int64_t> 60_000_000
        + PyDateTime_DATE_GET_SECOND(moment) * <int64_t> 1_000_000
        + PyDateTime_DATE_GET_MICROSECOND(moment)
    )


cdef inline PyObject** items_of(tuple values) noexcept:
    return (<PyTupleObject*> <PyObject*> values).ob_item

