"""Unsigned LEB128 (wire.md 3.1): 7 bits a byte, least significant group first, always the shortest form."""

from __future__ import annotations


def varint(value: int) -> bytes:
    """The shortest form of ``value``, 0 to 2**64 - 1."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def varint_nbytes(value: int) -> int:
    """Size of `varint` in bytes."""
    return max(1, (value.bit_length() + 6) // 7)
