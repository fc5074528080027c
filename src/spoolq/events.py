"""What the handlers of a sender are told: small frozen objects.  Imports nothing of spoolq but an error, when needed.

Categories, policies and kinds are strings; each is also a member of an enum that has the official client's
names, so ``event.kind == "connected"`` and ``event.kind is ConnectionEventKind.Connected`` are both true.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NoReturn, Self


class Tagged(StrEnum):
    """A string with a name of the official client's; ``tag`` is the string."""

    @property
    def tag(self) -> str:
        """The string itself."""
        return self.value

    @classmethod
    def parse(cls, tag: str | None) -> Self | None:
        """The member of a string or a member; None for None.  Raises ValueError for any other."""
        return None if tag is None else cls(tag)

    def __repr__(self) -> str:
        return repr(self.value)


class ConnectionEventKind(Tagged):
    """What happened to a connection; the last one is ours."""

    Connected = "connected"
    Disconnected = "disconnected"
    Reconnected = "reconnected"
    FailedOver = "failed_over"
    EndpointAttemptFailed = "endpoint_attempt_failed"
    AllEndpointsUnreachable = "all_endpoints_unreachable"
    AuthFailed = "auth_failed"
    BudgetExhausted = "budget_exhausted"


class SenderErrorCategory(Tagged):
    """What was refused, or went wrong (behaviour.md 6.1); from ``dictionary_gap`` on they are ours."""

    SchemaMismatch = "schema_mismatch"
    ParseError = "parse_error"
    InternalError = "internal_error"
    SecurityError = "security_error"
    WriteError = "write_error"
    NotWritable = "not_writable"
    ProtocolViolation = "protocol_violation"
    Unknown = "unknown"
    DictionaryGap = "dictionary_gap"
    FrameTooLarge = "frame_too_large"
    ConnectFailed = "connect_failed"
    StorageError = "storage_error"
    ClientFault = "client_fault"
    SlotUnreplayable = "slot_unreplayable"


class SenderErrorPolicy(Tagged):
    """What was done about it (behaviour.md 6.2); the last two are ours."""

    Retriable = "retriable"
    RetriableOther = "retriable_other"
    Terminal = "terminal"
    Drop = "drop"
    SetAside = "set_aside"


@dataclass(frozen=True, slots=True)
class ErrorEvent:
    """A server's refusal, or the terminal error that ended the sender (behaviour.md 6.3).

    ``category`` is one of the names in behaviour.md 6.1, in lower case; ``policy`` is what was done
    about it (``retriable``, ``retriable_other``, ``terminal``, ``drop``: the frame is kept as a dead
    letter and counts as settled; ``set_aside`` for category
    ``slot_unreplayable``: the slot is kept under another name and a fresh one was begun).
    ``status`` and ``message_sequence`` (its position on that connection, from 0) are None when no
    server's answer caused it.
    ``from_fsn`` to ``to_fsn`` are the frames concerned, ``tables`` the names of the tables these have rows
    of, at most 100 (empty when no frame was refused, or it could not be looked at: it was settled already).
    ``text`` is the server's, at most 1,024 bytes; it may quote the data.  ``when`` is UTC.

    ``applied_policy`` and ``message`` are the official client's names of ``policy`` and ``text``.
    """

    category: SenderErrorCategory
    policy: SenderErrorPolicy
    status: int | None
    text: str
    message_sequence: int | None
    from_fsn: int
    to_fsn: int
    when: datetime
    tables: tuple[str, ...] = ()

    @property
    def applied_policy(self) -> SenderErrorPolicy:
        """``policy``."""
        return self.policy

    @property
    def message(self) -> str:
        """``text``."""
        return self.text


@dataclass(frozen=True, slots=True)
class ConnectionEvent:
    """Something happened to the connection (behaviour.md 8).

    ``connected`` comes once; later connections are ``reconnected`` (the same endpoint) or
    ``failed_over`` (another one, ``previous`` names the old).  ``endpoint`` is ``host:port``, None for
    ``all_endpoints_unreachable`` and ``budget_exhausted``.
    ``attempt`` and ``round`` count from 1 since the last connection was lost, or since the beginning: in a
    round each endpoint is tried once.  Of ``disconnected`` they are those that had led to the connection.
    ``cause`` says why, for the kinds that have a reason.  ``when`` is UTC.

    The official client's names give the same in pieces: ``host`` and ``port`` (a str), ``previous_host`` and
    ``previous_port``, ``attempt_number``, ``cause_msg`` (None without a reason), ``timestamp_millis``.
    """

    kind: ConnectionEventKind
    endpoint: str | None
    previous: str | None
    attempt: int
    round: int
    cause: str
    when: datetime

    @property
    def host(self) -> str | None:
        """Host of ``endpoint``, an IPv6 address without its brackets."""
        return _host_and_port(self.endpoint)[0]

    @property
    def port(self) -> str | None:
        """Port of ``endpoint``."""
        return _host_and_port(self.endpoint)[1]

    @property
    def previous_host(self) -> str | None:
        """Host of ``previous``."""
        return _host_and_port(self.previous)[0]

    @property
    def previous_port(self) -> str | None:
        """Port of ``previous``."""
        return _host_and_port(self.previous)[1]

    @property
    def attempt_number(self) -> int:
        """``attempt``."""
        return self.attempt

    @property
    def cause_msg(self) -> str | None:
        """``cause``; None when there is none."""
        return self.cause or None

    @property
    def cause_code(self) -> NoReturn:
        """Raises UnsupportedError: a cause has words and no code here."""
        from spoolq.errors import UnsupportedError

        raise UnsupportedError("spoolq's ConnectionEvent has no cause_code: cause (and cause_msg) says why in words")

    @property
    def timestamp_millis(self) -> int:
        """``when``, as milliseconds since 1970."""
        return int(self.when.timestamp() * 1_000)


def _host_and_port(endpoint: str | None) -> tuple[str | None, str | None]:
    if endpoint is None:
        return None, None
    host, _, port = endpoint.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), port
