""".ack-watermark: bytes, ancestors, writes (slot.md 2.6)."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolq.errors import StorageError
from spoolq.spool import records, watermark
from spoolq.spool.files import Files
from spoolq.spool.watermark import Watermark, WatermarkState, parse_watermark, read_watermark
from tests.spool import slot_maker
from tests.spool.files_double import FailingFiles


def _fsn(directory: Path) -> int | None:
    found = slot_maker.read_record((directory / watermark.NAME).read_bytes(), b"AKW1", 1)
    return None if found is None else found[0]


def test_invariant_01_first_watermark_record_is_the_golden_one() -> None:
    golden = slot_maker.golden("watermark-first")
    assert records.pack(watermark.MAGIC, 1, (0,)) == golden == slot_maker.record(b"AKW1", 1, 0)


def test_a_new_watermark_says_nothing_until_the_first_write(tmp_path: Path) -> None:
    opened = Watermark.open(Files(), str(tmp_path), None)
    assert (tmp_path / watermark.NAME).read_bytes() == bytes(8192)
    opened.write(4)
    opened.write(4)  # the same FSN: a new generation in the other place
    opened.close()
    expected = slot_maker.container({4096: slot_maker.record(b"AKW1", 1, 4), 0: slot_maker.record(b"AKW1", 2, 4)})
    assert (tmp_path / watermark.NAME).read_bytes() == expected


def test_wmk_03_a_torn_record_leaves_the_one_before() -> None:
    data = bytearray(
        slot_maker.container({4096: slot_maker.record(b"AKW1", 3, 8), 0: slot_maker.record(b"AKW1", 4, 9)})
    )
    assert parse_watermark(bytes(data)).fsn == 9
    for cut in range(1, 64):
        torn = data[:cut] + bytes(64 - cut) + data[64:]
        assert parse_watermark(bytes(torn)).fsn == 8


def test_writing_goes_on_behind_the_record_that_was_read(tmp_path: Path) -> None:
    (tmp_path / watermark.NAME).write_bytes(slot_maker.watermark(7, generation=12))
    state = read_watermark(Files(), str(tmp_path))
    assert state == WatermarkState(7, 12, 8192)
    opened = Watermark.open(Files(), str(tmp_path), state)
    opened.write(8)
    opened.sync()
    opened.close()
    data = (tmp_path / watermark.NAME).read_bytes()
    assert data[4096:4160] == slot_maker.record(b"AKW1", 13, 8)
    assert data[:64] == slot_maker.record(b"AKW1", 12, 7)


_ANCESTORS = {
    "go": struct.pack("<IIq", 0x31574B41, 0, 33),
    "java": slot_maker.container({0: slot_maker.record(b"AKW1", 5, 32), 64: slot_maker.record(b"AKW1", 6, 33)}, 128),
}


@pytest.mark.parametrize("kind", _ANCESTORS)
def test_ancestors_are_read_and_become_a_file_of_today(tmp_path: Path, kind: str) -> None:
    (tmp_path / watermark.NAME).write_bytes(_ANCESTORS[kind])
    state = read_watermark(Files(), str(tmp_path))
    assert state is not None
    assert state.fsn == 33
    opened = Watermark.open(Files(), str(tmp_path), state)
    assert _fsn(tmp_path) == 33
    opened.write(34)
    opened.close()
    assert _fsn(tmp_path) == 34


@pytest.mark.parametrize("kind", _ANCESTORS)
@pytest.mark.parametrize("step", range(5))
def test_a_failed_conversion_never_raises_the_watermark(tmp_path: Path, kind: str, step: int) -> None:
    (tmp_path / watermark.NAME).write_bytes(_ANCESTORS[kind])
    state = read_watermark(Files(), str(tmp_path))
    with pytest.raises(StorageError):
        Watermark.open(FailingFiles(step), str(tmp_path), state).close()
    again = read_watermark(Files(), str(tmp_path))
    assert again is not None
    assert again.fsn in (None, 33)


@pytest.mark.parametrize(
    "data",
    [b"", b"x" * 16, struct.pack("<IIq", 0x31574B41, 1, 33), struct.pack("<IIq", 0x31574B41, 0, -2), bytes(8192),
     slot_maker.watermark(3)[:-1], slot_maker.container({0: slot_maker.record(b"AKW1", 1, -2)})],
)  # fmt: skip
def test_everything_else_says_nothing(tmp_path: Path, data: bytes) -> None:
    assert parse_watermark(data).fsn is None
    (tmp_path / watermark.NAME).write_bytes(data)
    Watermark.open(Files(), str(tmp_path), parse_watermark(data)).close()
    assert len((tmp_path / watermark.NAME).read_bytes()) == 8192
    assert parse_watermark((tmp_path / watermark.NAME).read_bytes()).fsn is None


def test_another_version_and_a_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(records.UnknownVersion):
        parse_watermark(slot_maker.container({0: slot_maker.record(b"AKW1", 1, 3, version=9)}))
    (tmp_path / watermark.NAME).mkdir()
    with pytest.raises(StorageError):
        read_watermark(Files(), str(tmp_path))


@given(st.integers(-1, 1 << 61), st.integers(1, 1 << 61), st.binary(max_size=80), st.integers(0, 8192))
def test_damage_gives_an_older_watermark_or_none(fsn: int, generation: int, noise: bytes, at: int) -> None:
    whole = bytearray(slot_maker.watermark(fsn, generation))
    assert parse_watermark(bytes(whole)).fsn == fsn
    whole[at : at + len(noise)] = noise
    assert parse_watermark(bytes(whole[:8192])).fsn in (None, fsn)
