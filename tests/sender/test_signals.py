"""`close` in a signal handler, which runs inside whatever the main thread is doing (ours.md 10, 33; `reentry`)."""

from __future__ import annotations

import functools
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from spoolq import ClosedError, DeliveryTimeout, ReentryError, Sender, StorageError, TimestampMicros
from spoolq.testing import QwpServer

from .harness import numbers, open_sender, publish, put, python

NUMBER = signal.SIGUSR1
SLOT = "sf_dir={};sf_durability=flush;"


@pytest.fixture
def server() -> Iterator[QwpServer]:
    with QwpServer() as running:
        yield running


@pytest.fixture
def on_signal() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Sets what the signal's handler calls."""
    before = signal.getsignal(NUMBER)
    yield lambda call: signal.signal(NUMBER, lambda *_: call()) and None
    signal.signal(NUMBER, before)


class _Interruption:
    """Sends the signal before the ``nth`` line of spoolq's that this thread runs."""

    def __init__(self, nth: int) -> None:
        self._left = nth
        self.sent = False

    def __call__(self, frame: FrameType, event: str, _argument: object) -> Any:
        if "/src/spoolq/" not in frame.f_code.co_filename or self.sent:
            return None
        if event == "line":
            self._left -= 1
            if not self._left:
                self.sent = True
                signal.raise_signal(NUMBER)
        return self

    def __enter__(self) -> None:
        sys.settrace(self)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("where", "step"), [("memory", 1), ("slot", 7)])
def test_33_close_in_a_signal_handler_at_every_line_of_a_busy_sender_loses_no_row_and_hangs_nowhere(
    server: QwpServer, tmp_path: Path, on_signal: Callable[..., None], where: str, step: int
) -> None:
    taken: list[int] = []
    nth, sent = 0, True
    while sent:
        nth += step
        sender = open_sender(server, SLOT.format(tmp_path) if where == "slot" else "")
        on_signal(sender.close)
        interruption = _Interruption(nth)
        with suppress(ClosedError), interruption:
            for _ in range(2):  # the second flush finds its symbols known
                put(sender, nth)
                taken.append(nth)
                sender.flush()
            sender.stats()
            sender.await_acked_fsn(1)
        sender.close()
        sent = interruption.sent
    assert nth > 50
    assert numbers(server) == taken


