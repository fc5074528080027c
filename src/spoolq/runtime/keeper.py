"""The keeper: the thread of one open slot that does what must not wait for the socket.

The flush deadline, what the store asks for by `Store.keep` (spares, syncs, watermark, trim), and a new slot
life when one is due (`new_life`).

- `row_buffered` is the row buffer's ``on_first_row``: the buffer was empty and has a row now.
  ``auto_flush_interval`` runs from there; when it is over the keeper publishes the rows itself
  (ours.md 12).
- A timer flush never waits for room.  One that fails keeps the rows, is counted, is logged at most
  every 5 s and tried again.  ``report`` gets the error, so that the next row, flush or close raises
  it, and None once a retry succeeded.  A full spool becomes an error when it lasted the append
  deadline.
- Dormant means the thread waits without a time limit: an idle sender makes no system call.  Waking
  costs about 13 us, so a producer does it only then, or where the thread waits for something of the store's
  that is due behind the deadline of the row, and not again before it has looked; at most once an interval.
- Without a chore means it waits for nothing of the store's, at most for the flush deadline.  Where a frame
  starts a time of the store's own (``sf_sync_interval_millis``), who publishes one wakes it then.
- With ``sf_durability=append`` a timer flush is synced like any other append; when that fails the store
  refuses appends until a sync succeeds, and `Store.keep` tries.

Owned by the engine: `start` when the sender opens, `stop` before the last publish of close.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from spoolq.columns import RowBuffer
from spoolq.errors import BackpressureError, SpoolqError, StorageError
from spoolq.runtime.clock import Clock
from spoolq.runtime.new_life import NewLife
from spoolq.runtime.threads import start
from spoolq.runtime.throttle import Throttle
from spoolq.spool import Store

_LOG = logging.getLogger("spoolq.keeper")
_FAILURE_LOG_MILLIS = 5_000  # ours.md 12
_RETRY_MILLIS_MIN = 50
_BUSY_RETRY_MILLIS = 5  # another thread has the row buffer just now
_LIFE_RETRY_MILLIS = 1_000


class Keeper:
    """Flush deadline and spares of one sender.

    ``publish`` is `Publisher.publish`; ``interval_millis`` is None when the deadline is off;
    ``report`` is told of a failed timer flush, and None when one succeeded after it; ``on_room`` is
    called when an append that waits for room may be tried again.  ``sync`` is called behind a timer
    flush with its FSN, without the sender's lock.  ``on_fault`` is told what ended the thread, a fault of ours:
    without it nobody makes spares or syncs, and callers would wait for nothing.
    """

    def __init__(
        self,
        rows: RowBuffer,
        store: Store,
        publish: Callable[[bool], int | None],
        clock: Clock,
        *,
        interval_millis: int | None,
        append_deadline_millis: int,
        report: Callable[[SpoolqError | None], None],
        on_room: Callable[[], None] = lambda: None,
        sync: Callable[[int], None] | None = None,
        on_fault: Callable[[BaseException], None] | None = None,
        new_life: NewLife | None = None,
    ) -> None:
        self._rows = rows
        self._store = store
        self._publish = publish
        self._clock = clock
        self._interval_millis = interval_millis
        self._append_deadline_millis = append_deadline_millis
        self._report = report
        self._on_room = on_room
        self._sync = sync
        self._on_fault = on_fault
        self._new_life = new_life
        self._life_due_millis = 0
        store.on_work = self.wake
        self._lock = threading.RLock()  # what `with` takes, and why each `notify` is for all: see `Progress`
        self._condition = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._stopping = False
        self.dormant = False  #: whether the thread waits until `wake`
        self.without_chore = False  #: whether it waits with nothing to do for the store
        self._first_row_millis = 0
        self._sleeps_until_millis = 0  # where it waits with a time limit
        self.failing_since: int | None = None  #: since when timer flushes fail; `published` ends it
        self._retry_millis = 0
        self._busy_until_millis = 0
        self._failure_log = Throttle(clock, _FAILURE_LOG_MILLIS)
        self.timer_flushes = 0
        self.timer_flush_failures = 0

    def start(self) -> None:
        """Starts the thread."""
        self._thread = threading.Thread(target=self._run, name="spoolq-keeper", daemon=True)
        start(self._thread)

    def stop(self) -> None:
        """Ends the thread and waits for it; a second call does nothing."""
        with self._lock:
            self._stopping = True
            self._condition.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def row_buffered(self) -> None:
        """The buffer was empty and has a row now: the deadline runs.  Called with the sender's lock held."""
        self._first_row_millis = now = self._clock.now_millis()
        if self.dormant or (
            self._interval_millis is not None and self._sleeps_until_millis > now + self._interval_millis
        ):
            self.wake()

    def published(self) -> None:
        """A flush succeeded, which ends a failure of the timer's.  Called with the sender's lock held."""
        if self.failing_since is not None:
            self.failing_since = None
            self._report(None)

    def end_deadline(self) -> None:
        """No timer flush begins any more; called with the sender's lock held, so none is under way."""
        self._interval_millis = None

    def wake(self) -> None:
        """Makes the thread look again: rows wait, or a spare is needed."""
        with self._lock:
            self._condition.notify_all()
            self._sleeps_until_millis = 0
            self.dormant = self.without_chore = False  # last: after an interrupt the next call does it again

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                if self._store.keep(self._clock.now_millis()):
                    self._on_room()
                if self._is_due():
                    self._flush()
                self._live_anew()
        except BaseException as error:
            if self._on_fault is None:
                raise
            self._on_fault(error)

    def _wait_for_work(self) -> bool:
        """Waits until there is something to do; False when the thread has to end."""
        with self._lock:
            while not self._stopping:
                now = self._clock.now_millis()
                self.dormant = self.without_chore = True  # before looking: what comes behind the look wakes us
                flush, chore = self._due_millis(), self._store.keep_due_millis(now)
                times = (flush, chore, self._when_to_live_anew())
                due = min((at for at in times if at is not None), default=None)
                self._sleeps_until_millis = 0 if due is None else due  # before `dormant`: one of them says so
                self.dormant, self.without_chore = due is None, chore is None
                if due is None or due > now:
                    self._clock.wait(self._condition, None if due is None else due - self._clock.now_millis())
                self.dormant = self.without_chore = False
                if due is not None and due <= now:
                    return True
            return False

    def _due_millis(self) -> int | None:
        """When the buffered rows must be published; None when none are."""
        if self._interval_millis is None or not len(self._rows):
            return None
        if self.failing_since is not None:
            return max(self._retry_millis, self._busy_until_millis)
        return max(self._first_row_millis + self._interval_millis, self._busy_until_millis)

    def _is_due(self) -> bool:
        due = self._due_millis()
        return due is not None and due <= self._clock.now_millis()

    def _flush(self) -> None:
        """One timer flush; what fails is kept for the caller's next call."""
        if not self._rows.lock(blocking=False):
            # Never waited for: who holds it may be waiting for a spare, and this thread makes them.
            self._busy_until_millis = self._clock.now_millis() + _BUSY_RETRY_MILLIS
            return
        fsn = None
        try:  # also while the outcome is told: a flush of the caller's must not come between
            if not self._is_due():
                return
            try:
                fsn = self._publish(False)
            except Exception as error:
                self._failed(error)
            else:
                self.timer_flushes += 1
                self.published()
        finally:
            self._rows.unlock()
        if fsn is not None and self._sync is not None:
            try:
                self._sync(fsn)
            except StorageError as error:  # the next append says so, unless a retry succeeds before it
                self.timer_flush_failures += 1
                if self._failure_log.due():
                    _LOG.warning("the sync of a timed flush failed and is tried again: %s", error)

    def _when_to_live_anew(self) -> int | None:
        return self._life_due_millis if self._new_life is not None and self._new_life.due else None

    def _live_anew(self) -> None:
        """Begins a new slot life when one is due and nobody has the sender's lock; what fails is tried again."""
        due, now = self._when_to_live_anew(), self._clock.now_millis()
        if self._new_life is None or due is None or due > now:
            return
        if not self._rows.lock(blocking=False):
            self._life_due_millis = now + _BUSY_RETRY_MILLIS
            return
        self._life_due_millis = 0
        try:
            self._new_life.begin()
        except StorageError as error:
            self._life_due_millis = now + _LIFE_RETRY_MILLIS
            if self._failure_log.due():
                _LOG.warning("the symbol dictionary cannot begin anew, which is tried again: %s", error)
        finally:
            self._rows.unlock()

    def _failed(self, error: Exception) -> None:
        now = self._clock.now_millis()
        if self.failing_since is None:
            self.failing_since = now
        self._retry_millis = now + max(_RETRY_MILLIS_MIN, self._interval_millis or 0)
        if isinstance(error, BackpressureError) and now - self.failing_since < self._append_deadline_millis:
            return  # the append deadline of a caller's flush would still be running
        self.timer_flush_failures += 1
        if not isinstance(error, SpoolqError):  # a fault of ours must not end the thread unseen
            wrapped = SpoolqError(f"a timed flush failed: {error!r}; the rows are kept")
            wrapped.__cause__ = error
            error = wrapped
        self._report(error)
        if self._failure_log.due():
            _LOG.warning("a timed flush failed; the rows are kept and it is tried again: %s", error)
