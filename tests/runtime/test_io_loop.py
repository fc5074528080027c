"""In which order the I/O loop does what the machine wants and tells it what came."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from random import Random
from typing import Any

from spoolq import link
from spoolq.delivery import Delivery, DeliveryOptions, State, actions, events
from spoolq.link import Connection, ConnectOptions, Endpoint
from spoolq.qwp import responses
from spoolq.qwp.upgrade import Accepted
from spoolq.runtime.clock import Clock
from spoolq.runtime.io_loop import IoLoop
from spoolq.runtime.new_life import Life
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


def stored(*payloads: bytes) -> MemoryStore:
    """A store with these frames."""
    store = MemoryStore()
    for payload in payloads:
        room = store.reserve(len(payload))
        assert room is not None
        room.view[:] = payload
        store.publish(room)
    return store


def loop_of(
    machine: Delivery,
    store: MemoryStore,
    connect: Callable[..., Any],
    clock: Clock | None = None,
    kind: type[IoLoop] = IoLoop,
    **more: Any,
) -> IoLoop:
    """A loop for one endpoint, which tells nobody anything."""
    return kind(
        machine,
        store,
        clock or Clock(),
        [Endpoint("one", 1)],
        ConnectOptions(),
        catch_up=lambda _: iter(()),
        on_settled=_nothing,
        on_cap=_nothing,
        connect=connect,
        **{"on_latched": _nothing, "on_report": _nothing, **more},
    )


def test_nothing_is_sent_behind_a_close_that_came_with_the_101() -> None:
    store = stored(b"one")
    connection = EarlyClose()

    def connect(*_: object) -> Connection:
        return connection  # type: ignore[return-value]

    machine = Delivery(DeliveryOptions(endpoints=("one",)), store, Random(1))
    loop = loop_of(machine, store, connect)
    try:
        loop.begin(None)
        loop.run_until(lambda: machine.state is State.WAITING)
    finally:
        loop.close()
        store.close()
    assert connection.calls.count("queue_run") == 1
    assert connection.calls[connection.calls.index("receive") :] == ["receive", "close"]


class Silent(EarlyClose):
    """A connection on which nothing comes."""

    unread = False

    def fileno(self) -> int:
        return self._ends[0].fileno()

    def __init__(self) -> None:
        super().__init__()
        self._ends = socket.socketpair()

    def close(self) -> None:
        super().close()
        for end in self._ends:
            end.close()


def test_ours_4_a_life_that_begins_just_before_the_loop_sleeps_is_seen() -> None:
    """Whoever begins it sees a loop that does not sleep yet, and wakes nobody."""
    store, life, connections = MemoryStore(), Life(), list[Silent]()
    clock = _Late()

    def connect(*_: object) -> Connection:
        connections.append(Silent())
        return connections[-1]  # type: ignore[return-value]

    machine = Delivery(DeliveryOptions(endpoints=("one",)), store, Random(1))
    loop = loop_of(machine, store, connect, clock, kind=_Drowsy, life=life)
    try:
        loop.begin(None)
        loop.run_until(lambda: len(connections) == 2)
    finally:
        loop.close()
        store.close()
    assert clock.waits[-1] == 0, "it did not fall asleep"
    assert connections[0].calls == ["flush", "close"]


class _Late(Clock):
    """Time only passes where it is waited for."""

    def __init__(self) -> None:
        self._now = 0
        self.waits: list[int | None] = []

    def now_millis(self) -> int:
        return self._now

    def poll(self, poller: Any, timeout_millis: int | None) -> list[tuple[int, int]]:
        self.waits.append(timeout_millis)
        assert timeout_millis is not None, "asleep, and nobody wakes it"
        self._now += max(timeout_millis, 1)
        return list(poller.poll(0))


class _Drowsy(IoLoop):
    """A life begins just before it says that it sleeps."""

    _asleep = False

    @property
    def asleep(self) -> bool:
        return self._asleep

    @asleep.setter
    def asleep(self, value: bool) -> None:
        if value:
            self._life.number = 1
        self._asleep = value


class Refusing(Silent):
    """A connection that refuses the first frame as soon as it can."""

    unread = True

    def receive(self) -> list[link.Inbound]:
        return [link.Binary(responses.build(responses.ErrorFrame(0x09, 0, "disk full")))]


class _Unhurried(Clock):
    """Time passes in polls only: each lasts as long as it may, and ``then`` happens at its end."""

    def __init__(self) -> None:
        self.millis = 0
        self.then: Any = _nothing

    def now_millis(self) -> int:
        return self.millis

    def poll(self, poller: Any, timeout_millis: int | None) -> list[tuple[int, int]]:
        self.millis += timeout_millis or 0
        self.then()
        return []


def test_29a_an_answer_of_the_resolver_at_the_last_moment_leaves_the_pause_as_it_is() -> None:
    """The time that it had is over in the same round of the loop; that is no end of the pause which follows."""
    store, clock = stored(b"one"), _Unhurried()
    connected_millis: list[int] = []

    def connect(*_: object) -> Connection:
        connected_millis.append(clock.millis)
        return Refusing()  # type: ignore[return-value]

    def ask(question: actions.Decide) -> None:
        answers = [events.Decided(question.number, "retriable")]
        clock.then = lambda: answers and loop.post(answers.pop())

    options = DeliveryOptions(endpoints=("one",), decide_millis=1_000, backoff_initial_millis=200)
    machine = Delivery(options, store, Random(1))
    loop = loop_of(machine, store, connect, clock, ask=ask)
    try:
        loop.begin(None)
        loop.run_until(lambda: len(connected_millis) == 2)
    finally:
        loop.close()
        store.close()
    first, second = connected_millis
    assert second - first >= 1_000 + 200


class Scripted(Silent):
    """A connection that takes so many runs, then no more, and on which all this comes in one piece."""

    def __init__(self, takes: int, comes: list[link.Inbound]) -> None:
        super().__init__()
        self._takes, self._comes = takes, comes
        self.unread = True

    def queue_run(self, run: Any, max_frame_nbytes: int | None) -> int:
        self._takes -= 1
        return super().queue_run(run, max_frame_nbytes)

    def flush(self) -> bool:
        if self._takes < 0:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        return super().flush()

    def receive(self) -> list[link.Inbound]:
        comes, self._comes = self._comes, []
        return comes

    def unsent_messages(self) -> int:
        return 1


def test_what_came_in_one_piece_is_told_before_a_send_that_it_leads_to_can_fail() -> None:
    """Behind a loss an answer lets frames out; the next answers of the same read would be lost with that send."""
    store = stored(b"one", b"two", b"three", b"four")
    connections = [
        Scripted(1, [_ok(0), link.Lost("reset")]),
        Scripted(1, [_ok(0), _ok(1), link.Lost("reset")]),
    ]

    def connect(*_: object) -> Connection:
        return connections.pop(0)  # type: ignore[return-value]

    machine = Delivery(DeliveryOptions(endpoints=("one",)), store, Random(1))
    loop = loop_of(machine, store, connect)
    try:
        loop.begin(None)
        loop.run_until(lambda: not connections and machine.state is not State.CONNECTED)
        assert store.acked_fsn == 2
    finally:
        loop.close()
        store.close()


def test_6_3_an_error_is_told_to_the_handlers_also_when_a_stop_comes_just_behind_its_latch() -> None:
    """A call raises it, and the caller closes at once."""
    store, told = MemoryStore(), list[str]()

    def connect(*_: object) -> Connection:
        raise link.ConnectFailure(link.Kind.AUTH, "who are you", status=401)

    def report(report: actions.Report) -> None:
        event = report.event
        told.append(event.kind if isinstance(event, actions.ConnectionEvent) else event.policy)

    machine = Delivery(DeliveryOptions(endpoints=("one",)), store, Random(1))
    loop = loop_of(machine, store, connect, on_latched=lambda _: loop.stop(), on_report=report)
    try:
        loop.begin(None)
        loop.run()
    finally:
        loop.close()
        store.close()
    assert told == ["terminal", "auth_failed"]


class Full(Scripted):
    """The socket takes a run but for its last frame, then nothing."""

    wants_write = True

    def flush(self) -> bool:
        return False


def test_behaviour_4_5_what_is_acknowledged_in_the_middle_of_a_run_counts_as_sent() -> None:
    store, seen = stored(b"one", b"two", b"three"), []
    machine = Delivery(DeliveryOptions(endpoints=("one",)), store, Random(1))
    loop = loop_of(machine, store, lambda *_: Full(1, [_ok(0), _ok(1)]))
    loop._on_settled = lambda: seen.append((store.acked_fsn, loop.frames_sent))
    try:
        loop.begin(None)
        loop.run_until(lambda: store.acked_fsn == 1)
    finally:
        loop.close()
        store.close()
    assert seen == [(0, 2), (1, 2)]
    assert loop.frames_sent == 2, "once, and the last one never was"


class Eager(Silent):
    """A connection that takes everything at once; the sender is told to stop at its third run."""

    loop: IoLoop

    def queue_run(self, run: Any, max_frame_nbytes: int | None) -> int:
        if self.calls.count("queue_run") == 2:
            self.loop.stop()
        return super().queue_run(run, max_frame_nbytes)


def test_a_stop_ends_the_sending_also_when_the_socket_takes_all_there_is() -> None:
    store, connection = MemoryStore(1_024, 1 << 20), Eager()
    for _ in range(20):  # a run of its own each
        room = store.reserve(900)
        while room is None:
            store.keep(0)
            room = store.reserve(900)
        store.publish(room)

    def connect(*_: object) -> Connection:
        return connection  # type: ignore[return-value]

    connection.loop = loop = loop_of(Delivery(DeliveryOptions(endpoints=("one",)), store, Random(1)), store, connect)
    try:
        loop.begin(None)
        loop.run()
        assert connection.calls.count("queue_run") == 3
    finally:
        loop.close()
        store.close()


def _ok(sequence: int) -> link.Binary:
    return link.Binary(responses.build(responses.Ok(sequence)))
