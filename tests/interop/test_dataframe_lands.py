"""What the official client's ``dataframe()`` writes comes out of the strict server equal, by type and value.

Every dtype that it takes from pyarrow, polars and pandas (observed.md 7), the ones it refuses, the designated
column, overrides, and frames of many batches: deferred frames, checkpoints and the empty commit at the end.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import random
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import questdb

from spoolq.columns import ColumnType
from spoolq.server import MemoryStore
from spoolq.testing import QwpServer
from spoolq.values import Geohash
from tests.interop.landed import SERVER_NANOS, comparable

DAY_MILLIS = 86_400_000


@pytest.fixture(scope="module", autouse=True)
def polars_has_started() -> None:
    """Its first lazy frame opens descriptors that polars keeps; no test here is to answer for them."""
    with QwpServer() as running:
        write(running, pl.LazyFrame({"v": [1]}))


@pytest.fixture
def server() -> Iterator[QwpServer[MemoryStore]]:
    with QwpServer(wall_nanos=lambda: SERVER_NANOS) as running:
        yield running


def write(server: QwpServer[MemoryStore], frame: Any, **options: Any) -> None:
    options.setdefault("at", questdb.ServerTimestamp)
    with questdb.Sender.from_conf(server.conf) as sender:
        sender.dataframe(frame, table_name="t", **options)


def assert_column(server: QwpServer[MemoryStore], type_name: str, values: list[Any]) -> None:
    """Column ``v`` of the table, and the server's clock in each row."""
    assert server.store.types("t")["v"] is ColumnType[type_name]
    expected = [{"v": value, "timestamp": SERVER_NANOS // 1_000} for value in values]
    assert comparable(server.store.rows("t")) == comparable(expected)


D = Decimal
DECIMALS = [D("1.50"), None, D("-2.25")]
INTS = [1, None, 3]
TEXTS = ["a", None, "ß𝄞"]
BLOBS = [b"a", None, b""]
UUIDS = [uuid.UUID(int=5), None, uuid.UUID("11111111-2222-3333-4444-555555555555")]

ARROW: dict[str, tuple[pa.Array, str, list[Any]]] = {
    "bool": (pa.array([True, None, False]), "BOOLEAN", [True, False, False]),
    "int8": (pa.array([-128, None, 127], pa.int8()), "INT", [-128, None, 127]),
    "int16": (pa.array([-32768, None, 32767], pa.int16()), "INT", [-32768, None, 32767]),
    "uint8": (pa.array([0, None, 255], pa.uint8()), "INT", [0, None, 255]),
    "uint16": (pa.array([0, None, 65535], pa.uint16()), "INT", [0, None, 65535]),
    "int32": (pa.array([-(1 << 31), None, 5], pa.int32()), "LONG", [-(1 << 31), None, 5]),
    "uint32": (pa.array([0, None, (1 << 32) - 1], pa.uint32()), "LONG", [0, None, (1 << 32) - 1]),
    "int64": (pa.array([-(1 << 63), None, (1 << 63) - 1]), "LONG", [None, None, (1 << 63) - 1]),
    "uint64": (pa.array([0, None, (1 << 63) - 1], pa.uint64()), "LONG", [0, None, (1 << 63) - 1]),
    "float16": (pa.array([np.float16(1.5), None, np.float16(-0.0)], pa.float16()), "FLOAT", [1.5, None, -0.0]),
    "float32": (pa.array([1.5, None, float("inf")], pa.float32()), "FLOAT", [1.5, None, float("inf")]),
    "float64": (pa.array([5e-324, None, float("nan")]), "DOUBLE", [5e-324, None, None]),
    "string": (pa.array(TEXTS), "VARCHAR", TEXTS),
    "large_string": (pa.array(TEXTS, pa.large_string()), "VARCHAR", TEXTS),
    "string_view": (pa.array([*TEXTS, "x" * 40], pa.string_view()), "VARCHAR", [*TEXTS, "x" * 40]),
    "dictionary": (pa.array(TEXTS).dictionary_encode(), "SYMBOL", TEXTS),
    "dictionary of int8 to large_string": (
        pa.DictionaryArray.from_arrays(pa.array([1, None, 0], pa.int8()), pa.array(["ß𝄞", "a"], pa.large_string())),
        "SYMBOL",
        TEXTS,
    ),
    "binary": (pa.array(BLOBS), "BINARY", BLOBS),
    "large_binary": (pa.array(BLOBS, pa.large_binary()), "BINARY", BLOBS),
    "binary_view": (pa.array(BLOBS, pa.binary_view()), "BINARY", BLOBS),
    "fixed_size_binary 5": (pa.array([b"abcde", None, b"fghij"], pa.binary(5)), "BINARY", [b"abcde", None, b"fghij"]),
    "fixed_size_binary 16": (pa.array([b"a" * 16, None], pa.binary(16)), "BINARY", [b"a" * 16, None]),
    "fixed_size_binary 32": (pa.array([b"a" * 32, None], pa.binary(32)), "BINARY", [b"a" * 32, None]),
    "timestamp s": (pa.array([1, None, -3], pa.timestamp("s")), "TIMESTAMP", [1_000_000, None, -3_000_000]),
    "timestamp ms": (pa.array([1, None, -3], pa.timestamp("ms")), "DATE", [1, None, -3]),
    "timestamp us": (pa.array([1, None, -3], pa.timestamp("us")), "TIMESTAMP", [1, None, -3]),
    "timestamp ns": (pa.array([1, None, -3], pa.timestamp("ns")), "TIMESTAMP_NANOS", [1, None, -3]),
    "timestamp us with a zone": (pa.array([1, None], pa.timestamp("us", tz="Europe/Berlin")), "TIMESTAMP", [1, None]),
    "date32": (pa.array([1, None, -3], pa.date32()), "DATE", [DAY_MILLIS, None, -3 * DAY_MILLIS]),
    "date64": (pa.array([DAY_MILLIS, None, 0], pa.date64()), "DATE", [DAY_MILLIS, None, 0]),
    "time32 s": (pa.array(INTS, pa.time32("s")), "LONG", [1_000_000_000, None, 3_000_000_000]),
    "time32 ms": (pa.array(INTS, pa.time32("ms")), "LONG", [1_000_000, None, 3_000_000]),
    "time64 us": (pa.array(INTS, pa.time64("us")), "LONG", [1_000, None, 3_000]),
    "time64 ns": (pa.array(INTS, pa.time64("ns")), "LONG", INTS),
    "duration s": (pa.array(INTS, pa.duration("s")), "LONG", [1_000_000_000, None, 3_000_000_000]),
    "duration ms": (pa.array(INTS, pa.duration("ms")), "LONG", [1_000_000, None, 3_000_000]),
    "duration us": (pa.array(INTS, pa.duration("us")), "LONG", [1_000, None, 3_000]),
    "duration ns": (pa.array(INTS, pa.duration("ns")), "LONG", INTS),
    "decimal32": (pa.array(DECIMALS, pa.decimal32(5, 2)), "DECIMAL64", DECIMALS),
    "decimal64": (pa.array(DECIMALS, pa.decimal64(15, 2)), "DECIMAL64", DECIMALS),
    "decimal128": (pa.array(DECIMALS, pa.decimal128(38, 2)), "DECIMAL128", DECIMALS),
    "decimal256": (pa.array(DECIMALS, pa.decimal256(76, 2)), "DECIMAL256", DECIMALS),
    "list": (pa.array([[1.0], None, [2.0, 3.0], []]), "DOUBLE_ARRAY", [[1.0], None, [2.0, 3.0], []]),
    "large_list": (pa.array([[1.0], None], pa.large_list(pa.float64())), "DOUBLE_ARRAY", [[1.0], None]),
    "fixed_size_list": (pa.array([[1.0, 2.0], None], pa.list_(pa.float64(), 2)), "DOUBLE_ARRAY", [[1.0, 2.0], None]),
    "nested list": (pa.array([[[1.0, 2.0]], None, [[], []]]), "DOUBLE_ARRAY", [[[1.0, 2.0]], None, [[], []]]),
    "uuid": (pa.array([u and u.bytes for u in UUIDS], pa.uuid()), "UUID", UUIDS),
    "all null int64": (pa.nulls(3, pa.int64()), "LONG", [None] * 3),
    "all null string": (pa.nulls(3, pa.string()), "VARCHAR", [None] * 3),
    "all null decimal": (pa.nulls(3, pa.decimal128(10, 2)), "DECIMAL128", [None] * 3),
    "all null timestamp": (pa.nulls(3, pa.timestamp("us")), "TIMESTAMP", [None] * 3),
    "all null dictionary": (pa.nulls(3, pa.dictionary(pa.int32(), pa.string())), "SYMBOL", [None] * 3),
}  # fmt: skip


@pytest.mark.parametrize("name", ARROW)
def test_pyarrow_lands_equal(server: QwpServer[MemoryStore], name: str) -> None:
    array, type_name, values = ARROW[name]
    write(server, pa.table({"v": array}))
    assert_column(server, type_name, values)


@pytest.mark.parametrize("name", ARROW)
def test_sliced_and_chunked_pyarrow_lands_equal(server: QwpServer[MemoryStore], name: str) -> None:
    array, type_name, values = ARROW[name]
    chunked = pa.chunked_array([array, array.slice(1)])
    write(server, pa.table({"v": chunked}))
    assert_column(server, type_name, values + values[1:])


SECOND = dt.timedelta(seconds=1)
POLARS: dict[str, tuple[pl.Series, str, list[Any]]] = {
    "Boolean": (pl.Series([True, None, False]), "BOOLEAN", [True, False, False]),
    **{
        str(kind): (pl.Series(INTS, dtype=kind), type_name, INTS)
        for type_name, kinds in {
            "INT": (pl.Int8, pl.Int16, pl.UInt8, pl.UInt16),
            "LONG": (pl.Int32, pl.Int64, pl.UInt32, pl.UInt64),
        }.items()
        for kind in kinds
    },
    "Float32": (pl.Series([1.5, None], dtype=pl.Float32), "FLOAT", [1.5, None]),
    "Float64": (pl.Series([1.1, None, float("nan")]), "DOUBLE", [1.1, None, None]),
    "String": (pl.Series(TEXTS), "VARCHAR", TEXTS),
    "Categorical": (pl.Series(TEXTS, dtype=pl.Categorical), "SYMBOL", TEXTS),
    "Enum": (pl.Series(TEXTS, dtype=pl.Enum(["ß𝄞", "a"])), "SYMBOL", TEXTS),
    "Binary": (pl.Series(BLOBS), "BINARY", BLOBS),
    "Date": (pl.Series([dt.date(1970, 1, 2), None]), "DATE", [DAY_MILLIS, None]),
    "Datetime ms": (pl.Series(INTS).cast(pl.Datetime("ms")), "DATE", INTS),
    "Datetime us": (pl.Series(INTS).cast(pl.Datetime("us")), "TIMESTAMP", INTS),
    "Datetime ns": (pl.Series(INTS).cast(pl.Datetime("ns")), "TIMESTAMP_NANOS", INTS),
    "Datetime with a zone": (pl.Series(INTS).cast(pl.Datetime("us", "Asia/Tokyo")), "TIMESTAMP", INTS),
    "Time": (pl.Series([dt.time(0, 0, 1), None]), "LONG", [1_000_000_000, None]),
    "Duration": (pl.Series([SECOND, None, -SECOND]), "LONG", [1_000_000_000, None, -1_000_000_000]),
    "Decimal": (pl.Series(DECIMALS, dtype=pl.Decimal(20, 2)), "DECIMAL128", DECIMALS),
    "List": (pl.Series([[1.0], None, [2.0, 3.0]]), "DOUBLE_ARRAY", [[1.0], None, [2.0, 3.0]]),
    "Array": (pl.Series([[1.0, 2.0], None], dtype=pl.Array(pl.Float64, 2)), "DOUBLE_ARRAY", [[1.0, 2.0], None]),
}


@pytest.mark.parametrize("name", POLARS)
@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
def test_polars_lands_equal(server: QwpServer[MemoryStore], name: str, lazy: bool) -> None:
    series, type_name, values = POLARS[name]
    frame = pl.DataFrame({"v": series})
    write(server, frame.lazy() if lazy else frame)
    assert_column(server, type_name, values)


PANDAS: dict[str, tuple[pd.Series, str, list[Any]]] = {
    "bool": (pd.Series([True, False]), "BOOLEAN", [True, False]),
    **{
        kind: (pd.Series([1, 2, 3], dtype=kind), type_name, [1, 2, 3])
        for type_name, kinds in {
            "INT": ("int8", "int16", "uint8", "uint16"),
            "LONG": ("int32", "int64", "uint32", "uint64"),
        }.items()
        for kind in kinds
    },
    **{
        kind: (pd.Series(INTS, dtype=kind), "LONG", INTS)
        for kind in ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64")
    },
    "float32": (pd.Series([1.5, np.nan], dtype="float32"), "FLOAT", [1.5, None]),
    "float64": (pd.Series([1.1, np.nan, np.inf]), "DOUBLE", [1.1, None, np.inf]),
    "Float32": (pd.Series([1.5, None], dtype="Float32"), "DOUBLE", [1.5, None]),
    "Float64": (pd.Series([1.1, None], dtype="Float64"), "DOUBLE", [1.1, None]),
    "boolean": (pd.Series([True, False], dtype="boolean"), "BOOLEAN", [True, False]),
    "str": (pd.Series(TEXTS), "VARCHAR", TEXTS),
    "string": (pd.Series(TEXTS, dtype="string"), "VARCHAR", TEXTS),
    "category": (pd.Series(TEXTS, dtype="category"), "SYMBOL", TEXTS),
    "datetime64 s": (pd.Series(np.array([1, 2], "datetime64[s]")), "TIMESTAMP", [1_000_000, 2_000_000]),
    "datetime64 ms": (pd.Series(np.array([1, 2], "datetime64[ms]")), "TIMESTAMP", [1_000, 2_000]),
    "datetime64 us": (pd.Series(np.array([1, 2], "datetime64[us]")), "TIMESTAMP", [1, 2]),
    "datetime64 ns": (pd.Series(np.array([1, 2], "datetime64[ns]")), "TIMESTAMP_NANOS", [1, 2]),
    "datetime64 with NaT": (pd.Series(np.array([1, "NaT"], "datetime64[ns]")), "TIMESTAMP_NANOS", [1, None]),
    "datetime64 with a zone": (
        pd.Series(np.array([1, 2], "datetime64[ns]")).dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo"),
        "TIMESTAMP_NANOS",
        [1, 2],
    ),
    "object str": (pd.Series(TEXTS, dtype=object), "VARCHAR", TEXTS),
    "object int": (pd.Series(INTS, dtype=object), "LONG", INTS),
    "object float": (pd.Series([1.5, None], dtype=object), "DOUBLE", [1.5, None]),
    "object bool": (pd.Series([True, False], dtype=object), "BOOLEAN", [True, False]),
    "object bytes": (pd.Series(BLOBS, dtype=object), "BINARY", BLOBS),
    "object Decimal": (pd.Series([D("1.5"), None, D("-2.25")], dtype=object), "DECIMAL128", DECIMALS),
    "object UUID": (pd.Series(UUIDS, dtype=object), "UUID", UUIDS),
    "object IPv4Address": (
        pd.Series([ipaddress.IPv4Address("10.0.0.1"), None], dtype=object),
        "IPV4",
        [ipaddress.IPv4Address("10.0.0.1"), None],
    ),
    "object ndarray": (
        pd.Series([np.array([1.0]), None, np.array([2.0, 3.0])], dtype=object),
        "DOUBLE_ARRAY",
        [[1.0], None, [2.0, 3.0]],
    ),
    "ArrowDtype int32": (pd.Series(INTS, dtype=pd.ArrowDtype(pa.int32())), "LONG", INTS),
    "ArrowDtype string": (pd.Series(TEXTS, dtype=pd.ArrowDtype(pa.string())), "VARCHAR", TEXTS),
    "ArrowDtype decimal": (pd.Series(DECIMALS, dtype=pd.ArrowDtype(pa.decimal128(10, 2))), "DECIMAL128", DECIMALS),
}


@pytest.mark.parametrize("name", PANDAS)
def test_pandas_lands_equal(server: QwpServer[MemoryStore], name: str) -> None:
    series, type_name, values = PANDAS[name]
    write(server, pd.DataFrame({"v": series}))
    assert_column(server, type_name, values)


OVERRIDES: dict[str, tuple[Any, pa.Array, str, list[Any]]] = {
    "symbol": ("symbol", pa.array(TEXTS), "SYMBOL", TEXTS),
    "ipv4": ("ipv4", pa.array(INTS, pa.uint32()), "IPV4", [ipaddress.IPv4Address(1), None, ipaddress.IPv4Address(3)]),
    "char": ("char", pa.array([65, None, 0x65E5], pa.uint16()), "CHAR", ["A", None, "日"]),
    "uuid": ("uuid", pa.array([u and u.bytes for u in UUIDS], pa.binary(16)), "UUID", UUIDS),
    "long256": ("long256", pa.array([b"\1" + bytes(31), None], pa.binary(32)), "LONG256", [1, None]),
    "binary": ("binary", pa.array([b"a" * 16, None], pa.binary(16)), "BINARY", [b"a" * 16, None]),
    "geohash": (("geohash", 25), pa.array(INTS, pa.int32()), "GEOHASH", [Geohash(1, 25), None, Geohash(3, 25)]),
}


@pytest.mark.parametrize("name", OVERRIDES)
def test_overrides_land_equal(server: QwpServer[MemoryStore], name: str) -> None:
    override, array, type_name, values = OVERRIDES[name]
    write(server, pa.table({"v": array}), schema_overrides={"v": override})
    assert_column(server, type_name, values)


@pytest.mark.parametrize(
    ("claim", "kind", "type_name", "values"),
    [
        ("byte", pa.int8(), "BYTE", [1, 0, 3]),
        ("short", pa.int16(), "SHORT", [1, 0, 3]),
        ("int", pa.int32(), "INT", INTS),
        ("no such type", pa.int32(), "LONG", INTS),
    ],
)
def test_field_metadata_lands_equal(
    server: QwpServer[MemoryStore], claim: str, kind: pa.DataType, type_name: str, values: list[Any]
) -> None:
    field = pa.field("v", kind, metadata={"questdb.column_type": claim})
    write(server, pa.table([pa.array(INTS, kind)], schema=pa.schema([field])))
    assert_column(server, type_name, values)


@pytest.mark.parametrize(
    ("unit", "type_name", "factor"),
    [("s", "TIMESTAMP", 1_000_000), ("ms", "TIMESTAMP", 1_000), ("us", "TIMESTAMP", 1), ("ns", "TIMESTAMP_NANOS", 1)],
)
def test_the_designated_column_lands_equal(
    server: QwpServer[MemoryStore], unit: str, type_name: str, factor: int
) -> None:
    write(server, pa.table({"v": pa.array([1, 2]), "ts": pa.array([0, 1_000], pa.timestamp(unit))}), at="ts")
    assert server.store.types("t")["timestamp"] is ColumnType[type_name]
    assert [row["timestamp"] for row in server.store.rows("t")] == [0, 1_000 * factor]


REFUSED: dict[str, Any] = {
    "arrow null": pa.table({"v": pa.nulls(3)}),
    "arrow struct": pa.table({"v": pa.array([{"a": 1}])}),
    "arrow fixed_size_binary 8": pa.table({"v": pa.array([b"a" * 8], pa.binary(8))}),
    "arrow decimal of negative scale": pa.table({"v": pa.array([D(100)], pa.decimal128(10, -2))}),
    "arrow uint64 above int64": pa.table({"v": pa.array([1 << 63], pa.uint64())}),
    "arrow list of int64": pa.table({"v": pa.array([[1]])}),
    "arrow list with a null element": pa.table({"v": pa.array([[1.0, None]])}),
    "polars Int128": pl.DataFrame({"v": pl.Series([1], dtype=pl.Int128)}),
    "pandas float16": pd.DataFrame({"v": pd.Series([1], dtype="float16")}),
    "pandas timedelta": pd.DataFrame({"v": pd.to_timedelta([1])}),
    "pandas boolean with a null": pd.DataFrame({"v": pd.Series([True, None], dtype="boolean")}),
    "pandas date objects": pd.DataFrame({"v": [dt.date(2020, 1, 1)]}),
    "pandas nothing but None": pd.DataFrame({"v": pd.Series([None] * 3, dtype=object)}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_refuses_leaves_nothing(server: QwpServer[MemoryStore], name: str) -> None:
    with pytest.raises((questdb.QuestDBError, ValueError)):
        write(server, REFUSED[name])
    assert server.store.tables() == []


@pytest.mark.parametrize("kind", ["pyarrow", "polars", "pandas"])
@pytest.mark.parametrize("batch_rows", [16_384, 97])
def test_many_batches_land_equal(server: QwpServer[MemoryStore], kind: str, batch_rows: int) -> None:
    """Flags 08, 09, a checkpoint about every 101st frame, the empty commit at the end."""
    chance = random.Random(batch_rows)
    count = 20_000
    columns: dict[str, list[Any]] = {
        "sym": [f"symbol {chance.randrange(3_000)}" for _ in range(count)],
        "text": [chance.choice((None, "", "ß" * chance.randrange(20))) for _ in range(count)],
        "x": [chance.choice((None, chance.random())) for _ in range(count)],
        "n": list(range(count)),
        "flag": [chance.random() < 0.5 for _ in range(count)],
        "ts": list(range(count)),
    }
    table = pa.table(
        {
            **columns,
            "sym": pa.array(columns["sym"]).dictionary_encode(),
            "ts": pa.array(columns["ts"], pa.timestamp("us")),
        }
    )
    frame = {"pyarrow": lambda: table, "polars": lambda: pl.from_arrow(table), "pandas": table.to_pandas}[kind]()
    write(server, frame, at="ts", max_rows_per_batch=batch_rows)
    names = [name for name in columns if name != "ts"]
    found = server.store.rows("t")
    assert [row["timestamp"] for row in found] == columns["ts"]
    for name in names:
        assert [row[name] for row in found] == columns[name], name
