"""Fork, interpreter exit, Ctrl-C, threads (ours.md 10, 31, 32, 33)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from spoolq import Sender, TimestampMicros
from spoolq.errors import ForkedError, StorageError
from spoolq.testing import QwpServer, Reject, Script
from tests.ports import NOBODY
from tests.processes import started
from tests.spool.files_double import WatchedFiles

from .harness import Call, StepClock, child_environment, numbers, open_sender, publish, put, python, python_file

_CHILD = """
import signal, sys, threading
from spoolq import Sender, TimestampMicros
conf = sys.argv[1]
def put(sender, *numbers):
    for n in numbers:
        sender.row("t", symbols={"s": f"sym-{n}"}, columns={"n": n}, at=TimestampMicros(n + 1))
"""


@pytest.fixture
def server() -> Iterator[QwpServer]:
    with QwpServer() as running:
        yield running


# --- ours.md 31: exit without close ----------------------------------------------------------------


def test_31_exit_without_close_publishes_waits_and_says_so(server: QwpServer) -> None:
    done = python(
        _CHILD + "sender = Sender.from_conf(conf + 'auto_flush=off;')\nput(sender, 0)\nsender.flush()\nput(sender, 1)",
        server.conf,
    )
    assert done.returncode == 0, done.stderr
    assert "ResourceWarning" in done.stderr
    assert "was not closed" in done.stderr
    server.wait_for_rows("t", 2)
    assert numbers(server) == [0, 1]
    server.wait_for(lambda: server.connections[0].closed_by == "client_close")


def test_31_exit_without_close_does_not_hang_on_a_silent_server(server: QwpServer) -> None:
    server.hold_acks()
    done = python(
        _CHILD
        + "conf += 'auto_flush=off;close_flush_timeout_millis=500;'\n"
        + "sender = Sender.from_conf(conf)\nput(sender, 0)\nsender.flush()\n"
        + "while not sender.stats().total_frames_sent: pass\n"
        + "put(sender, 1)\ndel sender",
        server.conf,
    )
    assert done.returncode == 0, done.stderr
    assert "close() gave up after 500 ms" in done.stderr
    server.wait_for_rows("t", 1)
    assert numbers(server) in ([0], [0, 1])


def test_31_an_exit_by_an_exception_is_the_same(server: QwpServer) -> None:
    done = python(_CHILD + "sender = Sender.from_conf(conf + 'auto_flush=off;')\nput(sender, 0)\n1 / 0", server.conf)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert numbers(server) == [0]


@pytest.mark.parametrize("flags", [["-W", "error"], ["-W", "error::ResourceWarning"]], ids=["error", "resource"])
def test_31_every_sender_is_closed_where_warnings_are_errors(server: QwpServer, flags: list[str]) -> None:
    done = python(
        _CHILD
        + "senders = [Sender.from_conf(conf + 'auto_flush=off;') for n in range(2)]\n"
        + "for n in range(2): put(senders[n], n)",
        server.conf,
        flags=flags,
    )
    assert "ResourceWarning" in done.stderr, "it is shown"
    assert sorted(numbers(server)) == [0, 1]


_WORKER = """
import multiprocessing, sys
from spoolq import Sender, TimestampMicros
def work(conf, count):
    senders = [Sender.from_conf(conf + "auto_flush=off;") for _ in range(count)]
    for n, sender in enumerate(senders):
        sender.row("t", symbols={"s": f"sym-{n}"}, columns={"n": n}, at=TimestampMicros(n + 1))
    global kept
    kept = senders
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("parents", [0, 1], ids=["alone", "parent-has-one"])
def test_31_a_worker_of_multiprocessing_that_does_not_close_loses_no_row(
    server: QwpServer, method: str, parents: int, tmp_path
) -> None:
    script = tmp_path / "worker.py"
    script.write_text(
        _WORKER
        + f"""
if __name__ == "__main__":
    own = [Sender.from_conf(sys.argv[1]) for _ in range({parents})]
    worker = multiprocessing.get_context("{method}").Process(target=work, args=(sys.argv[1], 2))
    worker.start()
    worker.join()
    for sender in own:
        sender.close()
    sys.exit(worker.exitcode)
"""
    )
    done = python_file(script, server.conf)
    assert done.returncode == 0, done.stderr
    assert sorted(numbers(server)) == [0, 1]


_NO_THREADS_AT_EXIT = """
def refuse(thread): raise RuntimeError("can't start new thread")
threading._register_atexit(setattr, threading.Thread, "start", refuse)
"""


