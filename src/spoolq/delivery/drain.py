"""The life of one drainer: what follows from each attempt to deliver an orphaned slot (behaviour.md 7.2, 7.3).

No files, threads, clock: `DrainLife.handle(event, now_millis)` gives the actions that runtime/ carries
out, in order.  The delivery machine decides how an attempt goes; here it is decided what comes after it.

| event         | means                                       | leads to                                    |
|---------------|---------------------------------------------|---------------------------------------------|
| `Busy`        | somebody else has the slot, or had it       | LOCKED_BY_OTHER, nothing is written         |
| `Damaged`     | proven: what the slot holds cannot be sent  | ``.failed``, FAILED                         |
| `Troubled`    | a file could not be read or written         | ``.last_error``, again after a pause        |
| `Waiting`     | no connection; the delivery machine pauses  | ``.last_error``                             |
| `Ended`       | the delivery machine latched an error       | see below                                   |
| `Progressed`  | the server has acknowledged something       | what was counted for (*) is forgotten       |
| `Drained`     | everything is acknowledged and cleaned up   | SUCCESS                                     |
| `Stopped`     | the sender closes                           | STOPPED, nothing is written                 |

| what the delivery machine latched                     | leads to                                  |
|-------------------------------------------------------|-------------------------------------------|
| a rejection whose policy is terminal, a frame that is | ``.failed``, FAILED: the server's verdict |
| above the cap of every endpoint                       | on a stored frame                         |
| credentials refused, durable acks not granted         | ``.last_error``, again after a pause; (*) |
| the outage budget is used up                          | the same                                  |
| a refused frame whose dead letter could not be        | ``.last_error``, again after a pause      |
| written, though there is allowed room                 |                                           |
| an answer that breaks the protocol, anything else     | ``.last_error``, again after a pause;     |
|                                                       | with an outage budget (*)                 |

(*) FAILED when it has lasted ``give_up_millis`` and at least three attempts were made (ours.md 20 c).
A frame that is refused as retriable is not given up for that alone, however often: the server's disk may
be full, and a healthy slot would be stranded (slot.md invariant 39).

A slot is never given up because its lock is taken or the sender closes.
"""

from __future__ import annotations

from enum import Enum
from random import Random
from typing import Final

from spoolq.delivery import verdicts
from spoolq.delivery.backoff import Backoff
from spoolq.errors import AuthError, ConnectError, DurableAckError, ServerRejection, SpoolqError
from spoolq.frozen import Frozen

GIVE_UP_ATTEMPTS_MIN: Final = 3  # ours.md 20 c


class Outcome(Enum):
    """How a drainer ended (behaviour.md 7.3)."""

    SUCCESS = "success"
    LOCKED_BY_OTHER = "locked_by_other"
    STOPPED = "stopped"
    FAILED = "failed"


class DrainOptions(Frozen):
    """``give_up_millis``: see (*).  ``outage_budget_millis``: 0 = transport trouble is never given up."""

    give_up_millis: int = 300_000
    outage_budget_millis: int = 0
    backoff_initial_millis: int = 100
    backoff_max_millis: int = 5_000


# --- events ----------------------------------------------------------------------------------------


class Busy(Frozen):
    """The lock is taken, or the slot is no candidate any more: somebody drained it or gave it up."""

    why: str


class Damaged(Frozen):
    """Recovery has proven that the slot cannot be sent."""

    reason: str


class Troubled(Frozen):
    """The slot could not be opened, read, written or cleaned up; it is as safe as before."""

    error: SpoolqError


class Waiting(Frozen):
    """The delivery machine pauses by itself; ``attempts``: connects since the last event that told them."""

    why: str
    attempts: int


class Ended(Frozen):
    """The delivery machine latched ``error``."""

    error: SpoolqError
    attempts: int


class Progressed(Frozen):
    """The server acknowledged frames."""


class Drained(Frozen):
    """Everything is acknowledged, and the slot is empty."""


class Stopped(Frozen):
    """The sender closes."""


Event = Busy | Damaged | Troubled | Waiting | Ended | Progressed | Drained | Stopped


# --- actions ---------------------------------------------------------------------------------------


class Fail(Frozen):
    """Write ``.failed`` under the slot's lock; when that is taken meanwhile the outcome is LOCKED_BY_OTHER."""

    text: str


class Note(Frozen):
    """Write ``.last_error``."""

    text: str


class Again(Frozen):
    """A new attempt at this time, with a new delivery machine; the lock is not held until then."""

    at_millis: int


