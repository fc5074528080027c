"""Every phrase of ours.md 7, 8 and 9 as a call to both clients: what the official one does next to what we do.

An outcome says how many rows arrived at the endpoint, and which call raised what: ``2 sent`` or
``1 sent, row 1: InputError``; ``status 03`` is what a server answers to what arrived.  `DIFFERS` is the whole list
of phrases whose effect is not the same (both take it, or both refuse the same calls); a test holds that.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import questdb

import spoolq
from spoolq.qwp.decode import Dictionary, WireFault, decode
from spoolq.values import Char, DateMillis, Geohash, ServerTimestamp, TimestampMicros, TimestampNanos
from tests.interop.peer import NO_AUTO_FLUSH, RecordingPeer, translated

AT = TimestampNanos(5)
INT64_MIN = -(1 << 63)

pytestmark = [
    pytest.mark.filterwarnings("ignore:a naive datetime counts as UTC"),
    pytest.mark.filterwarnings("ignore:Naive datetime interpreted as UTC"),
]


class Text(str):
    """A str that is not exactly one."""


class Case(NamedTuple):
    """Calls of ``row`` by keywords, and the two outcomes."""

    calls: list[dict[str, Any]]
    questdb: str
    spoolq: str


def values(*columns: Any, at: Any = AT) -> list[dict[str, Any]]:
    """A row for each value, in column ``a``."""
    return [{"table": "t", "columns": {"a": value}, "at": at} for value in columns]


def names(table: str = "t", column: str = "a") -> list[dict[str, Any]]:
    return [{"table": table, "columns": {column: 1}, "at": AT}]


def ats(*ats: Any) -> list[dict[str, Any]]:
    return [{"table": "t", "columns": {"a": 1}, "at": at} for at in ats]


PHRASES: dict[str, Case] = {
    # ours.md 8: errors
    "forbidden character in a table name": Case(
        names("a?b"), "0 sent, row 0: QuestDBError", "0 sent, row 0: InvalidNameError"
    ),
    "forbidden character in a column name": Case(
        names("t", "a-b"), "0 sent, row 0: QuestDBError", "0 sent, row 0: InvalidNameError"
    ),
    "forbidden character in the name of a None": Case(
        [{"table": "t", "columns": {"a?": None, "b": 1}, "at": AT}], "1 sent", "0 sent, row 0: InvalidNameError"
    ),
    "dots in a table name": Case(names("a..b"), "0 sent, row 0: QuestDBError", "0 sent, row 0: InvalidNameError"),
    "empty names": Case(
        [*names(""), *names("t", "")],
        "0 sent, row 0: QuestDBError, row 1: QuestDBError",
        "0 sent, row 0: InvalidNameError, row 1: InvalidNameError",
    ),
    "name too long in bytes": Case(
        [*names("é" * 64), *names("t", "n" * 128)],
        "0 sent, row 0: QuestDBError, row 1: QuestDBError",
        "0 sent, row 0: InvalidNameError, row 1: InvalidNameError",
    ),
    "longest names": Case(names("é" * 63, "n" * 127), "1 sent", "1 sent"),
    "int outside 64 bits": Case(
        values(1 << 63, INT64_MIN - 1),
        "0 sent, row 0: OverflowError, row 1: OverflowError",
        "0 sent, row 0: InputError, row 1: InputError",
    ),
    "negative designated timestamp": Case(
        ats(TimestampNanos(-1), TimestampMicros(-1), datetime(1969, 1, 1, tzinfo=UTC)),
        "0 sent, row 0: ValueError, row 1: ValueError, row 2: QuestDBError",
        "0 sent, row 0: InputError, row 1: InputError, row 2: InputError",
    ),
    "bool in a number column": Case(values(1, True), "1 sent, row 1: QuestDBError", "1 sent, row 1: InputError"),
    "str in a number column": Case(values(1.5, "x"), "1 sent, row 1: QuestDBError", "1 sent, row 1: InputError"),
    "float in an integer column": Case(values(1, 2.0), "1 sent, row 1: QuestDBError", "1 sent, row 1: InputError"),
    "nested lists": Case(
        values([[1.0]], [1.0]),
        "0 sent, row 0: TypeError, row 1: TypeError",
        "0 sent, row 0: InputError, row 1: InputError",
    ),
    "wrong keyword": Case(
        [{"table": "t", "column": {"a": 1}, "at": AT}], "0 sent, row 0: TypeError", "0 sent, row 0: TypeError"
    ),
    "no at": Case([{"table": "t", "columns": {"a": 1}}], "0 sent, row 0: TypeError", "0 sent, row 0: TypeError"),
    "at is None": Case(ats(None), "0 sent, row 0: QuestDBError", "0 sent, row 0: InputError"),
    "at is a number, a text, a date": Case(
        ats(5, 1.5, "x", True, date(2020, 1, 1)),
        "0 sent, row 0: TypeError, row 1: TypeError, row 2: TypeError, row 3: TypeError, row 4: TypeError",
        "0 sent, row 0: InputError, row 1: InputError, row 2: InputError, row 3: InputError, row 4: InputError",
    ),
    "a value above the frame limit": Case(
        [*values("small"), *values("x" * 3_000_000), *values("small")],
        "0 sent, flush: QuestDBError",
        "2 sent, row 1: FrameTooLarge",
    ),
    "symbol that is no text": Case(
        [{"table": "t", "symbols": {"s": 1}, "at": AT}], "0 sent, row 0: TypeError", "0 sent, row 0: InputError"
    ),
    "symbol and column of one name": Case(
        [{"table": "t", "symbols": {"a": "x"}, "columns": {"a": 1}, "at": AT}],
        "0 sent, row 0: QuestDBError",
        "0 sent, row 0: InputError",
    ),
    "lone surrogate": Case(values("\ud800"), "0 sent, row 0: QuestDBError", "0 sent, row 0: InputError"),
    "a type without a column": Case(
        values(object(), 1j, {}, date(2020, 1, 1)),
        "0 sent, row 0: TypeError, row 1: TypeError, row 2: TypeError, row 3: TypeError",
        "0 sent, row 0: InputError, row 1: InputError, row 2: InputError, row 3: InputError",
    ),
    "IPv6": Case(values(ipaddress.IPv6Address(1)), "0 sent, row 0: TypeError", "0 sent, row 0: InputError"),
    "ServerTimestamp as a value": Case(
        values(ServerTimestamp), "0 sent, row 0: TypeError", "0 sent, row 0: InputError"
    ),
    "Decimal beyond scale or width": Case(
        values(Decimal("1E-77"), Decimal(1 << 255), Decimal("1E+77")),
        "0 sent, row 0: QuestDBError, row 1: QuestDBError, row 2: QuestDBError",
        "0 sent, row 0: InputError, row 1: InputError, row 2: InputError",
    ),
    "geohashes of two precisions": Case(
        values(Geohash(1, 5), Geohash(1, 6)), "1 sent, row 1: QuestDBError", "1 sent, row 1: InputError"
    ),
    "microseconds and nanoseconds as at": Case(
        ats(TimestampNanos(1), TimestampMicros(1)), "1 sent, row 1: QuestDBError", "1 sent, row 1: InputError"
    ),
    "arrays of int, of float32, of no dimension": Case(
        values(np.array([1]), np.array([1.0], dtype="f4"), np.array(1.0)),
        "0 sent, row 0: QuestDBError, row 1: QuestDBError, row 2: QuestDBError",
        "0 sent, row 0: InputError, row 1: InputError, row 2: InputError",
    ),
    "array of foreign byte order": Case(values(np.array([1.0], dtype=">f8")), "1 sent", "0 sent, row 0: InputError"),
    "masked array": Case(
        values(np.ma.array([1.0], mask=[True])), "0 sent, row 0: TypeError", "0 sent, row 0: InputError"
    ),
    "pandas missing values": Case(
        values(pd.NaT, pd.NA), "0 sent, row 0: ValueError, row 1: TypeError", "1 sent, row 1: InputError"
    ),
    "pandas NaT as at": Case(ats(pd.NaT), "0 sent, row 0: ValueError", "0 sent, row 0: InputError"),
    "numpy NaT as at": Case(ats(np.datetime64("NaT")), "0 sent, row 0: TypeError", "0 sent, row 0: InputError"),
    "numpy timedelta": Case(values(np.timedelta64(1, "s")), "0 sent, row 0: TypeError", "0 sent, row 0: InputError"),
    # ours.md 9: not errors
    "NaN and infinities": Case(values(math.nan, math.inf, -math.inf), "3 sent", "3 sent"),
    "naive datetime": Case(values(datetime(2020, 1, 1), at=datetime(2020, 1, 1)), "1 sent", "1 sent"),
    "column datetime before 1970": Case(values(datetime(1, 1, 1, tzinfo=UTC)), "1 sent", "1 sent"),
    "column wrapper before 1970": Case(values(TimestampMicros(-1)) + names("u"), "1 sent, row 0: ValueError", "2 sent"),
    "dates before 1970": Case(values(DateMillis(-1)), "1 sent", "1 sent"),
    "sentinels": Case(
        [*values(INT64_MIN), {"table": "u", "columns": {"a": Char("\x00"), "b": ipaddress.IPv4Address(0)}, "at": AT}],
        "2 sent",
        "2 sent",
    ),
    "exact int in a DOUBLE column": Case(
        values(1.5, 1, 1 << 53), "1 sent, row 1: QuestDBError, row 2: QuestDBError", "3 sent"
    ),
    "inexact int in a DOUBLE column": Case(
        values(1.5, (1 << 53) + 1), "1 sent, row 1: QuestDBError", "1 sent, row 1: InputError"
    ),
    "numpy scalars": Case(
        values(np.int64(1), np.int8(2), np.uint64(3)),
        "0 sent, row 0: TypeError, row 1: TypeError, row 2: TypeError",
        "3 sent",
    ),
    "numpy datetime64": Case(
        [*values(np.datetime64(5, "ns")), {"table": "u", "columns": {"a": 1}, "at": np.datetime64(5, "ns")}],
        "0 sent, row 0: TypeError, row 1: TypeError",
        "2 sent",
    ),
    "subclass of str": Case(values(Text("x")), "0 sent, row 0: TypeError", "1 sent"),
    "Decimal scale grows": Case(values(Decimal("1.5"), Decimal("1.55")), "0 sent, flush: QuestDBError", "2 sent"),
    "Decimal scale shrinks": Case(values(Decimal("1.55"), Decimal("1.5")), "2 sent", "2 sent"),
    "NaN Decimal beside another value": Case(
        [{"table": "t", "columns": {"a": Decimal("NaN"), "b": 1}, "at": AT}], "1 sent", "1 sent"
    ),
    "NaN Decimal alone": Case(values(Decimal("NaN")), "0 sent, row 0: QuestDBError", "1 sent"),
    "pandas Timestamp of whole microseconds": Case(
        values(pd.Timestamp("2020-01-01T00:00:00.000001")), "1 sent", "1 sent"
    ),
    "pandas Timestamp with nanoseconds": Case(
        values(pd.Timestamp(1_234_567_891)), "1 sent", "0 sent, row 0: InputError"
    ),
    "empty arrays": Case(values(np.array([]), np.zeros(0)), "2 sent", "2 sent"),
    "None beside a value": Case([{"table": "t", "columns": {"a": None, "b": 1}, "at": AT}], "1 sent", "1 sent"),
    # ours.md 7: nothing vanishes
    "all None with a timestamp": Case(values(None), "0 sent", "1 sent"),
    "all None without a timestamp": Case(values(None, at=ServerTimestamp), "0 sent", "0 sent, row 0: InputError"),
    "no columns at all": Case([{"table": "t", "at": AT}], "0 sent", "1 sent"),
    "two names equal ignoring case": Case(
        [{"table": "t", "columns": {"a": 1, "A": 2}, "at": AT}], "1 sent", "0 sent, row 0: InputError"
    ),
    "spellings over rows": Case([*names("t", "Col"), *names("t", "cOL")], "2 sent", "2 sent"),
    "2048 columns and a timestamp": Case(
        [{"table": "t", "columns": {f"c{i}": i for i in range(2048)}, "at": AT}],
        "status 05",
        "0 sent, row 0: InputError",
    ),
    "2047 columns and a timestamp": Case(
        [{"table": "t", "columns": {f"c{i}": i for i in range(2047)}, "at": AT}], "1 sent", "1 sent"
    ),
    "arrays of differing dimensions": Case(
        values(np.zeros(1), np.zeros((1, 1))), "status 03", "1 sent, row 1: InputError"
    ),
    "a flush above the cap": Case(values(*["x" * 50_000] * 100), "0 sent, flush: QuestDBError", "100 sent"),
}


@pytest.fixture
def peer() -> Iterator[RecordingPeer]:
    with RecordingPeer() as endpoint:
        yield endpoint


def outcome(client: str, peer: RecordingPeer, calls: list[dict[str, Any]]) -> str:
    """Calls, a flush and a close; what arrived and what raised."""
    module: Any = questdb if client == "questdb" else spoolq
    raised = []
    with module.Sender.from_conf(peer.conf + NO_AUTO_FLUSH) as sender:
        for index, call in enumerate(calls):
            keywords = dict(call)
            table = keywords.pop("table")
            try:
                if client == "questdb":
                    if "columns" in keywords:
                        keywords["columns"] = {name: translated(v) for name, v in keywords["columns"].items()}
                    if "at" in keywords:
                        keywords["at"] = translated(keywords["at"])
                sender.row(table, **keywords)
            except Exception as error:  # whatever it raises is what is noted
                raised.append(f"row {index}: {type(error).__name__}")
        try:
            sender.flush()
        except Exception as error:
            raised.append(f"flush: {type(error).__name__}")
    return ", ".join([_arrived(message for messages in peer.take() for message in messages), *raised])


def _arrived(messages: Iterator[bytes]) -> str:
    dictionary, rows = Dictionary(), 0
    try:
        for message in messages:
            rows += sum(table.row_count for table in decode(message, dictionary).tables)
    except WireFault as fault:
        return f"status {fault.status:02X}"
    return f"{rows} sent"


@pytest.mark.parametrize("phrase", PHRASES)
def test_what_each_client_does(peer: RecordingPeer, phrase: str) -> None:
    case = PHRASES[phrase]
    assert outcome("questdb", peer, case.calls) == case.questdb
    assert outcome("spoolq", peer, case.calls) == case.spoolq


DIFFERS = {
    "forbidden character in the name of a None",
    "a value above the frame limit",
    "array of foreign byte order",
    "pandas missing values",
    "column wrapper before 1970",
    "exact int in a DOUBLE column",
    "numpy scalars",
    "numpy datetime64",
    "subclass of str",
    "Decimal scale grows",
    "NaN Decimal alone",
    "pandas Timestamp with nanoseconds",
    "all None with a timestamp",
    "all None without a timestamp",
    "no columns at all",
    "two names equal ignoring case",
    "2048 columns and a timestamp",
    "arrays of differing dimensions",
    "a flush above the cap",
}


def test_the_list_of_differences_is_whole() -> None:
    def effect(outcome: str) -> str:
        return re.sub(r": \w+", "", outcome)

    assert {phrase for phrase, case in PHRASES.items() if effect(case.questdb) != effect(case.spoolq)} == DIFFERS
