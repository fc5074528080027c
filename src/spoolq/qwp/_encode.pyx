"""The encoder, compiled body: columns in wire form become one QWP message by copying (wire.md 3, 4).

    frame_bytes   arithmetic on the columns' sizes; no byte is written
    write         the same walk once more, with a cursor that never passes the buffer's end

Each column of a block is cut to the block's rows first (`Slice`): for all rows of a table that is
free, for a part it is found by `locate`.  A large message is written without the GIL; a small one
keeps it, because getting it back can take longer than the copy.
"""

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from spoolq.columns._column cimport BITS, OFFSETS, SENTINEL, Column, Place, locate, native_alloc, native_free
from spoolq.columns._rows cimport RowBuffer
from spoolq.columns._table cimport Table

from spoolq import limits
from spoolq.qwp import layout

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident()

cdef enum:
    TIMESTAMP_T = 0x0A
    GEOHASH_T = 0x0E
    NANOS_T = 0x10
    DECIMAL64_T = 0x13
    DECIMAL256_T = 0x15
    PLAIN = 0       # no encoding byte
    RAW = 1         # encoding byte 00
    PACKED = 2      # encoding byte 01, Gorilla

cdef Py_ssize_t HEADER_BYTES = limits.HEADER_BYTES
cdef Py_ssize_t WITHOUT_GIL_BYTES = 256 << 10  # copying less is quicker than a thread switch
cdef int VERSION = limits.PROTOCOL_VERSION
cdef int FLAG_DICTIONARY = layout.FLAG_DELTA_DICTIONARY
cdef int FLAG_GORILLA = layout.FLAG_GORILLA
cdef const char* MAGIC = b"QWP1"  # layout.MAGIC

cdef struct Cursor:
    char* at
    char* end


@cython.final
@cython.freelist(4)
cdef class Message:
    """A message on its way: its parts, measured.  Borrows from the row buffer, whose lock is held."""

    def __dealloc__(self):
        cdef Py_ssize_t index
        cdef Frame* frame = &self.frame
        if frame.blocks != NULL:
            for index in range(frame.block_count):
                native_free(frame.blocks[index].slices, sizeof(Slice) * frame.blocks[index].slice_room)
            native_free(frame.blocks, sizeof(Block) * max(frame.block_count, 1))

    cdef int gather(self, RowBuffer rows, object cut, bint gorilla) except -1:
        """Measures everything that ``cut`` names, or all rows and the new symbols."""
        cdef Py_ssize_t index, table_index, first, end
        symbols = rows.symbols
        if cut is None:
            start, stop, tables = symbols.published_count, len(symbols), None
        else:
            start, stop, tables = cut.symbol_start, cut.symbol_end, cut.tables
        self.begin(start, stop - start, symbols.entries(start, stop) if start != stop else b"", gorilla)
        if tables is None:
            return self.add_all(rows)
        self.reserve_blocks(len(tables))
        for index in range(len(tables)):
            table_index, first, end = tables[index]
            self.add(index, rows.table_at(table_index), first, end)
        return 0

    cdef int gather_known(self, RowBuffer rows, Py_ssize_t symbol_start, bint gorilla) except -1:
        self.begin(symbol_start, 0, b"", gorilla)
        return self.add_all(rows)

    cdef int begin(self, uint64_t symbol_start, uint64_t symbol_count, bytes entries, bint gorilla) except -1:
        cdef Frame* frame = &self.frame
        self.entries = entries
        frame.entries, frame.entries_size = entries, len(entries)
        frame.symbol_start, frame.symbol_count = symbol_start, symbol_count
        frame.gorilla = gorilla
        frame.payload = varint_size(symbol_start) + varint_size(symbol_count) + frame.entries_size
        return 0

    cdef int reserve_blocks(self, Py_ssize_t count) except -1:
        self.frame.blocks = <Block*> native_alloc(sizeof(Block) * max(count, 1))
        self.frame.block_count = count
        return 0

    cdef int add(self, Py_ssize_t index, Table table, Py_ssize_t first, Py_ssize_t end) except -1:
        measure_block(&self.frame.blocks[index], table, first, end, self.frame.gorilla)
        self.frame.payload += self.frame.blocks[index].size
        return 0

    cdef int add_all(self, RowBuffer rows) except -1:
        cdef Py_ssize_t index
        cdef Table table
        self.reserve_blocks(len(rows.batch))
        for index in range(self.frame.block_count):
            table = rows.table_at(index)
            self.add(index, table, 0, table.row_count)
        return 0

    cdef Py_ssize_t nbytes(self) noexcept:
        return HEADER_BYTES + self.frame.payload

    cdef int write(self, char* at, Py_ssize_t nbytes) except -1:
        cdef Cursor out
        cdef int failed
        if nbytes != self.nbytes():
            raise ValueError(f"the buffer has {nbytes} bytes, the message {self.nbytes()}")
        out.at = at
        out.end = at + nbytes
        if nbytes < WITHOUT_GIL_BYTES:
            failed = write_frame(&out, &self.frame)
        else:
            with nogil:
                failed = write_frame(&out, &self.frame)
        if failed:
            raise AssertionError("a message does not end where its size says")
        return 0


