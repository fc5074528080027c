"""disk.py in the modes that sync: which syncs, in which order, and what becomes of one that failed (behaviour.md 9)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spoolq import limits
from spoolq.errors import StorageError
from spoolq.spool.manifest import Manifest
from spoolq.spool.opening import open_store
from spoolq.spool.orphans import adopt
from spoolq.spool.store import Durability
from tests.spool.crash_scenario import ID, Life
from tests.spool.disk_slot import fill, fresh, payload_of, put, replay
from tests.spool.files_double import FailingFiles, PowerCutFiles, RecordingFiles, UnsyncedFiles, WatchedFiles

FIRST, SECOND, MANIFEST, DICT = "sf-0000000000000000.sfa", "sf-0000000000000001.sfa", "sf-manifest.bin", ".symbol-dict"
SYNCING: tuple[Durability, ...] = ("periodic", "flush", "append")


def changes(files: RecordingFiles) -> list[tuple[str, str]]:
    """The calls that store or sync something."""
    quiet = ("open", "open_if_there", "close", "stat", "names", "names_if_there", "read", "read_into", "size", "unmap")
    return [call for call in files.calls if call[0] not in quiet]


@pytest.mark.parametrize("durability", SYNCING)
def test_per_03_inv_14_a_rotation_syncs_the_full_segment_the_header_the_manifest_and_then_publishes(
    tmp_path: Path, durability: Durability
) -> None:
    files = RecordingFiles()
    life = Life(tmp_path)
    opened = life.open(files, durability=durability)
    store = opened.store
    store.keep(0)
    life.append(store, opened.symbols)
    life.append(store, opened.symbols)
    files.calls.clear()
    life.append(store, opened.symbols)
    assert changes(files) == [
        ("sync", DICT),  # invariant 29: the symbols before the frames that use them
        ("sync", FIRST),
        ("write", SECOND),
        ("sync_mapped", SECOND),
        ("write", MANIFEST),
        ("sync", MANIFEST),
        ("write", DICT),
        ("write", SECOND),
        ("write", SECOND),
    ]
    assert store.synced_fsn == 1
    files.calls.clear()
    store.sync()
    assert changes(files) == [("sync", DICT), ("sync", SECOND)]
    files.calls.clear()
    store.sync()
    assert changes(files) == []
    store.close()
    life.check()


@pytest.mark.parametrize("durability", SYNCING)
def test_per_03_opening_an_old_slot_syncs_what_is_there_and_every_directory_above(
    tmp_path: Path, durability: Durability
) -> None:
    """Segments, symbols, manifest; the active one is written again, for its last writer may have seen a sync fail."""
    life = Life(tmp_path / "spool")
    files = RecordingFiles()
    files.make_directory(str(life.sf_dir))
    opened = life.open(files)
    for _ in range(3):
        opened.store.keep(0)
        life.append(opened.store, opened.symbols)
    opened.store.close()
    files = RecordingFiles()
    opened = life.open(files, durability=durability)
    calls = changes(files)[changes(files).index(("sync", FIRST)) :]
    assert calls == [
        ("sync", FIRST),
        ("write", DICT),
        ("sync", DICT),
        ("write", SECOND),  # the header
        ("write", SECOND),  # its frame
        ("sync", SECOND),
        ("write", MANIFEST),
        ("sync", MANIFEST),
        ("sync_directory", ID),
        ("sync_directory", ".."),
        ("sync_directory", ".."),
    ]
    assert opened.store.synced_fsn == opened.store.published_fsn == 2
    opened.store.close()
    life.check()


def test_24_a_directory_above_sf_dir_that_may_only_be_passed_is_said_and_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Passing(RecordingFiles):
        number = errno.EACCES

        def step(self, name: str, path: str, arguments: tuple[Any, ...], act: Callable[[], Any]) -> Any:
            if name == "sync_directory" and os.path.normpath(path) == str(tmp_path):
                raise StorageError(f"cannot sync the directory {path}", errno=self.number)
            return super().step(name, path, arguments, act)

    life = Life(tmp_path / "spool")
    life.sf_dir.mkdir()
    opened = life.open(Passing(), durability="flush")
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith(
        f"the directory above sf_dir, {tmp_path}, may not be read by this process, so it cannot sync"
    )
    life.append(opened.store, opened.symbols)
    opened.store.sync()
    assert opened.store.synced_fsn == 0
    opened.store.close()
    files = Passing()
    files.number = errno.EIO
    with pytest.raises(StorageError, match="cannot sync the directory"):
        life.open(files, durability="flush")


def test_per_03_opening_fails_when_what_was_found_cannot_be_synced(tmp_path: Path) -> None:
    life = Life(tmp_path)
    opened = life.open(UnsyncedFiles())
    life.append(opened.store, opened.symbols)
    opened.store.close()
    for nth in range(20):
        files = FailingFiles(nth, only=("sync", "sync_directory", "sync_mapped", "sync_all"))
        try:
            store = life.open(files, durability="periodic").store
        except StorageError:
            assert files.open_files == {}
            assert len((tmp_path / ID / FIRST).read_bytes().rstrip(b"\0")) > limits.SEGMENT_HEADER_BYTES
        else:
            store.close()
            assert nth >= 6
            return
    raise AssertionError("it never opens")


# --- a sync that fails, on a disk that forgets ------------------------------------------------------


@pytest.mark.parametrize("breaks", [FIRST, DICT])
@pytest.mark.parametrize("durability", SYNCING)
def test_dur_04_what_a_failed_sync_marked_clean_is_written_again_before_the_next(
    tmp_path: Path, durability: Durability, breaks: str
) -> None:
    """The disk forgets what it could not store; when a sync succeeds at last, everything it claims is there."""
    directory = tmp_path / "slots"
    directory.mkdir()
    files = PowerCutFiles(directory)
    life = Life(directory)
    opened = life.open(files, durability=durability)
    store = opened.store
    life.append(store, opened.symbols)
    store.sync()
    life.append(store, opened.symbols)
    files.broken = lambda _, path: path.endswith(breaks)
    for _ in range(2):
        with pytest.raises(StorageError) as caught:
            store.sync()
        assert caught.value.in_doubt is True
        assert (store.synced_fsn, store.published_fsn) == (0, 1)
        with pytest.raises(StorageError) as refused:
            life.append(store, opened.symbols)
        assert refused.value.in_doubt is False
        assert store.published_fsn == 1
    files.broken = lambda *_: False
    store.sync()
    assert (store.synced_fsn, store.sync_failure) == (1, None)
    image = files.image(tmp_path / "image", lambda _: False)
    Life(image, tried=dict(life.tried), published=dict(life.published)).check(at_least=1)
    assert life.append(store, opened.symbols) or store.keep(0)
    files.bury()


@pytest.mark.parametrize("breaks", [MANIFEST, SECOND])
@pytest.mark.parametrize("durability", SYNCING)
def test_dur_04_a_rotations_failed_sync_is_not_believed_either(
    tmp_path: Path, durability: Durability, breaks: str
) -> None:
    """Header and manifest: the rotation is tried again as a whole, and only then a frame goes into the new segment."""
    directory = tmp_path / "slots"
    directory.mkdir()
    files = PowerCutFiles(directory)
    life = Life(directory)
    opened = life.open(files, durability=durability)
    store = opened.store
    store.keep(0)
    life.append(store, opened.symbols)
    life.append(store, opened.symbols)
    files.broken = lambda _, path: path.endswith(breaks)
    for _ in range(2):
        with pytest.raises(StorageError):
            life.append(store, opened.symbols)
        assert store.published_fsn == 1
    files.broken = lambda *_: False
    assert life.append(store, opened.symbols)
    store.sync()
    image = files.image(tmp_path / "image", lambda _: False)
    Life(image, tried=dict(life.tried), published=dict(life.published)).check(at_least=2)
    files.bury()


def test_dur_04_an_append_whose_rotation_could_not_sync_the_full_segment_is_not_in_doubt(tmp_path: Path) -> None:
    """The frames before it are; of this one nothing is queued, so repeating it repeats nothing."""
    files = WatchedFiles()
    store = fresh(files, tmp_path / "s", durability="periodic")
    store.keep(0)
    fill(store, 2)
    files.failing = lambda name, path: name == "sync" and path.endswith(FIRST)
    for _ in range(2):
        with pytest.raises(StorageError, match="FSN 0 on are queued") as caught:
            put(store, payload_of(2))
        assert (caught.value.in_doubt, store.published_fsn) == (False, 1)
    files.failing = lambda *_: False
    store.sync()
    fill(store, 1)
    store.close()


def test_inv_17_a_trim_whose_manifest_sync_failed_unlinks_nothing_until_it_is_stored(tmp_path: Path) -> None:
    """In `memory`, too: the second sync of an unchanged record would succeed and store nothing."""
    directory = tmp_path / "slots"
    directory.mkdir()
    files = PowerCutFiles(directory)
    life = Life(directory)
    opened = life.open(files)
    store = opened.store
    for _ in range(5):
        store.keep(0)
        assert life.append(store, opened.symbols)
    store.keep(0)
    life.acknowledge(store, 3)
    files.broken = lambda _, path: path.endswith(MANIFEST)
    store.keep(1_000)
    assert "trimming" in store.stats().trouble
    files.broken = lambda *_: False
    store.keep(2_000)
    assert store.stats().trouble == ""
    files.frames_are_safe()
    image = files.image(tmp_path / "image", lambda _: False)
    Life(image, tried=dict(life.tried), published=dict(life.published), acked=3).check()
    files.bury()


@pytest.mark.parametrize("who", ["drainer", "memory", "periodic", "flush", "append"])
def test_inv_17_18_a_kill_in_a_trim_then_another_opening_then_a_power_cut(tmp_path: Path, who: str) -> None:
    """The manifest's record was written and not synced; whoever comes next removes segments because of it."""
    directory = tmp_path / "slots"
    directory.mkdir()
    files, life = PowerCutFiles(directory), Life(directory)
    opened = life.open(files, durability="flush")
    for step in range(6):
        opened.store.keep(1_000 * step)
        assert life.append(opened.store, opened.symbols)
    opened.store.sync()
    life.acknowledge(opened.store, 3)
    files.broken = lambda name, path: name == "sync" and path.endswith(MANIFEST)
    opened.store.keep(10_000)  # as after a kill there: nothing more of this process reaches the disk
    files.bury()
    files.broken = lambda *_: False
    if who == "drainer":
        assert adopt(files, str(directory), ID) is not None
    else:
        life.open(files, durability=who)
    assert any(name == "unlink" for name, _ in files.calls), "it removed something"
    image = files.image(tmp_path / "image", lambda _: False)
    Life(image, tried=dict(life.tried), published=dict(life.published), acked=3).check()
    files.bury()


