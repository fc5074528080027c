"""Makes a connection: resolve, TCP, TLS, upgrade (wire.md 1, behaviour.md 5.2).

`connect` blocks its thread, but every wait also looks at a wake descriptor: when that becomes
readable the attempt ends with ``CANCELLED``.  The addresses of a host are tried in the resolver's order
until one takes the TCP connection; what happens behind that is the host's answer.

A token callable is asked before anything is opened: a slow one holds no socket of the server's (`tokens`).

Whatever fails raises `ConnectFailure` and leaves no descriptor.  Secrets are never part of a text,
and what a peer said is made printable.

Bounds: a token, name resolution, TCP connect of one address, TLS handshake, upgrade response, and the refusal's
body each have a time of their own; ``limit_millis`` bounds all of them together.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import time
from enum import Enum
from typing import Any, Final

from spoolq import limits
from spoolq.frozen import Frozen
from spoolq.link.connection import Connection, again
from spoolq.link.poller import POLLIN, POLLOUT, Poller
from spoolq.link.resolve import Resolver
from spoolq.link.tls import TlsFailure, TlsOptions, handshake
from spoolq.link.tokens import Tokens
from spoolq.printable import printable
from spoolq.qwp import upgrade

_USER_AGENT: Final = "spoolq"
_BODY_MILLIS: Final = 1_000  # a refusal's body is a courtesy
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))  # a dead idle peer: 50 s


class Kind(Enum):
    """At which step a connect failed."""

    DNS = "dns"
    TCP = "tcp"
    TLS = "tls"
    TOKEN = "token"
    TIMEOUT = "timeout"
    AUTH = "auth"
    ROLE = "role"
    STATUS = "status"
    HANDSHAKE = "handshake"
    DURABLE = "durable"
    CANCELLED = "cancelled"


class ConnectFailure(Exception):
    """Why there is no connection; the text names the endpoint and never a secret."""

    def __init__(
        self,
        kind: Kind,
        text: str,
        *,
        status: int | None = None,
        role: str = "",
        retry_after_millis: int | None = None,
    ) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
        self.status = status
        self.role = role
        self.retry_after_millis = retry_after_millis


class ConnectOptions(Frozen):
    """``connect_millis``: name resolution, and again TCP connect of one address.

    ``upgrade_millis``: until the response is read.  ``tls`` None is plain ``ws``.  ``authorization`` is the
    whole header, see `credentials`; ``tokens`` are asked for the bearer token of each connection
    instead.  ``durable_ack`` asks for durable acks; an endpoint that does not grant them is a failure.
    """

    authorization: str | None = None
    tokens: Tokens | None = None
    connect_millis: int = 15_000
    upgrade_millis: int = 15_000
    tls: TlsOptions | None = None
    tls_millis: int = 5_000
    durable_ack: bool = False

    def hide(self, said: str) -> str:
        """What a peer has said, without the credentials that it may quote: the present ones, and tokens before."""
        if self.authorization is None and self.tokens is None:
            return said
        from spoolq.link.credentials import hide  # loaded when the credentials were, see `runtime.settings`

        said = said[: limits.ERROR_TEXT_BYTES_MAX]  # what repeats the beginning of a secret takes long
        return hide(said, self.authorization, () if self.tokens is None else self.tokens.given)

    def __repr__(self) -> str:
        """What tells one from another, and no credentials."""
        return f"ConnectOptions(upgrade_millis={self.upgrade_millis}, tls={self.tls!r})"


class Endpoint(Frozen):
    """Where to connect."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def connect(
    endpoint: Endpoint,
    options: ConnectOptions,
    wake_fileno: int,
    limit_millis: int | None = None,
    resolver: Resolver | None = None,
) -> Connection:
    """A connection whose upgrade is complete.  Raises ConnectFailure.

    ``resolver`` is the caller's own, so that all its connects together have one lookup under way at most.
    """
    limit = _Limit(endpoint, wake_fileno, limit_millis)
    if options.tokens is not None:
        from spoolq.link.credentials import bearer

        options = options.replaced(authorization=bearer(_token(options.tokens, endpoint, limit)))
    sock: socket.socket = _tcp(endpoint, options, limit, resolver or Resolver())
    try:
        if options.tls is not None:
            waiter = limit.waiter(options.tls_millis, "the TLS handshake")
            try:
                sock = handshake(sock, endpoint.host, options.tls, lambda on, write: waiter.wait(on, write=write))
            except TlsFailure as error:
                raise ConnectFailure(Kind.TLS, f"{endpoint}: {error}") from None
        return _upgrade(sock, endpoint, options, limit)
    except BaseException:
        sock.close()
        raise


