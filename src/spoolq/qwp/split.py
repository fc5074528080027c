"""A batch above the frame limit becomes several messages (behaviour.md 3.5, ours.md 5).

`plan` tries, in this order: everything in one message; one message a table; a table's rows halved,
down to one.  When it splits, the new symbols go ahead in messages that only register them, so that
each part of the rows can stand anywhere behind them.  Dense messages (slot.md 4: the symbols cannot be
written ahead) each carry the whole dictionary instead.

A row that was taken while the limit was larger gets a message of its own above the limit, up to that larger one:
stored, it waits for an endpoint that takes it (ours.md 6).  The tables without such a row go ahead of it.
"""

from __future__ import annotations

from collections.abc import Iterator

from spoolq import limits
from spoolq.columns import RowBuffer, sizes
from spoolq.errors import FrameTooLarge
from spoolq.qwp import encode
from spoolq.qwp.cut import Cut


def plan(
    rows: RowBuffer,
    limit_nbytes: int,
    *,
    alone_nbytes_max: int = 0,
    gorilla: bool = False,
    dense: bool = False,
) -> list[Cut]:
    """The messages, in order, each of at most ``limit_nbytes``; ``dense``: all ids from 0 in each of them.

    One row, or one symbol, that alone is above the limit may have ``alone_nbytes_max`` (when that is more).
    Raises FrameTooLarge, and plans nothing, for one that is larger than both.
    """
    alone_nbytes_max = max(alone_nbytes_max, limit_nbytes)
    start, end = 0 if dense else rows.symbols.published_count, len(rows.symbols)
    counts = [rows.table_rows(index) for index in range(rows.table_count)]
    whole = Cut(tuple((index, 0, count) for index, count in enumerate(counts)), start, end)
    countable = len(counts) <= limits.TABLES_PER_MESSAGE_MAX and max(counts, default=0) <= limits.ROWS_PER_TABLE_MAX
    if countable and _fits(rows, whole, limit_nbytes, gorilla):
        return [whole]
    if dense and not _fits(rows, Cut((), start, end), limit_nbytes, gorilla):
        limit_nbytes = alone_nbytes_max  # for the dictionary alone is above it: to halve the rows would not help
    cuts = [] if dense else list(symbol_cuts(rows, start, end, limit_nbytes, alone_nbytes_max))
    section, last = (0 if dense else end, end), []
    for index, count in enumerate(counts):
        parts, too_large = _halved(rows, (index, 0, count), section, limit_nbytes, alone_nbytes_max, gorilla)
        if too_large:
            last += parts
        else:
            cuts += parts
    return cuts + last


def fits_whole(rows: RowBuffer, limit_nbytes: int) -> bool:
    """Whether the batch is one message without a look at its exact size; False only says "ask `plan`"."""
    return (
        rows.nbytes + limits.HEADER_BYTES <= limit_nbytes
        and len(rows) <= limits.ROWS_PER_TABLE_MAX
        and rows.table_count <= limits.TABLES_PER_MESSAGE_MAX
    )


def symbol_cuts(rows: RowBuffer, start: int, end: int, limit_nbytes: int, alone_nbytes_max: int = 0) -> Iterator[Cut]:
    """Messages without a table that register ids ``start`` to ``end - 1``.

    Packed as the catch-up of a later connection packs them, so that what is registered here can be
    registered again under the same cap.  One symbol alone may have ``alone_nbytes_max``.
    """
    symbols, first = rows.symbols, start
    budget_nbytes = limit_nbytes - sizes.SYMBOL_MESSAGE_BYTES
    while first < end:
        last = symbols.entries_end(first, budget_nbytes, end)
        if last <= first:
            last, size = first + 1, symbols.entries_nbytes(first, first + 1) + sizes.SYMBOL_MESSAGE_BYTES
            if size > max(alone_nbytes_max, limit_nbytes):
                raise FrameTooLarge(
                    f"the symbol {symbols.text_of(first)[:40]!r}... alone needs a message of {size} bytes; the limit "
                    f"is {limit_nbytes}; use a VARCHAR column for texts of that size",
                    size=size,
                    limit=limit_nbytes,
                )
        yield Cut((), first, last)
        first = last


def _fits(rows: RowBuffer, cut: Cut, limit_nbytes: int, gorilla: bool) -> bool:
    size: int = encode.frame_bytes(rows, cut, gorilla=gorilla)
    return size <= limit_nbytes


def _halved(
    rows: RowBuffer,
    part: tuple[int, int, int],
    section: tuple[int, int],
    limit_nbytes: int,
    alone_nbytes_max: int,
    gorilla: bool,
) -> tuple[list[Cut], bool]:
    """The messages of a table's rows, and whether one of them is above the limit."""
    index, first, end = part
    cut = Cut((part,), *section)
    if end - first <= limits.ROWS_PER_TABLE_MAX and _fits(rows, cut, limit_nbytes, gorilla):
        return [cut], False
    if end - first == 1:
        size = encode.frame_bytes(rows, cut, gorilla=gorilla)
        if size <= alone_nbytes_max:
            return [cut], True
        raise FrameTooLarge(
            f"row {first} of table {rows.table_name(index)!r} alone needs a message of {size} bytes; the limit is "
            f"{limit_nbytes}",
            size=size,
            limit=limit_nbytes,
            table=rows.table_name(index),
        )
    middle = (first + end) // 2
    halves = [
        _halved(rows, (index, *half), section, limit_nbytes, alone_nbytes_max, gorilla)
        for half in ((first, middle), (middle, end))
    ]
    return halves[0][0] + halves[1][0], halves[0][1] or halves[1][1]
