"""disk.py against a failing call, a kill and a power cut, each at every step of a slot's life."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from spoolq.errors import StorageError
from spoolq.spool.files import OPERATIONS
from spoolq.spool.mapping import live_mappings
from spoolq.spool.store import Durability
from tests.spool.crash_scenario import ID, Life
from tests.spool.files_double import SYNCS, FailingFiles, Killed, KilledFiles, PowerCutFiles, RecordingFiles

WHOLE = {".symbol-dict", ".ack-watermark", "sf-manifest.bin", "sf-0000000000000000.sfa"}
CHANGES = ("create", "open_or_create", "write", "append", "truncate", "store", "rename", "unlink")


def steps_of(tmp_path: Path, **options: Any) -> list[tuple[str, str]]:
    """Every step of an undisturbed life."""
    durability = options.pop("durability", "memory")
    directory = tmp_path / "undisturbed"
    directory.mkdir()
    files = RecordingFiles()
    life = Life(directory, **options)
    life.run(files, durability=durability)
    assert life.errors == []
    assert len(life.published) == life.frames
    assert life.synced == 6
    assert files.open_files == {}
    shutil.rmtree(directory)
    return files.calls


@pytest.mark.parametrize("drained", [False, True])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_invariant_05_rng_04_rng_11_any_one_call_fails_and_nothing_is_lost(
    tmp_path: Path, drained: bool, number: int
) -> None:
    """SEG-09, MGR-09, LCK-04, REC-08, invariant 42: also no descriptor, mapping, lock or half-made file is left."""
    before = live_mappings()
    count = len(steps_of(tmp_path, drained=drained))
    for nth in range(count):
        directory = tmp_path / "slots"
        directory.mkdir()
        files = FailingFiles(nth, number)
        life = Life(directory, drained=drained)
        life.run(files)
        assert files.failed, nth
        assert len(life.published) == life.frames, (nth, files.failed, life.errors)
        assert files.open_files == {}, (nth, files.failed)
        assert live_mappings() == before, (nth, files.failed)
        life.check()
        shutil.rmtree(directory)


@pytest.mark.parametrize("only", [OPERATIONS, ("unlink",), SYNCS, ("create", "reserve"), ("write", "append")])
def test_a_disk_that_fails_from_some_step_on_loses_nothing(tmp_path: Path, only: tuple[str, ...]) -> None:
    before = live_mappings()
    count = len([step for step in steps_of(tmp_path, drained=True) if step[0] in only])
    for nth in range(0, count, 1 if count < 60 else 3):
        directory = tmp_path / "slots"
        directory.mkdir()
        files = FailingFiles(nth, errno.EIO, count=None, only=only)
        life = Life(directory, drained=True)
        life.run(files)
        assert life.errors or life.store is None or life.store.stats().failures or "unlink" in only
        assert files.open_files == {}, (nth, files.failed[:3])
        assert live_mappings() == before
        life.check()
        shutil.rmtree(directory)


@pytest.mark.parametrize("durability", ["memory", "flush"])
@pytest.mark.parametrize("drained", [False, True])
def test_invariant_18_a_kill_at_any_step_loses_no_unacked_frame(
    tmp_path: Path, drained: bool, durability: Durability
) -> None:
    """Fresh start, appends, rotations, trim, sync, close; a kill is nothing to warn of."""
    count = len(steps_of(tmp_path, drained=drained, durability=durability))
    for nth in range(count + 1):
        directory = tmp_path / "slots"
        directory.mkdir()
        files = KilledFiles(nth)
        life = Life(directory, drained=drained)
        try:
            life.run(files, durability=durability)
        except Killed:
            files.bury()
        life.check(unsuspicious=True)
        shutil.rmtree(directory)


def test_invariant_18_a_kill_never_makes_a_spare_the_active_segment(tmp_path: Path) -> None:
    """A slot that never rotated: its spare has the base of the active one, and must be gone before that is."""
    for nth in range(1_000):
        directory = tmp_path / "slots"
        directory.mkdir()
        files = KilledFiles(nth)
        life = Life(directory, frames=1, drained=True)
        try:
            life.run(files)
        except Killed:
            files.bury()
        else:
            return
        life.check(unsuspicious=True)
        shutil.rmtree(directory)
    raise AssertionError("the life never ends")


@pytest.mark.parametrize(("drained", "durability"), [(False, "memory"), (True, "memory"), (True, "flush")])
def test_invariant_17_a_power_cut_at_any_step_that_leaves_the_frames_leaves_the_slot(
    tmp_path: Path, drained: bool, durability: Durability
) -> None:
    """Names, headers, manifest, watermark: any subset of what was not synced is lost (invariants 14, 15, 37).

    Frames themselves are taken as written, for `memory` promises nothing for them.
    """
    rng = random.Random(7)
    steps = steps_of(tmp_path, drained=drained, durability=durability)
    for nth in (index + 1 for index, (name, _) in enumerate(steps) if name in CHANGES):
        directory = tmp_path / "slots"
        directory.mkdir()
        files = PowerCut(directory, nth)
        life = Life(directory, drained=drained)
        with contextlib.suppress(Killed):
            life.run(files, durability=durability)
        files.bury()
        for subset in files.subsets(rng):
            image = files.image(tmp_path / "image", (subset | files.frames()).__contains__)
            Life(image, tried=dict(life.tried), published=dict(life.published), acked=life.acked).check()
        shutil.rmtree(directory)


def test_invariant_29_what_was_synced_survives_any_power_cut_that_follows(tmp_path: Path) -> None:
    """Frames and their symbols up to `synced_fsn`, with every later effect lost, and with any of them."""
    rng = random.Random(11)
    for frames in range(1, 9):
        directory = tmp_path / "slots"
        directory.mkdir()
        files = PowerCutFiles(directory)
        life = Life(directory)
        opened = life.open(files)
        for _ in range(frames):
            opened.store.keep(0)
            assert life.append(opened.store, opened.symbols)
        opened.store.sync()
        synced = opened.store.synced_fsn
        assert synced == frames - 1
        life.append(opened.store, opened.symbols)
        for _ in range(6):
            kept = {index for index in range(files.pending) if rng.random() < 0.5}
            image = files.image(tmp_path / "image", kept.__contains__)
            Life(image, tried=dict(life.tried), published=dict(life.published)).check(at_least=synced)
        files.bury()
        shutil.rmtree(directory)


class PowerCut(PowerCutFiles):
    """Ends the life at step ``nth`` and says what can be lost."""

    def __init__(self, root: Path, nth: int) -> None:
        super().__init__(root)
        self.nth = nth

    def step(self, name: str, path: str, arguments: tuple[Any, ...], act: Any) -> Any:
        if len(self.calls) >= self.nth:
            raise Killed(name)
        return super().step(name, path, arguments, act)

    def frames(self) -> set[int]:
        """Effects that store a piece of a frame."""
        return {
            index
            for index, (effect, _) in enumerate(self._pending)
            if effect.path.endswith(".sfa") and effect.kind == "write" and effect.offset >= 24
        }

    def subsets(self, rng: random.Random) -> set[frozenset[int]]:
        """Beside the frames: nothing, everything, each effect alone, all but each, and some at random."""
        every, frames = set(range(self.pending)), self.frames()
        some = [{index for index in every if rng.random() < 0.5} for _ in range(2)]
        chosen = [set(), every, *({index} for index in every), *(every - {index} for index in every), *some]
        return {frozenset(subset | frames) for subset in chosen}


def test_rng_09_a_segment_that_cannot_be_removed_stays_counted_and_goes_later(tmp_path: Path) -> None:
    files = FailingFiles(0, errno.EACCES, count=2, only=("unlink",))
    life = Life(tmp_path, total=800)
    opened = life.open(files)
    store = opened.store
    for _ in range(6):
        store.keep(0)
        assert life.append(store, opened.symbols)
    life.acknowledge(store, 3)
    for now in (1_000, 2_000):
        store.keep(now)
        assert "removing acknowledged segments: " in store.stats().trouble
        assert "Permission denied" in store.stats().trouble
        assert store.stats().allocated_nbytes == 100 * len(list((tmp_path / ID).glob("*.sfa")))
    assert store.keep_due_millis(2_500) == 3_000  # after a second, not at once
    run = store.run(store.acked_fsn + 1, 10, 1_000)
    assert run is not None
    assert run.first_fsn == 4  # replay skips what is settled
    run.release()
    allocated = store.stats().allocated_nbytes
    store.keep(3_000)
    assert store.stats().trouble == ""
    assert store.stats().allocated_nbytes == allocated - 200
    store.close()
    life.check()


@pytest.mark.parametrize("nth", range(3))
def test_invariant_23_a_failed_unlink_in_a_batch_leaves_a_slot_that_opens_and_a_true_budget(
    tmp_path: Path, nth: int
) -> None:
    """The cap is full, three segments are settled, and the nth cannot be removed."""
    files = FailingFiles(nth, errno.EACCES, count=None, only=("unlink",))
    life = Life(tmp_path / "slots", total=500)
    life.sf_dir.mkdir()
    opened = life.open(files)
    store = opened.store
    while life.append(store, opened.symbols):
        store.keep(0)
    assert store.published_fsn == 9
    life.acknowledge(store, 6)
    for now in (1_000, 2_000, 3_000):
        store.keep(now)
        assert "removing acknowledged segments: " in store.stats().trouble
        made = 0
        while made < 10 and life.append(store, opened.symbols):
            made += 1
        size = sum(path.stat().st_size for path in (life.sf_dir / ID).glob("*.sfa"))
        assert store.stats().allocated_nbytes == size <= 500, "what could not be removed is counted"
        image = tmp_path / f"at{now}"
        shutil.copytree(life.sf_dir, image)
        Life(image, tried=dict(life.tried), published=dict(life.published), acked=life.acked).check(unsuspicious=True)
    assert store.published_fsn == 9 + 2 * nth, "room for what was removed, and no more"
    files.nth = 10**6
    store.keep(4_000)
    assert store.stats().trouble == ""
    assert len(list((life.sf_dir / ID).glob("*.sfa"))) == len(range(6, store.published_fsn, 2)) + 1
    store.close()
    life.check()


def test_invariant_23_a_settled_segment_that_somebody_has_removed_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It would be tried for ever, and neither what is behind it removed nor its room given back."""
    life = Life(tmp_path, total=500)
    opened = life.open(RecordingFiles())
    store = opened.store
    while life.append(store, opened.symbols):
        store.keep(0)
    life.acknowledge(store, 6)
    (tmp_path / ID / "sf-0000000000000000.sfa").unlink()
    store.keep(1_000)
    assert store.stats().trouble == ""
    assert "somebody else has removed" in caplog.text
    left = sorted(path.name for path in (tmp_path / ID).glob("*.sfa"))
    assert left == [f"sf-{n:016x}.sfa" for n in (3, 4, 5)], "two with frames to send, one spare"
    assert store.stats().allocated_nbytes == 300
    for _ in range(4):
        assert life.append(store, opened.symbols)
        store.keep(1_000)
    store.close()
    life.check()


