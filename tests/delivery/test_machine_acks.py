"""What an answer settles (behaviour.md 4.1, 4.3)."""

from __future__ import annotations

import pytest

from spoolq.delivery import State, actions, events
from spoolq.qwp.responses import DurableAck, ErrorFrame, Ok
from tests.delivery.world import Driver, connected, latched, of, only, sent, server_errors


def test_snd_02_sending_starts_behind_the_last_acknowledged_frame() -> None:
    driver = connected(published=9, acked=4)
    assert only(actions.SendRun, driver.actions).first_fsn == 5


def test_an_ok_settles_everything_up_to_its_frame() -> None:
    driver = sent(published=9)
    assert only(actions.Settle, driver.tell(events.Answered(Ok(6)))).fsn == 6


def test_an_ok_for_what_is_settled_says_nothing() -> None:
    driver = sent(published=9)
    driver.tell(events.Answered(Ok(6)))
    assert driver.tell(events.Answered(Ok(6)), events.Answered(Ok(2))) == []


def test_one_run_is_under_way_at_a_time() -> None:
    driver = connected(published=3)
    driver.log.published_fsn = 9
    assert driver.tell(events.Published()) == []
    assert only(actions.SendRun, driver.tell(events.RunSent(3))).first_fsn == 4


def test_the_answers_to_catch_up_messages_settle_nothing() -> None:
    driver = connected(published=9, catch_up=2)
    driver.tell(events.RunSent(9))
    assert not of(actions.Settle, driver.tell(events.Answered(Ok(1))))
    assert only(actions.Settle, driver.tell(events.Answered(Ok(2)))).fsn == 0


def test_snd_05_an_ok_beyond_the_last_frame_sent_is_clamped_with_a_warning() -> None:
    driver = sent(published=3)
    driver.log.published_fsn = 8
    found = driver.tell(events.Answered(Ok(7)))
    assert only(actions.Settle, found).fsn == 3
    warning = only(actions.Warn, found)
    assert warning.topic == "clamp"
    assert "one:9000 sent an OK for message 7 (FSN 7)" in warning.text
    assert only(actions.SendRun, driver.tell(events.Published())).first_fsn == 4


def test_snd_05_a_rejection_beyond_the_last_frame_sent_is_charged_to_that_one() -> None:
    driver = sent(published=3, policies={"write_error": "terminal"})
    driver.log.published_fsn = 8
    driver.tell(events.Answered(Ok(2)))
    found = driver.tell(events.Answered(ErrorFrame(9, 70, "no room")))
    assert only(actions.Warn, found[:1]).topic == "clamp"
    error = latched(found)
    assert (error.from_fsn, error.to_fsn, error.message_sequence) == (3, 3, 70)  # type: ignore[attr-defined]
    assert not of(actions.Settle, found)


def test_an_ok_that_overtakes_the_end_of_its_send_counts_when_the_send_ends() -> None:
    driver = connected(published=5)
    assert driver.tell(events.Answered(Ok(3))) == []
    assert only(actions.Settle, driver.tell(events.RunSent(5))).fsn == 3


def test_an_ok_counts_at_once_for_the_part_of_a_run_that_is_gone() -> None:
    driver = connected(published=5)
    driver.tell(events.RunPartlySent(3))
    assert only(actions.Settle, driver.tell(events.Answered(Ok(3)))).fsn == 3
    assert driver.tell(events.Answered(Ok(4))) == []
    assert only(actions.Settle, driver.tell(events.RunPartlySent(4))).fsn == 4
    assert driver.tell(events.Published()) == []  # the run is still under way


def test_an_ok_before_anything_was_sent_settles_nothing() -> None:
    driver = connected(published=-1)
    found = driver.tell(events.Answered(Ok(0)))
    assert not of(actions.Settle, found)
    driver.log.published_fsn = 0
    assert only(actions.SendRun, driver.tell(events.Published())).first_fsn == 0


def test_a_rejection_before_anything_was_sent_covers_all_that_is_not_settled() -> None:
    driver = connected(published=4, acked=4)
    driver.log.published_fsn = 7
    error = latched(driver.tell(events.Answered(ErrorFrame(3, 0, "no"))))
    assert (error.from_fsn, error.to_fsn) == (5, 7)  # type: ignore[attr-defined]


def test_a_rejection_of_a_catch_up_message_covers_all_that_is_not_settled() -> None:
    driver = connected(published=4, catch_up=2)
    driver.tell(events.RunSent(4))
    error = latched(driver.tell(events.Answered(ErrorFrame(5, 1, "no"))))
    assert (error.from_fsn, error.to_fsn) == (0, 4)  # type: ignore[attr-defined]


def test_a_rejection_of_a_settled_frame_is_only_reported() -> None:
    driver = sent(published=4)
    driver.tell(events.Answered(Ok(3)))
    found = driver.tell(events.Answered(ErrorFrame(3, 2, "late")))
    (event,) = server_errors(found)
    assert (event.category, event.from_fsn, event.to_fsn, event.server_text) == ("schema_mismatch", 2, 2, "late")
    assert len(found) == 1
    assert driver.machine.state is State.CONNECTED


def test_a_rejection_that_leaves_frames_without_an_answer_is_terminal() -> None:
    driver = sent(published=4)
    driver.tell(events.Answered(Ok(0)))
    found = driver.tell(events.Answered(ErrorFrame(9, 3, "disk")))
    error = latched(found)
    assert error.category == "protocol_violation"  # type: ignore[attr-defined]
    assert (error.from_fsn, error.to_fsn) == (1, 3)  # type: ignore[attr-defined]
    assert "never answered for FSN 1 to 2" in str(error)
    assert "disk" in str(error)
    assert not of(actions.Settle, found)


@pytest.mark.parametrize("told", [[], [events.RunPartlySent(2)]])
def test_a_rejection_in_the_middle_of_a_run_is_not_a_skip(told: list[events.Event]) -> None:
    driver = connected(published=9)
    driver.tell(*told, events.Answered(Ok(2)))
    error = latched(driver.tell(events.Answered(ErrorFrame(3, 3, "no"))))
    assert error.category == "schema_mismatch"  # type: ignore[attr-defined]
    assert error.from_fsn == 3  # type: ignore[attr-defined]


def test_nothing_of_a_connection_counts_after_it_was_left() -> None:
    driver = sent(published=4)
    driver.tell(events.Answered(ErrorFrame(9, 0, "again")))
    assert driver.tell(events.Answered(Ok(4)), events.RunSent(4), events.PeerClosed(1000, "")) == []


def test_the_numbers_start_anew_on_each_connection() -> None:
    driver = sent(published=4)
    driver.tell(events.Answered(Ok(1)), events.Lost("reset"))
    found = driver.tell(events.Connected(1))
    assert only(actions.SendRun, found).first_fsn == 2
    driver.tell(events.RunSent(4))
    assert only(actions.Settle, driver.tell(events.Answered(Ok(1)))).fsn == 2


def test_a_durable_ack_nobody_asked_for_is_ignored() -> None:
    driver = sent(published=4)
    assert driver.tell(events.Answered(DurableAck((("t", 1),)))) == []


def test_a_catch_up_is_needed_once_a_frame_may_be_gone() -> None:
    driver = connected(published=4)
    assert driver.machine.mirror_needed
    assert not Driver(published=4).machine.mirror_needed
    assert Driver(published=4, acked=0).machine.mirror_needed
