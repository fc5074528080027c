"""disk.py on real files: what is published is in the files, in order, until it is acknowledged."""

from __future__ import annotations

import gc
import os
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spoolq import limits
from spoolq.columns.symbols import SymbolTable
from spoolq.errors import FrameTooLarge, SlotBusyError, StorageError
from spoolq.spool import MemoryStore
from spoolq.spool.disk import DiskStore
from spoolq.spool.files import Files
from spoolq.spool.mapping import live_mappings
from spoolq.spool.opening import open_store
from spoolq.spool.segment import live_native_bytes
from spoolq.spool.segment_file import StoredSegment
from spoolq.spool.store import StoreStats
from tests.spool import slot_maker
from tests.spool.disk_slot import CREATED, SEGMENT, fill, fresh, names, payload_of, put, replay
from tests.spool.files_double import RecordingFiles, UnsyncedFiles


@pytest.fixture
def slot(tmp_path: Path) -> Path:
    return tmp_path / "slot"


def manifest_of(slot: Path) -> Any:
    return slot_maker.read_record((slot / "sf-manifest.bin").read_bytes(), b"SFM1", 2)


def watermark_of(slot: Path) -> Any:
    return slot_maker.read_record((slot / ".ack-watermark").read_bytes(), b"AKW1", 1)


def segments_of(slot: Path) -> list[str]:
    return [name for name in names(slot) if name.endswith(".sfa")]


def test_invariant_01_a_fresh_slot_has_the_bytes_of_slot_md(slot: Path) -> None:
    store = fresh(Files(), slot)
    put(store, b"one")
    put(store, b"two-two")
    made = slot_maker.segment(0, [b"one", b"two-two"], size=SEGMENT, flags=1, created=CREATED)
    assert (slot / "sf-0000000000000000.sfa").read_bytes() == made
    assert (slot / "sf-manifest.bin").read_bytes() == slot_maker.manifest(0, 0)
    assert (slot / ".ack-watermark").read_bytes() == bytes(8_192)  # no record before the first ack
    assert (slot / ".symbol-dict").read_bytes() == slot_maker.symbol_dict()
    assert names(slot) == [".ack-watermark", ".lock", ".lock.pid", ".symbol-dict", made_name(0), "sf-manifest.bin"]
    assert {os.stat(slot / name).st_mode & 0o777 for name in names(slot)} == {0o600}
    store.close()


def made_name(generation: int) -> str:
    return f"sf-{generation:016x}.sfa"


@pytest.mark.parametrize("nbytes", [30, 4_000, 70_000, 200_000])
def test_seg_01_append_then_replay_returns_identical_bytes_in_order(slot: Path, nbytes: int) -> None:
    """Small frames through the mapping, large ones by pwrite, both back from the mapping or by reads."""
    store = fresh(Files(), slot, segment=nbytes * 3 + 100, total=1 << 30)
    fill(store, 20, nbytes)
    for max_nbytes in (1, nbytes * 2, 1 << 20):
        assert replay(store, 0, max_nbytes) == [payload_of(fsn, nbytes) for fsn in range(20)]
    assert replay(store, 13) == [payload_of(fsn, nbytes) for fsn in range(13, 20)]
    assert slot_maker.read_frames(slot) == {fsn: payload_of(fsn, nbytes) for fsn in range(20)}
    store.close()


def test_seg_10_a_run_has_the_layout_of_the_file(slot: Path) -> None:
    store = fresh(Files(), slot)
    fill(store, 2)
    run = store.run(0, 10, 1_000)
    assert run is not None
    end = 24 + len(run.data)
    assert bytes(run.data) == (slot / made_name(0)).read_bytes()[24:end]
    run.release()
    store.close()


def test_seg_11_a_frame_larger_than_a_segment_is_a_permanent_error(slot: Path) -> None:
    store = fresh(Files(), slot)
    assert store.frame_nbytes_max == 68
    for nbytes in (69, 0, -1):
        with pytest.raises(FrameTooLarge, match="1 to 68"):
            store.reserve(nbytes)
    assert put(store, bytes([1]) * 68) == 0
    store.close()


