"""The symbol dictionary of a sender: text to id, in order of first use (wire.md 3.3, slot.md 2.7).

`SymbolTable` keeps the entries already in wire form, so that a dictionary section, a catch-up
message and a ``.symbol-dict`` chunk are each one slice.  An id means the same text until `restart`, before
which nothing may be left that names one; `truncate` takes back the ids of a failed row or a failed publish,
the newest first.

``published_count`` divides the ids: those below it are in published frames, the next frame's
dictionary section starts there.

Shared by both bodies of the row buffer: the compiled one looks a text up in `ids` itself, reads the
length of `wire`, and calls `intern` only for a new one; neither object is ever replaced.  Guarded by
the sender's lock, except that the I/O thread reads `entries` of published ids.
"""

from __future__ import annotations

import logging
from array import array
from bisect import bisect_right

from spoolq import limits
from spoolq.columns.varint import varint
from spoolq.errors import SymbolDictionaryFull

_LOG = logging.getLogger("spoolq.symbols")


class SymbolTable:
    """Texts by id and ids by text.

    Limits: number of entries, UTF-8 bytes of one entry, UTF-8 bytes of all; at 80 % of the first or
    the last one WARN.
    """

    def __init__(
        self,
        max_entries: int = limits.DICTIONARY_ENTRIES_MAX,
        max_bytes: int = limits.DICTIONARY_BYTES_MAX,
        max_entry_bytes: int = limits.DICTIONARY_ENTRY_BYTES_MAX,
    ) -> None:
        self.ids: dict[str, int] = {}
        self.published_count = 0
        self._texts: list[str] = []
        self.wire = bytearray()
        self._ends = array("Q", [0])
        self._text_bytes = 0
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._max_entry_bytes = max_entry_bytes
        self._warned = False
        self._origins: dict[tuple[str, str], int] = {}  # entries by the table and column that brought them
        self._origin_of: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return len(self._texts)

    def intern(self, text: str, table: str = "", column: str = "") -> int:
        """The id of ``text``, a new one when it was not seen before.

        ``table`` and ``column`` say where it comes from, for the error at a limit.
        Raises SymbolDictionaryFull at a limit, UnicodeEncodeError for a lone surrogate.
        """
        known = self.ids.get(text)
        if known is not None:
            return known
        encoded = text.encode()
        origin = (table, column)
        self._check_room(len(encoded), origin)
        new, text_bytes, from_origin = len(self._texts), self._text_bytes, self._origins.get(origin, 0)
        try:
            self.wire += varint(len(encoded)) + encoded
            self._ends.append(len(self.wire))
            self._text_bytes = text_bytes + len(encoded)
            self._texts.append(text)
            self._origin_of.append(origin)
            self._origins[origin] = from_origin + 1
            self.ids[text] = new
        except BaseException:  # Ctrl-C between two of these lines: bytes without an id would shift all later ids
            self.ids.pop(text, None)
            self._text_bytes, self._origins[origin] = text_bytes, from_origin
            del self._texts[new:], self._origin_of[new:], self._ends[new + 1 :]
            del self.wire[self._ends[new] :]
            raise
        return new

    def text_of(self, symbol_id: int) -> str:
        """The text behind an id."""
        return self._texts[symbol_id]

    def entries(self, first: int, end: int) -> bytes:
        """Ids ``first`` to ``end - 1`` in wire form: varint length + UTF-8 each."""
        return bytes(self.wire[self._ends[first] : self._ends[end]])

    def entries_nbytes(self, first: int, end: int) -> int:
        """Size of `entries` in bytes."""
        return self._ends[end] - self._ends[first]

    def entries_end(self, first: int, budget_nbytes: int, end: int) -> int:
        """How far ids from ``first`` reach within a byte budget, at most ``end``; ``first`` when none fits."""
        return bisect_right(self._ends, self._ends[first] + budget_nbytes, first, end + 1) - 1

    def truncate(self, count: int) -> None:
        """Forgets the ids from ``count`` up: their row or frame came to nothing."""
        for text in self._texts[count:]:
            self._text_bytes -= len(text.encode())
            del self.ids[text]
        for origin in self._origin_of[count:]:
            self._origins[origin] -= 1
        del self._texts[count:], self._origin_of[count:]
        del self._ends[count + 1 :]
        del self.wire[self._ends[count] :]

    def restart(self) -> None:
        """Forgets everything: the next id is 0, and at 80 % of a limit it warns again.

        `ids` and `wire` stay the same objects; a row buffer that uses them has to be cleared behind this.
        """
        self.published_count = 0
        self.ids.clear()
        self._texts.clear()
        self._origin_of.clear()
        self._origins.clear()
        del self._ends[1:]
        self.wire.clear()
        self._text_bytes = 0
        self._warned = False

    def _check_room(self, nbytes: int, origin: tuple[str, str]) -> None:
        if nbytes > self._max_entry_bytes:
            raise SymbolDictionaryFull(
                f"table {origin[0]!r}, column {origin[1]!r}: a symbol of {nbytes} bytes of UTF-8 is above the limit of "
                f"{self._max_entry_bytes}; use a VARCHAR column for texts of that size",
                table=origin[0],
                column=origin[1],
            )
        entries, total = len(self._texts) + 1, self._text_bytes + nbytes
        if entries > self._max_entries or total > self._max_bytes:
            raise SymbolDictionaryFull(
                f"the symbol dictionary is full ({len(self._texts)} of {self._max_entries} entries, "
                f"{self._text_bytes} of {self._max_bytes} bytes){self._blame()}",
                table=origin[0],
                column=origin[1],
            )
        ratio = limits.DICTIONARY_WARN_RATIO
        if not self._warned and (entries > ratio * self._max_entries or total > ratio * self._max_bytes):
            self._warned = True
            _LOG.warning(
                "the symbol dictionary holds %d of %d entries, %d of %d bytes; when full, rows are refused%s",
                entries,
                self._max_entries,
                total,
                self._max_bytes,
                self._blame(),
            )

    def _blame(self) -> str:
        """Which column to change (ours.md 4)."""
        if not self._origins:
            return ""
        (table, column), count = max(self._origins.items(), key=lambda item: item[1])
        return f"; {count} entries came from column {column!r} of table {table!r}: send that column as VARCHAR"
