"""progress.py: what callers wait for."""

from __future__ import annotations

import contextlib
import threading

import pytest

from spoolq.errors import ClosedError, ServerRejection
from spoolq.runtime.progress import Progress

from .manual_clock import ManualClock


def _rejection() -> ServerRejection:
    return ServerRejection("refused", category="schema_mismatch")


def test_err_08_a_latched_error_is_raised_before_the_test_and_before_the_timeout() -> None:
    progress = Progress(ManualClock())
    error = _rejection()
    assert progress.fail(error)
    with pytest.raises(ServerRejection):
        progress.wait_until(lambda: True, 0)


def test_the_first_terminal_error_wins() -> None:
    progress = Progress(ManualClock())
    first = _rejection()
    assert progress.fail(first)
    assert not progress.fail(_rejection())
    assert progress.error is first


def test_a_timeout_of_zero_tests_once_and_returns() -> None:
    progress = Progress(ManualClock())
    assert progress.wait_until(lambda: True, 0)
    assert not progress.wait_until(lambda: False, 0)
    assert not progress.wait_until(lambda: False, -5)


class _Waiter(threading.Thread):
    """A thread inside `wait_until`; its outcome is the result or the exception."""

    def __init__(self, progress: Progress, reached: list[bool], timeout_millis: int | None) -> None:
        super().__init__()
        self._arguments = (progress, reached, timeout_millis)
        self.outcome: object = None
        self.start()

    def run(self) -> None:
        progress, reached, timeout_millis = self._arguments
        try:
            self.outcome = progress.wait_until(lambda: reached[0], timeout_millis)
        except Exception as error:
            self.outcome = error


def test_a_wait_ends_with_progress() -> None:
    clock = ManualClock()
    progress, reached = Progress(clock), [False]
    waiter = _Waiter(progress, reached, None)
    clock.waiting()
    progress.advanced()  # not reached yet: it goes on waiting
    clock.waiting()
    reached[0] = True
    progress.advanced()
    waiter.join(10)
    assert waiter.outcome is True


def test_a_wait_ends_with_its_time_and_says_false() -> None:
    clock = ManualClock()
    progress, reached = Progress(clock), [False]
    waiter = _Waiter(progress, reached, 250)
    assert clock.waiting() == [1_250]
    clock.advance(250)
    waiter.join(10)
    assert waiter.outcome is False


@pytest.mark.parametrize("ending", ["error", "close"])
def test_a_wait_ends_at_once_with_an_error_or_a_close(ending: str) -> None:
    clock = ManualClock()
    progress, reached = Progress(clock), [False]
    waiter = _Waiter(progress, reached, None)
    clock.waiting()
    if ending == "error":
        progress.fail(_rejection())
    else:
        progress.end()
    waiter.join(10)
    assert isinstance(waiter.outcome, ServerRejection if ending == "error" else ClosedError)


def test_the_beginning_of_a_close_ends_the_appends_and_lets_the_others_wait_for_the_drain() -> None:
    progress = Progress(ManualClock())
    progress.begin_closing()
    assert progress.wait_until(lambda: True, None)
    with pytest.raises(ClosedError):
        progress.wait_until(lambda: False, None, while_closing=False)


def test_raising_a_latched_error_again_and_again_does_not_grow_its_traceback() -> None:
    progress = Progress(ManualClock())
    progress.fail(_rejection())
    lengths = []
    for _ in range(3):
        with pytest.raises(ServerRejection) as caught:
            progress.wait_until(lambda: False, 0)
        lengths.append(len(caught.traceback))
    assert len(set(lengths)) == 1


@pytest.mark.parametrize("method", ["__enter__", "__exit__"])
def test_33_a_ctrl_c_in_a_method_of_the_condition_keeps_nobody_out(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """They are Python, so a signal may come when the lock is taken and not yet, or still, in a ``with``'s care."""
    progress = Progress(ManualClock())
    real = getattr(threading.Condition, method)

    def interrupted(condition: threading.Condition, *arguments: object) -> object:
        if condition is not progress._condition:
            return real(condition, *arguments)
        if method == "__enter__":
            real(condition)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Condition, method, interrupted)
        with contextlib.suppress(KeyboardInterrupt):
            progress.wait_until(lambda: True, None)
    other = threading.Thread(target=progress.begin_closing, daemon=True)
    other.start()
    other.join(10)
    assert progress.closing
