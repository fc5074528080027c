"""A slot that is only drained: what it gives, what it settles, what it leaves, whoever wrote it (slot.md 7, 8)."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from spoolq import limits
from spoolq.errors import StorageError
from spoolq.spool import lock
from spoolq.spool.files import Files
from spoolq.spool.orphans import Adopted, adopt
from spoolq.spool.replay import ReplayStore
from tests.spool import slot_maker
from tests.spool.files_double import FailingFiles, Killed, KilledFiles, PowerCutFiles, RecordingFiles, UnsyncedFiles
from tests.spool.predictor import Prediction, predict
from tests.spool.recovered import payload, payloads, recover, usual
from tests.spool.slot_maker import Slot, message, symbol_dict

ID = "writer"
_LEFT = {".lock", ".lock.pid"}


def _adopt(root: Path, files: Files | None = None) -> Adopted:
    adopted = adopt(files or UnsyncedFiles(), str(root), ID)
    assert adopted is not None
    return adopted


def _store(adopted: Adopted) -> ReplayStore:
    assert adopted.store is not None
    return adopted.store


def _frames(store: ReplayStore, max_frames: int = 1_000) -> dict[int, bytes]:
    """Everything that would be sent."""
    found: dict[int, bytes] = {}
    first = store.acked_fsn + 1
    while (run := store.run(first, max_frames, 1 << 20)) is not None:
        found.update(enumerate(map(bytes, run.payloads()), run.first_fsn))
        first = run.last_fsn + 1
        run.release()
    return found


def _files_of(slot: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in slot.iterdir() if path.is_file()}


def _expected(slot: Slot) -> Prediction:
    """By the second opinion, which does not know Go's watermark: it is shown one of today with the same FSN."""
    files = dict(slot.files)
    if len(files.get(".ack-watermark", b"")) == 16:
        files[".ack-watermark"] = slot_maker.watermark(int.from_bytes(files[".ack-watermark"][8:], "little"))
    return predict(files)


# --- who wrote it ----------------------------------------------------------------------------------

SHAPES: dict[str, Callable[[], Slot]] = {}


def _shape(name: str) -> Callable[[Callable[[], Slot]], Callable[[], Slot]]:
    def add(make: Callable[[], Slot]) -> Callable[[], Slot]:
        SHAPES[name] = make
        return make

    return add


_shape("rust: manifest, watermark, spare")(usual)


@_shape("rust: delta frames over many segments, base 1000, a torn frame")
def _() -> Slot:
    slot = Slot()
    for index in range(4):
        slot.segment(1_000 + index, [message(index, [f"s{index}"])], size=None if index < 3 else 300)
    name = "sf-0000000000000003.sfa"
    used = 24 + len(slot_maker.frame(message(3, ["s3"])))
    slot.files[name] = (slot.files[name][:used] + b"\0\0\0\0\x20\0\0\0torn".ljust(40, b"x")).ljust(300, b"\0")
    slot.files["sf-manifest.bin"] = slot_maker.manifest(1_000, 1_003, 5)
    slot.files[".ack-watermark"] = slot_maker.watermark(1_001, 9)
    slot.files[".symbol-dict"] = symbol_dict(["s0"], ["s1"], ["s2"], ["s3"])
    return slot


@_shape("java: initial segment, flags mixed, a zero-tailed dictionary of delta frames")
def _() -> Slot:
    slot = Slot()
    slot.segment(0, [message(0, ["a"]), message(1, ["b", "c"])], name="sf-initial.sfa", flags=0)
    slot.segment(2, [message(3, [])], flags=1, size=512)
    slot.segment(3, [], flags=1, size=100)
    slot.files["sf-manifest.bin"] = slot_maker.manifest(0, 2)
    slot.files[".symbol-dict"] = symbol_dict(["a"], ["b", "c"]) + bytes(64)
    slot.files[".slot-epoch"] = b"unknown"
    return slot


@_shape("java: no dictionary left, the frames tell it")
def _() -> Slot:
    slot = Slot()
    slot.segment(0, [message(0, ["a"])], name="sf-initial.sfa", flags=0)
    slot.segment(1, [message(1, ["b"])], flags=0)
    slot.segment(2, [message(2, ["c"]), message(3, [])], flags=0, size=256)
    slot.files[".ack-watermark"] = slot_maker.watermark(0)
    return slot


@_shape("go: dense frames, a watermark of 16 bytes, no manifest")
def _() -> Slot:
    slot = Slot()
    slot.segment(0, [message(0, ["a"]), message(0, ["a", "b"])], name="sf-initial.sfa", flags=0)
    slot.segment(2, [message(0, ["a", "b", "c"])], flags=0, size=400)
    slot.files[".ack-watermark"] = b"AKW1\0\0\0\0" + (0).to_bytes(8, "little")
    return slot


