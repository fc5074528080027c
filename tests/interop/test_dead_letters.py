"""DLQ-06: the official client, as a sender and as a drainer, does not care about dead letters beside the slots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from spoolq.server import QwpServer
from spoolq.spool.dead_letters import DeadLetters
from spoolq.spool.files import Files
from tests.interop.slot_process import (
    NOWHERE,
    SENDER_ID,
    Ledger,
    Server,
    Writer,
    adopt,
    drain,
    left_in,
)
from tests.qwp.test_standalone import message_of, symbols_of


def letters(folder: Path, sender_id: str) -> dict[str, bytes]:
    """Three letters of a sender, whose symbols are nobody else's, and what a crash left half-made."""
    kept, symbols = DeadLetters(Files(), str(folder), sender_id, 1 << 20), symbols_of("old")
    for fsn in range(3):
        frame = message_of(symbols, "old", f"dead-{fsn}")
        kept.save(fsn, frame, symbols, status=3, category="schema_mismatch", text="no", time_micros=fsn)
    (Path(kept.directory) / f"{3:016d}-{3:016x}.qwp.tmp").write_bytes(b"half")
    return contents(folder, sender_id)


def contents(folder: Path, sender_id: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / f"{sender_id}.dead-letter").iterdir()}


def by_a_sender(server: Server, folder: Path, ledger: Ledger) -> None:
    drain("official", server.conf, folder, ledger)


@pytest.mark.parametrize("deliver", [by_a_sender, adopt])
def test_dlq_06_the_official_client_delivers_the_slot_and_lets_the_letters_be(
    tmp_path: Path, deliver: Callable[[Server, Path, Ledger], None]
) -> None:
    before = {sender_id: letters(tmp_path, sender_id) for sender_id in (SENDER_ID, "neighbour", "gone")}
    ledger = Ledger()
    with Writer("ours", NOWHERE, tmp_path, ledger, "close_flush_timeout_millis=0;") as writer:
        writer.write(20, (3, 1, 5))
        writer.close(drained=False)
    with QwpServer() as server:
        deliver(server, tmp_path, ledger)
        ledger.judge(server, whole=True)
        assert list(server.store.tables()) == list(dict.fromkeys(ledger.tables.values()))
    assert left_in(tmp_path) == []
    for sender_id, letters_before in before.items():
        assert contents(tmp_path, sender_id) == letters_before
    locks = tmp_path / ".slot-locks"
    assert not [name for name in (locks.iterdir() if locks.exists() else ()) if "dead-letter" in name.name]
