"""values.py: ranges, equality by type, pickling."""

from __future__ import annotations

import copy
import importlib
import pickle
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest

from spoolq import int64_plain
from spoolq import values as v
from spoolq._implementation import _MODULES


def test_datetime_conversion_is_exact_and_naive_counts_as_utc() -> None:
    moment = datetime(2013, 1, 1, 5, 0, 0, 123456)
    assert v.TimestampMicros(moment).value == 1357016400123456
    assert v.TimestampNanos.from_datetime(moment).value == 1357016400123456000
    assert v.DateMillis(moment).value == 1357016400123
    east = moment.replace(tzinfo=timezone(timedelta(hours=2)))
    assert v.TimestampMicros(moment.replace(tzinfo=UTC)).value - v.TimestampMicros(east).value == 7_200_000_000


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: v.TimestampMicros(1.5), TypeError),  # type: ignore[arg-type]
        (lambda: v.TimestampMicros(True), TypeError),
        (lambda: v.TimestampNanos(1 << 63), ValueError),
        (lambda: v.Long256(-1), ValueError),
        (lambda: v.Long256(1 << 256), ValueError),
        (lambda: v.Geohash(0, 61), ValueError),
        (lambda: v.Geohash(4, 2), ValueError),
        (lambda: v.Geohash.from_string("u33a8"), ValueError),
        (lambda: v.Char("ab"), ValueError),
        (lambda: v.Char("\U0001f600"), ValueError),
    ],
)
def test_out_of_range_is_refused(make: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        make()  # type: ignore[operator]


def test_equality_is_by_type_and_copies_are_equal() -> None:
    assert v.TimestampMicros(1) != v.TimestampNanos(1)
    for value in (
        v.TimestampMicros(5),
        v.TimestampNanos(5),
        v.DateMillis(-5),
        v.Char("é"),
        v.Long256(1 << 255),
        v.Geohash.from_string("u33d8"),
        v.ServerTimestamp,
    ):
        assert pickle.loads(pickle.dumps(value)) == value
        assert copy.deepcopy(value) == value


def test_geohash_text_is_wire_md_4_8() -> None:
    assert v.Geohash.from_string("u33d8") == v.Geohash(0x1A18D88, 25)


_BODIES = [int64_plain, *([importlib.import_module("spoolq._int64")] if "spoolq._int64" in _MODULES else [])]


@pytest.mark.parametrize("body", _BODIES, ids=lambda body: body.__name__)
@pytest.mark.parametrize("name", ["TimestampMicros", "TimestampNanos", "DateMillis"])
def test_both_bodies_of_the_64_bit_values_are_the_same(body: Any, name: str) -> None:
    kind, plain = getattr(body, name), getattr(int64_plain, name)
    moment = datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC)
    for given in (0, -1, -(1 << 63), (1 << 63) - 1, np.int64(7), moment):
        assert kind(given).value == plain(given).value
        assert repr(kind(given)) == repr(plain(given))
        assert hash(kind(given)) == hash(plain(given))
        assert kind(given) == kind(given) != kind(5)
    assert kind.from_datetime(moment) == kind(moment)
    assert abs(kind.now().value - kind(datetime.now(UTC)).value) < kind(datetime(1970, 1, 2)).value
    for wrong in (1 << 63, -(1 << 63) - 1, 1 << 200, True, 1.0, "1", None):
        with pytest.raises((TypeError, ValueError)) as ours:
            kind(wrong)
        with pytest.raises((TypeError, ValueError)) as theirs:
            plain(wrong)
        assert (type(ours.value), str(ours.value)) == (type(theirs.value), str(theirs.value))
    with pytest.raises(AttributeError, match="immutable"):
        kind(1).value = 2
    with pytest.raises(TypeError):
        type("Sub", (kind,), {}) if body is not int64_plain else kind()
    assert pickle.loads(pickle.dumps(kind(3))) == getattr(v, name)(3)
