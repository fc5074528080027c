"""Ctrl-C at every place of what the producer does in a slot (ours.md 33): it is done, or nothing of it is left.

A caller that is interrupted either knows that its frame is published (`published_fsn`), or repeats it.
`tests.interrupts` says what a place is; tests/sender/test_interrupt_anywhere.py does the same from outside.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from spoolq.columns.symbols import SymbolTable
from spoolq.spool.disk import DiskStore
from spoolq.spool.files import Files
from spoolq.spool.symbol_log import SymbolLog, read_symbols
from tests.interrupts import Interrupt, interrupt_at

from .disk_slot import fresh, payload_of, put, replay
from .files_double import RecordingFiles, UnsyncedFiles

LARGE = 100_000  # above what goes through the mapping


def _interrupted_publish(store: DiskStore, payload: bytes, place: int) -> Interrupt:
    """As `Publisher` does it: what is not published is taken back."""
    fsn = store.published_fsn + 1
    room = store.reserve(len(payload))
    assert room is not None
    room.view[:] = payload
    try:
        with interrupt_at(place) as interrupt:
            store.publish(room)
    finally:
        if store.published_fsn < fsn:
            store.abandon(room)
    return interrupt


@pytest.mark.parametrize("files", [UnsyncedFiles, RecordingFiles], ids=["mapped", "not mapped"])
def test_33_a_frame_whose_writing_is_interrupted_is_published_or_gone(tmp_path: Path, files: type[Files]) -> None:
    """Counted and not published it would come back with the next one: its rows twice, and no error says so."""
    for place in itertools.count(1):
        store = fresh(files(), tmp_path / str(place), segment=4 * LARGE, total=10 * LARGE)
        wanted = [payload_of(0, LARGE)]
        put(store, wanted[0])
        interrupt = _interrupted_publish(store, payload_of(1, LARGE), place)
        if store.published_fsn == 1:
            wanted.append(payload_of(1, LARGE))
        wanted.append(payload_of(2, LARGE))
        assert put(store, wanted[-1]) == len(wanted) - 1, interrupt.where
        assert replay(store, 0) == wanted, interrupt.where
        store.acknowledge(store.published_fsn)
        store.close()
        if interrupt.passed:
            assert place > 10
            return


def test_33_invariant_30_symbols_whose_writing_is_interrupted_are_counted_or_gone(tmp_path: Path) -> None:
    """Stored and not counted they would be stored twice; then no reader trusts the file, and the slot may be lost."""
    table = SymbolTable()
    for text in ("a", "b", "c", "d"):
        table.intern(text)
    for place in itertools.count(1):
        slot = tmp_path / str(place)
        slot.mkdir()
        log = SymbolLog.create(UnsyncedFiles(), str(slot))
        log.write_ahead(table, 0, 1)
        with interrupt_at(place) as interrupt:
            log.write_ahead(table, 1, 3)
        assert len(read_symbols(Files(), str(slot)).table) == log.count, interrupt.where
        log.write_ahead(table, min(log.count, 3), 4)
        log.close()
        found = read_symbols(Files(), str(slot))
        assert (found.state, found.rest, list(found.table.ids)) == ("valid", "none", ["a", "b", "c", "d"]), (
            interrupt.where
        )
        if interrupt.passed:
            assert place > 5
            return
