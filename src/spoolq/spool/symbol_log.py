"""``.symbol-dict``: the symbols of a slot, written ahead of the frames that use them (slot.md 2.7).

    0   u32 magic SYD1 | u8 version, 1 | 3 zero bytes
    8   chunks: varint entries | varint bytes | the entries, varint length + UTF-8 each | u32 CRC-32C

The CRC covers both varints and the entries.  The id of a symbol is its place among all entries; chunk
boundaries mean nothing.  The file's length is its content, except that a Java writer that died left
zeros behind the last chunk, which is why a zero byte ends the content.

- `parse_chunks`, `chunk`: pure.
- `read_symbols`: what a slot's file holds; changes nothing.
- `SymbolLog`: the open file.  ``write_ahead`` before each publish, ``rollback`` when the publish failed,
  ``restart`` when ids begin anew, ``sync`` from any thread, ``close``.  Owned by the producer, under the
  sender's lock.

When a rollback cannot cut the file, its magic is zeroed, so that no later reader takes it for the
truth, and ``usable`` turns False: from then on every frame must carry all its symbols (dense).
"""

from __future__ import annotations

import logging
import os
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from spoolq import limits
from spoolq.columns.symbols import SymbolTable
from spoolq.columns.varint import varint
from spoolq.errors import StorageError, SymbolDictionaryFull
from spoolq.frozen import Frozen
from spoolq.spool.crc import crc32c
from spoolq.spool.files import File, Files, take_back
from spoolq.spool.syncing import Proof

NAME: Final = ".symbol-dict"
HEADER: Final = b"SYD1\x01\0\0\0"
_MAGIC: Final = HEADER[:4]
_VERSION: Final = HEADER[4]
_CRC: Final = struct.Struct("<I")
_PIECE_BYTES: Final = 1 << 20
_VARINT_BYTES_MAX: Final = 5  # of a 32-bit number; longer forms are damage here
_LOG = logging.getLogger("spoolq.spool")


class UnknownDictionaryVersion(Exception):
    """The file is of a version that this package does not know."""


@dataclass(slots=True)
class Symbols:
    """What a ``.symbol-dict`` holds.

    ``state``: "absent", "unusable" (too short, foreign magic, too large), "duplicate", "full" (above a
    limit of the dictionary), or "valid".  When valid: the symbols by id, the number of bytes that can be
    trusted, the file's length, and whether the rest is "none", "zeros" (Java's tail), an "unfinished"
    chunk, or "damaged".
    """

    state: Literal["absent", "unusable", "duplicate", "full", "valid"]
    table: SymbolTable = field(default_factory=SymbolTable)
    trusted_nbytes: int = 0
    nbytes: int = 0
    rest: Literal["none", "zeros", "unfinished", "damaged"] = "none"


def chunk(symbols: SymbolTable, first: int, end: int) -> bytes:
    """One chunk with the ids ``first`` to ``end - 1``."""
    body = varint(end - first) + varint(symbols.entries_nbytes(first, end)) + symbols.entries(first, end)
    return body + _CRC.pack(crc32c(body))


def parse_varint(data: bytes | memoryview, offset: int, end: int) -> tuple[int, int] | None:
    """(value, offset behind it) of an unsigned LEB128 of at most 5 bytes; None when it is cut or longer."""
    value = shift = 0
    for at in range(offset, min(offset + _VARINT_BYTES_MAX, end)):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + 1
        shift += 7
    return None


def take_entries(data: bytes | memoryview, offset: int, end: int, count: int) -> tuple[list[str], int] | None:
    """The ``count`` entries from ``offset`` on, and the offset behind; None when one is no whole UTF-8 text."""
    texts: list[str] = []
    for _ in range(count):
        header = parse_varint(data, offset, end)
        if header is None:
            return None
        nbytes, start = header
        offset = start + nbytes
        if offset > end or nbytes > limits.DICTIONARY_ENTRY_BYTES_MAX:
            return None
        try:
            texts.append(str(data[start:offset], "utf-8"))
        except UnicodeDecodeError:
            return None
    return texts, offset


def parse_chunks(data: bytes) -> Iterator[tuple[list[str], int]]:
    """The entries of each whole chunk, and the offset behind it; ends before the first one that is not.

    ``data`` is the whole file; its header is not looked at.
    """
    view = memoryview(data)
    offset, size = len(HEADER), len(data)
    while True:
        parsed = _chunk_bounds(view, offset, size)
        if parsed is None:
            return
        count, start, end = parsed
        if end + _CRC.size > size or crc32c(view[offset:end]) != _CRC.unpack_from(view, end)[0]:
            return
        taken = take_entries(view, start, end, count)
        if taken is None or taken[1] != end:
            return
        offset = end + _CRC.size
        yield taken[0], offset


