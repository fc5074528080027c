# What the encoder offers to compiled code: a message that was measured can be written anywhere.
# The sender's lock is held from `gather` until `write` is done.
from libc.stdint cimport uint32_t, uint64_t
from spoolq.columns._column cimport Column
from spoolq.columns._rows cimport RowBuffer
from spoolq.columns._table cimport Table

# A column cut to some rows.
cdef struct Slice:
    Column* column
    Py_ssize_t first
    Py_ssize_t rows
    Py_ssize_t nulls
    Py_ssize_t values       # that are no null
    const char* data
    Py_ssize_t data_size
    const char* text
    Py_ssize_t text_size
    uint32_t text_start     # what the stored end offsets count from
    bint bitmap
    int timestamps          # PLAIN, RAW, PACKED
    Py_ssize_t size         # of the column in the message, without its schema

# A table cut to some rows: those of its columns that have a value there.
cdef struct Block:
    const char* name
    Py_ssize_t name_size
    Py_ssize_t rows
    Slice* slices
    Py_ssize_t slice_count
    Py_ssize_t slice_room
    Py_ssize_t size

cdef struct Frame:
    Block* blocks
    Py_ssize_t block_count
    uint64_t symbol_start
    uint64_t symbol_count
    const char* entries     # the dictionary section's
    Py_ssize_t entries_size
    Py_ssize_t payload
    bint gorilla

cdef class Message:
    cdef Frame frame
    cdef bytes entries
    cdef int gather(self, RowBuffer rows, object cut, bint gorilla) except -1
    # All rows, when their symbols are all published already; runs no Python code.
    cdef int gather_known(self, RowBuffer rows, Py_ssize_t symbol_start, bint gorilla) except -1
    cdef int begin(self, uint64_t symbol_start, uint64_t symbol_count, bytes entries, bint gorilla) except -1
    cdef int reserve_blocks(self, Py_ssize_t count) except -1
    cdef int add(self, Py_ssize_t index, Table table, Py_ssize_t first, Py_ssize_t end) except -1
    cdef int add_all(self, RowBuffer rows) except -1
    cdef Py_ssize_t nbytes(self) noexcept
    cdef int write(self, char* at, Py_ssize_t nbytes) except -1     # exactly `nbytes()`
