"""What a connect is doing when it is cut short: every step of it, by `close()` and by Ctrl-C (behaviour.md 2.7).

No step ends by itself within the suite's limit of time, so a call that came back was cut.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from spoolq import DeliveryTimeout, Sender
from spoolq.errors import SlotBusyError
from spoolq.link import ConnectOptions, connect
from spoolq.runtime import closing, settings
from spoolq.spool import Run
from spoolq.spool.disk import DiskStore
from spoolq.spool.files import Files
from spoolq.spool.lock import SlotLock
from spoolq.testing import Auth, QwpServer
from tests.link.peer import Peer, accepted, request, wait_for_end
from tests.link.test_resolve import Blocked, threads
from tests.ports import NOBODY
from tests.processes import started

from .harness import Call, Recorder, child_environment, numbers, open_sender, publish, put
from .test_on_a_slot import offline
from .test_token import open_with

TIMEOUT_SECONDS = 10.0
SLOW = "auth_timeout_ms=600000;connect_timeout=600000;close_flush_timeout_millis=0;initial_connect_retry=async;"
module = sys.modules[connect.__module__]

# Step -> what a connect waits for there, in the words of its failures.
STEPS = {
    "resolve": "the name resolution",
    "tcp": "the TCP connect",
    "tls": "the TLS handshake",
    "upgrade": "the WebSocket upgrade response",
    "body": "the refusal's body",
}


class Steps:
    """Lets a test wait until a connect waits in a step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._condition = threading.Condition()
        self._reached: set[str] = set()
        real = module._Waiter.wait

        def wait(waiter: Any, on: Any, *, write: bool) -> None:
            with self._condition:
                self._reached.add(waiter._what)
                self._condition.notify_all()
            real(waiter, on, write=write)

        monkeypatch.setattr(module._Waiter, "wait", wait)

    def wait_for(self, step: str) -> None:
        with self._condition:
            assert self._condition.wait_for(lambda: STEPS[step] in self._reached, TIMEOUT_SECONDS), self._reached


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    monkeypatch.setattr(settings, "ConnectOptions", partial(ConnectOptions, tls_millis=600_000))
    monkeypatch.setattr(module, "_BODY_MILLIS", 600_000)
    return Steps(monkeypatch)


@pytest.fixture
def blocked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Blocked]:
    found = Blocked()
    monkeypatch.setattr(socket, "getaddrinfo", found)
    yield found
    found.release()


def full_listener(stack: ExitStack) -> str:
    """Where a TCP connect gets no answer: the queue of the listener is full."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
    for _ in range(4):
        held = stack.enter_context(socket.socket())
        held.setblocking(False)
        held.connect_ex(listener.getsockname())
    return f"ws::addr=127.0.0.1:{listener.getsockname()[1]};"


def peer(scheme: str, talk: Callable[[socket.socket], None]) -> Callable[[ExitStack], str]:
    def listen(stack: ExitStack) -> str:
        return f"{scheme}::addr=127.0.0.1:{stack.enter_context(Peer(talk)).endpoint.port};"

    return listen


def half_a_refusal(sock: socket.socket) -> None:
    request(sock)
    sock.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 1000\r\n\r\nabc")
    wait_for_end(sock)


PLACES: dict[str, Callable[[ExitStack], str]] = {
    "resolve": lambda _: "ws::addr=db.example;",
    "tcp": full_listener,
    "tls": peer("wss", wait_for_end),
    "upgrade": peer("ws", wait_for_end),
    "body": peer("ws", half_a_refusal),
}


@pytest.mark.parametrize("step", PLACES)
def test_snd_08_close_cuts_each_step_of_a_connect(blocked: Blocked, steps: Steps, step: str) -> None:
    with ExitStack() as stack:
        sender = open_sender(PLACES[step](stack), SLOW)
        publish(sender, 0)
        steps.wait_for(step)
        Call(sender.close).outcome()
        assert sender.stats().total_connect_attempts == 1
        assert not any(thread.name == "spoolq-io" for thread in threading.enumerate())
        assert len(threads()) == (step == "resolve"), "a blocked resolver is left to itself"


def test_snd_08_close_waits_for_its_time_while_the_resolver_is_blocked(blocked: Blocked, steps: Steps) -> None:
    sender = open_sender("ws::addr=db.example;", SLOW + "close_flush_timeout_millis=30;")
    publish(sender, 0)
    steps.wait_for("resolve")
    with pytest.raises(DeliveryTimeout, match="close\\(\\) gave up after 30 ms"):
        Call(sender.close).outcome()


def test_snd_08_close_cuts_a_reconnect_whose_resolver_is_blocked(steps: Steps, monkeypatch: Any) -> None:
    with QwpServer() as server:
        listener = Recorder()
        sender = open_sender(server.conf.replace("127.0.0.1", "localhost"), SLOW, listener=listener)
        publish(sender, 0)
        sender.wait()
        blocked = Blocked()
        monkeypatch.setattr(socket, "getaddrinfo", blocked)
        server.drop_connections()
        blocked.wait_until_asked(1)
        Call(sender.close).outcome()
        blocked.release()
        assert numbers(server) == [0]


def test_senders_behind_a_blocked_resolver_have_one_thread_each(blocked: Blocked, steps: Steps) -> None:
    """Whatever the number of their attempts; and an address in numbers beside the name still works."""
    with QwpServer() as server:
        conf = f"ws::addr=db.example,127.0.0.1:{server.port};"
        sender = open_sender(conf, SLOW + "connect_timeout=5;")
        publish(sender, 0)
        sender.wait()
        server.drop_connections()
        publish(sender, 1)
        sender.wait()
        assert sender.stats().total_connect_attempts >= 2
        assert len(threads()) == 1
        sender.close()
        assert numbers(server) == [0, 1]


def test_snd_08_what_a_stuck_thread_holds_is_freed_when_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing can end a read of the disk; `close` comes back all the same and takes nothing from under the thread."""
    monkeypatch.setattr(closing, "JOIN_SECONDS", 0.01)
    entered, release = threading.Event(), threading.Event()
    real = DiskStore.run

    def run(store: DiskStore, *arguments: int) -> Run | None:
        entered.set()
        release.wait(TIMEOUT_SECONDS)
        return real(store, *arguments)

    monkeypatch.setattr(DiskStore, "run", run)
    slot = f"sf_dir={tmp_path / 'slots'};"
    with QwpServer() as server:
        sender = open_sender(server, SLOW + slot)
        (stuck,) = [thread for thread in threading.enumerate() if thread.name == "spoolq-io"]
        publish(sender, 0)
        assert entered.wait(TIMEOUT_SECONDS)
        sender.close()
        assert "the I/O thread did not end within 0.01 s" in caplog.text
        assert f"the lock of the slot {tmp_path / 'slots' / 'default'}, are freed when it ends" in caplog.text
        with pytest.raises(SlotBusyError):
            open_sender(server, slot)
        release.set()
        stuck.join(TIMEOUT_SECONDS)
        with open_sender(server, slot) as again:
            again.wait()
        assert set(numbers(server)) == {0}, "the stuck thread may have sent it as well, at its end"


