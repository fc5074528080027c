"""The symbols of a recovered slot: what its file holds, completed and checked by its frames (slot.md 5.4).

`plan_dictionary` folds the dictionary sections of all retained frames, acknowledged ones too, over the
entries of the file.  A section that continues the dictionary extends it; one that lies inside it must
be equal.  A frame that is still to be sent and starts beyond the dictionary, or gives an id another
text, cannot be sent.  Then the frames alone are tried, without the file; when they do not carry all
they need either, the slot is unreplayable.  Frames of a transaction that was never committed, and
acknowledged ones, are not sent and so cannot fail.

Reads only; one frame's section at a time in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from spoolq.columns.symbols import SymbolTable
from spoolq.errors import SymbolDictionaryFull
from spoolq.frozen import Frozen
from spoolq.qwp import layout
from spoolq.spool.chain import Unreplayable
from spoolq.spool.scan import Reader, Segment, message_flags, parse_section_head
from spoolq.spool.symbol_log import Symbols, take_entries

_FAULTS: Final = {
    "duplicate": "it holds an entry twice, so its ids cannot be trusted",
    "full": "it is larger than any dictionary may be",
}


class DictionaryPlan(Frozen):
    """The symbols, and what becomes of the file.

    ``action``: "keep" it (cut behind its last whole chunk), "create" one, or "replace" it: set aside, then create.
    """

    table: SymbolTable
    action: Literal["keep", "create", "replace"]
    from_file: int
    warning: str = ""


class ToSend(Frozen):
    """The frames that will be sent: FSN ``first`` to ``end - 1``."""

    first: int
    end: int

    def holds(self, fsn: int) -> bool:
        """Whether this frame is one of them."""
        return self.first <= fsn < self.end


def plan_dictionary(reader: Reader, chain: Sequence[Segment], found: Symbols, to_send: ToSend) -> DictionaryPlan:
    """See the module's text.  Raises Unreplayable, StorageError, Stopped."""
    fault = _FAULTS.get(found.state, "")
    if found.state == "valid":
        from_file = len(found.table)
        fault = _fold(reader, chain, found.table, to_send)
        if not fault:
            return DictionaryPlan(found.table, "keep", from_file, _rest_warning(found))
    action: Literal["create", "replace"] = "create" if found.state == "absent" else "replace"
    for segments in (chain, [s for s in chain if s.end_fsn > to_send.first]):
        table = SymbolTable()
        again = _fold(reader, segments, table, to_send)
        if not again:
            why = (fault or "it is not a dictionary") if found.state != "absent" else ""
            return DictionaryPlan(table, action, 0, f"the symbol dictionary was set aside: {why}" if why else "")
        fault = f"{fault}, and {again}" if found.state in _FAULTS else fault or again
    raise Unreplayable(f"the symbol dictionary is torn: {fault}")


def _rest_warning(found: Symbols) -> str:
    if found.rest != "damaged":
        return ""
    return f"the symbol dictionary was cut at {found.trusted_nbytes} of {found.nbytes} bytes"


def _fold(reader: Reader, chain: Sequence[Segment], table: SymbolTable, to_send: ToSend) -> str:
    """Extends ``table`` by the sections of the frames; what is wrong with one that is to be sent, else ""."""
    contradicted = ""
    for segment in chain:
        if not segment.symbols and segment.start_max <= len(table) and not contradicted:
            continue  # nothing in it can extend or contradict
        frames = reader.walk(segment)
        try:
            for frame in frames:
                if not message_flags(frame.prefix, 0, frame.nbytes) & layout.FLAG_DELTA_DICTIONARY:
                    continue
                section = parse_section_head(frame.prefix, 0, frame.nbytes)
                if section is None:
                    continue  # no dictionary section after all: what that means is the server's to say
                start, count, entries_offset = section
                fsn = segment.base + frame.index
                fault = ""
                if start > len(table):
                    fault = f"the frame with FSN {fsn} goes on at id {start}, and {len(table)} are known"
                elif contradicted and start > 0:
                    fault = contradicted
                elif count:
                    payload = frame.payload(entries_offset)
                    fault = _merge(payload, start, count, table, fsn)
                    if fault and not to_send.holds(fsn):
                        contradicted = fault
                if fault and to_send.holds(fsn):
                    return fault
        finally:
            frames.close()
    table.published_count = len(table)
    return ""


def _merge(payload: bytes, start: int, count: int, table: SymbolTable, fsn: int) -> str:
    """One section, whose entries are the start of ``payload``; what is wrong with it, else ""."""
    known = min(start + count, len(table))
    overlap = table.entries(start, known)
    offset = len(overlap)
    if not payload.startswith(overlap):  # equal texts may still be spelled with longer varints
        taken = take_entries(payload, 0, len(payload), known - start)
        if taken is None:
            return ""
        texts, offset = taken
        for number, text in enumerate(texts, start):
            if text != table.text_of(number):
                return f"the frame with FSN {fsn} gives id {number} another text than the dictionary"
    taken = take_entries(payload, offset, len(payload), start + count - known)
    if taken is None:
        return ""
    try:
        for number, text in enumerate(taken[0], known):
            if table.intern(text) != number:
                return f"the frame with FSN {fsn} registers a text a second time, as id {number}"
    except SymbolDictionaryFull:
        return f"with the frame with FSN {fsn} it is larger than any dictionary may be"
    return ""
