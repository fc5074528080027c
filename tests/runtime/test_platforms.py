"""Systems other than Linux, faked (ours.md 36): code paths are chosen by what a system has, not by its name.

Windows is a process without poll, eventfd, fork, pipes to wait for, and fcntl; its files and sockets are still
Linux's.  What is seen here is that nothing else is asked for.
"""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from spoolq.link.poller import POLLIN, POLLOUT, Poller, SelectPoller
from spoolq.server import QwpServer
from spoolq.spool import files as files_module
from spoolq.spool.files import Files
from tests.ports import HOST, free_port
from tests.sender.harness import child_environment, numbers

_WINDOWS = """
import os, select, signal, socket, ssl, sys, threading
sys.modules["fcntl"] = None
for module, names in {
    select: ("poll", "epoll", "POLLIN", "POLLOUT"),
    os: ("eventfd", "fork", "register_at_fork", "pipe", "pipe2", "set_blocking", "O_NOFOLLOW", "fdatasync"),
    signal: ("SIGKILL", "pthread_sigmask"),
    socket: ("TCP_KEEPIDLE",),
}.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
sys.platform = "win32"
from spoolq import ConfigError, Sender, TimestampNanos
"""
_MEMORY = """
with Sender.from_conf(sys.argv[1] + "auto_flush=off;") as sender:
    for value in range(50):
        sender.row("t", symbols={"s": f"sym-{value}"}, columns={"n": value}, at=TimestampNanos(value))
        if value % 20 == 0:
            while not sender._engine.loop.asleep:  # so that this flush has to wake it
                threading.Event().wait(0.001)
            sender.flush(wait=True)
print(sender.acked_fsn())
"""
_SLOT = """
try:
    Sender.from_conf(sys.argv[1], sf_dir=sys.argv[2])
except ConfigError as error:
    print(error.key, error)
print(os.listdir(sys.argv[2]), threading.active_count())
"""


def python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _WINDOWS + code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**child_environment(), "SPOOLQ_IMPLEMENTATION": "plain"},
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_nfr_07_memory_mode_asks_for_nothing_that_windows_has_not() -> None:
    with QwpServer() as server:
        assert python(_MEMORY, server.conf) == "3\n"
        assert numbers(server) == list(range(50))


def test_nfr_07_sf_dir_on_windows_is_one_clear_error_before_anything_is_made(tmp_path: Path) -> None:
    with QwpServer() as server:
        told = python(_SLOT, server.conf, str(tmp_path)).splitlines()
    assert told[0].startswith("sf_dir sf_dir needs Linux or macOS")
    assert told[1] == "[] 1"


def test_nfr_07_macos_syncs_reach_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F_FULLFSYNC for a file, all of its metadata, what was written through a mapping, and the names in a directory."""
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(files_module.sys, "platform", "darwin")
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda fd, command: calls.append((fd, command)))
    monkeypatch.setattr(os, "fsync", lambda _: None)
    files = Files()
    file = files.create(str(tmp_path / "file"))
    files.truncate(file, 4_096)
    mapping = files.map(file, 4_096)
    try:
        for sync in (
            lambda: files.sync(file),
            lambda: files.sync_all(file),
            lambda: files.sync_mapped(file, mapping, 0, 4_096),
        ):
            sync()
            assert calls.pop() == (file.fd, 51)
        files.sync_directory(str(tmp_path))
        assert [command for _, command in calls] == [51]
    finally:
        files.unmap(file, mapping)
        files.close(file)


@pytest.mark.parametrize("make", [Poller, SelectPoller])
def test_both_pollers_tell_the_same(make: type[SelectPoller]) -> None:
    ours, theirs = socket.socketpair()
    refused = socket.socket()
    refused.setblocking(False)
    with ours, theirs, refused:
        poller = make()
        assert poller.poll(1) == []
        poller.register(ours, POLLIN)
        assert poller.poll(0) == []
        poller.register(ours, POLLIN | POLLOUT)
        assert poller.poll(0) == [(ours.fileno(), POLLOUT)]
        theirs.send(b"x")
        assert poller.poll(None) == [(ours.fileno(), POLLIN | POLLOUT)]
        with pytest.raises(BlockingIOError):
            refused.connect((HOST, free_port()))
        poller = make()
        poller.register(refused, POLLOUT)
        ((fd, mask),) = poller.poll(5_000)
        assert (fd, mask & POLLOUT) == (refused.fileno(), POLLOUT)
