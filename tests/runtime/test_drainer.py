"""One drainer, driven on the test's thread with a clock that leaps: no thread, no waiting."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NoReturn

import pytest

from spoolq.config import parse
from spoolq.qwp.layout import Status
from spoolq.runtime.drainer import Drainer
from spoolq.runtime.drainers import CAP_GAPS_MIN, drain_setup
from spoolq.server import QwpServer
from spoolq.spool import sentinels
from spoolq.spool.dead_letters import DeadLetters
from spoolq.spool.files import File, Files
from spoolq.spool.lock import SlotLock
from spoolq.testing import Close, Drop, Refuse, Reject, Script
from tests.ports import NOBODY
from tests.sender.harness import LeapClock, free_port, numbers, until
from tests.sender.test_on_a_slot import offline
from tests.spool.recovered import usual

NAME = "default"
GIVE_UP = 300_000
_LOCKS = {".lock", ".lock.pid"}


class Bench:
    """A drainer on the slot that `offline` makes, and what it is told to do next."""

    def __init__(self, root: Path, server: QwpServer[Any] | str, extra: str = "") -> None:
        conf = server if isinstance(server, str) else server.conf
        watchdog = "half_open_timeout_millis=0;"  # this clock leaps over the time that a server takes
        config = parse(f"{conf}sf_dir={root};initial_connect_retry=async;{watchdog}{extra}")
        self.root, self.slot = root, root / NAME
        self.clock = LeapClock()
        self.setup = drain_setup(config, str(root), config.policies, None, self.clock)
        self.drainer = Drainer(NAME, self.setup, self.clock, Random(5))
        self.due: int | None = 0
        self.attempts = 0

    def work(self) -> None:
        """The next attempt, when it is due."""
        assert self.due is not None
        self.clock.advance(max(0, self.due - self.clock.now_millis()))
        self.due = self.drainer.work()
        self.attempts += 1

    def until(self, done: Callable[[], Any], most: int = 1_000) -> None:
        """Attempts until it is so."""
        while not done():
            assert self.attempts < most, self.drainer.status()
            self.work()

    @property
    def outcome(self) -> str | None:
        return self.drainer.status().outcome

    def text(self, name: str) -> str:
        """Content of one of the two notes; "" when it is not there."""
        path = self.slot / name
        return path.read_text() if path.exists() else ""

    def left(self) -> set[str]:
        return set(os.listdir(self.slot)) - _LOCKS

    def is_free(self) -> bool:
        """Whether a sender could open the slot now."""
        SlotLock.acquire(Files(), str(self.slot)).release()
        return True


def test_one_attempt_drains_a_slot(tmp_path: Path) -> None:
    offline(tmp_path, (0, 1), (2,))
    with QwpServer() as server:
        bench = Bench(tmp_path, server)
        bench.work()
        assert numbers(server) == [0, 1, 2]
    assert (bench.due, bench.left()) == (None, set())
    status = bench.drainer.status()
    assert (status.slot, status.target_fsn, status.acked_fsn) == (str(bench.slot), 1, 1)
    assert (status.outcome, status.last_error) == ("success", "")


def test_between_two_attempts_nothing_is_held_and_the_trouble_is_noted(tmp_path: Path) -> None:
    offline(tmp_path, (0,))
    port = free_port()
    bench = Bench(tmp_path, f"ws::addr=127.0.0.1:{port};")
    before = len(os.listdir("/proc/self/fd"))
    pauses = []
    for _ in range(8):
        bench.work()
        assert bench.due is not None
        pauses.append(bench.due - bench.clock.now_millis())
        assert bench.is_free()
        assert len(os.listdir("/proc/self/fd")) == before
        assert "Connection refused" in bench.text(".last_error")
    assert pauses[0] < 200, "from the shortest"
    assert all(5_000 <= pause < 10_000 for pause in pauses[6:]), "to the longest"
    assert (bench.outcome, "Connection refused" in bench.drainer.status().last_error) == (None, True)
    with QwpServer(port=port) as server:
        bench.until(lambda: bench.due is None)
        assert numbers(server) == [0]
    assert bench.left() == set(), ".last_error goes when the slot drains"


def test_while_no_server_is_there_the_slot_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(tmp_path, (0,))
    bench = Bench(tmp_path, f"ws::addr=127.0.0.1:{free_port()};")
    bench.work()
    monkeypatch.setattr("spoolq.runtime.drainer.adopt", lambda *_: pytest.fail("the slot was adopted"))
    for _ in range(20):
        bench.work()
    assert bench.outcome is None


def test_what_somebody_delivered_meanwhile_is_not_sent_again(tmp_path: Path) -> None:
    """The owner comes back, its sender adds a frame and dies again: the drainer begins anew."""
    offline(tmp_path, (0,))
    port = free_port()
    bench = Bench(tmp_path, f"ws::addr=127.0.0.1:{port};")
    bench.work()
    offline(tmp_path, (1, 2))
    with QwpServer(port=port) as server:
        bench.until(lambda: bench.due is None)
        assert numbers(server) == [0, 1, 2]
    assert bench.drainer.status().target_fsn == 1


def test_a_new_life_of_the_slot_is_sent_from_its_own_beginning(tmp_path: Path) -> None:
    """The drainer had settled frames of the old one; their numbers mean other frames now."""
    offline(tmp_path, *((value,) for value in range(4)))
    scripts = [Script(drop=Drop(after_frames=3)), Script(refuse=Refuse(503))]
    with QwpServer(script=scripts) as server:
        bench = Bench(tmp_path, server)
        bench.work()
        assert bench.drainer.status().acked_fsn == 1
        with QwpServer() as elsewhere:
            Bench(tmp_path, elsewhere).work()
            assert numbers(elsewhere) == [2, 3]
        offline(tmp_path, *((value,) for value in range(10, 16)))
        server.set_script(Script())
        bench.until(lambda: bench.due is None)
        assert numbers(server) == [0, 1, *range(10, 16)]
    assert bench.outcome == "success"


def test_a_new_life_of_the_slot_with_the_same_numbers_is_delivered_as_it_is_now(tmp_path: Path) -> None:
    offline(tmp_path, (0,))
    port = free_port()
    bench = Bench(tmp_path, f"ws::addr=127.0.0.1:{port};")
    bench.work()
    with QwpServer() as elsewhere:
        Bench(tmp_path, elsewhere).work()
    offline(tmp_path, (7,))
    with QwpServer(port=port) as server:
        bench.until(lambda: bench.due is None)
        assert numbers(server) == [7]


def test_a_slot_that_somebody_drained_meanwhile_is_theirs(tmp_path: Path) -> None:
    offline(tmp_path, (0,))
    port = free_port()
    bench = Bench(tmp_path, f"ws::addr=127.0.0.1:{port};")
    bench.work()
    with QwpServer() as elsewhere:
        Bench(tmp_path, elsewhere).work()
    with QwpServer(port=port) as server:
        bench.until(lambda: bench.due is None)
        assert server.message_count == 0
    assert bench.outcome == "locked_by_other"
    assert bench.left() == set()


def test_orp_04_a_slot_in_use_is_left_silently(tmp_path: Path) -> None:
    offline(tmp_path, (0,))
    held = SlotLock.acquire(Files(), str(tmp_path / NAME))
    before = set(os.listdir(tmp_path / NAME))
    with QwpServer() as server:
        bench = Bench(tmp_path, server)
        bench.work()
        assert len(server.connections) == 0
    assert (bench.due, bench.outcome) == (None, "locked_by_other")
    assert "in use" in bench.drainer.status().last_error
    assert set(os.listdir(tmp_path / NAME)) == before
    held.release()


def test_invariant_39_a_lock_taken_before_the_mark_keeps_the_slot_unmarked(tmp_path: Path) -> None:
    offline(tmp_path, (0,))
    bench = Bench(tmp_path, f"ws::addr=127.0.0.1:{free_port()};", "outage_budget_millis=1000;drainer_give_up_millis=0;")
    bench.work()
    held = SlotLock.acquire(Files(), str(bench.slot))
    bench.until(lambda: bench.due is None)
    assert bench.outcome == "locked_by_other"
    assert bench.text(".failed") == ""
    held.release()


def test_orp_05_a_terminal_verdict_on_a_frame_gives_the_slot_up(tmp_path: Path) -> None:
    offline(tmp_path, (0,), (1,), (2,))
    script = Script(reject=(Reject(2, Status.SCHEMA_MISMATCH, "no such column"),))
    with QwpServer(script=script) as server:
        bench = Bench(tmp_path, server)
        bench.work()
    assert (bench.due, bench.outcome) == (None, "failed")
    text = bench.text(".failed")
    assert text.startswith("sending: ")
    assert "no such column" in text
    assert "FSN 1" in text
    assert "remove this file" in text
    assert bench.drainer.status().acked_fsn == 0
    (bench.slot / ".failed").unlink()  # an operator corrected the table
    with QwpServer() as server:
        again = Bench(tmp_path, server)
        again.work()
        assert numbers(server) == [1, 2], "what was acknowledged is not sent again"
    assert again.outcome == "success"


def test_orp_05_an_outcome_is_shown_when_its_note_is_written_and_the_slot_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who has seen "failed" looks into the slot, or takes it, the next moment."""
    offline(tmp_path, (0,))
    seen: list[str | None] = []
    write, release = sentinels.write_failed, SlotLock.release

    def written(files: Files, slot: str, text: str) -> None:
        seen.append(bench.outcome)
        write(files, slot, text)
        seen.append(bench.outcome)

    def released(lock: SlotLock) -> None:
        seen.append(bench.outcome)
        release(lock)

    with QwpServer(script=Script(reject=(Reject(1, Status.SCHEMA_MISMATCH, "no"),))) as server:
        bench = Bench(tmp_path, server)
        monkeypatch.setattr(sentinels, "write_failed", written)
        monkeypatch.setattr(SlotLock, "release", released)
        bench.work()
    assert len(seen) >= 3
    assert set(seen) == {None}
    assert bench.outcome == "failed"


