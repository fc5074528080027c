"""Removing segments that are settled, in an order that no power cut can turn into a loss (slot.md 4).

    make_watermark_durable(acked)   the record, its sync, the directory's sync
    (the manifest moves its head)   by the store, which knows the segments
    leftover.append(...)            out of the chain, still a file and still counted
    remove_leftover()               unlink in base order, one sync of the directory

A drained close does `collapse` and then removes every segment.

Below the manifest's head a file is residue: one that cannot be removed costs room, never data.  It
stays in ``leftover``, its bytes counted, and is tried again.  One that is gone already is done with.

Owned by a `DiskStore`, called by its keeper, or by a drainer's `ReplayStore`.
"""

from __future__ import annotations

import errno
import logging

from spoolq.errors import StorageError
from spoolq.spool.files import Files
from spoolq.spool.sealed_reader import SealedReader
from spoolq.spool.segment_file import StoredSegment
from spoolq.spool.slot import LiveSlot

_LOG = logging.getLogger("spoolq.spool")


class Trimmer:
    """``leftover``: settled segments whose file is there.  ``removed_nbytes``: bytes of all that were removed."""

    def __init__(self, files: Files, slot: LiveSlot, reader: SealedReader) -> None:
        self._files = files
        self._slot = slot
        self._reader = reader
        self.leftover: list[StoredSegment] = []
        self.removed_nbytes = 0

    def make_watermark_durable(self, acked_fsn: int) -> None:
        """After this no power cut makes a frame up to ``acked_fsn`` wait again.  Raises StorageError."""
        self._slot.lock.check()
        self._slot.watermark.write(acked_fsn)
        self._slot.watermark.sync()
        self._files.sync_directory(self._slot.directory)

    def collapse(self, acked_fsn: int) -> None:
        """The slot says that all of it is settled; from here on its segments may go.  Raises StorageError."""
        if acked_fsn >= 0:
            self.make_watermark_durable(acked_fsn)
        active = self._slot.manifest.boundaries.active
        self._slot.manifest.update(active, active)

    def remove_leftover(self) -> None:
        """Removes the files of ``leftover``; stops at the first that stays.  Raises StorageError."""
        removed = False
        try:
            while self.leftover:
                segment = self.leftover[0]
                self._reader.forget(segment.path)
                self._slot.lock.check()
                self._unlink(segment.path)
                del self.leftover[0]
                self.removed_nbytes += segment.nbytes
                removed = True
        finally:
            if removed:
                self._files.sync_directory(self._slot.directory)

    def _unlink(self, path: str) -> None:
        try:
            self._files.unlink(path)
        except StorageError as error:
            if error.errno != errno.ENOENT:
                raise
            # Tried again for ever it would keep all later ones, and their room, from being freed.
            _LOG.warning("somebody else has removed %s; all of it was acknowledged, so nothing is lost this time", path)
