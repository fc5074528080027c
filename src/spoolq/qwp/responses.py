"""What the server answers (wire.md 5): built and parsed exactly.

OK            00, i64 sequence, u16 count, count x entry
DURABLE_ACK   02, u16 count, count x entry
all others    status, i64 sequence, u16 length, UTF-8 text of at most 1,024 bytes

entry = u16 name length (>= 1), UTF-8 table name, i64 seqTxn
"""

from __future__ import annotations

import struct
from typing import Final

from spoolq import limits
from spoolq.frozen import Frozen
from spoolq.qwp.layout import Status

_HEAD: Final = struct.Struct("<BqH")
_DURABLE_HEAD: Final = struct.Struct("<BH")
_U16: Final = struct.Struct("<H")
_I64: Final = struct.Struct("<q")

Entries = tuple[tuple[str, int], ...]


class BadResponse(ValueError):
    """A response that cannot be decoded; the connection is of no more use (ours.md 29a)."""


class Ok(Frozen):
    """Everything up to ``sequence`` is committed; ``entries`` are (table, seqTxn) that advanced."""

    sequence: int
    entries: Entries = ()


class DurableAck(Frozen):
    """Tables and the transaction up to which they are in the object store."""

    entries: Entries = ()


class ErrorFrame(Frozen):
    """The message with ``sequence`` was refused; ``status`` may be one that `Status` does not name."""

    status: int
    sequence: int
    text: str = ""


Response = Ok | DurableAck | ErrorFrame


def build(response: Response) -> bytes:
    """The bytes of a response; a text above the limit is cut at a character."""
    match response:
        case Ok(sequence, entries):
            return _HEAD.pack(Status.OK, sequence, len(entries)) + _build_entries(entries)
        case DurableAck(entries):
            return _DURABLE_HEAD.pack(Status.DURABLE_ACK, len(entries)) + _build_entries(entries)
        case ErrorFrame(status, sequence, text):
            cut = text.encode(errors="replace")[: limits.ERROR_TEXT_BYTES_MAX].decode(errors="ignore").encode()
            return _HEAD.pack(status, sequence, len(cut)) + cut


def parse(data: bytes | memoryview) -> Response:
    """One response; raises BadResponse for anything but its exact form."""
    if not len(data):
        raise BadResponse("an empty response")
    status = data[0]
    if status == Status.DURABLE_ACK:
        if len(data) < _DURABLE_HEAD.size:
            raise BadResponse("a durable ack that ends in its head")
        return DurableAck(_parse_entries(data, _DURABLE_HEAD.size, _DURABLE_HEAD.unpack_from(data)[1]))
    if len(data) < _HEAD.size:
        raise BadResponse(f"a response of {len(data)} bytes with status 0x{status:02x}")
    _, sequence, count = _HEAD.unpack_from(data)
    if sequence < 0:
        raise BadResponse(f"a response with the negative sequence {sequence}")
    if status == Status.OK:
        return Ok(sequence, _parse_entries(data, _HEAD.size, count))
    text = bytes(data[_HEAD.size :])
    if len(text) != count or count > limits.ERROR_TEXT_BYTES_MAX:
        raise BadResponse(f"an error response whose text has {len(text)} bytes and says {count}")
    try:
        return ErrorFrame(status, sequence, text.decode())
    except UnicodeDecodeError:
        raise BadResponse("an error response whose text is not UTF-8") from None


def _build_entries(entries: Entries) -> bytes:
    out = bytearray()
    for table, transaction in entries:
        name = table.encode()
        out += _U16.pack(len(name)) + name + _I64.pack(transaction)
    return bytes(out)


def _parse_entries(data: bytes | memoryview, offset: int, count: int) -> Entries:
    entries = []
    for _ in range(count):
        if len(data) - offset < _U16.size:
            raise BadResponse("a response that ends inside a table entry")
        length = _U16.unpack_from(data, offset)[0]
        offset += _U16.size
        if not length or len(data) - offset < length + _I64.size:
            raise BadResponse("a response with an empty or cut table name")
        try:
            table = str(data[offset : offset + length], "utf-8")
        except UnicodeDecodeError:
            raise BadResponse("a response whose table name is not UTF-8") from None
        offset += length
        entries.append((table, _I64.unpack_from(data, offset)[0]))
        offset += _I64.size
    if offset != len(data):
        raise BadResponse(f"{len(data) - offset} bytes behind a response")
    return tuple(entries)
