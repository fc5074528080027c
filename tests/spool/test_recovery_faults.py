"""Recovery under faults: every file call fails, kills, or is the last one before a power cut.

Whatever happens, nothing is lost, the lock is free, and the next opening gives what an undisturbed one gives.
"""

from __future__ import annotations

import fcntl
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spoolq.errors import SlotRefusedError, StorageError
from spoolq.spool.files import Files
from spoolq.spool.recovery import open_slot
from tests.spool import slot_maker
from tests.spool.files_double import FailingFiles, Killed, KilledFiles, PowerCutFiles, RecordingFiles
from tests.spool.recovered import ACTIVE, FIRST, ID, SPARE, Outcome, payload, payloads, recover, snapshot, usual
from tests.spool.slot_maker import Slot, message, symbol_dict

_MANIFEST = "sf-manifest.bin"
_STALE = slot_maker.frame(b"a stale frame")


def _legacy() -> Slot:
    """Everything at once, without a manifest that could be used."""
    slot = Slot()
    slot.segment(3, [message(0, ["a"]), payload(4)], flags=0, size=200)
    slot.segment(5, [message(1, ["b"])], flags=0, tail=bytes(20) + b"residue of a sealed one")
    slot.segment(6, [payload(6), message(2, ["c"])], flags=0, size=400)
    slot.files["sf-0000000000000002.sfa"] = slot.files["sf-0000000000000002.sfa"][:-150] + _STALE.ljust(150, b"\0")
    slot.segment(8, [], flags=0, size=100)
    slot.segment(8, [], flags=0, size=100, tail=b"\0\0\0residue of a spare")
    slot.files["corrupt.sfa"] = b"SF09" + _STALE
    slot.files[_MANIFEST] = b"unusable manifest"
    slot.files[".ack-watermark"] = b"AKW1\0\0\0\0\4" + bytes(7)
    slot.files[".symbol-dict"] = symbol_dict(["a"]) + b"\2\1junk of a chunk"
    return slot


def _manifested() -> Slot:
    """One segment beyond the manifest of an early Java, a watermark too high, a dictionary that is none."""
    slot = usual()
    slot.files[_MANIFEST] = slot_maker.container({64: slot_maker.record(b"SFM1", 1, 0, 0)}, 128)
    slot.files[".ack-watermark"] = slot_maker.watermark(77, 3)
    slot.files[".symbol-dict"] = b"not a dictionary"
    slot.files[ACTIVE] = slot.files[ACTIVE][:-60] + _STALE.ljust(60, b"\0")
    slot.files["corrupt.sfa"] = b"SF09" + _STALE
    return slot


def _promoted() -> Slot:
    slot = usual()
    slot.files[_MANIFEST] = slot_maker.manifest(0, 5, 4, (0, 2))
    slot.files[SPARE] = slot_maker.segment(2, [], tail=bytes(60) + _STALE, size=256)
    return slot


def _collapsed() -> Slot:
    slot = usual()
    del slot.files[ACTIVE]
    slot.files[_MANIFEST] = slot_maker.manifest(2, 2)
    slot.files[".ack-watermark"] = slot_maker.watermark(4)
    return slot


def _only_corrupt() -> Slot:
    slot = Slot()
    slot.files.update({"one.sfa": b"SF09" + _STALE, "two.sfa": b"junk", ".symbol-dict": symbol_dict(["kept"])})
    return slot


def _uncommitted() -> Slot:
    """The transaction at the end reaches over three segments; half a frame is behind it."""
    slot = Slot()
    slot.segment(0, [message(0, ["a"]), message(1, ["b"], b"0", defer=True)])
    slot.segment(2, [payload(2), message(2, ["c"], b"1", defer=True), message(3, [], b"2", defer=True)])
    slot.segment(5, [message(3, [], b"3", defer=True)])
    slot.segment(6, [message(3, ["d"], b"4", defer=True), message(4, [], b"5", defer=True)], size=200)
    slot.files["sf-0000000000000003.sfa"] = slot.files["sf-0000000000000003.sfa"][:-90] + _STALE[:17].ljust(90, b"\0")
    slot.files[_MANIFEST] = slot_maker.manifest(0, 6, 4, (0, 5))
    slot.files[".ack-watermark"] = slot_maker.watermark(0)
    slot.files[".symbol-dict"] = symbol_dict(["a", "b"], ["c", "d"])
    return slot


