"""How a sender ends: the last publish, the wait for the server, the threads, the store (behaviour.md 2.7).

    ending = Closing(engine)
    ending.close(flush, under_way)     see `Sender.close`; from any thread, a handler's and a signal handler's too
    ending.io_has_ended()              the I/O thread's last word: whether it frees what `close` left to it
    ending.leave_tokens(), skip()      the same for an opening that is undone

Whether the I/O thread has ended is its own word, not `Thread.is_alive`: Python 3.11 takes a thread for dead when a
Ctrl-C ends the `join` of it.

One `Closing` an `Engine`, which owns all that is closed here.  Every step is done whatever fails before it (`Steps`);
the first error is raised at the end.  What keeps state is only how far it is: begun, ended, the slot kept because its
sync failed, the I/O thread left because it waits for a disk.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from spoolq.delivery.verdicts import frames
from spoolq.errors import ClosedError, DeliveryTimeout, ReentryError, SpoolqError, StorageError
from spoolq.runtime import lifecycle, settings
from spoolq.runtime.aside import Aside
from spoolq.runtime.reentry import in_signal_handler
from spoolq.runtime.steps import Steps

if TYPE_CHECKING:
    from spoolq.runtime.engine import Engine

_LOG = logging.getLogger("spoolq")
JOIN_SECONDS: Final = 30.0  # behaviour.md 2.7: how long a blocked thread is waited for
# What holds nothing while it waits; a flush under way in one of them is a call of its own.
_WAITS: Final = frozenset({"await_acked", "await_ok", "await_all", "flush_and_wait", "drain"})


class Closing:
    """See the module's text.  ``begun``: `close` was called.  ``io_ended``: the I/O thread has said so."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.begun = False
        self._error: BaseException | None = None  # of a close that nobody waited for
        self._store_kept = False  # `close` has ended, but the sync of what stays in the slot failed
        self._rows_lost = 0  # buffered rows that `close` could not publish
        self.io_ended = False
        self._io_left = False

    def skip(self) -> None:
        """There is nothing to close: the opening was undone."""
        self.begun = True
        self._ended.set()

    def io_has_ended(self) -> bool:
        """Told by the I/O thread; True when `close` did not wait for it, and it frees socket, memory and slot."""
        with self._lock:
            self.io_ended = True
            return self._io_left

    def close(self, flush: bool, under_way: set[str]) -> None:
        """Ends everything; the first error is raised when all of it is done.

        ``under_way``: the engine's methods that the calling thread is in (`reentry`).

        A second call does nothing, a racing one waits for the first.  Inside another call of this very thread
        (`reentry`) a thread of its own does it, as soon as that call lets it.  Errors: the latched terminal
        one, whatever the last publish raised, DeliveryTimeout when frames are still unacked after
        ``close_flush_timeout_millis``.

        A Ctrl-C ends the wait for the server, a second one the wait for the rest, which is done nevertheless
        (`aside`).

        When the sync of what is not acknowledged fails (`Store.close`), the threads have ended, the slot and
        the buffered rows are still held, and another call tries that part again; with ``flush=False`` it gives up.
        """
        if "close" in under_way:
            return  # a signal handler: the call that it has interrupted goes on
        if self._holds_something(under_way):
            self._close_later(flush)
        elif self._store_kept or self._error is not None or not self._ended.is_set():
            Aside(lambda: self._close_or_wait(flush), "spoolq-close").run(self._engine.progress.end)

    def _close_or_wait(self, flush: bool) -> None:
        with self._lock:
            first, self.begun = not self.begun, True
        if first:
            try:
                self._close(flush)
            finally:
                self._ended.set()
            return
        self._ended.wait()
        if self._store_kept:
            self._close_again(flush)
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _holds_something(self, under_way: set[str]) -> bool:
        """Whether this thread is in calls of this sender that hold what `close` would wait for.

        Raises ReentryError for a conversion hook, which is none but a mistake.
        """
        try:
            self._engine.rows.refuse_reentry()
        except ReentryError:
            if not under_way and not in_signal_handler():
                raise
            return True
        return bool(under_way - _WAITS) or (bool(under_way) and self._engine.progress.held_here)

    def _close_later(self, flush: bool) -> None:
        """Closes on a thread of its own; raises ReentryError when there is none to be had."""
        with self._lock:
            first, self.begun = not self.begun, True
        if not first:
            return
        try:
            # a daemon, which the exit waits for in `lifecycle`: it must not hang on a lock of `threading`
            threading.Thread(target=self._close_beside, args=(flush,), name="spoolq-close", daemon=True).start()
        except RuntimeError as error:
            self.begun = False
            raise ReentryError(f"close() inside another call of this sender: {error}; call it behind that") from error

    def _close_beside(self, flush: bool) -> None:
        try:
            self._close(flush)
        except BaseException as error:
            _LOG.error("close() of %s: %s", self._engine.describe(), error)
            self._error = error
        finally:
            self._ended.set()

    def _close(self, flush: bool) -> None:
        """The first call."""
        steps = Steps()
        try:
            steps.run(self._engine.progress.begin_closing)
            steps.run(self._last_publish, flush)
            steps.run(self._drain)
        finally:
            self._end(steps)
            lifecycle.forget(self._engine)
        self._name_undelivered(steps)
        steps.finish()

    def _name_undelivered(self, steps: Steps) -> None:
        """What an error that ended this sender leaves undelivered, beside what `close` raises (ours.md 29c).

        A timeout of the wait names the frames itself.  Logged too, for the caller may have no eye on the error.
        """
        acked, published = self._engine.store.acked_fsn, self._engine.store.published_fsn
        left = []
        if acked < published and not any(isinstance(error, DeliveryTimeout) for error in steps.errors):
            left.append(f"{frames(acked + 1, published)} not delivered: {self._engine.storage.after_close}")
        if self._rows_lost:
            left.append(f"{self._rows_lost} buffered rows could not be published and are lost")
        for text in left if steps.errors else ():
            _LOG.error("%s", text)
            steps.note(text)

    def _last_publish(self, flush: bool) -> None:
        """No more rows; what is buffered is published, or forgotten."""
        if flush:
            with suppress(StorageError):  # the publish says it
                self._engine.retry_sync()
        with self._engine.rows:
            try:
                if flush:
                    self._engine.publisher.publish(while_closing=True)
                else:
                    self._engine.rows.clear()
            finally:
                self._engine.keeper.end_deadline()
                self._engine.rows.on_first_row = self._engine.rows.on_trigger = None
                if self._engine.progress.error is None:
                    self._engine.rows.latched = ClosedError("the sender is closed")

    def _drain(self) -> None:
        """Waits for the acknowledgements as long as the setting says; raises a terminal error in any case."""
        timeout_millis = self._engine.config.close_flush_timeout_millis
        store = self._engine.store
        self._engine.hurry()

        def drained() -> bool:
            return store.acked_fsn >= store.published_fsn

        what = f"close() gave up after {timeout_millis} ms"
        try:
            reached = self._engine.progress.wait_until(drained, max(timeout_millis, 0))
        except ClosedError:  # by a Ctrl-C, see `close`
            reached, what = False, "close() was interrupted"
        if not reached and timeout_millis > 0:
            error = self._engine.delivery_timeout(
                what,
                self._engine.storage.after_close
                + ("" if self._engine.storage.slot else ": raise close_flush_timeout_millis"),
            )
            _LOG.warning("%s", error)
            raise error

    def _end(self, steps: Steps) -> None:
        """Stops the threads and frees everything, whatever fails."""
        loop, thread = self._engine.loop, self._engine.thread
        if loop is not None:
            steps.run(loop.stop)
        if thread is not None:
            steps.run(thread.join, JOIN_SECONDS)
        if self._engine.drainers is not None:
            steps.run(self._engine.drainers.close)
        steps.run(self.leave_tokens)
        steps.run(self._engine.keeper.stop)
        steps.run(self._engine.close_handlers)
        if self._left_to_thread():
            if self._engine.config.sf_durability != "memory":
                steps.run(self._engine.store.sync)  # it may be read meanwhile
            steps.run(self._give_rows_up)
        else:
            if loop is not None:
                steps.run(loop.close)
            if self._engine.storage.slot is not None and len(self._engine.rows):
                self._publish_rest(steps)
            steps.run(self._engine.store.close)
            self._store_kept = not self._engine.store.closed
            if not self._store_kept:
                steps.run(self._give_rows_up)
        steps.run(self._engine.progress.end)
        if not (self._store_kept or self._io_left):
            lifecycle.ended(self._engine)

    def _give_rows_up(self) -> None:
        """What could not be published is lost with this sender."""
        self._rows_lost = len(self._engine.rows)
        self._engine.rows.clear()

    def leave_tokens(self) -> None:
        """Says so when the token callable does not come back."""
        asks = self._engine.tokens is not None and self._engine.tokens.busy
        if asks and threading.current_thread().name != settings.TOKEN_THREAD:  # else the callable itself closes
            _LOG.warning(
                "the token callable has not come back: its thread, %s, is left behind and ends when it does; it holds "
                "nothing of the sender's",
                settings.TOKEN_THREAD,
            )

    def _publish_rest(self, steps: Steps) -> None:
        """Rows that the last publish could not put into the slot are tried once more: its trouble may have passed.

        What was raised then stays the error of `close`; when it goes well now, a note says where the rows are.
        """
        try:
            self._publish_without_keeper()
        except SpoolqError:
            return  # as before, and that is told already
        for error in steps.errors[:1]:
            if isinstance(error, SpoolqError):
                error.in_doubt = True
            error.add_note(
                f"the buffered rows were published at the end of close(): {self._engine.storage.after_close}"
            )

    def _publish_without_keeper(self) -> None:
        self._engine.store.sync()
        self._engine.store.keep(self._engine.clock.now_millis())  # the keeper has ended, and a spare may be needed
        with self._engine.rows:
            self._engine.publisher.publish(wait=False, while_closing=True)

    def _close_again(self, flush: bool) -> None:
        """The slot was kept, for its sync failed: tries once more, or gives up."""
        with self._lock:
            if not self._store_kept:
                return
            try:
                if flush and len(self._engine.rows):
                    self._publish_without_keeper()
                self._engine.store.close(sync=flush)
            finally:
                self._store_kept = not self._engine.store.closed
                if not self._store_kept:
                    self._engine.rows.clear()
                    lifecycle.ended(self._engine)

    def _left_to_thread(self) -> bool:
        """Whether the I/O thread outlived the wait for it.

        It may be reading the store, so it frees socket, descriptors, memory and slot itself, at its end.
        """
        with self._lock:
            self._io_left = self._engine.thread is not None and not self.io_ended
        if self._io_left:
            slot = self._engine.storage.slot
            _LOG.warning(
                "close(): the I/O thread did not end within %g s, it waits for the disk; its "
                "socket and memory%s are freed when it ends",
                JOIN_SECONDS,
                f", and the lock of the slot {slot}," if slot else "",
            )
        return self._io_left
