"""Both bodies of the masking: equal bytes, an oracle that is neither of them, and the bounds."""

from __future__ import annotations

import struct
from random import Random
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame
from websockets.streams import StreamReader

from spoolq import _implementation
from spoolq.errors import StorageError
from spoolq.link import mask_plain

BODIES: list[ModuleType] = [mask_plain]
if _implementation.COMPILED:
    from spoolq.link import _mask

    BODIES.append(_mask)
bodies = pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__.rsplit(".", 1)[1])
LENGTHS = [0, 1, 7, 8, 9, 125, 126, 127, 65_535, 65_536, 70_001]
seeds = st.integers(0, (1 << 64) - 1)


def stored(*payloads: bytes) -> bytes:
    return b"".join(struct.pack("<Ii", 0xC0FFEE, len(payload)) + payload for payload in payloads)


def decoded(data: bytes) -> list[tuple[int, bytes]]:
    """What the websockets package reads, as a server that insists on masks."""
    reader = StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    found = []
    while reader.buffer:
        parser = Frame.parse(reader.read_exact, mask=True, max_size=None)
        try:
            next(parser)
            raise AssertionError("half a frame")
        except StopIteration as end:
            found.append((int(end.value.opcode), bytes(end.value.data)))
    return found


@bodies
@pytest.mark.parametrize("length", LENGTHS)
def test_a_frame_is_read_by_others_and_has_the_shortest_form(body: ModuleType, length: int) -> None:
    payload = Random(length).randbytes(length)
    data = body.frame(0x82, payload, b"\x01\x80\xff\x7e")
    assert decoded(data) == [(2, payload)]
    assert len(data) - length == (6 if length < 126 else 8 if length < 65_536 else 14)
    assert data[0] == 0x82


@bodies
@given(payloads=st.lists(st.binary(max_size=300), max_size=20), seed=seeds)
def test_a_run_becomes_one_message_a_frame(body: ModuleType, payloads: list[bytes], seed: int) -> None:
    out = bytearray(b"before")
    assert body.pack_run(memoryview(stored(*payloads)), body.MaskKeys(seed), out) == len(payloads)
    assert out[:6] == b"before"
    assert decoded(bytes(out[6:])) == [(2, payload) for payload in payloads]


@settings(max_examples=500)
@given(
    lengths=st.lists(st.one_of(st.sampled_from(LENGTHS), st.integers(0, 2_000)), max_size=12),
    seed=seeds,
    most=st.one_of(st.none(), st.sampled_from([0, 125, 1_000, 65_535, 1 << 40])),
)
def test_the_bodies_give_equal_bytes(lengths: list[int], seed: int, most: int | None) -> None:
    random = Random(seed)
    data = memoryview(stored(*(random.randbytes(length) for length in lengths)))
    results = []
    for body in BODIES:
        out, keys = bytearray(b"x"), body.MaskKeys(seed)
        count = body.pack_run(data, keys, out, most)
        results.append((count, bytes(out), keys.state, keys.next(), body.frame(0x8A, b"abc", b"1234")))
    assert results[0] == results[-1]


@bodies
def test_each_frame_has_a_mask_of_its_own(body: ModuleType) -> None:
    out = bytearray()
    body.pack_run(memoryview(stored(*[b""] * 100)), body.MaskKeys(0), out)
    assert len({bytes(out[start + 2 : start + 6]) for start in range(0, len(out), 6)}) == 100


@bodies
def test_a_run_ends_before_the_first_frame_above_the_bound(body: ModuleType) -> None:
    out = bytearray()
    data = memoryview(stored(b"a" * 10, b"b" * 11, b"c"))
    assert body.pack_run(data, body.MaskKeys(1), out, 10) == 1
    assert decoded(bytes(out)) == [(2, b"a" * 10)]
    assert body.pack_run(data, body.MaskKeys(1), bytearray(), 9) == 0
    assert body.pack_run(data, body.MaskKeys(1), bytearray(), 11) == 3


@bodies
@pytest.mark.parametrize(
    "data",
    [
        b"\0" * 7,
        struct.pack("<Ii", 0, -1),
        struct.pack("<Ii", 0, -(2**31)) + b"abc",
        struct.pack("<Ii", 0, 4) + b"abc",
        struct.pack("<Ii", 0, 2**31 - 1) + b"abc",
        stored(b"good") + b"\0\0\0\0\xff",
        stored(b"good") + struct.pack("<Ii", 0, 1),
    ],
)
def test_a_length_that_leaves_the_run_is_refused_and_leaves_nothing(body: ModuleType, data: bytes) -> None:
    out = bytearray(b"x")
    with pytest.raises(StorageError, match="overwritten"):
        body.pack_run(memoryview(data), body.MaskKeys(1), out)
    assert out == b"x"


@bodies
def test_the_seed_may_be_anything(body: ModuleType) -> None:
    assert body.MaskKeys(0).next() != body.MaskKeys(0xFFFF_FFFF_FFFF_FFFF).next()
    assert body.MaskKeys(1 << 64).state == 1  # xorshift must not start at zero
