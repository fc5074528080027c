"""What ends a sender, in words: the typed error and the event of it, made together.

Each function gives the error that every later call raises.  A text says where (endpoint, FSN), what
happened, and what to do; `event_of` is the same for the handlers (behaviour.md 6.3).  ``stored``: the
frames are in a slot and stay there; in memory they end with the sender, and so the way out is another one.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Final

from spoolq.delivery.actions import ServerErrorEvent
from spoolq.delivery.events import FailureKind
from spoolq.errors import (
    AuthError,
    ConnectError,
    DurableAckError,
    RoleMismatchError,
    ServerRejection,
    SpoolqError,
    StorageError,
)
from spoolq.printable import printable
from spoolq.qwp.responses import ErrorFrame

NEVER_CONNECTED = "never-connected-budget-exhausted"
CONNECTION_LOST = "connection-lost-budget-exhausted"
_PROVIDER: Final = "check the token provider, the callable given as token: it returns the bearer token as a str"


_TABLES_TOLD_MAX: Final = 4


def frames(first_fsn: int, last_fsn: int, tables: Sequence[str] = ()) -> str:
    """``FSN 3``, ``FSN 3 to 9``; with the tables of the frame ``FSN 3 (table 'trades')``."""
    text = f"FSN {first_fsn}" if last_fsn <= first_fsn else f"FSN {first_fsn} to {last_fsn}"
    if not tables:
        return text
    names = ", ".join(f"'{printable(name)}'" for name in tables[:_TABLES_TOLD_MAX])
    more = f" and {len(tables) - _TABLES_TOLD_MAX} more" if len(tables) > _TABLES_TOLD_MAX else ""
    return f"{text} (table{'s' * (len(tables) > 1)} {names}{more})"


def refusal(category: str, rejection: ErrorFrame) -> str:
    """What the server said, for a text."""
    said = printable(rejection.text)
    return f"{category.replace('_', ' ')} (status 0x{rejection.status:02x})" + (f": {said}" if said else "")


def _way_out(stored: bool, mend: str, skip: str = "") -> str:
    """What becomes of the frame, and what to do."""
    if stored:
        return f"the frame is kept and would be sent first again: {mend}{skip}, then open a new sender"
    return f"the frame is in memory and ends with this sender: {mend}, then write its rows again by a new one"


def rejected(
    endpoint: str,
    category: str,
    rejection: ErrorFrame,
    first_fsn: int,
    last_fsn: int,
    tables: tuple[str, ...] = (),
    *,
    stored: bool = True,
) -> ServerRejection:
    """A rejection whose policy is terminal."""
    way = _way_out(stored, "correct the table", ", or take it out of its slot by skip_head_frame()")
    return ServerRejection(
        f"{endpoint} refused {frames(first_fsn, last_fsn, tables)}: {refusal(category, rejection)}; {way}",
        category=category,
        status=rejection.status,
        server_text=rejection.text,
        message_sequence=rejection.sequence,
        from_fsn=first_fsn,
        to_fsn=last_fsn,
        tables=tables,
    )


def not_saved(
    endpoint: str,
    category: str,
    rejection: ErrorFrame,
    fsn: int,
    tables: tuple[str, ...],
    why: str,
    full: bool,
) -> ServerRejection:
    """A rejection whose policy is drop, and no dead letter could be made of the frame (ours.md 22).

    ``policy`` of the error stays ``drop`` when the next try may succeed, where the letters were not ``full``.
    """
    return ServerRejection(
        f"{endpoint} refused {frames(fsn, fsn, tables)}: {refusal(category, rejection)}; it was to be dropped "
        f"and could not be saved as a dead letter, so it is kept and would be sent first again: {why}; then open a new "
        "sender",
        category=category,
        policy="terminal" if full else "drop",
        status=rejection.status,
        server_text=rejection.text,
        message_sequence=rejection.sequence,
        from_fsn=fsn,
        to_fsn=fsn,
        tables=tables,
    )


def skipped(
    endpoint: str, category: str, rejection: ErrorFrame, first_fsn: int, last_fsn: int, *, stored: bool = True
) -> ServerRejection:
    """A rejection that leaves earlier frames without an answer (behaviour.md 6.5 e)."""
    again = ", which sends them all again" if stored else " and write again what is missing"
    return ServerRejection(
        f"{endpoint} refused FSN {last_fsn} but never answered for {frames(first_fsn, last_fsn - 1)} before it: "
        f"{refusal(category, rejection)}; what it took of them cannot be known, nothing is settled: look at the "
        f"table, then open a new sender{again}",
        category="protocol_violation",
        status=rejection.status,
        server_text=rejection.text,
        message_sequence=rejection.sequence,
        from_fsn=first_fsn,
        to_fsn=last_fsn,
    )


def poisoned(
    endpoint: str, head_fsn: int, strikes: int, last: str, rejection: ErrorFrame | None, *, stored: bool = True
) -> ServerRejection:
    """The frame at the head is refused again and again (behaviour.md 6.4)."""
    return ServerRejection(
        f"FSN {head_fsn} failed {strikes} times without any progress, last at {endpoint}: {last}; "
        + _way_out(stored, "correct what the server complains of"),
        category="protocol_violation",
        status=None if rejection is None else rejection.status,
        server_text="" if rejection is None else rejection.text,
        message_sequence=None if rejection is None else rejection.sequence,
        from_fsn=head_fsn,
        to_fsn=head_fsn,
    )


def protocol_violation(
    endpoint: str, what: str, first_fsn: int, last_fsn: int, *, stored: bool = True
) -> ServerRejection:
    """WebSocket framing that no server sends."""
    fate = "kept" if stored else "in memory, which end with this sender"
    return ServerRejection(
        f"{endpoint} broke the WebSocket protocol: {what}; {frames(first_fsn, last_fsn)} {fate}: check that the "
        "address is a QuestDB server and that nothing between changes the stream, then open a new sender",
        category="protocol_violation",
        from_fsn=first_fsn,
        to_fsn=last_fsn,
    )


def too_large(what: str, caps: str, fsn: int, *, stored: bool = True) -> ServerRejection:
    """No endpoint takes this frame, and what comes next cannot go without it (ours.md 6)."""
    return ServerRejection(
        f"{what}, and every endpoint has refused that size for too long ({caps}); "
        + _way_out(stored, "raise the receive buffer of a server"),
        category="frame_too_large",
        from_fsn=fsn,
        to_fsn=fsn,
    )


def unauthorized(endpoint: str, text: str, status: int) -> AuthError:
    """401 or 403: the same for the whole list."""
    return AuthError(
        f"ws-upgrade-failed: {endpoint} refused the credentials, no other endpoint is tried: {printable(text)}; "
        "check username, password or token and their rights",
        status=status,
    )


def no_connection(outcomes: str, tag: str | None, by_role: bool, kinds: Set[FailureKind]) -> ConnectError:
    """The attempts are used up, by count (no tag) or by time; ``kinds`` are those of the outcomes."""
    if by_role:
        text = f"no endpoint takes writes now (role mismatch): {outcomes}; check which server is the primary"
    elif tag == CONNECTION_LOST:
        text = f"nothing was acknowledged within outage_budget_millis: {outcomes}"
    elif kinds == {FailureKind.TOKEN}:
        text = f"no endpoint was tried: {outcomes}; {_PROVIDER}"
    else:
        also = f"; {_PROVIDER}" if FailureKind.TOKEN in kinds else ""
        text = f"no endpoint gave a connection: {outcomes}; check address, port and firewall{also}"
    return (RoleMismatchError if by_role else ConnectError)(text if tag is None else f"{tag}: {text}", tag=tag)


def no_durable_acks(outcomes: str) -> DurableAckError:
    """Every endpoint of a round lacks them (behaviour.md D-19)."""
    return DurableAckError(
        f"request_durable_ack=on, and no endpoint grants durable acks: {outcomes}; they need a server with "
        "replication to an object store: switch it on there, or leave the setting out, then open a new sender"
    )


def event_of(error: SpoolqError, first_fsn: int, last_fsn: int) -> ServerErrorEvent:
    """The event of a terminal error; the FSNs are those not settled, for an error that names no frame."""
    match error:
        case ServerRejection():
            return ServerErrorEvent(
                error.category,
                "terminal",
                error.status,
                error.server_text,
                error.message_sequence,
                error.from_fsn,
                error.to_fsn,
                error.tables,
            )
        case AuthError():
            category = "security_error"
        case StorageError():
            category = "storage_error"
        case _:
            category = "connect_failed"
    return ServerErrorEvent(category, "terminal", None, str(error), None, first_fsn, last_fsn)
