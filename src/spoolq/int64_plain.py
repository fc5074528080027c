"""`TimestampMicros`, `TimestampNanos`, `DateMillis`, plain body: the twin of `_int64`.

A program makes one of them for each row, so this is part of the hot path: making one costs 330 ns
here and 50 ns compiled.  `number_of` is the rule of both.  Imports nothing of spoolq, except that an
unpickled value is looked up in `spoolq.values`, so that the bodies can exchange pickles.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self, final

_INT64_MIN: Final = -(1 << 63)
_INT64_MAX: Final = (1 << 63) - 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_PER_MICROSECOND: Final = {"TimestampMicros": (1, 1), "TimestampNanos": (1_000, 1), "DateMillis": (1, 1_000)}


def as_int(kind: str, value: Any, low: int, high: int) -> int:
    """An int within bounds; TypeError or ValueError that names ``kind``."""
    if type(value) is bool or not hasattr(value, "__index__"):
        raise TypeError(f"{kind} takes an int, not {type(value).__name__}")
    number = int(value)
    if not low <= number <= high:
        raise ValueError(f"{kind} takes {low} to {high}, not {number}")
    return number


def micros_of_datetime(moment: datetime) -> int:
    """Microseconds since the epoch; a naive datetime counts as UTC.  Exact: no float is involved."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // _MICROSECOND


def number_of(kind: str, value: Any) -> int:
    """The number of an int or a datetime in the unit of a class; a datetime is rounded down."""
    if isinstance(value, datetime):
        times, over = _PER_MICROSECOND[kind]
        value = micros_of_datetime(value) * times // over
    return as_int(kind, value, _INT64_MIN, _INT64_MAX)


def restored(kind: str, number: int) -> Any:
    """A value from a pickle, in the body of this process."""
    from spoolq import values

    return getattr(values, kind)(number)


class _Int64:
    """One signed 64-bit number with a meaning; compares and hashes by type and value."""

    __slots__ = ("_value",)
    _value: int

    def __init__(self, value: int | datetime) -> None:
        object.__setattr__(self, "_value", number_of(type(self).__name__, value))

    @property
    def value(self) -> int:
        """The number, in the unit of the class."""
        return self._value

    @classmethod
    def from_datetime(cls, moment: datetime) -> Self:
        """From a datetime; a naive one counts as UTC."""
        return cls(moment)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._value == self._value

    def __hash__(self) -> int:
        return hash((type(self).__name__, self._value))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._value})"

    def __reduce__(self) -> tuple[Any, ...]:
        return restored, (type(self).__name__, self._value)


@final
class TimestampMicros(_Int64):
    """Microseconds since 1970-01-01 UTC, from an int or a datetime.

    As ``at=`` it must not be negative; in a column it may be.
    """

    __slots__ = ()

    @classmethod
    def now(cls) -> Self:
        """The system clock, now."""
        return cls(time.time_ns() // 1_000)


@final
class TimestampNanos(_Int64):
    """Nanoseconds since 1970-01-01 UTC, from an int or a datetime.

    As ``at=`` it must not be negative; in a column it may be.
    """

    __slots__ = ()

    @classmethod
    def now(cls) -> Self:
        """The system clock, now."""
        return cls(time.time_ns())


@final
class DateMillis(_Int64):
    """Milliseconds since 1970-01-01 UTC for a DATE column, from an int or a datetime."""

    __slots__ = ()

    @classmethod
    def now(cls) -> Self:
        """The system clock, now."""
        return cls(time.time_ns() // 1_000_000)