def test_dur_04_a_frame_that_the_filesystem_dropped_is_never_claimed(tmp_path: Path) -> None:
    files = WatchedFiles()
    life = Life(tmp_path)
    opened = life.open(files, durability="flush")
    store = opened.store
    life.append(store, opened.symbols)
    files.failing = lambda _, path: path == FIRST
    with pytest.raises(StorageError):
        store.sync()
    with open(tmp_path / ID / FIRST, "r+b") as behind:  # the page was thrown away, and is read from the disk again
        behind.seek(30)
        behind.write(bytes(20))
    files.failing = lambda *_: False
    with pytest.raises(StorageError, match="lost the frame at offset 24"):
        store.sync()
    assert store.synced_fsn == -1
    store.close(sync=False)


def test_inv_29_inv_30_what_was_taken_back_is_cut_on_the_disk_before_other_symbols_come(
    tmp_path: Path,
) -> None:
    """Invariant 29, 30: else a power cut could give an id the text of a frame that never was."""
    files = RecordingFiles()
    life = Life(tmp_path)
    opened = life.open(files, durability="flush")
    store, symbols = opened.store, opened.symbols
    symbols.intern("never")
    room = store.reserve(10)
    assert room is not None
    store.write_ahead(symbols, 0, 1)
    store.abandon(room)
    symbols.truncate(0)
    files.calls.clear()
    life.append(store, symbols)
    assert [call for call in files.calls if call[1] == DICT] == [("sync", DICT), ("write", DICT)]
    store.close()
    life.check()


