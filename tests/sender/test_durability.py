"""The durability modes as a caller of `Sender` sees them: what is on the disk when a call returns (behaviour.md 9)."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from spoolq import ConfigError, Sender, StorageError, TimestampMicros
from spoolq.server import QwpServer
from spoolq.testing import Script
from tests import ports
from tests.sender.harness import FAST, TIMEOUT_SECONDS, Call, StepClock, numbers, open_sender, publish, put, until
from tests.spool.files_double import WatchedFiles

NOBODY = f"ws::addr={ports.NOBODY};"
OFFLINE = FAST + "initial_connect_retry=async;close_flush_timeout_millis=0;"
DICT = ".symbol-dict"
FIRST = "sf-0000000000000000.sfa"


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> WatchedFiles:
    """What the next senders of the test keep their slots with."""
    watched = WatchedFiles()
    monkeypatch.setattr("spoolq.spool.files.Files", lambda **_: watched)
    return watched


@contextmanager
def offline(folder: Path, mode: str, extra: str = "", clock: Any = None) -> Iterator[Sender]:
    """A sender nobody answers; a sync that fails at its end is not this test's matter."""
    sender = open_sender(NOBODY, f"sf_dir={folder};sf_durability={mode};{extra}", base=OFFLINE, clock=clock)
    try:
        yield sender
    finally:
        with suppress(StorageError):
            sender.close(flush=False)
        sender.close(flush=False)


def broken(name: str, path: str) -> bool:
    """The device does not store frames any more."""
    return name == "sync" and path.endswith(".sfa")


# --- memory ---------------------------------------------------------------------------------------


def test_dur_01_memory_syncs_no_frame_on_flush(files: WatchedFiles, tmp_path: Path) -> None:
    """Over rotations, too; only what makes a rotation safe is synced, by the keeper."""
    with QwpServer() as server:
        with open_sender(server, f"sf_dir={tmp_path};sf_max_segment_bytes=400;") as sender:
            for number in range(40):
                publish(sender, number)
            sender.wait()
            assert [path for path in files.frames() if path.endswith(".sfa")] == []
            assert sender.synced_fsn() is None
            assert sender.stats().total_syncs == 0
            with pytest.raises(ConfigError, match="sf_durability other than memory"):
                sender.await_synced_fsn(0)
        assert numbers(server) == list(range(40))


# --- flush ----------------------------------------------------------------------------------------


def test_dur_02_flush_returns_when_symbols_and_then_frames_are_synced(files: WatchedFiles, tmp_path: Path) -> None:
    with offline(tmp_path, "flush") as sender:
        files.syncs.clear()
        for fsn in range(3):
            assert publish(sender, fsn) == fsn
            assert (files.frames(), sender.synced_fsn()) == ([DICT, FIRST], fsn)
            files.syncs.clear()
        assert publish(sender, 0) == 3  # no new symbol: the way of compiled code, and one sync
        assert (files.frames(), sender.synced_fsn()) == ([FIRST], 3)
        files.syncs.clear()
        sender.flush()
        assert files.frames() == [], "nothing was published since"
        assert sender.stats().total_syncs == 4


def test_dur_02_the_next_explicit_flush_covers_what_auto_flush_published(files: WatchedFiles, tmp_path: Path) -> None:
    with offline(tmp_path, "flush", "auto_flush_rows=1;") as sender:
        files.syncs.clear()
        put(sender, 0, 1, 2)
        assert (sender.published_fsn(), files.frames()) == (2, [])
        sender.flush()  # with nothing buffered
        assert (sender.synced_fsn(), files.frames()) == (2, [DICT, FIRST])


def test_dur_02_waits_for_acks_never_sync(files: WatchedFiles, tmp_path: Path) -> None:
    with (
        QwpServer() as server,
        open_sender(server, f"sf_dir={tmp_path};sf_durability=flush;auto_flush_rows=1;") as sender,
    ):
        files.syncs.clear()
        put(sender, 0, 1)
        assert sender.await_acked_fsn(1, 10_000)
        sender.wait()
        assert [path for path in files.frames() if path.endswith(".sfa")] == []
        assert sender.synced_fsn() is None


