"""Sequences, the rhythm of OKs, errors, commit groups and durable acks (wire.md 5, 6), from a raw socket."""

from __future__ import annotations

import struct

import pytest

from spoolq.qwp.layout import Status
from spoolq.qwp.responses import DurableAck, ErrorFrame, Ok
from spoolq.server import MemoryStore, QwpServer, Reject, Script, ServerOptions
from spoolq.server.processor import Processor
from spoolq.server.schema import Fitted
from spoolq.server.store import StoreFault

from .raw_client import (
    BINARY,
    DEFER,
    DELTA,
    EMPTY,
    EMPTY_DEFERRED,
    RawClient,
    block,
    error_of,
    frame,
    longs,
    message,
    ok,
    one_row,
)

DEFERRED = DELTA | DEFER
BAD = b"QWP2" + one_row()[4:]


def burst(*payloads: bytes) -> bytes:
    return b"".join(frame(BINARY, payload) for payload in payloads)


def connect(server: QwpServer, **headers: str) -> RawClient:
    client = RawClient(server.port)
    client.upgrade(**headers)
    return client


class TestRhythm:
    def test_an_ok_covers_what_one_read_brought(self) -> None:
        with QwpServer() as server, connect(server) as client:
            client.send(burst(*(one_row() for _ in range(3))))
            assert client.answer() == ok(2, ("t", 3))
            client.send(burst(one_row("u")))
            assert client.answer() == ok(3, ("u", 1))

    def test_an_ok_after_eight_frames(self) -> None:
        with QwpServer() as server, connect(server) as client:
            client.send(burst(*(one_row(f"t{n % 2}") for n in range(19))))
            assert client.answer() == ok(7, ("t0", 4), ("t1", 4))
            assert client.answer() == ok(15, ("t0", 8), ("t1", 8))
            assert client.answer() == ok(18, ("t0", 10), ("t1", 9))

    def test_an_empty_message_is_acknowledged(self) -> None:
        with QwpServer() as server, connect(server) as client:
            client.message(EMPTY)
            assert client.answer() == ok(0)
            client.message(bytes.fromhex("515750310100000000000000"))
            assert client.answer() == ok(1)

    def test_a_dictionary_only_message_is_acknowledged(self) -> None:
        with QwpServer() as server, connect(server) as client:
            client.message(bytes.fromhex("515750310108 0000 0A000000 0002 03455448 03425443"))
            assert client.answer() == ok(0)
            client.message(message(block("t", 1, ("s", 9, b"\0\1"))))
            assert client.answer() == ok(1, ("t", 1))
            assert server.store.rows("t")[0]["s"] == "BTC"

    def test_the_dictionary_starts_anew_with_each_connection(self) -> None:
        with QwpServer() as server:
            with connect(server) as client:
                client.message(message(dictionary=(0, ["a"])))
                assert client.answer() == ok(0)
            with connect(server) as client:
                client.message(message(dictionary=(1, ["b"])))
                assert error_of(client.answer())[:2] == (0x0D, 0)

    def test_two_tables_in_one_message(self) -> None:
        with QwpServer() as server, connect(server) as client:
            client.message(message(block("a", 1, ("v", 5, longs(1))), block("b", 2, ("v", 5, longs(2, 3)))))
            assert client.answer() == ok(0, ("a", 1), ("b", 1))
            assert (server.store.count("a"), server.store.count("b")) == (1, 2)


