"""Makes a connection: resolve, TCP, upgrade (wire.md 1).

`connect` blocks its thread, but every wait also looks at a wake descriptor: when that becomes
readable the attempt ends with ``CANCELLED``.  Whatever fails raises `ConnectFailure` and leaves no
descriptor.  Secrets are never part of a text.
"""

from __future__ import annotations

import base64
import contextlib
import os
import select
import socket
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from spoolq import limits
from spoolq.link.connection import Connection
from spoolq.qwp import upgrade

_USER_AGENT: Final = "spoolq"


class Kind(Enum):
    """At which step a connect failed."""

    DNS = "dns"
    TCP = "tcp"
    TIMEOUT = "timeout"
    AUTH = "auth"
    ROLE = "role"
    STATUS = "status"
    HANDSHAKE = "handshake"
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


@dataclass(frozen=True, slots=True)
class ConnectOptions:
    """``connect_millis``: TCP connect of one address; ``upgrade_millis``: until the response is read."""

    authorization: str | None = field(default=None, repr=False)
    connect_millis: int = 15_000
    upgrade_millis: int = 15_000


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to connect."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def connect(endpoint: Endpoint, options: ConnectOptions, wake_fileno: int) -> Connection:
    """A connection whose upgrade is complete.  Raises ConnectFailure."""
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConnectFailure(Kind.DNS, f"{endpoint} cannot be resolved: {error.strerror or error}") from None
    failure = ConnectFailure(Kind.DNS, f"{endpoint} has no address")
    for family, _, protocol, _, address in found:
        sock = socket.socket(family, socket.SOCK_STREAM, protocol)
        try:
            sock.setblocking(False)
            _tcp_connect(sock, address, endpoint, options, wake_fileno)
            return _upgrade(sock, endpoint, options, wake_fileno)
        except ConnectFailure as error:
            sock.close()
            failure = error
            if error.kind is not Kind.TCP:
                raise
        except BaseException:
            sock.close()
            raise
    raise failure


class _Waiter:
    """Waits for a socket, the wake descriptor or a deadline, whichever comes first."""

    def __init__(self, endpoint: Endpoint, wake_fileno: int, millis: int, what: str) -> None:
        self._endpoint = endpoint
        self._wake = wake_fileno
        self._deadline = time.monotonic() + millis / 1_000
        self._what = what

    def wait(self, sock: socket.socket, *, write: bool) -> None:
        poll = select.poll()
        poll.register(sock, select.POLLOUT if write else select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        ready = poll.poll(max(0.0, self._deadline - time.monotonic()) * 1_000)
        if any(descriptor == self._wake for descriptor, _ in ready):
            raise ConnectFailure(Kind.CANCELLED, f"the connect to {self._endpoint} was cancelled")
        if not ready:
            raise ConnectFailure(Kind.TIMEOUT, f"{self._endpoint}: {self._what} timed out")


def _tcp_connect(
    sock: socket.socket, address: Any, endpoint: Endpoint, options: ConnectOptions, wake_fileno: int
) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    try:
        with contextlib.suppress(BlockingIOError):
            sock.connect(address)
        _Waiter(endpoint, wake_fileno, options.connect_millis, "the TCP connect").wait(sock, write=True)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    except OSError as error:
        code = error.errno or 0
        raise ConnectFailure(Kind.TCP, f"{endpoint} cannot be reached: {os.strerror(code)}") from None
    if code:
        raise ConnectFailure(Kind.TCP, f"{endpoint} cannot be reached: {os.strerror(code)}")


def _upgrade(sock: socket.socket, endpoint: Endpoint, options: ConnectOptions, wake_fileno: int) -> Connection:
    key = base64.b64encode(os.urandom(16)).decode()
    waiter = _Waiter(endpoint, wake_fileno, options.upgrade_millis, "the WebSocket upgrade response")
    try:
        _send_all(sock, _request(endpoint, options, key), waiter)
        head, rest = _read_head(sock, endpoint, waiter)
        status, headers = _parse_head(head, endpoint)
        if status != 101:
            raise _refused(status, headers, _body(sock, rest, waiter), endpoint)
        accepted = upgrade.accepted(headers, key)
    except upgrade.BadUpgrade as error:
        raise ConnectFailure(Kind.HANDSHAKE, f"{endpoint}: {error}") from None
    except OSError as error:
        text = f"{endpoint} broke the upgrade off: {error.strerror or error}"
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
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _send_all(sock: socket.socket, data: bytes, waiter: _Waiter) -> None:
    while data:
        waiter.wait(sock, write=True)
        with contextlib.suppress(BlockingIOError):
            data = data[sock.send(data) :]


def _read_some(sock: socket.socket, waiter: _Waiter) -> bytes:
    while True:
        waiter.wait(sock, write=False)
        with contextlib.suppress(BlockingIOError):
            return sock.recv(16_384)


def _read_head(sock: socket.socket, endpoint: Endpoint, waiter: _Waiter) -> tuple[bytes, bytes]:
    buffer = b""
    while b"\r\n\r\n" not in buffer:
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


def _body(sock: socket.socket, body: bytes, waiter: _Waiter) -> str:
    """What a refusal says, as far as it is there: at most 1,024 bytes, made printable."""
    with contextlib.suppress(OSError, ConnectFailure):
        while len(body) < limits.REFUSAL_BODY_BYTES_MAX and (data := _read_some(sock, waiter)):
            body += data
    text = body[: limits.REFUSAL_BODY_BYTES_MAX].decode(errors="replace")
    return "".join(character if character.isprintable() else " " for character in text).strip()


def _refused(status: int, headers: list[tuple[str, str]], body: str, endpoint: Endpoint) -> ConnectFailure:
    role = (upgrade.header(headers, upgrade.ROLE) or "").strip()
    text = f"{endpoint} refused the upgrade with HTTP status {status}"
    kind = Kind.STATUS
    if status in (401, 403):
        kind = Kind.AUTH
    elif status == 421 and role:
        kind, text = Kind.ROLE, f"{text}, role {role}"
    return ConnectFailure(
        kind,
        f"{text}: {body}" if body else text,
        status=status,
        role=role,
        retry_after_millis=upgrade.retry_after_millis(upgrade.header(headers, "Retry-After")),
    )
