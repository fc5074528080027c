"""Frames and dictionary entries above an endpoint's cap (ours.md 6, behaviour.md 6.5 c; FOV-07)."""

from __future__ import annotations

from spoolq.delivery import State, actions, events
from spoolq.delivery.events import ConnectFailed, FailureKind, FrameTooLarge
from spoolq.qwp.responses import Ok
from tests.delivery.world import Driver, latched, of, only

CAP = 1_000
TOO_LARGE = FrameTooLarge(0, 5_000)


def small(*endpoints: str, published: int = 0) -> Driver:
    driver = Driver(*endpoints, published=published)
    driver.tell(events.Begin(None), events.Connected(0, CAP))
    return driver


def test_fov_07_a_run_is_asked_for_within_the_cap_of_its_endpoint() -> None:
    assert only(actions.SendRun, small().actions).max_frame_nbytes == CAP
    driver = Driver(published=0)
    driver.tell(events.Begin(None))
    assert only(actions.SendRun, driver.tell(events.Connected(0))).max_frame_nbytes is None


def test_fov_07_the_other_endpoint_is_tried_and_takes_it() -> None:
    driver = small("a", "b")
    found = driver.tell(TOO_LARGE)
    assert only(actions.Disconnect, found).why == "FSN 0 takes 5000 bytes, a at most 1000"
    pause, endpoint = driver.next_connect(found)
    assert pause >= 100
    assert endpoint == 1
    found = driver.tell(events.Connected(0, 10_000))
    assert only(actions.SendRun, found).max_frame_nbytes == 10_000
    assert only(actions.Settle, driver.tell(events.RunSent(0), events.Answered(Ok(0)))).fsn == 0


def test_fov_07_what_is_in_front_of_it_is_answered_first() -> None:
    driver = small("a", "b", published=3)
    driver.tell(events.RunSent(1))
    assert driver.tell(FrameTooLarge(2, 5_000)) == []
    assert driver.tell(events.Published()) == []
    assert not of(actions.Disconnect, driver.tell(events.Answered(Ok(0))))
    found = driver.tell(events.Answered(Ok(1)))
    assert [type(action) for action in found][:1] == [actions.Settle]
    assert driver.next_connect(found) == (0, 1)
    assert only(actions.SendRun, driver.tell(events.Connected(0, 10_000))).first_fsn == 2


def test_fov_07_one_warning_an_endpoint() -> None:
    driver = small("a", "b")
    found: list[actions.Action] = []
    for _ in range(6):
        found = driver.tell(TOO_LARGE)
        driver.next_connect(found)
        driver.tell(events.Connected(0, CAP))
    assert [one.text.split(",")[1].split()[0] for one in of(actions.Warn, driver.actions) if one.topic == "cap"] == [
        "a",
        "b",
    ]


def test_fov_07_terminal_when_every_endpoint_has_been_too_small_for_the_window() -> None:
    driver = small("a", "b")
    found = driver.tell(TOO_LARGE)
    while driver.machine.state is not State.FAILED:
        assert driver.now_millis < 320_000
        driver.next_connect(found)
        driver.tell(events.Connected(0, CAP))
        found = driver.tell(TOO_LARGE)
    assert driver.now_millis >= 300_000
    error = latched(driver.actions)
    assert error.category == "frame_too_large"  # type: ignore[attr-defined]
    assert (error.from_fsn, error.to_fsn) == (0, 0)  # type: ignore[attr-defined]
    assert "FSN 0 takes 5000 bytes" in str(error)
    assert "a 1000, b 1000" in str(error)
    connects = of(actions.Connect, driver.actions)
    assert len(connects) < 80


def test_fov_07_an_endpoint_that_cannot_be_reached_may_yet_take_it() -> None:
    driver = small("a", "b")
    found = driver.tell(TOO_LARGE)
    while driver.now_millis < 1_000_000:
        _, endpoint = driver.next_connect(found)
        if endpoint == 0:
            driver.tell(events.Connected(0, CAP))
            found = driver.tell(TOO_LARGE)
        else:
            found = driver.tell(ConnectFailed(FailureKind.TRANSPORT, "refused"))
    assert not of(actions.Latch, driver.actions)


def test_fov_07_a_dictionary_entry_above_the_cap_is_the_same() -> None:
    driver = Driver("a", "b", published=4, acked=2)
    failure = ConnectFailed(FailureKind.CAP, "the symbol 'x' takes 5000 bytes", cap_nbytes=CAP)
    driver.tell(events.Begin(None))
    assert only(actions.Connect, driver.tell(failure)).endpoint_index == 1
    found = driver.tell(failure)
    while driver.machine.state is not State.FAILED:
        driver.next_connect(found)
        found = driver.tell(failure)
        if driver.machine.state is State.CONNECTING:
            found = driver.tell(failure)
    assert 300_000 <= driver.now_millis < 320_000
    error = latched(driver.actions)
    assert error.from_fsn == 3  # type: ignore[attr-defined]
    assert "a 1000, b 1000" in str(error)


def test_fov_07_a_cap_that_was_not_told_is_unknown() -> None:
    driver = Driver(published=0)
    failure = ConnectFailed(FailureKind.CAP, "the symbol 'x' takes 5000000 bytes")
    found = driver.tell(events.Begin(None), failure)
    while driver.machine.state is not State.FAILED:
        driver.next_connect(found)
        found = driver.tell(failure)
    assert "one:9000 unknown" in str(latched(driver.actions))


def test_fov_07_the_window_runs_from_the_endpoint_that_was_found_last() -> None:
    driver = small("a", "b")
    refused = ConnectFailed(FailureKind.TRANSPORT, "refused")
    found = driver.tell(TOO_LARGE)
    while driver.now_millis < 400_000:
        _, endpoint = driver.next_connect(found)
        found = driver.tell(refused) if endpoint else driver.tell(events.Connected(0, CAP), TOO_LARGE)
    while driver.machine.state is not State.FAILED:
        assert driver.now_millis < 760_000
        driver.next_connect(found)
        found = driver.tell(events.Connected(0, CAP), TOO_LARGE)
    assert driver.now_millis >= 700_000
