"""Start, stop, restart, several threads, waiting, live controls, and the HTTP side without SQL."""

from __future__ import annotations

import errno
import http.client
import json
import socket
import threading
from typing import Any

import pytest

from spoolq.errors import ConfigError
from spoolq.server import MemoryStore, QwpServer, Script
from spoolq.server.connection import Connection
from spoolq.server.processor import Processor
from spoolq.server.record import Budget, ConnectionRecord
from tests.ports import free_port

from .raw_client import CLOSE, RawClient, frame, good_headers, ok, one_row


def get(port: int, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def test_start_stop_and_again_on_the_same_port() -> None:
    server = QwpServer(port=free_port())
    ports = set()
    for _ in range(3):
        with server:
            ports.add(server.port)
            with RawClient(server.port) as client:
                client.upgrade()
                client.message(one_row())
                assert client.answer()[0] == 0
    assert len(ports) == 1
    assert server.store.count("t") == 3


def test_a_second_server_on_the_port_of_a_stopped_one_with_its_rows() -> None:
    store = MemoryStore()
    with QwpServer(port=free_port(), store=store) as first, RawClient(first.port) as client:
        client.upgrade()
        client.message(one_row())
        assert client.answer() == ok(0, ("t", 1))
    with QwpServer(port=first.port, store=store) as second, RawClient(second.port) as client:
        client.upgrade()
        client.message(one_row())
        assert client.answer() == ok(0, ("t", 2))
    assert store.count("t") == 2


def test_who_hears_of_the_end_and_comes_back_at_once_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would else be taken by the kernel and reset when the listener goes: another error than of a server that is
    down, and only now and then."""
    lost, found = Connection.lost, []

    def come_back(connection: Connection, by: str) -> None:
        with socket.socket() as again:
            found.append(again.connect_ex(("127.0.0.1", server.port)))
        lost(connection, by)

    with QwpServer(port=free_port()) as server, RawClient(server.port) as client:
        client.upgrade()
        monkeypatch.setattr(Connection, "lost", come_back)
        server.stop()
        client.expect_end()
    assert found == [errno.ECONNREFUSED]


def test_a_server_that_pauses_its_listener_stops_too(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = threading.Event()

    def none_free(listener: socket.socket) -> Any:
        refused.set()
        raise OSError(errno.EMFILE, "too many open files")

    with QwpServer() as server, RawClient(server.port) as client:
        client.upgrade()
        monkeypatch.setattr(socket.socket, "accept", none_free)
        with RawClient(server.port):
            assert refused.wait(10)
            server.wait_for(lambda: server._loop is not None and server._loop._paused_until_millis is not None)
            server.stop()
        client.expect_end()
        assert server.connections[0].closed_by == "server_stop"


def test_a_taken_port_is_an_os_error_and_leaves_nothing() -> None:
    with QwpServer() as server, pytest.raises(OSError, match="in use"):
        QwpServer(port=server.port).start()


def test_starting_twice_is_an_error_and_stopping_twice_is_none() -> None:
    server = QwpServer()
    with server, pytest.raises(RuntimeError):
        server.start()
    server.stop()


@pytest.mark.parametrize(
    "options",
    [
        {"role": "BOSS"},
        {"timestamp_name": "a,b"},
        {"timestamp_name": ""},
        {"receive_buffer_nbytes": 26},
        {"tables_max": -1},
        {"columns_max": "3"},
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        QwpServer(**options)


def test_conf_names_host_and_port() -> None:
    with QwpServer() as server:
        assert server.conf == f"ws::addr=127.0.0.1:{server.port};"
    with QwpServer("::1") as server:
        assert server.conf == f"ws::addr=[::1]:{server.port};"


def test_controls_of_a_server_that_does_not_run() -> None:
    server = QwpServer()
    server.hold_acks()
    assert (server.drop_connections(), server.close_connections(), server.ping_connections()) == (0, 0, 0)
    server.release_acks()
    server.refuse_new(503)
    with server, RawClient(server.port) as client:
        client.request()
        assert client.response()[0] == 503


def test_many_threads_read_while_rows_come() -> None:
    with QwpServer() as server:
        found: list[int] = []

        def read() -> None:
            server.wait_for_rows("t", 20)
            found.append(len(server.store.rows("t")))

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        with RawClient(server.port) as client:
            client.upgrade()
            for _ in range(20):
                client.message(one_row())
            for thread in threads:
                thread.join()
        assert found == [20] * 4


def test_waiting_in_vain_says_what_was_seen() -> None:
    with QwpServer() as server, RawClient(server.port) as client:
        client.upgrade()
        server.wait_for(lambda: server.connections)
        with pytest.raises(TimeoutError, match=r"message_count=0"):
            server.wait_for_messages(1, timeout_seconds=0.01)


def test_what_a_connection_sent_is_kept_byte_for_byte() -> None:
    with QwpServer() as server, RawClient(server.port) as client:
        client.upgrade(X_QWP_Client_Id="me/1")
        sent = [one_row(value=n) for n in range(3)]
        for payload in sent:
            client.message(payload)
        server.wait_for_messages(3)
        (record,) = server.connections
        assert record.messages == sent
        assert record.header("x-qwp-client-id") == "me/1"
        assert record.target == "/write/v4"
        assert record.is_upgraded


def test_the_record_is_bounded_and_still_counts() -> None:
    size = len(one_row())
    with QwpServer(record_nbytes_max=2 * size) as server, RawClient(server.port) as client:
        client.upgrade()
        for n in range(5):
            client.message(one_row(value=n))
        server.wait_for_messages(5)
        kept = server.connections[0].messages + server.connections[0].responses
        assert sum(map(len, kept)) <= 2 * size
        assert server.connections[0].message_count == 5


def test_the_record_has_no_holes() -> None:
    first, large, third = one_row(), one_row("a" * 100), one_row(value=3)
    with QwpServer(record_nbytes_max=len(first + third) + 30) as server, RawClient(server.port) as client:
        client.upgrade()
        for payload in (first, large, third):
            client.message(payload)
        server.wait_for_messages(3)
        assert server.connections[0].messages == [first]


def test_a_connection_older_than_the_record_still_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spoolq.server.server._CONNECTIONS_RECORDED_MAX", 2)
    with QwpServer() as server, RawClient(server.port) as client:
        client.upgrade()
        for n in range(3):
            with RawClient(server.port) as other:
                other.upgrade()
                other.message(one_row())
                assert other.answer() == ok(0, ("t", n + 1))
        server.wait_for(lambda: server.connections[-1].closed_by)
        client.message(one_row())
        assert client.answer() == ok(0, ("t", 4))
        found = server.stats()
        assert (found["connections"], found["connections_open"], found["rows"], found["messages"]) == (4, 1, 4, 4)
        assert len(server.connections) == 2
    assert server.stats()["connections_open"] == 0


def test_a_client_that_has_said_everything_and_reads_late_is_let_go() -> None:
    """Its FIN comes while answers wait for it; when it has them, the connection ends: else it were held for ever."""
    pings = 200 * frame(9, b"x" * 125)
    with QwpServer() as server, RawClient(server.port) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
        client.upgrade()
        (channel,) = server._loop.channels.values()  # type: ignore[union-attr]
        channel.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 12)  # does not grow any more
        count = 0
        while len(channel.outgoing) < 1 << 17:
            client.send(pings)
            count += 200
            server.wait_for(lambda: server.connections[0].pings == count)  # noqa: B023
        client.socket.shutdown(socket.SHUT_WR)
        server.wait_for(lambda: channel.is_read_closed)
        assert len(client.read_to_end()) == 127 * count
        server.wait_for(lambda: server.connections[0].closed_by == "client_eof")
        assert server.stats()["connections_open"] == 0


def test_held_acks_come_when_they_are_released() -> None:
    with QwpServer() as server, RawClient(server.port) as client:
        client.upgrade()
        server.hold_acks()
        client.message(one_row())
        server.wait_for_rows("t", 1)
        assert client.ping() == []
        client.message(one_row())
        server.wait_for_rows("t", 2)
        server.release_acks()
        assert client.answer() == ok(0, ("t", 1))
        assert client.answer() == ok(1, ("t", 2))
        client.message(one_row())
        assert client.answer() == ok(2, ("t", 3))


@pytest.mark.parametrize("reset", [False, True])
def test_dropping_all_connections(reset: bool) -> None:
    with QwpServer() as server, RawClient(server.port) as one, RawClient(server.port) as two:
        one.upgrade()
        two.upgrade()
        assert server.drop_connections(reset=reset) == 2
        for client in (one, two):
            if reset:
                with pytest.raises(ConnectionResetError):
                    client.socket.recv(1)
            else:
                assert client.socket.recv(1) == b""
        assert [record.closed_by for record in server.connections] == ["server_drop"] * 2


def test_refusing_new_connections_and_taking_them_again() -> None:
    with QwpServer() as server, RawClient(server.port) as old:
        old.upgrade()
        server.refuse_new(421, role="REPLICA", retry_after_seconds=7, body="later")
        with RawClient(server.port) as client:
            client.request(good_headers())
            status, headers = client.response()
            assert (status, headers["x-questdb-role"], headers["retry-after"]) == (421, "REPLICA", "7")
            assert client.read_to_end() == b"later"
        server.accept_new()
        with RawClient(server.port) as client:
            client.upgrade()
        assert old.ping() == []


def test_scripts_go_by_connection_and_the_last_one_repeats() -> None:
    with QwpServer(script=[Script(cap_nbytes=500), Script(cap_nbytes=600)]) as server:
        caps = []
        for _ in range(3):
            with RawClient(server.port) as client:
                caps.append(client.upgrade()["x-qwp-max-batch-size"])
        server.set_script(Script())
        with RawClient(server.port) as client:
            caps.append(client.upgrade()["x-qwp-max-batch-size"])
    assert caps == ["500", "600", "600", "2097138"]


def test_ping_stats_metrics_and_unknown_paths() -> None:
    with QwpServer() as server:
        with RawClient(server.port) as client:
            client.upgrade()
            client.message(one_row())
            assert client.answer() == ok(0, ("t", 1))
            client.send(frame(CLOSE))
            client.frame()
        assert get(server.port, "/ping")[0] == 204
        assert get(server.port, "/ping", "HEAD")[0] == 204
        status, _, body = get(server.port, "/stats")
        assert status == 200
        found = json.loads(body)
        assert (found["messages"], found["rows"], found["connections_open"]) == (1, 1, 1)  # the one that asks is open
        status, headers, body = get(server.port, "/metrics")
        assert headers["Content-Type"].startswith("text/plain")
        assert b"\nspoolq_server_messages_total 1\n" in body
        assert get(server.port, "/other")[0] == 404
        assert get(server.port, "/ping", "DELETE")[0] == 405


def test_sql_without_a_sql_store_says_so() -> None:
    with QwpServer() as server:
        status, _, body = get(server.port, "/exec?query=select%201")
    assert status == 400
    assert json.loads(body) == {
        "query": "select 1",
        "error": "this server keeps rows in memory and takes no SQL; `spoolq serve --sql` and a DuckStore do",
        "position": 0,
    }


def test_closing_all_connections_as_a_node_that_is_demoted() -> None:
    with QwpServer() as server, RawClient(server.port) as one, RawClient(server.port) as half:
        one.upgrade()
        half.send(b"GET /wri")
        server.wait_for(lambda: server.connections[1].received_nbytes)
        server.refuse_new(421, role="REPLICA")
        assert server.close_connections(1000, "demoted") == 2
        assert one.frame() == (CLOSE, b"\x03\xe8demoted")
        one.expect_end()
        half.expect_end()
        assert (server.connections[0].closed_by, server.connections[0].close_code) == ("server_close", 1000)


def test_pinging_all_connections() -> None:
    with QwpServer() as server, RawClient(server.port) as client, RawClient(server.port) as other:
        client.upgrade()
        assert server.ping_connections(b"are you there") == 2
        assert client.frame() == (9, b"are you there")
        client.send(frame(10, b"are you there"))
        server.wait_for(lambda: server.connections[0].pongs == 1)
        other.upgrade()


def test_a_mistake_of_ours_ends_one_connection_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with QwpServer() as server, RawClient(server.port) as first, RawClient(server.port) as second:
        first.upgrade()
        second.upgrade()
        monkeypatch.setattr(Processor, "flush", lambda *_: 1 / 0)
        first.message(one_row())
        first.expect_end()
        monkeypatch.undo()
        second.message(one_row())
        assert second.answer()[0] == 0
        assert server.connections[0].closed_by == "server_error"
    assert "connection 0 failed" in caplog.text


def test_who_waits_for_a_message_finds_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The count rises when the message has been processed, not before."""
    counts = []
    append = MemoryStore.append

    def watched(store: MemoryStore, *arguments: Any) -> int:
        counts.append(server.message_count)
        return append(store, *arguments)

    monkeypatch.setattr(MemoryStore, "append", watched)
    with QwpServer() as server, RawClient(server.port) as client:
        client.upgrade()
        for _ in range(3):
            client.message(one_row())
            client.answer()
        assert counts == [0, 1, 2]
        assert server.message_count == 3


def test_who_finds_a_message_counted_finds_it() -> None:
    class Watched(list[bytes]):
        def append(self, payload: bytes) -> None:
            counts.append(record.message_count)
            super().append(payload)

    counts: list[int] = []
    record = ConnectionRecord(0, Budget(1_000), messages=Watched())
    for number in range(3):
        record.keep(bytes((number,)))
    assert (record.messages, record.message_count) == ([b"\0", b"\1", b"\2"], 3)
    assert counts == [0, 1, 2]


def test_who_finds_out_who_ended_it_finds_why() -> None:
    class Watched(ConnectionRecord):
        def __setattr__(self, name: str, value: Any) -> None:
            told.append(name)
            super().__setattr__(name, value)

    told: list[str] = []
    record = Watched(0, Budget(0))
    told.clear()
    record.closed("client_close", 1000, "bye")
    record.closed("client_eof")
    assert (record.closed_by, record.close_code, record.close_reason) == ("client_close", 1000, "bye")
    assert told[-1] == "closed_by"
    assert len(told) == 3
