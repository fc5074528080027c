"""Every input of ours.md 9 that is no error, on both bodies, and what comes out of the decoder.

Seen red with: NaN with another bit pattern; a naive datetime as local time; the warning said for each
row; a sentinel refused; an inexact int taken into a DOUBLE column.
"""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest

from spoolq.columns import SymbolTable, convert
from spoolq.errors import InputError
from spoolq.qwp.decode import decode_all
from spoolq.values import DateMillis, ServerTimestamp, TimestampMicros, TimestampNanos
from tests.columns.bodies import Body, state_of

AT = TimestampMicros(5)
MIN64 = -(1 << 63)


def comes_back(body: Body, *values: Any) -> list[Any]:
    """The values of one column as the decoder finds them."""
    rows = body.buffer()
    for value in values:
        rows.row("t", columns={"v": value}, at=AT)
    return [row["v"] for row in decode_all(body.message(rows))["t"]]


@pytest.fixture
def naive_not_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "_naive_said", False)


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A local time that is not UTC."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("value", [float("nan"), -float("nan"), np.float64("nan"), np.float32("nan")])
def test_ours_9_nan_has_one_bit_pattern(body: Body, value: Any) -> None:
    assert math.isnan(comes_back(body, value)[0])
    rows = body.buffer()
    rows.row("t", columns={"v": value}, at=ServerTimestamp)
    assert body.message(rows).endswith(bytes.fromhex("00 00 00 00 00 00 00 F8 7F"))


def test_ours_9_infinities(body: Body) -> None:
    assert comes_back(body, math.inf, -math.inf, np.float64("inf")) == [math.inf, -math.inf, math.inf]


def test_ours_9_nan_and_infinities_in_an_array_keep_their_bits(body: Body) -> None:
    array = np.array([np.nan, np.inf, -np.inf, -0.0])
    rows = body.buffer()
    rows.row("t", columns={"v": array}, at=ServerTimestamp)
    assert body.message(rows).endswith(array.tobytes())


def test_ours_9_a_naive_datetime_is_utc_with_one_warning(body: Body, naive_not_said: None, berlin: None) -> None:
    moment = datetime(2013, 7, 1, 12)
    aware = moment.replace(tzinfo=UTC)
    rows = body.buffer()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            rows.row("t", columns={"v": moment}, at=moment)
    assert [(warning.category, "UTC" in str(warning.message)) for warning in said] == [(UserWarning, True)]
    micros = int(aware.timestamp()) * 1_000_000
    assert decode_all(body.message(rows))["t"] == [{"v": micros, "": micros}] * 2


def test_ours_9_a_naive_at_alone_warns_too(body: Body, naive_not_said: None) -> None:
    rows = body.buffer()
    with pytest.warns(UserWarning, match="UTC"):
        rows.row("t", columns={"v": 1}, at=datetime(2013, 7, 1))


def test_ours_9_a_warning_made_an_error_undoes_the_row(body: Body, naive_not_said: None) -> None:
    rows = body.buffer()
    rows.row("t", symbols={"s": "a"}, columns={"v": AT}, at=AT)
    before = state_of(body, rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="UTC"):
            rows.row("t", symbols={"s": "b"}, columns={"v": datetime(2013, 7, 1)}, at=AT)
    assert state_of(body, rows) == before
    rows.row("t", symbols={"s": "b"}, at=AT)  # the lock is free


def test_ours_9_an_aware_datetime_is_its_moment(body: Body) -> None:
    moment = datetime(2013, 7, 1, 12, 0, 0, 123_456, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    assert comes_back(body, moment) == [int(moment.timestamp()) * 1_000_000 + 123_456]


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (TimestampMicros(-1), -1),
        (TimestampNanos(-1), -1),
        (DateMillis(-1), -1),
        (datetime(1969, 12, 31, tzinfo=UTC), -86_400_000_000),
        (datetime(1, 1, 1, tzinfo=UTC), -62_135_596_800_000_000),
        (np.datetime64("1969-12-31T23:59:59.999999999"), -1),
        (np.datetime64("1969-12-31"), -86_400_000_000),
    ],
    ids=lambda value: str(value),
)
def test_ours_9_column_timestamps_before_1970(body: Body, value: Any, number: int) -> None:
    assert comes_back(body, value) == [number]


@pytest.mark.parametrize(
    "value", [MIN64, TimestampMicros(MIN64), TimestampNanos(MIN64), DateMillis(MIN64)], ids=lambda v: type(v).__name__
)
def test_ours_9_a_sentinel_is_sent_with_one_warning_a_column(
    body: Body, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    rows = body.buffer()
    with caplog.at_level(logging.WARNING, "spoolq"):
        for name in ("v", "w", "v", "v"):
            rows.row("t", columns={name: value, "n": 1}, at=AT)
        rows.clear()
        rows.row("t", columns={"v": value}, at=AT)
        rows.row("t2", columns={"v": value}, at=AT)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3
    assert all("NULL" in text and str(MIN64) in text for text in said)
    assert [("'t'" in text, "'v'" in text) for text in said] == [(True, True), (True, False), (False, True)]
    found = decode_all(body.message(rows))
    assert [row["v"] for row in found["t"] + found["t2"]] == [MIN64, MIN64]


def test_ours_9_a_sentinel_of_a_refused_row_is_said_no_less(body: Body, caplog: pytest.LogCaptureFixture) -> None:
    rows = body.buffer()
    with caplog.at_level(logging.WARNING, "spoolq"):
        with pytest.raises(InputError):
            rows.row("t", columns={"v": MIN64, "bad": [1]}, at=AT)
        rows.row("t", columns={"v": MIN64}, at=AT)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("value", "number"),
    [(0, 0.0), (-7, -7.0), (1 << 53, float(1 << 53)), (1 << 62, float(1 << 62)), (MIN64, float(MIN64))],
    ids=str,
)
def test_ours_9_an_exact_int_in_a_double_column(body: Body, value: int, number: float) -> None:
    assert comes_back(body, 0.5, value, np.int64(value)) == [0.5, number, number]


@pytest.mark.parametrize("value", [(1 << 53) + 1, (1 << 63) - 1, -(1 << 53) - 1], ids=str)
def test_ours_9_an_inexact_int_in_a_double_column_is_refused(body: Body, value: int) -> None:
    rows = body.buffer(SymbolTable())
    rows.row("t", columns={"v": 0.5}, at=AT)
    before = state_of(body, rows)
    with pytest.raises(InputError, match="exact") as caught:
        rows.row("t", symbols={"s": "new"}, columns={"v": value}, at=AT)
    assert (caught.value.table, caught.value.column) == ("t", "v")
    assert str(value) in str(caught.value)
    assert state_of(body, rows) == before


def test_ours_9_an_int_first_makes_a_long_column(body: Body) -> None:
    rows = body.buffer()
    rows.row("t", columns={"v": 1}, at=AT)
    with pytest.raises(InputError, match="DOUBLE"):
        rows.row("t", columns={"v": 1.0}, at=AT)
