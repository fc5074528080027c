"""The dictionary section that a new connection gets first.

Seen red with: 27 or 29 bytes beside the entries; the last entry of a part left out; flag 01 set; a scan
of the entries for each part; the count read again while newer symbols come.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolq.columns import SymbolTable
from spoolq.errors import FrameTooLarge
from spoolq.qwp.catchup import catch_up_messages
from spoolq.qwp.decode import Dictionary, decode


def table_of(texts: list[str]) -> SymbolTable:
    symbols = SymbolTable()
    for text in texts:
        symbols.intern(text)
    return symbols


def test_wire_7_c_dictionary_only() -> None:
    (message,) = catch_up_messages(table_of(["ETH", "BTC"]), 2, 1_000)
    assert message == bytes.fromhex("51575031 01 08 0000 0A000000 0002 03455448 03425443")


def test_nothing_to_say() -> None:
    assert list(catch_up_messages(SymbolTable(), 0, 100)) == []


def test_parts_are_packed_greedily_to_the_cap_less_28() -> None:
    symbols = table_of([f"s{index:03}" for index in range(100)])  # five bytes an entry
    messages = list(catch_up_messages(symbols, 100, 80))
    assert [len(message) for message in messages] == [12 + 2 + 50] * 10
    assert len(list(catch_up_messages(symbols, 100, 77))) == 12  # 49 bytes take nine entries


def test_an_entry_above_the_budget_is_said_before_anything_is_sent() -> None:
    symbols = table_of(["a", "b" * 60])
    with pytest.raises(FrameTooLarge, match="61 bytes"):
        catch_up_messages(symbols, 2, 80)
    assert len(list(catch_up_messages(symbols, 1, 80))) == 1


@given(st.lists(st.text(max_size=20), unique=True, max_size=60), st.integers(120, 400))
def test_a_connection_that_hears_them_knows_the_dictionary(texts: list[str], cap_nbytes: int) -> None:
    dictionary, symbols = Dictionary(), table_of(texts)
    found = [decode(message, dictionary) for message in catch_up_messages(symbols, len(texts), cap_nbytes)]
    messages = list(catch_up_messages(symbols, len(texts), cap_nbytes))
    assert list(dictionary.texts) == texts
    assert all(message.flags == 8 and not message.tables for message in found)
    end = 0
    for message, part in zip(messages, found, strict=True):
        assert part.delta_start == end
        end += len(part.symbols)
        entries = symbols.entries_nbytes(part.delta_start, end)
        assert entries <= cap_nbytes - 28
        assert len(message) <= min(cap_nbytes, entries + 12 + 10)
        if end < len(texts):  # packed greedily: the next entry would not have gone in
            assert symbols.entries_nbytes(part.delta_start, end + 1) > cap_nbytes - 28


def test_symbols_that_come_or_go_meanwhile_do_not_change_it() -> None:
    symbols = table_of([f"s{index:03}" for index in range(30)])
    messages = catch_up_messages(symbols, 30, 80)
    first = next(messages)
    symbols.intern("newer")
    symbols.truncate(30)
    symbols.intern("another")
    dictionary = Dictionary()
    for message in (first, *messages):
        decode(message, dictionary)
    assert dictionary.texts == [f"s{index:03}" for index in range(30)]


def test_100_000_symbols_are_looked_up_once_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    symbols = table_of([f"symbol {index:06}" for index in range(100_000)])
    calls: list[str] = []
    for name in ("entries", "entries_nbytes", "entries_end", "text_of"):
        real = getattr(symbols, name)
        counted = lambda *args, name=name, real=real: (calls.append(name), real(*args))[1]  # noqa: E731
        monkeypatch.setattr(symbols, name, counted, raising=False)
    messages = list(catch_up_messages(symbols, 100_000, 2_000))
    assert len(messages) == -(-100_000 // ((2_000 - 28) // 14))
    assert len(calls) <= 3 * len(messages)
    assert sum(map(len, messages)) <= 100_000 * 14 + 22 * len(messages)
