"""The dead-letter store: its bytes, its bound, and that a frame is in the log or in a whole letter, or in both.

The fault tests live one story (`Story`): a slot with three frames, whose first one is made a dead letter and
settled, and a close; a call fails, the process dies, or the power goes, at each step of it.
"""

from __future__ import annotations

import errno
import random
import shutil
import struct
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolq.columns import SymbolTable
from spoolq.delivery import policy
from spoolq.errors import StorageError
from spoolq.qwp.decode import Dictionary, decode
from spoolq.spool.crc import crc32c
from spoolq.spool.dead_letters import CATEGORIES, DeadLetters, build, parse
from spoolq.spool.files import Files
from spoolq.spool.opening import open_store
from spoolq.spool.orphans import find_orphans
from tests.qwp.test_standalone import message_of, symbols_of
from tests.spool import slot_maker
from tests.spool.disk_slot import replay
from tests.spool.files_double import FailingFiles, Killed, KilledFiles, PowerCutFiles, RecordingFiles, UnsyncedFiles

NOW = 1_764_000_000_123_456
WHAT = {"status": 3, "category": "schema_mismatch", "text": "column x", "time_micros": NOW}


def letters_in(folder: Path, nbytes_max: int = 1 << 20, files: Files | None = None) -> DeadLetters:
    return DeadLetters(files or UnsyncedFiles(), str(folder), "w", nbytes_max)


def test_dlq_01_the_bytes_of_a_letter(tmp_path: Path) -> None:
    symbols = symbols_of("a", "b")
    letter = letters_in(tmp_path).save(0x1F, message_of(symbols, "b"), symbols, **WHAT)  # type: ignore[arg-type]
    path = tmp_path / "w.dead-letter" / f"{NOW}-000000000000001f.qwp"
    data = path.read_bytes()
    frame = message_of(SymbolTable(), "b")
    assert data[:28] == b"SQD1\x01\0\0\0" + struct.pack("<qqBBH", 0x1F, NOW, 3, 1, 8)
    assert data[28:36] == b"column x"
    assert data[36:-4] == struct.pack("<I", len(frame)) + frame
    assert data[-4:] == struct.pack("<I", crc32c(data[:-4]))
    assert (letter.path, letter.fsn, letter.status, letter.category) == (str(path), 0x1F, 3, "schema_mismatch")
    assert letter.when.isoformat() == "2025-11-24T16:00:00.123456+00:00"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_letters_come_back_in_order_and_go_one_by_one(tmp_path: Path) -> None:
    store, symbols = letters_in(tmp_path), SymbolTable()
    assert store.letters() == []
    made = [
        store.save(fsn, message_of(symbols, f"s{fsn}"), symbols, **{**WHAT, "time_micros": NOW - fsn})  # type: ignore[arg-type]
        for fsn in range(3)
    ]
    assert store.letters() == made[::-1]
    assert [decode(store.frame_of(letter), Dictionary()).symbols for letter in made] == [["s0"], ["s1"], ["s2"]]
    store.remove(made[1])
    assert store.letters() == [made[2], made[0]]


def test_a_letter_is_never_replaced_when_the_clock_stands_still(tmp_path: Path) -> None:
    store, symbols = letters_in(tmp_path), SymbolTable()
    made = [store.save(0, message_of(symbols, f"s{n}"), symbols, **WHAT) for n in range(3)]  # type: ignore[arg-type]
    assert [letter.time_micros - NOW for letter in store.letters()] == [0, 1, 2]
    assert store.letters() == made


def test_a_frame_that_cannot_be_read_is_kept_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = letters_in(tmp_path)
    letter = store.save(4, b"no message", SymbolTable(), **WHAT)  # type: ignore[arg-type]
    assert store.frame_of(letter) == b"no message"
    assert "the frame with FSN 4 becomes a dead letter as it is" in caplog.text


def test_dlq_02_a_letter_above_the_bound_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    symbols = SymbolTable()
    frame = message_of(symbols, "a")
    size = len(build(0, NOW, 3, "unknown", "column x", frame))
    store = letters_in(tmp_path, 2 * size)
    for fsn in range(2):
        store.save(fsn, frame, symbols, **WHAT)  # type: ignore[arg-type]
    held = store.letters()
    with pytest.raises(
        StorageError, match=rf"have {2 * size} bytes in 2 files.* of {size} is .*dead_letter_max_bytes={2 * size}"
    ):
        store.save(2, frame, symbols, **WHAT)  # type: ignore[arg-type]
    assert store.letters() == held
    store.remove(held[0])
    store.save(2, frame, symbols, **WHAT)  # type: ignore[arg-type]


