"""The benchmark's own parts: an endpoint that miscounts, or a ratio upside down, would make every figure false."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench.sink import Client
from bench.start import environment, measure_start
from bench.workloads import cpu, cpu_rows, trades, trades_at_once, trades_rows

from bench import __main__ as bench

REQUEST = b"GET /api/v4/write HTTP/1.1\r\nHost: h\r\nsec-websocket-KEY: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
MASK = b"\x01\x02\x03\x04"


def frame(opcode: int, payload: bytes) -> bytes:
    """A client's frame, FIN and masked."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 1 << 16:
        head = bytes((0x80 | opcode, 0x80 | 126)) + struct.pack(">H", size)
    else:
        head = bytes((0x80 | opcode, 0x80 | 127)) + struct.pack(">Q", size)
    return head + MASK + bytes(byte ^ MASK[i % 4] for i, byte in enumerate(payload))


def ok(sequence: int) -> bytes:
    return b"\x82\x0b\x00" + struct.pack("<qH", sequence, 0)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("step", [1, 2, 3, 7, 13, 100, 1 << 20])
def test_the_sink_counts_messages_wherever_reads_are_cut(ends: tuple[socket.socket, socket.socket], step: int) -> None:
    ours, theirs = ends
    client = Client(ours, memoryview(bytearray(step)))
    payloads = (b"", b"a" * 125, b"b" * 126, b"c" * 300, b"d" * 66_000 if step > 50 else b"d")
    theirs.sendall(REQUEST)
    while not client._upgraded:
        assert client.read()
    head = theirs.recv(1 << 16)
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
    for sequence, payload in enumerate(payloads):
        theirs.sendall(frame(0x2, payload) + frame(0x9, b"hey"))
        answer = b""
        while b"\x8a\x03hey" not in answer or ok(sequence) not in answer:
            assert client.read()
            ours_sent = theirs.recv(1 << 16, socket.MSG_DONTWAIT) if _readable(theirs) else b""
            answer += ours_sent
    theirs.sendall(frame(0x8, b"\x03\xe8"))
    while client.read():
        pass
    assert theirs.recv(100) == b"\x88\x00"


def _readable(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return False


def test_several_messages_in_one_read_get_one_cumulative_ok(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    client = Client(ours, memoryview(bytearray(1 << 16)))
    theirs.sendall(REQUEST + frame(0x2, b"x") * 5)
    assert client.read()
    assert theirs.recv(1 << 16).endswith(b"\r\n\r\n" + ok(4))


@pytest.mark.parametrize(("run", "rows"), [(trades, trades_rows), (cpu, cpu_rows)])
def test_a_workload_calls_row_once_a_row_and_repeats_itself(run: object, rows: object) -> None:
    def collect() -> list[str]:
        calls: list[str] = []
        run(lambda table, **what: calls.append(f"{table} {what}"), rows(250), at=lambda nanos: nanos)  # type: ignore[operator]
        return calls

    assert len(collect()) == 250
    assert collect() == collect()


def test_rows_at_once_are_the_trades() -> None:
    calls: list[tuple[object, ...]] = []
    trades_at_once(lambda table, rows, **_names: calls.extend((table, *row) for row in rows), trades_rows(9), at=str)
    assert calls == [("trades", *row[:4], str(row[4])) for row in trades_rows(9)]


@pytest.mark.timeout(300)
def test_quick_runs_every_workload_of_both_clients(tmp_path: Path) -> None:
    out = tmp_path / "latest.json"
    command = [sys.executable, "-m", "bench", "--quick", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text(encoding="utf-8"))
    assert [line["figure"] for line in report["figures"]] == [figure.title for figure in bench.FIGURES]
    for line in report["figures"]:
        assert line["figure"] in done.stdout
        assert line["settings"]["connect string"]
        assert line["machine"]["cores"]
        assert "load_average_1m_before" in line["settings"]
        assert [len(line["runs"][client]) for client in bench.CLIENTS] == [1, 1]
        assert min(line["spoolq"], line["questdb"], line["ratio"]) > 0


def test_quick_figures_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "--quick"])
    assert bench.arguments().out is None
    monkeypatch.setattr(sys, "argv", ["bench"])
    assert bench.arguments().out == bench.RESULTS


def test_a_ratio_above_one_means_that_we_are_quicker() -> None:
    runs = {"spoolq": [{"row_ns": 100.0}, {"row_ns": 200.0}], "questdb": [{"row_ns": 200.0}, {"row_ns": 800.0}]}
    line = bench.summary(bench.FIGURES[0], runs)
    assert (line["spoolq"], line["questdb"], line["ratio"], line["ratio_range"]) == (150.0, 500.0, 3.0, [2.0, 4.0])


def test_a_start_counts_from_in_front_of_the_process_to_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    acknowledged: list[int] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        acknowledged.append(time.monotonic_ns() + 5_000_000)
        return subprocess.CompletedProcess(command, 0, stdout=f"{acknowledged[0]}\n")

    monkeypatch.setattr(subprocess, "run", run)
    before = time.monotonic_ns()
    found = measure_start("spoolq", "9000")["start_ns"]
    assert 5_000_000 <= found <= acknowledged[0] - before


def test_a_start_finds_modules_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONHASHSEED", "5")
    assert "PYTHONDONTWRITEBYTECODE" not in environment()
    assert environment()["PYTHONHASHSEED"] == "5"
