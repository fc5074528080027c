"""The drainers of one sender: which slot is worked on when, and how they end (behaviour.md 7.2, 7.4).

    drainers = Drainers(make, workers_max=4, clock=clock)
    drainers.submit(name)            a slot more; False once closing has begun
    drainers.close()                 grace, stop, detach

At most ``workers_max`` daemon threads, ``spoolq-drainer-<n>``, started as there is work and ended when
there is none.  Slots wait in order of when they are due, so one that pauses gives its thread to another.
A paused slot holds no descriptor; a thread sleeps until one is due.

`close`: nobody begins a slot any more; those at work may finish for 2.5 s; then they are told to stop and
their sockets are cut; after 0.5 s more they are left behind, with a log, and keep their locks until their
disk answers.  Every slot that was ever submitted is in `snapshot`, with its outcome.
"""

from __future__ import annotations

import heapq
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Final

from spoolq import limits
from spoolq.config import SenderConfig
from spoolq.delivery.drain import DrainOptions, Outcome
from spoolq.link import TlsOptions, Tokens
from spoolq.runtime import settings
from spoolq.runtime.clock import Clock
from spoolq.runtime.drainer import Drainer, DrainSetup
from spoolq.runtime.threads import start
from spoolq.runtime.throttle import Throttle
from spoolq.spool.files import Files
from spoolq.spool.orphans import find_orphans
from spoolq.stats import DrainerStatus

_LOG: Final = logging.getLogger("spoolq.drainers")
GRACE_MILLIS: Final = 2_500  # behaviour.md 7.4
STOP_MILLIS: Final = 500
_NOTE_LOG_MILLIS: Final = 5_000  # behaviour.md 5.3
CAP_GAPS_MIN: Final = 16  # behaviour.md 1.2: in a row, beside the window


class Drainers:
    """See the module's text.  ``make`` gives the drainer of a slot."""

    def __init__(self, make: Callable[[str], Drainer], *, workers_max: int, clock: Clock) -> None:
        self._make = make
        self._workers_max = workers_max
        self._clock = clock
        self._lock = threading.RLock()  # what `with` takes, and why each `notify` is for all: see `Progress`
        self._condition = threading.Condition(self._lock)
        self._waiting: list[tuple[int, int, Drainer]] = []  # a heap: due, order of coming
        self._count = 0
        self._at_work: set[Drainer] = set()
        self._all: list[Drainer] = []
        self._threads: set[threading.Thread] = set()
        self._to_join: list[threading.Thread] = []  # those, and what has just ended
        self._closing = False

    # -- slots ---------------------------------------------------------------------------------
    def submit(self, name: str) -> bool:
        """A slot more.  False once closing has begun.  Raises what starting a thread raises."""
        with self._lock:
            if self._closing:
                return False
            drainer = self._make(name)
            self._all.append(drainer)
            self._push(self._clock.now_millis(), drainer)
            if len(self._threads) < self._workers_max:
                self._start_thread()
            self._condition.notify_all()
            return True

    def _push(self, due_millis: int, drainer: Drainer) -> None:
        self._count += 1
        heapq.heappush(self._waiting, (due_millis, self._count, drainer))

    def _start_thread(self) -> None:
        number = len(self._threads)
        thread = threading.Thread(target=self._run, name=f"spoolq-drainer-{number}", daemon=True)
        self._threads.add(thread)
        try:
            start(thread)
        except BaseException:
            self._threads.discard(thread)
            raise
        self._to_join = [*filter(threading.Thread.is_alive, self._to_join), thread]

    def _run(self) -> None:
        """A thread: one slot after the other, until none waits."""
        while (drainer := self._next()) is not None:
            due = None
            try:
                due = drainer.work()
            finally:
                with self._lock:
                    self._at_work.discard(drainer)
                    if due is not None and not self._closing:
                        self._push(due, drainer)
                    elif due is not None:
                        drainer.cancel()
                    self._condition.notify_all()

    def _next(self) -> Drainer | None:
        """The slot that is due; waits for it.  None when none waits: the thread ends."""
        with self._lock:
            while self._waiting and not self._closing:
                due = self._waiting[0][0]
                now = self._clock.now_millis()
                if due <= now:
                    drainer = heapq.heappop(self._waiting)[2]
                    self._at_work.add(drainer)
                    return drainer
                self._clock.wait(self._condition, due - now)
            self._threads.discard(threading.current_thread())
            self._condition.notify_all()
            return None

    # -- the end -------------------------------------------------------------------------------
    def close(self) -> None:
        """Ends them; takes at most 3 s, less when an interrupt ends the grace.  A second call does nothing."""
        try:
            with self._lock:
                self._closing = True
                for _, _, drainer in self._waiting:
                    drainer.cancel()
                self._waiting.clear()
                self._condition.notify_all()
                self._wait_for_rest(GRACE_MILLIS)
        finally:  # also behind a Ctrl-C: nobody will ask them to stop later
            left = list(self._at_work)
            for drainer in left:
                drainer.stop()
        if left:
            with self._lock:
                self._wait_for_rest(STOP_MILLIS)
                left = list(self._at_work)
        for drainer in left:
            _LOG.warning("the drainer of %s does not end and is left behind with the slot's lock", drainer.name)
        if not left:
            for thread in self._to_join:
                thread.join(STOP_MILLIS / 1_000)

    def _wait_for_rest(self, millis: int) -> None:
        """Until no slot is worked on, or the time is over; the condition is held."""
        deadline = self._clock.now_millis() + millis
        while self._at_work and (left := deadline - self._clock.now_millis()) > 0:
            self._clock.wait(self._condition, left)

    def forked(self) -> None:
        """In a forked child, which has none of the threads; no lock is taken, somebody may have held it."""
        for drainer in tuple(self._at_work):
            drainer.forked()

    # -- to be seen ------------------------------------------------------------------------------
    def snapshot(self) -> list[DrainerStatus]:
        """Every slot so far, in the order of coming."""
        with self._lock:
            drainers = list(self._all)
        return [drainer.status() for drainer in drainers]

    def counts(self) -> tuple[int, int, int]:
        """How many are worked on now, were drained, were given up."""
        with self._lock:
            outcomes = [drainer.outcome for drainer in self._all]
            return len(self._at_work), outcomes.count(Outcome.SUCCESS), outcomes.count(Outcome.FAILED)


