"""Did everything arrive?  Asked of the server by SQL, and joined with the source on whole rows.

No two rows of the source are equal, so a row's identity is all its columns; nothing is added to the tables for
the check.  `compare` fetches every landed row by SQL, a month at a time, and counts how often each occurs here
and there.  `questions` are two queries whose answers pandas computes from the source.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from spoolq.cli._demo_data import Table

if TYPE_CHECKING:
    import pandas

Query = Callable[[str], list[list[Any]]]
_RELATIVE_ERROR: Final = 1e-12  # a mean is one rounding of an exact sum; the order of adding may show

_LARGEST_CARRIERS: Final = (
    "SELECT carrier, count(*) AS flights, avg(arr_delay) AS mean_delay FROM flights "
    "GROUP BY carrier ORDER BY flights DESC, carrier LIMIT 5"
)
_DEPARTURES_IN_RAIN: Final = (
    "SELECT f.origin, count(*) AS departures, avg(f.dep_delay) AS mean_delay "
    "FROM flights f JOIN weather w ON f.origin = w.origin AND f.time_hour = w.time_hour "
    "WHERE w.precip > 0 AND f.dep_delay IS NOT NULL GROUP BY f.origin ORDER BY f.origin"
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One table: rows of the source, rows on the server, and what differs.

    ``lost``: in the source and not on the server.  ``duplicated``: more often on the server than in the
    source.  ``altered``: on the server and not in the source.
    """

    table: str
    source: int
    landed: int
    lost: int
    duplicated: int
    altered: int

    @property
    def equal(self) -> bool:
        """Nothing differs."""
        return self.source == self.landed and not (self.lost or self.duplicated or self.altered)


@dataclass(frozen=True, slots=True)
class Answer:
    """One query: what the server says and what pandas says."""

    title: str
    sql: str
    headings: tuple[str, ...]
    server: list[list[Any]]
    source: list[list[Any]]

    @property
    def equal(self) -> bool:
        """The same rows in the same order; floats to 12 digits."""
        return len(self.server) == len(self.source) and all(
            len(ours) == len(theirs) and all(map(_same, ours, theirs))
            for ours, theirs in zip(self.server, self.source, strict=True)
        )


def compare(table: Table, query: Query) -> Comparison:
    """Joins the landed rows with the source."""
    landed = query(f"SELECT count(*) FROM {table.name}")[0][0]
    month = table.names.index("month")
    by_month: dict[int, Counter[tuple[Any, ...]]] = {}
    for row in table.rows:
        by_month.setdefault(row[month], Counter())[row] += 1
    columns = ", ".join(f'"{name}"' for name in table.names)
    fetched = lost = duplicated = altered = 0
    for number, expected in by_month.items():
        found = Counter(map(tuple, query(f'SELECT {columns} FROM {table.name} WHERE "month" = {number}')))
        fetched += found.total()
        lost += (expected - found).total()
        for row, surplus in (found - expected).items():
            if row in expected:
                duplicated += surplus
            else:
                altered += surplus
    # Rows under a month that the source does not have were not fetched; the count has them.
    return Comparison(table.name, len(table.rows), landed, lost, duplicated, altered + max(0, landed - fetched))


def questions(flights: Table, weather: Table, query: Query) -> list[Answer]:
    """Two queries, one of them over both tables, each with the answer of pandas."""
    return [
        Answer(
            "Flights and mean arrival delay in minutes, the five largest carriers",
            _LARGEST_CARRIERS,
            ("carrier", "flights", "mean delay"),
            query(_LARGEST_CARRIERS),
            _rows(_largest_carriers(flights.frame)),
        ),
        Answer(
            "Departures with rain in that hour, and their mean departure delay in minutes, by airport",
            _DEPARTURES_IN_RAIN,
            ("airport", "departures", "mean delay"),
            query(_DEPARTURES_IN_RAIN),
            _rows(_departures_in_rain(flights.frame, weather.frame)),
        ),
    ]


def _largest_carriers(flights: pandas.DataFrame) -> pandas.DataFrame:
    grouped = flights.groupby("carrier", as_index=False)
    found = grouped.agg(flights=("carrier", "size"), mean_delay=("arr_delay", "mean"))
    return found.sort_values(["flights", "carrier"], ascending=[False, True]).head(5)


def _departures_in_rain(flights: pandas.DataFrame, weather: pandas.DataFrame) -> pandas.DataFrame:
    rain = weather.loc[weather["precip"] > 0, ["origin", "time_hour"]]
    wet = flights[flights["dep_delay"].notna()].merge(rain, on=["origin", "time_hour"])
    grouped = wet.groupby("origin", as_index=False)
    return grouped.agg(departures=("dep_delay", "size"), mean_delay=("dep_delay", "mean"))


def _rows(frame: pandas.DataFrame) -> list[list[Any]]:
    columns: Iterable[list[Any]] = (frame[name].tolist() for name in frame.columns)
    return [list(row) for row in zip(*columns, strict=True)]


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, float) and isinstance(theirs, float):
        return math.isclose(ours, theirs, rel_tol=_RELATIVE_ERROR)
    return bool(ours == theirs)
