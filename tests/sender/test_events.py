"""Handlers of a sender (behaviour.md 6.3, 8): order, overflow, handlers that call into the sender."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spoolq import Sender
from spoolq.delivery import actions
from spoolq.errors import AuthError, ConfigError, ServerRejection
from spoolq.events import ConnectionEvent, ErrorEvent
from spoolq.runtime.dispatcher import Dispatcher
from spoolq.testing import Drop, QwpServer, Refuse, Reject, Script

from .harness import Recorder, free_port, numbers, open_sender, publish, publish_unanswered, put, until


@pytest.fixture
def server() -> Iterator[QwpServer]:
    with QwpServer(port=free_port()) as running:  # which some of them stop
        yield running


@pytest.mark.parametrize("keyword", ["error_handler", "connection_listener", "error_policy", "progress_handler"])
@pytest.mark.parametrize("way", ["keywords", "from_conf", "from_env"])
def test_a_handler_that_cannot_be_called_is_refused_when_the_sender_is_built(
    keyword: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is opened; without the check it came out at the first event, in a log."""
    slots = tmp_path / "slots"
    monkeypatch.setenv("QDB_CLIENT_CONF", "ws::addr=192.0.2.1:9;")
    given: dict[str, Any] = {keyword: "print", "sf_dir": slots}
    open_it = {
        "keywords": lambda: Sender("ws", "192.0.2.1", 9, **given),
        "from_conf": lambda: Sender.from_conf("ws::addr=192.0.2.1:9;", **given),
        "from_env": lambda: Sender.from_env(**given),
    }[way]
    with pytest.raises(ConfigError, match=f"{keyword} takes a function .*, not str") as caught:
        open_it()
    assert caught.value.key == keyword
    assert not slots.exists()


