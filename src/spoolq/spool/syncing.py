"""Which syncs are believed, and one sync for all who wait for one (behaviour.md 9, ours.md 24).

`Proof` guards the syncs of one file.  The kernel reports a failed sync once and may mark the pages clean,
so that a second one would succeed without writing a byte: behind a sync that did not succeed the next one
begins by writing again what was never proven.

`GroupCommit` is one syncer at a time for all threads:

    cover(fsn)      returns when a sync that began after frame ``fsn`` was published has succeeded
    failure         what the last sync failed with; None once one succeeded
    close()         waits for the one under way; a later `cover` is an error

A thread that comes while a sync runs which began too early for its frame waits for the end; the first of
those who waited begins the next one, for all of them.  So a running sync and one more serve any number.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from spoolq.errors import ReentryError, StorageError


class Proof:
    """The syncs of one file, one at a time."""

    __slots__ = ("_doubtful", "_lock")

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler that calls in here finds a sync of its own thread
        self._doubtful = False

    def doubt(self) -> None:
        """The next sync writes again: another process wrote this, and nobody knows how its syncs ended."""
        with self._lock:
            self._doubtful = True

    def sync(self, sync: Callable[[], None], rewrite: Callable[[], None]) -> None:
        """Calls ``sync``, behind one that failed ``rewrite`` before it.  Raises what they raise."""
        with self._lock:
            if self._doubtful:
                rewrite()
            self._doubtful = True  # until it is known, whatever interrupts this
            sync()
            self._doubtful = False


class _Attempt:
    """One sync: what it covers when it succeeds, and how it ended (an interrupted one has no error)."""

    __slots__ = ("done", "error", "target_fsn", "thread")

    def __init__(self, target_fsn: int) -> None:
        self.target_fsn = target_fsn
        self.thread = threading.get_ident()
        self.done = False
        self.error: StorageError | None = None


class GroupCommit:
    """See the module's text.

    ``published``: the newest frame.  ``sync``: makes everything durable that was published before it was
    called, or raises StorageError.  ``proven`` is told the newest frame that a sync has covered, ``failed``
    of one that failed, both with the lock held; ``ended`` of the end of each, without.
    """

    def __init__(
        self,
        *,
        synced_fsn: int,
        published: Callable[[], int],
        sync: Callable[[], None],
        proven: Callable[[int], None],
        failed: Callable[[], None],
        ended: Callable[[], None],
    ) -> None:
        self._published = published
        self._sync = sync
        self._proven = proven
        self._failed = failed
        self._ended = ended
        # The plain lock is what `with` takes: a Ctrl-C inside the condition's own methods would leave it locked.
        self._lock = threading.RLock()  # a signal handler may call in here while its own thread does
        self._condition = threading.Condition(self._lock)
        self._running: _Attempt | None = None
        self._closed = False
        self.synced_fsn = synced_fsn
        self.failure: StorageError | None = None
        self.syncs = 0
        self.failures = 0
        self.last_micros: int | None = None  #: when the last one succeeded, since the Unix epoch

    def cover(self, fsn: int) -> None:
        """Everything up to ``fsn``, clamped to published, survives a power cut when this returns.

        Raises StorageError, ``in_doubt``, when the sync that would have covered it failed; ReentryError in a
        signal handler that has interrupted the sync which runs.
        """
        fsn = min(fsn, self._published())
        mine: _Attempt | None = None
        try:
            while True:
                with self._lock:
                    if self.synced_fsn >= fsn:
                        return
                    if self._closed:
                        raise StorageError(f"the slot was closed before FSN {fsn} was synced")
                    running = self._running
                    if running is None:
                        mine = self._running = _Attempt(self._published())
                    else:
                        if running.thread == threading.get_ident():
                            raise ReentryError(
                                f"FSN {fsn} is queued, but this very thread is in the middle of a sync, which a signal "
                                "handler cannot wait for; sync behind that call"
                            )
                        while not running.done:
                            self._condition.wait()
                        if self.synced_fsn >= fsn:
                            return  # it took long to wake up, and the next one has covered it
                        if running.error is not None and running.target_fsn >= fsn:
                            raise self.error_of(running.error)
                        continue
                self._run(mine)
        finally:
            if mine is not None and not mine.done:  # an interrupt before it began: others wait for its end
                self._end(mine, succeeded=False)

    def error_of(self, error: StorageError) -> StorageError:
        """What a caller is told of a sync that failed with ``error``."""
        told = StorageError(
            f"frames from FSN {self.synced_fsn + 1} on are queued and may be delivered, but a power cut may take "
            f"them: {error}; nothing more is queued until a sync succeeds, which is tried again every second",
            errno=error.errno,
            filename=error.filename,
        )
        told.in_doubt = True
        told.__cause__ = error
        return told

    def close(self) -> None:
        """Waits for the sync under way; a second call does nothing."""
        with self._lock:
            self._closed = True
            while self._running is not None:
                self._condition.wait()

    def _run(self, attempt: _Attempt) -> None:
        succeeded = False
        try:
            self._sync()
            succeeded = True
        except StorageError as error:
            attempt.error = error
            raise self.error_of(error) from error
        finally:
            try:
                self._end(attempt, succeeded=succeeded)
            except BaseException:  # an interrupt just here: others wait for the end
                self._end(attempt, succeeded=succeeded)
                raise
            finally:
                self._ended()

    def _end(self, attempt: _Attempt, *, succeeded: bool) -> None:
        """A second call does nothing."""
        with self._lock:
            if attempt.done:
                return
            if succeeded:
                self.failure = None
                self.synced_fsn = max(self.synced_fsn, attempt.target_fsn)
                self.last_micros = time.time_ns() // 1_000
                self._proven(self.synced_fsn)
                self.syncs += 1
            elif attempt.error is not None:
                self.failure = attempt.error
                self._failed()
                self.failures += 1
            self._running = None
            attempt.done = True  # last: from here on a second call does nothing
            self._condition.notify_all()
