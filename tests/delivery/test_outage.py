"""The outage budget runs from the last ack progress, whatever the connection does (ours.md 25, behaviour.md 5.5)."""

from __future__ import annotations

import pytest

from spoolq.delivery import State, actions, events
from spoolq.delivery.events import ConnectFailed, FailureKind
from spoolq.errors import ConnectError
from spoolq.qwp.responses import Ok
from tests.delivery.world import Driver, connected, connection_events, latched, of, sent

BUDGET = 3_000
TRANSPORT = ConnectFailed(FailureKind.TRANSPORT, "refused")


def _until_failed(driver: Driver) -> ConnectError:
    """The timers come as they are due, every connect fails."""
    while driver.machine.state is not State.FAILED:
        if driver.machine.state is State.CONNECTING:
            driver.tell(TRANSPORT)
        else:
            driver.timer()
    error = latched(driver.actions)
    assert isinstance(error, ConnectError)
    return error


def test_orp_11_a_server_that_takes_frames_and_never_answers_uses_it_up() -> None:
    driver = sent(outage_budget_millis=BUDGET)
    error = _until_failed(driver)
    assert driver.now_millis == BUDGET
    assert error.tag == "connection-lost-budget-exhausted"
    assert "acknowledges nothing" in str(error)
    assert "one:9000" in str(error)
    assert [type(action) for action in driver.actions[-4:]].count(actions.Disconnect) == 1
    assert connection_events(driver.actions)[-1].kind == "budget_exhausted"


def test_orp_11_a_new_connection_does_not_begin_it_again() -> None:
    driver = sent(outage_budget_millis=BUDGET)
    for _ in range(3):
        driver.pass_millis(100)
        driver.next_connect(driver.tell(events.Lost("reset")))
        driver.tell(events.Connected(0), events.RunSent(0))
    _until_failed(driver)
    assert driver.now_millis == BUDGET


def test_each_progress_begins_it_again() -> None:
    driver = sent(published=5, outage_budget_millis=BUDGET)
    for fsn in range(4):
        driver.pass_millis(BUDGET - 1)
        driver.tell(events.Answered(Ok(fsn)))
    _until_failed(driver)
    assert driver.now_millis == 4 * (BUDGET - 1) + BUDGET


def test_it_does_not_run_while_nothing_waits() -> None:
    driver = sent(outage_budget_millis=BUDGET)
    driver.tell(events.Answered(Ok(0)))
    driver.timer()  # the one that was set before
    assert (driver.machine.state, driver.due_millis) == (State.CONNECTED, None)
    driver.pass_millis(100_000)
    driver.log.published_fsn = 1
    driver.tell(events.Published(), events.RunSent(1))
    _until_failed(driver)
    assert driver.now_millis == BUDGET + 100_000 + BUDGET


def test_a_loss_while_nothing_waits_begins_it_and_a_connection_ends_it() -> None:
    driver = connected(published=-1, outage_budget_millis=BUDGET)
    driver.next_connect(driver.tell(events.Lost("reset")))
    driver.tell(TRANSPORT)
    driver.pass_millis(BUDGET - 1_000)
    driver.timer()
    driver.tell(events.Connected(0))
    driver.pass_millis(100_000)
    assert driver.machine.state is State.CONNECTED
    driver.tell(events.Lost("reset"))
    _until_failed(driver)


def test_one_that_never_connected_has_the_other_tag() -> None:
    driver = Driver(published=0, outage_budget_millis=BUDGET)
    driver.tell(events.Begin(None))
    error = _until_failed(driver)
    assert driver.now_millis == BUDGET
    assert error.tag == "never-connected-budget-exhausted"


def test_a_blocking_first_connect_has_its_own_budget_and_this_one_runs_from_then() -> None:
    driver = Driver(published=0, outage_budget_millis=BUDGET)
    driver.tell(events.Begin(60_000))
    while driver.now_millis < 20_000:
        driver.next_connect(driver.tell(TRANSPORT))
    begun = driver.now_millis
    driver.tell(events.Connected(0), events.RunSent(0))
    _until_failed(driver)
    assert driver.now_millis == begun + BUDGET


@pytest.mark.parametrize("published", [0, 5])
def test_ours_25_without_one_nobody_looks_at_the_time(published: int) -> None:
    driver = sent(published=published)
    assert of(actions.SetTimer, driver.actions) == []
    driver.pass_millis(10_000_000)
    driver.tell(events.Answered(Ok(0)))
    assert of(actions.SetTimer, driver.actions) == []
