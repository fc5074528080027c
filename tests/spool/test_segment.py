"""Segment, rooms, runs and the appender, in the body in use; and both bodies against each other."""

from __future__ import annotations

import gc
import struct
from array import array
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spoolq import _implementation
from spoolq.errors import StorageError
from spoolq.spool import segment as in_use
from spoolq.spool import segment_plain
from spoolq.spool.crc import crc32c
from spoolq.spool.segment import Appender, Memory, Room, Run, Segment, live_native_bytes, walk

BODIES: list[Any] = [segment_plain] if in_use.Segment is segment_plain.Segment else [segment_plain, in_use]


def frame(payload: bytes) -> bytes:
    body = struct.pack("<i", len(payload)) + payload
    return struct.pack("<I", crc32c(body)) + body


class Store(Appender):
    """One segment in memory; what does not fit is staged and stored by hand."""

    def __init__(self, nbytes: int, direct_nbytes_max: int) -> None:
        super().__init__(direct_nbytes_max)
        self.memory = Memory(nbytes)
        self.active = Segment(7, nbytes, self.memory)
        self.fails = False

    def _reserve_slowly(self, nbytes: int) -> Room | None:
        assert self.active is not None
        if not self.active.fits(nbytes):
            return None
        return Room(self.active, self.active.append_offset, nbytes, Memory(nbytes + 8), staged=True)

    def _write_staged(self, room: Room) -> None:
        if self.fails:
            raise StorageError("the disk is full")
        room.seal()
        memoryview(self.memory)[room.offset : room.offset + 8 + room.nbytes] = memoryview(room.memory)  # type: ignore[arg-type]

    def used(self) -> bytes:
        return bytes(self.memory).rstrip(b"\0")


def put(store: Appender, payload: bytes) -> int | None:
    room = store.reserve(len(payload))
    if room is None:
        return None
    room.view[:] = payload
    return store.publish(room)


def test_seg_01_frames_stand_back_to_back_as_slot_md_draws_them() -> None:
    store = Store(1_000, 100)
    payloads = [b"a", b"bb" * 30, b"c" * 101, b"d" * 300]  # the last two are staged
    assert [put(store, payload) for payload in payloads] == [7, 8, 9, 10]
    expected = bytes(24) + b"".join(map(frame, payloads))
    assert bytes(store.memory)[: len(expected)] == expected
    assert not any(bytes(store.memory)[len(expected) :])


@given(st.lists(st.binary(min_size=1, max_size=3_000), min_size=1, max_size=12), st.integers(0, 3_000))
def test_crc_01_the_crc_of_a_frame_is_that_of_length_and_payload(payloads: list[bytes], direct: int) -> None:
    store = Store(40_000, direct)
    for payload in payloads:
        put(store, payload)
    assert bytes(store.memory)[24 : store.active.append_offset] == b"".join(map(frame, payloads))


def test_seg_12_invariant_03_the_crc_is_stored_last_and_then_the_frame_counts() -> None:
    store = Store(1_000, 100)
    room = store.reserve(3)
    assert room is not None
    room.view[:] = b"abc"
    segment = store.active
    assert segment is not None
    assert bytes(store.memory)[24:35] == bytes(4) + struct.pack("<i", 3) + b"abc"  # a kill here leaves no frame
    assert (segment.count, segment.append_offset, store.published_fsn) == (0, 24, -1)
    with pytest.raises(StorageError, match="not in the segment"):
        segment.run(7, 1, 1)
    assert store.publish(room) == 7
    assert (segment.count, segment.append_offset, store.published_fsn) == (1, 35, 7)


@pytest.mark.parametrize("again", [None, 4])
def test_rng_11_a_room_given_up_leaves_zeros_and_no_fsn(again: int | None) -> None:
    store = Store(1_000, 100)
    put(store, b"first")
    before = store.used()
    room = store.reserve(80)
    assert room is not None
    room.view[:] = b"x" * 80
    if again is None:
        store.abandon(room)
    else:
        store.reserve(again)  # an interrupt lost the first room
        assert store.used() == before + bytes(4) + b"\x04"
        room = store.reserve(1)
        assert room is not None
        store.abandon(room)
    assert store.used() == before
    assert put(store, b"next") == 8


def test_rng_11_a_staged_frame_that_could_not_be_written_consumes_no_fsn() -> None:
    store = Store(1_000, 10)
    put(store, b"first")
    before = store.used()
    room = store.reserve(200)
    assert room is not None
    room.view[:] = b"x" * 200
    store.fails = True
    with pytest.raises(StorageError, match="full"):
        store.publish(room)
    store.abandon(room)
    assert (store.used(), store.published_fsn) == (before, 7)
    store.fails = False
    assert put(store, b"y" * 200) == 8


