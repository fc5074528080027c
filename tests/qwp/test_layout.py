"""What is read of a stored payload without decoding it."""

from __future__ import annotations

import pytest

from spoolq.qwp.layout import is_deferred


@pytest.mark.parametrize(
    ("payload", "deferred"),
    [
        (b"QWP1\x01\x01" + bytes(6), True),
        (b"QWP1\x01\x0d" + bytes(6) + b"more", True),
        (b"QWP1\x01\x0c" + bytes(6), False),
        (b"QWP2\x01\x01" + bytes(6), False),  # opaque: it commits
        (b"QWP1\x01\x01" + bytes(5), False),  # too short for a message
        (b"", False),
    ],
)
def test_behaviour_3_6_only_a_message_can_be_deferred(payload: bytes, deferred: bool) -> None:
    assert is_deferred(payload) == deferred
    assert is_deferred(memoryview(payload)) == deferred
