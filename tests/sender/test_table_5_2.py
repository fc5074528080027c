"""The table of behaviour.md 5.2, row by row: what ours does, what the official client does beside it, and why.

Each case is run with both clients against the strict server.  "next endpoint": the first of two endpoints has the
fault, and the row lands on the second; "terminal": no other endpoint is asked.  On a connection there is one
endpoint and two strikes are one too many: "terminal" at the first, "strikes" at the second, "tried on" without end.
``why`` says why the two differ where they do, and only there.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme
from questdb import QuestDBError

from spoolq import SpoolqError
from spoolq.errors import StorageError
from spoolq.testing import Answer, Close, Drop, QwpServer, Refuse, Reject, Script
from tests.server.official import never

from .beside import CLIENTS, OURS, TWO_STRIKES, named, opened
from .harness import Recorder, free_port, open_sender, publish


class Refused(NamedTuple):
    """A fault at the upgrade; ``error`` per client where it is terminal."""

    spec: str
    script: Script
    fate: str = "next endpoint"
    ours: str = ""
    theirs: str = ""


def refusal(spec: str, status: int, role: str | None = None) -> Refused:
    return Refused(spec, Script(refuse=Refuse(status, role=role, body="so there")))


MALFORMED = "malformed 101: transient, next endpoint"
VERSION = "QWP version out of range: transient per endpoint (D-18)"
TRANSIENT = "421 without role, 404, 426, 503, other status: transient (D-18)"
TERMINAL = "401, 403: terminal for the whole list, category SECURITY_ERROR"
CATCHING_UP = "421 with role PRIMARY_CATCHUP: role reject, transient host state; next endpoint"
ROLE = "421 with any other role: role reject, topology host state; next endpoint"
UPGRADES: dict[str, Refused] = {
    "upgrade read timeout": Refused("upgrade read timeout: transient, next endpoint", Script(silent=True)),
    "101 cut short": Refused(MALFORMED, Script(upgrade_nbytes_max=40)),
    "no HTTP": Refused(MALFORMED, Script(upgrade_raw="SSH-2.0-x\r\n\r\n", upgrade_nbytes_max=13)),
    "wrong accept": Refused(MALFORMED, Script(upgrade_headers=(("Sec-WebSocket-Accept", "x" * 28),))),
    "version 2": Refused(VERSION, Script(upgrade_headers=(("X-QWP-Version", "2"),))),
    "401": Refused(TERMINAL, Script(refuse=Refuse(401, body="so there")), "terminal", "AuthError", "AuthError"),
    "403": Refused(TERMINAL, Script(refuse=Refuse(403, body="so there")), "terminal", "AuthError", "AuthError"),
    "421 PRIMARY_CATCHUP": refusal(CATCHING_UP, 421, "PRIMARY_CATCHUP"),
    "421 REPLICA": refusal(ROLE, 421, "REPLICA"),
    "421 FOO": refusal(ROLE, 421, "FOO"),
    **{str(status): refusal(TRANSIENT, status) for status in (421, 404, 426, 503, 500, 400, 302, 200)},
}


def addresses(*servers: QwpServer[Any]) -> str:
    return f"ws::addr={','.join(f'127.0.0.1:{server.port}' for server in servers)};"


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("when", ["at the start", "after a loss"])
@pytest.mark.parametrize("row", UPGRADES.values(), ids=UPGRADES)
def test_5_2_a_fault_at_the_upgrade(row: Refused, when: str, client: str) -> None:
    """Both clients do in each row what the table says.  Only the words differ: ours has the body of a refusal."""
    keys = "auth_timeout_ms=500;" if row.script.silent else ""
    error: SpoolqError | QuestDBError | None = None
    with QwpServer(port=free_port()) as lost, QwpServer(script=row.script) as faulty, QwpServer() as second:
        try:
            conf = addresses(faulty, second) if when == "at the start" else addresses(lost, faulty, second)
            with opened(client, conf, keys) as sender:
                if when == "after a loss":
                    assert sender.acked(sender.send(1), 5_000)
                    lost.stop()
                found = sender.acked(sender.send(2), 10_000)
                assert found == (row.fate == "next endpoint")
        except (SpoolqError, QuestDBError) as raised:
            error = raised
        assert len(faulty.connections) == 1
        assert (second.store.count("t") == 1) == (row.fate == "next endpoint")
        assert len(second.connections) == (row.fate == "next endpoint")
    assert named(error) == (row.ours if client == OURS else row.theirs)
    if row.fate == "terminal":
        assert str(error).startswith("ws-upgrade-failed") == (client == OURS)
        assert ("so there" in str(error)) == (client == OURS)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("row", ["DNS", "TCP refused"])
def test_5_2_a_host_that_is_not_there_is_transient(row: str, client: str) -> None:
    """DNS, TCP failure: transient, next endpoint.  Both clients."""
    first = "nohost.invalid:9000" if row == "DNS" else f"127.0.0.1:{free_port()}"
    with QwpServer() as second, opened(client, f"ws::addr={first},127.0.0.1:{second.port};") as sender:
        assert sender.acked(sender.send(1), 10_000)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("row", ["certificate of a stranger", "no TLS at all"])
def test_5_2_a_failed_tls_handshake_is_transient(tmp_path: Path, row: str, client: str) -> None:
    """TLS failure: transient, next endpoint; certificate errors too.  Both clients."""
    ours, stranger = trustme.CA(), trustme.CA()
    roots = tmp_path / "roots.pem"
    ours.cert_pem.write_to_path(str(roots))

    def tls(authority: trustme.CA) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        return context

    faulty = QwpServer(head_nbytes_max=10) if row == "no TLS at all" else QwpServer(tls=tls(stranger))
    with faulty as first, QwpServer(tls=tls(ours)) as second:
        conf = f"wss::addr=localhost:{first.port},localhost:{second.port};tls_roots={roots};"
        with opened(client, conf) as sender:
            assert sender.acked(sender.send(1), 10_000)
        assert second.store.count("t") == 1


@pytest.mark.parametrize("client", CLIENTS)
def test_5_2_a_durable_ack_that_is_not_echoed_sends_to_the_next_endpoint(client: str) -> None:
    """Durable ack not echoed: try next.  Both clients."""
    with QwpServer() as first, QwpServer(durable_ack=True) as second:
        with opened(client, addresses(first, second), "request_durable_ack=on;") as sender:
            fsn = sender.send(1)
            second.wait_for_rows("t", 1)
            if client == OURS:  # the wait of the official client gives False at once with durable acks (observed.md 8)
                assert sender.acked(fsn, 10_000)
        assert len(first.connections) == 1


@pytest.mark.parametrize(
    ("client", "error"), list(zip(CLIENTS, ("DurableAckError", "ProtocolVersionError"), strict=True))
)
def test_5_2_a_durable_ack_that_no_endpoint_echoes_is_terminal(client: str, error: str) -> None:
    """Terminal only if every endpoint of one full round says so (D-19).  Both clients, in their own words."""
    with QwpServer() as first, QwpServer() as second:
        conf = addresses(first, second)
        with (
            pytest.raises((SpoolqError, QuestDBError)) as raised,
            opened(client, conf, "request_durable_ack=on;") as sender,
        ):
            sender.send(1)
        assert named(raised.value) == error
        assert {len(first.connections), len(second.connections)} == {1}


class Ended(NamedTuple):
    """The end of a connection, the same on each one; the fates and errors of both."""

    spec: str
    script: Script
    ours: str
    theirs: str
    ours_error: str = ""
    theirs_error: str = ""
    why: str = ""


STRIKE = "any other close code after a send: transient plus poison strike (D-20)"
ORDERLY = "orderly close 1000/1001: transient, no strike"
EOF = "reset, EOF, send or read error: transient, no strike"
FRAMING = "malformed WebSocket framing: terminal PROTOCOL_VIOLATION"
POISON = "ServerRejection protocol_violation"
DROPPED = Drop(after_frames=1, before_ack=True)


def closed(code: int | None) -> Script:
    return Script(close=Close(1, code, "because"), no_ack=True)


def odd(kind: Any) -> Script:
    return Script(answers=(Answer(0, kind),))


UNDECODABLE = (
    "an answer that cannot be read is the server's fault, not an accident of the wire: counted, so that a server that "
    "always gives it does not cost a storm of replays (ours.md 29a; observed.md 4: about 1,000 connections a second)"
)
MINUS_ONE = "a negative sequence is no acknowledgement; theirs releases all that was sent (ours.md 29a, observed.md 9)"
ENDS: dict[str, Ended] = {
    "CLOSE 1000": Ended(ORDERLY, closed(1000), "tried on", "tried on"),
    "CLOSE 1001": Ended(ORDERLY, closed(1001), "tried on", "tried on"),
    **{
        f"CLOSE {code}": Ended(STRIKE, closed(code), "strikes", "strikes", POISON, POISON)
        for code in (1002, 1003, 1007, 1008, 1009, 1010, 1011, 4000, None)
    },
    "EOF": Ended(EOF, Script(drop=DROPPED), "tried on", "tried on"),
    "reset": Ended(EOF, Script(drop=Drop(after_frames=1, before_ack=True, reset=True)), "tried on", "tried on"),
    "EOF in a frame": Ended(EOF, Script(drop=Drop(mid_frame=0)), "tried on", "tried on"),
    "half an answer": Ended(EOF, odd("half"), "tried on", "tried on"),
    **{
        kind: Ended(FRAMING, odd(kind), "terminal", "terminal", POISON, POISON)
        for kind in ("text", "masked", "rsv", "non_minimal", "close_1")
    },
    "CLOSE 1005": Ended(FRAMING, closed(1005), "terminal", "terminal", POISON, POISON),
    **{
        kind: Ended("4.3: drop the connection and retry", odd(kind), "strikes", "tried on", POISON, "", UNDECODABLE)
        for kind in ("garbage", "empty", "trailing", "long_text")
    },
    "OK of -1": Ended("4.3", Script(ack_negative=True), "strikes", "delivered", POISON, "", MINUS_ONE),
    "status 06": Ended(
        "server status frames: section 6", Script(reject=(Reject(0, 0x06),)), "strikes", "strikes", POISON, POISON
    ),
}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("row", ENDS.values(), ids=ENDS)
def test_5_2_the_end_of_a_connection(row: Ended, client: str) -> None:
    with QwpServer(script=row.script) as server, opened(client, server.conf, TWO_STRIKES) as sender:
        fate = sender.fate(sender.send(1), server)
        expected = (row.ours, row.ours_error) if client == OURS else (row.theirs, row.theirs_error)
        assert (fate, sender.error_name) == expected
        if fate == "strikes":
            assert len(server.connections) == 2


@pytest.mark.parametrize("row", ENDS.values(), ids=ENDS)
def test_where_they_differ_the_row_says_why(row: Ended) -> None:
    assert (row.ours != row.theirs) == bool(row.why)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("code", [1000, 1011, None])
def test_5_2_a_close_before_any_send_is_no_strike(code: int | None, client: str) -> None:
    """Ours always reads, sees it at once and connects again (ours.md 29b).

    Theirs does not look before its next frame: the close then stands behind a send, and is a strike.
    """
    scripts = [*[Script(close=Close(0, code))] * 4, Script()]
    with QwpServer(script=scripts) as server, opened(client, server.conf, TWO_STRIKES) as sender:
        if client == OURS:
            server.wait_for(lambda: len(server.connections) == 5)
        else:
            never(server, lambda: len(server.connections) > 1)
        fsn = sender.send(1)
        if client == OURS or code == 1000:
            assert sender.acked(fsn, 10_000)
        else:
            with pytest.raises(QuestDBError, match="closed 2 times"):
                sender.acked(fsn, 10_000)


def test_5_2_a_broken_log_is_terminal_and_no_reconnect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Storage error: terminal, never a reconnect.  Ours; the official client cannot be made to have one here."""
    handler = Recorder()
    with QwpServer() as server:
        sender = open_sender(server, handler=handler)
        broken = StorageError("read failed", errno=5)

        def fail(*_: Any) -> Any:
            raise broken

        monkeypatch.setattr(type(sender._engine.store), "run", fail)
        with suppress(StorageError):  # it may be here before the call is over
            publish(sender, 1)
        event = handler.wait_for()
        assert (event.category, event.policy) == ("storage_error", "terminal")
        with pytest.raises(StorageError, match="read failed"):
            sender.close()
        assert len(server.connections) == 1
