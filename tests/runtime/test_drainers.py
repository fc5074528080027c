"""The pool of drainers: how many at once, pauses, submit against close, the end."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from spoolq.delivery.drain import Outcome
from spoolq.errors import SpoolqError
from spoolq.runtime.clock import Clock
from spoolq.runtime.drainers import GRACE_MILLIS, STOP_MILLIS, Drainers
from spoolq.stats import DrainerStatus
from tests.runtime.manual_clock import ManualClock

TIMEOUT_SECONDS = 10.0


class Fake:
    """Stands in for a `Drainer`: an attempt is a function; counts how many are in one at once."""

    at_once = 0
    most = 0
    _guard = threading.Lock()

    def __init__(self, name: str, attempt: Callable[[Fake], int | None]) -> None:
        self.name = name
        self._attempt = attempt
        self.outcome: Outcome | None = None
        self.attempts = 0
        self.begun = threading.Event()
        self.stopped = threading.Event()

    def work(self) -> int | None:
        with Fake._guard:
            Fake.at_once += 1
            Fake.most = max(Fake.most, Fake.at_once)
        self.attempts += 1
        self.begun.set()
        try:
            due = self._attempt(self)
        finally:
            with Fake._guard:
                Fake.at_once -= 1
        if due is None:
            self.outcome = Outcome.STOPPED if self.stopped.is_set() else Outcome.SUCCESS
        return due

    def stop(self) -> None:
        self.stopped.set()

    def cancel(self) -> None:
        self.stopped.set()
        self.outcome = Outcome.STOPPED

    def status(self) -> DrainerStatus:
        return DrainerStatus(self.name, None, None, None if self.outcome is None else self.outcome.value, "")


@pytest.fixture(autouse=True)
def _counts() -> None:
    Fake.at_once = Fake.most = 0


def _pool(attempt: Callable[[Fake], int | None], workers: int = 2, clock: Clock | None = None) -> Any:
    """(pool, its fakes by name)."""
    fakes: dict[str, Fake] = {}

    def make(name: str) -> Any:
        fakes[name] = Fake(name, attempt)
        return fakes[name]

    return Drainers(make, workers_max=workers, clock=clock or ManualClock()), fakes


def _threads() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("spoolq-drainer"))


def _wait(condition: threading.Condition, done: Callable[[], Any]) -> None:
    with condition:
        assert condition.wait_for(done, TIMEOUT_SECONDS)


def test_orp_06_never_more_at_once_than_allowed() -> None:
    go = threading.Semaphore(0)
    pool, fakes = _pool(lambda _: None if go.acquire(timeout=TIMEOUT_SECONDS) else 1 // 0, workers=3)
    for number in range(10):
        assert pool.submit(f"slot-{number}")
    assert len(_threads()) == 3
    for number in range(3):
        assert fakes[f"slot-{number}"].begun.wait(TIMEOUT_SECONDS)
    assert not any(fakes[f"slot-{number}"].begun.is_set() for number in range(3, 10)), "the others wait"
    assert pool.counts() == (3, 0, 0)
    go.release(10)
    _wait(pool._condition, lambda: not pool._threads)
    assert Fake.most == 3
    assert pool.counts() == (0, 10, 0)
    assert [status.outcome for status in pool.snapshot()] == ["success"] * 10
    pool.close()
    assert _threads() == [], "there is no thread when there is no work"


def test_a_slot_that_pauses_gives_its_thread_to_another() -> None:
    clock = ManualClock()
    pool, fakes = _pool(lambda fake: clock.now_millis() + 5_000 if fake.attempts < 3 else None, 1, clock)
    for name in ("one", "two"):
        pool.submit(name)

    def paused(attempts: int) -> bool:
        """Each has made that many, and the thread waits again."""
        return len(pool._waiting) == 2 and all(fake.attempts == attempts for fake in fakes.values())

    _wait(pool._condition, lambda: paused(1))
    clock.waiting()
    assert pool.counts() == (0, 0, 0)
    clock.advance(4_999)
    clock.waiting()
    assert paused(1), "not before it is due"
    clock.advance(1)
    _wait(pool._condition, lambda: paused(2))
    clock.advance(5_000)
    _wait(pool._condition, lambda: not pool._threads)
    assert pool.counts() == (0, 2, 0)
    pool.close()


def test_orp_07_submit_against_close_leaves_none_untracked() -> None:
    for _ in range(50):
        pool, fakes = _pool(lambda _: None, workers=4)
        start = threading.Barrier(5)
        told: dict[str, bool] = {}

        def submit(prefix: int, pool: Any = pool, start: Any = start, told: dict[str, bool] = told) -> None:
            start.wait()
            for number in range(20):
                told[f"{prefix}-{number}"] = pool.submit(f"{prefix}-{number}")

        submitters = [threading.Thread(target=submit, args=(prefix,)) for prefix in range(4)]
        for thread in submitters:
            thread.start()
        start.wait()
        pool.close()
        for thread in submitters:
            thread.join()
        assert _threads() == []
        tracked = {status.slot: status.outcome for status in pool.snapshot()}
        assert {name for name, taken in told.items() if taken} == set(tracked) == set(fakes)
        assert set(tracked.values()) <= {"success", "stopped"}, "each has an outcome"
        assert not pool.submit("late")


def test_orp_08_close_lets_those_at_work_finish() -> None:
    go = threading.Event()
    clock = ManualClock()
    pool, fakes = _pool(lambda _: [None][not go.wait(TIMEOUT_SECONDS)], 1, clock)
    pool.submit("at work")
    pool.submit("waiting")
    assert fakes["at work"].begun.wait(TIMEOUT_SECONDS)
    closing = threading.Thread(target=pool.close)
    closing.start()
    assert clock.waiting() == [clock.now_millis() + GRACE_MILLIS]
    clock.advance(GRACE_MILLIS - 1)
    assert not fakes["at work"].stopped.is_set(), "it is not even asked to stop"
    go.set()
    closing.join(TIMEOUT_SECONDS)
    assert [status.outcome for status in pool.snapshot()] == ["success", "stopped"]
    assert not fakes["waiting"].begun.is_set()


def test_close_stops_what_does_not_finish_and_leaves_behind_what_does_not_stop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    go = threading.Event()
    clock = ManualClock()
    pool, fakes = _pool(lambda fake: fake.stopped.wait(TIMEOUT_SECONDS) and stuck(fake) and None, 2, clock)

    def stuck(fake: Fake) -> bool:
        return fake.name == "listens" or go.wait(TIMEOUT_SECONDS)

    for name in ("stuck in its disk", "listens"):
        pool.submit(name)
    for fake in fakes.values():
        assert fake.begun.wait(TIMEOUT_SECONDS)
    closing = threading.Thread(target=pool.close)
    closing.start()
    clock.waiting()
    clock.advance(GRACE_MILLIS)
    assert all(fake.stopped.wait(TIMEOUT_SECONDS) for fake in fakes.values())
    _wait(pool._condition, lambda: fakes["listens"] not in pool._at_work)
    while closing.is_alive():
        clock.advance(STOP_MILLIS)
        closing.join(0.01)
    assert "stuck in its disk does not end and is left behind" in caplog.text
    assert "listens" not in caplog.text
    go.set()
    _wait(pool._condition, lambda: not pool._threads)


def test_a_ctrl_c_in_the_grace_stops_those_at_work() -> None:
    """Else they would go on behind a `close` that has returned, with their slots' locks and connections."""

    class Interrupted(ManualClock):
        def wait(self, condition: threading.Condition, timeout_millis: int | None) -> None:
            raise KeyboardInterrupt

    pool, fakes = _pool(lambda fake: [None][not fake.stopped.wait(TIMEOUT_SECONDS)], 1, Interrupted())
    pool.submit("one")
    assert fakes["one"].begun.wait(TIMEOUT_SECONDS)
    with pytest.raises(KeyboardInterrupt):
        pool.close()
    stopped = fakes["one"].stopped.is_set()
    fakes["one"].stop()
    _wait(pool._condition, lambda: not pool._threads)
    assert stopped


