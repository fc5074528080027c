"""A minute of `make chaos`, a world short enough for a mutant, and the journals themselves."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from spoolq import Sender, TimestampMicros
from spoolq.testing import QwpServer
from tests.chaos.journal import Journals, JournalStore
from tests.chaos.world import World
from tests.crash.nursery import Nursery
from tests.crash.rows import row

TEXT_NBYTES = 100


def chaos(folder: Path, seed: int, seconds: float, kills_min: int = 0) -> Counter[str]:
    counts: Counter[str] = Counter()
    with Nursery() as nursery:
        World(seed, seconds, folder, nursery, counts, kills_min).run()
    return counts


def test_a_minute_of_chaos_and_every_row_lands_in_order(tmp_path: Path) -> None:
    """Issue 8, done when 3; ten minutes by `make chaos`."""
    counts = chaos(tmp_path, seed=11, seconds=60, kills_min=5)
    assert counts["server: killed by SIGKILL"] >= 5
    assert counts["writer: killed by SIGKILL"] >= 5
    assert counts["rows landed"] >= counts["rows whose flush returned"] > 0


def test_a_world_goes_on_until_enough_were_killed(tmp_path: Path) -> None:
    counts = chaos(tmp_path, seed=3, seconds=0, kills_min=1)
    assert counts["server: killed by SIGKILL"] >= 1
    assert counts["writer: killed by SIGKILL"] >= 1


def test_a_short_world(tmp_path: Path) -> None:
    counts = chaos(tmp_path, seed=3, seconds=8)
    assert counts["rows landed"] > 0


@pytest.fixture
def journal(tmp_path: Path) -> tuple[Journals, Path]:
    return Journals(tmp_path), tmp_path


def land(path: Path, *numbers: int, text: str | None = None) -> None:
    """A server with that journal commits these rows, each by a frame of its own."""
    store = JournalStore(path, TEXT_NBYTES)
    with QwpServer(store=store) as server, Sender.from_conf(server.conf) as sender:
        for n in numbers:
            made = row(n, TEXT_NBYTES)
            sender.row(
                made.table,
                symbols={"s": made.s},
                columns={"n": n, "x": made.x, "text": made.text if text is None else text},
                at=TimestampMicros(made.micros),
            )
            sender.flush()
    store.close()


def test_rows_of_all_servers_are_put_in_the_order_of_their_commits(journal: tuple[Journals, Path]) -> None:
    journals, folder = journal
    land(folder / "one-1.journal", 0, 1, 2)
    assert journals.landed == {0, 1, 2}
    land(folder / "two-1.journal", 2, 3, 4, 5, 6)
    assert journals.landed == set(range(7))
    found = journals.arrivals()
    assert (found.faults, found.twice) == ([], 1)


def test_a_first_arrival_behind_a_later_row_of_another_server(journal: tuple[Journals, Path]) -> None:
    journals, folder = journal
    table = row(0, TEXT_NBYTES).table
    later = next(n for n in range(1, 50) if row(n, TEXT_NBYTES).table == table)
    land(folder / "two-1.journal", later)
    land(folder / "one-1.journal", 0)
    assert journals.arrivals().faults == [f"row 0 of {table} arrived first behind row {later}"]


def test_an_altered_row(journal: tuple[Journals, Path]) -> None:
    journals, folder = journal
    land(folder / "one-1.journal", 5, text="something else")
    assert journals.faults == ["row 5 landed altered"]


def test_the_torn_last_block_of_a_killed_server_does_not_count(journal: tuple[Journals, Path]) -> None:
    journals, folder = journal
    path = folder / "one-1.journal"
    land(path, 0, 1, 2)
    path.write_bytes(path.read_bytes()[:-1])
    assert journals.landed == {0, 1}
