"""The DuckDB store and ``GET /exec``."""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from spoolq.errors import ConfigError
from spoolq.server import QwpServer
from spoolq.server.duck import DuckStore
from spoolq.server.handshake import Request
from spoolq.server.http_side import HttpSide, QueryError, Result, Rows
from spoolq.server.sql_values import type_name

from .raw_client import BINARY, DEFER, DELTA, RawClient, block, error_of, frame, longs, message, ok, one_row
from .test_life import get


def ask(server: QwpServer[Any], sql: str) -> tuple[int, dict[str, Any]]:
    status, headers, body = get(server.port, "/exec?" + urlencode({"query": sql}))
    assert headers["Content-Type"].startswith("application/json")
    return status, json.loads(body)


def dataset(server: QwpServer[Any], sql: str) -> list[list[Any]]:
    status, found = ask(server, sql)
    assert status == 200, found
    return found["dataset"]


@pytest.fixture
def store() -> Any:
    store = DuckStore()
    yield store
    store.close()


@pytest.fixture
def server(store: DuckStore) -> Any:
    with QwpServer(store=store, latched=False) as server:
        yield server


def write(server: QwpServer[Any], *payloads: bytes) -> None:
    with RawClient(server.port) as client:
        client.upgrade()
        for payload in payloads:
            client.message(payload)
            assert client.answer()[0] == 0


def test_the_shape_of_an_answer(server: QwpServer[Any]) -> None:
    write(server, one_row(value=7, stamp=1_700_000_000_000_001))
    sql = "SELECT v, timestamp FROM t"
    assert ask(server, sql) == (
        200,
        {
            "query": sql,
            "columns": [{"name": "v", "type": "LONG"}, {"name": "timestamp", "type": "TIMESTAMP"}],
            "timestamp": 1,
            "dataset": [[7, "2023-11-14T22:13:20.000001Z"]],
            "count": 1,
        },
    )


def test_rows_are_there_when_their_ok_is(server: QwpServer[Any]) -> None:
    with RawClient(server.port) as client:
        client.upgrade()
        for number in range(5):
            client.message(one_row(value=number))
            assert client.answer() == ok(number, ("t", number + 1))
            assert dataset(server, "SELECT count() FROM t") == [[number + 1]]


def test_deferred_rows_are_not_there(server: QwpServer[Any]) -> None:
    with RawClient(server.port) as client:
        client.upgrade()
        client.message(one_row(flags=DELTA | DEFER))
        assert client.ping() == []
        assert dataset(server, "SELECT * FROM t") == []
        client.message(one_row())
        assert client.answer() == ok(1, ("t", 1))
        assert dataset(server, "SELECT count(*) FROM t") == [[2]]


def every_type() -> bytes:
    """Two rows: a value of each type, and a NULL of each type that has one."""
    null = b"\1\2"  # bitmap: the second of two
    columns = [
        ("b", 0x01, null + b"\1"),
        ("i8", 0x02, null + b"\xfb"),
        ("i16", 0x03, null + struct.pack("<h", -300)),
        ("i32", 0x04, null + struct.pack("<i", -70_000)),
        ("i64", 0x05, null + struct.pack("<q", -(1 << 62))),
        ("f32", 0x06, null + struct.pack("<f", 0.5)),
        ("f64", 0x07, null + struct.pack("<d", 0.1)),
        ("sym", 0x09, null + b"\0"),
        ("ts", 0x0A, null + struct.pack("<q", -1)),
        ("date", 0x0B, null + struct.pack("<q", 1_700_000_000_123)),
        ("uuid", 0x0C, null + bytes(range(16))),
        ("l256", 0x0D, null + (1 << 255 | 3).to_bytes(32, "little")),
        ("geo", 0x0E, null + b"\x19" + b"\x88\x8d\xa1\x01"),
        ("vc", 0x0F, null + struct.pack("<2I", 0, 3) + "é!".encode()),
        ("tns", 0x10, null + struct.pack("<q", 1_700_000_000_123_456_789)),
        ("da", 0x11, null + b"\2" + struct.pack("<2i", 2, 2) + struct.pack("<4d", 1, 2, 3, 4)),
        ("d64", 0x13, null + b"\2" + struct.pack("<q", -12345)),
        ("d256", 0x15, null + b"\3" + (10**30).to_bytes(32, "little")),
        ("c", 0x16, null + struct.pack("<H", ord("ß"))),
        ("bin", 0x17, null + struct.pack("<2I", 0, 2) + b"\0\xff"),
        ("ip", 0x18, null + struct.pack("<I", 0xC0A80001)),
        ("", 0x10, b"\0" + struct.pack("<2q", 1, 2)),
    ]
    return message(block("all", 2, *columns), dictionary=(0, ["A"]))