@_shape("seed: opaque payloads, pid in the lock file")
def _() -> Slot:
    slot = Slot()
    slot.segment(7, [b"opaque", b"QWP1", b"short"], name="sf-7.sfa", flags=0)
    slot.segment(10, [b"more"], name="zz.sfa", flags=0, size=64)
    slot.files[".lock"] = b"4711\n"
    return slot


@_shape("a dictionary that is none beside dense frames")
def _() -> Slot:
    slot = usual()
    slot.files[".symbol-dict"] = b"not a dictionary"
    return slot


@_shape("nothing but an empty active segment")
def _() -> Slot:
    slot = Slot()
    slot.segment(5, [], size=100)
    slot.files["sf-manifest.bin"] = slot_maker.manifest(5, 5)
    return slot


@_shape("a drained end that a kill cut short")
def _() -> Slot:
    slot = Slot()
    slot.segment(0, payloads(0, 2))
    slot.files["sf-manifest.bin"] = slot_maker.manifest(2, 2)
    slot.files[".ack-watermark"] = slot_maker.watermark(1)
    return slot


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("max_frames", [1, 1_000])
def test_invariant_24_every_layout_is_given_out_whole_and_leaves_nothing(
    tmp_path: Path, name: str, max_frames: int
) -> None:
    slot = SHAPES[name]()
    expected = _expected(slot)
    directory = slot.write(tmp_path / ID)
    (directory / ".last_error").write_text("an earlier trouble")
    adopted = _adopt(tmp_path)
    if adopted.store is not None:
        assert _frames(adopted.store, max_frames) == expected.frames
        assert (adopted.store.acked_fsn, adopted.store.published_fsn) == (expected.acked_fsn, expected.next_fsn - 1)
        symbols = [adopted.symbols.text_of(index) for index in range(len(adopted.symbols))]
        assert symbols == expected.symbols
        adopted.store.acknowledge(adopted.store.published_fsn)
        adopted.store.keep(0)
    adopted.close()
    kept = {name for name in os.listdir(directory) if ".corrupt" in name or ".cut-" in name or name == ".slot-epoch"}
    assert set(os.listdir(directory)) - kept == _LEFT
    assert adopt(Files(), str(tmp_path), ID) is None, "and it is no candidate any more"


@pytest.mark.parametrize("name", SHAPES)
def test_what_is_not_drained_a_sender_goes_on_with(tmp_path: Path, name: str) -> None:
    slot = SHAPES[name]()
    expected = _expected(slot)
    slot.write(tmp_path / ID)
    adopted = _adopt(tmp_path)
    if adopted.store is None or adopted.store.drained:
        adopted.close()
        return
    settled = expected.acked_fsn + 1
    adopted.store.acknowledge(settled)
    adopted.store.keep(0)
    adopted.close()
    outcome, _ = recover(tmp_path)
    assert outcome.frames == {fsn: frame for fsn, frame in expected.frames.items() if fsn > settled}
    assert outcome.next_fsn == expected.next_fsn
    if settled < expected.next_fsn - 1:
        assert outcome.symbols == expected.symbols


@pytest.mark.parametrize("name", SHAPES)
def test_a_dictionary_file_is_neither_made_nor_lost(tmp_path: Path, name: str) -> None:
    slot = SHAPES[name]()
    directory = slot.write(tmp_path / ID)
    adopted = _adopt(tmp_path)
    if adopted.store is None or adopted.store.drained:
        adopted.close()
        return
    before = slot.files.get(".symbol-dict")
    now = _files_of(directory)
    if before is None:
        assert ".symbol-dict" not in now
    elif before.startswith(b"SYD1"):
        assert now[".symbol-dict"].ljust(len(before), b"\0") == before, "cut where Java's zeros begin"
    else:
        assert now[".symbol-dict.corrupt"] == before
        assert ".symbol-dict" not in now
    adopted.close()


# --- a transaction that nobody committed ---------------------------------------------------------------


def _deferred(settled: int) -> Slot:
    slot = Slot()
    slot.segment(0, [message(0, ["a"]), message(1, ["b"], defer=True), message(2, [])], flags=0)
    slot.segment(3, [message(2, []), message(2, ["c"], defer=True), message(3, ["d"], defer=True)], flags=0, size=300)
    slot.files[".ack-watermark"] = slot_maker.watermark(settled)
    slot.files[".symbol-dict"] = symbol_dict(["a"], ["b"], ["c"], ["d"])
    return slot


