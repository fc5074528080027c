"""A full queue (behaviour.md 3.4): BP-01 to BP-03."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from spoolq import Sender, TimestampMicros
from spoolq.errors import BackpressureError, ClosedError, DeliveryTimeout, ServerRejection
from spoolq.testing import QwpServer, Reject, Script

from .harness import Call, StepClock, open_sender

_SMALL = "sf_max_segment_bytes=65536;sf_max_total_bytes=131072;sf_append_deadline_millis=20000;"
_LEAVES = "close_flush_timeout_millis=0;"  # a test that fails does not wait for acks that it holds, on its own clock


@pytest.fixture
def server() -> Iterator[QwpServer]:
    with QwpServer() as running:
        yield running


def _big(sender: Sender, *numbers: int) -> None:
    for number in numbers:
        sender.row("t", columns={"b": b"x" * 60_000, "n": number}, at=TimestampMicros(number + 1))
        sender.flush()


def _landed(server: QwpServer) -> list[int]:
    return [row["n"] for row in server.store.rows("t")]


def test_BP_01_a_full_cap_raises_at_the_deadline_and_the_rows_stay(server: QwpServer) -> None:
    clock = StepClock()
    with open_sender(server, _SMALL + _LEAVES, clock=clock) as sender:
        server.hold_acks()
        _big(sender, 0, 1)
        call = Call(_big, sender, 2)
        clock.wait_for_wait(20_000)
        clock.advance(19_999)
        assert call.is_alive()
        clock.advance(1)
        with pytest.raises(BackpressureError, match=r"60\d\d\d bytes within 20000 ms: 2 frames.*up but slow") as caught:
            call.outcome()
        assert caught.value.in_doubt is False
        assert (sender.stats().rows_buffered, sender.published_fsn()) == (1, 1)
        server.release_acks()
        sender.flush(wait=True)
    assert _landed(server) == [0, 1, 2]


def test_BP_01_the_error_says_when_there_is_no_connection(server: QwpServer) -> None:
    clock = StepClock()
    slow = "reconnect_initial_backoff_millis=1000;reconnect_max_backoff_millis=1000;close_flush_timeout_millis=0;"
    sender = open_sender(server, _SMALL + slow, clock=clock)
    server.refuse_new(503)
    server.hold_acks()
    _big(sender, 0, 1)
    server.wait_for_rows("t", 2)
    server.drop_connections()
    clock.wait_for_poll(lambda timeout: timeout is not None and timeout > 1)
    call = Call(_big, sender, 2)
    clock.wait_for_wait(20_000)
    clock.advance(20_000)
    with pytest.raises(BackpressureError, match=r"no connection for \d+ ms, \d+ attempts"):
        call.outcome()
    sender.close(flush=False)


def test_BP_01_an_auto_flush_raises_it_out_of_the_row_call(server: QwpServer) -> None:
    clock = StepClock()
    with open_sender(server, _SMALL + "auto_flush_rows=1;", clock=clock) as sender:
        server.hold_acks()
        columns = {"b": b"x" * 60_000}
        for number in (0, 1):
            sender.row("t", columns={**columns, "n": number}, at=TimestampMicros(number + 1))
        assert sender.published_fsn() == 1
        call = Call(sender.row, "t", columns={**columns, "n": 2}, at=TimestampMicros(3))
        clock.wait_for_wait(20_000)
        clock.advance(20_000)
        with pytest.raises(BackpressureError, match="earlier calls are kept: try again") as caught:
            call.outcome()
        assert (caught.value.in_doubt, sender.stats().rows_buffered) == (False, 0), "the row was not taken"
        assert "was not taken: it may be repeated" in caught.value.__notes__[0]
        server.release_acks()
        sender.wait()
        sender.row("t", columns={**columns, "n": 2}, at=TimestampMicros(3))  # as the error allows
    assert _landed(server) == [0, 1, 2], "once"


def test_3_3_the_row_that_trips_a_failing_auto_flush_is_undone_and_the_rows_before_it_are_kept(
    server: QwpServer,
) -> None:
    with open_sender(server, _SMALL + "auto_flush_rows=3;sf_append_deadline_millis=1;") as sender:
        server.hold_acks()
        _big(sender, 0, 1)
        columns = {"b": b"x" * 30_000}
        sender.row("t", columns={**columns, "n": 2}, at=TimestampMicros(3))
        sender.row("t", columns={**columns, "n": 3}, at=TimestampMicros(4))
        for _ in range(3):
            with pytest.raises(BackpressureError) as caught:
                sender.row("t", symbols={"s": "new"}, columns={**columns, "n": 4}, at=TimestampMicros(5))
            assert (caught.value.in_doubt, sender.stats().rows_buffered) == (False, 2)
        with pytest.raises(BackpressureError) as caught:
            sender.rows("t", [(b"", 9, TimestampMicros(9))], columns=["b", "n"])
        assert (caught.value.in_doubt, caught.value.rows_taken, sender.stats().rows_buffered) == (False, 0, 2)
        server.release_acks()
        sender.wait()
        sender.row("t", columns={**columns, "n": 4}, at=TimestampMicros(5))
    assert _landed(server) == [0, 1, 2, 3, 4]


def test_3_3_a_row_that_a_failing_auto_flush_has_published_is_in_doubt(server: QwpServer) -> None:
    """Its table went out as one part of a split, and the next part found no room."""
    with open_sender(server, _SMALL + "auto_flush_rows=3;sf_append_deadline_millis=1;") as sender:
        server.hold_acks()
        _big(sender, 0)
        sender.row("t", columns={"b": b"x" * 30_000, "n": 1}, at=TimestampMicros(2))
        sender.row("u", columns={"b": b"x" * 60_000, "n": 2}, at=TimestampMicros(3))
        with pytest.raises(BackpressureError) as caught:
            sender.row("t", columns={"b": b"x" * 20_000, "n": 3}, at=TimestampMicros(4))
        assert (caught.value.in_doubt, sender.published_fsn(), sender.stats().rows_buffered) == (True, 1, 1)
        assert "is published: do not repeat it" in caught.value.__notes__[0]
        server.release_acks()
        sender.wait()  # so that close() finds room at once
    assert (_landed(server), server.store.count("u")) == ([0, 1, 3], 1)


@pytest.mark.parametrize("extra", ["auto_flush=off;", "auto_flush_bytes=64k;auto_flush_rows=off;"])
def test_max_buf_size_is_a_limit_for_a_caller_that_goes_on_after_the_error(server: QwpServer, extra: str) -> None:
    full = "sf_max_segment_bytes=65536;sf_max_total_bytes=131072;sf_append_deadline_millis=1;max_buf_size=100k;"
    with open_sender(server, full + extra, base="auto_flush_interval=off;") as sender:
        server.hold_acks()
        taken, refused = [], 0
        for number in range(600):
            try:
                sender.row(
                    "t", symbols={"s": f"s{number}"}, columns={"b": b"x" * 1000, "n": number}, at=TimestampMicros(1)
                )
                taken.append(number)
            except BackpressureError:
                refused += 1
        assert refused > 300
        assert sender._engine.rows.nbytes < 100 << 10
        server.release_acks()
        sender.wait()  # there is room now, and a millisecond would be short for it
        sender.flush(wait=True)
    assert _landed(server) == taken


def test_BP_02_an_ack_during_the_wait_lets_it_through(server: QwpServer) -> None:
    clock = StepClock()
    with open_sender(server, _SMALL + _LEAVES, clock=clock) as sender:
        server.hold_acks()
        _big(sender, 0, 1)
        for number in (2, 3, 4):
            call = Call(_big, sender, number)
            clock.wait_for_wait(20_000)
            server.release_acks()
            call.outcome()
            sender.wait()  # a frame that the server has yet to read would be held, and leave no room below
            server.hold_acks()
            if number < 4:
                _big(sender, number + 100)
                server.wait_for_rows("t", 0)
                sender.flush()
            server.release_acks()
            sender.wait()
            server.hold_acks()
            _big(sender, number + 200, number + 300)
        assert clock.now_millis() == 1_000, "no time had to pass"
        server.release_acks()


def test_BP_03_one_stall_counts_once_and_warns_at_most_every_5_s(server: QwpServer, caplog, monkeypatch) -> None:
    clock = StepClock()
    with open_sender(server, _SMALL + _LEAVES, clock=clock) as sender:
        server.hold_acks()
        _big(sender, 0, 1)
        assert sender.stats().total_backpressure_stalls == 0
        call = Call(_big, sender, 2)
        clock.wait_for_wait(20_000)
        looked = threading.Semaphore(0)
        store, real = sender._engine.store, sender._engine.store.reserve

        def reserve(nbytes: int):
            looked.release()
            return real(nbytes)

        monkeypatch.setattr(store, "reserve", reserve)
        for _ in range(120):  # 12 s of wakes that bring no room
            clock.advance(100)
            sender._engine.progress.advanced()
            assert looked.acquire(timeout=10)
        clock.wait_for_wait(8_000)
        stats = sender.stats()
        assert stats.total_backpressure_stalls == 1
        lines = [record for record in caplog.records if "waits for room" in record.getMessage()]
        assert len(lines) == 3, "at 0, 5 and 10 s"
        server.release_acks()
        call.outcome()
        sender.wait()
        server.hold_acks()
        _big(sender, 3, 4)
        call = Call(_big, sender, 5)
        clock.wait_for_wait(20_000)
        assert sender.stats().total_backpressure_stalls == 2
        server.release_acks()
        call.outcome()


def test_BP_03_a_split_that_waits_for_each_part_is_one_stall(server: QwpServer) -> None:
    clock = StepClock()
    with open_sender(server, _SMALL, clock=clock) as sender:
        for number in range(8):
            sender.row("t", columns={"b": b"x" * 60_000, "n": number}, at=TimestampMicros(number + 1))
        server.hold_acks()
        call = Call(sender.flush)
        clock.wait_for_wait(20_000)
        server.release_acks()
        call.outcome()
        assert sender.stats().total_backpressure_stalls == 1


def test_BP_03_the_tries_of_the_timer_block_nobody_and_are_no_stalls(server: QwpServer) -> None:
    clock = StepClock()
    with open_sender(server, _SMALL + "auto_flush_interval=100;", clock=clock) as sender:
        server.hold_acks()
        _big(sender, 0, 1)
        sender.row("t", columns={"b": b"x" * 60_000, "n": 2}, at=TimestampMicros(3))
        for _ in range(20):
            clock.wait_for_wait(100)
            clock.advance(100)
        clock.wait_for_wait(100)
        waiting, stalls = sender.stats().rows_buffered, sender.stats().total_backpressure_stalls
        server.release_acks()
    assert (waiting, stalls) == (1, 0)


def test_a_terminal_error_ends_the_wait_for_room(server: QwpServer) -> None:
    server.set_script(Script(reject=(Reject(0, 3, "no such type"),)))
    sender = open_sender(server, _SMALL)
    server.hold_acks()
    _big(sender, 0, 1)
    call = Call(_big, sender, 2)
    server.release_acks()
    with pytest.raises(ServerRejection):
        call.outcome()
    with pytest.raises(ServerRejection):
        sender.close()


def test_close_ends_the_wait_for_room_with_a_closed_error(server: QwpServer) -> None:
    clock = StepClock()
    sender = open_sender(server, _SMALL, clock=clock)
    server.hold_acks()
    _big(sender, 0, 1)
    call = Call(_big, sender, 2)
    clock.wait_for_wait(20_000)
    sender_closed = Call(sender.close)
    with pytest.raises(ClosedError):
        call.outcome()
    clock.wait_for_wait(20_000)  # close itself may wait for room
    server.release_acks()
    sender_closed.outcome()
    assert _landed(server) == [0, 1, 2]


def test_frames_of_a_split_go_out_while_the_rest_waits_for_room(server: QwpServer) -> None:
    """The sleeping I/O thread must be woken by the first parts, or the wait for room never ends."""
    clock = StepClock()
    with open_sender(server, _SMALL, clock=clock) as sender:
        clock.asleep()
        for number in range(8):
            sender.row("t", columns={"b": b"x" * 60_000, "n": number}, at=TimestampMicros(number + 1))
        Call(sender.flush).outcome()
        assert sender.published_fsn() == 7
        sender.wait()
    assert _landed(server) == list(range(8))


def test_a_wait_counts_only_time_without_progress(server: QwpServer) -> None:
    clock = StepClock()
    with open_sender(server, clock=clock) as sender:
        server.hold_acks()
        for number in range(3):
            sender.row("t", columns={"n": number}, at=TimestampMicros(number + 1))
            sender.flush()
        server.wait_for_messages(3)
        waiting = Call(sender.wait, 1_000)
        store = sender._engine.store
        for number in range(2):
            clock.wait_for_wait(1_000)
            clock.advance(900)
            store.acknowledge(number)  # progress: the 1,000 ms start anew
            sender._engine.progress.advanced()
        clock.wait_for_wait(1_000)
        clock.advance(999)
        assert waiting.is_alive()
        clock.advance(1)
        with pytest.raises(DeliveryTimeout, match="within 1000 ms"):
            waiting.outcome()
        server.release_acks()
