"""Python values become column values: which type a value has by nature, and its stored form.

`natural(value)` is the rule of ``row()``: it gives the column type and the *stored form*, which is
the same for both bodies of the row buffer:

    BOOLEAN bool - BYTE SHORT INT LONG CHAR IPV4 DATE TIMESTAMP TIMESTAMP_NANOS LONG256 int
    FLOAT DOUBLE float - VARCHAR BINARY bytes - UUID 16 bytes as on the wire
    GEOHASH (bits, precision) - DECIMAL* (unscaled, scale)
    DOUBLE_ARRAY LONG_ARRAY (dimensions, elements as row-major little-endian bytes)

None means NULL.  Nothing here changes anything: a value that is refused left no trace.  Decimal,
uuid, ipaddress and numpy are never imported here: whoever passes such a value has imported them.
"""

from __future__ import annotations

import struct
import sys
import warnings
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from spoolq import limits
from spoolq.columns.faults import Refused, RefusedArray, RefusedDecimal, RefusedText, kind_of
from spoolq.columns.types import ARRAYS, DECIMALS, SIGNED_BITS, UNSIGNED_BITS, ColumnType
from spoolq.values import (
    Char,
    DateMillis,
    Geohash,
    Long256,
    ServerTimestampType,
    TimestampMicros,
    TimestampNanos,
    micros_of_datetime,
)

INT64_MIN: Final = -(1 << 63)
INT64_MAX: Final = (1 << 63) - 1
_INT_BOUNDS: Final = {
    **{kind: (-(1 << bits - 1), (1 << bits - 1) - 1) for kind, bits in SIGNED_BITS.items()},
    **{kind: (0, (1 << bits) - 1) for kind, bits in UNSIGNED_BITS.items()},
}
_READS_AS_NULL: Final = frozenset({ColumnType.LONG, ColumnType.DATE, ColumnType.TIMESTAMP, ColumnType.TIMESTAMP_NANOS})


def natural(value: Any) -> tuple[ColumnType, Any] | None:
    """Column type and stored form of a value of ``row(columns=...)``; None for NULL.

    Raises Refused.
    """
    kind = type(value)
    convert = _EXACT.get(kind)
    if convert is not None:
        return convert(value)
    for base, convert in _BASES:
        if isinstance(value, base):
            return convert(value)
    for module, name, convert in _FOREIGN:
        foreign = getattr(sys.modules.get(module), name, None)
        if foreign is not None and isinstance(value, foreign):
            return convert(value)
    raise Refused(
        f"a value of type {kind_of(value)} has no column type; pass bool, int, float, str, bytes, datetime, "
        "Decimal, UUID, IPv4Address, a numpy scalar or float64 array, or a wrapper of spoolq"
    )


def fitted(column_type: ColumnType, value: Any) -> Any:
    """A stored form as a column of that type keeps it; Refused when it is out of range.

    What depends on the column's other values (decimal scale, geohash precision, number of
    dimensions) is checked by `fit_scale`, `fit_precision` and `fit_dimensions`.
    """
    if column_type is ColumnType.FLOAT:
        return _binary32(value)
    bounds = _INT_BOUNDS.get(column_type)
    if bounds is not None:
        if not bounds[0] <= value <= bounds[1]:
            raise Refused(f"{value} is outside {bounds[0]} to {bounds[1]}")
        return value
    if column_type in DECIMALS:
        if not 0 <= value[1] <= limits.DECIMAL_SCALE_MAX:
            raise RefusedDecimal(f"scale {value[1]} is outside 0 to {limits.DECIMAL_SCALE_MAX}")
        check_decimal(column_type, value[0])
    elif column_type is ColumnType.GEOHASH:
        Geohash(*value)
    elif column_type in ARRAYS:
        check_array(*value)
    return value


def fit_precision(first: int, precision: int) -> None:
    """Refused when a geohash has another precision than the column's first one."""
    if first != precision:
        raise Refused(
            f"a geohash of {precision} bits in a batch whose first one has {first}; one precision a column and batch"
        )


def fit_dimensions(first: int, dimensions: int) -> None:
    """Refused when an array has another number of dimensions than the column's first one."""
    if first != dimensions:
        raise RefusedArray(
            f"an array of {dimensions} dimensions in a batch whose first one has {first}; "
            "the server takes one number of dimensions a column"
        )


def rescaled(column_type: ColumnType, unscaled: int, scale: int, new_scale: int) -> int:
    """The unscaled number at a larger scale, exact; Refused when it no longer fits the type."""
    unscaled *= 10 ** (new_scale - scale)
    check_decimal(column_type, unscaled)
    return unscaled


def exact_double(value: int) -> float:
    """An int for a DOUBLE column; Refused when the float is another number (ours.md 9)."""
    try:
        number = float(value)
    except OverflowError:
        number = 0.5
    if number != value:
        raise Refused(f"the int {value} is not exact as a DOUBLE")
    return number


