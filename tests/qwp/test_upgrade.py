"""upgrade.py against wire.md 1: what a 101 must say, what its headers mean, and which handshake is refused.

Seen red with: each check left out; the last of two headers taken; a cap of 0 taken; the order of the
checks changed; an integer of any length converted.
"""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolq.qwp import upgrade
from spoolq.qwp.upgrade import Accepted, BadUpgrade


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


KEY = "dGhlIHNhbXBsZSBub25jZQ=="
GOOD_101 = [
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
    ("X-QWP-Version", "1"),
    ("X-QuestDB-Role", "PRIMARY"),
    ("X-QWP-Max-Batch-Size", "2097138"),
]
Pairs = list[tuple[str, str]]


def with_header(headers: Pairs, name: str, value: str | None) -> Pairs:
    """The same headers, one of them changed, added or (None) left out."""
    rest = [pair for pair in headers if pair[0].lower() != name.lower()]
    return rest if value is None else [*rest, (name, value)]


def test_wire_1_2_a_good_101() -> None:
    assert upgrade.accepted(GOOD_101, KEY) == Accepted(1, 2_097_138, "PRIMARY", False)
    assert upgrade.accepted([(name.upper(), f" {value} ") for name, value in reversed(GOOD_101)], KEY) == Accepted(
        1, 2_097_138, "PRIMARY", False
    )


def test_wire_1_2_a_101_with_just_what_it_must_have() -> None:
    assert upgrade.accepted(GOOD_101[:3], KEY) == Accepted(1, None, "", False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Upgrade", None),
        ("Upgrade", "h2c"),
        ("Connection", None),
        ("Connection", "close"),
        ("Connection", "upgraded"),
        ("Sec-WebSocket-Accept", None),
        ("Sec-WebSocket-Accept", ""),
        ("Sec-WebSocket-Accept", "S3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ("Sec-WebSocket-Extensions", "permessage-deflate"),
        ("Sec-WebSocket-Protocol", "questdb.qwp.v1"),
        ("X-QWP-Version", "0"),
        ("X-QWP-Version", ""),
        ("X-QWP-Version", "2"),
        ("X-QWP-Version", "-1"),
        ("X-QWP-Version", "1.0"),
        ("X-QWP-Version", "one"),
        ("X-QWP-Version", "²"),
        ("X-QWP-Version", "9" * 5_000),
    ],
)
def test_wire_1_2_a_101_that_is_not_taken(name: str, value: str | None) -> None:
    with pytest.raises(BadUpgrade, match=r"\w"):
        upgrade.accepted(with_header(GOOD_101, name, value), KEY)


@pytest.mark.parametrize("version", ["1", "01", " 1 ", "\t1"])
def test_wire_1_2_versions_that_are_taken(version: str) -> None:
    assert upgrade.accepted(with_header(GOOD_101, "X-QWP-Version", version), KEY).version == 1


def test_wire_1_2_of_two_headers_the_first_counts() -> None:
    headers = [*GOOD_101, ("X-QWP-Version", "2"), ("x-qwp-max-batch-size", "5")]
    assert upgrade.accepted(headers, KEY) == upgrade.accepted(GOOD_101, KEY)
    with pytest.raises(BadUpgrade):
        upgrade.accepted([("X-QWP-Version", "2"), *GOOD_101], KEY)


@pytest.mark.parametrize(
    ("value", "on"), [("enabled", True), (" Enabled ", True), ("true", False), ("", False), (None, False)]
)
def test_wire_1_2_durable_ack(value: str | None, on: bool) -> None:
    assert upgrade.accepted(with_header(GOOD_101, "X-QWP-Durable-Ack", value), KEY).durable_ack is on


@given(st.integers(1, (1 << 63) - 1))
def test_wire_1_2_any_cap_of_64_bits_is_taken(cap: int) -> None:
    assert upgrade.cap_of(str(cap)) == cap
    assert upgrade.cap_of(str(cap + (1 << 63))) is None


