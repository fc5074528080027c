"""Opens disk stores on temporary slots, and reads what they left by the slot maker's own eyes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spoolq.spool.disk import DiskStore
from spoolq.spool.files import Files
from spoolq.spool.lock import SlotLock
from spoolq.spool.slot import fresh_slot

SEGMENT = 100  # bytes; 68 of payload, or two frames of 30
CREATED = 1_700_000_000_000_000


def fresh(files: Files, directory: Path, *, segment: int = SEGMENT, total: int = 1_000, **options: Any) -> DiskStore:
    """A store on a new slot; no spare yet."""
    lock = SlotLock.acquire(files, str(directory))
    try:
        slot = fresh_slot(
            files, str(directory), lock, segment_nbytes=segment, next_generation=0, created_micros=CREATED
        )
    except BaseException:
        lock.release()
        raise
    return DiskStore.open(files, slot, segment_nbytes=segment, total_nbytes=total, **options)


def put(store: Any, payload: bytes, *, now: int = 0) -> int | None:
    """Publishes a frame; the keeper comes by when there is no room at once.  None: the cap blocks."""
    room = store.reserve(len(payload))
    if room is None:
        store.keep(now)
        room = store.reserve(len(payload))
        if room is None:
            return None
    room.view[:] = payload
    try:
        return int(store.publish(room))
    except BaseException:
        store.abandon(room)
        raise


def payload_of(fsn: int, nbytes: int = 30) -> bytes:
    """What frame ``fsn`` holds: not zero, and nothing another frame has."""
    return (f"frame {fsn} ".encode() * nbytes)[:nbytes]


def fill(store: Any, count: int, nbytes: int = 30) -> None:
    """Publishes ``count`` frames."""
    for fsn in range(store.published_fsn + 1, store.published_fsn + 1 + count):
        assert put(store, payload_of(fsn, nbytes)) == fsn


def replay(store: Any, first: int, max_nbytes: int = 1 << 20) -> list[bytes]:
    """All payloads from ``first`` on."""
    found: list[bytes] = []
    while (run := store.run(first, 1_000, max_nbytes)) is not None:
        assert run.first_fsn == first
        found += [bytes(payload) for payload in run.payloads()]
        first = run.last_fsn + 1
        run.release()
    return found


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())