def test_invariant_38_a_deferred_tail_is_never_given_out_and_does_not_keep_the_slot(tmp_path: Path) -> None:
    directory = _deferred(-1).write(tmp_path / ID)
    stored = slot_maker.read_frames(directory)
    adopted = _adopt(tmp_path)
    store = _store(adopted)
    assert sorted(_frames(store)) == [0, 1, 2, 3], "a commit behind a deferred frame sends it"
    assert (store.published_fsn, slot_maker.read_frames(directory)) == (3, stored), "the rest stays where it is"
    store.acknowledge(2)
    assert (store.acked_fsn, store.drained) == (2, False)
    store.acknowledge(3)
    assert (store.acked_fsn, store.drained) == (3, True)
    store.keep(0)
    mark = slot_maker.read_record((directory / ".ack-watermark").read_bytes(), b"AKW1", 1)
    assert mark == (5,), "for every client, also for one that knows nothing of deferred frames"
    adopted.close()
    assert set(os.listdir(directory)) == _LEFT


def test_invariant_38_nothing_but_a_deferred_tail_is_drained_at_once(tmp_path: Path) -> None:
    directory = _deferred(3).write(tmp_path / ID)
    adopted = _adopt(tmp_path)
    assert _store(adopted).drained
    assert _frames(_store(adopted)) == {}
    adopted.close()
    assert set(os.listdir(directory)) == _LEFT


# --- trim and watermark ---------------------------------------------------------------------------------


def _many(count: int, *, dictionary: bool) -> Slot:
    slot = Slot()
    for fsn in range(count):
        slot.segment(fsn, [message(fsn, [f"s{fsn}"])])
    slot.files["sf-manifest.bin"] = slot_maker.manifest(0, count - 1)
    if dictionary:
        slot.files[".symbol-dict"] = symbol_dict(*([f"s{fsn}"] for fsn in range(count)))
    return slot


def _segments(directory: Path) -> int:
    return sum(name.endswith(".sfa") for name in os.listdir(directory))


def test_invariant_17_a_trim_whose_manifest_sync_failed_unlinks_nothing_until_it_is_stored(tmp_path: Path) -> None:
    """The second sync of an unchanged record would succeed and store nothing."""
    slots = tmp_path / "slots"
    _many(6, dictionary=True).write(slots / ID)
    files = PowerCutFiles(slots)
    adopted = _adopt(slots, files)
    store = _store(adopted)
    store.acknowledge(3)
    files.broken = lambda _, path: path.endswith("sf-manifest.bin")
    store.keep(0)
    assert _segments(slots / ID) == 6
    files.broken = lambda *_: False
    store.keep(1_000)
    assert _segments(slots / ID) == 2
    image = files.image(tmp_path / "image", lambda _: False)
    assert sorted(predict(_files_of(image / ID)).frames) == [4, 5]
    adopted.close()


def test_invariant_17_a_drained_slot_is_removed_behind_a_manifest_that_is_stored(tmp_path: Path) -> None:
    slots = tmp_path / "slots"
    _many(2, dictionary=True).write(slots / ID)
    files = PowerCutFiles(slots)
    adopted = _adopt(slots, files)
    _store(adopted).acknowledge(0)
    files.broken = lambda _, path: path.endswith("sf-manifest.bin")
    _store(adopted).keep(0)
    _store(adopted).acknowledge(1)
    files.broken = lambda *_: False
    adopted.close()
    for keep in (lambda _: False, lambda _: True, lambda index: index % 2 == 0, lambda index: index % 2 == 1):
        image = files.image(tmp_path / "image", keep)
        assert predict(_files_of(image / ID)).verdict in ("fresh", "opens")


def test_invariant_17_settled_segments_go_behind_their_barriers_and_the_active_one_stays(tmp_path: Path) -> None:
    directory = _many(6, dictionary=True).write(tmp_path / ID)
    files = RecordingFiles()
    adopted = _adopt(tmp_path, files)
    store = _store(adopted)
    files.calls.clear()
    store.acknowledge(3)
    store.keep(0)
    steps = [call for call in files.calls if call[0] in ("write", "sync", "sync_directory", "unlink")]
    assert steps[:6] == [
        ("sync", ".symbol-dict"),
        ("write", ".ack-watermark"),
        ("sync", ".ack-watermark"),
        ("sync_directory", ID),
        ("write", "sf-manifest.bin"),
        ("sync", "sf-manifest.bin"),
    ]
    assert [name for name, _ in steps[6:]] == ["unlink"] * 4 + ["sync_directory"]
    assert _segments(directory) == 2
    assert sorted(_frames(store)) == [4, 5]
    store.acknowledge(4)
    adopted.close()
    prediction = predict(_files_of(directory))
    assert (sorted(prediction.frames), prediction.acked_fsn) == ([5], 4)


