"""The table of behaviour.md 6.1 with its overrides, and what each policy does (6.2, 6.3)."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from spoolq.delivery import State, actions, events, policy
from spoolq.errors import ServerRejection
from spoolq.qwp.responses import ErrorFrame
from tests.delivery.world import latched, of, only, sent, server_errors


@dataclass(frozen=True)
class Row:
    """A row of 6.1."""

    status: int
    category: str
    default: str
    overridable: bool


ROWS = [
    Row(0x03, "schema_mismatch", "terminal", True),
    Row(0x05, "parse_error", "terminal", True),
    Row(0x06, "internal_error", "retriable", True),
    Row(0x08, "security_error", "terminal", True),
    Row(0x09, "write_error", "retriable", True),
    Row(0x0C, "not_writable", "retriable_other", False),
    Row(0x0D, "dictionary_gap", "retriable", False),
    Row(0x01, "unknown", "retriable", False),
    Row(0x0A, "unknown", "retriable", False),
    Row(0xFF, "unknown", "retriable", False),
]
OVERRIDES = (None, "terminal", "retriable", "retriable_other")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.status:02x}")
@pytest.mark.parametrize("override", OVERRIDES)
def test_6_1_the_policy_of_a_status_and_what_it_does(row: Row, override: str | None) -> None:
    applied = override if override and row.overridable else row.default
    driver = sent("a", "b", policies={} if override is None else {row.category: override})
    found = driver.tell(events.Answered(ErrorFrame(row.status, 0, "why")))
    (event,) = server_errors(found)
    assert (event.category, event.policy) == (row.category, applied)
    assert (event.status, event.server_text, event.message_sequence) == (row.status, "why", 0)
    assert (event.from_fsn, event.to_fsn) == (0, 0)
    assert not of(actions.Settle, found)
    assert only(actions.Disconnect, found)
    if applied == "terminal":
        error = latched(found)
        assert isinstance(error, ServerRejection)
        assert (error.category, error.status, error.server_text) == (row.category, row.status, "why")
        assert driver.machine.state is State.FAILED
    else:
        assert not of(actions.Latch, found)
        assert driver.next_connect(found)[1] == 1


def test_the_table_in_the_code_is_this_one() -> None:
    assert {row.category for row in ROWS if row.overridable} == policy.OVERRIDABLE


def test_err_06_a_terminal_rejection_is_latched_before_it_is_told() -> None:
    found = sent().tell(events.Answered(ErrorFrame(3, 0, "no")))
    kinds = [type(action) for action in found]
    assert kinds.index(actions.Latch) < kinds.index(actions.Report) < kinds.index(actions.Disconnect)


def test_err_05_a_terminal_rejection_is_not_tried_again() -> None:
    driver = sent("a", "b")
    driver.tell(events.Answered(ErrorFrame(3, 0, "no")))
    assert driver.machine.attempts == 1
    assert driver.tell(events.TimerDue(), events.Connected(0), events.Published()) == []


def test_a_terminal_text_says_where_what_and_what_to_do() -> None:
    error = latched(sent("box:9000").tell(events.Answered(ErrorFrame(3, 0, "column\x1b[31m x\nis LONG"))))
    text = str(error)
    assert text.startswith("box:9000 refused FSN 0: schema mismatch (status 0x03): column [31m x is LONG; ")
    assert "open a new sender" in text
    assert error.server_text == "column\x1b[31m x\nis LONG"  # type: ignore[attr-defined]


def test_retriable_other_marks_the_endpoint_and_counts_a_strike() -> None:
    driver = sent("a", "b", policies={"write_error": "retriable_other"}, max_frame_rejections=1, poison_window_millis=0)
    assert latched(driver.tell(events.Answered(ErrorFrame(9, 0, "full")))).category == "protocol_violation"  # type: ignore[attr-defined]