class TestErrors:
    def test_an_ok_goes_before_the_error(self) -> None:
        with QwpServer() as server, connect(server) as client:
            client.send(burst(one_row(), one_row(), BAD))
            assert client.answer() == ok(1, ("t", 2))
            assert error_of(client.answer()) == (0x05, 2, "invalid magic bytes")

    def test_latched_later_frames_count_and_have_no_effect_and_no_answer(self) -> None:
        with QwpServer() as server, connect(server) as client:
            client.send(burst(BAD, one_row(), BAD, EMPTY))
            assert error_of(client.answer())[:2] == (0x05, 0)
            assert client.ping() == []
            client.send(burst(one_row()))
            assert client.ping() == []
            assert server.store.tables() == []
            assert server.connections[0].message_count == 5

    def test_lenient_the_next_frame_is_processed(self) -> None:
        with QwpServer(latched=False) as server, connect(server) as client:
            client.send(burst(BAD, one_row(), BAD))
            assert error_of(client.answer())[:2] == (0x05, 0)
            assert client.answer() == ok(1, ("t", 1))
            assert error_of(client.answer())[:2] == (0x05, 2)

    def test_a_refused_message_leaves_no_row_of_its_earlier_blocks(self) -> None:
        wrong = message(block("a", 1, ("v", 5, longs(1))), block("b", 1, ("v", 0x19, longs(1))))
        with QwpServer(latched=False) as server, connect(server) as client:
            client.message(wrong)
            assert error_of(client.answer())[:2] == (0x05, 0)
            client.message(EMPTY)
            assert client.answer() == ok(1)
            assert server.store.count("a") == 0

    def test_an_error_rolls_back_the_open_group(self) -> None:
        with QwpServer(latched=False) as server, connect(server) as client:
            client.send(burst(one_row(flags=DEFERRED), BAD))
            assert error_of(client.answer())[:2] == (0x05, 1)
            client.message(EMPTY)
            assert client.answer() == ok(2)
            assert server.store.count("t") == 0

    def test_dictionary_entries_of_a_refused_message_stay(self) -> None:
        wrong = message(block("t", 1, ("s", 9, b"\0\5")), dictionary=(0, ["a", "b"]))
        with QwpServer(latched=False) as server, connect(server) as client:
            client.message(wrong)
            assert error_of(client.answer())[:2] == (0x05, 0)
            client.message(message(block("t", 1, ("s", 9, b"\0\1"))))
            assert client.answer() == ok(1, ("t", 1))
            assert server.store.rows("t")[0]["s"] == "b"

    @pytest.mark.parametrize("status", [0x03, 0x05, 0x06, 0x08, 0x09, 0x0C, 0x0D, 0x7F])
    def test_a_frame_refused_by_script(self, status: int) -> None:
        script = Script(reject=(Reject(frame=1, status=status, text="no"),))
        with QwpServer(script=script) as server, connect(server) as client:
            client.send(burst(one_row(), one_row(), one_row()))
            assert client.answer() == ok(0, ("t", 1))
            assert error_of(client.answer()) == (status, 1, "no")
            assert client.ping() == []

    def test_a_frame_refused_by_script_keeps_its_symbols(self) -> None:
        with QwpServer(script=Script(reject=(Reject(frame=0),)), latched=False) as server, connect(server) as client:
            client.message(message(dictionary=(0, ["a"])))
            assert error_of(client.answer())[:2] == (0x06, 0)
            client.message(message(block("t", 1, ("s", 9, b"\0\0")), dictionary=(1, [])))
            assert client.answer() == ok(1, ("t", 1))

    def test_a_long_text_is_cut(self) -> None:
        script = Script(reject=(Reject(frame=0, text="é" * 600),))
        with QwpServer(script=script) as server, connect(server) as client:
            client.message(one_row())
            assert error_of(client.answer())[2] == "é" * 512


