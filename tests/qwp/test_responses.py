"""responses.py against wire.md 5 and 7 (d): both ways, and what is no response.

Seen red with: the length of the text, of a name and of the frame not compared; a negative sequence taken;
the UTF-8 checks left out; the text cut inside a character.
"""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolq.qwp.responses import BadResponse, DurableAck, ErrorFrame, Ok, Response, build, parse

EXAMPLES = [
    (Ok(7, (("trades", 42),)), "00 0700000000000000 0100 0600 747261646573 2A00000000000000"),
    (Ok(0), "00 0000000000000000 0000"),
    (ErrorFrame(5, 8, "invalid magic bytes"), "05 0800000000000000 1300" + b"invalid magic bytes".hex()),
    (DurableAck((("trades", 42),)), "02 0100 0600 747261646573 2A00000000000000"),
]


@pytest.mark.parametrize(("response", "text"), EXAMPLES)
def test_wire_7_d_responses_both_ways(response: Response, text: str) -> None:
    assert build(response) == bytes.fromhex(text)
    assert parse(bytes.fromhex(text)) == response


@pytest.mark.parametrize(("response", "text"), EXAMPLES)
def test_a_response_cut_anywhere_or_with_a_byte_more_is_refused(response: Response, text: str) -> None:
    whole = bytes.fromhex(text)
    for length in range(len(whole)):
        with pytest.raises(BadResponse):
            parse(whole[:length])
    with pytest.raises(BadResponse):
        parse(whole + b"\0")


def test_a_negative_sequence_an_empty_name_and_a_long_text_are_refused() -> None:
    for bad in (
        b"\0" + b"\xff" * 8 + b"\0\0",
        bytes.fromhex("00 0000000000000000 0100 0000 2A00000000000000"),
        b"\5" + bytes(8) + (1025).to_bytes(2, "little") + b"x" * 1025,
        b"\5" + bytes(8) + b"\1\0\xff",
    ):
        with pytest.raises(BadResponse):
            parse(bad)
    assert len(build(ErrorFrame(5, 0, "é" * 1_000))) == 11 + 1_024


@given(st.binary(max_size=60))
def test_random_bytes_are_parsed_or_refused(data: bytes) -> None:
    with contextlib.suppress(BadResponse):
        assert build(parse(data)) == data


I64 = st.integers(-(1 << 63), (1 << 63) - 1)
ENTRIES = st.lists(st.tuples(st.text(min_size=1, max_size=40), I64), max_size=6).map(tuple)
SEQUENCE = st.integers(0, (1 << 63) - 1)
ERROR_STATUS = st.integers(0, 255).filter(lambda status: status not in (0, 2))
RESPONSES = st.one_of(
    st.builds(Ok, SEQUENCE, ENTRIES),
    st.builds(DurableAck, ENTRIES),
    st.builds(ErrorFrame, ERROR_STATUS, SEQUENCE, st.text(max_size=200)),
)


@given(RESPONSES)
def test_wire_5_what_is_built_is_parsed(response: Response) -> None:
    data = build(response)
    assert parse(data) == response
    assert parse(memoryview(data)) == response


@given(RESPONSES, st.data())
def test_wire_5_a_response_with_one_byte_changed_is_another_or_refused(response: Response, draw: st.DataObject) -> None:
    data = bytearray(build(response))
    data[draw.draw(st.integers(0, len(data) - 1))] ^= draw.draw(st.integers(1, 255))
    try:
        found = parse(bytes(data))
    except BadResponse:
        return
    assert found != response or build(found) == data
    assert build(found) == data


@given(st.text(min_size=1_000, max_size=1_200))
def test_wire_5_a_long_text_is_cut_at_a_character(text: str) -> None:
    found = parse(build(ErrorFrame(5, 1, text)))
    assert isinstance(found, ErrorFrame)
    assert text.startswith(found.text)
    size = len(found.text.encode())
    assert size == len(text.encode()) or 1_021 <= size <= 1_024


def ok_with(entries: str, count: int = 1) -> bytes:
    return b"\0" + bytes(8) + count.to_bytes(2, "little") + bytes.fromhex(entries)


MALFORMED = {
    "empty": b"",
    "status alone": b"\0",
    "OK cut in its sequence": b"\0" + bytes(7),
    "OK without a count": b"\0" + bytes(8),
    "OK with a negative sequence": b"\0" + (-1).to_bytes(8, "little", signed=True) + b"\0\0",
    "OK with a sequence of the sign bit": b"\0" + bytes(7) + b"\x80" + b"\0\0",
    "OK with an entry too few": ok_with(""),
    "OK with an entry too many": ok_with("0100 74 0000000000000000", count=0),
    "OK with an entry cut in its length": ok_with("01"),
    "OK with an entry cut in its name": ok_with("0500 7474"),
    "OK with an entry cut in its transaction": ok_with("0100 74 00000000000000"),
    "OK with an empty table name": ok_with("0000 0000000000000000"),
    "OK with a name that is not UTF-8": ok_with("0100 FF 0000000000000000"),
    "OK with a byte more": ok_with("0100 74 0000000000000000 00"),
    "OK with 65,535 entries claimed": ok_with("0100 74 0000000000000000", count=65_535),
    "durable ack cut in its count": b"\2\0",
    "durable ack with an entry too few": b"\2\1\0",
    "durable ack with a byte more": b"\2\0\0\0",
    "durable ack with an empty table name": bytes.fromhex("02 0100 0000 0000000000000000"),
    "error without a length": b"\5" + bytes(8),
    "error with a negative sequence": b"\5" + b"\xff" * 8 + b"\0\0",
    "error with a text too short": b"\5" + bytes(8) + b"\2\0x",
    "error with a text too long": b"\5" + bytes(8) + b"\1\0xy",
    "error with 1,025 bytes of text": b"\5" + bytes(8) + (1_025).to_bytes(2, "little") + b"x" * 1_025,
    "error with a text that is not UTF-8": b"\5" + bytes(8) + b"\1\0\xff",
    "unknown status, cut": b"\x7f" + bytes(9),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=list(MALFORMED))
def test_wire_5_what_is_no_response(data: bytes) -> None:
    with pytest.raises(BadResponse, match=r"\w"):
        parse(data)


@pytest.mark.parametrize("status", [1, 3, 4, 5, 6, 7, 8, 9, 0x0A, 0x0B, 0x0C, 0x0D, 0x0E, 0x7F, 0xFF])
def test_wire_5_any_other_status_is_an_error_frame(status: int) -> None:
    data = bytes([status]) + (7).to_bytes(8, "little") + b"\2\0no"
    assert parse(data) == ErrorFrame(status, 7, "no")


def test_wire_5_the_largest_text_is_taken() -> None:
    text = "x" * 1_024
    assert parse(b"\5" + bytes(8) + (1_024).to_bytes(2, "little") + text.encode()) == ErrorFrame(5, 0, text)
