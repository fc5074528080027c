"""The table of behaviour.md 5.4: host states by trigger, and the order in which endpoints are asked, both clients.

`STATES` is the table itself, on the machine.  `ORDERS` is what can be seen of it from outside: endpoints A, B, C in the
order of the list, each story told to both clients against strict servers; a small letter is an attempt that failed,
a capital a connection.  ``why`` says why the two differ where they do, and only there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from spoolq.delivery import events
from spoolq.delivery.events import ConnectFailed, FailureKind
from spoolq.delivery.hosts import HostState
from spoolq.qwp.responses import ErrorFrame
from spoolq.testing import QwpServer
from tests.delivery.world import Driver
from tests.sender.beside import CLIENTS, OURS, Sending, opened
from tests.sender.harness import Recorder


class Effect(NamedTuple):
    """A trigger, and what it makes of the first of two endpoints."""

    told: tuple[events.Event, ...]
    state: HostState
    attempted: bool
    next: int | None  # which endpoint is asked next


def refused(kind: FailureKind, role: str = "") -> tuple[events.Event, ...]:
    return (ConnectFailed(kind, "no", 421 if role else None, role),)


LIVE: tuple[events.Event, ...] = (events.Connected(0), events.RunSent(0))
STATES: dict[str, Effect] = {
    "connect succeeded: Healthy, attempted": Effect(LIVE, HostState.HEALTHY, True, 1),
    "role reject PRIMARY_CATCHUP: TransientReject, attempted": Effect(
        refused(FailureKind.ROLE, "PRIMARY_CATCHUP"), HostState.TRANSIENT_REJECT, True, 1
    ),
    "role reject REPLICA: TopologyReject, attempted": Effect(
        refused(FailureKind.ROLE, "REPLICA"), HostState.TOPOLOGY_REJECT, True, 1
    ),
    "connect failed: TransportError, attempted": Effect(
        refused(FailureKind.TRANSPORT), HostState.TRANSPORT_ERROR, True, 1
    ),
    "established connection died: TransportError, attempted untouched": Effect(
        (*LIVE, events.Lost("reset")), HostState.TRANSPORT_ERROR, True, 1
    ),
    "NOT_WRITABLE: TopologyReject, attempted untouched": Effect(
        (*LIVE, events.Answered(ErrorFrame(0x0C, 0, "replica now"))), HostState.TOPOLOGY_REJECT, True, 1
    ),
}


@pytest.mark.parametrize("row", STATES.values(), ids=STATES)
def test_5_4_what_a_trigger_makes_of_a_host(row: Effect) -> None:
    driver = Driver("a", "b", published=0)
    driver.tell(events.Begin(None), *row.told)
    hosts = driver.machine._hosts
    assert (hosts.state(0), hosts._attempted[0]) == (row.state, row.attempted)
    assert hosts.next() == row.next


@pytest.mark.parametrize("dies", [False, True])
def test_5_4_a_new_round_clears_all_but_the_last_healthy_one(dies: bool) -> None:
    """All back to Unknown; sticky is who is Healthy still, which needs another loop on the same hosts (drainers)."""
    hosts = Driver("a", "b", "c").machine._hosts
    hosts.failed(0, HostState.TOPOLOGY_REJECT)
    hosts.failed(2, HostState.TRANSIENT_REJECT)
    hosts.succeeded(1)
    if dies:
        hosts.lost(1)
    assert hosts.next() is None
    hosts.new_round()
    assert [hosts.state(index) for index in (0, 2)] == [HostState.UNKNOWN] * 2
    assert hosts.state(1) is (HostState.UNKNOWN if dies else HostState.HEALTHY)
    assert hosts.next() == (0 if dies else 1)


# --- from outside ------------------------------------------------------------------------------------


def port_of(event: Any) -> str:
    """The port of an event of either client."""
    return str(event.port if hasattr(event, "port") else event.endpoint.rpartition(":")[2])


class World:
    """Three servers, a sender, and the attempts it tells of."""

    def __init__(self, servers: list[QwpServer[Any]], told: Recorder) -> None:
        self.servers = servers
        self.told = told
        self.sender: Sending | None = None
        self.sent = 0

    def deliver(self) -> None:
        """A row, and its acknowledgement."""
        assert self.sender is not None
        self.sent += 1
        assert self.sender.acked(self.sender.send(self.sent), 10_000)

    def attempts(self) -> str:
        """The story so far."""
        letters = {str(server.port): letter for server, letter in zip(self.servers, "ABC", strict=True)}
        found = ""
        for event in list(self.told.told):
            kind = event.kind if isinstance(event.kind, str) else event.kind.value[0]
            if kind in ("connected", "reconnected", "failed_over"):
                found += letters[port_of(event)]
            elif kind == "endpoint_attempt_failed":
                found += letters[port_of(event)].lower()
        return found

    def wait_for(self, wanted: Callable[[str], bool]) -> str:
        """The attempts, once they are so."""
        self.told.wait_for(lambda _: wanted(self.attempts()))
        return self.attempts()


class Order(NamedTuple):
    """A story: what happens, and the attempts of both clients up to its last connection."""

    spec: str
    refusing: str  # who refuses at the start
    story: Callable[[World], None]
    ours: str
    theirs: str
    why: str = ""


def lost(world: World) -> None:
    """A drops its connection and would take another."""
    world.deliver()
    world.servers[0].drop_connections()
    world.deliver()


def lost_twice(world: World) -> None:
    """So does the next one."""
    lost(world)
    world.servers[1].drop_connections()
    world.deliver()


def back_again(world: World) -> None:
    """B, the second choice, drops its connection; A is there again."""
    world.deliver()
    world.servers[0].accept_new()
    world.servers[1].drop_connections()
    world.deliver()


def nobody(world: World) -> None:
    """The connection is lost, nobody takes another for two rounds, then C does."""
    world.deliver()
    for server in world.servers:
        server.refuse_new(503)
    world.servers[0].drop_connections()
    assert world.sender is not None
    world.sent += 1
    fsn = world.sender.send(world.sent)
    world.wait_for(lambda found: found.count("c") >= 2)
    world.servers[2].accept_new()
    assert world.sender.acked(fsn, 10_000)


def no_longer_writable(world: World) -> None:
    """A is demoted while it has a connection, by status."""
    world.deliver()
    world.servers[0].demote(by_status=True)
    world.deliver()


def demoted(world: World) -> None:
    """The same by CLOSE 1000."""
    world.deliver()
    world.servers[0].demote()
    world.deliver()


ORDERS: dict[str, Order] = {
    "start: list order, each once": Order("order of the list; one round", "AB", lambda w: w.deliver(), "abC", "abC"),
    "lost: another endpoint": Order("Healthy -> TransportError before the next pick", "", lost, "AB", "AB"),
    "lost twice: the rest of the round": Order("attempted flag untouched", "", lost_twice, "ABC", "ABC"),
    "second choice lost: a new round": Order("flags cleared, all back to Unknown", "AC", back_again, "aBcA", "aBcA"),
    "NOT_WRITABLE: TopologyReject": Order("NOT_WRITABLE -> TopologyReject", "", no_longer_writable, "AB", "AB"),
    "demoted by CLOSE 1000": Order("an orderly close is a loss", "", demoted, "AB", "AB"),
}


def told_by(client: str, row: Order) -> str:
    """The story by that client."""
    with QwpServer() as first, QwpServer() as second, QwpServer() as third:
        servers = [first, second, third]
        for server, letter in zip(servers, "ABC", strict=True):
            if letter in row.refusing:
                server.refuse_new(503)
        told = Recorder()
        world = World(servers, told)
        conf = f"ws::addr={','.join(f'127.0.0.1:{server.port}' for server in servers)};"
        with opened(client, conf, listener=told) as sender:
            world.sender = sender
            row.story(world)
            story = row.ours if client == OURS else row.theirs
            # An acknowledgement may be there before the listener has heard of the connection that it came over.
            return world.wait_for(lambda found: len(found) >= len(story) and found[-1].isupper())


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("row", ORDERS.values(), ids=ORDERS)
def test_5_4_the_order_in_which_endpoints_are_asked(row: Order, client: str) -> None:
    assert told_by(client, row) == (row.ours if client == OURS else row.theirs)


@pytest.mark.parametrize("client", CLIENTS)
def test_5_4_rounds_without_a_connection_begin_with_the_first_endpoint(client: str) -> None:
    """Each round asks each endpoint once, in the order of the list; both clients."""
    found = told_by(client, Order("", "", nobody, "AbcabcC", "AbcabcC"))
    rounds = found.removeprefix("Abc").lower()  # the rest of the first round, without A, which has had its turn
    assert found[-1] == "C"
    assert rounds == "abc" * (len(rounds) // 3), found


@pytest.mark.parametrize("row", ORDERS.values(), ids=ORDERS)
def test_where_they_differ_the_row_says_why(row: Order) -> None:
    assert (row.ours != row.theirs) == bool(row.why)