def test_a_close_while_all_pause_takes_no_time() -> None:
    clock = ManualClock()
    pool, fakes = _pool(lambda _: clock.now_millis() + 60_000, 2, clock)
    pool.submit("one")
    clock.waiting()
    pool.close()
    assert fakes["one"].outcome is Outcome.STOPPED
    pool.close()


def test_a_slot_that_asks_for_a_pause_while_closing_is_stopped() -> None:
    go = threading.Event()
    clock = ManualClock()
    pool, fakes = _pool(lambda _: clock.now_millis() if go.wait(TIMEOUT_SECONDS) else None, 1, clock)
    pool.submit("one")
    assert fakes["one"].begun.wait(TIMEOUT_SECONDS)
    closing = threading.Thread(target=pool.close)
    closing.start()
    clock.waiting()
    go.set()
    closing.join(TIMEOUT_SECONDS)
    assert (fakes["one"].attempts, fakes["one"].outcome) == (1, Outcome.STOPPED)


def test_a_thread_that_cannot_start_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, _ = _pool(lambda _: None)

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(SpoolqError, match="spoolq-drainer-0 cannot be started: can't start new thread"):
            pool.submit("one")
    pool.close()
    assert [status.outcome for status in pool.snapshot()] == ["stopped"]


@pytest.mark.parametrize("call", ["counts", "snapshot"])
def test_33_a_ctrl_c_in_a_method_of_the_condition_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """See tests/runtime/test_progress.py; `Sender.stats` and `background_drainers` call these on any thread."""
    pool, _ = _pool(lambda _: None, 1, ManualClock())
    enter = threading.Condition.__enter__

    def interrupted(condition: threading.Condition) -> bool:
        entered = enter(condition)
        if condition is pool._condition:
            raise KeyboardInterrupt
        return entered

    with monkeypatch.context() as patched:
        patched.setattr(threading.Condition, "__enter__", interrupted)
        with contextlib.suppress(KeyboardInterrupt):
            getattr(pool, call)()
    other = threading.Thread(target=pool.close, daemon=True)
    other.start()
    other.join(10)
    assert not other.is_alive()
