"""Batches above a limit, at the level of the sender (behaviour.md 3.5): SPL-01 to SPL-05 in memory mode."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from spoolq import TimestampMicros
from spoolq.errors import BackpressureError, DeliveryTimeout, FrameTooLarge, ServerRejection
from spoolq.testing import QwpServer, Script

from .harness import Call, LeapClock, Recorder, StepClock, free_port, numbers, open_sender, publish, put


@pytest.fixture
def server() -> Iterator[QwpServer]:
    with QwpServer() as running:
        yield running


def _rows(sender, first: int, end: int, nbytes: int, table: str = "t") -> None:
    sender.rows(
        table,
        [(f"sym-{number % 50}", number, b"x" * nbytes, TimestampMicros(number + 1)) for number in range(first, end)],
        symbols=["s"],
        columns=["n", "b"],
    )


def test_SPL_01_many_megabytes_written_before_there_is_a_server_all_arrive() -> None:
    late = QwpServer(port=free_port(), record_nbytes_max=0)
    with open_sender(
        f"ws::addr=127.0.0.1:{late.port};", "initial_connect_retry=async;sf_max_total_bytes=256m;max_buf_size=200m;"
    ) as sender:
        for first in range(0, 50_000, 10_000):  # 5 flushes of 20 MB each, far above any frame
            _rows(sender, first, first + 10_000, 2_000)
            sender.flush()
        stats = sender.stats()
        assert (stats.rows_buffered, stats.published_fsn is not None) == (0, True)
        with late:
            sender.wait()
            assert late.store.count("t") == 50_000
            assert [row["n"] for row in late.store.rows("t")] == list(range(50_000))
            assert all(record.closed_by is None for record in late.connections), "no frame was above the cap"
            assert sender.stats().total_server_errors == 0
            sender.close()


def test_SPL_02_a_row_too_large_for_any_frame_is_refused_when_it_ends(server: QwpServer) -> None:
    with open_sender(server) as sender:
        put(sender, 0)
        with pytest.raises(FrameTooLarge, match="table 't'") as caught:
            sender.row("t", columns={"b": b"x" * (3 << 20)}, at=TimestampMicros(1))
        assert caught.value.size > caught.value.limit > 2_000_000
        assert sender.stats().rows_buffered == 1
        put(sender, 1)
    assert numbers(server) == [0, 1]


def test_SPL_02_the_limit_is_the_segments_when_that_is_smaller(server: QwpServer) -> None:
    with open_sender(server, "sf_max_segment_bytes=65536;") as sender:
        put(sender, 0)
        with pytest.raises(FrameTooLarge):
            sender.row("t", columns={"b": b"x" * 65_600}, at=TimestampMicros(1))
        sender.row("t", columns={"b": b"x" * 60_000}, at=TimestampMicros(1))
        sender.flush(wait=True)
    assert server.store.count("t") == 2


def test_SPL_03_many_tables_in_one_flush(server: QwpServer) -> None:
    with open_sender(server, "sf_max_segment_bytes=65536;") as sender:
        for number in range(3_000):
            put(sender, number, table=f"table_{number % 300}")
        fsn = sender.flush_and_get_fsn()
        assert fsn is not None
        assert fsn > 0, "more than one frame"
        assert sender.await_acked_fsn(fsn)
    for table in range(300):
        assert numbers(server, f"table_{table}") == list(range(table, 3_000, 300))


def test_SPL_04_a_split_that_stops_in_the_middle_says_in_doubt_and_keeps_the_rest(server: QwpServer) -> None:
    clock = StepClock()
    settings = "sf_max_segment_bytes=65536;sf_max_total_bytes=131072;sf_append_deadline_millis=1000;"
    with open_sender(server, settings, clock=clock) as sender:
        server.hold_acks()
        _rows(sender, 0, 10, 30_000)
        put(sender, 7, table="other")
        call = Call(sender.flush)
        clock.wait_for_wait(1_000)
        clock.advance(1_000)
        with pytest.raises(BackpressureError) as caught:
            call.outcome()
        assert caught.value.in_doubt is True
        published, kept = sender.published_fsn(), sender.stats().rows_buffered
        assert published is not None
        assert 0 < kept < 11
        server.wait_for_rows("t", 11 - kept)
        assert server.store.count("t") == 11 - kept, "what is gone from the buffer is at the server"
        for _ in range(3):  # tries again; a smaller part may still find room
            published = sender.published_fsn()
            again = Call(sender.flush)
            clock.wait_for_wait(1_000)
            clock.advance(1_000)
            with pytest.raises(BackpressureError) as caught:
                again.outcome()
            assert caught.value.in_doubt is (sender.published_fsn() != published)
        assert caught.value.in_doubt is False, "nothing of this call was queued"
        server.release_acks()
        sender.flush(wait=True)
    assert [row["n"] for row in server.store.rows("t")] == list(range(10))
    assert numbers(server, "other") == [7]


def test_SPL_04_a_failed_auto_flush_that_published_a_part_says_so_too(server: QwpServer, monkeypatch) -> None:
    with open_sender(server, "sf_max_segment_bytes=65536;") as sender:
        _rows(sender, 0, 10, 30_000)
        store, real, calls = sender._engine.store, sender._engine.store.publish, [0]

        def fail_third(room):
            calls[0] += 1
            if calls[0] == 3:
                raise RuntimeError("third")
            return real(room)

        with monkeypatch.context() as patched:
            patched.setattr(store, "publish", fail_third)
            with pytest.raises(RuntimeError) as caught:
                sender.flush()
        assert caught.value.in_doubt is True
        sender.flush(wait=True)
    assert [row["n"] for row in server.store.rows("t")] == list(range(10)), "each row once"


def test_SPL_05_a_cap_that_shrinks_bounds_what_is_published_from_then_on(server: QwpServer) -> None:
    server.set_script([Script(), Script(cap_nbytes=20_000)])
    listener = Recorder()
    with open_sender(server, listener=listener) as sender:
        _rows(sender, 0, 20, 10_000)
        sender.flush(wait=True)
        server.drop_connections()
        listener.wait_for(lambda event: event.kind == "reconnected")
        _rows(sender, 20, 40, 10_000)
        with pytest.raises(FrameTooLarge):
            _rows(sender, 40, 41, 30_000)
        sender.flush(wait=True)
        assert max(map(len, server.connections[1].messages)) <= 20_000
    assert [row["n"] for row in server.store.rows("t")] == list(range(40))


def test_SPL_05_rows_buffered_under_the_old_cap_are_split_for_the_new_one(server: QwpServer) -> None:
    server.set_script([Script(), Script(cap_nbytes=20_000)])
    listener = Recorder()
    with open_sender(server, listener=listener) as sender:
        _rows(sender, 0, 20, 10_000)
        server.drop_connections()
        listener.wait_for(lambda event: event.kind == "reconnected")
        sender.flush(wait=True)
    assert [row["n"] for row in server.store.rows("t")] == list(range(20))


@pytest.mark.parametrize("timer", [False, True])
def test_SPL_05_a_row_buffered_under_the_old_cap_that_no_longer_fits_blocks_no_call_and_no_other_row_of_its_batch(
    server: QwpServer, timer: bool, caplog
) -> None:
    """It is stored, and waits for an endpoint that takes it (ours.md 6); the other tables go ahead of it."""
    server.set_script([Script(), Script(cap_nbytes=20_000), Script(cap_nbytes=20_000), Script()])
    listener, clock = Recorder(), LeapClock()
    interval = "auto_flush_interval=100;" if timer else ""
    with open_sender(server, interval, listener=listener, clock=clock) as sender:
        sender.row("big", columns={"n": 0}, at=TimestampMicros(1))
        sender.row("big", columns={"n": 1, "b": b"x" * 30_000}, at=TimestampMicros(1))
        sender.row("big", columns={"n": 2}, at=TimestampMicros(1))
        put(sender, *range(10))
        server.drop_connections()
        listener.wait_for(lambda event: event.kind == "reconnected")
        if timer:
            clock.advance(100)
            server.wait_for_rows("t", 10)
        else:
            sender.flush()
        put(sender, 10)
        sender.flush()
        assert sender.stats().rows_buffered == 0
        sender.wait()
    assert numbers(server) == list(range(11))
    assert [row["n"] for row in server.store.rows("big")] == [0, 1, 2]
    small = [max(map(len, record.messages), default=0) for record in server.connections[1:3]]
    assert small[0] > 0, "the other table and the rows before it went there"
    assert max(small) <= 20_000
    assert "not sent there" in caplog.text
    assert sender.stats().last_terminal_error is None


def test_SPL_05_a_symbol_buffered_under_the_old_cap_is_stored_too(server: QwpServer) -> None:
    server.set_script([Script(), Script(cap_nbytes=1_000), Script()])
    listener = Recorder()
    with open_sender(server, listener=listener) as sender:
        put(sender, 0)
        sender.row("t", symbols={"s": "sym-1" + "y" * 2_000}, columns={"n": 1}, at=TimestampMicros(1))
        server.drop_connections()
        listener.wait_for(lambda event: event.kind == "reconnected")
        sender.flush(wait=True)
    assert [row["n"] for row in server.store.rows("t")] == [0, 1]


def test_SPL_05_close_leaves_such_a_row_in_the_slot_for_the_next_sender(server: QwpServer, tmp_path: Path) -> None:
    server.set_script([Script(), Script(cap_nbytes=20_000)])
    listener = Recorder()
    sender = open_sender(server, f"sf_dir={tmp_path};close_flush_timeout_millis=1;", listener=listener)
    sender.row("big", columns={"b": b"x" * 30_000, "n": 1}, at=TimestampMicros(1))
    put(sender, 0)
    server.drop_connections()
    listener.wait_for(lambda event: event.kind == "reconnected")
    with pytest.raises(DeliveryTimeout, match="they stay in the slot"):
        sender.close()
    server.set_script(Script())
    with open_sender(server, f"sf_dir={tmp_path};") as sender:
        sender.wait()
    assert [row["n"] for row in server.store.rows("big")] == [1]
    assert set(numbers(server)) == {0}, "again, where the first sender did not wait for its acknowledgement"


def test_SPL_05_a_published_frame_above_the_new_cap_is_not_sent_there_and_kept(server: QwpServer, caplog) -> None:
    server.set_script([Script(), Script(cap_nbytes=20_000)])
    listener = Recorder()
    with open_sender(server, listener=listener) as sender:
        publish(sender, 0)
        sender.wait()
        server.refuse_new(503)
        server.drop_connections()
        publish(sender, 1)
        sender.row("t", columns={"n": 2, "b": b"x" * 30_000}, symbols={"s": "sym-2"}, at=TimestampMicros(3))
        sender.flush()
        publish(sender, 3)
        server.accept_new()
        listener.wait_for(lambda event: event.kind == "disconnected" and "at most 20000" in event.cause)
        server.set_script(Script())
        sender.wait()
    assert numbers(server) == [0, 1, 2, 3]
    for record in server.connections:
        assert record.closed_by != "server_close", "the server never had to refuse one that is too large"
    assert "not sent there" in caplog.text


def test_SPL_05_a_symbol_above_the_new_cap_is_looked_for_an_endpoint_that_takes_it(server: QwpServer) -> None:
    server.set_script([Script(), Script(cap_nbytes=1_000), Script()])
    with open_sender(server) as sender:
        sender.row("t", symbols={"s": "y" * 2_000}, columns={"n": 0}, at=TimestampMicros(1))
        sender.flush(wait=True)
        server.drop_connections()
        sender.row("t", symbols={"s": "y" * 2_000}, columns={"n": 1}, at=TimestampMicros(1))
        sender.flush(wait=True)
    assert [row["n"] for row in server.store.rows("t")] == [0, 1]


def test_SPL_05_terminal_only_when_every_endpoint_has_been_too_small_for_long(server: QwpServer) -> None:
    handler = Recorder()
    server.set_script([Script(), Script(cap_nbytes=20_000)])
    clock = LeapClock()
    listener = Recorder()
    slow = "reconnect_initial_backoff_millis=10000;reconnect_max_backoff_millis=10000;"
    sender = open_sender(server, slow, clock=clock, handler=handler, listener=listener)
    server.refuse_new(503)
    server.drop_connections()
    listener.wait_for(lambda event: event.kind == "all_endpoints_unreachable")
    sender.row("t", columns={"n": 2, "b": b"x" * 30_000}, at=TimestampMicros(3))
    sender.flush()
    started = clock.now_millis()
    server.accept_new()
    event = handler.wait_for()
    assert event.category == "frame_too_large"
    assert clock.now_millis() - started >= 300_000
    with pytest.raises(
        ServerRejection, match="in memory and ends with this sender: raise the receive buffer"
    ) as caught:
        sender.close()
    assert caught.value.__notes__ == ["FSN 0 not delivered: they were queued in memory and are lost"]
