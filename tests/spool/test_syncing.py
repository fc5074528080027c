"""syncing.py, and DUR-03: one sync serves all who wait, and none is believed that began too early or failed."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from spoolq.errors import StorageError
from spoolq.spool.disk import DiskStore
from spoolq.spool.opening import open_store
from spoolq.spool.syncing import GroupCommit, Proof
from tests.spool.disk_slot import put
from tests.spool.files_double import WatchedFiles

TIMEOUT_SECONDS = 30.0


class Device:
    """A disk of one counter: `publish` stores frames, `sync` is held up by the test and fails when told."""

    def __init__(self) -> None:
        self.published = -1
        self.safe = -1
        self.syncs = 0
        self.fails = False
        self.entered = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.ended = 0
        self.commit = GroupCommit(
            synced_fsn=-1,
            published=lambda: self.published,
            sync=self._sync,
            proven=lambda _: None,
            failed=lambda: None,
            ended=self._end,
        )

    def _sync(self) -> None:
        began = self.published
        self.syncs += 1
        self.entered.release()
        assert self.go.acquire(timeout=TIMEOUT_SECONDS)
        if self.fails:
            raise StorageError("the disk is broken", errno=5)
        self.safe = max(self.safe, began)

    def _end(self) -> None:
        self.ended += 1


class Caller(threading.Thread):
    """One `cover` on a thread of its own; ``registered`` when it was called."""

    def __init__(self, commit: GroupCommit, fsn: int) -> None:
        super().__init__(daemon=True)
        self.error: BaseException | None = None
        self._cover: Callable[[], None] = lambda: commit.cover(fsn)
        self.start()

    def run(self) -> None:
        try:
            self._cover()
        except BaseException as error:
            self.error = error

    def done(self) -> BaseException | None:
        self.join(TIMEOUT_SECONDS)
        assert not self.is_alive(), "the call did not come back"
        return self.error


def test_dur_03_a_running_sync_and_one_more_serve_any_number() -> None:
    device = Device()
    device.published = 0
    first = Caller(device.commit, 0)
    assert device.entered.acquire(timeout=TIMEOUT_SECONDS)
    device.published = 20  # while the first one is under way: it began too early for these
    others = [Caller(device.commit, fsn) for fsn in range(1, 21)]
    device.go.release()
    assert first.done() is None
    assert device.entered.acquire(timeout=TIMEOUT_SECONDS)
    assert all(other.is_alive() for other in others), "covered by a sync that began before the frame"
    assert device.commit.synced_fsn == 0
    device.go.release()
    assert [other.done() for other in others] == [None] * 20
    assert (device.syncs, device.safe, device.commit.synced_fsn) == (2, 20, 20)


def test_dur_03_what_is_synced_already_costs_nothing() -> None:
    device = Device()
    device.published = 3
    device.go.release()
    device.commit.cover(99)  # clamped
    device.commit.cover(3)
    device.commit.cover(-1)
    assert (device.syncs, device.ended) == (1, 1)


def test_dur_04_a_failed_sync_is_told_to_all_it_was_for_and_to_nobody_else() -> None:
    device = Device()
    device.published = 1
    early = [Caller(device.commit, 0), Caller(device.commit, 1)]
    assert device.entered.acquire(timeout=TIMEOUT_SECONDS)
    device.published = 2
    late = Caller(device.commit, 2)
    device.fails = True
    device.go.release()
    # one of the early callers may come behind the failure; then it makes, or waits for, the next attempt
    assert device.entered.acquire(timeout=TIMEOUT_SECONDS)
    assert device.commit.failure is not None
    assert device.commit.synced_fsn == -1
    device.fails = False
    device.go.release(2)
    assert late.done() is None
    told = [error for error in (caller.done() for caller in early) if error is not None]
    assert told
    for error in told:
        assert isinstance(error, StorageError)
        assert (error.in_doubt, error.errno) == (True, 5)
        assert "FSN 0 on" in str(error)
    assert device.commit.failure is None
    assert device.commit.synced_fsn == 2


def test_dur_04_who_wakes_up_behind_the_next_sync_is_told_what_holds_by_then(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device()
    device.published, device.fails = 1, True
    first = Caller(device.commit, 1)
    assert device.entered.acquire(timeout=TIMEOUT_SECONDS)
    commit, waits = device.commit, threading.Event()
    wait = commit._condition.wait

    def wait_long() -> None:
        waits.set()
        wait()
        commit._lock.release()
        try:
            device.fails = False
            device.go.release()
            commit.cover(1)
        finally:
            commit._lock.acquire()

    monkeypatch.setattr(commit._condition, "wait", wait_long)
    second = Caller(commit, 1)
    assert waits.wait(TIMEOUT_SECONDS)
    with commit._lock:
        device.go.release()
    assert isinstance(first.done(), StorageError)
    assert second.done() is None
    assert (device.safe, commit.failure) == (1, None)


def test_an_interrupted_sync_is_nobodys_error_and_the_next_caller_makes_another() -> None:
    device = Device()
    device.published = 0

    def interrupted() -> None:
        raise KeyboardInterrupt

    whole, device.commit._sync = device.commit._sync, interrupted
    with pytest.raises(KeyboardInterrupt):
        device.commit.cover(0)
    assert device.commit.failure is None
    device.commit._sync = whole
    device.go.release()
    device.commit.cover(0)
    assert device.commit.synced_fsn == 0


def test_33_a_ctrl_c_before_a_sync_begins_leaves_nobody_waiting_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device()
    device.published = 0

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(device.commit, "_run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            device.commit.cover(0)
    device.go.release()
    assert Caller(device.commit, 0).done() is None
    assert device.safe == 0


def test_close_waits_for_the_sync_under_way_and_refuses_others() -> None:
    device = Device()
    device.published = 0
    caller = Caller(device.commit, 0)
    assert device.entered.acquire(timeout=TIMEOUT_SECONDS)
    closer = threading.Thread(target=device.commit.close)
    closer.start()
    device.published = 1
    device.go.release()
    closer.join(TIMEOUT_SECONDS)
    assert not closer.is_alive()
    assert caller.done() is None
    assert device.safe == 0
    with pytest.raises(StorageError, match="closed before FSN 1"):
        device.commit.cover(1)


@pytest.mark.parametrize("wrong", [StorageError("no"), KeyboardInterrupt()])
def test_dur_04_behind_a_sync_that_did_not_succeed_the_next_one_writes_again(wrong: BaseException) -> None:
    proof, calls = Proof(), []

    def failing() -> None:
        raise wrong

    def rewrite() -> None:
        calls.append("rewrite")

    def sync() -> None:
        calls.append("sync")

    proof.sync(sync, rewrite)
    with pytest.raises(type(wrong)):
        proof.sync(failing, rewrite)
    with pytest.raises(type(wrong)):
        proof.sync(failing, rewrite)
    proof.sync(sync, rewrite)
    proof.sync(sync, rewrite)
    proof.doubt()
    proof.sync(sync, rewrite)
    assert calls == ["sync", "rewrite", "rewrite", "sync", "sync", "rewrite", "sync"]


# --- a slot and many threads -----------------------------------------------------------------------


def _open(files: WatchedFiles, directory: Path) -> DiskStore:
    return open_store(files, str(directory), "w", segment_nbytes=4_096, total_nbytes=1 << 20, durability="flush").store


def test_dur_03_many_threads_are_each_covered_by_a_sync_that_began_behind_their_frame(tmp_path: Path) -> None:
    """8 threads, 25 flushes each, over several rotations; every return is held against the syncs that had ended."""
    files = WatchedFiles()
    store = _open(files, tmp_path)
    store.keep(0)
    sender = threading.Lock()
    began: list[int] = []
    covered = [-1]
    faults: list[str] = []

    def begin(name: str, path: str) -> None:
        if name == "sync" and path.endswith(".sfa"):
            began.append(store.published_fsn)

    def end(name: str, path: str) -> None:
        if name == "sync" and path.endswith(".sfa"):
            covered.append(began[-1])  # one at a time: no other began meanwhile

    files.began, files.ended = begin, end
    start = threading.Barrier(8)

    def flush(seed: int) -> None:
        rng = random.Random(seed)
        start.wait()
        for _ in range(25):
            with sender:  # publishing is under the sender's lock, its sync is not
                fsn = put(store, rng.randbytes(rng.randrange(1, 300)))
                assert fsn is not None
            store.sync(fsn)
            if max(covered) < fsn:
                faults.append(f"FSN {fsn} came back, and syncs cover {max(covered)}")

    threads = [threading.Thread(target=flush, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_SECONDS)
    files.began = files.ended = lambda *_: None
    assert faults == []
    assert store.synced_fsn == store.published_fsn == 199
    assert len(began) <= 200 + 1
    assert store.stats().syncs == len(began)
    store.acknowledge(199)
    store.close()


def test_dur_03_a_slots_running_sync_and_one_more_serve_ten_flushes(tmp_path: Path) -> None:
    files = WatchedFiles()
    store = _open(files, tmp_path)
    entered: list[int] = []
    with files.holding(lambda name, path: name == "sync" and path.endswith(".sfa")) as go:
        put(store, b"first")
        callers = [Caller(store._commit, 0)]
        assert files.entered.acquire(timeout=TIMEOUT_SECONDS)
        for _ in range(10):
            fsn = put(store, b"more")
            assert fsn is not None
            callers.append(Caller(store._commit, fsn))
        go()
        assert callers[0].done() is None
        assert files.entered.acquire(timeout=TIMEOUT_SECONDS)
        entered.append(store.synced_fsn)
        go()
        assert [caller.done() for caller in callers] == [None] * 11
    assert entered == [0]
    assert (store.synced_fsn, store.stats().syncs) == (10, 2)
    store.acknowledge(10)
    store.close()