def _rotated() -> Slot:
    """It ends a full segment, and the active one is empty; the watermark is in the middle of it."""
    slot = Slot()
    slot.segment(0, [payload(0), *(message(None, body=b"%d" % n, defer=True) for n in range(4))])
    slot.segment(5, [], size=200)
    slot.files[_MANIFEST] = slot_maker.manifest(0, 5)
    slot.files[".ack-watermark"] = slot_maker.watermark(2)
    return slot


def _unreplayable() -> Slot:
    slot = usual()
    del slot.files[FIRST]
    return slot


_SLOTS = {
    build.__name__[1:]: build
    for build in (_legacy, _manifested, _promoted, _collapsed, _only_corrupt, _uncommitted, _rotated, _unreplayable)
}
_SLOTS["usual"] = usual


def _same(one: Outcome, other: Outcome) -> bool:
    """Equal but for the number of copies that were kept."""
    return (one.frames, one.next_fsn, one.acked_fsn, one.symbols) == (
        other.frames,
        other.next_fsn,
        other.acked_fsn,
        other.symbols,
    )


def _pieces(slot: Slot) -> list[bytes]:
    """What must be found somewhere below the root afterwards: whole frames, and what stands behind them."""
    found = []
    for name, content in slot.files.items():
        if name.endswith(".sfa") and not content.startswith(b"SF01"):
            found.append(content)
        elif name.endswith(".sfa") and slot is not None:
            frames, end = slot_maker.whole_frames(content)
            found += [slot_maker.frame(p) for p in frames] + [content[end:].strip(b"\0")]
        elif b"junk" in content or b"not a" in content or b"unusable" in content:
            found.append(content[-12:])
    return found


def _all_kept(pieces: list[bytes], root: Path) -> bool:
    now = b"\n".join(content or b"" for content in snapshot(root).values())
    return all(piece in now for piece in pieces)


def _reference(build: Callable[[], Slot], tmp_path: Path) -> tuple[Outcome, int]:
    """The undisturbed outcome, and how many calls it takes."""
    build().write(tmp_path / "reference" / ID)
    files = RecordingFiles()
    outcome, _ = recover(tmp_path / "reference", files)
    return outcome, len(files.calls)


def _lock_is_free(directory: Path) -> bool:
    path = directory / ".lock"
    if not path.exists():
        return True
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@pytest.mark.parametrize("name", _SLOTS)
@pytest.mark.parametrize("count", [1, None])
def test_rec_08_invariant_27_every_failing_call_leaves_a_slot_that_opens(
    tmp_path: Path, name: str, count: int | None
) -> None:
    """``count`` None: the disk stays broken from that call on."""
    reference, calls = _reference(_SLOTS[name], tmp_path)
    pieces = [] if name == "collapsed" else _pieces(_SLOTS[name]())
    for step in range(calls):
        root = tmp_path / f"at{step}"
        before = snapshot(_SLOTS[name]().write(root / ID))
        files = FailingFiles(step, count=count)
        try:
            outcome, _ = recover(root, files)
        except SlotRefusedError:  # of the slot that was set aside, or of the fresh one
            aside = snapshot(root / f"{ID}.unreplayable-0")
            aside.pop(".failed", None)
            assert before in (snapshot(root / ID), aside), files.failed
        except StorageError:
            pass
        else:
            assert files.failed[0][1].endswith(".lock.pid"), files.failed
            assert _same(outcome, reference)
        assert not files.open_files, files.failed
        assert _lock_is_free(root / ID), files.failed
        assert _all_kept(pieces, root), files.failed
        outcome, opened = recover(root)
        assert _same(outcome, reference), files.failed
        assert name != "unreplayable" or opened.report.set_aside or (root / f"{ID}.unreplayable-0").exists()
        shutil.rmtree(root)