# --- what else the modes promise --------------------------------------------------------------------


def test_per_04_an_undrained_close_syncs_and_its_failure_closes_nothing(tmp_path: Path) -> None:
    files = WatchedFiles()
    life = Life(tmp_path)
    opened = life.open(files, durability="periodic")
    life.append(opened.store, opened.symbols)
    files.failing = lambda _, path: path == FIRST
    for _ in range(2):
        with pytest.raises(StorageError):
            opened.store.close()
        assert not opened.store.closed
    files.failing = lambda *_: False
    files.syncs.clear()
    opened.store.close()
    assert ("sync", FIRST) in files.syncs
    assert opened.store.closed
    life.check()


def test_inv_18_a_checkpoint_is_the_keepers_and_counts_from_the_first_frame_it_sees(tmp_path: Path) -> None:
    """PER-01: nothing is due while nothing is unsynced."""
    files = WatchedFiles()
    store = open_store(
        files, str(tmp_path), ID, segment_nbytes=4_096, total_nbytes=1 << 20, durability="periodic",
        sync_interval_millis=5_000,
    ).store  # fmt: skip
    store.keep(0)
    assert store.keep_due_millis(0) is None
    put(store, b"one")
    assert store.keep_due_millis(100) == 5_100
    put(store, b"two")
    assert store.keep_due_millis(3_000) == 5_100
    store.keep(5_099)
    assert store.synced_fsn == -1
    files.failing = lambda _, path: path.endswith(".sfa")
    store.keep(5_100)
    assert (store.synced_fsn, store.keep_due_millis(5_100)) == (-1, 6_100)
    files.failing = lambda *_: False
    store.keep(6_100)
    assert (store.synced_fsn, store.keep_due_millis(6_100)) == (1, None)
    assert store.stats().last_sync_micros is not None
    store.acknowledge(1)
    store.close()


