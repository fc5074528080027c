"""Which table and column names the server takes (wire.md 3.4); checked before anything is encoded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, Final

from spoolq.columns import faults
from spoolq.errors import InputError, InvalidNameError
from spoolq.limits import NAME_BYTES_MAX

_FORBIDDEN: Final = frozenset(
    "?,'\"\\/:)(+*%~\r\n\0\x7f\ufeff" + "".join(map(chr, range(0x01, 0x0A))) + "\x0b\x0c\x0e\x0f"
)
_FORBIDDEN_IN_COLUMN: Final = _FORBIDDEN | frozenset(".-")


def check_table_name(name: str, max_bytes: int = NAME_BYTES_MAX) -> bytes:
    """The name in UTF-8; raises InvalidNameError when the server would refuse it."""
    encoded = _encoded("table", name, max_bytes, name)
    _check_characters("table", name, _FORBIDDEN, name)
    if name[0] == "." or name[-1] == "." or ".." in name:
        raise InvalidNameError(f"table name {name!r} has a dot first, last or doubled", table=name)
    return encoded


def check_column_name(name: str, max_bytes: int = NAME_BYTES_MAX, *, table: str | None = None) -> bytes:
    """The name in UTF-8; raises InvalidNameError when the server would refuse it."""
    encoded = _encoded("column", name, max_bytes, table)
    _check_characters("column", name, _FORBIDDEN_IN_COLUMN, table)
    return encoded


def fold(name: str) -> str:
    """The form in which two column names are the same column (wire.md 3.4)."""
    return name.lower()


def check_shape(
    table: str, symbols: Sequence[str], columns: Sequence[str], max_bytes: int = NAME_BYTES_MAX
) -> tuple[str, ...]:
    """The column names of a row, symbols first; InputError for one the server would refuse, or one twice."""
    seen: dict[str, str] = {}
    names = (*symbols, *columns)
    for name in names:
        check_column_name(name, max_bytes, table=table)
        folded = fold(name)
        if folded in seen:
            raise faults.twice(table, name, seen[folded])
        seen[folded] = name
    return names


def as_names(table: str, given: Any) -> tuple[str, ...]:
    """``symbols=`` or ``columns=`` of ``rows()``; InputError when it is no list of names."""
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise InputError(f"rows for table {table!r}: 'symbols' and 'columns' take a list of names", table=table)
    return tuple(given)


def as_dict(table: str, keyword: str, given: Any) -> dict[str, Any]:
    """``symbols=`` or ``columns=`` of a row as a dict; InputError when it is no mapping."""
    if given is None:
        return {}
    if type(given) is dict:
        return given
    if not isinstance(given, Mapping):
        raise faults.not_a_mapping(table, keyword, given)
    return dict(given.items())


def as_values(table: str, index: int, given: Any) -> Sequence[Any]:
    """A row of ``rows()`` as tuple or list; InputError when it is no sequence of values."""
    if type(given) is tuple or type(given) is list:
        return given
    if isinstance(given, str | bytes | bytearray | Mapping | Set) or not isinstance(given, Iterable):
        raise faults.not_a_row(table, index, given)
    return tuple(given)


def _encoded(kind: str, name: str, max_bytes: int, table: str | None) -> bytes:
    if not isinstance(name, str):
        raise InvalidNameError(
            f"{_place(kind, table)}a {kind} name must be a str, not {faults.kind_of(name)}",
            table=table if kind == "column" else None,
        )
    if not name:
        raise _invalid(kind, name, table, f"a {kind} name must not be empty")
    try:
        encoded = name.encode()
    except UnicodeEncodeError as error:
        raise _invalid(kind, name, table, f"{kind} name {name!r} is not valid Unicode: {error}") from None
    if len(encoded) > max_bytes:
        why = f"{kind} name {name[:40]!r}... has {len(encoded)} bytes of UTF-8; the limit is {max_bytes}"
        raise _invalid(kind, name, table, why)
    return encoded


def _check_characters(kind: str, name: str, forbidden: frozenset[str], table: str | None) -> None:
    for index, character in enumerate(name):
        if character in forbidden:
            why = f"{kind} name {name!r} has the forbidden character {character!r} at index {index}"
            raise _invalid(kind, name, table, why)


def _invalid(kind: str, name: str, table: str | None, why: str) -> InvalidNameError:
    return InvalidNameError(_place(kind, table) + why, table=table, column=name if kind == "column" else None)


def _place(kind: str, table: str | None) -> str:
    """Where a column stands; a table's name is its own place."""
    return f"table {table!r}: " if kind == "column" and table is not None else ""
