"""`wss`: certificates, the handshake's failures, and a connection on top of it."""

from __future__ import annotations

import os
import select
import socket
import ssl
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from spoolq.link import (
    Binary,
    Close,
    ConnectFailure,
    Connection,
    ConnectOptions,
    Endpoint,
    Inbound,
    Kind,
    Lost,
    Roots,
    TlsOptions,
    connect,
)
from tests.link.peer import Peer, Talk, accepted, request, wait_for_end
from tests.link.test_inbound import server_frame
from tests.link.test_mask import decoded

AUTHORITY = trustme.CA()
OTHER_AUTHORITY = trustme.CA()


@pytest.fixture
def roots(tmp_path: Path) -> str:
    path = tmp_path / "roots.pem"
    AUTHORITY.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture
def wake() -> Iterator[int]:
    reading, writing = os.pipe()
    yield reading
    os.close(reading)
    os.close(writing)


def secured(talk: Talk, *names: str, **times: datetime) -> Talk:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert(*(names or ("localhost", "127.0.0.1")), **times).configure_cert(context)

    def wrapped(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as secure:
            talk(secure)

    return wrapped


def serving(talk: Talk) -> Talk:
    def upgraded(sock: socket.socket) -> None:
        sock.sendall(accepted(request(sock)))
        talk(sock)

    return upgraded


def options(roots: str | None = None, verify: bool = True, **more: Any) -> ConnectOptions:
    return ConnectOptions(tls=TlsOptions(verify, Roots(roots)), **more)


def failure(peer: Peer, wake: int, chosen: ConnectOptions, host: str = "127.0.0.1") -> ConnectFailure:
    with pytest.raises(ConnectFailure) as caught:
        connect(Endpoint(host, peer.endpoint.port), chosen, wake).close()
    return caught.value


def until(connection: Connection, count: int) -> list[Inbound]:
    """So many inbound things; waits only when a select would show them."""
    found: list[Inbound] = []
    while len(found) < count:
        assert select.select([connection], [], [], 20)[0], "bytes are held back that no select shows"
        found += connection.receive()
    return found


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_server_of_the_given_roots(wake: int, roots: str, host: str) -> None:
    with Peer(secured(serving(wait_for_end))) as peer:
        connection = connect(Endpoint(host, peer.endpoint.port), options(roots), wake)
        assert connection._socket.version() in ("TLSv1.2", "TLSv1.3")  # type: ignore[attr-defined]
        connection.close()


def test_a_server_of_the_systems_store(wake: int, roots: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", roots)
    with Peer(secured(serving(wait_for_end))) as peer:
        connect(peer.endpoint, options(), wake).close()


def test_a_server_of_nobody_we_know(wake: int, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    OTHER_AUTHORITY.cert_pem.write_to_path(str(other))
    with Peer(secured(serving(wait_for_end))) as peer:
        for chosen in (options(), options(str(other))):
            error = failure(peer, wake, chosen)
            assert error.kind is Kind.TLS
            assert error.text.startswith(f"{peer.endpoint}: the certificate is not accepted: ")
            assert "give tls_roots its authority's certificate" in error.text


def test_a_certificate_of_another_host(wake: int, roots: str) -> None:
    with Peer(secured(serving(wait_for_end), "localhost")) as peer:
        error = failure(peer, wake, options(roots), "127.0.0.1")
        connect(Endpoint("localhost", peer.endpoint.port), options(roots), wake).close()
    assert error.kind is Kind.TLS
    assert error.text == (
        f"{peer.endpoint}: the certificate is not accepted: IP address mismatch, certificate is not valid for "
        "'127.0.0.1'; the address must be a name in the certificate"
    )


def test_a_name_that_is_not_in_the_certificate(wake: int, roots: str) -> None:
    with Peer(secured(serving(wait_for_end), "127.0.0.1")) as peer:
        error = failure(peer, wake, options(roots), "localhost")
    assert error.kind is Kind.TLS
    assert error.text.startswith(f"localhost:{peer.endpoint.port}: the certificate is not accepted: Hostname mismatch")
    assert error.text.endswith("; the address must be a name in the certificate")


@pytest.mark.parametrize(("days", "says"), [(-1, "certificate has expired"), (2, "certificate is not yet valid")])
def test_a_certificate_out_of_its_time(wake: int, roots: str, days: int, says: str) -> None:
    end = datetime.now(UTC) + timedelta(days=days)
    times = {"not_before": end - timedelta(days=1), "not_after": end}
    with Peer(secured(serving(wait_for_end), "127.0.0.1", **times)) as peer:
        error = failure(peer, wake, options(roots))
    assert error.kind is Kind.TLS
    assert error.text == (
        f"{peer.endpoint}: the certificate is not accepted: {says}; renew the certificate, or set the clock of this "
        "machine right"
    )


def test_a_server_that_wants_a_certificate_of_ours_says_so(wake: int, roots: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # 1.3 tells it only behind the handshake
    AUTHORITY.issue_cert("127.0.0.1").configure_cert(context)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=AUTHORITY.cert_pem.bytes().decode())

    def talk(sock: socket.socket) -> None:
        context.wrap_socket(sock, server_side=True).close()

    with Peer(talk) as peer:
        error = failure(peer, wake, options(roots))
    assert error.kind is Kind.TLS
    assert error.text.startswith(f"{peer.endpoint}: the TLS handshake failed: the server refused it: ")


def test_a_tls_port_that_is_taken_for_a_plain_one(wake: int) -> None:
    def talk(sock: socket.socket) -> None:
        request(sock)
        sock.sendall(b"\x15\x03\x01\x00\x02\x02\x46")  # the alert of a server that got no hello

    with Peer(talk) as peer:
        error = failure(peer, wake, ConnectOptions())
    assert error.kind is Kind.HANDSHAKE
    assert error.text == f"{peer.endpoint} speaks TLS: write wss:: as the scheme"


def test_unsafe_off_takes_any(wake: int, caplog: pytest.LogCaptureFixture) -> None:
    with Peer(secured(serving(wait_for_end), "db.example.org")) as peer:
        connect(peer.endpoint, options(verify=False), wake).close()
    assert caplog.text == "", "the sender says it, once, and not each of its connections"


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_roots_that_are_none(wake: int, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bad.pem"
    if content is not None:
        path.write_bytes(content)
    with Peer(wait_for_end) as peer:
        error = failure(peer, wake, options(str(path)))
    assert error.kind is Kind.TLS
    assert "bad.pem" in error.text


def answer_in_plain(sock: socket.socket) -> None:
    sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    wait_for_end(sock)


def reset(sock: socket.socket) -> None:
    sock.recv(10)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("talk", [answer_in_plain, lambda _: None, reset])
def test_a_port_that_speaks_something_else(wake: int, roots: str, talk: Talk) -> None:
    with Peer(talk) as peer:
        error = failure(peer, wake, options(roots))
    assert error.kind is Kind.TLS
    assert error.text.startswith(f"{peer.endpoint}: the TLS handshake failed: ")
    assert error.text.endswith("; is this a TLS port?")


def test_a_handshake_that_does_not_come(wake: int, roots: str) -> None:
    with Peer(wait_for_end) as peer:
        error = failure(peer, wake, options(roots, tls_millis=30))
    assert error.kind is Kind.TIMEOUT
    assert error.text.endswith("the TLS handshake timed out")


def test_a_handshake_can_be_cancelled(roots: str) -> None:
    reading, writing = os.pipe()

    def talk(sock: socket.socket) -> None:
        sock.recv(1)
        os.write(writing, b"x")
        wait_for_end(sock)

    with Peer(talk) as peer:
        assert failure(peer, reading, options(roots)).kind is Kind.CANCELLED
    os.close(reading)
    os.close(writing)


def test_a_refusal_through_tls(wake: int, roots: str) -> None:
    def talk(sock: socket.socket) -> None:
        request(sock)
        sock.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nnobod")

    with Peer(secured(talk)) as peer:
        error = failure(peer, wake, options(roots))
    assert error.kind is Kind.AUTH
    assert error.text.endswith(": nobod")


def test_much_data_both_ways(wake: int, roots: str) -> None:
    seen = bytearray()

    def talk(sock: socket.socket) -> None:
        while len(seen) < 60 * 100_014:
            seen.extend(sock.recv(1 << 16))
        sock.sendall(server_frame(2, b"a" * 3_000_000) + server_frame(2, b"b") * 5_000 + server_frame(8, b""))
        wait_for_end(sock)

    with Peer(secured(serving(talk))) as peer:
        connection = connect(peer.endpoint, options(roots), wake)
        for number in range(60):
            connection.queue_message(bytes([number]) * 100_000)
        while not connection.flush():
            assert connection.unsent_messages() <= 60
            select.select([], [connection], [], 20)
        found = until(connection, 5_002)
        connection.close()
    assert found == [Binary(b"a" * 3_000_000), *[Binary(b"b")] * 5_000, Close(None, "")]
    assert [(payload[0], len(payload)) for _, payload in decoded(bytes(seen))] == [
        (number, 100_000) for number in range(60)
    ]


def test_what_openssl_holds_is_not_forgotten(wake: int, roots: str) -> None:
    def talk(sock: socket.socket) -> None:
        for _ in range(40):  # more records than one `receive` takes by number, one short frame in each
            sock.sendall(server_frame(2, b"x"))
        wait_for_end(sock)

    with Peer(secured(serving(talk))) as peer:
        connection = connect(peer.endpoint, options(roots), wake)
        assert len(until(connection, 40)) == 40
        connection.close()


def test_the_end_of_the_stream_is_told(wake: int, roots: str) -> None:
    with Peer(secured(serving(lambda _: None))) as peer:
        connection = connect(peer.endpoint, options(roots), wake)
        assert isinstance(until(connection, 1)[0], Lost)
        connection.close()


def test_an_abort_does_not_make_it_plain(wake: int, roots: str) -> None:
    with Peer(secured(serving(wait_for_end))) as peer:
        connection = connect(peer.endpoint, options(roots), wake)
        connection.abort()
        assert connection._socket._sslobj is not None  # type: ignore[attr-defined]
        connection.queue_message(b"secret")
        with pytest.raises(OSError):
            connection.flush()
        connection.close()
