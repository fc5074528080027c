"""Opening a sender: modes, what it raises, what it leaves behind (behaviour.md 2.1, 2.2)."""

from __future__ import annotations

import errno
import gc
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from spoolq import Sender
from spoolq.errors import AuthError, ConfigError, ConnectError, RoleMismatchError, SpoolqError, StorageError
from spoolq.frozen import Frozen
from spoolq.runtime import engine, lifecycle, storage, threads
from spoolq.runtime.engine import Engine
from spoolq.spool import opening
from spoolq.spool.disk import DiskStore
from spoolq.spool.files import File, Files
from spoolq.spool.lock import SlotLock
from spoolq.testing import QwpServer, Refuse, Script

from .harness import FAST, Call, LeapClock, Recorder, StepClock, free_port, numbers, open_sender, publish, put
from .raw_server import RawServer


@pytest.fixture
def server() -> Iterator[QwpServer]:
    with QwpServer() as running:
        yield running


def test_CFG_01_without_sf_dir_a_ring_in_ram_with_the_same_api(server: QwpServer, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open_sender(server) as sender:
        fsn = publish(sender, 0, 1, 2)
        assert sender.await_acked_fsn(fsn)
        stats = sender.stats()
        assert (stats.spool_bytes_max, stats.spool_segments) == (128 << 20, 1)
        assert stats.spool_bytes >= 4 << 20
        assert sender.synced_fsn() is None
        with pytest.raises(ConfigError, match="nobody syncs"):
            sender.await_synced_fsn(fsn)
    assert numbers(server) == [0, 1, 2]
    assert list(tmp_path.iterdir()) == [], "a queue in memory writes no file"


# --- CFG-11: the n-th step fails ----------------------------------------------------------------


def _sender_threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name in ("spoolq-io", "spoolq-keeper", "spoolq-errors", "spoolq-connections")]


class _Broken(Exception):
    pass


def _fail_nth(monkeypatch, owner: object, name: str, nth: int) -> None:
    """The n-th call of a function fails; the others do their work."""
    real, calls = getattr(owner, name), [0]

    def stand_in(*arguments, **keywords):
        calls[0] += 1
        if calls[0] == nth:
            raise _Broken(f"call {nth} of {name}")
        return real(*arguments, **keywords)

    monkeypatch.setattr(owner, name, stand_in)


@pytest.mark.parametrize("mode", ["off", "async"])
@pytest.mark.parametrize(
    ("owner", "name", "nth"),
    [
        (os, "eventfd", 1),
        (os, "eventfd", 2),
        (threading.Thread, "start", 1),
        (threading.Thread, "start", 2),
        (threading.Thread, "start", 3),
        (lifecycle, "watch", 1),
    ],
    ids=["wakeup", "second-wakeup", "aside", "keeper", "io-thread", "watch"],
)
def test_CFG_11_a_failed_construction_frees_threads_and_descriptors(
    server: QwpServer, monkeypatch, mode: str, owner: object, name: str, nth: int
) -> None:
    with monkeypatch.context() as patched:
        _fail_nth(patched, owner, name, nth)
        with pytest.raises(_Broken):
            open_sender(server, f"initial_connect_retry={mode};")
    assert _sender_threads() == [], "they are gone when it raises"
    with open_sender(server) as sender:  # and nothing in the process remembers it
        publish(sender, 0)
    assert numbers(server) == [0]


_STEPS = {
    function.__code__
    for function in (
        Engine.__init__,
        Engine._build,
        Engine.open,
        Engine._make_loop,
        Engine._start,
        Engine._start_drainers,
        threads.start,
        storage.open_storage,
        opening.open_store,
        DiskStore.open.__func__,
    )
}


class _FailingStep:
    """The ``nth`` Python function that a step of the construction calls fails as it begins."""

    def __init__(self, nth: int) -> None:
        self._left = nth
        self.failed = ""

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        code, by = frame.f_code, frame.f_back and frame.f_back.f_code
        # no import, and no constructor that only fills fields
        is_step = not code.co_filename.startswith("<") and code is not Frozen.__init__.__code__
        if event == "call" and by in _STEPS and code not in _STEPS and is_step and not self.failed:
            self._left -= 1
            if not self._left:
                self.failed = frame.f_code.co_qualname
                raise _Broken(self.failed)


