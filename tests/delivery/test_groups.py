"""Transactions of several frames: settled, replayed and left whole (behaviour.md 3.6, 4.3, 6.5 e; wire.md 6.2)."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from spoolq import limits
from spoolq.delivery import State, actions, events
from spoolq.delivery.groups import Groups
from spoolq.errors import ServerRejection
from spoolq.qwp.responses import DurableAck, ErrorFrame, Ok
from tests.delivery.world import Driver, latched, of, only, server_errors

# FSN 0; 1 to 4 with their commit 4; 5; 6 and its commit 7.
LAYOUT = "cdddccdc"
GROUP = range(1, 5)


def rows_of(flags: str, first: int = 0) -> list[events.DeferredQueued]:
    """What the loop tells of frames whose flags are these."""
    found = []
    for at, flag in enumerate(flags, first):
        if flag == "d" and found and found[-1].last_fsn == at - 1:
            found[-1] = events.DeferredQueued(found[-1].first_fsn, at)
        elif flag == "d":
            found.append(events.DeferredQueued(at, at))
    return found


def send(driver: Driver, flags: str = LAYOUT, first: int = 0) -> None:
    """A run of these frames, handed over whole."""
    driver.tell(*rows_of(flags, first), events.RunSent(first + len(flags) - 1))


def begun(*endpoints: str, layout: str = LAYOUT, **options: Any) -> Driver:
    """Connected, nothing sent."""
    driver = Driver(*endpoints, published=len(layout) - 1, **options)
    driver.tell(events.Begin(None), events.Connected(0, 1_000))
    return driver


def sent(*endpoints: str, **options: Any) -> Driver:
    driver = begun(*endpoints, **options)
    send(driver)
    return driver


def ok(sequence: int, *entries: tuple[str, int]) -> events.Answered:
    return events.Answered(Ok(sequence, entries))


def refuse(sequence: int, status: int = 9) -> events.Answered:
    return events.Answered(ErrorFrame(status, sequence, "no"))


def settled(driver: Driver) -> list[int]:
    return [action.fsn for action in of(actions.Settle, driver.actions)]


# --- what a group is ----------------------------------------------------------------------------------


def test_behaviour_3_6_an_ok_settles_up_to_the_group_that_it_leaves_open() -> None:
    groups = Groups()
    groups.deferred(1, 3)
    groups.deferred(6, 6)
    assert [groups.committed(fsn) for fsn in range(9)] == [0, 0, 0, 0, 4, 5, 5, 7, 8]


def test_first_frame_and_commit_of_each_frame() -> None:
    groups = Groups()
    groups.deferred(1, 3)
    groups.deferred(6, 6)
    assert [groups.of(fsn) for fsn in range(9)] == [(0, 0), *[(1, 4)] * 4, (5, 5), (6, 7), (6, 7), (8, 8)]


def test_a_group_goes_on_in_the_next_run() -> None:
    groups = Groups()
    groups.deferred(1, 3)
    assert groups.of(4) == (1, 4)
    groups.deferred(4, 5)
    assert (groups.of(4), groups.of(6)) == ((1, 6), (1, 6))
    assert groups.committed(5) == 0
    groups.deferred(7, 7)  # 6 was the commit
    assert groups.committed(6) == 6
    assert groups.of(8) == (7, 8)


def test_above_the_limit_groups_settle_together_and_never_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "GROUPS_MAX", 2)
    groups = Groups()
    for first in (0, 10, 20, 30):
        groups.deferred(first, first + 1)
    assert [groups.committed(fsn) for fsn in (1, 2, 5, 12, 25, 31, 32)] == [-1, 2, 5, 9, 9, 9, 32]
    groups.deferred(40, 41)
    groups.deferred(50, 51)
    assert (groups.of(42), groups.of(52)) == ((40, 42), (50, 52)), "there is room again"


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "GROUPS_MAX", 8)
    groups = Groups()
    for first in range(0, 3_000, 3):
        groups.deferred(first, first)
    assert len(groups._groups) == 8


@pytest.mark.parametrize("seed", range(50))
def test_any_groups_in_any_runs_against_the_plain_definition(seed: int) -> None:
    rng = Random(seed)
    flags = "".join(rng.choice("ddc") for _ in range(60)) + "c"
    groups, queued, answered = Groups(), 0, -1
    while answered < len(flags) - 1:
        if queued < len(flags) and rng.random() < 0.5:
            count = rng.randint(1, 9)
            for row in rows_of(flags[queued : queued + count], queued):
                groups.deferred(row.first_fsn, row.last_fsn)
            queued = min(len(flags), queued + count)
        elif answered < queued - 1:
            answered = rng.randint(answered + 1, queued - 1)
            whole = flags.rfind("c", 0, answered + 1)
            assert groups.committed(answered) == whole
        for fsn in range(answered + 1, queued):
            first = flags.rfind("c", 0, fsn) + 1
            assert groups.of(fsn)[0] == first


# --- the machine: acknowledgements ----------------------------------------------------------------------


@pytest.mark.parametrize("early", [1, 2, 3])
def test_behaviour_3_6_an_ok_in_the_middle_settles_nothing_of_the_group(early: int) -> None:
    driver = sent()
    driver.tell(ok(early))
    assert settled(driver) == [0]
    assert driver.machine.ok_fsn == 0
    driver.tell(ok(4))
    assert settled(driver) == [0, 4]


@pytest.mark.parametrize("early", [1, 2, 3])
def test_behaviour_4_3_a_lost_connection_replays_from_the_first_frame_of_the_group(early: int) -> None:
    driver = sent()
    driver.next_connect(driver.tell(ok(early), events.Lost("eof")))
    assert only(actions.SendRun, driver.tell(events.Connected(0))).first_fsn == 1
    send(driver, LAYOUT[1:], 1)
    driver.tell(ok(2))  # FSN 3
    assert settled(driver) == [0]
    driver.tell(ok(3))
    assert settled(driver) == [0, 4]


def test_behaviour_4_3_what_is_kept_of_groups_does_not_grow_with_the_connections() -> None:
    driver = sent()
    for _ in range(5):
        driver.next_connect(driver.tell(events.Lost("eof")))
        driver.tell(events.Connected(0))
        send(driver)
    assert len(driver.machine._groups._groups) == 2


def test_behaviour_4_3_an_ok_that_overtakes_its_own_send_settles_no_part_of_a_group() -> None:
    driver = begun()
    driver.tell(*rows_of(LAYOUT), ok(2))
    assert settled(driver) == []
    driver.tell(events.RunPartlySent(3))
    assert settled(driver) == [0]
    driver.tell(events.RunSent(7), ok(7))
    assert settled(driver) == [0, 7]


def test_behaviour_3_6_with_durable_acks_the_early_commit_counts_for_the_whole_group() -> None:
    driver = sent(durable_ack=True)
    driver.tell(ok(0), ok(2, ("t", 5)))  # an OK that moves nothing, and is not forgotten
    assert driver.machine.ok_fsn == 0
    driver.tell(ok(4, ("u", 1)))
    assert driver.machine.ok_fsn == 4
    driver.tell(events.Answered(DurableAck((("u", 1),))))
    assert settled(driver) == [0], "what was committed early is not durable yet"
    driver.tell(events.Answered(DurableAck((("t", 5),))))
    assert settled(driver)[-1] == 4


def test_behaviour_3_6_with_durable_acks_an_early_commit_that_is_durable_settles_nothing() -> None:
    driver = sent(durable_ack=True)
    driver.tell(ok(2, ("t", 5)), events.Answered(DurableAck((("t", 5),))))
    assert settled(driver) == [0]


# --- the machine: rejections ----------------------------------------------------------------------------


@pytest.mark.parametrize("fsn", GROUP)
def test_behaviour_6_5e_a_rejection_in_a_group_is_no_skip_and_replays_the_group(fsn: int) -> None:
    driver = sent()
    driver.tell(ok(0))
    found = driver.tell(refuse(fsn))
    (event,) = server_errors(found)
    assert (event.category, event.policy, event.from_fsn, event.to_fsn) == ("write_error", "retriable", fsn, fsn)
    driver.next_connect(found)
    assert only(actions.SendRun, driver.tell(events.Connected(0))).first_fsn == 1


@pytest.mark.parametrize("fsn", GROUP)
def test_behaviour_6_5e_a_terminal_rejection_in_a_group_names_its_frame(fsn: int) -> None:
    driver = sent()
    error = latched(driver.tell(ok(0), refuse(fsn, 3)))
    assert isinstance(error, ServerRejection)
    assert (error.category, error.from_fsn, error.to_fsn) == ("schema_mismatch", fsn, fsn)


@pytest.mark.parametrize(("answers", "fsn"), [([], 1), ([], 3), ([], 4), ([ok(0)], 5), ([ok(0)], 6), ([ok(4)], 7)])
def test_behaviour_6_5e_a_rejection_that_skips_a_frame_before_the_group_is_one(
    answers: list[events.Event], fsn: int
) -> None:
    driver = sent()
    error = latched(driver.tell(*answers, refuse(fsn)))
    assert isinstance(error, ServerRejection)
    assert error.category == "protocol_violation"


@pytest.mark.parametrize("options", [{}, {"durable_ack": True}])
@pytest.mark.parametrize("fsn", GROUP)
def test_behaviour_3_6_no_frame_of_a_group_is_dropped(fsn: int, options: dict[str, Any]) -> None:
    driver = sent(can_drop=True, policies={"schema_mismatch": "drop", "write_error": "drop"}, **options)
    found = driver.tell(ok(0), refuse(fsn))
    assert [event.policy for event in server_errors(found)] == ["retriable"]
    driver.next_connect(found)
    first = only(actions.SendRun, driver.tell(events.Connected(0))).first_fsn
    send(driver, LAYOUT[first:], first)
    found = driver.tell(ok(0 - first), refuse(fsn - first, 3))
    assert isinstance(latched(found), ServerRejection)
    assert not of(actions.SaveLetter, driver.actions)


def test_behaviour_3_6_a_resolver_cannot_drop_a_frame_of_a_group() -> None:
    driver = sent(can_drop=True, decide_millis=1_000)
    question = only(actions.Decide, driver.tell(ok(0), refuse(1)))
    assert question.choices == {"terminal", "retriable", "retriable_other"}


def test_a_frame_behind_a_group_is_dropped_as_ever() -> None:
    driver = sent(can_drop=True, policies={"schema_mismatch": "drop"})
    assert only(actions.SaveLetter, driver.tell(ok(4), refuse(5, 3))).fsn == 5


def test_behaviour_6_5e_strikes_add_up_over_the_group_and_the_error_names_the_frame_that_is_refused() -> None:
    driver = sent(max_frame_rejections=3, poison_window_millis=0)
    found = driver.tell(ok(0), refuse(3))
    for _ in range(2):
        driver.next_connect(found)
        driver.tell(events.Connected(0))
        send(driver, LAYOUT[1:], 1)
        found = driver.tell(ok(1), refuse(2))  # FSN 2 committed early: no progress; FSN 3 refused
    error = latched(found)
    assert isinstance(error, ServerRejection)
    assert (error.category, error.from_fsn) == ("protocol_violation", 3)


# --- the machine: a frame above the cap --------------------------------------------------------------------


@pytest.mark.parametrize("fsn", GROUP)
def test_behaviour_6_5c_a_frame_above_the_cap_takes_its_group_to_another_endpoint(fsn: int) -> None:
    driver = begun("a", "b")
    send(driver, LAYOUT[:fsn])
    found = driver.tell(events.FrameTooLarge(fsn, 5_000))
    assert found == [], "what is in front of the group is answered first"
    found = driver.tell(ok(0))
    assert driver.next_connect(found) == (0, 1)
    assert only(actions.SendRun, driver.tell(events.Connected(0, 10_000))).first_fsn == 1


def test_behaviour_6_5c_too_large_everywhere_names_the_frame() -> None:
    driver = begun("a", cap_gap_window_millis=0)
    send(driver, LAYOUT[:3])
    error = latched(driver.tell(ok(0), events.FrameTooLarge(3, 5_000)))
    assert isinstance(error, ServerRejection)
    assert (error.category, error.from_fsn) == ("frame_too_large", 3)
    assert driver.machine.state is State.FAILED