def test_invariant_25_segments_that_cannot_be_removed_do_not_lift_the_cap(tmp_path: Path) -> None:
    """All that is there is settled; while its files stay an append waits, however often it is tried."""
    files = FailingFiles(0, errno.EACCES, count=None, only=("unlink",))
    life = Life(tmp_path, total=400)
    opened = life.open(files)
    store = opened.store
    for now in range(0, 20_000, 1_000):
        while life.append(store, opened.symbols):
            life.acknowledge(store, store.published_fsn)
        store.keep(now)
    size = sum(path.stat().st_size for path in (tmp_path / ID).glob("*.sfa"))
    assert store.stats().allocated_nbytes == size <= 400
    assert "Permission denied" in store.stats().trouble
    files.nth = 10**6
    store.keep(20_000)
    store.keep(20_000)
    assert life.append(store, opened.symbols), "there is room again"
    life.acknowledge(store, store.published_fsn)
    store.close()
    life.check()


def test_rng_09_at_close_too(tmp_path: Path) -> None:
    files = FailingFiles(0, errno.EACCES, only=("unlink",))
    life = Life(tmp_path, total=800)
    opened = life.open(files)
    for _ in range(6):
        opened.store.keep(0)
        life.append(opened.store, opened.symbols)
    life.acknowledge(opened.store, 3)
    opened.store.keep(1_000)
    left = {path.name for path in (tmp_path / ID).glob("*.sfa")}
    opened.store.close()
    assert {path.name for path in (tmp_path / ID).glob("*.sfa")} == left - {f"sf-{n:016x}.sfa" for n in (0, 1)}
    life.check()


