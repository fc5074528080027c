"""split.py at the limits of the wire: counts, and symbols that a later connection must be told again."""

from __future__ import annotations

import pytest

from spoolq import limits
from spoolq.columns import RowBuffer, SymbolTable
from spoolq.errors import FrameTooLarge
from spoolq.qwp import split
from spoolq.qwp.catchup import catch_up_messages
from spoolq.qwp.cut import Cut
from spoolq.values import ServerTimestamp


def test_more_rows_than_a_block_may_have_are_no_single_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ROWS_PER_TABLE_MAX", 3)
    rows = RowBuffer(SymbolTable())
    for _ in range(4):  # booleans: far below every limit in bytes
        rows.row("t", columns={"b": True}, at=ServerTimestamp)
    assert not split.fits_whole(rows, 1_000)
    assert split.plan(rows, 1_000) == [Cut(((0, 0, 2),), 0, 0), Cut(((0, 2, 4),), 0, 0)]


def test_more_tables_than_a_message_may_have_are_no_single_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TABLES_PER_MESSAGE_MAX", 1)
    rows = RowBuffer(SymbolTable())
    for table in "ab":
        rows.row(table, columns={"b": True}, at=ServerTimestamp)
    assert not split.fits_whole(rows, 1_000)
    assert [cut.tables for cut in split.plan(rows, 1_000)] == [((0, 0, 1),), ((1, 0, 1),)]


def test_what_is_registered_can_be_registered_again_under_the_same_cap() -> None:
    symbols = SymbolTable()
    rows = RowBuffer(symbols)
    for index in range(40):
        rows.row("t", symbols={"s": f"symbol {index:02}"}, at=ServerTimestamp)
    cuts = [cut for cut in split.plan(rows, 100) if not cut.tables]
    messages = list(catch_up_messages(symbols, len(symbols), 100))
    assert len(cuts) == len(messages) > 1
    assert [cut.symbol_end - cut.symbol_start for cut in cuts] == [message[13] for message in messages]


def test_a_symbol_that_no_catch_up_could_carry_is_refused() -> None:
    symbols = SymbolTable()
    rows = RowBuffer(symbols)
    rows.row("t", symbols={"s": "x" * 90}, at=ServerTimestamp)
    assert split.plan(rows, 91 + 28)
    with pytest.raises(FrameTooLarge, match="119 bytes"):
        list(split.symbol_cuts(rows, 0, 1, 91 + 27))
    rows.clear()
    rows.row_bytes_max = 91 + 27
    with pytest.raises(FrameTooLarge, match="119 bytes"):
        rows.row("t", symbols={"s": "y" * 90}, at=ServerTimestamp)
    assert len(symbols) == 1