def test_dur_02_a_frame_may_be_sent_before_its_sync(files: WatchedFiles, tmp_path: Path) -> None:
    with QwpServer() as server, open_sender(server, f"sf_dir={tmp_path};sf_durability=flush;") as sender:
        with files.holding(broken) as go:
            call = Call(publish, sender, 0)
            assert files.entered.acquire(timeout=TIMEOUT_SECONDS)
            assert sender.await_acked_fsn(0, 10_000)
            assert sender.synced_fsn() is None
            assert call.is_alive()
            go()
            assert call.outcome() == 0
        assert sender.synced_fsn() == 0


def test_dur_03_flushes_publish_while_a_sync_runs_and_share_the_next_one(files: WatchedFiles, tmp_path: Path) -> None:
    """Ten threads on one sender: the lock is free during a sync, and two syncs serve eleven flushes."""
    with offline(tmp_path, "flush") as sender:
        waiting = threading.Semaphore(0)
        cover = sender._engine.store._commit.cover

        def noted(fsn: int) -> None:
            waiting.release()
            cover(fsn)

        def flush(number: int) -> None:
            put(sender, number)
            sender.flush()  # with the row of another thread, perhaps, or with none, when that one was quicker

        sender._engine.store._commit.cover = noted
        files.syncs.clear()
        with files.holding(broken) as go:
            calls = [Call(flush, 0)]
            assert files.entered.acquire(timeout=TIMEOUT_SECONDS)
            calls += [Call(flush, number) for number in range(1, 11)]
            for _ in range(11):
                assert waiting.acquire(timeout=TIMEOUT_SECONDS)
            published = sender.published_fsn()
            assert (sender.stats().rows_buffered, published is not None and published > 0) == (0, True)
            go()
            calls[0].outcome()
            assert files.entered.acquire(timeout=TIMEOUT_SECONDS)
            assert sender.synced_fsn() == 0
            assert all(call.is_alive() for call in calls[1:])
            go()
            for call in calls:
                call.outcome()
        assert (sender.synced_fsn(), files.frames().count(FIRST)) == (published, 2)


def test_dur_04_a_sync_error_surfaces_and_nothing_is_claimed(files: WatchedFiles, tmp_path: Path) -> None:
    with QwpServer() as server:
        with open_sender(server, f"sf_dir={tmp_path};sf_durability=flush;auto_flush_rows=3;") as sender:
            assert publish(sender, 0) == 0
            files.failing = broken
            put(sender, 1)
            with pytest.raises(StorageError, match="Input/output error") as first:
                sender.flush()
            assert first.value.in_doubt is True  # queued, and perhaps delivered
            assert (sender.published_fsn(), sender.synced_fsn(), sender.stats().rows_buffered) == (1, 0, 0)
            put(sender, 2)
            for _ in range(3):
                with pytest.raises(StorageError, match="Input/output error") as later:
                    sender.flush()
                assert later.value.in_doubt is False  # no FSN was consumed, the row is still here
                assert (sender.published_fsn(), sender.stats().rows_buffered) == (1, 1)
            put(sender, 3)
            with pytest.raises(StorageError) as refused:  # an auto-flush does not try a sync: it is refused
                put(sender, 4)
            assert (refused.value.in_doubt, sender.stats().rows_buffered) == (False, 2)  # the row was not taken
            stats = sender.stats()
            assert isinstance(stats.checkpoint_failure, StorageError)
            assert (stats.synced_fsn, stats.total_sync_failures >= 4) == (0, True)
            files.failing = lambda *_: False
            assert sender.flush_and_get_fsn() == 2
            assert (sender.synced_fsn(), sender.stats().checkpoint_failure) == (2, None)
            assert sender.await_acked_fsn(2, 10_000)
            put(sender, 4)  # as the error allows
        assert numbers(server) == [0, 1, 2, 3, 4]


def test_dur_04_the_keeper_tries_again_within_a_second(files: WatchedFiles, tmp_path: Path) -> None:
    clock = StepClock()
    with offline(tmp_path, "flush", clock=clock) as sender:
        clock.wait_for_rest()
        files.failing = broken
        with pytest.raises(StorageError):
            publish(sender, 0)
        clock.wait_for_wait(1_000)
        files.failing = lambda *_: False
        clock.advance(1_000)
        assert sender._engine.progress.wait_until(lambda: sender.synced_fsn() == 0, None)
        assert publish(sender, 1) == 1


# --- append ---------------------------------------------------------------------------------------


