"""``.ack-watermark``: the newest frame that is settled (slot.md 2.6).

A container of two records (`records`) with magic ``AKW1`` and one value, the FSN; -1 when nothing is
acknowledged.  Every write advances the generation, also of the same FSN.  A hint, never a proof:
without it frames are sent again, and one above the published FSN is ignored (invariant 20).

Ancestors that are read: 128 bytes with two records (Java), and 16 bytes (Go):

    0   u32 magic | u32 zero
    8   i64 FSN, no checksum

`read_watermark` changes nothing.  `Watermark` is the open file: `open` makes or mends it, then `write`
(the keeper, never the producer), `sync` before a trim, `close`.
"""

from __future__ import annotations

import os
import struct
from typing import Final

from spoolq import limits
from spoolq.frozen import Frozen
from spoolq.spool import records
from spoolq.spool.files import Files
from spoolq.spool.records import RecordFile

NAME: Final = ".ack-watermark"
MAGIC: Final = 0x31574B41  # AKW1
_GO: Final = struct.Struct("<IIq")


class WatermarkState(Frozen):
    """What the file says: the FSN (None: it says nothing), the record's generation, its length."""

    fsn: int | None
    generation: int
    nbytes: int


def parse_watermark(data: bytes) -> WatermarkState:
    """The state of a file with this content.  Raises records.UnknownVersion."""
    for record in records.parse(data, MAGIC, 1):
        if -1 <= record.values[0] <= limits.FSN_MAX:
            return WatermarkState(record.values[0], record.generation, len(data))
    return WatermarkState(_fsn_of_go(data), 0, len(data))


def _fsn_of_go(data: bytes) -> int | None:
    """The FSN of a Go ancestor, also of one that came no further than to the new length (`RecordFile.extend`)."""
    if len(data) not in (_GO.size, records.CONTAINER_BYTES) or any(data[_GO.size :]):
        return None
    magic, zero, fsn = _GO.unpack_from(data)
    return fsn if magic == MAGIC and zero == 0 and -1 <= fsn <= limits.FSN_MAX else None


def read_watermark(files: Files, slot: str) -> WatermarkState | None:
    """The state of a slot's watermark; None when there is none.  Raises StorageError, records.UnknownVersion."""
    path = os.path.join(slot, NAME)
    if files.stat(path) is None:
        return None
    file = files.open(path, write=False)
    try:
        return parse_watermark(records.read_container(files, file))
    finally:
        files.close(file)


class Watermark:
    """The open watermark."""

    def __init__(self, record_file: RecordFile) -> None:
        self._records = record_file

    @classmethod
    def open(cls, files: Files, slot: str, state: WatermarkState | None) -> Watermark:
        """Opens the file that `read_watermark` saw; makes it when there is none.

        An ancestor becomes a file of today with the same FSN; any other length becomes 8192 zero bytes.
        A file that was made or changed is synced, its name too.
        """
        file = files.open_or_create(os.path.join(slot, NAME))
        try:
            opened = cls(RecordFile(files, file, MAGIC, state.generation if state else 0))
            if state is None or state.nbytes != records.CONTAINER_BYTES:
                if state is not None and state.fsn is not None:
                    opened._records.extend((state.fsn,))
                else:
                    files.truncate(file, 0)
                    files.truncate(file, records.CONTAINER_BYTES)
                files.sync_all(file)
                files.sync_directory(slot)
        except BaseException:
            files.close(file)
            raise
        return opened

    def write(self, fsn: int) -> None:
        """Stores ``fsn`` in the older record, without a sync.  Raises StorageError."""
        self._records.write((fsn,))

    def sync(self) -> None:
        """What was written is durable when this returns."""
        self._records.sync()

    def close(self) -> None:
        """Gives the descriptor back."""
        self._records.close()
