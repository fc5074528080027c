"""Dead letters: frames that were taken out of a slot without the server's acknowledgement (ours.md 22).

    <sf_dir>/<sender_id>.dead-letter/<utc micros, 16 digits>-<fsn, 16 hex>.qwp

    0   4 bytes magic SQD1 | u8 version, 1 | 3 zero bytes
    8   i64 FSN | i64 time, microseconds UTC | u8 status, 0 = none | u8 category
    26  u16 length + the server's text, UTF-8 | u32 length + the frame | u32 CRC-32C of all before

A letter is made before its frame is settled, so a crash at any moment leaves the frame in the log, or a whole
letter, or both: temporary name, sync, rename, directory synced; only then does `DeadLetters.save` return.
What a crash leaves under a temporary name goes with the next save.

The frame is made to stand alone (`qwp.standalone`): a letter can be read, and put into a spool again, when
the dictionary it was written for is gone.  Where that fails the original bytes are kept.

- `parse`, `build`: pure.
- `DeadLetters`: the letters of one sender.  `save` is for who holds the slot's lock; `letters`, `frame_of`
  and `remove` are for anyone.  ``nbytes_max`` bounds the files of all letters together.

The name's dot keeps the directory apart from every slot, and no client takes a ``.qwp`` for a segment.
Errors are StorageError; after one nothing was saved.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from spoolq import limits
from spoolq.columns.symbols import SymbolTable
from spoolq.errors import DeadLettersFullError, StorageError
from spoolq.qwp.reader import WireFault
from spoolq.qwp.standalone import stand_alone
from spoolq.spool.crc import crc32c
from spoolq.spool.files import Files

_LOG = logging.getLogger("spoolq.spool")
SUFFIX: Final = ".dead-letter"
_NAME: Final = re.compile(r"\d{16}-[0-9a-f]{16}\.qwp", re.ASCII)
_TEMPORARY: Final = ".tmp"
_MAGIC: Final = b"SQD1"
_VERSION: Final = 1
_HEAD: Final = struct.Struct("<4sB3xqqBBH")
_U32: Final = struct.Struct("<I")
_TEXT_NBYTES_MAX: Final = 0xFFFF

#: The byte of each category; "skipped" when no refusal is known.  New ones go to the end.
CATEGORIES: Final = (
    "skipped",
    "schema_mismatch",
    "parse_error",
    "internal_error",
    "security_error",
    "write_error",
    "not_writable",
    "dictionary_gap",
    "protocol_violation",
    "unknown",
    "frame_too_large",
)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What is known of a letter without its frame.

    ``status``: the wire byte of the refusal, None when there was none.  ``server_text`` may quote the data.
    ``frame_nbytes``: size of the frame as it is kept.
    """

    path: str
    fsn: int
    time_micros: int
    status: int | None
    category: str
    server_text: str
    frame_nbytes: int

    @property
    def when(self) -> datetime:
        """``time_micros`` as a datetime in UTC."""
        return datetime.fromtimestamp(self.time_micros // 1_000_000, UTC).replace(
            microsecond=self.time_micros % 1_000_000
        )


def build(fsn: int, time_micros: int, status: int | None, category: str, text: str, frame: bytes) -> bytes:
    """The bytes of a letter.  A text beyond 65,535 bytes is cut between two characters."""
    said = text.encode("utf-8", "replace")[:_TEXT_NBYTES_MAX].decode("utf-8", "ignore").encode()
    head = _HEAD.pack(_MAGIC, _VERSION, fsn, time_micros, status or 0, CATEGORIES.index(category), len(said))
    whole = head + said + _U32.pack(len(frame)) + frame
    return whole + _U32.pack(crc32c(whole))


def parse(path: str, data: bytes) -> tuple[DeadLetter, bytes]:
    """A letter and its frame.  Raises StorageError for anything but a whole letter of version 1."""
    if len(data) < _HEAD.size + 2 * _U32.size or data[:4] != _MAGIC:
        raise StorageError(f"{path} is not a dead letter, or the start of one: {len(data)} bytes", filename=path)
    _, version, fsn, time_micros, status, category, text_nbytes = _HEAD.unpack_from(data)
    if version != _VERSION:
        raise StorageError(
            f"{path} is a dead letter of version {version}, and this spoolq knows {_VERSION}: use a newer one",
            filename=path,
        )
    if _U32.unpack_from(data, len(data) - _U32.size)[0] != crc32c(memoryview(data)[: -_U32.size]):
        raise StorageError(f"{path} is damaged: its checksum does not match its {len(data)} bytes", filename=path)
    at = _HEAD.size + text_nbytes
    frame_nbytes = _U32.unpack_from(data, at)[0] if at + _U32.size <= len(data) else -1
    start = at + _U32.size
    if start + frame_nbytes + _U32.size != len(data) or category >= len(CATEGORIES):
        raise StorageError(
            f"{path} has the checksum of a dead letter and not its form; please report it", filename=path
        )
    text = data[_HEAD.size : at].decode("utf-8", "replace")
    letter = DeadLetter(path, fsn, time_micros, status or None, CATEGORIES[category], text, frame_nbytes)
    return letter, data[start : start + frame_nbytes]