@pytest.mark.parametrize("durability", ["memory", "append"])
@pytest.mark.parametrize("mode", ["off", "async"])
def test_CFG_11_on_a_slot_each_step_fails_in_turn_and_leaves_the_lock_free(
    server: QwpServer, tmp_path: Path, mode: str, durability: str
) -> None:
    keys = f"sf_dir={tmp_path};initial_connect_retry={mode};sf_durability={durability};drain_orphans=on;"
    handlers = dict.fromkeys(("handler", "listener", "error_policy", "progress_handler"), print)
    failed: list[str] = []
    while True:
        step = _FailingStep(len(failed) + 1)
        gc.disable()  # what it frees calls back from within a step, and would be counted as one of its calls
        threading.setprofile(step)
        sys.setprofile(step)
        try:
            sender = open_sender(server, keys, **handlers)
        except _Broken:
            failed.append(step.failed)
        else:
            break
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
            gc.enable()
        assert _sender_threads() == [], step.failed
        SlotLock.acquire(Files(), str(tmp_path / "default")).release()
        assert {path.name for path in (tmp_path / "default").iterdir()} <= {".lock", ".lock.pid"}, step.failed
    with sender:
        publish(sender, 0)
    assert numbers(server) == [0]
    for part in ("open_slot", "Publisher.__init__", "Keeper.start", "IoLoop.__init__", "Thread.start", "watch"):
        assert part in failed, failed


@pytest.mark.parametrize("part", ["RowBuffer", "Delivery"])
def test_CFG_11_a_part_that_is_compiled_fails_too(server: QwpServer, tmp_path: Path, monkeypatch, part: str) -> None:
    with monkeypatch.context() as patched:
        _fail_nth(patched, engine, part, 1)
        with pytest.raises(_Broken):
            open_sender(server, f"sf_dir={tmp_path};")
    with open_sender(server, f"sf_dir={tmp_path};") as sender:
        publish(sender, 0)
    assert numbers(server) == [0]


def test_CFG_11_a_slot_whose_sync_fails_keeps_its_frames_and_is_let_go(
    server: QwpServer, tmp_path: Path, monkeypatch
) -> None:
    keys = f"sf_dir={tmp_path};sf_durability=flush;close_flush_timeout_millis=0;"
    server.hold_acks()
    with open_sender(server, keys) as sender:
        publish(sender, 0)

    def breaks(store: DiskStore, fsn: int | None = None) -> None:
        raise StorageError("the disk is gone")

    with monkeypatch.context() as patched:
        _fail_nth(patched, engine, "Delivery", 1)
        patched.setattr(DiskStore, "sync", breaks)
        with pytest.raises(_Broken):
            open_sender(server, keys)
    server.release_acks()
    with open_sender(server, keys) as sender:
        assert sender.drain(10_000)
    assert set(numbers(server)) == {0}


@pytest.mark.parametrize("step", ["socket", "upgrade"])
def test_CFG_11_a_failed_first_connect_frees_everything(server: QwpServer, monkeypatch, step: str) -> None:
    if step == "socket":

        def no_descriptor(*arguments, **keywords):
            raise OSError(24, "Too many open files")

        monkeypatch.setattr(socket, "socket", no_descriptor)
    else:
        server.set_script(Script(upgrade_raw="SSH-2.0-server\r\n\r\n"))
    with pytest.raises(ConnectError):
        open_sender(server)
    assert _sender_threads() == []  # of descriptors the fixture of the suite takes care


