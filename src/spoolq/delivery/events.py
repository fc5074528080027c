"""What happens to the delivery machine: one small object each, made by runtime/.

Order on a connection: `Connected`, then (when asked) `CatchUpSent`, then any mix of `RunSent`,
`Answered`, `Published`, until one of `PeerClosed`, `Lost`, `Undecodable`, `ProtocolBreach`; after
that nothing of this connection is told any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from spoolq.qwp.responses import Response


class FailureKind(Enum):
    """Why a connect failed (behaviour.md 5.2)."""

    TRANSPORT = "transport"  # DNS, TCP, TLS, time-out, malformed 101, version
    AUTH = "auth"  # 401, 403: terminal for the whole list
    ROLE = "role"  # 421 with a role
    STATUS = "status"  # any other HTTP status


@dataclass(frozen=True, slots=True)
class Begin:
    """Start connecting.  ``budget_millis``: None = never give up, 0 = one round."""

    budget_millis: int | None


@dataclass(frozen=True, slots=True)
class Connected:
    """The upgrade of the endpoint is complete; ``catch_up`` messages will go ahead of the data."""

    catch_up: int


@dataclass(frozen=True, slots=True)
class ConnectFailed:
    """The endpoint that was asked for gave no connection."""

    kind: FailureKind
    text: str
    status: int | None = None
    role: str = ""
    retry_after_millis: int | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """There may be new frames in the log."""


@dataclass(frozen=True, slots=True)
class RunSent:
    """The frames up to ``last_fsn`` have been handed to the socket whole; the next run may come."""

    last_fsn: int


@dataclass(frozen=True, slots=True)
class Answered:
    """A response that was decoded."""

    response: Response


@dataclass(frozen=True, slots=True)
class Undecodable:
    """A response that could not be decoded: the connection is of no more use, and a strike."""

    text: str


@dataclass(frozen=True, slots=True)
class ProtocolBreach:
    """WebSocket framing that no server of ours sends: terminal."""

    text: str


@dataclass(frozen=True, slots=True)
class PeerClosed:
    """The server sent CLOSE; ``code`` is None when it gave none."""

    code: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Lost:
    """EOF, reset, or an error of the socket."""

    text: str


@dataclass(frozen=True, slots=True)
class TimerDue:
    """The time of the last `SetTimer` has come."""


Event = (
    Begin
    | Connected
    | ConnectFailed
    | Published
    | RunSent
    | Answered
    | Undecodable
    | ProtocolBreach
    | PeerClosed
    | Lost
    | TimerDue
)
