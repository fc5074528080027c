"""A transaction that nobody committed is left out: neither sent nor waited for (slot.md 5.5, invariant 38)."""

from __future__ import annotations

from spoolq.delivery import actions, events
from spoolq.qwp.responses import Ok
from tests.delivery.world import Driver


def sends(found: list[actions.Action]) -> list[int]:
    return [action.first_fsn for action in found if isinstance(action, actions.SendRun)]


def settled(found: list[actions.Action]) -> list[int]:
    return [action.fsn for action in found if isinstance(action, actions.Settle)]


def begun(published: int, acked: int) -> Driver:
    """Connected, with frames 3 to 5 never to be sent."""
    driver = Driver(published=published, acked=acked)
    driver.log.unsent = (3, 6)
    driver.tell(events.Begin(None))
    return driver


def test_invariant_38_the_frames_behind_it_follow_and_their_acks_are_theirs() -> None:
    driver = begun(published=7, acked=0)
    assert sends(driver.tell(events.Connected(1))) == [1]
    assert sends(driver.tell(events.RunSent(2))) == [6]
    driver.tell(events.RunSent(7))
    # wire 0 is the dictionary, 1 and 2 are FSN 1 and 2, 3 and 4 are FSN 6 and 7
    assert settled(driver.tell(events.Answered(Ok(2)))) == [2]
    assert settled(driver.tell(events.Answered(Ok(3)))) == [6]
    assert settled(driver.tell(events.Answered(Ok(4)))) == [7]


def test_invariant_38_nothing_is_sent_for_it_alone_and_later_frames_still_go_out() -> None:
    driver = begun(published=5, acked=0)
    driver.tell(events.Connected(0))
    assert sends(driver.tell(events.RunSent(2))) == []
    driver.tell(events.Answered(Ok(1)))
    driver.log.published_fsn = 6
    assert sends(driver.tell(events.Published())) == [6]
    driver.tell(events.RunSent(6))
    assert settled(driver.tell(events.Answered(Ok(2)))) == [6]


def test_invariant_38_a_reconnect_behind_it_starts_behind_it() -> None:
    driver = begun(published=7, acked=0)
    driver.tell(events.Connected(0), events.RunSent(2), events.Answered(Ok(1)), events.Lost("gone"))
    assert sends(driver.tell(events.Connected(0))) == [6]
    driver.tell(events.RunSent(7))
    assert settled(driver.tell(events.Answered(Ok(0)))) == [6]
