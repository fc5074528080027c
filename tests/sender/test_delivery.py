"""What goes over the wire, and again after a loss (behaviour.md 4, 5): SND-01 to SND-12, RCN-01 to RCN-12."""

from __future__ import annotations

import random
import select
import struct
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from spoolq import Sender, TimestampMicros, limits
from spoolq.errors import ConnectError
from spoolq.testing import Answer, Close, Drop, QwpServer, Refuse, Reject, Script

from .harness import Call, LeapClock, Recorder, StepClock, frames, free_port, numbers, open_sender, publish, put, until
from .raw_server import BINARY, PING, PONG, RawServer


class _LateLeapClock(LeapClock):
    """Stands still until the test lets it leap."""

    leaps = False

    def poll(self, poller: select.poll, timeout_millis: int | None) -> list[tuple[int, int]]:
        return super().poll(poller, timeout_millis) if self.leaps else StepClock.poll(self, poller, timeout_millis)


@pytest.fixture
def server() -> Iterator[QwpServer]:
    with QwpServer() as running:
        yield running


def _stored(sender: Sender) -> list[bytes]:
    """The payloads in the queue that are not acked."""
    store = sender._engine.store
    found: list[bytes] = []
    first = store.acked_fsn + 1
    while (run := store.run(first, 1_000, 1 << 30)) is not None:
        found += map(bytes, run.payloads())
        first = run.last_fsn + 1
        run.release()
    return found


def test_SND_01_the_wire_payload_is_the_stored_payload(server: QwpServer) -> None:
    with open_sender(server) as sender:
        server.hold_acks()
        for number in range(5):
            publish(sender, number, number + 100)
        stored = _stored(sender)
        server.wait_for_messages(5)
        assert server.connections[0].messages == stored
        server.release_acks()
        sender.wait()
        server.hold_acks()
        publish(sender, 5)
        stored = _stored(sender)
        server.wait_for_messages(6)
        server.drop_connections()
        server.wait_for(lambda: len(server.connections) == 2 and server.connections[1].messages[1:])
        assert server.connections[1].messages[1:] == stored, "behind the catch-up, the same bytes again"
        server.release_acks()


def test_SND_02_a_new_connection_starts_behind_the_last_ack_oldest_segment_first(server: QwpServer) -> None:
    with open_sender(server, "sf_max_segment_bytes=65536;") as sender:
        publish(sender, 0, 1)
        publish(sender, 2)
        sender.wait()
        server.hold_acks()
        for number in range(3, 23):  # several segments of 64 KiB
            sender.row(
                "t",
                symbols={"s": f"sym-{number}"},
                columns={"n": number, "b": b"x" * 20_000},
                at=TimestampMicros(number + 1),
            )
            sender.flush()
        assert sender.stats().spool_segments > 3
        server.wait_for_rows("t", 23)
        server.drop_connections()
        server.release_acks()
        sender.wait()
        assert frames(server) == [list(range(23)), list(range(3, 23))]


def test_SND_03_each_connection_decodes_alone_behind_its_catch_up(server: QwpServer) -> None:
    with open_sender(server) as sender:
        for round_number in range(4):
            for number in range(5):
                publish(sender, round_number * 10 + number, 1)  # an old symbol and a new one
            sender.wait()
            server.drop_connections()
    found = frames(server)  # decodes every message with a dictionary of its own connection
    assert sorted(number for connection in found for number in connection) == sorted(numbers(server))
    assert len(numbers(server)) == 40


def test_SND_04_symbols_are_right_after_a_reconnect_without_acks_in_between(server: QwpServer) -> None:
    with open_sender(server) as sender:
        publish(sender, 0)
        sender.wait()
        server.hold_acks()
        publish(sender, 1)  # a symbol that was published, not acked
        server.wait_for_rows("t", 2)
        server.drop_connections()
        publish(sender, 0, 1, 2)
        server.release_acks()
        sender.wait()
    assert numbers(server) == [0, 1, 1, 0, 1, 2]  # `numbers` checks each row's symbol


