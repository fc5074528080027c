"""The dictionary section that a new connection gets first."""

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
    dictionary = Dictionary()
    for message in catch_up_messages(table_of(texts), len(texts), cap_nbytes):
        assert len(message) <= cap_nbytes
        decode(message, dictionary)
    assert list(dictionary.texts) == texts