def test_mgr_04_the_bytes_of_an_adopted_slot_only_fall(tmp_path: Path) -> None:
    """An adopted slot gets no segment, so what it held is all that it ever takes beside the cap of its adopter."""
    directory = _many(6, dictionary=True).write(tmp_path / ID)
    files = RecordingFiles()
    adopted = _adopt(tmp_path, files)
    store = _store(adopted)
    sizes = [_nbytes(directory)]
    for fsn in range(6):
        store.acknowledge(fsn)
        store.keep(fsn * 10_000)
        sizes.append(_nbytes(directory))
    one = sizes[-1]
    assert sizes == [one * count for count in (6, 5, 4, 3, 2, 1, 1)], "the active one goes with the close"
    adopted.close()
    assert _nbytes(directory) == 0
    assert not [call for call in files.calls if call[0] == "create" and call[1].endswith(".sfa")]


def _nbytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*.sfa"))


def test_a_backlog_is_trimmed_in_batches(tmp_path: Path) -> None:
    directory = _many(limits.TRIM_SEGMENTS_MAX + 10, dictionary=True).write(tmp_path / ID)
    adopted = _adopt(tmp_path)
    store = _store(adopted)
    store.acknowledge(limits.TRIM_SEGMENTS_MAX + 8)
    store.keep(0)
    assert _segments(directory) == 10
    store.keep(0)
    assert _segments(directory) == 1
    adopted.close()


def test_the_watermark_is_stored_with_every_acknowledgement(tmp_path: Path) -> None:
    directory = usual().write(tmp_path / ID)
    adopted = _adopt(tmp_path)
    store = _store(adopted)
    for fsn in (2, 3):
        store.acknowledge(fsn)
        store.keep(0)
        assert slot_maker.read_record((directory / ".ack-watermark").read_bytes(), b"AKW1", 1) == (fsn,)
    store.acknowledge(1)  # it only rises
    store.acknowledge(-1)
    assert store.acked_fsn == 3
    store.acknowledge(99)  # and stops at published
    assert store.acked_fsn == 4
    adopted.close()


def test_frames_whose_symbols_only_they_tell_stay_until_all_are_settled(tmp_path: Path) -> None:
    """A kill in the middle must not leave frames whose symbols nobody knows."""
    directory = _many(4, dictionary=False).write(tmp_path / ID)
    adopted = _adopt(tmp_path)
    store = _store(adopted)
    store.acknowledge(2)
    store.keep(0)
    shutil.copytree(directory, tmp_path / "killed" / ID)
    assert sorted(predict(_files_of(tmp_path / "killed" / ID)).frames) == [3]
    outcome, _ = recover(tmp_path / "killed")
    assert (sorted(outcome.frames), outcome.symbols) == ([3], ["s0", "s1", "s2", "s3"])
    store.acknowledge(3)
    adopted.close()
    assert set(os.listdir(directory)) == _LEFT


def test_dense_frames_without_a_dictionary_are_trimmed(tmp_path: Path) -> None:
    directory = SHAPES["go: dense frames, a watermark of 16 bytes, no manifest"]().write(tmp_path / ID)
    adopted = _adopt(tmp_path)
    _store(adopted).acknowledge(1)
    _store(adopted).keep(0)
    assert _segments(directory) == 1
    adopted.close()


def test_a_trim_that_failed_is_tried_again_and_nothing_is_lost(tmp_path: Path) -> None:
    directory = _many(6, dictionary=True).write(tmp_path / ID)
    files = FailingFiles(1, count=2, only=("unlink",))
    adopted = _adopt(tmp_path, files)
    store = _store(adopted)
    store.acknowledge(3)
    store.keep(0)
    assert _segments(directory) == 5
    store.acknowledge(4)
    store.keep(10)
    assert _segments(directory) == 5, "not before a second has passed"
    assert sorted(_frames(store)) == [5]
    store.keep(2_000)
    store.keep(4_000)
    assert _segments(directory) == 1
    adopted.close()


# --- faults -----------------------------------------------------------------------------------------


def _drain(root: Path, files: Files, settle: int) -> None:
    adopted = _adopt(root, files)
    try:
        if adopted.store is not None:
            for fsn in range(adopted.store.acked_fsn + 1, settle + 1):
                adopted.store.acknowledge(fsn)
                adopted.store.keep(fsn * 10_000)
    finally:
        adopted.close()


