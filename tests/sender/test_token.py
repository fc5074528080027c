"""A token provider: asked at each connect, on a thread of its own; its failures show no secret.

`docs/decisions.md` says what a 401 means then: one more attempt with a new token, behind that the end.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from spoolq import AuthError, ConfigError, ConnectError, Sender, SpoolqError
from spoolq.config import parse
from spoolq.testing import Auth, QwpServer, Refuse, Script

from .harness import FAST, Recorder, free_port, numbers, publish, put

SECRET = "hunter2secret"


@pytest.fixture
def server() -> Iterator[QwpServer]:
    with QwpServer(auth=Auth(tokens=frozenset({"tok-1", "tok-2", "tok-3"}))) as running:
        yield running


class Provider:
    """Gives the tokens in turn, the last one for ever; ``threads`` are the names of those that asked."""

    def __init__(self, *tokens: Any) -> None:
        self._tokens = list(tokens)
        self.threads: list[str] = []

    def __call__(self) -> str:
        self.threads.append(threading.current_thread().name)
        token = self._tokens.pop(0) if len(self._tokens) > 1 else self._tokens[0]
        if isinstance(token, BaseException):
            raise token
        return token  # type: ignore[no-any-return]


def open_with(server: QwpServer, provider: Callable[[], Any], extra: str = "", **more: Any) -> Sender:
    settings = {item.partition("=")[0]: item for item in (FAST + extra).split(";") if item}
    return Sender.from_conf(server.conf + ";".join([*settings.values(), ""]), token=provider, **more)


def shown(server: QwpServer) -> list[str | None]:
    return [record.header("Authorization") for record in server.connections]


def test_each_connect_has_a_token_of_its_own_from_one_thread(server: QwpServer) -> None:
    provider = Provider("tok-1", "tok-2", "tok-3")
    with open_with(server, provider) as sender:
        publish(sender, 0)
        sender.wait()
        server.drop_connections()
        publish(sender, 1)
        sender.wait()
    assert shown(server) == ["Bearer tok-1", "Bearer tok-2"]
    assert provider.threads == ["spoolq-token"] * 2
    assert numbers(server) == [0, 1]


@pytest.mark.parametrize("mode", ["off", "sync", "async"])
def test_a_401_is_tried_once_more_with_a_new_token(server: QwpServer, mode: str) -> None:
    provider = Provider("old", "tok-1")
    with open_with(server, provider, f"initial_connect_retry={mode};") as sender:
        publish(sender, 0)
        sender.wait()
    assert shown(server) == ["Bearer old", "Bearer tok-1"]
    assert numbers(server) == [0]


@pytest.mark.parametrize("mode", ["off", "sync"])
def test_a_second_401_is_the_end(server: QwpServer, mode: str) -> None:
    provider = Provider("old-" + SECRET)
    with pytest.raises(AuthError, match="ws-upgrade-failed") as caught:
        open_with(server, provider, f"initial_connect_retry={mode};")
    assert len(server.connections) == 2
    assert caught.value.status == 401
    assert SECRET not in str(caught.value)


def test_a_403_is_the_end_at_once(server: QwpServer) -> None:
    server.set_script(Script(refuse=Refuse(403)))
    with pytest.raises(AuthError):
        open_with(server, Provider("tok-1"))
    assert len(server.connections) == 1


def test_a_token_that_was_taken_gives_the_next_401_its_second_try_again(server: QwpServer) -> None:
    provider = Provider("old", "tok-1", "old", "tok-2")
    with open_with(server, provider) as sender:
        publish(sender, 0)
        sender.wait()
        server.drop_connections()
        publish(sender, 1)
        sender.wait()
    assert shown(server) == ["Bearer old", "Bearer tok-1", "Bearer old", "Bearer tok-2"]
    assert numbers(server) == [0, 1]


def test_a_fixed_token_is_not_tried_again(server: QwpServer) -> None:
    with pytest.raises(AuthError):
        Sender.from_conf(server.conf + FAST, token="old")
    assert len(server.connections) == 1


BAD = {
    "raises": (RuntimeError(f"POST with {SECRET} failed"), "raised RuntimeError"),
    "empty": ("", "returned an empty token"),
    "a line break": (f"{SECRET}\r\nX-Admin: 1", "line break"),
    "a lone line feed": (f"{SECRET}\n", "line break"),
    "not ASCII": (f"{SECRET}é", "non-ASCII"),
    "bytes": (SECRET.encode(), "returned bytes, not str"),
    "None": (None, "returned NoneType, not str"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_provider_that_gives_no_token_is_a_failed_attempt_without_the_secret(
    server: QwpServer, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    token, says = BAD[name]
    with caplog.at_level(logging.DEBUG), pytest.raises(ConnectError, match=says) as caught:
        open_with(server, Provider(token))
    assert f"127.0.0.1:{server.port} was not tried: the token provider" in str(caught.value)
    assert not isinstance(caught.value, AuthError)
    assert SECRET not in str(caught.value) + caplog.text
    assert not server.connections, "nothing was opened"


def test_the_advice_for_a_provider_that_fails_is_about_the_provider(server: QwpServer) -> None:
    """Address and firewall are as they should be: nothing was opened."""
    conf = f"ws::addr=127.0.0.1:{server.port},localhost:{server.port};"
    with pytest.raises(ConnectError) as caught:
        Sender.from_conf(conf, token=Provider(RuntimeError()))
    assert str(caught.value).endswith(
        "raised RuntimeError; check the token provider, the callable given as token: it returns the bearer token as a "
        "str"
    )
    assert "firewall" not in str(caught.value)
    with pytest.raises(ConnectError, match="check address, port and firewall; check the token provider"):
        Sender.from_conf(f"ws::addr=127.0.0.1:{free_port()},127.0.0.1:{server.port};", token=Provider("tok", ""))
    assert not server.connections


def test_a_provider_that_fails_is_asked_again(server: QwpServer, caplog: pytest.LogCaptureFixture) -> None:
    listener = Recorder()
    provider = Provider(OSError(SECRET), "", "tok-1")
    with (
        caplog.at_level(logging.DEBUG),
        open_with(server, provider, "initial_connect_retry=async;", connection_listener=listener) as sender,
    ):
        publish(sender, 0)
        sender.wait()
        listener.wait_for(lambda event: event.kind == "connected")
    assert numbers(server) == [0]
    failed = [event.cause for event in listener.told if event.kind == "endpoint_attempt_failed"]
    assert [cause.rpartition(": ")[2] for cause in failed] == [
        "the token provider raised OSError",
        "the token provider returned an empty token",
    ]
    assert SECRET not in caplog.text + "".join(failed)


def test_an_interrupt_in_the_provider_is_the_callers(server: QwpServer) -> None:
    with pytest.raises(KeyboardInterrupt):
        open_with(server, Provider(KeyboardInterrupt()))


def test_a_provider_that_ends_its_thread_ends_the_sender_loudly(
    server: QwpServer, caplog: pytest.LogCaptureFixture
) -> None:
    """``sys.exit`` in a provider's library must not leave a sender behind that sends nothing and says nothing."""
    options = "initial_connect_retry=async;close_flush_timeout_millis=0;"
    sender = open_with(server, Provider(SystemExit(3)), options)
    try:
        publish(sender, 0)
        told: object = sender.await_acked_fsn(0, 5_000)
    except SpoolqError as error:
        told = str(error)
    with suppress(SpoolqError):
        sender.close()
    assert told == "the I/O thread failed: SystemExit(3)"
    assert "the I/O thread failed" in caplog.text


