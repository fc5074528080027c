"""A refused frame that is dropped, and who decides that (behaviour.md 6.2; ours.md 22, 27)."""

from __future__ import annotations

from typing import Any

import pytest

from spoolq.delivery import State, actions, events
from spoolq.errors import ServerRejection
from spoolq.qwp.responses import DurableAck, ErrorFrame, Ok
from tests.delivery.world import Driver, connection_events, latched, of, only, sent, server_errors

DROP = {"schema_mismatch": "drop", "internal_error": "drop"}


def refuse(sequence: int, status: int = 3) -> events.Answered:
    return events.Answered(ErrorFrame(status, sequence, "column x"))


def dropping(published: int = 3, *endpoints: str, **options: Any) -> Driver:
    """Everything is handed over, and schema mismatches and internal errors are dropped."""
    return sent(*endpoints, published=published, **{"can_drop": True, "policies": DROP, **options})


def test_dlq_01_err_03_the_letter_first_then_the_frame_is_settled_and_told() -> None:
    driver = dropping()
    found = driver.tell(refuse(0))
    assert of(actions.Settle, found) == []
    assert server_errors(found) == []
    letter = only(actions.SaveLetter, found)
    assert (letter.fsn, letter.event.status, letter.event.server_text) == (0, 3, "column x")
    assert driver.machine.state is State.SAVING
    found = driver.tell(events.LetterSaved(0))
    assert only(actions.Settle, found).fsn == 0
    (event,) = server_errors(found)
    assert (event.category, event.policy, event.from_fsn, event.to_fsn) == ("schema_mismatch", "drop", 0, 0)
    kinds = [type(action) for action in found]
    assert kinds.index(actions.Report) < kinds.index(actions.Settle), "who has waited for the frame can poll the drop"
    assert not of(actions.Latch, driver.actions)


@pytest.mark.parametrize("status", [3, 6])
def test_ours_22_after_a_drop_the_connection_is_another_one_that_registers_all_symbols(status: int) -> None:
    driver = dropping()
    driver.tell(events.Answered(Ok(0)))
    found = driver.tell(refuse(1, status))
    assert only(actions.Disconnect, found)
    assert connection_events(found)[-1].kind == "disconnected"
    driver.next_connect(driver.tell(events.LetterSaved(1)))
    assert driver.machine.mirror_needed
    found = driver.tell(events.Connected(2))
    assert only(actions.SendRun, found).first_fsn == 2
    driver.tell(events.RunSent(3))
    assert only(actions.Settle, driver.tell(events.Answered(Ok(3)))).fsn == 3


def test_what_the_left_connection_still_says_is_not_heard() -> None:
    """A server may go on behind an error: its OK for later frames would settle the dropped one unsaved."""
    driver = dropping()
    driver.tell(refuse(0))
    assert driver.tell(events.Answered(Ok(3)), refuse(1), events.Lost("eof"), events.Published()) == []
    assert driver.machine.state is State.SAVING
    assert only(actions.Settle, driver.tell(events.LetterSaved(0))).fsn == 0


def test_dlq_02_what_cannot_be_saved_is_not_dropped_and_ends_the_sender() -> None:
    driver = dropping()
    driver.tell(refuse(0))
    found = driver.tell(events.LetterFailed(0, "the dead letters have 9 bytes"))
    error = latched(found)
    assert isinstance(error, ServerRejection)
    assert (error.category, error.status, error.server_text, error.from_fsn) == ("schema_mismatch", 3, "column x", 0)
    assert "could not be saved as a dead letter" in str(error)
    assert "the dead letters have 9 bytes" in str(error)
    assert of(actions.Settle, driver.actions) == []
    assert [event.policy for event in server_errors(driver.actions)] == ["terminal"]
    assert driver.machine.state is State.FAILED


@pytest.mark.parametrize("answers", [[refuse(2)], [events.Answered(Ok(0)), refuse(2)]])
def test_a_refusal_that_skips_frames_drops_nothing(answers: list[events.Event]) -> None:
    driver = dropping()
    found = driver.tell(*answers)
    assert not of(actions.SaveLetter, found)
    assert latched(found).category == "protocol_violation"  # type: ignore[attr-defined]


