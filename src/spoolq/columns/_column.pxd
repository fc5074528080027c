# One column in wire form, in native memory that grows: what a row appends to and the encoder copies from.
#
#   storage   data                                        text           a null
#   BITS      one bit a row, LSB first                    -              a clear bit
#   SENTINEL  width bytes a row                           -              the type's sentinel
#   FIXED     width bytes a value                         -              nothing
#   SYMBOL    a varint a value                            -              nothing
#   OFFSETS   u32 end offset a value                      the bytes      nothing
#   ARRAY     u8 dimensions, i32 each, elements a value   -              nothing
#
# `nulls` has a bit for each null row, in every storage; it is shorter than the rows while the last
# ones are not null.  Rows from `rows` on are null and not stored: `pad` stores them when it matters.
# All numbers are little-endian as in the message, so a whole column is copied, never converted.
#
# A cell is stored by `begin` and one `put_*`, which finish together or not at all; `take_back` undoes
# the cell of the current row.  Callers hold the GIL, except where a function is `nogil`.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    BITS = 1
    SENTINEL = 2
    FIXED = 3
    SYMBOL = 4
    OFFSETS = 5
    ARRAY = 6

cdef struct Bytes:
    char* data
    Py_ssize_t size
    Py_ssize_t room

cdef struct Column:
    # What every cell touches stands together, in one cache line.
    int type                # ColumnType, 0 = not in the batch
    int storage
    int width               # of a value, where it is fixed
    int shared              # 0 until the first value: scale + 1, precision or dimensions
    Py_ssize_t rows
    Bytes data
    Py_ssize_t mark_data    # sizes before the cell of the current row
    Py_ssize_t mark_text    # set by `put_text`
    int mark_shared         # set by `put_bytes`
    Bytes text
    Bytes nulls
    Py_ssize_t null_count
    uint64_t sentinel
    const char* name        # UTF-8, kept alive by the table
    Py_ssize_t name_size
    Bytes before            # values before a rescale by the current row; data is NULL when there was none

# Where the values of a row stand.
cdef struct Place:
    Py_ssize_t nulls        # null rows before it
    Py_ssize_t value        # values before it
    Py_ssize_t data
    Py_ssize_t text

cdef void* native_alloc(Py_ssize_t nbytes) except NULL
cdef void native_free(void* data, Py_ssize_t nbytes) noexcept
cdef int grow(Bytes* bytes, Py_ssize_t more) except -1
cdef void release(Column* column) noexcept
cdef void leave_batch(Column* column) noexcept
cdef int enter_batch(Column* column, int column_type, object name) except -1
cdef int pad(Column* column, Py_ssize_t row) except -1
cdef void take_back(Column* column, Py_ssize_t row) noexcept
cdef void keep(Column* column) noexcept
cdef int rescale(Column* column, int scale, Py_ssize_t more) except -1
cdef int drop_front(Column* column, Py_ssize_t count) except -1
cdef int drop_last(Column* column, Py_ssize_t row) except -1
cdef Place locate(const Column* column, Py_ssize_t row) noexcept nogil
cdef Py_ssize_t native_nbytes(const Column* column) noexcept


cdef inline int ensure(Bytes* bytes, Py_ssize_t more) except -1:
    """Room for ``more`` bytes behind what is there."""
    if bytes.room - bytes.size < more:
        return grow(bytes, more)
    return 0


cdef inline int begin(Column* column, Py_ssize_t row, Py_ssize_t more) except -1:
    """The cell of ``row`` comes: nulls up to it, a mark to undo it, room for it."""
    if column.rows != row:
        pad(column, row)
    column.mark_data = column.data.size
    return ensure(&column.data, more)


cdef inline int put_8(Column* column, Py_ssize_t row, const void* value) except -1:
    """A value of 8 bytes."""
    begin(column, row, 8)
    memcpy(column.data.data + column.data.size, value, 8)
    column.data.size += 8
    column.rows = row + 1
    return 0


cdef inline int put_bytes(Column* column, Py_ssize_t row, const char* value, Py_ssize_t nbytes) except -1:
    """A value of any size, as it stands in `data`."""
    begin(column, row, nbytes)
    column.mark_shared = column.shared
    memcpy(column.data.data + column.data.size, value, nbytes)
    column.data.size += nbytes
    column.rows = row + 1
    return 0


cdef inline int put_varint(Column* column, Py_ssize_t row, uint64_t value) except -1:
    """A symbol id."""
    cdef uint8_t* at
    begin(column, row, 10)
    at = <uint8_t*> column.data.data + column.data.size
    while value > 0x7F:
        at[0] = <uint8_t> (value & 0x7F | 0x80)
        at += 1
        value >>= 7
    at[0] = <uint8_t> value
    column.data.size = <char*> at + 1 - column.data.data
    column.rows = row + 1
    return 0


cdef inline int put_text(Column* column, Py_ssize_t row, const char* text, Py_ssize_t nbytes) except -1:
    """Bytes behind an end offset; the caller checked that the total stays within 31 bits."""
    cdef uint32_t end
    begin(column, row, 4)
    ensure(&column.text, nbytes)
    column.mark_text = column.text.size
    memcpy(column.text.data + column.text.size, text, nbytes)
    column.text.size += nbytes
    end = <uint32_t> column.text.size
    memcpy(column.data.data + column.data.size, &end, 4)
    column.data.size += 4
    column.rows = row + 1
    return 0


cdef inline int put_bit(Column* column, Py_ssize_t row, bint value) except -1:
    """A boolean."""
    begin(column, row, 1)
    if row & 7 == 0:
        column.data.data[column.data.size] = 0
        column.data.size += 1
    if value:
        column.data.data[row >> 3] |= <char> (1 << (row & 7))
    column.rows = row + 1
    return 0
