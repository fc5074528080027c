"""Invariants of slot.md 9 that need a sender, a slot and a server together."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from pathlib import Path

import pytest

from spoolq import BackpressureError, Sender, ServerRejection, SlotBusyError, StorageError, TimestampNanos
from spoolq.qwp.layout import Status
from spoolq.runtime.clock import Clock
from spoolq.server import QwpServer
from spoolq.spool.lock import SlotLock
from spoolq.testing import Drop, Reject, Script
from tests.sender.harness import Call, StepClock, numbers, open_sender, until
from tests.sender.test_on_a_slot import NOBODY, left_in, offline, put
from tests.spool.files_double import FailingFiles, UnsyncedFiles
from tests.spool.slot_maker import read_frames

TINY = "sf_max_segment_bytes=120;sf_max_total_bytes=1m;"  # one small frame a segment


def put_many(sender: Sender, count: int) -> None:
    """As many flushes."""
    for value in range(count):
        put(sender, value)


def is_dictionary(message: bytes) -> bool:
    return message[6:8] == b"\0\0"


def test_invariant_09_a_corrupt_file_keeps_its_name_when_the_chain_does_not_hold(tmp_path: Path) -> None:
    with Sender.from_conf(NOBODY + TINY, sf_dir=tmp_path) as sender:
        put_many(sender, 6)
    members = sorted((tmp_path / "default").glob("sf-*.sfa"))
    members[1].unlink()  # a hole: the chain cannot be sent
    damaged = bytearray(members[4].read_bytes())
    damaged[0] ^= 0xFF
    members[4].write_bytes(damaged)
    Sender.from_conf(NOBODY, sf_dir=tmp_path).close()
    aside = os.listdir(tmp_path / "default.unreplayable-0")
    assert members[4].name in aside
    assert not [name for name in aside if name.endswith(".corrupt")]


def test_invariant_26_a_full_slot_blocks_until_the_deadline_and_an_ack_frees_it(tmp_path: Path) -> None:
    conf = "sf_max_segment_bytes=120;sf_max_total_bytes=360;sf_append_deadline_millis=50;close_flush_timeout_millis=0;"
    clock = StepClock()
    with QwpServer() as server, open_sender(server, f"{conf}sf_dir={tmp_path};", clock=clock) as sender:
        server.hold_acks()
        call = Call(put_many, sender, 10)
        until(lambda: sender.published_fsn() == 2)  # each of them waited for its segment
        clock.wait_for_wait(50)
        clock.advance(50)
        with pytest.raises(BackpressureError, match="still buffered"):
            call.outcome()
        assert sender.published_fsn() == 2
        server.release_acks()
        assert sender.await_acked_fsn(2)
        sender.flush(wait=True)  # the row that was refused is still there
        assert numbers(server) == [0, 1, 2, 3]


def test_invariant_26_a_terminal_error_ends_the_wait_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = "auto_flush=off;sf_max_segment_bytes=120;sf_max_total_bytes=360;sf_append_deadline_millis=10000;"
    with QwpServer() as server:
        server.hold_acks()
        server.set_script(Script(reject=(Reject(0, Status.SCHEMA_MISMATCH),)))
        sender = Sender.from_conf(server.conf + conf, sf_dir=tmp_path)
        wait = Clock.wait

        def release_and_wait(clock: Clock, condition: threading.Condition, timeout_millis: int | None) -> None:
            if threading.current_thread() is threading.main_thread() and sender._engine.publisher._is_at_cap():
                server.release_acks()  # the rejection comes while the append waits, and not for a spare
            wait(clock, condition, timeout_millis)

        monkeypatch.setattr(Clock, "wait", release_and_wait)
        with pytest.raises(ServerRejection):
            put_many(sender, 10)
        with pytest.raises(ServerRejection):
            sender.close()


def test_lck_04_whatever_file_call_of_close_fails_the_lock_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a frame in the slot, and a row that the close itself publishes; each call in turn, with all that follow."""
    nth = 0
    while True:
        files = FailingFiles(10**6, errno.EIO, count=None)
        folder = tmp_path / str(nth)
        with monkeypatch.context() as patch:
            patch.setattr("spoolq.spool.files.Files", lambda *, of=files, **_: of)
            sender = Sender.from_conf(NOBODY, sf_dir=folder)
        put(sender, 0)
        sender.row("t", columns={"n": 1}, at=TimestampNanos(1))
        files.nth = files.seen + nth
        with contextlib.suppress(StorageError):
            sender.close()
        assert files.open_files == {}, files.failed
        SlotLock.acquire(UnsyncedFiles(), str(folder / "default")).release()
        if not files.failed:
            break
        nth += 1
    assert nth > 5


def test_invariant_32_a_new_symbol_after_recovery_gets_an_id_of_its_own(tmp_path: Path) -> None:
    offline(tmp_path, (0, 1), (2,))
    with QwpServer() as server, Sender.from_conf(server.conf, sf_dir=tmp_path, auto_flush="off") as sender:
        put(sender, 3, 1, 0)
        sender.wait()
        assert numbers(server) == [0, 1, 2, 3, 1, 0]  # each row's symbol is checked to be its own
        assert server.connections[0].messages[-1][12:20] == b"\3\1\5sym-3", "one new symbol, and its id is 3"