def test_orp_05_a_damaged_slot_is_given_up_as_it_was(tmp_path: Path) -> None:
    slot = usual().write(tmp_path / NAME)
    (slot / "sf-0000000000000000.sfa").unlink()
    before = set(os.listdir(tmp_path / NAME))
    bench = Bench(tmp_path, f"ws::addr=127.0.0.1:{free_port()};")
    bench.work()
    assert (bench.due, bench.outcome) == (None, "failed")
    assert bench.text(".failed").startswith("recovery: unreplayable: ")
    assert set(os.listdir(tmp_path / NAME)) - before == {".failed", *_LOCKS}
    assert bench.is_free()


def test_what_a_newer_version_wrote_is_not_given_up(tmp_path: Path) -> None:
    offline(tmp_path, (0,))
    segment = min((tmp_path / NAME).glob("*.sfa"))
    data = bytearray(segment.read_bytes())
    data[4] = 9
    segment.write_bytes(data)
    bench = Bench(tmp_path, f"ws::addr=127.0.0.1:{free_port()};")
    for _ in range(20):
        bench.work()
        assert bench.is_free()
    assert bench.outcome is None
    assert "version 9" in bench.text(".last_error")
    assert bench.text(".failed") == ""


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_are_given_up_after_they_lasted(tmp_path: Path, status: int) -> None:
    offline(tmp_path, (0,))
    with QwpServer(script=Script(refuse=Refuse(status))) as server:
        bench = Bench(tmp_path, server)
        begin = bench.clock.now_millis()
        bench.until(lambda: bench.due is None)
    lasted = bench.clock.now_millis() - begin
    assert GIVE_UP <= lasted <= GIVE_UP + 15_000
    assert bench.outcome == "failed"
    assert f"{status}" in bench.text(".failed")
    assert bench.text(".failed").startswith("connecting: ws-upgrade-failed")
    assert bench.attempts > 30