def test_dur_02_append_syncs_each_frame_before_its_call_returns(files: WatchedFiles, tmp_path: Path) -> None:
    """A flush, the row that trips an auto-flush, each frame of `rows`, with the lock free during the sync."""
    with offline(tmp_path, "append", "auto_flush_rows=2;") as sender:
        assert publish(sender, 0) == sender.synced_fsn() == 0
        put(sender, 1)
        assert sender.published_fsn() == 0
        with files.holding(broken) as go:
            call = Call(put, sender, 2)
            assert files.entered.acquire(timeout=TIMEOUT_SECONDS)
            assert (sender.published_fsn(), call.is_alive()) == (1, True)
            put(sender, 3)  # buffered meanwhile
            go()
            call.outcome()
        assert sender.synced_fsn() == 1
        files.syncs.clear()
        sender.rows("t", [(f"sym-{n}", n) for n in range(4, 9)], symbols=["s"], columns=["n"], at=TimestampMicros(1))
        assert sender.published_fsn() == sender.synced_fsn() == 4
        assert files.frames().count(FIRST) == 3


def test_dur_02_append_syncs_a_timer_flush(files: WatchedFiles, tmp_path: Path) -> None:
    clock = StepClock()
    with offline(tmp_path, "append", "auto_flush_interval=200;", clock=clock) as sender:
        put(sender, 0)
        clock.wait_for_wait(200)
        clock.advance(200)
        assert sender._engine.progress.wait_until(lambda: sender.synced_fsn() == 0, None)
        files.failing = broken
        put(sender, 1)
        clock.wait_for_wait(200)
        clock.advance(200)
        clock.wait_for_wait(1_000)
        assert (sender.published_fsn(), sender.synced_fsn()) == (1, 0)
        assert sender.stats().total_timer_flush_failures == 1
        put(sender, 2)
        files.failing = lambda *_: False
        sender.flush()
        assert sender.synced_fsn() == sender.published_fsn() == 2


def test_dur_04_append_tells_of_the_row_that_tripped_the_flush(files: WatchedFiles, tmp_path: Path) -> None:
    with offline(tmp_path, "append", "auto_flush_rows=1;") as sender:
        files.failing = broken
        with pytest.raises(StorageError) as caught:
            put(sender, 0)
        assert (caught.value.in_doubt, sender.published_fsn(), sender.synced_fsn()) == (True, 0, None)


# --- periodic -------------------------------------------------------------------------------------


@pytest.mark.parametrize("timer", [False, True])
def test_per_01_a_checkpoint_each_interval_without_a_connection_and_no_call_when_idle(
    files: WatchedFiles, tmp_path: Path, timer: bool
) -> None:
    """The interval begins with the frame, whether or not the keeper waits for a deadline of rows just then."""
    clock = StepClock()
    flushes = "auto_flush=on;auto_flush_interval=100;" if timer else "auto_flush=off;"
    with offline(tmp_path, "periodic", f"sf_sync_interval_millis=3000;{flushes}", clock=clock) as sender:
        for fsn in range(3):
            clock.wait_for_rest()
            assert sender._engine.keeper.dormant
            files.syncs.clear()
            put(sender, 0)  # behind the first one no symbol is new: the way of compiled code
            if timer:
                clock.wait_for_wait(100)
            assert sender.flush_and_get_fsn() == fsn
            clock.wait_for_wait(3_000)
            clock.advance(2_999)
            clock.wait_for_wait(1)
            assert files.frames() == []
            clock.advance(1)
            assert sender._engine.progress.wait_until(lambda fsn=fsn: sender.synced_fsn() == fsn, None)
            assert files.frames()[-1] == FIRST
        assert sender.stats().last_checkpoint is not None


def test_per_01_a_checkpoint_while_connected(files: WatchedFiles, tmp_path: Path) -> None:
    with QwpServer(script=Script(no_ack=True)) as server:
        conf = f"sf_dir={tmp_path};sf_durability=periodic;sf_sync_interval_millis=1;close_flush_timeout_millis=0;"
        with open_sender(server, conf) as sender:
            publish(sender, 0)
            assert sender._engine.progress.wait_until(lambda: sender.synced_fsn() == 0, 10_000)


