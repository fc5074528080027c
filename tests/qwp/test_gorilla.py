"""gorilla.py (wire.md 4.5): both ways over the whole 64-bit range, the buckets at their edges.

Seen red with: a bucket's edge off by one; deltas that do not wrap; sign extension left out; the
reader's bound of 36 bits a value left out; the encoder's "more than two" as "more than three".
"""

from __future__ import annotations

import struct
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spoolq import limits
from spoolq.qwp import gorilla

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
# (D, bits in wire order) of the table of wire.md 4.5, at each edge.
EDGES = [
    (0, "0"),
    (-64, "10" + "0000001"),
    (63, "10" + "1111110"),
    (-65, "110" + "111111011"),
    (64, "110" + "000000100"),
    (-256, "110" + "000000001"),
    (255, "110" + "111111110"),
    (-257, "1110" + "111111110111"),
    (256, "1110" + "000000001000"),
    (-2048, "1110" + "000000000001"),
    (2047, "1110" + "111111111110"),
    (-2049, "1111" + "11111111111" + "0" + "1" * 20),
    (2048, "1111" + "0" * 11 + "1" + "0" * 20),
    (-(1 << 31), "1111" + "0" * 31 + "1"),
    ((1 << 31) - 1, "1111" + "1" * 31 + "0"),
]


def bits_of(data: bytes) -> str:
    """In wire order: each byte from bit 0 up."""
    return "".join(f"{byte:08b}"[::-1] for byte in data)


@pytest.mark.parametrize(("d", "bits"), EDGES, ids=[str(d) for d, _ in EDGES])
def test_wire_4_5_each_bucket_at_its_edges(d: int, bits: str) -> None:
    values = [0, 10, 20 + d]
    body = gorilla.encode(values)
    assert gorilla.fits(values)
    assert body[:16] == struct.pack("<2q", 0, 10)
    assert bits_of(body[16:]) == bits + "0" * (-len(bits) % 8)
    assert gorilla.decode(memoryview(body), 0, 3) == (values, len(body))


@pytest.mark.parametrize("d", [1 << 31, -(1 << 31) - 1])
def test_wire_4_5_a_delta_beyond_32_bits_stays_raw(d: int) -> None:
    assert not gorilla.fits([0, 10, 20 + d])


def test_wire_4_5_two_values_stay_raw_and_three_do_not() -> None:
    assert not gorilla.fits([])
    assert not gorilla.fits([1])
    assert not gorilla.fits([1, 2])
    assert gorilla.fits([1, 2, 3])


@pytest.mark.parametrize("count", [0, 1, 2])
def test_wire_4_5_a_stream_of_less_than_three_values_is_read_too(count: int) -> None:
    body = struct.pack(f"<{count}q", *range(5, 5 + count))
    assert gorilla.decode(memoryview(b"x" + body + b"rest"), 1, count) == (list(range(5, 5 + count)), 1 + 8 * count)
    if count:
        assert gorilla.decode(memoryview(body[:-1]), 0, count) is None


@settings(deadline=None)
@given(
    INT64, INT64, st.lists(st.one_of(st.sampled_from([d for d, _ in EDGES]), st.integers(-(1 << 31), (1 << 31) - 1)))
)
def test_wrapping_deltas_come_back(first: int, delta: int, ds: list[int]) -> None:
    """Built from D, so that every stream is one that the encoder takes, across the wrap of 64 bits too."""
    values = [first]
    for step in accumulate(ds, initial=delta):
        values.append((values[-1] + step + (1 << 63)) % (1 << 64) - (1 << 63))
    assert gorilla.deltas_of_deltas(values) == ds
    assert gorilla.fits(values) == (len(values) > 2)
    body = gorilla.encode(values)
    assert gorilla.decode(memoryview(body + b"next"), 0, len(values)) == (values, len(body))
    assert len(body) <= 8 * len(values)


@settings(deadline=None)
@given(st.lists(INT64, min_size=3, max_size=9))
def test_any_values_that_fit_come_back(values: list[int]) -> None:
    if gorilla.fits(values):
        assert gorilla.decode(memoryview(gorilla.encode(values)), 0, len(values)) == (
            values,
            len(gorilla.encode(values)),
        )


@settings(deadline=None)
@given(st.binary(max_size=60), st.integers(0, 40))
def test_a_stream_is_read_within_its_bytes_or_refused(data: bytes, count: int) -> None:
    found = gorilla.decode(memoryview(data), 0, count)
    if found is not None:
        values, end = found
        assert len(values) == count
        assert end <= len(data)
        assert all(-(1 << 63) <= value < 1 << 63 for value in values)


def test_a_block_of_a_million_rows_both_ways() -> None:
    """The largest one there is; with all bits in one integer it ran into the timeout of the suite."""
    values = list(accumulate((300 * (index % 3) for index in range(limits.ROWS_PER_TABLE_MAX)), initial=0))[1:]
    body = gorilla.encode(values)
    assert gorilla.decode(memoryview(body), 0, len(values)) == (values, len(body))


def test_a_cut_stream_is_refused_at_every_length() -> None:
    values = [0, 10, 20, 400, 5_000, 10**9]
    body = gorilla.encode(values)
    for length in range(len(body)):
        assert gorilla.decode(memoryview(body[:length]), 0, len(values)) is None