def test_every_type_comes_back(server: QwpServer[Any]) -> None:
    write(server, every_type())
    status, found = ask(server, 'SELECT * FROM "all"')
    assert status == 200
    kinds = {column["name"]: column["type"] for column in found["columns"]}
    value, null = (dict(zip(kinds, row, strict=True)) for row in found["dataset"])
    assert value == {
        "b": True,
        "i8": -5,
        "i16": -300,
        "i32": -70_000,
        "i64": -(1 << 62),
        "f32": 0.5,
        "f64": 0.1,
        "sym": "A",
        "ts": "1969-12-31T23:59:59.999999Z",
        "date": "2023-11-14T22:13:20.123Z",
        "uuid": "0f0e0d0c-0b0a-0908-0706-050403020100",
        "l256": hex(1 << 255 | 3),
        "geo": "u33d8",
        "vc": "é!",
        "tns": "2023-11-14T22:13:20.123456789Z",
        "da": [[1.0, 2.0], [3.0, 4.0]],
        "d64": "-123.45",
        "d256": "1000000000000000000000000000.000",
        "c": "ß",
        "bin": "00ff",
        "ip": "192.168.0.1",
        "timestamp": "1970-01-01T00:00:00.000000001Z",
    }
    no_null = {"b": False, "i8": 0, "i16": 0}
    assert null == {name: no_null.get(name) for name in kinds} | {"timestamp": "1970-01-01T00:00:00.000000002Z"}
    expected = {"i8": "BYTE", "i32": "INT", "i64": "LONG", "ts": "TIMESTAMP", "tns": "TIMESTAMP_NS", "date": "DATE"}
    expected |= {"b": "BOOLEAN", "da": "DOUBLE[][]", "uuid": "UUID", "bin": "BINARY", "d64": "DECIMAL(38,2)"}
    assert {name: kinds[name] for name in expected} == expected


def test_columns_that_come_later(server: QwpServer[Any]) -> None:
    first = message(block("t", 1, ("a", 5, longs(1)), ("", 0x0A, longs(1))))
    second = message(block("t", 1, ("A", 5, longs(2)), ("b", 1, b"\0\1"), ("", 0x0A, longs(2))))
    write(server, first, second)
    assert dataset(server, "SELECT a, b FROM t ORDER BY timestamp") == [[1, False], [2, True]]


def test_several_messages_are_one_transaction_and_keep_their_order(server: QwpServer[Any]) -> None:
    with RawClient(server.port) as client:
        client.upgrade()
        from .test_acks import burst

        client.send(burst(*(one_row(value=n) for n in range(7))))
        assert client.answer() == ok(6, ("t", 7))
    assert dataset(server, "SELECT v FROM t") == [[n] for n in range(7)]


REFUSED = [
    "",
    "SELEC",
    "SELECT * FROM nothing",
    "SELECT 1; SELECT 2",
    "DROP TABLE t",
    "INSERT INTO t VALUES (1, '2020-01-01')",
    "COPY t TO 'x.csv'",
    "SET threads = 1",
    "ATTACH 'x.duck'",
    "SELECT * FROM read_csv('/etc/hostname')",
    "SELECT * FROM store",
    "CHECKPOINT",
]


@pytest.mark.parametrize("sql", REFUSED)
def test_what_a_query_may_not(server: QwpServer[Any], sql: str) -> None:
    write(server, one_row())
    status, found = ask(server, sql)
    assert status == 400
    assert found["query"] == sql
    assert found["error"]
    assert found["position"] == 0
    assert dataset(server, "SELECT count(*) FROM t") == [[1]]


