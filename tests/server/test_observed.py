"""The official client 6.0.0 against the strict server: it behaves as observed.md says, a test a row.

Sections 1 to 5 and 8; what it writes for each value (sections 6 and 7) is tests/interop.  Where the page says "for
ever", a handful of repetitions stands for it; budgets and windows are set low where the client has a key for them.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import questdb
import trustme
from questdb import QuestDBError

from spoolq.server import Answer, Auth, Close, Drop, QwpServer, Refuse, Reject, Script

from .test_acks import durable

pytestmark = pytest.mark.filterwarnings("ignore:questdb.Sender. Detected a burst of reconnections")

OFF = "auto_flush=off;"
QUICK = "reconnect_initial_backoff_millis=5;reconnect_max_backoff_millis=20;"
FEW = "max_frame_rejections=2;poison_min_escalation_window_millis=0;"
SEGMENT_ROOM = 4 * 1024 * 1024 - 32
FOR_EVER = 4  # repetitions that stand for it


def row(sender: Any, value: int = 1, table: str = "t") -> None:
    sender.row(table, columns={"v": value}, at=questdb.TimestampNanos(value))


def send(sender: Any, value: int = 1) -> int:
    row(sender, value)
    fsn: int = sender.flush_and_get_fsn()
    return fsn


@contextmanager
def connected(conf: str, **options: Any) -> Iterator[Any]:
    """A sender; its close may fail, for the test has had its error."""
    sender = questdb.Sender.from_conf(conf, **options)
    sender.establish()
    try:
        yield sender
    finally:
        with suppress(QuestDBError):
            sender.close(flush=False)


def send_and_wait_for_ever(sender: Any) -> None:
    for number in range(1_000):
        sender.await_acked_fsn(send(sender, number), 5_000)


def values(server: QwpServer[Any]) -> list[int]:
    return [found["v"] for found in server.store.rows("t")]


def acked(server: QwpServer[Any], conf: str = "", script: Any = None) -> list[int]:
    """One row by a client that must get it through; what the server has then."""
    with questdb.Sender.from_conf(server.conf + conf) as sender:
        row(sender)
    return values(server)


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


def test_1_tcp_refused() -> None:
    with QwpServer() as server:
        pass
    with pytest.raises(QuestDBError, match="all endpoints unreachable") as caught, connected(server.conf):
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
    with QwpServer(script=Script(refuse=Refuse(421, role=role))) as server:
        with pytest.raises(QuestDBError, match=f"role={role}") as caught, connected(server.conf):
            pass
        assert caught.value.code.name == "RoleMismatch"
        sync = "initial_connect_retry=sync;reconnect_max_duration_millis=400;"
        with (
            pytest.raises(QuestDBError, match="initial connect retry budget exhausted") as caught,
            connected(server.conf + sync),
        ):
            pass
        assert caught.value.code.name == "RoleMismatch"
        assert len(server.connections) > 2


@pytest.mark.parametrize("status", [400, 404, 421, 426, 500, 503, 302, 200])
def test_1_other_refusals(status: int) -> None:
    with QwpServer(script=Script(refuse=Refuse(status, retry_after_seconds=60))) as server:
        with pytest.raises(QuestDBError, match=f"HTTP status {status}") as caught, connected(server.conf):
            pass
        assert caught.value.code.name == "SocketError"
        assert "all endpoints unreachable" in str(caught.value)
        with connected(server.conf + QUICK + "initial_connect_retry=async;"):
            server.wait_for(lambda: len(server.connections) > FOR_EVER)  # Retry-After is not looked at


def test_1_401_after_a_lost_connection_is_terminal() -> None:
    with QwpServer() as server, connected(server.conf + OFF) as sender:
        sender.await_acked_fsn(send(sender), 5_000)
        server.refuse_new(401)
        server.drop_connections()
        with pytest.raises(QuestDBError) as caught:
            send_and_wait_for_ever(sender)
        assert caught.value.code.name == "AuthError"
        assert caught.value.sender_error is None


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


# --- 2. Rejected frames ----------------------------------------------------------------------------

TERMINAL = {
    0x03: ("schema_mismatch", "QWP schema mismatch: no"),
    0x05: ("parse_error", "QWP parse error: no"),
    0x08: ("security_error", "QWP authorization failure: no"),
}


def rejecting(status: int, frame: int = 1, **options: Any) -> Any:
    """Every connection rejects that frame."""
    return QwpServer(script=Script(reject=(Reject(frame, status, "no"),)), **options)


@pytest.mark.parametrize("status", TERMINAL)
def test_2_terminal_statuses(status: int) -> None:
    category, text = TERMINAL[status]
    with rejecting(status) as server, connected(server.conf + OFF) as sender:
        assert sender.await_acked_fsn(send(sender), 5_000)
        send(sender, 2)
        for _ in range(2):  # again and again
            with pytest.raises(QuestDBError, match=text) as caught:
                sender.await_acked_fsn(1, 5_000)
            assert caught.value.code.name == "ServerRejection"
            error = caught.value.sender_error
            assert (error.status, error.message_sequence, error.from_fsn, error.to_fsn) == (status, 1, 1, 1)
            assert (error.category.value[0], error.applied_policy.value[0]) == (category, "terminal")
        row(sender, 3)  # is still taken
        with pytest.raises(QuestDBError, match=text):
            sender.flush()
        server.wait_for(lambda: server.connections[0].closed_by)
        assert (len(server.connections), values(server)) == (1, [1])


@pytest.mark.parametrize("latched", [True, False])
@pytest.mark.parametrize("status", [0x06, 0x09, 0x0C, 0x0D, 0x7F])
def test_2_retriable_statuses(status: int, latched: bool) -> None:
    """Rejected once: reconnect and replay from the rejected frame; the caller sees an entry of poll_error at most."""
    scripts = [Script(reject=(Reject(1, status, "no"),)), Script()]
    with QwpServer(script=scripts, latched=latched) as server, connected(server.conf + OFF) as sender:
        for number in range(3):
            send(sender, number)
        assert sender.await_acked_fsn(2, 5_000)
        entry = sender.poll_error()
        assert entry is not None
        assert entry.status == status
        assert set(values(server)) == {0, 1, 2}
        assert len(server.connections) == 2


@pytest.mark.parametrize("status", [0x06, 0x09, 0x0D, 0x7F])
def test_2_a_head_frame_that_is_always_rejected(status: int) -> None:
    with rejecting(status, 0) as server, connected(server.conf + OFF + FEW + QUICK) as sender:
        send(sender)
        with pytest.raises(QuestDBError, match=r"2 frame rejections without ACK progress \(latest: fsn 0\)") as caught:
            sender.await_acked_fsn(0, 10_000)
        assert "no" in str(caught.value)
        assert caught.value.sender_error.status is None
        assert len(server.connections) == 2


def test_2_not_writable_is_no_strike() -> None:
    with rejecting(0x0C, 0) as server, connected(server.conf + OFF + FEW + QUICK) as sender:
        send(sender)
        server.wait_for(lambda: len(server.connections) > FOR_EVER)
        assert sender.acked_fsn() is None


def test_2_a_dictionary_gap_heals_by_the_catch_up() -> None:
    scripts = [Script(reject=(Reject(1, 0x0D, "gap"),)), Script()]
    with QwpServer(script=scripts) as server, connected(server.conf + OFF) as sender:
        for text in ("a", "b"):
            sender.row("t", symbols={"s": text}, at=questdb.TimestampNanos(1))
            fsn = sender.flush_and_get_fsn()
        assert sender.await_acked_fsn(fsn, 5_000)
        catch_up, frame = server.connections[1].messages
        assert catch_up == bytes.fromhex("5157503101080000060000000002016101 62".replace(" ", ""))
        assert frame == server.connections[0].messages[1]
        assert [found["s"] for found in server.store.rows("t")] == ["a", "b"]


# --- 3. Lost connections and closes ----------------------------------------------------------------

LOST = {
    "FIN": Script(drop=Drop(after_frames=2, before_ack=True)),
    "RST": Script(drop=Drop(after_frames=2, before_ack=True, reset=True)),
    "half a frame read": Script(drop=Drop(mid_frame=1)),
    "half a response": Script(answers=(Answer(1, "half"),)),
    "CLOSE 1000": Script(close=Close(2, 1000, "demoted"), no_ack=True),
    "CLOSE 1001": Script(close=Close(2, 1001), no_ack=True),
}


@pytest.mark.parametrize("script", LOST.values(), ids=LOST)
def test_3_a_lost_connection_is_replayed(script: Script) -> None:
    with QwpServer(script=[script, Script()]) as server, connected(server.conf + OFF) as sender:
        for number in range(3):
            send(sender, number)
        assert sender.await_acked_fsn(2, 5_000)
        assert set(values(server)) == {0, 1, 2}
        assert len(server.connections) == 2
        assert sender.poll_error() is None


AGAIN = {
    "FIN": Script(drop=Drop(after_frames=1, before_ack=True)),
    "RST": Script(drop=Drop(after_frames=1, before_ack=True, reset=True)),
    "half a frame read": Script(drop=Drop(mid_frame=0)),
    "half a response": Script(answers=(Answer(0, "half"),)),
    "CLOSE 1000": Script(close=Close(1, 1000, "demoted"), no_ack=True),
    "CLOSE 1001": Script(close=Close(1, 1001), no_ack=True),
}


@pytest.mark.parametrize("script", AGAIN.values(), ids=AGAIN)
def test_3_the_same_again_has_no_end(script: Script) -> None:
    """Each connection takes the head frame, and the client comes back at once."""
    with QwpServer(script=script) as server, connected(server.conf + OFF) as sender:
        send(sender)
        server.wait_for(lambda: len(server.connections) > 20)
        assert sender.poll_error() is None


@pytest.mark.parametrize("code", [1002, 1003, 1008, 1009, 1011, 4000, None])
def test_3_other_closes_are_strikes(code: int | None) -> None:
    script = Script(close=Close(1, code, "because"), no_ack=True)
    with QwpServer(script=script) as server, connected(server.conf + OFF + FEW + QUICK) as sender:
        send(sender)
        text = "frame fsn 0 was closed 2 times without ACK progress"
        with pytest.raises(QuestDBError, match=text) as caught:
            sender.await_acked_fsn(0, 10_000)
        assert "because" not in str(caught.value)
        assert len(server.connections) == 2


@pytest.mark.parametrize("code", [1005, 1006])
def test_3_a_forbidden_close_code_is_terminal(code: int) -> None:
    with QwpServer(script=Script(close=Close(1, code), no_ack=True)) as server, connected(server.conf + OFF) as sender:
        send(sender)
        with pytest.raises(QuestDBError) as caught:
            sender.await_acked_fsn(0, 10_000)
        assert caught.value.code.name in ("ServerRejection", "ProtocolError", "SocketError")
        assert len(server.connections) == 1


def test_3_no_ok_at_all() -> None:
    with (
        QwpServer(script=Script(no_ack=True)) as server,
        connected(server.conf + OFF + "close_flush_timeout_millis=50;") as sender,
    ):
        for number in range(300):
            send(sender, number)
        server.wait_for_messages(300)
        with pytest.raises(QuestDBError, match="close drain timed out before all published frames were acknowledged"):
            sender.close()


def test_3_own_close_is_a_bare_tcp_close() -> None:
    with QwpServer() as server:
        acked(server)
        server.wait_for(lambda: server.connections[0].closed_by)
        assert server.connections[0].closed_by == "client_eof"
        assert server.connections[0].close_code is None


# --- 4. Odd responses ------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [Script(ack_ahead=50), Script(ack_negative=True)], ids=["beyond", "-1"])
def test_4_an_ok_beyond_what_was_sent_counts_for_all(script: Script) -> None:
    with QwpServer(script=script) as server, connected(server.conf + OFF) as sender:
        send(sender)
        assert sender.await_acked_fsn(0, 5_000)
        assert sender.acked_fsn() == 0


@pytest.mark.parametrize("kind", ["garbage", "empty", "trailing", "long_text"])
def test_4_an_undecodable_response_reconnects(kind: Any) -> None:
    with QwpServer(script=[Script(answers=(Answer(0, kind),)), Script()]) as server:
        with connected(server.conf + OFF) as sender:
            send(sender)
            assert sender.await_acked_fsn(0, 5_000)
            assert sender.poll_error() is None
        assert values(server) == [1, 1]
        assert len(server.connections) == 2


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("text", "server response was not a binary frame"),
        ("masked", "WebSocket server frame must not be masked"),
        ("rsv", "RSV bits are set"),
        ("non_minimal", "non-minimal 16-bit encoding"),
    ],
)
def test_4_a_frame_against_the_protocol_is_terminal(kind: Any, text: str) -> None:
    with QwpServer(script=Script(answers=(Answer(0, kind),))) as server, connected(server.conf + OFF) as sender:
        send(sender)
        with pytest.raises(QuestDBError, match=text) as caught:
            sender.await_acked_fsn(0, 5_000)
        assert caught.value.code.name == "ServerRejection"
        assert len(server.connections) == 1


def test_4_a_fragmented_ok_is_taken() -> None:
    with QwpServer(script=Script(answers=(Answer(0, "fragmented"),))) as server:
        assert acked(server) == [1]
        assert len(server.connections) == 1


def test_4_acks_late_twice_and_swapped_are_taken() -> None:
    script = Script(ack_delay_millis=5, ack_twice=True)
    with QwpServer(script=script) as server:
        assert acked(server) == [1]


def test_4_durable_acks() -> None:
    asked = "request_durable_ack=on;durable_ack_keepalive_interval_millis=5;"
    with QwpServer(durable_ack=True, durable_ack_delay_millis=30) as server:
        with questdb.Sender.from_conf(server.conf + asked) as sender:
            row(sender)
        (record,) = server.connections
        assert record.pings > 0
        assert durable(("t", 1)) in record.responses


def test_4_durable_acks_that_nobody_asks_for() -> None:
    asked = "request_durable_ack=on;durable_ack_keepalive_interval_millis=0;close_flush_timeout_millis=50;"
    script = Script(no_durable_ack=True)
    with QwpServer(durable_ack=True, script=script) as server, connected(server.conf + OFF + asked) as sender:
        assert sender.await_acked_fsn(send(sender), 5_000) is False  # at once, whatever the timeout
        with pytest.raises(QuestDBError, match="close drain timed out"):
            sender.close()
        assert server.connections[0].pings == 0


# --- 5. Frames -------------------------------------------------------------------------------------


def flags(message: bytes) -> int:
    return message[5]


def test_5_row_sender_flags_and_delta_dictionary() -> None:
    with QwpServer() as server, connected(server.conf + OFF) as sender:
        for text in ("a", "a", "b"):
            sender.row("t", symbols={"s": text}, at=questdb.TimestampNanos(1))
            sender.await_acked_fsn(sender.flush_and_get_fsn(), 5_000)
        messages = server.connections[0].messages
    assert [flags(message) for message in messages] == [8, 8, 8]
    assert [message[12:16] for message in messages] == [b"\0\1\1a", b"\1\0\1t", b"\1\1\1b"]


def test_5_dataframe_flags_and_close() -> None:
    """A checkpoint comes after 128 frames here; the page saw it after 101."""
    frame = pd.DataFrame({"v": range(600)})
    with QwpServer() as server:
        with questdb.Sender.from_conf(server.conf) as sender:
            sender.dataframe(frame, table_name="t", at=questdb.ServerTimestamp, max_rows_per_batch=2)
        record = next(record for record in server.connections if record.message_count)
        committing = [number for number, message in enumerate(record.messages) if flags(message) == 8]
        assert {flags(message) for message in record.messages} == {8, 9}
        assert (committing[0], committing[-1]) == (0, len(record.messages) - 1)
        assert 100 <= committing[1] <= 128
        assert len(record.messages[-1]) == 14
        server.wait_for(lambda: record.closed_by)
        assert (record.closed_by, record.close_code) == ("client_close", 1000)
        assert values(server) == list(range(600))


def test_5_a_catch_up_is_split_to_the_cap() -> None:
    scripts = [Script(drop=Drop(after_frames=2, before_ack=True)), Script(cap_nbytes=400)]
    with QwpServer(script=scripts) as server, connected(server.conf + OFF) as sender:
        for start in (0, 40):
            for number in range(start, start + 40):
                sender.row("t", symbols={"s": f"symbol-{number:04}"}, at=questdb.TimestampNanos(1))
            sender.flush()
        server.wait_for(lambda: server.connections[1].close_code == 1009)  # a frame above the cap is sent all the same
        parts = [message for message in server.connections[1].messages if message[6:8] == b"\0\0"]
        assert len(parts) > 1
        assert max(map(len, parts)) <= 400 - 14
        assert parts[0][12] == 0


def test_5_auto_flush_by_rows() -> None:
    with QwpServer() as server, connected(server.conf + "auto_flush_interval=off;") as sender:
        for number in range(600):
            row(sender, number)
        server.wait_for_rows("t", 600)
        assert server.message_count == 1


# --- dataframe errors (5) and diagnostics (8) ------------------------------------------------------

DATAFRAME_ERRORS = {
    "03": (
        Script(reject=(Reject(1, 0x03, "no"),)),
        "InvalidApiCall",
        'QWP server error on fsn 1: status=0x03, message="no"',
    ),
    "05": (Script(reject=(Reject(1, 0x05, "no"),)), "InvalidApiCall", "status=0x05"),
    "06": (Script(reject=(Reject(1, 0x06, "no"),)), "ServerFlushError", "status=0x06"),
    "drop": (Script(drop=Drop(after_frames=1)), "FailoverRetry", "."),
    "close": (Script(close=Close(1)), "FailoverRetry", "."),
    "refused": (Script(refuse=Refuse(503)), "SocketError", "503"),
    "401": (Script(refuse=Refuse(401)), "AuthError", "401"),
}


@pytest.mark.parametrize(("script", "code", "text"), DATAFRAME_ERRORS.values(), ids=DATAFRAME_ERRORS)
def test_5_dataframe_errors_are_raised_and_not_retried(script: Script, code: str, text: str) -> None:
    frame = pd.DataFrame({"v": range(10)})
    with QwpServer(script=[Script(), script]) as server, connected(server.conf) as sender:
        with pytest.raises(QuestDBError, match=text) as caught:
            sender.dataframe(frame, table_name="t", at=questdb.ServerTimestamp, max_rows_per_batch=2)
        assert caught.value.code.name == code
        assert caught.value.sender_error is None


def test_8_the_handler_runs_inside_a_later_call() -> None:
    seen: list[int] = []
    scripts = [Script(reject=(Reject(0, 0x06, "no"),)), Script()]

    def handler(error: Any) -> None:
        seen.append(threading.get_ident())

    with QwpServer(script=scripts) as server, connected(server.conf + OFF, error_handler=handler) as sender:
        send(sender)
        server.wait_for_rows("t", 1)  # rejected and replayed by now
        assert seen == []
        assert sender.await_acked_fsn(0, 5_000)
        sender.flush()
        assert seen == [threading.get_ident()]


def test_8_a_terminal_error_can_vanish_at_close() -> None:
    with rejecting(0x03, 0) as server:
        with questdb.Sender.from_conf(server.conf + OFF) as sender:
            send(sender)
            server.wait_for(lambda: server.connections[0].closed_by)
        assert values(server) == []  # and nothing was raised


def test_no_connection_is_left() -> None:
    """The scripted ends above leave no socket of ours behind: the leak fixture looks after each test."""
    with QwpServer(script=Script(drop=Drop(after_frames=0))) as server:
        sock = socket.create_connection(("127.0.0.1", server.port))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        server.wait_for(lambda: server.connections[0].closed_by)
