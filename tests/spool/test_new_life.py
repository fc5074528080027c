"""A new slot life on the disk: `restart_dictionary` against a failing call, a kill and a power cut at each step.

A `Story` is three lives of a slot that stays open: frames that each register a symbol, all acknowledged, then ids
begin anew; the frames of the last one wait.  Its symbols have other texts in each life, so an id that is read by the
wrong dictionary shows.  What is left wherever it ends is opened by ours and by the official client.

- the order of the steps on the disk;
- any one call that fails: the old life or the new one goes on, nothing is lost;
- killed at each step, and the power cut at each step: what is unsettled is there, with its own symbols (of what the
  durability modes promise, `power_cut` looks at new lives too);
- the official client opens each of the states that a kill leaves, and goes on;
- FSNs go on over three lives, and the file holds the symbols of the newest one alone;
- a frame that is published before it can begin stops it; so does a cap that has no room for a segment;
- what an interrupt left behind the last frame, and symbols written ahead for nothing, are gone;
- a sync of the cut that fails is made up for before the next entry, or that append fails;
- dense frames end with the life of the file that could not be used;
- the store in memory.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import questdb

from spoolq.columns import ColumnType
from spoolq.columns.symbols import SymbolTable
from spoolq.errors import StorageError
from spoolq.qwp.decode import Dictionary, decode
from spoolq.spool import MemoryStore
from spoolq.spool.files import Files
from spoolq.spool.mapping import live_mappings
from spoolq.spool.opening import open_store
from spoolq.spool.symbol_log import HEADER
from tests.interop.peer import RecordingPeer
from tests.spool import slot_maker
from tests.spool.disk_slot import names, replay
from tests.spool.files_double import FailingFiles, Killed, KilledFiles, PowerCutFiles, RecordingFiles, UnsyncedFiles

ID = "writer"
SEGMENT = 128  # two frames
TOTAL = 512
CHANGES = ("create", "open_or_create", "write", "append", "truncate", "store", "rename", "unlink")
LOCKS = [".lock", ".lock.pid"]


def frame_of(start: int, text: str) -> bytes:
    """A row of one symbol, which is new and has the id ``start``; the text is its only one of the kind."""
    row = b"\1t\1\1\1s" + bytes([ColumnType.SYMBOL, 0, start])
    return slot_maker.message(start, [text], body=row, tables=1)


@dataclass
class Story:
    """``lives`` begin anew ``lives - 1`` times; ``told`` are the frames that were published, ``tried`` may be there."""

    sf_dir: Path
    lives: int = 3
    frames: int = 3
    total: int = TOTAL
    told: dict[int, bytes] = field(default_factory=dict)
    tried: dict[int, bytes] = field(default_factory=dict)
    meaning: dict[int, list[str]] = field(default_factory=dict)  # FSN -> texts by id, as of its frame
    texts: list[str] = field(default_factory=list)
    acked: int = -1
    life: int = 0
    errors: list[StorageError] = field(default_factory=list)
    store: Any = None
    symbols: SymbolTable = field(default_factory=SymbolTable)

    def open(self, files: Files) -> None:
        opened = open_store(files, str(self.sf_dir), ID, segment_nbytes=SEGMENT, total_nbytes=self.total)
        assert opened.report.set_aside == ""
        self.store, self.symbols = opened.store, opened.symbols
        self.texts = [self.symbols.text_of(index) for index in range(len(self.symbols))]

    @contextmanager
    def noting(self) -> Iterator[None]:
        try:
            yield
        except StorageError as error:
            self.errors.append(error)

    def run(self, files: Files) -> None:
        """All of it; an error is noted and the step tried again."""
        for _ in range(3):
            with self.noting():
                self.open(files)
                break
        now = 0
        for life in range(self.lives):
            for _ in range(self.frames):
                for _ in range(3):
                    now += 1_000
                    self.store.keep(now)
                    with self.noting():
                        if self.append():
                            break
            if life < self.lives - 1:
                self.settle()
                for _ in range(3):
                    now += 1_000
                    self.store.keep(now)
                    with self.noting():
                        if self.restart():
                            break
        with self.noting():
            self.store.close()

    def append(self) -> bool:
        """A frame with a symbol of its own; False when there is no room now."""
        store, symbols, start = self.store, self.symbols, self.symbols.published_count
        fsn, text = store.published_fsn + 1, f"life-{self.life}-{start}"
        payload = frame_of(start, text)
        room = store.reserve(len(payload))
        if room is None:
            return False
        room.view[:] = payload
        self.tried[fsn], self.meaning[fsn] = payload, [*self.texts, text]
        symbols.truncate(start)
        symbols.intern(text)
        try:
            if not store.dense:
                store.write_ahead(symbols, start, start + 1)
            assert store.publish(room) == fsn
        except BaseException:
            if store.published_fsn < fsn:
                store.abandon(room)
            raise
        symbols.published_count = start + 1
        self.texts.append(text)
        self.told[fsn] = payload
        return True

    def settle(self) -> None:
        self.acked = self.store.published_fsn
        self.store.acknowledge(self.acked)

    def restart(self) -> bool:
        """Both halves of a new life; the second one as `NewLife.begin` does it."""
        if not self.store.restart_dictionary():
            return False
        self.symbols.restart()
        self.texts = []
        self.life += 1
        return True

    def promised(self) -> dict[int, bytes]:
        return {fsn: payload for fsn, payload in self.told.items() if fsn > self.acked}

    # --- what is left -----------------------------------------------------------------------------------

    def check(self, root: Path, *, unsuspicious: bool = False) -> None:
        """Ours opens it, twice: what is unsettled is there and means what it meant; FSNs and ids go on."""
        promised = self.promised()
        for _ in range(2):
            opened = open_store(UnsyncedFiles(), str(root), ID, segment_nbytes=SEGMENT, total_nbytes=10_000)
            store, symbols = opened.store, opened.symbols
            try:
                assert opened.report.set_aside == ""
                if unsuspicious:
                    assert (opened.report.warnings, opened.report.quarantined) == ((), ())
                first = store.acked_fsn + 1
                found = dict(enumerate(replay(store, first), first))
                assert promised.items() <= found.items(), (sorted(promised), sorted(found))
                assert found.items() <= self.tried.items()
                assert store.acked_fsn <= self.acked
                texts = [symbols.text_of(index) for index in range(len(symbols))]
                for fsn in found:
                    assert texts[: len(self.meaning[fsn])] == self.meaning[fsn], fsn
                assert symbols.published_count == len(texts)
                fresh, start = store.published_fsn + 1, len(texts)
                payload = frame_of(start, f"after-{start}")
                store.keep(0)
                room = store.reserve(len(payload))
                assert room is not None
                room.view[:] = payload
                symbols.intern(f"after-{start}")
                store.write_ahead(symbols, start, start + 1)
                assert store.publish(room) == fresh
                self.tried[fresh] = promised[fresh] = payload
                self.meaning[fresh] = [*texts, f"after-{start}"]
            finally:
                store.close()


def steps_of(tmp_path: Path, **options: Any) -> list[tuple[str, str]]:
    """Every call of an undisturbed story."""
    files, story = RecordingFiles(), Story(tmp_path / "undisturbed", **options)
    story.sf_dir.mkdir()
    story.run(files)
    assert story.errors == []
    assert (story.life, len(story.told)) == (story.lives - 1, story.lives * story.frames)
    assert story.acked == len(story.told) - story.frames - 1
    assert files.open_files == {}
    story.check(story.sf_dir)
    shutil.rmtree(story.sf_dir)
    return files.calls


def opened(tmp_path: Path, files: Files | None = None, **options: Any) -> Story:
    """A story of which nothing has happened; its test closes the store."""
    story = Story(tmp_path, **options)
    story.open(files or UnsyncedFiles())
    story.store.keep(0)
    return story


def dictionary(tmp_path: Path) -> bytes:
    return (tmp_path / ID / ".symbol-dict").read_bytes()


def test_ours_4_invariant_17_37_first_the_frames_go_then_the_symbols(tmp_path: Path) -> None:
    """slot.md 4: a rotation, then a trim with its barriers, all before the file is cut."""
    files = RecordingFiles()
    story = opened(tmp_path, files)
    for _ in range(2):
        assert story.append()
    story.settle()
    files.calls.clear()
    assert story.restart()
    old, new, manifest, mark = (
        "sf-0000000000000000.sfa",
        "sf-0000000000000001.sfa",
        "sf-manifest.bin",
        ".ack-watermark",
    )
    calls = [
        call for call in files.calls if call[0] not in ("open", "close", "unmap", "stat", "still_named", "read", "map")
    ]
    assert calls == [
        ("write", new),  # its base
        ("write", manifest),
        ("sync_mapped", new),
        ("sync", manifest),
        ("sync", ".symbol-dict"),
        ("write", mark),
        ("sync", mark),
        ("sync_directory", ID),
        ("write", manifest),
        ("sync", manifest),
        ("unlink", old),
        ("sync_directory", ID),
        ("truncate", ".symbol-dict"),
        ("sync", ".symbol-dict"),
    ]
    assert dictionary(tmp_path) == HEADER
    assert names(tmp_path / ID) == sorted([mark, *LOCKS, ".symbol-dict", new, manifest])
    story.store.close()


def test_ours_4_invariant_04_fsns_go_on_over_three_lives_and_ids_begin_anew(tmp_path: Path) -> None:
    story = opened(tmp_path, lives=1)
    for life in range(3):
        assert [story.append() for _ in range(2)] == [True, True]
        assert story.store.published_fsn == 2 * life + 1
        assert story.symbols.published_count == 2
        assert dictionary(tmp_path) == slot_maker.symbol_dict([f"life-{life}-0"], [f"life-{life}-1"])
        story.settle()
        assert story.restart()
        assert dictionary(tmp_path) == HEADER
        story.store.keep(1_000 * life)
    assert story.store.acked_fsn == story.store.published_fsn == 5
    assert story.append()
    assert replay(story.store, 6) == [frame_of(0, "life-3-0")]
    story.store.close()
    story.check(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_ours_4_any_one_call_fails_and_nothing_is_lost(tmp_path: Path, number: int) -> None:
    before = live_mappings()
    for nth in range(len(steps_of(tmp_path, lives=2))):
        directory = tmp_path / "slots"
        directory.mkdir()
        files, story = FailingFiles(nth, number), Story(directory, lives=2)
        story.run(files)
        assert files.failed, nth
        assert (len(story.told), story.life) == (6, 1), (nth, files.failed, story.errors)
        assert files.open_files == {}, (nth, files.failed)
        assert live_mappings() == before, (nth, files.failed)
        story.check(directory)
        shutil.rmtree(directory)


def kills(tmp_path: Path) -> Iterator[tuple[int, Story, Path]]:
    """The story, killed at each of its steps."""
    for nth in range(len(steps_of(tmp_path)) + 1):
        directory = tmp_path / "slots"
        directory.mkdir()
        files, story = KilledFiles(nth), Story(directory)
        try:
            story.run(files)
        except Killed:
            files.bury()
        yield nth, story, directory
        shutil.rmtree(directory)


def test_ours_4_invariant_18_37_killed_at_any_step(tmp_path: Path) -> None:
    for _, story, directory in kills(tmp_path):
        story.check(directory, unsuspicious=True)


def test_ours_4_invariant_18_the_official_client_opens_what_a_kill_leaves(tmp_path: Path) -> None:
    """Each state once: it delivers what is unsettled, with its own symbols, takes a frame of its own, and drains."""
    seen = set()
    for _, story, directory in kills(tmp_path):
        if story.told:  # else it is the beginning of a slot
            state = tuple((path.name, _content(path)) for path in sorted((directory / ID).iterdir()))
            if state not in seen:
                seen.add(state)
                deliver_by_the_peer(directory, story)
    assert len(seen) > 50


def _content(path: Path) -> bytes:
    data = path.read_bytes()
    return data[:16] + data[24:] if path.suffix == ".sfa" else data  # all but the time of creation


def deliver_by_the_peer(directory: Path, story: Story) -> None:
    """The official client on this slot; what it sends is read as a server reads it."""
    with RecordingPeer() as peer:
        conf = f"{peer.conf}sf_dir={directory};sender_id={ID};auto_flush=off;sf_max_segment_bytes={SEGMENT};"
        with questdb.Sender.from_conf(conf) as sender:
            sender.row("t", symbols={"s": "theirs"}, at=questdb.TimestampNanos(1))
            fsn = sender.flush_and_get_fsn()
            assert max(story.told) < fsn <= max(story.tried) + 1
            assert sender.await_acked_fsn(fsn, 20_000)
        (messages,) = peer.take()
    dictionary, rows = Dictionary(), list[Any]()
    for message in messages:
        for table in decode(message, dictionary).tables:
            rows += next(list(column.values) for column in table.columns if column.name == "s")
    sent = [text for text in rows if text != "theirs"]
    assert rows == [*sent, "theirs"]
    last = [story.meaning[fsn][-1] for fsn in story.tried]  # the symbol of each frame
    unsettled = [story.meaning[fsn][-1] for fsn in story.promised()]
    assert sent == last[len(last) - len(sent) :] or sent == last[len(last) - 1 - len(sent) : -1]
    assert set(unsettled) <= set(sent)
    left = [name for name in names(directory / ID) if name not in LOCKS]
    assert not any((directory / ID / name).read_bytes().strip(b"\0") for name in left), left  # a spare cut short


def test_ours_4_invariant_17_the_power_cut_at_any_step_that_leaves_the_frames(tmp_path: Path) -> None:
    """Any subset of what was not synced is lost, frames and their symbols of this life taken as written.

    `memory` promises nothing for those; what must hold is that the old life cannot come back among the new one.
    """
    rng = random.Random(5)
    steps = steps_of(tmp_path, lives=2)
    for nth in (index + 1 for index, (name, _) in enumerate(steps) if name in CHANGES):
        directory = tmp_path / "slots"
        directory.mkdir()
        files, story = _PowerCut(directory, nth), Story(directory, lives=2)
        with suppress(Killed):
            story.run(files)
        files.bury()
        for subset in files.subsets(rng):
            image = files.image(tmp_path / "image", subset.__contains__)
            judge = Story(directory, told=dict(story.told), tried=dict(story.tried), meaning=dict(story.meaning))
            judge.acked = story.acked
            judge.check(image)
        shutil.rmtree(directory)


class _PowerCut(PowerCutFiles):
    """The power goes behind ``last`` steps."""

    def __init__(self, root: Path, last: int) -> None:
        super().__init__(root)
        self._last = last

    def step(self, name: str, path: str, arguments: tuple[Any, ...], act: Any) -> Any:
        if len(self.calls) >= self._last:
            raise Killed(name)
        return super().step(name, path, arguments, act)

    def subsets(self, rng: random.Random) -> Iterator[set[int]]:
        """Which effects survive: none that may be lost, each alone, all but each, some; written data always does."""
        kept = {
            index
            for index, (effect, _) in enumerate(self._pending)
            if effect.kind == "write" and effect.path.endswith((".sfa", ".symbol-dict"))
        }
        others = set(range(self.pending)) - kept
        yield kept
        for index in others:
            yield kept | {index}
            yield kept | (others - {index})
        for _ in range(3):
            yield kept | {index for index in others if rng.random() < 0.5}


def test_ours_4_a_frame_that_waits_stops_it(tmp_path: Path) -> None:
    story = opened(tmp_path)
    assert story.append()
    story.settle()
    assert story.append()  # between "drained" and the beginning
    before = dictionary(tmp_path)
    assert not story.restart()
    assert dictionary(tmp_path) == before
    assert replay(story.store, 1) == [story.told[1]]
    story.store.close()
    story.check(tmp_path)


def test_ours_4_full_segments_that_nobody_has_trimmed_yet_go_too_and_the_cap_holds(tmp_path: Path) -> None:
    story = opened(tmp_path, total=3 * SEGMENT)
    for now in range(6):
        assert story.append()
        if now < 5:
            story.store.keep(now)
    assert story.store.stats().segments == 3
    story.settle()
    assert story.restart()
    stats = story.store.stats()
    assert (stats.segments, stats.allocated_nbytes <= 3 * SEGMENT) == (1, True)
    assert len(list((tmp_path / ID).glob("*.sfa"))) * SEGMENT == stats.allocated_nbytes
    story.store.close()


def test_ours_4_an_empty_segment_is_kept(tmp_path: Path) -> None:
    """As behind a life that failed when its frames were gone already."""
    files = FailingFiles(10**6, errno.EIO, count=1, only=("truncate",))
    story = opened(tmp_path, files)
    assert story.append()
    story.settle()
    files.nth = files.seen
    with pytest.raises(StorageError):
        story.restart()
    segments = [name for name in names(tmp_path / ID) if name.endswith(".sfa")]
    assert story.append(), "the old life goes on"
    assert replay(story.store, 1) == [frame_of(1, "life-0-1")]
    story.settle()
    story.store.keep(5_000)
    assert story.restart()
    assert story.restart(), "with nothing in it, once more"
    assert segments != [name for name in names(tmp_path / ID) if name.endswith(".sfa")]
    story.store.close()


def test_ours_4_invariant_10_30_what_an_interrupt_left_behind_the_last_frame_is_gone(tmp_path: Path) -> None:
    """A room that nobody published, and symbols that were written ahead of it: no peer would open a slot with those."""
    files = _Unlinked()
    story = opened(tmp_path, files)
    assert story.append()
    room = story.store.reserve(20)
    room.view[:] = b"x" * 20  # and Ctrl-C came
    story.symbols.intern("never")
    story.store.write_ahead(story.symbols, 1, 2)
    story.settle()
    assert story.restart()
    (sealed,) = files.contents
    frames, end = slot_maker.whole_frames(sealed)
    assert frames == [story.told[0]]
    assert not sealed[end:].strip(b"\0")
    assert files.dictionary == slot_maker.symbol_dict(["life-0-0"])
    assert dictionary(tmp_path) == HEADER
    with pytest.raises(StorageError, match="stale"):
        story.store.publish(room)
    assert story.append()
    assert replay(story.store, 1) == [frame_of(0, "life-1-0")]
    story.store.close()
    story.check(tmp_path, unsuspicious=True)


class _Unlinked(UnsyncedFiles):
    """Real mappings; keeps what was in each segment that is removed, and the symbols beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.contents: list[bytes] = []
        self.dictionary = b""

    def unlink(self, path: str) -> None:
        if path.endswith(".sfa"):
            self.contents.append(Path(path).read_bytes())
            self.dictionary = (Path(path).parent / ".symbol-dict").read_bytes()
        super().unlink(path)


