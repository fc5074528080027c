"""The keeper must go on for a producer that waits for it with the sender's lock held."""

from __future__ import annotations

import threading

import pytest

from spoolq.columns import RowBuffer, SymbolTable
from spoolq.runtime.keeper import Keeper
from spoolq.spool import MemoryStore
from spoolq.values import TimestampNanos
from tests.interrupts import CutNotify
from tests.runtime.manual_clock import ManualClock
from tests.sender.harness import until


def _kept(store: MemoryStore, clock: ManualClock) -> tuple[RowBuffer, Keeper, threading.Event]:
    """A row buffer, its keeper with a deadline of 100 ms, not started, and what a timer flush sets."""
    rows, flushed = RowBuffer(SymbolTable()), threading.Event()

    def publish(wait: bool) -> int | None:
        rows.clear()
        flushed.set()
        return 0

    keeper = Keeper(
        rows, store, publish, clock, interval_millis=100, append_deadline_millis=1_000, report=lambda _: None
    )
    rows.on_first_row = keeper.row_buffered
    return rows, keeper, flushed


class _NeedsKeeping(MemoryStore):
    """Asks for the keeper when ``needed`` is set; ``kept`` says that it came."""

    def __init__(self) -> None:
        super().__init__(1_000, 10_000)
        self.needed = False
        self.kept = threading.Event()
        self.passed = threading.Event()

    def keep_due_millis(self, now_millis: int) -> int | None:
        return now_millis if self.needed else None

    def keep(self, now_millis: int) -> bool:
        if self.needed:
            self.needed = False
            self.kept.set()
        self.passed.set()
        return True


def test_a_due_timer_flush_does_not_wait_for_a_producer_that_waits_for_a_spare() -> None:
    clock, store = ManualClock(), _NeedsKeeping()
    rows, keeper, flushed = _kept(store, clock)
    keeper.start()
    try:
        clock.waiting()
        rows.row("t", columns={"n": 1}, at=TimestampNanos(1))
        clock.waiting()
        with rows:  # a flush that found no room
            store.passed.clear()
            clock.advance(100)
            assert store.passed.wait(10)  # the timer flush comes next
            store.needed = True
            keeper.wake()
            assert store.kept.wait(10), "the keeper waits for the lock"
            assert not flushed.is_set()
        clock.waiting()
        clock.advance(5)
        assert flushed.wait(10)
    finally:
        keeper.stop()
    store.close()


def test_33_a_wake_that_is_interrupted_is_made_by_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks sees a keeper that sleeps, until somebody has woken it."""
    store = MemoryStore(1 << 16, 1 << 20)
    rows = RowBuffer(SymbolTable())
    keeper = Keeper(
        rows,
        store,
        lambda _: None,
        ManualClock(),
        interval_millis=100,
        append_deadline_millis=100,
        report=lambda _: None,
    )
    keeper.dormant = keeper.without_chore = True

    def interrupted(_: int = 1) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(keeper._condition, "notify", interrupted)
        with pytest.raises(KeyboardInterrupt):
            keeper.wake()
    assert (keeper.dormant, keeper.without_chore) == (True, True)
    keeper.wake()
    assert (keeper.dormant, keeper.without_chore) == (False, False)
    store.close()


def test_33_a_ctrl_c_inside_a_wake_does_not_swallow_the_next_one() -> None:
    """`Condition.notify` then has a waiter in its list that waits no more, and wakes that one."""
    clock, store, waiters = ManualClock(), _NeedsKeeping(), CutNotify()
    _, keeper, _ = _kept(store, clock)
    keeper._condition._waiters = waiters  # type: ignore[attr-defined]
    keeper.start()
    clock.waiting()
    waiters.armed = True
    with pytest.raises(KeyboardInterrupt):
        keeper.wake()
    until(lambda: len(waiters) == 2)
    store.needed = True
    keeper.wake()
    try:
        assert store.kept.wait(10), "nobody has woken it"
    finally:
        keeper.stop()
        store.close()


class _ChoreLater(MemoryStore):
    """Wants something done at a time of its own, as a checkpoint of every five seconds."""

    def __init__(self) -> None:
        super().__init__(1_000, 10_000)
        self.at_millis = 6_000

    def keep_due_millis(self, now_millis: int) -> int | None:
        return max(self.at_millis, now_millis)


def test_TMR_01_the_deadline_of_a_row_holds_while_the_thread_waits_for_something_later() -> None:
    """And a producer that flushes each row itself does not wake it again before it has looked."""
    clock, store, wakes = ManualClock(), _ChoreLater(), list[int]()
    rows, keeper, flushed = _kept(store, clock)
    wake = keeper.wake

    def counted() -> None:
        wakes.append(clock.now_millis())
        wake()

    keeper.wake = counted  # type: ignore[method-assign]

    def waits_until(millis: int) -> None:
        with clock._lock:
            assert clock._lock.wait_for(lambda: list(clock._waits.values()) == [millis], 10), clock._waits

    keeper.start()
    try:
        waits_until(6_000)
        for start in (1_000, 1_500, 2_000):
            clock.advance(start - clock.now_millis())
            waits_until(6_000)
            with keeper._lock:  # the caller flushes before the thread comes to look
                for _ in range(10):
                    rows.clear()
                    rows.row("t", columns={"n": 1}, at=TimestampNanos(1))
            waits_until(start + 100)
            flushed.clear()
            clock.advance(100)
            assert flushed.wait(10)
        assert wakes == [1_000, 1_500, 2_000]
    finally:
        keeper.stop()
    store.close()