def test_rng_01_rotation_keeps_fsns_contiguous(slot: Path) -> None:
    store = fresh(Files(), slot)
    fill(store, 9)
    bases = [struct.unpack_from("<q", (slot / name).read_bytes(), 8)[0] for name in segments_of(slot)]
    assert bases[:5] == [0, 2, 4, 6, 8]
    store.keep(0)
    assert manifest_of(slot) == (0, 8)
    assert [f["flags"] for f in map(header_of, sorted(slot.glob("*.sfa")))] == [1] * len(segments_of(slot))
    store.close()


def header_of(path: Path) -> dict[str, int]:
    _, version, flags, reserved, base, _ = struct.unpack_from("<IBBHqQ", path.read_bytes())
    return {"flags": flags, "base": base, "reserved": reserved, "version": version}


def test_rng_02_a_spare_gets_its_base_when_it_is_promoted(slot: Path) -> None:
    store = fresh(Files(), slot)
    fill(store, 1)
    store.keep(0)
    spare = slot / made_name(1)
    assert header_of(spare)["base"] == 1  # a guess
    fill(store, 2)
    assert header_of(spare)["base"] == 2
    store.close()


def test_mgr_01_a_spare_is_ready_ahead_of_need_and_the_keeper_is_told(slot: Path) -> None:
    store, told = fresh(Files(), slot), []
    store.on_work = lambda: told.append(store.keep_due_millis(5))
    assert store.keep_due_millis(5) == 5
    assert store.keep(5)
    assert store.keep_due_millis(5) is None
    fill(store, 2)
    assert told == []
    fill(store, 1)
    assert told == [5]  # rotated: syncs and the next spare are due
    store.keep(5)
    assert store.keep_due_millis(5) is None
    assert len(segments_of(slot)) == 3
    store.close()


def test_mgr_01_without_a_spare_an_append_waits_and_wakes_the_keeper(slot: Path) -> None:
    store, told = fresh(Files(), slot), []
    fill(store, 2)
    store.on_work = lambda: told.append(1)
    assert store.reserve(30) is None  # ours.md 15f: the producer makes none itself
    assert told == [1]
    assert store.keep(0)
    assert put(store, payload_of(2)) == 2
    store.close()


def test_mgr_02_the_cap_stops_spares_and_an_ack_resumes_them(slot: Path) -> None:
    store = fresh(Files(), slot, total=3 * SEGMENT)
    while put(store, payload_of(store.published_fsn + 1)) is not None:
        pass
    assert store.published_fsn == 5
    assert store.keep_due_millis(0) == 30_000  # to say once more that it is full, not to make a segment
    assert store.stats().allocated_nbytes == 3 * SEGMENT
    store.acknowledge(1)
    assert store.keep_due_millis(0) == 0
    assert store.keep(0)
    assert store.stats().allocated_nbytes == 3 * SEGMENT  # one trimmed, one made
    assert put(store, payload_of(6)) == 6
    store.close()


def test_mgr_03_filling_to_the_smallest_cap_and_acking_recovers_twice(slot: Path) -> None:
    store = fresh(Files(), slot, total=2 * SEGMENT)
    for _ in range(3):
        while put(store, payload_of(store.published_fsn + 1)) is not None:
            pass
        assert store.stats().allocated_nbytes <= 2 * SEGMENT
        store.acknowledge(store.published_fsn)
        store.keep(0)
        fill(store, 1)
    store.close()


def test_invariant_25_the_files_never_exceed_the_cap(slot: Path) -> None:
    store = fresh(Files(), slot, total=450)
    for step in range(100):
        put(store, payload_of(store.published_fsn + 1))
        if step % 7 == 0:
            store.acknowledge(store.published_fsn - 2)
        assert sum(path.stat().st_size for path in slot.glob("*.sfa")) <= 450
        assert store.stats().allocated_nbytes == sum(path.stat().st_size for path in slot.glob("*.sfa"))
    store.close()


