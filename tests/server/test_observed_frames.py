"""What the official client 6.0.0 puts on the wire, and what it tells: observed.md 5 and 8, its dataframe() too.

README.md here lists page and tests row by row; sections 6 and 7, the values, are tests/interop.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import questdb
from questdb import QuestDBError

from spoolq.qwp.decode import Dictionary, decode
from spoolq.server import Answer, Close, Drop, QwpServer, Refuse, Reject, Script
from tests.ports import free_port
from tests.sender.harness import Recorder

from .official import FEW, NEVER_SECONDS, OFF, QUICK, both, connected, never, rejecting, row, send, values

# --- 5. Frames -------------------------------------------------------------------------------------


def flags(message: bytes) -> int:
    return message[5]


@pytest.mark.parametrize("slot", [False, True], ids=["memory", "sf_dir"])
def test_5_row_sender_flags_and_delta_dictionary(tmp_path: Path, slot: bool) -> None:
    where = f"sf_dir={tmp_path};" if slot else ""
    with QwpServer() as server, connected(server.conf + OFF + where) as sender:
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


def test_5_dataframe_batches_dictionary_and_order_of_columns() -> None:
    """16,384 rows, delta dictionary, symbol columns of pandas first; a connection of its own for each call."""
    texts = pd.Series([f"k{n // 16_384}" for n in range(40_000)], dtype="category")
    frame = pd.DataFrame({"a": range(40_000), "s": texts})
    with QwpServer() as server:
        with connected(server.conf) as sender:
            sender.dataframe(frame, table_name="pandas", at=questdb.ServerTimestamp)
            arrow = pa.table({"a": [1], "s": pa.array(["x"]).dictionary_encode()})
            sender.dataframe(arrow, table_name="arrow", at=questdb.ServerTimestamp)
        found = [record for record in server.connections if record.messages]
        assert [record.message_count for record in found] == [4, 2]
        first, *others, _ = found[0].messages
        assert decode(first, Dictionary()).tables[0].row_count == 16_384
        assert [message[12] for message in others] == [1, 2]  # where each delta starts
        assert list(server.store.types("pandas"))[:2] == ["s", "a"]
        assert list(server.store.types("arrow"))[:2] == ["a", "s"]


def test_5_a_dataframe_overtakes_rows_that_are_not_flushed() -> None:
    with QwpServer() as server, connected(server.conf + OFF) as sender:
        row(sender, 1)
        sender.dataframe(pd.DataFrame({"v": [2]}), table_name="t", at=questdb.ServerTimestamp)
        sender.await_acked_fsn(sender.flush_and_get_fsn(), 5_000)
        assert values(server) == [2, 1]


def test_5_one_frame_a_flush_one_block_a_table_in_order_of_appearance() -> None:
    with QwpServer() as server, connected(server.conf + OFF) as sender:
        for table, column in (("b", "y"), ("a", "x"), ("b", "x")):
            sender.row(table, columns={column: 1}, at=questdb.TimestampNanos(1))
        sender.await_acked_fsn(sender.flush_and_get_fsn(), 5_000)
        (payload,) = server.connections[0].messages
        tables = decode(payload, Dictionary()).tables
        assert [table.name for table in tables] == ["b", "a"]
        assert [column.name for column in tables[0].columns] == ["y", "", "x"]


def test_5_a_queued_frame_above_the_cap_of_a_new_connection_ends_the_sender() -> None:
    scripts = [Script(drop=Drop(after_frames=1, before_ack=True)), Script(cap_nbytes=60)]
    with QwpServer(script=scripts) as server, connected(server.conf + OFF + FEW + QUICK) as sender:
        sender.row("t", columns={"v": "x" * 100}, at=questdb.TimestampNanos(1))
        fsn = sender.flush_and_get_fsn()
        with pytest.raises(QuestDBError, match="was closed 2 times without ACK progress"):
            sender.await_acked_fsn(fsn, 5_000)
        assert [record.close_code for record in server.connections] == [None, 1009, 1009]


def test_5_a_buffer_above_the_cap_is_discarded_by_flush() -> None:
    with QwpServer(script=Script(cap_nbytes=1_000)) as server, connected(server.conf + OFF) as sender:
        empty = len(sender)
        row(sender, 1)
        sender.row("t", columns={"x": "y" * 2_000}, at=questdb.TimestampNanos(1))
        with pytest.raises(QuestDBError, match="exceeds the per-frame cap of 1000 bytes") as caught:
            sender.flush()
        assert caught.value.code.name == "BatchTooLarge"
        assert len(sender) == empty
        sender.await_acked_fsn(send(sender, 3), 5_000)
        assert values(server) == [3]


def test_5_auto_flush_refuses_the_row_that_does_not_fit_and_publishes_those_before_it() -> None:
    with QwpServer(script=Script(cap_nbytes=1_000)) as server, connected(server.conf) as sender:
        row(sender, 1)
        with pytest.raises(QuestDBError, match="The rows buffered before it were published"):
            sender.row("t", columns={"x": "y" * 2_000}, at=questdb.TimestampNanos(1))
        server.wait_for_rows("t", 1)
        assert values(server) == [1]


def test_5_auto_flush_at_nine_tenths_of_the_cap() -> None:
    with (
        QwpServer(script=Script(cap_nbytes=1_000)) as server,
        connected(server.conf + "auto_flush_rows=off;auto_flush_interval=off;") as sender,
    ):
        for number in range(200):
            row(sender, number)
        server.wait_for_messages(1)
        assert 900 <= len(server.connections[0].messages[0]) < 930


def test_5_the_interval_is_looked_at_by_the_next_row_only() -> None:
    with QwpServer() as server, connected(server.conf + "auto_flush_interval=50;") as sender:
        row(sender, 1)
        never(server, lambda: server.message_count)
        row(sender, 2)
        server.wait_for_rows("t", 2)
        assert server.message_count == 1


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
        True,
    ),
    "05": (Script(reject=(Reject(1, 0x05, "no"),)), "InvalidApiCall", "status=0x05", True),
    "06": (Script(reject=(Reject(1, 0x06, "no"),)), "ServerFlushError", "status=0x06", True),
    "drop": (Script(drop=Drop(after_frames=1)), "FailoverRetry", ".", True),
    "drop before any batch": (Script(drop=Drop(after_frames=0)), "FailoverRetry", ".", None),  # False if seen in time
    "close": (Script(close=Close(1)), "FailoverRetry", ".", True),
    "text": (Script(answers=(Answer(0, "text"),)), "FailoverRetry", "text frame", True),
    "garbage": (Script(answers=(Answer(0, "garbage"),)), "FailoverRetry", "truncated", True),
    "refused": (Script(refuse=Refuse(503)), "SocketError", "503", False),
    "401": (Script(refuse=Refuse(401)), "AuthError", "401", False),
}


@pytest.mark.parametrize(("script", "code", "text", "in_doubt"), DATAFRAME_ERRORS.values(), ids=DATAFRAME_ERRORS)
def test_5_dataframe_errors_are_raised_and_not_retried(
    script: Script, code: str, text: str, in_doubt: bool | None
) -> None:
    frame = pd.DataFrame({"v": range(10)})
    with QwpServer(script=[Script(), script]) as server, connected(server.conf) as sender:
        with pytest.raises(QuestDBError, match=text) as caught:
            sender.dataframe(frame, table_name="t", at=questdb.ServerTimestamp, max_rows_per_batch=2)
        assert caught.value.code.name == code
        assert caught.value.sender_error is None
        assert in_doubt in (caught.value.in_doubt, None)
        assert len(server.connections) == 2  # the sender's own, and one for the call


# --- 8. Diagnostics ----


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


def test_8_without_a_handler_a_line_is_logged_for_each_rejection(caplog: pytest.LogCaptureFixture) -> None:
    scripts = [*[Script(reject=(Reject(0, 0x06, "no"),))] * 3, Script()]
    with QwpServer(script=scripts) as server, connected(server.conf + OFF + QUICK) as sender:
        assert sender.await_acked_fsn(send(sender), 5_000)
        sender.flush()
    lines = [record for record in caplog.records if record.name == "questdb"]
    assert [record.levelname for record in lines] == ["WARNING"] * 3
    assert all("category=internal_error policy=retriable" in record.getMessage() for record in lines)


def test_8_several_rejections_arrive_together() -> None:
    told: list[Any] = []
    scripts = [*[Script(reject=(Reject(0, 0x06, "no"),))] * 3, Script()]
    with QwpServer(script=scripts) as server, connected(server.conf + OFF + QUICK, error_handler=told.append) as sender:
        send(sender)
        server.wait_for_rows("t", 1)
        assert told == []
        sender.await_acked_fsn(0, 5_000)
        sender.flush()
        assert len(told) == 3


def test_8_await_with_a_timeout_of_0_waits_for_the_ack() -> None:
    with QwpServer() as server, connected(server.conf + OFF) as sender:
        server.hold_acks()
        fsn, found = send(sender), list[bool]()
        waiting = threading.Thread(target=lambda: found.append(sender.await_acked_fsn(fsn, 0)))
        waiting.start()
        waiting.join(NEVER_SECONDS)
        assert waiting.is_alive()
        server.release_acks()
        waiting.join()
        assert found == [True]


def test_8_acked_fsn_is_none_before_the_first_ack() -> None:
    with QwpServer() as server, connected(server.conf + OFF) as sender:
        server.hold_acks()
        send(sender)
        server.wait_for_messages(1)
        assert sender.acked_fsn() is None
        server.release_acks()
        assert sender.await_acked_fsn(0, 5_000)
        assert sender.acked_fsn() == 0


def test_8_poll_error_gives_the_entries_after_a_terminal_error() -> None:
    with rejecting(0x03, 0) as server, connected(server.conf + OFF) as sender:
        send(sender)
        with pytest.raises(QuestDBError):
            sender.await_acked_fsn(0, 5_000)
        assert sender.poll_error().status == 0x03
        assert sender.poll_error() is None


def test_8_connection_events() -> None:
    """One after the other; a Disconnected never has a cause, a failed attempt has a number, a code and a text."""
    listener = Recorder()
    with (
        QwpServer(port=free_port()) as server,
        QwpServer(port=free_port()) as second,
        connected(both(server, second) + OFF + QUICK, connection_listener=listener) as sender,
    ):
        sender.await_acked_fsn(send(sender, 1), 5_000)
        server.stop()
        sender.await_acked_fsn(send(sender, 2), 5_000)  # fails over
        second.stop()
        send(sender, 3)
        listener.wait_for(lambda event: event.kind.name == "AllEndpointsUnreachable")
        second.start()
        sender.await_acked_fsn(2, 5_000)
        listener.wait_for(lambda event: event.kind.name == "Reconnected")
    kinds = [event.kind.name for event in listener.told]
    attempts = [event for event in listener.told if event.kind.name == "EndpointAttemptFailed"]
    assert [kind for kind in kinds if kind not in ("EndpointAttemptFailed", "AllEndpointsUnreachable")] == [
        *("Connected", "Disconnected", "FailedOver", "Disconnected", "Reconnected")
    ]
    assert {event.cause_msg for event in listener.told if event.kind.name == "Disconnected"} == {None}
    assert {(event.cause_code.name, "refused" in event.cause_msg) for event in attempts} == {("SocketError", True)}
    assert all(event.attempt_number >= 1 for event in attempts)


def test_8_a_terminal_error_can_vanish_at_close() -> None:
    with rejecting(0x03, 0) as server:
        with questdb.Sender.from_conf(server.conf + OFF) as sender:
            send(sender)
            server.wait_for(lambda: server.connections[0].closed_by)
        assert values(server) == []  # and nothing was raised