def test_invariant_33_the_dictionary_goes_ahead_on_every_connection_within_the_cap(tmp_path: Path) -> None:
    with Sender.from_conf(NOBODY, sf_dir=tmp_path) as sender:
        put_many(sender, 200)
    cap = 200
    script = Script(cap_nbytes=cap, drop=Drop(after_frames=60))
    with QwpServer(script=[script, script, Script(cap_nbytes=cap)]) as server:
        with Sender.from_conf(server.conf, sf_dir=tmp_path) as sender:
            sender.wait()
        assert sorted(set(numbers(server))) == list(range(200))
        for connection in server.connections:
            kinds = [is_dictionary(message) for message in connection.messages]
            first_data = kinds.index(False)
            assert first_data > 1, "200 symbols need several messages"
            assert not any(kinds[first_data:])
            assert max(map(len, connection.messages)) <= cap


def test_invariant_34_acks_of_the_dictionary_settle_nothing(tmp_path: Path) -> None:
    offline(tmp_path, (0, 1), (2,))
    with QwpServer(script=[Script(drop=Drop(after_frames=1)), Script(no_ack=True)]) as server:
        conf = (
            server.conf + "reconnect_initial_backoff_millis=1;initial_connect_retry=sync;close_flush_timeout_millis=0;"
        )
        with Sender.from_conf(conf, sf_dir=tmp_path) as sender:
            server.wait_for(lambda: len(server.connections) == 2 and server.connections[1].message_count == 3)
            assert is_dictionary(server.connections[0].messages[0])
            assert sender.acked_fsn() is None
            assert sender.stats().total_acks >= 1


def test_invariant_36_a_loss_in_the_middle_of_a_replay_begins_it_again(tmp_path: Path) -> None:
    offline(tmp_path, *((value,) for value in range(30)))
    losses = [Script(drop=Drop(after_frames=count, before_ack=True)) for count in (5, 12, 3, 20)]
    with QwpServer(script=[*losses, Script()]) as server:
        conf = server.conf + "reconnect_initial_backoff_millis=1;reconnect_max_backoff_millis=1;"
        with Sender.from_conf(conf, sf_dir=tmp_path) as sender:
            sender.wait()
        assert sorted(set(numbers(server))) == list(range(30))
        assert len(server.connections) == 5


def test_invariant_36_each_replay_begins_at_the_first_unacked_frame(tmp_path: Path) -> None:
    offline(tmp_path, *((value,) for value in range(30)))
    frames = read_frames(tmp_path / "default")
    losses = [Script(no_ack=True, drop=Drop(after_frames=count)) for count in (5, 9, 2, 7)]
    with QwpServer(script=[Script(ack_every=20), *losses, Script()]) as server:
        conf = server.conf + "reconnect_initial_backoff_millis=1;reconnect_max_backoff_millis=1;"
        with Sender.from_conf(conf, sf_dir=tmp_path) as sender:
            assert sender.await_acked_fsn(18, 10_000)  # 20 messages, the first of which is the dictionary
            server.wait_for_messages(31)
            assert sender.acked_fsn() == 18
            server.drop_connections()
            sender.wait()
        replays = [connection.messages for connection in server.connections]
    assert [is_dictionary(messages[0]) for messages in replays] == [True] * 6
    first, *lost, last = [messages[1:] for messages in replays]
    unacked = [frames[fsn] for fsn in range(19, 30)]
    assert first == list(frames.values())
    assert lost == [unacked[: count - 1] for count in (5, 9, 2, 7)]
    assert last == unacked


def test_invariant_39_a_busy_lock_and_a_stop_leave_no_failed_mark(tmp_path: Path) -> None:
    with Sender.from_conf(NOBODY, sf_dir=tmp_path) as sender:
        put(sender, 0)
        with pytest.raises(SlotBusyError):
            Sender.from_conf(NOBODY, sf_dir=tmp_path)
    assert ".failed" not in left_in(tmp_path)
    with QwpServer() as server, Sender.from_conf(server.conf, sf_dir=tmp_path) as sender:
        sender.wait()
        assert numbers(server) == [0]


def test_invariant_40_a_frame_that_is_refused_for_ever_is_sent_a_bounded_number_of_times(tmp_path: Path) -> None:
    offline(tmp_path, (0,))
    with QwpServer(script=Script(reject=(Reject(1),))) as server:  # 0 is the dictionary
        conf = server.conf + "max_frame_rejections=3;poison_min_escalation_window_millis=0;"
        sender = Sender.from_conf(conf + "reconnect_initial_backoff_millis=1;", sf_dir=tmp_path)
        with pytest.raises(ServerRejection, match="3 times"):
            sender.wait()
        assert sum(connection.message_count for connection in server.connections) == 2 * 3
        with pytest.raises(ServerRejection):
            sender.close()
    assert [name for name in left_in(tmp_path) if name.endswith(".sfa")], "the frame is kept"
