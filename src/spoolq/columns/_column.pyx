"""The cold half of `_column.pxd`: native memory and its count, padding, undoing, dropping rows.

Memory comes from malloc and is owned by the columns' table; every byte of it is in
`live_native_bytes`.  A failed allocation raises MemoryError and changes nothing.
"""

import sys

from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memmove, memset

from spoolq.columns.types import ARRAYS, DECIMALS, FIXED_BYTES, OFFSETS as OFFSET_TYPES, SENTINELS, ColumnType

if sys.byteorder != "little":
    raise ImportError("the compiled bodies need a little-endian machine; set SPOOLQ_IMPLEMENTATION=plain")

cdef Py_ssize_t live = 0
cdef frozenset DECIMAL_TYPES = frozenset(map(int, DECIMALS))
cdef Py_ssize_t BYTES_MIN = 64
cdef Py_ssize_t RETAINED_BYTES_MAX = 4 << 20  # a larger buffer is not kept for the next batch

# By type code: how it is stored, bytes of a value, null.
cdef int STORAGE[256]
cdef int WIDTH[256]
cdef uint64_t NULL_VALUE[256]


cdef void fill_tables():
    memset(STORAGE, 0, sizeof(STORAGE))
    memset(WIDTH, 0, sizeof(WIDTH))
    memset(NULL_VALUE, 0, sizeof(NULL_VALUE))
    for kind in ColumnType:
        if kind in SENTINELS:
            STORAGE[<int> kind] = SENTINEL
            NULL_VALUE[<int> kind] = int.from_bytes(SENTINELS[kind], "little")
        elif kind is ColumnType.BOOLEAN:
            STORAGE[<int> kind] = BITS
        elif kind is ColumnType.SYMBOL:
            STORAGE[<int> kind] = SYMBOL
        elif kind in OFFSET_TYPES:
            STORAGE[<int> kind] = OFFSETS
        elif kind in ARRAYS:
            STORAGE[<int> kind] = ARRAY
        else:
            STORAGE[<int> kind] = FIXED
        WIDTH[<int> kind] = FIXED_BYTES.get(kind, 0)


fill_tables()


def live_native_bytes() -> int:
    """Bytes of native memory held by all row buffers of this process."""
    return live


cdef void* native_alloc(Py_ssize_t nbytes) except NULL:
    """Zeroed and counted memory."""
    global live
    cdef void* data = malloc(nbytes)
    if data == NULL:
        raise MemoryError(f"no {nbytes} bytes for a row buffer")
    memset(data, 0, nbytes)
    live += nbytes
    return data


cdef void native_free(void* data, Py_ssize_t nbytes) noexcept:
    global live
    if data != NULL:
        free(data)
        live -= nbytes


cdef int grow(Bytes* bytes, Py_ssize_t more) except -1:
    """At least doubles the room."""
    global live
    cdef Py_ssize_t room = max(bytes.size + more, 2 * bytes.room, BYTES_MIN)
    cdef char* data = <char*> realloc(bytes.data, room)
    if data == NULL:
        raise MemoryError(f"no {room} bytes for a row buffer")
    live += room - bytes.room
    bytes.data = data
    bytes.room = room
    return 0


cdef void discard(Bytes* bytes) noexcept:
    native_free(bytes.data, bytes.room)
    bytes.data = NULL
    bytes.size = bytes.room = 0


cdef void release(Column* column) noexcept:
    """Frees what the column holds."""
    discard(&column.data)
    discard(&column.text)
    discard(&column.nulls)
    discard(&column.before)


cdef Py_ssize_t native_nbytes(const Column* column) noexcept:
    """Native memory of the column's buffers."""
    return column.data.room + column.text.room + column.nulls.room


cdef int enter_batch(Column* column, int column_type, object name) except -1:
    """An empty column of that type; ``name`` (bytes) must outlive its stay."""
    column.type = column_type
    column.storage = STORAGE[column_type & 0xFF]
    column.width = WIDTH[column_type & 0xFF]
    column.sentinel = NULL_VALUE[column_type & 0xFF]
    column.name = <bytes> name
    column.name_size = len(<bytes> name)
    return 0


