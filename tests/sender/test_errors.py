"""What a refusal does to the sender and its callers (behaviour.md 6): ERR-01, ERR-02, ERR-05 to ERR-09, ours.md 29c."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from spoolq import TimestampMicros
from spoolq.errors import (
    AuthError,
    BackpressureError,
    ClosedError,
    DeliveryTimeout,
    ServerRejection,
    SpoolqError,
    StorageError,
    fresh,
)
from spoolq.testing import Answer, QwpServer, Reject, Script

from .harness import Call, Recorder, StepClock, numbers, open_sender, publish, publish_unanswered, put


@pytest.fixture
def server() -> Iterator[QwpServer]:
    with QwpServer(script=Script(reject=(Reject(1, 3, "column n is a DATE"),))) as running:
        yield running


def test_ERR_01_a_terminal_rejection_makes_flush_raise_the_typed_error_with_its_payload(server: QwpServer) -> None:
    handler = Recorder()
    sender = open_sender(server, handler=handler)
    publish(sender, 0)
    publish_unanswered(server, sender, 1)
    handler.wait_for()
    with pytest.raises(ServerRejection, match=r"FSN 1.*column n is a DATE") as caught:
        sender.flush()  # with nothing buffered
    error = caught.value
    assert (error.category, error.policy, error.status) == ("schema_mismatch", "terminal", 3)
    assert (error.server_text, error.message_sequence) == ("column n is a DATE", 1)
    assert (error.from_fsn, error.to_fsn) == (1, 1)
    assert sender.must_close is True
    latched = sender.stats().last_terminal_error
    assert (type(latched), str(latched)) == (ServerRejection, str(error))
    with pytest.raises(ServerRejection):
        sender.close()
    assert numbers(server) == [0]


def test_ERR_02_every_row_call_raises_it(server: QwpServer) -> None:
    handler = Recorder()
    sender = open_sender(server, handler=handler)
    writer = sender.table("t", symbols=["s"], columns=["n"])
    publish(sender, 0)
    publish_unanswered(server, sender, 1)
    handler.wait_for()
    at = TimestampMicros(1)
    for call in (
        lambda: put(sender, 2),
        lambda: sender.rows("t", [("a", 1)], symbols=["s"], columns=["n"], at=at),
        lambda: writer.row("a", 1, at=at),
        lambda: writer.rows([("a", 1)], at=at),
        lambda: put(sender, 2),
        sender.flush,
        sender.flush_and_get_fsn,
        sender.wait,
        sender.drain,
        lambda: sender.await_acked_fsn(0),
    ):
        with pytest.raises(ServerRejection, match="DATE"):
            call()
    assert sender.stats().rows_buffered == 0
    with pytest.raises(ServerRejection):
        sender.close()


def test_ERR_05_a_terminal_rejection_is_no_outage_and_causes_no_attempt(server: QwpServer) -> None:
    handler = Recorder()
    sender = open_sender(server, handler=handler)
    publish(sender, 0)
    publish_unanswered(server, sender, 1)
    handler.wait_for()
    with pytest.raises(ServerRejection):
        sender.close()
    stats = sender.stats()
    assert (stats.total_connect_attempts, stats.total_reconnect_attempts) == (1, 0)
    assert len(server.connections) == 1


def test_ERR_06_the_error_is_latched_before_the_handler_runs(server: QwpServer) -> None:
    seen: list[object] = []
    done = threading.Event()

    def handler(event: object) -> None:
        for call in (sender.flush, lambda: put(sender, 9), lambda: sender.await_acked_fsn(1, 0)):
            try:
                seen.append(call())
            except ServerRejection as error:
                seen.append(error)
        seen.append(sender.must_close)
        done.set()

    for _ in range(20):
        seen.clear()
        done.clear()
        server.set_script(Script(reject=(Reject(0, 3, "no"),)))
        sender = open_sender(server, handler=handler)
        publish_unanswered(server, sender, 0)
        assert done.wait(10)
        assert [type(found) for found in seen] == [ServerRejection, ServerRejection, ServerRejection, bool]
        assert seen[3] is True
        with pytest.raises(ServerRejection):
            sender.close()


def test_ERR_06_nothing_is_told_before_it_is_latched_everywhere(server: QwpServer, monkeypatch) -> None:
    sender = open_sender(server)
    engine, seen = sender._engine, []
    real = engine.reports.take

    def take(report) -> None:
        seen.append((engine.progress.error, engine.rows.latched, sender.must_close))
        real(report)

    monkeypatch.setattr(engine.reports, "take", take)
    publish(sender, 0)
    publish_unanswered(server, sender, 1)
    with pytest.raises(ServerRejection):
        sender.close()
    latched = sender.stats().last_terminal_error
    assert latched is not None
    assert seen[0] == (latched, latched, True)


def test_ERR_07_a_rejection_logs_one_line_without_a_traceback(server: QwpServer, caplog) -> None:
    sender = open_sender(server)
    publish(sender, 0)
    publish_unanswered(server, sender, 1)
    with pytest.raises(ServerRejection):
        sender.close()
    lines = [record for record in caplog.records if record.name == "spoolq.errors"]
    assert [(record.levelno, record.exc_info) for record in lines] == [(logging.ERROR, None)]
    assert "FSN 1" in lines[0].getMessage()
    assert "DATE" in lines[0].getMessage()
    assert "\n" not in lines[0].getMessage()


def test_ERR_07_a_retriable_rejection_is_a_warning_of_one_line(server: QwpServer, caplog) -> None:
    server.set_script([Script(reject=(Reject(0, 6, "busy"),)), Script()])
    with open_sender(server) as sender:
        publish(sender, 0)
        sender.wait()
    lines = [record for record in caplog.records if record.name == "spoolq.errors"]
    assert [(record.levelno, record.exc_info) for record in lines] == [(logging.WARNING, None)]


def test_ERR_07_with_a_handler_nothing_is_logged_twice(server: QwpServer, caplog) -> None:
    handler = Recorder()
    sender = open_sender(server, handler=handler)
    publish(sender, 0)
    publish_unanswered(server, sender, 1)
    handler.wait_for()
    with pytest.raises(ServerRejection):
        sender.close()
    assert not [record for record in caplog.records if record.name == "spoolq.errors"]


def test_ERR_07_a_fault_of_the_client_logs_a_traceback_and_ends_the_sender(server: QwpServer, caplog) -> None:
    handler = Recorder()
    sender = open_sender(server, handler=handler)
    flushed = threading.Event()
    sender._engine.store.run = lambda *_: flushed.wait(10) / 0
    publish(sender, 0)
    flushed.set()
    event = handler.wait_for()
    assert (event.category, event.policy) == ("client_fault", "terminal")
    with pytest.raises(SpoolqError, match="ZeroDivisionError"):
        sender.flush()
    with pytest.raises(SpoolqError, match="ZeroDivisionError"):
        sender.close()
    assert [record for record in caplog.records if record.exc_info and "I/O thread" in record.getMessage()]
    assert len(handler.told) == 1


def test_ERR_07_a_fault_in_the_keeper_ends_the_sender_as_loudly(server: QwpServer, caplog, monkeypatch) -> None:
    """Without it nobody makes spares, keeps the flush deadline or syncs: nothing of that may end in silence."""
    told = Recorder()
    sender = open_sender(server, handler=told)
    monkeypatch.setattr(sender._engine.store, "keep_due_millis", lambda _: 1 // 0)
    sender._engine.keeper.wake()
    event = told.wait_for()
    assert event.category == "client_fault"
    with pytest.raises(SpoolqError, match="the keeper failed: ZeroDivisionError"):
        put(sender, 1)
    with pytest.raises(SpoolqError, match="the keeper failed"):
        sender.close()
    assert any(record.exc_info for record in caplog.records)


def test_ERR_08_await_acked_fsn_with_0_raises_a_latched_error(server: QwpServer) -> None:
    handler = Recorder()
    sender = open_sender(server, handler=handler)
    publish(sender, 0)
    assert sender.await_acked_fsn(0)
    publish_unanswered(server, sender, 1)
    handler.wait_for()
    for fsn in (0, 1, 2):  # also for one that is acked: the error comes first
        with pytest.raises(ServerRejection):
            sender.await_acked_fsn(fsn, 0)
    with pytest.raises(ServerRejection):
        sender.close()
    assert sender.acked_fsn() == 0, "the accessor never raises"


def test_ERR_08_a_wait_that_is_under_way_ends_with_the_error(server: QwpServer) -> None:
    clock = StepClock()
    sender = open_sender(server, clock=clock)
    publish(sender, 0)
    assert sender.await_acked_fsn(0)
    server.hold_acks()
    publish(sender, 1)
    waits = [Call(sender.await_acked_fsn, 1, 60_000)]
    clock.wait_for_wait(60_000)
    waits += [Call(sender.wait), Call(sender.drain), Call(sender.await_acked_fsn, 99)]
    server.release_acks()
    for call in waits:
        with pytest.raises(ServerRejection):
            call.outcome()
    with pytest.raises(ServerRejection):
        sender.close()


def test_ERR_09_the_acked_accessor_and_the_wait_work_with_flush_and_get_fsn(server: QwpServer) -> None:
    clock = StepClock()
    server.set_script(Script())
    with open_sender(server, clock=clock) as sender:
        assert (sender.published_fsn(), sender.ok_fsn(), sender.acked_fsn()) == (None, None, None)
        server.hold_acks()
        fsns = [publish(sender, number) for number in range(3)]
        assert fsns == [0, 1, 2]
        assert sender.published_fsn() == 2
        waiting = Call(sender.await_acked_fsn, 2, 500)
        clock.wait_for_wait(500)
        clock.advance(500)
        assert waiting.outcome() is False
        assert sender.await_acked_fsn(2, 0) is False
        assert sender.await_acked_fsn(2, -1) is False
        waiting = Call(sender.await_acked_fsn, 2)
        ahead = Call(sender.await_acked_fsn, 3)  # one that is not published yet is waited for
        server.release_acks()
        assert waiting.outcome() is True
        assert (sender.acked_fsn(), sender.ok_fsn()) == (2, 2)
        assert ahead.is_alive()
        publish(sender, 3)
        assert ahead.outcome() is True


@pytest.mark.parametrize("on_disk", [True, False])
def test_3_3_rows_that_a_stopped_sender_has_queued_on_a_slot_are_in_doubt(tmp_path: Path, on_disk: bool) -> None:
    """The next sender delivers them: resending would double them.  In memory they end with the sender."""
    handler = Recorder()
    with QwpServer(script=[Script(reject=(Reject(0, 3, "why"),)), Script()]) as server:
        server.hold_acks()
        slot = f"sf_dir={tmp_path};" if on_disk else ""
        sender = open_sender(server, slot, handler=handler)
        publish(sender, 0)
        put(sender, 1)
        server.release_acks()
        handler.wait_for()
        with pytest.raises(ServerRejection) as caught:
            sender.flush()
        assert sender.published_fsn() == 1
        assert caught.value.in_doubt is on_disk
        assert (caught.value.category, caught.value.from_fsn, caught.value.status) == ("schema_mismatch", 0, 3)
        with pytest.raises(ServerRejection) as caught:
            sender.flush()
        assert caught.value.in_doubt is False, "nothing of this call was queued"
        with pytest.raises(ServerRejection):
            sender.close()
        if on_disk:
            with open_sender(server, slot) as sender:
                sender.wait()
            assert numbers(server) == [0, 1]


def test_a_copy_says_all_that_the_error_said_and_is_the_calls_own() -> None:
    error = StorageError("cannot write it", errno=28, filename="f")
    error.add_note("once")
    error.__cause__ = OSError(28, "no space")
    copy = fresh(error, in_doubt=True)
    copy.add_note("twice")
    assert isinstance(copy, StorageError)
    assert (str(copy), copy.errno, copy.filename, copy.in_doubt) == ("cannot write it", 28, "f", True)
    assert (copy.__cause__, copy.__notes__) == (error.__cause__, ["once", "twice"])
    assert (error.in_doubt, error.__notes__) == (False, ["once"])
    assert fresh(copy).in_doubt is False
    for other in (
        BackpressureError("no room"),  # these are OSErrors too, and say what they were given
        AuthError("refused", status=401),
    ):
        same = fresh(other)
        assert (type(same), str(same), vars(same)) == (type(other), str(other), vars(other))


def test_3_3_a_latched_error_says_of_each_call_what_that_call_has_queued(server: QwpServer) -> None:
    """A split that published a part before the sender stopped is in doubt; the calls behind it are not."""
    server.set_script(Script(reject=(Reject(0, 3, "no"),)))
    sender = open_sender(server, "sf_max_segment_bytes=4096;sf_max_total_bytes=8192;close_flush_timeout_millis=0;")
    server.hold_acks()
    for number in range(12):
        sender.row("t", columns={"b": b"x" * 1500, "n": number}, at=TimestampMicros(number + 1))
    flushing = Call(sender.flush)
    server.wait_for_messages(2)  # the rest finds no room
    server.release_acks()
    with pytest.raises(ServerRejection) as caught:
        flushing.outcome()
    buffered = sender.stats().rows_buffered
    assert (caught.value.in_doubt, 0 < buffered < 12) == (True, True)
    latched = sender.stats().last_terminal_error
    assert latched is not None
    assert latched.in_doubt is False
    calls = (
        lambda: put(sender, 1),
        sender.flush,
        sender.wait,
        lambda: put(sender, 1),
        lambda: sender.close(flush=False),
    )
    for call in calls:
        with pytest.raises(ServerRejection) as caught:
            call()
        assert caught.value.in_doubt is False
    assert (latched.in_doubt, getattr(latched, "__notes__", [])) == (False, [])


@pytest.mark.parametrize("on_disk", [True, False])
@pytest.mark.parametrize("how", ["flush(wait=True)", "drain()"])
def test_3_3_a_wait_that_ends_by_an_error_is_in_doubt_when_its_call_has_published(
    tmp_path: Path, how: str, on_disk: bool
) -> None:
    """In memory, too: what this sender has published before it stopped may have been sent."""
    with QwpServer(script=Script(reject=(Reject(0, 3, "no"),))) as server:
        server.hold_acks()
        sender = open_sender(server, (f"sf_dir={tmp_path};" if on_disk else "") + "close_flush_timeout_millis=0;")
        publish(sender, 0)
        put(sender, 1)
        call = Call(sender.flush, wait=True) if how == "flush(wait=True)" else Call(sender.drain)
        server.wait_for_messages(2)
        server.release_acks()
        with pytest.raises(ServerRejection) as caught:
            call.outcome()
        assert (caught.value.in_doubt, sender.published_fsn(), sender.stats().rows_buffered) == (True, 1, 0)
        for again in (lambda: sender.flush(wait=True), sender.drain):
            with pytest.raises(ServerRejection) as caught:
                again()
            assert caught.value.in_doubt is False, "nothing of this call was queued"
        with pytest.raises(ServerRejection):
            sender.close()


@pytest.mark.parametrize("how", ["flush(wait=True)", "drain()"])
def test_3_3_a_close_that_ends_such_a_wait_leaves_it_in_doubt_too(server: QwpServer, how: str) -> None:
    server.hold_acks()
    sender = open_sender(server, "close_flush_timeout_millis=0;")
    put(sender, 0)
    call = Call(sender.flush, wait=True) if how == "flush(wait=True)" else Call(sender.drain)
    server.wait_for_messages(1)
    sender.close()
    with pytest.raises(ClosedError) as caught:
        call.outcome()
    assert caught.value.in_doubt is True


def test_29c_a_terminal_error_that_nobody_saw_names_the_undelivered_frames_at_close(server: QwpServer) -> None:
    server.set_script(Script(reject=(Reject(0, 5, "cannot be read"),)))
    sender = open_sender(server)
    server.hold_acks()
    for number in range(3):
        publish(sender, number)
    server.release_acks()
    with pytest.raises(ServerRejection, match="FSN 0"):
        sender.close()
    assert (sender.published_fsn(), sender.acked_fsn()) == (2, None)


def test_29c_handlers_run_as_things_happen_without_a_call_of_the_user(server: QwpServer) -> None:
    handler, listener = Recorder(), Recorder()
    server.set_script([Script(), Script()])
    sender = open_sender(server, handler=handler, listener=listener)
    listener.wait_for(lambda event: event.kind == "connected")
    server.drop_connections()
    listener.wait_for(lambda event: event.kind == "disconnected")
    listener.wait_for(lambda event: event.kind == "reconnected")
    sender.close()


def test_a_poisoned_frame_ends_the_sender_and_names_what_was_said(server: QwpServer) -> None:
    server.set_script(Script(reject=(Reject(0, 6, "always"),)))
    handler = Recorder()
    sender = open_sender(server, "max_frame_rejections=3;poison_min_escalation_window_millis=0;", handler=handler)
    publish_unanswered(server, sender, 0)
    event = handler.wait_for(lambda event: event.policy == "terminal")
    assert (event.category, event.from_fsn) == ("protocol_violation", 0)
    assert sum(event.policy == "terminal" for event in handler.told) == 1
    with pytest.raises(ServerRejection, match="always"):
        sender.close()
    assert len(server.connections) == 3


@pytest.mark.parametrize("kind", ["text", "masked", "rsv"])
def test_broken_framing_is_terminal_and_told_once(server: QwpServer, kind: str) -> None:
    server.set_script(Script(answers=(Answer(0, kind),)))
    handler = Recorder()
    sender = open_sender(server, handler=handler)
    publish_unanswered(server, sender, 0)
    assert handler.wait_for().category == "protocol_violation"
    with pytest.raises(ServerRejection, match="WebSocket protocol"):
        sender.close()
    assert len(handler.told) == 1


def test_delivery_timeouts_leave_the_sender_usable(server: QwpServer) -> None:
    server.set_script(Script())
    clock = StepClock()
    with open_sender(server, clock=clock) as sender:
        server.hold_acks()
        publish(sender, 0)
        waiting = Call(sender.wait, 300)
        clock.wait_for_wait(300)
        clock.advance(300)
        with pytest.raises(DeliveryTimeout, match="stay queued") as caught:
            waiting.outcome()
        assert (caught.value.published_fsn, caught.value.acked_fsn) == (0, -1)
        server.release_acks()
        sender.wait()