def test_a_file_survives_a_restart(tmp_path: Path) -> None:
    path = str(tmp_path / "rows.duck")
    for turn in range(3):
        store = DuckStore(path)
        with QwpServer(store=store) as server:
            with RawClient(server.port) as client:
                client.upgrade()
                name = "v" if turn == 0 else f"v{turn}"
                client.message(message(block("t", 1, (name, 5, longs(turn)), ("", 0x0A, longs(turn)))))
                assert client.answer() == ok(0, ("t", [1, 3, 5][turn]))
            assert dataset(server, "SELECT count(*) FROM t") == [[turn + 1]]
        store.close()
    store = DuckStore(path)
    with QwpServer(store=store) as server:
        assert dataset(server, "SELECT v, v1, v2 FROM t ORDER BY timestamp") == [
            [0, None, None],
            [None, 1, None],
            [None, None, 2],
        ]
        with RawClient(server.port) as client:  # the type is remembered too
            client.upgrade()
            client.message(message(block("t", 1, ("v", 0x0F, b"\0" + struct.pack("<2I", 0, 1) + b"x"))))
            assert error_of(client.answer())[:2] == (0x03, 0)
    store.close()


def test_dedup_keeps_the_last_row_of_equal_keys(store: DuckStore) -> None:
    def row(key: int, value: int, stamp: int) -> tuple[bytes, ...]:
        return (message(block("t", 1, ("k", 5, longs(key)), ("v", 5, longs(value)), ("", 0x0A, longs(stamp)))),)

    both = block("t", 2, ("k", 5, longs(1, 1)), ("v", 5, longs(13, 14)), ("", 0x0A, longs(2, 2)))
    with QwpServer(store=store, dedup_keys={"t": ("k",)}) as server:
        write(server, *row(1, 10, 1), *row(2, 11, 1), *row(1, 12, 1), message(both))
        assert dataset(server, "SELECT k, v FROM t ORDER BY timestamp, k") == [[1, 12], [2, 11], [1, 14]]


def decimal(scale: int, value: int) -> bytes:
    """A row with a DECIMAL256 ``d``."""
    data = b"\0" + bytes((scale,)) + value.to_bytes(32, "little", signed=True)
    return message(block("t", 1, ("d", 0x15, data), ("", 0x0A, longs(1))))


def test_a_dedup_key_that_no_row_has_yet_is_null_in_all(store: DuckStore) -> None:
    with QwpServer(store=store, dedup_keys={"t": ("v", "w")}) as server:
        write(server, one_row(value=1), one_row(value=1), one_row(value=2))
        assert dataset(server, "SELECT v FROM t ORDER BY v") == [[1], [2]]
        write(server, message(block("t", 1, ("v", 5, longs(1)), ("w", 5, longs(9)), ("", 0x0A, longs(1_000_000)))))
        write(server, one_row(value=1))
        assert dataset(server, "SELECT v, w FROM t ORDER BY v, w") == [[1, 9], [1, None], [2, None]]


@pytest.mark.parametrize("name", ["spoolq_staged", "spoolq_number", "spoolq", "sqlite_master", "main"])
def test_no_name_is_taken_by_the_store_itself(store: DuckStore, name: str) -> None:
    def row(value: int) -> bytes:
        return block(name, 1, (name, 5, longs(value)), ("k", 5, longs(1)), ("", 0x0A, longs(1)))

    with QwpServer(store=store, dedup_keys={name: ("k",)}) as server:
        write(server, message(row(9), row(7)))
        assert dataset(server, f'SELECT "{name}" FROM "{name}"') == [[7]]


def test_a_decimal_that_does_not_fit_is_refused(server: QwpServer[Any]) -> None:
    with RawClient(server.port) as client:
        client.upgrade()
        client.message(decimal(2, 150))
        assert client.answer()[0] == 0
        client.message(decimal(3, 1_500))  # 1.500 is 1.50
        assert client.answer()[0] == 0
        client.message(decimal(3, 1_501))
        assert error_of(client.answer())[0] == 0x03
    assert dataset(server, "SELECT d, d + 1 FROM t") == [["1.50", "2.50"]] * 2


