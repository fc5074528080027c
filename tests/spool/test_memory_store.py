"""memory.py and segment_plain.py: what was published is there, in order, until it is acknowledged."""

from __future__ import annotations

import struct
import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from spoolq.errors import FrameTooLarge, StorageError
from spoolq.spool import MemoryStore
from spoolq.spool.crc import crc32c


def put(store: MemoryStore, payload: bytes) -> int | None:
    room = store.reserve(len(payload))
    if room is None:
        return None
    room.view[:] = payload
    return store.publish(room)


def all_payloads(store: MemoryStore, first: int) -> list[bytes]:
    found: list[bytes] = []
    while (run := store.run(first, 4_096, 1 << 20)) is not None:
        assert run.first_fsn == first
        found += [bytes(payload) for payload in run.payloads()]
        first = run.last_fsn + 1
        run.release()
    return found


def test_seg_01_append_then_replay_returns_identical_bytes_in_order() -> None:
    store = MemoryStore(1_000, 10_000)
    sent = [bytes([n]) * (n + 1) for n in range(100)]
    assert [put(store, payload) for payload in sent] == list(range(100))
    assert all_payloads(store, 0) == sent
    assert all_payloads(store, 42) == sent[42:]


def test_seg_10_a_segment_in_ram_has_the_layout_of_the_file() -> None:
    store = MemoryStore(64, 128)
    put(store, b"one")
    put(store, b"two-two")
    run = store.run(0, 10, 1_000)
    assert run is not None
    one = struct.pack("<i", 3) + b"one"
    two = struct.pack("<i", 7) + b"two-two"
    expected = struct.pack("<I", crc32c(one)) + one + struct.pack("<I", crc32c(two)) + two
    assert bytes(run.data) == expected
    run.release()


def test_seg_11_a_frame_larger_than_a_segment_is_a_permanent_error() -> None:
    store = MemoryStore(100, 200)
    assert store.frame_nbytes_max == 68
    assert put(store, bytes(68)) == 0
    with pytest.raises(FrameTooLarge, match="69 bytes"):
        store.reserve(69)
    with pytest.raises(FrameTooLarge):
        store.reserve(0)


def test_rng_01_rotation_keeps_fsns_contiguous_and_rng_12_bytes_are_counted_exactly() -> None:
    store = MemoryStore(100, 1_000)
    for fsn in range(10):  # one frame a segment
        assert put(store, bytes(60)) == fsn
        assert store.stats().allocated_nbytes == 100 * (fsn + 1)
    assert put(store, bytes(60)) is None
    assert store.stats().frames_unacked == 10


def test_mgr_06_the_full_queue_is_told_at_most_every_30_seconds(caplog: pytest.LogCaptureFixture) -> None:
    store, woken = MemoryStore(100, 200), list[None]()
    store.on_work = lambda: woken.append(None)
    for _ in range(2):
        put(store, bytes(60))
        store.keep(0)
    assert store.keep_due_millis(0) is None, "full, and nobody waits"
    for now, told in ((0, 1), (10_000, 1), (29_999, 1), (30_000, 2), (59_999, 2), (60_000, 3)):
        before = len(woken)
        assert put(store, bytes(60)) is None
        assert len(woken) == before + 1, "the keeper hears of it"
        store.keep(now)
        assert len(caplog.records) == told
    assert {record.message for record in caplog.records} == {
        "the queue in memory is full: 200 of 200 bytes, 2 frames wait for their acknowledgement; appends wait for it"
    }
    assert put(store, bytes(60)) is None
    assert store.keep_due_millis(60_000) == 90_000
    store.acknowledge(0)
    assert store.keep_due_millis(90_000) is None, "there is room"
    assert put(store, bytes(60)) == 2
    store.keep(200_000)
    assert len(caplog.records) == 3
    store.close()


def test_rng_06_acknowledge_only_rises_and_stops_at_published() -> None:
    store = MemoryStore(100, 1_000)
    put(store, b"a")
    put(store, b"b")
    store.acknowledge(0)
    assert store.acked_fsn == 0
    store.acknowledge(-1)
    assert store.acked_fsn == 0
    store.acknowledge(1_000_000)
    assert store.acked_fsn == 1