cdef void leave_batch(Column* column) noexcept:
    """Empty again; memory stays for the next batch unless it is much."""
    keep(column)
    column.type = column.shared = 0
    column.rows = column.null_count = 0
    column.data.size = column.text.size = column.nulls.size = 0
    if native_nbytes(column) > RETAINED_BYTES_MAX:
        release(column)


cdef int zeros(Bytes* bytes, Py_ssize_t size) except -1:
    """Makes it ``size`` bytes long, new ones zero."""
    if size > bytes.size:
        ensure(bytes, size - bytes.size)
        memset(bytes.data + bytes.size, 0, size - bytes.size)
        bytes.size = size
    return 0


cdef int pad(Column* column, Py_ssize_t row) except -1:
    """Stores the nulls from where the column ends up to ``row``."""
    cdef Py_ssize_t index, first = column.rows
    if first > row:
        raise AssertionError("a column has more rows than its table")
    if first == row:
        return 0
    zeros(&column.nulls, (row + 7) >> 3)
    if column.storage == BITS:
        zeros(&column.data, (row + 7) >> 3)
    elif column.storage == SENTINEL:
        ensure(&column.data, (row - first) * column.width)
        for index in range(row - first):
            memcpy(column.data.data + column.data.size, &column.sentinel, column.width)
            column.data.size += column.width
    for index in range(first, row):
        column.nulls.data[index >> 3] |= <char> (1 << (index & 7))
    column.null_count += row - first
    column.rows = row
    return 0


cdef void take_back(Column* column, Py_ssize_t row) noexcept:
    """Undoes the cell of ``row``, if there is one."""
    if column.rows != row + 1:
        return
    if column.before.data != NULL:
        discard(&column.data)
        column.data = column.before
        memset(&column.before, 0, sizeof(Bytes))
    column.data.size = column.mark_data
    if column.storage == OFFSETS:
        column.text.size = column.mark_text
    if column.shared:
        column.shared = column.mark_shared
    if column.storage == BITS and row & 7:
        column.data.data[row >> 3] &= <char> ~(1 << (row & 7))
    column.rows = row


cdef void keep(Column* column) noexcept:
    """The row stays: what a rescale kept for undoing goes."""
    if column.before.data != NULL:
        discard(&column.before)


cdef int rescale(Column* column, int scale, Py_ssize_t more) except -1:
    """All decimals at a larger scale, which they are known to fit, and room for ``more`` bytes behind them."""
    cdef Bytes fresh
    cdef Py_ssize_t at
    cdef int width = column.width
    cdef object digits = scale + 1 - column.shared  # a Python int: a power of C ints is a float
    factor = 10**digits
    memset(&fresh, 0, sizeof(Bytes))
    ensure(&fresh, column.data.size + more)
    try:
        for at in range(0, column.data.size, width):
            number = int.from_bytes(column.data.data[at : at + width], "little", signed=True) * factor
            scaled = number.to_bytes(width, "little", signed=True)
            memcpy(fresh.data + at, <char*> (<bytes> scaled), width)
    except BaseException:
        discard(&fresh)
        raise
    fresh.size = column.data.size
    column.before = column.data
    column.data = fresh
    column.shared = scale + 1
    return 0


cdef int popcount(uint8_t bits) noexcept nogil:
    cdef int count = 0
    while bits:
        bits &= bits - 1
        count += 1
    return count


cdef Py_ssize_t nulls_before(const Column* column, Py_ssize_t row) noexcept nogil:
    """Null rows among the first ``row`` stored ones."""
    cdef Py_ssize_t index, whole = row >> 3, count = 0
    if column.null_count == 0:
        return 0
    if row == column.rows:
        return column.null_count
    for index in range(min(whole, column.nulls.size)):
        count += popcount(<uint8_t> column.nulls.data[index])
    if whole < column.nulls.size and row & 7:
        count += popcount(<uint8_t> column.nulls.data[whole] & <uint8_t> ((1 << (row & 7)) - 1))
    return count


cdef Py_ssize_t array_nbytes(const char* at) noexcept nogil:
    cdef Py_ssize_t dimensions = <uint8_t> at[0], elements = 1, index
    cdef uint32_t dimension
    for index in range(dimensions):
        memcpy(&dimension, at + 1 + 4 * index, 4)
        elements *= dimension
    return 1 + 4 * dimensions + 8 * elements