@pytest.mark.parametrize("name", _SLOTS)
def test_invariant_18_a_kill_at_every_step_of_recovery(tmp_path: Path, name: str) -> None:
    reference, calls = _reference(_SLOTS[name], tmp_path)
    pieces = [] if name == "collapsed" else _pieces(_SLOTS[name]())
    for step in range(calls):
        root = tmp_path / f"at{step}"
        _SLOTS[name]().write(root / ID)
        files = KilledFiles(step)
        with pytest.raises(Killed):
            recover(root, files)
        files.bury()
        assert _all_kept(pieces, root), files.calls[-1]
        assert _same(recover(root)[0], reference), files.calls[-1]
        assert _all_kept(pieces, root), files.calls[-1]
        shutil.rmtree(root)


class _CutFiles(PowerCutFiles):
    """The power goes at step ``nth``."""

    def __init__(self, root: Path, nth: int) -> None:
        super().__init__(root)
        self.nth = nth

    def step(self, name: str, path: str, arguments: tuple[Any, ...], act: Callable[[], Any]) -> Any:
        if len(self.calls) >= self.nth:
            raise Killed(name)
        return super().step(name, path, arguments, act)


@pytest.mark.parametrize("name", [name for name in _SLOTS if name != "unreplayable"])
def test_a_power_cut_at_every_step_of_recovery_loses_nothing(tmp_path: Path, name: str) -> None:
    """Of what was not synced, none, all, or any part may have reached the disk."""
    reference, calls = _reference(_SLOTS[name], tmp_path)
    pieces = [] if name == "collapsed" else _pieces(_SLOTS[name]())
    rng = random.Random(name)
    for step in range(calls):
        root = tmp_path / f"at{step}"
        _SLOTS[name]().write(root / ID)
        files = _CutFiles(root, step)
        with pytest.raises(Killed):
            recover(root, files)
        for keep in (lambda _: False, lambda _: True, *[lambda _: rng.random() < 0.5] * 4):
            image = files.image(tmp_path / "image", keep)
            assert _all_kept(pieces, image), files.calls[-1]
            assert _same(recover(image)[0], reference), files.calls[-1]
            assert _all_kept(pieces, image), files.calls[-1]
        files.bury()
        shutil.rmtree(root)


def test_lck_04_closing_frees_the_lock_whatever_fails(tmp_path: Path) -> None:
    usual().write(tmp_path / ID)
    for name in ("close", "unlock"):
        files = RecordingFiles()
        opened = open_slot(files, str(tmp_path), ID)
        breaks = FailingFiles(0, count=None, only=(name,))
        files.step = breaks.step  # type: ignore[method-assign]
        with pytest.raises(StorageError):
            opened.close()
        assert not files.open_files
        assert _lock_is_free(tmp_path / ID)


def test_a_slot_that_somebody_mended_meanwhile_is_not_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between giving up the lock and taking both, another process may have repaired the slot."""
    directory = _unreplayable().write(tmp_path / ID)

    class Mending(Files):
        def make_directory(self, path: str) -> bool:
            if path.endswith(".slot-locks"):
                (directory / FIRST).write_bytes(usual().files[FIRST])
            return super().make_directory(path)

    outcome, opened = recover(tmp_path, Mending())
    assert opened.report.set_aside == ""
    assert outcome.frames == {fsn: payload(fsn) for fsn in range(1, 5)}


def test_both_locks_are_held_while_the_slot_is_set_aside(tmp_path: Path) -> None:
    _unreplayable().write(tmp_path / ID)
    seen: list[tuple[bool, bool]] = []

    class Watching(Files):
        def rename(self, old: str, new: str) -> None:
            logical = tmp_path / ".slot-locks"
            free = not _lock_is_free(tmp_path / ID)
            with (logical / f"{ID}.lock").open("rb") as file, pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            seen.append((free, (tmp_path / ID / ".failed").exists()))
            super().rename(old, new)

    recover(tmp_path, Watching())
    assert seen == [(True, True)]
    assert payloads(0, 0) == []