def frame_bytes(RowBuffer rows not None, cut=None, *, bint gorilla=False):
    """Exact size of the message in bytes."""
    cdef Message message = Message.__new__(Message)
    message.gather(rows, cut, gorilla)
    return message.nbytes()


def write(RowBuffer rows not None, buffer, cut=None, *, bint gorilla=False):
    """Fills ``buffer``, any object with a contiguous writable buffer of exactly `frame_bytes`.

    ValueError, and nothing written, when its size is another one; TypeError or BufferError when it
    cannot be written.  Takes the sender's lock unless the caller holds it.
    """
    cdef bint mine = rows.owner != PyThread_get_thread_ident()
    if mine:
        rows.take_lock()
    try:
        write_locked(rows, buffer, cut, gorilla)
    finally:
        if mine:
            rows.give_lock()


cdef int write_locked(RowBuffer rows, object buffer, object cut, bint gorilla) except -1:
    cdef Message message = Message.__new__(Message)
    cdef Py_buffer view
    message.gather(rows, cut, gorilla)
    PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
    try:
        message.write(<char*> view.buf, view.len)
    finally:
        PyBuffer_Release(&view)
    return 0


# -- sizes ---------------------------------------------------------------------------------------
cdef inline Py_ssize_t varint_size(uint64_t value) noexcept nogil:
    cdef Py_ssize_t size = 1
    while value > 0x7F:
        value >>= 7
        size += 1
    return size


cdef inline Py_ssize_t string_size(Py_ssize_t size) noexcept nogil:
    return varint_size(size) + size


cdef int measure_block(Block* block, Table table, Py_ssize_t first, Py_ssize_t end, bint gorilla) except -1:
    """The rows ``first`` to ``end - 1`` of a table."""
    cdef Py_ssize_t index
    cdef Slice* part
    if not 0 <= first <= end <= table.row_count:
        raise IndexError(f"rows {first} to {end} of table {table.text!r}, which has {table.row_count}")
    table.settle()
    block.name = table.name
    block.name_size = len(table.name)
    block.rows = end - first
    block.slices = <Slice*> native_alloc(sizeof(Slice) * max(table.order_count, 1))
    block.slice_room = max(table.order_count, 1)
    block.size = string_size(block.name_size) + varint_size(block.rows)
    for index in range(table.order_count):
        part = &block.slices[block.slice_count]
        measure(part, table.order[index], first, end, gorilla)
        if part.values:  # a column that is null in all these rows is left out
            block.slice_count += 1
            block.size += string_size(part.column.name_size) + 1 + part.size
    block.size += varint_size(block.slice_count)
    return 0


