"""A batch above the frame limit becomes several messages (behaviour.md 3.5, ours.md 5).

`plan` tries, in this order: everything in one message; one message a table; a table's rows halved,
down to one.  When it splits, the new symbols go ahead in messages that only register them, so that
each part of the rows can stand anywhere behind them.
"""

from __future__ import annotations

from collections.abc import Iterator

from spoolq import limits
from spoolq.columns import RowBuffer
from spoolq.columns.varint import varint_nbytes
from spoolq.errors import FrameTooLarge
from spoolq.qwp import encode
from spoolq.qwp.cut import Cut


def plan(rows: RowBuffer, limit_nbytes: int, *, gorilla: bool = False) -> list[Cut]:
    """The messages, in order, each of at most ``limit_nbytes``.

    Raises FrameTooLarge, and plans nothing, when one row or one symbol alone is larger.
    """
    start, end = rows.symbols.published_count, len(rows.symbols)
    counts = [rows.table_rows(index) for index in range(rows.table_count)]
    whole = Cut(tuple((index, 0, count) for index, count in enumerate(counts)), start, end)
    if len(counts) <= limits.TABLES_PER_MESSAGE_MAX and _fits(rows, whole, limit_nbytes, gorilla):
        return [whole]
    cuts = list(symbol_cuts(rows, start, end, limit_nbytes))
    for index, count in enumerate(counts):
        cuts += _halved(rows, index, 0, count, end, limit_nbytes, gorilla)
    return cuts


def symbol_cuts(rows: RowBuffer, start: int, end: int, limit_nbytes: int) -> Iterator[Cut]:
    """Messages without a table that register ids ``start`` to ``end - 1``."""
    symbols, first = rows.symbols, start
    while first < end:
        last = first + 1
        while last < end and _section_nbytes(rows, first, last + 1) + limits.HEADER_BYTES <= limit_nbytes:
            last += 1
        size = _section_nbytes(rows, first, last) + limits.HEADER_BYTES
        if size > limit_nbytes:
            raise FrameTooLarge(
                f"the symbol {symbols.text_of(first)[:40]!r}... alone needs a message of {size} bytes; the limit is "
                f"{limit_nbytes}; use a VARCHAR column for texts of that size",
                size=size,
                limit=limit_nbytes,
            )
        yield Cut((), first, last)
        first = last


def _section_nbytes(rows: RowBuffer, first: int, end: int) -> int:
    entries: int = rows.symbols.entries_nbytes(first, end)
    return varint_nbytes(first) + varint_nbytes(end - first) + entries


def _fits(rows: RowBuffer, cut: Cut, limit_nbytes: int, gorilla: bool) -> bool:
    size: int = encode.frame_bytes(rows, cut, gorilla=gorilla)
    return size <= limit_nbytes


def _halved(
    rows: RowBuffer, index: int, first: int, end: int, symbol_end: int, limit_nbytes: int, gorilla: bool
) -> list[Cut]:
    cut = Cut(((index, first, end),), symbol_end, symbol_end)
    if end - first <= limits.ROWS_PER_TABLE_MAX and _fits(rows, cut, limit_nbytes, gorilla):
        return [cut]
    if end - first == 1:
        size = encode.frame_bytes(rows, cut, gorilla=gorilla)
        raise FrameTooLarge(
            f"row {first} of table {rows.table_name(index)!r} alone needs a message of {size} bytes; the limit is "
            f"{limit_nbytes}",
            size=size,
            limit=limit_nbytes,
            table=rows.table_name(index),
        )
    middle = (first + end) // 2
    return _halved(rows, index, first, middle, symbol_end, limit_nbytes, gorilla) + _halved(
        rows, index, middle, end, symbol_end, limit_nbytes, gorilla
    )