@pytest.mark.parametrize("failing", ["write", "sync", "sync_mapped"])
def test_rng_03_rng_04_a_rotation_that_fails_is_an_error_and_the_next_append_tries_again(
    tmp_path: Path, failing: str
) -> None:
    life = Life(tmp_path)
    files = FailingFiles(10**6, errno.EIO, count=None, only=(failing,))
    opened = life.open(files, durability="flush")
    store = opened.store
    store.keep(0)
    assert life.append(store, opened.symbols)
    assert life.append(store, opened.symbols)
    files.nth = files.seen
    for _ in range(3):
        with pytest.raises(StorageError, match="Input/output error"):
            life.append(store, opened.symbols)
        assert store.published_fsn == 1
    life.acknowledge(store, 0)  # trimmable and closable meanwhile
    files.nth = 10**6
    store.keep(0)
    store.keep(1_000)  # DUR-04: only a sync ends what a failed one began, and the keeper makes it
    assert life.append(store, opened.symbols)
    store.keep(1_000)
    store.close()
    life.check()


class FailingRotation(RecordingFiles):
    """While `failing`, the call ``name`` on the file ``path`` reports an error."""

    def __init__(self, name: str, path: str) -> None:
        super().__init__()
        self.failing = False
        self._call = (name, path)

    def step(self, name: str, path: str, arguments: tuple[Any, ...], act: Any) -> Any:
        if self.failing and (name, Path(path).name) == self._call:
            raise StorageError(f"{path}: Input/output error", errno=errno.EIO, filename=path)
        return super().step(name, path, arguments, act)


