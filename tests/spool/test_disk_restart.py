"""disk.py and recovery together: a slot that is closed, killed and opened again, over and over."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from spoolq.errors import StorageError
from spoolq.spool.disk import DiskStore
from spoolq.spool.files import Files
from spoolq.spool.mapping import live_mappings
from spoolq.spool.opening import OpenedStore, open_store
from spoolq.spool.segment_file import SegmentFile
from tests.spool import slot_maker
from tests.spool.crash_scenario import ID, Life
from tests.spool.disk_slot import SEGMENT, fill, names, payload_of, put, replay
from tests.spool.files_double import FailingFiles, Killed, KilledFiles, RecordingFiles, UnsyncedFiles


def reopen(directory: Path, files: Files | None = None, *, segment: int = SEGMENT, total: int = 1_000) -> OpenedStore:
    return open_store(files or UnsyncedFiles(), str(directory), ID, segment_nbytes=segment, total_nbytes=total)


def test_invariant_04_fsns_go_on_after_a_restart(tmp_path: Path) -> None:
    for round_number in range(4):
        store = reopen(tmp_path).store
        assert store.published_fsn == 3 * round_number - 1
        fill(store, 3)
        assert replay(store, 0) == [payload_of(fsn) for fsn in range(3 * round_number + 3)]
        store.close()


def test_invariant_22_replay_starts_at_the_oldest_unacked_frame_and_walks_sealed_before_active(tmp_path: Path) -> None:
    store = reopen(tmp_path).store
    fill(store, 7)
    store.acknowledge(2)
    store.close()
    store = reopen(tmp_path).store
    assert store.acked_fsn == 2
    assert store.run(2, 1, 100) is None
    assert replay(store, 3) == [payload_of(fsn) for fsn in range(3, 7)]
    store.close()


@pytest.mark.parametrize(("count", "acked"), [(7, 0), (7, 3), (7, 5), (2, 0), (3, 1)])
def test_wmk_01_a_restart_after_k_of_n_acks_resends_n_minus_k(tmp_path: Path, count: int, acked: int) -> None:
    store = reopen(tmp_path).store
    fill(store, count)
    store.acknowledge(acked)
    store.close()
    opened = reopen(tmp_path)
    assert len(replay(opened.store, acked + 1)) == count - acked - 1
    assert opened.report.frames_remaining == count - acked - 1
    opened.store.close()


def test_mgr_04_invariant_25_recovered_bytes_count_and_a_slot_above_the_cap_drains(tmp_path: Path) -> None:
    store = reopen(tmp_path, total=1_000).store
    fill(store, 12)
    store.close()
    store = reopen(tmp_path, total=2 * SEGMENT).store
    assert store.stats().allocated_nbytes == 6 * SEGMENT
    store.keep(0)
    assert store.stats().allocated_nbytes == 6 * SEGMENT  # no spare above the cap
    assert put(store, payload_of(12)) is None
    store.acknowledge(11)
    store.keep(1_000)
    store.keep(1_000)
    assert store.stats().allocated_nbytes <= 2 * SEGMENT
    assert put(store, payload_of(12)) == 12
    store.close()


def test_rng_08_a_settled_active_segment_larger_than_the_cap_makes_room_for_the_next(tmp_path: Path) -> None:
    """Found by the cap rule alone this slot would block for ever: nothing is left to be acknowledged."""
    store = reopen(tmp_path, segment=1_000, total=10_000).store
    fill(store, 25)
    store.close()
    store = reopen(tmp_path, segment=SEGMENT, total=2 * SEGMENT).store
    assert put(store, payload_of(25)) is None
    store.acknowledge(23)
    store.keep(0)
    assert put(store, payload_of(25)) is None  # partly acked stays
    store.acknowledge(24)
    assert put(store, payload_of(25)) == 25
    for now in (1_000, 2_000):
        store.keep(now)
    assert store.stats().allocated_nbytes <= 2 * SEGMENT
    store.close()


def test_a_smaller_empty_active_segment_gives_way_to_a_frame_that_needs_more(tmp_path: Path) -> None:
    store = reopen(tmp_path).store
    fill(store, 2)
    store.acknowledge(0)
    fill(store, 1)
    store.close()
    # frames 0 to 2 in segments of 100; the active one has room for one small frame only
    store = reopen(tmp_path, segment=400, total=2_000).store
    assert put(store, b"x" * 300) == 3
    assert [bytes(p) for p in replay(store, 1)] == [payload_of(1), payload_of(2), b"x" * 300]
    store.close()
    store = reopen(tmp_path, segment=400, total=2_000).store
    assert replay(store, 3) == [b"x" * 300]
    store.close()


def test_an_empty_active_segment_that_is_too_small_is_replaced_and_removed(tmp_path: Path) -> None:
    slot = slot_maker.Slot()
    slot.segment(0, [b"frame zero"], size=60)
    slot.segment(1, [], size=60)
    slot.files["sf-manifest.bin"] = slot_maker.manifest(0, 1)
    slot.write(tmp_path / ID)
    store = reopen(tmp_path, segment=400, total=2_000).store
    assert put(store, b"y" * 200) == 1
    store.keep(0)
    assert "sf-0000000000000001.sfa" not in names(tmp_path / ID)
    assert replay(store, 0) == [b"frame zero", b"y" * 200]
    store.close()
    store = reopen(tmp_path, segment=400, total=2_000).store
    assert replay(store, 0) == [b"frame zero", b"y" * 200]
    store.close()


def test_invariant_37_a_fresh_slot_never_inherits_a_dictionary_or_a_watermark(tmp_path: Path) -> None:
    slot = slot_maker.Slot()
    slot.files[".symbol-dict"] = slot_maker.symbol_dict(["stale"])
    slot.files[".ack-watermark"] = slot_maker.watermark(7)
    slot.write(tmp_path / ID)
    opened = reopen(tmp_path)
    assert (len(opened.symbols), opened.store.acked_fsn, opened.store.published_fsn) == (0, -1, -1)
    assert (tmp_path / ID / ".symbol-dict").read_bytes() == slot_maker.symbol_dict()
    assert (tmp_path / ID / ".ack-watermark").read_bytes() == bytes(8_192)
    opened.store.close()


def test_invariant_38_an_uncommitted_tail_is_not_sent_and_does_not_block(tmp_path: Path) -> None:
    slot = slot_maker.Slot()
    payloads = [slot_maker.message(None, body=bytes([n + 1])) for n in range(2)]
    payloads += [slot_maker.message(None, body=bytes([n + 1]), defer=True) for n in range(2, 5)]
    slot.segment(0, payloads, size=300)
    slot.files["sf-manifest.bin"] = slot_maker.manifest(0, 0)
    slot.write(tmp_path / ID)
    store = reopen(tmp_path).store
    run = store.run(0, 100, 10_000)
    assert run is not None
    assert (run.first_fsn, run.last_fsn) == (0, 1)
    run.release()
    assert store.run(2, 100, 10_000) is None
    assert put(store, b"after") == 2
    store.acknowledge(0)
    store.close()
    store = reopen(tmp_path).store  # the frame behind it is no commit of it, for nobody
    assert replay(store, 1) == [payloads[1], b"after"]
    store.acknowledge(2)
    store.close()
    assert names(tmp_path / ID) == [".lock", ".lock.pid", "sf-0000000000000000.sfa.cut-66-0"]


@pytest.mark.parametrize("number", range(9))
def test_seg_09_mgr_09_a_spare_that_cannot_be_made_leaves_nothing_and_does_not_pile_up(
    tmp_path: Path, number: int
) -> None:
    """Each step of its creation fails in turn: create, reserve, write, sync, directory, map, populate, ..."""
    recording = RecordingFiles()
    store = reopen(tmp_path, recording).store
    recording.calls.clear()
    store.keep(0)
    steps = [name for name, _ in recording.calls]
    store.close()
    if number >= len(steps):
        assert number >= 7
        return
    files = FailingFiles(10**6, count=None, only=(steps[number],))
    store = reopen(tmp_path, files).store
    fill_two = [put(store, payload_of(fsn)) for fsn in range(2)]
    assert fill_two == [0, 1]
    files.nth = files.seen
    before = names(tmp_path / ID)
    for now in range(1_000, 6_000, 1_000):
        store.keep(now)
        assert "preparing a segment" in store.stats().trouble
        assert names(tmp_path / ID) == before
        assert store.reserve(30) is None
    files.nth = 10**6
    store.keep(6_000)
    assert put(store, payload_of(2)) == 2
    store.close()
    assert files.open_files == {}


def test_mgr_05_a_storm_of_opens_and_closes_ends_at_nothing(tmp_path: Path) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(40):
        store = reopen(tmp_path).store
        store.keep(0)
        fill(store, 3)
        store.acknowledge(2)
        store.keep(0)  # a spare that nobody used, and a trim
        store.close()
        assert names(tmp_path / ID) == [".lock", ".lock.pid"]
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_mgr_05_a_storm_of_slots_with_their_keepers_ends_at_zero_bytes(tmp_path: Path) -> None:
    """Four slots at a time are opened, filled, settled and closed, each with a keeper that goes on until the close."""
    descriptors, mappings = len(os.listdir("/proc/self/fd")), live_mappings()
    failed: list[BaseException] = []

    def live(folder: Path) -> None:
        try:
            folder.mkdir()
            for round_number in range(25):
                store = reopen(folder).store
                keeper = threading.Thread(target=keep_until_closed, args=(store,))
                keeper.start()
                fill(store, round_number % 5)
                store.acknowledge(store.published_fsn)
                store.close()
                keeper.join()
                assert names(folder / ID) == [".lock", ".lock.pid"]
        except BaseException as error:
            failed.append(error)

    def keep_until_closed(store: DiskStore) -> None:
        while not store.closed:
            store.keep(0)

    lives = [threading.Thread(target=live, args=(tmp_path / str(number),)) for number in range(4)]
    for life in lives:
        life.start()
    for life in lives:
        life.join()
    assert failed == []
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix == ".sfa"] == []
    assert (len(os.listdir("/proc/self/fd")), live_mappings()) == (descriptors, mappings)


def test_mgr_05_a_spare_that_comes_during_the_close_is_closed_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The close begins while the keeper makes the file; it waits, and the spare goes with the rest."""
    files, closing = RecordingFiles(), threading.Event()
    store = reopen(tmp_path, files).store
    fill(store, 1)
    store.acknowledge(0)
    keep_lock = store._keep_lock

    class ToldLock:
        """Tells when somebody other than the keeper comes to it."""

        def __enter__(self) -> None:
            if threading.current_thread() is closer:
                closing.set()
            keep_lock.acquire()

        def __exit__(self, *_: object) -> None:
            keep_lock.release()

    def close() -> None:
        try:
            store.close()
        finally:
            closing.set()  # also when it has not waited

    closer = threading.Thread(target=close)
    create = SegmentFile.create

    def create_late(*arguments: Any, **named: Any) -> SegmentFile:
        closer.start()
        assert closing.wait(10)
        return create(*arguments, **named)

    monkeypatch.setattr(store, "_keep_lock", ToldLock())
    monkeypatch.setattr(SegmentFile, "create", create_late)
    store.keep(0)
    closer.join()
    assert ("create", "sf-0000000000000001.sfa") in files.calls
    assert files.open_files == {}
    assert names(tmp_path / ID) == [".lock", ".lock.pid"]


