"""aside.py: what becomes of the work when a Ctrl-C comes before it, during it, and twice."""

from __future__ import annotations

import _thread
import signal
import threading
import weakref
from typing import Any

import pytest

from spoolq.errors import SpoolqError
from spoolq.runtime import lifecycle
from spoolq.runtime.aside import Aside, Cancel, Cancelled
from spoolq.runtime.clock import Clock

TIMEOUT_SECONDS = 10.0


def ctrl_c() -> None:
    """The main thread is interrupted in whatever it does."""
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)


def name() -> str:
    return threading.current_thread().name


def nothing() -> None: ...


def test_the_main_thread_lets_another_one_do_it_and_has_what_it_gave() -> None:
    assert Aside(name, "spoolq-test").run(nothing) == "spoolq-test"
    with pytest.raises(ZeroDivisionError):
        Aside(lambda: 1 / 0, "spoolq-test").run(nothing)


def test_another_thread_does_it_itself() -> None:
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.append(Aside(name, "spoolq-test").run(nothing)), name="mine")
    thread.start()
    thread.join()
    assert said == ["mine"]


@pytest.mark.parametrize("where", ["native", "Thread.start"])
def test_without_a_thread_it_is_done_right_here(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """At the interpreter's exit there is none to be had."""

    def refuses(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(*((_thread, "start_new_thread") if where == "native" else (threading.Thread, "start")), refuses)
        assert Aside(name, "spoolq-test").run(nothing) == "MainThread"


@pytest.mark.parametrize("begins", ["before", "behind"])
def test_33_an_interrupt_before_the_work_has_begun_is_the_end_of_it(
    monkeypatch: pytest.MonkeyPatch, begins: str
) -> None:
    """``behind``: the thread is there already and has not come to the work."""
    done: list[str] = []
    held: list[Any] = []

    def interrupted(start: Any, arguments: tuple[()]) -> None:
        if begins == "behind":
            held.append(start)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(_thread, "start_new_thread", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Aside(lambda: done.append("work"), "spoolq-test").run(lambda: done.append("interrupted"))
    for start in held:
        start()
    assert done == []


def test_33_an_interrupt_makes_the_work_end_and_goes_on_then_with_what_it_said() -> None:
    hurried = threading.Event()
    ended: list[bool] = []

    def work() -> None:
        ctrl_c()
        ended.append(hurried.wait(TIMEOUT_SECONDS))
        raise SpoolqError("seven frames wait")

    with pytest.raises(KeyboardInterrupt) as caught:
        Aside(work, "spoolq-test").run(hurried.set)
    assert ended == [True]
    assert "seven frames wait" in caught.value.__notes__[0]


def test_33_a_second_interrupt_does_not_wait_and_the_work_goes_on_by_itself() -> None:
    go, ended = threading.Event(), threading.Event()

    def work() -> None:
        ctrl_c()
        assert go.wait(TIMEOUT_SECONDS)
        ended.set()

    task = Aside(work, "spoolq-test")
    with pytest.raises(KeyboardInterrupt):
        task.run(ctrl_c)
    assert not ended.is_set()
    go.set()
    task.wait()
    assert ended.is_set()


def test_work_that_was_cancelled_says_nothing_beside_the_interrupt() -> None:
    cancel = Cancel()

    def work() -> None:
        told = threading.Event()
        cancel.tells(told.set)
        ctrl_c()
        assert told.wait(TIMEOUT_SECONDS)
        raise Cancelled

    with pytest.raises(KeyboardInterrupt) as caught:
        Aside(work, "spoolq-test").run(cancel.now)
    assert not hasattr(caught.value, "__notes__")
    late: list[str] = []
    cancel.tells(lambda: late.append("told"))
    assert (late, cancel.asked()) == (["told"], True)


# --- other places of ours.md 33 -----------------------------------------------------------------------------


def test_33_an_interrupt_behind_the_release_of_a_condition_leaves_its_lock_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lock = threading.RLock()
    condition = threading.Condition(lock)

    def released_and_interrupted() -> None:
        lock.release()
        raise KeyboardInterrupt

    monkeypatch.setattr(condition, "_release_save", released_and_interrupted)
    with pytest.raises(KeyboardInterrupt), lock:
        Clock().wait(condition, None)
    assert not lock._is_owned()  # type: ignore[attr-defined]


def test_33_a_ctrl_c_at_exit_ends_no_other_senders_close(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    class Interrupted(BaseException):  # a KeyboardInterrupt would end pytest
        pass

    class Engine:
        closing = False

        def describe(self) -> str:
            return "one"

        def close(self) -> None:
            closed.append("closed")
            raise Interrupted

        def forked(self) -> None: ...

    engines = [Engine(), Engine(), Engine()]
    monkeypatch.setattr(lifecycle, "_open", weakref.WeakSet(engines))
    with pytest.warns(ResourceWarning):
        lifecycle.close_all()
    assert closed == ["closed"] * 3