_BUSY = """
import random, signal, sys
from spoolq import ClosedError, Sender, TimestampMicros
conf, mode, seed = sys.argv[1:]
dice, number, taken = random.Random(int(seed)), 0, []
for turn in range(50):
    sender = Sender.from_conf(conf + "auto_flush=on;auto_flush_rows=7;close_flush_timeout_millis=100000;")
    def stop(signum, frame):
        sender.close()
        if turn % 2:
            sys.exit()
    signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, dice.uniform(0.0002, 0.005))
        while True:
            number += 1
            sender.row("t", symbols={"s": f"sym-{number}"}, columns={"n": number}, at=TimestampMicros(number))
            taken.append(number)
            if mode == "flush":
                sender.flush()
            elif mode == "stats":
                sender.stats()
            elif mode == "await":
                sender.await_acked_fsn(sender.flush_and_get_fsn() or 0)
    except (ClosedError, SystemExit):
        pass
    sender.close()
print(taken)
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", ["row", "flush", "stats", "await"])
def test_33_two_hundred_signals_at_any_time(server: QwpServer, tmp_path: Path, mode: str) -> None:
    conf = server.conf + (SLOT.format(tmp_path) if mode != "row" else "")
    done = python(_BUSY, conf, mode, "1")
    assert done.returncode == 0, done.stderr
    assert not set(map(int, done.stdout.strip("[]\n").split(", "))) - set(numbers(server)), "each row that was taken"


def test_33_close_inside_close_leaves_it_to_the_first(server: QwpServer, on_signal: Callable[..., None]) -> None:
    sender = open_sender(server)
    on_signal(sender.close)
    put(sender, 0)
    real = sender._engine._ending._drain

    def drain() -> None:
        signal.raise_signal(NUMBER)
        real()

    sender._engine._ending._drain = drain  # type: ignore[method-assign]
    sender.close()
    assert numbers(server) == [0]


def test_33_in_a_generator_of_rows_it_closes_at_once(server: QwpServer, on_signal: Callable[..., None]) -> None:
    sender = open_sender(server)
    on_signal(sender.close)

    def rows() -> Iterator[tuple[str, int]]:
        yield ("sym-0", 0)
        signal.raise_signal(NUMBER)
        yield ("sym-1", 1)

    with pytest.raises(ClosedError):
        sender.rows("t", rows(), symbols=["s"], columns=["n"], at=TimestampMicros(1))
    assert numbers(server) == [0]


@pytest.mark.parametrize("handler", ["function", "partial", "object"])
def test_33_in_a_conversion_hook_it_closes_behind_the_row(server: QwpServer, handler: str) -> None:
    sender = open_sender(server)

    class Stop:
        def __call__(self, *_: object) -> None:
            sender.close()

    def stop(*_: object) -> None:
        sender.close()

    class Columns(dict[str, int]):
        def items(self) -> Any:
            signal.raise_signal(NUMBER)
            return super().items()

    before = signal.signal(NUMBER, {"function": stop, "partial": functools.partial(stop), "object": Stop()}[handler])
    try:
        sender.row("t", symbols={"s": "sym-0"}, columns=Columns(n=0), at=TimestampMicros(1))
    finally:
        signal.signal(NUMBER, before)
    sender.close()
    assert numbers(server) == [0]


def test_33_a_flush_inside_a_sync_is_an_error_and_its_rows_are_queued(
    server: QwpServer, tmp_path: Path, on_signal: Callable[..., None], monkeypatch
) -> None:
    told: list[ReentryError] = []

    def flush() -> None:
        put(sender, 1)
        with pytest.raises(ReentryError, match="in the middle of a sync") as caught:
            sender.flush()
        told.append(caught.value)

    sender = open_sender(server, SLOT.format(tmp_path))
    on_signal(flush)
    commit = sender._engine.store._commit  # type: ignore[attr-defined]
    real = commit._sync

    def sync() -> None:
        commit._sync = real
        signal.raise_signal(NUMBER)
        real()

    commit._sync = sync
    publish(sender, 0)
    assert [error.in_doubt for error in told] == [True]
    sender.close()
    assert numbers(server) == [0, 1]


def test_33_a_sync_that_close_has_overtaken_is_none_of_what_the_server_has(server: QwpServer, tmp_path: Path) -> None:
    sender = open_sender(server, SLOT.format(tmp_path))
    fsn = publish(sender, 0)
    sender.wait()
    sender.close()
    sender._engine.store.sync(fsn)
    with pytest.raises(StorageError, match="closed"):
        sender._engine.store.sync(fsn + 1)


def test_33_what_nobody_waited_for_is_raised_by_the_next_close(
    server: QwpServer, on_signal: Callable[..., None]
) -> None:
    server.hold_acks()
    sender = open_sender(server, "close_flush_timeout_millis=20;")
    put(sender, 0)
    on_signal(sender.close)
    with sender._engine.rows:  # the thread is inside a call
        signal.raise_signal(NUMBER)
    with pytest.raises(DeliveryTimeout, match="gave up after 20 ms"):
        sender.close()
    sender.close()


def test_33_where_no_thread_can_be_had_the_handler_is_told(
    server: QwpServer, on_signal: Callable[..., None], monkeypatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def close(sender: Sender) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            with pytest.raises(ReentryError, match="call it behind that"):
                sender.close()

    with open_sender(server) as sender:
        put(sender, 0)
        on_signal(lambda: close(sender))
        with sender._engine.rows:
            signal.raise_signal(NUMBER)
    assert numbers(server) == [0]


def test_31_the_exit_waits_for_a_close_that_a_handler_has_begun(server: QwpServer) -> None:
    done = python(
        """
import signal, sys
from spoolq import Sender, TimestampMicros
sender = Sender.from_conf(sys.argv[1] + "auto_flush=off;")
def stop(signum, frame):
    sender.close()
    sys.exit(7)
signal.signal(signal.SIGTERM, stop)
sender.row("t", symbols={"s": "sym-0"}, columns={"n": 0}, at=TimestampMicros(1))
with sender._engine.rows:
    signal.raise_signal(signal.SIGTERM)
""",
        server.conf,
    )
    assert (done.returncode, done.stderr) == (7, "")
    assert numbers(server) == [0]