def test_a_stale_room_is_refused_and_its_view_is_dead() -> None:
    store = Store(1_000, 100)
    published = store.reserve(5)
    assert published is not None
    view = published.view
    store.publish(published)
    forgotten = store.reserve(5)
    kept = store.reserve(5)
    assert forgotten is not None
    assert kept is not None
    for room in (published, forgotten):
        with pytest.raises(StorageError, match="stale"):
            store.publish(room)
        store.abandon(room)
    with pytest.raises(ValueError, match="released"):
        view[0] = 1
    with pytest.raises(ValueError, match="released"):
        forgotten.view[0] = 1
    store.publish(kept)
    late = store.reserve(5)
    assert late is not None
    store.active = None  # closed meanwhile
    with pytest.raises(StorageError, match="stale"):
        store.publish(late)


def test_a_payload_still_being_written_cannot_be_published() -> None:
    store = Store(1_000, 100)
    room = store.reserve(5)
    assert room is not None
    held = memoryview(room.view)
    if _implementation.COMPILED:  # a memoryview does not tell the plain body who else holds its memory
        with pytest.raises(BufferError):
            store.publish(room)
    assert store.published_fsn == -1
    held.release()
    assert store.publish(room) == 7


def test_a_run_is_bounded_but_never_empty_and_pins_its_segment() -> None:
    store = Store(10_000, 1_000)
    for _ in range(20):
        put(store, bytes(92))
    segment = store.active
    assert segment is not None
    for first, max_frames, max_nbytes, last in (
        (7, 5, 10_000, 11),
        (7, 100, 350, 9),
        (7, 100, 300, 9),
        (7, 100, 299, 8),
        (7, 100, 0, 7),
        (7, 0, 10_000, 7),
        (7, 100, 10_000, 26),
        (26, 100, 10_000, 26),
        (12, 3, 10_000, 14),
    ):
        run = segment.run(first, max_frames, max_nbytes)
        assert (run.first_fsn, run.last_fsn, run.nbytes) == (first, last, 100 * (last - first + 1))
        assert segment.extent(first, max_frames, max_nbytes) == (last, 24 + 100 * (first - 7), 24 + 100 * (last - 6))
        assert bytes(run.data) == frame(bytes(92)) * (last - first + 1)
        assert run.data.readonly
        assert len(run.payloads()) == last - first + 1
        assert segment.pins == 1
        run.release()
        run.release()
        assert segment.pins == 0
        with pytest.raises(ValueError, match="released"):
            bytes(run.data)
    for outside in (6, 27):
        with pytest.raises(StorageError, match="not in the segment of 7 to 26"):
            segment.run(outside, 1, 1)


def test_a_run_keeps_the_memory_of_a_segment_that_is_gone() -> None:
    store = Store(1_000, 100)
    put(store, b"kept")
    segment = store.active
    assert segment is not None
    run = segment.run(7, 1, 1_000)
    segment.release()
    assert segment.reserve(1) is None
    del store, segment
    gc.collect()
    assert [bytes(payload) for payload in run.payloads()] == [b"kept"]
    run.release()


def test_seg_06_a_length_that_leaves_the_run_is_an_error() -> None:
    good = frame(b"one") + frame(b"two")
    for length in (-1, 4, 2**31 - 1, -(2**31)):
        bad = bytearray(good)
        bad[15:19] = struct.pack("<i", length)
        run = Run(bad, 0, len(bad), 40, 41)
        with pytest.raises(StorageError, match=f"FSN 41 has the length {length}"):
            run.payloads()
        run.release()
    cut = Run(good, 0, len(good) - 5, 40, 41)
    with pytest.raises(StorageError, match="FSN 41"):
        cut.payloads()
    cut.release()
    for start, end in ((0, 0), (5, 4), (-1, 3), (0, len(good) + 1)):
        with pytest.raises(ValueError, match="no run"):
            Run(good, start, end, 0, 0)


def test_seg_06_rooms_and_segments_check_their_edges() -> None:
    memory = Memory(100)
    segment = Segment(0, 100, memory)
    assert [segment.fits(n) for n in (-1, 0, 68, 69)] == [False, True, True, False]
    assert segment.reserve(69) is None
    assert segment.reserve(-1) is None
    for offset, nbytes, staged in ((24, 69, False), (99, 1, False), (24, 100, True), (-1, 1, False), (24, -1, False)):
        with pytest.raises(ValueError):
            Room(segment, offset, nbytes, memory, staged=staged)
    with pytest.raises(StorageError, match="leaves its segment"):
        segment.count_frame(69)
    with pytest.raises(ValueError):
        Segment(0, 101, memory)
    for ends in ([24, 101], [25, 30], [24, 60, 50]):
        with pytest.raises(ValueError):
            Segment(0, 100, memory, array("Q", ends))
    other = Segment(0, 100, Memory(100)).reserve(3)
    assert other is not None
    with pytest.raises(StorageError, match="stale"):
        segment.publish(other)


