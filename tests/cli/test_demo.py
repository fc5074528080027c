"""`spoolq demo` whole: its processes, a real socket, a slot, a kill, SQL; and how it ends when something is wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from spoolq.cli import _demo_delivery, _demo_ingest, _demo_process, _demo_server
from spoolq.cli.demo import ServerKills, demo
from spoolq.testing import QwpServer
from tests.ports import NOBODY
from tests.processes import started

ROWS = 10_000  # the first rain is in there
MANY = 30_000  # work is left when the last thing is told that a test waits for
COMMAND = (sys.executable, "-m", "spoolq.cli", "demo")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def left(told: str) -> list[str]:
    """What is still there of the processes and the directory that the demo told of."""
    pids = {int(found) for found in re.findall(r"process (\d+)", told)}
    folders = re.findall(r"slot: (\S+)", told)
    assert len(pids) >= 1, told
    return [f"process {pid}" for pid in pids if not gone(pid)] + [
        name for name in folders if Path(name).parent.exists()
    ]


def test_killed_half_way_everything_lands_once() -> None:
    """Issue 6, item 5; issue 8, item 8: the writer is killed once, a server twice."""
    done = run("--json", "--rows", str(ROWS))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["equal"] is True
    assert (found["rows"], found["frames"]) == (2 * ROWS, 2 * ROWS // _demo_ingest.BATCH_ROWS)
    clean = {"source": ROWS, "landed": ROWS, "lost": 0, "duplicated": 0, "altered": 0, "equal": True}
    assert found["tables"] == [{"table": name, **clean} for name in ("flights", "weather")]
    assert [query["equal"] for query in found["queries"]] == [True, True]
    assert all(query["server"] for query in found["queries"])
    assert found["killed_at"] == ROWS
    assert [rows >= at for rows, at in zip(found["servers_killed_at"], (6_666, 13_333), strict=True)] == [True, True]
    assert found["reconnects"] >= 1
    assert found["next_row"] == min(found["frames_found"] * _demo_ingest.BATCH_ROWS, 2 * ROWS) >= ROWS
    assert "was killed by SIGKILL when it had told of 10,000 rows" in done.stderr
    assert f"found {found['frames_found']} frames in the slot, {found['frames_recovered']} of them" in done.stderr
    assert done.stderr.count("took its rows over") == 2
    pids = set(re.findall(r"process (\d+)", done.stderr))
    assert len(pids) == 8, "two servers, two more for each that was killed, the writer that was killed, the next one"
    assert left(done.stderr) == []


def test_the_last_batch_is_held_back_until_the_demo_has_read_all_reports(tmp_path: Path) -> None:
    """A demo that the machine held found the writer at its end: it killed the servers, and nobody connected again."""
    with QwpServer() as server:
        server.hold_acks()
        conf = server.conf + "initial_connect_retry=async;reconnect_initial_backoff_millis=1;"
        arguments = (conf, str(tmp_path), "1500")
        with _demo_process.start("spoolq.cli._demo_ingest", *arguments, takes_input=True) as process:
            assert process.stdout is not None
            told: list[dict[str, Any]] = [{}]
            while "waits" not in told[-1]:
                told.append(json.loads(process.stdout.readline()))
                if told[-1].get("done") == 2_000:
                    server.release_acks()
                assert "acknowledged" not in told[-1]
            assert told[-2] == {"done": 2_000, "unacked": 0, "connected": True}
            server.drop_connections()
            rest = [json.loads(line) for line in process.communicate("go on\n")[0].splitlines()]
        assert process.returncode == 0
        assert rest[-1] == {"acknowledged": 3, "reconnects": 1}
        assert sum(map(server.store.count, ("flights", "weather"))) == 3_000


def test_a_writer_without_a_demo_ends(tmp_path: Path) -> None:
    with QwpServer() as server:
        arguments = (server.conf, str(tmp_path), "1500")
        with _demo_process.start("spoolq.cli._demo_ingest", *arguments, takes_input=True) as process:
            told = process.communicate()[0].splitlines()
        assert process.returncode == 1
        assert json.loads(told[-1]) == {"failed": "the demo is gone"}


def test_a_server_is_killed_only_when_the_writer_has_a_connection_to_lose() -> None:
    """It may have been found acknowledged all over, by a process that had none yet."""
    events: list[str] = []

    class Killed:
        primary = replica = SimpleNamespace(pid=1)

        def fail_over(self) -> None:
            events.append("kill")

    kills = ServerKills(Killed(), [2_000, 4_000], lambda *_: events.append("told"), lambda _: None)  # type: ignore[arg-type]
    kills.tell(5_000, 0, False)
    kills.tell(5_000, 2, True)
    kills.tell(5_000, 0, True)
    assert events == ["told", "told", "kill", "told", "kill"]
    assert kills.acked_rows == [3_000, 5_000]


def test_the_report_for_people() -> None:
    done = run("--rows", "300", "--no-kill")
    assert done.returncode == 0, done.stderr
    for expected in ("600 rows in 1 frames", "source rows", "duplicated", "SELECT carrier", "Nothing lost"):
        assert expected in done.stdout
    assert "SIGKILL" not in done.stdout + done.stderr
    assert left(done.stderr) == []


def test_the_report_of_a_kill() -> None:
    done = run("--rows", "300")
    assert done.returncode == 0, done.stderr
    for expected in ("Writer killed by SIGKILL at row 600", "the next process went on with row 600", "Nothing lost"):
        assert expected in " ".join(done.stdout.split())


def test_a_difference_is_exit_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that forgets a row after it acknowledged it."""
    honest = _demo_server.ServerProcess.query

    def forgetful(self: _demo_server.ServerProcess, sql: str) -> list[list[Any]]:
        rows = honest(self, sql)
        return rows[1:] if sql.endswith('FROM weather WHERE "month" = 1') else rows

    monkeypatch.setattr(_demo_server.ServerProcess, "query", forgetful)
    result = CliRunner().invoke(demo, ["--json", "--rows", "300", "--no-kill"])
    assert result.exit_code == 1
    weather = json.loads(result.stdout)["tables"][1]
    assert (weather["lost"], weather["equal"]) == (1, False)


