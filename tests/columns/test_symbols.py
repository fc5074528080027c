"""The symbol dictionary: a model in a list, its limits, and an interrupt at any line of `intern`.

Seen red with: truncate that keeps the bytes, the texts or the count; an entry's length in characters;
the warning said twice; the interrupt as `intern` was before (wire bytes without an id).
"""

from __future__ import annotations

import logging
import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolq.columns import SymbolTable
from spoolq.columns.varint import varint
from spoolq.errors import SymbolDictionaryFull
from spoolq.values import TimestampMicros
from tests.columns.bodies import Body, state_of

TEXTS = ["", "a", "b", "é", "🦀", "x" * 127, "x" * 128, "a b"]
AT = TimestampMicros(5)


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
    assert symbols.intern("ééab") == 0


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


class Interrupt:
    """A trace function that raises KeyboardInterrupt at the n-th line of the dictionary's `intern`."""

    def __init__(self, line: int) -> None:
        self.left = line

    def __call__(self, frame: FrameType, event: str, _: Any) -> Interrupt | None:
        code = frame.f_code
        if not (code.co_filename.endswith("symbols.py") and code.co_name in ("intern", "_check_room")):
            return self if event == "call" and self.left else None
        if event == "line":
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt
        return self


def test_ours_33_an_interrupt_at_any_line_of_intern_leaves_the_dictionary_as_it_was(body: Body) -> None:
    for line in range(1, 60):
        rows = body.buffer()
        rows.row("t", symbols={"s": "x"}, columns={"i": 1}, at=AT)
        before = state_of(body, rows)
        interrupt = Interrupt(line)
        old = sys.gettrace()
        try:
            sys.settrace(interrupt)
            rows.row("t", symbols={"s": "y"}, columns={"i": 2}, at=AT)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(old)
        if interrupt.left:
            break  # the row went through: every line was tried
        assert state_of(body, rows) == before, f"line {line}"
        rows.row("t", symbols={"s": "z"}, columns={"i": 2}, at=AT)
        rows.row("t", symbols={"s": "y"}, columns={"i": 3}, at=AT)
        assert rows.symbols.entries(0, len(rows.symbols)) == b"".join(map(entry, "xzy"))
    assert 10 < line < 59
