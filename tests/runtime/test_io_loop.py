"""In which order the I/O loop does what the machine wants and tells it what came."""

from __future__ import annotations

from random import Random
from typing import Any

from spoolq import link
from spoolq.delivery import Delivery, DeliveryOptions, State
from spoolq.link import Connection, ConnectOptions, Endpoint
from spoolq.qwp.upgrade import Accepted
from spoolq.runtime.clock import Clock
from spoolq.runtime.io_loop import IoLoop
from spoolq.spool import MemoryStore


class EarlyClose:
    """A connection whose 101 came in one piece with a CLOSE; it notes what is done with it."""

    upgrade = Accepted(version=1, cap_nbytes=None, role="", durable_ack=False)
    unread = True
    wants_write = False
    received_nbytes = 4

    def __init__(self) -> None:
        self.calls: list[str] = []

    def queue_run(self, run: Any, max_frame_nbytes: int | None) -> int:
        self.calls.append("queue_run")
        return run.last_fsn - run.first_fsn + 1

    def flush(self) -> bool:
        self.calls.append("flush")
        return True

    def receive(self) -> list[link.Inbound]:
        self.calls.append("receive")
        return [link.Close(1001, "")]

    def close(self) -> None:
        self.calls.append("close")


def _nothing(*_: object) -> None:
    pass


def test_nothing_is_sent_behind_a_close_that_came_with_the_101() -> None:
    store = MemoryStore()
    room = store.reserve(3)
    assert room is not None
    room.view[:] = b"one"
    store.publish(room)
    connection = EarlyClose()

    def connect(*_: object) -> Connection:
        return connection  # type: ignore[return-value]

    machine = Delivery(DeliveryOptions(endpoints=("one",)), store, Random(1))
    loop = IoLoop(
        machine,
        store,
        Clock(),
        [Endpoint("one", 1)],
        ConnectOptions(),
        catch_up=lambda _: iter(()),
        on_settled=_nothing,
        on_latched=_nothing,
        on_report=_nothing,
        on_cap=_nothing,
        connect=connect,
    )
    try:
        loop.begin(None)
        loop.run_until(lambda: machine.state is State.WAITING)
    finally:
        loop.close()
        store.close()
    assert connection.calls.count("queue_run") == 1
    assert connection.calls[connection.calls.index("receive") :] == ["receive", "close"]
