"""What the memory store gives back: types, nulls, coercions, the designated timestamp, dedup, Arrow."""

from __future__ import annotations

import struct
from decimal import Decimal
from ipaddress import IPv4Address
from typing import Any
from uuid import UUID

import pytest

from spoolq.qwp.decode import ColumnType, Dictionary, WireFault, blocks
from spoolq.server import MemoryStore, QwpServer, ServerOptions
from spoolq.server.store import Batch
from spoolq.values import Geohash

from .raw_client import RawClient, block, longs, message
from .test_sql import every_type

NOW_NANOS = 1_700_000_000_123_456_789


def write(store: MemoryStore, payload: bytes) -> None:
    batch = Batch(store)
    for table in blocks(payload, Dictionary())[1]:
        batch.add(table, NOW_NANOS)
    batch.commit()


def rows(*payloads: bytes, **options: Any) -> list[dict[str, Any]]:
    store = MemoryStore()
    store.configure(ServerOptions(**options))
    for payload in payloads:
        write(store, payload)
    return store.rows("t")


def values(*columns: tuple[str, int, bytes], count: int = 1) -> bytes:
    return message(block("t", count, *columns))


def test_every_type_with_and_without_a_value() -> None:
    store = MemoryStore()
    write(store, every_type())
    value, null = store.rows("all")
    assert value == {
        "b": True,
        "i8": -5,
        "i16": -300,
        "i32": -70_000,
        "i64": -(1 << 62),
        "f32": 0.5,
        "f64": 0.1,
        "sym": "A",
        "ts": -1,
        "date": 1_700_000_000_123,
        "uuid": UUID("0f0e0d0c-0b0a-0908-0706-050403020100"),
        "l256": 1 << 255 | 3,
        "geo": Geohash.from_string("u33d8"),
        "vc": "é!",
        "tns": 1_700_000_000_123_456_789,
        "da": [[1.0, 2.0], [3.0, 4.0]],
        "d64": Decimal("-123.45"),
        "d256": Decimal("1000000000000000000000000000.000"),
        "c": "ß",
        "bin": b"\0\xff",
        "ip": IPv4Address("192.168.0.1"),
        "timestamp": 1,
    }
    assert null == dict.fromkeys(value) | {"b": False, "i8": 0, "i16": 0, "timestamp": 2}
    assert store.types("all")["d256"] is ColumnType.DECIMAL256


SENTINELS = {
    0x04: struct.pack("<i", -(1 << 31)),
    0x05: struct.pack("<q", -(1 << 63)),
    0x06: bytes.fromhex("0000c07f"),
    0x07: bytes.fromhex("010000000000f07f"),
    0x0A: struct.pack("<q", -(1 << 63)),
    0x0B: struct.pack("<q", -(1 << 63)),
    0x0C: struct.pack("<2q", -(1 << 63), -(1 << 63)),
    0x0D: struct.pack("<4q", *[-(1 << 63)] * 4),
    0x0E: b"\x08\xff",
    0x10: struct.pack("<q", -(1 << 63)),
    0x16: bytes(2),
    0x18: bytes(4),
}


@pytest.mark.parametrize("code", SENTINELS)
def test_a_sentinel_reads_as_null(code: int) -> None:
    assert rows(values(("v", code, b"\0" + SENTINELS[code])))[0]["v"] is None


@pytest.mark.parametrize("code", SENTINELS)
def test_a_sentinel_is_null_in_arrow(code: int) -> None:
    store = MemoryStore()
    ordinary = {0x0E: b"\1"}.get(code, bytes((1,)) + bytes(len(SENTINELS[code]) - 1))
    write(store, values(("v", code, b"\0" + SENTINELS[code] + ordinary), ("", 0x0A, longs(-(1 << 63), 1)), count=2))
    table = store.arrow("t")
    assert [value is None for value in table.column("v").to_pylist()] == [True, False]
    assert table.column("timestamp").null_count == 0  # the designated timestamp has no sentinel


def test_columns_that_come_later_and_rows_that_lack_them() -> None:
    found = rows(
        values(("a", 5, longs(1)), ("", 0x0A, longs(1))),
        values(("b", 1, b"\0\1"), ("", 0x0A, longs(2))),
        values(("A", 5, longs(3)), ("", 0x0A, longs(3))),
    )
    assert found == [
        {"a": 1, "timestamp": 1, "b": False},
        {"a": None, "timestamp": 2, "b": True},
        {"a": 3, "timestamp": 3, "b": False},
    ]


class TestDesignatedTimestamp:
    def test_absent_or_null_it_is_the_servers_clock(self) -> None:
        micros = NOW_NANOS // 1_000
        found = rows(
            values(("v", 5, longs(1, 2)), count=2),
            values(("v", 5, longs(3, 4)), ("", 0x0A, b"\1\1" + struct.pack("<q", 7)), count=2),
        )
        assert [row["timestamp"] for row in found] == [micros, micros, micros, 7]

    def test_the_first_unit_stays(self) -> None:
        nanos, micros = ("", 0x10, longs(-1_999)), ("", 0x0A, longs(5))
        assert [row["timestamp"] for row in rows(values(nanos), values(micros))] == [-1_999, 5_000]
        assert [row["timestamp"] for row in rows(values(micros), values(nanos))] == [5, -1]  # toward zero

    def test_a_nanos_table_takes_the_clock_in_nanos(self) -> None:
        found = rows(values(("", 0x10, longs(1))), values(("v", 5, longs(1))))
        assert found[1]["timestamp"] == NOW_NANOS

    def test_by_its_real_name(self) -> None:
        found = rows(values(("", 0x0A, longs(1))), values(("TimeStamp", 0x10, longs(2_000))))
        assert [row["timestamp"] for row in found] == [1, 2]

    def test_another_name_by_option(self) -> None:
        payload = values(("", 0x0A, longs(1)), ("timestamp", 0x05, longs(9)))
        assert rows(payload, timestamp_name="time_hour") == [{"timestamp": 9, "time_hour": 1}]


