"""Keeps what recovery takes away from a slot's files: copies of cut bytes, new names for corrupt files.

Nothing is ever replaced: the first free number is taken, so a recovery that is repeated after a failure
makes one more copy and destroys none.  None of the names ends in ``.sfa``, so no client takes one for a
segment.  All of it goes through `Files`; errors are StorageError.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from spoolq import limits
from spoolq.errors import StorageError
from spoolq.spool.files import Files


def keep_copy(files: Files, slot: str, name: str, offset: int, end: int) -> str:
    """Copies bytes ``offset`` to ``end - 1`` of a file to ``<name>.cut-<offset>-<n>``, durably; the copy's name.

    On failure no copy is left, unless removing it failed as well.
    """
    copy = _free(files, slot, (f"{name}.cut-{offset}-{n}" for n in range(limits.COPY_NUMBER_MAX)))
    path = os.path.join(slot, copy)
    source = files.open(os.path.join(slot, name), write=False)
    try:
        target = files.create(path)
        try:
            try:
                for at in range(offset, end, limits.WRITE_PIECE_BYTES):
                    piece = files.read(source, at, min(limits.WRITE_PIECE_BYTES, end - at))
                    files.write(target, at - offset, piece)
                files.sync_all(target)
            finally:
                files.close(target)
            files.sync_directory(slot)
        except BaseException:
            with contextlib.suppress(StorageError):
                files.unlink(path)
            raise
    finally:
        files.close(source)
    return copy


def clear(files: Files, slot: str, name: str, offset: int, end: int) -> None:
    """Zeroes bytes ``offset`` to ``end - 1`` of a file, durably."""
    file = files.open(os.path.join(slot, name))
    try:
        zeros = memoryview(bytes(limits.WRITE_PIECE_BYTES))
        for at in range(offset, end, len(zeros)):
            files.write(file, at, zeros[: min(len(zeros), end - at)])
        files.sync(file)
    finally:
        files.close(file)


def quarantine(files: Files, slot: str, name: str) -> str:
    """Renames a file to ``<name>.corrupt``, or ``<name>.corrupt.<n>`` when that is taken; the new name.

    The directory is not synced.
    """
    taken = (f"{name}.corrupt.{n}" if n else f"{name}.corrupt" for n in range(limits.COPY_NUMBER_MAX))
    new = _free(files, slot, taken)
    files.rename(os.path.join(slot, name), os.path.join(slot, new))
    return new


def _free(files: Files, slot: str, names: Iterator[str]) -> str:
    for name in names:
        if files.stat(os.path.join(slot, name)) is None:
            return name
    raise StorageError(
        f"{slot} holds {limits.COPY_NUMBER_MAX} copies of one file from earlier recoveries: move them away, and look "
        "for what damages the slot again and again"
    )
