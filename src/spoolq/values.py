"""The value wrappers of the public API, for column types Python has no type of its own for.

Small immutable objects.  Constructors check ranges, so a wrapper that exists can be encoded.  Names
and meaning are those of the official client, so that people can switch.  The first three have two
bodies, because a program makes one a row: `_int64` and `int64_plain`.

`TimestampMicros`, `TimestampNanos`   TIMESTAMP, TIMESTAMP_NANOS
`ServerTimestamp`                     ``at=`` only: the server's clock
`DateMillis`                          DATE
`Char`                                CHAR, one UTF-16 code unit
`Long256`                             LONG256
`Geohash`                             GEOHASH of 1 to 60 bits
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, final

from spoolq._implementation import COMPILED
from spoolq.int64_plain import as_int, micros_of_datetime

if COMPILED:
    from spoolq._int64 import DateMillis, TimestampMicros, TimestampNanos
else:
    from spoolq.int64_plain import DateMillis, TimestampMicros, TimestampNanos

__all__ = [
    "Char",
    "DateMillis",
    "Geohash",
    "Long256",
    "ServerTimestamp",
    "ServerTimestampType",
    "TimestampMicros",
    "TimestampNanos",
    "micros_of_datetime",
]

_GEOHASH_ALPHABET: Final = "0123456789bcdefghjkmnpqrstuvwxyz"


@final
class ServerTimestampType:
    """Type of `ServerTimestamp`; there is one instance."""

    __slots__ = ()
    _instance: ClassVar[ServerTimestampType | None] = None

    def __new__(cls) -> ServerTimestampType:
        if cls._instance is None:
            cls._instance = super().__new__(cls)
        return cls._instance

    def __repr__(self) -> str:
        return "ServerTimestamp"

    def __reduce__(self) -> str:
        return "ServerTimestamp"


ServerTimestamp: Final = ServerTimestampType()
"""As ``at=``: the server's clock when the row arrives.  A replay gives the row a new time."""


@final
class Char:
    """One UTF-16 code unit for a CHAR column, from a str of one character up to U+FFFF.

    A null CHAR is stored as ``\\0``, so ``Char("\\0")`` reads back as absent.
    """

    __slots__ = ("_value",)
    _value: str

    def __init__(self, value: str) -> None:
        if not isinstance(value, str):
            raise TypeError(f"Char takes a str, not {type(value).__name__}")
        if len(value) != 1 or ord(value) > 0xFFFF:
            raise ValueError(f"Char takes one character up to U+FFFF, not {value!r}")
        object.__setattr__(self, "_value", str(value))

    @property
    def value(self) -> str:
        """The character."""
        return self._value

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("Char is immutable")

    def __eq__(self, other: object) -> bool:
        return type(other) is Char and other._value == self._value

    def __hash__(self) -> int:
        return hash(("Char", self._value))

    def __repr__(self) -> str:
        return f"Char({self._value!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Char, (self._value,)


@final
class Long256:
    """An unsigned 256-bit integer for a LONG256 column."""

    __slots__ = ("_value",)
    _value: int

    def __init__(self, value: int) -> None:
        object.__setattr__(self, "_value", as_int("Long256", value, 0, (1 << 256) - 1))

    @property
    def value(self) -> int:
        """The number, 0 to 2**256 - 1."""
        return self._value

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("Long256 is immutable")

    def __eq__(self, other: object) -> bool:
        return type(other) is Long256 and other._value == self._value

    def __hash__(self) -> int:
        return hash(("Long256", self._value))

    def __repr__(self) -> str:
        return f"Long256({self._value:#x})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Long256, (self._value,)


@final
class Geohash:
    """A GEOHASH cell: ``bits`` as an integer and its ``precision`` in bits, 1 to 60.

    All cells of a column in one batch share a precision.
    """

    __slots__ = ("_bits", "_precision")
    _bits: int
    _precision: int

    def __init__(self, bits: int, precision: int) -> None:
        width = as_int("Geohash precision", precision, 1, 60)
        object.__setattr__(self, "_precision", width)
        object.__setattr__(self, "_bits", as_int("Geohash bits", bits, 0, (1 << width) - 1))

    @classmethod
    def from_string(cls, text: str) -> Geohash:
        """From base-32 text of 1 to 12 characters, 5 bits each."""
        if not 1 <= len(text) <= 12:
            raise ValueError(f"a geohash has 1 to 12 characters, not {len(text)}")
        bits = 0
        for character in text.lower():
            digit = _GEOHASH_ALPHABET.find(character)
            if digit < 0:
                raise ValueError(f"{character!r} in geohash {text!r} is not one of {_GEOHASH_ALPHABET}")
            bits = bits << 5 | digit
        return cls(bits, 5 * len(text))

    @property
    def bits(self) -> int:
        """The cell as an integer, first bit of the hash highest."""
        return self._bits

    @property
    def precision(self) -> int:
        """Number of bits."""
        return self._precision

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("Geohash is immutable")

    def __eq__(self, other: object) -> bool:
        return type(other) is Geohash and other._bits == self._bits and other._precision == self._precision

    def __hash__(self) -> int:
        return hash(("Geohash", self._bits, self._precision))

    def __repr__(self) -> str:
        return f"Geohash({self._bits:#x}, {self._precision})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Geohash, (self._bits, self._precision)
