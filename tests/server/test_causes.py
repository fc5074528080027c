"""Every row of wire.md 5.3 by a real cause, from a raw socket: the status, the sequence, and that nothing stays.

The rows of decode errors (05, 0D) are those of test_malformed.py; here one stands for each.  0C has no row there, as
no server sends it today: `QwpServer.demote(by_status=True)` is the server that would.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from spoolq.server import Auth, MemoryStore, QwpServer

from .raw_client import EMPTY, RawClient, block, error_of, longs, message, ok, one_row

STAMP = ("", 0x0A, longs(1))
NO_TABLE = "failed to create table update details for: t"


class Cause(NamedTuple):
    """A server, a message it takes (or None), and one it refuses with ``status`` and words of ``text``."""

    status: int
    text: str
    refused: bytes = one_row()
    before: bytes | None = None
    options: Mapping[str, Any] = MappingProxyType({})
    headers: Mapping[str, str] = MappingProxyType({})
    store: Callable[[], MemoryStore] = MemoryStore


class BrokenStore(MemoryStore):
    """Its table cannot be opened."""

    def fit(self, block: Any, now_nanos: int) -> Any:
        raise OSError(5, "input/output error")


def text(data: bytes) -> bytes:
    return b"\0" + struct.pack("<2I", 0, len(data)) + data


def of(*columns: tuple[str, int, bytes], table: str = "t") -> bytes:
    return message(block(table, 1, *columns))


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


AUTH = Auth({"ann": "x", "eve": "y"}, frozenset({"tok", "tok-read"}), read_only=frozenset({"eve", "tok-read"}))
ARRAY_1 = ("v", 0x11, b"\0\1" + struct.pack("<i", 0))
ARRAY_2 = ("v", 0x11, b"\0\2" + struct.pack("<2i", 0, 0))
LONG_ARRAY = ("v", 0x12, b"\0\1" + struct.pack("<i", 0))

CAUSES: dict[str, Cause] = {
    "a decode error": Cause(0x05, "invalid magic bytes", b"QWP2" + one_row()[4:]),
    "a start beyond the dictionary": Cause(0x0D, "gap", message(dictionary=(1, ["a"]))),
    "a user who may not write": Cause(0x08, "may not write", options={"auth": AUTH}, headers=basic("eve", "y")),
    "a token that may not write": Cause(
        0x08, "may not write", options={"auth": AUTH}, headers={"Authorization": "Bearer tok-read"}
    ),
    "a read-only instance": Cause(0x08, "read-only", options={"read_only": True}),
    "a type that cannot be written": Cause(0x03, "coercion", of(("v", 0x0F, text(b"x"))), one_row()),
    "another number of dimensions": Cause(0x03, "dimensions", of(ARRAY_2), of(ARRAY_1)),
    "a table that is not WAL": Cause(0x03, "not WAL", options={"non_wal_tables": frozenset({"t"})}),
    "malformed UTF-8": Cause(0x05, "UTF-8", of(("v", 0x0F, text(b"\xff")))),
    "an invalid table name": Cause(0x06, NO_TABLE + "?", one_row("t?")),
    "an invalid column name, new table": Cause(0x06, NO_TABLE, of(("a.b", 5, longs(1)))),
    "a missing table, none are created": Cause(0x06, NO_TABLE, options={"create_tables": False}),
    "a view": Cause(0x06, NO_TABLE, options={"views": frozenset({"t"})}),
    "too many tables": Cause(0x09, "too many distinct tables", one_row("u"), one_row(), {"tables_max": 1}),
    "a full store": Cause(0x09, "full", one_row(), one_row(), store=lambda: MemoryStore(rows_max=1)),
    "an invalid column name, known table": Cause(0x09, "a.b", of(("a.b", 5, longs(1))), one_row()),
    "a new column, none are added": Cause(
        0x09, "not added", of(("w", 5, longs(1))), one_row(), {"create_columns": False}
    ),
    "a LONG_ARRAY": Cause(0x09, "long arrays are not supported", of(LONG_ARRAY)),
    "micros that do not fit nanos": Cause(0x09, "overflow", of(("", 0x0A, longs(1 << 62))), of(("", 0x10, longs(1)))),
    "an unexpected exception": Cause(0x06, "internal error: OSError", store=BrokenStore),
}


@pytest.mark.parametrize("cause", CAUSES.values(), ids=CAUSES)
def test_wire_5_3_each_cause_has_its_status(cause: Cause) -> None:
    with QwpServer(store=cause.store(), **cause.options) as server, RawClient(server.port) as client:
        client.upgrade(**cause.headers)
        client.message(EMPTY if cause.before is None else cause.before)
        assert client.answer()[:9] == ok(0)[:9]
        before = server.stats()["rows"]
        client.message(cause.refused)
        status, sequence, said = error_of(client.answer())
        assert (status, sequence) == (cause.status, 1)
        assert cause.text in said
        assert server.stats()["rows"] == before
        client.message(one_row())
        assert client.ping() == []  # latched


@pytest.mark.parametrize("headers", [basic("ann", "x"), {"Authorization": "Bearer tok"}], ids=["user", "token"])
def test_others_may_write(headers: dict[str, str]) -> None:
    with QwpServer(auth=AUTH) as server, RawClient(server.port) as client:
        client.upgrade(**headers)
        client.message(one_row())
        assert client.answer() == ok(0, ("t", 1))
    assert "tok-read" not in repr(AUTH)


def test_who_may_not_write_may_still_register_symbols_and_commit_nothing() -> None:
    with QwpServer(read_only=True) as server, RawClient(server.port) as client:
        client.upgrade()
        client.message(message(dictionary=(0, ["a"])))
        assert client.answer() == ok(0)
        assert server.store.tables() == []


def test_a_column_in_a_table_that_is_new_is_no_new_column() -> None:
    with QwpServer(create_columns=False) as server, RawClient(server.port) as client:
        client.upgrade()
        for number in range(2):
            client.message(one_row())
            assert client.answer() == ok(number, ("t", number + 1))


@pytest.mark.parametrize("role", ["REPLICA", "PRIMARY_CATCHUP"])
def test_wire_5_3_a_node_that_becomes_a_replica_closes_with_1000(role: str) -> None:
    """Pending acks go first; the next upgrade is answered with 421 and the role, until the node is promoted."""
    with QwpServer() as server:
        with RawClient(server.port) as client:
            client.upgrade()
            client.message(one_row())
            assert client.answer() == ok(0, ("t", 1))
            server.demote(role)
            assert client.close_code() == 1000
            client.expect_end()
            assert server.connections[0].close_reason == f"the node is a {role} now"
        with RawClient(server.port) as client:
            client.request()
            status, headers = client.response()
            assert (status, headers["x-questdb-role"]) == (421, role)
        server.promote()
        with RawClient(server.port) as client:
            assert client.upgrade()["x-questdb-role"] == "PRIMARY"
            client.message(one_row())
            assert client.answer() == ok(0, ("t", 2))


def test_wire_5_the_reserved_0c_comes_from_a_node_that_lost_its_role() -> None:
    with QwpServer() as server, RawClient(server.port) as client, RawClient(server.port) as idle:
        client.upgrade()
        idle.upgrade()
        client.message(one_row())
        assert client.answer() == ok(0, ("t", 1))
        server.demote(by_status=True)
        client.message(one_row())
        assert error_of(client.answer()) == (0x0C, 1, "the node is a REPLICA now")
        server.promote()
        client.message(one_row())
        assert client.ping() == []  # this connection has had its error
        idle.message(one_row())
        assert idle.answer() == ok(0, ("t", 2))


def test_a_role_that_is_none() -> None:
    from spoolq.errors import ConfigError

    with QwpServer() as server:
        for change in (server.demote, server.promote):
            with pytest.raises(ConfigError, match="KING"):
                change("KING")