def test_a_terminal_401_keeps_the_frames(server: QwpServer) -> None:
    handler = Recorder()
    sender = open_with(server, Provider("tok-1", "old"), error_handler=handler)
    publish(sender, 0)
    sender.wait()
    server.drop_connections()
    event = handler.wait_for(lambda event: event.policy == "terminal")
    assert event.category == "security_error"
    with pytest.raises(AuthError):
        put(sender, 1)
    with pytest.raises(AuthError):
        sender.close()
    assert len(server.connections) == 3


# --- configuration -----------------------------------------------------------------------------------


def test_no_repr_shows_what_a_provider_holds() -> None:
    import functools

    config = parse("ws::addr=h;", token=functools.partial(lambda secret: secret, SECRET))
    assert SECRET not in repr(config)
    assert "TokenProvider('***')" in repr(config)
    assert "token" in config.explicit


@pytest.mark.parametrize(
    ("conf", "keywords", "message"),
    [
        ("ws::addr=h;token=a;", {}, "token is given as a keyword, and in the connect string"),
        ("ws::addr=h;", {"username": "u", "password": "p"}, "token and username or password exclude each other"),
    ],
)
def test_a_provider_is_the_token_and_given_once(conf: str, keywords: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(conf, token=lambda: "t", **keywords)


def test_a_provider_may_close_the_sender(server: QwpServer) -> None:
    """It is asked on the sender's own thread, which cannot wait for itself: another one closes."""
    sender: Sender
    asked, closed = [], threading.Event()

    def provider() -> str:
        asked.append(threading.current_thread().name)
        if len(asked) == 2:
            sender.close()
            closed.set()
        return "tok-1"

    sender = open_with(server, provider)
    publish(sender, 0)
    sender.wait()
    server.drop_connections()
    assert closed.wait(10)
    sender.close()
    assert [thread.name for thread in threading.enumerate() if thread.name == "spoolq-io"] == []
    assert numbers(server) == [0]
