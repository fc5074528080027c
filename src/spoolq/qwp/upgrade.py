"""The upgrade's names and rules (wire.md 1), without I/O, for both sides.

Client: `request_headers` says what to send, `accepted` reads a 101, `is_role_reject` a 421.
Server: `check_request` gives the refusal of a bad handshake in the reference order, or None.
Header lists are (name, value) pairs in order; names compare ignoring case and the first one counts.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from typing import Final

from spoolq import limits
from spoolq.frozen import Frozen

PATHS: Final = ("/write/v4", "/api/v4/write")
PATH: Final = PATHS[1]

MAX_VERSION: Final = "X-QWP-Max-Version"
VERSION: Final = "X-QWP-Version"
CAP: Final = "X-QWP-Max-Batch-Size"
CLIENT_ID: Final = "X-QWP-Client-Id"
ROLE: Final = "X-QuestDB-Role"
REQUEST_DURABLE_ACK: Final = "X-QWP-Request-Durable-Ack"
DURABLE_ACK: Final = "X-QWP-Durable-Ack"

_GUID: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_BASE64: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=")

Headers = Sequence[tuple[str, str]]


def header(headers: Headers, name: str) -> str | None:
    """The first header of that name, ignoring case."""
    wanted = name.lower()
    return next((value for key, value in headers if key.lower() == wanted), None)


def accept_key(key: str) -> str:
    """``Sec-WebSocket-Accept`` for a ``Sec-WebSocket-Key``."""
    return base64.b64encode(hashlib.sha1((key + _GUID).encode(), usedforsecurity=False).digest()).decode()


def basic(username: str, password: str) -> str:
    """``Authorization`` for HTTP Basic."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


class BadUpgrade(ValueError):
    """A 101 that this client does not take."""


class Accepted(Frozen):
    """What a 101 says: version, cap in bytes (None = not told), role, whether durable acks are on."""

    version: int
    cap_nbytes: int | None
    role: str
    durable_ack: bool


def accepted(headers: Headers, key: str, hide: Callable[[str], str] = str) -> Accepted:
    """Reads the headers of a 101 (wire.md 1.2); raises BadUpgrade, whose text quotes what ``hide`` leaves of them."""
    if (header(headers, "Upgrade") or "").strip().lower() != "websocket":
        raise BadUpgrade("the response does not upgrade to websocket")
    if "upgrade" not in _tokens(header(headers, "Connection")):
        raise BadUpgrade("the response has no 'Connection: Upgrade'")
    if (header(headers, "Sec-WebSocket-Accept") or "").strip() != accept_key(key):
        raise BadUpgrade("the response has a wrong Sec-WebSocket-Accept")
    if header(headers, "Sec-WebSocket-Extensions") or header(headers, "Sec-WebSocket-Protocol"):
        raise BadUpgrade("the response picks an extension or subprotocol that was not offered")
    return Accepted(
        version=_version(header(headers, VERSION), hide),
        cap_nbytes=cap_of(header(headers, CAP)),
        role=(header(headers, ROLE) or "").strip(),
        durable_ack=(header(headers, DURABLE_ACK) or "").strip().lower() == "enabled",
    )


def _version(text: str | None, hide: Callable[[str], str]) -> int:
    if text is None:
        return limits.PROTOCOL_VERSION
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit()) or not 1 <= int(digits[:20]) <= limits.PROTOCOL_VERSION:
        raise BadUpgrade(
            f"the server speaks QWP version {hide(text)[:40]!r}; this client speaks {limits.PROTOCOL_VERSION}"
        )
    return int(digits)


def cap_of(text: str | None) -> int | None:
    """The batch cap in bytes; None when absent, unparsable, zero, negative or beyond 64 bits."""
    digits = (text or "").strip()
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 19:
        return None
    cap = int(digits)
    return cap if 0 < cap < 1 << 63 else None


def retry_after_millis(text: str | None) -> int | None:
    """``Retry-After`` in whole seconds, as milliseconds; None for any other form."""
    digits = (text or "").strip()
    return int(digits) * 1_000 if digits.isascii() and digits.isdigit() and len(digits) < 10 else None


class Refusal(Frozen):
    """How the server says no to a handshake."""

    status: int
    text: str = ""
    headers: tuple[tuple[str, str], ...] = ()


def check_request(headers: Headers) -> Refusal | None:
    """The handshake checks in the reference order (wire.md 1.3); None when all hold."""
    if header(headers, "Origin") is not None:
        return Refusal(400, "Origin header is not allowed")
    upgrade = header(headers, "Upgrade")
    if upgrade is None:
        return Refusal(400, "Missing Upgrade header")
    if upgrade.strip().lower() != "websocket":
        return Refusal(400, "Invalid Upgrade header")
    connection = header(headers, "Connection")
    if connection is None:
        return Refusal(400, "Missing Connection header")
    if "upgrade" not in _tokens(connection):
        return Refusal(400, "Invalid Connection header")
    key = header(headers, "Sec-WebSocket-Key")
    if key is None:
        return Refusal(400, "Missing Sec-WebSocket-Key header")
    if len(key) != 24 or not _BASE64.issuperset(key):
        return Refusal(400, "Invalid Sec-WebSocket-Key header")
    version = (header(headers, "Sec-WebSocket-Version") or "").strip()
    if version.lstrip("0") != "13":
        wants = (("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13"))
        return Refusal(426, "", wants)
    return None


def _tokens(text: str | None) -> set[str]:
    return set((text or "").lower().replace(",", " ").split())
