"""What the tests of `Sender` share: senders against a server, a clock they move, events they can wait for.

Nothing here sleeps: a test waits for the server (`server.wait_for...`), for a handler (`Recorder`), for a thread
(`Call`), for the sender's own threads to come to rest (`StepClock`), or asks for what nobody tells (`until`).
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spoolq import Sender, TimestampMicros
from spoolq.config import parse
from spoolq.qwp.decode import Dictionary, decode
from spoolq.testing import QwpServer
from tests.ports import free_port as free_port
from tests.runtime.manual_clock import ManualClock

TIMEOUT_SECONDS = 10.0
_ROUNDS_MAX = 10_000  # a round takes no time; the thread may be in the middle of its work
_SHOWN = ("-W", "always::ResourceWarning")
# Explicit "off": a reconnect key alone would choose SYNC (behaviour.md 2.2).
FAST = (
    "initial_connect_retry=off;auto_flush=off;reconnect_initial_backoff_millis=1;reconnect_max_backoff_millis=4;"
    "close_flush_timeout_millis=10000;"
)


class StepClock(ManualClock):
    """A `ManualClock` that also tells what the thread that polls descriptors is waiting for."""

    def __init__(self) -> None:
        super().__init__()
        self._polling: list[int | None] = []
        self._polls = 0

    def poll(self, poller: select.poll, timeout_millis: int | None) -> list[tuple[int, int]]:
        if timeout_millis is None and (ready := poller.poll(0)):
            return ready  # woken before it slept
        with self._lock:
            self._polling = [timeout_millis]
            self._polls += 1
            self._lock.notify_all()
        try:
            if timeout_millis is not None and timeout_millis <= 1:
                return poller.poll(timeout_millis)  # the linger: it looks at the log, whose frames wake nobody then
            return super().poll(poller, timeout_millis)
        finally:
            with self._lock:
                self._polling = []

    def wait_for_poll(self, wanted: Callable[[int | None], bool]) -> int | None:
        """Blocks until the I/O thread polls with a time-out that is wanted; that time-out."""
        with self._lock:
            assert self._lock.wait_for(lambda: any(map(wanted, self._polling)), TIMEOUT_SECONDS), self._polling
            return self._polling[0]

    def asleep(self) -> None:
        """Blocks until the I/O thread sleeps without a time limit; moves the clock past its linger.

        Once a poll and no more often: rounds that the I/O thread has not seen would only keep it from the processor.
        """
        seen = -1

        def rests_or_lingers_anew() -> bool:
            return bool(self._polling) and (self._polling[0] is None or (self._polling[0] <= 1 and self._polls > seen))

        for _ in range(_ROUNDS_MAX):
            with self._lock:
                assert self._lock.wait_for(rests_or_lingers_anew, TIMEOUT_SECONDS), self._polling
                seen, timeout = self._polls, self._polling[0]
            if timeout is None:
                return
            self.advance(1_000)
        raise AssertionError("the I/O thread does not fall asleep")

    def nap(self) -> int | None:
        """Blocks until the I/O thread waits longer than in its linger; for how long (None = no limit)."""
        seen = -1

        def polls_again() -> bool:
            return bool(self._polling) and self._polls > seen

        while True:
            with self._lock:
                assert self._lock.wait_for(polls_again, TIMEOUT_SECONDS), "nobody polls"
                seen, timeout = self._polls, self._polling[0]
            if timeout is None or timeout > 1:
                return timeout
            self.advance(60)

    def tick(self) -> None:
        """Lets the time pass that the I/O thread waits for."""
        timeout = self.nap()
        assert timeout is not None, "it waits for no time"
        self.advance(timeout)

    def wait_for_wait(self, due_in_millis: int) -> None:
        """Blocks until a thread waits on a condition for that long from now."""
        wanted = self.now_millis() + due_in_millis
        with self._lock:
            assert self._lock.wait_for(lambda: wanted in self._waits.values(), TIMEOUT_SECONDS), self._waits

    def wait_for_rest(self) -> None:
        """Blocks until a thread waits on a condition without a limit: the keeper has nothing to do."""
        with self._lock:
            assert self._lock.wait_for(lambda: None in self._waits.values(), TIMEOUT_SECONDS), self._waits


class LeapClock(StepClock):
    """Time passes only where the thread that polls descriptors waits for it, and then at once."""

    def poll(self, poller: select.poll, timeout_millis: int | None) -> list[tuple[int, int]]:
        ready = poller.poll(0)
        if not ready and timeout_millis is not None:
            self.advance(timeout_millis)
            return []
        return ready or super().poll(poller, timeout_millis)


class Recorder:
    """A handler or listener that keeps what it is told and lets tests wait for it."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self._condition = threading.Condition()

    def __call__(self, event: Any) -> None:
        with self._condition:
            self.told.append(event)
            self._condition.notify_all()

    def wait_for(self, wanted: Callable[[Any], Any] = bool) -> Any:
        """The first event that is wanted, without a wish the first one; waits for it."""
        with self._condition:
            assert self._condition.wait_for(lambda: any(map(wanted, self.told)), TIMEOUT_SECONDS), self.told
            return next(filter(wanted, self.told))

    def kinds(self) -> list[str]:
        """The kinds of connection events so far."""
        with self._condition:
            return [event.kind for event in self.told]


