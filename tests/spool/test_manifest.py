"""sf-manifest.bin: bytes, choice of the record, updates (slot.md 2.5)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolq.errors import StorageError
from spoolq.spool import manifest, records
from spoolq.spool.files import Files
from spoolq.spool.manifest import Boundaries, Manifest, parse_manifest, read_manifest
from tests.spool import slot_maker
from tests.spool.files_double import FailingFiles, RecordingFiles


def test_invariant_01_first_manifest_record_is_the_golden_one() -> None:
    golden = slot_maker.golden("manifest-first")
    assert records.pack(manifest.MAGIC, 1, (0, 0)) == golden == slot_maker.record(b"SFM1", 1, 0, 0)


def test_create_gives_8192_bytes_with_the_record_at_4096_and_syncs_file_and_directory(tmp_path: Path) -> None:
    files = RecordingFiles()
    Manifest.create(files, str(tmp_path), 0, 0).close()
    assert (tmp_path / manifest.NAME).read_bytes() == slot_maker.manifest(0, 0)
    names = [name for name, _ in files.calls]
    assert names == ["create", "truncate", "write", "sync_all", "sync_directory", "close"]


@pytest.mark.parametrize("step", range(5))
def test_invariant_42_a_manifest_that_cannot_be_made_leaves_no_file(tmp_path: Path, step: int) -> None:
    with pytest.raises(StorageError):
        Manifest.create(FailingFiles(step), str(tmp_path), 0, 0)
    assert list(tmp_path.iterdir()) == []


def test_create_never_replaces_a_manifest(tmp_path: Path) -> None:
    (tmp_path / manifest.NAME).write_bytes(b"mine")
    with pytest.raises(StorageError):
        Manifest.create(Files(), str(tmp_path), 0, 0)
    assert (tmp_path / manifest.NAME).read_bytes() == b"mine"


def test_updates_alternate_between_the_two_places(tmp_path: Path) -> None:
    made = Manifest.create(Files(), str(tmp_path), 0, 0)
    path = tmp_path / manifest.NAME
    for generation, (head, active) in enumerate([(0, 5), (5, 9), (5, 12)], start=2):
        before = path.read_bytes()
        made.update(head, active)
        after = path.read_bytes()
        at = generation % 2 * 4096
        assert after[at : at + 64] == slot_maker.record(b"SFM1", generation, head, active)
        assert after[:at] + after[at + 64 :] == before[:at] + before[at + 64 :]
    made.close()


def test_invariant_16_boundaries_never_fall_and_no_change_writes_nothing(tmp_path: Path) -> None:
    files = RecordingFiles()
    made = Manifest.create(files, str(tmp_path), 3, 7)
    made.update(5, 6)
    assert made.boundaries == Boundaries(5, 7)
    del files.calls[:]
    made.update(4, 7)
    assert [name for name, _ in files.calls] == []
    made.update(5, 8, sync=False)
    assert [name for name, _ in files.calls] == ["write"]
    made.sync()
    assert [name for name, _ in files.calls] == ["write", "sync"]
    made.close()
    assert slot_maker.read_record((tmp_path / manifest.NAME).read_bytes(), b"SFM1", 2) == (5, 8)


@given(st.integers(1, 1 << 61), st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_parse_finds_what_the_independent_maker_wrote(generation: int, head: int, more: int) -> None:
    state = parse_manifest(slot_maker.manifest(head, head + more, generation))
    assert (state.boundaries, state.generation) == (Boundaries(head, head + more), generation)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((3, 1, 2), (4, 5, 6), (5, 6)),
        ((9, 1, 2), (4, 5, 6), (1, 2)),
        ((4, 1, 2), (4, 5, 6), (5, 6)),  # a tie: the one at 4096
        ((4, 7, 2), (3, 5, 6), (5, 6)),  # active below head
        ((4, -1, 2), (3, 5, 6), (5, 6)),
        ((0, 1, 2), (-3, 5, 6), None),
        ((4, 1, 1 << 63), (3, 5, 6), None),
    ],
)
def test_the_valid_record_with_the_larger_generation_counts(
    first: tuple[int, int, int], second: tuple[int, int, int], expected: tuple[int, int] | None
) -> None:
    if first[2] == 1 << 63:
        data = slot_maker.container({0: slot_maker.record(b"SFM2", 4, 1, 2), 4096: b"\xff" * 64})
    else:
        data = slot_maker.container({0: slot_maker.record(b"SFM1", *first), 4096: slot_maker.record(b"SFM1", *second)})
    state = parse_manifest(data)
    assert state.boundaries == (None if expected is None else Boundaries(*expected))


def test_seg_07_a_whole_record_of_another_version_is_refused() -> None:
    data = slot_maker.container({0: slot_maker.record(b"SFM1", 4, 0, 0, version=2)})
    with pytest.raises(records.UnknownVersion, match="version 2"):
        parse_manifest(data)


def test_every_flipped_bit_of_the_only_record_makes_the_manifest_unusable() -> None:
    data = slot_maker.manifest(1, 2)
    for bit in range(64 * 8):
        damaged = bytearray(data)
        damaged[4096 + bit // 8] ^= 1 << bit % 8
        assert parse_manifest(bytes(damaged)).boundaries is None


@pytest.mark.parametrize("nbytes", [0, 64, 127, 129, 4160, 8191, 8193])
def test_any_other_length_is_unusable(nbytes: int) -> None:
    assert parse_manifest(slot_maker.manifest(0, 0).ljust(9000, b"\0")[:nbytes]).boundaries is None


@pytest.mark.parametrize("places", [(0, 64), (64, 0)])
def test_the_128_byte_ancestor_is_read_and_becomes_a_file_of_today(tmp_path: Path, places: tuple[int, int]) -> None:
    older, newer = slot_maker.record(b"SFM1", 6, 1, 2), slot_maker.record(b"SFM1", 7, 3, 4)
    path = tmp_path / manifest.NAME
    path.write_bytes(slot_maker.container({places[0]: older, places[1]: newer}, 128))
    state = read_manifest(Files(), str(tmp_path))
    assert state is not None
    assert state.boundaries == Boundaries(3, 4)
    opened = Manifest.open(Files(), str(tmp_path), state)
    assert slot_maker.read_record(path.read_bytes(), b"SFM1", 2) == (3, 4)
    opened.update(4, 4)
    opened.close()
    assert slot_maker.read_record(path.read_bytes(), b"SFM1", 2) == (4, 4)


@pytest.mark.parametrize("step", range(4))
def test_a_failed_conversion_of_the_ancestor_leaves_it_readable(tmp_path: Path, step: int) -> None:
    path = tmp_path / manifest.NAME
    path.write_bytes(slot_maker.container({0: slot_maker.record(b"SFM1", 7, 3, 4)}, 128))
    state = read_manifest(Files(), str(tmp_path))
    assert state is not None
    with pytest.raises(StorageError):
        Manifest.open(FailingFiles(step), str(tmp_path), state).close()
    again = read_manifest(Files(), str(tmp_path))
    assert again is not None
    assert again.boundaries == Boundaries(3, 4)


def test_absent_directory_and_link(tmp_path: Path) -> None:
    assert read_manifest(Files(), str(tmp_path)) is None
    (tmp_path / manifest.NAME).mkdir()
    state = read_manifest(Files(), str(tmp_path))
    assert state is not None
    assert state.boundaries is None
    (tmp_path / manifest.NAME).rmdir()
    (tmp_path / manifest.NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="link"):
        read_manifest(Files(), str(tmp_path))
