"""Two records in one small file: the container of ``sf-manifest.bin`` and ``.ack-watermark``.

8192 bytes, one 64-byte record at 0 and one at 4096, the rest zero (slot.md 2.5, 2.6):

    0   u32 magic | u32 version, 1
    8   i64 generation, >= 1; generation g is stored at (g & 1) * 4096
    16  i64 values, one or two
    ..  zero
    60  u32 CRC-32C of bytes 0 to 59

A write touches only the older record, so one of them always survives.  A reader takes the valid one
with the larger generation; on a tie the one at 4096.  An early Java revision kept both records in
128 bytes (at 0 and 64): it is read, and the first write makes it 8192 bytes long.

Pure: `pack`, `parse`.  On disk: `RecordFile`, which the manifest and the watermark fill with meaning.
"""

from __future__ import annotations

import struct
import threading
from typing import Final

from spoolq import limits
from spoolq.frozen import Frozen
from spoolq.spool.crc import crc32c
from spoolq.spool.files import File, Files
from spoolq.spool.syncing import Proof

CONTAINER_BYTES: Final = 8_192
ANCESTOR_BYTES: Final = 128
RECORD_BYTES: Final = 64
_STRIDE: Final = 4_096
_VERSION: Final = 1
_HEAD: Final = struct.Struct("<IIq")
_CRC: Final = struct.Struct("<I")
_CRC_OFFSET: Final = RECORD_BYTES - _CRC.size


class UnknownVersion(Exception):
    """A record that is whole, and of a version that this package does not know."""

    def __init__(self, version: int) -> None:
        super().__init__(f"version {version}, and this package knows {_VERSION}")


class Record(Frozen):
    """A valid record."""

    generation: int
    values: tuple[int, ...]


def pack(magic: int, generation: int, values: tuple[int, ...]) -> bytes:
    """The 64 bytes of a record."""
    head = _HEAD.pack(magic, _VERSION, generation) + struct.pack(f"<{len(values)}q", *values)
    head = head.ljust(_CRC_OFFSET, b"\0")
    return head + _CRC.pack(crc32c(head))


def offset_of(generation: int) -> int:
    """Where the record of a generation stands."""
    return (generation & 1) * _STRIDE


def parse(data: bytes, magic: int, count: int) -> list[Record]:
    """The valid records of a container with ``count`` values each, the one to use first.

    Empty when there is none, also for any length but 8192 and 128.  Raises UnknownVersion.  What the
    values may be is for the caller to check.
    """
    if len(data) not in (CONTAINER_BYTES, ANCESTOR_BYTES):
        return []
    # Also in a file of today: `RecordFile.extend` may have come no further than to the new length.
    places = (_STRIDE, RECORD_BYTES, 0) if len(data) == CONTAINER_BYTES else (RECORD_BYTES, 0)
    found = (_parse_record(data[at : at + RECORD_BYTES], magic, count) for at in places)
    # sorted is stable, so on a tie the record of the second place stays first
    return sorted((record for record in found if record is not None), key=lambda r: r.generation, reverse=True)


def _parse_record(data: bytes, magic: int, count: int) -> Record | None:
    found_magic, version, generation = _HEAD.unpack_from(data)
    if found_magic != magic or crc32c(data[:_CRC_OFFSET]) != _CRC.unpack_from(data, _CRC_OFFSET)[0]:
        return None
    if version != _VERSION:
        raise UnknownVersion(version)
    if not 0 < generation < limits.RECORD_GENERATION_MAX:
        return None
    return Record(generation, struct.unpack_from(f"<{count}q", data, _HEAD.size))


class RecordFile:
    """An open container.  ``generation`` is that of the newest valid record, 0 when there is none.

    Written by one thread at a time, synced by any; `close` it.  A write that failed may have destroyed the
    older record, never the newer one, and the next write goes to the same place.
    """

    def __init__(self, files: Files, file: File, magic: int, generation: int) -> None:
        self._files = files
        self._file = file
        self._magic = magic
        self.generation = generation
        self._proof = Proof()
        self._storing = threading.Lock()  # a record that is stored again must not go over a newer one
        self._stored: tuple[int, bytes] | None = None

    def write(self, values: tuple[int, ...]) -> None:
        """Stores the next record, without a sync.  Raises StorageError."""
        with self._storing:
            generation = self.generation + 1
            self._store(offset_of(generation), pack(self._magic, generation, values))
            self.generation = generation

    def extend(self, values: tuple[int, ...]) -> None:
        """Makes a shorter file 8192 bytes long, then stores the next record in it.  Raises StorageError.

        The length is synced first and the bytes before 4096 are not touched: a power cut leaves the old file, or the
        old content in the new length, which is read as well, or the new record.
        """
        self._files.truncate(self._file, CONTAINER_BYTES)
        self._files.sync_all(self._file)
        with self._storing:
            generation = (self.generation + 1) | 1
            self._store(offset_of(generation), pack(self._magic, generation, values))
            self.generation = generation

    def sync(self) -> None:
        """What was written is durable when this returns; behind a sync that failed it is written again before."""
        self._proof.sync(lambda: self._files.sync(self._file), self._store_again)

    def _store(self, offset: int, data: bytes) -> None:
        self._files.write(self._file, offset, data)
        self._stored = offset, data

    def _store_again(self) -> None:
        with self._storing:
            if self._stored is not None:
                self._store(*self._stored)

    def close(self) -> None:
        """Gives the descriptor back."""
        self._files.close(self._file)


def read_container(files: Files, file: File) -> bytes:
    """The content of a container file; one byte more than it may have when it is too long."""
    return files.read(file, 0, CONTAINER_BYTES + 1)