def drain_setup(
    config: SenderConfig,
    sf_dir: str,
    policies: Mapping[str, str],
    tls: TlsOptions | None,
    clock: Clock,
    tokens: Tokens | None = None,
) -> DrainSetup:
    """The sender's own settings, but that a frame which is refused as retriable is tried for ever, with pauses.

    A server whose disk is full must not make us give up a healthy slot (slot.md invariant 39).  The user's
    resolver is not asked: it would be told FSNs of a slot that it does not know.
    """
    return DrainSetup(
        Files(group_access=config.sf_group_access),
        sf_dir,
        settings.endpoints(config),
        settings.connect_options(config, tls, tokens, limits.CONNECT_MILLIS_BACKGROUND),
        settings.delivery_options(config, policies, asks=False).replaced(
            cap_gaps_min=CAP_GAPS_MIN,
            max_frame_rejections=sys.maxsize,
        ),
        DrainOptions(
            give_up_millis=config.drainer_give_up_millis,
            outage_budget_millis=config.outage_budget_millis,
            backoff_initial_millis=config.reconnect_initial_backoff_millis,
            backoff_max_millis=config.reconnect_max_backoff_millis,
        ),
        Throttle(clock, _NOTE_LOG_MILLIS),
        config.dead_letter_max_bytes,
    )


def start_drainers(
    config: SenderConfig,
    sf_dir: str | None,
    policies: Mapping[str, str],
    tls: TlsOptions | None,
    clock: Clock,
    tokens: Tokens | None = None,
) -> Drainers | None:
    """Looks for orphaned slots beside the sender's own and begins to drain them; None when that is not asked for.

    ``sf_dir`` is the resolved one (`runtime.storage`), None in memory.

    Raises what starting a thread raises; nothing is left running then.
    """
    if not config.drain_orphans:
        return None
    if sf_dir is None:
        _LOG.warning("drain_orphans is ignored: without sf_dir there is no directory to look in")
        return None
    if not config.max_background_drainers:
        return None
    setup = drain_setup(config, sf_dir, policies, tls, clock, tokens)
    drainers = Drainers(
        lambda name: Drainer(name, setup, clock, Random()), workers_max=config.max_background_drainers, clock=clock
    )
    _submit_all(drainers, find_orphans(setup.files, sf_dir, config.sender_id))
    return drainers


def _submit_all(drainers: Drainers, names: Iterable[str]) -> None:
    try:
        for name in names:
            drainers.submit(name)
    except BaseException:
        drainers.close()
        raise
