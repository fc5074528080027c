"""crc.py against slot.md 2.1 and a bitwise reference."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spoolq.spool.crc import crc32c


def reference(data: bytes) -> int:
    """CRC-32C one bit at a time."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_crc_01_known_vector_empty_input_and_zeros() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"") == 0
    assert crc32c(bytes(4)) == 0x48674BC7


@given(st.binary(max_size=200), st.data())
def test_crc_02_chained_equals_one_shot_and_every_bit_flip_shows(data: bytes, draw: st.DataObject) -> None:
    cut = draw.draw(st.integers(0, len(data)))
    whole = crc32c(data)
    assert crc32c(data[cut:], crc32c(data[:cut])) == whole == reference(data)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert crc32c(flipped) != whole


def test_crc_03_equals_the_reference_at_all_lengths_and_alignments() -> None:
    data = bytes(range(256)) * 3
    for length in range(300):
        expected = reference(data[:length])
        for alignment in range(16):
            shifted = memoryview(bytes(alignment) + data)[alignment : alignment + length]
            assert crc32c(shifted) == expected