def test_SND_04_a_failed_row_leaves_no_symbol_behind(server: QwpServer) -> None:
    with open_sender(server) as sender:
        publish(sender, 0)
        with pytest.raises(ValueError):
            sender.row("t", symbols={"s": "never"}, columns={"n": 1 << 70}, at=TimestampMicros(1))
        publish(sender, 1)
        sender.wait()
        server.drop_connections()
        publish(sender, 2)
    assert numbers(server) == [0, 1, 2]
    assert not any(b"never" in message for record in server.connections for message in record.messages)


def test_SND_05_an_ok_beyond_what_was_sent_is_clamped_and_unsent_data_survives(server: QwpServer, caplog) -> None:
    server.set_script([Script(ack_ahead=1_000), Script()])
    with open_sender(server) as sender:
        publish(sender, 0)
        assert sender.await_acked_fsn(0)
        assert sender.acked_fsn() == 0
        assert "beyond the last one sent" in caplog.text
        server.drop_connections()
        assert publish(sender, 1) == 1
        sender.wait()
    assert numbers(server) == [0, 1]


def test_SND_05_invariant_19_acked_stops_at_what_was_sent_while_more_is_published() -> None:
    """The peer does not read: some frames are sent, some are in the socket, the others wait in the log."""
    nbytes, count = 500_000, 40  # more than the sockets of both ends take
    with RawServer() as raw:
        sender = open_sender(raw.conf, "initial_connect_retry=async;close_flush_timeout_millis=0;")
        raw.accept()
        for number in range(count):
            sender.row("t", columns={"n": number, "b": b"x" * nbytes}, at=TimestampMicros(number + 1))
            sender.flush()
        raw.ok(1_000)
        loop = sender._engine.loop
        assert loop is not None
        until(lambda: loop.acks == 1)
        until(lambda: sender.acked_fsn() is not None)
        acked, published = sender.acked_fsn(), sender.published_fsn()
        assert acked is not None
        assert acked < loop.frames_sent <= published == count - 1
        sender.close()


def test_SND_05_a_rejection_beyond_what_was_sent_is_clamped(caplog) -> None:
    handler = Recorder()
    with RawServer() as raw:
        sender = open_sender(raw.conf, "initial_connect_retry=async;", handler=handler)
        raw.accept()
        publish(sender, 0)
        raw.read()
        raw.send(BINARY, struct.pack("<BqH", 6, 77, 4) + b"oops")
        event = handler.wait_for()
        assert (event.from_fsn, event.to_fsn, event.message_sequence) == (0, 0, 77)
        assert "beyond the last one sent" in caplog.text
        raw.accept()  # it comes again, behind the catch-up: nothing was lost
        raw.read()
        raw.read()
        raw.ok(1)
        sender.close()


def test_SND_06_several_tables_survive_a_reconnect(server: QwpServer) -> None:
    with open_sender(server) as sender:
        server.hold_acks()
        for number in range(10):
            for table in ("a", "b", "c"):
                put(sender, number, table=table)
        sender.flush()
        server.wait_for_rows("c", 10)
        server.drop_connections()
        for table in ("a", "b", "c"):
            put(sender, 10, table=table)
        sender.flush()
        server.release_acks()
        sender.wait()
    for table in ("a", "b", "c"):
        assert numbers(server, table) == [*range(10), *range(11)]


def test_SND_10_flush_returns_before_any_ack(server: QwpServer) -> None:
    with open_sender(server) as sender:
        server.hold_acks()
        assert publish(sender, 0) == 0
        assert sender.flush_and_get_fsn() is None
        assert sender.acked_fsn() is None
        server.wait_for_rows("t", 1)
        assert not sender.await_acked_fsn(0, 0)
        server.release_acks()
        assert sender.await_acked_fsn(0)