def test_ours_4_a_cut_whose_sync_failed_is_synced_before_the_next_entry(tmp_path: Path) -> None:
    files = FailingFiles(10**6, errno.EIO, count=None, only=("sync",))
    story = opened(tmp_path, files)
    assert story.append()
    story.settle()
    assert story.store.restart_dictionary()
    story.symbols.restart()
    story.texts, story.life = [], 1
    assert story.append()
    story.settle()
    files.only = ()
    original = files.step

    def step(name: str, path: str, arguments: tuple[Any, ...], act: Any) -> Any:
        if failing and name == "sync" and os.path.basename(path) == ".symbol-dict" and cut:
            raise StorageError("no sync", errno=errno.EIO, filename=path)
        cut.extend([1] if name == "truncate" and os.path.basename(path) == ".symbol-dict" else [])
        return original(name, path, arguments, act)

    failing, cut = True, list[int]()
    files.step = step  # type: ignore[method-assign]
    story.store.keep(9_000)
    assert story.restart(), "the new life has begun all the same"
    for _ in range(2):
        with pytest.raises(StorageError, match="no sync"):
            story.append()
        assert story.store.published_fsn == 1
    failing = False
    files.calls.clear()
    assert story.append()
    mine = [name for name, path in files.calls if path == ".symbol-dict"]
    assert mine == ["truncate", "sync", "write"]
    story.store.close()
    story.check(tmp_path)


