"""The two notes that a drainer leaves in a slot: ``.failed`` and ``.last_error`` (slot.md 1, 7; ours.md 20).

``.failed``      nobody adopts the slot any more until an operator removes the file; its presence is what counts
``.last_error``  why the last attempt did not drain it; overwritten, and removed when the slot drains

Both are UTF-8 text, written under the slot's lock.  ``.failed`` is synced: a power cut must not bring a
slot back that was given up.  ``.last_error`` is not: it is news, nothing hangs on it.
"""

from __future__ import annotations

import os
from typing import Final

from spoolq.spool.files import Files

FAILED_NAME: Final = ".failed"
LAST_ERROR_NAME: Final = ".last_error"


def write_failed(files: Files, slot: str, text: str) -> None:
    """The slot is given up; ``text`` says why and what to do.  Durable when this returns.  Raises StorageError."""
    _write(files, slot, FAILED_NAME, text, sync=True)
    files.sync_directory(slot)


def write_last_error(files: Files, slot: str, text: str) -> None:
    """The slot was not drained this time.  Raises StorageError."""
    _write(files, slot, LAST_ERROR_NAME, text, sync=False)


def remove_last_error(files: Files, slot: str) -> None:
    """The slot has drained.  Raises StorageError."""
    path = os.path.join(slot, LAST_ERROR_NAME)
    if files.stat(path) is not None:
        files.unlink(path)


def _write(files: Files, slot: str, name: str, text: str, *, sync: bool) -> None:
    file = files.open_or_create(os.path.join(slot, name))
    try:
        files.truncate(file, 0)
        files.write(file, 0, text.encode("utf-8", "replace"))
        if sync:
            files.sync_all(file)
    finally:
        files.close(file)