cdef Place locate(const Column* column, Py_ssize_t row) noexcept nogil:
    """Where the values of row ``row`` begin; ``row`` is at most `rows`."""
    cdef Place place
    cdef Py_ssize_t index
    cdef uint32_t end
    place.nulls = nulls_before(column, row)
    place.value = row - place.nulls
    place.text = 0
    if column.storage == BITS:
        place.data = row >> 3
    elif column.storage == SENTINEL:
        place.data = row * column.width
    elif column.storage == FIXED:
        place.data = place.value * column.width
    elif row == column.rows:
        place.data = column.data.size
        place.text = column.text.size
    elif column.storage == OFFSETS:
        place.data = 4 * place.value
        if place.value:
            memcpy(&end, column.data.data + place.data - 4, 4)
            place.text = end
    else:
        place.data = 0
        for index in range(place.value):
            if column.storage == ARRAY:
                place.data += array_nbytes(column.data.data + place.data)
            else:
                while <uint8_t> column.data.data[place.data] & 0x80:
                    place.data += 1
                place.data += 1
    return place


cdef void shift(Bytes* bytes, Py_ssize_t nbytes) noexcept:
    """Forgets the first bytes."""
    bytes.size = max(bytes.size - nbytes, 0)
    if bytes.size:
        memmove(bytes.data, bytes.data + nbytes, bytes.size)


cdef void shift_bits(Bytes* bytes, Py_ssize_t bits, Py_ssize_t left) noexcept:
    """Forgets the first bits; ``left`` bits are meant to stay, those behind them become zero."""
    cdef Py_ssize_t index, by = bits & 7
    shift(bytes, bits >> 3)
    if by:
        for index in range(bytes.size):
            bytes.data[index] = <char> (<uint8_t> bytes.data[index] >> by)
            if index + 1 < bytes.size:
                bytes.data[index] |= <char> (<uint8_t> bytes.data[index + 1] << (8 - by) & 0xFF)
    bytes.size = min(bytes.size, (left + 7) >> 3)


cdef int drop_front(Column* column, Py_ssize_t count) except -1:
    """Forgets the first ``count`` rows."""
    cdef Place place
    cdef Py_ssize_t index, left
    cdef uint32_t end
    if column.rows < count:
        pad(column, count)
    left = column.rows - count
    place = locate(column, count)
    if column.storage == BITS:
        shift_bits(&column.data, count, left)
    else:
        shift(&column.data, place.data)
    if column.storage == OFFSETS:
        shift(&column.text, place.text)
        for index in range(0, column.data.size, 4):
            memcpy(&end, column.data.data + index, 4)
            end -= <uint32_t> place.text
            memcpy(column.data.data + index, &end, 4)
    if column.nulls.size:
        shift_bits(&column.nulls, count, left)
    column.null_count -= place.nulls
    column.rows = left
    return 0


cdef int drop_last(Column* column, Py_ssize_t row) except -1:
    """Forgets the cell of ``row``, the last one, whatever became of the rows before it since it was stored."""
    cdef Place place
    cdef bint null
    if column.rows <= row:
        return 0
    place = locate(column, row)
    null = column.null_count > place.nulls
    column.data.size = place.data
    if column.storage == BITS:
        column.data.size = (row + 7) >> 3
        if row & 7:
            column.data.data[row >> 3] &= <char> ~(1 << (row & 7))
    elif column.storage == OFFSETS:
        column.text.size = place.text
    column.null_count = place.nulls
    if null:
        column.nulls.data[row >> 3] &= <char> ~(1 << (row & 7))
    column.nulls.size = min(column.nulls.size, (row + 7) >> 3)
    column.rows = row
    if not null and column.shared:
        if 0 < column.mark_shared < column.shared and column.type in DECIMAL_TYPES:
            descale(column, column.shared - column.mark_shared)
        column.shared = column.mark_shared
    return 0


cdef int descale(Column* column, int digits) except -1:
    """Takes back a rescale: every value has that many zeros at its end."""
    cdef Py_ssize_t at
    cdef int width = column.width
    factor = 10 ** <object> digits
    for at in range(0, column.data.size, width):
        number = int.from_bytes(column.data.data[at : at + width], "little", signed=True) // factor
        scaled = number.to_bytes(width, "little", signed=True)
        memcpy(column.data.data + at, <char*> (<bytes> scaled), width)
    return 0
