"""The dictionary on recovery: each row of slot.md 5.4 in the foreground, and the fold (invariants 31, 32, 35)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spoolq.columns.symbols import SymbolTable
from spoolq.errors import SlotRefusedError
from tests.spool import slot_maker
from tests.spool.files_double import RecordingFiles
from tests.spool.recovered import FIRST, ID, recover, snapshot
from tests.spool.slot_maker import Slot, message, symbol_dict

_DICT = ".symbol-dict"
_DELTA = [message(0, ["a", "b"]), message(2, [], b"x"), message(2, ["c"]), message(3, ["d"], b"y")]
_DENSE = [message(0, ["a"]), message(0, ["a", "b"]), message(0, ["a", "b", "c"])]
_ALL = ["a", "b", "c", "d"]
_FILE = symbol_dict(["a", "b"], ["c"], ["d"])


def _slot(frames: list[bytes], dictionary: bytes | None, acked: int = -1, *, per_segment: int = 2) -> Slot:
    """The frames in segments of two, the last one with room."""
    slot = Slot()
    for base in range(0, len(frames), per_segment):
        last = base + per_segment >= len(frames)
        slot.segment(base, frames[base : base + per_segment], size=400 if last else None)
    slot.files["sf-manifest.bin"] = slot_maker.manifest(0, (len(frames) - 1) // per_segment * per_segment)
    if dictionary is not None:
        slot.files[_DICT] = dictionary
    slot.files[".ack-watermark"] = slot_maker.watermark(acked)
    return slot


class Row(NamedTuple):
    """A state, and what is expected: the symbols, what of the file stays, what was kept aside."""

    frames: list[bytes]
    dictionary: bytes | None
    symbols: list[str]
    in_file: bytes
    kept: list[str] = []  # noqa: RUF012 (a NamedTuple's default, never changed)
    acked: int = -1


_EMPTY = symbol_dict()
_ROWS = {
    "intact": Row(_DELTA, _FILE, _ALL, _FILE),
    "absent: made anew, rebuilt from frames": Row(_DELTA, None, _ALL, _EMPTY),
    "shorter than a header": Row(_DELTA, b"SYD1\1", _ALL, _EMPTY, [".symbol-dict.corrupt"]),
    "empty file": Row(_DELTA, b"", _ALL, _EMPTY, [".symbol-dict.corrupt"]),
    "bad magic": Row(_DELTA, b"\0\0\0\0" + _FILE[4:], _ALL, _EMPTY, [".symbol-dict.corrupt"]),
    "torn last chunk": Row(_DELTA, _FILE[:-1], _ALL, symbol_dict(["a", "b"], ["c"])),
    "torn, bad CRC": Row(
        _DELTA, _FILE[:-1] + b"!", _ALL, symbol_dict(["a", "b"], ["c"]), [f".symbol-dict.cut-{len(_FILE) - 8}-0"]
    ),
    "Java's zero tail": Row(_DELTA, _FILE + bytes(4096), _ALL, _FILE),
    "torn first chunk, may be an unframed ancestor": Row(
        _DELTA, _EMPTY + b"\1a\1b\1c\1d", _ALL, _EMPTY, [".symbol-dict.cut-8-0"]
    ),
    "valid, zero entries": Row(_DELTA, _EMPTY, _ALL, _EMPTY),
    "a symbol that was written ahead, its frame was not": Row(
        _DELTA, symbol_dict(_ALL, ["e"]), [*_ALL, "e"], symbol_dict(_ALL, ["e"])
    ),
    "acknowledged frames are folded too": Row(_DELTA, None, _ALL, _EMPTY, acked=1),
    "every frame acknowledged": Row(_DELTA, None, _ALL, _EMPTY, acked=3),
    "every frame acknowledged, and a gap": Row(_DELTA[2:], None, [], _EMPTY, acked=1),
    "dense frames, no dictionary": Row(_DENSE, None, ["a", "b", "c"], _EMPTY),
    "dense frames, a dictionary that is short": Row(_DENSE, symbol_dict(["a"]), ["a", "b", "c"], symbol_dict(["a"])),
    "dense frames over a foreign dictionary": Row(
        _DENSE, symbol_dict(["x", "y"]), ["a", "b", "c"], _EMPTY, [".symbol-dict.corrupt"]
    ),
    "an entry twice, and frames that need no dictionary": Row(
        _DENSE, symbol_dict(["a", "b"], ["a"]), ["a", "b", "c"], _EMPTY, [".symbol-dict.corrupt"]
    ),
    "an entry twice, and all frames are there": Row(
        _DELTA, symbol_dict(["a", "b"], ["a"]), _ALL, _EMPTY, [".symbol-dict.corrupt"]
    ),
    "dense and delta mixed": Row([*_DENSE, message(3, ["d"]), message(0, ["a", "b"])], None, _ALL, _EMPTY),
    "an overlap with equal bytes": Row([message(0, ["a", "b"]), message(1, ["b", "c"])], None, ["a", "b", "c"], _EMPTY),
    "an overlap spelled with longer varints": Row(
        [message(0, ["a", "b"]), b"QWP1\1\x08\0\0\6\0\0\0\1\2\x81\0b\1c"], None, ["a", "b", "c"], _EMPTY
    ),
    "a gap in an acknowledged frame, a dense one after it": Row(
        [message(5, ["x"]), message(0, ["a", "b"])], None, ["a", "b"], _EMPTY, acked=0
    ),
    "a contradiction in an acknowledged frame, dense ones after it": Row(
        [message(0, ["x"]), message(0, ["a", "b"])], symbol_dict(["a"]), ["a", "b"], symbol_dict(["a"]), acked=0
    ),
    "a section that cannot be read is for the server to judge": Row(
        [message(0, ["a"]), b"QWP1\1\x08\0\0\3\0\0\0\1\1\x7f", b"QWP1\1\x08\0\0\0\0\0\0"], None, ["a"], _EMPTY
    ),
    "no symbols at all": Row([message(), b"opaque"], None, [], _EMPTY),
    "a transaction without commit may start beyond it": Row(
        [message(0, ["a"]), message(7, ["z"], defer=True)], None, ["a"], _EMPTY
    ),
    "an acked frame contradicts: the frames alone are believed": Row(
        [message(0, ["x"]), message(1, [], b"uses 0")], symbol_dict(["a"]), ["x"], _EMPTY, [".symbol-dict.corrupt"], 0
    ),
}


@pytest.mark.parametrize("name", _ROWS)
def test_row_of_5_4(tmp_path: Path, name: str) -> None:
    row = _ROWS[name]
    directory = _slot(row.frames, row.dictionary, row.acked).write(tmp_path / ID)
    outcome, opened = recover(tmp_path)
    assert outcome.symbols == row.symbols
    assert opened.symbols.published_count == len(row.symbols)
    end = opened.seed.deferred_fsn
    assert outcome.frames == {f: p for f, p in enumerate(row.frames) if row.acked < f < end}
    known = len(slot_maker.read_symbols(row.in_file))
    healed = slot_maker.chunk(row.symbols[known:]) if row.symbols[known:] else b""
    assert (directory / _DICT).read_bytes() == row.in_file + healed
    assert opened.report.symbols_rebuilt == len(row.symbols) - known
    kept = [name for name in outcome.names if name.startswith(f"{_DICT}.")]
    assert kept == row.kept
    if kept:
        lost = row.dictionary or b""
        assert (directory / kept[0]).read_bytes() == (lost if kept[0].endswith("corrupt") else lost[len(row.in_file) :])
    again, opened = recover(tmp_path)
    assert again == outcome
    assert opened.report.symbols_rebuilt == 0


_FATAL: dict[str, tuple[list[bytes], bytes | None, int, str]] = {
    "no dictionary, the first frame is gone": (_DELTA[2:], None, -1, "goes on at id 2, and 0 are known"),
    "no dictionary, acked frames trimmed": (_DELTA[2:], None, 0, "the frame with FSN 1 goes on at id 3"),
    "too short for a frame": ([message(0, ["a"]), message(2, [], b"uses 1")], symbol_dict(["a"]), -1,
                              "the frame with FSN 1 goes on at id 2, and 1 are known"),
    "a frame contradicts the dictionary": (_DELTA[2:], symbol_dict(["a", "b"], ["other"]), -1,
                                           "the frame with FSN 0 gives id 2 another text"),
    "an acked frame contradicts, a delta one follows": ([message(0, ["x"]), message(2, [], b"uses 1")],
                                                        symbol_dict(["a", "b"]), 0, "gives id 0 another text"),
    "a text twice": ([message(0, ["a"]), message(1, ["a"])], None, -1, "registers a text a second time, as id 1"),
    "duplicate entry": (_DELTA[2:], symbol_dict(["a", "b"], ["a"]), -1, "holds an entry twice"),
}  # fmt: skip


@pytest.mark.parametrize("name", _FATAL)
def test_invariant_35_a_frame_that_cannot_be_sent_makes_the_slot_unreplayable(tmp_path: Path, name: str) -> None:
    frames, dictionary, acked, reason = _FATAL[name]
    directory = _slot(frames, dictionary, acked).write(tmp_path / ID)
    before = snapshot(directory)
    _, opened = recover(tmp_path)
    aside = snapshot(tmp_path / f"{ID}.unreplayable-0")
    failed = aside.pop(".failed")
    assert aside == before
    assert failed is not None
    assert reason in failed.decode()
    assert opened.fresh


def test_over_the_cap_is_unreplayable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SymbolTable.__init__, "__defaults__", (3, 100, 100))
    for number, dictionary in enumerate([_FILE, None]):
        _slot(_DELTA, dictionary).write(tmp_path / ID)
        _, opened = recover(tmp_path)
        assert opened.report.set_aside.endswith(str(number))
        assert any("larger than any dictionary" in warning for warning in opened.report.warnings)


def test_another_version_of_the_dictionary_is_refused(tmp_path: Path) -> None:
    directory = _slot(_DELTA, _FILE[:4] + b"\2" + _FILE[5:]).write(tmp_path / ID)
    before = snapshot(directory)
    with pytest.raises(SlotRefusedError, match=r"\.symbol-dict has version 2"):
        recover(tmp_path)
    assert snapshot(directory) == before


def test_an_invalid_text_ends_the_file_and_a_frame_that_holds_it_is_for_the_server(tmp_path: Path) -> None:
    bad = slot_maker.chunk([b"\xff\xfe"])
    _slot([message(0, ["a"])], symbol_dict(["a"]) + bad).write(tmp_path / ID)
    outcome, _ = recover(tmp_path)
    assert outcome.symbols == ["a"]
    assert f"{_DICT}.cut-16-0" in outcome.names


def test_symbols_rebuilt_from_acknowledged_frames_outlive_their_trim(tmp_path: Path) -> None:
    """Found by random damage: the frames were trimmed before anything was written ahead."""
    directory = _slot(_DELTA, None, acked=1).write(tmp_path / ID)
    recover(tmp_path)
    (directory / FIRST).unlink()
    (directory / "sf-manifest.bin").write_bytes(slot_maker.manifest(2, 2))
    outcome, opened = recover(tmp_path)
    assert opened.report.set_aside == ""
    assert outcome.symbols == _ALL
    assert sorted(outcome.frames) == [2, 3]


def test_segments_that_cannot_extend_the_dictionary_are_not_read_again(tmp_path: Path) -> None:
    frames = [message(0, ["a", "b"]), message(2, [], b"x"), *[message(2, [], b"y")] * 4]
    _slot(frames, symbol_dict(["a", "b"]), acked=1).write(tmp_path / ID)
    files = RecordingFiles()
    recover(tmp_path, files)
    opens = [path for name, path in files.calls if name == "open"]
    assert opens.count(FIRST) == 2
    assert opens.count("sf-0000000000000001.sfa") == 1


def test_a_section_larger_than_the_buffer(tmp_path: Path) -> None:
    many = [f"symbol {n:06d} {'x' * 30}" for n in range(9_000)]
    slot = Slot()
    slot.segment(0, [message(0, many[:8_000]), message(0, many)], size=1 << 20)
    slot.files["sf-manifest.bin"] = slot_maker.manifest(0, 0)
    slot.write(tmp_path / ID)
    outcome, _ = recover(tmp_path)
    assert outcome.symbols == many


_NAMES = st.lists(st.text("abcdef", min_size=1, max_size=3), unique=True, min_size=1, max_size=8)


@settings(max_examples=150, deadline=None)
@given(
    names=_NAMES,
    steps=st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=8),
    damage=st.integers(0, 3),
    place=st.integers(0, 500),
    acked=st.integers(-1, 8),
)
def test_invariant_31_32_no_damage_of_the_dictionary_gives_a_wrong_symbol(
    tmp_path_factory: pytest.TempPathFactory,
    names: list[str],
    steps: list[tuple[int, bool]],
    damage: int,
    place: int,
    acked: int,
) -> None:
    """Frames take some new names each, dense or delta; the dictionary is then cut, flipped, zeroed or removed."""
    root = tmp_path_factory.mktemp("slot")
    tip, frames, chunks = 0, [], []
    for new, dense in steps:
        end = min(tip + new, len(names))
        frames.append(message(0, names[:end], b"z") if dense else message(tip, names[tip:end], b"z"))
        if end > tip:
            chunks.append(names[tip:end])
        tip = end
    content = bytearray(symbol_dict(*chunks))
    place %= len(content)
    if damage == 0:
        del content[place:]
    elif damage == 1:
        content[place] ^= 1 << place % 8
    elif damage == 2:
        content[place : place + 5] = bytes(5)
    _slot(frames, None if damage == 3 else bytes(content), min(acked, len(frames) - 1)).write(root / ID)
    try:
        outcome, opened = recover(root)
    except SlotRefusedError:
        assert damage in (1, 2)
        assert content[4] != 1
        return
    assert not opened.report.set_aside, "every symbol still stands in the frames"
    assert outcome.symbols == names[: len(outcome.symbols)]
    assert len(outcome.symbols) >= tip
