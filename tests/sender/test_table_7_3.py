"""The table of behaviour.md 7.3: how a drainer ends, and which note it leaves in the slot; both clients side by side.

A slot of two frames that another sender left, and a sender with ``drain_orphans=on`` beside it.  Each case is run
with both clients.  ``note`` is the file that is in the slot then: ``.failed`` (nobody adopts it again), ``.last_error``
(news), or none.  The official client writes ``.failed`` in none of `CASES`: what a server says is news to it, and
only damage that it has proven itself would count (slot.md invariant 39); it shows no outcomes.  ``why`` says why the
two differ where they do, and only there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from spoolq import Sender
from spoolq.testing import Answer, QwpServer, Refuse, Reject, Script
from tests.server.official import never
from tests.spool.recovered import usual

from .beside import CLIENTS, OURS, opened
from .test_on_a_slot import NOBODY, put

SLOT = "left"
NOTES = (".failed", ".last_error")
_CONNECTIONS_ENOUGH = 6  # tried on and on


class Case(NamedTuple):
    """One row.  The first connection is the sender's own, the script is for those of its drainer."""

    spec: str
    script: Script
    ours: str | None  # outcome; None: not given up, tried on
    note: str
    theirs_note: str
    ours_keys: str = ""
    tried_on: bool | None = None  # whether connections go on; None: does not matter
    theirs_tried_on: bool | None = None
    landed: bool = False  # whether the server has the rows
    why: str = ""


FAILED = "FAILED: gave up; .failed with reason (D-22, ours.md 20)"
TROUBLE = "transport trouble retries with backoff for the life of the sender"
VERDICT = (
    "a terminal verdict on a stored frame will be the same tomorrow: the operator is told by a file that stops every "
    "adopter (ours.md 20 b); theirs leaves it for each later sender to run into again"
)
LASTED = "credentials that were refused for drainer_give_up_millis need an operator (ours.md 20 c)"
BUDGET = "an outage budget is a key of ours alone (ours.md 25)"
AGAIN = (
    "broken framing is the server's, not the frame's: tried again (slot.md invariant 39); theirs ends the attempt for "
    "the life of its sender"
)
CASES: dict[str, Case] = {
    "SUCCESS": Case("SUCCESS: drained; no sentinel", Script(), "success", "", "", landed=True),
    "FAILED: terminal rejection": Case(
        FAILED,
        Script(reject=(Reject(0, 0x03, "no"), Reject(1, 0x03, "no"))),
        "failed",
        ".failed",
        ".last_error",
        tried_on=False,
        theirs_tried_on=False,
        why=VERDICT,
    ),
    "refused credentials": Case(
        "auth, until it has lasted: .last_error (ours.md 20)",
        Script(refuse=Refuse(401)),
        None,
        ".last_error",
        ".last_error",
        tried_on=True,
        theirs_tried_on=True,
    ),
    "FAILED: refused credentials that lasted": Case(
        FAILED,
        Script(refuse=Refuse(401)),
        "failed",
        ".failed",
        ".last_error",
        ours_keys="drainer_give_up_millis=0;",
        theirs_tried_on=True,
        why=LASTED,
    ),
    "transport trouble": Case(
        TROUBLE, Script(refuse=Refuse(503)), None, ".last_error", ".last_error", tried_on=True, theirs_tried_on=True
    ),
    "FAILED: transport trouble with a budget": Case(
        "unless the opt-in budget is set, then FAILED with the 5.5 tag",
        Script(refuse=Refuse(503)),
        "failed",
        ".failed",
        ".last_error",
        ours_keys="outage_budget_millis=1;drainer_give_up_millis=0;",
        theirs_tried_on=True,
        why=BUDGET,
    ),
    "broken framing": Case(
        "PROTOCOL_VIOLATION",
        Script(answers=(Answer(0, "text"),)),
        None,
        ".last_error",
        ".last_error",
        tried_on=True,
        theirs_tried_on=False,
        landed=True,
        why=AGAIN,
    ),
}


def files_of(root: Path) -> set[str]:
    return {name for name in os.listdir(root / SLOT) if not name.startswith(".lock")}


def note(root: Path) -> str:
    """The stronger one of the two notes."""
    return next((name for name in NOTES if name in files_of(root)), "")


def is_drained(root: Path) -> bool:
    return not any(name.endswith(".sfa") for name in files_of(root))


def leave(root: Path) -> None:
    """A slot of two frames."""
    with Sender.from_conf(NOBODY, sf_dir=root, sender_id=SLOT) as sender:
        put(sender, 1)
        put(sender, 2)


def keys_of(root: Path) -> str:
    return f"sf_dir={root};sender_id=me;drain_orphans=on;"