def varchars(text: str) -> bytes:
    return b"\0" + struct.pack("<2I", 0, len(text)) + text.encode()


def symbol(text: str) -> bytes:
    return b"\0" + varchars(text)[1:]


# first column, second column, what the second row has
COERCED = {
    "SHORT into LONG": ((0x05, longs(1)), (0x03, b"\0" + struct.pack("<h", -2)), -2),
    "LONG into BYTE": ((0x02, b"\0\1"), (0x05, longs(-128)), -128),
    "LONG into DOUBLE": ((0x07, b"\0" + bytes(8)), (0x05, longs(3)), 3.0),
    "null LONG into DOUBLE": ((0x07, b"\0" + bytes(8)), (0x05, longs(-(1 << 63))), None),
    "FLOAT into DOUBLE": ((0x07, b"\0" + bytes(8)), (0x06, b"\0" + struct.pack("<f", 0.5)), 0.5),
    "DOUBLE into FLOAT": ((0x06, b"\0" + bytes(4)), (0x07, b"\0" + struct.pack("<d", 0.1)), 0.10000000149011612),
    "TIMESTAMP_NANOS into TIMESTAMP": ((0x0A, longs(1)), (0x10, longs(-1_999)), -1),
    "TIMESTAMP into TIMESTAMP_NANOS": ((0x10, longs(1)), (0x0A, longs(2)), 2_000),
    "DECIMAL64 into DECIMAL256": (
        (0x15, b"\0\0" + bytes(32)),
        (0x13, b"\0\2" + struct.pack("<q", 5)),
        Decimal("0.05"),
    ),
}


@pytest.mark.parametrize(("first", "second", "value"), COERCED.values(), ids=COERCED)
def test_coercions(first: tuple[int, bytes], second: tuple[int, bytes], value: Any) -> None:
    found = rows(values(("v", *first)), values(("v", *second)))
    assert found[1]["v"] == value
    assert type(found[1]["v"]) is type(value)


def test_symbols_and_texts_into_each_other() -> None:
    one = message(block("t", 1, ("v", 0x09, b"\0\0")), dictionary=(0, ["sym"]))
    two = values(("v", 0x0F, varchars("text")))
    assert [row["v"] for row in rows(one, two)] == ["sym", "text"]
    assert [row["v"] for row in rows(two, one)] == ["text", "sym"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((0x02, b"\0\1"), (0x05, longs(128))),
        ((0x04, b"\0" + bytes(4)), (0x05, longs(1 << 31))),
        ((0x06, b"\0" + bytes(4)), (0x07, b"\0" + struct.pack("<d", 1e300))),
        ((0x13, b"\0\0" + bytes(8)), (0x15, b"\0\0" + (1 << 63).to_bytes(32, "little"))),
    ],
)
def test_a_value_that_does_not_fit_is_a_mismatch(first: tuple[int, bytes], second: tuple[int, bytes]) -> None:
    with pytest.raises(WireFault) as caught:
        rows(values(("v", *first)), values(("v", *second)))
    assert caught.value.status == 0x03


def test_dedup_keys() -> None:
    store = MemoryStore()
    store.configure(ServerOptions(dedup_keys={"t": ("K",)}))
    for key, value, stamp in ((1, 10, 1), (2, 20, 1), (1, 11, 1), (1, 12, 2)):
        write(store, values(("k", 5, longs(key)), ("v", 5, longs(value)), ("", 0x0A, longs(stamp))))
    assert [(row["k"], row["v"], row["timestamp"]) for row in store.rows("t")] == [(1, 11, 1), (2, 20, 1), (1, 12, 2)]
    assert store.count("t") == 3


def test_arrow_out() -> None:
    import pyarrow as pa

    store = MemoryStore()
    write(store, every_type())
    write(store, message(block("all", 1, ("late", 0x01, b"\0\1"), ("", 0x10, longs(3)))))
    table = store.arrow("all")
    assert table.num_rows == 3
    found = table.to_pydict()
    assert found["i64"] == [-(1 << 62), None, None]
    assert found["late"] == [False, False, True]
    assert found["sym"] == ["A", None, None]
    assert found["d256"][0] == Decimal("1000000000000000000000000000.000")
    assert found["da"] == [[[1.0, 2.0], [3.0, 4.0]], None, None]
    assert found["geo"][0] == "u33d8"
    assert table.schema.field("timestamp").type == pa.timestamp("ns")
    assert table.column("timestamp").cast(pa.int64()).to_pylist() == [1, 2, 3]


def test_a_table_that_is_not_there() -> None:
    store = MemoryStore()
    assert (store.rows("t"), store.count("t"), store.tables()) == ([], 0, [])
    with pytest.raises(KeyError):
        store.types("t")
    write(store, values(("v", 5, longs(1))))
    store.clear()
    assert store.rows("t") == []


def test_a_full_store_refuses_and_may_be_emptied() -> None:
    with QwpServer(store=MemoryStore(rows_max=3), latched=False) as server, RawClient(server.port) as client:
        client.upgrade()
        two = values(("v", 5, longs(1, 2)), count=2)
        for payload, status in ((two, 0), (two, 9), (values(("v", 5, longs(3))), 0), (values(("v", 5, longs(4))), 9)):
            client.message(payload)
            assert client.answer()[0] == status
        assert server.store.count("t") == 3
        server.store.clear()
        client.message(two)
        assert client.answer()[0] == 0
        assert server.store.count("t") == 2