@pytest.mark.parametrize("durability", SYNCING)
def test_a_slot_in_use_has_eight_descriptors_and_four_mappings_at_most(tmp_path: Path, durability: Durability) -> None:
    most = [0]

    def count(*_: Any) -> None:
        mine = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _there(fd)]
        most[0] = max(most[0], sum(target.startswith(str(tmp_path)) for target in mine))

    files = WatchedFiles()
    files.began = count
    store = open_store(files, str(tmp_path), ID, segment_nbytes=200, total_nbytes=20_000, durability=durability).store
    for fsn in range(60):
        put(store, payload_of(fsn, 50), now=fsn * 1_000)
        store.sync()
        store.keep(fsn * 1_000)
        run = store.run(max(fsn - 9, store.acked_fsn + 1), 1, 1_000)
        assert run is not None
        run.release()
        if fsn % 10 == 9:
            store.acknowledge(fsn - 9)
    assert 5 <= most[0] <= limits.SLOT_DESCRIPTORS_MAX
    assert replay(store, store.acked_fsn + 1)[-1] == payload_of(59, 50)
    store.close()


def _there(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


def test_a_renewed_manifest_says_the_same(tmp_path: Path) -> None:
    files = RecordingFiles()
    made = Manifest.create(files, str(tmp_path), 3, 7)
    made.renew()
    assert (made.boundaries.head, made.boundaries.active) == (3, 7)
    assert files.calls[-2:] == [("write", MANIFEST), ("sync", MANIFEST)]
    made.close()


@pytest.mark.parametrize("breaks", [FIRST, SECOND, DICT])
def test_dur_04_in_memory_mode_too_what_a_failed_sync_forgot_is_written_again(tmp_path: Path, breaks: str) -> None:
    """A requeued dead letter is synced there: also a segment that has been sealed since the failure."""
    directory = tmp_path / "slots"
    directory.mkdir()
    files = PowerCutFiles(directory, directories=True)
    files.make_directory(str(directory / ID))
    files.sync_directory(str(directory))
    life = Life(directory)
    opened = life.open(files)
    store = opened.store
    for _ in range(3):
        store.keep(0)
        assert life.append(store, opened.symbols)
    files.broken = lambda _, path: path.endswith(breaks)
    with pytest.raises(StorageError):
        store.sync()
    files.broken = lambda *_: False
    for _ in range(2):
        store.keep(2_000)
        assert life.append(store, opened.symbols)
    store.sync()
    assert store.synced_fsn == 4
    image = files.image(tmp_path / "image", lambda _: False)
    Life(image, tried=dict(life.tried), published=dict(life.published)).check(at_least=4)
    files.bury()
