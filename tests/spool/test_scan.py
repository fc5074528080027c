"""One segment file: frames, their end, and what stands behind (slot.md 2.2)."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spoolq.errors import StorageError
from spoolq.spool import scan
from spoolq.spool.files import Files
from spoolq.spool.scan import Residue, Segment, UnknownFormat, scan_segment, walk
from tests.spool import slot_maker
from tests.spool.files_double import RecordingFiles

_BUFFER = 4096


def _scan(directory: Path, data: bytes, buffer_nbytes: int = _BUFFER, files: Files | None = None) -> Segment:
    path = directory / "a.sfa"
    path.write_bytes(data)
    return scan_segment(files or Files(), str(path), path.name, len(data), memoryview(bytearray(buffer_nbytes)))


def _payloads(directory: Path, segment: Segment, buffer_nbytes: int = _BUFFER) -> list[bytes]:
    data = (directory / segment.name).read_bytes()
    frames = walk(Files(), str(directory / segment.name), segment, memoryview(bytearray(buffer_nbytes)))
    return [data[frame.offset + 8 : frame.offset + 8 + frame.nbytes] for frame in frames]


def test_invariant_01_golden_segments_scan_as_the_specification_says(tmp_path: Path) -> None:
    two = slot_maker.golden("segment-two-frames")
    assert two == slot_maker.segment(42, [b"one", b"two-two"], size=64, flags=0, created=1234567890123)
    found = _scan(tmp_path, two)
    assert (found.base, found.count, found.append_offset, found.residue) == (42, 2, 50, None)
    assert (found.end_fsn, found.payload_nbytes, found.created_micros) == (44, 10, 1234567890123)
    torn = _scan(tmp_path, slot_maker.golden("segment-torn"))
    assert (torn.count, torn.append_offset) == (1, 35)
    assert torn.residue == Residue(35, 50, unfinished=False)  # it has its CRC, so it was finished once
    symbol = slot_maker.golden("segment-symbol")
    assert symbol == slot_maker.segment(0, [slot_maker.message(0, ["a"])], size=64)
    found = _scan(tmp_path, symbol)
    assert (found.count, found.append_offset, found.symbols, found.flags) == (1, 48, True, 1)


@settings(max_examples=60)
@given(
    payloads=st.lists(
        st.one_of(st.binary(min_size=1, max_size=40), st.binary(min_size=300, max_size=900)), max_size=12
    ),
    base=st.integers(0, 1 << 50),
    buffer_nbytes=st.integers(64, 400),
    rest=st.integers(0, 700),
)
def test_seg_01_every_frame_comes_back_in_order_whatever_the_buffer(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes], base: int, buffer_nbytes: int, rest: int
) -> None:
    directory = tmp_path_factory.mktemp("scan")
    data = slot_maker.segment(base, payloads)
    found = _scan(directory, data + bytes(rest), buffer_nbytes)
    assert (found.kind, found.base, found.count) == ("segment", base, len(payloads))
    assert (found.append_offset, found.residue) == (len(data), None)
    assert _payloads(directory, found, buffer_nbytes) == payloads


def test_seg_02_a_cut_at_every_byte_ends_at_the_last_whole_frame(tmp_path: Path) -> None:
    payloads = [b"first", b"the second one", b"3"]
    data = slot_maker.segment(7, payloads)
    for cut in range(24, len(data) + 1):
        for size in (cut, len(data) + 30):
            found = _scan(tmp_path, data[:cut].ljust(size, b"\0"))
            expected, offset = slot_maker.whole_frames(data[:cut])
            assert (found.count, found.append_offset) == (len(expected), offset)
            assert (found.residue is None) == (not data[offset:cut].strip(b"\0"))


def test_seg_06_absurd_lengths_and_bases_are_no_frames_and_no_segments(tmp_path: Path) -> None:
    whole = slot_maker.segment(0, [b"x"])
    for length in (-1, -(2**31), 2**31 - 1, 9):
        found = _scan(tmp_path, whole + struct.pack("<Ii", 1, length) + bytes(8))
        assert (found.count, found.append_offset) == (1, len(whole))
        assert found.residue is not None
    for base in (-1, -(2**63), 2**63 - 1):
        found = _scan(tmp_path, slot_maker.segment(base, [b"x"]))
        assert (found.kind, found.fault) == ("corrupt", f"base {base}")


@pytest.mark.parametrize(
    ("data", "kind", "fault"),
    [
        (b"", "blank", ""),
        (bytes(64), "blank", ""),
        (bytes(10), "blank", ""),
        (bytes(63) + b"x", "corrupt", "bad magic 00000000"),
        (b"SF01\1\0\0\0", "corrupt", "8 bytes are no header"),
        (b"SF02" + bytes(60), "corrupt", "bad magic 32304653"),
        (b"SF01\1\0\0\1" + bytes(60), "corrupt", "reserved bytes are 0100"),
    ],
)
def test_seg_07_bad_headers_are_told_apart(tmp_path: Path, data: bytes, kind: str, fault: str) -> None:
    found = _scan(tmp_path, data)
    assert (found.kind, found.fault) == (kind, fault)


@pytest.mark.parametrize("data", [b"SF01\2\0\0\0" + bytes(60), b"SF01\0\0\0\0" + bytes(60)])
def test_seg_07_an_unknown_version_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(UnknownFormat, match=r"a\.sfa has version"):
        _scan(tmp_path, data)


@pytest.mark.parametrize("flags", [2, 3, 0x80])
def test_seg_07_an_unknown_flag_is_refused(tmp_path: Path, flags: int) -> None:
    with pytest.raises(UnknownFormat, match="flags"):
        _scan(tmp_path, slot_maker.segment(0, [b"x"], flags=flags))


def test_invariant_10_residue_is_found_behind_a_gap_of_zeros_of_any_length(tmp_path: Path) -> None:
    whole = slot_maker.segment(0, [b"x"])
    for gap in (0, 8, 9, 100, 5000):
        found = _scan(tmp_path, whole + bytes(gap) + b"\0y\0z\0" + bytes(6000))
        assert found.residue == Residue(len(whole) + gap + 1, len(whole) + gap + 4, unfinished=False)


_NEXT = slot_maker.message(0, ["symbol"], b"0123456789")


@pytest.mark.parametrize(
    ("rest", "unfinished"),
    [
        (struct.pack("<Ii", 0, 5) + b"half", True),  # length stored, payload under way
        (struct.pack("<Ii", 0, 5), True),
        (struct.pack("<Ii", 0, 5) + b"whole", True),
        (struct.pack("<Ii", 0, 5) + b"whole+", False),  # something behind it
        (struct.pack("<Ii", 0, 500) + b"x", False),  # no frame of that size fits
        (struct.pack("<Ii", 0, -5) + b"x", False),
        (struct.pack("<Ii", 7, 5) + b"whole", False),  # it had its CRC
        (bytes(8) + _NEXT, True),  # payload first, header last
        (bytes(8) + _NEXT[:-5], True),
        (bytes(8) + _NEXT + b"x", False),
        (bytes(8) + b"QWP", False),
        (bytes(8) + b"stale frame of something", False),
        (b"\1", False),
    ],
)
def test_only_bytes_of_one_frame_without_a_crc_are_unfinished(tmp_path: Path, rest: bytes, unfinished: bool) -> None:
    data = slot_maker.segment(0, [b"x"]) + rest
    found = _scan(tmp_path, data.ljust(120, b"\0"))
    assert found.count == 1
    assert found.residue is not None
    assert found.residue.unfinished == unfinished


def test_what_is_noted_of_messages(tmp_path: Path) -> None:
    message = slot_maker.message
    plain = _scan(tmp_path, slot_maker.segment(0, [b"opaque", b"", message(), message(300, [])]))
    assert (plain.empty_frame, plain.commit_index, plain.symbols, plain.start_max) == (1, 3, False, 300)
    tail = [message(0, ["a"]), message(1, ["b"] * 200, defer=True), message(defer=True)]
    deferred = _scan(tmp_path, slot_maker.segment(0, tail))
    assert (deferred.empty_frame, deferred.commit_index, deferred.symbols, deferred.start_max) == (-1, 0, True, 1)
    cut = b"QWP1\1\x09\0\0\0\0\0\0"  # flags say dictionary and deferred, and there is no section
    short = _scan(tmp_path, slot_maker.segment(0, [cut, b"QWP1\1\x09\0\0\0\0\0"]))
    assert (short.commit_index, short.symbols) == (1, False)  # 11 bytes are opaque, and commit


def test_a_frame_larger_than_the_buffer_is_noted_as_any_other(tmp_path: Path) -> None:
    payloads = [
        slot_maker.message(5, ["a"], b"x" * 1000, defer=True),
        b"y" * 700,
        slot_maker.message(2, [], b"z" * 999),
    ]
    found = _scan(tmp_path, slot_maker.segment(0, payloads) + bytes(50), 128)
    assert (found.count, found.commit_index, found.symbols, found.start_max) == (3, 2, True, 5)
    damaged = bytearray(slot_maker.segment(0, payloads))
    damaged[-1] ^= 1
    assert _scan(tmp_path, bytes(damaged), 128).count == 2


def test_seg_08_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.sfa").mkdir()
    with pytest.raises(StorageError):
        scan_segment(Files(), str(tmp_path / "a.sfa"), "a.sfa", 64, memoryview(bytearray(_BUFFER)))
    (tmp_path / "b.sfa").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StorageError, match="link"):
        scan_segment(Files(), str(tmp_path / "b.sfa"), "b.sfa", 64, memoryview(bytearray(_BUFFER)))


def test_a_file_that_became_shorter_meanwhile_is_a_shorter_file(tmp_path: Path) -> None:
    path = tmp_path / "a.sfa"
    path.write_bytes(slot_maker.segment(0, [b"one", b"two"])[:-1])
    found = scan_segment(Files(), str(path), "a.sfa", 500, memoryview(bytearray(_BUFFER)))
    assert found.count == 1


def test_memory_and_calls_do_not_depend_on_the_number_of_frames(tmp_path: Path) -> None:
    files = RecordingFiles()
    data = slot_maker.segment(0, [b"payload"] * 500)
    _scan(tmp_path, data, len(data), files)
    assert [name for name, _ in files.calls] == ["open", "read_into", "close"]
    assert scan.BUFFER_BYTES == 256 << 10
