# Values into columns: what a row stores that takes a look at its column first.  See `_cells.pyx`.
from spoolq.columns._column cimport Column

# ColumnType, as far as compiled code names one.
cdef enum:
    BOOLEAN_T = 0x01
    LONG_T = 0x05
    FLOAT_T = 0x06
    DOUBLE_T = 0x07
    SYMBOL_T = 0x09
    TIMESTAMP_T = 0x0A
    UUID_T = 0x0C
    GEOHASH_T = 0x0E
    VARCHAR_T = 0x0F
    NANOS_T = 0x10
    DOUBLE_ARRAY_T = 0x11
    LONG_ARRAY_T = 0x12
    BINARY_T = 0x17

cdef int put(Column* column, Py_ssize_t row, object value) except -1
