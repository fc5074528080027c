"""Durable acks, keepalive and the half-open watchdog, from `Sender` to a server (behaviour.md 3.3, 4.4)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from spoolq import ConfigError, ConnectError, DeliveryTimeout, DurableAckError
from spoolq.qwp.responses import DurableAck, Ok, build
from spoolq.server import Script
from spoolq.testing import QwpServer

from .harness import Call, Recorder, StepClock, frames, numbers, open_sender, publish, until
from .raw_server import BINARY, PING, PONG, RawServer

ON = "request_durable_ack=on;"
GRANTED = "X-QWP-Durable-Ack: enabled"


@pytest.fixture
def server() -> Iterator[QwpServer]:
    with QwpServer(durable_ack=True) as running:
        yield running


def test_dua_01_frames_are_acked_when_they_are_durable(server: QwpServer) -> None:
    with open_sender(server, ON) as sender:
        for number in range(20):
            publish(sender, number)
        sender.wait()
        assert sender.await_durable_fsn(19)
        stats = sender.stats()
        assert (stats.acked_fsn, stats.ok_fsn, sender.ok_fsn()) == (19, 19, 19)
        assert stats.total_durable_acks >= stats.total_durable_trim_advances >= 1
        assert stats.highest_acked_seq_txn("t") == stats.highest_durable_seq_txn("t") == 20
        assert stats.highest_durable_seq_txn("u") is None
    assert server.connections[0].header("X-QWP-Request-Durable-Ack") == "true"
    assert numbers(server) == list(range(20))


def test_dua_01_without_durable_acks_nothing_is_acked_and_the_ok_level_is_told() -> None:
    with QwpServer(durable_ack=True, script=Script(no_durable_ack=True)) as server:
        sender = open_sender(server, ON + "close_flush_timeout_millis=1;")
        publish(sender, 0)
        assert sender.await_ok_fsn(0)
        assert (sender.ok_fsn(), sender.acked_fsn()) == (0, None)
        assert not sender.await_acked_fsn(0, 1)
        assert not sender.await_durable_fsn(0, 0)
        assert sender.stats().frames_unacked == 1
        with pytest.raises(DeliveryTimeout, match="1 frames wait, 1 of them committed and not durable yet"):
            sender.close()


def test_dua_01_await_acked_waits_for_the_durable_ack(server: QwpServer) -> None:
    with RawServer() as raw:
        sender = open_sender(raw.conf, ON + "initial_connect_retry=async;")
        raw.accept(GRANTED)
        publish(sender, 0)
        raw.read()
        waiting = Call(sender.await_acked_fsn, 0)
        raw.send(BINARY, build(Ok(0, (("t", 1),))))
        assert sender.await_ok_fsn(0)
        assert sender.acked_fsn() is None
        assert waiting.is_alive()
        raw.send(BINARY, build(DurableAck((("t", 1),))))
        assert waiting.outcome() is True
        sender.close()


def test_waiting_for_durable_without_the_opt_in_is_an_error(server: QwpServer) -> None:
    with open_sender(server) as sender:
        publish(sender, 0)
        with pytest.raises(ConfigError, match="request_durable_ack=on"):
            sender.await_durable_fsn(0)
        assert sender.await_ok_fsn(0)
        assert sender.await_acked_fsn(0)
        assert sender.ok_fsn() == sender.acked_fsn() == 0
        assert sender.stats().highest_acked_seq_txn("t") == 1
    assert server.connections[0].header("X-QWP-Request-Durable-Ack") is None


def test_dua_04_what_was_not_durable_is_sent_again_after_a_reconnect(server: QwpServer) -> None:
    server.set_script([Script(no_durable_ack=True), Script()])
    listener = Recorder()
    with open_sender(server, ON, listener=listener) as sender:
        publish(sender, 0)
        publish(sender, 1)
        assert sender.await_ok_fsn(1)
        server.drop_connections()
        listener.wait_for(lambda event: event.kind == "reconnected")
        sender.wait()
        assert sender.acked_fsn() == 1
        assert sender.stats().total_frames_replayed == 2
    assert frames(server) == [[0, 1], [0, 1]]


# --- FOV-05: an endpoint that does not grant them ---------------------------------------------------------


def test_fov_05_the_next_endpoint_is_tried(server: QwpServer) -> None:
    with QwpServer() as without:
        both = f"ws::addr=127.0.0.1:{without.port},127.0.0.1:{server.port};"
        with open_sender(both, ON + "close_flush_timeout_millis=0;") as sender:
            publish(sender, 0)
            assert sender.drain(10_000)
        assert without.connections[0].is_upgraded
        assert without.message_count == 0
    assert numbers(server) == [0]


def test_fov_05_a_version_out_of_range_leads_to_the_next_endpoint(server: QwpServer) -> None:
    with QwpServer(script=Script(upgrade_headers=(("X-QWP-Version", "2"),))) as newer:
        both = f"ws::addr=127.0.0.1:{newer.port},127.0.0.1:{server.port};"
        with open_sender(both, "close_flush_timeout_millis=0;") as sender:
            publish(sender, 0)
            assert sender.drain(10_000)
        assert newer.message_count == 0
        with pytest.raises(ConnectError, match="speaks QWP version '2'"):
            open_sender(newer)
    assert numbers(server) == [0]


@pytest.mark.parametrize("mode", ["off", "sync"])
def test_fov_05_without_any_the_constructor_says_so(mode: str) -> None:
    with QwpServer() as without, pytest.raises(DurableAckError, match="no endpoint grants durable acks") as caught:
        open_sender(without, ON + f"initial_connect_retry={mode};")
    assert isinstance(caught.value, ConnectError)
    assert "request_durable_ack" in str(caught.value)


def test_fov_05_in_the_background_it_is_terminal() -> None:
    handler = Recorder()
    with QwpServer() as without:
        sender = open_sender(without, ON + "initial_connect_retry=async;", handler=handler)
        handler.wait_for(lambda event: event.policy == "terminal")
        with pytest.raises(DurableAckError):
            sender.close()


# --- DUA-05: keepalive ----------------------------------------------------------------------------------------


def test_dua_05_pings_ask_for_durable_acks_until_they_have_come() -> None:
    clock = StepClock()
    with RawServer() as raw:
        settings = "initial_connect_retry=async;half_open_timeout_millis=0;close_flush_timeout_millis=0;"
        sender = open_sender(raw.conf, ON + settings, clock=clock)
        raw.accept(GRANTED)
        publish(sender, 0)
        raw.read()
        assert clock.nap() is None
        raw.send(BINARY, build(Ok(0, (("t", 1),))))
        assert sender.await_ok_fsn(0)
        for _ in range(3):
            clock.tick()
            assert raw.read() == (PING, b"")
            raw.send(PONG)
        raw.send(BINARY, build(DurableAck((("t", 1),))))
        assert sender.await_acked_fsn(0)
        assert clock.nap() is None
        sender.close()
        assert raw.read()[0] != PING


def test_dua_05_a_last_batch_becomes_durable_because_it_is_asked_for() -> None:
    with QwpServer(durable_ack=True, durable_ack_delay_millis=30) as server:
        fast = "durable_ack_keepalive_interval_millis=5;half_open_timeout_millis=0;close_flush_timeout_millis=0;"
        with open_sender(server, ON + fast) as sender:
            publish(sender, 0)
            assert sender.drain(10_000)
        assert server.connections[0].pings >= 1


def test_dua_05_none_at_0() -> None:
    clock = StepClock()
    with RawServer() as raw:
        off = "durable_ack_keepalive_interval_millis=0;half_open_timeout_millis=0;close_flush_timeout_millis=0;"
        sender = open_sender(raw.conf, ON + "initial_connect_retry=async;" + off, clock=clock)
        raw.accept(GRANTED)
        publish(sender, 0)
        raw.read()
        raw.send(BINARY, build(Ok(0, (("t", 1),))))
        assert sender.await_ok_fsn(0)
        assert clock.nap() is None
        sender.close()
        assert raw.read() == (8, struct.pack(">H", 1000))


# --- FOV-08: half-open connections --------------------------------------------------------------------------


def test_fov_08_a_silent_server_is_asked_and_then_left() -> None:
    clock = StepClock()
    listener = Recorder()
    with RawServer() as raw:
        slow = "reconnect_initial_backoff_millis=1000;reconnect_max_backoff_millis=1000;close_flush_timeout_millis=0;"
        slow += "half_open_timeout_millis=60000;"
        sender = open_sender(raw.conf, "initial_connect_retry=async;" + slow, clock=clock, listener=listener)
        raw.accept()
        publish(sender, 0)
        raw.read()
        clock.tick()
        assert raw.read() == (PING, b"")
        clock.tick()
        event = listener.wait_for(lambda event: event.kind == "disconnected")
        assert "nothing came for" in event.cause
        clock.tick()  # the pause
        raw.accept()
        assert [raw.read()[0] for _ in range(2)] == [BINARY, BINARY]  # the dictionary, the frame
        raw.ok(1)
        assert sender.await_acked_fsn(0, 600_000)
        sender.close()


def test_fov_08_a_slow_server_that_answers_is_kept() -> None:
    clock = StepClock()
    listener = Recorder()
    with RawServer() as raw:
        settings = "initial_connect_retry=async;close_flush_timeout_millis=0;half_open_timeout_millis=60000;"
        sender = open_sender(raw.conf, settings, clock=clock, listener=listener)
        raw.accept()
        publish(sender, 0)
        raw.read()
        loop = sender._engine.loop
        assert loop is not None
        for _ in range(10):
            clock.tick()
            assert raw.read() == (PING, b"")
            raw.send(PONG)
            clock.wait_for_poll(lambda _: loop._heard_millis == clock.now_millis())
        raw.ok(0)
        assert sender.await_acked_fsn(0)
        listener.wait_for()
        sender.close()
        assert listener.kinds() == ["connected"]


# --- progress_handler -------------------------------------------------------------------------------------------


def test_progress_is_told_off_the_io_thread_and_coalesced(server: QwpServer) -> None:
    progress = Recorder()
    sender = open_sender(server, progress_handler=progress)
    for number in range(50):
        publish(sender, number)
    progress.wait_for(lambda fsn: fsn == 49)
    sender.close()
    assert progress.told == sorted(set(progress.told))


def test_a_progress_handler_that_hangs_holds_nothing_up_and_gets_the_newest(server: QwpServer) -> None:
    entered, release, told = Recorder(), Recorder(), []

    def slow(fsn: int) -> None:
        told.append(fsn)
        entered(True)
        release.wait_for()
        if fsn == 0:
            raise RuntimeError("a handler's own fault")

    with open_sender(server, progress_handler=slow) as sender:
        publish(sender, 0)
        entered.wait_for()
        for number in range(1, 30):
            publish(sender, number)
        sender.wait()
        waiting = sender._engine.reports._progress
        assert waiting is not None
        until(lambda: list(waiting._inbox) == [29])  # it is told behind the acknowledgement that ends the wait
        release(True)
        entered.wait_for(lambda _: len(told) == 2)
    assert told == [0, 29]