class TestGroups:
    def test_deferred_frames_wait_and_the_closing_frame_is_acknowledged_at_once(self) -> None:
        with QwpServer() as server, connect(server) as client:
            client.send(burst(*(one_row(flags=DEFERRED) for _ in range(10))))
            assert client.ping() == []
            assert server.store.count("t") == 0
            client.send(burst(one_row("u"), one_row("v")))
            assert client.answer() == ok(10, ("t", 1), ("u", 1))
            assert client.answer() == ok(11, ("v", 1))
            assert server.store.count("t") == 10

    @pytest.mark.parametrize("opening", [one_row(flags=DEFERRED), EMPTY_DEFERRED])
    def test_the_closing_frame_does_not_wait_for_what_came_with_it(self, opening: bytes) -> None:
        with QwpServer() as server, connect(server) as client:
            client.send(burst(opening, one_row("u"), one_row("v")))
            assert client.answer()[:9] == ok(1)[:9]
            assert client.answer() == ok(2, ("v", 1))

    def test_an_empty_message_closes_a_group(self) -> None:
        with QwpServer() as server, connect(server) as client:
            client.send(burst(one_row(flags=DEFERRED), EMPTY))
            assert client.answer() == ok(1, ("t", 1))

    def test_a_deferred_frame_without_rows_is_covered_by_the_next_commit_only(self) -> None:
        with QwpServer() as server, connect(server) as client:
            client.send(burst(EMPTY_DEFERRED))
            assert client.ping() == []
            client.send(burst(message(flags=DEFERRED, dictionary=(0, ["a"]))))
            assert client.ping() == []
            client.send(burst(one_row()))
            assert client.answer() == ok(2, ("t", 1))

    def test_a_lost_connection_rolls_the_group_back(self) -> None:
        with QwpServer() as server:
            with connect(server) as client:
                client.send(burst(one_row(flags=DEFERRED)))
                assert client.ping() == []
            server.wait_for(lambda: server.connections[0].closed_by)
            assert server.store.count("t") == 0

    def test_above_the_uncommitted_cap_a_table_is_committed_early(self) -> None:
        with QwpServer(uncommitted_rows_max=2) as server, connect(server) as client:
            client.send(burst(*(one_row(flags=DEFERRED) for _ in range(2))))
            assert client.ping() == []
            client.send(burst(one_row(flags=DEFERRED)))
            assert client.answer() == ok(2, ("t", 1))  # nothing is left uncommitted
            assert server.store.count("t") == 3

    def test_an_early_commit_acknowledges_nothing_while_another_table_waits(self) -> None:
        with QwpServer(uncommitted_rows_max=1) as server, connect(server) as client:
            client.send(burst(one_row("u", flags=DEFERRED), *(one_row(flags=DEFERRED) for _ in range(2))))
            assert client.ping() == []
            assert (server.store.count("t"), server.store.count("u")) == (2, 0)
            client.send(burst(EMPTY))
            assert client.answer() == ok(3, ("t", 1), ("u", 1))

    def test_rows_committed_early_survive_an_error(self) -> None:
        with QwpServer(uncommitted_rows_max=1) as server, connect(server) as client:
            client.send(burst(*(one_row(flags=DEFERRED) for _ in range(2)), BAD))
            assert client.answer() == ok(1, ("t", 1))
            assert error_of(client.answer())[:2] == (0x05, 2)
            assert server.store.count("t") == 2

    def test_a_column_that_is_added_counts_as_a_transaction(self) -> None:
        with QwpServer() as server, connect(server) as client:
            client.message(message(block("t", 1, ("a", 5, longs(1)))))
            assert client.answer() == ok(0, ("t", 1))
            client.message(message(block("t", 1, ("b", 5, longs(1)))))
            assert client.answer() == ok(1, ("t", 3))


def durable(*entries: tuple[str, int]) -> bytes:
    out = struct.pack("<BH", 2, len(entries))
    for table, transaction in entries:
        out += struct.pack("<H", len(table)) + table.encode() + struct.pack("<q", transaction)
    return out