def _chunk_bounds(view: memoryview, offset: int, size: int) -> tuple[int, int, int] | None:
    """(entries, start of the region, its end) of the chunk at ``offset``; None when there can be none."""
    header = parse_varint(view, offset, size)
    if header is None or header[0] == 0:
        return None
    count, at = header
    region = parse_varint(view, at, size)
    if region is None or region[0] == 0:
        return None
    nbytes, start = region
    return count, start, start + nbytes


def parse_symbols(data: bytes) -> Symbols:
    """What a file with this content holds.  Raises UnknownDictionaryVersion."""
    if len(data) < len(HEADER) or data[:4] != _MAGIC:
        return Symbols("unusable", nbytes=len(data))
    if data[4] != _VERSION:
        raise UnknownDictionaryVersion(f"version {data[4]}, and this package knows {_VERSION}")
    found = Symbols("valid", trusted_nbytes=len(HEADER), nbytes=len(data))
    for texts, end in parse_chunks(data):
        first = len(found.table)
        try:
            ids = [found.table.intern(text) for text in texts]
        except SymbolDictionaryFull:
            return Symbols("full", nbytes=len(data))
        if ids != list(range(first, first + len(texts))):
            return Symbols("duplicate", nbytes=len(data))
        found.trusted_nbytes = end
    found.table.published_count = len(found.table)
    found.rest = _rest(data, found.trusted_nbytes)
    return found


def _rest(data: bytes, trusted_nbytes: int) -> Literal["none", "zeros", "unfinished", "damaged"]:
    """What stands behind the last whole chunk."""
    rest = memoryview(data)[trusted_nbytes:]
    if not rest:
        return "none"
    if not bytes(rest).strip(b"\0"):
        return "zeros"
    bounds = _chunk_bounds(memoryview(data), trusted_nbytes, len(data))
    if bounds is not None and bounds[2] + _CRC.size > len(data) and trusted_nbytes > len(HEADER):
        return "unfinished"  # an append that a kill cut short; only where the chunks before it prove the layout
    return "damaged"


def read_symbols(files: Files, slot: str) -> Symbols:
    """What a slot's ``.symbol-dict`` holds.  Raises StorageError, UnknownDictionaryVersion.

    The file is read whole: at most 256 MiB of text by the limits of the dictionary, and above a bound
    that no writer within them reaches it is unusable and not read at all.
    """
    path = os.path.join(slot, NAME)
    found = files.stat(path)
    if found is None:
        return Symbols("absent")
    file = files.open(path, write=False)
    try:
        if found.nbytes > limits.SYMBOL_FILE_BYTES_MAX:
            return Symbols("unusable", nbytes=found.nbytes)
        return parse_symbols(files.read(file, 0, found.nbytes))
    finally:
        files.close(file)


class Mark(Frozen):
    """A place to roll back to: entries and bytes of the file."""

    count: int
    nbytes: int


