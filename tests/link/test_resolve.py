"""Names on a thread of their own: what cuts the wait, how many threads there are, late answers."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from spoolq.link import ConnectFailure, ConnectOptions, Endpoint, Kind, Resolver, connect, resolve
from tests.link.peer import Peer, accepted, request, wait_for_end

TIMEOUT_SECONDS = 10.0


def accepting(sock: socket.socket) -> None:
    sock.sendall(accepted(request(sock)))
    wait_for_end(sock)


class Blocked:
    """A `socket.getaddrinfo` that answers only when `release` was called; ``asked`` are the hosts."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._is_open = False
        self.asked: list[str] = []
        self.answers: dict[str, Any] = {}

    def __call__(self, host: str, port: int, *_: Any, **__: Any) -> Any:
        with self._condition:
            self.asked.append(host)
            self._condition.notify_all()
            assert self._condition.wait_for(lambda: self._is_open, TIMEOUT_SECONDS)
        answer = self.answers.get(host, socket.gaierror(socket.EAI_NONAME, f"no {host}"))
        if isinstance(answer, Exception):
            raise answer
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    def wait_until_asked(self, count: int) -> None:
        with self._condition:
            assert self._condition.wait_for(lambda: len(self.asked) >= count, TIMEOUT_SECONDS)

    def release(self) -> None:
        with self._condition:
            self._is_open = True
            self._condition.notify_all()
        for thread in threads():
            thread.join(TIMEOUT_SECONDS)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "spoolq-resolve"]


@pytest.fixture
def blocked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Blocked]:
    found = Blocked()
    monkeypatch.setattr(socket, "getaddrinfo", found)
    yield found
    found.release()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


def failure(
    host: str, wake: int, resolver: Resolver, limit_millis: int | None = None, connect_millis: int = 600_000
) -> ConnectFailure:
    with pytest.raises(ConnectFailure) as caught:
        connect(Endpoint(host, 9000), ConnectOptions(connect_millis=connect_millis), wake, limit_millis, resolver)
    return caught.value


def test_snd_08_a_blocked_resolver_is_left_when_the_connect_is_cancelled(
    blocked: Blocked, pipe: tuple[int, int]
) -> None:
    resolver = Resolver()
    os.write(pipe[1], b"x")
    for _ in range(3):
        error = failure("db.example", pipe[0], resolver)
        assert error.kind is Kind.CANCELLED
        assert len(threads()) == 1, "however often it is tried"
    blocked.wait_until_asked(1)  # the thread may be late
    assert blocked.asked == ["db.example"]


@pytest.mark.parametrize("bounds", [{"connect_millis": 20}, {"limit_millis": 20}], ids=["connect_timeout", "budget"])
def test_a_blocked_resolver_ends_with_the_time_of_the_attempt(
    blocked: Blocked, pipe: tuple[int, int], bounds: dict[str, int]
) -> None:
    error = failure("db.example", pipe[0], Resolver(), **bounds)
    assert (error.kind, error.text) == (Kind.TIMEOUT, "db.example:9000: the name resolution timed out")


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_an_address_in_numbers_needs_no_thread_and_no_resolver(
    monkeypatch: pytest.MonkeyPatch, pipe: tuple[int, int], host: str, family: socket.AddressFamily
) -> None:
    started: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *found, **_: started.append(found))
    monkeypatch.setattr(resolve, "_Lookup", started.append)
    try:
        peer = Peer(accepting, host, family)
    except OSError:  # a machine without IPv6: the address is tried all the same
        assert family is socket.AF_INET6
        assert failure(host, pipe[0], Resolver()).kind is Kind.TCP
    else:
        with peer:
            connect(peer.endpoint, ConnectOptions(), pipe[0]).close()
    assert started == []


@pytest.mark.parametrize("host", ["1", "1.2.3", "db.example", "::1%eth0x", "fe80::1%lo", "1::2::3"])
def test_what_counts_as_numbers(host: str) -> None:
    assert resolve._family_of_literal(host) is (socket.AF_INET6 if "%" in host else None)