class Staging(MemoryStore):
    """What was appended is lost when a sync fails, as in the SQL store."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: StoreFault | None = None
        self.staged: dict[str, int] = {}
        self.synced: dict[str, int] = {}
        self.failed = 0

    def append(self, table: str, parts: list[Fitted]) -> int:
        self.staged[table] = super().append(table, parts)
        return self.staged[table]

    def sync(self) -> None:
        staged, self.staged = self.staged, {}
        if self.fault is not None:
            self.failed += 1
            raise self.fault
        self.synced |= staged

    @property
    def failed_syncs(self) -> int:
        return self.failed


def test_an_early_commit_does_not_cover_a_deferred_frame_without_rows() -> None:
    with QwpServer(uncommitted_rows_max=0) as server, connect(server) as client:
        client.send(burst(message(flags=DEFERRED, dictionary=(0, ["a"])), one_row(flags=DEFERRED)))
        assert client.ping() == []
        assert server.store.count("t") == 1
        client.send(burst(EMPTY))
        assert client.answer() == ok(2, ("t", 1))
        client.send(burst(one_row(flags=DEFERRED)))
        assert client.answer() == ok(3, ("t", 2))


def test_rows_committed_early_are_synced_before_their_durable_ack() -> None:
    store = Staging()
    options = ServerOptions(uncommitted_rows_max=0)
    processor = Processor(options, store, lambda: 0, durable_ack=True)
    waits = block("u", 0, ("v", 5, longs()))
    assert processor.message(message(block("t", 1, ("v", 5, longs(1))), waits, flags=DEFERRED), 0) == []
    assert processor.flush(0) == [DurableAck((("t", 1),))]
    assert store.synced == {"t": 1}


def test_rows_lost_in_a_sync_of_somebody_else_are_not_acknowledged() -> None:
    """Committed early, they wait for a sync; the one of another connection fails and takes them along."""
    store = Staging()
    options = ServerOptions(uncommitted_rows_max=0)
    first, second = (Processor(options, store, lambda: 0) for _ in range(2))
    waits = block("u", 0, ("v", 5, longs()))
    assert first.message(message(block("t", 1, ("v", 5, longs(1))), waits, flags=DEFERRED), 0) == []
    assert first.flush(0) == []
    assert second.message(one_row("x"), 0) == []
    store.fault = StoreFault("disk full")
    assert second.flush(0) == [ErrorFrame(Status.INTERNAL_ERROR, 0, "disk full")]
    store.fault = None
    (answer,) = first.message(EMPTY, 0)
    assert isinstance(answer, ErrorFrame)
    assert (answer.status, answer.sequence) == (Status.INTERNAL_ERROR, 0)
    assert first.message(one_row(), 0) == first.flush(0) == []


ASK = {"X_QWP_Request_Durable_Ack": "true"}


class TestDurableAcks:
    def test_only_after_both_sides_agree(self) -> None:
        for offered, asked in ((True, {}), (False, ASK)):
            with QwpServer(durable_ack=offered) as server, connect(server, **asked) as client:
                client.message(one_row())
                assert client.answer() == ok(0, ("t", 1))
                assert client.ping() == []

    def test_it_follows_the_commit(self) -> None:
        with QwpServer(durable_ack=True) as server, connect(server, **ASK) as client:
            client.send(burst(one_row(), one_row("u"), one_row()))
            assert client.answer() == ok(2, ("t", 2), ("u", 1))
            assert client.answer() == durable(("t", 2), ("u", 1))
            assert client.ping() == []

    def test_there_is_none_for_what_could_not_be_stored(self) -> None:
        store = Staging()
        processor = Processor(ServerOptions(), store, lambda: 0, durable_ack=True)
        assert processor.message(one_row(), 0) == []
        store.fault = StoreFault("disk full")
        assert processor.flush(0) == [ErrorFrame(Status.INTERNAL_ERROR, 0, "disk full")]
        store.fault = None
        assert processor.flush(0) == []

    def test_with_a_delay_it_comes_on_activity_once_it_is_due(self) -> None:
        options = ServerOptions(durable_ack_delay_millis=30)
        processor = Processor(options, MemoryStore(), lambda: 0, durable_ack=True)
        assert processor.message(one_row(), now_millis=100) == []
        assert processor.flush(now_millis=100) == [Ok(0, (("t", 1),))]
        assert processor.message(one_row("u"), now_millis=110) == []
        assert processor.flush(now_millis=129) == [Ok(1, (("u", 1),))]
        assert processor.flush(now_millis=130) == [DurableAck((("t", 1),))]
        assert processor.flush(now_millis=139) == []
        assert processor.flush(now_millis=140) == [DurableAck((("u", 1),))]
        assert processor.flush(now_millis=999) == []
