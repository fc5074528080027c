"""What the official client 6.0.0 does with a dataframe beside its dtypes: the rest of observed.md 7.

The dtypes themselves are tests/interop/test_dataframe_lands.py, and by SQL test_dataframe_by_sql.py.  README.md here
lists page and tests row by row.
"""

from __future__ import annotations

import datetime as dt
import struct
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import questdb
from questdb import QuestDBError

from spoolq.qwp.decode import Dictionary, decode
from spoolq.server import QwpServer
from spoolq.values import Geohash


def write(server: QwpServer[Any], frame: Any, **options: Any) -> None:
    with questdb.Sender.from_conf(server.conf) as sender:
        sender.dataframe(frame, table_name="t", **{"at": questdb.ServerTimestamp, **options})


TEXTS = pa.table({"a": ["x"], "b": pa.array(["y"]).dictionary_encode()})
SYMBOLS: list[tuple[Any, list[str]]] = [
    (True, ["SYMBOL", "SYMBOL"]),
    (False, ["VARCHAR", "VARCHAR"]),
    (["a"], ["SYMBOL", "VARCHAR"]),
    ([1], ["VARCHAR", "SYMBOL"]),
    ("auto", ["VARCHAR", "SYMBOL"]),
]


@pytest.mark.parametrize(("symbols", "kinds"), SYMBOLS, ids=lambda value: str(value))
def test_7_symbols_overrides_what_the_type_says(symbols: Any, kinds: list[str]) -> None:
    with QwpServer() as server:
        write(server, TEXTS, symbols=symbols)
        assert [kind.name for kind in server.store.types("t").values()] == [*kinds, "TIMESTAMP"]
        assert server.store.rows("t")[0]["b"] == "y"


def test_7_a_geohash_goes_out_with_the_bits_above_its_precision() -> None:
    with QwpServer() as server:
        frame = pa.table({"v": pa.array([0b100001], pa.int32())})
        write(server, frame, schema_overrides={"v": ("geohash", 5)})
        message = next(record.messages[0] for record in server.connections if record.messages)
        assert next(column.values for column in decode(message, Dictionary()).tables[0].columns) == [0b100001]
        assert server.store.rows("t")[0]["v"] == Geohash(1, 5)


def test_7_nan_payloads_pass_unchanged() -> None:
    bits = struct.pack("<Q", 0x7FF0_0000_0000_0001)
    with QwpServer() as server:
        write(server, pd.DataFrame({"v": np.frombuffer(bits, "f8")}))
        assert bits in next(record.messages[0] for record in server.connections if record.messages)
        assert server.store.rows("t")[0]["v"] is None


@pytest.mark.parametrize("nbytes", [16, 32])
def test_7_fixed_binary_without_a_label_leaves_a_line_in_the_log(caplog: pytest.LogCaptureFixture, nbytes: int) -> None:
    with QwpServer() as server:
        write(server, pa.table({"v": pa.array([b"a" * nbytes], pa.binary(nbytes))}))
        assert server.store.types("t")["v"].name == "BINARY"
    assert [record.name for record in caplog.records if "fixed_size_binary" in record.getMessage()] == ["questdb"]


REFUSED: dict[str, tuple[Any, dict[str, Any]]] = {
    "list of float32": (pa.table({"v": pa.array([[1.0]], pa.list_(pa.float32()))}), {}),
    "ragged list": (pa.table({"v": pa.array([[[1.0], [1.0, 2.0]]])}), {}),
    "complex": (pd.DataFrame({"v": [1j]}), {}),
    "period": (pd.DataFrame({"v": pd.period_range("2020", periods=1, freq="D")}), {}),
    "mixed objects": (pd.DataFrame({"v": pd.Series([1, "x"], dtype=object)}), {}),
    "object bool with a null": (pd.DataFrame({"v": pd.Series([True, None], dtype=object)}), {}),
    "at: int64": (pa.table({"v": [1], "ts": [1]}), {"at": "ts"}),
    "at: a null": (pa.table({"v": [1, 2], "ts": pa.array([1, None], pa.timestamp("us"))}), {"at": "ts"}),
    "at: before 1970": (pa.table({"v": [1], "ts": pa.array([-1], pa.timestamp("us"))}), {"at": "ts"}),
    "at: TimestampMicros": (pa.table({"v": [1]}), {"at": questdb.TimestampMicros(7)}),
    "arrow: a with A": (pa.table({"a": [1], "A": [2]}), {}),
}


@pytest.mark.parametrize(("frame", "options"), REFUSED.values(), ids=REFUSED)
def test_7_refused_before_anything_is_sent(frame: Any, options: dict[str, Any]) -> None:
    with QwpServer() as server:
        with pytest.raises(QuestDBError):
            write(server, frame, **options)
        assert server.message_count == 0


AT_VALUES = {"TimestampNanos": questdb.TimestampNanos(7), "datetime": dt.datetime(1970, 1, 1, 0, 0, 1, tzinfo=dt.UTC)}


@pytest.mark.parametrize("name", AT_VALUES)
def test_7_one_time_for_all_rows_is_in_nanoseconds(name: str) -> None:
    with QwpServer() as server:
        write(server, pa.table({"v": [1, 2]}), at=AT_VALUES[name])
        assert server.store.types("t")["timestamp"].name == "TIMESTAMP_NANOS"
        expected = 7 if name == "TimestampNanos" else 1_000_000_000
        assert [row["timestamp"] for row in server.store.rows("t")] == [expected] * 2


SENT: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "nothing but None beside another column": (
        pd.DataFrame({"v": pd.Series([None], dtype=object), "w": [1]}),
        [{"w": 1}],
    ),
    "no rows": (pd.DataFrame({"v": pd.Series([], dtype="int64")}), []),
    "no rows, arrow": (pa.table({"v": pa.array([], pa.int64())}), []),
    "no columns but an index": (pd.DataFrame(index=[1, 2]), [{"__index_level_0__": 1}, {"__index_level_0__": 2}]),
}


@pytest.mark.parametrize(("frame", "rows"), SENT.values(), ids=SENT)
def test_7_what_is_sent_of_odd_frames(frame: Any, rows: list[dict[str, Any]]) -> None:
    with QwpServer(wall_nanos=lambda: 5_000) as server:
        write(server, frame)
        assert server.store.rows("t") == [{**row, "timestamp": 5} for row in rows]
        assert (server.message_count == 0) == (not rows)


LEFT_TO_THE_SERVER = {
    "pandas: a with A": pd.DataFrame([[1, 2]], columns=["a", "A"]),
    "3000 columns": pd.DataFrame([[1] * 3_000], columns=[f"c{n}" for n in range(3_000)]),
}


@pytest.mark.parametrize("frame", LEFT_TO_THE_SERVER.values(), ids=LEFT_TO_THE_SERVER)
def test_7_what_it_leaves_to_the_server_to_refuse(frame: Any) -> None:
    with QwpServer() as server:
        with pytest.raises(QuestDBError, match="status=0x05"):
            write(server, frame)
        assert server.message_count > 0
