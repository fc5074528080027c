"""close(): what it waits for, what it raises, that it always ends everything (behaviour.md 2.7)."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from spoolq import Sender, TimestampMicros
from spoolq.errors import AuthError, ClosedError, DeliveryTimeout, ReentryError, ServerRejection, SpoolqError
from spoolq.testing import Answer, QwpServer, Refuse, Reject, Script

from .harness import Call, Recorder, StepClock, free_port, numbers, open_sender, publish, publish_unanswered, put
from .raw_server import RawServer


@pytest.fixture
def server() -> Iterator[QwpServer]:
    with QwpServer() as running:
        yield running


def test_CLS_01_close_lasts_until_the_ack_and_not_longer(server: QwpServer) -> None:
    clock = StepClock()
    sender = open_sender(server, "close_flush_timeout_millis=5000;", clock=clock)
    server.hold_acks()
    put(sender, 0, 1)
    closing = Call(sender.close)
    server.wait_for_rows("t", 2)
    clock.wait_for_wait(5_000)
    clock.advance(4_999)
    assert closing.is_alive(), "it waits for the ack"
    server.release_acks()
    closing.outcome()
    assert sender.acked_fsn() == 0
    assert clock.now_millis() == 5_999, "no time had to pass after the ack"


@pytest.mark.parametrize("timeout", ["0", "-1"])
def test_CLS_01_a_fast_close_waits_for_nothing(server: QwpServer, timeout: str) -> None:
    clock = StepClock()
    sender = open_sender(server, f"close_flush_timeout_millis={timeout};", clock=clock)
    server.hold_acks()
    publish(sender, 0)
    sender.close()
    assert sender.acked_fsn() is None
    assert clock.now_millis() == 1_000


def test_CLS_02_a_silent_server_raises_with_both_fsns_at_the_timeout(server: QwpServer, caplog) -> None:
    clock = StepClock()
    sender = open_sender(server, "close_flush_timeout_millis=700;", clock=clock)
    publish(sender, 0)
    assert sender.await_acked_fsn(0)
    server.hold_acks()
    publish(sender, 1)
    publish(sender, 2)
    closing = Call(sender.close)
    clock.wait_for_wait(700)
    clock.advance(699)
    assert closing.is_alive()
    clock.advance(1)
    with pytest.raises(DeliveryTimeout, match=r"FSN 0 is acked, 2 published, 2 frames.*lost") as caught:
        closing.outcome()
    assert (caught.value.published_fsn, caught.value.acked_fsn) == (2, 0)
    warnings = [record for record in caplog.records if "close() gave up" in record.message]
    assert [record.levelname for record in warnings] == ["WARNING"]


def test_CLS_03_the_shutdown_is_complete_before_the_first_error_is_raised(server: QwpServer, monkeypatch) -> None:
    sender = open_sender(server)
    publish(sender, 0)
    engine = sender._engine
    monkeypatch.setattr(engine.publisher, "publish", lambda **_: (_ for _ in ()).throw(SpoolqError("first")))
    put(sender, 1)
    with pytest.raises(SpoolqError, match="first"):
        sender.close()
    assert not any(thread.name in ("spoolq-io", "spoolq-keeper") for thread in threading.enumerate())
    server.wait_for(lambda: server.connections[0].closed_by == "client_close")
    assert repr(sender).endswith("closed>")
    sender.close()


_STEPS = (
    "loop.stop",
    "loop.close",
    "keeper.stop",
    "reports.close",
    "rows.clear",
    "store.close",
    "progress.begin_closing",
)


@pytest.mark.parametrize("broken", [_STEPS[:1], _STEPS[2:5], _STEPS], ids=["one", "some", "all"])
def test_CLS_04_each_step_runs_whatever_fails_and_the_rest_is_attached(
    server: QwpServer, monkeypatch, broken: tuple[str, ...]
) -> None:
    sender = open_sender(server)
    publish(sender, 0)
    ran: list[str] = []

    class Part:
        """A part of the engine of which some steps do their work and then fail."""

        def __init__(self, name: str, part: object) -> None:
            self.__dict__.update(name=name, part=part)

        def __getattr__(self, attribute: str):
            found = getattr(self.part, attribute)
            step = f"{self.name}.{attribute}"
            if step not in _STEPS:
                return found

            def run(*arguments: object) -> None:
                ran.append(step)
                found(*arguments)
                if step in broken:
                    raise OSError(5, f"{step} broke")

            return run

        def __setattr__(self, attribute: str, value: object) -> None:
            setattr(self.part, attribute, value)

        def __enter__(self):
            return self.part.__enter__()

        def __exit__(self, *found: object):
            return self.part.__exit__(*found)

        def __len__(self) -> int:
            return len(self.part)

    engine = sender._engine
    for name in ("loop", "keeper", "reports", "rows", "store", "progress"):
        monkeypatch.setattr(engine, name, Part(name, getattr(engine, name)))
    with pytest.raises(OSError) as caught:
        sender.close()
    assert sorted(ran) == sorted(_STEPS)
    first = next(step for step in ran if step in broken)
    assert f"{first} broke" in str(caught.value)
    notes = "\n".join(getattr(caught.value, "__notes__", ()))
    for step in ran:
        assert (f"{step} broke" in notes) == (step in broken and step != first)


def test_CLS_05_racing_closers_are_safe_and_wait_for_the_first(server: QwpServer, monkeypatch) -> None:
    sender = open_sender(server, "close_flush_timeout_millis=60000;")
    server.hold_acks()
    publish(sender, 0)
    ended, came = sender._engine._ending._ended, threading.Semaphore(0)
    wait = ended.wait
    monkeypatch.setattr(ended, "wait", lambda: (came.release(), wait()))
    closers = [Call(sender.close) for _ in range(8)]
    assert all(came.acquire(timeout=10) for _ in range(7)), "the others wait for the first"
    assert all(closer.is_alive() for closer in closers)
    server.release_acks()
    for closer in closers:
        closer.outcome()
    sender.close()
    assert numbers(server) == [0]


def test_CLS_05_of_racing_closers_one_raises_the_terminal_error(server: QwpServer) -> None:
    server.set_script(Script(reject=(Reject(0, 3, "no such type"),)))
    handler = Recorder()
    sender = open_sender(server, handler=handler)
    publish_unanswered(server, sender, 0)
    handler.wait_for(lambda event: event.policy == "terminal")
    outcomes: list[BaseException | None] = []
    gate = threading.Barrier(4)

    def close() -> None:
        gate.wait(10)
        try:
            sender.close()
        except SpoolqError as error:
            outcomes.append(error)
        else:
            outcomes.append(None)

    for closer in [Call(close) for _ in range(4)]:
        closer.outcome()
    assert sorted(map(str, outcomes)).count("None") == 3
    assert [type(error) for error in outcomes if error is not None] == [ServerRejection]


_ENDS = {
    "a refused frame": (Script(reject=(Reject(1, 5, "cannot be read"),)), ServerRejection, r"FSN 1.*cannot be read"),
    "credentials": ([Script(), Script(refuse=Refuse(401))], AuthError, "ws-upgrade-failed"),
    "broken framing": (Script(answers=(Answer(2, "masked"),)), ServerRejection, "WebSocket protocol"),
}


@pytest.mark.parametrize("on_disk", [True, False])
@pytest.mark.parametrize("why", _ENDS)
def test_CLS_06_a_user_who_only_calls_close_sees_a_terminal_error_and_which_frames_it_left(
    tmp_path: Path, why: str, on_disk: bool, caplog
) -> None:
    script, error, text = _ENDS[why]
    with QwpServer(script=script) as server:
        sender = open_sender(server, f"sf_dir={tmp_path};" if on_disk else "")
        server.hold_acks()
        publish(sender, 0, 1)
        for number in range(2, 5):
            publish(sender, number)
        server.wait_for_messages(4)
        if why == "credentials":
            server.drop_connections()
        server.release_acks()
        with pytest.raises(error, match=text) as caught:
            sender.close()
        sender.close()
    acked, published = sender.acked_fsn(), sender.published_fsn()
    assert published == 3
    left = f"FSN {0 if acked is None else acked + 1} to 3 not delivered: "
    fate = (
        "they stay in the slot " + str(tmp_path / "default") if on_disk else "they were queued in memory and are lost"
    )
    (note,) = caught.value.__notes__
    assert note.startswith(left + fate)
    assert [record.levelname for record in caplog.records if left + fate in record.getMessage()] == ["ERROR"]
    if not on_disk:
        assert not re.search("skip_head_frame|is kept|they stay", "".join([str(caught.value), *caught.value.__notes__]))
    assert sender.stats().last_terminal_error is not None
    assert not hasattr(sender.stats().last_terminal_error, "__notes__")


def test_CLS_06_rows_that_found_no_room_behind_a_terminal_error_are_counted(server: QwpServer, caplog) -> None:
    server.set_script(Script(reject=(Reject(0, 5, "cannot be read"),)))
    sender = open_sender(server, "sf_max_segment_bytes=4096;sf_max_total_bytes=8192;")
    server.hold_acks()
    for number in range(5):
        sender.row("t", columns={"b": b"x" * 3000, "n": number}, at=TimestampMicros(number + 1))
    closing = Call(sender.close)
    server.wait_for_messages(2)  # there is no room for a third
    server.release_acks()
    with pytest.raises(ServerRejection) as caught:
        closing.outcome()
    assert caught.value.__notes__ == [  # the same error of two steps is one
        "FSN 0 to 1 not delivered: they were queued in memory and are lost",
        "3 buffered rows could not be published and are lost",
    ]
    assert caught.value.__notes__[-1] in caplog.text


def test_CLS_06_an_error_that_leaves_a_with_block_has_it_beside_it(server: QwpServer) -> None:
    server.set_script(Script(reject=(Reject(0, 5, "cannot be read"),)))
    sender = open_sender(server)
    publish_unanswered(server, sender, 0)
    leaving = RuntimeError("the caller's")
    sender.__exit__(RuntimeError, leaving, None)
    (note,) = leaving.__notes__
    assert "cannot be read" in note
    assert "FSN 0 not delivered: they were queued in memory and are lost" in note


def test_CLS_06_nothing_is_named_when_all_was_delivered(server: QwpServer, tmp_path: Path) -> None:
    server.set_script(Script(reject=(Reject(1, 5, "cannot be read"),)))
    sender = open_sender(server, f"sf_dir={tmp_path};")
    publish(sender, 0)
    publish_unanswered(server, sender, 1)
    with pytest.raises(ServerRejection):
        sender.wait()
    sender.skip_head_frame()
    with pytest.raises(ServerRejection) as caught:
        sender.close()
    assert getattr(caught.value, "__notes__", []) == []


def test_close_is_idempotent_and_what_comes_after_it_is_a_closed_error(server: QwpServer) -> None:
    sender = open_sender(server)
    publish(sender, 0)
    sender.close()
    sender.close()
    writer = sender.table("t", symbols=["s"], columns=["n"])
    calls = [
        lambda: put(sender, 1),
        lambda: sender.rows("t", [(1, 2)], columns=["n"]),
        lambda: writer.row("a", 1, at=TimestampMicros(1)),
        sender.flush,
        sender.flush_and_get_fsn,
        sender.drain,
        lambda: sender.await_acked_fsn(1),
    ]
    for call in calls:
        with pytest.raises(ClosedError, match="closed"):
            call()
    assert (sender.published_fsn(), sender.acked_fsn(), sender.await_acked_fsn(0)) == (0, 0, True)
    sender.wait()
    assert sender.stats().published_fsn == 0
    assert sender.poll_error() is None
    assert numbers(server) == [0]


def test_close_without_flush_forgets_buffered_rows_and_waits_for_published_ones(server: QwpServer) -> None:
    sender = open_sender(server)
    publish(sender, 0)
    put(sender, 1)
    sender.close(flush=False)
    assert numbers(server) == [0]
    assert sender.acked_fsn() == 0


def test_30_a_with_left_by_an_exception_forgets_buffered_rows_and_delivers_published_ones(server: QwpServer) -> None:

    def leave() -> None:
        with open_sender(server) as sender:
            publish(sender, 0)
            put(sender, 1)
            raise KeyError("mine")

    with pytest.raises(KeyError) as caught:
        leave()
    assert numbers(server) == [0]
    assert not hasattr(caught.value, "__notes__")


def test_30_a_terminal_error_is_attached_to_the_exception_that_leaves_the_with(server: QwpServer) -> None:
    server.set_script(Script(reject=(Reject(0, 3, "no such type"),)))
    opened: list[Sender] = []

    def leave() -> None:
        with open_sender(server) as sender:
            opened.append(sender)
            publish_unanswered(server, sender, 0)
            raise KeyError("mine")

    with pytest.raises(KeyError) as caught:
        leave()
    assert ["no such type" in note for note in caught.value.__notes__] == [True]
    opened[0].close()


def test_30_a_terminal_error_is_raised_when_the_with_ends_well(server: QwpServer) -> None:
    server.set_script(Script(reject=(Reject(0, 3, "no such type"),)))
    with pytest.raises(ServerRejection, match="no such type"), open_sender(server) as sender:
        publish_unanswered(server, sender, 0)


def test_SND_08_close_during_a_slow_start_cuts_it(server: QwpServer) -> None:
    server.set_script(Script(silent=True))
    sender = open_sender(server, "initial_connect_retry=async;auth_timeout_ms=60000;close_flush_timeout_millis=0;")
    server.wait_for(lambda: server.connections and server.connections[0].target)
    publish(sender, 0)
    sender.close()  # the upgrade would go on for 60 s, beyond the suite's limit
    server.wait_for(lambda: server.connections[0].closed_by in ("client_eof", "client_reset"))


def test_SND_08_close_cuts_a_blocked_send() -> None:
    with RawServer() as raw:
        clock = StepClock()
        sender = open_sender(raw.conf, "initial_connect_retry=async;close_flush_timeout_millis=0;", clock=clock)
        raw.accept()
        for number in range(24):  # more than the sockets' buffers hold; nobody reads
            sender.row("t", columns={"b": b"x" * (1 << 20), "n": number}, at=TimestampMicros(number + 1))
            sender.flush()
        clock.asleep()
        assert sender.stats().total_frames_sent < 24
        sender.close()
        assert raw.socket is not None
        raw.socket.settimeout(10)
        received = 0
        while True:
            try:
                data = raw.socket.recv(1 << 20)
            except ConnectionResetError:
                break
            if not data:
                break
            received += len(data)
        assert received < 24 << 20


def test_SND_08_close_while_no_server_answers_says_what_is_lost() -> None:
    clock = StepClock()
    sender = open_sender(f"ws::addr=127.0.0.1:{free_port()};", "initial_connect_retry=async;", clock=clock)
    publish(sender, 0)
    closing = Call(sender.close)
    clock.wait_for_wait(10_000)
    clock.advance(10_000)
    with pytest.raises(DeliveryTimeout, match=r"no connection for .* attempts so far.*memory and are lost"):
        closing.outcome()


def test_SND_09_close_during_a_reconnect_closes_the_new_connection_too(server: QwpServer) -> None:
    sender = open_sender(server, "auth_timeout_ms=60000;close_flush_timeout_millis=0;")
    publish(sender, 0)
    server.wait_for_rows("t", 1)
    server.set_script(Script(silent=True))
    server.drop_connections()
    server.wait_for(lambda: len(server.connections) == 2 and server.connections[1].target)
    sender.close()
    server.wait_for(lambda: all(record.closed_by for record in server.connections))


def test_SND_09_a_reconnect_closes_the_old_connection(server: QwpServer) -> None:
    server.set_script([Script(reject=(Reject(0, 6, "again"),)), Script()])
    with open_sender(server) as sender:
        publish(sender, 0)
        sender.wait()
        server.wait_for(lambda: server.connections[0].closed_by == "client_close")
    assert numbers(server) == [0]


def test_after_a_close_that_found_no_room_no_timer_publishes_the_rows(server: QwpServer) -> None:
    clock = StepClock()
    sender = open_sender(
        server,
        "auto_flush_interval=100;sf_max_segment_bytes=65536;sf_max_total_bytes=131072;sf_append_deadline_millis=1000;"
        "close_flush_timeout_millis=5000;",
        clock=clock,
    )
    server.hold_acks()
    for number in (0, 1):
        sender.row("t", columns={"b": b"x" * 60_000, "n": number}, at=TimestampMicros(number + 1))
        sender.flush()
    sender.row("t", columns={"b": b"x" * 60_000, "n": 2}, at=TimestampMicros(3))
    closing = Call(sender.close)
    clock.wait_for_wait(1_000)
    clock.advance(1_000)  # the last publish has given up: the row is lost, and the error says so
    clock.wait_for_wait(5_000)
    assert sender._engine.keeper._due_millis() is None
    server.release_acks()
    with pytest.raises(SpoolqError, match="no room") as caught:
        closing.outcome()
    assert caught.value.in_doubt is False
    assert [row["n"] for row in server.store.rows("t")] == [0, 1]


def test_close_from_a_conversion_hook_is_an_error_and_the_sender_goes_on(server: QwpServer) -> None:
    sender = open_sender(server)

    class Columns(Mapping):
        def __getitem__(self, name: str):
            return 1

        def __iter__(self):
            sender.close()
            return iter(["n"])

        def __len__(self) -> int:
            return 1

    with pytest.raises(ReentryError):
        sender.row("t", columns=Columns(), at=TimestampMicros(1))
    publish(sender, 1)
    sender.close()
    assert numbers(server) == [1]
