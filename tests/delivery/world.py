"""A log that is two numbers, and a driver that keeps the machine's time: nothing here waits."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TypeVar

from spoolq.delivery import Delivery, DeliveryOptions, actions, events

Kind = TypeVar("Kind", bound=actions.Action)


@dataclass
class Log:
    """What the machine knows of the spool."""

    published_fsn: int = -1
    acked_fsn: int = -1


class Driver:
    """Tells the machine events at a time that only `at` and `pass_millis` move, and keeps every action."""

    def __init__(self, *endpoints: str, published: int = -1, acked: int = -1, **options: object) -> None:
        self.log = Log(published, acked)
        self.now_millis = 0
        self.machine = Delivery(
            DeliveryOptions(endpoints=endpoints or ("one:9000",), **options),  # type: ignore[arg-type]
            self.log,
            Random(7),
        )
        self.actions: list[actions.Action] = []

    def tell(self, *told: events.Event) -> list[actions.Action]:
        """The actions of these events, also kept."""
        found: list[actions.Action] = []
        for event in told:
            for action in self.machine.handle(event, self.now_millis):
                if isinstance(action, actions.Settle):
                    self.log.acked_fsn = max(self.log.acked_fsn, action.fsn)
                found.append(action)
        self.actions += found
        return found

    def pass_millis(self, millis: int) -> None:
        """Time goes by."""
        self.now_millis += millis


def of(kind: type[Kind], found: list[actions.Action]) -> list[Kind]:
    """The actions of one kind, in order."""
    return [action for action in found if isinstance(action, kind)]


def only(kind: type[Kind], found: list[actions.Action]) -> Kind:
    """The one action of that kind."""
    (one,) = of(kind, found)
    return one
