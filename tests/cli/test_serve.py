"""`spoolq serve` as a process, and the command around it."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from click.testing import CliRunner

from spoolq.cli.main import cli
from tests.server.raw_client import RawClient, error_of, good_headers, ok, one_row
from tests.server.test_life import get

COMMAND = (sys.executable, "-m", "spoolq.cli")


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its first line."""
    command = [*COMMAND, "serve", "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline()
        finally:
            process.kill()


def count(port: int) -> int:
    _, _, body = get(port, "/exec?query=select%20count()%20from%20t")
    found: int = json.loads(body)["dataset"][0][0]
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_line_then_rows_then_a_clean_end(number: signal.Signals) -> None:
    with serving("--json") as (process, line):
        found = json.loads(line)
        assert found == {"port": found["port"], "conf": f"ws::addr=127.0.0.1:{found['port']};", "pid": process.pid}
        with RawClient(found["port"]) as client:
            client.upgrade()
            client.message(one_row())
            assert client.answer() == ok(0, ("t", 1))
            process.send_signal(number)
            assert process.communicate() == ("", "")
        assert process.returncode == 0


@pytest.mark.parametrize("nth", range(1, 16))
def test_a_signal_at_any_step_of_the_wait_ends_it(nth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server waits in Python code, and the handler runs inside it."""
    left = [nth]
    ended = threading.Event()

    def step(*_: object) -> None:
        left[0] -= 1
        if not left[0]:
            signal.raise_signal(signal.SIGTERM)

    def again() -> None:  # when there are not so many steps
        while not ended.wait(0.01):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    monkeypatch.setattr("spoolq.cli.serve.click.echo", lambda _: sys.setprofile(step))
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    thread = threading.Thread(target=again)
    try:
        thread.start()
        assert CliRunner().invoke(cli, ["serve", "--port", "0"]).exit_code == 0
    finally:
        sys.setprofile(None)
        ended.set()
        thread.join()
        signal.signal(signal.SIGTERM, before)


def test_the_line_for_people() -> None:
    with serving() as (_, line):
        assert line.startswith("listening: ws::addr=127.0.0.1:")


def test_a_file_keeps_the_rows(tmp_path: Path) -> None:
    path = str(tmp_path / "rows.duck")
    for turn in range(2):
        with serving("--sql", path, "--json") as (process, line):
            port = json.loads(line)["port"]
            with RawClient(port) as client:
                client.upgrade()
                client.message(one_row())
                assert client.answer()[0] == 0
            assert count(port) == turn + 1
            process.terminate()
            process.communicate()
            assert process.returncode == 0


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    path = str(tmp_path / "rows.duck")
    with serving("--sql", path, "--json") as (process, line), RawClient(json.loads(line)["port"]) as client:
        client.upgrade()
        client.message(one_row())
        assert client.answer() == ok(0, ("t", 1))
        process.kill()
        process.communicate()
    with serving("--sql", path, "--json") as (_, line):
        assert count(json.loads(line)["port"]) == 1


def test_sql_in_memory_and_the_other_options(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text('[{"reject": [{"frame": 0, "status": 9, "text": "no"}]}, {}]')
    auth = tmp_path / "auth"
    auth.write_text("# who may\nann:secret\n\ntok-1\n")
    options = ("--sql", "--script", str(script), "--auth-file", str(auth), "--cap", "5000", "--lenient", "--json")
    with serving(*options, "--role", "PRIMARY", "--durable-ack", "--timestamp-name", "time_hour") as (_, line):
        port = json.loads(line)["port"]
        with RawClient(port) as client:
            headers = client.upgrade(Authorization="Bearer tok-1", X_QWP_Request_Durable_Ack="true")
            assert headers["x-questdb-role"] == "PRIMARY"
            assert headers["x-qwp-max-batch-size"] == "5000"
            assert headers["x-qwp-durable-ack"] == "enabled"
            client.message(one_row())
            assert error_of(client.answer()) == (9, 0, "no")
            client.message(one_row())
            assert client.answer() == ok(1, ("t", 1))
        with RawClient(port) as client:
            client.request(good_headers())
            assert client.response()[0] == 401


def test_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = tmp_path / "server.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with serving("--tls-cert", str(certificate), "--json") as (_, line):
        found = json.loads(line)
        assert found["conf"].startswith("wss::")
        with (
            socket.create_connection(("127.0.0.1", found["port"]), 10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            secure.sendall(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert secure.recv(100).startswith(b"HTTP/1.1 204 ")


def test_a_certificate_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "server.pem"
    path.write_text("hello")
    result = CliRunner().invoke(cli, ["serve", "--tls-cert", str(path)])
    assert result.exit_code == 2
    assert "no certificate" in result.stderr


@pytest.mark.parametrize("sql", [True, False])
def test_dedup_keeps_one_row_for_each_key_and_says_so(sql: bool) -> None:
    stored = ("--sql",) if sql else ()
    with serving("--dedup", "t=", "--dedup", "other=a,b", *stored) as (_, line):
        assert "; t: one row for each timestamp; other: one row for each timestamp, a, b;" in line
        port = int(line.partition(";")[0].rpartition(":")[2])
        with RawClient(port) as client:
            client.upgrade()
            for sequence in range(2):
                client.message(one_row())
                assert client.answer() == ok(sequence, ("t", sequence + 1))
        if sql:
            assert count(port) == 1
    with serving("--dedup", "t=a", "--json") as (_, line):
        assert json.loads(line)["dedup"] == {"t": ["a"]}


@pytest.mark.parametrize("wrong", ["t", "=a", "t=a,,b"])
def test_a_wrong_dedup_is_a_usage_error(wrong: str) -> None:
    result = CliRunner().invoke(cli, ["serve", "--dedup", wrong])
    assert result.exit_code == 2
    assert "TABLE=COLUMN" in result.stderr
    twice = CliRunner().invoke(cli, ["serve", "--dedup", "t=a", "--dedup", "t=b"])
    assert twice.exit_code == 2
    assert "'t' twice" in twice.stderr


WRONG = {
    "unknown field": ['[{"rejekt": []}]', "rejekt"],
    "wrong type": ['[{"no_ack": 1}]', "no_ack"],
    "no JSON": ["{", "JSON"],
    "wrong kind": ['[{"answers": [{"frame": 0, "kind": "odd"}]}]', "kind"],
    "a missing field": ['[{"refuse": {}}]', "status"],
    "nested too deep": ["[" * 100_000, "nested too deep"],
    "a number without end": ['{"ack_every": ' + "9" * 5_000 + "}", "not JSON"],
    "a name twice": ['{"no_ack": true, "no_ack": true}', "the script says 'no_ack' twice"],
}


@pytest.mark.parametrize(("text", "word"), WRONG.values(), ids=WRONG)
def test_a_wrong_script_is_a_usage_error(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "script.json"
    path.write_text(text)
    result = CliRunner().invoke(cli, ["serve", "--script", str(path)])
    assert result.exit_code == 2
    assert word in result.stderr
    assert str(path) in result.stderr
    assert "the script is not JSON: the script" not in result.stderr


@pytest.mark.parametrize("option", ["--script", "--auth-file"])
def test_a_file_that_is_no_text_is_a_usage_error(tmp_path: Path, option: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\xff\xfe")
    result = CliRunner().invoke(cli, ["serve", "--port", "0", option, str(path)])
    assert result.exit_code == 2
    assert f"{path} cannot be read as text" in result.stderr


def test_a_wrong_name_of_the_timestamp_is_a_usage_error() -> None:
    result = CliRunner().invoke(cli, ["serve", "--port", "0", "--timestamp-name", "a,b"])
    assert result.exit_code == 2
    assert "timestamp_name" in result.stderr


def test_a_taken_port_is_exit_1() -> None:
    with serving("--json") as (_, line):
        port = json.loads(line)["port"]
        result = CliRunner().invoke(cli, ["serve", "--port", str(port)])
        assert result.exit_code == 1
        told = f"cannot listen on 127.0.0.1:{port}: Address already in use; --port takes another one, 0 a free one"
        assert result.stderr == f"Error: {told}\n"


@pytest.mark.parametrize(("module", "extra"), [("click", "cli"), ("duckdb", "sql")])
def test_without_an_extra_it_says_what_to_install(tmp_path: Path, module: str, extra: str) -> None:
    (tmp_path / f"{module}.py").write_text("raise ImportError('not here')")
    environment: dict[str, Any] = os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    command = [*COMMAND, "serve", "--sql", "--port", "0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"pip install 'spoolq[{extra}]'" in done.stderr


def test_help_names_the_commands() -> None:
    result = CliRunner().invoke(cli, ["--help"])
    assert result.exit_code == 0
    assert "serve" in result.output
    assert CliRunner().invoke(cli, ["nothing"]).exit_code == 2
