"""Durable acks: what they settle, and what an OK still says beside them (behaviour.md 4.4, 3.3; wire.md 5.5)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spoolq import limits
from spoolq.delivery import State, actions, events
from spoolq.delivery.durable import DurableAcks, SeqTxns, TooManyTables, joined
from spoolq.delivery.events import ConnectFailed, FailureKind
from spoolq.errors import ConnectError, DurableAckError, ServerRejection
from spoolq.qwp.responses import DurableAck, ErrorFrame, Ok
from tests.delivery.world import Driver, connected, latched, of, only, sent, server_errors

MISMATCH = ConnectFailed(FailureKind.DURABLE, "one:9000 does not grant durable acks")
DOWN = ConnectFailed(FailureKind.TRANSPORT, "refused")


def ok(sequence: int, **tables: int) -> events.Answered:
    return events.Answered(Ok(sequence, tuple(tables.items())))


def durable(**tables: int) -> events.Answered:
    return events.Answered(DurableAck(tuple(tables.items())))


def settled(found: list[actions.Action]) -> list[int]:
    return [action.fsn for action in of(actions.Settle, found)]


def opted_in(published: int = 9, **options: Any) -> Driver:
    return sent(published=published, durable_ack=True, **options)


# --- the queue -----------------------------------------------------------------------------------------


def test_dua_01_an_ok_waits_for_each_of_its_tables_and_for_the_oks_before_it() -> None:
    acks = DurableAcks(-1)
    acks.ok(0, (("a", 1), ("b", 5)))
    acks.ok(1, (("c", 1),))
    acks.durable((("c", 1), ("a", 1)))
    assert acks.fsn == -1
    acks.durable((("b", 4),))
    assert acks.fsn == -1
    acks.durable((("b", 5),))
    assert acks.fsn == 1


def test_dua_01_a_mark_never_falls() -> None:
    acks = DurableAcks(-1)
    acks.durable((("a", 7),))
    acks.durable((("a", 3),))
    acks.ok(0, (("a", 7),))
    assert acks.fsn == 0


def test_dua_02_marks_may_come_before_the_ok() -> None:
    acks = DurableAcks(4)
    acks.durable((("a", 3),))
    acks.ok(6, (("a", 2),))
    assert acks.fsn == 6
    acks.ok(7, (("a", 4),))
    assert acks.fsn == 6


def test_dua_03_an_ok_without_tables_is_durable_when_those_before_it_are() -> None:
    acks = DurableAcks(-1)
    acks.ok(0, ())
    assert acks.fsn == 0
    acks.ok(1, (("a", 1),))
    acks.ok(2, ())
    acks.ok(3, ())
    assert acks.fsn == 0
    acks.durable((("a", 1),))
    assert acks.fsn == 3


def test_an_ok_out_of_order_is_never_ahead_of_what_it_names() -> None:
    acks = DurableAcks(-1)
    acks.ok(5, (("a", 1),))
    acks.ok(2, (("b", 1),))  # the one before, late
    acks.durable((("a", 1),))
    assert acks.fsn == -1
    acks.durable((("b", 1),))
    assert acks.fsn == 5
    acks.ok(5, (("b", 1),))  # again
    acks.ok(3, (("c", 1),))  # of settled frames: what comes next waits for it too
    acks.ok(6, ())
    assert acks.fsn == 5
    acks.durable((("c", 1),))
    assert acks.fsn == 6


_entries = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 6), max_size=3).map(lambda d: tuple(d.items()))
_talk = st.lists(st.tuples(st.booleans(), st.integers(1, 3), _entries), max_size=40)


@settings(max_examples=500, deadline=None)
@given(talk=_talk, room=st.sampled_from([2, 5, 10_000]))
def test_dua_01_the_queue_is_what_a_list_of_everything_would_say(
    talk: list[tuple[bool, int, tuple[tuple[str, int], ...]]], room: int
) -> None:
    acks, oks, marks, fsn = DurableAcks(-1), list[tuple[int, dict[str, int]]](), dict[str, int](), -1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "DURABLE_WAITING_MAX", room)
        for is_ok, step, entries in [*talk, (False, 0, tuple((table, 6) for table in "abcd"))]:
            if is_ok:
                fsn += step
                oks.append((fsn, dict(entries)))
                acks.ok(fsn, entries)
            else:
                for table, transaction in entries:
                    marks[table] = max(transaction, marks.get(table, -1))
                acks.durable(entries)
            expected = -1
            for upto, needs in oks:
                if any(marks.get(table, -1) < transaction for table, transaction in needs.items()):
                    break
                expected = upto
            assert acks.fsn <= expected, "durable before it was"
            if room == 10_000:
                assert acks.fsn == expected
            assert acks._held <= room + 1 + len("abcd")
    assert acks.fsn == fsn, "with all of it durable nothing waits"
    assert (acks._held, len(acks._waiting)) == (0, 0)


def test_what_waits_and_what_is_named_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DURABLE_TABLES_MAX", 3)
    acks = DurableAcks(-1)
    for number in range(1_000):
        acks.ok(number, (("a", number), ("b", number)))
    acks.durable((("c", 1),))
    with pytest.raises(TooManyTables):
        acks.durable((("d", 1),))
    with pytest.raises(TooManyTables):
        acks.ok(1_000, (("d", 1),))
    monkeypatch.setattr(limits, "DURABLE_NAMES_LENGTH_MAX", 1_000)
    with pytest.raises(TooManyTables):
        DurableAcks(-1).ok(0, (("x" * 1_001, 1),))


def test_two_oks_that_overtook_their_send_are_one() -> None:
    first = joined(None, Ok(3, (("a", 2), ("b", 1))))
    assert joined(first, Ok(2, (("a", 1), ("c", 9)))) == Ok(3, (("a", 2), ("b", 1), ("c", 9)))


def test_the_highest_transactions_are_kept_for_a_bounded_number_of_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SEQ_TXN_TABLES_MAX", 2)
    seen = SeqTxns()
    seen.rise((("a", 5), ("x" * 128, 1), ("b", 1)))
    seen.rise((("a", 4), ("b", 2), ("c", 1)))
    assert seen.copy() == {"a": 5, "b": 2}


# --- the machine ------------------------------------------------------------------------------------------


def test_dua_01_an_ok_settles_nothing_and_a_durable_ack_does() -> None:
    driver = opted_in()
    found = driver.tell(ok(4, t=3), ok(6, t=4))
    assert settled(found) == []
    assert [action.fsn for action in of(actions.Committed, found)] == [4, 6]
    assert (driver.machine.ok_fsn, driver.log.acked_fsn) == (6, -1)
    assert settled(driver.tell(durable(t=3))) == [4]
    assert settled(driver.tell(durable(u=9))) == []
    assert settled(driver.tell(durable(t=4))) == [6]
    assert (driver.machine.durable_acks, driver.machine.durable_advances) == (3, 2)
    assert driver.machine.acked_txns.copy() == {"t": 4}
    assert driver.machine.durable_txns.copy() == {"t": 4, "u": 9}


def test_dua_02_the_mark_first_then_the_ok() -> None:
    driver = opted_in()
    driver.tell(durable(t=9))
    assert settled(driver.tell(ok(4, t=3))) == [4]


def test_dua_04_after_a_reconnect_everything_not_durable_goes_out_again_and_waits_anew() -> None:
    driver = opted_in()
    driver.tell(ok(6, t=4), durable(t=3), ok(7, t=5), durable(t=4))
    assert driver.log.acked_fsn == 6
    _, endpoint = driver.next_connect(driver.tell(events.Lost("gone")))
    assert endpoint == 0
    found = driver.tell(events.Connected(2))
    assert only(actions.SendRun, found).first_fsn == 7
    driver.tell(events.RunSent(9))
    assert driver.machine.ok_fsn == 7
    assert settled(driver.tell(ok(1), ok(2, t=2))) == [], "the marks of the connection before count for nothing"
    assert settled(driver.tell(durable(t=2))) == [7]
    assert settled(driver.tell(ok(4, t=3), durable(t=3))) == [9]


def test_dua_04_an_ok_without_its_durable_ack_is_no_progress_for_the_pauses() -> None:
    driver = opted_in(published=0)
    pauses = []
    for _ in range(6):
        pauses.append(driver.next_connect(driver.tell(ok(0, t=1), events.Lost("gone")))[0])
        driver.replay(1)
    assert pauses == sorted(pauses)
    assert pauses[0] >= 100
    assert pauses[-1] >= 3_200
    driver.tell(ok(0, t=1))
    assert driver.next_connect(driver.tell(durable(t=1), events.Lost("gone")))[0] == 0


def test_a_durable_ack_nobody_asked_for_is_ignored() -> None:
    driver = sent(published=4)
    assert driver.tell(durable(t=1)) == []
    assert (driver.machine.durable_acks, driver.machine.durable_txns.copy()) == (0, {})
    assert settled(driver.tell(ok(4, t=2))) == [4]
    assert not of(actions.Committed, driver.actions)
    assert driver.machine.ok_fsn == 4


def test_an_ok_that_overtakes_its_send_keeps_its_tables() -> None:
    driver = connected(published=5, durable_ack=True)
    assert settled(driver.tell(ok(3, t=2), durable(t=1))) == []
    assert settled(driver.tell(events.RunSent(5))) == []
    assert driver.machine.ok_fsn == 3
    assert settled(driver.tell(durable(t=2))) == [3]


def test_snd_05_an_ok_beyond_the_last_frame_settles_no_more_than_was_sent() -> None:
    driver = connected(published=3, durable_ack=True)
    driver.log.published_fsn = 8
    driver.tell(ok(99, t=1), events.RunPartlySent(1), durable(t=1))
    assert driver.log.acked_fsn == 1
    assert only(actions.SendRun, driver.tell(events.RunSent(3))).first_fsn == 4
    assert driver.log.acked_fsn == 3
    driver.tell(events.RunSent(8))
    assert driver.log.acked_fsn == 3


def test_dua_01_a_rejection_behind_frames_that_are_ok_and_not_durable_is_not_a_skip() -> None:
    driver = opted_in()
    driver.tell(ok(4, t=3))
    found = driver.tell(events.Answered(ErrorFrame(9, 5, "disk full")))
    (event,) = server_errors(found)
    assert (event.category, event.policy, event.from_fsn, event.to_fsn) == ("write_error", "retriable", 5, 5)
    _, _ = driver.next_connect(found)
    assert only(actions.SendRun, driver.tell(events.Connected(0))).first_fsn == 0


def test_a_rejection_that_leaves_frames_without_an_answer_is_still_one() -> None:
    driver = opted_in()
    driver.tell(ok(4, t=3))
    error = latched(driver.tell(events.Answered(ErrorFrame(9, 7, "disk full"))))
    assert isinstance(error, ServerRejection)
    assert (error.category, error.from_fsn, error.to_fsn) == ("protocol_violation", 5, 7)


def test_psn_01_strikes_count_against_the_first_frame_without_an_ok() -> None:
    driver = opted_in(poison_window_millis=0, max_frame_rejections=3)
    found: list[actions.Action] = []
    for _ in range(3):
        found = driver.tell(ok(4, t=3), events.Answered(ErrorFrame(9, 5, "disk full")))
        if driver.machine.state is not State.FAILED:
            driver.next_connect(found)
            driver.replay(10)
    error = latched(found)
    assert isinstance(error, ServerRejection)
    assert (error.from_fsn, error.to_fsn) == (5, 5), "the frames before it have their OK each time"


def test_psn_03_a_new_ok_clears_the_strikes_and_a_repeated_one_does_not() -> None:
    driver = opted_in(poison_window_millis=0, max_frame_rejections=2)
    for fsn in range(5):
        found = driver.tell(ok(fsn, t=fsn), events.Answered(ErrorFrame(9, fsn + 1, "busy")))
        driver.next_connect(found)
        driver.replay(10)
    assert driver.machine.state is State.CONNECTED
    driver.tell(ok(4, t=4), events.Answered(ErrorFrame(9, 5, "busy")))
    assert driver.machine.state is State.FAILED


def test_a_close_while_all_frames_have_their_ok_is_no_strike() -> None:
    driver = opted_in(poison_window_millis=0, max_frame_rejections=1)
    driver.tell(ok(9, t=1))
    driver.next_connect(driver.tell(events.PeerClosed(1011, "oops")))
    assert driver.machine.state is State.CONNECTING


def test_answers_that_name_too_many_tables_end_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DURABLE_TABLES_MAX", 2)
    for last in (ok(4, a=1, b=1, c=1), durable(a=1, b=1, c=1)):
        driver = opted_in()
        found = driver.tell(last)
        assert "more than 2 tables" in only(actions.Disconnect, found).why
        assert driver.machine.state is State.WAITING


# --- an endpoint without durable acks (D-19) ----------------------------------------------------------------


def test_fov_05_an_endpoint_without_durable_acks_leads_to_the_next_one() -> None:
    driver = Driver("one:9000", "two:9000", published=0, durable_ack=True)
    driver.tell(events.Begin(0))
    found = driver.tell(MISMATCH)
    assert only(actions.Connect, found).endpoint_index == 1
    driver.tell(events.Connected(0))
    assert driver.machine.state is State.CONNECTED


@pytest.mark.parametrize("budget", [None, 0, 60_000])
def test_fov_05_only_a_round_in_which_every_endpoint_says_so_is_terminal(budget: int | None) -> None:
    driver = Driver("one:9000", "two:9000", published=0, durable_ack=True)
    driver.tell(events.Begin(budget))
    error = latched(driver.tell(MISMATCH, MISMATCH))
    assert isinstance(error, DurableAckError)
    assert "one:9000: one:9000 does not grant durable acks" in str(error)


def test_fov_05_a_round_with_another_failure_goes_on_and_its_count_is_its_own() -> None:
    driver = Driver("one:9000", "two:9000", published=0, durable_ack=True)
    driver.tell(events.Begin(None))
    for _ in range(3):  # each endpoint has said so, never both in one round
        driver.tell(MISMATCH, DOWN)
        assert driver.machine.state is State.WAITING
        driver.timer()
        driver.tell(DOWN, MISMATCH)
        assert driver.machine.state is State.WAITING
        driver.timer()
    driver.tell(MISMATCH, MISMATCH)
    assert driver.machine.state is State.FAILED


def test_fov_05_with_one_round_and_another_failure_it_is_no_connection() -> None:
    driver = Driver("one:9000", "two:9000", durable_ack=True)
    driver.tell(events.Begin(0))
    error = latched(driver.tell(MISMATCH, DOWN))
    assert isinstance(error, ConnectError)
    assert not isinstance(error, DurableAckError)


def test_fov_05_after_a_loss_a_whole_round_is_wanted() -> None:
    driver = Driver("one:9000", "two:9000", published=0, durable_ack=True)
    driver.tell(events.Begin(None), events.Connected(0), events.RunSent(0))
    assert driver.next_connect(driver.tell(events.Lost("gone")))[1] == 1
    driver.tell(MISMATCH)  # the other one was lost in this round
    assert driver.machine.state is State.WAITING
    driver.timer()
    driver.tell(MISMATCH, MISMATCH)
    assert driver.machine.state is State.FAILED
