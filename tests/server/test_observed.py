"""The official client 6.0.0 under rejections, lost connections and odd responses: observed.md 2, 3, 4.

README.md here lists page and tests row by row.  Where the page says "for ever", a handful of repetitions stands for
it; budgets and windows are set low where the client has a key for them, but for one test that takes its defaults.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Any

import pytest
import questdb
from questdb import QuestDBError

from spoolq.server import Answer, Close, Drop, QwpServer, Reject, Script

from .official import FEW, FOR_EVER, OFF, QUICK, acked, both, connected, never, rejecting, row, send, values
from .test_acks import durable

# --- 2. Rejected frames ----------------------------------------------------------------------------

TERMINAL = {
    0x03: ("schema_mismatch", "QWP schema mismatch: no"),
    0x05: ("parse_error", "QWP parse error: no"),
    0x08: ("security_error", "QWP authorization failure: no"),
}


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


def test_2_by_default_it_takes_four_rejections_and_five_seconds() -> None:
    """5.3 to 10 seconds of real time: the one test with the client's own defaults."""
    with rejecting(0x06, 0) as server, connected(server.conf + OFF) as sender:
        send(sender)
        with pytest.raises(QuestDBError, match="frame rejections without ACK progress") as caught:
            sender.await_acked_fsn(0, 30_000)
        count = len(server.connections)
        assert f"{count} frame rejections" in str(caught.value)
        assert 4 < count < 9  # after four of them 0.7 to 1.4 s have passed: the five seconds decide
        assert caught.value.sender_error.category.value[0] == "protocol_violation"


def test_2_with_sf_dir_a_terminal_frame_comes_first_again(tmp_path: Path) -> None:
    with rejecting(0x03, 0) as server:
        for value in (1, 2):
            with connected(f"{server.conf}{OFF}sf_dir={tmp_path};") as sender:
                send(sender, value)
                with pytest.raises(QuestDBError, match="QWP schema mismatch") as caught:
                    sender.await_acked_fsn(value - 1, 5_000)
                assert caught.value.sender_error.from_fsn == 0
        first, second = (record.messages[0] for record in server.connections)
        assert first == second


def test_2_the_next_endpoint_takes_over() -> None:
    with rejecting(0x06, 0) as server, QwpServer() as second, connected(both(server, second) + OFF) as sender:
        assert sender.await_acked_fsn(send(sender), 5_000)
        assert (len(server.connections), values(second)) == (1, [1])


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
    "garbage": Script(answers=(Answer(0, "garbage"),)),  # section 4
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


def test_3_a_close_of_one_byte_is_terminal() -> None:
    script = Script(answers=(Answer(0, "close_1"),))
    with QwpServer(script=script) as server, connected(server.conf + OFF) as sender:
        send(sender)
        with pytest.raises(QuestDBError, match="payload length must be 0 or at least 2") as caught:
            sender.await_acked_fsn(0, 5_000)
        assert caught.value.sender_error.category.value[0] == "protocol_violation"
        assert len(server.connections) == 1


def test_3_what_comes_while_nothing_waits_for_an_ack_is_not_noticed() -> None:
    with QwpServer() as server, connected(server.conf + OFF) as sender:
        sender.await_acked_fsn(send(sender, 1), 5_000)
        server.ping_connections(b"x")
        never(server, lambda: server.connections[0].pongs)
        send(sender, 2)
        server.wait_for(lambda: server.connections[0].pongs)  # with a frame in flight it is
        sender.await_acked_fsn(1, 5_000)
        server.drop_connections()
        never(server, lambda: len(server.connections) > 1)
        sender.await_acked_fsn(send(sender, 3), 5_000)
        assert (len(server.connections), values(server)) == (2, [1, 2, 3])


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


@pytest.mark.parametrize("status", [0x03, 0x06])
def test_4_an_error_frame_beyond_what_was_sent_is_charged_to_the_last_one(status: int) -> None:
    scripts = [Script(reject=(Reject(1, status, "no", ahead=50),)), Script()]
    with QwpServer(script=scripts) as server, connected(server.conf + OFF) as sender:
        server.hold_acks()
        for number in range(3):
            send(sender, number)
        server.wait_for_messages(3)
        server.release_acks()
        if status == 0x03:
            with pytest.raises(QuestDBError, match="QWP schema mismatch"):
                sender.await_acked_fsn(2, 5_000)
        else:
            assert sender.await_acked_fsn(2, 5_000)
        error = sender.poll_error()
        assert (error.message_sequence, error.from_fsn, error.to_fsn) == (51, 2, 2)


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


def test_4_a_durable_ack_nobody_asked_for_is_ignored() -> None:
    with QwpServer(script=Script(answers=(Answer(0, "durable"),))) as server:
        assert acked(server) == [1]
        assert len(server.connections) == 1


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


def test_no_connection_is_left() -> None:
    """The scripted ends above leave no socket of ours behind: the leak fixture looks after each test."""
    with QwpServer(script=Script(drop=Drop(after_frames=0))) as server:
        sock = socket.create_connection(("127.0.0.1", server.port))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        server.wait_for(lambda: server.connections[0].closed_by)