def test_refused_credentials_that_are_corrected_in_time_leave_nothing(tmp_path: Path) -> None:
    offline(tmp_path, (0,))
    with QwpServer(script=Script(refuse=Refuse(401))) as server:
        bench = Bench(tmp_path, server)
        for _ in range(4):
            bench.work()
            assert "401" in bench.text(".last_error")
        server.set_script(Script())
        bench.until(lambda: bench.due is None)
        assert numbers(server) == [0]
    assert (bench.outcome, bench.left()) == ("success", set())


def test_invariant_39_a_frame_refused_as_retriable_is_tried_again_for_ever(tmp_path: Path) -> None:
    """The server's disk is full: nothing is wrong with the slot."""
    offline(tmp_path, (0,))
    with QwpServer(script=Script(reject=(Reject(0, Status.WRITE_ERROR, "disk full"),))) as server:
        bench = Bench(tmp_path, server)
        bench.until(lambda: bench.clock.now_millis() > 2 * GIVE_UP)
        assert bench.outcome is None
        assert "disk full" in bench.drainer.status().last_error
        assert server.message_count < 250, "and it is no storm"
        server.set_script(Script())
        bench.until(lambda: bench.due is None, 5_000)
        assert numbers(server) == [0]
    assert bench.left() == set()


def test_orp_08_a_slot_that_is_being_read_is_left_when_the_sender_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backlog of gigabytes takes longer than any grace: the reading ends before the next segment."""
    usual().write(tmp_path / NAME)
    assert len(list((tmp_path / NAME).glob("*.sfa"))) >= 3
    bench = Bench(tmp_path, f"ws::addr={NOBODY};")
    opened, real = [], bench.setup.files.open

    def closes_meanwhile(path: str, *, write: bool = True) -> File:
        if path.endswith(".sfa"):
            opened.append(path)
            bench.drainer.stop()
        return real(path, write=write)

    monkeypatch.setattr(bench.setup.files, "open", closes_meanwhile)
    bench.work()
    assert (len(opened), bench.due, bench.outcome) == (1, None, "stopped")
    assert bench.is_free()
    assert (bench.text(".failed"), bench.text(".last_error")) == ("", "")


DEAD, REFUSING, SILENT = "dead", "refusing", "silent"
_BUDGET = 60_000


@pytest.mark.parametrize("kind", [DEAD, REFUSING, SILENT])
def test_orp_11_an_exhausted_budget_gives_the_slot_up_with_its_tag(tmp_path: Path, kind: str) -> None:
    offline(tmp_path, (0,), (1,))
    script = Script(refuse=Refuse(503)) if kind == REFUSING else Script(no_ack=True)
    with QwpServer(port=free_port(), script=script) as server:
        if kind == DEAD:
            server.stop()
        bench = Bench(tmp_path, server, f"outage_budget_millis={_BUDGET};")
        begin = bench.clock.now_millis()
        bench.until(lambda: bench.due is None)
    assert bench.outcome == "failed"
    lasted = bench.clock.now_millis() - begin
    assert GIVE_UP <= lasted <= GIVE_UP + _BUDGET + 20_000
    tag = "connection-lost-budget-exhausted" if kind == SILENT else "never-connected-budget-exhausted"
    text = bench.text(".failed")
    assert text.startswith(f"connecting: {tag}: ")
    cause = {DEAD: "Connection refused", REFUSING: "503", SILENT: "acknowledges nothing"}[kind]
    assert cause in text
    assert f"127.0.0.1:{server.port}" in text
    assert bench.left() >= {".failed", "sf-manifest.bin"}, "and nothing of it is gone"


@pytest.mark.parametrize("kind", [DEAD, REFUSING])
def test_without_a_budget_a_server_that_is_away_is_waited_for(tmp_path: Path, kind: str) -> None:
    offline(tmp_path, (0,))
    with QwpServer(port=free_port(), script=Script(refuse=Refuse(503))) as server:
        if kind == DEAD:
            server.stop()
        bench = Bench(tmp_path, server)
        bench.until(lambda: bench.clock.now_millis() > 10 * GIVE_UP)
        assert (bench.outcome, bench.text(".failed")) == (None, "")


def test_a_frame_that_the_policy_drops_becomes_a_dead_letter_beside_its_slot(tmp_path: Path) -> None:
    offline(tmp_path, (0,), (1,), (2,))
    script = Script(reject=(Reject(2, Status.SCHEMA_MISMATCH, "no such column"),))
    with QwpServer(script=[script, Script()]) as server:
        bench = Bench(tmp_path, server, "on_schema_error=drop;")
        bench.until(lambda: bench.due is None)
        assert numbers(server) == [0, 2]
    assert (bench.outcome, bench.left()) == ("success", set())
    (letter,) = DeadLetters(Files(), str(tmp_path), NAME, 1 << 20).letters()
    assert (letter.fsn, letter.server_text) == (1, "no such column")


def test_a_frame_that_cannot_be_kept_is_not_dropped(tmp_path: Path) -> None:
    offline(tmp_path, (0,))
    script = Script(reject=(Reject(1, Status.SCHEMA_MISMATCH, "no such column"),))
    with QwpServer(script=script) as server:
        bench = Bench(tmp_path, server, "on_schema_error=drop;dead_letter_max_bytes=1;")
        bench.until(lambda: bench.due is None)
    assert bench.outcome == "failed"
    assert "dead_letter_max_bytes" in bench.text(".failed")
    assert bench.drainer.status().acked_fsn is None


def test_20_a_letter_that_the_disk_does_not_take_now_is_no_reason_to_give_the_slot_up(tmp_path: Path) -> None:
    """Only a full store is the end (ours.md 22); what stands in the way here goes again."""
    offline(tmp_path, (0,))
    in_the_way = tmp_path / f"{NAME}.dead-letter"
    in_the_way.write_text("no directory")
    script = Script(reject=(Reject(1, Status.SCHEMA_MISMATCH, "no such column"),))
    with QwpServer(script=script) as server:
        bench = Bench(tmp_path, server, "on_schema_error=drop;")
        for _ in range(5):
            bench.work()
        assert (bench.outcome, bench.text(".failed")) == (None, "")
        assert "could not be saved as a dead letter" in bench.text(".last_error")
        in_the_way.unlink()
        bench.until(lambda: bench.due is None)
    assert (bench.outcome, bench.left()) == ("success", set())


def test_a_resolver_that_hangs_leaves_one_thread_however_many_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(tmp_path, (0,))
    go, asked = threading.Event(), []

    def hang(*arguments: Any, **_: Any) -> Any:
        asked.append(arguments)
        go.wait(10)
        raise OSError("no such host")

    monkeypatch.setattr("socket.getaddrinfo", hang)
    bench = Bench(tmp_path, "ws::addr=db.example:9000;", "connect_timeout=20;")
    for _ in range(6):
        bench.work()
    assert bench.due is not None
    until(lambda: asked)  # its thread may be late
    assert len(asked) == 1
    go.set()


def test_a_server_that_takes_and_drops_sees_a_bounded_rate(tmp_path: Path) -> None:
    offline(tmp_path, (0,))
    with QwpServer(script=Script(drop=Drop(after_frames=1, before_ack=True))) as server:
        bench = Bench(tmp_path, server)
        bench.until(lambda: bench.clock.now_millis() > GIVE_UP)
        assert len(server.connections) < 90
        assert bench.is_free()


def test_a_loss_behind_progress_goes_on_at_once_and_keeps_the_slot(tmp_path: Path) -> None:
    offline(tmp_path, *((value,) for value in range(20)))
    with QwpServer(script=[Script(drop=Drop(after_frames=7)), Script(close=Close(after_frames=5))]) as server:
        bench = Bench(tmp_path, server)
        bench.until(lambda: bench.due is None)
        assert sorted(set(numbers(server))) == list(range(20))
        assert bench.text(".last_error") == ""


def test_the_second_endpoint_is_reached_across_attempts(tmp_path: Path) -> None:
    """The first one drops every connection without progress; the machine's memory outlives an attempt."""
    offline(tmp_path, (0,))
    with QwpServer(script=Script(drop=Drop(after_frames=1, before_ack=True))) as bad, QwpServer() as good:
        conf = f"ws::addr=127.0.0.1:{bad.port},127.0.0.1:{good.port};reconnect_initial_backoff_millis=1000;"
        bench = Bench(tmp_path, conf)
        bench.until(lambda: bench.due is None, 5)
        assert numbers(good) == [0]


