"""What the servers committed: written by them, one file for each process, and read by the judge.

A file is a row of blocks: u64 monotonic time in ns, u32 number of rows, then for each row u8 table (0x80: the row
is not what its number says) and u64 number.  A block is written by one `write` before anything of it is
acknowledged; a process that is killed leaves at most its last block torn, and nobody was told of that one.
"""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import Final

from spoolq.server import MemoryStore
from spoolq.server.schema import Fitted
from tests.crash.judge import Arrivals, rows_of
from tests.crash.rows import TABLES, row

_HEAD: Final = struct.Struct("<QI")
_ROW: Final = struct.Struct("<BQ")
_ALTERED: Final = 0x80
SUFFIX: Final = ".journal"


class JournalStore(MemoryStore):
    """A server's store that keeps nothing but the journal; ``path`` must not exist."""

    def __init__(self, path: Path, text_nbytes_max: int) -> None:
        super().__init__()
        self._text_nbytes_max = text_nbytes_max
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)

    def append(self, table: str, parts: list[Fitted]) -> int:
        """Notes each row; called when they are committed, before their OK goes out."""
        rows = [
            _ROW.pack(TABLES.index(table) | (0 if found == row(found.n, self._text_nbytes_max) else _ALTERED), found.n)
            for found in rows_of(table, parts)
        ]
        block = _HEAD.pack(time.monotonic_ns(), len(rows)) + b"".join(rows)
        if os.write(self._file, block) != len(block):
            raise OSError("the journal took a part of a block")
        return super().append(table, [])

    def close(self) -> None:
        """No commit comes any more."""
        os.close(self._file)


class Journals:
    """All journals of a folder, for `tests.crash.judge.Judge`: each look reads what is new."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets: dict[Path, int] = {}
        self._blocks: list[tuple[int, bytes]] = []  # time, rows; packed, for ten minutes make millions
        self._landed: set[int] = set()
        self._faults: list[str] = []

    @property
    def landed(self) -> set[int]:
        """Numbers of the rows that any server committed."""
        self._read()
        return self._landed

    @property
    def faults(self) -> list[str]:
        """Rows that are not what their number says; for the order see `arrivals`."""
        self._read()
        return self._faults

    def arrivals(self) -> Arrivals:
        """All rows in the order of their commits, over all servers."""
        self._read()
        found = Arrivals()
        for _, rows in sorted(self._blocks):
            for table, number in _ROW.iter_unpack(rows):
                found.note(TABLES[table & ~_ALTERED], number)
        return found

    def _read(self) -> None:
        for path in self._folder.glob("*" + SUFFIX):
            at = self._offsets.get(path, 0)
            with path.open("rb") as file:
                file.seek(at)
                data = file.read()
            done = self._take(data)
            self._offsets[path] = at + done

    def _take(self, data: bytes) -> int:
        """How many bytes of whole blocks there were."""
        at = 0
        while at + _HEAD.size <= len(data):
            when, count = _HEAD.unpack_from(data, at)
            end = at + _HEAD.size + count * _ROW.size
            if end > len(data):
                break
            rows = data[at + _HEAD.size : end]
            self._blocks.append((when, rows))
            for table, number in _ROW.iter_unpack(rows):
                self._landed.add(number)
                if table & _ALTERED:
                    self._faults.append(f"row {number} landed altered")
            at = end
        return at
