"""A slot whose directory is moved away while it is open, and another sender's stands in its place (slot.md 3).

The lock goes with the directory; whatever is done by path would be done to the other sender's files.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spoolq.columns.symbols import SymbolTable
from spoolq.errors import SlotBusyError, StorageError
from spoolq.runtime.drainer import _Slot
from spoolq.spool import recovery, sentinels
from spoolq.spool.dead_letters import DeadLetters
from spoolq.spool.disk import DiskStore
from spoolq.spool.files import File, Files
from spoolq.spool.lock import SlotLock
from spoolq.spool.opening import live_slot, open_store
from spoolq.spool.orphans import adopt
from spoolq.spool.plan import plan_slot
from spoolq.spool.replay import ReplayStore
from spoolq.spool.segment_file import SegmentFile
from tests.ports import NOBODY
from tests.runtime.test_drainer import Bench
from tests.spool import slot_maker
from tests.spool.disk_slot import SEGMENT, fill, fresh, payload_of, put, replay
from tests.spool.files_double import UnsyncedFiles
from tests.spool.recovered import ID, payload, usual

FOREIGN = "is not the one that this process has locked"


class Place:
    """A slot's path: ours first, then `replace` moves it away and puts another sender's there, which is open."""

    def __init__(self, root: Path) -> None:
        self.path, self.moved = root / ID, root / "moved"
        self._other: DiskStore | None = None
        self._files: dict[str, bytes] = {}

    def replace(self) -> None:
        os.rename(self.path, self.moved)
        self._other = fresh(UnsyncedFiles(), self.path)
        for fsn in range(7):
            assert put(self._other, b"other %04d" % fsn * 3) == fsn
        self._files = self._content()

    def _content(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.path.iterdir()}

    def untouched(self) -> None:
        """Nothing of the other sender's was removed, added or changed, and it goes on."""
        assert self._other is not None
        assert self._content() == self._files
        assert replay(self._other, 0) == [b"other %04d" % fsn * 3 for fsn in range(7)]
        self._other.close()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def ours(place: Place, *, frames: int = 7) -> DiskStore:
    store = fresh(UnsyncedFiles(), place.path)
    fill(store, frames)
    return store


def reopened(directory: Path) -> list[bytes]:
    """What the next sender on it would send."""
    opened = open_store(
        UnsyncedFiles(), str(directory.parent), directory.name, segment_nbytes=SEGMENT, total_nbytes=1_000
    )
    found = replay(opened.store, opened.store.acked_fsn + 1)
    opened.store.close()
    return found


def test_inv_27_a_trim_and_a_spare_touch_nothing_of_who_has_the_place_now(place: Place) -> None:
    store = ours(place)
    store.acknowledge(5)
    place.replace()
    for now in range(0, 10_000, 1_000):
        store.keep(now)
    assert FOREIGN in store.stats().trouble
    assert store.stats().segments == 4, "no segment was forgotten either"
    with pytest.raises(StorageError, match=FOREIGN):
        store.close()
    place.untouched()
    assert reopened(place.moved) == [payload_of(6)], "the acknowledged ones, and no other, are settled"


def test_inv_27_no_spare_is_made_there(place: Place) -> None:
    store = ours(place, frames=2)
    place.replace()
    assert put(store, payload_of(2)) is None, "it waits, as for any disk that takes no segment"
    assert FOREIGN in store.stats().trouble
    with pytest.raises(StorageError, match=FOREIGN):
        store.close()
    place.untouched()
    assert reopened(place.moved) == [payload_of(0), payload_of(1)]


@pytest.mark.parametrize("acked", [6, 1, -1])
def test_inv_27_a_close_says_so_and_touches_nothing(place: Place, acked: int) -> None:
    """Drained, partly acknowledged, and with nothing to remove: what stays is not where the next sender looks."""
    store = ours(place)
    store.acknowledge(acked)
    place.replace()
    with pytest.raises(StorageError, match=FOREIGN):
        store.close()
    assert store.closed
    place.untouched()
    found = reopened(place.moved)
    assert found[-1:] == [payload_of(6)], "nothing was collapsed"
    assert len(found) >= 6 - acked


