"""Which slots are orphans (behaviour.md 7.1), and the way to one: locks, candidacy, nothing made anew."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from spoolq import limits
from spoolq.errors import SlotBusyError, StorageError
from spoolq.spool.files import File, Files
from spoolq.spool.lock import logical_lock
from spoolq.spool.orphans import adopt, find_orphans
from spoolq.spool.scan import Stopped
from tests.spool import slot_maker
from tests.spool.files_double import FailingFiles, RecordingFiles
from tests.spool.recovered import payload, snapshot, usual


def _find(root: Path, files: Files | None = None, sender_id: str = "me") -> list[str]:
    return find_orphans(files or Files(), str(root), sender_id)


# --- the scan --------------------------------------------------------------------------------------


def test_orp_01_what_is_a_candidate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "spoolq.spool")
    for name in ("me", "zed", "a.b", "with blank", ".hidden", "neighbour", "me.unreplayable-0", "given-up"):
        usual().write(tmp_path / name)
    (tmp_path / "initial").mkdir()
    (tmp_path / "initial" / "sf-initial.sfa").write_bytes(b"whatever: it is looked at when it is adopted")
    (tmp_path / "given-up" / ".failed").write_text("why")
    (tmp_path / "me.unreplayable-0" / ".failed").write_text("")  # its presence counts, not its text
    (tmp_path / "me.dead-letter").mkdir()
    (tmp_path / "me.dead-letter" / "0000000000000001-0000000000000002.qwp").write_bytes(b"SQD1")
    (tmp_path / "drained").mkdir()
    (tmp_path / "drained" / ".lock").touch()
    (tmp_path / "drained" / "sf-0000000000000000.sfa.corrupt").touch()
    (tmp_path / ".slot-locks").mkdir()
    (tmp_path / ".slot-locks" / "x.sfa").touch()
    (tmp_path / "a file.sfa").touch()
    (tmp_path / "link").symlink_to(tmp_path / "zed")
    assert _find(tmp_path) == [".hidden", "a.b", "initial", "neighbour", "with blank", "zed"]
    assert "6 orphaned slots" in caplog.text
    assert "neighbour" in caplog.text
    assert "zed" not in caplog.text, "the first few"


def test_orp_01_a_missing_root_and_an_empty_one_are_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "spoolq.spool")
    assert _find(tmp_path / "missing") == []
    assert _find(tmp_path) == []
    assert caplog.records == []


def test_orp_01_an_unreadable_root_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    usual().write(tmp_path / "one")
    assert _find(tmp_path, FailingFiles(0, only=("names_if_there",))) == []
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(tmp_path) in record.getMessage()


def test_orp_01_an_unreadable_slot_is_a_warning_and_the_others_are_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("one", "two"):
        usual().write(tmp_path / name)
    assert _find(tmp_path, FailingFiles(1, only=("names_if_there",))) == ["two"]
    (record,) = caplog.records
    assert "one" in record.getMessage()


def test_the_scan_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(limits, "ORPHANS_MAX", 2)
    for name in "cab":
        usual().write(tmp_path / name)
    assert _find(tmp_path) == ["a", "b"]
    assert "3 orphaned slots" in caplog.text


# --- adoption --------------------------------------------------------------------------------------


@contextmanager
def _held(path: Path) -> Iterator[None]:
    path.parent.mkdir(exist_ok=True)
    with path.open("w+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Watched(RecordingFiles):
    """Notes locks and unlocks, and calls ``when`` before the one that is named."""

    def __init__(self, name: str = "", when: Any = None) -> None:
        super().__init__()
        self._name, self._when = name, when

    def step(self, name: str, path: str, arguments: tuple[Any, ...], act: Any) -> Any:
        if name == "lock" and os.path.basename(path) == self._name:
            self._when()
        return super().step(name, path, arguments, act)


def test_ours_15g_the_logical_lock_comes_first_and_is_given_back_when_the_slots_own_is_held(tmp_path: Path) -> None:
    usual().write(tmp_path / "one")
    files = _Watched()
    adopted = adopt(files, str(tmp_path), "one")
    assert adopted is not None
    adopted.close()
    order = [call for call in files.calls if call[0] in ("lock", "unlock")]
    assert order == [("lock", "one.lock"), ("lock", ".lock"), ("unlock", "one.lock"), ("unlock", ".lock")]
    opened = [call for call in files.calls if call[1].endswith(".sfa")]
    assert files.calls.index(opened[0]) > files.calls.index(("unlock", "one.lock")), "no segment before the lock"


@pytest.mark.parametrize("where", ["one/.lock", ".slot-locks/one.lock"])
def test_orp_04_a_lock_that_is_taken_is_told_at_once_and_nothing_is_touched(tmp_path: Path, where: str) -> None:
    usual().write(tmp_path / "one")
    before = snapshot(tmp_path / "one")
    with _held(tmp_path / where), pytest.raises(SlotBusyError, match="in use"):
        adopt(Files(), str(tmp_path), "one")
    assert snapshot(tmp_path / "one") == before
    adopted = adopt(Files(), str(tmp_path), "one")  # and no lock stayed
    assert adopted is not None
    adopted.close()


@pytest.mark.parametrize("lock", ["one.lock", ".lock"])
def test_a_slot_that_is_given_up_meanwhile_is_left_alone(tmp_path: Path, lock: str) -> None:
    usual().write(tmp_path / "one")
    files = _Watched(lock, (tmp_path / "one" / ".failed").touch)
    before = snapshot(tmp_path / "one")
    assert adopt(files, str(tmp_path), "one") is None
    assert snapshot(tmp_path / "one") == {**before, ".failed": b""}
    logical_lock(Files(), str(tmp_path), "one").release()


def test_a_slot_that_is_set_aside_meanwhile_is_not_made_again(tmp_path: Path) -> None:
    usual().write(tmp_path / "one")
    files = _Watched("one.lock", lambda: (tmp_path / "one").rename(tmp_path / "one.unreplayable-0"))
    assert adopt(files, str(tmp_path), "one") is None
    assert not (tmp_path / "one").exists()


def test_a_slot_that_goes_before_its_lock_is_taken_is_not_made_again(tmp_path: Path) -> None:
    usual().write(tmp_path / "one")

    class Going(Files):
        def open_or_create(self, path: str) -> File:
            if os.path.dirname(path) == str(tmp_path / "one"):
                (tmp_path / "one").rename(tmp_path / "gone")
            return super().open_or_create(path)

    with pytest.raises(StorageError):
        adopt(Going(), str(tmp_path), "one")
    assert not (tmp_path / "one").exists()


def test_the_reading_of_a_slot_ends_before_the_segment_at_which_it_is_stopped(tmp_path: Path) -> None:
    """Nothing is changed then, both locks are free, and it may be adopted again."""
    usual().write(tmp_path / "one")
    segments = len(list((tmp_path / "one").glob("*.sfa")))
    before = {name: content for name, content in snapshot(tmp_path / "one").items() if ".lock" not in name}
    for most in range(1_000):
        asked = iter(range(most))
        files = RecordingFiles()
        try:
            adopted = adopt(files, str(tmp_path), "one", lambda: next(asked, None) is None)  # noqa: B023
        except Stopped:
            now = {name: content for name, content in snapshot(tmp_path / "one").items() if ".lock" not in name}
            assert now == before
            assert [name for name, path in files.calls if name == "open" and path.endswith(".sfa")] == ["open"] * most
            continue
        break
    assert segments < most < 999, "the frames are read once more for the dictionary"
    assert adopted is not None
    adopted.close()


def test_adoption_makes_nothing_that_only_a_producer_needs(tmp_path: Path) -> None:
    slot = usual(spare=False)
    del slot.files[".symbol-dict"]
    slot.write(tmp_path / "one")
    before = set(os.listdir(tmp_path / "one"))
    adopted = adopt(Files(), str(tmp_path), "one")
    assert adopted is not None
    assert set(os.listdir(tmp_path / "one")) - before == {".lock", ".lock.pid"}
    assert adopted.store is not None
    assert not hasattr(adopted.store, "reserve")
    adopted.close()
    assert set(os.listdir(tmp_path / "one")) - before == {".lock", ".lock.pid"}


def test_a_damaged_slot_is_handed_over_locked_and_as_it_was(tmp_path: Path) -> None:
    slot = usual()
    del slot.files["sf-0000000000000000.sfa"]
    slot.write(tmp_path / "one")
    before = snapshot(tmp_path / "one")
    adopted = adopt(Files(), str(tmp_path), "one")
    assert adopted is not None
    assert adopted.store is None
    assert "head 0" in adopted.damage
    with pytest.raises(SlotBusyError):
        adopt(Files(), str(tmp_path), "one")
    adopted.close()
    assert snapshot(tmp_path / "one") == before


def test_only_corrupt_segments_are_damage_and_stay_as_they_are(tmp_path: Path) -> None:
    slot = slot_maker.Slot({"one.sfa": b"SF09" + slot_maker.frame(payload(0)), ".symbol-dict": b"SYD1\1\0\0\0"})
    slot.write(tmp_path / "one")
    before = snapshot(tmp_path / "one")
    adopted = adopt(Files(), str(tmp_path), "one")
    assert adopted is not None
    assert "every segment is corrupt" in adopted.damage
    adopted.close()
    assert snapshot(tmp_path / "one") == before