@pytest.mark.parametrize("drains", [False, True], ids=["alone", "with a drainer"])
def test_snd_08_close_leaves_a_token_callable_that_does_not_come_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, drains: bool
) -> None:
    """It is called by one thread at a time, which holds nothing of the sender's: the slot is free at once."""
    callers, entered, release = Callers(), threading.Event(), threading.Event()

    def provide() -> str:
        with callers:
            entered.set()
            release.wait(TIMEOUT_SECONDS)
        return "token"

    if drains:
        offline(tmp_path, (0,))
    slot = f"sf_dir={tmp_path};sender_id=mine;drain_orphans={'on' if drains else 'off'};"
    with QwpServer() as server:
        try:
            sender = open_with(server, provide, SLOW + slot)
            publish(sender, 1)
            assert entered.wait(TIMEOUT_SECONDS)
            Call(sender.close).outcome()
            assert "its thread, spoolq-token, is left behind" in caplog.text
            left = {thread.name for thread in threading.enumerate() if thread.name.startswith("spoolq-")}
            assert left == {"spoolq-server", "spoolq-token"}
            SlotLock.acquire(Files(), str(tmp_path / "mine")).release()
        finally:
            release.set()
        assert callers.most == 1


def test_a_token_callable_is_called_by_one_thread_at_a_time_whoever_connects(tmp_path: Path) -> None:
    """Four drainers and the sender connect at once; each is given a token of its own."""
    callers, given = Callers(), iter(range(1_000))
    for number in range(4):
        with Sender.from_conf(f"ws::addr={NOBODY};initial_connect_retry=async;close_flush_timeout_millis=0;"
                              f"sf_dir={tmp_path};sender_id=dead-{number};") as dead:  # fmt: skip
            put(dead, number)

    def provide() -> str:
        with callers:
            return f"tok-{next(given)}"

    with QwpServer(auth=Auth(tokens=frozenset(f"tok-{number}" for number in range(1_000)))) as server:
        with open_with(server, provide, f"sf_dir={tmp_path};sender_id=mine;drain_orphans=on;"):
            server.wait_for_rows("t", 4)
        shown = [record.header("Authorization") for record in server.connections]
    assert callers.most == 1
    assert len(set(shown)) == len(shown) >= 5
    assert callers.names == {"spoolq-token"}


class Callers:
    """How many threads were inside at once, at most, and their names."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = self.most = 0
        self.names: set[str] = set()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            self.most = max(self.most, self._inside)
            self.names.add(threading.current_thread().name)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1


@pytest.mark.parametrize("host", ["[::1]", "ip6.example"])
def test_a_sender_over_ipv6(host: str, steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def known(name: str, *rest: Any, **options: Any) -> Any:
        return real("::1" if name == "ip6.example" else name, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", known)
    accepting: list[bytes] = []

    def talk(sock: socket.socket) -> None:
        accepting.append(request(sock))
        sock.sendall(accepted(accepting[0]))
        wait_for_end(sock)

    try:
        listening = Peer(talk, "::1", socket.AF_INET6)
    except OSError:  # a machine without IPv6: the failure says so
        with pytest.raises(ConnectionError, match=r"cannot be (reached|resolved)"):
            open_sender(f"ws::addr={host}:9;")
        return
    with listening:
        open_sender(f"ws::addr={host}:{listening.endpoint.port};").close()
    assert f"Host: {host}:{listening.endpoint.port}\r\n".encode() in accepting[0]


_INTERRUPTED = """
import socket, sys, threading
from spoolq import Sender
def block(*_, **__):
    print("ready", flush=True)
    threading.Event().wait()
socket.getaddrinfo = block
try:
    Sender.from_conf("ws::addr=db.example;" + sys.argv[1])
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("mode", ["off", "sync"])
def test_33_ctrl_c_ends_a_constructor_whose_resolver_is_blocked(mode: str) -> None:
    with started(
        [sys.executable, "-c", _INTERRUPTED, f"initial_connect_retry={mode};"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        told, errors = process.communicate()
    assert told == "interrupted\n", errors
    assert process.returncode == 0, errors
