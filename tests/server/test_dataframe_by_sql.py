"""What the official client's ``dataframe()`` writes comes out of ``GET /exec`` equal: pyarrow, polars, pandas.

The frames and the values are those of tests/interop/test_dataframe_lands.py; here they go through SQL and JSON.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from decimal import Decimal
from ipaddress import IPv4Address
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import questdb

from spoolq.server import QwpServer
from spoolq.server.duck import DuckStore
from spoolq.values import Geohash
from tests.interop.test_dataframe_lands import ARROW, OVERRIDES, PANDAS, POLARS, polars_has_started

from .test_sql import dataset

__all__ = ["polars_has_started"]  # a fixture of that module, wanted here too


@pytest.fixture(scope="module")
def server() -> Iterator[QwpServer[DuckStore]]:
    """One database for all cases; each writes a table of its own."""
    store = DuckStore()
    with QwpServer(store=store) as running:
        dataset(running, "SELECT 1")  # starts the thread of queries, so that no test has to answer for it
        yield running
    store.close()


CASES: dict[str, tuple[Any, dict[str, Any], str, list[Any]]] = {
    **{f"pyarrow {name}": (pa.table({"v": a}), {}, kind, values) for name, (a, kind, values) in ARROW.items()},
    **{f"polars {name}": (pl.DataFrame({"v": s}), {}, kind, values) for name, (s, kind, values) in POLARS.items()},
    **{f"pandas {name}": (pd.DataFrame({"v": s}), {}, kind, values) for name, (s, kind, values) in PANDAS.items()},
    **{
        f"override {name}": (pa.table({"v": a}), {"schema_overrides": {"v": override}}, kind, values)
        for name, (override, a, kind, values) in OVERRIDES.items()
    },
}
UNITS = {"TIMESTAMP": "us", "TIMESTAMP_NANOS": "ns", "DATE": "ms"}


def in_json(kind: str, value: Any) -> Any:
    """How a value stands in QuestDB's JSON."""
    if value is None or isinstance(value, (bool, str, list)):
        return value
    if kind in UNITS:
        return str(np.datetime64(value, UNITS[kind])) + "Z"
    if kind == "LONG256":
        return hex(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Geohash):
        assert value.precision == 25
        return "0000" + "0123456789bcdefghjkmnpqrstuvwxyz"[value.bits]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, (Decimal, uuid.UUID, IPv4Address)) else value


@pytest.mark.parametrize("name", CASES)
def test_it_comes_out_equal(server: QwpServer[DuckStore], name: str) -> None:
    frame, options, kind, values = CASES[name]
    table = f"t{list(CASES).index(name)}"
    with questdb.Sender.from_conf(server.conf) as sender:
        sender.dataframe(frame, table_name=table, at=questdb.ServerTimestamp, **options)
    assert dataset(server, f"SELECT v FROM {table}") == [[in_json(kind, value)] for value in values]


CLAIMS = {"byte": [1, 0, 3], "short": [1, 0, 3], "int": [1, None, 3], "no such type": [1, None, 3]}


@pytest.mark.parametrize("claim", CLAIMS)
def test_the_claims_of_a_field_come_out_equal(server: QwpServer[DuckStore], claim: str) -> None:
    kind = {"byte": pa.int8(), "short": pa.int16()}.get(claim, pa.int32())
    field = pa.field("v", kind, metadata={"questdb.column_type": claim})
    frame = pa.table([pa.array([1, None, 3], kind)], schema=pa.schema([field]))
    table = f"claim_{claim.replace(' ', '_')}"
    with questdb.Sender.from_conf(server.conf) as sender:
        sender.dataframe(frame, table_name=table, at=questdb.ServerTimestamp)
    assert dataset(server, f"SELECT v FROM {table}") == [[value] for value in CLAIMS[claim]]


@pytest.mark.parametrize(
    ("unit", "kind", "factor"),
    [("s", "TIMESTAMP", 1_000_000), ("ms", "TIMESTAMP", 1_000), ("us", "TIMESTAMP", 1), ("ns", "TIMESTAMP_NANOS", 1)],
)
def test_the_designated_column_comes_out_equal(server: QwpServer[DuckStore], unit: str, kind: str, factor: int) -> None:
    frame = pa.table({"v": [1, 2], "ts": pa.array([0, 86_401], pa.timestamp(unit))})
    with questdb.Sender.from_conf(server.conf) as sender:
        sender.dataframe(frame, table_name=f"at_{unit}", at="ts")
    found = dataset(server, f"SELECT timestamp FROM at_{unit}")
    assert found == [[in_json(kind, value * factor)] for value in (0, 86_401)]


@pytest.mark.parametrize("kind", ["pyarrow", "polars", "pandas"])
def test_many_batches_are_all_there(server: QwpServer[DuckStore], kind: str) -> None:
    count = 50_000
    table = pa.table(
        {
            "s": pa.array([f"symbol {n % 300}" for n in range(count)]).dictionary_encode(),
            "v": pa.array(range(count)),
            "ts": pa.array(range(count), pa.timestamp("us")),
        }
    )
    frame = {"pyarrow": lambda: table, "polars": lambda: pl.from_arrow(table), "pandas": table.to_pandas}[kind]()
    with questdb.Sender.from_conf(server.conf) as sender:
        sender.dataframe(frame, table_name=f"many_{kind}", at="ts")
    sql = f"SELECT count(*), count(DISTINCT s), sum(v), count(DISTINCT timestamp) FROM many_{kind}"
    assert dataset(server, sql) == [[count, 300, count * (count - 1) // 2, count]]
    found = dataset(server, f"SELECT s, v FROM many_{kind} WHERE v IN (0, 49999) ORDER BY v")
    assert found == [["symbol 0", 0], ["symbol 199", 49_999]]