def test_a_frame_above_every_cap_is_given_up_after_the_window_and_sixteen_gaps(tmp_path: Path) -> None:
    offline(tmp_path, tuple(range(50)))
    with QwpServer(script=Script(cap_nbytes=300)) as server:
        bench = Bench(tmp_path, server, "catch_up_cap_gap_min_escalation_window_millis=20000;")
        begin = bench.clock.now_millis()
        bench.until(lambda: bench.due is None)
    assert bench.outcome == "failed"
    assert bench.clock.now_millis() - begin >= 20_000
    assert len(server.connections) >= CAP_GAPS_MIN
    assert "at most 300" in bench.text(".failed")


def test_a_stop_before_the_first_attempt_touches_nothing(tmp_path: Path) -> None:
    offline(tmp_path, (0,))
    before = set(os.listdir(tmp_path / NAME))
    with QwpServer() as server:
        bench = Bench(tmp_path, server)
        bench.drainer.cancel()
        assert bench.drainer.status().outcome == "stopped"
        assert bench.drainer.work() is None
        assert len(server.connections) == 0
    assert set(os.listdir(tmp_path / NAME)) == before


def test_a_clean_up_that_failed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(tmp_path, (0,))
    with QwpServer() as server:
        bench = Bench(tmp_path, server)

        def stuck(path: str) -> None:
            raise PermissionError(13, "Permission denied", path)

        monkeypatch.setattr("os.unlink", stuck)
        bench.work()
        monkeypatch.undo()
        assert bench.outcome is None
        assert "Permission denied" in bench.text(".last_error")
        bench.until(lambda: bench.due is None)
        assert numbers(server) == [0], "what was acknowledged is not sent again"
    assert bench.left() == set()


@pytest.mark.parametrize("fault", [ZeroDivisionError("ours"), SystemExit(3)], ids=["ours", "of a token provider"])
def test_a_fault_is_loud_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: BaseException
) -> None:
    def catch_up(*_: object) -> NoReturn:
        raise fault

    offline(tmp_path, (0,))
    with QwpServer() as server:
        bench = Bench(tmp_path, server)
        with monkeypatch.context() as patch:
            patch.setattr("spoolq.runtime.drainer.catch_up_messages", catch_up)
            bench.work()
        assert type(fault).__name__ in caplog.text
        assert bench.is_free()
        bench.until(lambda: bench.due is None)
        assert numbers(server) == [0]