class DeadLetters:
    """The dead letters of the sender ``sender_id`` below ``sf_dir``; nothing is opened or made before `save`.

    ``check_slot`` is the `SlotLock.check` of who saves: what is half-made here may be another sender's else.
    """

    def __init__(
        self,
        files: Files,
        sf_dir: str,
        sender_id: str,
        nbytes_max: int,
        *,
        check_slot: Callable[[], None] = lambda: None,
    ) -> None:
        self._files = files
        self.check_slot = check_slot
        self._sf_dir = sf_dir
        self.directory = os.path.join(sf_dir, sender_id + SUFFIX)
        self.nbytes_max = nbytes_max
        self._reachable = False  # the directory's own name is durable

    def save(
        self,
        fsn: int,
        frame: bytes,
        symbols: SymbolTable,
        *,
        status: int | None,
        category: str,
        text: str,
        time_micros: int,
    ) -> DeadLetter:
        """Makes a letter; it survives a power cut when this returns.

        ``symbols``: the dictionary of the log that the frame is in.  Raises StorageError, and then nothing is
        left, unless removing it failed as well: the frame must stay where it is.
        """
        self.check_slot()
        kept = _standing_alone(frame, fsn, symbols)
        names = self._prepare()
        while f"{time_micros:016d}-{fsn:016x}.qwp" in names:  # the clock was set back: never replace a letter
            time_micros += 1
        data = build(fsn, time_micros, status, category, text, kept)
        held_nbytes = sum(map(self._nbytes, names))
        if held_nbytes + len(data) > self.nbytes_max:
            raise DeadLettersFullError(
                f"the dead letters in {self.directory} have {held_nbytes} bytes in {len(names)} files, and one more of "
                f"{len(data)} is above dead_letter_max_bytes={self.nbytes_max}: requeue or delete some, or raise it",
                filename=self.directory,
            )
        path = os.path.join(self.directory, f"{time_micros:016d}-{fsn:016x}.qwp")
        self._write(path, data)
        return parse(path, data)[0]

    def letters(self) -> list[DeadLetter]:
        """All whole letters, oldest first.  One that is damaged is logged and left out."""
        found = []
        for name in sorted(filter(_NAME.fullmatch, self._files.names_if_there(self.directory) or ())):
            try:
                found.append(self._read(os.path.join(self.directory, name))[0])
            except StorageError as error:
                _LOG.error("%s", error)
        return found

    def frame_of(self, letter: DeadLetter) -> bytes:
        """The frame of a letter, read and checked again."""
        return self._read(letter.path)[1]

    def remove(self, letter: DeadLetter) -> None:
        """Removes a letter; it does not come back after a power cut."""
        self._files.unlink(letter.path)
        self._files.sync_directory(os.path.dirname(letter.path))

    def _prepare(self) -> list[str]:
        """Makes the directory, clears what a crash left half-made; the names of the letters."""
        names = self._files.names_if_there(self.directory)
        if names is None:
            self._files.make_directory(self.directory)
            self._reachable, names = False, []
        if not self._reachable:
            self._files.sync_directory(self._sf_dir)
            self._reachable = True
        for name in names:
            if name.endswith(_TEMPORARY):
                self._files.unlink(os.path.join(self.directory, name))
        return list(filter(_NAME.fullmatch, names))

    def _nbytes(self, name: str) -> int:
        found = self._files.stat(os.path.join(self.directory, name))
        return 0 if found is None else found.nbytes  # somebody may delete letters meanwhile

    def _write(self, path: str, data: bytes) -> None:
        temporary = path + _TEMPORARY
        with self._removing(temporary):
            file = self._files.create(temporary)
            try:
                self._files.write(file, 0, data)
                self._files.sync_all(file)
            finally:
                self._files.close(file)
            self._files.rename(temporary, path)
        with self._removing(path):  # it has its name, and is still not safe
            self._files.sync_directory(self.directory)

    @contextlib.contextmanager
    def _removing(self, path: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            with contextlib.suppress(StorageError):
                self._files.unlink(path)
            raise

    def _read(self, path: str) -> tuple[DeadLetter, bytes]:
        file = self._files.open(path, write=False)
        try:
            nbytes = self._files.size(file)
            if nbytes > limits.DEAD_LETTER_BYTES_MAX:
                raise StorageError(f"{path} has {nbytes} bytes, more than any dead letter", filename=path)
            return parse(path, self._files.read(file, 0, nbytes))
        finally:
            self._files.close(file)


def _standing_alone(frame: bytes, fsn: int, symbols: SymbolTable) -> bytes:
    try:
        return stand_alone(frame, symbols)
    except WireFault as fault:
        _LOG.warning("the frame with FSN %d becomes a dead letter as it is, for it cannot be read: %s", fsn, fault.text)
        return frame
