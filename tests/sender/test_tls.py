"""A sender over TLS: roots from a file, a certificate that is not trusted, and `unsafe_off`."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from spoolq import ConfigError, ConnectError, Sender, TimestampNanos
from spoolq.server import QwpServer

from .harness import Recorder, numbers, open_sender, publish


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


def test_unsafe_off_takes_any_certificate_and_warns_once_a_sender(
    server: QwpServer, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING, "spoolq"),
        open_sender(f"wss::addr=127.0.0.1:{server.port};tls_verify=unsafe_off;") as sender,
    ):
        for number in range(3):
            publish(sender, number)
            sender.wait()
            server.drop_connections()
        publish(sender, 3)
    assert sender.stats().total_reconnects_succeeded == 3
    assert numbers(server) == [0, 1, 2, 3]
    said = [record.getMessage() for record in caplog.records if "unsafe_off" in record.getMessage()]
    assert said == ["tls_verify=unsafe_off: the server's certificate is not checked; anyone between can read along"]


@pytest.mark.parametrize("mode", ["off", "sync", "async"])
def test_roots_that_cannot_be_had_are_a_config_error_before_the_slot_is_touched(tmp_path: Path, mode: str) -> None:
    roots = tmp_path / "cacerts"
    roots.write_bytes(b"\xfe\xed\xfe\xed" + bytes(100))
    slots = tmp_path / "slots"
    with pytest.raises(ConfigError, match="JKS store") as caught:
        Sender("wss", "127.0.0.1", 1, tls_roots=roots, sf_dir=slots, initial_connect_retry=mode)
    assert caught.value.key == "tls_roots"
    assert not slots.exists()


def test_roots_that_vanish_later_are_a_failed_attempt_and_not_the_end(
    server: QwpServer, authority: trustme.CA, tmp_path: Path
) -> None:
    roots = tmp_path / "roots.pem"
    authority.cert_pem.write_to_path(str(roots))
    listener = Recorder()
    conf = f"wss::addr=127.0.0.1:{server.port};tls_roots={roots};"
    with open_sender(conf, listener=listener) as sender:
        publish(sender, 0)
        sender.wait()
        roots.unlink()
        server.drop_connections()
        failed = listener.wait_for(lambda event: event.kind == "endpoint_attempt_failed")
        assert "roots.pem' cannot be read" in failed.cause
        authority.cert_pem.write_to_path(str(roots))
        publish(sender, 1)
        sender.wait()
    assert numbers(server) == [0, 1]
