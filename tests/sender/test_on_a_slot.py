"""A sender on a slot: what is found is sent, a drained close leaves nothing, one holder at a time."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spoolq import Sender, SlotBusyError, StorageError, TimestampNanos
from spoolq.server import QwpServer
from spoolq.spool.files import Files
from spoolq.testing import Drop, Script
from tests import ports
from tests.sender.harness import Recorder, StepClock, frames, keeper_rests, numbers, open_sender, publish, until

NOBODY = f"ws::addr={ports.NOBODY};initial_connect_retry=async;close_flush_timeout_millis=0;auto_flush=off;"


def put(sender: Sender, *values: int) -> int:
    """One flush with a row a value; each row brings a symbol of its own."""
    for value in values:
        sender.row("t", symbols={"s": f"sym-{value}"}, columns={"n": value}, at=TimestampNanos(value))
    fsn = sender.flush_and_get_fsn()
    assert fsn is not None
    return fsn


def offline(folder: Path, *batches: tuple[int, ...]) -> None:
    """A sender's life without a server: what it published stays in the slot."""
    with Sender.from_conf(NOBODY, sf_dir=folder) as sender:
        for batch in batches:
            put(sender, *batch)


def left_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder / "default"))


def test_REC_01_what_was_published_offline_is_sent_by_the_next_sender_and_fsns_go_on(tmp_path: Path) -> None:
    offline(tmp_path, (0, 1), (2,))
    with QwpServer() as server, Sender.from_conf(server.conf, sf_dir=tmp_path, auto_flush="off") as sender:
        assert sender.stats().was_recovered_from_disk
        assert sender.recovery is not None
        assert (sender.recovery.frames_remaining, sender.published_fsn()) == (2, 1)
        assert put(sender, 3) == 2
        sender.wait()
        assert numbers(server) == [0, 1, 2, 3]
        assert [row["s"] for row in server.store.rows("t")] == ["sym-0", "sym-1", "sym-2", "sym-3"]


