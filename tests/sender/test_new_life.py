"""A new slot life under a sender that runs on (ours.md 4): the ids of symbols begin anew when nothing waits.

`numbers` holds each row against its own symbol, as the strict server has read it; `Wire` shows which ids went over
which connection.  All of it in memory and on a slot, but where it is about files.

- at a drained idle point, above the limit and not at it: empty file, no catch-up, ids from 0, FSNs go on;
- the connection is left in order and at once, for the same endpoint; no WARN, no strike;
- rows right before and right after, with old and new symbols, by `row`, `rows`, a bound writer, while threads write;
- a buffered row, a frame that waits, a frame that comes first: no new life, nothing lost;
- three in a row; a reconnect afterwards tells new symbols only; the server away meanwhile;
- a full dictionary takes symbols again, and warns again;
- what was found at opening can be such a point; a kill afterwards leaves a slot that opens with the new ids;
- a dead letter of an earlier life is queued again with ids of this one;
- an error of the disk: the old life goes on, and a second later it is tried again;
- a catch-up that is being read; a frame that is published while the connection is still the old one;
- the modes that sync; nothing is due when it is over.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spoolq import Sender, SymbolDictionaryFull, TimestampMicros
from spoolq.errors import StorageError
from spoolq.qwp.decode import Dictionary, decode
from spoolq.qwp.layout import Status
from spoolq.server import QwpServer
from spoolq.spool.symbol_log import HEADER
from spoolq.testing import Reject, Script
from tests.sender.harness import Call, Recorder, keeper_rests, numbers, open_sender, publish, put, until

LARGE = 3  # more entries than that begin anew
SLOT = "sf_max_segment_bytes=4096;sf_max_total_bytes=1m;"


@pytest.fixture(params=["memory", "slot"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The end of a connect string."""
    return "" if request.param == "memory" else f"sf_dir={tmp_path};{SLOT}"


def opened(server: QwpServer[Any], extra: str = "", *, entries: int = LARGE, **arguments: Any) -> Sender:
    """A sender whose dictionary is large soon."""
    sender = open_sender(server, extra, **arguments)
    sender._engine.new_life.entries_max = entries
    return sender


def lives(sender: Sender) -> int:
    return sender._engine.new_life.life.number


def wait_for_life(server: QwpServer[Any], sender: Sender, number: int) -> None:
    """Until that many lives have begun and the connection is the newest one's."""
    until(lambda: lives(sender) == number and len(server.connections) == number + 1)


def sections(server: QwpServer[Any], connection: int) -> list[tuple[int, list[str]]]:
    """Start and entries of each frame's dictionary section; each message must decode on its connection alone.

    What was published before the connection was there is told by a catch-up first, and nothing else is.
    """
    dictionary, found = Dictionary(), []
    for message in server.connections[connection].messages:
        decoded = decode(message, dictionary)
        if decoded.tables:
            found.append((decoded.delta_start, decoded.symbols))
        else:
            assert not found, "a catch-up is what a connection begins with"
    return found


def caught_up(server: QwpServer[Any], connection: int) -> list[str]:
    """What the catch-up told."""
    dictionary = Dictionary()
    for message in server.connections[connection].messages:
        if decode(message, dictionary).tables:
            break
        known = list(dictionary.texts)
    return known


def texts(*values: int) -> list[str]:
    return [f"sym-{value}" for value in values]


