"""The table of behaviour.md 6.1, row by row: category, default policy, overrides; both clients beside each other.

Two endpoints: the first refuses the frame with the status, the second takes what comes.  "terminal": the row lands
nowhere.  "retriable" and "retriable_other": the error is told, the row lands on the second endpoint.  Each case is
run with both clients.  ``why`` says why the two differ where they do, and only there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
from questdb import QuestDBError

from spoolq import SpoolqError
from spoolq.testing import Answer, QwpServer, Refuse, Reject, Script
from tests.ports import NOBODY

from .beside import CLIENTS, OURS, TWO_STRIKES, named, opened
from .harness import Recorder

TEXT = "what is wrong"


class Row(NamedTuple):
    """A row of the page: the column "Adopt", and what each client was seen to say of it."""

    status: int
    category: str
    policy: str
    theirs: str  # category and policy
    key: str = ""  # the key that overrides it
    why: str = ""


UNNAMED = "a status that 7.0.0 of its core does not know by name; retriable all the same (wire.md 5.4)"
ROWS = [
    Row(0x03, "schema_mismatch", "terminal", "schema_mismatch terminal", "on_schema_error"),
    Row(0x05, "parse_error", "terminal", "parse_error terminal", "on_parse_error"),
    Row(0x06, "internal_error", "retriable", "internal_error retriable", "on_internal_error"),
    Row(0x08, "security_error", "terminal", "security_error terminal", "on_security_error"),
    Row(0x09, "write_error", "retriable", "write_error retriable", "on_write_error"),
    Row(0x0C, "not_writable", "retriable_other", "not_writable retriable_other"),
    Row(0x0D, "dictionary_gap", "retriable", "unknown retriable", why=UNNAMED),
    Row(0x7F, "unknown", "retriable", "unknown retriable"),
]
OVERRIDABLE = [row for row in ROWS if row.key]


class Seen(NamedTuple):
    """What a client said of a refused frame, and where the row is."""

    said: str  # category and policy
    status: int | None
    text: str
    fsns: tuple[int, int]
    landed: bool
    error: str


def refused(client: str, status: int, keys: str = "") -> Seen:
    """One row whose first endpoint refuses it."""
    script = Script(reject=(Reject(0, status, TEXT),))
    with QwpServer(script=script) as first, QwpServer() as second:
        told = Recorder()
        conf = f"ws::addr=127.0.0.1:{first.port},127.0.0.1:{second.port};"
        with opened(client, conf, keys, handler=told) as sender:
            error: SpoolqError | QuestDBError | None = None
            try:
                assert sender.acked(sender.send(1), 10_000)
            except (SpoolqError, QuestDBError) as raised:
                error = raised
            entry = told.wait_for() if client == OURS else sender.rejections()[0]
        landed = second.store.count("t") == 1
        assert first.store.count("t") == 0
    return Seen(_said(entry), entry.status, _text(entry), (entry.from_fsn, entry.to_fsn), landed, named(error))


def _said(entry: Any) -> str:
    if isinstance(entry.category, str):
        return f"{entry.category} {entry.policy}"
    return f"{entry.category.value[0]} {entry.applied_policy.value[0]}"


def _text(entry: Any) -> str:
    found: str = entry.text if isinstance(entry.category, str) else entry.message
    return found


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.status:02x} {row.category}")
def test_6_1_category_and_default_policy(row: Row, client: str) -> None:
    seen = refused(client, row.status)
    assert seen.said == (f"{row.category} {row.policy}" if client == OURS else row.theirs)
    assert (seen.status, seen.text, seen.fsns) == (row.status, TEXT, (0, 0))
    assert seen.landed == (row.policy != "terminal")
    if row.policy == "terminal":
        assert seen.error == f"ServerRejection {row.category}"  # both call it so
    else:
        assert seen.error == ""


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.status:02x}")
def test_where_they_differ_the_row_says_why(row: Row) -> None:
    assert (f"{row.category} {row.policy}" != row.theirs) == bool(row.why)


# Written policy -> the one that is applied.
POLICIES = {"terminal": "terminal", "halt": "terminal", "retriable": "retriable", "retriable_other": "retriable_other"}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("row", OVERRIDABLE, ids=lambda row: row.key)
def test_6_1_ours_applies_the_override(row: Row, policy: str) -> None:
    seen = refused(OURS, row.status, f"{row.key}={policy};")
    assert seen.said == f"{row.category} {POLICIES[policy]}"
    assert seen.landed == (POLICIES[policy] != "terminal")


@pytest.mark.parametrize("row", OVERRIDABLE, ids=lambda row: row.key)
def test_6_1_ours_drops_where_it_is_told_to_and_keeps_a_letter(tmp_path: Path, row: Row) -> None:
    """DROP of the older clients: by choice alone, reported, and only behind the dead-letter store (6.2, ours.md 27)."""
    handler = Recorder()
    with QwpServer(script=[Script(reject=(Reject(0, row.status, TEXT),)), Script()]) as server:
        keys = f"{row.key}=drop;sf_dir={tmp_path};"
        with opened(OURS, server.conf, keys, handler=handler) as sender:
            assert sender.acked(sender.send(1), 10_000)
            assert _said(handler.wait_for()) == f"{row.category} drop"
            (letter,) = sender.sender.dead_letters()
            assert (letter.category, letter.status, letter.server_text) == (row.category, row.status, TEXT)
        assert server.store.count("t") == 0


@pytest.mark.parametrize("value", ["terminal", "retriable", "drop", "nonsense"])
@pytest.mark.parametrize("row", OVERRIDABLE, ids=lambda row: row.key)
def test_6_1_theirs_takes_the_key_and_ignores_it_whatever_it_says(row: Row, value: str) -> None:
    """Section 11: "`on_*_error` ignored: Java, R; applied": a key that is taken must have its effect (ours.md 28)."""
    seen = refused("questdb", row.status, f"{row.key}={value};")
    assert seen.said == row.theirs


@pytest.mark.parametrize("row", OVERRIDABLE, ids=lambda row: row.key)
def test_6_1_a_value_that_is_no_policy_is_an_error_of_ours(row: Row) -> None:
    from spoolq.errors import ConfigError

    for value in ("nonsense", "auto"):
        with pytest.raises(ConfigError, match=row.key), opened(OURS, f"ws::addr={NOBODY};", f"{row.key}={value};"):
            pass


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.status:02x} {row.category}")
def test_6_1_on_server_error_is_for_all_that_can_be_overridden(row: Row) -> None:
    """Precedence (6.2): the key of the category, then on_server_error, then the default; the others are forced."""
    other = "retriable" if row.policy == "terminal" else "terminal"
    seen = refused(OURS, row.status, f"on_server_error={other};")
    assert seen.said == f"{row.category} {other if row.key else row.policy}"
    if row.key:
        seen = refused(OURS, row.status, f"on_server_error={other};{row.key}={row.policy};")
        assert seen.said == f"{row.category} {row.policy}"
        seen = refused(OURS, row.status, "on_server_error=auto;")
        assert seen.said == f"{row.category} {row.policy}"


class Forced(NamedTuple):
    """A category without a status."""

    script: Script
    ours: str
    theirs: str
    ours_error: str
    theirs_error: str
    why: str = ""


VIOLATION = "protocol_violation terminal"
FORCED: dict[str, Forced] = {
    "PROTOCOL_VIOLATION, broken framing": Forced(
        Script(answers=(Answer(0, "text"),)), VIOLATION, VIOLATION, *("ServerRejection protocol_violation",) * 2
    ),
    "PROTOCOL_VIOLATION, poison": Forced(
        Script(reject=(Reject(0, 0x06, TEXT),)), VIOLATION, VIOLATION, *("ServerRejection protocol_violation",) * 2
    ),
    "SECURITY_ERROR, 401 behind a loss": Forced(
        Script(refuse=Refuse(401)),
        "security_error terminal",
        "",
        "AuthError",
        "AuthError",
        "theirs tells no handler of a refused upgrade, so that only who calls hears of it (observed.md 1, ours.md 29c)",
    ),
}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", FORCED)
def test_6_1_categories_without_a_status_are_terminal_whatever_is_asked(name: str, client: str) -> None:
    row, told = FORCED[name], Recorder()
    scripts = [Script(), row.script] if row.script.refuse is not None else [row.script]
    keys = TWO_STRIKES + "on_server_error=retriable;"
    with QwpServer(script=scripts) as server, opened(client, server.conf, keys, handler=told) as sender:
        if row.script.refuse is not None:
            assert sender.acked(sender.send(0), 5_000)
            server.drop_connections()
        with pytest.raises((SpoolqError, QuestDBError)) as caught:  # the row finds it out when it comes behind the 401
            sender.acked(sender.send(1), 10_000)
        assert named(caught.value) == (row.ours_error if client == OURS else row.theirs_error)
        if client == OURS:
            event = told.wait_for(lambda event: event.policy == "terminal")
            assert (_said(event), event.status) == (row.ours, 0x06 if "poison" in name else None)
        else:
            said = [_said(entry) for entry in sender.rejections()]
            assert ([text for text in said if text.endswith("terminal")] or [""]) == [row.theirs]


@pytest.mark.parametrize("name", FORCED)
def test_where_the_forced_ones_differ_the_row_says_why(name: str) -> None:
    row = FORCED[name]
    assert (row.ours != row.theirs) == bool(row.why)