def test_inv_27_a_close_with_a_leftover_leaves_it_there(place: Place) -> None:
    class Stuck(UnsyncedFiles):
        def unlink(self, path: str) -> None:
            raise StorageError("stuck", errno=errno.EACCES)

    store = fresh(Stuck(), place.path)
    fill(store, 7)
    store.acknowledge(5)
    store.keep(0)
    assert store.stats().failures
    place.replace()
    store._trimmer._files = UnsyncedFiles()
    with pytest.raises(StorageError, match=FOREIGN):
        store._remove_leftover()
    with pytest.raises(StorageError, match=FOREIGN):
        store.close()
    place.untouched()


def test_inv_04_frames_of_sealed_segments_are_not_read_from_somebody_elses(place: Place) -> None:
    store = ours(place)
    place.replace()
    for _ in range(2):
        with pytest.raises(StorageError, match=FOREIGN):
            store.run(0, 1_000, 1 << 20)
    if store._active_file.direct:  # in memory; the plain body reads that segment by its path, too
        run = store.run(6, 1_000, 1 << 20)
        assert run is not None
        assert [bytes(payload) for payload in run.payloads()] == [payload_of(6)]
        run.release()
    else:
        with pytest.raises(StorageError, match=FOREIGN):
            store.run(6, 1_000, 1 << 20)
    with pytest.raises(StorageError, match=FOREIGN):
        store.close()
    place.untouched()


def test_per_03_a_sync_of_sealed_segments_is_not_one_of_somebody_elses(place: Place) -> None:
    store = ours(place)
    place.replace()
    with pytest.raises(StorageError, match=FOREIGN):
        store.sync()
    assert store.synced_fsn == -1
    with pytest.raises(StorageError, match=FOREIGN):
        store.close()
    place.untouched()


def test_a_slot_that_was_removed_is_said_by_close(place: Place) -> None:
    store = ours(place)
    shutil.rmtree(place.path)
    with pytest.raises(StorageError, match=rf"{place.path} is not the one .* was removed or replaced"):
        store.close()
    assert not place.path.exists()


def test_inv_27_a_lock_file_that_was_removed_or_replaced_stops_the_removals(place: Place) -> None:
    store = ours(place)
    (place.path / ".lock").unlink()
    store.acknowledge(5)
    store.keep(0)
    assert FOREIGN in store.stats().trouble
    (place.path / ".lock").write_bytes(b"")
    store.keep(5_000)
    assert FOREIGN in store.stats().trouble
    with pytest.raises(StorageError, match=FOREIGN):
        store.close()
    assert reopened(place.path) == [payload_of(6)]


def test_a_slot_that_is_put_back_goes_on(place: Place) -> None:
    store = ours(place)
    store.acknowledge(5)
    os.rename(place.path, place.moved)
    store.keep(0)
    assert FOREIGN in store.stats().trouble
    os.rename(place.moved, place.path)
    store.keep(5_000)
    store.keep(10_000)
    assert store.stats().trouble == ""
    assert store.stats().segments == 1
    store.close()
    assert reopened(place.path) == [payload_of(6)]


class SwappingFiles(UnsyncedFiles):
    """At the ``nth`` call of `sync_directory` the place is taken by another sender, and that call fails."""

    def __init__(self, place: Place, nth: int) -> None:
        super().__init__()
        self._place, self._left = place, nth

    def sync_directory(self, path: str) -> None:
        self._left -= 1
        if self._left == 0:
            self._place.replace()
            raise StorageError("no such directory", errno=errno.ENOENT)


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_inv_42_a_fresh_start_that_fails_there_takes_back_no_file_of_another(place: Place, nth: int) -> None:
    """Behind the watermark, the first segment, the manifest; each name is also one of the other sender's."""
    with pytest.raises(StorageError, match="no such directory"):
        fresh(SwappingFiles(place, nth), place.path)
    place.untouched()


