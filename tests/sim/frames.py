"""The frames of the simulator: a real header and dictionary section, and a body that names its frame.

payload = header, varint first id, varint count, entries, filler, u32 FSN, u16 symbols that it needs.
A dictionary message has no table, and nothing behind the entries.
"""

from __future__ import annotations

import struct
from typing import Final

from spoolq import limits
from spoolq.columns.symbols import SymbolTable
from spoolq.columns.varint import varint
from spoolq.qwp import layout

_TRAILER: Final = struct.Struct("<IH")
_TABLES = slice(6, 8)


def build(
    symbols: SymbolTable, first: int, fsn: int, needs: int, filler_nbytes: int, *, deferred: bool = False
) -> bytes:
    """The frame that brings the ids from ``first`` on; ``deferred``: its commit is left to a later one."""
    end = len(symbols)
    body = varint(first) + varint(end - first) + symbols.entries(first, end)
    body += b"." * filler_nbytes + _TRAILER.pack(fsn, needs)
    flags = layout.FLAG_DELTA_DICTIONARY | (layout.FLAG_DEFER_COMMIT if deferred else 0)
    return layout.HEADER.pack(layout.MAGIC, limits.PROTOCOL_VERSION, flags, 1, len(body)) + body


def is_data(payload: bytes) -> bool:
    """Whether it has rows."""
    return payload[_TABLES] != b"\0\0"


def is_deferred(payload: bytes) -> bool:
    """Whether its commit is left to a later one."""
    return bool(payload[layout.FLAGS_OFFSET] & layout.FLAG_DEFER_COMMIT)


def trailer(payload: bytes) -> tuple[int, int]:
    """FSN, and how many symbols a connection must know for it."""
    return _TRAILER.unpack_from(payload, len(payload) - _TRAILER.size)  # type: ignore[return-value]


def section(payload: bytes) -> tuple[int, int, int]:
    """First id, count, and where the entries begin."""
    first, offset = _varint(payload, limits.HEADER_BYTES)
    count, offset = _varint(payload, offset)
    return first, count, offset


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
        shift += 7
