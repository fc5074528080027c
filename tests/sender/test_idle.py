"""What a sender costs that has nothing to do (ours.md 13), and what a thousand of them leave behind.

The kernel is asked, not the sender: a thread that makes a system call runs, and the time it ran on a processor
(the first figure of ``/proc/<pid>/task/<tid>/schedstat``, in ns) goes up.
"""

from __future__ import annotations

import gc
import os
import select
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from spoolq import Sender, TimestampMicros
from spoolq.testing import QwpServer
from tests.chaos.journal import Journals
from tests.chaos.server import ServerProcess
from tests.crash.rows import row
from tests.processes import started

from .harness import TIMEOUT_SECONDS, StepClock, child_environment, free_port, numbers, open_sender, publish

IDLE_SECONDS = 10.0
_SENDER = """
import sys
from spoolq import Sender, TimestampMicros
with Sender.from_conf(sys.argv[1]) as sender:
    for n in range(3):
        sender.row("t", symbols={"s": f"sym-{n}"}, columns={"n": n}, at=TimestampMicros(n + 1))
    assert sender.await_acked_fsn(sender.flush_and_get_fsn(), timeout_millis=100_000)
    print("acked", flush=True)
    sys.stdin.readline()
    sender.row("t", symbols={"s": "sym-3"}, columns={"n": 3}, at=TimestampMicros(4))
"""


def ran_nanos(pid: int) -> dict[str, int]:
    """How long each thread has run."""
    tasks = Path(f"/proc/{pid}/task")
    return {
        f"{(tasks / thread / 'comm').read_text().strip()} {thread}": int(
            (tasks / thread / "schedstat").read_text().split()[0]
        )
        for thread in os.listdir(tasks)
    }


def _asleep(pid: int) -> bool:
    """Whether each thread sleeps: none runs, waits for a disk, or would run if the machine let it."""
    return {stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")} == {
        "S"
    }


def wait_for_rest(pid: int) -> dict[str, int]:
    """Until all threads have slept for a quarter of a second: keeper and I/O thread have ended their last work."""
    now: dict[str, int] = {}
    while True:  # pytest's own limit ends it
        before, now = now, ran_nanos(pid)
        if before == now and _asleep(pid):
            return now
        select.select([], [], [], 0.25)


@pytest.mark.parametrize("where", ["in memory", "on a slot"])
def test_lng_01_an_idle_sender_makes_no_system_call(tmp_path: Path, where: str) -> None:
    """Ten seconds by the kernel's own account; issue 8, done when 6."""
    slot = f"sf_dir={tmp_path};" if where == "on a slot" else ""
    with QwpServer() as server, _child(f"{server.conf}{slot}") as child:
        before = wait_for_rest(child.pid)
        select.select([], [], [], IDLE_SECONDS)
        after = ran_nanos(child.pid)
        child.communicate(b"\n")
        assert child.returncode == 0
        assert numbers(server) == [0, 1, 2, 3]
    assert len(before) >= 3, "the program's own thread, keeper, I/O"
    assert after == before


def test_lng_01_without_a_server_only_the_attempts_cost_anything() -> None:
    """One in five seconds here, by the I/O thread; the others do not run."""
    with QwpServer(port=free_port()) as server:
        conf = f"{server.conf}reconnect_initial_backoff_millis=5000;initial_connect_retry=off;"
        conf += "close_flush_timeout_millis=30000;"  # the backoff may last ten seconds
        with _child(conf) as child:
            wait_for_rest(child.pid)
            server.stop()
            before = wait_for_rest(child.pid)
            select.select([], [], [], 3.0)
            after = ran_nanos(child.pid)
            server.start()
            child.communicate(b"\n")
            assert child.returncode == 0
    others = [name for name in before if not name.startswith("spoolq-io")]
    assert [after[name] - before[name] for name in others] == [0] * len(others)


@contextmanager
def _child(conf: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that has sent three rows and waits for a line."""
    command = [sys.executable, "-c", _SENDER, conf]
    with started(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=child_environment()) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"acked\n"
        yield child


def test_lng_02_the_linger_ends_and_a_row_wakes_the_sender() -> None:
    clock = StepClock()
    with QwpServer() as server, open_sender(server, clock=clock) as sender:
        for n in range(3):
            publish(sender, n)
            server.wait_for_rows("t", n + 1)
            clock.asleep()
        assert numbers(server) == [0, 1, 2]


class SlowLinger(StepClock):
    """A poll of the linger ends only by what happens, never by its time; that is an error of the loop."""

    def poll(self, poller: Any, timeout_millis: int | None) -> list[tuple[int, int]]:
        if timeout_millis == 1:
            ready: list[tuple[int, int]] = poller.poll(TIMEOUT_SECONDS * 100)
            assert ready, "nobody woke the loop"
            return ready
        return super().poll(poller, timeout_millis)


@pytest.mark.parametrize("how", ["await_acked_fsn", "await_ok_fsn", "wait", "close"])
def test_13_who_waits_for_the_server_is_not_kept_by_the_linger(how: str) -> None:
    """A flush wakes nobody within the linger; the wait behind it does."""
    with QwpServer() as server, open_sender(server, clock=SlowLinger()) as sender:
        fsn = publish(sender, 0)
        match how:
            case "await_acked_fsn" | "await_ok_fsn":
                assert getattr(sender, how)(fsn, timeout_millis=None)
            case "wait":
                sender.wait()
            case "close":
                sender.close()
        assert numbers(server) == [0]


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """A directory that waits for no disk, where there is one."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as name:
        yield Path(name)


@pytest.mark.parametrize("where", ["memory", "slot"])
def test_nfr_01_a_thousand_senders_leave_nothing_behind(tmp_path: Path, in_memory: Path, where: str) -> None:
    """Issue 8, done when 6: open, send, close; the server is a process of its own, for its memory does not count."""
    times, warm = 1_000, 100
    before: list[tuple[int, int, int]] = []
    extra = "sf_max_segment_bytes=65536;sf_max_total_bytes=262144;"
    if where == "slot":
        extra += f"sf_dir={in_memory / 'spool'};"
    server = ServerProcess("one", tmp_path, text_nbytes_max=100)
    server.start()
    try:
        for n in range(times):
            if n in (warm, times // 2):
                gc.collect()
                before.append(_held())
            made = row(n, 100)
            with Sender.from_conf(f"ws::addr=127.0.0.1:{server.port};{extra}") as sender:
                sender.row(
                    made.table,
                    symbols={"s": made.s},
                    columns={"n": n, "x": made.x, "text": made.text},
                    at=TimestampMicros(made.micros),
                )
        gc.collect()
        after = _held()
        half = before[1]
    finally:
        server.kill()
    assert after[:2] == half[:2] == before[0][:2], "threads and descriptors"
    # what each leaves behind is there in both halves; what the allocator takes once is not
    assert min(half[2] - before[0][2], after[2] - half[2]) < 1 << 20, "resident bytes"
    journals = Journals(tmp_path)
    assert (len(journals.landed), journals.faults) == (times, [])


def _held() -> tuple[int, int, int]:
    """Threads, descriptors, resident bytes of this process."""
    for _ in range(10_000):  # a thread that was joined may still be on its way out of the kernel
        status = Path("/proc/self/status").read_text()
        threads = int(status.partition("Threads:")[2].split()[0])
        if threads <= threading.active_count():
            break
        os.sched_yield()
    resident = int(status.partition("VmRSS:")[2].split()[0]) << 10
    return threads, len(os.listdir("/proc/self/fd")), resident
