"""The dictionary again, for a connection that does not know it yet (wire.md 3.3, slot.md 6).

`catch_up_messages` builds table-less messages from id 0 on.  They are sent before the first stored
frame of each connection, never stored, and take no frame number.
"""

from __future__ import annotations

from collections.abc import Iterator

from spoolq import limits
from spoolq.columns.symbols import SymbolTable
from spoolq.columns.varint import varint
from spoolq.errors import FrameTooLarge
from spoolq.qwp import layout

_VARINTS_BYTES_MAX = 16  # two varints of 32-bit numbers take 10; the peers reserve 16


def catch_up_messages(symbols: SymbolTable, count: int, cap_nbytes: int) -> Iterator[bytes]:
    """The first ``count`` entries as messages of at most ``cap_nbytes``, packed greedily, in order.

    An entry is never divided: FrameTooLarge, before the first message, when one is above
    ``cap_nbytes - 28``.  Ids below ``count`` must not be taken back while this runs; newer ones may
    come and go.  Nothing when ``count`` is 0.
    """
    budget_nbytes = max(1, cap_nbytes - limits.HEADER_BYTES - _VARINTS_BYTES_MAX)
    ranges = list(_packed(symbols, count, budget_nbytes))
    return (_message(symbols, first, end) for first, end in ranges)


def _packed(symbols: SymbolTable, count: int, budget_nbytes: int) -> Iterator[tuple[int, int]]:
    first = 0
    while first < count:
        end = symbols.entries_end(first, budget_nbytes, count)
        if end == first:
            size = symbols.entries_nbytes(first, first + 1)
            raise FrameTooLarge(
                f"the symbol {symbols.text_of(first)[:40]!r}... takes {size} bytes; this endpoint's cap leaves "
                f"{budget_nbytes} for symbols, so it cannot be told the dictionary; raise the server's receive buffer",
                size=size,
                limit=budget_nbytes,
            )
        yield first, end
        first = end


def _message(symbols: SymbolTable, first: int, end: int) -> bytes:
    section = varint(first) + varint(end - first) + symbols.entries(first, end)
    header = layout.HEADER.pack(layout.MAGIC, limits.PROTOCOL_VERSION, layout.FLAG_DELTA_DICTIONARY, 0, len(section))
    return header + section
