"""`spoolq demo` whole: its own server process, a real socket, SQL; and how it ends when something is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from click.testing import CliRunner

from spoolq.cli import _demo_server
from spoolq.cli.demo import demo

ROWS = 10_000  # the first rain is in there
COMMAND = (sys.executable, "-m", "spoolq.cli", "demo")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def server_pid(line: str) -> int:
    assert line.startswith("server: process "), line
    return int(line.split()[2].rstrip(","))


def test_everything_lands_once() -> None:
    done = run("--json", "--rows", str(ROWS))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["equal"] is True
    assert found["rows"] == 2 * ROWS
    clean = {"source": ROWS, "landed": ROWS, "lost": 0, "duplicated": 0, "altered": 0, "equal": True}
    assert found["tables"] == [{"table": name, **clean} for name in ("flights", "weather")]
    assert [query["equal"] for query in found["queries"]] == [True, True]
    assert all(query["server"] for query in found["queries"])
    assert gone(server_pid(done.stderr))


def test_the_report_for_people() -> None:
    done = run("--rows", "300")
    assert done.returncode == 0, done.stderr
    for expected in ("600 rows acknowledged", "source rows", "duplicated", "SELECT carrier", "Nothing lost"):
        assert expected in done.stdout


def test_a_difference_is_exit_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that forgets a row after it acknowledged it."""
    honest = _demo_server.ServerProcess.query

    def forgetful(self: _demo_server.ServerProcess, sql: str) -> list[list[Any]]:
        rows = honest(self, sql)
        return rows[1:] if sql.endswith('FROM weather WHERE "month" = 1') else rows

    monkeypatch.setattr(_demo_server.ServerProcess, "query", forgetful)
    result = CliRunner().invoke(demo, ["--json", "--rows", "300"])
    assert result.exit_code == 1
    weather = json.loads(result.stdout)["tables"][1]
    assert (weather["lost"], weather["equal"]) == (1, False)


def test_ctrl_c_ends_both_processes() -> None:
    with subprocess.Popen(COMMAND, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        server = server_pid(process.stderr.readline())
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert gone(server)


def test_a_server_that_does_not_start_is_exit_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_demo_server.sys, "executable", "/bin/false")
    result = CliRunner().invoke(demo, ["--json", "--rows", "10"])
    assert result.exit_code == 1
    assert "the server ended at once, with status 1" in result.stderr