class SymbolLog:
    """The open file.  ``count`` entries are in it; ``usable`` False means dense frames from now on.

    ``cut_unsynced``: entries were taken back, and after a power cut they may be there again.
    """

    def __init__(self, files: Files, file: File, count: int, nbytes: int) -> None:
        self._files = files
        self._file = file
        self._nbytes = nbytes
        self.count = count
        self.usable = True
        self.cut_unsynced = False
        self._lock = threading.Lock()  # what the file holds; not held during a sync
        self._proof = Proof()
        self._proven_nbytes = 0
        self._changes, self._changes_synced, self._cuts = 1, 0, 0
        self._restarted = False  # and that was not synced yet

    @classmethod
    def create(cls, files: Files, slot: str) -> SymbolLog:
        """Makes the file; the name must be free.  On failure none is left, unless removing it failed as well."""
        path = os.path.join(slot, NAME)
        file = files.create(path)
        try:
            files.write(file, 0, HEADER)
        except BaseException:
            take_back(files, file)
            raise
        return cls(files, file, 0, len(HEADER))

    @classmethod
    def open(cls, files: Files, slot: str, *, count: int, trusted_nbytes: int, nbytes: int) -> SymbolLog:
        """Opens a valid file with ``count`` entries in its first ``trusted_nbytes`` of ``nbytes``, cut there.

        Keeping a copy of the rest is for the caller.
        """
        file = files.open(os.path.join(slot, NAME))
        try:
            if nbytes != trusted_nbytes:
                files.truncate(file, trusted_nbytes)
                files.sync(file)
        except BaseException:
            files.close(file)
            raise
        return cls(files, file, count, trusted_nbytes)

    def write_ahead(self, symbols: SymbolTable, first: int, end: int) -> Mark:
        """Stores what the file lacks of the ids below ``end``, in one write; the mark for `rollback`.

        ``first`` to ``end - 1`` are the new ids of the frame that is about to be published, one chunk.
        Ids between the file's own count and ``first`` (known from recovered frames only) go before it as
        another.  On failure the file is rolled back and StorageError raised.
        """
        self._sync_restart()
        mark = Mark(self.count, self._nbytes)
        data = b""
        if self.count < first:
            data = chunk(symbols, self.count, first)
        start = max(first, self.count)
        if start < end:
            data += chunk(symbols, start, end)
        if data:
            count, nbytes = max(end, first), self._nbytes + len(data)
            try:
                with self._lock:
                    self._changes += 1
                    self._files.write(self._file, self._nbytes, data)
                    # Both at once, no call between: entries that are stored and not counted would be stored again.
                    self._nbytes, self.count = nbytes, count
            except BaseException:
                self.rollback(mark)
                raise
        return mark

    def rollback(self, mark: Mark) -> None:
        """Takes back what was written since ``mark``.  Never raises: see `usable`."""
        self.count = mark.count
        with self._lock:
            self._nbytes = mark.nbytes
            self._proven_nbytes = min(self._proven_nbytes, mark.nbytes)
            self._changes += 1
            self._cuts += 1
            self.cut_unsynced = True
            try:
                self._files.truncate(self._file, mark.nbytes)
            except StorageError as error:
                self._give_up(error)

    def restart(self) -> None:
        """Cuts the file to its header: the next entry is id 0.  Nothing that is stored may name an id any more.

        Raises StorageError when it cannot be cut: then it holds what it held.  The cut is durable when this
        returns, or will be before the next entry is stored.  A file that was given up is used again.
        """
        with self._lock:
            self._files.truncate(self._file, len(HEADER))
            self.count, self._nbytes = 0, len(HEADER)
            self._proven_nbytes = min(self._proven_nbytes, self._nbytes)
            self._changes += 1
            self._cuts += 1
            self.cut_unsynced = self._restarted = True
            if not self.usable:
                self._proven_nbytes = 0
                self._files.write(self._file, 0, HEADER)
                self.usable = True
        try:
            self._sync_restart()
        except StorageError as error:
            _LOG.warning("%s begins anew, and its sync is tried again before it is used: %s", self._file.path, error)

    def _sync_restart(self) -> None:
        """A power cut must not bring the old entries back below the new ones."""
        if self._restarted:
            self.sync()
            self._restarted = False

    def sync(self) -> None:
        """What was written is durable when this returns; behind a sync that failed it is written again before.

        No call when nothing was written since the last one.
        """
        with self._lock:
            changes, cuts, nbytes = self._changes, self._cuts, self._nbytes
            if changes == self._changes_synced:
                return
        self._proof.sync(lambda: self._files.sync(self._file), self._store_again)
        with self._lock:
            self._changes_synced = max(changes, self._changes_synced)
            if cuts == self._cuts:  # else these bytes may be others by now
                self._proven_nbytes = max(nbytes, self._proven_nbytes)
                self.cut_unsynced = False

    def _store_again(self) -> None:
        """What no sync has proven, as it is read back."""
        with self._lock:
            if self._restarted:
                self._files.truncate(self._file, self._nbytes)
            for offset in range(self._proven_nbytes, self._nbytes, _PIECE_BYTES):
                nbytes = min(_PIECE_BYTES, self._nbytes - offset)
                self._files.write(self._file, offset, self._files.read(self._file, offset, nbytes))

    def doubt(self) -> None:
        """The next `sync` writes the whole file again: see `Proof.doubt`."""
        self._proof.doubt()
        with self._lock:
            self._changes += 1
            self._proven_nbytes = 0

    def close(self) -> None:
        """Gives the descriptor back."""
        self._files.close(self._file)

    def _give_up(self, error: StorageError) -> None:
        self.usable = False
        _LOG.error("%s cannot be cut back (%s); frames carry all their symbols from now on", self._file.path, error)
        try:
            self._files.write(self._file, 0, bytes(len(_MAGIC)))
        except StorageError as second:
            # What is left is one chunk too many.  Recovery notices when a stored frame contradicts it.
            _LOG.error("%s cannot be marked as unusable either: %s", self._file.path, second)