_FAULTY = (
    "rust: delta frames over many segments, base 1000, a torn frame",
    "java: no dictionary left, the frames tell it",
    "java: initial segment, flags mixed, a zero-tailed dictionary of delta frames",
)


def _forget_locks() -> None:
    """Those of the dead process, whose descriptors are closed."""
    for held in list(lock._held):
        held._file = None
    lock._held.clear()


def _judge(directory: Path, before: dict[int, bytes], settled: int) -> None:
    """What is not settled is still there, equal and in a slot that opens; an empty slot has settled everything."""
    after = predict(_files_of(directory))
    assert after.verdict in ("opens", "fresh")
    unsettled = {fsn: frame for fsn, frame in before.items() if fsn > settled}
    assert {fsn: after.frames.get(fsn) for fsn in unsettled} == unsettled
    assert not set(after.frames) - set(before)


def _runs(root: Path, name: str, all_of_it: bool) -> tuple[Path, dict[int, bytes], int]:
    shutil.rmtree(root, ignore_errors=True)
    slot = SHAPES[name]()
    expected = _expected(slot)
    settled = expected.next_fsn - (1 if all_of_it else 2)
    return slot.write(root / ID), expected.frames, settled


@pytest.mark.parametrize("all_of_it", [False, True])
@pytest.mark.parametrize("name", _FAULTY)
def test_invariant_27_lck_04_every_failing_call_loses_nothing_and_frees_the_lock(
    tmp_path: Path, name: str, all_of_it: bool
) -> None:
    nth = 0
    while True:
        directory, frames, settled = _runs(tmp_path / "root", name, all_of_it)
        files = FailingFiles(nth)
        with contextlib.suppress(StorageError):
            _drain(tmp_path / "root", files, settled)
        if not files.failed:
            break
        assert not files.open_files, files.failed
        lock.SlotLock.acquire(UnsyncedFiles(), str(directory)).release()
        _judge(directory, frames, settled)
        if any(path.endswith(".sfa") for path in os.listdir(directory)):
            _drain(tmp_path / "root", UnsyncedFiles(), max(frames))  # an undisturbed one ends it
        assert not any(path.endswith(".sfa") for path in os.listdir(directory))
        nth += 1
    assert nth > 40


@pytest.mark.parametrize("all_of_it", [False, True])
@pytest.mark.parametrize("name", _FAULTY)
def test_invariant_18_a_kill_at_every_step_loses_nothing(tmp_path: Path, name: str, all_of_it: bool) -> None:
    nth = 0
    while True:
        directory, frames, settled = _runs(tmp_path / "root", name, all_of_it)
        files = KilledFiles(nth)
        with contextlib.suppress(Killed):
            _drain(tmp_path / "root", files, settled)
        dead = files.dead
        files.bury()
        _forget_locks()
        _judge(directory, frames, settled)
        if not dead:
            break
        nth += 1
    assert nth > 40


@pytest.mark.parametrize("name", _FAULTY)
def test_invariant_17_a_power_cut_at_every_step_of_a_trim_loses_nothing(tmp_path: Path, name: str) -> None:
    """The frames that are not settled are there whatever of the unsynced effects survived."""
    directory, frames, settled = _runs(tmp_path / "root", name, False)
    files = _Cutting(tmp_path / "root", tmp_path / "image", lambda image: _judge(image / ID, frames, settled))
    _drain(tmp_path / "root", files, settled)
    assert files.images > 40
    _judge(directory, frames, settled)


class _Cutting(PowerCutFiles):
    """Judges the disk before each step: with nothing, everything, and every other unsynced effect kept."""

    def __init__(self, root: Path, target: Path, judge: Callable[[Path], None]) -> None:
        super().__init__(root)
        self._target, self._judge = target, judge
        self.images = 0

    def step(self, name: str, path: str, arguments: tuple[object, ...], act: Callable[[], object]) -> object:
        for survives in ((), (0,), (1,), (0, 1)):
            if (self._root / ID).exists():
                self._judge(self.image(self._target, lambda index, kept=survives: index % 2 in kept))
                self.images += 1
        return super().step(name, path, arguments, act)


def test_payloads_are_not_read_beyond_what_recovery_found(tmp_path: Path) -> None:
    directory = usual().write(tmp_path / ID)
    adopted = _adopt(tmp_path)
    with (directory / "sf-0000000000000001.sfa").open("r+b") as file:
        file.truncate(40)
    with pytest.raises(StorageError, match="changed while this process had it"):
        _frames(_store(adopted))
    _store(adopted).acknowledge(1)
    adopted.close()
    assert payload(1)