@pytest.mark.parametrize("drained", [False, True])
@pytest.mark.parametrize(
    ("call", "path"),
    [
        ("write", "sf-0000000000000002.sfa"),
        ("sync_mapped", "sf-0000000000000002.sfa"),
        ("write", "sf-manifest.bin"),
        ("sync", "sf-manifest.bin"),
    ],
)
def test_rng_03_while_a_rotation_has_failed_the_ring_is_trimmed_and_closed(
    tmp_path: Path, call: str, path: str, drained: bool
) -> None:
    """Nothing is appended behind the failure: trim and close find the slot as it left it."""
    before = live_mappings()
    life = Life(tmp_path)
    files = FailingRotation(call, path)
    opened = life.open(files, durability="flush")
    store = opened.store
    for _ in range(4):  # two full segments
        store.keep(0)
        assert life.append(store, opened.symbols)
    store.keep(0)
    files.failing = True
    with pytest.raises(StorageError, match="Input/output error"):
        life.append(store, opened.symbols)
    files.failing = False
    assert store.published_fsn == 3
    life.acknowledge(store, 2)
    store.keep(1_000)
    left = sorted(name.name for name in (tmp_path / ID).glob("*.sfa"))
    assert left == ["sf-0000000000000001.sfa", "sf-0000000000000002.sfa"], "trimmed"
    assert store.stats().allocated_nbytes == 200
    if drained:
        life.acknowledge(store, 3)
    store.close()
    assert files.open_files == {}
    assert live_mappings() == before
    life.check()


def test_rng_04_behind_a_record_that_may_be_stored_no_frame_follows_in_the_old_segment(tmp_path: Path) -> None:
    """The manifest may name base 2 already: a small frame that would still fit must not become FSN 2 there."""
    life = Life(tmp_path)
    files = FailingFiles(10**6, errno.EIO, count=None, only=("sync",))
    opened = life.open(files, durability="flush")
    store = opened.store
    store.keep(0)
    assert life.append(store, opened.symbols)
    store.sync()
    files.nth = files.seen  # only the manifest's is left for the rotation
    with pytest.raises(StorageError):
        store.reserve(60)
    with pytest.raises(StorageError):
        store.reserve(1)
    files.nth = 10**6
    room = store.reserve(1)
    assert room is not None
    store.abandon(room)
    store.keep(1_000)
    store.close()
    life.check()


