"""responses.py and upgrade.py against wire.md 1, 5 and 7 (d)."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolq.qwp import upgrade
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


def test_wire_1_2_accept_key() -> None:
    assert upgrade.accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(
    ("text", "cap"),
    [("2097138", 2_097_138), (" 12 ", 12), ("0", None), ("-1", None), ("abc", None), ("9" * 20, None), (None, None)],
)
def test_wire_1_2_cap_is_absent_when_it_is_no_sound_number(text: str | None, cap: int | None) -> None:
    assert upgrade.cap_of(text) == cap


GOOD = [
    ("Host", "h"),
    ("Upgrade", "WebSocket"),
    ("Connection", "keep-alive, Upgrade"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
]


def test_wire_1_3_handshake_checks_run_in_the_reference_order() -> None:
    assert upgrade.check_request(GOOD) is None
    headers = [("Origin", "x")]
    statuses = []
    for fault, fix in (
        ("Origin", None),
        ("Missing Upgrade", ("Upgrade", "h2c")),
        ("Invalid Upgrade", ("Upgrade", "websocket")),
        ("Missing Connection", ("Connection", "close")),
        ("Invalid Connection", ("Connection", "upgrade")),
        ("Missing Sec-WebSocket-Key", ("Sec-WebSocket-Key", "short")),
        ("Invalid Sec-WebSocket-Key", ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")),
        ("", ("Sec-WebSocket-Version", "13")),
    ):
        refusal = upgrade.check_request(headers)
        assert refusal is not None
        assert fault in refusal.text
        statuses.append(refusal.status)
        headers = [pair for pair in headers if fix and pair[0] not in ("Origin", fix[0])] + ([fix] if fix else [])
    assert statuses == [400] * 7 + [426]
    assert upgrade.check_request(headers) is None
