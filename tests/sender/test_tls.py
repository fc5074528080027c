"""A sender over TLS: roots from a file, a certificate that is not trusted, and `unsafe_off`."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from spoolq import ConnectError, Sender, TimestampNanos
from spoolq.server import QwpServer


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server(authority: trustme.CA) -> Iterator[QwpServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with QwpServer(tls=context) as server:
        yield server


def send(conf: str) -> None:
    with Sender.from_conf(conf) as sender:
        for number in range(3_000):
            sender.row("t", symbols={"s": f"v{number % 9}"}, columns={"x": number}, at=TimestampNanos(number))


def test_rows_arrive_over_tls_with_roots_from_a_file(server: QwpServer, authority: trustme.CA, tmp_path: Path) -> None:
    roots = tmp_path / "roots.pem"
    authority.cert_pem.write_to_path(str(roots))
    send(f"wss::addr=127.0.0.1:{server.port};tls_roots={roots};")
    assert server.store.count("t") == 3_000


def test_a_certificate_of_a_stranger_is_refused_and_nothing_is_sent(server: QwpServer) -> None:
    with pytest.raises(ConnectError, match=r"127\.0\.0\.1:\d+.*certificate"):
        send(f"wss::addr=127.0.0.1:{server.port};")
    assert server.store.tables() == []


def test_unsafe_off_takes_any_certificate_and_warns(server: QwpServer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "spoolq"):
        send(f"wss::addr=127.0.0.1:{server.port};tls_verify=unsafe_off;")
    assert server.store.count("t") == 3_000
    assert any("unsafe_off" in record.getMessage() for record in caplog.records)
