"""ours.md 7 to 9 at the level of the sender: a clear error for each bad input, and the rows around it arrive.

The rules themselves, on both bodies, are in tests/columns/test_input_rules.py; here each goes through a whole
sender, and what counts is what the server has afterwards.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from ipaddress import IPv4Address
from typing import Any

import numpy as np
import pytest

from spoolq import ServerTimestamp, TimestampMicros
from spoolq.columns import convert
from spoolq.errors import InputError, SpoolqError
from spoolq.testing import QwpServer

from .harness import numbers, open_sender, put

AT = TimestampMicros(5)
_BAD: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "forbidden character in the table name": ({"table": "a?b", "columns": {"n": 1}}, ("a?b",)),
    "dot at the end of the table name": ({"table": "a.", "columns": {"n": 1}}, ("a.",)),
    "empty table name": ({"table": "", "columns": {"n": 1}}, ("table name",)),
    "table name of another type": ({"table": 7, "columns": {"n": 1}}, ("table name",)),
    "table name too long in bytes": ({"table": "é" * 64, "columns": {"n": 1}}, ("127",)),
    "forbidden character in a column name": ({"columns": {"a-b": 1}}, ("'t'", "column", "a-b")),
    "forbidden character in a symbol's name": ({"symbols": {"a.b": "x"}}, ("'t'", "column", "a.b")),
    "empty column name": ({"columns": {"": 1}}, ("'t'", "column name")),
    "column name too long in bytes": ({"columns": {"x" * 128: 1}}, ("'t'", "127")),
    "two names equal ignoring case": ({"columns": {"a": 1, "A": 2}}, ("'t'", "A")),
    "a symbol and a column of one name": ({"symbols": {"a": "x"}, "columns": {"a": 2}}, ("'t'", "a")),
    "int above 64 bits": ({"columns": {"n": 1 << 63}}, ("'t'", "'n'")),
    "int below 64 bits": ({"columns": {"n": -(1 << 63) - 1}}, ("'t'", "'n'")),
    "negative designated timestamp": ({"columns": {"n": 1}, "at": datetime(1969, 12, 31, tzinfo=UTC)}, ("'t'",)),
    "bool in an integer column": ({"columns": {"n": True}}, ("'t'", "'n'", "BOOLEAN")),
    "str in an integer column": ({"columns": {"n": "1"}}, ("'t'", "'n'", "VARCHAR")),
    "float in an integer column": ({"columns": {"n": 1.0}}, ("'t'", "'n'", "DOUBLE")),
    "bool in a double column": ({"columns": {"d": False}}, ("'t'", "'d'", "BOOLEAN")),
    "str in a double column": ({"columns": {"d": "1.5"}}, ("'t'", "'d'", "VARCHAR")),
    "int that a double cannot hold": ({"columns": {"d": (1 << 53) + 1}}, ("'t'", "'d'")),
    "int in a text column": ({"columns": {"text": 1}}, ("'t'", "'text'")),
    "int as a symbol": ({"symbols": {"s": 5}}, ("'t'", "'s'")),
    "nested lists": ({"columns": {"x": [[1.0], [2.0]]}}, ("'t'", "'x'", "list")),
    "a value of an unknown kind": ({"columns": {"x": object()}}, ("'t'", "'x'", "object")),
    "an array of another number of dimensions": ({"columns": {"line": np.ones((2, 2))}}, ("'t'", "'line'")),
    "no at": ({"columns": {"n": 1}, "at": None}, ("'t'", "at")),
    "at of another type": ({"columns": {"n": 1}, "at": 12345}, ("'t'", "at")),
    "nothing but None and a time by the server": ({"columns": {"n": None}, "at": ServerTimestamp}, ("'t'",)),
    "columns that are no mapping": ({"columns": [("n", 1)]}, ("columns",)),
    "more than 2048 columns": ({"columns": {f"c{n}": n for n in range(2_049)}}, ("2048", "'t'")),
    "a value above the frame limit": ({"columns": {"text": "x" * (3 << 20)}}, ("'t'",)),
    "column name of another type": ({"columns": {7: 1}}, ("'t'", "column name", "int")),
    "a symbol above the frame limit": ({"symbols": {"s": "x" * (2 << 20)}}, ("'t'", "'s'")),
}


@pytest.fixture(scope="module")
def server() -> Iterator[QwpServer]:
    with QwpServer(record_nbytes_max=0) as running:
        yield running


@pytest.mark.parametrize("what", _BAD)
def test_ours_8_a_bad_row_is_refused_and_the_rows_before_and_after_it_arrive(server: QwpServer, what: str) -> None:
    given, words = _BAD[what]
    server.store.clear()
    with open_sender(server) as sender:
        sender.row(
            "t",
            symbols={"s": "sym-0"},
            columns={"n": 0, "d": 1.5, "text": "é", "line": np.array([1.0, 2.0])},
            at=TimestampMicros(1),
        )
        put(sender, 1)
        arguments = {"table": "t", "at": AT, **given}
        table = arguments.pop("table")
        with pytest.raises(InputError) as caught:
            sender.row(table, **arguments)
        for word in words:
            assert word in str(caught.value), (word, str(caught.value))
        assert caught.value.in_doubt is False
        assert sender.stats().rows_buffered == 2
        put(sender, 2)
        sender.flush(wait=True)
    assert numbers(server) == [0, 1, 2]
    assert server.store.tables() == ["t"]
    assert list(server.store.types("t")) == ["s", "n", "d", "text", "line", "timestamp"], "no column of the bad row"


def test_ours_8_a_wrong_keyword_is_an_error_and_leaves_nothing(server: QwpServer) -> None:
    server.store.clear()
    with open_sender(server) as sender:
        put(sender, 0)
        for call in (
            lambda: sender.row("t", column={"n": 1}, at=AT),  # type: ignore[call-arg]
            lambda: sender.row("t", columns={"n": 1}),  # type: ignore[call-arg]
            lambda: sender.row("t", {"s": "x"}, at=AT),  # type: ignore[misc]
        ):
            with pytest.raises((TypeError, SpoolqError)):
                call()
        assert sender.stats().rows_buffered == 1
    assert numbers(server) == [0]


def test_ours_8_of_many_rows_the_bad_one_is_named_and_the_ones_before_it_stay(server: QwpServer) -> None:
    server.store.clear()
    with open_sender(server) as sender:
        rows: list[Any] = [("sym-0", 0, AT), ("sym-1", 1, AT), ("sym-2", "two", AT), ("sym-3", 3, AT)]
        with pytest.raises(InputError) as caught:
            sender.rows("t", rows, symbols=["s"], columns=["n"])
        assert "row 2" in "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())])
        assert sender.stats().rows_buffered == 2
        writer = sender.table("t", symbols=["s"], columns=["n"])
        with pytest.raises(InputError):
            writer.row("sym-2", "two", at=AT)
        with pytest.raises(InputError):
            writer.row("sym-2", at=AT)
        writer.row("sym-2", 2, at=AT)
    assert numbers(server) == [0, 1, 2]


def test_ours_9_what_is_no_error_arrives(server: QwpServer, caplog, monkeypatch) -> None:
    monkeypatch.setattr(convert, "_naive_said", False)  # it is said once a process
    server.store.clear()
    with open_sender(server) as sender:
        sender.row("t", columns={"d": math.nan, "e": math.inf, "f": -math.inf, "g": 1.5}, at=AT)
        with pytest.warns(UserWarning, match="UTC"):
            sender.row("t", columns={"when": datetime(1960, 1, 1), "g": 3}, at=datetime(2024, 1, 1))
        sender.row("t", columns={"low": -(1 << 63), "g": -(1 << 53)}, at=TimestampMicros(7))
        sender.row("t", columns={"g": None}, at=np.datetime64(9, "us"))
        sender.row("t", symbols={"s": None}, columns={"g": 2.5}, at=ServerTimestamp)
    rows = server.store.rows("t")
    assert len(rows) == 5
    assert [row["g"] for row in rows] == [1.5, 3.0, float(-(1 << 53)), None, 2.5]
    assert rows[0]["e"] in (math.inf, None)
    assert rows[3]["timestamp"] == 9
    assert "low" in caplog.text, "a sentinel is warned of: it reads back as NULL"


def test_values_of_every_kind_arrive(server: QwpServer) -> None:
    server.store.clear()
    identity = uuid.UUID("11111111-2222-3333-4444-555555555555")
    values: dict[str, Any] = {
        "b": True,
        "i": -5,
        "d": 2.5,
        "text": "日本",
        "raw": b"\x00\xff",
        "when": datetime(2024, 1, 1, tzinfo=UTC),
        "num": Decimal("1.25"),
        "id": identity,
        "ip": IPv4Address("10.0.0.1"),
        "line": np.array([1.0, 2.0]),
    }
    with open_sender(server) as sender:
        sender.row("t", symbols={"s": "sym"}, columns=values, at=AT)
    (row,) = server.store.rows("t")
    assert (row["b"], row["i"], row["d"], row["text"], row["raw"]) == (True, -5, 2.5, "日本", b"\x00\xff")
    assert row["id"] == identity
    assert row["num"] == Decimal("1.25")
    assert row["s"] == "sym"
