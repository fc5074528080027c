"""What the delivery machine wants done: runtime/ carries the actions out in their order."""

from __future__ import annotations

from spoolq.errors import SpoolqError
from spoolq.frozen import Frozen


class Connect(Frozen):
    """Connect to this endpoint; answer with `Connected` or `ConnectFailed`.

    ``limit_millis``: what is left of a time budget for the whole attempt, None without one.
    """

    endpoint_index: int
    limit_millis: int | None = None


class SendRun(Frozen):
    """Send frames from ``first_fsn`` on, at least one; answer with `RunSent` or `FrameTooLarge`.

    The run ends before a frame whose payload is above ``max_frame_nbytes`` (None: no such bound).
    """

    first_fsn: int
    max_frames: int
    max_nbytes: int
    max_frame_nbytes: int | None = None


class Settle(Frozen):
    """Everything up to ``fsn`` is the server's: acknowledge it in the log."""

    fsn: int


class Committed(Frozen):
    """Everything up to ``fsn`` is committed by the server, and not durable yet; only with durable acks."""

    fsn: int


class Ping(Frozen):
    """Send a PING, behind what is queued."""


class Disconnect(Frozen):
    """Close the connection; nothing of it is to be told any more."""

    why: str


class SetTimer(Frozen):
    """Answer with `TimerDue` at this time; replaces the one before."""

    at_millis: int


class Latch(Frozen):
    """The end: no call succeeds any more, each raises this error.  Comes before its `Report`."""

    error: SpoolqError


class ServerErrorEvent(Frozen):
    """A rejection, or what ended the sender; the fields of behaviour.md 6.3.

    ``status`` and ``message_sequence`` are None where no answer of the server was the cause.  ``tables``: of which
    tables the refused frames have rows, as far as they could be looked at.
    """

    category: str
    policy: str
    status: int | None
    server_text: str
    message_sequence: int | None
    from_fsn: int
    to_fsn: int
    tables: tuple[str, ...] = ()


class Decide(Frozen):
    """Ask the user's resolver what to do about a refusal; answer with `Decided` and the same ``number``.

    ``event.policy`` is what counts without an answer in time; ``choices`` are the policies that can be chosen.
    """

    number: int
    event: ServerErrorEvent
    choices: frozenset[str]


class SaveLetter(Frozen):
    """Keep this frame as a dead letter; answer with `LetterSaved` or `LetterFailed`.  Nothing is settled before."""

    fsn: int
    event: ServerErrorEvent


class ConnectionEvent(Frozen):
    """Something about the connection: ``kind`` is one of behaviour.md 8, in lower case.

    ``attempt`` and ``round`` count from 1 since the last connection was lost, or since the beginning.
    """

    kind: str
    endpoint_index: int | None
    cause: str = ""
    previous_endpoint_index: int | None = None
    attempt: int = 0
    round: int = 0


class Report(Frozen):
    """For the user's handlers and the log."""

    event: ServerErrorEvent | ConnectionEvent


class Warn(Frozen):
    """One log line; ``topic`` is what throttles it."""

    topic: str
    text: str


Action = (
    Connect | SendRun | Settle | Committed | Ping | Disconnect | SetTimer | Latch | Report | Warn | Decide | SaveLetter
)