def _token(tokens: Tokens, endpoint: Endpoint, limit: _Limit) -> str:
    """What the callable gives, when that can stand in a header; no text of a failure shows any of it."""
    waiter = limit.waiter(limits.TOKEN_MILLIS_MAX, "the token provider")
    try:
        token = tokens.token(lambda fileno: waiter.wait(fileno, write=False))
    except ConnectFailure:
        raise
    except Exception as error:
        # by its type alone: the words of an error from a token's origin like to quote the request
        raise _no_token(endpoint, f"raised {type(error).__name__}") from None
    if not isinstance(token, str):
        raise _no_token(endpoint, f"returned {type(token).__name__}, not str")
    if not token:
        raise _no_token(endpoint, "returned an empty token")
    if not (token.isascii() and token.isprintable()):
        raise _no_token(endpoint, "returned a token with a line break, a control or a non-ASCII character")
    tokens.keep(token)
    return token


def _no_token(endpoint: Endpoint, what: str) -> ConnectFailure:
    return ConnectFailure(Kind.TOKEN, f"{endpoint} was not tried: the token provider {what}")


def _tcp(endpoint: Endpoint, options: ConnectOptions, limit: _Limit, resolver: Resolver) -> socket.socket:
    """A connected socket of the first address that takes the connection."""
    waiter = limit.waiter(options.connect_millis, "the name resolution")
    try:
        found = resolver.addresses(endpoint.host, endpoint.port, lambda fileno: waiter.wait(fileno, write=False))
    except (OSError, UnicodeError) as error:
        text = getattr(error, "strerror", None) or error
        raise ConnectFailure(Kind.DNS, f"{endpoint} cannot be resolved: {text}") from None
    failures: list[str] = []
    for family, _, protocol, _, address in found:
        try:
            return _tcp_connect(family, protocol, address, limit.waiter(options.connect_millis, "the TCP connect"))
        except OSError as error:
            text = os.strerror(error.errno) if error.errno else str(error)
        except ConnectFailure as error:
            if error.kind is not Kind.TIMEOUT:
                raise
            text = "timed out"
        failures.append(text if len(found) == 1 else f"{address[0]} {text}")
    raise ConnectFailure(Kind.TCP, f"{endpoint} cannot be reached: {', '.join(failures) or 'it has no address'}")


class _Limit:
    """The time of one attempt, and what cancels it."""

    def __init__(self, endpoint: Endpoint, wake_fileno: int, limit_millis: int | None) -> None:
        self.endpoint = endpoint
        self.wake_fileno = wake_fileno
        self._end = None if limit_millis is None else time.monotonic() + limit_millis / 1_000

    def waiter(self, millis: int, what: str) -> _Waiter:
        """The next step may take so long, within the limit."""
        end = time.monotonic() + millis / 1_000
        return _Waiter(self, end if self._end is None else min(end, self._end), what)


class _Waiter:
    """Waits for a socket, the wake descriptor or a deadline, whichever comes first."""

    def __init__(self, limit: _Limit, end: float, what: str) -> None:
        self._limit = limit
        self._end = end
        self._what = what

    def wait(self, on: socket.socket | int, *, write: bool) -> None:
        """Until the socket or descriptor is ready; raises ConnectFailure."""
        wake = self._limit.wake_fileno
        poll = Poller()
        poll.register(on, POLLOUT if write else POLLIN)
        poll.register(wake, POLLIN)
        ready = poll.poll(max(0.0, self._end - time.monotonic()) * 1_000)
        if any(descriptor == wake for descriptor, _ in ready):
            raise ConnectFailure(Kind.CANCELLED, f"the connect to {self._limit.endpoint} was cancelled")
        if not ready:
            raise ConnectFailure(Kind.TIMEOUT, f"{self._limit.endpoint}: {self._what} timed out")


def _tcp_connect(family: int, protocol: int, address: Any, waiter: _Waiter) -> socket.socket:
    """One address; raises OSError, or what the waiter raises."""
    sock = socket.socket(family, socket.SOCK_STREAM, protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE:
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        with contextlib.suppress(BlockingIOError):
            sock.connect(address)
        waiter.wait(sock, write=True)
        if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, os.strerror(code))
        return sock
    except BaseException:
        sock.close()
        raise


def _upgrade(sock: socket.socket, endpoint: Endpoint, options: ConnectOptions, limit: _Limit) -> Connection:
    key = base64.b64encode(os.urandom(16)).decode()
    waiter = limit.waiter(options.upgrade_millis, "the WebSocket upgrade response")
    try:
        _send_all(sock, _request(endpoint, options, key), waiter)
        head, rest = _read_head(sock, endpoint, waiter)
        status, headers = _parse_head(head, endpoint)
        if status != 101:
            raise _refused(status, headers, _body(sock, headers, rest, limit), endpoint, options)
        accepted = upgrade.accepted(headers, key, options.hide)
        if options.durable_ack and not accepted.durable_ack:
            raise ConnectFailure(Kind.DURABLE, f"{endpoint} does not grant durable acks")
    except upgrade.BadUpgrade as error:
        raise ConnectFailure(Kind.HANDSHAKE, f"{endpoint}: {error}") from None
    except OSError as error:
        text = f"{endpoint} broke the upgrade off: {error.strerror or 'the connection was reset'}"
        raise ConnectFailure(Kind.HANDSHAKE, text) from None
    return Connection(sock, accepted, rest)