def test_inv_42_a_spare_that_fails_there_takes_back_no_file_of_another(place: Place) -> None:
    store = ours(place, frames=1)
    store._files = SwappingFiles(place, 1)
    with pytest.raises(StorageError, match="no such directory"):
        store._make_spare()
    with pytest.raises(StorageError, match=FOREIGN):
        store.close()
    place.untouched()


def test_inv_27_a_plan_is_not_carried_out_on_somebody_elses_slot(place: Place, monkeypatch: Any) -> None:
    usual().write(place.path)

    def planned(files: Files, slot: str, *how: Any) -> Any:
        plan = plan_slot(files, slot, *how)
        place.replace()
        return plan

    monkeypatch.setattr(recovery, "plan_slot", planned)
    with pytest.raises(StorageError, match=FOREIGN):
        open_store(UnsyncedFiles(), str(place.path.parent), ID, segment_nbytes=SEGMENT, total_nbytes=1_000)
    place.untouched()


def test_inv_27_a_store_does_not_go_on_in_somebody_elses_files(place: Place) -> None:
    """The other sender comes between recovery and store; its active segment has the same name and length."""

    class Replacing(UnsyncedFiles):
        def open(self, path: str, *, write: bool = True) -> File:
            if self.armed and path.endswith("3.sfa"):
                self.armed = False
                place.replace()
            return super().open(path, write=write)

        armed = False

    before = ours(place)
    before.close()
    files = Replacing()
    opened = recovery.open_slot(files, str(place.path.parent), ID)
    live = live_slot(opened)
    files.armed = True
    with pytest.raises(StorageError, match=FOREIGN):
        DiskStore.open(files, live, segment_nbytes=SEGMENT, total_nbytes=1_000)
    assert not files.armed
    place.untouched()
    assert reopened(place.moved) == [payload_of(fsn) for fsn in range(7)]


@pytest.mark.parametrize(("at", "data"), [(None, b""), (24 + 4, b"\xff\xff\xff\xff"), (24 + 4, b"\x05\0\0\0")])
def test_a_segment_that_changes_while_it_is_opened_is_an_error_and_no_endless_loop(
    tmp_path: Path, at: int | None, data: bytes
) -> None:
    store = fresh(UnsyncedFiles(), tmp_path / ID)
    fill(store, 2)
    stored = store._active_file.stored
    store.close()
    path = Path(stored.path)
    if at is None:
        os.truncate(path, 60)
    else:
        with path.open("r+b") as file:
            file.seek(at)
            file.write(data)
    with pytest.raises(StorageError, match="was changed while it was being opened"):
        SegmentFile.open(UnsyncedFiles(), stored)


def test_inv_27_a_slot_is_not_set_aside_that_is_somebody_elses(place: Place, monkeypatch: Any) -> None:
    broken().write(place.path)
    seen = []

    def planned(files: Files, slot: str, *how: Any) -> Any:
        plan = plan_slot(files, slot, *how)
        seen.append(plan.verdict)
        if len(seen) == 2:
            place.replace()
        return plan

    monkeypatch.setattr(recovery, "plan_slot", planned)
    with pytest.raises(StorageError, match=FOREIGN):
        open_store(UnsyncedFiles(), str(place.path.parent), ID, segment_nbytes=SEGMENT, total_nbytes=1_000)
    assert seen == ["unreplayable", "unreplayable"]
    place.untouched()


def broken() -> slot_maker.Slot:
    """A slot with a hole in its chain."""
    slot = slot_maker.Slot()
    slot.segment(0, [payload(0)], flags=1, size=100)
    slot.segment(5, [payload(5)], flags=1, size=100)
    slot.files["sf-manifest.bin"] = slot_maker.manifest(0, 5)
    return slot


def adopted_store(place: Place) -> ReplayStore:
    usual().write(place.path)
    adopted = adopt(UnsyncedFiles(), str(place.path.parent), ID)
    assert adopted is not None
    assert adopted.store is not None
    return adopted.store


