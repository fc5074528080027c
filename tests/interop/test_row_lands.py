"""What a client writes by ``row()`` comes out of the strict server's store equal, by value.

The official client is the peer that proves the server and the decoder; ours goes the same way, by `spoolq.Sender`
over a socket.  Every type with its extremes first, then made cases: several tables and flushes, late columns,
nulls, mixed ServerTimestamp.
"""

from __future__ import annotations

import ipaddress
import math
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import questdb
from hypothesis import HealthCheck, Phase, given, settings

import spoolq
from spoolq.server import MemoryStore
from spoolq.testing import QwpServer
from spoolq.values import (
    Char,
    DateMillis,
    Geohash,
    Long256,
    ServerTimestamp,
    TimestampMicros,
    TimestampNanos,
)
from tests.interop.cases import Case, cases
from tests.interop.landed import (
    INT64_MIN,
    NULL_LONG256,
    NULL_UUID,
    SERVER_NANOS,
    comparable,
    expected_rows,
    landed_rows,
)
from tests.interop.peer import NO_AUTO_FLUSH, Batches, Row, translated

CLIENTS = ("questdb", "spoolq")
INT64_MAX = -INT64_MIN - 1

pytestmark = [
    pytest.mark.filterwarnings("ignore:a naive datetime counts as UTC"),
    pytest.mark.filterwarnings("ignore:Naive datetime interpreted as UTC"),
]


@pytest.fixture
def server() -> Iterator[QwpServer[MemoryStore]]:
    with QwpServer(wall_nanos=lambda: SERVER_NANOS) as running:
        yield running


def write(client: str, server: QwpServer[MemoryStore], batches: Batches) -> None:
    """The batches by ``row()``, a flush behind each; returns when all is acknowledged."""
    conf, official = server.conf + NO_AUTO_FLUSH, client == "questdb"
    opened: AbstractContextManager[Any] = (questdb if official else spoolq).Sender.from_conf(conf)
    with opened as sender:
        for batch in batches:
            for row in batch:
                columns = {name: translated(value) if official else value for name, value in row.columns.items()}
                at = translated(row.at) if official else row.at
                sender.row(row.table, symbols=dict(row.symbols), columns=columns, at=at)
            sender.flush()


def assert_lands(client: str, server: QwpServer[MemoryStore], batches: Batches) -> None:
    write(client, server, batches)
    tables = list(dict.fromkeys(row.table for batch in batches for row in batch))
    assert server.store.tables() == tables
    for table in tables:
        assert comparable(landed_rows(server.store, table)) == comparable(expected_rows(batches, table))


TYPES: dict[str, list[Any]] = {
    "bool": [True, False, None],
    "int": [0, 1, -1, INT64_MAX, INT64_MIN + 1, INT64_MIN, None],
    "float": [0.0, -0.0, 1.5, math.inf, -math.inf, 5e-324, 1.7976931348623157e308, math.nan, None],
    "str": ["", "a", "ß𝄞日本", "\0", "x" * 70_000, None],
    "bytes": [b"", b"\0\xff", bytearray(b"array"), memoryview(b"view"), None],
    "datetime": [datetime(1, 1, 1, tzinfo=UTC), datetime(2024, 2, 29, 1, 2, 3, 4), datetime(9999, 12, 31), None],
    "TimestampMicros": [TimestampMicros(0), TimestampMicros(INT64_MAX), None],
    "TimestampNanos": [TimestampNanos(0), TimestampNanos(INT64_MAX), None],
    "DateMillis": [DateMillis(0), DateMillis(-1), DateMillis(INT64_MAX), DateMillis(INT64_MIN), None],
    "Decimal": [Decimal("-12.345"), Decimal("1E+3"), Decimal(0), Decimal("7.5"), Decimal("NaN"), None],
    "Decimal whole": [Decimal((1 << 255) - 1), Decimal(-(1 << 255)), None],
    "Decimal scale 76": [Decimal("1E-76"), Decimal("-1E-76"), None],
    "UUID": [uuid.UUID("11111111-2222-3333-4444-555555555555"), uuid.UUID(int=0), NULL_UUID, None],
    "IPv4Address": [ipaddress.IPv4Address("192.168.0.1"), ipaddress.IPv4Address("255.255.255.255"),
                    ipaddress.IPv4Address(0), None],
    "Char": [Char("x"), Char("日"), Char("\uffff"), Char("\0"), None],
    "Long256": [Long256(0), Long256((1 << 256) - 1), Long256(1 << 64), Long256(NULL_LONG256), None],
    "Geohash 25": [Geohash.from_string("u33d8"), Geohash(0, 25), Geohash((1 << 25) - 1, 25), None],
    "Geohash 8": [Geohash(255, 8), Geohash(0, 8), None],
    "Geohash 60": [Geohash((1 << 60) - 1, 60), Geohash(1, 60), None],
    "Geohash 1": [Geohash(1, 1), Geohash(0, 1), None],
    "ndarray 1": [np.array([1.0, math.nan, -0.0]), np.array([]), np.arange(6.0)[::-2], None],
    "ndarray 2": [np.array([[1.0, 2.0], [3.0, 4.0]]), np.zeros((2, 0)), np.asfortranarray(np.ones((2, 3))), None],
    "ndarray 3": [np.arange(24.0).reshape(2, 3, 4).transpose(), None],
}  # fmt: skip


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("values", TYPES.values(), ids=TYPES)
def test_every_type_lands_equal(server: QwpServer[MemoryStore], client: str, values: list[Any]) -> None:
    rows = [
        Row("t", {"s": "sym"}, {"v": value, "n": index}, TimestampNanos(index)) for index, value in enumerate(values)
    ]
    assert_lands(client, server, [rows, rows[:1] + rows[:0:-1]])


@pytest.mark.parametrize("client", CLIENTS)
def test_all_types_in_one_row_land_equal(server: QwpServer[MemoryStore], client: str) -> None:
    rows = [
        Row(
            "t",
            {"sym bol": "ß"},
            {kind: values[index % len(values)] for kind, values in TYPES.items()},
            TimestampMicros(9),
        )
        for index in range(12)
    ]
    assert_lands(client, server, [rows[:5], rows[5:]])


@pytest.mark.parametrize("client", CLIENTS)
def test_symbols_over_flushes_land_equal(server: QwpServer[MemoryStore], client: str) -> None:
    texts = ["", "a", None, "ß𝄞", "x" * 40_000, *map(str, range(300))]
    batches = [
        [
            Row("t", {"s": text, "u": other}, {"n": number}, ServerTimestamp)
            for text, other in zip(texts, texts[number:], strict=False)
        ]
        for number in range(4)
    ]
    assert_lands(client, server, batches)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.timeout(300)
def test_made_cases_land_equal(client: str) -> None:
    with QwpServer(wall_nanos=lambda: SERVER_NANOS) as server:

        @settings(
            max_examples=300,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink),
        )
        @given(cases(traps=False))
        def land(case: Case) -> None:
            server.store.clear()
            assert_lands(client, server, case.batches)

        land()