def test_invariant_14_the_header_is_durable_before_the_manifest_names_it(tmp_path: Path) -> None:
    files = RecordingFiles()
    life = Life(tmp_path)
    opened = life.open(files, durability="flush")
    opened.store.keep(0)
    life.append(opened.store, opened.symbols)
    life.append(opened.store, opened.symbols)
    files.calls.clear()
    life.append(opened.store, opened.symbols)
    segment, manifest = "sf-0000000000000001.sfa", "sf-manifest.bin"
    rotation = [call for call in files.calls if call[1] in (segment, manifest)]
    assert rotation[:4] == [
        ("write", segment),
        ("sync_mapped", segment),
        ("write", manifest),
        ("sync", manifest),
    ]
    opened.store.close()


def test_mgr_10_the_producer_and_the_reader_make_sync_and_remove_nothing(tmp_path: Path) -> None:
    """In `memory` mode: only stores, reads, and the reader's own open, with a look at the lock, and close."""
    files = RecordingFiles()
    life = Life(tmp_path, total=10_000)
    opened = life.open(files)
    store = opened.store
    calls: list[tuple[str, str]] = []
    for fsn in range(40):
        files.calls.clear()
        while not life.append(store, opened.symbols):
            calls += files.calls
            store.keep(0)
            files.calls.clear()
        run = store.run(fsn, 1, 100)
        assert run is not None
        run.release()
        life.acknowledge(store, fsn - 1)
        calls += files.calls
    assert {name for name, _ in calls} <= {"write", "read", "read_into", "open", "still_named", "close"}
    opened_paths = [path for name, path in calls if name in ("open", "close")]
    assert all(path.endswith(".sfa") for path in opened_paths)
    store.close()


@pytest.mark.parametrize("count", [1, None])
@pytest.mark.parametrize("drained", [False, True])
def test_lck_04_whatever_call_of_close_fails_the_lock_is_free(tmp_path: Path, drained: bool, count: int | None) -> None:
    """Each call of a close in turn, alone and with all that follow; with ``flush`` it is told to give the sync up."""
    for durability in ("memory", "flush"):
        nth = 0
        while True:
            directory = tmp_path / f"{durability}{nth}"
            directory.mkdir()
            life = Life(directory)
            files = FailingFiles(10**6, errno.EIO, count=count)
            opened = life.open(files, durability=durability)
            store = opened.store
            for _ in range(5):
                store.keep(0)
                assert life.append(store, opened.symbols)
            life.acknowledge(store, 4 if drained else 2)
            files.nth = files.seen + nth
            with contextlib.suppress(StorageError):
                store.close(sync=False)
            with (directory / ID / ".lock").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            assert files.open_files == {}, files.failed
            if not files.failed:
                break
            life.check()
            nth += 1
        assert nth > 10


def test_invariant_17_trim_watermark_directory_manifest_unlink_directory(tmp_path: Path) -> None:
    files = RecordingFiles()
    life = Life(tmp_path)
    opened = life.open(files)
    for _ in range(5):
        opened.store.keep(0)
        life.append(opened.store, opened.symbols)
    opened.store.keep(0)
    life.acknowledge(opened.store, 3)
    files.calls.clear()
    opened.store.keep(1_000)
    assert files.calls.pop(1) == ("still_named", ".lock")  # and again before each name that goes
    assert [call for call in files.calls if call != ("still_named", ".lock")] == [
        ("sync", ".symbol-dict"),  # ours: later frames use ids that only the removed ones could give back
        ("write", ".ack-watermark"),
        ("sync", ".ack-watermark"),
        ("sync_directory", ID),
        ("write", "sf-manifest.bin"),
        ("sync", "sf-manifest.bin"),
        ("unlink", "sf-0000000000000000.sfa"),
        ("unlink", "sf-0000000000000001.sfa"),
        ("sync_directory", ID),
    ]
    opened.store.close()


def test_wmk_04_the_watermark_is_synced_before_any_unlink(tmp_path: Path) -> None:
    """Every step of a life with trim and drained close."""
    calls = steps_of(tmp_path, drained=True)
    unlinks = [index for index, (name, path) in enumerate(calls) if name == "unlink" and path.endswith(".sfa")]
    assert unlinks
    for index in unlinks:
        written = max(i for i in range(index) if calls[i] == ("write", ".ack-watermark"))
        assert ("sync", ".ack-watermark") in calls[written:index]