def test_per_02_a_failed_checkpoint_refuses_every_publish_until_one_succeeds(
    files: WatchedFiles, tmp_path: Path
) -> None:
    clock = StepClock()
    with offline(tmp_path, "periodic", "sf_sync_interval_millis=400;", clock=clock) as sender:
        files.failing = broken
        publish(sender, 0)
        clock.wait_for_wait(400)
        clock.advance(400)
        clock.wait_for_wait(400)  # min(interval, 1 s)
        put(sender, 1)
        for _ in range(2):
            with pytest.raises(StorageError, match="tried again every second") as caught:
                sender.flush()
            assert (caught.value.in_doubt, sender.published_fsn(), sender.stats().rows_buffered) == (False, 0, 1)
        assert sender.stats().checkpoint_failure is not None
        with pytest.raises(StorageError):
            sender.await_synced_fsn(0)
        files.failing = lambda *_: False
        clock.advance(400)
        assert sender._engine.progress.wait_until(lambda: sender.synced_fsn() == 0, None)
        assert sender.flush_and_get_fsn() == 1
        assert sender.stats().checkpoint_failure is None


def test_per_04_a_close_whose_sync_fails_keeps_the_lock_and_the_data_for_another_try(
    files: WatchedFiles, tmp_path: Path
) -> None:
    sender = open_sender(NOBODY, f"sf_dir={tmp_path};sf_durability=periodic;", base=OFFLINE)
    publish(sender, 0)
    put(sender, 1)
    files.failing = broken
    for _ in range(2):
        with pytest.raises(StorageError, match="Input/output error"):
            sender.close()
        with pytest.raises(StorageError, match="in use"):
            open_sender(NOBODY, f"sf_dir={tmp_path};", base=OFFLINE)
    files.failing = lambda *_: False
    files.syncs.clear()
    sender.close()
    assert files.frames()[-1] == FIRST
    sender.close()
    with QwpServer() as server:
        with open_sender(server, f"sf_dir={tmp_path};") as after:
            after.wait()
        assert numbers(server) == [0, 1]


def test_per_04_rows_that_a_passing_sync_failure_kept_out_are_in_the_slot_when_close_returns(
    files: WatchedFiles, tmp_path: Path
) -> None:
    """The sync fails while close() publishes, and works when it ends: no buffered row is given up."""
    sender = open_sender(NOBODY, f"sf_dir={tmp_path};sf_durability=flush;", base=OFFLINE)
    publish(sender, 0)
    files.failing = broken
    put(sender, 1)
    with pytest.raises(StorageError):
        sender.flush()
    put(sender, 2)
    stopped = sender._engine.keeper.stop

    def mended() -> None:
        stopped()
        files.failing = lambda *_: False

    sender._engine.keeper.stop = mended  # type: ignore[method-assign]
    with pytest.raises(StorageError) as raised:
        sender.close()
    assert raised.value.in_doubt is True
    assert "published at the end of close()" in str(raised.value.__notes__)
    with QwpServer() as server:
        with open_sender(server, f"sf_dir={tmp_path};"):
            pass
        assert numbers(server) == [0, 1, 2]


def test_per_04_a_close_without_flush_gives_the_slot_up(files: WatchedFiles, tmp_path: Path) -> None:
    sender = open_sender(NOBODY, f"sf_dir={tmp_path};sf_durability=periodic;", base=OFFLINE)
    publish(sender, 0)
    files.failing = broken
    with pytest.raises(StorageError):
        sender.close()
    sender.close(flush=False)
    files.failing = lambda *_: False
    with offline(tmp_path, "periodic") as after:
        assert after.published_fsn() == after.synced_fsn() == 0


def test_per_04_a_drained_close_syncs_no_frame(files: WatchedFiles, tmp_path: Path) -> None:
    with QwpServer() as server:
        with open_sender(server, f"sf_dir={tmp_path};sf_durability=periodic;") as sender:
            files.syncs.clear()
            publish(sender, 0)
            sender.wait()
        assert [path for path in files.frames() if path.endswith(".sfa")] == []


# --- waiting for a sync ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["periodic", "flush", "append"])
def test_await_synced_fsn_syncs_at_once_and_for_all(files: WatchedFiles, tmp_path: Path, mode: str) -> None:
    with offline(tmp_path, mode) as sender:
        fsn = publish(sender, 0)
        if mode == "periodic":
            assert sender.await_synced_fsn(fsn, 0) is False
        assert sender.await_synced_fsn(fsn) is True
        assert sender.synced_fsn() == fsn
        assert sender.await_synced_fsn(fsn + 1, 1) is False  # not published