def test_rng_07_trim_takes_fully_acked_sealed_segments_only() -> None:
    store = MemoryStore(100, 300)
    for _ in range(3):
        put(store, bytes(20))
        put(store, bytes(20))  # two a segment
    assert store.stats().segments == 3
    assert not store.acknowledge(0)  # half of the first segment
    assert store.stats().segments == 3
    assert store.acknowledge(1)
    assert store.stats().segments == 2
    assert len(all_payloads(store, 2)) == 4


def test_rng_08_a_fully_acked_active_segment_is_reused_and_the_fsn_continues() -> None:
    store = MemoryStore(100, 200)
    fsn = -1
    for _ in range(50):
        while (got := put(store, bytes(60))) is not None:
            fsn = got
        store.acknowledge(fsn)
    assert fsn == store.published_fsn > 50
    assert store.stats().allocated_nbytes <= 200


def test_rng_08_a_partly_acked_active_segment_stays() -> None:
    store = MemoryStore(100, 200)
    fsns = [put(store, bytes(20)) for _ in range(4)]
    assert put(store, bytes(20)) is None
    assert fsns == [0, 1, 2, 3]
    store.acknowledge(2)
    assert len(all_payloads(store, 3)) == 1


def test_rng_11_a_failed_append_consumes_no_fsn() -> None:
    store = MemoryStore(100, 200)
    assert put(store, bytes(60)) == 0
    assert put(store, bytes(60)) == 1
    assert store.reserve(60) is None
    store.acknowledge(0)
    room = store.reserve(60)
    assert room is not None
    store.abandon(room)
    assert store.published_fsn == 1
    assert put(store, b"next") == 2


def test_a_stale_room_is_refused() -> None:
    store = MemoryStore(1_000, 2_000)
    first = store.reserve(5)
    second = store.reserve(5)
    assert first is not None
    assert second is not None
    with pytest.raises(StorageError, match="stale"):
        store.publish(first)
    assert store.publish(second) == 0
    with pytest.raises(StorageError, match="stale"):
        store.publish(second)


def test_a_run_pins_its_segment() -> None:
    store = MemoryStore(100, 200)
    put(store, b"a" * 60)
    put(store, b"b" * 60)
    run = store.run(0, 1, 100)
    assert run is not None
    store.acknowledge(1)
    while put(store, b"c" * 60) is not None:
        pass
    assert bytes(run.payloads()[0]) == b"a" * 60
    run.release()


def test_a_run_is_bounded_by_frames_and_bytes_but_never_empty() -> None:
    store = MemoryStore(10_000, 20_000)
    for _ in range(20):
        put(store, bytes(92))
    for max_frames, max_nbytes, expected in ((5, 10_000, 5), (100, 350, 3), (100, 1, 1), (100, 10_000, 20)):
        run = store.run(0, max_frames, max_nbytes)
        assert run is not None
        assert run.last_fsn + 1 == expected
        run.release()


def test_mgr_01_a_spare_is_ready_ahead_of_need_and_the_keeper_is_told() -> None:
    store, told = MemoryStore(100, 400), []
    store.on_work = lambda: told.append(store.keep_due_millis(7))
    assert store.keep_due_millis(7) == 7
    assert not store.keep(7)
    assert store.keep_due_millis(7) is None
    assert store.stats().allocated_nbytes == 200
    put(store, bytes(60))
    assert told == []
    put(store, bytes(60))
    assert told == [7]  # the spare was used: the next one is due
    assert store.stats().allocated_nbytes == 200


def test_mgr_02_the_cap_stops_spares_and_an_ack_resumes_them() -> None:
    store = MemoryStore(100, 300)
    for _ in range(3):
        put(store, bytes(60))
    assert store.keep_due_millis(0) is None
    store.keep(0)
    assert store.stats().allocated_nbytes == 300
    assert put(store, bytes(60)) is None
    store.acknowledge(1)  # two segments go, the first is the spare
    assert store.stats().allocated_nbytes == 200
    assert put(store, bytes(60)) == 3
    store.keep(0)
    assert store.stats().allocated_nbytes == 300


