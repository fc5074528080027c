"""A slice of `make torture`, and the judge itself: what it must not let pass."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.crash.judge import Judge, Ledger, Wrong
from tests.crash.nursery import Nursery
from tests.crash.rows import TABLES, Row, row
from tests.crash.story import Story
from tests.spool import slot_maker

TEXT_NBYTES = 100
FOUND: dict[str, Any] = {
    "recovered": True,
    "published": None,
    "remaining": 0,
    "torn": [],
    "symbols_rebuilt": 0,
    **dict.fromkeys(("quarantined", "set_aside", "copies", "deferred", "warnings"), ()),
}


@pytest.mark.parametrize("seed", [2, 9])
def test_a_writer_is_killed_and_every_row_whose_flush_returned_arrives(tmp_path: Path, seed: int) -> None:
    """Issue 6, done when 4; 1,000 kills by `make torture`."""
    counts: Counter[str] = Counter()
    with Nursery() as nursery:
        Story(seed, 13, tmp_path, nursery, counts).run()
    assert counts["kills"] == 13
    assert counts["rows whose flush returned"] > 0


class Bench:
    """A judge and a ledger without a server and a writer."""

    def __init__(self, slot: Path) -> None:
        self.ledger = Ledger(TEXT_NBYTES)
        self.judge = Judge(self.ledger, slot, Counter())

    def hear(self, *report: Any) -> None:
        self.judge.heard([0, *report])

    def promise(self, first: int, end: int, fsn: int) -> None:
        self.hear("batch", first, end, None)
        self.hear("flushed", [[first, end]], fsn)

    def land(self, *numbers: int) -> None:
        for number in numbers:
            self.ledger.arrived(row(number, TEXT_NBYTES))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_what_was_promised_and_landed_passes_also_twice(bench: Bench) -> None:
    bench.promise(0, 5, 0)
    bench.land(0, 1, 2, 3, 4, 0, 1)
    bench.judge.settle("now")
    assert bench.ledger.twice == 2


def test_a_lost_row(bench: Bench) -> None:
    bench.promise(0, 5, 0)
    bench.land(0, 1, 2, 4)
    with pytest.raises(Wrong, match=r"lost are \[3\]"):
        bench.judge.settle("now")


def test_an_invented_row(bench: Bench) -> None:
    bench.promise(0, 5, 0)
    bench.land(0, 1, 2, 3, 4, 5)
    with pytest.raises(Wrong, match="row 5 landed and was never handed to row"):
        bench.judge.autopsy()


@pytest.mark.parametrize("name", ["table", "s", "x", "text", "micros"])
def test_an_altered_row(bench: Bench, name: str) -> None:
    bench.hear("batch", 0, 5, None)
    true = row(3, TEXT_NBYTES)
    values = {field: getattr(true, field) for field in ("table", "s", "n", "x", "text", "micros")}
    values[name] = next(other for other in TABLES if other != true.table) if name == "table" else values[name] * 2
    bench.ledger.arrived(Row(**values))
    with pytest.raises(Wrong, match="row 3 landed altered"):
        bench.judge.settle("now")


def test_first_arrivals_of_a_table_out_of_order(bench: Bench) -> None:
    table = row(0, TEXT_NBYTES).table
    later = next(n for n in range(1, 50) if row(n, TEXT_NBYTES).table == table)
    bench.hear("batch", 0, 50, None)
    bench.land(later, 0)
    with pytest.raises(Wrong, match=f"row 0 of {table} arrived first behind row {later}"):
        bench.judge.settle("now")


def test_a_slot_that_begins_anew_too_early(bench: Bench) -> None:
    bench.promise(0, 5, 7)
    with pytest.raises(Wrong, match=r"the slot began anew.*lost are"):
        bench.hear("open", {**FOUND, "recovered": False})


def test_recovery_forgets_a_frame(bench: Bench) -> None:
    bench.promise(0, 5, 7)
    with pytest.raises(Wrong, match="FSN 7 was told, recovery knows only 6"):
        bench.hear("open", {**FOUND, "published": 6})


def test_an_fsn_that_falls(bench: Bench) -> None:
    bench.promise(0, 5, 7)
    with pytest.raises(Wrong, match="got FSN 6, 7 is told already"):
        bench.promise(5, 6, 6)


@pytest.mark.parametrize("bad", ["quarantined", "set_aside", "copies", "deferred", "warnings"])
def test_a_kill_is_no_reason_to_put_anything_aside(bench: Bench, bad: str) -> None:
    with pytest.raises(Wrong, match=f"recovery reports {bad}"):
        bench.hear("open", {**FOUND, bad: ["something"]})


def test_an_fsn_that_stands_for_other_bytes(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "sf-0000000000000000.sfa"
    for frames in ([b"a"], [b"a", b"b"]):
        file.write_bytes(slot_maker.segment(5, frames, size=256))
        bench.judge.autopsy()
    file.write_bytes(slot_maker.segment(5, [b"a", b"c"], size=256))
    with pytest.raises(Wrong, match=r"FSN 6 in .* has another content"):
        bench.judge.autopsy()


def test_a_drained_slot_that_holds_something(bench: Bench, tmp_path: Path) -> None:
    for name in (".lock", ".lock.pid"):
        (tmp_path / name).touch()
    bench.judge.clean()
    (tmp_path / "sf-manifest.bin.corrupt").touch()
    with pytest.raises(Wrong, match=r"sf-manifest\.bin\.corrupt"):
        bench.judge.clean()


def test_a_writer_that_fails_by_itself(bench: Bench) -> None:
    with pytest.raises(Wrong, match="the writer failed: it did"):
        bench.hear("failed", "it did")
