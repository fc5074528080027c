"""inbound: both bodies do the same, and what that is."""

from __future__ import annotations

import struct
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolq._implementation import COMPILED
from spoolq.qwp import gorilla, inbound_plain
from spoolq.qwp.decode import Dictionary, blocks

BODIES: list[ModuleType] = [inbound_plain]
if COMPILED:
    from spoolq.qwp import _inbound

    BODIES.append(_inbound)

body = pytest.mark.parametrize("body", BODIES, ids=lambda module: module.__name__.rpartition(".")[2])


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes((value,))


@body
@given(st.binary(max_size=70), st.binary(min_size=4, max_size=4), st.integers(0, 9))
def test_unmask(body: ModuleType, data: bytes, mask: bytes, offset: int) -> None:
    expected = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data[offset:]))
    assert body.unmask(memoryview(data)[offset:], mask) == expected
    assert body.unmask(body.unmask(data, mask), mask) == data


@body
def test_a_mask_has_four_bytes(body: ModuleType) -> None:
    with pytest.raises(ValueError, match="4 bytes"):
        body.unmask(b"x", b"123")


@body
@given(st.lists(st.integers(0, (1 << 64) - 1), max_size=20), st.binary(max_size=3), st.binary(max_size=3))
def test_varints(body: ModuleType, values: list[int], before: bytes, behind: bytes) -> None:
    data = before + b"".join(map(varint, values))
    found = body.varints_end(data + behind, len(before), len(values))
    assert found == (len(data), max(values, default=0))
    assert body.varints(data + behind, len(before), len(values)) == values
    if values:
        assert body.varints_end(data[:-1], len(before), len(values))[0] == -1


@body
@pytest.mark.parametrize(
    ("data", "end"),
    [
        (b"", -1),
        (b"\x80", -1),
        (b"\x80" * 10, -2),
        (b"\x80" * 9 + b"\2", -2),
        (b"\x80" * 9 + b"\1", 10),
        (b"\x81\x80\x00", 3),
    ],
)
def test_the_edges_of_a_varint(body: ModuleType, data: bytes, end: int) -> None:
    assert body.varints_end(data, 0, 1)[0] == end


@body
@pytest.mark.parametrize(("offset", "count"), [(-1, 1), (3, 1), (0, -1)])
def test_outside_the_data(body: ModuleType, offset: int, count: int) -> None:
    with pytest.raises(ValueError, match="not inside"):
        body.varints_end(b"ab", offset, count)


@body
@pytest.mark.parametrize(("data", "offset"), [(b"", 0), (b"\x80", 0), (b"a", -1), (b"\x80" * 11 + b"\0", 0)])
def test_reading_what_was_not_checked(body: ModuleType, data: bytes, offset: int) -> None:
    with pytest.raises(ValueError, match="not inside"):
        body.varints(data, offset, 1)


@body
@given(st.lists(st.integers(-(1 << 40), 1 << 40) | st.integers(0, 300), max_size=12), st.binary(max_size=3))
def test_the_end_of_gorilla(body: ModuleType, values: list[int], before: bytes) -> None:
    coded = gorilla.encode(values) if gorilla.fits(values) else struct.pack(f"<{len(values)}q", *values)
    count = len(values) if gorilla.fits(values) else min(len(values), 2)
    data = before + coded[: len(coded) if gorilla.fits(values) else 8 * count]
    assert body.gorilla_end(data + b"\xff", len(before), count) == len(data)
    assert body.gorilla_end(data, len(before), count) == len(data)
    if count:
        assert body.gorilla_end(data[:-1], len(before), count) == -1


@body
@given(st.binary(max_size=60), st.integers(0, 20), st.integers(0, 60))
def test_the_end_of_gorilla_in_any_bytes(body: ModuleType, data: bytes, offset: int, count: int) -> None:
    offset = min(offset, len(data))
    found = gorilla.decode(memoryview(data), offset, count)
    assert body.gorilla_end(data, offset, count) == (-1 if found is None else found[1])


@body
def test_gorilla_outside_the_data(body: ModuleType) -> None:
    for offset, count in ((-1, 1), (3, 1), (0, -1)):
        with pytest.raises(ValueError, match="not inside"):
            body.gorilla_end(b"ab", offset, count)


@body
@given(st.lists(st.integers(0, (1 << 32) - 1), max_size=8))
def test_offsets_rise(body: ModuleType, values: list[int]) -> None:
    assert body.offsets_rise(struct.pack(f"<{len(values)}I", *values)) == (values == sorted(values))


@body
@given(st.text(max_size=12), st.lists(st.integers(0, 60), max_size=4))
def test_cuts_between_characters(body: ModuleType, text: str, cuts: list[int]) -> None:
    data = text.encode()
    starts = {len("".join(text[:n]).encode()) for n in range(len(text) + 1)}
    expected = all(cut in starts or cut >= len(data) for cut in cuts)
    assert body.cuts_between_characters(struct.pack(f"<{len(cuts)}I", *cuts), data) == expected


def test_a_column_keeps_the_symbols_it_was_decoded_with() -> None:
    """The dictionary may give an id a new text before anybody has looked at the column."""
    symbols = Dictionary()
    symbols.apply(0, ["a", "b"])
    payload = b"\1t\2\1\1s\x09" + b"\0\0\1"
    message = b"QWP1" + struct.pack("<BBHI", 1, 8, 1, 2 + len(payload)) + b"\2\0" + payload
    (first,) = blocks(message, symbols)[1]
    symbols.apply(1, ["B", "c"])
    (second,) = blocks(message, symbols)[1]
    symbols.apply(0, ["A"])
    assert first.columns[0].values == ["a", "b"]
    assert second.columns[0].values == ["a", "B"]
    assert symbols.texts == ["A", "B", "c"]


def test_a_column_keeps_the_bytes_it_was_decoded_from() -> None:
    payload = b"\1t\1\1\1v\2" + b"\0\7"
    message = bytearray(b"QWP1" + struct.pack("<BBHI", 1, 0, 1, len(payload)) + payload)
    (table,) = blocks(message, Dictionary())[1]
    message[:] = bytes(len(message))
    assert table.columns[0].values == [7]