@pytest.mark.parametrize(
    "drop",
    [
        Drop(after_frames=1, before_ack=True),
        Drop(mid_frame=2),
        Drop(after_nbytes=40, reset=True),
        Drop(after_frames=0),
    ],
    ids=["before-ack", "mid-frame", "reset", "at-once"],
)
def test_SND_11_a_drop_in_mid_replay_leads_to_another_reconnect(server: QwpServer, drop: Drop) -> None:
    with open_sender(server) as sender:
        server.hold_acks()
        for number in range(6):
            publish(sender, number)
        server.wait_for_messages(6)
        server.set_script([Script(drop=drop), Script(drop=drop), Script()])
        server.drop_connections()
        server.release_acks()
        sender.wait()
        assert sender.stats().total_reconnects_succeeded == 3
    assert set(numbers(server)) == set(range(6))
    assert numbers(server)[-1] == 5


def test_SND_12_a_connection_that_begins_while_a_frame_is_published_gets_its_symbols(
    server: QwpServer, monkeypatch
) -> None:
    """The frame is visible, acked, and the connection replaced before the producer's call goes on."""
    with open_sender(server) as sender:
        publish(sender, 0)
        sender.wait()
        store, real = sender._engine.store, sender._engine.store.publish

        def publish_and_linger(room):
            fsn = real(room)
            sender._engine._published()
            server.wait_for_rows("t", 2)
            assert store.acked_fsn >= 0
            sender._engine.progress.wait_until(lambda: store.acked_fsn >= fsn, 10_000)
            server.drop_connections()
            server.wait_for(
                lambda: len(server.connections) == 2 and server.connections[1].message_count > 0
            )  # catch-up
            return fsn

        with monkeypatch.context() as patched:
            patched.setattr(store, "publish", publish_and_linger)
            publish(sender, 1)
        publish(sender, 2)
        sender.wait()
        assert sender.stats().total_server_errors == 0, "no DICTIONARY_GAP"
    assert numbers(server) == [0, 1, 2]


def test_SND_12_a_frame_that_could_not_be_written_takes_its_symbols_along(server: QwpServer, monkeypatch) -> None:
    with open_sender(server) as sender:
        store = sender._engine.store
        with monkeypatch.context() as patched:
            patched.setattr(store, "publish", lambda _room: (_ for _ in ()).throw(RuntimeError("no")))
            put(sender, 0)
            with pytest.raises(RuntimeError):
                sender.flush()
        put(sender, 1)
        sender.flush(wait=True)
        assert sender.stats().rows_buffered == 0
        assert sender.stats().total_server_errors == 0, "no DICTIONARY_GAP"
    assert numbers(server) == [0, 1]


def test_SND_12_encoding_races_with_reconnects(server: QwpServer) -> None:
    with open_sender(server) as sender:
        stop = threading.Event()

        def churn() -> None:
            while not stop.is_set():
                server.drop_connections()
                server.wait_for(lambda: stop.is_set() or server.connections[-1].closed_by is None)

        churning = Call(churn)
        for number in range(600):
            publish(sender, number)
        stop.set()
        churning.outcome()
        sender.wait()
        assert sender.stats().total_server_errors == 0
    assert set(numbers(server)) == set(range(600))
    frames(server)


# --- reconnects -------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1000, 1001, None])
def test_RCN_01_the_server_closes_after_the_ack_and_the_next_batch_goes_over_a_new_connection(
    server: QwpServer, code: int | None
) -> None:
    server.set_script([Script(close=Close(1, code, "bye")), Script()])
    listener = Recorder()
    with open_sender(server, listener=listener) as sender:
        publish(sender, 0)
        assert sender.await_acked_fsn(0)
        listener.wait_for(lambda event: event.kind == "reconnected")
        publish(sender, 1)
        sender.wait()
    assert frames(server) == [[0], [1]]
    lost = listener.wait_for(lambda event: event.kind == "disconnected")
    assert ("bye" in lost.cause) == (code is not None)


def test_RCN_02_an_unacked_frame_is_sent_again(server: QwpServer) -> None:
    server.set_script([Script(no_ack=True, drop=Drop(after_frames=1)), Script()])
    with open_sender(server) as sender:
        publish(sender, 0)
        assert sender.await_acked_fsn(0)
        stats = sender.stats()
    assert numbers(server) == [0, 0], "delivery is at least once"
    assert (stats.total_frames_sent, stats.total_frames_replayed, stats.total_reconnects_succeeded) == (2, 1, 1)


