"""tokens.py: one call at a time, each token for one connect, and a call that is left serves the next one."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable, Iterator

import pytest

from spoolq.link import tokens as module
from spoolq.link.tokens import Tokens

TIMEOUT_SECONDS = 10.0


class Held:
    """A provider that gives 1, 2, 3, each when it is let go."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.given = 0

    def __call__(self) -> int:
        self.asked.release()
        assert self.go.acquire(timeout=TIMEOUT_SECONDS)
        self.given += 1
        return self.given


@pytest.fixture
def held() -> Iterator[Held]:
    provider = Held()
    yield provider
    provider.go.release(10)


def patient(fileno: int) -> None:
    assert select.select([fileno], [], [], TIMEOUT_SECONDS)[0]


def leaves(_: int) -> None:
    raise TimeoutError


def ask(tokens: Tokens, into: list[object], wait: Callable[[int], None] = patient) -> threading.Thread:
    thread = threading.Thread(target=lambda: into.append(tokens.token(wait)), daemon=True)
    thread.start()
    return thread


def test_two_who_wait_are_given_a_token_each(held: Held) -> None:
    tokens, got = Tokens(held, "spoolq-token"), list[object]()
    inside = threading.Barrier(3)

    def wait(fileno: int) -> None:
        if held.given == 0:
            inside.wait(TIMEOUT_SECONDS)  # both wait for the first one
        patient(fileno)

    threads = [ask(tokens, got, wait) for _ in range(2)]
    inside.wait(TIMEOUT_SECONDS)
    assert [thread.name for thread in threading.enumerate()].count("spoolq-token") == 1, "one call at a time"
    held.go.release(2)
    for thread in threads:
        thread.join(TIMEOUT_SECONDS)
    assert sorted(got) == [1, 2]  # type: ignore[type-var]


def test_a_token_that_another_one_was_given_is_not_given_again_when_the_next_call_is_under_way(held: Held) -> None:
    tokens, slow, quick = Tokens(held, "spoolq-token"), list[object](), list[object]()
    waits, looks = threading.Event(), threading.Event()

    def waits_and_is_late(fileno: int) -> None:
        waits.set()
        patient(fileno)
        assert looks.wait(TIMEOUT_SECONDS)

    late = ask(tokens, slow, waits_and_is_late)
    assert waits.wait(TIMEOUT_SECONDS)
    held.go.release()
    assert tokens.token(patient) == 1
    again = ask(tokens, quick)
    for _ in range(2):
        assert held.asked.acquire(timeout=TIMEOUT_SECONDS)
    looks.set()
    held.go.release(2)
    for thread in (late, again):
        thread.join(TIMEOUT_SECONDS)
    assert sorted(slow + quick) == [2, 3]  # type: ignore[type-var]


def test_a_call_that_was_left_serves_the_next_connect_when_it_is_fresh(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, got = Tokens(held, "spoolq-token"), list[object]()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            tokens.token(leaves)
    assert tokens.busy
    thread = ask(tokens, got)
    held.go.release()
    thread.join(TIMEOUT_SECONDS)
    assert (got, held.given, tokens.busy) == ([1], 1, False)
    with pytest.raises(TimeoutError):
        tokens.token(leaves)
    call = tokens._call
    assert call is not None
    held.go.release()
    call.wait(patient)
    monkeypatch.setattr(module, "_FRESH_SECONDS", -1.0)
    held.go.release()
    assert tokens.token(patient) == 3, "that one came too long before"


def test_what_the_callable_raises_is_raised_to_one_and_the_next_is_asked_anew() -> None:
    answers: list[object] = [ValueError("no"), "tok"]

    def provider() -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    tokens = Tokens(provider, "spoolq-token")
    with pytest.raises(ValueError, match="no"):
        tokens.token(patient)
    assert tokens.token(patient) == "tok"
