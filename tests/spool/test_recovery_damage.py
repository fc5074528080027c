"""Damage at every place of small slots: the verdict is the predicted one (issue 6, done-when 3).

Whatever the damage, no frame comes out that was not written, only the active segment is ever cut, the
slot opens again with the same outcome, and what was set aside or refused is untouched.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spoolq.errors import SlotRefusedError
from spoolq.spool.files import File, Files
from spoolq.spool.opening import open_store
from tests.spool import slot_maker
from tests.spool.disk_slot import put, replay
from tests.spool.predictor import predict
from tests.spool.recovered import ID, Outcome, recover
from tests.spool.slot_maker import Slot, message, symbol_dict

_MANIFEST = "sf-manifest.bin"
_SEALED = "sf-0000000000000000.sfa"


class _Unsynced(Files):
    """Without syncs: some ten thousand slots are opened here."""

    def sync(self, file: File) -> None:
        pass

    def sync_all(self, file: File) -> None:
        pass

    def sync_directory(self, path: str) -> None:
        pass


def _frames(count: int, deferred: int = 0) -> list[bytes]:
    """Delta messages; every other one registers a symbol.  Bit i of ``deferred``: frame i is."""
    return [
        message((i + 1) // 2, [f"s{i // 2}"] if i % 2 == 0 else [], f"row {i}".encode(), defer=bool(deferred >> i & 1))
        for i in range(count)
    ]


def _slot(shape: str, *, active: int = 160, spare: int = 40) -> Slot:
    slot = Slot()
    frames, flags = _frames(6), 0 if shape == "legacy" else 1
    slot.segment(0, frames[:2], flags=flags)
    slot.segment(2, frames[2:3], flags=flags, size=70)
    slot.segment(3, frames[3:6], flags=flags, size=active)
    if shape != "no spare":
        slot.segment(6 if shape != "stand-in" else 3, [], flags=flags, size=spare)
    slot.files[".symbol-dict"] = symbol_dict(["s0"], ["s1"], ["s2"])
    slot.files[".ack-watermark"] = slot_maker.watermark(0, 5)
    if flags:
        slot.files[_MANIFEST] = slot_maker.manifest(0, 3, 6, (0, 2))
    return slot


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory in memory where there is one: thousands of small files are made anew."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


_SHAPES = ("usual", "stand-in", "no spare", "legacy")


def _places(content: bytes) -> Iterator[int]:
    """Offsets to damage: all; the containers are 8192 bytes of zeros around two records, and those are all alike."""
    for at in range(len(content)):
        if len(content) != 8192 or at % 4096 < 70 or at % 512 in (0, 511) or 120 < at < 136:
            yield at


def _cuts(content: bytes) -> Iterator[bytes]:
    yield from (content[:end] for end in _places(content))


def _flips(content: bytes) -> Iterator[bytes]:
    for at in _places(content):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[at] ^= 1 << bit
            yield bytes(damaged)


def _sectors(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), 512):
        yield content[:start] + bytes(len(content[start : start + 512])) + content[start + 512 :]


class _World:
    """One root, written anew for every damage.

    ``exact``: each frame keeps its FSN.  A header has no checksum, so a segment that is alone may change its base.
    ``append``: afterwards a store on the slot replays the frames and takes two more.
    """

    def __init__(self, root: Path, *, exact: bool = True, append: bool = True) -> None:
        self.exact = exact
        self.append = append
        self.root = root
        self.directory = root / ID
        self.files = _Unsynced()

    def _write(self, files: dict[str, bytes]) -> None:
        self.directory.mkdir(exist_ok=True)
        for name in os.listdir(self.directory):
            os.unlink(self.directory / name)
        for name, content in files.items():
            (self.directory / name).write_bytes(content)

    def check(self, files: dict[str, bytes], written: dict[int, bytes]) -> str:
        """Opens the slot, compares with the prediction; the verdict."""
        self._write(files)
        expected = predict(files)
        try:
            outcome, opened = recover(self.root, self.files)
        except SlotRefusedError:
            assert expected.verdict == "refused"
            self._untouched(self.directory, files)
            return "refused"
        if opened.report.set_aside:
            assert expected.verdict == "aside", opened.report
            self._untouched(Path(opened.report.set_aside), files, ".failed")
            for name in os.listdir(opened.report.set_aside):
                os.unlink(os.path.join(opened.report.set_aside, name))
            os.rmdir(opened.report.set_aside)
        else:
            assert expected.verdict == ("fresh" if opened.fresh else "opens"), opened.report
            self._compare(outcome, files, written)
        assert recover(self.root, self.files)[0] == outcome, "recover(recover(x)) == recover(x)"
        if self.append:
            self._append(outcome)
        return expected.verdict

    def _compare(self, outcome: Outcome, files: dict[str, bytes], written: dict[int, bytes]) -> None:
        expected = predict(files)
        assert outcome.frames == expected.frames
        if expected.verdict == "opens":
            assert (outcome.next_fsn, outcome.acked_fsn) == (expected.next_fsn, expected.acked_fsn)
            assert outcome.symbols == expected.symbols
        if self.exact:
            assert outcome.frames.items() <= written.items(), "a frame that was not written"
        assert set(outcome.frames.values()) <= set(written.values()), "a frame that was not written"

    def _append(self, outcome: Outcome) -> None:
        made = open_store(self.files, str(self.root), ID, segment_nbytes=300, total_nbytes=6_000)
        new = {fsn: f"appended {fsn}".encode() for fsn in range(outcome.next_fsn, outcome.next_fsn + 2)}
        try:
            assert replay(made.store, outcome.acked_fsn + 1) == list(outcome.frames.values())
            assert [put(made.store, payload) for payload in new.values()] == list(new)
        finally:
            made.store.close()
        assert recover(self.root, self.files)[0].frames == {**outcome.frames, **new}

    def _untouched(self, directory: Path, files: dict[str, bytes], *more: str) -> None:
        names = set(os.listdir(directory)) - {".lock", ".lock.pid", *more}
        assert {name: (directory / name).read_bytes() for name in names} == files


def _damage(
    slot: Slot, root: Path, damages: Callable[[bytes], Iterator[bytes]], *, append: bool = True
) -> dict[str, set[str]]:
    """Opens the slot with each damage of each file; the verdicts by file."""
    written = dict(enumerate(_frames(6)))
    world = _World(root, append=append)
    verdicts: dict[str, set[str]] = {}
    for name, content in slot.files.items():
        for damaged in damages(content):
            if damaged != content:
                verdicts.setdefault(name, set()).add(world.check({**slot.files, name: damaged}, written))
    return verdicts


@pytest.mark.parametrize("shape", _SHAPES)
def test_seg_02_invariant_11_a_cut_at_every_byte_gives_the_predicted_verdict(root: Path, shape: str) -> None:
    verdicts = _damage(_slot(shape), root, _cuts)
    assert verdicts[_SEALED] == ({"aside", "opens"} if shape == "legacy" else {"aside"})
    assert verdicts[".symbol-dict"] == verdicts[".ack-watermark"] == {"opens"}


@pytest.mark.parametrize("shape", ["usual", "stand-in", "legacy"])
def test_seg_06_every_flipped_bit_gives_the_predicted_verdict(root: Path, shape: str) -> None:
    verdicts = _damage(_slot(shape), root, _flips, append=False)
    assert verdicts[_SEALED] == {"aside", "opens", "refused"}  # opens: the creation time, and the flag


@pytest.mark.parametrize("shape", _SHAPES)
def test_seg_04_every_zeroed_sector_gives_the_predicted_verdict(root: Path, shape: str) -> None:
    verdicts = _damage(_slot(shape, active=1_100, spare=1_100), root, _sectors)
    assert verdicts[_SEALED] == ({"opens"} if shape == "legacy" else {"aside"})


def test_only_flag_and_creation_time_of_a_sealed_segment_may_change(root: Path) -> None:
    slot, world, opens = _slot("usual"), _World(root, append=False), set()
    for at, damaged in enumerate(_flips(slot.files[_SEALED])):
        if world.check({**slot.files, _SEALED: damaged}, dict(enumerate(_frames(6)))) == "opens":
            opens.add(at // 8)
    assert opens == {5, *range(16, 24)}


class _Made:
    """Files of a slot, and what was written; a failure shows neither the many zeros nor the bytes."""

    def __init__(self, files: dict[str, bytes], written: dict[int, bytes]) -> None:
        self.files, self.written = files, written

    def __repr__(self) -> str:
        sizes = {name: f"base {data[8]} {len(data)} bytes" for name, data in self.files.items() if len(data) > 8}
        return f"_Made(FSN {list(self.written)}, {sizes})"


@st.composite
def _slots(draw: st.DrawFn) -> _Made:
    """A slot of any usual shape."""
    frames = _frames(draw(st.integers(0, 8)), draw(st.sampled_from([0, 0, 0, *range(256)])))
    base = draw(st.sampled_from([0, 0, 3]))
    if base and not draw(st.booleans()):
        frames = [message(0, [f"s{n}" for n in range(1 + i // 2)], b"dense") for i in range(len(frames))]
    flags = draw(st.sampled_from([0, 1, 1]))
    slot, first, at = Slot(), base, base
    bases = []
    end = base + len(frames)
    while at < end or not bases:
        step = draw(st.integers(1, 3))
        size = None if at + step < end else draw(st.sampled_from([None, 400]))
        bases.append(at)
        how = {"flags": flags, "size": size}
        slot.segment(at, frames[at - base : at - base + step], **how)
        at += step
    if draw(st.booleans()):
        slot.segment(min(end, draw(st.integers(0, 9))), [], flags=flags, size=200)
    if flags:
        slot.files[_MANIFEST] = slot_maker.manifest(first, bases[-1], draw(st.integers(2, 5)), (first, bases[0]))
    if draw(st.booleans()):
        slot.files[".ack-watermark"] = slot_maker.watermark(draw(st.integers(-1, 12)), 2)
    if draw(st.integers(0, 3)):
        slot.files[".symbol-dict"] = symbol_dict(*[[f"s{n}"] for n in range((len(frames) + 1) // 2)])
    return _Made(slot.files, dict(enumerate(frames, base)))


_DAMAGE = st.sampled_from(["flip", "cut", "zero", "grow", "remove", "copy", "swap"])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    made=_slots(),
    damages=st.lists(st.tuples(_DAMAGE, st.integers(0, 9), st.integers(0, 8191), st.integers(1, 9)), max_size=3),
)
def test_nfr_02_invariant_04_random_damage_gives_the_predicted_verdict(
    tmp_path_factory: pytest.TempPathFactory,
    made: _Made,
    damages: list[tuple[str, int, int, int]],
) -> None:
    files, written = dict(made.files), made.written
    for kind, which, place, amount in damages:
        names = sorted(files)
        if not names:
            break
        name = names[which % len(names)]
        content = bytearray(files[name])
        place = place % len(content) if content else 0
        if kind == "flip" and content:
            content[place] ^= 1 << amount % 8
        elif kind == "cut":
            del content[place:]
        elif kind == "zero":
            content[place : place + 64] = bytes(len(content[place : place + 64]))
        elif kind == "grow":
            content += bytes(amount) + b"x" * (amount % 2)
        files[name] = bytes(content)
        if kind == "remove":
            del files[name]
        elif kind == "copy":
            files[f"sf-{amount:015x}f.sfa"] = bytes(content)
        elif kind == "swap":
            files[name] = files[names[amount % len(names)]]
    _World(tmp_path_factory.mktemp("damage"), exact=False).check(files, written)