def test_CFG_11_a_store_that_cannot_be_made_leaves_nothing(server: QwpServer, monkeypatch) -> None:
    monkeypatch.setattr(storage, "MemoryStore", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        open_sender(server)


def test_an_exhausted_table_of_descriptors_is_a_lost_attempt_and_not_the_end(server: QwpServer, monkeypatch) -> None:
    real, failures = socket.socket, [3]

    class Scarce(real):
        def __new__(cls, *_arguments, **_keywords):
            if threading.current_thread().name == "spoolq-io" and failures[0]:
                failures[0] -= 1
                raise OSError(24, "Too many open files")
            return real.__new__(cls)

    with open_sender(server) as sender:
        monkeypatch.setattr(socket, "socket", Scarce)
        server.drop_connections()
        publish(sender, 0)
        server.wait_for_rows("t", 1)
        assert failures == [0]


def test_an_exhausted_table_of_descriptors_is_no_broken_log(
    server: QwpServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The segments are whole: what cannot be opened now can be when somebody has closed something."""
    settings = f"sf_dir={tmp_path};sf_max_segment_bytes=200;initial_connect_retry=async;"
    with open_sender(f"ws::addr=localhost:{free_port()};", settings + "close_flush_timeout_millis=0;") as sender:
        for number in range(8):
            publish(sender, number)
    real, failures = Files.open, [errno.EMFILE, errno.ENFILE, errno.ENOMEM]

    def scarce(files: Files, path: str, *, write: bool = True) -> File:
        if threading.current_thread().name == "spoolq-io" and failures:
            raise StorageError(f"cannot open {path}", errno=failures.pop(), filename=path)
        return real(files, path, write=write)

    monkeypatch.setattr(Files, "open", scarce)
    listener = Recorder()
    with open_sender(server, settings, listener=listener) as sender:
        assert sender.drain(10_000)
        assert (failures, sender.must_close) == ([], False)
    assert numbers(server) == list(range(8))
    lost = [event.cause for event in listener.told if event.kind == "disconnected"]
    assert len(lost) == 3
    assert lost[0].startswith("the log cannot be read just now: cannot open")


# --- SND-07 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["spoolq-io", "spoolq-keeper"])
def test_SND_07_a_thread_that_cannot_start_still_closes_cleanly(server: QwpServer, monkeypatch, name: str) -> None:
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name == name:
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(SpoolqError, match=f"{name} cannot be started: can't start new thread; either"):
        open_sender(server)
    server.wait_for(lambda: server.connections[0].closed_by == "client_close")
    assert _sender_threads() == [], "the keeper has ended"


# --- modes ----------------------------------------------------------------------------------------


def test_RCN_08_off_fails_fast_on_a_dead_server() -> None:
    clock = StepClock()
    with pytest.raises(ConnectError, match="cannot be reached") as caught:
        open_sender(f"ws::addr=127.0.0.1:{free_port()};", clock=clock)
    assert caught.value.tag is None
    assert clock.now_millis() == 1_000, "not one pause"


def test_off_asks_every_endpoint_once_and_names_each(server: QwpServer) -> None:
    first, second = free_port(), free_port()
    with pytest.raises(ConnectError) as caught:
        open_sender(f"ws::addr=127.0.0.1:{first},127.0.0.1:{second};", clock=StepClock())
    assert str(first) in str(caught.value)
    assert str(second) in str(caught.value)
    with open_sender(f"ws::addr=127.0.0.1:{first},127.0.0.1:{server.port};") as sender:
        publish(sender, 7)
    assert numbers(server) == [7]


def test_RCN_09_sync_succeeds_when_the_server_comes_late() -> None:
    late = QwpServer(port=free_port())
    clock = StepClock()
    call = Call(open_sender, f"ws::addr=127.0.0.1:{late.port};", "initial_connect_retry=sync;", clock=clock)
    clock.wait_for_poll(lambda timeout: timeout is not None)  # the first round has failed: it pauses
    with late:
        clock.advance(10)
        sender = call.outcome()
        assert sender.was_ever_connected
        publish(sender, 1)
        sender.close()
        assert numbers(late) == [1]


def test_RCN_05_a_blocking_connect_gives_up_at_its_budget() -> None:
    clock = LeapClock()
    started = clock.now_millis()
    with pytest.raises(ConnectError) as caught:
        open_sender(
            f"ws::addr=127.0.0.1:{free_port()};",
            "initial_connect_retry=sync;reconnect_max_duration_millis=3000;"
            "reconnect_initial_backoff_millis=100;reconnect_max_backoff_millis=1000;",
            clock=clock,
        )
    assert caught.value.tag == "never-connected-budget-exhausted"
    assert 3_000 <= clock.now_millis() - started <= 3_100


def test_RCN_05_one_silent_endpoint_cannot_outlast_the_budget() -> None:
    with QwpServer(script=Script(silent=True)) as server, pytest.raises(ConnectError) as caught:
        open_sender(
            server, "initial_connect_retry=sync;reconnect_max_duration_millis=50;auth_timeout_ms=60000;"
        )  # the suite's own time limit is below the 60 s of the setting
    assert caught.value.tag == "never-connected-budget-exhausted"


def test_RCN_11_a_connect_that_never_was_is_tagged() -> None:
    listener = Recorder()
    with pytest.raises(ConnectError) as caught:
        open_sender(
            f"ws::addr=127.0.0.1:{free_port()};",
            "initial_connect_retry=sync;reconnect_max_duration_millis=20;",
            listener=listener,
        )
    assert caught.value.tag == "never-connected-budget-exhausted"
    assert "firewall" in str(caught.value)
    assert "connected" not in listener.kinds()
    with open_sender(f"ws::addr=127.0.0.1:{free_port()};", "initial_connect_retry=async;") as sender:
        assert sender.was_ever_connected is False


def test_RCN_10_async_returns_at_once_and_the_rows_arrive_when_the_server_does() -> None:
    late = QwpServer(port=free_port())
    with open_sender(f"ws::addr=127.0.0.1:{late.port};", "initial_connect_retry=async;") as sender:
        assert sender.was_ever_connected is False
        for number in range(5):
            publish(sender, number)
        put(sender, 5)
        with late:
            sender.flush(wait=True)
            assert sender.was_ever_connected is True
            assert numbers(late) == list(range(6))


def test_RCN_14_off_and_sync_have_connected_when_they_return(server: QwpServer) -> None:
    for mode in ("off", "sync"):
        with open_sender(server, f"initial_connect_retry={mode};") as sender:
            assert sender.was_ever_connected is True
            assert server.connections[-1].is_upgraded


def test_RCN_13_async_401_reaches_the_handler_early(server: QwpServer) -> None:
    handler, listener = Recorder(), Recorder()
    server.refuse_new(401, body="who are you")
    sender = open_sender(server, "initial_connect_retry=async;", handler=handler, listener=listener)
    event = handler.wait_for()
    assert (event.category, event.policy, event.status) == ("security_error", "terminal", None)
    assert "who are you" in event.text
    listener.wait_for(lambda event: event.kind == "auth_failed")
    with pytest.raises(AuthError, match="ws-upgrade-failed"):
        put(sender, 0)
    with pytest.raises(AuthError):
        sender.close()
    assert len(server.connections) == 1, "no second attempt"
    assert len(handler.told) == 1, "told once"


def test_RCN_06_a_401_behind_a_101_is_terminal_without_another_attempt(server: QwpServer) -> None:
    handler = Recorder()
    sender = open_sender(server, handler=handler)
    publish(sender, 0)
    server.wait_for_rows("t", 1)
    server.refuse_new(403, body="no longer")
    server.drop_connections()
    assert handler.wait_for().category == "security_error"
    with pytest.raises(AuthError, match="no longer"):
        sender.flush()
    with pytest.raises(AuthError):
        sender.close()
    assert len(server.connections) == 2, "one refusal is enough"


def test_a_constructor_that_raises_tells_no_handler(server: QwpServer, caplog) -> None:
    handler = Recorder()
    server.refuse_new(401)
    with pytest.raises(AuthError):
        open_sender(server, handler=handler)
    assert handler.told == [], "the constructor raises it"
    with pytest.raises(AuthError):
        open_sender(server)
    assert "has stopped" not in caplog.text


@pytest.mark.parametrize("mode", ["off", "sync"])
def test_behaviour_2_2_a_first_connection_that_ends_at_once_was_one(mode: str) -> None:
    """A CLOSE in one piece with the 101, and nobody there any more: opening ends, the sender goes on trying."""
    close = b"\x88\x02" + (1001).to_bytes(2, "big")
    with RawServer() as raw:
        conf = f"{raw.conf}initial_connect_retry={mode};auto_flush=off;close_flush_timeout_millis=0;"
        opening = Call(Sender.from_conf, conf)
        raw.accept(behind=close)
        sender = opening.outcome()
        assert sender.stats().was_ever_connected
        sender.close()


def test_refusals_by_role_are_a_role_mismatch(server: QwpServer) -> None:
    server.set_script(Script(refuse=Refuse(421, role="REPLICA")))
    with pytest.raises(RoleMismatchError, match="REPLICA"):
        open_sender(server)


def test_the_three_ways_to_open_are_the_same(server: QwpServer, monkeypatch) -> None:
    monkeypatch.setenv("QDB_CLIENT_CONF", server.conf + FAST)
    with (
        Sender.from_conf(server.conf, auto_flush=False) as one,
        Sender.from_env() as two,
        Sender("ws", "127.0.0.1", server.port) as three,
        Sender(addr=f"127.0.0.1:{server.port}") as four,
    ):
        for number, sender in enumerate((one, two, three, four)):
            publish(sender, number)
            sender.wait()
    assert numbers(server) == [0, 1, 2, 3]
    with pytest.raises(ConfigError, match="once"):
        Sender("ws", "localhost", addr="localhost")
    with pytest.raises(ConfigError, match="host"):
        Sender("ws", port=9000)
    monkeypatch.delenv("QDB_CLIENT_CONF")
    with pytest.raises(ConfigError, match="QDB_CLIENT_CONF"):
        Sender.from_env()


def test_init_buf_size_reaches_the_row_buffer_within_the_room_there_may_be(server: QwpServer) -> None:
    for settings, expected in (("", 0), ("init_buf_size=64k;", 65_536), ("init_buf_size=1t;", 100 << 20)):
        with open_sender(server, settings) as sender:
            assert sender._engine.rows.initial_nbytes == expected
