"""What the handlers of a sender are told: small frozen objects.  Imports nothing of spoolq."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

ConnectionEventKind = Literal[
    "connected",
    "disconnected",
    "reconnected",
    "failed_over",
    "endpoint_attempt_failed",
    "all_endpoints_unreachable",
    "auth_failed",
    "budget_exhausted",
]


@dataclass(frozen=True, slots=True)
class ErrorEvent:
    """A server's refusal, or the terminal error that ended the sender (behaviour.md 6.3).

    ``category`` is one of the names in behaviour.md 6.1, in lower case; ``policy`` is what was done
    about it (``retriable``, ``retriable_other``, ``terminal``, ``drop``: the frame is kept as a dead
    letter and counts as settled; ``set_aside`` for category
    ``slot_unreplayable``: the slot is kept under another name and a fresh one was begun).
    ``status`` and ``message_sequence`` (its position on that connection, from 0) are None when no
    server's answer caused it.
    ``from_fsn`` to ``to_fsn`` are the frames concerned.  ``text`` is the server's, at most 1,024
    bytes; it may quote the data.  ``when`` is UTC.
    """

    category: str
    policy: str
    status: int | None
    text: str
    message_sequence: int | None
    from_fsn: int
    to_fsn: int
    when: datetime


@dataclass(frozen=True, slots=True)
class ConnectionEvent:
    """Something happened to the connection (behaviour.md 8).

    ``connected`` comes once; later connections are ``reconnected`` (the same endpoint) or
    ``failed_over`` (another one, ``previous`` names the old).  ``endpoint`` is ``host:port``, None for
    ``all_endpoints_unreachable``.  ``attempt`` counts the sender's connection attempts from 1;
    ``cause`` says why, for the kinds that have a reason.  ``when`` is UTC.
    """

    kind: ConnectionEventKind
    endpoint: str | None
    previous: str | None
    attempt: int
    cause: str
    when: datetime