def test_ours_4_ids_begin_anew_at_a_drained_idle_point(where: str, tmp_path: Path) -> None:
    with QwpServer() as server, opened(server, where) as sender:
        assert publish(sender, 0, 1, 2) == 0
        sender.wait()
        assert publish(sender, 1) == 1  # 3 entries are not more than 3
        sender.wait()
        assert (lives(sender), sender._engine.new_life.due) == (0, False)
        assert publish(sender, 3) == 2
        wait_for_life(server, sender, 1)
        assert (sender.published_fsn(), sender.acked_fsn()) == (2, 2)
        assert sender.await_acked_fsn(0, 0)
        assert len(sender._engine.rows.symbols) == 0
        if where:
            assert (tmp_path / "default" / ".symbol-dict").read_bytes() == HEADER
        assert publish(sender, 9, 1) == 3
        assert publish(sender, 9, 4) == 4
        sender.wait()
        assert numbers(server) == [0, 1, 2, 1, 3, 9, 1, 9, 4]
        assert sections(server, 0) == [(0, texts(0, 1, 2)), (3, []), (3, texts(3))]
        assert sections(server, 1) == [(0, texts(9, 1)), (2, texts(4))]
        assert server.connections[0].close_code == 1000
        assert sender.stats().frames_unacked == 0


def test_ours_4_three_lives_and_a_reconnect_tells_the_symbols_of_the_newest(where: str) -> None:
    with QwpServer() as server, opened(server, where) as sender:
        for life in range(3):
            publish(sender, *range(4 * life, 4 * life + 4))
            wait_for_life(server, sender, life + 1)
        publish(sender, 0, 20)
        sender.wait()
        server.drop_connections()
        server.wait_for(lambda: len(server.connections) == 5)
        assert publish(sender, 21) == 4
        sender.wait()
        assert numbers(server) == [*range(12), 0, 20, 21]
        assert [sections(server, life) for life in range(3)] == [
            [(0, texts(*range(4 * life, 4 * life + 4)))] for life in range(3)
        ]
        assert sections(server, 3) == [(0, texts(0, 20))]
        assert caught_up(server, 4) in (texts(0, 20), texts(0, 20, 21)), "the frame may have come before it"
        assert sections(server, 4) == [(2, texts(21))]
        assert lives(sender) == 3