@pytest.mark.parametrize(
    "only", [("write",), ("sync_all", "sync_directory", "sync_mapped"), ("create", "reserve", "map")]
)
def test_invariant_42_a_fresh_start_that_fails_leaves_no_file(tmp_path: Path, only: tuple[str, ...]) -> None:
    steps = 0
    for nth in range(100):
        files = FailingFiles(nth, errno.ENOSPC, only=only)
        life = Life(tmp_path)
        try:
            store = life.open(files).store
        except StorageError:
            steps += 1
            names = {path.name for path in (tmp_path / ID).iterdir()} - {".lock", ".lock.pid"}
            assert names in (set(), WHOLE), files.failed  # or it was whole, and could not be opened for appends
            shutil.rmtree(tmp_path / ID)
            assert files.open_files == {}
        else:
            failed, files.nth = bool(files.failed), 10**6  # the pid file is only a hint
            store.close()
            if not failed:
                break
    assert steps >= 3


class _FailsTwice(FailingFiles):
    """The first `sync_mapped` and the second `unlink` fail."""

    def step(self, name: str, path: str, arguments: tuple[Any, ...], act: Any) -> Any:
        self.only = (name,) if (name, self.counted(name)) in (("sync_mapped", 0), ("unlink", 1)) else ()
        self.seen = self.nth
        return super().step(name, path, arguments, act)

    def counted(self, name: str) -> int:
        return sum(called == name for called, _ in self.calls + self.failed)


def test_invariant_15_a_fresh_start_taken_back_half_way_never_leaves_a_flag_without_a_manifest(tmp_path: Path) -> None:
    files = _FailsTwice(0, errno.EIO)
    life = Life(tmp_path)
    with pytest.raises(StorageError):
        life.open(files)
    assert [name for name, _ in files.failed] == ["sync_mapped", "unlink"]
    life.check()


@pytest.mark.parametrize("failing", [("write",), ("write", "truncate", "append")])
def test_rng_11_a_large_frame_that_was_written_in_part_leaves_zeros_behind_the_last_one(
    tmp_path: Path, failing: tuple[str, ...]
) -> None:
    """Its payload is in the file, its CRC is not; a smaller frame follows in its place."""
    life = Life(tmp_path)
    files = FailingFiles(10**6, errno.EIO, only=failing)
    opened = life.open(files)
    store = opened.store
    room = store.reserve(60)
    assert room is not None
    room.view[:] = b"x" * 60
    files.nth = files.seen + 1  # the CRC
    with pytest.raises(StorageError):
        store.publish(room)
    store.abandon(room)
    assert b"xxx" in (tmp_path / ID / "sf-0000000000000000.sfa").read_bytes()
    assert life.append(store, opened.symbols)
    assert (tmp_path / ID / "sf-0000000000000000.sfa").read_bytes()[24 + 38 :] == bytes(100 - 24 - 38)
    store.close()
    life.check()


_UNCHANGING = ["open", "close", "stat", "still_named", "names", "read", "read_into", "size", "lock", "map", "unmap"]


def test_the_write_order_of_a_fresh_slot(tmp_path: Path) -> None:
    """slot.md 4, with the spare left to the keeper (ours.md 15f)."""
    files = RecordingFiles()
    life = Life(tmp_path)
    opened = life.open(files)
    segment, manifest = "sf-0000000000000000.sfa", "sf-manifest.bin"
    changing = [call for call in files.calls if call[0] not in _UNCHANGING]
    first = changing.index(("create", ".symbol-dict"))
    assert changing[first:] == [
        ("create", ".symbol-dict"),
        ("write", ".symbol-dict"),
        ("open_or_create", ".ack-watermark"),
        ("truncate", ".ack-watermark"),
        ("truncate", ".ack-watermark"),
        ("sync_all", ".ack-watermark"),
        ("sync_directory", ID),
        ("create", segment),
        ("reserve", segment),
        ("write", segment),
        ("sync_all", segment),
        ("sync_directory", ID),
        ("populate", segment),
        ("create", manifest),
        ("truncate", manifest),
        ("write", manifest),
        ("sync_all", manifest),
        ("sync_directory", ID),
        ("write", segment),
        ("sync_mapped", segment),
        ("reserve", segment),
        ("populate", segment),
    ]
    opened.store.close()
