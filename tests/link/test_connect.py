"""From an address to a connection, and every way it can fail (wire.md 1, behaviour.md 5.2)."""

from __future__ import annotations

import html
import json
import os
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from spoolq.link import Binary, ConnectFailure, Connection, ConnectOptions, Endpoint, Kind, connect
from spoolq.link.credentials import authorization
from spoolq.server import QwpServer
from tests.link.peer import Peer, Talk, accepted, request, wait_for_end
from tests.ports import free_port

module = sys.modules[connect.__module__]


@pytest.fixture
def wake() -> Iterator[int]:
    """A descriptor that nobody makes readable."""
    reading, writing = os.pipe()
    yield reading
    os.close(reading)
    os.close(writing)


def failure(endpoint: Endpoint, wake: int, limit_millis: int | None = None, **options: Any) -> ConnectFailure:
    with pytest.raises(ConnectFailure) as caught:
        connect(endpoint, ConnectOptions(**options), wake, limit_millis).close()
    return caught.value


def answering(answer: bytes) -> Talk:
    def talk(sock: socket.socket) -> None:
        request(sock)
        sock.sendall(answer)

    return talk


def accepting(sock: socket.socket) -> None:
    sock.sendall(accepted(request(sock)))
    wait_for_end(sock)


def test_the_request_says_what_the_protocol_wants(wake: int) -> None:
    seen: list[bytes] = []

    def talk(sock: socket.socket) -> None:
        seen.append(request(sock))
        sock.sendall(accepted(seen[0], "X-QWP-Version: 1", "X-QWP-Max-Batch-Size: 4711", "X-QuestDB-Role: PRIMARY"))
        wait_for_end(sock)

    with Peer(talk) as peer:
        connection = connect(peer.endpoint, ConnectOptions(authorization=authorization("u", "pä", None)), wake)
        assert connection.upgrade.cap_nbytes == 4711
        assert connection.upgrade.role == "PRIMARY"
        connection.close()
    lines = seen[0].decode().split("\r\n")
    assert lines[0] == "GET /api/v4/write HTTP/1.1"
    assert f"Host: 127.0.0.1:{peer.endpoint.port}" in lines
    assert "Authorization: Basic dTpww6Q=" in lines
    assert not any(line.startswith(("Origin", "Sec-WebSocket-Extensions")) for line in lines)


def test_bearer_basic_or_nothing() -> None:
    assert authorization(None, None, "abc") == "Bearer abc"
    assert authorization("u", "p", None) == "Basic dTpw"
    assert authorization(None, None, None) is None
    assert "Basic" not in repr(ConnectOptions(authorization="Basic dTpw"))


def test_the_strict_server_takes_it(wake: int) -> None:
    with QwpServer() as server:
        connect(Endpoint("127.0.0.1", server.port), ConnectOptions(), wake).close()


def test_the_socket_does_not_delay_and_is_watched(wake: int) -> None:
    with Peer(accepting) as peer:
        connection = connect(peer.endpoint, ConnectOptions(), wake)
        sock = connection._socket
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 20
        assert not sock.getblocking()
        connection.close()


def test_an_answer_may_come_a_byte_at_a_time_and_with_more_behind_it(wake: int) -> None:
    def talk(sock: socket.socket) -> None:
        head = accepted(request(sock))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for index in range(len(head) - 1):
            sock.sendall(head[index : index + 1])
        sock.sendall(head[-1:] + b"\x82\x01x")
        wait_for_end(sock)

    with Peer(talk) as peer:
        connection = connect(peer.endpoint, ConnectOptions(), wake)
        assert received(connection, 1) == [Binary(b"x")]
        connection.close()


def received(connection: Connection, count: int) -> list[Any]:
    found: list[Any] = []
    while len(found) < count:
        if not connection.unread:
            select.select([connection], [], [], 20)
        found += connection.receive()
    return found


def test_an_ipv6_literal(wake: int) -> None:
    seen: list[bytes] = []

    def talk(sock: socket.socket) -> None:
        seen.append(request(sock))
        sock.sendall(accepted(seen[0]))
        wait_for_end(sock)

    with Peer(talk, "::1", socket.AF_INET6) as peer:
        connect(peer.endpoint, ConnectOptions(), wake).close()
        assert str(peer.endpoint) == f"[::1]:{peer.endpoint.port}"
    assert f"Host: [::1]:{peer.endpoint.port}\r\n".encode() in seen[0]


