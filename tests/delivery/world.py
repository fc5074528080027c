"""A log that is two numbers, and a driver that keeps the machine's time: nothing here waits."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

from spoolq.delivery import Delivery, DeliveryOptions, State, actions, events
from spoolq.errors import SpoolqError

Kind = TypeVar("Kind")


@dataclass
class Log:
    """What the machine knows of the spool."""

    published_fsn: int = -1
    acked_fsn: int = -1


class Driver:
    """Tells the machine events at a time that only `at` and `pass_millis` move, and keeps every action."""

    def __init__(self, *endpoints: str, published: int = -1, acked: int = -1, seed: int = 7, **options: Any) -> None:
        self.log = Log(published, acked)
        self.now_millis = 0
        self.machine = Delivery(
            DeliveryOptions(endpoints=endpoints or ("one:9000",), **options), self.log, Random(seed)
        )
        self.actions: list[actions.Action] = []
        self.due_millis: int | None = None

    def tell(self, *told: events.Event) -> list[actions.Action]:
        """The actions of these events, also kept."""
        found: list[actions.Action] = []
        for event in told:
            for action in self.machine.handle(event, self.now_millis):
                if isinstance(action, actions.Settle):
                    self.log.acked_fsn = max(self.log.acked_fsn, action.fsn)
                if isinstance(action, actions.SetTimer):
                    self.due_millis = action.at_millis
                found.append(action)
        self.actions += found
        return found

    def pass_millis(self, millis: int) -> None:
        """Time goes by."""
        self.now_millis += millis

    def timer(self) -> list[actions.Action]:
        """Time goes by until the machine's timer is due."""
        assert self.due_millis is not None
        self.now_millis, self.due_millis = max(self.now_millis, self.due_millis), None
        return self.tell(events.TimerDue())

    def next_connect(self, found: list[actions.Action]) -> tuple[int, int]:
        """After these actions: how long until the next connect (0 = at once), and to which endpoint."""
        start = self.now_millis
        if self.machine.state is State.WAITING:
            found = self.timer()
        return self.now_millis - start, only(actions.Connect, found).endpoint_index

    def replay(self, frames: int) -> None:
        """Connects and hands the frames over up to FSN ``frames - 1``."""
        self.tell(events.Connected(0), events.RunSent(frames - 1))


def connected(*endpoints: str, published: int = 0, acked: int = -1, catch_up: int = 0, **options: Any) -> Driver:
    """A driver whose first endpoint took the connection; a run is under way when there is something to send."""
    driver = Driver(*endpoints, published=published, acked=acked, **options)
    driver.tell(events.Begin(None), events.Connected(catch_up))
    return driver


def sent(*endpoints: str, published: int = 0, **options: Any) -> Driver:
    """The same, with everything published handed over."""
    driver = connected(*endpoints, published=published, **options)
    driver.tell(events.RunSent(published))
    return driver


def of(kind: type[Kind], found: list[actions.Action]) -> list[Kind]:
    """The actions of one kind, in order."""
    return [action for action in found if isinstance(action, kind)]


def only(kind: type[Kind], found: list[actions.Action]) -> Kind:
    """The one action of that kind."""
    (one,) = of(kind, found)
    return one


def latched(found: list[actions.Action]) -> SpoolqError:
    """The terminal error among these actions."""
    return only(actions.Latch, found).error


def connection_events(found: list[actions.Action]) -> list[actions.ConnectionEvent]:
    """What was reported about the connection."""
    return [one.event for one in of(actions.Report, found) if isinstance(one.event, actions.ConnectionEvent)]


def server_errors(found: list[actions.Action]) -> list[actions.ServerErrorEvent]:
    """What was reported about frames."""
    return [one.event for one in of(actions.Report, found) if isinstance(one.event, actions.ServerErrorEvent)]
