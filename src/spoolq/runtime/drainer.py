"""One orphaned slot on its way to the server: carries `delivery.drain.DrainLife` out (behaviour.md 7.2).

    drainer = Drainer(name, shared, clock)
    due_millis = drainer.work()          on a drainer's thread, again when it is due; None: the life is over
    drainer.stop()                       from any thread: `work` ends soon
    drainer.status()                     from any thread

`work` is one attempt: adopt the slot, connect, deliver, clean up.  It returns when the slot is drained,
when the delivery machine pauses, or when something ended it.  A pause holds nothing: no lock, no connection,
no descriptor, so a sender that comes back to its slot finds it free.  The machine is kept: it knows which
endpoint is next, how long to wait, and how often a frame was refused.

The first attempt adopts, then connects; later ones connect first, and adopt only when a server is there.
So a slot is not read through again and again while none is.  What was adopted again must be as it was left;
else somebody else has worked on it, and the drainer begins anew.

Owned by `Drainers`; `work` is called by one thread at a time.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from random import Random
from typing import Final

from spoolq import link
from spoolq.delivery import Delivery, DeliveryOptions, State, actions
from spoolq.delivery import drain as life
from spoolq.delivery.drain import DrainLife, DrainOptions, Outcome
from spoolq.errors import SlotBusyError, SpoolqError, StorageError
from spoolq.frozen import Frozen
from spoolq.link import ConnectOptions, Endpoint
from spoolq.qwp.catchup import catch_up_messages
from spoolq.runtime.clock import Clock
from spoolq.runtime.io_loop import IoLoop
from spoolq.runtime.refused import tables_of
from spoolq.runtime.throttle import Throttle
from spoolq.spool import Run, sentinels
from spoolq.spool.files import Files
from spoolq.spool.lock import SlotLock
from spoolq.spool.orphans import Adopted, adopt, is_candidate
from spoolq.spool.scan import Stopped
from spoolq.stats import DrainerStatus

_LOG: Final = logging.getLogger("spoolq.drainers")
_CAUSES: Final = ("disconnected", "endpoint_attempt_failed", "all_endpoints_unreachable")


class DrainSetup(Frozen):
    """What all drainers of a sender share: where the slots are, the sender's way to the server, one log's throttle."""

    files: Files
    sf_dir: str
    endpoints: list[Endpoint]
    connect: ConnectOptions
    delivery: DeliveryOptions
    drain: DrainOptions
    note_log: Throttle
    dead_letter_nbytes_max: int


class _Damaged(Exception):
    """The slot is proven damaged; the text says how.  It is held."""


class _Changed(Exception):
    """Somebody worked on the slot while it was not held."""


class _Slot:
    """The slot, or what is known of it while it is not held: the log of the delivery machine."""

    def __init__(self, setup: DrainSetup, name: str, stopped: Callable[[], bool]) -> None:
        self._setup = setup
        self._name = name
        self._stopped = stopped
        self._adopted: Adopted | None = None
        self.path = os.path.join(setup.sf_dir, name)
        self.published_fsn = -1
        self.acked_fsn = -1
        self.grouped_end_fsn = 0

    @property
    def held(self) -> bool:
        """Whether its lock is ours now."""
        return self._adopted is not None

    @property
    def drained(self) -> bool:
        """Whether everything is settled."""
        return self.acked_fsn >= self.published_fsn

    def take(self, *, again: bool) -> None:
        """Adopts the slot; ``again``: it must be as it was left.

        Raises SlotBusyError, also when it is no candidate any more; _Damaged, _Changed; Stopped; StorageError.
        """
        adopted = adopt(self._setup.files, self._setup.sf_dir, self._name, self._stopped)
        if adopted is None:
            raise SlotBusyError(f"the slot {self.path} is no orphan any more: somebody drained it or gave it up")
        self._adopted, store = adopted, adopted.store
        if adopted.damage:
            raise _Damaged(adopted.damage)
        before = self.published_fsn, self.acked_fsn
        if store is None:
            self.published_fsn, self.acked_fsn = -1, -1
        else:
            self.published_fsn, self.acked_fsn = store.published_fsn, store.acked_fsn
        if again and (self.published_fsn, self.acked_fsn) != before:
            raise _Changed
        self.grouped_end_fsn = 0 if store is None else store.grouped_end_fsn
        found = adopted.report
        bad = found.cut or found.quarantined or found.warnings
        _LOG.log(logging.WARNING if bad else logging.INFO, "draining %s", found.line())

    def catch_up(self, cap_nbytes: int) -> Iterator[bytes]:
        """The dictionary, for a new connection; adopts the slot when it is not held."""
        if self._adopted is None:
            self.take(again=True)
        assert self._adopted is not None
        symbols = self._adopted.symbols
        return catch_up_messages(symbols, symbols.published_count, cap_nbytes)

    def run(self, first_fsn: int, max_frames: int, max_nbytes: int) -> Run | None:
        """As `Outgoing.run`."""
        store = None if self._adopted is None else self._adopted.store
        return None if store is None else store.run(first_fsn, max_frames, max_nbytes)

    def acknowledge(self, fsn: int) -> bool:
        """As `Outgoing.acknowledge`."""
        if self._adopted is not None and self._adopted.store is not None:
            self._adopted.store.acknowledge(fsn)
            self.acked_fsn = self._adopted.store.acked_fsn
        return False

    def keep(self, now_millis: int) -> None:
        """After an acknowledgement: watermark and trim."""
        if self._adopted is not None and self._adopted.store is not None:
            self._adopted.store.keep(now_millis)

    def save_letter(self, refusal: actions.ServerErrorEvent) -> None:
        """A frame that the policy drops is kept beside its slot (ours.md 22).  Raises StorageError."""
        from spoolq.runtime.letters import save_letter
        from spoolq.spool.dead_letters import DeadLetters

        if self._adopted is None:
            raise StorageError(f"the slot {self.path} is not held")
        setup = self._setup
        kept = DeadLetters(
            setup.files,
            setup.sf_dir,
            self._name,
            setup.dead_letter_nbytes_max,
            check_slot=self._adopted.lock.check,
        )
        save_letter(kept, self, self._adopted.symbols, refusal)

    def leave(self) -> None:
        """Gives it back, emptied when drained.  Raises StorageError when that failed; it is given back then, too."""
        adopted, self._adopted = self._adopted, None
        if adopted is not None:
            adopted.close()

    def write(self, write: Callable[[Files, str, str], None], text: str) -> None:
        """Writes one of the notes under the slot's lock.  Raises SlotBusyError when that is taken, StorageError."""
        files = self._setup.files
        if self._adopted is not None:
            self._adopted.lock.check()
            write(files, self.path, text)
            return
        lock = SlotLock.acquire(files, self.path, make=False)
        try:
            if not is_candidate(files, self.path):
                raise SlotBusyError(f"the slot {self.path} is no orphan any more: somebody drained it or gave it up")
            write(files, self.path, text)
        finally:
            lock.release()


