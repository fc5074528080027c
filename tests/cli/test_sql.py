"""`spoolq sql`: against a server, against a file, and when it goes wrong."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from spoolq.cli.main import cli
from spoolq.server import Auth, QwpServer
from spoolq.server.duck import DuckStore
from tests.link.peer import Peer, request
from tests.ports import free_port
from tests.server.raw_client import RawClient, block, longs, message, one_row


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["sql", *arguments])


def write(port: int, payload: bytes) -> None:
    with RawClient(port) as client:
        client.upgrade()
        client.message(payload)
        assert client.answer()[0] == 0


@pytest.fixture
def rows(tmp_path: Path) -> str:
    """A file with three rows."""
    path = str(tmp_path / "rows.duck")
    store = DuckStore(path)
    text = b"\0" + bytes(4) + b"\6\0\0\0" + b"\6\0\0\0" + b"\6\0\0\0" + b"[b]x[/"
    payload = message(block("t", 3, ("v", 5, longs(7, 8, -(1 << 63))), ("s", 0x0F, text), ("", 0x0A, longs(1, 2, 3))))
    with QwpServer(store=store) as server:
        write(server.port, payload)
    store.close()
    return path


def test_a_file_as_a_table(rows: str) -> None:
    result = run("SELECT v, s FROM t ORDER BY timestamp", "--file", rows)
    assert result.exit_code == 0
    for expected in ("v", "7", "8", "[b]x[/", "3 rows"):
        assert expected in result.output
    assert "None" not in result.output


def test_a_file_as_json(rows: str) -> None:
    result = run("SELECT v FROM t ORDER BY timestamp", "--file", rows, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["dataset"] == [[7], [8], [None]]


def test_a_server() -> None:
    store = DuckStore()
    with QwpServer(store=store) as server:
        write(server.port, one_row(value=42))
        result = run("SELECT v FROM t", "--addr", f"localhost:{server.port}")
        assert result.exit_code == 0
        assert "42" in result.output
        refused = run("SELECT * FROM nothing", "--addr", f"127.0.0.1:{server.port}", "--json")
        assert refused.exit_code == 1
        assert "nothing" in json.loads(refused.stdout)["error"]
    store.close()


def test_a_server_without_sql() -> None:
    with QwpServer() as server:
        result = run("SELECT 1", "--addr", f"127.0.0.1:{server.port}")
    assert result.exit_code == 1
    assert "takes no SQL" in result.stderr


def test_nobody_there() -> None:
    port = free_port()
    result = run("SELECT 1", "--addr", f"127.0.0.1:{port}")
    assert result.exit_code == 1
    told = f"no answer from 127.0.0.1:{port}: Connection refused; is `spoolq serve --sql` running?"
    assert result.stderr == f"Error: {told}\n"


_ROWS = "answered with something else than rows"
_ODD = {
    "nested too deep": (b"[" * 100_000, "HTTP status 200 and no JSON"),
    "no columns": (b'{"dataset": [[1]], "count": 1}', _ROWS),
    "odd columns": (b'{"columns": [1], "dataset": [[1]], "count": 1}', _ROWS),
    "a short row": (b'{"columns": [{"name": "v", "type": "INT"}], "dataset": [[]], "count": 1}', _ROWS),
    "no count": (b'{"columns": [{"name": "v", "type": "INT"}], "dataset": [[1]]}', _ROWS),
}


@pytest.mark.parametrize("name", _ODD)
def test_what_another_server_answers_is_an_error_of_one_line(name: str) -> None:
    body, word = _ODD[name]

    def talk(sock: socket.socket) -> None:
        request(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    with Peer(talk) as peer:
        result = run("SELECT 1", "--addr", str(peer.endpoint))
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.stderr == f"Error: {peer.endpoint} {'answered with ' * (word != _ROWS)}{word}\n"


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x" * 5_000)
    result = run("SELECT 1", "--file", str(path))
    assert result.exit_code == 1
    assert "cannot be opened" in result.stderr


def test_no_value_is_cut_and_names_have_no_markup(rows: str) -> None:
    columns = ", ".join(f"'value {n} {'x' * 40}' AS \"[/c{n}]\"" for n in range(5))
    result = run(f"SELECT {columns}, chr(27) || '[31mred' AS e", "--file", rows)
    assert result.exit_code == 0
    for n in range(5):
        assert f"value {n} {'x' * 40}" in result.output
        assert f"[/c{n}]" in result.output
    assert "[31mred" in result.output
    assert "\x1b" not in result.output


def test_a_server_that_refuses_says_what_to_do() -> None:
    with QwpServer(auth=Auth(users={"ann": "secret"})) as server:
        result = run("SELECT 1", "--addr", f"127.0.0.1:{server.port}")
    assert result.exit_code == 1
    assert "401" in result.stderr
    assert "--file" in result.stderr
    with QwpServer() as server:
        result = run("SELECT '" + "x" * 9_000 + "'", "--addr", f"127.0.0.1:{server.port}")
    assert result.exit_code == 1
    assert "too long" in result.stderr


def test_what_is_no_text_and_no_host_is_an_error_and_no_traceback() -> None:
    with QwpServer() as server:
        result = run("SELECT '\udcff'", "--addr", f"127.0.0.1:{server.port}")
    assert result.exit_code == 1
    assert "takes no SQL" in result.stderr
    result = run("SELECT 1", "--addr", "a..b:9000")
    assert result.exit_code == 1
    assert "no answer from a..b:9000" in result.stderr


@pytest.mark.parametrize("address", ["host:port", "host:", "host:65536", "host:\u00b2"])
def test_what_is_no_address(address: str) -> None:
    assert run("SELECT 1", "--addr", address).exit_code == 2
