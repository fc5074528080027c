"""Delta-of-delta timestamps (wire.md 4.5), both ways, one bit at a time: the obvious form.

Bits fill each byte from bit 0 up; a field is written low bit first; the end is zero-padded to a byte.

    D                prefix in wire order   value bits
    0                0                      -
    -64..63          1 0                    7
    -256..255        1 1 0                  9
    -2048..2047      1 1 1 0                12
    other int32      1 1 1 1                32
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

_BITS_MAX: Final = 36  # of one value
_INT32: Final = range(-(1 << 31), 1 << 31)
# (smallest, largest, prefix value, prefix width, value width); the first that holds D is used.
_BUCKETS: Final = (
    (0, 0, 0, 1, 0),
    (-64, 63, 1, 2, 7),
    (-256, 255, 3, 3, 9),
    (-2048, 2047, 7, 4, 12),
    (-(1 << 31), (1 << 31) - 1, 15, 4, 32),
)


def _wrapped(value: int) -> int:
    """As signed 64-bit arithmetic would have it."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def deltas_of_deltas(values: Sequence[int]) -> list[int]:
    """D of the third value on; wrapping 64-bit arithmetic, as Java, Go and the server do."""
    deltas = [_wrapped(b - a) for a, b in pairwise(values)]
    return [_wrapped(b - a) for a, b in pairwise(deltas)]


def fits(values: Sequence[int]) -> bool:
    """Whether the encoder uses Gorilla: more than two values and every D in 32 bits."""
    return len(values) > 2 and all(d in _INT32 for d in deltas_of_deltas(values))


def encode(values: Sequence[int]) -> bytes:
    """The body after the encoding byte ``01``; `fits` must hold."""
    out = bytearray(struct.pack("<2q", *values[:2]))
    bits = length = 0
    for d in deltas_of_deltas(values):
        for low, high, prefix, prefix_width, width in _BUCKETS:
            if low <= d <= high:
                bits |= (prefix | (d & (1 << width) - 1) << prefix_width) << length
                length += prefix_width + width
                break
        # Whole bytes leave at once: an integer of all bits would be copied for each value.
        whole = length // 8
        out += (bits & (1 << 8 * whole) - 1).to_bytes(whole, "little")
        bits, length = bits >> 8 * whole, length % 8
    return bytes(out) + bits.to_bytes((length + 7) // 8, "little")


def decode(data: memoryview, offset: int, count: int) -> tuple[list[int], int] | None:
    """``count`` values from ``offset``, and the offset behind them; None when the data runs out."""
    first = min(count, 2)
    if len(data) - offset < 8 * first:
        return None
    values = list(struct.unpack_from(f"<{first}q", data, offset))
    offset += 8 * first
    if count <= 2:
        return values, offset
    end = min(len(data), offset + (_BITS_MAX * (count - 2) + 7) // 8)
    bits = length = 0  # what is taken from the data and not read yet
    delta = _wrapped(values[1] - values[0])
    for _ in range(count - 2):
        if length < _BITS_MAX:
            piece = data[offset : min(offset + 8, end)]
            bits |= int.from_bytes(piece, "little") << length
            offset, length = offset + len(piece), length + 8 * len(piece)
        ones = 0
        while ones < 4 and bits >> ones & 1:
            ones += 1
        width = _BUCKETS[ones][4]
        used = min(ones + 1, 4)  # with the zero that ends the prefix
        if used + width > length:
            return None
        d = bits >> used & (1 << width) - 1
        if width and d >> width - 1:
            d -= 1 << width
        bits, length = bits >> used + width, length - used - width
        delta = _wrapped(delta + d)
        values.append(_wrapped(values[-1] + delta))
    return values, offset - length // 8
