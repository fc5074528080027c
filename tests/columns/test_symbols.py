"""The symbol dictionary: a model in a list, and its limits.

Seen red with: truncate that keeps the bytes, the texts or the count; an entry's length in characters;
the warning said twice.
"""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolq.columns import SymbolTable
from spoolq.columns.varint import varint
from spoolq.errors import SymbolDictionaryFull

TEXTS = ["", "a", "b", "é", "🦀", "x" * 127, "x" * 128, "a b"]


def entry(text: str) -> bytes:
    return varint(len(text.encode())) + text.encode()


@given(st.lists(st.one_of(st.sampled_from(TEXTS), st.integers(0, 9)), max_size=40))
def test_ids_are_given_in_order_of_first_use_and_taken_back_from_the_end(steps: list[str | int]) -> None:
    symbols, model = SymbolTable(), list[str]()
    for step in steps:
        if isinstance(step, int):
            del model[step:]
            symbols.truncate(min(step, len(symbols)))
        else:
            if step not in model:
                model.append(step)
            assert symbols.intern(step) == model.index(step)
        assert len(symbols) == len(model)
        assert [symbols.text_of(index) for index in range(len(model))] == model
        assert symbols.ids == {text: index for index, text in enumerate(model)}
        for first in range(len(model) + 1):
            for end in range(first, len(model) + 1):
                expected = b"".join(map(entry, model[first:end]))
                assert symbols.entries(first, end) == expected
                assert symbols.entries_nbytes(first, end) == len(expected)


@given(st.lists(st.sampled_from(TEXTS), unique=True), st.integers(0, 8), st.integers(0, 400))
def test_entries_end_is_the_furthest_within_the_budget(texts: list[str], first: int, budget: int) -> None:
    symbols = SymbolTable()
    for text in texts:
        symbols.intern(text)
    first = min(first, len(texts))
    end = symbols.entries_end(first, budget, len(texts))
    assert symbols.entries_nbytes(first, end) <= budget
    assert end == len(texts) or symbols.entries_nbytes(first, end + 1) > budget


def test_limits_are_of_bytes_of_utf_8_and_come_back_with_truncate() -> None:
    symbols = SymbolTable(max_entries=100, max_bytes=10, max_entry_bytes=6)
    with pytest.raises(SymbolDictionaryFull, match="8 bytes"):
        symbols.intern("éééé", "t", "s")
    symbols.intern("ééé", "t", "s")
    with pytest.raises(SymbolDictionaryFull, match="VARCHAR") as caught:
        symbols.intern("ééab", "t", "s2")
    assert (caught.value.table, caught.value.column) == ("t", "s2")
    assert "'s'" in str(caught.value)
    assert (len(symbols), symbols.intern("ééé")) == (1, 0)
    symbols.truncate(0)
    assert [symbols.intern("ééab"), symbols.intern("cccc")] == [0, 1]  # ten bytes, all of them free again


def test_ours_4_at_80_percent_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    symbols = SymbolTable(max_entries=10)
    said = []
    with caplog.at_level(logging.WARNING, "spoolq"):
        for index in range(10):
            symbols.intern(f"s{index}", "t", "column")
            said.append(len(caplog.records))
    assert said == [0] * 8 + [1, 1]
    assert "'column'" in caplog.text
    assert "VARCHAR" in caplog.text


def test_ours_4_a_dictionary_that_begins_anew_is_as_new(caplog: pytest.LogCaptureFixture) -> None:
    """Limits, blame and warning too; and the objects that a row buffer has taken stay."""
    symbols = SymbolTable(max_entries=5, max_bytes=30)
    ids, wire = symbols.ids, symbols.wire
    for life in range(2):
        with caplog.at_level(logging.WARNING, "spoolq"):
            for index in range(5):
                assert symbols.intern(f"é{life}{index}", "t", f"column{life}") == index
        assert len(caplog.records) == life + 1
        symbols.published_count = 4
        with pytest.raises(SymbolDictionaryFull, match=f"5 entries came from column 'column{life}'"):
            symbols.intern("more", "t", "other")
        symbols.restart()
        assert (len(symbols), symbols.published_count, symbols.entries_nbytes(0, 0)) == (0, 0, 0)
        assert (symbols.ids, bytes(symbols.wire)) == ({}, b"")
    assert symbols.ids is ids
    assert symbols.wire is wire
    assert symbols.intern("x" * 30) == 0
    assert symbols.entries(0, 1) == entry("x" * 30)
