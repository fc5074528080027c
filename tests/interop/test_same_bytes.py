"""Our messages and the official client's, byte for byte, or the one rule by which they differ.

The first test runs some thousand made cases through both and prints, by type, how many were equal and how many
differed by which rule; the others show each rule alone, and long batches.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from spoolq.values import Char, Geohash, Long256, ServerTimestamp, TimestampMicros, TimestampNanos
from tests.interop.cases import KINDS, TRAPS, Case, cases
from tests.interop.peer import Batches, RecordingPeer, Row, official, ours, ours_over_a_socket
from tests.interop.rules import Rule, explain

CASES = 4_000
AT = TimestampNanos(5)

pytestmark = [
    pytest.mark.filterwarnings("ignore:a naive datetime counts as UTC"),
    pytest.mark.filterwarnings("ignore:Naive datetime interpreted as UTC"),
]


@pytest.fixture
def peer() -> Iterator[RecordingPeer]:
    with RecordingPeer() as endpoint:
        yield endpoint


def differs_by(peer: RecordingPeer, batches: Batches) -> frozenset[Rule]:
    return explain(batches, official(peer, batches), ours(batches))


@pytest.mark.timeout(900)
def test_messages_are_equal_or_one_rule_says_why(peer: RecordingPeer, capsys: pytest.CaptureFixture[str]) -> None:
    table: Counter[tuple[str, str]] = Counter()
    distinct: set[str] = set()

    @settings(
        max_examples=CASES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(cases())
    def compare(case: Case) -> None:
        rules = differs_by(peer, case.batches)
        assert len(rules) <= 1, rules
        if case.trap is None:
            assert rules <= {Rule.SYMBOL_IDS, Rule.COLUMNS_KEPT}
        else:
            assert rules == ({Rule[case.trap]} if case.trap in Rule.__members__ else set()), case.trap
        outcome = next((rule.name for rule in rules), "equal")
        distinct.add(repr(case))
        table.update((kind, outcome) for kind in {*case.kinds, "all"})

    compare()
    outcomes = ["equal", *(rule.name for rule in Rule)]
    with capsys.disabled():
        print(f"\n{len(distinct)} distinct cases through both clients, by type and outcome")
        for kind in ("all", "symbol", *KINDS):
            shown = "  ".join(f"{outcome} {table[kind, outcome]}" for outcome in outcomes if table[kind, outcome])
            print(f"  {kind:<16} {shown}")
    assert len(distinct) >= 3_000
    assert all(table[kind, "equal"] >= 50 for kind in KINDS)
    assert all(table["all", trap] for trap in TRAPS if trap in Rule.__members__)


def row(columns: dict[str, Any], symbols: dict[str, Any] | None = None, at: Any = AT, table: str = "t") -> Row:
    return Row(table, symbols or {}, columns, at)


class Text(str):
    """A str that is not exactly one."""


ALONE: list[tuple[Rule, list[Row]]] = [
    (Rule.ALL_NONE, [row({"a": None})]),
    (Rule.ALL_NONE, [row({"a": 1}), row({}), row({}, {"s": None}), row({"b": 2})]),
    (Rule.ALL_NONE, [row({"a": None}, at=ServerTimestamp), row({"a": 1})]),
    (Rule.CASE_TWICE, [row({"a": 1, "A": 2}), row({"A": 3})]),
    (Rule.CASE_TWICE, [row({}, {"s": "x", "S": "y"})]),
    (Rule.NONE_NAME, [row({"a?": None, "b": 1})]),
    (Rule.INT_IN_DOUBLE, [row({"a": 1.5}), row({"a": 1})]),
    (Rule.DECIMAL_SCALE, [row({"a": Decimal("1.1")}), row({"a": Decimal("1.11")})]),
    (Rule.DECIMAL_SCALE, [row({"a": Decimal("1E-70")}), row({"a": Decimal("1E10")})]),
    (Rule.DECIMAL_ZERO, [row({"a": Decimal("0E+100")})]),
    (Rule.LONE_NAN_DECIMAL, [row({"a": Decimal("NaN")}), row({"a": Decimal("1.10")})]),
    (Rule.NAN_BITS, [row({"a": -math.nan}), row({"a": math.nan})]),
    (Rule.NUMPY_SCALAR, [row({"a": np.float64(1.5)})]),
    (Rule.NUMPY_SCALAR, [row({"a": 1}, at=np.datetime64(5, "ns"))]),
    (Rule.NUMPY_SCALAR, [row({}, {"s": np.str_("x")})]),
    (Rule.SUBCLASS, [row({"a": Text("x")})]),
    (Rule.SUBCLASS, [row({"a": 1}, {"s": Text("x")})]),
    (Rule.NEGATIVE_WRAPPER, [row({"a": TimestampMicros(-1)})]),
    (Rule.NEGATIVE_WRAPPER, [row({"a": TimestampNanos(-(1 << 63))})]),
    (Rule.DIMENSIONS, [row({"a": np.zeros(1)}), row({"a": np.zeros((1, 1))})]),
    (Rule.COLUMNS, [row({f"c{index}": 1 for index in range(2048)})]),
    (Rule.BIG_ENDIAN, [row({"a": np.array([1.0], dtype=">f8")})]),
    (Rule.SYMBOL_IDS, [row({}, {"s": "1", "t": "2"}), row({}, {"s": "3"})]),
]


@pytest.mark.parametrize(("rule", "batch"), ALONE, ids=[f"{rule.name}-{at}" for at, (rule, _) in enumerate(ALONE)])
def test_each_rule_shows_its_difference(peer: RecordingPeer, rule: Rule, batch: list[Row]) -> None:
    assert differs_by(peer, [batch]) == {rule}


FLUSHES: list[tuple[Rule, Batches]] = [
    (Rule.COLUMNS_KEPT, [[row({"a": 1, "b": 2})], [row({"b": 1})]]),
    (Rule.COLUMNS_KEPT, [[row({"a": 1, "b": 2})], [row({"b": 1, "a": 2})]]),
    (Rule.COLUMNS_KEPT, [[row({"a": 1}, table="u"), row({"a": 1})], [row({"a": 1}), row({"a": 1}, table="u")]]),
    (Rule.COLUMNS_KEPT, [[row({"Aa": 1})], [row({"aA": 1})]]),
    (Rule.COLUMNS_KEPT, [[row({"a": 1})], [row({"a": 1}, at=ServerTimestamp)]]),
    (Rule.TYPE_KEPT, [[row({"a": 1})], [row({"a": 1.5})], [row({"a": 2})]]),
    (Rule.TYPE_KEPT, [[row({"a": 1})], [row({"a": 1}, at=TimestampMicros(1))], [row({"a": 1})]]),
]


@pytest.mark.parametrize(
    ("rule", "batches"), FLUSHES, ids=[f"{rule.name}-{at}" for at, (rule, _) in enumerate(FLUSHES)]
)
def test_what_they_remember_over_flushes(peer: RecordingPeer, rule: Rule, batches: Batches) -> None:
    assert differs_by(peer, batches) == {rule}


def test_every_rule_has_a_case_of_its_own() -> None:
    assert {rule for rule, _ in (*ALONE, *FLUSHES)} == set(Rule)


def test_a_difference_that_no_rule_makes_fails() -> None:
    batches = [[row({"a": 1})]]
    mine = ours(batches)
    theirs = mine._replace(messages=[mine.messages[0][:-1] + b"\x01"])
    with pytest.raises(AssertionError, match="no rule"):
        explain(batches, theirs, mine)


@pytest.mark.parametrize("precision", [1, 7, 8, 9, 16, 24, 25, 32, 40, 48, 56, 60])
def test_a_geohash_has_a_bitmap_where_its_bits_fill_its_bytes(peer: RecordingPeer, precision: int) -> None:
    for bits in {0, 1, (1 << precision) - 1}:
        assert not differs_by(peer, [[row({"a": Geohash(bits, precision)})]])


def test_2047_columns_and_a_timestamp_are_equal(peer: RecordingPeer) -> None:
    assert not differs_by(peer, [[row({f"c{index}": index for index in range(2047)})]])


def test_our_sender_sends_what_the_encoder_gives(peer: RecordingPeer) -> None:
    """So that the comparison above, which needs no socket of ours, is one of the clients."""

    @settings(max_examples=200, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(cases(traps=False))
    def compare(case: Case) -> None:
        assert ours_over_a_socket(peer, case.batches) == ours(case.batches).messages

    compare()


@pytest.mark.parametrize("seed", range(4))
def test_long_batches_are_equal(peer: RecordingPeer, seed: int) -> None:
    """Counts, ids, bitmaps and offsets beyond one byte; one symbol column, so that ids come in row order."""
    chance = random.Random(seed)
    batches = []
    for _ in range(3):
        rows = []
        for number in range(chance.randrange(200, 2_000)):
            null = (None,) if number else ()
            columns = {
                "x": chance.choice((*null, chance.getrandbits(62))),
                "b": chance.choice((*null, True, False)),
                "text": chance.choice((*null, "", "é" * chance.randrange(200))),
                "geo": chance.choice((*null, Geohash(1, 8))),
                "char": chance.choice((*null, Char("x"))),
                "wide": chance.choice((*null, Long256(1 << chance.randrange(256)))),
            }
            if number > 150:
                columns["late"] = chance.choice((None, number / 7))
            at = chance.choice((ServerTimestamp, TimestampMicros(number)) if number else (TimestampMicros(1),))
            rows.append(row({**columns, "n": number}, {"s": f"symbol {chance.randrange(3_000)}"}, at))
        batches.append(rows)
    assert not differs_by(peer, batches)


def test_symbol_ids_beyond_two_bytes_over_several_flushes_are_equal(peer: RecordingPeer) -> None:
    batches = [[row({}, {"s": f"{batch} {number}"}) for number in range(6_000)] for batch in range(3)]
    assert not differs_by(peer, batches)
