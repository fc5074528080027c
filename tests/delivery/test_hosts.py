"""The table of behaviour.md 5.4."""

from __future__ import annotations

import pytest

from spoolq.delivery import events
from spoolq.delivery.events import ConnectFailed, FailureKind
from spoolq.delivery.hosts import Hosts, HostState
from spoolq.qwp.responses import ErrorFrame, Ok
from tests.delivery.world import Driver, connected, sent


def test_fov_01_the_states_are_tried_in_order_of_preference_then_of_the_list() -> None:
    hosts = Hosts(6)
    order = [
        HostState.TOPOLOGY_REJECT,
        HostState.TRANSPORT_ERROR,
        HostState.TRANSIENT_REJECT,
        HostState.UNKNOWN,
        HostState.UNKNOWN,
        HostState.HEALTHY,
    ]
    for index, state in enumerate(order):
        hosts.lost(index, state)
    tried = []
    while (index := hosts.next()) is not None:
        tried.append(index)
        hosts.failed(index, HostState.TRANSPORT_ERROR)
    assert tried == [5, 3, 4, 2, 1, 0]


def test_fov_04_a_new_round_forgets_all_but_the_last_healthy_endpoint() -> None:
    hosts = Hosts(3)
    hosts.failed(0, HostState.TOPOLOGY_REJECT)
    hosts.succeeded(1)
    hosts.succeeded(2)
    assert hosts.next() is None
    hosts.new_round()
    assert [hosts.state(index) for index in range(3)] == [HostState.UNKNOWN, HostState.UNKNOWN, HostState.HEALTHY]
    assert hosts.next() == 2


def test_fov_04_an_endpoint_that_was_healthy_and_died_is_not_kept() -> None:
    hosts = Hosts(2)
    hosts.succeeded(1)
    hosts.lost(1)
    hosts.new_round()
    assert hosts.next() == 0


@pytest.mark.parametrize(
    ("failure", "state"),
    [
        (ConnectFailed(FailureKind.TRANSPORT, ""), HostState.TRANSPORT_ERROR),
        (ConnectFailed(FailureKind.STATUS, "", 503), HostState.TRANSPORT_ERROR),
        (ConnectFailed(FailureKind.ROLE, "", 421, "PRIMARY_CATCHUP"), HostState.TRANSIENT_REJECT),
        (ConnectFailed(FailureKind.ROLE, "", 421, "Primary_Catchup"), HostState.TRANSIENT_REJECT),
        (ConnectFailed(FailureKind.ROLE, "", 421, "REPLICA"), HostState.TOPOLOGY_REJECT),
        (ConnectFailed(FailureKind.CAP, ""), HostState.TOPOLOGY_REJECT),
    ],
)
def test_fov_03_what_a_failed_connect_makes_of_an_endpoint(failure: ConnectFailed, state: HostState) -> None:
    driver = Driver("a", "b")
    driver.tell(events.Begin(None), failure)
    assert driver.machine._hosts.state(0) is state
    assert driver.machine._hosts.next() == 1


@pytest.mark.parametrize(
    ("end", "state"),
    [
        (events.Lost("reset"), HostState.TRANSPORT_ERROR),
        (events.PeerClosed(1011, ""), HostState.TRANSPORT_ERROR),
        (events.Answered(ErrorFrame(0x0C, 0, "")), HostState.TOPOLOGY_REJECT),
    ],
)
def test_fov_01_a_connection_that_ends_leads_to_another_endpoint(end: events.Event, state: HostState) -> None:
    driver = sent("a", "b")
    found = driver.tell(end)
    assert driver.machine._hosts.state(0) is state
    assert driver.next_connect(found)[1] == 1


def test_fov_01_after_progress_the_other_endpoint_is_tried_at_once() -> None:
    driver = sent("a", "b", published=1)
    driver.tell(events.Answered(Ok(0)))
    assert driver.next_connect(driver.tell(events.PeerClosed(1000, "demoted"))) == (0, 1)


def test_fov_01_each_loss_goes_to_the_other_one() -> None:
    driver = connected("a", "b", published=-1)
    tried = []
    for _ in range(6):
        tried.append(driver.next_connect(driver.tell(events.Lost("reset")))[1])
        driver.tell(events.Connected(0))
    assert tried == [1, 0, 1, 0, 1, 0]
