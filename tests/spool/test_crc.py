"""crc.py against slot.md 2.1 and a bitwise reference."""

from __future__ import annotations

import subprocess
import sys

from fastcrc.crc32 import iscsi
from hypothesis import given
from hypothesis import strategies as st

from spoolq import _implementation
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
def test_crc_02_invariant_02_chained_equals_one_shot_and_every_bit_flip_shows(data: bytes, draw: st.DataObject) -> None:
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


@given(st.binary(max_size=5_000), st.integers(0, 2**32 - 1))
def test_crc_03_every_way_to_compute_it_gives_the_same(data: bytes, previous: int) -> None:
    """By instruction, by table, by fastcrc; short and long."""
    expected = iscsi(data, previous)
    assert crc32c(data, previous) == expected
    if _implementation.COMPILED:
        from spoolq.spool._crc import crc32c_by_table

        assert crc32c_by_table(data, previous) == expected


def test_crc_03_the_table_is_ready_before_any_thread() -> None:
    """The first call of many threads at once; the table is made at import."""
    code = (
        "import threading\n"
        "from spoolq.spool.crc import crc32c\n"
        "from spoolq import _implementation\n"
        "ways = [crc32c]\n"
        "if _implementation.COMPILED:\n"
        "    from spoolq.spool._crc import crc32c_by_table\n"
        "    ways.append(crc32c_by_table)\n"
        "start, found = threading.Barrier(8), []\n"
        "def run():\n"
        "    start.wait()\n"
        "    found.extend(way(b'123456789') for way in ways)\n"
        "threads = [threading.Thread(target=run) for _ in range(8)]\n"
        "[t.start() for t in threads]\n"
        "[t.join() for t in threads]\n"
        "assert set(found) == {0xE3069283}, found\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