def reads_as_null(column_type: ColumnType, value: Any) -> bool:
    """Whether a value that is there comes back as NULL; said once a column (ours.md 9)."""
    return column_type in _READS_AS_NULL and bool(value == INT64_MIN)


def symbol_text(value: Any) -> str:
    """The text of a SYMBOL value; Refused when it is no str or not valid Unicode."""
    if not isinstance(value, str):
        raise Refused(f"a symbol takes str or None, not {kind_of(value)}")
    text = str.__str__(value)
    encode_text(text)
    return text


def _binary32(value: float) -> float:
    try:
        struct.pack("<f", value)
    except OverflowError:
        raise Refused(f"{value} is outside the range of a FLOAT") from None
    return value


def check_int64(value: int) -> int:
    """The int itself; Refused outside 64 bits."""
    if not INT64_MIN <= value <= INT64_MAX:
        raise Refused(f"the int {value} is outside 64 bits; use Long256, Decimal or str")
    return int(value)


def encode_text(value: str) -> bytes:
    """UTF-8; Refused for a lone surrogate."""
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise RefusedText(f"the text is not valid Unicode: {error.reason} at index {error.start}") from None


def micros_of(moment: datetime) -> int:
    """Microseconds of a datetime; a naive one counts as UTC, said once a process (ours.md 9)."""
    global _naive_said
    if getattr(moment, "nanosecond", 0):
        raise Refused(f"{moment!r} has nanoseconds, which TIMESTAMP would drop; pass TimestampNanos(moment.value)")
    if moment.tzinfo is None and not _naive_said:
        warnings.warn(
            "a naive datetime counts as UTC; give it a tzinfo to be sure (said once)",
            UserWarning,
            stacklevel=4,
        )
        _naive_said = True
    return micros_of_datetime(moment)


_naive_said = False


def designated(at: Any) -> tuple[ColumnType, int] | None:
    """Type and number of ``at``; None for ServerTimestamp.  Raises Refused."""
    kind = type(at)
    found: tuple[ColumnType, int] | None
    if kind is TimestampNanos:
        found = ColumnType.TIMESTAMP_NANOS, at.value
    elif kind is TimestampMicros:
        found = ColumnType.TIMESTAMP, at.value
    elif kind is ServerTimestampType:
        return None
    else:
        numpy = sys.modules.get("numpy")
        if isinstance(at, datetime):
            found = _datetime(at)
        elif numpy is not None and isinstance(at, numpy.datetime64):
            found = _numpy_datetime(at)
        else:
            raise Refused(
                f"'at' takes TimestampMicros, TimestampNanos, datetime, numpy.datetime64 or ServerTimestamp, "
                f"not {kind_of(at)}"
            )
        if found is None:
            raise Refused("'at' is NaT; a designated timestamp cannot be NULL, use ServerTimestamp")
    if found[1] < 0:
        raise Refused(f"the designated timestamp {at!r} is before 1970, which the server does not take")
    return found


def _datetime(value: Any) -> tuple[ColumnType, int] | None:
    if value != value:
        return None  # pandas.NaT is a datetime that equals nothing
    return ColumnType.TIMESTAMP, micros_of(value)


def _float(value: Any) -> tuple[ColumnType, Any]:
    return ColumnType.DOUBLE, float(value)


def _int(value: Any) -> tuple[ColumnType, Any]:
    return ColumnType.LONG, check_int64(int(value))


def _decimal(value: Any) -> tuple[ColumnType, Any] | None:
    if not value.is_finite():
        return None  # wire.md 4.10: NaN and Infinity are sent as NULL
    sign, digits, exponent = value.as_tuple()
    scale = max(-exponent, 0)
    if scale > limits.DECIMAL_SCALE_MAX:
        raise RefusedDecimal(f"the Decimal has scale {scale}; 0 to {limits.DECIMAL_SCALE_MAX} can be stored")
    if len(digits) + max(exponent, 0) > _DECIMAL_DIGITS_MAX and any(digits):
        raise RefusedDecimal("the Decimal needs more than 256 bits")
    unscaled = 0
    for digit in digits:
        unscaled = unscaled * 10 + digit
    if unscaled:
        unscaled *= 10 ** max(exponent, 0)
    unscaled = -unscaled if sign else unscaled
    check_decimal(ColumnType.DECIMAL256, unscaled)
    return ColumnType.DECIMAL256, (unscaled, scale)


_DECIMAL_DIGITS_MAX: Final = 78
_DECIMAL_BITS: Final = {ColumnType.DECIMAL64: 64, ColumnType.DECIMAL128: 128, ColumnType.DECIMAL256: 256}


def check_decimal(column_type: ColumnType, unscaled: int) -> None:
    """Refused when the unscaled number does not fit the type's two's complement."""
    bits = _DECIMAL_BITS[column_type]
    if not -(1 << bits - 1) <= unscaled < 1 << bits - 1:
        raise RefusedDecimal(f"the Decimal needs more than {bits} bits at the scale of its column")