def test_RNG_10_settled_segments_that_cannot_be_removed_are_not_sent_and_a_loss_does_not_make_it_spin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every connection begins at the oldest frame that is not acked, after a pause that grows."""
    remove = Files.unlink

    def unlink(files: Files, path: str) -> None:
        if path.endswith(".sfa"):
            raise StorageError(f"cannot remove {path}", errno=errno.EACCES, filename=path)
        remove(files, path)

    monkeypatch.setattr(Files, "unlink", unlink)
    keys = (
        f"sf_dir={tmp_path};sf_max_segment_bytes=120;sf_max_total_bytes=1m;reconnect_initial_backoff_millis=100;"
        "reconnect_max_backoff_millis=5000;close_flush_timeout_millis=0;"
    )
    clock = StepClock()
    with QwpServer() as server, open_sender(server, keys, clock=clock) as sender:
        for number in range(3):
            publish(sender, number)
        sender.wait()
        clock.asleep()
        server.hold_acks()
        for number in range(3, 6):
            publish(sender, number)
        server.wait_for_rows("t", 6)
        assert "sf-0000000000000000.sfa" in left_in(tmp_path)
        server.set_script(Script(no_ack=True, drop=Drop(after_frames=2)))  # the symbols, and a frame
        server.drop_connections()
        pauses = []
        for count in range(2, 7):
            server.wait_for(lambda count=count: len(server.connections) >= count)  # type: ignore[misc]
            pauses.append(clock.wait_for_poll(lambda timeout: timeout is not None and timeout > 1) or 0)
            if count == 6:
                server.set_script(Script())
                server.release_acks()
            clock.advance(pauses[-1])
        sender.wait()
        assert all(base <= pause < 2 * base for base, pause in zip((100, 200, 400, 800, 1_600), pauses, strict=True))
        sent = frames(server)[1:]
        assert len(sent) == 6
        assert [connection[0] for connection in sent] == [3] * 6
        assert sent[-1] == [3, 4, 5]
        monkeypatch.undo()


@pytest.mark.parametrize("where", ["q", "q/default"])
@pytest.mark.parametrize("what", ["a file of that name, not a directory", "a link to no directory"])
def test_a_file_where_a_directory_should_be_is_named(tmp_path: Path, where: str, what: str) -> None:
    """It said that another process had made it, and to take another sender_id."""
    path = tmp_path / where
    path.parent.mkdir(exist_ok=True)
    if what.startswith("a file"):
        path.write_text("")
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(StorageError) as caught:
        Sender.from_conf(NOBODY, sf_dir=tmp_path / "q")
    assert str(caught.value) == (
        f"cannot make the directory {path}: there is {what}; move it away, or choose another sf_dir or sender_id"
    )
    assert caught.value.filename == str(path)
    assert path.is_symlink() or path.read_text() == ""


def test_REC_10_a_drained_close_leaves_no_segment_and_the_next_start_replays_none(tmp_path: Path) -> None:
    with QwpServer() as server:
        for life in range(2):
            with Sender.from_conf(server.conf, sf_dir=tmp_path, auto_flush="off") as sender:
                assert not sender.stats().was_recovered_from_disk
                assert put(sender, life) == 0
            assert left_in(tmp_path) == [".lock", ".lock.pid"]
        assert numbers(server) == [0, 1]


def test_REC_11_open_and_close_without_writing_leaves_no_file_again_and_again(tmp_path: Path) -> None:
    for _ in range(3):
        offline(tmp_path)
        assert left_in(tmp_path) == [".lock", ".lock.pid"]


def test_REC_12_acked_batches_are_not_sent_again(tmp_path: Path) -> None:
    """5 acked batches, one that was never acked because the server stays silent, restart, 1 more."""
    script = Script(no_ack=True)
    with QwpServer() as server:
        conf = server.conf + "auto_flush=off;close_flush_timeout_millis=0;"
        with Sender.from_conf(conf, sf_dir=tmp_path) as sender:
            for value in range(5):
                put(sender, value)
            sender.wait()
            server.set_script(script)
            server.drop_connections()
            put(sender, 5)
        server.set_script(Script())
        with Sender.from_conf(conf, sf_dir=tmp_path) as sender:
            put(sender, 6)
            sender.wait()
        frames = [message for message in server.connections[-1].messages if message[6:8] != b"\0\0"]
    assert len(frames) == 2, "the one that was not acked and the new one"


def test_LCK_02_a_second_opener_fails_at_once_and_says_who_and_where(tmp_path: Path) -> None:
    with Sender.from_conf(NOBODY, sf_dir=tmp_path):
        with pytest.raises(SlotBusyError, match=rf"pid={os.getpid()}.*{Path(__file__).name}"):
            Sender.from_conf(NOBODY, sf_dir=tmp_path)
        with Sender.from_conf(NOBODY, sf_dir=tmp_path, sender_id="other"):
            pass


def test_LCK_02_another_process_is_told_the_pid(tmp_path: Path) -> None:
    program = f"from spoolq import Sender; Sender.from_conf({NOBODY!r}, sf_dir={str(tmp_path)!r})"
    with Sender.from_conf(NOBODY, sf_dir=tmp_path):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "SlotBusyError" in done.stderr
    assert f"pid={os.getpid()}" in done.stderr


def test_a_parent_directory_that_is_not_there_is_said_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="missing"):
        Sender.from_conf(NOBODY, sf_dir=tmp_path / "missing" / "spool")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_connect_gives_the_slot_back(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ConnectionError):
            Sender.from_conf(f"ws::addr={ports.NOBODY};", sf_dir=tmp_path)
    assert left_in(tmp_path) == [".lock", ".lock.pid"]


def test_many_segments_rotate_and_trim_while_the_server_takes_them(tmp_path: Path) -> None:
    with QwpServer() as server:
        conf = server.conf + "auto_flush_rows=10;sf_max_segment_bytes=4k;sf_max_total_bytes=64k;"
        with Sender.from_conf(conf, sf_dir=tmp_path) as sender:
            for value in range(5_000):
                sender.row("t", symbols={"s": f"sym-{value}"}, columns={"n": value}, at=TimestampNanos(value))
        assert numbers(server) == list(range(5_000))
    assert left_in(tmp_path) == [".lock", ".lock.pid"]


def test_an_unreplayable_slot_is_set_aside_with_an_event_and_a_fresh_one_goes_on(tmp_path: Path) -> None:
    with Sender.from_conf(NOBODY, sf_dir=tmp_path, sf_max_segment_bytes=120, sf_max_total_bytes="1m") as sender:
        for value in range(6):
            put(sender, value)
    members = sorted((tmp_path / "default").glob("sf-*.sfa"))
    members[1].unlink()  # a hole in the chain
    handler = Recorder()
    with QwpServer() as server:
        with Sender.from_conf(server.conf, sf_dir=tmp_path, auto_flush="off", error_handler=handler) as sender:
            event = handler.wait_for(lambda event: event.category == "slot_unreplayable")
            assert put(sender, 7) == 0
        assert numbers(server) == [7]
    aside = tmp_path / "default.unreplayable-0"
    assert event.policy == "set_aside"
    assert str(aside) in event.text
    assert (aside / ".failed").exists()


def test_SEG_03_a_torn_tail_is_cut_counted_and_copied_and_the_rest_is_sent(tmp_path: Path) -> None:
    offline(tmp_path, (0,), (1,))
    segment = tmp_path / "default" / "sf-0000000000000000.sfa"
    with segment.open("r+b") as file:
        file.seek(2_000)
        file.write(b"left by somebody")
    with QwpServer() as server, Sender.from_conf(server.conf, sf_dir=tmp_path) as sender:
        assert sender.stats().torn_tail_bytes > len(b"left by somebody")
        sender.wait()
        assert numbers(server) == [0, 1]
    assert any(".cut-" in name for name in left_in(tmp_path))


@pytest.mark.parametrize(("access", "modes"), [("off", (0o700, 0o600)), ("on", (0o770, 0o660))])
def test_the_modes_of_what_is_made(tmp_path: Path, access: str, modes: tuple[int, int]) -> None:
    with Sender.from_conf(NOBODY, sf_dir=tmp_path / "spool", sf_group_access=access) as sender:
        put(sender, 0)
    slot = tmp_path / "spool" / "default"
    found = {path.name: path.stat().st_mode & 0o777 for path in slot.iterdir()}
    assert {(tmp_path / "spool").stat().st_mode & 0o777, slot.stat().st_mode & 0o777} == {modes[0]}
    assert set(found.values()) == {modes[1]}, found


# --- where the slot is: sf_dir is resolved once, and a slot that was replaced is left alone -------------------


def recovered(folder: Path) -> list[int]:
    """What the next sender on the slot delivers."""
    with QwpServer() as server:
        with Sender.from_conf(server.conf, sf_dir=folder, auto_flush="off") as sender:
            sender.drain(10_000)
        return numbers(server) if server.store.tables() else []


def silent(server: QwpServer, folder: Path | str) -> Sender:
    """A sender with three frames in its slot that nobody acknowledges; its close does not wait."""
    server.hold_acks()
    sender = Sender.from_conf(server.conf, sf_dir=folder, auto_flush="off", close_flush_timeout_millis=0)
    for value in (100, 101, 102):
        put(sender, value)
    return sender


def test_inv_27_a_relative_sf_dir_is_the_one_of_the_opening_whatever_chdir_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    with QwpServer() as server, QwpServer() as away:
        monkeypatch.chdir(there)
        other = silent(away, "spool")
        monkeypatch.chdir(here)
        with Sender.from_conf(server.conf, sf_dir="spool", auto_flush="off", sf_max_segment_bytes="4k") as sender:
            put(sender, 0)
            monkeypatch.chdir(there)
            for value in range(1, 300):
                put(sender, value)
            sender.wait()
        assert numbers(server) == list(range(300))
        assert left_in(here / "spool") == [".lock", ".lock.pid"]
        other.close()
    assert recovered(there / "spool") == [100, 101, 102]


def test_inv_27_a_link_that_is_switched_leads_nobody_into_another_senders_slot(tmp_path: Path) -> None:
    for release in ("1", "2"):
        (tmp_path / release).mkdir()
    current = tmp_path / "current"
    current.symlink_to(tmp_path / "1")
    with QwpServer() as server, QwpServer() as away:
        with Sender.from_conf(server.conf, sf_dir=current / "spool", auto_flush="off") as old:
            put(old, 0)
            current.unlink()
            current.symlink_to(tmp_path / "2")
            new = silent(away, current / "spool")
            put(old, 1)
            old.wait()
        assert numbers(server) == [0, 1]
        new.close()
    assert left_in(tmp_path / "1" / "spool") == [".lock", ".lock.pid"]
    assert recovered(tmp_path / "2" / "spool") == [100, 101, 102]


def test_inv_27_a_slot_that_was_removed_and_made_anew_is_left_alone_and_close_says_so(tmp_path: Path) -> None:
    with QwpServer() as server, QwpServer() as away:
        old = Sender.from_conf(server.conf, sf_dir=tmp_path, auto_flush="off")
        put(old, 0)
        old.wait()
        until(lambda: keeper_rests(old))
        shutil.rmtree(tmp_path / "default")
        new = silent(away, tmp_path)
        until(lambda: keeper_rests(new))  # it has made its spare
        held = left_in(tmp_path)
        with pytest.raises(StorageError, match="is not the one that this process has locked"):
            old.close()
        assert left_in(tmp_path) == held
        new.close()
    assert recovered(tmp_path) == [100, 101, 102]


def test_a_slot_that_is_a_link_may_be_used_and_a_switch_of_it_is_seen(tmp_path: Path) -> None:
    for place in ("1", "2", "spool"):
        (tmp_path / place).mkdir()
    slot = tmp_path / "spool" / "default"
    slot.symlink_to(tmp_path / "1")
    with QwpServer() as server, QwpServer() as away:
        old = Sender.from_conf(server.conf, sf_dir=tmp_path / "spool", auto_flush="off")
        put(old, 0)
        old.wait()
        slot.unlink()
        slot.symlink_to(tmp_path / "2")
        new = silent(away, tmp_path / "spool")
        with pytest.raises(StorageError, match="is not the one that this process has locked"):
            old.close()
        new.close()
    assert recovered(tmp_path / "spool") == [100, 101, 102]


def test_21_a_group_that_directories_inherit_is_inherited_by_the_files_of_a_slot(tmp_path: Path) -> None:
    """A drainer of another user is in that group (ours.md 21)."""
    tmp_path.chmod(0o2770)
    with Sender.from_conf(NOBODY, sf_dir=tmp_path / "spool", sf_group_access="on") as sender:
        put(sender, 0)
    for made in (tmp_path / "spool", tmp_path / "spool" / "default"):
        assert made.stat().st_mode & 0o7777 == 0o2770