def test_a_segment_found_on_disk_goes_on_behind_its_last_frame() -> None:
    memory = Memory(100)
    memoryview(memory)[24:46] = frame(b"one") + frame(b"two")
    segment = Segment(40, 100, memory, array("Q", [24, 35, 46]))
    assert (segment.count, segment.end_fsn, segment.append_offset) == (2, 42, 46)
    run = segment.run(41, 9, 999)
    assert bytes(run.payloads()[0]) == b"two"
    run.release()
    room = segment.reserve(5)
    assert room is not None
    room.view[:] = b"three"
    assert segment.publish(room) == 42
    segment.reset(43)
    assert (segment.base, segment.count, segment.append_offset) == (43, 0, 24)


def test_walk_counts_whole_frames() -> None:
    data = frame(b"a") + frame(b"") + frame(b"bbb")
    assert walk(data, 0, 100, 100) == (3, 28)
    assert walk(data, 9, 100, 100) == (2, 28)
    assert walk(data, 0, 2, 100) == (2, 17)
    assert walk(data, 0, 100, 17) == (2, 17)
    assert walk(data, 0, 100, 0) == (1, 9)
    assert walk(data[:-1], 0, 100, 100) == (2, 17)
    assert walk(data[:24], 0, 100, 100) == (2, 17)
    assert walk(data, 28, 100, 100) == (0, 28)
    assert walk(b"\0\0\0\0\xff\xff\xff\xff", 0, 100, 100) == (0, 0)


def test_nfr_01_native_memory_is_counted_and_given_back() -> None:
    gc.collect()
    before = live_native_bytes()
    store = Store(1 << 20, 100)
    for _ in range(1_000):
        put(store, b"x")
    held = live_native_bytes() - before
    if in_use.Segment is segment_plain.Segment:
        assert held == 0
    else:
        assert held >= (1 << 20) + 1_000 * 8
    del store
    gc.collect()
    assert live_native_bytes() == before


def _stores() -> list[Any]:
    """The same store on each body."""

    def make(body: Any) -> Any:
        class OnBody(body.Appender):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__(200)
                self.memory = body.Memory(2_000)
                self.active = body.Segment(3, 2_000, self.memory)

            def _reserve_slowly(self, nbytes: int) -> Any:
                if nbytes < 1 or not self.active.fits(nbytes):
                    return None
                return body.Room(self.active, self.active.append_offset, nbytes, body.Memory(nbytes + 8), staged=True)

            def _write_staged(self, room: Any) -> None:
                room.seal()
                memoryview(self.memory)[room.offset : room.offset + 8 + room.nbytes] = memoryview(room.memory)

        return OnBody()

    return [make(body) for body in BODIES]


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.binary(min_size=1, max_size=300)),
        st.tuples(st.just("abandon"), st.binary(min_size=1, max_size=300)),
        st.tuples(st.just("forget"), st.binary(min_size=1, max_size=300)),
        st.tuples(st.just("run"), st.tuples(st.integers(0, 30), st.integers(0, 9), st.integers(0, 900))),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(_STEPS)
def test_both_bodies_do_the_same(steps: list[tuple[str, Any]]) -> None:
    """Bytes, answers and errors are equal after every step."""
    stores = _stores()
    for step, argument in steps:
        answers = [repr(_act(store, step, argument)) for store in stores]
        answers = [f"{answer} {bytes(store.memory)!r}" for answer, store in zip(answers, stores, strict=True)]
        assert len(set(answers)) == 1


def _act(store: Any, step: str, argument: Any) -> Any:
    try:
        if step == "run":
            run = store.active.run(*argument)
            found = (run.first_fsn, run.last_fsn, run.nbytes, bytes(run.data), list(map(bytes, run.payloads())))
            run.release()
            return found
        room = store.reserve(len(argument))
        if room is None:
            return None
        room.view[:] = argument
        if step == "publish":
            return store.publish(room), store.published_fsn, store.active.append_offset, store.active.count
        if step == "abandon":
            store.abandon(room)
        return (room.nbytes, room.offset, room.staged)
    except StorageError as error:
        return str(error)


def test_the_compiled_body_is_the_one_under_test_when_it_was_built() -> None:
    assert (len(BODIES) == 2) == _implementation.COMPILED