def test_31_a_handler_that_cannot_start_at_exit_loses_no_row() -> None:
    """From Python 3.12 on no thread starts behind the end of the main thread; here in any version."""
    with QwpServer(script=[Script(reject=(Reject(0),)), Script()]) as server:
        done = python(
            _CHILD
            + _NO_THREADS_AT_EXIT
            + "sender = Sender.from_conf(conf + 'auto_flush=off;', error_handler=print)\nput(sender, 0)",
            server.conf,
        )
        assert done.returncode == 0, done.stderr
        assert "no thread for spoolq-errors" in done.stderr
        assert numbers(server) == [0]


def test_31_a_closed_sender_says_nothing_at_exit(server: QwpServer) -> None:
    done = python(_CHILD + "sender = Sender.from_conf(conf)\nput(sender, 0)\nsender.close()", server.conf)
    assert (done.returncode, done.stderr) == (0, "")
    assert numbers(server) == [0]


# --- ours.md 33, NFR-05: Ctrl-C ---------------------------------------------------------------------------------

_INTERRUPTED = {
    "await_acked_fsn": "put(sender, 1); sender.flush(); say_when(); sender.await_acked_fsn(1)",
    "wait": "put(sender, 1); sender.flush(); say_when(); sender.wait()",
    "flush-wait": "put(sender, 1); say_when(); sender.flush(wait=True)",
    "drain": "put(sender, 1); say_when(); sender.drain()",
    "room": "big(sender, 1); sender.flush(); big(sender, 2); say_when(); sender.flush()",
    "room-auto-flush": "big(sender, 1); sender.flush(); trigger(sender); say_when(); big(sender, 2)",
    "close": "put(sender, 1); say_when(); sender.close()",
    "row-lock": "threading.Thread(target=hold, args=(sender,)).start(); held.wait(); say_now(); put(sender, 1)",
}
_WAITER = (
    _CHILD
    + """
from spoolq.runtime.clock import Clock
held, release = threading.Event(), threading.Event()
def hold(sender):
    with sender._engine.rows:
        held.set()
        release.wait(20)
def say_now():
    print("ready", flush=True)
def say_when():  # the call that is interrupted waits
    real = Clock.wait
    def wait(clock, condition, timeout_millis):
        if threading.current_thread().name in ("MainThread", "spoolq-close"):
            say_now()
        real(clock, condition, timeout_millis)
    Clock.wait = wait
def trigger(sender):
    sender._engine.rows.row_trigger = 1
def big(sender, n):
    sender.row("t", symbols={"s": f"sym-{n}"}, columns={"n": n, "b": b"x" * 60000}, at=TimestampMicros(n + 1))
sender = Sender.from_conf(
    conf + "auto_flush=off;sf_max_segment_bytes=65536;sf_max_total_bytes=131072;close_flush_timeout_millis=20000;"
)
big(sender, 0)
sender.flush()
try:
    BODY
except KeyboardInterrupt as error:
    release.set()
    buffered = sender.stats().rows_buffered
    print("interrupted", getattr(error, "in_doubt", None), buffered, sender.published_fsn(), flush=True)
    sys.stdin.readline()
    sender.close()
    print("closed", flush=True)
"""
)