def test_a_text_of_any_length_fits(tmp_path: Path) -> None:
    letter, frame = parse("p", build(1, NOW, None, "skipped", "ü" * 40_000, b"f"))
    assert (letter.server_text, letter.status, frame) == ("ü" * 32_767, None, b"f")


def test_every_category_of_a_refusal_has_its_byte() -> None:
    assert policy.OVERRIDABLE | {policy.category_of(status) for status in range(1, 256)} <= set(CATEGORIES)
    assert CATEGORIES[:11] == (
        *("skipped", "schema_mismatch", "parse_error", "internal_error", "security_error", "write_error"),
        *("not_writable", "dictionary_gap", "protocol_violation", "unknown", "frame_too_large"),
    )


def test_a_damaged_letter_is_told_and_the_others_are_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, symbols = letters_in(tmp_path), SymbolTable()
    bad, good = (store.save(fsn, message_of(symbols, "a"), symbols, **WHAT) for fsn in range(2))  # type: ignore[arg-type]
    data = Path(bad.path).read_bytes()
    for damaged in (data[:-1], data[:20], b"", b"X" + data[1:], data[:50] + b"\xff" + data[51:], data + b"\0"):
        Path(bad.path).write_bytes(damaged)
        caplog.clear()
        assert store.letters() == [good]
        assert bad.path in caplog.text
    Path(bad.path).write_bytes(data[:4] + b"\2" + data[5:])
    with pytest.raises(StorageError, match="version 2, and this spoolq knows 1"):
        store.frame_of(bad)


@given(at=st.integers(0, 87), value=st.integers(0, 255), cut=st.integers(0, 88))
def test_no_change_of_a_letter_goes_unnoticed(at: int, value: int, cut: int) -> None:
    data = build(7, NOW, 3, "unknown", "column x", b"f" * 40)
    assert len(data) == 84
    damaged = (data[:at] + bytes([value]) + data[at + 1 :])[: min(cut, 84)]
    if damaged == data:
        assert parse("p", damaged)[0].fsn == 7
        return
    with pytest.raises(StorageError, match=r"^p "):
        parse("p", damaged)


def test_what_a_crash_left_half_made_goes_with_the_next_save(tmp_path: Path) -> None:
    store, symbols = letters_in(tmp_path), SymbolTable()
    (tmp_path / "w.dead-letter").mkdir()
    (tmp_path / "w.dead-letter" / f"{NOW}-{0:016x}.qwp.tmp").write_bytes(b"half")
    (tmp_path / "w.dead-letter" / "notes.txt").write_bytes(b"by a human")
    assert store.letters() == []
    letter = store.save(0, message_of(symbols, "a"), symbols, **WHAT)  # type: ignore[arg-type]
    assert sorted(path.name for path in (tmp_path / "w.dead-letter").iterdir()) == [
        Path(letter.path).name,
        "notes.txt",
    ]


def test_dlq_06_our_own_scan_does_not_take_the_letters_for_a_slot(tmp_path: Path) -> None:
    """Nor the directory of a sender that is gone, whose slot is an orphan."""
    symbols = symbols_of("a")
    for sender_id in ("w", "gone"):
        kept = DeadLetters(UnsyncedFiles(), str(tmp_path), sender_id, 1 << 20)
        kept.save(0, message_of(symbols, "a"), symbols, **WHAT)  # type: ignore[arg-type]
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "sf-0000000000000000.sfa").write_bytes(b"frames")
    assert find_orphans(UnsyncedFiles(), str(tmp_path), "me") == ["gone"]


# -- faults ------------------------------------------------------------------------------------------