def test_rng_10_a_start_skips_settled_segments_that_could_not_be_removed(tmp_path: Path) -> None:
    files = FailingFiles(0, 13, count=None, only=("unlink",))
    life = Life(tmp_path, total=1_000)
    opened = life.open(files)
    for _ in range(7):
        opened.store.keep(0)
        assert life.append(opened.store, opened.symbols)
    life.acknowledge(opened.store, 4)
    opened.store.keep(1_000)
    with pytest.raises(StorageError, match="Permission"):
        opened.store.close()
    assert (tmp_path / ID / "sf-0000000000000000.sfa").exists()
    store = reopen(tmp_path).store
    run = store.run(store.acked_fsn + 1, 100, 10_000)
    assert run is not None
    assert run.first_fsn == 5
    run.release()
    assert store.run(0, 100, 10_000) is None
    assert not (tmp_path / ID / "sf-0000000000000000.sfa").exists()
    store.close()


_WRITER = """
import sys
from spoolq.spool.files import Files
from spoolq.spool.opening import open_store
store = open_store(Files(), sys.argv[1], "writer", segment_nbytes=20_000, total_nbytes=1 << 30).store
out = sys.stdout
while True:
    fsn = store.published_fsn + 1
    payload = (b"%d " % fsn) * (1 + fsn * 37 % 900)
    if fsn % 50 == 0:
        store.keep(fsn)
    room = store.reserve(len(payload))
    if room is None:
        store.keep(fsn)
        room = store.reserve(len(payload))
    room.view[:] = payload
    store.publish(room)
    out.write(f"{fsn}\\n")
    out.flush()
"""


