"""Everything below one `Sender`: the store, the machine, the threads, and the order they start in (`closing`: end).

| part                | thread                     | owns                                       |
|---------------------|----------------------------|--------------------------------------------|
| `Publisher`         | the caller, or the keeper  | the way from the row buffer into the store |
| `IoLoop`            | ``spoolq-io``              | the connection, the delivery machine       |
| `Keeper`            | ``spoolq-keeper``          | the flush deadline, spares, new slot lives |
| `Reports`           | one a handler, when needed | events on their way to handlers            |
| `Drainers`          | ``spoolq-drainer-<n>``     | orphaned slots beside the sender's own     |

Order of calls: `open` once; then `flush`, the waits and the watermarks from any thread; `close` once,
from any thread, a handler's too.  The row buffer is the sender's lock.

Opening undoes every step that was made when a later one fails.  A terminal error is latched in
`Progress` first, then in the row buffer, then told to the handlers (behaviour.md 6.3).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from spoolq import limits
from spoolq.columns import RowBuffer
from spoolq.config import SenderConfig
from spoolq.delivery import Delivery, State, actions, events
from spoolq.delivery.verdicts import event_of
from spoolq.errors import (
    ClosedError,
    DeliveryTimeout,
    ForkedError,
    ServerRejection,
    SpoolqError,
    StorageError,
    fresh,
)
from spoolq.qwp.catchup import catch_up_messages
from spoolq.runtime import lifecycle, settings
from spoolq.runtime.aside import Cancel, Cancelled
from spoolq.runtime.clock import Clock
from spoolq.runtime.closing import JOIN_SECONDS, Closing
from spoolq.runtime.decisions import Decisions, ErrorPolicy, check_callable, check_category_policies, error_event
from spoolq.runtime.io_loop import IoLoop
from spoolq.runtime.keeper import Keeper
from spoolq.runtime.letters import Letters
from spoolq.runtime.new_life import NewLife
from spoolq.runtime.progress import Progress
from spoolq.runtime.publisher import Publisher
from spoolq.runtime.reentry import calls_under_way
from spoolq.runtime.refused import tables_of
from spoolq.runtime.reports import ConnectionListener, ErrorHandler, ProgressHandler, Reports
from spoolq.runtime.steps import Steps
from spoolq.runtime.storage import open_storage
from spoolq.runtime.threads import start
from spoolq.stats import DrainerStatus, SenderStats

if TYPE_CHECKING:
    from spoolq.runtime.drainers import Drainers
    from spoolq.spool.dead_letters import DeadLetter

_LOG = logging.getLogger("spoolq")


class Engine:
    """See the module's text.  ``config`` is checked already.

    The store is opened here, everything else by `open`.  ``cancel`` ends the opening, ``place`` says where that is.
    """

    def __init__(
        self,
        config: SenderConfig,
        *,
        error_handler: ErrorHandler | None = None,
        connection_listener: ConnectionListener | None = None,
        error_policy: ErrorPolicy | None = None,
        category_policies: Mapping[str, str] | None = None,
        progress_handler: ProgressHandler | None = None,
        clock: Clock | None = None,
        cancel: Cancel | None = None,
        place: str = "",
    ) -> None:
        self.config = config
        self._cancel = cancel or Cancel()
        check_callable(
            error_handler=error_handler,
            connection_listener=connection_listener,
            error_policy=error_policy,
            progress_handler=progress_handler,
        )
        can_drop = config.sf_dir is not None
        self._policies = {**config.policies, **check_category_policies(category_policies, can_drop=can_drop)}
        self.clock = clock or Clock()
        self._tls = settings.tls_options(config)  # unusable roots are found out before the slot is touched
        self.tokens = settings.tokens(config)
        self._names = settings.names(config)
        self.progress = Progress(self.clock)
        self.reports = Reports(
            self._names,
            error_handler=error_handler,
            connection_listener=connection_listener,
            progress_handler=progress_handler,
            error_capacity=config.error_inbox_capacity,
            connection_capacity=config.connection_listener_inbox_capacity,
        )
        self._decisions = None if error_policy is None else Decisions(error_policy, self._decided)
        self.loop: IoLoop | None = None
        self.drainers: Drainers | None = None
        self.thread: threading.Thread | None = None
        self.storage = open_storage(config, self._cancel.asked, place)
        self.store = self.storage.store
        try:
            self._build(asks=error_policy is not None)
        except BaseException:
            self._let_go(Steps())
            raise

    def _build(self, *, asks: bool) -> None:
        """Everything between the store and the first connect; nothing of it runs yet."""
        config, storage = self.config, self.storage
        self._symbols = storage.symbols
        self.rows = RowBuffer(self._symbols, max_name_bytes=config.max_name_len)
        if storage.recovery is not None and storage.recovery.set_aside:
            self.reports.slot_set_aside(storage.recovery)
        options = settings.delivery_options(config, self._policies, asks=asks)
        self.machine = Delivery(options, self.store, Random(), partial(tables_of, self.store))
        self.publisher = Publisher(
            self.rows,
            self._symbols,
            self.store,
            progress=self.progress,
            clock=self.clock,
            append_deadline_millis=config.sf_append_deadline_millis,
            gorilla=config.gorilla,
            on_published=self._published,
            describe_wire=self._describe_wire,
        )
        self.letters = Letters(storage.dead_letters, self.store, self._symbols, self.publisher)
        self.new_life = NewLife(
            self.rows,
            self._symbols,
            self.store,
            allowed=lambda: not self.progress.closing and self.progress.error is None,
            on_begun=self._published,
        )
        self.keeper = Keeper(
            self.rows,
            self.store,
            lambda wait: self.publisher.publish(wait=wait),
            self.clock,
            interval_millis=config.auto_flush_interval_millis or None,
            append_deadline_millis=config.sf_append_deadline_millis,
            report=self._timer_failed,
            on_room=self.progress.advanced,
            sync=self._sync if config.sf_durability == "append" else None,
            on_fault=lambda error: self._fault("the keeper", error),
            new_life=self.new_life,
        )
        self._syncs_flushes = config.sf_durability in ("flush", "append")
        self._checkpoints = config.sf_durability == "periodic"
        self._wakes_keeper = config.sf_durability in ("periodic", "flush")
        self.store.on_synced = self.progress.advanced
        self._hand_over = self.publisher.handover.flush
        self._ending = Closing(self)
        self._is_forked = False
        self.rows.initial_nbytes = min(config.init_buf_size, config.max_buf_size)
        self.rows.row_trigger = config.auto_flush_rows
        self.rows.on_trigger = self.publisher.publish_for_row
        if config.sf_durability == "append":
            self.rows.after_trigger = self._sync
        self._cap_known(limits.BATCH_BYTES_ASSUMED)

    # -- open ----------------------------------------------------------------------------------
    def open(self) -> None:
        """Connects as the mode says and starts the threads (behaviour.md 2.1, 2.2).

        Raises what the first connect raises, or Cancelled; nothing is left open then.
        """
        config = self.config
        blocking = config.initial_connect != "async"
        try:
            self.loop = loop = self._make_loop(blocking)
            self._cancel.tells(loop.stop)
            if blocking:
                sync = config.initial_connect == "sync"
                loop.begin(config.reconnect_max_duration_millis if sync else 0)
                loop.run_until(lambda: self.machine.was_ever_connected)  # it may be gone again
                if self.progress.error is not None:
                    raise self.progress.error
                loop.connect_millis(config.connect_timeout_millis or limits.CONNECT_MILLIS_BACKGROUND)
            else:
                loop.begin(None)
            self._start(loop)
            self._start_drainers()
            self._cancel.tells(None)
            if self._cancel.cancelled:
                raise Cancelled
            lifecycle.watch(self)
        except BaseException:
            self.undo()
            raise

    def _make_loop(self, blocking: bool) -> IoLoop:
        config = self.config
        # Without a setting a blocking connect lasts as long as the system lets it (behaviour.md 1.2).
        default_millis = limits.CONNECT_MILLIS_SYSTEM if blocking else limits.CONNECT_MILLIS_BACKGROUND
        return IoLoop(
            self.machine,
            self.store,
            self.clock,
            settings.endpoints(config),
            settings.connect_options(config, self._tls, self.tokens, default_millis),
            catch_up=self._catch_up,
            recovered=bool(self._symbols.published_count),
            life=self.new_life.life,
            on_settled=self._settled,
            on_committed=self.progress.advanced,
            on_latched=self._latched,
            on_report=self._report,
            on_cap=self._cap_known,
            save_letter=self.letters.save,
            ask=self._ask,
        )

    def _start(self, loop: IoLoop) -> None:
        self.new_life.wanted_now()  # of what was found, all may be acknowledged
        self.keeper.start()
        if self.config.auto_flush_interval_millis:
            self.rows.on_first_row = self.keeper.row_buffered
        sleepers = Sleepers(loop, self._keeper_sleeps, self.keeper)
        self.publisher.handover.sleeper = sleepers if self._wakes_keeper else loop
        self.thread = thread = threading.Thread(target=self._run_io, args=(loop,), name="spoolq-io", daemon=True)
        try:
            start(thread)
        except BaseException:
            self.thread = None
            raise

    def _start_drainers(self) -> None:
        """Last of all (behaviour.md 2.1); imported only by those who want it."""
        if self.config.drain_orphans:
            from spoolq.runtime.drainers import start_drainers

            self.drainers = start_drainers(
                self.config, self.storage.sf_dir, self._policies, self._tls, self.clock, self.tokens
            )

    def undo(self) -> None:
        """Closes what `open` and the constructor opened, without another word to anybody."""
        lifecycle.forget(self)
        steps = Steps()
        if self.loop is not None:
            steps.run(self.loop.stop)
            if self.thread is not None:
                steps.run(self.thread.join)
            steps.run(self.loop.close)
        if self.drainers is not None:
            steps.run(self.drainers.close)
        steps.run(self._ending.leave_tokens)
        self.thread = None
        steps.run(self.keeper.stop)
        self._let_go(steps)
        lifecycle.ended(self)
        self._ending.skip()

    def _let_go(self, steps: Steps) -> None:
        """Of the handlers and the store, for which nothing else works any more; the lock goes last."""
        steps.run(self.close_handlers)
        steps.run(self.store.close)
        if not self.store.closed:  # its sync failed, and nobody can try again: the sender was never there
            steps.run(lambda: self.store.close(sync=False))

    def _run_io(self, loop: IoLoop) -> None:
        """The I/O thread; when `close` did not wait for its end, it frees what `close` left to it."""
        try:
            self._run_loop(loop)
        finally:
            if self._ending.io_has_ended():
                steps = Steps()
                steps.run(loop.close)
                steps.run(self.store.close)
                if not self.store.closed:  # nobody is left who could try again
                    steps.run(lambda: self.store.close(sync=False))
                lifecycle.ended(self)
                for error in steps.errors:
                    _LOG.error("freeing what %s left behind: %s", self.describe(), error)

    def _run_loop(self, loop: IoLoop) -> None:
        """What the I/O thread does: a fault of ours must end the sender loudly, never leave it hanging."""
        try:
            loop.run()
        except BaseException as error:  # a SystemExit, too: a token provider is the caller's code
            self._fault("the I/O thread", error)

    def _fault(self, thread: str, error: BaseException) -> None:
        """One of the threads is at its end by a fault of ours; called where the error is handled."""
        _LOG.exception("%s failed; the sender has stopped", thread)
        fault = error if isinstance(error, SpoolqError) else SpoolqError(f"{thread} failed: {error!r}")
        if fault is not error:
            fault.__cause__ = error
        self._latched(actions.Latch(fault))
        self.reports.fault(fault, self.store.acked_fsn + 1, self.store.published_fsn)

    # -- what the loop and the keeper tell -------------------------------------------------------
    def _catch_up(self, cap_nbytes: int) -> Iterator[bytes]:
        return catch_up_messages(self._symbols, self._symbols.published_count, cap_nbytes)

    def _cap_known(self, cap_nbytes: int) -> None:
        """Limits of a frame and of the byte trigger (behaviour.md 3.1, 3.5)."""
        self.publisher.cap_known(cap_nbytes)
        frame = self.publisher.frame_nbytes_max
        self.rows.row_bytes_max = frame
        trigger = self.config.max_buf_size
        if self.config.auto_flush_bytes:
            trigger = min(trigger, self.config.auto_flush_bytes, int(limits.BYTE_TRIGGER_RATIO * frame))
        self.rows.byte_trigger = trigger

    def _settled(self) -> None:
        self.progress.advanced()
        self.reports.progressed(self.store.acked_fsn)
        if self.new_life.wanted_now():
            self.keeper.wake()

    def _latched(self, latch: actions.Latch) -> None:
        error = latch.error
        if isinstance(error, ServerRejection):
            error.sender_error = error_event(event_of(error, error.from_fsn, error.to_fsn))
        if self.progress.fail(error):
            self.rows.latched = error

    def _report(self, report: actions.Report) -> None:
        event = report.event
        if self.thread is None and isinstance(event, actions.ServerErrorEvent) and event.policy == "terminal":
            return  # the constructor raises it
        self.reports.take(report)

    def _ask(self, question: actions.Decide) -> None:
        if self._decisions is not None:
            self._decisions.ask(question)

    def _decided(self, answer: events.Decided) -> None:
        if self.loop is not None:
            self.loop.post(answer)

    def close_handlers(self) -> None:
        """No handler is called any more."""
        if self._decisions is not None:
            self._decisions.close()
        self.reports.close()

    def _timer_failed(self, error: SpoolqError | None) -> None:
        """The next row raises what a timed flush failed with, until one succeeds (ours.md 12)."""
        if not self.progress.closing:
            if error is not None:
                error.add_note("a timed flush failed with this; the row of this call was not taken: it may be repeated")
            self.rows.latched = error
            if self.progress.error is not None:  # looked at afterwards: it may be latched just now
                self.rows.latched = self.progress.error

    def _published(self) -> None:
        loop = self.loop
        if loop is not None and loop.asleep:
            loop.wake()
        if self._wakes_keeper and self._keeper_sleeps():
            self.keeper.wake()

    def hurry(self) -> None:
        """The caller is about to wait for the server; an interrupt may have kept a flush from waking the loop, too."""
        if self.loop is not None:
            self.loop.hurry()
        self._published()

    def _keeper_sleeps(self) -> bool:
        """Whether the keeper has to be told of a new frame: a checkpoint is due, or somebody waits for a sync of it."""
        return self.keeper.without_chore and (self._checkpoints or self.store.sync_wanted)

    def _describe_wire(self) -> str:
        machine = self.machine
        if machine.state is State.CONNECTED:
            return "the connection is up but slow"
        since = machine.outage_since_millis
        lasted = "" if since is None else f" for {self.clock.now_millis() - since} ms"
        return f"no connection{lasted}, {machine.attempts} attempts so far"

    # -- calls -----------------------------------------------------------------------------------
    def flush(self) -> int | None:
        """Publishes what is buffered; the FSN of the last frame, None when nothing was buffered.

        With ``sf_durability`` flush or append everything published is durable when this returns.

        A latched terminal error is raised behind it: the rows are in the store then, not kept.  On a slot the
        next sender delivers them, so the error of this call is in doubt; in memory they end with this sender,
        unless it stopped only behind the publish: then they may have been sent.

        What a timer flush failed with does not keep this from trying again: it raises only when it fails, too.
        """
        progress = self.progress
        stopped = progress.error is not None
        if not stopped and not progress.closing and self.keeper.failing_since is None:
            try:
                quick = self._hand_over()
            except BaseException as error:  # an interrupt while it wakes the loop, behind the frame
                error.in_doubt = True  # type: ignore[attr-defined]
                raise
            if quick >= 0:
                if self._syncs_flushes:
                    self._sync(quick)
                return quick
        self.check_process()
        if self._syncs_flushes:
            self.retry_sync()
        with self.rows:
            self.check_open()
            fsn = self.publisher.publish()
            self.keeper.published()
        if self._syncs_flushes:
            self._sync()
        if progress.error is not None:
            may_arrive = self.storage.slot is not None or not stopped
            raise fresh(progress.error, in_doubt=fsn is not None and may_arrive)
        return fsn

    def flush_and_wait(self) -> None:
        """`flush`, then `await_all`; what the wait raises is in doubt when this call has published something."""
        queued = self.flush() is not None
        with self._in_doubt_if(queued):
            self.await_all(None)

    def drain(self, timeout_millis: int | None) -> bool:
        """`flush`, then waits for all that is published; False when the time ran out.  Raises as `flush_and_wait`."""
        queued = self.flush() is not None
        with self._in_doubt_if(queued):
            return self.await_acked(self.store.published_fsn, timeout_millis)

    @contextmanager
    def _in_doubt_if(self, queued: bool) -> Iterator[None]:
        """Whatever ends a wait, an interrupt too: the frames of the call that waits are queued (ours.md 33)."""
        try:
            yield
        except BaseException as error:
            if queued:
                error.in_doubt = True  # type: ignore[attr-defined]
            raise

    def skip_head_frame(self) -> DeadLetter:
        """See `Sender.skip_head_frame`."""
        self.check_process()
        with self.rows:
            self.check_open()
            error, thread = self.progress.error, self.thread
            if error is not None and thread is not None:
                thread.join(JOIN_SECONDS)  # it has latched the error and is about to end
                if not self._ending.io_ended:
                    raise SpoolqError("the I/O thread has not ended yet: try again")
            return self.letters.skip_head(error)

    def requeue(self, letter: DeadLetter) -> int:
        """See `Sender.requeue`."""
        self.check_process()
        with self.rows:
            self.check_open()
            if self.progress.error is not None:
                raise fresh(self.progress.error)
            self.letters.check()
            self.publisher.publish()
            fsn = self.letters.requeue(letter)
            self.keeper.published()
        return fsn

    def _sync(self, fsn: int | None = None) -> None:
        """What is published, or up to ``fsn``, is durable; without the sender's lock, so that one sync serves many."""
        try:
            self.store.sync(fsn)
        except BaseException as error:  # also of an interrupt: the frames are queued (ours.md 33)
            error.in_doubt = True  # type: ignore[attr-defined]
            raise

    def retry_sync(self) -> None:
        """A caller's flush tries at once again what failed; raises when it fails again: nothing is queued then."""
        if self.store.sync_failure is not None:
            try:
                self.store.sync()
            except StorageError as error:
                error.in_doubt = False  # of this call
                raise

    def await_synced(self, fsn: int, timeout_millis: int | None) -> bool:
        """Waits until ``fsn`` survives a power cut; the keeper syncs as soon as it is published."""
        self.check_process()
        store = self.store
        if store.synced_fsn >= fsn:
            return True
        asked = -1

        def synced() -> bool:
            nonlocal asked
            if store.synced_fsn >= fsn:
                return True
            failure = store.sync_failure
            if failure is not None:
                raise failure
            # No further than the next frame: the wish outlives this wait, and each frame up to it is synced at once.
            wish = min(fsn, store.published_fsn + 1)
            if wish > asked and (timeout_millis is None or timeout_millis > 0):
                asked = wish
                store.request_sync(wish)
            return False

        return self.progress.wait_until(synced, timeout_millis)

    def check_open(self) -> None:
        """Raises ClosedError once closing has begun."""
        if self.progress.closing:
            raise ClosedError("the sender is closed")

    def await_acked(self, fsn: int, timeout_millis: int | None) -> bool:
        """Waits for the watermark; see `Progress.wait_until`."""
        self.check_process()
        self.hurry()
        return self.progress.wait_until(lambda: self.store.acked_fsn >= fsn, timeout_millis)

    @property
    def ok_fsn(self) -> int:
        """Newest frame that a server has committed; above ``acked_fsn`` only with durable acks."""
        return max(self.machine.ok_fsn, self.store.acked_fsn)

    def await_ok(self, fsn: int, timeout_millis: int | None) -> bool:
        """Waits until a server has committed ``fsn``; see `Progress.wait_until`."""
        self.check_process()
        self.hurry()
        return self.progress.wait_until(lambda: self.ok_fsn >= fsn, timeout_millis)

    def await_all(self, stall_millis: int | None) -> None:
        """Waits until everything published is acked; raises DeliveryTimeout after that long without progress."""
        self.check_process()
        target = self.store.published_fsn
        self.hurry()
        while True:
            step = min(self.store.acked_fsn + 1, target)
            if not self.progress.wait_until(lambda fsn=step: self.store.acked_fsn >= fsn, stall_millis):  # type: ignore[misc]
                raise self.delivery_timeout(f"no ack progress within {stall_millis} ms", "they stay queued")
            if self.store.acked_fsn >= target:
                return

    def delivery_timeout(self, what: str, then: str) -> DeliveryTimeout:
        """The error for frames that are still unacked; ``then`` says what becomes of them."""
        published, acked = self.store.published_fsn, self.store.acked_fsn
        behind = self.ok_fsn - acked
        durable = f", {behind} of them committed and not durable yet" if behind > 0 else ""
        return DeliveryTimeout(
            f"{what}: FSN {acked} is acked, {published} published, {published - acked} frames wait{durable} "
            f"({self._describe_wire()}); {then}",
            published_fsn=published,
            acked_fsn=acked,
        )

    def stats(self) -> SenderStats:
        """A snapshot of every counter."""
        self.check_process()  # a lock of the store may be held by a thread that is not here
        store, machine, loop, reports, keeper = self.store, self.machine, self.loop, self.reports, self.keeper
        spool, recovery = store.stats(), self.storage.recovery
        since = machine.outage_since_millis
        draining, drained, given_up = (0, 0, 0) if self.drainers is None else self.drainers.counts()
        return SenderStats(
            published_fsn=None if store.published_fsn < 0 else store.published_fsn,
            acked_fsn=None if store.acked_fsn < 0 else store.acked_fsn,
            synced_fsn=None if store.synced_fsn < 0 else store.synced_fsn,
            ok_fsn=None if self.ok_fsn < 0 else self.ok_fsn,
            rows_buffered=len(self.rows),
            frames_unacked=spool.frames_unacked,
            spool_bytes=spool.allocated_nbytes,
            spool_bytes_max=spool.total_nbytes_max,
            spool_segments=spool.segments,
            total_frames_sent=loop.frames_sent if loop is not None else 0,
            total_frames_replayed=loop.frames_replayed if loop is not None else 0,
            total_acks=loop.acks if loop is not None else 0,
            total_durable_acks=machine.durable_acks,
            total_durable_trim_advances=machine.durable_advances,
            total_connect_attempts=machine.attempts,
            total_reconnect_attempts=loop.reconnect_attempts if loop is not None else 0,
            total_reconnects_succeeded=machine.reconnects_succeeded,
            total_backpressure_stalls=self.publisher.backpressure_stalls,
            total_timer_flushes=keeper.timer_flushes,
            total_timer_flush_failures=keeper.timer_flush_failures,
            total_syncs=spool.syncs,
            total_sync_failures=spool.sync_failures,
            last_checkpoint=_utc(spool.last_sync_micros),
            checkpoint_failure=spool.sync_failure,
            total_server_errors=reports.server_errors,
            total_error_notifications_delivered=reports.errors_delivered,
            dropped_error_notifications=reports.errors_dropped,
            connection_events_delivered=reports.connections_delivered,
            connection_events_dropped=reports.connections_dropped,
            was_ever_connected=machine.was_ever_connected,
            was_recovered_from_disk=recovery is not None and recovery.recovered,
            torn_tail_bytes=sum(cut.nbytes for cut in recovery.cut) if recovery is not None else 0,
            outage_millis=None if since is None else self.clock.now_millis() - since,
            total_dead_letters=self.letters.saved,
            active_background_drainers=draining,
            total_background_drainers_succeeded=drained,
            total_background_drainers_failed=given_up,
            last_terminal_error=self.progress.error,
            acked_seq_txns=machine.acked_txns.copy(),
            durable_seq_txns=machine.durable_txns.copy(),
        )

    def background_drainers(self) -> list[DrainerStatus]:
        """A snapshot of each orphaned slot."""
        self.check_process()
        return [] if self.drainers is None else self.drainers.snapshot()

    def describe(self) -> str:
        """The sender in a few words, for logs and warnings."""
        state = "closed" if self.progress.closed else self.machine.state.value
        state = "of the parent process" if self._is_forked else state
        return f"<Sender {self.config.scheme}::{','.join(self._names)} {state}>"

    # -- fork -------------------------------------------------------------------------------------
    def forked(self) -> None:
        """In a forked child: nothing of the parent's is touched any more (ours.md 32)."""
        self._is_forked = True
        error = _forked_error()
        self.progress.forked(error)
        self.rows.after_fork()
        self.rows.latched = error
        if self.loop is not None:
            self.loop.forked()
        if self.tokens is not None:
            self.tokens.forked()
        if self.drainers is not None:
            self.drainers.forked()

    def check_process(self) -> None:
        """Raises ForkedError in a forked child."""
        if self._is_forked:
            raise _forked_error()

    # -- close -----------------------------------------------------------------------------------
    @property
    def closing(self) -> bool:
        """Whether `close` was called."""
        return self._ending.begun

    def close(self, *, flush: bool = True) -> None:
        """Ends everything; see `closing`."""
        self.check_process()
        self._ending.close(flush, calls_under_way(self))


class Sleepers:
    """The I/O loop and the keeper as one sleeper, for what follows from a frame whoever sends it."""

    def __init__(self, loop: IoLoop, keeper_sleeps: Callable[[], bool], keeper: Keeper) -> None:
        self._loop = loop
        self._keeper_sleeps = keeper_sleeps
        self._keeper = keeper

    @property
    def asleep(self) -> bool:
        """Whether one of them has to be woken; the keeper also where only the flush deadline would wake it."""
        return self._loop.asleep or self._keeper_sleeps()

    def wake(self) -> None:
        """Wakes those that wait."""
        if self._loop.asleep:
            self._loop.wake()
        if self._keeper_sleeps():
            self._keeper.wake()


def _utc(micros: int | None) -> datetime | None:
    return None if micros is None else datetime.fromtimestamp(micros / 1_000_000, UTC)


def _forked_error() -> ForkedError:
    return ForkedError("this sender belongs to the parent process; open one of this process's own after the fork")
