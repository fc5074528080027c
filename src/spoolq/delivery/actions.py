"""What the delivery machine wants done: runtime/ carries the actions out in their order."""

from __future__ import annotations

from dataclasses import dataclass

from spoolq.errors import SpoolqError


@dataclass(frozen=True, slots=True)
class Connect:
    """Connect to this endpoint; answer with `Connected` or `ConnectFailed`.

    ``limit_millis``: what is left of a time budget for the whole attempt, None without one.
    """

    endpoint_index: int
    limit_millis: int | None = None


@dataclass(frozen=True, slots=True)
class SendRun:
    """Send frames from ``first_fsn`` on, at least one; answer with `RunSent` or `FrameTooLarge`.

    The run ends before a frame whose payload is above ``max_frame_nbytes`` (None: no such bound).
    """

    first_fsn: int
    max_frames: int
    max_nbytes: int
    max_frame_nbytes: int | None = None


@dataclass(frozen=True, slots=True)
class Settle:
    """Everything up to ``fsn`` is the server's: acknowledge it in the log."""

    fsn: int


@dataclass(frozen=True, slots=True)
class Committed:
    """Everything up to ``fsn`` is committed by the server, and not durable yet; only with durable acks."""

    fsn: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Send a PING, behind what is queued."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close the connection; nothing of it is to be told any more."""

    why: str


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Answer with `TimerDue` at this time; replaces the one before."""

    at_millis: int


@dataclass(frozen=True, slots=True)
class Latch:
    """The end: no call succeeds any more, each raises this error.  Comes before its `Report`."""

    error: SpoolqError


@dataclass(frozen=True, slots=True)
class ServerErrorEvent:
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


@dataclass(frozen=True, slots=True)
class Decide:
    """Ask the user's resolver what to do about a refusal; answer with `Decided` and the same ``number``.

    ``event.policy`` is what counts without an answer in time; ``choices`` are the policies that can be chosen.
    """

    number: int
    event: ServerErrorEvent
    choices: frozenset[str]


@dataclass(frozen=True, slots=True)
class SaveLetter:
    """Keep this frame as a dead letter; answer with `LetterSaved` or `LetterFailed`.  Nothing is settled before."""

    fsn: int
    event: ServerErrorEvent


@dataclass(frozen=True, slots=True)
class ConnectionEvent:
    """Something about the connection: ``kind`` is one of behaviour.md 8, in lower case.

    ``attempt`` and ``round`` count from 1 since the last connection was lost, or since the beginning.
    """

    kind: str
    endpoint_index: int | None
    cause: str = ""
    previous_endpoint_index: int | None = None
    attempt: int = 0
    round: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """For the user's handlers and the log."""

    event: ServerErrorEvent | ConnectionEvent


@dataclass(frozen=True, slots=True)
class Warn:
    """One log line; ``topic`` is what throttles it."""

    topic: str
    text: str


Action = (
    Connect | SendRun | Settle | Committed | Ping | Disconnect | SetTimer | Latch | Report | Warn | Decide | SaveLetter
)