def test_ours_4_the_connection_is_left_in_order_at_once_and_for_the_same_endpoint(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Another endpoint would be next in this round; a pause would be the longest there is."""
    told = Recorder()
    with QwpServer() as server, QwpServer() as other:
        conf = f"ws::addr=127.0.0.1:{server.port},127.0.0.1:{other.port};"
        slow = "reconnect_initial_backoff_millis=60000;reconnect_max_backoff_millis=60000;"
        sender = open_sender(conf, slow + where, listener=told)
        sender._engine.new_life.entries_max = LARGE
        with sender:
            publish(sender, 0, 1, 2, 3)
            wait_for_life(server, sender, 1)
            told.wait_for(lambda event: event.kind == "reconnected")
            publish(sender, 4)
            sender.wait()
            assert told.kinds() == ["connected", "disconnected", "reconnected"]
            assert (len(server.connections), len(other.connections)) == (2, 0)
            assert sender.stats().total_server_errors == 0
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_ours_4_a_buffered_row_and_a_frame_that_waits_are_no_idle_point(where: str) -> None:
    with QwpServer() as server, opened(server, where) as sender:
        server.hold_acks()
        publish(sender, 0, 1, 2, 3)
        put(sender, 4)
        rows, new_life = sender._engine.rows, sender._engine.new_life
        assert not new_life.wanted_now(), "a frame waits"
        with rows:  # as the keeper does it, which finds the lock taken
            server.release_acks()
            until(lambda: new_life.due)
            assert not new_life.begin(), "a row is buffered"
            assert not new_life.due
        assert lives(sender) == 0
        sender.flush()  # brings a new one, and then all is drained
        wait_for_life(server, sender, 1)
        publish(sender, 5, 0)
        sender.wait()
        assert numbers(server) == [0, 1, 2, 3, 4, 5, 0]


def test_ours_4_a_frame_that_comes_first_is_not_lost(where: str) -> None:
    """Between "drained" and "begin": the keeper finds the lock taken, and then a frame that waits."""
    with QwpServer() as server, opened(server, where) as sender:
        engine = sender._engine
        server.hold_acks()
        publish(sender, 0, 1, 2, 3)
        put(sender, 4)
        with engine.rows:
            server.release_acks()
            until(lambda: engine.new_life.due)  # it is drained, and the keeper waits for the lock
            server.hold_acks()
            engine.publisher.publish()
            assert not engine.new_life.begin()
            assert lives(sender) == 0
        server.release_acks()
        wait_for_life(server, sender, 1)
        publish(sender, 5)
        sender.wait()
        assert numbers(server) == list(range(6))


def test_ours_4_writers_of_many_kinds_while_lives_begin(where: str) -> None:
    """Four threads, each waiting for its frames now and then, so that lives begin between; every row is its own."""
    with QwpServer() as server, opened(server, where, entries=8) as sender:
        bound = sender.table("t", symbols=["s"], columns=["n"])

        def write(thread: int, first: int) -> None:
            for step in range(first, first + 12):
                value = 1_000 * thread + (step if step % 3 else step // 7)
                at = TimestampMicros(value + 1)
                if step % 3 == 0:
                    put(sender, value)
                elif step % 3 == 1:
                    bound.row(f"sym-{value}", value, at=at)
                else:
                    sender.rows("t", [(f"sym-{value}", value, at)], symbols=["s"], columns=["n"])
                sender.flush()
                if step % 4 == 0:
                    sender.wait()

        for turn in range(6):
            before = lives(sender)
            for call in [Call(write, thread, 12 * turn) for thread in range(4)]:
                call.outcome()
            sender.flush()  # what a racing flush of another thread has left
            until(lambda before=before: lives(sender) > before)  # type: ignore[misc]
        sender.wait()
        found = numbers(server)
        assert sorted(found) == sorted(
            1_000 * thread + (step if step % 3 else step // 7) for thread in range(4) for step in range(72)
        )
        for record in range(len(server.connections)):
            sections(server, record)


def test_ours_4_a_full_dictionary_takes_symbols_again_and_warns_again(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    with QwpServer() as server, opened(server, where, entries=5) as sender:
        sender._engine.rows.symbols._max_entries = 6
        for life in range(2):
            server.hold_acks()
            publish(sender, *range(10 * life, 10 * life + 6))
            with pytest.raises(SymbolDictionaryFull, match="6 of 6 entries"):
                put(sender, 10 * life + 7)
            server.release_acks()
            wait_for_life(server, sender, life + 1)
            assert len([record for record in caplog.records if "when full" in record.message]) == life + 1
        publish(sender, 7)
        sender.wait()
        assert numbers(server) == [*range(6), *range(10, 16), 7]


def test_ours_4_the_byte_trigger_measures_the_new_symbols(where: str) -> None:
    """The row buffer knows how many bytes of the dictionary are published; that begins anew with it."""
    with QwpServer() as server, opened(server, where + "auto_flush=on;auto_flush_bytes=4000;") as sender:
        for value in range(4):
            sender.row("t", symbols={"s": f"{value}" * 900}, columns={"n": value}, at=TimestampMicros(1))
        sender.flush()
        wait_for_life(server, sender, 1)
        fsn = sender.published_fsn()
        for value in range(4, 9):
            sender.row("t", symbols={"s": f"{value}" * 900}, columns={"n": value}, at=TimestampMicros(1))
        assert sender.published_fsn() != fsn
        sender.flush(wait=True)
        assert [row["s"] for row in server.store.rows("t")] == [f"{value}" * 900 for value in range(9)]


def test_ours_4_the_server_is_away_when_the_connection_is_left(where: str) -> None:
    with QwpServer() as server, opened(server, where) as sender:
        server.refuse_new(503)
        publish(sender, 0, 1, 2, 3)
        until(lambda: lives(sender) == 1)
        publish(sender, 4, 0)
        publish(sender, 5)
        server.accept_new()
        sender.wait()
        assert numbers(server) == [0, 1, 2, 3, 4, 0, 5]
        assert (caught_up(server, -1), sections(server, -1)) == (texts(4, 0, 5), [(0, texts(4, 0)), (2, texts(5))])


def test_ours_4_invariant_33_a_frame_published_at_once_never_goes_over_the_old_connection(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop has a run of the new life in its hands before it has seen the new life begin."""
    with QwpServer() as server, opened(server, where) as sender:
        loop = sender._engine.loop
        assert loop is not None
        # It does not see the new life where it looks first, only behind the run.
        monkeypatch.setattr(type(loop), "_wait_and_look", _blind(type(loop)._wait_and_look))
        publish(sender, 0, 1, 2, 3)
        until(lambda: lives(sender) == 1)
        publish(sender, 4, 0)
        sender.wait()
        assert numbers(server) == [0, 1, 2, 3, 4, 0]
        assert sections(server, 1) == [(0, texts(4, 0))]


def _blind(look: Any) -> Any:
    def wait_and_look(loop: Any) -> None:
        loop._is_of_an_older_life = lambda: False
        look(loop)
        del loop._is_of_an_older_life

    return wait_and_look


def test_ours_4_the_ids_do_not_change_while_a_catch_up_reads_them(where: str) -> None:
    """What it belongs to is told old ids and left; a life that is due waits for it, or has begun before it."""
    with QwpServer() as server, opened(server, where, entries=1_000) as sender:
        engine = sender._engine
        publish(sender, 0, 1, 2, 3)
        sender.wait()
        held, original, loop = list[bool](), engine._catch_up, engine.loop
        assert loop is not None

        def watched(cap_nbytes: int) -> Iterator[bytes]:
            for message in original(cap_nbytes):
                engine.new_life.entries_max = LARGE
                if engine.new_life.wanted_now():
                    engine.keeper.wake()
                held.append(engine.new_life.life.lock.locked())
                yield message

        loop._catch_up = watched
        server.drop_connections()
        until(lambda: lives(sender) == 1)
        assert held == [True]
        publish(sender, 5, 1)
        sender.wait()
        assert numbers(server) == [0, 1, 2, 3, 5, 1]
        assert sections(server, -1) == [(0, texts(5, 1))]


def test_ours_4_a_slot_that_is_drained_already_when_it_is_opened(tmp_path: Path) -> None:
    """Left by a kill behind the last acknowledgement."""
    conf = f"sf_dir={tmp_path / 'a'};{SLOT}"
    with QwpServer() as server:
        with opened(server, conf, entries=1_000) as sender:
            publish(sender, 0, 1, 2, 3)
            sender.wait()
            until(lambda: keeper_rests(sender))  # the watermark is stored
            shutil.copytree(tmp_path / "a", tmp_path / "b")
        with _limit(LARGE), open_sender(server, f"sf_dir={tmp_path / 'b'};{SLOT}") as sender:
            until(lambda: lives(sender) == 1)
            assert publish(sender, 7) == 1
            sender.wait()
            assert sections(server, -1)[-1] == (0, texts(7))
        assert numbers(server) == [0, 1, 2, 3, 7]


class _limit:
    """The limit for senders that are opened in the block."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> None:
        from spoolq import limits

        self._patch.setattr(limits, "DICTIONARY_RESTART_ENTRIES", self._entries)

    def __exit__(self, *_: object) -> None:
        self._patch.undo()


@pytest.mark.parametrize("frames", [0, 1, 3])
def test_ours_4_a_kill_afterwards_leaves_a_slot_that_goes_on_with_the_new_ids(tmp_path: Path, frames: int) -> None:
    with QwpServer() as server:
        with opened(server, f"sf_dir={tmp_path / 'a'};{SLOT}") as sender:
            publish(sender, 0, 1, 2, 3)
            wait_for_life(server, sender, 1)
            server.hold_acks()
            for value in range(frames):
                publish(sender, 10 + value)
            until(lambda: keeper_rests(sender))  # a copy takes its time: nothing may change meanwhile
            shutil.copytree(tmp_path / "a", tmp_path / "b")
            server.release_acks()
        server.store.clear()
        with open_sender(server, f"sf_dir={tmp_path / 'b'};{SLOT}") as sender:
            assert sender.recovery is not None
            assert (sender.recovery.warnings, sender.recovery.frames_remaining) == ((), frames)
            assert publish(sender, 1, 10) == 1 + frames
            sender.wait()
        assert numbers(server) == [*range(10, 10 + frames), 1, 10]


def test_ours_4_a_dead_letter_of_an_earlier_life_is_queued_with_ids_of_this_one(tmp_path: Path) -> None:
    script = Script(reject=(Reject(1, Status.WRITE_ERROR),))
    drop = f"sf_dir={tmp_path};{SLOT}on_write_error=drop;"
    with QwpServer(script=[script, Script()]) as server, opened(server, drop, entries=4) as sender:
        publish(sender, 0, 1)
        publish(sender, 2)
        sender.wait()
        publish(sender, 3, 4)
        until(lambda: lives(sender) == 1)
        publish(sender, 9)
        (letter,) = sender.dead_letters()
        sender.requeue(letter)
        sender.wait()
        assert numbers(server) == [0, 1, 3, 4, 9, 2]
        assert sections(server, -1) == [(0, texts(9)), (1, texts(2))]


def test_ours_4_an_error_of_the_disk_keeps_the_old_life_and_it_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spoolq.runtime.keeper._LIFE_RETRY_MILLIS", 20)
    failed = threading.Event()
    with QwpServer() as server, opened(server, f"sf_dir={tmp_path};{SLOT}") as sender:
        store: Any = sender._engine.store
        files, path = store._files, str(tmp_path / "default" / ".symbol-dict")
        truncate = files.truncate

        def failing(file: Any, nbytes: int) -> None:
            if file.path == path and not failed.is_set():
                failed.set()
                raise StorageError("the disk is sick", filename=path)
            truncate(file, nbytes)

        files.truncate = failing
        publish(sender, 0, 1, 2, 3)
        wait_for_life(server, sender, 1)
        assert failed.is_set()
        assert any("cannot begin anew" in record.message for record in caplog.records)
        publish(sender, 4, 0)
        sender.wait()
        assert numbers(server) == [0, 1, 2, 3, 4, 0]


@pytest.mark.parametrize("mode", ["periodic", "flush", "append"])
def test_ours_4_in_the_modes_that_sync(tmp_path: Path, mode: str) -> None:
    with QwpServer() as server, opened(server, f"sf_dir={tmp_path};{SLOT}sf_durability={mode};") as sender:
        for life in range(2):
            publish(sender, *range(4 * life, 4 * life + 4))
            wait_for_life(server, sender, life + 1)
        fsn = publish(sender, 20, 0)
        assert sender.await_synced_fsn(fsn, 10_000)
        sender.wait()
        assert numbers(server) == [*range(8), 20, 0]


def test_ours_4_it_is_over_when_it_has_begun_and_a_closing_sender_begins_none(where: str) -> None:
    """An idle sender makes no system call: nothing is due any more."""
    with QwpServer() as server, opened(server, where) as sender:
        publish(sender, 0, 1, 2, 3)
        wait_for_life(server, sender, 1)
        new_life, progress = sender._engine.new_life, sender._engine.progress
        assert sender._engine.keeper._when_to_live_anew() is None
        new_life.entries_max = 1_000
        publish(sender, 4, 5, 6, 7)
        sender.wait()
        with sender._engine.rows:  # the keeper, should it look, begins none before we have seen it
            new_life.entries_max = LARGE
            for closing in (True, False):
                progress.closing = closing
                assert new_life.wanted_now()
                assert new_life.due is not closing