@pytest.mark.parametrize("where", _INTERRUPTED)
def test_nfr_05_ctrl_c_in_every_wait_leaves_rows_whole_or_published_and_ends_the_call(
    server: QwpServer, where: str
) -> None:
    server.hold_acks()
    with started(
        [sys.executable, "-c", _WAITER.replace("BODY", _INTERRUPTED[where]), server.conf],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        server.wait_for_rows("t", 1 if where == "row-lock" else 2)
        process.send_signal(signal.SIGINT)
        told = next(line for line in process.stdout if line != "ready\n").split()  # a wait may look up and wait on
        server.release_acks()
        rest, errors = process.communicate("\n")
    assert rest.endswith("closed\n"), errors
    assert process.returncode == 0, errors
    if where == "row-lock":
        assert told == ["interrupted", "None", "0", "0"], "the row was not taken"
    elif where == "room":
        assert told == ["interrupted", "False", "1", "1"], "the row is buffered, nothing of the call is queued"
        assert numbers(server) == [0, 1, 2]
    elif where == "room-auto-flush":
        assert told == ["interrupted", "False", "0", "1"], "the row of the call was not taken"
        assert numbers(server) == [0, 1]
    else:
        queued_here = where in ("flush-wait", "drain")
        assert told == ["interrupted", "True" if queued_here else "None", "0", "1"], "the row is published"
        assert numbers(server) == [0, 1]


@pytest.mark.parametrize("then", ["wait", "await_acked_fsn", "close", "flush"])
def test_33_ctrl_c_just_before_the_wake_loses_no_frame(server: QwpServer, then: str, monkeypatch) -> None:
    clock = StepClock()
    sender = open_sender(server, clock=clock)
    publish(sender, 0)
    sender.wait()
    clock.asleep()
    loop = sender._engine.loop
    assert loop is not None
    put(sender, 1)
    with monkeypatch.context() as patched:
        patched.setattr(loop._wake, "set", interrupt)
        with pytest.raises(KeyboardInterrupt) as caught:
            sender.flush()
    assert (sender.published_fsn(), sender.stats().rows_buffered) == (1, 0)
    assert caught.value.in_doubt is True  # type: ignore[attr-defined]
    calls = {
        "wait": sender.wait,
        "await_acked_fsn": lambda: sender.await_acked_fsn(1),
        "close": sender.close,
        "flush": lambda: publish(sender, 2),  # another frame, which wakes for both
    }
    try:
        Call(calls[then]).outcome()
        server.wait_for_rows("t", 2)
        assert numbers(server)[:2] == [0, 1]
    finally:
        loop._wake.set()
        sender.close()


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


# --- ours.md 32: fork -----------------------------------------------------------------------------------


def _in_child(check: Callable[[], None]) -> str:
    """Runs a check in a forked child; "" or what went wrong there."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        text = ""
        try:
            signal.alarm(120)
            check()
        except BaseException as error:
            text = repr(error)
        finally:
            os.write(write, text.encode()[:4_000])
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as reader:
        text = reader.read()
    _, status = os.waitpid(child, 0)
    return text if status == 0 else f"status {status} {text}"


def _every_call_raises(sender: Sender) -> None:
    writer = sender.table("t", symbols=["s"], columns=["n"])
    at = TimestampMicros(1)
    for call in (
        lambda: put(sender, 9),
        lambda: sender.rows("t", [("a", 1)], symbols=["s"], columns=["n"], at=at),
        lambda: writer.row("a", 1, at=at),
        lambda: writer.rows([("a", 1)], at=at),
        sender.flush,
        lambda: sender.flush(wait=True),
        sender.flush_and_get_fsn,
        sender.wait,
        sender.drain,
        lambda: sender.await_acked_fsn(0, 0),
        lambda: sender.await_ok_fsn(0, 0),
        lambda: len(sender),
        sender.published_fsn,
        sender.ok_fsn,
        sender.acked_fsn,
        sender.synced_fsn,
        lambda: sender.was_ever_connected,
        lambda: sender.must_close,
        lambda: sender.recovery,
        sender.poll_error,
        sender.stats,
        sender.background_drainers,
        sender.dead_letters,
        lambda: sender.requeue(None),  # type: ignore[arg-type]
        sender.skip_head_frame,
        lambda: sender.auto_flush_rows,
        lambda: sender.connection_events_dropped,
        sender.error_events_dropped,
        sender.establish,
        sender.close_drain,
        sender.close,
    ):
        with pytest.raises(ForkedError, match="parent"):
            call()
    assert repr(sender).endswith(" of the parent process>")
    assert sender


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_FRK_01_a_forked_child_gets_an_error_from_every_call_and_the_parent_goes_on(server: QwpServer) -> None:
    with open_sender(server) as sender:
        publish(sender, 0)
        put(sender, 1)
        assert _in_child(lambda: _every_call_raises(sender)) == ""
        sender.flush(wait=True)
        put(sender, 2)
    assert numbers(server) == [0, 1, 2]
    assert len(server.connections) == 1, "the child did not touch the connection"
    server.wait_for(lambda: server.connections[0].closed_by == "client_close")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_FRK_02_also_when_another_thread_holds_the_locks_at_the_fork(server: QwpServer) -> None:
    held, let_go = threading.Event(), threading.Event()
    with open_sender(server) as sender:
        publish(sender, 0)

        def hold() -> None:
            with sender._engine.rows, sender._engine.progress._condition, sender._engine.store._lock:
                held.set()
                let_go.wait(20)

        holder = Call(hold)
        assert held.wait(10)
        try:
            assert _in_child(lambda: _every_call_raises(sender)) == ""
        finally:
            let_go.set()
            holder.outcome()
        put(sender, 1)
    assert numbers(server) == [0, 1]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_FRK_03_a_child_opens_a_sender_of_its_own_and_holds_nothing_of_the_parents(server: QwpServer) -> None:
    with open_sender(server) as sender:
        publish(sender, 0)
        sender.wait()
        inherited = sender._engine.loop._connection._socket.fileno()  # type: ignore[union-attr]

        def check() -> None:
            with pytest.raises(OSError):
                os.fstat(inherited)
            with open_sender(server) as own:
                publish(own, 1)

        assert _in_child(check) == ""
        publish(sender, 2)
    assert numbers(server) == [0, 1, 2]


def _held_of(folder: Path) -> list[str]:
    """The descriptors and the mappings of this process that are of files below ``folder``."""
    held = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the listing's own
            held.append(os.readlink(f"/proc/self/fd/{number}"))
    with open("/proc/self/maps") as maps:
        held += [line.split(maxsplit=5)[-1].strip() for line in maps]
    return [path for path in held if path.startswith(str(folder))]


def _fill(sender: Sender) -> None:
    """Some sealed segments, of which one is being read, a spare and an active one."""
    for number in range(30):
        publish(sender, number)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("acked", [True, False])
def test_frk_03_a_child_keeps_no_file_and_no_mapping_of_a_slot(server: QwpServer, tmp_path: Path, acked: bool) -> None:
    """What the parent removes gives its blocks back at once, however long the child lives."""
    if not acked:
        server.hold_acks()
    with open_sender(server, f"sf_dir={tmp_path};sf_max_segment_bytes=300;sf_max_total_bytes=1m;") as sender:
        _fill(sender)
        assert _held_of(tmp_path), "the parent's own"

        def check() -> None:
            assert _held_of(tmp_path) == []
            _every_call_raises(sender)
            with open_sender(server, f"sf_dir={tmp_path};sender_id=own;close_flush_timeout_millis=0;") as own:
                publish(own, 100)
                assert _held_of(tmp_path)

        assert _in_child(check) == ""
        server.release_acks()
        sender.wait()
        publish(sender, 30)
    assert [number for number in numbers(server) if number < 100] == list(range(31))
    assert sorted(os.listdir(tmp_path / "default")) == [".lock", ".lock.pid"]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_frk_03_a_child_keeps_nothing_of_a_slot_that_is_drained(server: QwpServer, tmp_path: Path) -> None:
    offline = "initial_connect_retry=async;close_flush_timeout_millis=0;"
    with open_sender(f"ws::addr={NOBODY};", f"sf_dir={tmp_path};sender_id=dead;{offline}") as dead:
        _fill(dead)
    server.hold_acks()
    with open_sender(server, f"sf_dir={tmp_path};drain_orphans=on;"):
        server.wait_for_rows("t", 30)
        assert _in_child(lambda: _assert_nothing_of(tmp_path)) == ""
        server.release_acks()
    assert numbers(server) == list(range(30))


def _assert_nothing_of(folder: Path) -> None:
    assert _held_of(folder) == []


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_frk_02_also_while_another_thread_closes(server: QwpServer, tmp_path: Path) -> None:
    """Its close() would wait for a thread that is not there."""
    server.hold_acks()
    sender = open_sender(server, f"sf_dir={tmp_path};")
    publish(sender, 0)
    closing = Call(sender.close)
    with sender._engine.progress._condition:
        assert sender._engine.progress._condition.wait_for(lambda: sender._engine.progress.closing, 10)

    def check() -> None:
        _every_call_raises(sender)
        _assert_nothing_of(tmp_path)

    assert _in_child(check) == ""
    server.release_acks()
    closing.outcome()
    assert numbers(server) == [0]
    assert _in_child(sender.close) == "", "a sender that was closed before is closed there, too"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_frk_02_also_behind_a_close_that_kept_the_slot(
    server: QwpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.hold_acks()
    files = WatchedFiles()
    monkeypatch.setattr("spoolq.spool.files.Files", lambda **_: files)
    sender = open_sender(server, f"sf_dir={tmp_path};sf_durability=periodic;close_flush_timeout_millis=0;")
    publish(sender, 0)
    files.failing = lambda *_: True
    with pytest.raises(StorageError):
        sender.close()

    def check() -> None:
        with pytest.raises(ForkedError):
            sender.close()
        _assert_nothing_of(tmp_path)

    assert _in_child(check) == ""
    files.failing = lambda *_: False
    sender.close()
    assert "sf-manifest.bin" in os.listdir(tmp_path / "default")


# --- ours.md 10: threads --------------------------------------------------------------------------------


def test_10_several_threads_write_to_one_sender(server: QwpServer) -> None:
    threads, each = 6, 400
    with open_sender(server, "auto_flush=on;auto_flush_rows=97;auto_flush_interval=1;") as sender:
        gate = threading.Barrier(threads)

        def write(writer: int) -> None:
            gate.wait(10)
            for number in range(writer * each, (writer + 1) * each):
                put(sender, number)
                if number % 131 == 0:
                    sender.flush()

        for call in [Call(write, writer) for writer in range(threads)]:
            call.outcome()
    landed = numbers(server)
    assert sorted(landed) == list(range(threads * each)), "every row once"
    for writer in range(threads):
        mine = [number for number in landed if number // each == writer]
        assert mine == sorted(mine), "in the order of its thread"


def test_10_flushes_that_race_publish_each_row_once(server: QwpServer) -> None:
    with open_sender(server) as sender:
        fsns: list[int | None] = []

        def write(number: int) -> None:
            put(sender, number)
            fsns.append(sender.flush_and_get_fsn())

        for call in [Call(write, number) for number in range(50)]:
            call.outcome()
        sender.wait()
        assert max(fsn for fsn in fsns if fsn is not None) == sender.published_fsn()
    assert sorted(numbers(server)) == list(range(50))