cdef void measure(Slice* part, Column* column, Py_ssize_t first, Py_ssize_t end, bint gorilla) noexcept nogil:
    """A column cut to some rows: where its bytes are, and how many it takes in the message."""
    cdef Place start, stop
    memset(&start, 0, sizeof(Place))
    if first:
        start = locate(column, first)
    stop = locate(column, end)
    part.column = column
    part.first = first
    part.rows = end - first
    part.nulls = stop.nulls - start.nulls
    part.values = part.rows - part.nulls
    part.timestamps = PLAIN
    part.bitmap = False
    if column.storage == BITS:
        part.size = 1 + ((part.rows + 7) >> 3)
        return
    part.data = column.data.data + start.data
    part.data_size = stop.data - start.data
    part.size = 1 + part.data_size
    if column.storage == SENTINEL:
        return
    # A geohash that fills its bytes: all ones would read as NULL without a bitmap (wire.md 4.8).
    part.bitmap = part.nulls != 0 or (column.type == GEOHASH_T and not column.shared & 7)
    if part.bitmap:
        part.size += (part.rows + 7) >> 3
    if column.storage == OFFSETS:
        part.text = column.text.data + start.text
        part.text_size = stop.text - start.text
        part.text_start = <uint32_t> start.text
        part.size += 4 + part.text_size
    elif column.type == GEOHASH_T:
        part.size += varint_size(column.shared)
    elif DECIMAL64_T <= column.type <= DECIMAL256_T:
        part.size += 1
    elif gorilla and (column.type == TIMESTAMP_T or column.type == NANOS_T):
        measure_timestamps(part)


# -- Gorilla (wire.md 4.5): see `gorilla` for the table of codes ----------------------------------
cdef inline uint64_t time_at(const Slice* part, Py_ssize_t index) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, part.data + 8 * index, 8)
    return value


cdef inline int64_t step_of_step(const Slice* part, Py_ssize_t index) noexcept nogil:
    """D of a value, in wrapping arithmetic."""
    return <int64_t> (time_at(part, index) - 2 * time_at(part, index - 1) + time_at(part, index - 2))


cdef inline int code_of(int64_t d, int* prefix, int* prefix_bits) noexcept nogil:
    """Value bits of D, its prefix and the prefix's bits; -1 when D is outside 32 bits."""
    if d == 0:
        prefix[0], prefix_bits[0] = 0, 1
        return 0
    if -64 <= d <= 63:
        prefix[0], prefix_bits[0] = 1, 2
        return 7
    if -256 <= d <= 255:
        prefix[0], prefix_bits[0] = 3, 3
        return 9
    if -2048 <= d <= 2047:
        prefix[0], prefix_bits[0] = 7, 4
        return 12
    prefix[0], prefix_bits[0] = 15, 4
    return 32 if -0x80000000 <= d <= 0x7FFFFFFF else -1


cdef void measure_timestamps(Slice* part) noexcept nogil:
    """Gorilla when there are more than two values and every D fits, else as they are."""
    cdef Py_ssize_t index, bits = 0
    cdef int prefix, prefix_bits, value_bits
    part.timestamps = RAW
    part.size += 1
    if part.values <= 2:
        return
    for index in range(2, part.values):
        value_bits = code_of(step_of_step(part, index), &prefix, &prefix_bits)
        if value_bits < 0:
            return
        bits += prefix_bits + value_bits
    part.timestamps = PACKED
    part.size += 16 + ((bits + 7) >> 3) - part.data_size


cdef int write_packed(Cursor* out, const Slice* part) noexcept nogil:
    cdef Py_ssize_t index
    cdef int prefix, prefix_bits, value_bits, waiting = 0
    cdef uint64_t bits = 0
    cdef int64_t d
    if copy(out, part.data, 16):
        return -1
    for index in range(2, part.values):
        d = step_of_step(part, index)
        value_bits = code_of(d, &prefix, &prefix_bits)
        bits |= (<uint64_t> prefix) << waiting
        waiting += prefix_bits
        bits |= (<uint64_t> d & ((<uint64_t> 1 << value_bits) - 1)) << waiting  # at most 7 + 4 + 32 bits wait
        waiting += value_bits
        while waiting >= 8:
            if put_byte(out, <uint8_t> (bits & 0xFF)):
                return -1
            bits >>= 8
            waiting -= 8
    return put_byte(out, <uint8_t> bits) if waiting else 0


# -- bytes: each function gives -1 rather than pass the buffer's end ------------------------------
cdef inline int copy(Cursor* out, const char* data, Py_ssize_t size) noexcept nogil:
    if out.end - out.at < size:
        return -1
    if size:
        memcpy(out.at, data, size)
    out.at += size
    return 0


cdef inline int put_byte(Cursor* out, uint8_t value) noexcept nogil:
    if out.end == out.at:
        return -1
    out.at[0] = <char> value
    out.at += 1
    return 0


cdef int put_varint(Cursor* out, uint64_t value) noexcept nogil:
    while value > 0x7F:
        if put_byte(out, <uint8_t> (value & 0x7F | 0x80)):
            return -1
        value >>= 7
    return put_byte(out, <uint8_t> value)