@pytest.mark.parametrize("after", [1, 7, 60, 300, 700])
def test_invariant_18_a_killed_process_loses_no_published_frame(tmp_path: Path, after: int) -> None:
    """SIGKILL, several times on one slot; the reader of its output knows what was published."""
    expected = 0
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=os.environ
        ) as writer:
            assert writer.stdout is not None
            for _ in range(after):
                assert writer.stdout.readline() == f"{expected}\n"
                expected += 1
            os.kill(writer.pid, signal.SIGKILL)
            rest = writer.stdout.read().splitlines(keepends=True)
        expected += len([line for line in rest if line.endswith("\n")])
        store = reopen(tmp_path, segment=20_000, total=1 << 30).store
        assert store.published_fsn + 1 in (expected, expected + 1)  # one more may be published and not yet told
        expected = store.published_fsn + 1
        found = replay(store, 0)
        assert found == [(b"%d " % fsn) * (1 + fsn * 37 % 900) for fsn in range(expected)]
        store.close()


class SlotModel(RuleBasedStateMachine):
    """Random operations with kills, failing calls and restarts; the slot against a list."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="spoolq-model-"))
        self.store: DiskStore | None = None
        self.files: Any = None
        self.published: dict[int, bytes] = {}
        self.tried: dict[int, bytes] = {}
        self.acked = self.last = -1
        self.now = 0

    def teardown(self) -> None:
        if self.files is not None:
            self.files.bury()
        shutil.rmtree(self.directory)

    @initialize()
    def open(self) -> None:
        self.files = KilledFiles(10**9)
        self.store = reopen(self.directory, self.files, total=700).store
        store = self.store
        assert store.acked_fsn <= self.acked
        first = store.acked_fsn + 1
        found = dict(enumerate(replay(store, first), first))
        must = {fsn: payload for fsn, payload in self.published.items() if fsn > self.acked}
        assert must.items() <= found.items()
        assert found.items() <= self.tried.items()
        assert store.published_fsn <= max(self.tried, default=-1)
        self.published = dict(found)
        self.tried = dict.fromkeys(range(first), b"") | found
        self.last = store.published_fsn
        self.acked = store.acked_fsn

    @rule(data=st.data(), nbytes=st.integers(1, 68), now=st.integers(0, 3_000))
    def publish(self, data: st.DataObject, nbytes: int, now: int) -> None:
        self.now += now
        assert self.store is not None
        fsn = self.store.published_fsn + 1
        payload = payload_of(data.draw(st.integers(0, 10**6)), nbytes)
        self.tried[fsn] = payload
        if put(self.store, payload, now=self.now) is not None:
            assert self.store.published_fsn == fsn
            self.published[fsn] = payload
            self.last = fsn

    @rule(nbytes=st.integers(1, 68))
    def abandon(self, nbytes: int) -> None:
        assert self.store is not None
        room = self.store.reserve(nbytes)
        if room is not None:
            room.view[:] = b"z" * nbytes
            self.store.abandon(room)

    @rule(data=st.data(), count=st.integers(2, 8))
    def publish_some(self, data: st.DataObject, count: int) -> None:
        """A backlog of several segments."""
        for _ in range(count):
            self.publish(data, 30, 0)

    @rule(step=st.sampled_from((1, 2, 3, 5, 9)))
    def acknowledge(self, step: int) -> None:
        assert self.store is not None
        self.store.acknowledge(self.acked + step)
        self.acked = max(self.acked, min(self.acked + step, self.store.published_fsn))

    @rule(step=st.integers(0, 3_000))
    def keep(self, step: int) -> None:
        assert self.store is not None
        self.now += step
        self.store.keep(self.now)

    @rule()
    def restart(self) -> None:
        assert self.store is not None
        drained = self.acked >= self.store.published_fsn
        self.store.close()
        if drained:
            self.published, self.tried, self.acked = {}, {}, -1
        self.open()

    @rule(steps=st.integers(0, 12), data=st.data())
    def kill_soon(self, steps: int, data: st.DataObject) -> None:
        """A kill within the next ``steps`` calls, while publishing, keeping or closing."""
        assert self.store is not None
        self.files.nth = len(self.files.calls) + steps
        closing = False
        try:
            for _ in range(4):
                self.now += 1_000
                self.publish(data, 30, 0)
                self.keep(0)
            closing = self.acked >= self.store.published_fsn
            self.store.close()
        except Killed:
            pass
        self.files.bury()
        if closing:  # a drained close that was cut short, or not
            names_left = [name for name in names(self.directory / ID) if name.endswith(".sfa")]
            if not names_left:
                self.published, self.tried, self.acked = {}, {}, -1
        self.open()

    @precondition(lambda self: self.store is not None)
    @invariant()
    def equal(self) -> None:
        assert self.store is not None
        assert self.store.published_fsn == self.last
        assert self.store.acked_fsn == self.acked <= self.store.published_fsn
        unacked = [self.published[fsn] for fsn in range(self.acked + 1, self.store.published_fsn + 1)]
        assert replay(self.store, self.acked + 1) == unacked
        size = sum(path.stat().st_size for path in (self.directory / ID).glob("*.sfa"))
        assert self.store.stats().allocated_nbytes == size <= 700


def test_nfr_02_random_operations_with_repeated_crashes_keep_all_invariants() -> None:
    run_state_machine_as_test(SlotModel, settings=settings(max_examples=150, stateful_step_count=25, deadline=None))