@pytest.mark.parametrize(
    ("text", "millis"),
    [
        ("0", 0),
        ("120", 120_000),
        (" 5 ", 5_000),
        ("-1", None),
        ("1.5", None),
        ("9" * 5_000, None),
        ("", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", None),
        (None, None),
        ("²", None),
    ],
)
def test_wire_1_3_retry_after_in_whole_seconds(text: str | None, millis: int | None) -> None:
    assert upgrade.retry_after_millis(text) == millis


@pytest.mark.parametrize(
    ("name", "value", "status", "word"),
    [
        ("Origin", "https://example.org", 400, "Origin"),
        ("Origin", "", 400, "Origin"),
        ("Upgrade", None, 400, "Missing Upgrade"),
        ("Upgrade", "websocket, h2c", 400, "Invalid Upgrade"),
        ("Connection", None, 400, "Missing Connection"),
        ("Connection", "keep-alive", 400, "Invalid Connection"),
        ("Connection", "no-upgrade", 400, "Invalid Connection"),
        ("Sec-WebSocket-Key", None, 400, "Missing Sec-WebSocket-Key"),
        ("Sec-WebSocket-Key", KEY[:-1], 400, "Invalid Sec-WebSocket-Key"),
        ("Sec-WebSocket-Key", KEY[:-1] + "*", 400, "Invalid Sec-WebSocket-Key"),
        ("Sec-WebSocket-Key", KEY + "=", 400, "Invalid Sec-WebSocket-Key"),
        ("Sec-WebSocket-Version", None, 426, ""),
        ("Sec-WebSocket-Version", "8", 426, ""),
        ("Sec-WebSocket-Version", "thirteen", 426, ""),
        ("Sec-WebSocket-Version", "13, 8", 426, ""),
        ("Sec-WebSocket-Version", "1" * 5_000, 426, ""),
    ],
)
def test_wire_1_3_each_fault_of_a_handshake(name: str, value: str | None, status: int, word: str) -> None:
    refusal = upgrade.check_request(with_header(GOOD, name, value))
    assert refusal is not None
    assert refusal.status == status
    assert word in refusal.text
    if status == 426:
        assert refusal.headers == (
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Version", "13"),
        )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Upgrade", "WEBSOCKET"),
        ("Connection", "upgrade"),
        ("Connection", "keep-alive,Upgrade,x"),
        ("Connection", "a UPGRADE b"),
        ("Sec-WebSocket-Key", "=" * 24),
        ("Sec-WebSocket-Version", " 13 "),
        ("Sec-WebSocket-Version", "013"),
        ("X-QWP-Max-Version", "0"),
        ("X-QWP-Max-Version", "none"),
        ("X-QWP-Client-Id", "go/4.3.0"),
    ],
)
def test_wire_1_3_what_is_no_reason_to_refuse(name: str, value: str) -> None:
    assert upgrade.check_request(with_header(GOOD, name, value)) is None


@given(st.binary(min_size=16, max_size=16))
def test_any_key_is_taken_and_answered(nonce: bytes) -> None:
    key = base64.b64encode(nonce).decode()
    assert upgrade.check_request(with_header(GOOD, "Sec-WebSocket-Key", key)) is None
    answer = with_header(GOOD_101, "Sec-WebSocket-Accept", upgrade.accept_key(key))
    assert upgrade.accepted(answer, key).version == 1


@given(st.lists(st.tuples(st.sampled_from([name for name, _ in GOOD + GOOD_101]), st.text(max_size=30)), max_size=8))
def test_any_headers_are_taken_or_refused(headers: Pairs) -> None:
    refusal = upgrade.check_request(headers)
    assert refusal is None or refusal.status in (400, 426)
    try:
        upgrade.accepted(headers, KEY)
    except BadUpgrade as error:
        assert len(str(error)) < 300  # noqa: PT017 - most of them are refused, none need be
