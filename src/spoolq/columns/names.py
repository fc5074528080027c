"""Which table and column names the server takes (wire.md 3.4); checked before anything is encoded."""

from __future__ import annotations

from typing import Final

from spoolq.errors import InvalidNameError
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


def _encoded(kind: str, name: str, max_bytes: int, table: str | None) -> bytes:
    column = name if kind == "column" else None
    if not isinstance(name, str):
        raise InvalidNameError(f"a {kind} name must be a str, not {type(name).__name__}", table=table)
    if not name:
        raise InvalidNameError(f"a {kind} name must not be empty", table=table, column=column)
    try:
        encoded = name.encode()
    except UnicodeEncodeError as error:
        raise InvalidNameError(f"{kind} name {name!r} is not valid Unicode: {error}", table=table) from None
    if len(encoded) > max_bytes:
        raise InvalidNameError(
            f"{kind} name {name[:40]!r}... has {len(encoded)} bytes of UTF-8; the limit is {max_bytes}",
            table=table,
            column=column,
        )
    return encoded


def _check_characters(kind: str, name: str, forbidden: frozenset[str], table: str | None) -> None:
    for index, character in enumerate(name):
        if character in forbidden:
            raise InvalidNameError(
                f"{kind} name {name!r} has the forbidden character {character!r} at index {index}",
                table=table,
                column=name if kind == "column" else None,
            )
