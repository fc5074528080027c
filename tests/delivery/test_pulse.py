"""PINGs: durable keepalive (DUA-05) and the watchdog for half-open connections (FOV-08)."""

from __future__ import annotations

from typing import Any

import pytest

from spoolq.delivery import State, actions, events
from spoolq.qwp.responses import DurableAck, ErrorFrame, Ok
from tests.delivery.world import Driver, of, only, sent

OK = events.Answered(Ok(0, (("t", 1),)))
DURABLE = events.Answered(DurableAck((("t", 1),)))


def asks(**options: Any) -> Driver:
    return sent(durable_ack=True, durable_keepalive_millis=200, **options)


def due(driver: Driver, heard_millis: int = 0) -> int | None:
    return driver.machine.pulse_due_millis(heard_millis)


def beat(driver: Driver, heard_millis: int = 0) -> list[actions.Action]:
    """The machine is told at the time it asked for."""
    at = due(driver, heard_millis)
    assert at is not None
    driver.now_millis = max(driver.now_millis, at)
    return driver.tell(events.PulseDue(heard_millis))


# --- keepalive ----------------------------------------------------------------------------------------


def test_dua_05_a_ping_each_interval_while_frames_are_ok_and_not_durable() -> None:
    driver = asks()
    assert due(driver) is None, "there is no OK yet"
    driver.now_millis = 1_000
    driver.tell(OK)
    times = []
    for _ in range(4):
        assert beat(driver) == [actions.Ping()]
        times.append(driver.now_millis)
    assert times == [1_200, 1_400, 1_600, 1_800]
    driver.tell(DURABLE)
    assert due(driver) is None


def test_dua_05_frames_that_go_out_ask_as_well() -> None:
    driver = asks()
    driver.tell(OK)
    driver.now_millis = 150
    driver.log.published_fsn = 1
    driver.tell(events.Published())
    assert due(driver) is None, "while a run is being sent"
    driver.tell(events.RunSent(1))
    assert due(driver) == 350


@pytest.mark.parametrize("interval", [0, -1])
def test_dua_05_none_at_0_or_less(interval: int) -> None:
    driver = sent(durable_ack=True, durable_keepalive_millis=interval)
    driver.tell(OK)
    assert due(driver) is None


def test_dua_05_none_without_the_opt_in_and_none_without_a_connection() -> None:
    driver = sent(durable_keepalive_millis=200, published=1)
    driver.tell(OK)
    assert due(driver) is None
    driver = asks()
    driver.tell(OK, events.Lost("gone"))
    assert due(driver) is None
    assert driver.tell(events.PulseDue(0)) == []


def test_a_beat_that_comes_early_does_nothing() -> None:
    driver = asks()
    driver.tell(OK)
    driver.now_millis = 199
    assert driver.tell(events.PulseDue(0)) == []


# --- the watchdog ----------------------------------------------------------------------------------------


def test_fov_08_silence_brings_one_ping_and_more_silence_the_end_of_the_connection() -> None:
    driver = sent(half_open_millis=60_000)
    assert due(driver) == 30_000
    assert beat(driver) == [actions.Ping()]
    assert due(driver) == 60_000
    found = beat(driver)
    assert "nothing came for 60000 ms" in only(actions.Disconnect, found).why
    assert not of(actions.Latch, found)
    assert driver.machine.state is State.WAITING
    assert driver.machine._poison.strikes == 0
    assert driver.next_connect(found)[1] == 0


def test_fov_08_a_server_that_answers_the_ping_is_never_dropped() -> None:
    driver = sent(half_open_millis=60_000)
    heard = 0
    for _ in range(100):
        assert beat(driver, heard) == [actions.Ping()]
        driver.pass_millis(29_999)
        heard = driver.now_millis
        assert driver.tell(events.PulseDue(heard)) == []
    assert driver.machine.state is State.CONNECTED


