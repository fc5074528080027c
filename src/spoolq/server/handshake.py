"""The HTTP request that opens a connection, and the server's answer to an upgrade (wire.md 1).  No I/O.

`RequestReader` collects a request head within bounds; `judge` gives the `Refusal` of an upgrade, or None;
`accept` gives the 101.  The order of checks: path, credentials, handshake (`qwp.upgrade.check_request`), role.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from spoolq import limits
from spoolq.qwp import upgrade
from spoolq.qwp.upgrade import Refusal
from spoolq.server.options import READ_ONLY_ROLES, ServerOptions

_END: Final = b"\r\n\r\n"
_LINE_NBYTES_MAX: Final = 8 << 10
_EXTRA_REASONS: Final = {101: "Switching Protocols", 421: "Misdirected Request"}


class BadRequest(Exception):
    """Not HTTP, or beyond the bounds; ``refusal`` is the answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.refusal = Refusal(status, text)


@dataclass(frozen=True, slots=True)
class Request:
    """A request head."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """What follows the question mark."""
        return self.target.partition("?")[2]

    @property
    def is_upgrade(self) -> bool:
        """Whether it is meant for the WebSocket side: by its path, or because it asks for an upgrade."""
        return self.path in upgrade.PATHS or upgrade.header(self.headers, "Upgrade") is not None


class RequestReader:
    """Collects a head; what is read past it belongs to the WebSocket stream."""

    def __init__(self, head_nbytes_max: int) -> None:
        self._head_nbytes_max = head_nbytes_max
        self._buffer = bytearray()

    @property
    def waiting_nbytes(self) -> int:
        """Bytes of a head that is not whole yet."""
        return len(self._buffer)

    def feed(self, data: bytes | memoryview) -> tuple[Request, bytes] | None:
        """The request and the bytes behind its head, or None while it is not whole; raises BadRequest."""
        searched = max(0, len(self._buffer) - len(_END) + 1)
        self._buffer += data
        end = self._buffer.find(_END, searched)
        if (end if end >= 0 else len(self._buffer)) > self._head_nbytes_max:
            raise BadRequest(431, f"the request head is longer than {self._head_nbytes_max} bytes")
        if end < 0:
            return None
        head, behind = bytes(self._buffer[:end]), bytes(self._buffer[end + len(_END) :])
        self._buffer.clear()
        return _parse(head), behind


def _parse(head: bytes) -> Request:
    first, *lines = head.decode("latin-1").split("\r\n")
    if any(len(line) > _LINE_NBYTES_MAX for line in (first, *lines)):
        raise BadRequest(431, f"a header line is longer than {_LINE_NBYTES_MAX} bytes")
    words = first.split(" ")
    if len(words) != 3 or not all(words) or not words[2].startswith("HTTP/1."):
        raise BadRequest(400, "not an HTTP/1.1 request")
    headers = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BadRequest(400, "a malformed header line")
        headers.append((name, value.strip(" \t")))
    return Request(words[0], words[1], tuple(headers))


def judge(request: Request, options: ServerOptions, role: str) -> Refusal | None:
    """Why an upgrade is refused by a server that has that role now, or None."""
    if request.path not in upgrade.PATHS:
        return Refusal(404, "no such path")
    if options.auth is not None and not options.auth.allows(upgrade.header(request.headers, "Authorization")):
        return UNAUTHORIZED
    if request.method != "GET":
        return Refusal(400, "Invalid method")
    refusal = upgrade.check_request(request.headers)
    if refusal is None and role in READ_ONLY_ROLES:
        return Refusal(421, "", ((upgrade.ROLE, role),))
    return refusal


UNAUTHORIZED: Final = Refusal(401, "Unauthorized", (("WWW-Authenticate", 'Basic realm="questdb", charset="UTF-8"'),))


def grants_durable_ack(request: Request, options: ServerOptions) -> bool:
    """Whether this connection gets durable acks: the client asks and the server can."""
    asked = upgrade.header(request.headers, upgrade.REQUEST_DURABLE_ACK) or ""
    return options.durable_ack and asked.strip().lower() == "true"


def accept_headers(request: Request, options: ServerOptions, role: str, durable_ack: bool) -> list[tuple[str, str]]:
    """The headers of a 101, in the order of the reference server."""
    key = upgrade.header(request.headers, "Sec-WebSocket-Key") or ""
    headers = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", upgrade.accept_key(key)),
        (upgrade.VERSION, str(limits.PROTOCOL_VERSION)),
    ]
    if durable_ack:
        headers.append((upgrade.DURABLE_ACK, "enabled"))
    return [*headers, (upgrade.ROLE, role), (upgrade.CAP, str(options.cap_nbytes))]


def response(status: int, headers: list[tuple[str, str]], body: bytes = b"") -> bytes:
    """An HTTP response, as bytes."""
    lines = [f"HTTP/1.1 {status} {_reason(status)}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join(lines).encode("latin-1", errors="replace") + _END + body


def refuse(refusal: Refusal) -> bytes:
    """A refusal: its own headers, then the length; the connection ends behind it."""
    headers, body = list(refusal.headers), refusal.text.encode()
    if upgrade.header(headers, "Connection") is None:
        headers.append(("Connection", "close"))
    if body:
        headers.append(("Content-Type", "text/plain"))
    return response(refusal.status, [*headers, ("Content-Length", str(len(body)))], body)


def _reason(status: int) -> str:
    if status in _EXTRA_REASONS:
        return _EXTRA_REASONS[status]
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Refused"