REFUSALS = {
    401: (Kind.AUTH, "", ""),
    403: (Kind.AUTH, "", ""),
    400: (Kind.STATUS, "", ""),
    404: (Kind.STATUS, "", ""),
    426: (Kind.STATUS, "", ""),
    503: (Kind.STATUS, "", ""),
    200: (Kind.STATUS, "", ""),
    302: (Kind.STATUS, "", ""),
    421: (Kind.ROLE, "X-QuestDB-Role: REPLICA\r\n", "REPLICA"),
}


@pytest.mark.parametrize("status", REFUSALS)
def test_a_refusal_says_its_status_and_body(wake: int, status: int) -> None:
    kind, headers, role = REFUSALS[status]
    answer = (
        f"HTTP/1.1 {status} Whatever\r\n{headers}Retry-After: 7\r\nContent-Length: 9\r\n\r\nno\x1b[1m\nxyz".encode()
    )
    with Peer(answering(answer)) as peer:
        error = failure(peer.endpoint, wake)
    assert (error.kind, error.status, error.role, error.retry_after_millis) == (kind, status, role, 7_000)
    assert error.text.startswith(f"{peer.endpoint} refused the upgrade with HTTP status {status}")
    assert error.text.endswith(": no [1m xyz"[: 2 + 9])


def test_a_421_without_a_role_is_no_role_refusal(wake: int) -> None:
    with Peer(answering(b"HTTP/1.1 421 Misdirected\r\n\r\n")) as peer:
        assert failure(peer.endpoint, wake).kind is Kind.STATUS


def test_29a_of_a_long_body_1024_bytes_are_quoted(wake: int) -> None:
    with Peer(answering(b"HTTP/1.1 500 Oh\r\n\r\n" + b"a" * 100_000)) as peer:
        text = failure(peer.endpoint, wake).text
    assert text.count("a" * 1_024) == 1
    assert "a" * 1_025 not in text


