"""A sender with ``drain_orphans=on``: what other senders left in its directory is delivered too (behaviour.md 7)."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from spoolq import ForkedError, Sender, SlotBusyError, SpoolqError
from spoolq.qwp.layout import Status
from spoolq.server import QwpServer
from spoolq.spool.files import Files
from spoolq.spool.lock import SlotLock
from spoolq.testing import Auth, Refuse, Reject, Script
from tests.processes import started
from tests.sender.harness import TIMEOUT_SECONDS, Recorder, child_environment, free_port, numbers, python, until
from tests.sender.test_on_a_slot import NOBODY, put

_LOCKS = {".lock", ".lock.pid"}
FAST = (
    "auto_flush=off;reconnect_initial_backoff_millis=1;reconnect_max_backoff_millis=4;initial_connect_retry=off;"
    "close_flush_timeout_millis=5000;"
)


def abandon(root: Path, name: str, *values: int, extra: str = "") -> None:
    """A slot that a sender filled, a frame a value, and left."""
    with Sender.from_conf(NOBODY + extra, sf_dir=root, sender_id=name) as sender:
        for value in values:
            put(sender, value)


def open_sender(server: QwpServer[Any] | str, root: Path, extra: str = "", **options: Any) -> Sender:
    conf = server if isinstance(server, str) else server.conf
    settings = {item.partition("=")[0]: item for item in (FAST + extra).split(";") if item}  # the last one counts
    return Sender.from_conf(
        conf + ";".join([*settings.values(), ""]), sf_dir=root, sender_id="me", drain_orphans=True, **options
    )


def wait_for_outcomes(sender: Sender) -> dict[str, str | None]:
    """Outcome by name of the slot, when each has one."""
    drainers = sender._engine.drainers
    assert drainers is not None
    with drainers._condition:
        assert drainers._condition.wait_for(
            lambda: not drainers._at_work and all(drainer.outcome for drainer in drainers._all), TIMEOUT_SECONDS
        ), sender.background_drainers()
    return {os.path.basename(status.slot): status.outcome for status in sender.background_drainers()}


def keeper_rests(sender: Sender) -> bool:
    keeper = sender._engine.keeper
    with keeper._lock:
        return keeper.without_chore


def left_in(root: Path, name: str) -> set[str]:
    return set(os.listdir(root / name)) - _LOCKS


def test_orp_02_a_dead_senders_rows_all_arrive_and_the_next_scan_finds_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    abandon(tmp_path, "dead", *range(30), extra="sf_max_segment_bytes=300;sf_max_total_bytes=1m;")
    caplog.set_level(logging.INFO, "spoolq.spool")
    with QwpServer() as server, open_sender(server, tmp_path) as sender:
        assert "1 orphaned slots" in caplog.text
        assert "dead" in caplog.text
        server.wait_for_rows("t", 30)
        assert wait_for_outcomes(sender) == {"dead": "success"}
        assert numbers(server) == list(range(30))
        assert left_in(tmp_path, "dead") == set(), "and the directory stays"
        assert put(sender, 99) == 0, "its own slot is another one"
        sender.wait()
    with QwpServer() as server, open_sender(server, tmp_path) as sender:
        assert sender.background_drainers() == []
    assert not [thread for thread in threading.enumerate() if "drainer" in thread.name]


def test_orp_02_a_relative_directory_is_the_one_of_the_opening_whatever_chdir_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for place, first in ((here, 0), (there, 100)):
        place.mkdir()
        abandon(place / "spool", "dead", *range(first, first + 30), extra="sf_max_segment_bytes=300;")
    before = left_in(there / "spool", "dead")
    with QwpServer() as server:
        server.hold_acks()
        monkeypatch.chdir(here)
        with open_sender(server, Path("spool")) as sender:
            monkeypatch.chdir(there)
            server.release_acks()
            assert wait_for_outcomes(sender) == {"dead": "success"}
            assert [status.slot for status in sender.background_drainers()] == [str(here / "spool" / "dead")]
        monkeypatch.chdir(tmp_path)
        assert numbers(server) == list(range(30))
    assert left_in(here / "spool", "dead") == set()
    assert left_in(there / "spool", "dead") == before


def test_orp_03_failed_set_by_hand_is_honoured(tmp_path: Path) -> None:
    abandon(tmp_path, "dead", 1)
    (tmp_path / "dead" / ".failed").touch()
    before = left_in(tmp_path, "dead")
    with QwpServer() as server, open_sender(server, tmp_path) as sender:
        assert sender.background_drainers() == []
    assert left_in(tmp_path, "dead") == before
    assert server.message_count == 0


def test_orp_04_invariant_39_a_busy_slot_is_skipped_without_failed(tmp_path: Path) -> None:
    with Sender.from_conf(NOBODY, sf_dir=tmp_path, sender_id="alive") as alive:
        put(alive, 1)
        until(lambda: keeper_rests(alive))  # it makes files of its own
        before = left_in(tmp_path, "alive")
        with QwpServer() as server, open_sender(server, tmp_path) as sender:
            assert wait_for_outcomes(sender) == {"alive": "locked_by_other"}
            (status,) = sender.background_drainers()
            assert f"pid={os.getpid()}" in status.last_error
            assert server.message_count == 0
        assert left_in(tmp_path, "alive") == before
        put(alive, 2)


def test_orp_05_10_giving_up_writes_the_reason_and_shows_it(tmp_path: Path) -> None:
    abandon(tmp_path, "bad", 1, 2)
    script = Script(reject=(Reject(1, Status.SCHEMA_MISMATCH, "no such column"),))
    handler, listener = Recorder(), Recorder()
    with (
        QwpServer(script=[Script(), script]) as server,
        open_sender(server, tmp_path, error_handler=handler, connection_listener=listener) as sender,
    ):
        assert wait_for_outcomes(sender) == {"bad": "failed"}
        (status,) = sender.background_drainers()
        assert status.slot == str(tmp_path / "bad")
        assert (status.target_fsn, status.acked_fsn) == (1, None)
        assert "no such column" in status.last_error
        stats = sender.stats()
        assert stats.total_background_drainers_failed == 1
        assert stats.total_background_drainers_succeeded == stats.active_background_drainers == 0
        assert stats.total_server_errors == 0
        put(sender, 3)
        sender.wait()  # the sender itself goes on
        listener.wait_for()
    assert (tmp_path / "bad" / ".failed").read_text().startswith("sending: ")
    assert sender.poll_error() is None
    assert handler.told == [], "the handlers are the sender's own"
    assert listener.kinds() == ["connected"]


def test_orp_10_a_snapshot_while_it_drains(tmp_path: Path) -> None:
    abandon(tmp_path, "dead", *range(5))
    with QwpServer() as server:
        server.hold_acks()
        with open_sender(server, tmp_path) as sender:
            server.wait_for_messages(6)  # the dictionary, five frames
            (status,) = sender.background_drainers()
            assert (status.target_fsn, status.acked_fsn, status.outcome, status.last_error) == (4, None, None, "")
            assert sender.stats().active_background_drainers == 1
            server.release_acks()
            assert wait_for_outcomes(sender) == {"dead": "success"}
            (status,) = sender.background_drainers()
            assert (status.target_fsn, status.acked_fsn, status.outcome) == (4, 4, "success")
            stats = sender.stats()
            assert (stats.active_background_drainers, stats.total_background_drainers_succeeded) == (0, 1)


def test_orp_06_never_more_connections_than_the_cap(tmp_path: Path) -> None:
    for number in range(6):
        abandon(tmp_path, f"slot-{number}", number)
    with QwpServer() as server:
        server.hold_acks()
        with open_sender(server, tmp_path, "max_background_drainers=2;") as sender:
            server.wait_for(lambda: server.message_count >= 4)  # a dictionary and a frame each
            assert len(server.connections) == 3
            assert sender.stats().active_background_drainers == 2
            server.release_acks()
            assert set(wait_for_outcomes(sender).values()) == {"success"}
        assert sorted(numbers(server)) == list(range(6))


def test_no_drainers_are_none(tmp_path: Path) -> None:
    abandon(tmp_path, "dead", 1)
    with QwpServer() as server, open_sender(server, tmp_path, "max_background_drainers=0;") as sender:
        assert sender.background_drainers() == []
    assert left_in(tmp_path, "dead")


def test_off_is_the_default(tmp_path: Path) -> None:
    abandon(tmp_path, "dead", 1)
    with QwpServer() as server, Sender.from_conf(server.conf, sf_dir=tmp_path) as sender:
        assert sender.background_drainers() == []
    assert left_in(tmp_path, "dead")


def test_without_sf_dir_it_is_ignored_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with QwpServer() as server, Sender.from_conf(server.conf, drain_orphans=True) as sender:
        assert sender.background_drainers() == []
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "drain_orphans" in record.getMessage()


def test_drainers_use_the_senders_credentials(tmp_path: Path) -> None:
    abandon(tmp_path, "dead", 1)
    with QwpServer(auth=Auth(tokens=frozenset({"secret"}))) as server:
        with open_sender(server, tmp_path, "token=secret;") as sender:
            assert wait_for_outcomes(sender) == {"dead": "success"}
        assert numbers(server) == [1]


def test_dua_06_drainers_ask_for_durable_acks_as_their_sender_does(tmp_path: Path) -> None:
    abandon(tmp_path, "dead", 1)
    scripts = [Script(), Script(no_durable_ack=True), Script()]
    on = "request_durable_ack=on;durable_ack_keepalive_interval_millis=5;"
    with QwpServer(durable_ack=True, durable_ack_delay_millis=20, script=scripts) as server:
        with open_sender(server, tmp_path, on) as sender:
            server.wait_for_rows("t", 1)
            server.wait_for(lambda: server.connections[1].pings >= 2)  # it is committed, and asked about
            (status,) = sender.background_drainers()
            assert (status.acked_fsn, status.outcome) == (None, None)
            server.drop_connections()
            assert wait_for_outcomes(sender) == {"dead": "success"}
        assert numbers(server) == [1, 1]
        asked = [record.header("X-QWP-Request-Durable-Ack") for record in server.connections if record.target]
        assert set(asked) == {"true"}, "close() may have cut the sender's own reconnect before it asked"


def test_orp_08_close_lets_a_drainer_finish_and_clean_up(tmp_path: Path) -> None:
    abandon(tmp_path, "dead", 1)
    with QwpServer() as server:
        server.hold_acks()
        sender = open_sender(server, tmp_path)
        server.wait_for(lambda: server.message_count == 2)
        drainers = sender._engine.drainers
        assert drainers is not None
        real = drainers._wait_for_rest

        def wait(millis: int) -> None:
            server.release_acks()
            real(millis)

        drainers._wait_for_rest = wait  # type: ignore[method-assign]
        sender.close()
        assert [status.outcome for status in sender.background_drainers()] == ["success"]
    assert left_in(tmp_path, "dead") == set()


def test_close_stops_a_drainer_that_waits_for_a_silent_server_and_leaves_its_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spoolq.runtime.drainers.GRACE_MILLIS", 20)
    monkeypatch.setattr("spoolq.runtime.drainers.STOP_MILLIS", 10_000)  # half a second is little on a busy machine
    abandon(tmp_path, "dead", 1, 2)
    before = left_in(tmp_path, "dead")
    with QwpServer() as server:
        server.hold_acks()
        sender = open_sender(server, tmp_path)
        server.wait_for(lambda: server.message_count >= 3)
        sender.close()
        assert [status.outcome for status in sender.background_drainers()] == ["stopped"]
        server.wait_for(lambda: all(record.closed_by is not None for record in server.connections))
    assert {".failed", ".last_error"} & left_in(tmp_path, "dead") == set()
    assert {name for name in before if name.endswith(".sfa")} >= {
        name for name in left_in(tmp_path, "dead") if name.endswith(".sfa")
    }
    with QwpServer() as server, open_sender(server, tmp_path) as sender:
        assert wait_for_outcomes(sender) == {"dead": "success"}
        assert numbers(server) == [1, 2]


def test_orp_09_a_drainer_that_cannot_start_closes_the_connected_sender(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        abandon(tmp_path, name, 1)
    real, drainers = threading.Thread.start, []

    def start(thread: threading.Thread) -> None:
        if thread.name.startswith("spoolq-drainer"):
            drainers.append(thread)  # not by its number: the first may have ended before the second is wanted
            if len(drainers) == 2:
                raise RuntimeError("can't start new thread")
        real(thread)

    with QwpServer() as server:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            with pytest.raises(SpoolqError, match=r"spoolq-drainer-[01] cannot be started: can't start new thread"):
                open_sender(server, tmp_path)
        server.wait_for(lambda: all(record.closed_by is not None for record in server.connections))
        assert {thread.name for thread in threading.enumerate()} & {"spoolq-io", "spoolq-keeper"} == set()
        assert not [thread.name for thread in threading.enumerate() if "drainer" in thread.name]
        for name in ("me", "one", "two"):
            SlotLock.acquire(Files(), str(tmp_path / name)).release()
        with open_sender(server, tmp_path) as sender:
            assert set(wait_for_outcomes(sender).values()) <= {"success"}


def test_a_sender_that_comes_back_during_an_outage_finds_its_slot_free(tmp_path: Path) -> None:
    abandon(tmp_path, "dead", 1)
    port = free_port()
    conf = f"ws::addr=127.0.0.1:{port};"
    extra = "initial_connect_retry=async;reconnect_max_backoff_millis=60000;reconnect_initial_backoff_millis=60000;"
    with open_sender(conf, tmp_path, extra + "close_flush_timeout_millis=0;") as sender:
        drainers = sender._engine.drainers
        assert drainers is not None
        with drainers._condition:
            assert drainers._condition.wait_for(
                lambda: drainers._waiting and drainers._all[0].status().last_error, TIMEOUT_SECONDS
            )
        with QwpServer() as elsewhere, Sender.from_conf(elsewhere.conf, sf_dir=tmp_path, sender_id="dead") as owner:
            owner.wait()
            assert numbers(elsewhere) == [1]
        (status,) = sender.background_drainers()
        assert "Connection refused" in status.last_error
    (status,) = sender.background_drainers()
    assert status.outcome == "stopped"


def test_a_refused_drainer_does_not_end_the_sender(tmp_path: Path) -> None:
    abandon(tmp_path, "dead", 1)
    with QwpServer(script=[Script(), Script(refuse=Refuse(401))]) as server, open_sender(server, tmp_path) as sender:
        drainers = sender._engine.drainers
        assert drainers is not None
        with drainers._condition:
            assert drainers._condition.wait_for(lambda: "401" in drainers._all[0].status().last_error, TIMEOUT_SECONDS)
        put(sender, 5)
        sender.wait()
        assert not sender.must_close
        server.set_script(Script())
        assert wait_for_outcomes(sender) == {"dead": "success"}
        assert sorted(numbers(server)) == [1, 5]


def test_two_senders_that_drain_the_same_directory_share_the_slots(tmp_path: Path) -> None:
    for number in range(8):
        abandon(tmp_path, f"slot-{number}", number)
    with QwpServer() as server:
        with open_sender(server, tmp_path) as one:
            conf = server.conf + FAST
            with Sender.from_conf(conf, sf_dir=tmp_path, sender_id="other", drain_orphans=True) as two:
                for sender in (one, two):
                    assert set(wait_for_outcomes(sender).values()) <= {"success", "locked_by_other"}
        assert sorted(numbers(server)) == list(range(8)), "each once"


def test_frk_a_forked_child_lets_go_and_the_parent_drains_on(tmp_path: Path) -> None:
    abandon(tmp_path, "dead", 1)
    with QwpServer() as server:
        server.hold_acks()
        with open_sender(server, tmp_path) as sender:
            server.wait_for(lambda: server.message_count == 2)
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    sender.background_drainers()
                except ForkedError:
                    try:
                        SlotLock.acquire(Files(), str(tmp_path / "dead"))
                    except SlotBusyError:
                        code = 0
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            server.release_acks()
            assert wait_for_outcomes(sender) == {"dead": "success"}
        assert numbers(server) == [1]


def test_an_exit_without_close_does_not_hang_and_leaves_the_slot(tmp_path: Path) -> None:
    abandon(tmp_path, "dead", 1)
    with QwpServer() as server:
        server.hold_acks()
        code = (
            "import sys\nfrom spoolq import Sender\n"
            "sender = Sender.from_conf(sys.argv[1], sf_dir=sys.argv[2], sender_id='me', drain_orphans=True)\n"
            "while not sender.stats().active_background_drainers: pass\n"
        )
        done = python(code, server.conf + FAST, str(tmp_path))
        assert done.returncode == 0, done.stderr
        assert "was not closed" in done.stderr
        assert "Traceback" not in done.stderr
    with QwpServer() as server, open_sender(server, tmp_path) as sender:
        assert wait_for_outcomes(sender) == {"dead": "success"}


def test_a_kill_in_the_middle_of_draining_loses_nothing(tmp_path: Path) -> None:
    abandon(tmp_path, "dead", *range(40), extra="sf_max_segment_bytes=300;sf_max_total_bytes=1m;")
    with QwpServer(script=[Script(), Script(no_ack=True)]) as server:
        code = (
            "import sys, time\nfrom spoolq import Sender\n"
            "sender = Sender.from_conf(sys.argv[1], sf_dir=sys.argv[2], sender_id='me', drain_orphans=True)\n"
            "print('open', flush=True)\nwhile True: time.sleep(1)\n"
        )
        command = [sys.executable, "-c", code, server.conf + FAST, str(tmp_path)]
        with started(command, stdout=subprocess.PIPE, env=child_environment()) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"open\n"
            server.wait_for(lambda: server.message_count >= 30)
            process.send_signal(signal.SIGKILL)
    with QwpServer() as server, open_sender(server, tmp_path) as sender:
        assert wait_for_outcomes(sender) == {"dead": "success"}
        assert numbers(server) == list(range(40))