def test_EVT_01_connection_events_come_in_order_with_their_fields(server: QwpServer) -> None:
    listener = Recorder()
    with open_sender(server, listener=listener) as sender:
        publish(sender, 0)
        sender.wait()
        server.refuse_new(503, body="back soon")
        server.drop_connections()
        listener.wait_for(lambda event: event.kind == "all_endpoints_unreachable")
        server.accept_new()
        listener.wait_for(lambda event: event.kind == "reconnected")
    kinds = listener.kinds()
    assert kinds[:2] == ["connected", "disconnected"]
    assert kinds.count("connected") == 1
    assert kinds[-1] == "reconnected"
    middle = kinds[2:-1]
    assert middle == ["endpoint_attempt_failed", "all_endpoints_unreachable"] * (len(middle) // 2)
    failed = listener.wait_for(lambda event: event.kind == "endpoint_attempt_failed")
    assert (failed.endpoint, failed.host, failed.port) == (f"127.0.0.1:{server.port}", "127.0.0.1", str(server.port))
    numbers_of = [(event.attempt, event.round) for event in listener.told]
    rounds = range(1, len(middle) // 2 + 1)
    assert numbers_of[:2] == [(1, 1), (1, 1)], "the first connection was the first attempt"
    assert numbers_of[2:-1] == [(number, number) for number in rounds for _ in range(2)], "a round is one endpoint here"
    assert numbers_of[-1] == (rounds[-1] + 1, rounds[-1] + 1)
    nowhere = listener.wait_for(lambda event: event.kind == "all_endpoints_unreachable")
    assert (nowhere.endpoint, nowhere.host, nowhere.port) == (None, None, None)
    assert "back soon" in failed.cause
    assert [event.when for event in listener.told] == sorted(event.when for event in listener.told)
    assert all(event.when.tzinfo is not None for event in listener.told)


def test_EVT_01_another_endpoint_is_a_failover_that_names_the_old_one(server: QwpServer) -> None:
    with QwpServer() as second:
        listener = Recorder()
        first_name, second_name = f"127.0.0.1:{server.port}", f"127.0.0.1:{second.port}"
        with open_sender(f"ws::addr={first_name},{second_name};", listener=listener) as sender:
            publish(sender, 0)
            sender.wait()
            second.refuse_new(503)
            server.stop()
            publish(sender, 1)
            listener.wait_for(lambda event: event.kind == "endpoint_attempt_failed" and event.attempt == 5)
            second.accept_new()
            event = listener.wait_for(lambda event: event.kind == "failed_over")
            assert (event.endpoint, event.previous) == (second_name, first_name)
            failed = [event for event in listener.told if event.kind == "endpoint_attempt_failed"]
            assert [event.attempt for event in failed] == list(range(1, len(failed) + 1))
            # the round of the lost connection has the second endpoint left; each one behind it tries both
            assert [event.round for event in failed] == [1 + event.attempt // 2 for event in failed]
            sender.wait()
        assert numbers(second) == [1]
        assert "reconnected" not in listener.kinds()


def test_EVT_02_the_state_is_committed_before_the_event(server: QwpServer) -> None:
    seen: list[bool] = []
    told = threading.Event()

    def listener(event) -> None:
        if event.kind == "connected":
            opened.wait(10)
            seen.append(senders[0].was_ever_connected)
            told.set()

    senders: list = []
    opened = threading.Event()
    with open_sender(server, "initial_connect_retry=async;", listener=listener) as sender:
        senders.append(sender)
        opened.set()
        assert told.wait(10)
    assert seen == [True]


def test_EVT_02_every_kind_of_event_finds_its_state_committed(
    server: QwpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handlers run where the event is posted: no state that came too late is there by the time they look."""
    monkeypatch.setattr(Dispatcher, "post", lambda dispatcher, event: dispatcher._handler(event))
    opened, senders = threading.Event(), list[Sender]()
    seen: list[tuple[str, object]] = []

    def look(kind: str) -> object:
        assert opened.wait(10)  # the thread that waits here is the one that goes on: nothing happens meanwhile
        stats = senders[0].stats()
        match kind:
            case "connected":
                return senders[0].was_ever_connected, stats.outage_millis is None
            case "disconnected":
                return stats.outage_millis is not None
            case "endpoint_attempt_failed":
                return stats.total_reconnect_attempts
            case "reconnected":
                return stats.total_reconnects_succeeded, stats.outage_millis is None
            case "auth_failed" | "terminal":
                return senders[0].must_close, type(stats.last_terminal_error).__name__
            case "retriable":
                return stats.total_server_errors, senders[0].poll_error() is not None
        return None

    def listener(event: ConnectionEvent) -> None:
        seen.append((event.kind, look(event.kind)))

    def handler(event: ErrorEvent) -> None:
        seen.append((event.policy, look(event.policy)))

    keys = "initial_connect_retry=async;"
    server.set_script(
        [
            Script(reject=(Reject(0, 6, "busy"),)),
            Script(refuse=Refuse(503)),
            Script(drop=Drop(after_frames=2)),
            Script(refuse=Refuse(401)),
        ]
    )
    sender = open_sender(server, keys, handler=handler, listener=listener)
    senders.append(sender)
    opened.set()
    publish_unanswered(server, sender, 0)
    until(lambda: sender.must_close)
    with pytest.raises(AuthError):
        sender.close()
    nowhere = ("all_endpoints_unreachable", None)
    assert seen == [
        ("connected", (True, True)),
        ("retriable", (1, True)),
        ("disconnected", True),
        ("endpoint_attempt_failed", 1),
        nowhere,
        ("reconnected", (1, True)),
        ("disconnected", True),
        ("terminal", (True, "AuthError")),
        ("auth_failed", (True, "AuthError")),
    ]


def test_EVT_03_an_overflowing_inbox_drops_the_oldest_and_counts(
    server: QwpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold, entered = threading.Event(), threading.Event()
    told: list[int] = []

    def handler(event) -> None:
        entered.set()
        hold.wait(10)
        told.append(event.from_fsn)

    count = 40
    server.set_script([*(Script(reject=(Reject(index > 0, 6, f"no {index}"),)) for index in range(count)), Script()])
    sender = open_sender(server, "error_inbox_capacity=16;max_frame_rejections=1000;", handler=handler)
    reports = sender._engine.reports
    take = reports.take

    def take_with_the_first_in_hand(report: actions.Report) -> None:
        take(report)
        if isinstance(report.event, actions.ServerErrorEvent):
            assert entered.wait(10)

    monkeypatch.setattr(reports, "take", take_with_the_first_in_hand)
    publish(sender, 0)
    sender.wait()
    stats = sender.stats()
    assert stats.total_server_errors == count
    polled = 0
    while sender.poll_error() is not None:
        polled += 1
    assert polled == 16, "its own ring, with the newest"
    hold.set()
    until(lambda: sender.stats().total_error_notifications_delivered == 17)  # close does not wait long for handlers
    sender.close()
    stats = sender.stats()
    assert stats.total_error_notifications_delivered == len(told) == 17, "one in the hands of the handler"
    assert stats.dropped_error_notifications == count - 17, "of the handler's inbox"
    assert numbers(server) == [0]


def test_EVT_03_events_that_nobody_polls_are_not_dropped_when_the_handler_got_them(server: QwpServer) -> None:
    handler, count = Recorder(), 40
    server.set_script([*(Script(reject=(Reject(index > 0, 6, f"no {index}"),)) for index in range(count)), Script()])
    with open_sender(server, "error_inbox_capacity=64;max_frame_rejections=1000;", handler=handler) as sender:
        sender._engine.reports._polled = deque(maxlen=16)  # an inbox of its own, with less room
        publish(sender, 0)
        sender.wait()
        handler.wait_for(lambda event: event.text.endswith(str(count - 1)))
        stats = sender.stats()
        assert (len(handler.told), stats.dropped_error_notifications) == (count, 0)


def test_EVT_03_without_a_handler_the_inbox_is_the_one_of_poll_error(server: QwpServer) -> None:
    count = 40
    server.set_script([*(Script(reject=(Reject(index > 0, 6, f"no {index}"),)) for index in range(count)), Script()])
    with open_sender(server, "error_inbox_capacity=16;max_frame_rejections=1000;") as sender:
        publish(sender, 0)
        sender.wait()
        assert sender.stats().dropped_error_notifications == count - 16


def test_EVT_03_the_connection_inbox_is_bounded_too(server: QwpServer) -> None:
    hold, entered = threading.Event(), threading.Event()
    told: list[str] = []

    def listener(event) -> None:
        entered.set()
        hold.wait(10)
        told.append(event.kind)

    sender = open_sender(server, listener=listener)
    assert entered.wait(10)
    for _ in range(50):
        before = len(server.connections)
        server.drop_connections()
        server.wait_for(lambda before=before: len(server.connections) > before and server.connections[-1].is_upgraded)
    publish(sender, 0)
    sender.wait()
    hold.set()
    until(lambda: sender.stats().connection_events_delivered == 65)
    sender.close()
    stats = sender.stats()
    assert stats.connection_events_dropped >= 30
    assert stats.connection_events_delivered == len(told) == 65
    assert told[-1] == "reconnected"


def test_EVT_04_a_handler_may_flush_and_close(server: QwpServer) -> None:
    server.set_script([Script(reject=(Reject(0, 6, "busy"),)), Script()])
    done = threading.Event()
    errors: list[BaseException] = []

    def handler(event) -> None:
        try:
            put(sender, 1)
            sender.flush(wait=True)
            sender.close()
        except BaseException as error:
            errors.append(error)
        done.set()

    sender = open_sender(server, handler=handler)
    publish(sender, 0)
    assert done.wait(10)
    assert errors == []
    sender.close()
    assert numbers(server) == [0, 1]


def test_EVT_04_a_listener_may_close_on_the_first_event(server: QwpServer) -> None:
    opened, done = threading.Event(), threading.Event()

    def listener(event) -> None:
        opened.wait(10)
        sender.close()
        done.set()

    sender = open_sender(server, listener=listener)
    opened.set()
    assert done.wait(10)
    sender.close()


def test_EVT_04_a_handler_that_closes_a_terminal_sender_gets_the_error(server: QwpServer) -> None:
    server.set_script(Script(reject=(Reject(0, 3, "never"),)))
    outcomes: list[BaseException | None] = []
    done = threading.Event()

    def handler(event) -> None:
        try:
            sender.close()
        except ServerRejection as error:
            outcomes.append(error)
        done.set()

    sender = open_sender(server, handler=handler)
    publish_unanswered(server, sender, 0)
    assert done.wait(10)
    sender.close()
    assert [type(found) for found in outcomes] == [ServerRejection]


def test_EVT_05_a_handler_that_raises_is_logged_and_the_next_event_comes(server: QwpServer, caplog) -> None:
    server.set_script([Script(reject=(Reject(0, 6, "one"),)), Script(reject=(Reject(1, 6, "two"),)), Script()])
    told: list[str] = []

    def handler(event) -> None:
        told.append(event.text)
        raise ValueError("mine")

    sender = open_sender(server, handler=handler)
    publish(sender, 0)
    sender.wait()
    until(lambda: sender.stats().total_error_notifications_delivered == 2)
    sender.close()
    assert told == ["one", "two"]
    assert sender.stats().total_error_notifications_delivered == 2
    assert sum("a handler of" in record.getMessage() for record in caplog.records) == 2


def test_EVT_05_a_handler_that_hangs_does_not_hang_close(server: QwpServer) -> None:
    server.set_script([Script(reject=(Reject(0, 6, "one"),)), Script()])
    hold, entered = threading.Event(), threading.Event()

    def handler(event) -> None:
        entered.set()
        hold.wait(10)

    sender = open_sender(server, handler=handler)
    publish(sender, 0)
    assert entered.wait(10)
    sender.close()
    assert not hold.is_set()
    hold.set()