def test_rows_that_were_handed_over_twice_are_exit_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A second process that begins anew: the server's tables would not show it."""
    begun = _demo_delivery.Ingest.__init__
    folders = iter(("first", "second"))

    def elsewhere(self: _demo_delivery.Ingest, conf: str, sf_dir: str, limit: int | None) -> None:
        begun(self, conf, str(tmp_path / next(folders)), limit)

    monkeypatch.setattr(_demo_delivery.Ingest, "__init__", elsewhere)
    monkeypatch.setattr("spoolq.cli.demo.BATCH_ROWS", 100)
    result = CliRunner().invoke(demo, ["--json", "--rows", "300"])
    assert result.exit_code == 1
    assert "600 rows make 6 frames, and 1 were published" in result.stderr


_HELD = """
import sys
from contextlib import contextmanager
from spoolq.cli import demo
from spoolq.cli.main import cli
word, progress = sys.argv.pop(1), demo._progress
said = [word in "primary: process"]
@contextmanager
def listening(*arguments):
    with progress(*arguments) as (tell, say):
        def say_on(text):
            say(text)
            said.append(word in text)
        yield tell, say_on
class Held(demo.ServerKills):
    def tell(self, *report):
        super().tell(*report)
        if any(said):
            sys.stdin.read()
demo._progress, demo.ServerKills = listening, Held
cli()
"""


@pytest.mark.parametrize("word", ["primary: process", "to be killed", "told of", "took its rows over"])
def test_ctrl_c_ends_all_processes_and_leaves_no_directory(word: str) -> None:
    """It comes at the word or soon behind it; the demo does not come to its end before."""
    command = [sys.executable, "-c", _HELD, word, "demo", "--rows", str(MANY)]
    with started(command, stdin=PIPE, stderr=PIPE, stdout=PIPE, text=True) as process:
        assert process.stderr is not None
        told = ""
        while word not in told:
            line = process.stderr.readline()
            assert line, told
            told += line
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert left(told + errors) == []


def test_ctrl_c_while_a_process_starts_is_kept_until_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    class Slow(subprocess.Popen[str]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            os.kill(os.getpid(), signal.SIGINT)
            started.append(self.pid)

    monkeypatch.setattr(_demo_process.subprocess, "Popen", Slow)
    with pytest.raises(KeyboardInterrupt):
        _demo_process.start("spoolq.cli", "serve", "--port", "0")
    assert len(started) == 1, "the interrupt came too early"
    assert gone(started[0])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_server_that_does_not_start_is_exit_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_demo_process.sys, "executable", "/bin/false")
    result = CliRunner().invoke(demo, ["--json", "--rows", "10"])
    assert result.exit_code == 1
    assert "the server ended at once, with status 1" in result.stderr


def test_an_ingest_that_fails_is_exit_1_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens on the port it is given."""
    conf = f"ws::addr={NOBODY};"
    honest = _demo_delivery.Ingest.__init__
    monkeypatch.setattr(
        _demo_delivery.Ingest, "__init__", lambda self, _, sf_dir, limit: honest(self, conf, sf_dir, limit)
    )
    result = CliRunner().invoke(demo, ["--json", "--rows", "10"])
    assert result.exit_code == 1
    assert "the ingesting process failed:" in result.stderr
    assert NOBODY in result.stderr