def test_RCN_03_many_reconnects_also_during_replay(server: QwpServer) -> None:
    rng = random.Random(20_240_607)
    scripts = []
    for _ in range(40):
        scripts.append(
            rng.choice(
                [
                    Script(drop=Drop(after_frames=rng.randrange(6), before_ack=rng.random() < 0.5)),
                    Script(drop=Drop(mid_frame=rng.randrange(1, 6))),
                    Script(close=Close(rng.randrange(6))),
                    Script(refuse=Refuse(503)),
                    Script(answers=(Answer(rng.randrange(1, 4), "half"),)),
                ]
            )
        )
    server.set_script([*scripts, Script()])
    with open_sender(server, "max_frame_rejections=1000;") as sender:
        for number in range(200):
            publish(sender, number)
        sender.wait()
        assert sender.stats().total_reconnects_succeeded > 10
    landed = numbers(server)
    assert set(landed) == set(range(200))
    first_seen = [number for position, number in enumerate(landed) if number not in landed[:position]]
    assert first_seen == list(range(200)), "in order"


def test_RCN_07_unsent_rows_survive_every_failed_attempt(server: QwpServer) -> None:
    listener = Recorder()
    with open_sender(server, listener=listener) as sender:
        publish(sender, 0)
        sender.wait()
        server.refuse_new(503)
        server.drop_connections()
        for number in range(1, 6):
            publish(sender, number)
            listener.wait_for(
                lambda event, number=number: event.kind == "all_endpoints_unreachable" and event.attempt > number
            )
        put(sender, 6)
        assert sender.acked_fsn() == 0
        server.accept_new()
        sender.flush(wait=True)
        assert sender.stats().total_reconnect_attempts >= 6
    assert numbers(server) == list(range(7))


def test_RCN_04_close_ends_the_pause_before_the_next_attempt() -> None:
    clock = StepClock()
    listener = Recorder()
    sender = open_sender(
        f"ws::addr=127.0.0.1:{free_port()};",
        "initial_connect_retry=async;reconnect_initial_backoff_millis=60000;reconnect_max_backoff_millis=60000;"
        "close_flush_timeout_millis=0;",
        clock=clock,
        listener=listener,
    )
    assert (clock.wait_for_poll(lambda timeout: timeout is not None and timeout > 1) or 0) >= 60_000
    began, loop = clock.now_millis(), sender._engine.loop
    listener.wait_for(lambda event: event.kind == "all_endpoints_unreachable")
    Call(sender.close).outcome()
    assert clock.now_millis() == began, "not a millisecond of it was waited for"
    assert loop is not None
    assert loop.machine.attempts == 1, "nor was there another attempt on the way out"
    assert listener.kinds() == ["endpoint_attempt_failed", "all_endpoints_unreachable"]


def test_RCN_12_an_outage_beyond_its_budget_ends_the_sender_with_its_tag(server: QwpServer) -> None:
    clock, listener = _LateLeapClock(), Recorder()
    keys = "outage_budget_millis=3000;reconnect_initial_backoff_millis=100;reconnect_max_backoff_millis=400;"
    sender = open_sender(server, keys, clock=clock, listener=listener)
    publish(sender, 0)
    sender.wait()
    server.refuse_new(503)
    server.drop_connections()
    listener.wait_for(lambda event: event.kind == "disconnected")
    publish(sender, 1)
    pause = clock.wait_for_poll(lambda timeout: timeout is not None and timeout > 1) or 0
    clock.leaps = True
    clock.advance(pause)
    with pytest.raises(ConnectError, match=r"^connection-lost-budget-exhausted: ") as caught:
        sender.wait()
    assert caught.value.tag == "connection-lost-budget-exhausted"
    assert sender.was_ever_connected, "the flag stays"
    assert sender.stats().was_ever_connected
    assert (sender.acked_fsn(), sender.stats().frames_unacked) == (0, 1), "the frame is still there"
    assert listener.wait_for(lambda event: event.kind == "budget_exhausted")
    assert sender.stats().outage_millis == 3_000
    with pytest.raises(ConnectError, match="connection-lost-budget-exhausted"):
        sender.close()