def test_snd_05_a_refusal_beyond_what_was_sent_drops_nothing() -> None:
    """Clamped it names a frame that the server did not name; by settling it, those before would be lost."""
    driver = dropping()
    found = driver.tell(refuse(9))
    assert not of(actions.SaveLetter, found)
    assert latched(found).from_fsn == 3  # type: ignore[attr-defined]
    driver = dropping(0)
    assert not of(actions.SaveLetter, driver.tell(refuse(1)))


def test_a_frame_that_was_not_handed_over_whole_is_not_dropped() -> None:
    driver = Driver(published=3, can_drop=True, policies=DROP)
    driver.tell(events.Begin(None), events.Connected(0), events.RunPartlySent(0), events.Answered(Ok(0)))
    found = driver.tell(refuse(1))
    assert not of(actions.SaveLetter, found)
    assert latched(found)


def test_a_refused_catch_up_message_drops_nothing() -> None:
    driver = dropping()
    driver.tell(events.Lost("reset"))
    driver.timer()
    driver.tell(events.Connected(2))
    found = driver.tell(refuse(1))
    assert not of(actions.SaveLetter, found)
    assert latched(found)


def test_a_refusal_of_a_settled_frame_drops_nothing() -> None:
    driver = dropping()
    driver.tell(events.Answered(Ok(2)))
    found = driver.tell(refuse(1))
    assert not of(actions.SaveLetter, found)
    assert [event.policy for event in server_errors(found)] == ["terminal"]


def test_without_a_place_for_letters_the_table_counts() -> None:
    driver = sent(published=3, policies=DROP)
    assert latched(driver.tell(refuse(0)))


def test_29a_a_server_that_refuses_everything_is_not_asked_at_full_speed() -> None:
    driver, times = dropping(30), []
    for fsn in range(30):
        times.append(driver.next_connect([*driver.tell(refuse(0)), *driver.tell(events.LetterSaved(fsn))])[0])
        driver.tell(events.Connected(0), events.RunSent(30))
    assert times[0] >= 100
    assert min(times[6:]) >= 5_000


def test_29a_with_progress_between_the_next_connection_comes_at_once() -> None:
    driver = dropping(9)
    driver.tell(events.Answered(Ok(1)), refuse(2))
    assert driver.next_connect(driver.tell(events.LetterSaved(2)))[0] == 0


def test_err_04_a_frame_that_is_refused_again_and_again_is_taken_out_and_the_next_one_starts_anew() -> None:
    """Strikes count against one frame; a dropped one takes its own along."""
    driver = dropping(1, max_frame_rejections=2, poison_window_millis=0)
    driver.next_connect(driver.tell(events.Answered(ErrorFrame(9, 0, ""))))  # a strike
    driver.tell(events.Connected(0), events.RunSent(1), refuse(0))
    driver.next_connect(driver.tell(events.LetterSaved(0)))
    driver.tell(events.Connected(0), events.RunSent(1), events.Answered(ErrorFrame(9, 0, "")))
    assert driver.machine.state is State.WAITING


# -- with durable acks ---------------------------------------------------------------------------------


def ok(sequence: int) -> events.Answered:
    return events.Answered(Ok(sequence, (("t", sequence + 1),)))


def durable(seq_txn: int) -> events.Answered:
    return events.Answered(DurableAck((("t", seq_txn),)))


def test_with_durable_acks_a_frame_is_dropped_when_all_before_it_is_durable() -> None:
    """Settled with it, a frame that has an OK and is not durable would be lost with the server's disk."""
    driver = dropping(3, durable_ack=True)
    found = driver.tell(ok(1), refuse(2))
    assert not of(actions.SaveLetter, found)
    assert not of(actions.Latch, found)
    assert not of(actions.Settle, found)
    driver.next_connect(found)
    run = only(actions.SendRun, driver.tell(events.Connected(0)))
    assert (run.first_fsn, run.max_frames) == (0, 2)
    assert driver.tell(events.RunSent(1), events.Published()) == []
    assert not of(actions.SendRun, driver.tell(ok(1), durable(1)))
    found = driver.tell(durable(2))
    assert only(actions.Settle, found).fsn == 1
    assert only(actions.SendRun, found).first_fsn == 2
    found = driver.tell(events.RunSent(3), refuse(2))
    assert only(actions.SaveLetter, found).fsn == 2
    found = driver.tell(events.LetterSaved(2))
    assert only(actions.Settle, found).fsn == 2
    driver.next_connect(found)
    assert only(actions.SendRun, driver.tell(events.Connected(0))).max_frames > 1