def _request(endpoint: Endpoint, options: ConnectOptions, key: str) -> bytes:
    lines = [
        f"GET {upgrade.PATH} HTTP/1.1",
        f"Host: {endpoint}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        f"{upgrade.MAX_VERSION}: {limits.PROTOCOL_VERSION}",
        f"{upgrade.CLIENT_ID}: {_USER_AGENT}",
    ]
    if options.authorization is not None:
        lines.append(f"Authorization: {options.authorization}")
    if options.durable_ack:
        lines.append(f"{upgrade.REQUEST_DURABLE_ACK}: true")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _send_all(sock: socket.socket, data: bytes, waiter: _Waiter) -> None:
    while data:
        waiter.wait(sock, write=True)
        with contextlib.suppress(*again()):
            data = data[sock.send(data) :]


def _read_some(sock: socket.socket, waiter: _Waiter) -> bytes:
    while True:
        with contextlib.suppress(*again()):
            return sock.recv(16_384)  # before the wait: TLS may hold bytes that no poll shows
        waiter.wait(sock, write=False)


def _read_head(sock: socket.socket, endpoint: Endpoint, waiter: _Waiter) -> tuple[bytes, bytes]:
    buffer = b""
    while b"\r\n\r\n" not in buffer:
        if buffer[:2] in (b"\x15\x03", b"\x16\x03"):  # a TLS alert or handshake record
            raise ConnectFailure(Kind.HANDSHAKE, f"{endpoint} speaks TLS: write wss:: as the scheme")
        if len(buffer) > limits.RESPONSE_HEAD_BYTES_MAX:
            raise ConnectFailure(Kind.HANDSHAKE, f"{endpoint}: the upgrade response has no end")
        data = _read_some(sock, waiter)
        if not data:
            raise ConnectFailure(Kind.HANDSHAKE, f"{endpoint} closed during the upgrade")
        buffer += data
    head, _, rest = buffer.partition(b"\r\n\r\n")
    return head, rest


def _parse_head(head: bytes, endpoint: Endpoint) -> tuple[int, list[tuple[str, str]]]:
    lines = head.split(b"\r\n")
    if any(len(line) > limits.RESPONSE_LINE_BYTES_MAX for line in lines):
        raise ConnectFailure(Kind.HANDSHAKE, f"{endpoint}: a line of the upgrade response is too long")
    parts = lines[0].split(b" ", 2)
    if len(parts) < 2 or parts[0] != b"HTTP/1.1" or not (len(parts[1]) == 3 and parts[1].isdigit()):
        raise ConnectFailure(Kind.HANDSHAKE, f"{endpoint} did not answer in HTTP/1.1")
    headers = []
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip():
            raise ConnectFailure(Kind.HANDSHAKE, f"{endpoint}: a malformed header in the upgrade response")
        headers.append((name.decode("latin-1"), value.strip().decode("latin-1")))
    return int(parts[1]), headers


def _body(sock: socket.socket, headers: upgrade.Headers, body: bytes, limit: _Limit) -> str:
    """What a refusal says, as far as it comes soon: at most 1,024 bytes."""
    told = (upgrade.header(headers, "Content-Length") or "").strip()
    wanted = min(int(told[:9]) if told.isascii() and told.isdigit() else 1 << 30, limits.REFUSAL_BODY_BYTES_MAX)
    waiter = limit.waiter(_BODY_MILLIS, "the refusal's body")
    with contextlib.suppress(OSError, ConnectFailure):
        while len(body) < wanted and (data := _read_some(sock, waiter)):
            body += data
    return body[:wanted].decode(errors="replace")


def _refused(
    status: int, headers: list[tuple[str, str]], body: str, endpoint: Endpoint, options: ConnectOptions
) -> ConnectFailure:
    role = upgrade.header(headers, upgrade.ROLE) or ""
    text = f"{endpoint} refused the upgrade with HTTP status {status}"
    kind = Kind.STATUS
    if status in (401, 403):
        kind = Kind.AUTH
    elif status == 421 and printable(role):
        kind, text = Kind.ROLE, f"{text}, role {printable(options.hide(role), 40)}"
    said = printable(options.hide(body))
    return ConnectFailure(
        kind,
        f"{text}: {said}" if said else text,
        status=status,
        role=printable(role, 40),
        retry_after_millis=upgrade.retry_after_millis(upgrade.header(headers, "Retry-After")),
    )
