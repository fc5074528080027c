"""The passes over received bytes that a server makes for every message: plain body of `spoolq.qwp.inbound`."""

from __future__ import annotations

from array import array
from itertools import pairwise
from typing import Final

from spoolq.qwp import gorilla

_MASK_NBYTES: Final = 4
_VARINT_NBYTES_MAX: Final = 10


def unmask(data: bytes | bytearray | memoryview, mask: bytes) -> bytes:
    """The payload of a masked frame (or its masked form: it is its own inverse), as new bytes."""
    if len(mask) != _MASK_NBYTES:
        raise ValueError("a mask has 4 bytes")
    nbytes = len(data)
    pattern = (mask * (nbytes // _MASK_NBYTES + 1))[:nbytes]
    # As one number, for bytes in a loop are slow.
    return (int.from_bytes(data, "little") ^ int.from_bytes(pattern, "little")).to_bytes(nbytes, "little")


def varints_end(data: bytes | bytearray | memoryview, offset: int, count: int) -> tuple[int, int]:
    """The offset behind ``count`` varints from ``offset`` on, and the largest of them (0 when there is none).

    Instead of the offset: -1 where the data ends inside one, -2 where one has more than 64 bits.
    """
    if not 0 <= offset <= len(data) or count < 0:
        raise ValueError("not inside the data")
    end, largest = len(data), 0
    for _ in range(count):
        value = shift = 0
        while True:
            if offset >= end:
                return -1, 0
            byte = data[offset]
            offset += 1
            if shift == 7 * (_VARINT_NBYTES_MAX - 1) and byte > 1:
                return -2, 0
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        largest = max(largest, value)
    return offset, largest


def varints(data: bytes | bytearray | memoryview, offset: int, count: int) -> list[int]:
    """The varints that `varints_end` has found good."""
    found = []
    for _ in range(count):
        value = shift = 0
        while True:
            if not 0 <= offset < len(data) or shift > 63:
                raise ValueError("not inside the data")
            byte = data[offset]
            offset += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        found.append(value)
    return found


def gorilla_end(data: bytes | bytearray | memoryview, offset: int, count: int) -> int:
    """The offset behind ``count`` Gorilla timestamps from ``offset`` on, -1 where the data ends inside."""
    if not 0 <= offset <= len(data) or count < 0:
        raise ValueError("not inside the data")
    found = gorilla.decode(memoryview(data), offset, count)
    return -1 if found is None else found[1]


def offsets_rise(offsets: bytes | bytearray | memoryview) -> bool:
    """Whether u32 offsets (little-endian, back to back) never fall."""
    values = _u32(offsets)
    return all(a <= b for a, b in pairwise(values))


def cuts_between_characters(offsets: bytes | bytearray | memoryview, text: bytes | bytearray | memoryview) -> bool:
    """Whether each offset stands at the start of a character of UTF-8 ``text``, or at or behind its end."""
    nbytes = len(text)
    return all(at >= nbytes or text[at] & 0xC0 != 0x80 for at in _u32(offsets))


def _u32(data: bytes | bytearray | memoryview) -> array[int]:
    values = array("I")
    values.frombytes(data)
    return values
