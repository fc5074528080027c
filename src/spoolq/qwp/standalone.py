"""A stored message taken out of its place: its symbols by text, so that it can stand elsewhere (ours.md 22).

A message names its symbols by the ids of one dictionary: its own section gives a part of them, earlier
messages the rest.  Where those are not known it means nothing.

    parts = take_apart(message, symbols)     symbols: what the ids below its own section mean
    parts.texts                              the symbols it uses, in order of first use
    parts.together(start, entries, ids)      the same rows, with these ids for those texts

`stand_alone` gives the message that needs nothing before it: a section from id 0 with just the texts
in use.  Everything but the section and the ids stays byte for byte.  Pure; a message that is not what
it should be raises `WireFault`, and none of it is guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

from spoolq import limits
from spoolq.columns.symbols import SymbolTable
from spoolq.columns.types import ColumnType
from spoolq.columns.varint import varint
from spoolq.frozen import Frozen
from spoolq.qwp import inbound, layout
from spoolq.qwp.decode import read_block_head, read_header
from spoolq.qwp.decode_columns import column_data
from spoolq.qwp.layout import Status
from spoolq.qwp.reader import Reader, WireFault


class Parts(Frozen):
    """A message without its dictionary section.

    ``texts``: the symbols in use, each once.  ``pieces``: bytes as they stand, and between them the values of
    a symbol column as places in ``texts``.  A message without flag 08 carries its symbols in its columns: it
    has no texts here.
    """

    flags: int
    table_count: int
    texts: tuple[str, ...]
    pieces: tuple[memoryview | tuple[int, ...], ...]

    def together(self, start: int, entries: Sequence[bytes], ids: Sequence[int], *, commit: bool = False) -> bytes:
        """The message with a section of ``entries`` (UTF-8) from id ``start``, and ``ids[place]`` for each text.

        ``commit`` clears flag 01: it commits by itself.  Raises WireFault when it is larger than a message may be.
        """
        payload = bytearray()
        if self.flags & layout.FLAG_DELTA_DICTIONARY:
            payload += varint(start) + varint(len(entries))
            for entry in entries:
                payload += varint(len(entry)) + entry
        spelled = [varint(symbol_id) for symbol_id in ids]
        for piece in self.pieces:
            payload += b"".join([spelled[place] for place in piece]) if isinstance(piece, tuple) else piece
        if len(payload) > limits.PAYLOAD_BYTES_MAX:
            raise WireFault(Status.PARSE_ERROR, f"with its symbols the message has {len(payload)} bytes of payload")
        flags = self.flags & ~layout.FLAG_DEFER_COMMIT if commit else self.flags
        header = layout.HEADER.pack(layout.MAGIC, limits.PROTOCOL_VERSION, flags, self.table_count, len(payload))
        return header + bytes(payload)


def stand_alone(message: bytes, symbols: SymbolTable) -> bytes:
    """The message with every symbol it uses in its own section, from id 0.  Raises WireFault."""
    parts = take_apart(message, symbols)
    return parts.together(0, [text.encode() for text in parts.texts], range(len(parts.texts)))


def take_apart(message: bytes, symbols: SymbolTable | None = None) -> Parts:
    """See the module's text; without ``symbols`` the message must need none but its own.  Raises WireFault."""
    flags, table_count, reader = read_header(memoryview(message))
    own = bool(flags & layout.FLAG_DELTA_DICTIONARY)
    known = _section(reader, symbols) if own else _Known(symbols, 0, [])
    places: dict[str, int] = {}
    place_of: dict[int, int] = {}
    pieces: list[memoryview | tuple[int, ...]] = []
    copied = reader.offset
    for _ in range(table_count):
        _, rows, schema = read_block_head(reader)
        for name, column_type in schema:
            begin = reader.offset
            column = column_data(reader, name, column_type, rows, flags, known)
            if column_type is not ColumnType.SYMBOL or not own:
                continue
            values = begin + 1 + ((rows + 7) // 8 if column.has_bitmap else 0)
            found = inbound.varints(reader.data, values, rows - column.null_count)
            for symbol_id in dict.fromkeys(found):
                if symbol_id not in place_of:
                    place_of[symbol_id] = places.setdefault(known[symbol_id], len(places))
            pieces += [reader.data[copied:values], tuple([place_of[symbol_id] for symbol_id in found])]
            copied = reader.offset
    if reader.left:
        raise WireFault(Status.PARSE_ERROR, f"{reader.left} bytes after the last table block")
    pieces.append(reader.data[copied:])
    return Parts(flags, table_count, tuple(places), tuple(pieces))


class _Known(Sequence[str]):
    """Texts by id: the message's own section over the symbols from before it."""

    def __init__(self, symbols: SymbolTable | None, start: int, section: list[str]) -> None:
        self._symbols = symbols
        self._before = 0 if symbols is None else symbols.published_count
        self._start = start
        self._section = section
        self._count = max(self._before, start + len(section))

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(self._count))]
        if self._start <= index < self._start + len(self._section):
            return self._section[index - self._start]
        if self._symbols is None or not 0 <= index < self._before:
            raise IndexError(index)
        return self._symbols.text_of(index)

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(self._count))


def _section(reader: Reader, symbols: SymbolTable | None) -> _Known:
    start, count = reader.varint(), reader.varint()
    before = 0 if symbols is None else symbols.published_count
    if start > before:
        raise WireFault(Status.DICTIONARY_GAP, f"its symbols go on at id {start}, and {before} are known")
    if count > reader.left:
        raise WireFault(Status.PARSE_ERROR, "symbol dictionary count is beyond the payload")
    return _Known(symbols, start, [reader.text("symbol dictionary entry") for _ in range(count)])