@pytest.mark.parametrize("mode", ["periodic", "flush", "append"])
@pytest.mark.parametrize("symbols", ["new", "known"])
def test_await_synced_fsn_waits_for_what_auto_flush_publishes_later(
    files: WatchedFiles, tmp_path: Path, mode: str, symbols: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, looked = StepClock(), threading.Semaphore(0)
    conf = "auto_flush=on;auto_flush_rows=1;auto_flush_interval=off;auto_flush_bytes=off;"
    with offline(tmp_path, mode, conf, clock=clock) as sender:
        put(sender, 0)
        sender.await_synced_fsn(0)
        store = sender._engine.store

        def due(now_millis: int) -> int | None:
            at = type(store).keep_due_millis(store, now_millis)
            if store.sync_wanted:
                looked.release()
            return at

        monkeypatch.setattr(store, "keep_due_millis", due)
        waiting = Call(lambda: sender.await_synced_fsn(1, 60_000))
        clock.wait_for_wait(60_000)
        assert looked.acquire(timeout=TIMEOUT_SECONDS)  # the keeper knows, and has nothing to sync
        clock.wait_for_rest()
        put(sender, 1 if symbols == "new" else 0)
        assert waiting.outcome()


def test_await_synced_fsn_ends_with_the_failure(files: WatchedFiles, tmp_path: Path) -> None:
    with offline(tmp_path, "periodic") as sender:
        files.failing = broken
        fsn = publish(sender, 0)
        with pytest.raises(StorageError, match="Input/output error") as caught:
            sender.await_synced_fsn(fsn)
        assert caught.value.in_doubt is True
        files.failing = lambda *_: False


# --- the name of sf_dir itself (ours.md 24) ----------------------------------------------------------


class Passing(WatchedFiles):
    """The directory above ``sf_dir`` may be passed and not listed, so it cannot be synced."""

    def __init__(self, above: Path) -> None:
        super().__init__()
        self.above = str(above)

    def sync_directory(self, path: str) -> None:
        if os.path.normpath(path) == self.above:
            raise StorageError(f"cannot sync the directory {path}", errno=errno.EACCES, filename=path)
        super().sync_directory(path)

    def sync_system(self, path: str) -> None:
        self.syncs.append(("sync_system", path))


@pytest.mark.parametrize("made", [True, False])
def test_24_a_sf_dir_that_was_just_made_is_durable_also_where_the_one_above_may_only_be_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: bool
) -> None:
    files = Passing(tmp_path)
    monkeypatch.setattr("spoolq.spool.files.Files", lambda **_: files)
    folder = tmp_path / "spool"
    if not made:
        folder.mkdir()
    with offline(folder, "flush") as sender:
        publish(sender, 0)
        assert sender.synced_fsn() == 0
    assert [call for call in files.syncs if call[0] == "sync_system"] == [("sync_system", str(folder))] * made


def test_24_a_sf_dir_that_was_just_made_is_synced_before_it_is_used(files: WatchedFiles, tmp_path: Path) -> None:
    with offline(tmp_path / "spool", "flush"):
        assert files.syncs[0] == ("sync_directory", tmp_path.name)


def test_per_01_a_wait_for_a_sync_that_was_given_up_asks_for_one_more_at_most(
    files: WatchedFiles, tmp_path: Path
) -> None:
    """Of an FSN far away: else the keeper would sync every frame from then on, whatever the interval."""
    clock = StepClock()
    with offline(tmp_path, "periodic", "sf_sync_interval_millis=60000;auto_flush=off;", clock=clock) as sender:
        publish(sender, 0)
        call = Call(sender.await_synced_fsn, 1_000_000, 50)
        clock.wait_for_wait(50)
        clock.advance(50)
        assert call.outcome() is False
        publish(sender, 1)
        until(lambda: sender.synced_fsn() == 1)  # the next one then is what it had asked for
        publish(sender, 2)
        clock.wait_for_wait(60_000)
        assert sender.synced_fsn() == 1


def test_a_wait_for_a_sync_of_a_frame_to_come_ends_when_it_is_synced(files: WatchedFiles, tmp_path: Path) -> None:
    clock = StepClock()
    with offline(tmp_path, "periodic", "sf_sync_interval_millis=60000;auto_flush=off;", clock=clock) as sender:
        call = Call(sender.await_synced_fsn, 3)
        for number in range(4):
            publish(sender, number)
        assert call.outcome() is True