class Call(threading.Thread):
    """A call on a thread of its own; `outcome` gives its result or raises what it raised."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> None:
        super().__init__(daemon=True)
        self._function = lambda: function(*arguments, **keywords)
        self._result: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:
            self._error = error

    def outcome(self) -> Any:
        self.join(TIMEOUT_SECONDS)
        assert not self.is_alive(), "the call did not come back"
        if self._error is not None:
            raise self._error
        return self._result


def until(happened: Callable[[], Any]) -> None:
    """Blocks until it is so.  For what no event tells: a server's ``wait_for`` asks only when the server has worked."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not happened():
        assert time.monotonic() < deadline, "it did not come to that"
        select.select([], [], [], 0.001)


def keeper_rests(sender: Sender) -> bool:
    """Whether the keeper of a slot has noted what is acknowledged and waits: no file comes or goes by itself."""
    keeper, store = sender._engine.keeper, sender._engine.store
    with keeper._lock:
        return keeper.dormant and store._watermark_fsn == store.acked_fsn


def open_sender(
    server: QwpServer[Any] | str,
    extra: str = "",
    *,
    clock: ManualClock | None = None,
    handler: Any = None,
    listener: Any = None,
    base: str = FAST,
    **arguments: Any,
) -> Sender:
    """A sender on a server (or on a connect string), on the clock of the test when there is one."""
    conf = server if isinstance(server, str) else server.conf
    if clock is not None:
        base += "half_open_timeout_millis=0;"  # a clock that a test moves says nothing about how long a server takes
    settings = {item.partition("=")[0]: item for item in (base + extra).split(";") if item}  # the last one counts
    sender = Sender.__new__(Sender)
    sender._open(parse(conf + ";".join([*settings.values(), ""])), handler, listener, clock, **arguments)
    return sender


def put(sender: Sender, *numbers: int, table: str = "t") -> None:
    """A row for each number."""
    for number in numbers:
        sender.row(table, symbols={"s": f"sym-{number}"}, columns={"n": number}, at=TimestampMicros(number + 1))


def publish(sender: Sender, *numbers: int, table: str = "t") -> int:
    """A row for each number, published in one frame; its FSN."""
    put(sender, *numbers, table=table)
    fsn = sender.flush_and_get_fsn()
    assert fsn is not None
    return fsn


@contextmanager
def unanswered(server: QwpServer[Any]) -> Iterator[None]:
    """Inside, the server answers no frame: what a flush leads to, an end of the sender too, comes behind its return."""
    server.hold_acks()
    try:
        yield
    finally:
        server.release_acks()


def publish_unanswered(server: QwpServer[Any], sender: Sender, *numbers: int) -> int:
    """`publish` for a frame whose answer may end the sender: the flush is back before that."""
    with unanswered(server):
        return publish(sender, *numbers)


def numbers(server: QwpServer[Any], table: str = "t") -> list[int]:
    """The numbers that landed, in order; each row's symbol must be its own."""
    rows = server.store.rows(table)
    for row in rows:
        assert row["s"] == f"sym-{row['n']}", row
    return [row["n"] for row in rows]


def frames(server: QwpServer[Any]) -> list[list[int]]:
    """Per connection: the numbers of its data frames, flattened; each message must decode on its connection alone."""
    found = []
    for record in server.connections:
        dictionary = Dictionary()
        seen: list[int] = []
        for message in record.messages:
            for table in decode(message, dictionary).tables:
                seen += next(list(column.values) for column in table.columns if column.name == "n")
        found.append(seen)
    return found


def python(
    code: str, *arguments: str, flags: Sequence[str] = _SHOWN, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Runs code in a process of its own, ResourceWarnings shown."""
    return _run([sys.executable, *flags, "-c", code, *arguments], **options)


def python_file(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The same with a file, for what its own children must be able to import."""
    return _run([sys.executable, *_SHOWN, str(script), *arguments])


def _run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, env=child_environment(), **options)


def child_environment() -> dict[str, str]:
    """This process's, with its import path."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