@pytest.mark.parametrize("at_once", [False, True])
def test_a_decimal_of_more_than_38_digits_makes_its_column_text(tmp_path: Path, at_once: bool) -> None:
    """DuckDB's numbers end there.  Rows of before, staged or written, keep their values; so does a restart."""
    path = str(tmp_path / "rows.duck")
    store = DuckStore(path)
    with QwpServer(store=store) as server, RawClient(server.port) as client:
        client.upgrade()
        payloads = [decimal(2, 150), decimal(2, 10**38 - 1), decimal(2, -(10**38)), decimal(2, 0)]
        if at_once:
            client.send(b"".join(frame(BINARY, payload) for payload in payloads))
            assert client.answer() == ok(3, ("t", 4))
        else:
            for payload in payloads:
                client.message(payload)
                assert client.answer()[0] == 0
        nines, zeros = "9" * 36 + ".99", "-1" + "0" * 36 + ".00"
        assert dataset(server, "SELECT d FROM t") == [["1.50"], [nines], [zeros], ["0.00"]]
    store.close()
    store = DuckStore(path)
    with QwpServer(store=store) as server:
        write(server, decimal(2, 10**75))
        assert dataset(server, "SELECT d FROM t")[-1] == ["1" + "0" * 73 + ".00"]
    store.close()


def test_a_decimal_of_more_than_38_digits_behind_the_point(server: QwpServer[Any]) -> None:
    write(server, decimal(50, 15 * 10**49), decimal(50, 1))
    assert dataset(server, "SELECT d FROM t") == [["1.5" + "0" * 49], ["0." + "0" * 49 + "1"]]


def test_tables_that_differ_by_case_only_are_one_as_in_questdb(store: DuckStore) -> None:
    with QwpServer(store=store, dedup_keys={"T": ("v",)}) as server:
        write(server, one_row("Täglich", 1), one_row("täglich", 2), one_row("t", 3), one_row("T", 3), one_row("T", 4))
        assert store.tables() == ["Täglich", "t"]
        assert (store.count("TÄGLICH"), store.count("T")) == (2, 2)  # of t one row for each v
        assert dataset(server, "SELECT v FROM Täglich ORDER BY v") == [[1], [2]]


LIMITS = [
    ("3", [0, 1, 2]),
    ("0", []),
    ("99", list(range(10))),
    ("2,4", [1, 2, 3]),
    ("10,10", [9]),
    ("0,2", [0, 1]),
    ("4,2", []),
    ("11,20", []),
]


@pytest.mark.parametrize(("limit", "found"), LIMITS)
def test_limit_gives_so_many_rows_or_from_one_to_another(server: QwpServer[Any], limit: str, found: list[int]) -> None:
    write(server, message(block("t", 10, ("v", 5, longs(*range(10))), ("", 0x0A, longs(*range(10))))))
    query = urlencode({"query": "SELECT v FROM t ORDER BY v", "limit": limit})
    body = json.loads(get(server.port, f"/exec?{query}")[2])
    assert [row[0] for row in body["dataset"]] == found
    assert body["count"] == len(found)


@pytest.mark.parametrize("limit", ["x", "-1", "1,2,3", "1,", "9" * 30])
def test_a_limit_that_is_none(server: QwpServer[Any], limit: str) -> None:
    status, _, body = get(server.port, "/exec?" + urlencode({"query": "SELECT 1", "limit": limit}))
    assert status == 400
    assert "limit" in json.loads(body)["error"]


