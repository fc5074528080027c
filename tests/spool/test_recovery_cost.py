"""What an opening costs: calls, descriptors and memory, in numbers that do not depend on the machine."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from spoolq.spool.files import Files
from spoolq.spool.recovery import open_slot
from tests.spool import slot_maker
from tests.spool.files_double import RecordingFiles
from tests.spool.recovered import ID

_BYTES = 4096


def _make(root: Path, count: int) -> None:
    """``count`` full segments of 4 KiB with one frame each."""
    directory = root / ID
    directory.mkdir(parents=True)
    frame = slot_maker.frame(slot_maker.message(None, body=b"x" * (_BYTES - 24 - 8 - 12)))
    assert len(frame) == _BYTES - 24
    for number in range(count):
        header = slot_maker.segment(number, [])
        (directory / f"sf-{number:016x}.sfa").write_bytes(header + frame)
    (directory / "sf-manifest.bin").write_bytes(slot_maker.manifest(0, count - 1, 2))
    (directory / ".symbol-dict").write_bytes(slot_maker.symbol_dict())
    (directory / ".ack-watermark").write_bytes(slot_maker.watermark(-1))


def test_rec_07_invariant_41_calls_grow_with_the_number_of_segments_only(tmp_path: Path) -> None:
    calls = []
    for count in (64, 256, 1024):
        root = tmp_path / str(count)
        _make(root, count)
        files = RecordingFiles()
        opened = open_slot(files, str(root), ID)
        assert [segment.base for segment in opened.chain] == list(range(count))
        opened.close()
        calls.append(len(files.calls))
        assert max_open(files.calls) <= 6
    assert (calls[2] - calls[1]) * (256 - 64) == (calls[1] - calls[0]) * (1024 - 256)
    assert calls[2] <= 4 * 1024 + 60


def test_rec_07_16384_segments_open_in_order_with_as_many_calls_each(tmp_path: Path) -> None:
    calls = []
    for count in (1_024, 16_384):
        directory = tmp_path / str(count) / ID
        directory.mkdir(parents=True)
        for number in reversed(range(count)):
            made = slot_maker.segment(number, [slot_maker.message(None, body=b"x")])
            (directory / f"sf-{number:016x}.sfa").write_bytes(made)
        (directory / "sf-manifest.bin").write_bytes(slot_maker.manifest(0, count - 1, 2))
        files = RecordingFiles()
        opened = open_slot(files, str(directory.parent), ID)
        assert [segment.base for segment in opened.chain] == list(range(count))
        opened.close()
        calls.append(len(files.calls))
    assert calls[1] - calls[0] <= 4 * (16_384 - 1_024)


def max_open(calls: list[tuple[str, str]]) -> int:
    """Most files that were open at a time."""
    now = most = 0
    for name, _ in calls:
        now += name in ("open", "create", "open_or_create")
        now -= name == "close"
        most = max(most, now)
    return most


def test_rec_07_memory_does_not_depend_on_the_size_of_the_segments(tmp_path: Path) -> None:
    frame = slot_maker.message(None, body=b"x" * 60_000)
    peaks = []
    for count in (20, 60):
        root = tmp_path / str(count)
        slot = slot_maker.Slot()
        slot.segment(0, [frame] * count, size=count * 70_000)
        slot.files["sf-manifest.bin"] = slot_maker.manifest(0, 0)
        slot.write(root / ID)
        tracemalloc.start()
        open_slot(Files(), str(root), ID).close()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 20_000


_LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from spoolq.spool.files import Files
from spoolq.spool.recovery import open_slot
opened = open_slot(Files(), sys.argv[1], sys.argv[2])
print(len(opened.chain), opened.seed.next_fsn)
opened.close()
"""


@pytest.mark.parametrize("count", [300])
def test_rec_07_64_descriptors_are_enough(tmp_path: Path, count: int) -> None:
    _make(tmp_path, count)
    found = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(tmp_path), ID], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == [str(count), str(count)]