@pytest.mark.parametrize("way", [("u", "pä", None), (None, None, "hunter2secret")])
@pytest.mark.parametrize("before", [0, 1_000, 1_010, 1_020])
def test_a_refusal_that_quotes_the_request_shows_no_secret(
    wake: int, way: tuple[str | None, str | None, str | None], before: int
) -> None:
    """Neither whole nor cut off by the end of what is quoted."""
    header = authorization(*way)
    assert header is not None
    body = f"{'x' * before}{header} is not known".encode()
    with Peer(answering(b"HTTP/1.1 401 No\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))) as peer:
        text = failure(peer.endpoint, wake, authorization=header).text
    assert "xxx" in text or "is not known" in text
    assert header.partition(" ")[2][:3] not in text


_CREDENTIALS = [
    (("bob", "hunter2&secret é", None), "hunter2&secret é"),
    ((None, None, "hunter2/secret+token=="), "hunter2/secret+token=="),
]


@pytest.mark.parametrize(("way", "secret"), _CREDENTIALS, ids=["basic", "bearer"])
@pytest.mark.parametrize(
    "write", [str, quote, quote_plus, json.dumps, html.escape, lambda text: quote(text, safe="").lower()]
)
@pytest.mark.parametrize("cut", [None, 4])
def test_a_refusal_shows_the_secret_in_no_way_to_write_it(
    wake: int, way: tuple[str | None, str | None, str | None], secret: str, write: Callable[[str], str], cut: int | None
) -> None:
    """The password decoded, too, beside the user's name, in a URL, in JSON, in HTML, cut off at the end."""
    written = write(secret).strip('"')
    body = f"no entry for bob:{written[:-cut] if cut else f'{written}, {secret}; sorry'}".encode()
    with Peer(answering(b"HTTP/1.1 401 No\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))) as peer:
        text = failure(peer.endpoint, wake, authorization=authorization(*way)).text
    assert text.endswith("no entry for bob:[secret]" if cut else "no entry for bob:[secret], [secret]; sorry")


def test_a_header_that_quotes_the_request_shows_no_secret(wake: int) -> None:
    """Nor is a role or a version taken for another one, because it has a secret in it."""
    header = "Bearer hunter2secret"
    refusals = {
        b"HTTP/1.1 421 No\r\nX-QuestDB-Role: %b\r\nContent-Length: 0\r\n\r\n": "status 421, role for [secret]",
        b"HTTP/1.1 302 No\r\nLocation: /%b\r\nContent-Length: 0\r\n\r\n": "refused the upgrade with HTTP status 302",
    }
    for answer, text in refusals.items():
        with Peer(answering(answer % b"for hunter2secret")) as peer:
            assert failure(peer.endpoint, wake, authorization=header).text.endswith(text)
    with Peer(lambda sock: sock.sendall(accepted(request(sock), "X-QWP-Version: for hunter2secret"))) as peer:
        error = failure(peer.endpoint, wake, authorization=header)
    assert "speaks QWP version 'for [secret]'" in error.text
    with Peer(answering(b"HTTP/1.1 421 No\r\nX-QuestDB-Role: PRIMARY_CATCHUP\r\nContent-Length: 0\r\n\r\n")) as peer:
        assert failure(peer.endpoint, wake, authorization="Bearer PRIMARY").role == "PRIMARY_CATCHUP"


@pytest.mark.timeout(20)
@pytest.mark.parametrize("length", [0, 3])
def test_a_body_that_is_whole_is_not_waited_for(wake: int, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BODY_MILLIS", 3_600_000)

    def talk(sock: socket.socket) -> None:
        request(sock)
        sock.sendall(f"HTTP/1.1 503 Busy\r\nContent-Length: {length}\r\n\r\n".encode() + b"abc"[:length])
        wait_for_end(sock)

    with Peer(talk) as peer:
        assert failure(peer.endpoint, wake).status == 503


def test_a_body_that_does_not_come_is_given_up(wake: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BODY_MILLIS", 20)

    def talk(sock: socket.socket) -> None:
        request(sock)
        sock.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 1000\r\n\r\nabc")
        wait_for_end(sock)

    with Peer(talk) as peer:
        assert failure(peer.endpoint, wake).text.endswith("503: abc")


MALFORMED = {
    "nothing": (b"", "closed during the upgrade"),
    "garbage": (b"\x16\x03\x01 nonsense\r\n\r\n", "did not answer in HTTP/1.1"),
    "no status": (b"HTTP/1.1\r\n\r\n", "did not answer in HTTP/1.1"),
    "status of two digits": (b"HTTP/1.1 99 x\r\n\r\n", "did not answer in HTTP/1.1"),
    "status in words": (b"HTTP/1.1 abc x\r\n\r\n", "did not answer in HTTP/1.1"),
    "no headers": (b"HTTP/1.1 101 x\r\n\r\n", "does not upgrade"),
    "wrong accept": (
        b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n",
        "wrong Sec-WebSocket-Accept",
    ),
    "endless head": (b"HTTP/1.1 101 x\r\n" + b"A: b\r\n" * 10_000, "has no end"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_answer_is_no_connection(wake: int, name: str) -> None:
    answer, text = MALFORMED[name]
    with Peer(answering(answer)) as peer:
        error = failure(peer.endpoint, wake)
    assert error.kind is Kind.HANDSHAKE
    assert error.text.startswith(str(peer.endpoint))
    assert text in error.text


BAD_HEADERS = ["  folded: x", "\tfolded: x", "Blank : x", ": x", "no colon", "A: " + "b" * 8_192]


@pytest.mark.parametrize("header", BAD_HEADERS, ids=range(len(BAD_HEADERS)))
def test_a_bad_header_spoils_a_good_answer(wake: int, header: str) -> None:
    with Peer(lambda sock: sock.sendall(accepted(request(sock), header))) as peer:
        assert failure(peer.endpoint, wake).kind is Kind.HANDSHAKE


def test_an_older_http_spoils_a_good_answer(wake: int) -> None:
    with Peer(lambda sock: sock.sendall(accepted(request(sock)).replace(b"HTTP/1.1", b"HTTP/1.0"))) as peer:
        assert failure(peer.endpoint, wake).kind is Kind.HANDSHAKE


def test_a_version_that_we_do_not_speak(wake: int) -> None:
    with Peer(lambda sock: sock.sendall(accepted(request(sock), "X-QWP-Version: 2"))) as peer:
        error = failure(peer.endpoint, wake)
    assert error.kind is Kind.HANDSHAKE
    assert "version" in error.text


@pytest.mark.parametrize("reset", [False, True])
def test_an_end_at_each_byte_of_the_answer_is_no_connection(wake: int, reset: bool) -> None:
    cut = 0

    def talk(sock: socket.socket) -> None:
        head = accepted(request(sock))
        sock.sendall(head[: min(cut, len(head) - 1)])
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with Peer(talk) as peer:
        for cut in range(0, 130, 1 if reset else 3):  # noqa: B007
            assert failure(peer.endpoint, wake).kind is Kind.HANDSHAKE


def test_a_port_where_nobody_listens(wake: int) -> None:
    endpoint = Endpoint("127.0.0.1", free_port())
    error = failure(endpoint, wake)
    assert error.kind is Kind.TCP
    assert error.text == f"{endpoint} cannot be reached: Connection refused"


def test_a_name_that_cannot_be_resolved(wake: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    error = failure(Endpoint("db.invalid", 9000), wake)
    assert (error.kind, error.text) == (Kind.DNS, "db.invalid:9000 cannot be resolved: Name or service not known")


def test_a_name_that_is_none(wake: int) -> None:
    assert failure(Endpoint("a" * 64 + ".x", 9000), wake).kind is Kind.DNS


@pytest.mark.parametrize("first", ["refused", "unsupported"])
def test_each_address_of_a_host_is_tried(wake: int, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Peer(accepting) as peer:
        dead = ("127.0.0.1", free_port())
        family = socket.AF_INET if first == "refused" else 999
        found = [
            (family, socket.SOCK_STREAM, 6, "", dead),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", peer.endpoint.port)),
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        connect(Endpoint("two.addresses", 9000), ConnectOptions(), wake).close()
        del found[1]
        found *= 2
        error = failure(Endpoint("two.addresses", 9000), wake)
        assert error.kind is Kind.TCP
        assert error.text.count("127.0.0.1 ") == 2


def silent(sock: socket.socket) -> None:
    wait_for_end(sock)


@pytest.mark.parametrize(("limit", "options"), [(None, {"upgrade_millis": 30}), (30, {})])
def test_an_answer_that_does_not_come(wake: int, limit: int | None, options: dict[str, int]) -> None:
    with Peer(silent) as peer:
        error = failure(peer.endpoint, wake, limit, **options)
    assert error.kind is Kind.TIMEOUT
    assert error.text == f"{peer.endpoint}: the WebSocket upgrade response timed out"


def test_a_tcp_connect_that_does_not_come(wake: int) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        held = [socket.socket() for _ in range(4)]  # the queue of the listener is full
        for sock in held:
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        error = failure(Endpoint("127.0.0.1", listener.getsockname()[1]), wake, connect_millis=30)
        for sock in held:
            sock.close()
    assert error.kind is Kind.TCP
    assert error.text.endswith("timed out")


def test_snd_08_a_connect_can_be_cancelled_while_it_waits() -> None:
    reading, writing = os.pipe()

    def talk(sock: socket.socket) -> None:
        request(sock)
        os.write(writing, b"x")
        wait_for_end(sock)

    with Peer(talk) as peer:
        error = failure(peer.endpoint, reading)
        assert error.kind is Kind.CANCELLED
        assert failure(peer.endpoint, reading).kind is Kind.CANCELLED  # and before it begins
    os.close(reading)
    os.close(writing)


def test_heavy_modules_wait_for_their_first_use() -> None:
    code = "import sys, spoolq.link; print([name for name in ('ssl', 'websockets', 'http') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- durable acks (wire.md 1) --------------------------------------------------------------------------------


def test_fov_05_durable_acks_are_asked_for_and_their_absence_is_a_failure_of_its_own(wake: int) -> None:
    seen: list[bytes] = []

    def talk(sock: socket.socket) -> None:
        seen.append(request(sock))
        grants = ["X-QWP-Durable-Ack: Enabled"] if len(seen) == 1 else ["X-QWP-Durable-Ack: disabled"][: len(seen) - 2]
        sock.sendall(accepted(seen[-1], *grants))
        wait_for_end(sock)

    with Peer(talk) as peer:
        connect(peer.endpoint, ConnectOptions(durable_ack=True), wake).close()
        for _ in range(2):
            failed = failure(peer.endpoint, wake, durable_ack=True)
            assert failed.kind is Kind.DURABLE
            assert failed.text == f"{peer.endpoint} does not grant durable acks"
        connect(peer.endpoint, ConnectOptions(), wake).close()
    assert [b"X-QWP-Request-Durable-Ack: true\r\n" in head for head in seen] == [True, True, True, False]