cdef inline int put_string(Cursor* out, const char* data, Py_ssize_t size) noexcept nogil:
    return -1 if put_varint(out, size) or copy(out, data, size) else 0


cdef int put_bits(Cursor* out, const char* bits, Py_ssize_t size, Py_ssize_t first, Py_ssize_t count) noexcept nogil:
    """Bits ``first`` to ``first + count - 1`` of ``size`` bytes, behind which all are zero."""
    cdef Py_ssize_t index, at, whole = (count + 7) >> 3
    cdef int by = first & 7
    cdef unsigned int both
    if out.end - out.at < whole:
        return -1
    for index in range(whole):
        at = (first >> 3) + index
        both = <uint8_t> bits[at] if at < size else 0
        if by and at + 1 < size:
            both |= <unsigned int> (<uint8_t> bits[at + 1]) << 8
        out.at[index] = <char> ((both >> by) & 0xFF)
    if whole and count & 7:
        out.at[whole - 1] &= <char> ((1 << (count & 7)) - 1)
    out.at += whole
    return 0


cdef int write_frame(Cursor* out, const Frame* frame) noexcept nogil:
    """The message; -1 when it does not end just at the buffer's end."""
    cdef char header[12]
    cdef uint32_t payload = <uint32_t> frame.payload
    cdef Py_ssize_t index
    memcpy(header, MAGIC, 4)
    header[4] = <char> VERSION
    header[5] = <char> (FLAG_DICTIONARY | (FLAG_GORILLA if frame.gorilla else 0))
    header[6] = <char> (frame.block_count & 0xFF)
    header[7] = <char> (frame.block_count >> 8 & 0xFF)
    memcpy(&header[8], &payload, 4)
    if copy(out, header, 12) or put_varint(out, frame.symbol_start) or put_varint(out, frame.symbol_count):
        return -1
    if copy(out, frame.entries, frame.entries_size):
        return -1
    for index in range(frame.block_count):
        if write_block(out, &frame.blocks[index]):
            return -1
    return -1 if out.at != out.end else 0


cdef int write_block(Cursor* out, const Block* block) noexcept nogil:
    cdef Py_ssize_t index
    cdef const Slice* part
    if put_string(out, block.name, block.name_size) or put_varint(out, block.rows):
        return -1
    if put_varint(out, block.slice_count):
        return -1
    for index in range(block.slice_count):
        part = &block.slices[index]
        if put_string(out, part.column.name, part.column.name_size) or put_byte(out, <uint8_t> part.column.type):
            return -1
    for index in range(block.slice_count):
        if write_column(out, &block.slices[index]):
            return -1
    return 0


cdef int write_column(Cursor* out, const Slice* part) noexcept nogil:
    """Null section and values."""
    cdef const Column* column = part.column
    if put_byte(out, 1 if part.bitmap else 0):
        return -1
    if column.storage == BITS:
        return put_bits(out, column.data.data, column.data.size, part.first, part.rows)
    if part.bitmap and put_bits(out, column.nulls.data, column.nulls.size, part.first, part.rows):
        return -1
    if column.type == GEOHASH_T and put_varint(out, column.shared):
        return -1
    if DECIMAL64_T <= column.type <= DECIMAL256_T and put_byte(out, <uint8_t> (column.shared - 1)):
        return -1
    if column.storage == OFFSETS:
        return write_texts(out, part)
    if part.timestamps and put_byte(out, <uint8_t> (part.timestamps == PACKED)):
        return -1
    if part.timestamps == PACKED:
        return write_packed(out, part)
    return copy(out, part.data, part.data_size)


cdef int write_texts(Cursor* out, const Slice* part) noexcept nogil:
    """Offset 0, end offsets counted from the first text of the slice, texts."""
    cdef Py_ssize_t at
    cdef uint32_t end = 0
    if copy(out, <char*> &end, 4):
        return -1
    if part.text_start == 0:
        if copy(out, part.data, part.data_size):
            return -1
    else:
        for at in range(0, part.data_size, 4):
            memcpy(&end, part.data + at, 4)
            end -= part.text_start
            if copy(out, <char*> &end, 4):
                return -1
    return copy(out, part.text, part.text_size)