def patiently(server: QwpServer[Any], predicate: Callable[[], Any]) -> None:
    """Waits for something that no thread of the test is told of: files of another client."""
    for _ in range(500):
        with suppress(TimeoutError):
            server.wait_for(predicate, 0.02)
            return
    raise AssertionError("it did not come to that")


def outcome(sender: Sender) -> str | None:
    (status,) = sender.background_drainers()
    return status.outcome


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("row", CASES.values(), ids=CASES)
def test_7_3_how_a_drainer_ends(tmp_path: Path, row: Case, client: str) -> None:
    leave(tmp_path)
    keys = keys_of(tmp_path) + (row.ours_keys if client == OURS else "")
    wanted = row.note if client == OURS else row.theirs_note
    tried_on = row.tried_on if client == OURS else row.theirs_tried_on
    with QwpServer(script=[Script(), row.script]) as server:
        if row.landed:
            server.hold_acks()  # an answer to the first frame may end it before the second one is out
        with opened(client, server.conf, keys) as sending:

            def ended() -> bool:
                if client == OURS and row.ours is not None:
                    return outcome(sending.sender) is not None
                if tried_on and len(server.connections) < _CONNECTIONS_ENOUGH:
                    return False
                return is_drained(tmp_path) if row.ours == "success" else note(tmp_path) == wanted

            if row.landed:
                server.wait_for_rows("t", 2)
                server.release_acks()
            patiently(server, ended)
            if client == OURS:
                assert outcome(sending.sender) == row.ours
            if tried_on is False:
                assert len(server.connections) == 2
            assert note(tmp_path) == wanted
            assert is_drained(tmp_path) == (row.ours == "success")
            assert (server.store.count("t") >= 2) == row.landed


@pytest.mark.parametrize("row", CASES.values(), ids=CASES)
def test_where_they_differ_the_row_says_why(row: Case) -> None:
    differ = (row.note, row.tried_on or row.ours_keys) != (row.theirs_note, row.theirs_tried_on or row.ours_keys)
    assert differ == bool(row.why)


@pytest.mark.parametrize("client", CLIENTS)
def test_7_3_locked_by_other_leaves_no_note(tmp_path: Path, client: str) -> None:
    """LOCKED_BY_OTHER: someone else owns it; none.  Both clients."""
    with Sender.from_conf(NOBODY, sf_dir=tmp_path, sender_id=SLOT) as alive:
        put(alive, 1)
        with QwpServer() as server, opened(client, server.conf, keys_of(tmp_path)) as sending:
            if client == OURS:
                patiently(server, lambda: outcome(sending.sender) == "locked_by_other")
            else:
                never(server, lambda: len(server.connections) > 1)
            assert (note(tmp_path), is_drained(tmp_path)) == ("", False)
            assert len(server.connections) == 1


@pytest.mark.parametrize("client", CLIENTS)
def test_7_3_stopped_leaves_no_failed(tmp_path: Path, client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """STOPPED: sender closed first; none.  A stop request never writes .failed.  Both clients."""
    monkeypatch.setattr("spoolq.runtime.drainers.GRACE_MILLIS", 20)
    leave(tmp_path)
    with QwpServer(script=[Script(), Script(no_ack=True)]) as server:
        with opened(client, server.conf, keys_of(tmp_path)) as sending:
            server.wait_for_rows("t", 2)
        if client == OURS:
            assert outcome(sending.sender) == "stopped"
        server.wait_for(lambda: all(record.closed_by for record in server.connections))
    assert (note(tmp_path), is_drained(tmp_path)) == ("", False)


@pytest.mark.parametrize("client", CLIENTS)
def test_7_3_proven_damage_is_failed(tmp_path: Path, client: str) -> None:
    """FAILED for an unreplayable slot: a segment is gone.  Both clients write .failed, and no frame is sent."""
    slot = usual().write(tmp_path / SLOT)
    (slot / "sf-0000000000000000.sfa").unlink()
    with QwpServer() as server, opened(client, server.conf, keys_of(tmp_path)) as sending:
        if client == OURS:
            patiently(server, lambda: outcome(sending.sender) == "failed")
        patiently(server, lambda: note(tmp_path) == ".failed")
        assert server.message_count == 0
        assert len(server.connections) == 1


@pytest.mark.parametrize("client", CLIENTS)
def test_7_3_failed_by_hand_is_honoured(tmp_path: Path, client: str) -> None:
    """Operators clear .failed by deleting it.  Both clients."""
    leave(tmp_path)
    (tmp_path / SLOT / ".failed").write_text("by hand", encoding="ascii")
    with QwpServer() as server:
        with opened(client, server.conf, keys_of(tmp_path)):
            never(server, lambda: len(server.connections) > 1)
        (tmp_path / SLOT / ".failed").unlink()
        with opened(client, server.conf, keys_of(tmp_path)):
            patiently(server, lambda: is_drained(tmp_path))
        assert server.store.count("t") == 2
