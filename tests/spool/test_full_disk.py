"""A disk that is full later: no page of a mapped segment may be without its block then.

A store into such a page would be SIGBUS, which ends the process in the middle of `row`.  So blocks are taken, whole,
before a segment is mapped, and every page is made present before a frame goes there; where there is no room, that is
an error which the caller gets.  A slot of another client may be sparse: its active segment gets its blocks at opening.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from spoolq.spool.files import File, Files
from tests.spool.disk_slot import fill, fresh
from tests.spool.slot_maker import Slot, manifest
from tests.spool.test_disk_restart import ID, reopen

SEGMENT = 1 << 20
_BLOCK_BYTES = 512  # of st_blocks, whatever the filesystem's are (stat(2))


class WatchedFiles(Files):
    """Notes of each file that is mapped how many of its bytes have blocks, and which were made present."""

    def __init__(self) -> None:
        super().__init__()
        self.mapped: list[tuple[str, int, int]] = []
        self.populated: list[str] = []

    def map(self, file: File, nbytes: int) -> Any:
        taken = os.fstat(file.fd).st_blocks * _BLOCK_BYTES
        self.mapped.append((os.path.basename(file.path), nbytes, taken))
        return super().map(file, nbytes)

    def populate(self, file: File, mapping: Any) -> None:
        self.populated.append(os.path.basename(file.path))
        super().populate(file, mapping)

    def check(self, segments: int) -> None:
        """So many segments were mapped, each whole."""
        assert len({name for name, _, _ in self.mapped}) == segments
        assert [(name, nbytes) for name, nbytes, taken in self.mapped if taken < nbytes] == []
        assert self.populated == [name for name, _, _ in self.mapped]


def test_every_block_of_a_segment_is_taken_before_it_is_mapped(tmp_path: Path) -> None:
    files = WatchedFiles()
    store = fresh(files, tmp_path / ID, segment=SEGMENT, total=4 * SEGMENT)
    store.keep(0)  # the spare
    fill(store, 3, 300_000)
    fill(store, 1, 300_000)
    store.keep(0)  # and the next one
    store.acknowledge(3)
    store.close()
    files.check(3)


@pytest.mark.parametrize("frames", [[b"one"], [b"one", b"two" * 5_000]])
def test_a_sparse_segment_of_another_client_gets_its_blocks_when_it_is_opened(
    tmp_path: Path, frames: list[bytes]
) -> None:
    slot = Slot()
    slot.segment(0, frames, flags=1, size=SEGMENT)
    slot.files["sf-manifest.bin"] = manifest(0, 0)
    slot.write(tmp_path / ID)
    (path,) = (tmp_path / ID).glob("*.sfa")
    used = len(path.read_bytes().rstrip(b"\0"))
    os.truncate(path, used)
    os.truncate(path, SEGMENT)
    assert path.stat().st_blocks * _BLOCK_BYTES < SEGMENT
    files = WatchedFiles()
    reopen(tmp_path, files).store.close()
    files.check(1)
