"""The poison detector (behaviour.md 6.4), and the pacing of refusals (5.3)."""

from __future__ import annotations

import pytest

from spoolq.delivery import State, actions, events
from spoolq.errors import ServerRejection
from spoolq.qwp.responses import ErrorFrame, Ok
from tests.delivery.world import Driver, latched, of, sent

REFUSED = events.Answered(ErrorFrame(9, 0, "disk full"))
NOT_WRITABLE = events.Answered(ErrorFrame(0x0C, 0, "read only"))
GAP = events.Answered(ErrorFrame(0x0D, 0, "unknown id"))


def strikes(driver: Driver, *ends: events.Event, again: int = 1) -> list[int]:
    """The pauses after these ends, each followed by a new connection that sends everything."""
    pauses = []
    for end in ends * again:
        pauses.append(driver.next_connect(driver.tell(end))[0])
        driver.replay(driver.log.published_fsn + 1)
    return pauses


@pytest.mark.parametrize(
    "end", [REFUSED, GAP, events.PeerClosed(1011, "oops"), events.Undecodable("junk"), events.PeerClosed(None, "")]
)
def test_psn_01_strikes_and_dwell_make_it_terminal(end: events.Event) -> None:
    driver = sent(poison_window_millis=1_000)
    strikes(driver, end, again=3)
    driver.now_millis = max(driver.now_millis, 1_200)
    error = latched(driver.tell(end))
    assert isinstance(error, ServerRejection)
    assert (error.category, error.from_fsn, error.to_fsn) == ("protocol_violation", 0, 0)
    assert str(error).startswith("FSN 0 failed 4 times without any progress, last at one:9000: ")


def test_psn_01_the_error_carries_the_last_words_of_the_server() -> None:
    driver = sent(poison_window_millis=0, max_frame_rejections=2)
    strikes(driver, events.PeerClosed(1011, ""))
    error = latched(driver.tell(REFUSED))
    assert "disk full" in str(error)
    assert (error.server_text, error.status) == ("disk full", 9)  # type: ignore[attr-defined]


def test_psn_02_before_the_window_has_passed_it_goes_on() -> None:
    driver = sent(poison_window_millis=1_000_000)
    strikes(driver, REFUSED, again=20)
    assert driver.machine.state is State.CONNECTED
    driver.now_millis = 1_000_000 - 1
    assert not of(actions.Latch, driver.tell(REFUSED))
    driver.timer()
    driver.replay(1)
    driver.now_millis += 1_000_000
    assert of(actions.Latch, driver.tell(REFUSED))


def test_psn_02_after_the_window_the_number_still_counts() -> None:
    driver = sent(poison_window_millis=10)
    for _ in range(3):
        strikes(driver, REFUSED)
        driver.pass_millis(1_000)
    assert driver.machine.state is State.CONNECTED
    assert of(actions.Latch, driver.tell(REFUSED))


def test_psn_03_progress_clears_the_strikes() -> None:
    driver = sent(published=9, poison_window_millis=0)
    for _ in range(9):
        strikes(driver, REFUSED, again=3)
        driver.tell(events.Answered(Ok(0)))
        strikes(driver, events.Lost("reset"))
    assert driver.machine.state is State.CONNECTED


def test_psn_03_a_loss_or_an_orderly_close_neither_counts_nor_clears() -> None:
    driver = sent(poison_window_millis=0)
    strikes(driver, REFUSED, events.Lost("reset"), REFUSED, events.PeerClosed(1000, ""), REFUSED)
    assert driver.machine.state is State.CONNECTED
    assert of(actions.Latch, driver.tell(REFUSED))


def test_psn_04_not_writable_is_never_a_strike_and_paced_after_the_first() -> None:
    driver = sent(poison_window_millis=0)
    pauses = strikes(driver, NOT_WRITABLE, again=50)
    assert driver.machine.state is State.CONNECTED
    assert pauses[0] == 0
    for pause, base in zip(pauses[1:9], (100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000), strict=True):
        assert base <= pause < 2 * base


def test_psn_04_progress_makes_the_next_not_writable_immediate_again() -> None:
    driver = sent(published=5)
    strikes(driver, NOT_WRITABLE, again=3)
    driver.tell(events.Answered(Ok(0)))
    strikes(driver, events.Lost("reset"))
    pauses = strikes(driver, NOT_WRITABLE, again=2)
    assert pauses[0] == 0
    assert 100 <= pauses[1] < 200


def test_strikes_are_paced_by_their_number() -> None:
    driver = sent(poison_window_millis=10_000_000)
    for pause, base in zip(
        strikes(driver, REFUSED, again=10), (100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000, 5_000), strict=True
    ):
        assert base <= pause < 2 * base


def test_psn_05_after_a_dictionary_gap_everything_is_registered_again() -> None:
    driver = sent()
    driver.next_connect(driver.tell(GAP))
    assert driver.machine.mirror_needed


def test_a_refused_catch_up_counts_against_the_frame_at_the_head() -> None:
    driver = sent(poison_window_millis=0, max_frame_rejections=2, published=3)
    driver.tell(events.Answered(Ok(1)), events.Lost("reset"), events.Connected(3))
    driver.next_connect(driver.tell(REFUSED))
    driver.tell(events.Connected(3))
    error = latched(driver.tell(REFUSED))
    assert error.from_fsn == 2  # type: ignore[attr-defined]