def test_ours_4_dense_frames_end_with_the_life_of_the_file_that_could_not_be_used(tmp_path: Path) -> None:
    files = FailingFiles(10**6, errno.EIO, count=None, only=("truncate",))
    story = opened(tmp_path, files)
    assert story.append()
    files.nth = files.seen
    room = story.store.reserve(20)
    story.symbols.intern("taken back")
    story.store.write_ahead(story.symbols, 1, 2)
    story.store.abandon(room)
    assert story.store.dense
    story.settle()
    with pytest.raises(StorageError):
        story.restart()
    assert story.store.dense, "it cannot be cut yet"
    files.nth = 10**6
    story.store.keep(9_000)
    assert story.restart()
    assert not story.store.dense
    assert story.append()
    assert dictionary(tmp_path) == slot_maker.symbol_dict(["life-1-0"])
    story.store.close()
    story.check(tmp_path, unsuspicious=True)


def test_ours_4_the_store_in_memory(tmp_path: Path) -> None:
    story = Story(tmp_path, store=MemoryStore(SEGMENT, TOTAL))
    for life in range(3):
        for _ in range(3):
            assert story.append()
        assert not story.store.restart_dictionary()
        story.settle()
        assert story.restart()
        assert story.store.published_fsn == 3 * life + 2
    story.store.close()
    assert not story.store.restart_dictionary()