def test_with_durable_acks_a_frame_that_is_taken_after_all_is_held_no_more() -> None:
    driver = dropping(3, durable_ack=True)
    driver.next_connect(driver.tell(ok(1), refuse(2)))
    driver.tell(events.Connected(0), events.RunSent(1), ok(1), durable(2), events.RunSent(3), ok(3), durable(4))
    assert driver.log.acked_fsn == 3
    driver.log.published_fsn = 9
    assert only(actions.SendRun, driver.tell(events.Published())).first_fsn == 4


# -- the resolver --------------------------------------------------------------------------------------


def asked(published: int = 3, **options: Any) -> tuple[Driver, actions.Decide]:
    driver = sent(published=published, **{"can_drop": True, "decide_millis": 5_000, **options})
    return driver, only(actions.Decide, driver.tell(refuse(0)))


def test_6_2_the_resolver_is_asked_with_what_counts_without_it_and_the_connection_is_left() -> None:
    driver, question = asked()
    assert (question.event.policy, question.event.from_fsn, question.event.status) == ("terminal", 0, 3)
    assert question.choices == {"terminal", "retriable", "retriable_other", "drop"}
    assert only(actions.Disconnect, driver.actions)
    assert server_errors(driver.actions) == []
    assert driver.tell(events.Answered(Ok(3)), events.Lost("eof"), events.Published()) == []


@pytest.mark.parametrize("chosen", ["terminal", "retriable", "retriable_other", "drop"])
def test_6_2_its_answer_goes_before_every_setting(chosen: str) -> None:
    driver, question = asked(policies={"schema_mismatch": "terminal"})
    found = driver.tell(events.Decided(question.number, chosen))
    if chosen == "drop":
        found += driver.tell(events.LetterSaved(only(actions.SaveLetter, found).fsn))
    assert [event.policy for event in server_errors(found)] == [chosen]
    assert bool(of(actions.Latch, found)) is (chosen == "terminal")
    assert [settle.fsn for settle in of(actions.Settle, found)] == ([0] if chosen == "drop" else [])


@pytest.mark.parametrize("answer", [None, "nonsense"])
def test_6_2_without_an_answer_the_settings_count(answer: str | None) -> None:
    driver, question = asked(policies={"schema_mismatch": "retriable"})
    found = driver.tell(events.Decided(question.number, answer))
    assert [event.policy for event in server_errors(found)] == ["retriable"]


def test_an_answer_that_is_late_is_not_heard() -> None:
    driver, question = asked()
    assert driver.due_millis == 5_000
    driver.timer()
    assert driver.machine.state is State.FAILED
    assert driver.tell(events.Decided(question.number, "drop")) == []
    driver, question = asked(policies={"schema_mismatch": "retriable"})
    driver.next_connect(driver.timer())
    driver.tell(events.Connected(0), events.RunSent(3))
    again = only(actions.Decide, driver.tell(refuse(0)))
    assert driver.tell(events.Decided(question.number, "drop")) == []
    assert only(actions.SaveLetter, driver.tell(events.Decided(again.number, "drop")))


def test_nobody_is_asked_where_the_table_is_the_last_word() -> None:
    driver = sent(published=3, can_drop=True, decide_millis=5_000)
    assert not of(actions.Decide, driver.tell(refuse(0, 0x0C)))


def test_where_there_is_nothing_to_drop_that_is_no_choice() -> None:
    driver, question = asked(can_drop=False)
    assert question.choices == {"terminal", "retriable", "retriable_other"}
    driver.tell(events.Decided(question.number, "drop"))
    assert not of(actions.SaveLetter, driver.actions)
    assert driver.machine.state is State.FAILED