# --- ours.md 29b, 29a ----------------------------------------------------------------------------------


def test_29b_a_ping_is_answered_while_nothing_waits_for_an_ack() -> None:
    clock = StepClock()
    with RawServer() as raw:
        sender = open_sender(raw.conf, "initial_connect_retry=async;", clock=clock)
        raw.accept()
        clock.asleep()
        for payload in (b"", b"are you there"):
            raw.send(PING, payload)
            assert raw.read() == (PONG, payload)
        sender.close()


def test_29b_a_loss_is_seen_at_once_while_nothing_waits_for_an_ack(server: QwpServer) -> None:
    clock = StepClock()
    listener = Recorder()
    with open_sender(server, clock=clock, listener=listener):
        clock.asleep()
        server.drop_connections()
        listener.wait_for(lambda event: event.kind == "disconnected")


def test_29b_a_row_wakes_an_idle_sender(server: QwpServer) -> None:
    clock = StepClock()
    with open_sender(server, clock=clock) as sender:
        for number in range(3):
            clock.asleep()
            publish(sender, number)
            assert sender.await_acked_fsn(number)


def test_29a_a_server_that_accepts_and_drops_sees_a_falling_rate_of_connections(server: QwpServer) -> None:
    server.set_script(Script(no_ack=True, drop=Drop(after_frames=1)))
    clock = StepClock()
    sender = open_sender(
        server,
        "reconnect_initial_backoff_millis=100;reconnect_max_backoff_millis=5000;close_flush_timeout_millis=0;",
        clock=clock,
    )
    publish(sender, 0)
    pauses = []
    for count in range(1, 6):
        server.wait_for(lambda count=count: len(server.connections) == count)
        pause = clock.wait_for_poll(lambda timeout: timeout is not None and timeout > 1)
        pauses.append(pause)
        clock.advance(pause)
    assert pauses == sorted(pauses)
    assert pauses[0] >= 100
    assert pauses[-1] >= 1_600
    sender.close()
    assert len(numbers(server)) <= 6


def test_29a_a_server_that_answers_one_frame_a_connection_gets_none_more_than_a_handful_of_times() -> None:
    """It reads all, answers the first frame and ends: once 30 frames were received 465 times, without a pause."""
    clock = StepClock()
    received = Counter[bytes]()
    pauses = []
    with RawServer() as raw:
        sender = open_sender(
            raw.conf,
            "initial_connect_retry=async;reconnect_initial_backoff_millis=100;reconnect_max_backoff_millis=60000;",
            clock=clock,
        )
        raw.accept()
        for number in range(30):
            publish(sender, number)
        for fsn in range(30):
            while (timeout := clock.nap()) is not None and timeout > limits.WINDOW_OPENS_MILLIS:
                pass  # until whatever it wants to send has come
            came = raw.come()
            raw.ok(min(fsn, 1))
            came += raw.finish()
            received.update(came[min(fsn, 1) :])  # behind the symbols, from the second connection on
            assert sender.acked_fsn() == fsn
            if fsn > 0:
                pauses.append(clock.nap() or 0)
                clock.advance(pauses[-1])
            if fsn < 29:
                raw.accept()
        sender.close()
    assert len(received) == 30
    assert max(received.values()) <= 5
    assert received.total() <= 5 * 30
    assert all(base <= pause < 2 * base for base, pause in zip((100, 200, 400, 800, 1_600), pauses, strict=False))
    assert min(pauses[10:]) >= 60_000


def test_a_rejection_that_is_retriable_is_told_and_the_frame_comes_again(server: QwpServer) -> None:
    handler = Recorder()
    server.set_script([Script(reject=(Reject(0, 9, "disk full"),)), Script()])
    with open_sender(server, handler=handler) as sender:
        publish(sender, 0)
        sender.wait()
        event = handler.wait_for()
        assert (event.category, event.policy, event.status, event.text) == ("write_error", "retriable", 9, "disk full")
        assert (event.from_fsn, event.to_fsn, event.message_sequence) == (0, 0, 0)
        assert sender.poll_error() == event
        assert sender.poll_error() is None
    assert numbers(server) == [0]
