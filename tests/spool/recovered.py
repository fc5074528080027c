"""What the recovery tests share: frames, a usual slot, and what a slot holds after it was opened."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from spoolq.spool.files import Files
from spoolq.spool.recovery import OpenedSlot, open_slot
from tests.spool import slot_maker
from tests.spool.slot_maker import Slot

ID = "writer"
_LOCK_FILES = {".lock", ".lock.pid"}


def payload(fsn: int) -> bytes:
    """A message without dictionary, another one for each FSN."""
    return slot_maker.message(None, body=f"frame {fsn}".encode())


def payloads(first: int, end: int) -> list[bytes]:
    return [payload(fsn) for fsn in range(first, end)]


def usual(*, flags: int = 1, spare: bool = True) -> Slot:
    """FSN 0 and 1 in a full segment, 2 to 4 in the active one with room behind, a spare, a watermark of 0."""
    slot = Slot()
    slot.segment(0, payloads(0, 2), flags=flags)
    slot.segment(2, payloads(2, 5), size=256, flags=flags)
    if spare:
        slot.segment(5, [], size=256, flags=flags)
    if flags:
        slot.files["sf-manifest.bin"] = slot_maker.manifest(0, 2, generation=3)
    slot.files[".ack-watermark"] = slot_maker.watermark(0, generation=4)
    slot.files[".symbol-dict"] = slot_maker.symbol_dict()
    return slot


FIRST, ACTIVE, SPARE = (f"sf-{n:016x}.sfa" for n in range(3))


def snapshot(directory: Path) -> dict[str, bytes | None]:
    """Content of every file below ``directory``, without the lock files; None for directories and links."""
    found: dict[str, bytes | None] = {}
    for path in sorted(directory.rglob("*")):
        if path.name not in _LOCK_FILES:
            found[str(path.relative_to(directory))] = path.read_bytes() if path.is_file() else None
    return found


@dataclass(frozen=True)
class Outcome:
    """An opened and closed slot: frames that would be sent by FSN, counters, symbols, names afterwards."""

    frames: dict[int, bytes]
    next_fsn: int
    acked_fsn: int
    symbols: list[str]
    names: list[str]


def outcome_of(opened: OpenedSlot, directory: Path) -> Outcome:
    """Reads the frames from the disk by the independent reader, where the opened slot says they are."""
    frames: dict[int, bytes] = {}
    for segment in opened.chain:
        data = (directory / segment.name).read_bytes()
        found, end = slot_maker.whole_frames(data)
        assert len(data) == segment.nbytes
        assert int.from_bytes(data[8:16], "little") == segment.base
        assert (len(found), end) == (segment.count, segment.append_offset)
        assert not data[end:].strip(b"\0"), "what stands behind the last frame is zero (invariant 10)"
        assert data[5] == 1
        frames.update(enumerate(found, segment.base))
    send = {f: p for f, p in frames.items() if opened.seed.acked_fsn < f < opened.seed.deferred_fsn}
    assert sorted(send) == list(range(opened.seed.acked_fsn + 1, opened.seed.deferred_fsn))
    assert opened.report.frames_remaining == len(send)
    assert opened.report.remaining_nbytes == sum(map(len, send.values()))
    if opened.chain:
        manifest = slot_maker.read_record((directory / "sf-manifest.bin").read_bytes(), b"SFM1", 2)
        assert manifest == (opened.chain[0].base, opened.chain[-1].base)
    table = opened.symbols
    return Outcome(
        send,
        opened.seed.next_fsn,
        opened.seed.acked_fsn,
        [table.text_of(i) for i in range(len(table))],
        sorted(set(os.listdir(directory)) - _LOCK_FILES),
    )


def recover(root: Path, files: Files | None = None) -> tuple[Outcome, OpenedSlot]:
    """Opens the slot ``ID`` below ``root``, looks at it, closes it."""
    opened = open_slot(files or Files(), str(root), ID)
    try:
        return outcome_of(opened, root / ID), opened
    finally:
        opened.close()