def test_a_store_that_cannot_write_answers_06_and_no_ok(store: DuckStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise store._duckdb.IOException("disk full")

    with QwpServer(store=store) as server, RawClient(server.port) as client:
        client.upgrade()
        client.message(one_row())
        assert client.answer() == ok(0, ("t", 1))
        monkeypatch.setattr(DuckStore, "_write", fail)
        client.message(one_row())
        assert error_of(client.answer()) == (0x06, 1, "the rows could not be written: disk full")
        client.message(one_row())
        assert client.ping() == []
        monkeypatch.undo()
        assert dataset(server, "SELECT count(*) FROM t") == [[1]]


def test_a_store_that_cannot_write_says_why(store: DuckStore) -> None:
    """The table is another than it was: what DuckDB says of that is told, not what came of it."""
    with QwpServer(store=store) as server, RawClient(server.port) as client:
        write(server, one_row())
        store._database.execute("ALTER TABLE t DROP COLUMN v")
        client.upgrade()
        client.message(one_row())
        status, _, text = error_of(client.answer())
        assert status == 0x06
        assert 'does not have a column with name "v"' in text


def test_a_query_that_meets_a_store_that_cannot_write_says_so(
    store: DuckStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise store._duckdb.IOException("disk full")

    with QwpServer(store=store, uncommitted_rows_max=0) as server, RawClient(server.port) as client:
        client.upgrade()
        waits = block("u", 0, ("v", 5, longs()))
        client.message(message(block("t", 1, ("v", 5, longs(1))), waits, flags=DELTA | DEFER))
        assert client.ping() == []
        monkeypatch.setattr(DuckStore, "_write", fail)
        assert ask(server, "SELECT 1")[1]["error"] == "the rows could not be written: disk full"
        monkeypatch.undo()
        client.message(bytes.fromhex("515750310100000000000000"))  # ends the group, whose rows are lost
        assert error_of(client.answer())[:2] == (0x06, 0)


def test_stopping_ends_a_query_that_runs_for_ever(store: DuckStore) -> None:
    sql = "SELECT count(*) FROM range(1000000000) a, range(1000000000) b"
    with QwpServer(store=store) as server, RawClient(server.port) as client:
        client.request({"Host": "x"}, "/exec?" + urlencode({"query": sql}))
        server.wait_for(lambda: server.connections[0].target)
        with RawClient(server.port) as other:  # others are served meanwhile
            other.upgrade()
            other.message(one_row())
            assert other.answer() == ok(0, ("t", 1))


class Endless:
    """A store whose query ends when it is interrupted, and not before."""

    def __init__(self) -> None:
        self.interrupted = threading.Event()

    def query(self, sql: str, rows: Rows = None) -> Result:
        if sql == "SELECT 1":
            return Result([("1", "INT")], [[1]])
        assert self.interrupted.wait(60)
        raise QueryError("INTERRUPT Error: Interrupted!")

    def interrupt(self) -> None:
        self.interrupted.set()


def test_a_query_that_runs_for_ever_is_ended_and_the_next_one_is_answered() -> None:
    """Who asked for it may be gone: that looks like a client that waits."""
    side = HttpSide(Endless(), dict, query_timeout_millis=1)

    def body(sql: str) -> dict[str, Any]:
        answer = side.execute(Request("GET", "/exec?" + urlencode({"query": sql}), ()))
        found: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
        return found

    assert body("SELECT 2")["error"] == "the query took more than 1 ms (query_timeout_millis)"
    assert body("SELECT 1")["dataset"] == [[1]]


def test_a_client_that_has_said_everything_still_gets_its_answer(server: QwpServer[Any]) -> None:
    """Its FIN comes while the query is under way, and the answer is larger than what a socket takes at once."""
    sql = "SELECT repeat('x', 100) FROM range(50000)"
    with RawClient(server.port) as client:
        client.request({"Host": "x"}, "/exec?" + urlencode({"query": sql}))
        client.socket.shutdown(socket.SHUT_WR)
        status, headers = client.response()
        assert status == 200
        assert len(client.read_to_end()) == int(headers["content-length"])


def test_without_duckdb_the_text_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(ConfigError, match=r"pip install 'spoolq\[sql\]'"):
        DuckStore()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "x.duck"
    path.write_bytes(b"hello" * 1_000)
    with pytest.raises(ConfigError, match=r"x\.duck"):
        DuckStore(str(path))


@pytest.mark.parametrize(
    ("duck", "name"),
    [("HUGEINT", "LONG"), ("DOUBLE[]", "DOUBLE[]"), ("DECIMAL(10,2)", "DECIMAL(10,2)"), ("INTERVAL", "VARCHAR")],
)
def test_names_of_types(duck: str, name: str) -> None:
    assert type_name(duck) == name
