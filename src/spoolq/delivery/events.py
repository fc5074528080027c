"""What happens to the delivery machine: one small object each, made by runtime/.

Order on a connection: `Connected`, then any mix of `DeferredQueued`, `RunPartlySent`, `RunSent`,
`FrameTooLarge`, `Answered`, `Published`, until one of `PeerClosed`, `Lost`, `Undecodable`, `ProtocolBreach`,
`StorageBroken`, `DictionaryRestarted`, or until the machine asks for a `Disconnect`; after that nothing of
this connection is told any more.  Each `SendRun` is answered by one `RunSent`, one `FrameTooLarge` or one
`DictionaryRestarted`.
"""

from __future__ import annotations

from enum import Enum

from spoolq.errors import StorageError
from spoolq.frozen import Frozen
from spoolq.qwp.responses import Response


class FailureKind(Enum):
    """Why a connect failed (behaviour.md 5.2)."""

    TRANSPORT = "transport"  # DNS, TCP, TLS, time-out, malformed 101, version
    AUTH = "auth"  # 401, 403: terminal for the whole list
    ROLE = "role"  # 421 with a role
    STATUS = "status"  # any other HTTP status
    TOKEN = "token"  # the token provider gave none: nothing was opened
    DURABLE = "durable"  # the upgrade is complete, and durable acks were asked for and not granted
    CAP = "cap"  # connected, but an entry of the dictionary is above its cap: closed again, nothing sent


class Begin(Frozen):
    """Start connecting.  ``budget_millis``: None = never give up, 0 = one round."""

    budget_millis: int | None


class Connected(Frozen):
    """The upgrade of the endpoint is complete; ``catch_up`` messages will go ahead of the data.

    ``cap_nbytes``: the largest message the endpoint takes, None when it told none.
    """

    catch_up: int
    cap_nbytes: int | None = None


class ConnectFailed(Frozen):
    """The endpoint that was asked for gave no connection.  ``cap_nbytes``: what it told, for the kind CAP."""

    kind: FailureKind
    text: str
    status: int | None = None
    role: str = ""
    retry_after_millis: int | None = None
    cap_nbytes: int | None = None


class Published(Frozen):
    """There may be new frames in the log."""


class DictionaryRestarted(Frozen):
    """The ids of the log's symbols begin anew, with nothing unsettled; this connection knows the old ones."""


class RunSent(Frozen):
    """The frames up to ``last_fsn`` have been handed to the socket whole; the next run may come."""

    last_fsn: int


class RunPartlySent(Frozen):
    """The socket is full: of the run under way the frames up to ``fsn`` have been handed to it whole.

    Told before the answers that were read meanwhile, so that these are measured against what is
    really gone.  Without it an answer that overtakes its own send waits for `RunSent`.
    """

    fsn: int


class DeferredQueued(Frozen):
    """Of the run under way these frames leave their commit to a later one (behaviour.md 3.6).

    Told before any of the run is handed to the socket, in order, once for each row of such frames.
    """

    first_fsn: int
    last_fsn: int


class FrameTooLarge(Frozen):
    """The first frame of a `SendRun` is above its ``max_frame_nbytes``; nothing was queued."""

    fsn: int
    nbytes: int


class StorageBroken(Frozen):
    """The log could not be read: terminal, never a reconnect."""

    error: StorageError


class Answered(Frozen):
    """A response that was decoded."""

    response: Response


class Undecodable(Frozen):
    """A response that could not be decoded: the connection is of no more use, and a strike."""

    text: str


class ProtocolBreach(Frozen):
    """WebSocket framing that no server of ours sends: terminal."""

    text: str


class PeerClosed(Frozen):
    """The server sent CLOSE; ``code`` is None when it gave none."""

    code: int | None
    reason: str


class Lost(Frozen):
    """EOF, reset, or an error of the socket."""

    text: str


class Decided(Frozen):
    """The resolver's answer to the `Decide` with this number; None: it gave none."""

    number: int
    policy: str | None


class LetterSaved(Frozen):
    """The frame of a `SaveLetter` survives a power cut outside the log."""

    fsn: int


class LetterFailed(Frozen):
    """It could not be saved; nothing was changed.  ``full``: for want of allowed room; else the trouble may pass."""

    fsn: int
    text: str
    full: bool = True


class TimerDue(Frozen):
    """The time of the last `SetTimer` has come."""


class PulseDue(Frozen):
    """The time of `Delivery.pulse_due_millis` has come: of a PING, of a loss, or of more in flight.

    ``heard_millis``: when the peer of this connection last gave a sign of life.
    """

    heard_millis: int


Event = (
    Begin
    | Connected
    | ConnectFailed
    | Published
    | DictionaryRestarted
    | RunPartlySent
    | RunSent
    | DeferredQueued
    | FrameTooLarge
    | StorageBroken
    | Answered
    | Undecodable
    | ProtocolBreach
    | PeerClosed
    | Lost
    | Decided
    | LetterSaved
    | LetterFailed
    | TimerDue
    | PulseDue
)
