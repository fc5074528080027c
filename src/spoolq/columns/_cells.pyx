"""Values that `convert` made, into columns: the slower half of `_rows`, which knows the common types by itself.

`put(column, row, value)` stores a value in the form that `convert.fitted` gives.  The caller has padded the column up
to the row (`pad`); what the row has stored is undone by the column's marks (`take_back`).  Decimals, geohashes and
arrays share something with all values of their column (scale, precision, dimensions), which is looked at here.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.string cimport memcpy
from spoolq.columns._column cimport (
    OFFSETS, Column, begin, put_8, put_bit, put_bytes, put_text, put_varint, rescale, uint64_t,
)

from spoolq.columns import convert, faults
from spoolq.columns.types import DECIMALS, SENTINELS, SIGNED_BITS, UNSIGNED_BITS, ColumnType

cdef uint64_t DOUBLE_NAN = int.from_bytes(SENTINELS[ColumnType.DOUBLE], "little")
cdef dict INT_FORMS = {
    **{int(kind): (bits // 8, True) for kind, bits in SIGNED_BITS.items()},
    **{int(kind): (bits // 8, False) for kind, bits in UNSIGNED_BITS.items()},
}
cdef frozenset DECIMAL_TYPES = frozenset(map(int, DECIMALS))


cdef int put(Column* column, Py_ssize_t row, object value) except -1:
    """A stored form that is good in itself; 1 when all values moved to its scale, else 0.

    Refused when the column's other values forbid it; then the column is as before.
    """
    cdef double real
    cdef float small
    cdef int kind = column.type
    if kind == BOOLEAN_T:
        put_bit(column, row, bool(value))
    elif kind == DOUBLE_T:
        real = value
        put_8(column, row, &real if real == real else <double*> &DOUBLE_NAN)
    elif kind == FLOAT_T:
        small = <float> (<double> value)
        put_bytes(column, row, <char*> &small if small == small else <char*> &column.sentinel, 4)
    elif kind == SYMBOL_T:
        put_varint(column, row, value)
    elif column.storage == OFFSETS:
        put_text(column, row, PyBytes_AS_STRING(value), len(value))
    elif kind in DECIMAL_TYPES:
        unscaled, scale = value
        return put_decimal(column, row, unscaled, scale)
    elif kind == GEOHASH_T:
        bits, precision = value
        put_geohash(column, row, bits, precision)
    elif kind == DOUBLE_ARRAY_T or kind == LONG_ARRAY_T:
        shape, elements = value
        put_array(column, row, shape, elements)
    else:
        if kind != UUID_T:
            width, signed = INT_FORMS[kind]
            value = int(value).to_bytes(width, "little", signed=signed)
        if len(value) != column.width:
            raise faults.Refused(f"{len(value)} bytes are no {ColumnType(kind).name}")
        put_bytes(column, row, PyBytes_AS_STRING(value), column.width)
    return 0


cdef int put_decimal(Column* column, Py_ssize_t row, object unscaled, int scale) except -1:
    """At the column's scale; all values move to a larger one when this value has it."""
    cdef Py_ssize_t at
    kind = ColumnType(column.type)
    if column.shared and scale > column.shared - 1:
        for at in range(0, column.data.size, column.width):
            earlier = int.from_bytes(column.data.data[at : at + column.width], "little", signed=True)
            convert.rescaled(kind, earlier, column.shared - 1, scale)
        wire = int(unscaled).to_bytes(column.width, "little", signed=True)
        begin(column, row, 0)  # the marks of before the rescale: they undo both
        column.mark_shared = column.shared
        rescale(column, scale, column.width)
        memcpy(column.data.data + column.data.size, PyBytes_AS_STRING(wire), column.width)
        column.data.size += column.width
        column.rows = row + 1
        return 1
    if column.shared:
        unscaled = convert.rescaled(kind, unscaled, scale, column.shared - 1)
    wire = int(unscaled).to_bytes(column.width, "little", signed=True)
    put_bytes(column, row, PyBytes_AS_STRING(wire), column.width)
    if not column.shared:
        column.shared = scale + 1
    return 0


cdef int put_geohash(Column* column, Py_ssize_t row, object bits, int precision) except -1:
    if column.shared:
        convert.fit_precision(column.shared, precision)
    column.width = (precision + 7) // 8
    wire = int(bits).to_bytes(column.width, "little")
    put_bytes(column, row, PyBytes_AS_STRING(wire), column.width)
    column.shared = precision
    return 0


cdef int put_array(Column* column, Py_ssize_t row, object shape, object elements) except -1:
    if column.shared:
        convert.fit_dimensions(column.shared, len(shape))
    wire = b"".join([bytes([len(shape)]), *[int(n).to_bytes(4, "little") for n in shape], elements])
    put_bytes(column, row, PyBytes_AS_STRING(wire), len(wire))
    column.shared = len(shape)
    return 0