def test_fov_08_the_time_starts_with_the_first_frame_that_waits() -> None:
    driver = sent(half_open_millis=60_000)
    driver.tell(OK)
    assert due(driver) is None, "nothing waits"
    driver.now_millis = 1_000_000
    driver.log.published_fsn = 1
    driver.tell(events.Published())
    assert due(driver) == 1_030_000, "a run that does not go out waits too"
    driver.now_millis += 10_000
    driver.tell(events.RunSent(1))
    assert due(driver) == 1_030_000


def test_fov_08_a_process_that_was_stopped_gives_the_peer_its_time() -> None:
    driver = sent(half_open_millis=60_000)
    driver.now_millis = 10_000_000
    assert driver.tell(events.PulseDue(0)) == [actions.Ping()]
    assert due(driver) == 10_030_000


def needs(driver: Driver, millis: int) -> int:
    """A server that answers a frame after so long and reads nothing meanwhile: on how many connections it got it."""
    for connections in range(1, 100):
        answers_at = driver.now_millis + millis
        while driver.machine.state is State.CONNECTED:
            at = due(driver, answers_at - millis)
            assert at is not None
            if at > answers_at:
                driver.now_millis = answers_at
                driver.tell(OK)
                return connections
            found = beat(driver, answers_at - millis)
        driver.next_connect(found)
        driver.tell(events.Connected(0), events.RunSent(driver.log.published_fsn))
    raise AssertionError("it is left for ever, and sent the frame again")


def test_fov_08_a_server_that_needs_longer_than_the_setting_gets_the_time_in_the_end() -> None:
    driver = sent(half_open_millis=60_000)
    assert needs(driver, 5 * 60_000) == 4, "after 60, 120 and 240 s it was left, 480 are enough"
    assert driver.log.acked_fsn == 0
    driver.log.published_fsn = 1
    driver.tell(events.Published(), events.RunSent(1))
    assert due(driver, driver.now_millis) == driver.now_millis + 30_000, "progress: the setting holds again"


@pytest.mark.parametrize("setting", [60_000, 7_200_000])
def test_fov_08_the_time_grows_up_to_a_bound(setting: int) -> None:
    driver = sent(half_open_millis=setting)
    for _ in range(12):
        start = driver.now_millis
        beat(driver, start)
        found = beat(driver, start)
        lasted = driver.now_millis - start
        driver.next_connect(found)
        driver.tell(events.Connected(0), events.RunSent(0))
    assert lasted == max(1_800_000, setting)


def test_fov_08_an_ok_that_is_not_durable_yet_is_progress_when_it_is_a_new_one() -> None:
    driver = sent(durable_ack=True, half_open_millis=60_000, published=1)
    for first, then in ((30_000, 30_000), (60_000, 30_000), (60_000, 60_000)):
        start = driver.now_millis
        assert due(driver, start) == start + first
        if first != then:
            driver.tell(OK)
            assert due(driver, start) == start + then
        elif driver.machine.ok_fsn == 0:
            driver.tell(OK)  # the one of before, on another connection
            assert due(driver, start) == start + then
        beat(driver, start)
        driver.next_connect(beat(driver, start))
        driver.replay(2)


def test_fov_08_off_at_0() -> None:
    driver = sent(half_open_millis=0)
    assert due(driver) is None


def test_fov_08_keepalive_pings_do_not_put_the_end_off() -> None:
    driver = asks(half_open_millis=2_000)
    driver.tell(OK)
    pings = 0
    while driver.machine.state is State.CONNECTED:
        found = beat(driver)
        pings += len(of(actions.Ping, found))
        assert driver.now_millis <= 2_000
    assert driver.now_millis == 2_000
    assert 9 <= pings <= 11


def test_the_next_connection_starts_with_time_of_its_own() -> None:
    driver = sent(half_open_millis=60_000)
    beat(driver)
    driver.next_connect(beat(driver))
    driver.now_millis = 200_000
    driver.replay(1)
    assert due(driver, 200_000) == 260_000
    assert beat(driver, 200_000) == [actions.Ping()]
    driver.tell(events.Answered(ErrorFrame(9, 0, "busy")))
    assert due(driver) is None