def test_mgr_06_the_full_slot_is_told_at_most_every_30_seconds(slot: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = fresh(Files(), slot, total=2 * SEGMENT)
    while put(store, payload_of(store.published_fsn + 1)) is not None:
        pass
    for now, told in ((0, 1), (10_000, 1), (29_999, 1), (30_000, 2), (59_999, 2), (60_000, 3)):
        assert store.reserve(30) is None
        store.keep(now)
        assert len(caplog.records) == told
    assert [r.message for r in caplog.records if "is full" in r.message] == [
        f"the slot {slot} is full: 200 of 200 bytes, 4 frames wait for their acknowledgement; appends wait for it"
    ] * 3
    store.close()


def test_rng_06_invariant_19_acknowledge_only_rises_and_stops_at_published(slot: Path) -> None:
    store = fresh(Files(), slot)
    fill(store, 2)
    for fsn, expected in ((0, 0), (-1, 0), (10**6, 1), (0, 1)):
        store.acknowledge(fsn)
        assert store.acked_fsn == expected  # invariant 19
    store.close()


def test_rng_07_trim_removes_fully_acked_sealed_segments_only(slot: Path) -> None:
    store = fresh(Files(), slot)
    fill(store, 6)
    store.keep(0)
    assert len(segments_of(slot)) == 4
    store.acknowledge(0)  # half of the first
    store.keep(0)
    assert len(segments_of(slot)) == 4
    store.acknowledge(2)  # all of the first, half of the second
    store.keep(0)
    assert segments_of(slot) == [made_name(1), made_name(2), made_name(3)]
    assert manifest_of(slot) == (2, 4)
    store.acknowledge(3)
    store.keep(0)
    assert segments_of(slot) == [made_name(2), made_name(3)]
    assert manifest_of(slot) == (4, 4)
    assert watermark_of(slot) == (3,)
    store.acknowledge(5)
    store.keep(1_000)
    assert segments_of(slot) == [made_name(2), made_name(3)]  # the active one is never trimmed
    store.close()


def test_invariant_23_trim_takes_64_segments_behind_one_set_of_barriers(slot: Path) -> None:
    store = fresh(Files(), slot, total=100_000)
    fill(store, 160)
    store.acknowledge(159)
    store.keep(0)
    assert len(segments_of(slot)) == 80 - 64 + 1
    assert manifest_of(slot) == (128, 158)
    store.keep(0)
    assert manifest_of(slot) == (158, 158)
    store.close()


def test_rng_08_a_fully_acked_active_segment_is_reclaimed_and_the_fsn_continues(slot: Path) -> None:
    store = fresh(Files(), slot, total=2 * SEGMENT)
    fill(store, 2)
    store.acknowledge(1)
    fill(store, 2)
    store.keep(0)
    assert made_name(0) not in segments_of(slot)
    assert store.published_fsn == 3
    store.close()


def test_rng_12_bytes_are_counted_exactly(slot: Path) -> None:
    store = fresh(Files(), slot)
    for _ in range(9):
        assert store.stats().allocated_nbytes == SEGMENT * len(segments_of(slot))
        fill(store, 1)
    store.acknowledge(7)
    store.keep(0)
    assert store.stats().allocated_nbytes == SEGMENT * len(segments_of(slot))
    assert store.stats().frames_unacked == 1
    store.close()


def test_rng_12_telling_the_bytes_takes_no_call_and_looks_at_no_segment(slot: Path) -> None:
    """As many steps of the interpreter for 300 segments as for 3, in files and in RAM."""
    files = RecordingFiles()
    disk, ram = fresh(files, slot, total=100_000), MemoryStore(SEGMENT, 100_000)
    steps: dict[str, list[int]] = {"disk": [], "ram": []}
    for count in (6, 594):
        for name, store in (("disk", disk), ("ram", ram)):
            fill(store, count)
            store.keep(0)  # the spare
            files.calls.clear()
            taken, stats = steps_of(store.stats)
            steps[name].append(taken)
            assert files.calls == []
            assert stats.allocated_nbytes == SEGMENT * (stats.segments + 1)
    assert disk.stats().segments == ram.stats().segments == 300
    assert [len(set(found)) for found in steps.values()] == [1, 1], steps
    disk.close()
    ram.close()


def steps_of(call: Callable[[], StoreStats]) -> tuple[int, StoreStats]:
    """Lines, calls and returns of Python code while ``call`` runs, and what it gave."""
    count = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    gc.disable()  # a collection calls what others have hooked into it, which would be counted
    sys.settrace(trace)
    try:
        found = call()
    finally:
        sys.settrace(before)
        gc.enable()
    return count, found


def test_wmk_the_watermark_record_is_stored_soon_after_an_ack_and_at_close(slot: Path) -> None:
    store, told = fresh(Files(), slot), []
    fill(store, 2)
    store.keep(0)
    store.on_work = lambda: told.append(1)
    store.acknowledge(0)
    assert told == [1]
    assert store.keep_due_millis(1_000) == 1_100  # one write serves the acks of 100 ms
    store.acknowledge(1)
    assert told == [1]
    store.keep(1_099)
    assert watermark_of(slot) is None
    store.keep(1_100)
    assert watermark_of(slot) == (1,)
    assert store.keep_due_millis(2_000) is None
    fill(store, 3)
    store.acknowledge(2)
    store.close()
    assert watermark_of(slot) == (2,)


def test_close_undrained_leaves_everything_to_the_next(slot: Path) -> None:
    store = fresh(Files(), slot)
    fill(store, 5)
    store.acknowledge(0)
    store.keep(0)
    before = segments_of(slot)
    store.close()
    store.close()
    assert segments_of(slot) == before
    assert manifest_of(slot) == (0, 4)
    frames = slot_maker.read_frames(slot)
    assert frames == {fsn: payload_of(fsn) for fsn in range(5)}


@pytest.mark.parametrize("count", [0, 1, 5])
def test_invariant_24_a_drained_close_leaves_only_the_lock(slot: Path, count: int) -> None:
    store = fresh(Files(), slot)
    fill(store, count)
    (slot / "foreign").write_bytes(b"kept")
    (slot / "old.sfa.corrupt").write_bytes(b"kept")
    store.acknowledge(count - 1)
    store.close()
    assert names(slot) == [".lock", ".lock.pid", "foreign", "old.sfa.corrupt"]


def test_mgr_07_close_is_idempotent_and_ends_every_call(slot: Path) -> None:
    store = fresh(Files(), slot)
    fill(store, 3)
    store.close()
    store.close()
    assert store.keep_due_millis(0) is None
    assert not store.keep(0)
    assert not store.acknowledge(0)
    assert store.run(0, 1, 1) is None
    for call in (lambda: store.reserve(1), store.sync):
        with pytest.raises(StorageError, match="is closed"):
            call()


def test_mgr_07_a_keeper_and_a_close_at_once(slot: Path) -> None:
    slot.mkdir()
    for attempt in range(10):
        store = fresh(Files(), slot / str(attempt))
        fill(store, 3)
        start = threading.Barrier(2)

        def keep(store: DiskStore = store, start: threading.Barrier = start) -> None:
            start.wait()
            store.keep(0)

        keeper = threading.Thread(target=keep)
        keeper.start()
        start.wait()
        store.close()
        keeper.join()
        assert slot_maker.read_frames(slot / str(attempt)) == {fsn: payload_of(fsn) for fsn in range(3)}


def test_mgr_08_invariant_12_new_files_never_take_a_name_that_is_there(slot: Path) -> None:
    store = fresh(Files(), slot)
    (slot / made_name(1)).write_bytes(b"somebody's")
    with_error = store.keep(0)
    assert not with_error
    assert "File exists" in store.stats().trouble
    assert (slot / made_name(1)).read_bytes() == b"somebody's"
    store.keep(1_000)  # the next number
    assert store.stats().trouble == ""
    assert made_name(2) in segments_of(slot)
    fill(store, 3)
    store.close()


def test_invariant_28_a_second_opener_is_refused(slot: Path) -> None:
    store = fresh(Files(), slot)
    with pytest.raises(SlotBusyError, match=f"pid={os.getpid()}"):
        fresh(Files(), slot)
    store.close()


def test_a_cap_below_two_segments_is_refused_and_the_lock_is_free(slot: Path) -> None:
    with pytest.raises(StorageError, match="two must fit"):
        fresh(Files(), slot, total=199)
    assert [f for f in os.listdir("/proc/self/fd") if str(slot) in _target(f)] == []


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def test_nfr_01_descriptors_and_mappings_stay_within_their_bounds(slot: Path) -> None:
    """Also while runs are held: at most 8 descriptors and 4 mappings (ours.md 18)."""
    gc.collect()
    before, native = live_mappings(), live_native_bytes()
    store = fresh(Files(), slot, total=1 << 20)
    held, most = [], [0, 0]

    def look() -> None:
        most[0] = max(most[0], len([fd for fd in os.listdir("/proc/self/fd") if str(slot) in _target(fd)]))
        most[1] = max(most[1], live_mappings() - before)

    for fsn in range(60):
        fill(store, 1)
        look()
        run = store.run(fsn, 1, 1_000)
        assert run is not None
        held.append(run)
        store.keep(0)
        look()
    assert [bytes(run.payloads()[0]) for run in held] == [payload_of(fsn) for fsn in range(60)]
    assert most[0] <= limits.SLOT_DESCRIPTORS_MAX - 1  # one is for a directory's sync
    assert most[1] <= limits.SLOT_MAPPINGS_MAX
    for run in held:
        run.release()
    replay(store, 0)
    look()
    assert most[0] <= limits.SLOT_DESCRIPTORS_MAX - 1
    store.close()
    assert live_mappings() == before
    del store, run, held
    gc.collect()  # a store and its chores know each other
    assert live_native_bytes() == native


def test_a_run_outlives_rotation_trim_and_close(slot: Path) -> None:
    before = live_mappings()
    store = fresh(Files(), slot)
    fill(store, 2)
    run = store.run(0, 10, 1_000)
    assert run is not None
    fill(store, 4)
    store.acknowledge(5)
    store.keep(0)
    assert made_name(0) not in segments_of(slot)
    store.close()
    assert [bytes(payload) for payload in run.payloads()] == [payload_of(0), payload_of(1)]
    run.release()
    assert live_mappings() == before


def test_rng_11_an_abandoned_room_leaves_no_byte_and_no_symbol(slot: Path) -> None:
    store = fresh(Files(), slot, segment=200_000, total=1 << 20)
    symbols = SymbolTable()
    for text in ("a", "bb", "ccc"):
        symbols.intern(text)
    store.write_ahead(symbols, 0, 1)
    fill(store, 1)
    before = {name: (slot / name).read_bytes() for name in names(slot)}
    for nbytes in (50, 100_000):
        room = store.reserve(nbytes)
        assert room is not None
        room.view[:] = b"x" * nbytes
        store.write_ahead(symbols, 1, 3)
        assert slot_maker.read_symbols((slot / ".symbol-dict").read_bytes()) == ["a", "bb", "ccc"]
        store.abandon(room)
        assert {name: (slot / name).read_bytes() for name in names(slot)} == before
    assert store.published_fsn == 0
    store.close()


def test_invariant_29_symbols_are_in_the_file_before_their_frame(slot: Path) -> None:
    store = fresh(Files(), slot)
    symbols = SymbolTable()
    symbols.intern("first")
    room = store.reserve(5)
    assert room is not None
    store.write_ahead(symbols, 0, 1)
    assert slot_maker.read_symbols((slot / ".symbol-dict").read_bytes()) == ["first"]
    assert store.published_fsn == -1
    store.publish(room)
    assert not store.dense
    store.close()
    assert slot_maker.read_symbols((slot / ".symbol-dict").read_bytes()) == ["first"]


def test_invariant_30_symbols_of_a_frame_that_never_came_are_taken_back_by_the_next(slot: Path) -> None:
    store = fresh(Files(), slot)
    symbols = SymbolTable()
    symbols.intern("lost")
    room = store.reserve(5)
    assert room is not None
    store.write_ahead(symbols, 0, 1)  # then an interrupt; nobody abandons
    other = SymbolTable()
    other.intern("kept")
    room = store.reserve(5)
    assert room is not None
    store.write_ahead(other, 0, 1)
    store.publish(room)
    store.close()
    assert slot_maker.read_symbols((slot / ".symbol-dict").read_bytes()) == ["kept"]


def test_sync_makes_synced_fsn_rise(slot: Path) -> None:
    store = fresh(Files(), slot)
    assert store.synced_fsn == -1
    fill(store, 5)
    assert store.synced_fsn == -1
    store.sync()
    assert store.synced_fsn == 4
    fill(store, 1)
    assert store.synced_fsn == 4
    store.close()


def test_seg_12_rng_05_a_reader_never_sees_a_frame_before_its_bytes(slot: Path) -> None:
    """Producer, reader and keeper at once; frames of all sizes over rotations and trims."""
    store, total, seen = fresh(Files(), slot, segment=20_000, total=80_000), 3_000, []
    moved = threading.Condition()
    ended = threading.Event()

    def read() -> None:
        fsn = 0
        while fsn < total:
            run = store.run(fsn, 100, 4_096)
            if run is None:
                continue
            for payload in run.payloads():
                assert bytes(payload) == payload_of(fsn, 10 + fsn * 7 % 600)
                seen.append(fsn)
                fsn += 1
            run.release()
            store.acknowledge(fsn - 1)

    def keep() -> None:
        while not ended.is_set():
            if store.keep(0):
                with moved:
                    moved.notify()

    threads = [threading.Thread(target=read), threading.Thread(target=keep)]
    for thread in threads:
        thread.start()
    for fsn in range(total):
        payload = payload_of(fsn, 10 + fsn * 7 % 600)
        with moved:
            while (room := store.reserve(len(payload))) is None:
                moved.wait(0.01)
        room.view[:] = payload
        assert store.publish(room) == fsn
    threads[0].join(60)
    ended.set()
    threads[1].join(60)
    assert seen == list(range(total))
    assert store.stats().trouble == ""
    store.close()
    assert names(slot) == [".lock", ".lock.pid"]


@pytest.mark.parametrize("files", [UnsyncedFiles, RecordingFiles], ids=["mapped", "not mapped"])
def test_seg_12_a_frame_that_is_counted_and_not_published_yet_is_not_sent(slot: Path, files: type[Files]) -> None:
    """Two steps on the plain body.  Acknowledged between them it would wait for its acknowledgement for ever."""
    store = fresh(files(), slot)
    fill(store, 1)
    room = store.reserve(30)
    assert room is not None
    room.view[:] = payload_of(1)
    if room.staged:
        store._write_staged(room)
        room.segment.count_frame(30)
    else:
        room.segment.publish(room)
    assert store.published_fsn == 0
    run = store.run(0, 10, 1_000)
    assert run is not None
    assert (run.first_fsn, run.last_fsn) == (0, 0)
    run.release()
    store.close()


def test_33_a_ctrl_c_at_the_end_of_a_rotation_leaves_a_store_that_goes_on(tmp_path: Path) -> None:
    """CPython looks at signals behind a call, so just behind the one that notes the full segment."""

    class Interrupting(list[StoredSegment]):
        def append(self, segment: StoredSegment) -> None:
            super().append(segment)
            raise KeyboardInterrupt

    store = fresh(Files(), tmp_path / "s")
    store.keep(0)
    fill(store, 1)
    store._sealed = Interrupting(store._sealed)
    with pytest.raises(KeyboardInterrupt):
        put(store, payload_of(1, 40))
    store._sealed = list(store._sealed)
    sizes = [30, 10, 40, 30]  # the second one would fit the old segment, which the manifest has left
    for fsn in (1, 2, 3):
        assert put(store, payload_of(fsn, sizes[fsn])) == fsn
    frames = [payload_of(fsn, nbytes) for fsn, nbytes in enumerate(sizes)]
    assert replay(store, 0) == frames
    store.close()
    after = open_store(Files(), str(tmp_path), "s", segment_nbytes=SEGMENT, total_nbytes=1_000).store
    assert replay(after, 0) == frames
    after.close()