@pytest.mark.parametrize("acked", [4, 2, 0])
def test_orp_02_a_drainer_removes_nothing_of_who_has_the_place_now(place: Place, acked: int) -> None:
    store = adopted_store(place)
    store.acknowledge(acked)
    place.replace()
    for now in range(0, 5_000, 1_000):
        store.keep(now)
    with pytest.raises(StorageError, match=FOREIGN):
        store.close()
    place.untouched()


@pytest.mark.parametrize("write", [sentinels.write_failed, sentinels.write_last_error])
def test_inv_39_a_drainer_writes_no_note_into_somebody_elses_slot(
    place: Place, write: Callable[[Files, str, str], None]
) -> None:
    usual().write(place.path)
    slot = _Slot(Bench(place.path.parent, f"ws::addr={NOBODY};").setup, ID, lambda: False)
    slot.take(again=False)
    place.replace()
    with pytest.raises(StorageError, match=FOREIGN):
        slot.write(write, "given up")
    with pytest.raises(StorageError, match=FOREIGN):
        slot.leave()
    place.untouched()


def test_dlq_01_no_letter_is_half_made_where_the_slot_is_somebody_elses(place: Place) -> None:
    store = ours(place)
    letters = DeadLetters(UnsyncedFiles(), str(place.path.parent), ID, 1 << 20, check_slot=store.check_slot)
    place.replace()
    (place.path.parent / f"{ID}.dead-letter").mkdir()
    half = place.path.parent / f"{ID}.dead-letter" / "0000000000000001-0000000000000001.qwp.tmp"
    half.write_bytes(b"the other sender is at work")
    with pytest.raises(StorageError, match=FOREIGN):
        letters.save(0, payload_of(0), SymbolTable(), status=3, category="parse_error", text="", time_micros=1)
    assert half.exists()
    with pytest.raises(StorageError, match=FOREIGN):
        store.close()
    place.untouched()


# --- the lock of a slot that is renamed between open and lock -------------------------------------------


class InBetween(UnsyncedFiles):
    """Calls ``act`` once, between the opening of ``.lock`` and the lock."""

    def __init__(self, act: Callable[[], None], *, times: int = 1) -> None:
        super().__init__()
        self._act, self._times = act, times

    def lock(self, file: File) -> bool:
        if self._times:
            self._times -= 1
            self._act()
        return super().lock(file)


def test_inv_28_a_lock_that_went_with_a_slot_that_was_set_aside_is_not_the_slots(tmp_path: Path) -> None:
    broken().write(tmp_path / ID)
    held: list[DiskStore] = []

    def another_process() -> None:
        opened = open_store(UnsyncedFiles(), str(tmp_path), ID, segment_nbytes=SEGMENT, total_nbytes=1_000)
        assert opened.report.set_aside is not None
        held.append(opened.store)

    with pytest.raises(SlotBusyError, match="slot already in use"):
        open_store(InBetween(another_process), str(tmp_path), ID, segment_nbytes=SEGMENT, total_nbytes=1_000)
    fill(held[0], 2)
    assert replay(held[0], 0) == [payload_of(0), payload_of(1)]
    held[0].close()


@pytest.mark.parametrize("act", ["removed", "moved"])
def test_inv_28_the_slot_that_has_the_name_now_is_locked(tmp_path: Path, act: str) -> None:
    slot, away = tmp_path / ID, tmp_path / "away"
    slot.mkdir()

    def in_between() -> None:
        if act == "removed":
            (slot / ".lock").unlink()
        else:
            os.rename(slot, away)

    files = InBetween(in_between)
    lock = SlotLock.acquire(files, str(slot))
    lock.check()
    with pytest.raises(SlotBusyError):
        SlotLock.acquire(UnsyncedFiles(), str(slot))
    lock.release()
    assert files.stat(str(slot)) is not None


def test_inv_28_a_lock_file_that_is_replaced_again_and_again_is_given_up(tmp_path: Path) -> None:
    slot = tmp_path / ID
    files = InBetween((slot / ".lock").unlink, times=1_000)
    with pytest.raises(SlotBusyError, match=r"slot already in use: .* was replaced 16 times"):
        SlotLock.acquire(files, str(slot))