class Drainer:
    """See the module's text.  ``name`` is the slot's directory below ``sf_dir``."""

    def __init__(self, name: str, setup: DrainSetup, clock: Clock, rng: Random) -> None:
        self.name = name
        self._setup = setup
        self._clock = clock
        self._rng = rng
        self._slot = _Slot(setup, name, self._must_stop)
        self._life: DrainLife | None = None
        self.outcome: Outcome | None = None  # how the life ended; known once the note is written and the slot let go
        self._machine: Delivery | None = None
        self._attempts_told = 0
        self._cause = ""
        self._latched: SpoolqError | None = None
        self._noted = ""
        self._due_millis: int | None = None
        self._guard = threading.Lock()  # a loop is stopped only while it has its descriptors
        self._loop: IoLoop | None = None
        self._stopping = False
        self._resolver = link.Resolver()  # one thread at most, however many attempts

    # -- from other threads --------------------------------------------------------------------
    def stop(self) -> None:
        """The sender closes: `work` ends soon, and no further one does anything."""
        with self._guard:
            self._stopping = True
            if self._loop is not None:
                self._loop.stop()

    def cancel(self) -> None:
        """As `stop`, while nobody is in `work`: the life ends here."""
        self._begin_life()
        self.stop()
        self._tell(life.Stopped())
        self._conclude()

    def forked(self) -> None:
        """In a forked child: closes its copies of the descriptors; the parent goes on with its own."""
        if self._loop is not None:
            self._loop.forked()
        self._resolver.forked()

    def status(self) -> DrainerStatus:
        """A snapshot."""
        slot, story = self._slot, self._life
        published, acked = slot.published_fsn, slot.acked_fsn
        outcome = self.outcome
        return DrainerStatus(
            slot=slot.path,
            target_fsn=None if published < 0 else published,
            acked_fsn=None if acked < 0 else acked,
            outcome=None if outcome is None else outcome.value,
            last_error="" if story is None else story.last_error,
        )

    # -- on a drainer's thread -------------------------------------------------------------------
    def work(self) -> int | None:
        """One attempt; when the next one is due, None when there is none.  Never raises."""
        self._begin_life()
        self._due_millis = None
        if self._must_stop():
            self._tell(life.Stopped())
            return self._conclude()
        try:
            self._attempt()
        except Stopped:  # a large slot is not read to its end when the sender closes
            _LOG.debug("the slot %s is left while it is being read", self._slot.path)
        except SlotBusyError as error:
            self._tell(life.Busy(str(error)))
        except _Damaged as error:
            self._tell(life.Damaged(str(error)))
        except _Changed:
            self._machine = None
            self._due_millis = self._clock.now_millis()
        except SpoolqError as error:
            self._troubled(error)
        except BaseException as error:  # a SystemExit, too: a token provider is the caller's code
            _LOG.exception("the drainer of %s failed; it is tried again", self._slot.path)
            self._troubled(SpoolqError(f"the drainer failed: {error!r}; please report it"))
        finally:
            self._let_go()
        if self._must_stop():
            self._tell(life.Stopped())
        return self._conclude()

    def _conclude(self) -> int | None:
        """Shows how the life ended, if it did: whoever sees it finds the note there and the slot free."""
        self.outcome = None if self._life is None else self._life.outcome
        return None if self.outcome is not None else self._due_millis

    def _must_stop(self) -> bool:
        return self._stopping

    def _begin_life(self) -> None:
        if self._life is None:
            self._life = DrainLife(self._setup.drain, self._rng, self._clock.now_millis())

    def _attempt(self) -> None:
        machine = self._machine
        if machine is None:
            self._slot.take(again=False)
            if self._slot.drained:
                self._clean_up()
                return
            names = partial(tables_of, self._slot)
            machine = self._machine = Delivery(self._setup.delivery, self._slot, self._rng, names)
            self._attempts_told = 0
            self._latched = None
        self._deliver(machine)
        if self._slot.drained:
            self._clean_up()
        elif self._latched is not None:
            error, self._latched, self._machine = self._latched, None, None
            if isinstance(error, StorageError):
                self._troubled(error)
            else:
                self._tell(life.Ended(error, self._new_attempts(machine)))
        elif machine.state is State.WAITING:
            self._tell(life.Waiting(self._cause, self._new_attempts(machine)))

    def _deliver(self, machine: Delivery) -> None:
        """Drives the machine until all is acknowledged, it pauses, it failed, or `stop`."""
        loop = self._make_loop(machine)
        with self._guard:
            self._loop = loop
            stopping = self._stopping
        try:
            if stopping:
                return
            if machine.state is State.IDLE:
                loop.begin(None)
            else:
                loop.resume()
            loop.run_until(
                lambda: self._slot.drained or (machine.state is State.WAITING and loop.timer_millis is not None)
            )
            if machine.state is State.WAITING:
                self._due_millis = loop.timer_millis
        finally:
            with self._guard:
                self._loop = None
            loop.close()

    def _make_loop(self, machine: Delivery) -> IoLoop:
        return IoLoop(
            machine,
            self._slot,
            self._clock,
            self._setup.endpoints,
            self._setup.connect,
            catch_up=self._slot.catch_up,
            recovered=True,
            on_settled=self._settled,
            on_latched=self._latch,
            on_report=self._report,
            on_cap=self._cap_known,
            save_letter=self._slot.save_letter,
            connect=partial(link.connect, resolver=self._resolver),
            on_warn=self._warn,
        )

    def _settled(self) -> None:
        now = self._clock.now_millis()
        self._slot.keep(now)
        self._tell(life.Progressed())

    def _latch(self, latch: actions.Latch) -> None:
        self._latched = latch.error

    def _report(self, report: actions.Report) -> None:
        """Nothing of it reaches the sender's handlers (behaviour.md 7.2); the cause of a pause is kept."""
        event = report.event
        if isinstance(event, actions.ConnectionEvent) and event.kind in _CAUSES:
            self._cause = event.cause

    def _cap_known(self, cap_nbytes: int) -> None:
        """Nothing is encoded here."""

    def _warn(self, topic: str, text: str) -> None:
        """What is worth a line is logged with the life's own words."""
        _LOG.debug("%s, %s: %s", self.name, topic, text)

    def _new_attempts(self, machine: Delivery) -> int:
        told, self._attempts_told = self._attempts_told, machine.attempts
        return machine.attempts - told

    def _clean_up(self) -> None:
        self._slot.leave()
        self._tell(life.Drained())

    def _troubled(self, error: SpoolqError) -> None:
        self._machine = None
        self._tell(life.Troubled(error))

    def _let_go(self) -> None:
        """Between two attempts the slot is not held."""
        try:
            self._slot.leave()
        except StorageError as error:
            _LOG.warning("the drainer's files of %s: %s", self._slot.path, error)

    # -- what the life wants -----------------------------------------------------------------------
    def _tell(self, event: life.Event) -> None:
        story = self._life
        assert story is not None
        for action in story.handle(event, self._clock.now_millis()):
            match action:
                case life.Fail(text):
                    self._fail(story, text)
                case life.Note(text):
                    self._note(text)
                case life.Again(at_millis):
                    self._due_millis = at_millis
                case life.End():
                    self._log_end(story)

    def _fail(self, story: DrainLife, text: str) -> None:
        try:
            self._slot.write(sentinels.write_failed, text)
        except SlotBusyError as error:
            story.overtaken(str(error))
        except StorageError as error:
            _LOG.error("%s could not be marked as given up, a later sender tries again: %s", self._slot.path, error)

    def _note(self, text: str) -> None:
        if text == self._noted:
            return
        self._noted = text
        if self._setup.note_log.due():
            _LOG.warning("the slot %s was not drained and is tried again: %s", self._slot.path, text.rstrip())
        with suppress(StorageError):  # taken by somebody, or the disk that is the trouble: the text is in the status
            self._slot.write(sentinels.write_last_error, text)

    def _log_end(self, story: DrainLife) -> None:
        if story.outcome is Outcome.FAILED:
            _LOG.error("the slot %s was given up, see .failed in it: %s", self._slot.path, story.last_error)
        elif story.outcome is not None:
            why = f": {story.last_error}" if story.last_error else ""
            _LOG.info("the drainer of %s ended, %s%s", self._slot.path, story.outcome.value, why)