def test_mgr_07_close_is_idempotent_and_ends_the_keepers_part() -> None:
    store = MemoryStore(100, 300)
    put(store, bytes(60))
    store.close()
    store.close()
    assert store.keep_due_millis(0) is None
    store.keep(0)
    assert store.stats().allocated_nbytes == 0
    assert not store.acknowledge(0)
    assert store.run(0, 1, 1_000) is None
    with pytest.raises(StorageError, match="closed"):
        store.reserve(1)
    with pytest.raises(StorageError, match="sf_dir"):
        store.sync()
    assert store.synced_fsn == -1


def test_mgr_03_filling_to_the_smallest_cap_and_acking_recovers_twice() -> None:
    store = MemoryStore(100, 200)
    for _ in range(2):
        while put(store, bytes(60)) is not None:
            pass
        assert store.acknowledge(store.published_fsn)
        assert put(store, bytes(60)) is not None


def test_a_cap_below_two_segments_is_refused() -> None:
    with pytest.raises(StorageError, match="too small"):
        MemoryStore(100, 199)


def test_seg_12_rng_05_a_reader_never_sees_a_frame_before_its_bytes() -> None:
    store, total, seen = MemoryStore(600, 3_000), 20_000, []
    freed = threading.Condition()

    def read() -> None:
        fsn = 0
        while fsn < total:
            run = store.run(fsn, 100, 4_096)
            if run is None:
                continue
            for payload in run.payloads():
                number = int.from_bytes(payload[:4], "little")
                assert number == fsn
                assert bytes(payload[4:]) == bytes([fsn % 251]) * (fsn % 90)
                seen.append(number)
                fsn += 1
            run.release()
            with freed:
                store.acknowledge(fsn - 1)
                freed.notify()

    reader = threading.Thread(target=read)
    reader.start()
    for fsn in range(total):
        payload = fsn.to_bytes(4, "little") + bytes([fsn % 251]) * (fsn % 90)
        with freed:
            while put(store, payload) is None:
                assert freed.wait(20)
    reader.join(60)
    assert seen == list(range(total))


class StoreModel(RuleBasedStateMachine):
    """The store against a list of payloads."""

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore(200, 800)
        self.published: list[bytes] = []
        self.acked = -1

    @rule(payload=st.binary(min_size=1, max_size=168))
    def publish(self, payload: bytes) -> None:
        fsn = put(self.store, payload)
        if fsn is None:
            assert self.store.stats().allocated_nbytes == 800
            assert self.acked < len(self.published) - 1
        else:
            assert fsn == len(self.published)
            self.published.append(payload)

    @rule(nbytes=st.integers(1, 168))
    def abandon(self, nbytes: int) -> None:
        room = self.store.reserve(nbytes)
        if room is not None:
            self.store.abandon(room)

    @rule(step=st.integers(-3, 12))
    def acknowledge(self, step: int) -> None:
        self.store.acknowledge(self.acked + step)
        self.acked = max(self.acked, min(self.acked + step, len(self.published) - 1))

    @rule()
    def keep(self) -> None:
        self.store.keep(0)

    @precondition(lambda self: self.acked + 1 < len(self.published))
    @rule(data=st.data(), max_frames=st.integers(1, 9), max_nbytes=st.integers(1, 500))
    def read(self, data: st.DataObject, max_frames: int, max_nbytes: int) -> None:
        first = data.draw(st.integers(self.acked + 1, len(self.published) - 1))
        run = self.store.run(first, max_frames, max_nbytes)
        assert run is not None
        found = [bytes(payload) for payload in run.payloads()]
        assert found == self.published[first : run.last_fsn + 1]
        assert 1 <= len(found) <= max_frames
        run.release()

    @invariant()
    def watermarks(self) -> None:
        assert self.store.published_fsn == len(self.published) - 1
        assert self.store.acked_fsn == self.acked
        assert self.store.stats().allocated_nbytes <= 800
        assert all_payloads(self.store, self.acked + 1) == self.published[self.acked + 1 :]


StoreModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_model = StoreModel.TestCase
