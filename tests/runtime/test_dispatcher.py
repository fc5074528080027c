"""dispatcher.py: handlers run on their own thread, bounded, and never hurt the sender."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading

import pytest

from spoolq.runtime import dispatcher as module
from spoolq.runtime.dispatcher import Dispatcher
from tests.interrupts import CutNotify
from tests.sender.harness import until


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A close waits for the thread however busy the machine is."""
    monkeypatch.setattr(module, "_JOIN_SECONDS", 10.0)


def test_entries_arrive_in_order_on_another_thread() -> None:
    seen: list[tuple[int, str]] = []
    done = threading.Event()

    def handler(entry: int) -> None:
        seen.append((entry, threading.current_thread().name))
        if entry == 4:
            done.set()

    dispatcher = Dispatcher(handler, 16, "spoolq-test")
    for entry in range(5):
        dispatcher.post(entry)
    assert done.wait(10)
    dispatcher.close()
    assert seen == [(entry, "spoolq-test") for entry in range(5)]
    assert (dispatcher.delivered, dispatcher.dropped) == (5, 0)


def test_a_full_inbox_drops_the_oldest_and_counts_it() -> None:
    started, go, seen = threading.Event(), threading.Event(), []

    def handler(entry: int) -> None:
        started.set()
        go.wait(10)
        seen.append(entry)

    dispatcher = Dispatcher(handler, 2, "spoolq-test")
    dispatcher.post(0)
    assert started.wait(10)
    for entry in (1, 2, 3):
        dispatcher.post(entry)
    assert dispatcher.dropped == 1
    go.set()
    dispatcher.close()
    assert seen == [0, 2, 3]


def test_a_handler_that_raises_is_logged_and_counts_as_delivered(caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Event()

    def handler(entry: int) -> None:
        if entry == 1:
            done.set()
        raise RuntimeError("a fault of the user's")

    dispatcher = Dispatcher(handler, 4, "spoolq-test")
    with caplog.at_level(logging.ERROR, "spoolq.events"):
        dispatcher.post(0)
        dispatcher.post(1)
        assert done.wait(10)
        dispatcher.close()
    assert dispatcher.delivered == 2
    assert "a fault of the user's" in caplog.text


def test_a_handler_may_close_its_own_dispatcher() -> None:
    done = threading.Event()

    def handler(_entry: int) -> None:
        dispatcher.close()
        done.set()

    dispatcher = Dispatcher(handler, 4, "spoolq-test")
    dispatcher.post(0)
    assert done.wait(10)
    dispatcher.post(1)
    assert dispatcher.dropped == 1


def test_no_thread_exists_before_the_first_entry() -> None:
    before = threading.active_count()
    dispatcher = Dispatcher(print, 4, "spoolq-test")
    assert threading.active_count() == before
    dispatcher.close()


def test_what_a_hanging_handler_never_got_is_counted_as_dropped_by_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """behaviour.md 6.3: close waits for a moment, then leaves the thread behind; nothing reaches the handler later."""
    monkeypatch.undo()
    entered, go_on, told = threading.Event(), threading.Event(), list[int]()

    def handler(entry: int) -> None:
        told.append(entry)
        entered.set()
        assert go_on.wait(10)

    dispatcher = Dispatcher(handler, 16, "test-dispatcher")
    for entry in range(3):
        dispatcher.post(entry)
    assert entered.wait(10)
    dispatcher.close()
    assert (dispatcher.delivered, dispatcher.dropped) == (0, 2)
    dispatcher.post(3)
    assert dispatcher.dropped == 3
    go_on.set()
    for thread in threading.enumerate():
        if thread.name == "test-dispatcher":
            thread.join(10)
    assert (told, dispatcher.delivered, dispatcher.dropped) == ([0], 1, 3)


def test_close_lets_the_handler_finish_what_is_queued() -> None:
    told: list[int] = []
    dispatcher = Dispatcher(told.append, 16, "test-dispatcher")
    for entry in range(10):
        dispatcher.post(entry)
    dispatcher.close()
    assert (told, dispatcher.dropped) == (list(range(10)), 0)


def test_an_entry_for_which_no_thread_starts_is_dropped_and_the_next_one_tries_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At the end of the interpreter, from Python 3.12 on, or with too many threads."""
    told: list[int] = []
    dispatcher = Dispatcher(told.append, 4, "spoolq-test")

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        assert [dispatcher.post(0), dispatcher.post(1)] == [False, False]
    assert (dispatcher.dropped, caplog.text.count("can't start new thread")) == (2, 1)
    assert dispatcher.post(2)
    dispatcher.close()
    assert (told, dispatcher.delivered, dispatcher.dropped) == ([2], 1, 2)


def test_a_dispatcher_whose_thread_never_started_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    dispatcher = Dispatcher(print, 4, "spoolq-test")
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        dispatcher.post(0)
        dispatcher.close()
    assert dispatcher.dropped == 1


def test_a_handler_that_exits_ends_neither_its_thread_nor_the_program(caplog: pytest.LogCaptureFixture) -> None:
    told: list[int] = []

    def handler(entry: int) -> None:
        told.append(entry)
        if entry == 0:
            raise SystemExit(1)

    dispatcher = Dispatcher(handler, 4, "spoolq-test")
    dispatcher.post(0)
    dispatcher.post(1)
    dispatcher.close()
    assert (told, dispatcher.delivered, dispatcher.dropped) == ([0, 1], 2, 0)
    assert "SystemExit" in caplog.text


@pytest.mark.parametrize("call", ["post", "close"])
def test_33_a_ctrl_c_in_a_method_of_the_condition_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """See tests/runtime/test_progress.py."""
    dispatcher: Dispatcher[int] = Dispatcher(lambda _: None, 4, "spoolq-test")
    enter = threading.Condition.__enter__

    def interrupted(condition: threading.Condition) -> bool:
        entered = enter(condition)
        if condition is dispatcher._condition:
            raise KeyboardInterrupt
        return entered

    with monkeypatch.context() as patched:
        patched.setattr(threading.Condition, "__enter__", interrupted)
        with contextlib.suppress(KeyboardInterrupt):
            dispatcher.post(1) if call == "post" else dispatcher.close()
    other = threading.Thread(target=dispatcher.close, daemon=True)
    other.start()
    other.join(10)
    assert not other.is_alive()


def test_33_a_ctrl_c_inside_a_post_does_not_keep_the_next_entry_back() -> None:
    """See tests/runtime/test_keeper_room.py."""
    told: queue.SimpleQueue[int] = queue.SimpleQueue()
    dispatcher: Dispatcher[int] = Dispatcher(told.put, 4, "spoolq-test")
    waiters = dispatcher._condition._waiters = CutNotify()  # type: ignore[attr-defined]
    assert dispatcher.post(0)
    until(lambda: len(waiters) == 1)
    waiters.armed = True
    with pytest.raises(KeyboardInterrupt):
        dispatcher.post(1)
    until(lambda: len(waiters) == 2)
    assert dispatcher.post(2)
    try:
        assert [told.get(timeout=10) for _ in range(3)] == [0, 1, 2]
    finally:
        dispatcher.close()
