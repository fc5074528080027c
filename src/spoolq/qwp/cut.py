"""A part of a batch that becomes one message."""

from __future__ import annotations

from spoolq.frozen import Frozen


class Cut(Frozen):
    """Which rows and which symbol ids one message carries.

    ``tables``: (index in the buffer, first row, end row) of each block; none for a message that
    only registers symbols.  ``symbol_start`` and ``symbol_end``: ids of the dictionary section.
    """

    tables: tuple[tuple[int, int, int], ...]
    symbol_start: int
    symbol_end: int