def _array(value: Any) -> tuple[ColumnType, Any]:
    if value.dtype != "float64":
        raise RefusedArray(f"an array of {value.dtype} cannot be stored; convert it with .astype('float64')")
    if hasattr(value, "mask"):
        raise RefusedArray("a masked array cannot be stored: its masked elements have no value; use .filled(nan)")
    return ColumnType.DOUBLE_ARRAY, array_form(value)


def check_array_shape(shape: tuple[int, ...]) -> int:
    """Number of elements; Refused when the server would not take an array of that shape."""
    if not 1 <= len(shape) <= limits.ARRAY_DIMENSIONS_MAX:
        raise RefusedArray(f"an array has 1 to {limits.ARRAY_DIMENSIONS_MAX} dimensions, this one {len(shape)}")
    product = 1
    for dimension in shape:
        product *= dimension
        if not 0 <= dimension <= limits.ARRAY_DIMENSION_MAX or product * 8 > limits.ARRAY_BYTES_MAX:
            raise RefusedArray(f"an array of shape {shape} is above the limit of {limits.ARRAY_BYTES_MAX} bytes")
    return product


def check_array(shape: tuple[int, ...], elements: bytes) -> None:
    """Refused when the elements are not those of the shape."""
    expected = 8 * check_array_shape(shape)
    if len(elements) != expected:
        raise RefusedArray(f"an array of shape {shape} has {expected} bytes of elements, not {len(elements)}")


def array_form(value: Any) -> tuple[tuple[int, ...], bytes]:
    """Dimensions and row-major little-endian bytes of an array of 8-byte elements (wire.md 4.9)."""
    shape = tuple(int(dimension) for dimension in value.shape)
    kind = "<i8" if value.dtype.kind == "i" else "<f8"
    check_array_shape(shape)
    return shape, value.astype(kind, copy=False).tobytes()


_MICROS_PER_UNIT: Final = {
    "D": 86_400_000_000,
    "h": 3_600_000_000,
    "m": 60_000_000,
    "s": 1_000_000,
    "ms": 1_000,
    "us": 1,
}


def _numpy_datetime(value: Any) -> tuple[ColumnType, int] | None:
    numpy = sys.modules["numpy"]
    if numpy.isnat(value):
        return None
    unit, count = numpy.datetime_data(value.dtype)
    number = int(value.astype("int64")) * count
    if unit == "ns":
        return ColumnType.TIMESTAMP_NANOS, check_int64(number)
    if unit not in _MICROS_PER_UNIT:
        raise Refused(f"numpy.datetime64 in units of {unit!r} cannot be stored; use 's', 'ms', 'us' or 'ns'")
    return ColumnType.TIMESTAMP, check_int64(number * _MICROS_PER_UNIT[unit])


def _duration(_value: Any) -> tuple[ColumnType, Any]:
    raise Refused("a numpy.timedelta64 has no column type; pass its count as an int")


def _bytes(value: Any) -> tuple[ColumnType, Any]:
    return ColumnType.BINARY, bytes(value)


_Converter = Callable[[Any], tuple[ColumnType, Any] | None]

_EXACT: dict[type, _Converter] = {
    type(None): lambda _value: None,
    bool: lambda value: (ColumnType.BOOLEAN, value),
    int: _int,
    float: lambda value: (ColumnType.DOUBLE, value),
    str: lambda value: (ColumnType.VARCHAR, encode_text(value)),
    bytes: lambda value: (ColumnType.BINARY, value),
    bytearray: _bytes,
    memoryview: _bytes,
    TimestampMicros: lambda value: (ColumnType.TIMESTAMP, value.value),
    TimestampNanos: lambda value: (ColumnType.TIMESTAMP_NANOS, value.value),
    DateMillis: lambda value: (ColumnType.DATE, value.value),
    Char: lambda value: (ColumnType.CHAR, ord(value.value)),
    Long256: lambda value: (ColumnType.LONG256, value.value),
    Geohash: lambda value: (ColumnType.GEOHASH, (value.bits, value.precision)),
}

_BASES: list[tuple[type, _Converter]] = [
    (str, lambda value: (ColumnType.VARCHAR, encode_text(str.__str__(value)))),
    (datetime, _datetime),
    (int, _int),
    (float, lambda value: (ColumnType.DOUBLE, float(value))),
    (bytes, _bytes),
]

_FOREIGN: list[tuple[str, str, _Converter]] = [
    ("decimal", "Decimal", _decimal),
    ("uuid", "UUID", lambda value: (ColumnType.UUID, value.bytes[::-1])),
    ("ipaddress", "IPv4Address", lambda value: (ColumnType.IPV4, int(value))),
    ("numpy", "ndarray", _array),
    ("numpy", "bool_", lambda value: (ColumnType.BOOLEAN, bool(value))),
    ("numpy", "timedelta64", _duration),
    ("numpy", "integer", _int),
    ("numpy", "floating", _float),
    ("numpy", "datetime64", _numpy_datetime),
]