@dataclass
class Story:
    """Three frames with a symbol each; the first becomes a letter, then it is settled, and the slot is closed."""

    folder: Path
    frames: list[bytes] = field(default_factory=list)
    settled: bool = False
    error: StorageError | None = None

    def begin(self) -> None:
        """The slot with its frames, before anything goes wrong."""
        opened = open_store(UnsyncedFiles(), str(self.folder), "w", segment_nbytes=400, total_nbytes=4_000)
        for number in range(3):
            opened.symbols.intern(f"s{number}")
            frame = slot_maker.message(number, [f"s{number}"], body=b"")
            self.frames.append(frame)
            room = opened.store.reserve(len(frame))
            assert room is not None
            room.view[:] = frame
            opened.store.write_ahead(opened.symbols, number, number + 1)
            opened.store.publish(room)
            opened.symbols.published_count = number + 1
        opened.store.sync()
        opened.store.close()

    def go_on(self, files: Files) -> None:
        """The drop; a storage error leaves the frame where it is."""
        opened = open_store(files, str(self.folder), "w", segment_nbytes=400, total_nbytes=4_000)
        try:
            run = opened.store.run(0, 1, 1)
            assert run is not None
            frame = bytes(run.payloads()[0])
            run.release()
            letters_in(self.folder, files=files).save(0, frame, opened.symbols, **WHAT)  # type: ignore[arg-type]
            self.settled = opened.store.acknowledge(0) or True
            opened.store.keep(1_000_000)
        finally:
            opened.store.close()

    def check(self, folder: Path | None = None) -> tuple[bool, bool]:
        """(in the log, in a whole letter); all else must be as it was."""
        folder = folder or self.folder
        letters = letters_in(folder).letters()
        opened = open_store(UnsyncedFiles(), str(folder), "w", segment_nbytes=400, total_nbytes=4_000)
        try:
            first = opened.store.acked_fsn + 1
            assert replay(opened.store, first) == self.frames[first:]
            assert first in (0, 1)
            assert [opened.symbols.text_of(index) for index in range(len(opened.symbols))] == ["s0", "s1", "s2"]
        finally:
            opened.store.close()
        assert len(letters) <= 1
        for letter in letters:
            assert (letter.fsn, letter.server_text) == (0, "column x")
        assert first == 0 or letters, "neither in the log nor in a letter"
        return first == 0, bool(letters)


def begun(tmp_path: Path) -> Story:
    folder = tmp_path / "sf"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    story = Story(folder)
    story.begin()
    return story


def steps(tmp_path: Path) -> list[tuple[str, str]]:
    files, story = RecordingFiles(), begun(tmp_path)
    story.go_on(files)
    assert story.check() == (False, True)
    assert files.open_files == {}
    return files.calls


def test_dlq_01_the_letter_is_whole_and_named_durably_before_the_frame_is_settled(tmp_path: Path) -> None:
    calls = steps(tmp_path)
    name = f"{NOW}-{0:016x}.qwp"
    at = calls.index(("create", name + ".tmp"))
    assert calls[at : at + 6] == [
        ("create", name + ".tmp"),
        ("write", name + ".tmp"),
        ("sync_all", name + ".tmp"),
        ("close", name + ".tmp"),
        ("rename", name + ".tmp"),
        ("sync_directory", "w.dead-letter"),
    ]
    assert ("sync_directory", "sf") in calls[:at]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_dlq_05_any_one_call_fails_and_the_frame_is_in_the_log_or_in_a_letter(tmp_path: Path, number: int) -> None:
    for nth in range(len(steps(tmp_path))):
        story, files = begun(tmp_path), FailingFiles(nth, number)
        try:
            story.go_on(files)
        except StorageError as error:
            story.error = error
        assert files.failed, nth
        assert files.open_files == {}, files.failed
        in_log, in_letter = story.check()
        if story.error is not None and not story.settled:
            assert in_log, files.failed
        leftover = [path.name for path in (story.folder / "w.dead-letter").glob("*")] if in_letter else []
        assert not any(name.endswith(".tmp") for name in leftover), files.failed


def test_dlq_05_killed_at_any_step_the_frame_is_in_the_log_or_in_a_letter(tmp_path: Path) -> None:
    both = 0
    for nth in range(len(steps(tmp_path))):
        story, files = begun(tmp_path), KilledFiles(nth)
        with pytest.raises(Killed):
            story.go_on(files)
        files.bury()
        in_log, in_letter = story.check()
        both += in_log and in_letter
    assert both  # between the two steps


def test_dlq_05_a_power_cut_at_any_step_leaves_the_frame_in_the_log_or_in_a_letter(tmp_path: Path) -> None:
    rng, seen = random.Random(3), set()
    for nth in range(len(steps(tmp_path))):
        story = begun(tmp_path)
        files = _PowerCut(story.folder, nth)
        with pytest.raises(Killed):
            story.go_on(files)
        files.bury()
        for chance in (0.0, 1.0, 0.5, 0.5):
            kept = {index for index in range(files.pending) if rng.random() < chance}
            seen.add(story.check(files.image(tmp_path / "image", kept.__contains__)))
    assert seen == {(True, False), (True, True), (False, True)}


class _PowerCut(PowerCutFiles):
    """Step ``nth`` does not happen any more."""

    def __init__(self, root: Path, nth: int) -> None:
        super().__init__(root)
        self._left = nth

    def step(self, name, path, arguments, act):  # type: ignore[no-untyped-def]
        if self._left <= 0:
            raise Killed(name)
        self._left -= 1
        return super().step(name, path, arguments, act)
