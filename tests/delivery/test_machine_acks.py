"""What an answer settles (behaviour.md 4.1, 4.3)."""

from __future__ import annotations

from spoolq.delivery import actions, events
from spoolq.qwp.responses import Ok
from tests.delivery.world import Driver, of, only


def connected(*, published: int, acked: int = -1, catch_up: int = 0) -> Driver:
    driver = Driver(published=published, acked=acked)
    driver.tell(events.Begin(None), events.Connected(catch_up))
    return driver


def test_snd_02_sending_starts_behind_the_last_acknowledged_frame() -> None:
    driver = connected(published=9, acked=4)
    assert only(actions.SendRun, driver.actions).first_fsn == 5


def test_an_ok_settles_everything_up_to_its_frame() -> None:
    driver = connected(published=9)
    driver.tell(events.RunSent(9))
    assert only(actions.Settle, driver.tell(events.Answered(Ok(6)))).fsn == 6


def test_the_answers_to_catch_up_messages_settle_nothing() -> None:
    driver = connected(published=9, catch_up=2)
    driver.tell(events.RunSent(9))
    assert not of(actions.Settle, driver.tell(events.Answered(Ok(1))))
    assert only(actions.Settle, driver.tell(events.Answered(Ok(2)))).fsn == 0


def test_snd_05_an_ok_beyond_the_last_frame_sent_is_clamped_with_a_warning() -> None:
    driver = connected(published=3)
    driver.tell(events.RunSent(3))
    driver.log.published_fsn = 8
    found = driver.tell(events.Answered(Ok(7)))
    assert only(actions.Settle, found).fsn == 3
    assert only(actions.Warn, found).topic == "clamp"