def test_a_scope_is_for_the_socket_to_read(pipe: tuple[int, int]) -> None:
    error = failure("fe80::1%nosuchif", pipe[0], Resolver())
    assert error.kind is Kind.TCP
    assert error.text.startswith("[fe80::1%nosuchif]:9000 cannot be reached: ")


def test_a_late_answer_serves_the_next_attempt(blocked: Blocked, pipe: tuple[int, int]) -> None:
    blocked.answers["db.example"] = True
    resolver = Resolver()
    with Peer(accepting) as peer:
        endpoint = Endpoint("db.example", peer.endpoint.port)
        with pytest.raises(ConnectFailure):
            connect(endpoint, ConnectOptions(connect_millis=1), pipe[0], None, resolver)
        blocked.release()
        connect(endpoint, ConnectOptions(), pipe[0], None, resolver).close()
        assert blocked.asked == ["db.example"]
        connect(endpoint, ConnectOptions(), pipe[0], None, resolver).close()
        assert blocked.asked == ["db.example"] * 2, "an answer is used once"


def test_an_answer_that_is_too_old_is_asked_for_again(
    blocked: Blocked, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver = Resolver()
    failure("db.example", pipe[0], resolver, 1)
    blocked.release()
    monkeypatch.setattr(resolve, "_FRESH_SECONDS", -1.0)
    assert failure("db.example", pipe[0], resolver).kind is Kind.DNS
    assert len(blocked.asked) == 2


def test_another_host_waits_for_its_turn(blocked: Blocked, pipe: tuple[int, int]) -> None:
    resolver = Resolver()
    failure("one.example", pipe[0], resolver, 1)
    blocked.wait_until_asked(1)
    assert failure("two.example", pipe[0], resolver, 20).kind is Kind.TIMEOUT
    assert blocked.asked == ["one.example"], "one lookup at a time"
    waiting = threading.Thread(target=lambda: errors.append(failure("two.example", pipe[0], resolver)))
    errors: list[ConnectFailure] = []
    waiting.start()
    blocked.release()
    waiting.join(TIMEOUT_SECONDS)
    assert blocked.asked == ["one.example", "two.example"]
    assert [error.text for error in errors] == ["two.example:9000 cannot be resolved: no two.example"]


def test_where_no_thread_can_be_had_the_caller_makes_the_lookup(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the interpreter's exit from Python 3.12 on; the outcome is the same."""

    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    def look_up(host: str, port: int, **_: object) -> list[Any]:
        assert threading.current_thread() is threading.main_thread()
        raise socket.gaierror(socket.EAI_NONAME, f"no {host}")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    error = failure("db.example", pipe[0], Resolver())
    assert (error.kind, error.text) == (Kind.DNS, "db.example:9000 cannot be resolved: no db.example")


def test_no_descriptor_to_be_had_is_a_failed_attempt(
    blocked: Blocked, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket, "socketpair", refuse)
    assert failure("db.example", pipe[0], Resolver()).text.endswith("cannot be resolved: Too many open files")


def test_a_name_with_addresses_of_both_kinds(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    with Peer(accepting) as peer:
        port = peer.endpoint.port
        found = [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        connect(Endpoint("both.example", port), ConnectOptions(), pipe[0]).close()
        del found[1]
        error = failure("both.example", pipe[0], Resolver())
    assert error.kind is Kind.TCP
    assert error.text.startswith("both.example:9000 cannot be reached: ")


def test_a_forked_child_closes_its_copies(blocked: Blocked, pipe: tuple[int, int]) -> None:
    resolver = Resolver()
    descriptors: list[tuple[int, ...]] = []

    def wait(fileno: int) -> None:
        lookup = resolver._lookup
        assert lookup is not None
        descriptors.append(tuple(one.fileno() for one in lookup._pairs[0]))
        resolver.forked()  # as in the child, where this thread is not
        raise InterruptedError

    with pytest.raises(InterruptedError):
        resolver.addresses("db.example", 9000, wait)
    for descriptor in descriptors[0]:
        with pytest.raises(OSError):
            os.fstat(descriptor)
