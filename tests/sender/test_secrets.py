"""Whatever a server quotes of the request, no error, event, log line or file of ours shows a secret of it.

Each test has a server that says the credentials of its client in one of the places where it can say something, and
looks everywhere where a sender tells things.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spoolq import Sender, SpoolqError
from spoolq.testing import Close, QwpServer, Refuse, Reject, Script
from tests.sender.test_drainers import abandon, wait_for_outcomes

from .harness import FAST, Recorder, put, until

HIDDEN = "[secret]"
PASSWORD = "hunter2&secret"
BASIC = base64.b64encode(f"bob:{PASSWORD}".encode()).decode()
EXTRA = "max_frame_rejections=2;poison_min_escalation_window_millis=0;close_flush_timeout_millis=0;"


def renewed() -> Callable[[], str]:
    """A provider that gives another token for the first connection than for those behind it."""
    tokens = ["old/hunter2+secret"]
    return lambda: tokens.pop() if tokens else "new/hunter2+secret"


# How a sender is given its credentials, and what of them a server can quote.
CREDENTIALS: dict[str, tuple[Callable[[], dict[str, Any]], tuple[str, ...]]] = {
    "basic": (lambda: {"username": "bob", "password": PASSWORD}, (BASIC, PASSWORD)),
    "token": (lambda: {"token": "new/hunter2+secret"}, ("new/hunter2+secret",)),
    "provider": (lambda: {"token": renewed()}, ("new/hunter2+secret", "old/hunter2+secret")),
}
# What a server does with it on each connection behind the first, and what shows that it was heard.
SAYS: dict[str, tuple[Callable[[str], Script], str]] = {
    "a rejection that is the end": (lambda quote: Script(reject=(Reject(0, 3, quote),)), "schema mismatch"),
    "a rejection that is tried again": (lambda quote: Script(reject=(Reject(0, 6, quote),)), "internal error"),
    "a CLOSE": (lambda quote: Script(close=Close(1, 1002, quote)), "the server closed with code 1002"),
    "a CLOSE for now": (lambda quote: Script(close=Close(1, 1001, quote)), "the server closed with code 1001"),
    "a refusal of the credentials": (lambda quote: Script(refuse=Refuse(403, body=quote)), "HTTP status 403"),
    "a refusal for now": (lambda quote: Script(refuse=Refuse(503, body=quote)), "HTTP status 503"),
    "a role": (lambda quote: Script(refuse=Refuse(421, role=quote)), "HTTP status 421, role"),
}


class Told:
    """A sender with the credentials, and everything that is told of it."""

    def __init__(self, caplog: pytest.LogCaptureFixture, folder: Path, credentials: str) -> None:
        make, self.secrets = CREDENTIALS[credentials]
        self.quote = " ".join(self.secrets)
        self.connections = Recorder()
        self._events = Recorder()
        self._errors: list[SpoolqError] = []
        self._caplog = caplog
        self._folder = folder
        self._keywords = make()

    def open(self, server: QwpServer[Any], extra: str = "", **keywords: Any) -> Sender:
        settings = {item.partition("=")[0]: item for item in (FAST + EXTRA + extra).split(";") if item}
        handlers = {"error_handler": self._events, "connection_listener": self.connections}
        conf = server.conf + ";".join([*settings.values(), ""])
        return Sender.from_conf(conf, sf_dir=self._folder, **handlers, **keywords, **self._keywords)

    def of(self, call: Callable[[], object]) -> None:
        """Keeps the error of a call."""
        try:
            call()
        except SpoolqError as error:
            self._errors.append(error)

    def text(self) -> str:
        told = [*self._events.told, *self.connections.told, self._caplog.text]
        for error in self._errors:
            told += [str(error), repr(error), vars(error)]  # the notes are in there
        files = [path.read_bytes().decode("latin-1") for path in self._folder.rglob("*") if path.is_file()]
        return " ".join([*map(str, told), *files])

    def shows(self) -> set[str]:
        """Which secrets it shows, or the beginning of which."""
        text = self.text()
        return {secret for secret in self.secrets if secret[:5] in text}


@pytest.fixture(params=CREDENTIALS)
def told(request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Told]:
    with caplog.at_level(logging.DEBUG):
        yield Told(caplog, tmp_path, request.param)


@pytest.mark.parametrize("name", SAYS)
def test_no_text_of_a_server_shows_a_secret_that_it_quotes(told: Told, name: str) -> None:
    script, heard = SAYS[name]
    with QwpServer() as server:
        sender = told.open(server)
        server.set_script(script(told.quote))
        server.drop_connections()
        told.connections.wait_for(lambda event: event.kind == "disconnected")
        told.of(lambda: put(sender, 1))
        told.of(sender.flush)
        until(lambda: heard in told.text())
        told.of(sender.close)
    assert told.shows() == set()
    assert HIDDEN in told.text(), "the rest of it is told"


def test_no_dead_letter_shows_a_secret(told: Told) -> None:
    with QwpServer() as server:
        sender = told.open(server, "on_schema_error=drop;")
        server.set_script([Script(reject=(Reject(0, 3, told.quote),)), Script()])
        server.drop_connections()
        told.connections.wait_for(lambda event: event.kind == "reconnected")  # no symbols yet: no catch-up
        put(sender, 1)
        sender.flush()
        sender.wait()
        (letter,) = sender.dead_letters()
        sender.close()
    assert letter.server_text == " ".join([HIDDEN] * len(told.secrets))
    assert told.shows() == set()


def test_what_a_drainer_leaves_in_a_slot_shows_no_secret(told: Told, tmp_path: Path) -> None:
    abandon(tmp_path, "dead", 1)
    with QwpServer() as server:
        server.set_script(
            [Script(), Script(close=Close(0, 1001, told.quote)), Script(reject=(Reject(0, 3, told.quote),))]
        )
        with told.open(server, drain_orphans=True, sender_id="me") as sender:
            assert wait_for_outcomes(sender) == {"dead": "failed"}
            (status,) = sender.background_drainers()
    assert HIDDEN in status.last_error
    assert HIDDEN in (tmp_path / "dead" / ".failed").read_text()
    assert told.shows() == set()
