"""The official client 6.0.0 connects as observed.md 1 says.  README.md here lists page and tests row by row."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
import questdb
import trustme
from questdb import QuestDBError

from spoolq.server import Auth, QwpServer, Refuse, Script
from tests.ports import free_port

from .official import (
    FOR_EVER,
    OFF,
    QUICK,
    SEGMENT_ROOM,
    acked,
    connected,
    retried,
    row,
    send,
    send_and_wait_for_ever,
    values,
)

SYNC = "initial_connect_retry=sync;"

# --- 1. Connecting ---------------------------------------------------------------------------------


def test_1_request() -> None:
    with QwpServer() as server:
        assert acked(server) == [1]
        record = server.connections[0]
    assert record.target == "/api/v4/write"
    assert [name for name, _ in record.headers] == [
        *("Host", "Connection", "Upgrade", "Sec-WebSocket-Version", "Sec-WebSocket-Key", "X-QWP-Max-Version")
    ]
    assert record.header("X-QWP-Max-Version") == "1"


@pytest.mark.parametrize("keys", ["username=ann;password=secret;", "token=tok-1;"])
def test_1_authorization(keys: str) -> None:
    with QwpServer(auth=Auth({"ann": "secret"}, frozenset({"tok-1"}))) as server:
        assert acked(server, keys) == [1]
        assert (server.connections[0].header("Authorization") or "").startswith(("Basic ", "Bearer "))


VERSION = "X-QWP-Version"


@pytest.mark.parametrize(
    "headers", [((VERSION, None),), ((VERSION, " 1 "),), ((VERSION, "01"),), ((VERSION, "1"), (VERSION, "2"))]
)
def test_1_versions_that_are_taken(headers: Any) -> None:
    with QwpServer(script=Script(upgrade_headers=headers)) as server:
        assert acked(server) == [1]


@pytest.mark.parametrize(
    "headers", [*(((VERSION, text),) for text in ("2", "0", "abc", "")), ((VERSION, "2"), (VERSION, "1"))]
)
def test_1_versions_that_are_not(headers: Any) -> None:
    with QwpServer(script=Script(upgrade_headers=headers)) as server, QwpServer() as second:
        with pytest.raises(QuestDBError, match="X-QWP-Version") as caught, connected(server.conf):
            pass
        assert caught.value.code.name == "SocketError"
        both = f"ws::addr=127.0.0.1:{server.port},127.0.0.1:{second.port};"
        with questdb.Sender.from_conf(both) as sender:  # the next endpoint is tried
            row(sender)
        assert values(second) == [1]


def test_1_accept_wrong() -> None:
    script = Script(upgrade_headers=(("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),))
    with (
        QwpServer(script=script) as server,
        pytest.raises(QuestDBError, match="invalid Sec-WebSocket-Accept"),
        connected(server.conf),
    ):
        pass


@pytest.mark.parametrize("cap", ["0", "-1", "abc", "9" * 20, None])
def test_1_caps_that_count_as_absent(cap: str | None) -> None:
    """What bounds a flush then is the room in a segment, not the 2,097,138 of the page: seen otherwise here."""
    script = Script(upgrade_headers=(("X-QWP-Max-Batch-Size", cap),))
    with (
        QwpServer(script=script, receive_buffer_nbytes=SEGMENT_ROOM + 14) as server,
        connected(server.conf + OFF) as sender,
    ):
        sender.row("t", columns={"v": "x" * (SEGMENT_ROOM - 100)}, at=questdb.ServerTimestamp)
        sender.flush()
        server.wait_for_rows("t", 1)
        sender.row("t", columns={"v": "x" * SEGMENT_ROOM}, at=questdb.ServerTimestamp)
        with pytest.raises(QuestDBError, match=str(SEGMENT_ROOM)) as caught:
            sender.flush()
        assert caught.value.code.name == "BatchTooLarge"


@pytest.mark.parametrize("cap", ["12", "100"])
def test_1_a_small_cap_is_accepted(cap: str) -> None:
    script = Script(upgrade_headers=(("X-QWP-Max-Batch-Size", cap),))
    with QwpServer(script=script) as server, connected(server.conf + OFF) as sender:
        sender.row("t", columns={"v": "x" * 200}, at=questdb.ServerTimestamp)
        with pytest.raises(QuestDBError) as caught:
            sender.flush()
        assert caught.value.code.name == "BatchTooLarge"


def test_1_a_role_on_the_101_is_ignored() -> None:
    with QwpServer(script=Script(upgrade_headers=(("X-QuestDB-Role", "REPLICA"),))) as server:
        assert acked(server) == [1]


def test_1_durable_ack_not_granted() -> None:
    asked = "request_durable_ack=on;"
    with QwpServer() as server, QwpServer(durable_ack=True) as second:
        with pytest.raises(QuestDBError, match="did not enable durable ACK") as caught, connected(server.conf + asked):
            pass
        assert caught.value.code.name == "ProtocolVersionError"
        with questdb.Sender.from_conf(f"ws::addr=127.0.0.1:{server.port},127.0.0.1:{second.port};{asked}") as sender:
            row(sender)
        assert values(second) == [1]


def test_1_no_answer_to_the_upgrade() -> None:
    with (
        QwpServer(script=Script(silent=True)) as server,
        pytest.raises(QuestDBError, match="upgrade response read timed out"),
        connected(server.conf + "auth_timeout_ms=50;"),
    ):
        pass


def test_1_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    roots = tmp_path / "roots.pem"
    authority.cert_pem.write_to_path(str(roots))
    with QwpServer(tls=context) as server:
        conf = server.conf.replace("127.0.0.1", "localhost")
        with questdb.Sender.from_conf(f"{conf}tls_roots={roots};") as sender:
            row(sender)
        assert values(server) == [1]
        with pytest.raises(QuestDBError), connected(conf):  # not one of the system's roots
            pass
        with pytest.raises(QuestDBError), connected(conf.replace("wss", "ws", 1)):
            pass
        server.wait_for(lambda: all(record.closed_by for record in server.connections))


def test_1_tls_a_certificate_that_is_its_own_authority_is_refused(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    authority.cert_pem.write_to_path(str(certificate))
    authority.private_key_pem.write_to_path(str(key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with (
        QwpServer(tls=context) as server,
        pytest.raises(QuestDBError, match="CaUsedAsEndEntity"),
        connected(f"{server.conf.replace('127.0.0.1', 'localhost')}tls_roots={certificate};"),
    ):
        pass


def test_1_tcp_refused() -> None:
    conf = f"ws::addr=127.0.0.1:{free_port()};"
    with pytest.raises(QuestDBError, match="all endpoints unreachable") as caught, connected(conf):
        pass
    assert caught.value.code.name == "SocketError"


@pytest.mark.parametrize("mode", ["", "initial_connect_retry=sync;reconnect_max_duration_millis=400;"])
@pytest.mark.parametrize("status", [401, 403])
def test_1_401_and_403_end_it_at_once(status: int, mode: str) -> None:
    with QwpServer(script=Script(refuse=Refuse(status, body="no entry"))) as server, QwpServer() as second:
        text = f"WebSocket upgrade authentication failed: HTTP status {status}"
        conf = f"ws::addr=127.0.0.1:{server.port},127.0.0.1:{second.port};{mode}"
        with pytest.raises(QuestDBError, match=text) as caught, connected(conf):
            pass
        assert caught.value.code.name == "AuthError"
        assert "no entry" not in str(caught.value)
        assert (len(server.connections), len(second.connections)) == (1, 0)


@pytest.mark.parametrize("role", ["REPLICA", "PRIMARY_CATCHUP", "FOO"])
def test_1_421_with_a_role(role: str) -> None:
    with QwpServer() as server:
        server.refuse_new(421, role=role)
        with pytest.raises(QuestDBError, match=f"role={role}") as caught, connected(server.conf):
            pass
        assert caught.value.code.name == "RoleMismatch"
        with (
            pytest.raises(QuestDBError, match="initial connect retry budget exhausted") as caught,
            connected(server.conf + SYNC + "reconnect_max_duration_millis=400;"),
        ):
            pass
        assert caught.value.code.name == "RoleMismatch"
        retried(server, SYNC, 2)


def test_1_421_with_a_role_is_asked_again_without_growing_pauses() -> None:
    """Ten times a second: growing ones would last for minutes, and for ten seconds the server is waited for."""
    with QwpServer() as server:
        server.refuse_new(421, role="REPLICA")
        retried(server, SYNC, 12)


@pytest.mark.parametrize("status", [400, 404, 421, 426, 500, 503, 302, 200])
def test_1_other_refusals_with_a_budget(status: int) -> None:
    with QwpServer() as server:
        server.refuse_new(status)
        with (
            pytest.raises(QuestDBError, match=f"budget exhausted.*attempts=.*HTTP status {status}") as caught,
            connected(server.conf + QUICK + SYNC + "reconnect_max_duration_millis=500;"),
        ):
            pass
        assert caught.value.code.name == "SocketError"
        retried(server, QUICK + SYNC, 3)


@pytest.mark.parametrize("status", [400, 404, 421, 426, 500, 503, 302, 200])
def test_1_other_refusals(status: int) -> None:
    with QwpServer(script=Script(refuse=Refuse(status, retry_after_seconds=60, body="so there"))) as server:
        with pytest.raises(QuestDBError, match=f"HTTP status {status}") as caught, connected(server.conf):
            pass
        assert caught.value.code.name == "SocketError"
        assert "all endpoints unreachable" in str(caught.value)
        assert "so there" not in str(caught.value)
        with connected(server.conf + QUICK + "initial_connect_retry=async;"):
            server.wait_for(lambda: len(server.connections) > FOR_EVER)  # Retry-After is not looked at


@pytest.mark.parametrize("status", [401, 403])
def test_1_401_and_403_after_a_lost_connection_are_terminal(status: int) -> None:
    told: list[Any] = []
    with QwpServer() as server, connected(server.conf + OFF, error_handler=told.append) as sender:
        sender.await_acked_fsn(send(sender), 5_000)
        server.refuse_new(status)
        server.drop_connections()
        for _ in range(2):  # every later call
            with pytest.raises(QuestDBError) as caught:
                send_and_wait_for_ever(sender)
            assert caught.value.code.name == "AuthError"
            assert caught.value.sender_error is None
        assert told == []


@pytest.mark.parametrize("status", [401, 403])
def test_1_401_and_403_in_mode_async_are_terminal(status: int) -> None:
    with (
        QwpServer(script=Script(refuse=Refuse(status))) as server,
        connected(server.conf + OFF + "initial_connect_retry=async;") as sender,
    ):
        with pytest.raises(QuestDBError) as caught:
            send_and_wait_for_ever(sender)
        assert caught.value.code.name == "AuthError"
        assert len(server.connections) == 1


def test_1_other_refusals_after_a_lost_connection_are_retried() -> None:
    with QwpServer() as server, connected(server.conf + OFF + QUICK) as sender:
        server.wait_for(lambda: server.connections[0].is_upgraded)
        for status in (421, 404, 503):
            before = len(server.connections)
            server.refuse_new(status, role="REPLICA" if status == 421 else None)
            server.drop_connections()
            send(sender, status)
            server.wait_for(lambda: len(server.connections) > before + 2)  # noqa: B023
            server.accept_new()
            server.wait_for(lambda: status in values(server))  # noqa: B023
