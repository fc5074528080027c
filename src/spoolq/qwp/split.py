"""A batch above the frame limit becomes several messages (behaviour.md 3.5, ours.md 5).

`plan` tries, in this order: everything in one message; one message a table; a table's rows halved,
down to one.  When it splits, the new symbols go ahead in messages that only register them, so that
each part of the rows can stand anywhere behind them.  Dense messages (slot.md 4: the symbols cannot be
written ahead) each carry the whole dictionary instead.
"""

from __future__ import annotations

from collections.abc import Iterator

from spoolq import limits
from spoolq.columns import RowBuffer, sizes
from spoolq.errors import FrameTooLarge
from spoolq.qwp import encode
from spoolq.qwp.cut import Cut


def plan(rows: RowBuffer, limit_nbytes: int, *, gorilla: bool = False, dense: bool = False) -> list[Cut]:
    """The messages, in order, each of at most ``limit_nbytes``; ``dense``: all ids from 0 in each of them.

    Raises FrameTooLarge, and plans nothing, when one row or one symbol alone is larger.
    """
    start, end = 0 if dense else rows.symbols.published_count, len(rows.symbols)
    counts = [rows.table_rows(index) for index in range(rows.table_count)]
    whole = Cut(tuple((index, 0, count) for index, count in enumerate(counts)), start, end)
    countable = len(counts) <= limits.TABLES_PER_MESSAGE_MAX and max(counts, default=0) <= limits.ROWS_PER_TABLE_MAX
    if countable and _fits(rows, whole, limit_nbytes, gorilla):
        return [whole]
    cuts = [] if dense else list(symbol_cuts(rows, start, end, limit_nbytes))
    section = (0 if dense else end, end)
    for index, count in enumerate(counts):
        cuts += _halved(rows, (index, 0, count), section, limit_nbytes, gorilla)
    return cuts


def fits_whole(rows: RowBuffer, limit_nbytes: int) -> bool:
    """Whether the batch is one message without a look at its exact size; False only says "ask `plan`"."""
    return (
        rows.nbytes + limits.HEADER_BYTES <= limit_nbytes
        and len(rows) <= limits.ROWS_PER_TABLE_MAX
        and rows.table_count <= limits.TABLES_PER_MESSAGE_MAX
    )


def symbol_cuts(rows: RowBuffer, start: int, end: int, limit_nbytes: int) -> Iterator[Cut]:
    """Messages without a table that register ids ``start`` to ``end - 1``.

    Packed as the catch-up of a later connection packs them, so that what is registered here can be
    registered again under the same cap.
    """
    symbols, first = rows.symbols, start
    budget_nbytes = limit_nbytes - sizes.SYMBOL_MESSAGE_BYTES
    while first < end:
        last = symbols.entries_end(first, budget_nbytes, end)
        if last <= first:
            size = symbols.entries_nbytes(first, first + 1) + sizes.SYMBOL_MESSAGE_BYTES
            raise FrameTooLarge(
                f"the symbol {symbols.text_of(first)[:40]!r}... alone needs a message of {size} bytes; the limit is "
                f"{limit_nbytes}; use a VARCHAR column for texts of that size",
                size=size,
                limit=limit_nbytes,
            )
        yield Cut((), first, last)
        first = last


def _fits(rows: RowBuffer, cut: Cut, limit_nbytes: int, gorilla: bool) -> bool:
    size: int = encode.frame_bytes(rows, cut, gorilla=gorilla)
    return size <= limit_nbytes


def _halved(
    rows: RowBuffer, part: tuple[int, int, int], section: tuple[int, int], limit_nbytes: int, gorilla: bool
) -> list[Cut]:
    index, first, end = part
    cut = Cut((part,), *section)
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
    return _halved(rows, (index, first, middle), section, limit_nbytes, gorilla) + _halved(
        rows, (index, middle, end), section, limit_nbytes, gorilla
    )
