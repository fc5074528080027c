"""The flush deadline (ours.md 12): TMR-01 to TMR-03, on a clock that the test moves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from spoolq import Sender, TimestampMicros
from spoolq.delivery import actions
from spoolq.errors import BackpressureError, ServerRejection, SpoolqError
from spoolq.testing import QwpServer

from .harness import Call, StepClock, numbers, open_sender, publish, put, until

_SMALL = "sf_max_segment_bytes=65536;sf_max_total_bytes=131072;sf_append_deadline_millis=1000;"


@pytest.fixture
def server() -> Iterator[QwpServer]:
    with QwpServer() as running:
        yield running


def _fill(server: QwpServer, sender: Sender) -> None:
    """Two frames that the server does not ack: no room for a third one."""
    server.hold_acks()
    for number in (0, 1):
        sender.row("t", columns={"b": b"x" * 60_000, "n": number}, at=TimestampMicros(number + 1))
        sender.flush()


def _big(sender: Sender, number: int) -> None:
    sender.row("t", columns={"b": b"x" * 60_000, "n": number}, at=TimestampMicros(number + 1))


def _landed(server: QwpServer) -> list[int]:
    return [row["n"] for row in server.store.rows("t")]


def test_TMR_01_the_deadline_fires_without_further_calls(server: QwpServer) -> None:
    clock = StepClock()
    with open_sender(server, "auto_flush_interval=250;", clock=clock) as sender:
        put(sender, 0)
        clock.wait_for_wait(250)
        clock.advance(100)
        put(sender, 1)  # the deadline is the first row's
        clock.advance(149)
        assert (sender.stats().rows_buffered, sender.published_fsn()) == (2, None)
        clock.advance(1)
        server.wait_for_rows("t", 2)
        assert sender.await_acked_fsn(0)
        until(lambda: sender.stats().total_timer_flushes == 1)  # counted behind the publish
        assert sender.stats().rows_buffered == 0
        put(sender, 2)  # and it starts anew with the next first row
        clock.wait_for_wait(250)
        clock.advance(250)
        server.wait_for_rows("t", 3)


def test_TMR_01_a_flush_takes_the_rows_away_from_the_deadline(server: QwpServer) -> None:
    clock = StepClock()
    with open_sender(server, "auto_flush_interval=250;", clock=clock) as sender:
        put(sender, 0)
        clock.wait_for_wait(250)
        clock.advance(200)
        sender.flush()
        put(sender, 1)
        clock.advance(100)  # beyond the first row's deadline, not the second's
        clock.wait_for_wait(150)
        assert sender.stats().rows_buffered == 1
        assert sender.stats().total_timer_flushes == 0


def test_TMR_02_a_failing_timer_flush_keeps_the_rows_counts_and_logs_at_most_every_5_s(
    server: QwpServer, caplog
) -> None:
    clock = StepClock()
    with open_sender(server, "auto_flush_interval=100;" + _SMALL, clock=clock) as sender:
        _fill(server, sender)
        _big(sender, 2)
        clock.wait_for_wait(100)
        for _ in range(62):  # each try fails; for the first second the append deadline is still running
            clock.advance(100)
            clock.wait_for_wait(100)
        stats = sender.stats()
        assert stats.rows_buffered == 1
        assert stats.total_timer_flush_failures == 52
        lines = [record for record in caplog.records if "a timed flush failed" in record.getMessage()]
        assert len(lines) == 2, "one when the deadline is over, one 5 s later"
        server.release_acks()
        assert sender.await_acked_fsn(1)
        clock.advance(100)
        server.wait_for_rows("t", 3)
        _big(sender, 3)  # a retry succeeded: rows are taken again
    assert _landed(server) == [0, 1, 2, 3]


def _failed(server: QwpServer, clock: StepClock, sender: Sender) -> None:
    """A timer flush has failed for a whole append deadline."""
    _fill(server, sender)
    _big(sender, 2)
    clock.wait_for_wait(100)
    clock.advance(100)
    clock.wait_for_wait(100)
    clock.advance(1_000)
    clock.wait_for_wait(100)
    assert sender.stats().total_timer_flush_failures == 1


def test_TMR_02_the_next_row_raises_what_the_timer_flush_failed_with(server: QwpServer) -> None:
    clock = StepClock()
    with open_sender(server, "auto_flush_interval=100;" + _SMALL, clock=clock) as sender:
        _failed(server, clock, sender)
        with pytest.raises(BackpressureError, match=r"^no room for a frame of \d+ bytes: .*rows are still") as caught:
            put(sender, 3)
        assert caught.value.in_doubt is False
        notes = getattr(caught.value, "__notes__", [])
        assert sender.stats().rows_buffered == 1, "the refused row is not buffered, the others are kept"
        server.release_acks()
        sender.flush(wait=True)  # a flush that works mends it
        _big(sender, 3)
    assert _landed(server) == [0, 1, 2, 3]
    assert len(notes) == 1
    assert "the row of this call was not taken: it may be repeated" in notes[0]


def test_TMR_02_the_next_flush_raises_it(server: QwpServer) -> None:
    clock = StepClock()
    with open_sender(server, "auto_flush_interval=100;" + _SMALL, clock=clock) as sender:
        _failed(server, clock, sender)
        call = Call(sender.flush)
        clock.wait_for_wait(1_000)
        clock.advance(1_000)
        with pytest.raises(BackpressureError):
            call.outcome()
        server.release_acks()
    assert _landed(server) == [0, 1, 2]


def test_TMR_02_close_raises_it(server: QwpServer) -> None:
    clock = StepClock()
    sender = open_sender(server, "auto_flush_interval=100;close_flush_timeout_millis=0;" + _SMALL, clock=clock)
    _failed(server, clock, sender)
    call = Call(sender.close)
    clock.wait_for_wait(1_000)
    clock.advance(1_000)
    with pytest.raises(BackpressureError, match=r"within 1000 ms: .* close\(\) gives the buffered rows up") as caught:
        call.outcome()
    assert "still buffered" not in str(caught.value)


def test_TMR_02_a_fault_of_ours_in_a_timer_flush_is_kept_for_the_caller_too(server: QwpServer, monkeypatch) -> None:
    clock = StepClock()
    with open_sender(server, "auto_flush_interval=100;", clock=clock) as sender:
        real = sender._engine.publisher.publish
        with monkeypatch.context() as patched:
            patched.setattr(sender._engine.publisher, "publish", lambda **_: 1 / 0)
            put(sender, 0)
            clock.wait_for_wait(100)
            clock.advance(100)
            clock.wait_for_wait(100)
            with pytest.raises(SpoolqError, match="ZeroDivisionError"):
                put(sender, 1)
        assert sender._engine.publisher.publish == real
        sender.flush()
        put(sender, 1)
    assert numbers(server) == [0, 1]


def test_TMR_02_a_failed_timer_flush_does_not_hide_a_terminal_error(server: QwpServer) -> None:
    clock = StepClock()
    sender = open_sender(server, "auto_flush_interval=100;close_flush_timeout_millis=0;" + _SMALL, clock=clock)
    _failed(server, clock, sender)
    error = ServerRejection("refused", category="schema_mismatch")
    sender._engine._latched(actions.Latch(error))
    clock.advance(100)
    clock.wait_for_wait(100)
    with pytest.raises(ServerRejection):
        put(sender, 3)
    sender._engine._timer_failed(None)
    with pytest.raises(ServerRejection):
        put(sender, 3)
    with pytest.raises(ServerRejection):
        sender.close()


@pytest.mark.parametrize("off", ["auto_flush_interval=off;", "auto_flush_interval=0;", "auto_flush=off;"])
def test_TMR_03_off_means_no_deadline(server: QwpServer, off: str) -> None:
    clock = StepClock()
    with open_sender(server, off, clock=clock) as sender:
        put(sender, 0)
        clock.advance(1_000_000)
        assert sender._engine.keeper._due_millis() is None, "the keeper waits without a limit"
        assert (sender.stats().rows_buffered, sender.published_fsn()) == (1, None)
        publish(sender, 1)
    assert numbers(server) == [0, 1]


def test_TMR_03_on_by_default(server: QwpServer) -> None:
    clock = StepClock()
    with open_sender(server, clock=clock, base="") as sender:
        put(sender, 0)
        clock.wait_for_wait(100)
        clock.advance(100)
        server.wait_for_rows("t", 1)