class End(Frozen):
    """The life is over."""

    outcome: Outcome


Action = Fail | Note | Again | End

_DELIVER_AGAIN: Final = (
    "Nothing was deleted. Then remove this file: the next sender with drain_orphans=on delivers the slot, or one that "
    "opens it by its sender_id."
)


class DrainLife:
    """See the module's text.  ``outcome`` is None while it goes on; ``last_error`` is for people."""

    def __init__(self, options: DrainOptions, rng: Random, now_millis: int) -> None:
        self._options = options
        self._backoff = Backoff(options.backoff_initial_millis, options.backoff_max_millis, rng)
        self._progress_millis = now_millis
        self._attempts = 0  # since the last progress
        self._refused_millis: int | None = None  # the first refusal of the credentials since then
        self._refusals = 0
        self._now = now_millis
        self._actions: list[Action] = []
        self.outcome: Outcome | None = None
        self.last_error = ""

    def handle(self, event: Event, now_millis: int) -> list[Action]:
        """Takes one event; the actions it leads to, in order.  An event behind the end means nothing."""
        self._now = now_millis
        self._actions = []
        if self.outcome is None:
            self._take(event)
        return self._actions

    def overtaken(self, why: str) -> None:
        """``.failed`` could not be written: somebody else has the slot."""
        self.last_error, self.outcome = why, Outcome.LOCKED_BY_OTHER

    def _take(self, event: Event) -> None:
        match event:
            case Busy(why):
                self.last_error = why
                self._end(Outcome.LOCKED_BY_OTHER)
            case Damaged(reason):
                self._fail("recovery", f"unreplayable: {reason}", "'spoolq verify' and 'spoolq repair' work on it.")
            case Troubled(error):
                self._note(str(error))
                self._again()
            case Waiting(why, attempts):
                self._attempts += attempts
                self._note(why)
            case Ended(error, attempts):
                self._attempts += attempts
                self._ended(error)
            case Progressed():
                self._progress_millis, self._attempts = self._now, 0
                self._refused_millis, self._refusals = None, 0
                self._backoff.reset()
            case Drained():
                self.last_error = ""
                self._end(Outcome.SUCCESS)
            case Stopped():
                self._end(Outcome.STOPPED)

    def _ended(self, error: SpoolqError) -> None:
        if isinstance(error, ServerRejection) and error.policy == "drop":  # the disk would not take its dead letter
            self._note(str(error))
            self._again()
            return
        if isinstance(error, ServerRejection) and error.category != "protocol_violation":
            self._fail("sending", str(error), "Correct the table, the server's limits or the rows first.")
            return
        if isinstance(error, AuthError | DurableAckError):
            if self._refused_millis is None:
                self._refused_millis = self._now
            self._refusals += 1
            if self._is_over(self._refused_millis, self._refusals, str(error)):
                return
        elif self._outage_is_over(error):
            return
        self._note(str(error))
        self._again()

    def _outage_is_over(self, error: SpoolqError) -> bool:
        """Whether an outage budget says that it is enough; then the slot is given up, with a tag (behaviour.md 5.5)."""
        budget = self._options.outage_budget_millis
        if not budget or self._now - self._progress_millis < budget:
            return False
        tagged = isinstance(error, ConnectError) and error.tag is not None
        why = str(error) if tagged else f"{verdicts.CONNECTION_LOST}: {error}"
        return self._is_over(self._progress_millis, self._attempts, why)

    def _is_over(self, since_millis: int, attempts: int, why: str) -> bool:
        """Gives the slot up when it has lasted long enough over enough attempts."""
        lasted = self._now - since_millis
        if lasted < self._options.give_up_millis or attempts < GIVE_UP_ATTEMPTS_MIN:
            return False
        reason = f"{why} [for {lasted} ms, {attempts} attempts]"
        self._fail("connecting", reason, "Correct what the server complains of, or the way to it, first.")
        return True

    def _fail(self, phase: str, reason: str, advice: str) -> None:
        self.last_error = reason
        self._actions.append(Fail(f"{phase}: {reason}\n{advice} {_DELIVER_AGAIN}\n"))
        self._end(Outcome.FAILED)

    def _note(self, text: str) -> None:
        self.last_error = text
        self._actions.append(Note(f"{text}\n"))

    def _again(self) -> None:
        self._actions.append(Again(self._now + self._backoff.next_millis()))

    def _end(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self._actions.append(End(outcome))
