"""The thread that publishes, in steps between which the I/O loop may do anything.

prepare (symbols, the frame's bytes, room) -> announce the symbols -> publish -> wake the loop if it sleeps

That is the order of `runtime.publisher`.  `burst` is an event of the scheduler; `come_between`
is called in the middle of the loop's steps, when these read the log.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from spoolq.columns.symbols import SymbolTable
from spoolq.spool import MemoryStore
from tests.sim import frames
from tests.sim.judge import Judge
from tests.sim.left import Left

if TYPE_CHECKING:
    from tests.sim.scenario import Scenario
    from tests.sim.scheduler import Scheduler

_RETRY_MILLIS = 15


class Producer:
    """See the module's text.  ``loop`` gives the loop of the sender that is open."""

    def __init__(
        self,
        scenario: Scenario,
        scheduler: Scheduler,
        symbols: SymbolTable,
        store: MemoryStore,
        judge: Judge,
        loop: Callable[[], Any],
    ) -> None:
        self._scenario = scenario
        self._random = scenario.rng.random
        self._scheduler = scheduler
        self._symbols = symbols
        self._store = store
        self._judge = judge
        self._loop = loop
        self._left = scenario.frames
        self._payload: bytes | None = None
        self._before = 0
        self._room: Any = None
        self._stepping = False
        self._next: Callable[[], bool] = self._prepare

    def leave(self, left: Left) -> None:
        """Publishes what another client left, before there is a sender, as far as it fits."""
        scenario, store = self._scenario, self._store
        frame_nbytes_max = scenario.frame_nbytes + 3 * scenario.symbol_nbytes + 60
        for size in scenario.left_groups:
            per_segment = scenario.segment_nbytes // frame_nbytes_max
            if size > per_segment * (scenario.segments - store.stats().segments):
                break
            first = store.published_fsn + 1
            for fsn in range(first, first + size):
                self._append(deferred=fsn < first + size - 1)
            if size > 1:
                left.groups.append((first, store.published_fsn))

    def _append(self, *, deferred: bool) -> None:
        payload = self._build(deferred=deferred)
        room = self._store.reserve(len(payload))
        assert room is not None
        room.view[:] = payload
        self._symbols.published_count = len(self._symbols)
        self._judge.published(self._store.publish(room), payload)

    @property
    def done(self) -> bool:
        """Everything is published and told."""
        return not self._left and self.at_rest

    @property
    def at_rest(self) -> bool:
        """Between two frames."""
        return self._next == self._prepare

    def burst(self) -> None:
        """Some frames, one after the other, then a pause."""
        scenario = self._scenario
        if scenario.new_lives and self._random() < scenario.new_lives:
            self._begin_life()
        for _ in range(4 * (1 + int(self._random() * scenario.burst))):
            if self.done:
                return
            if not self.step():
                self._scheduler.at(self._scheduler.now_millis + _RETRY_MILLIS, self.burst)
                return
            if self._random() < scenario.preempt * 0.1:
                self._scheduler.at(self._scheduler.now_millis + int(self._random() * 4), self.burst)
                return
        self._scheduler.at(self._scheduler.now_millis + scenario.between(0, scenario.pause_millis), self.burst)

    def _begin_life(self) -> None:
        """The ids of symbols begin anew, as `runtime.new_life` has it: nothing is unsettled, no row is buffered."""
        loop, symbols = self._loop(), self._symbols
        if loop is None or not symbols or self._payload is not None or not self.at_rest or self._stepping:
            return
        life = loop._life
        if life.lock.locked() or not self._store.restart_dictionary():
            return
        self._judge.begins_life()
        with life.lock:
            symbols.restart()
            life.number += 1
        loop.wake()

    def come_between(self) -> None:
        """A step in the middle of one of the loop's; the frame that it begins is finished at once or soon."""
        if self._scenario.new_lives and self._random() < self._scenario.new_lives:
            self._begin_life()
        if self.step() and not self.at_rest:
            if self._random() < 0.5:
                self._finish()
            else:
                self._scheduler.at(self._scheduler.now_millis + int(self._random() * 4), self._finish)

    def _finish(self) -> None:
        while not self.at_rest and self.step():
            pass

    def step(self) -> bool:
        """One step; False when there is no room, or in the middle of another one."""
        if self._stepping or self.done:
            return False
        self._stepping = True
        try:
            return self._next()
        finally:
            self._stepping = False

    def _prepare(self) -> bool:
        if self._payload is None:
            self._payload = self._build()
        self._room = self._store.reserve(len(self._payload))
        if self._room is None:
            if self._random() < 0.3:
                self._store.keep(self._scheduler.now_millis)
            return False
        self._room.view[:] = self._payload
        self._next = self._announce
        return True

    def _build(self, *, deferred: bool = False) -> bytes:
        scenario, symbols = self._scenario, self._symbols
        self._before = first = symbols.published_count
        for _ in range(min(3, int(self._random() * scenario.symbols * 1.5))):
            symbols.intern(f"{len(symbols)}-".ljust(1 + int(self._random() * scenario.symbol_nbytes), "s"))
        known = len(symbols)
        needs = known if known > first else int(self._random() * (known + 1))
        filler = 1 + int(self._random() * scenario.frame_nbytes)
        return frames.build(symbols, first, self._store.published_fsn + 1, needs, filler, deferred=deferred)

    def _announce(self) -> bool:
        if self._random() < 0.01:  # the publish fails: nothing has happened, it is tried again
            self._store.abandon(self._room)
            self._next = self._prepare
            return True
        self._symbols.published_count = len(self._symbols)
        self._next = self._publish
        return True

    def _publish(self) -> bool:
        payload, self._payload = self._payload, None
        assert payload is not None
        self._judge.published(self._store.publish(self._room), payload)
        self._left -= 1
        self._next = self._tell
        return True

    def _tell(self) -> bool:
        loop = self._loop()
        if loop is not None and loop.asleep:
            loop.wake()
        self._next = self._prepare
        return True
