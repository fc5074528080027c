"""Frames that leave the queue: the policy drop, `skip_head_frame`, `requeue`; ERR-03, ERR-04, DLQ-01 to DLQ-05."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any, NoReturn

import pytest

from spoolq import (
    BackpressureError,
    ClosedError,
    ConfigError,
    FrameTooLarge,
    NothingToSkipError,
    Sender,
    ServerRejection,
    SpoolqError,
    StorageError,
)
from spoolq.qwp.decode import Dictionary, decode
from spoolq.runtime import engine
from spoolq.runtime.io_loop import IoLoop
from spoolq.spool.files import Files
from spoolq.testing import Answer, QwpServer, Reject, Script
from tests.ports import NOBODY

from .harness import (
    Recorder,
    StepClock,
    frames,
    numbers,
    open_sender,
    publish,
    publish_unanswered,
    put,
    python,
    unanswered,
    until,
)

DATE = "column n is a DATE"
ONCE = [Script(reject=(Reject(1, 3, DATE),)), Script()]
ALWAYS = Script(reject=(Reject(0, 3, DATE),))  # whatever comes first, the catch-up of a later connection too


@pytest.fixture
def server() -> Iterator[QwpServer[Any]]:
    with QwpServer(script=ONCE) as running:
        yield running


def on_slot(folder: Path, extra: str = "") -> str:
    return f"sf_dir={folder};{extra}"


def dead(sender: Sender) -> list[list[int]]:
    """The numbers in each dead letter; each must decode by itself."""
    found = []
    for letter in sender.dead_letters():
        message = decode(sender._engine.letters.kept.frame_of(letter), Dictionary())
        columns = {column.name: list(column.values) for column in message.tables[0].columns}
        assert columns["s"] == [f"sym-{number}" for number in columns["n"]]
        found.append(columns["n"])
    return found


def stopped(folder: Path, *, sender_id: str = "default") -> Sender:
    """A sender on a slot with three frames, of which the second is refused for good."""
    with QwpServer(script=ONCE[0]) as server:
        handler = Recorder()
        sender = open_sender(server, on_slot(folder, f"sender_id={sender_id};"), handler=handler)
        with unanswered(server):
            for number in range(3):
                publish(sender, number)
        handler.wait_for()
        assert numbers(server) == [0]
    return sender


def closed(sender: Sender) -> None:
    with pytest.raises(ServerRejection):
        sender.close()


# -- drop ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["key", "argument", "resolver"])
def test_err_03_dlq_01_drop_does_not_halt_and_the_ack_advances(
    server: QwpServer[Any], tmp_path: Path, way: str
) -> None:
    handler = Recorder()
    key = "on_schema_error=drop;" if way == "key" else ""
    given: dict[str, Any] = {
        "key": {},
        "argument": {"category_policies": {"schema_mismatch": "drop"}},
        "resolver": {"error_policy": lambda _: "drop"},
    }[way]
    with open_sender(server, on_slot(tmp_path, key), handler=handler, **given) as sender:
        for number in range(3):
            fsn = publish(sender, number)
        assert sender.await_acked_fsn(fsn, 10_000)
        polled = sender.poll_error()
        assert not sender.must_close
        event = handler.wait_for()
        assert polled == event
        assert (event.category, event.policy, event.status, event.text) == ("schema_mismatch", "drop", 3, DATE)
        assert (event.from_fsn, event.to_fsn) == (1, 1)
        (letter,) = sender.dead_letters()
        assert (letter.fsn, letter.category, letter.status, letter.server_text) == (1, "schema_mismatch", 3, DATE)
        assert dead(sender) == [[1]]
        assert sender.stats().total_dead_letters == 1
        sender.row("t", symbols={"s": "sym-1"}, columns={"n": 1}, at=letter.when)  # the dropped frame's symbol
        sender.flush(wait=True)
    assert numbers(server) == [0, 2, 1]
    assert len(server.connections) == 2
    assert os.listdir(tmp_path / "default") in ([".lock", ".lock.pid"], [".lock.pid", ".lock"])


def test_dlq_01_a_letter_stands_beside_the_slot_whatever_chdir_does(
    server: QwpServer[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with open_sender(server, on_slot(Path("spool"), "on_schema_error=drop;")) as sender:
        monkeypatch.chdir(tmp_path / "there")
        for number in range(3):
            publish(sender, number)
        sender.wait()
        (letter,) = sender.dead_letters()
        assert os.path.dirname(letter.path) == str(tmp_path / "here" / "spool" / "default.dead-letter")
        assert sender.requeue(letter) == 3
    monkeypatch.chdir(tmp_path)
    assert numbers(server) == [0, 2, 1]
    assert os.listdir(tmp_path / "there") == []


def test_err_04_a_poisoned_stored_frame_never_loops_for_ever(tmp_path: Path) -> None:
    closed(stopped(tmp_path))
    for _ in range(2):  # the catch-up goes ahead of it
        with QwpServer(script=Script(reject=(Reject(1, 3, DATE),))) as server:
            sender = open_sender(server, on_slot(tmp_path))
            with pytest.raises(ServerRejection):
                sender.wait()
            closed(sender)
            assert len(server.connections) == 1
    with QwpServer(script=[Script(reject=(Reject(1, 3, DATE),)), Script()]) as server:
        with open_sender(server, on_slot(tmp_path, "on_schema_error=drop;")) as sender:
            sender.wait()
            assert dead(sender) == [[1]]
        assert numbers(server) == [2]


def test_a_refused_catch_up_drops_nothing(tmp_path: Path) -> None:
    closed(stopped(tmp_path))
    with QwpServer(script=ALWAYS) as server:
        sender = open_sender(server, on_slot(tmp_path, "on_schema_error=drop;"))
        with pytest.raises(ServerRejection, match="refused FSN 1 to 2"):
            sender.wait()
        assert sender.dead_letters() == []
        with pytest.raises(NothingToSkipError, match="not the fault of one frame"):
            sender.skip_head_frame()
        closed(sender)


def test_err_04_frame_by_frame_everything_that_is_refused_goes_and_the_rest_arrives(tmp_path: Path) -> None:
    """No symbols, so that nothing goes ahead of the frames: each connection refuses the first one."""
    with QwpServer(script=[ALWAYS, ALWAYS, ALWAYS, Script()]) as server:
        with open_sender(server, on_slot(tmp_path, "on_schema_error=drop;")) as sender:
            for number in range(5):
                sender.row("t", columns={"n": number}, at=sender_time(number))
                sender.flush()
            sender.wait()
            assert [letter.fsn for letter in sender.dead_letters()] == [0, 1, 2]
        assert [row["n"] for row in server.store.rows("t")] == [3, 4]


def sender_time(number: int) -> Any:
    from spoolq import TimestampMicros

    return TimestampMicros(number + 1)


def test_ours_22_the_symbols_of_a_dropped_frame_outlive_it_and_a_restart(tmp_path: Path) -> None:
    """The second frame brings no symbol of its own: it means nothing without those of the first one."""
    with QwpServer(script=[ALWAYS, Script(no_ack=True)]) as server:
        settings = on_slot(tmp_path, "on_schema_error=drop;close_flush_timeout_millis=0;")
        with open_sender(server, settings) as sender:
            publish(sender, 7)
            assert sender.await_acked_fsn(0, 10_000)
            publish(sender, 7)
            assert sender.acked_fsn() == 0
    with QwpServer() as server, open_sender(server, on_slot(tmp_path)) as sender:
        sender.wait()
        assert numbers(server) == [7]
        assert frames(server) == [[7]]


def test_with_durable_acks_what_is_before_a_dropped_frame_becomes_durable_first(tmp_path: Path) -> None:
    silent = Script(no_durable_ack=True, reject=(Reject(2, 3, DATE),))
    with QwpServer(durable_ack=True, script=silent) as server:
        asking = "request_durable_ack=on;durable_ack_keepalive_interval_millis=5;"
        sender = open_sender(server, on_slot(tmp_path, asking))
        with unanswered(server):
            for number in range(3):
                publish(sender, number)
        with pytest.raises(ServerRejection):
            sender.wait()
        with pytest.raises(NothingToSkipError, match="FSN 2 was refused while FSN 0 to 1 are not durable"):
            sender.skip_head_frame()
        closed(sender)
        behind_the_catch_up = (Reject(3, 3, DATE),)
        server.set_script(
            [
                Script(no_durable_ack=True, reject=behind_the_catch_up),  # it leaves, and holds the frame back
                Script(reject=behind_the_catch_up),  # durable first, then the frame
                Script(),
            ]
        )
        with open_sender(server, on_slot(tmp_path, asking + "on_schema_error=drop;")) as sender:
            publish(sender, 3)
            sender.wait()
            assert dead(sender) == [[2]]
        assert [sent[:3] for sent in frames(server)[1:]] == [[0, 1, 2], [0, 1, 2], [3]]


def test_dlq_02_a_full_store_ends_the_sender_and_nothing_is_dropped(server: QwpServer[Any], tmp_path: Path) -> None:
    handler = Recorder()
    settings = on_slot(tmp_path, "on_schema_error=drop;dead_letter_max_bytes=20;")
    sender = open_sender(server, settings, handler=handler)
    with unanswered(server):
        for number in range(3):
            publish(sender, number)
    assert handler.wait_for().policy == "terminal"
    with pytest.raises(ServerRejection, match=r"FSN 1.*could not be saved.*dead_letter_max_bytes=20"):
        sender.flush()
    assert sender.dead_letters() == []
    assert sender.acked_fsn() == 0
    closed(sender)
    with open_sender(server, on_slot(tmp_path)) as sender:
        sender.wait()
    assert numbers(server) == [0, 1, 2]


def test_dlq_05_a_disk_that_fails_ends_the_sender_and_nothing_is_dropped(
    server: QwpServer[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync_all = Files.sync_all

    def fails(self: Files, file: Any) -> None:
        if file.path.endswith(".qwp.tmp"):
            raise StorageError("cannot sync it: Input/output error")
        sync_all(self, file)

    monkeypatch.setattr(Files, "sync_all", fails)
    handler = Recorder()
    sender = open_sender(server, on_slot(tmp_path, "on_schema_error=drop;"), handler=handler)
    publish(sender, 0)
    publish_unanswered(server, sender, 1)
    handler.wait_for()
    with pytest.raises(ServerRejection, match=r"could not be saved.*Input/output error"):
        sender.flush()
    closed(sender)
    assert os.listdir(tmp_path / "default.dead-letter") == []
    with open_sender(server, on_slot(tmp_path)) as sender:
        sender.wait()
    assert numbers(server) == [0, 1]


def test_dlq_05_killed_between_letter_and_settling_the_frame_is_in_both(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from spoolq import Sender, TimestampMicros
from spoolq.runtime.letters import Letters
save = Letters.save
def save_and_die(self, refusal):
    save(self, refusal)
    os.kill(os.getpid(), signal.SIGKILL)
Letters.save = save_and_die
sender = Sender.from_conf(sys.argv[1])
for number in range(3):
    sender.row("t", symbols={"s": f"sym-{number}"}, columns={"n": number}, at=TimestampMicros(1))
    sender.flush()
sender.wait()
"""
    with QwpServer(script=ONCE) as server:
        settings = on_slot(tmp_path, "on_schema_error=drop;auto_flush=off;")
        assert python(code, server.conf + settings).returncode == -signal.SIGKILL
        with open_sender(server, on_slot(tmp_path)) as sender:
            assert dead(sender) == [[1]]
            sender.wait()
        assert sorted(set(numbers(server))) == [0, 1, 2]


@pytest.mark.parametrize(
    "settings",
    [{"on_schema_error": "drop"}, {"category_policies": {"schema_mismatch": "drop"}}],
)
def test_drop_in_memory_is_refused_before_anything_is_opened(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="needs sf_dir"):
        Sender(addr="192.0.2.1:9", **settings)


def test_category_policies_that_are_no_dict_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"category_policies takes a dict .*, not list") as caught:
        Sender(addr="192.0.2.1:9", category_policies=["schema_mismatch"])  # type: ignore[arg-type]
    assert caught.value.key == "category_policies"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"not_writable": "terminal"}, "'not_writable' has no policy of its own"),
        ({"schema": "terminal"}, "'schema' has no policy of its own; .*schema_mismatch"),
        ({"parse_error": "ignore"}, "'ignore' for parse_error is no policy"),
    ],
)
def test_wrong_category_policies_are_refused_before_anything_is_opened(given: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Sender(addr="192.0.2.1:9", category_policies=given)


# -- who decides ---------------------------------------------------------------------------------------

ORDER = ["resolver", "argument", "key", "general"]


@pytest.mark.parametrize("first", [*ORDER, "default"])
def test_6_2_the_first_who_says_something_counts(first: str) -> None:
    """All behind ``first`` say retriable, which would go on for ever; those before it say nothing."""
    silent = ORDER[: ORDER.index(first)] if first in ORDER else ORDER
    says = {who: None if who in silent else "terminal" if who == first else "retriable" for who in ORDER}
    keys = "".join(
        f"{key}={says[who]};" for who, key in (("key", "on_parse_error"), ("general", "on_server_error")) if says[who]
    )
    seen = Recorder()

    def resolver(event: Any) -> str | None:
        seen(event)
        return says["resolver"]

    with QwpServer(script=Script(reject=(Reject(0, 5, "why"),))) as server:
        handler = Recorder()
        argument = {"parse_error": says["argument"]} if says["argument"] else None
        sender = open_sender(server, keys, handler=handler, error_policy=resolver, category_policies=argument)
        publish_unanswered(server, sender, 0)
        assert handler.wait_for().policy == "terminal"
        event = seen.wait_for()
        assert (event.category, event.text, event.from_fsn) == ("parse_error", "why", 0)
        assert event.policy == (says["argument"] or says["key"] or says["general"] or "terminal")
        closed(sender)


def test_6_2_halt_is_another_word_for_terminal(server: QwpServer[Any]) -> None:
    handler = Recorder()
    sender = open_sender(
        server, "on_schema_error=retriable;", handler=handler, category_policies={"schema_mismatch": "halt"}
    )
    publish(sender, 0)
    publish_unanswered(server, sender, 1)
    assert handler.wait_for().policy == "terminal"
    closed(sender)


def raises(event: Any) -> str:
    raise RuntimeError("a bug of the user's")


def exits(event: Any) -> str:
    raise SystemExit(1)


@pytest.mark.parametrize(
    ("resolver", "logged"),
    [
        (raises, "error_policy raised for schema_mismatch"),
        (exits, "error_policy raised for schema_mismatch"),
        (lambda _: "ignore", "error_policy answered 'ignore'"),
        (lambda _: 7, "error_policy answered 7"),
        (lambda _: "drop", "error_policy answered 'drop'"),  # in memory
    ],
)
def test_6_2_a_resolver_that_fails_is_logged_and_the_settings_count(
    server: QwpServer[Any], resolver: Any, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    with open_sender(server, "on_schema_error=retriable;", error_policy=resolver) as sender:
        publish(sender, 0)
        publish(sender, 1)
        sender.wait()
    assert numbers(server) == [0, 1]
    assert logged in caplog.text


def test_6_2_a_resolver_may_wait_for_those_who_wait_for_the_sender(server: QwpServer[Any]) -> None:
    """It cannot hang the sender: after its time the settings count, and its wait comes to an end."""
    clock, entered, left = StepClock(), threading.Event(), threading.Event()

    def resolver(event: Any) -> str:
        entered.set()
        sender.wait()
        left.set()
        return "terminal"

    sender = open_sender(server, "on_schema_error=retriable;", error_policy=resolver, clock=clock)
    publish(sender, 0)
    publish(sender, 1)
    assert entered.wait(10)
    clock.wait_for_poll(lambda timeout: timeout is not None and timeout > 1_000)
    clock.advance(5_000)
    assert clock.wait_for_poll(lambda timeout: timeout is not None and timeout < 10) is not None
    while not left.is_set():
        clock.advance(10)
    sender.close()
    assert numbers(server) == [0, 1]


def test_6_2_a_resolver_may_close_the_sender(server: QwpServer[Any], tmp_path: Path) -> None:
    done = threading.Event()

    def resolver(event: Any) -> str:
        try:
            sender.close()
        finally:
            done.set()
        return "drop"

    settings = on_slot(tmp_path, "close_flush_timeout_millis=0;")
    sender = open_sender(server, settings, error_policy=resolver)
    publish(sender, 0)
    publish(sender, 1)
    assert done.wait(10)
    with open_sender(server, on_slot(tmp_path)) as sender:
        sender.wait()
    assert numbers(server) == [0, 1]


# -- skip ----------------------------------------------------------------------------------------------


def test_skip_the_last_act_of_a_stopped_sender_and_the_next_one_goes_on(tmp_path: Path) -> None:
    sender = stopped(tmp_path)
    letter = sender.skip_head_frame()
    assert (letter.fsn, letter.category, letter.status, letter.server_text) == (1, "schema_mismatch", 3, DATE)
    assert sender.acked_fsn() == 1
    assert dead(sender) == [[1]]
    with pytest.raises(ServerRejection):  # it stays stopped
        put(sender, 9)
    closed(sender)
    with QwpServer() as server, open_sender(server, on_slot(tmp_path)) as sender:
        assert publish(sender, 3) == 3
        sender.wait()
        assert numbers(server) == [2, 3]


def test_skip_behind_a_ctrl_c_still_waits_for_the_io_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, may_end, main = IoLoop.run, threading.Event(), threading.main_thread().ident
    assert main is not None

    def run_and_stay(loop: IoLoop) -> None:
        run(loop)
        may_end.wait()

    def interrupt() -> None:
        until(lambda: sys._current_frames()[main].f_code.co_name in ("join", "_wait_for_tstate_lock"))
        signal.pthread_kill(main, signal.SIGINT)

    monkeypatch.setattr(IoLoop, "run", run_and_stay)
    sender = stopped(tmp_path)
    by = threading.Thread(target=interrupt)
    by.start()
    with pytest.raises(KeyboardInterrupt):
        sender.skip_head_frame()
    by.join()
    monkeypatch.setattr(engine, "JOIN_SECONDS", 0.001)
    with pytest.raises(SpoolqError, match="the I/O thread has not ended yet: try again"):
        sender.skip_head_frame()
    assert sender.acked_fsn() == 0
    may_end.set()
    until(lambda: sender._engine._ending.io_ended)
    assert sender.skip_head_frame().fsn == 1
    closed(sender)


def test_skip_when_it_came_again_after_a_restart(tmp_path: Path) -> None:
    closed(stopped(tmp_path))
    # The catch-up goes ahead, then the frame that was refused before.
    with QwpServer(script=[Script(reject=(Reject(1, 3, DATE),)), Script()]) as server:
        sender = open_sender(server, on_slot(tmp_path))
        with pytest.raises(ServerRejection):
            sender.wait()
        assert sender.skip_head_frame().fsn == 1
        closed(sender)
        with open_sender(server, on_slot(tmp_path)) as sender:
            sender.wait()
        assert numbers(server) == [2]


def test_skip_the_only_frame_leaves_a_drained_slot(tmp_path: Path) -> None:
    with QwpServer(script=ALWAYS) as server:
        sender = open_sender(server, on_slot(tmp_path))
        publish_unanswered(server, sender, 0)
        with pytest.raises(ServerRejection):
            sender.wait()
        sender.skip_head_frame()
        closed(sender)
    assert sorted(os.listdir(tmp_path / "default")) == [".lock", ".lock.pid"]


def test_skip_in_a_handler(tmp_path: Path) -> None:
    with QwpServer(script=ALWAYS) as server:
        done = Recorder()
        sender = open_sender(server, on_slot(tmp_path), handler=lambda _: done(sender.skip_head_frame()))
        publish_unanswered(server, sender, 0)
        assert done.wait_for().fsn == 0
        closed(sender)


def test_skip_a_second_time_is_an_error(tmp_path: Path) -> None:
    sender = stopped(tmp_path)
    sender.skip_head_frame()
    with pytest.raises(NothingToSkipError, match="FSN 1, which stopped the sender, is settled already"):
        sender.skip_head_frame()
    assert sender.acked_fsn() == 1
    closed(sender)


def test_skip_of_a_sender_at_work_is_an_error(tmp_path: Path) -> None:
    with QwpServer(script=Script(no_ack=True)) as server:
        sender = open_sender(server, on_slot(tmp_path, "close_flush_timeout_millis=0;"))
        publish(sender, 0)
        with pytest.raises(NothingToSkipError, match="the sender is at work"):
            sender.skip_head_frame()
        sender.close()


def test_skip_where_no_frame_is_at_fault_is_an_error(tmp_path: Path) -> None:
    with QwpServer(script=Script(answers=(Answer(0, "masked"),))) as server:
        handler = Recorder()
        sender = open_sender(server, on_slot(tmp_path), handler=handler)
        with unanswered(server):
            publish(sender, 0)
            publish(sender, 1)
        handler.wait_for()
        with pytest.raises(NothingToSkipError, match="not the fault of one frame"):
            sender.skip_head_frame()
        closed(sender)


def test_skip_in_memory_and_on_a_closed_sender_are_errors(server: QwpServer[Any], tmp_path: Path) -> None:
    handler = Recorder()
    sender = open_sender(server, handler=handler)
    publish(sender, 0)
    publish_unanswered(server, sender, 1)
    handler.wait_for()
    for call in (sender.skip_head_frame, sender.dead_letters):
        with pytest.raises(ConfigError, match="set sf_dir"):
            call()
    closed(sender)
    with pytest.raises(ClosedError):
        sender.skip_head_frame()


def test_dlq_05_skip_that_cannot_save_leaves_the_frame(tmp_path: Path) -> None:
    sender = stopped(tmp_path)
    (tmp_path / "default.dead-letter").write_text("in the way")
    with pytest.raises(StorageError, match="dead-letter"):
        sender.skip_head_frame()
    assert sender.acked_fsn() == 0
    closed(sender)


# -- requeue -------------------------------------------------------------------------------------------


def test_dlq_04_a_letter_goes_back_through_the_queue_and_is_removed(server: QwpServer[Any], tmp_path: Path) -> None:
    with open_sender(server, on_slot(tmp_path, "on_schema_error=drop;")) as sender:
        for number in range(3):
            publish(sender, number)
        sender.wait()
        (letter,) = sender.dead_letters()
        put(sender, 3)  # buffered: it goes first
        assert sender.requeue(letter) == 4
        sender.wait()
        assert sender.dead_letters() == []
        publish(sender, 1)  # its symbol is known already
        sender.wait()
    assert numbers(server) == [0, 2, 3, 1, 1]


def test_dlq_04_a_letter_of_another_life_gets_the_ids_of_this_one(tmp_path: Path) -> None:
    """Other symbols have its ids by now; some of its own are known, some are not."""
    with QwpServer(script=ALWAYS) as server:
        sender = open_sender(server, on_slot(tmp_path))
        publish_unanswered(server, sender, 7, 8, 9)
        with pytest.raises(ServerRejection):
            sender.wait()
        sender.skip_head_frame()
        closed(sender)
    with QwpServer() as server:
        with open_sender(server, on_slot(tmp_path, "close_flush_timeout_millis=0;")) as sender:
            publish(sender, 1, 8)
            fsn = sender.requeue(sender.dead_letters()[0])
            publish(sender, 9, 10)
            assert sender.await_acked_fsn(fsn + 1, 10_000)
        assert numbers(server) == [1, 8, 7, 8, 9, 9, 10]
        assert frames(server) == [[1, 8, 7, 8, 9, 9, 10]]


def test_dlq_04_where_symbols_cannot_be_written_ahead_a_letter_brings_them_all(tmp_path: Path) -> None:
    """Dense frames (slot.md 4): what is requeued, too, has to be enough by itself."""
    sender = stopped(tmp_path)
    sender.skip_head_frame()
    closed(sender)
    nobody = f"ws::addr={NOBODY};initial_connect_retry=async;close_flush_timeout_millis=0;auto_flush=off;"
    with open_sender(nobody, on_slot(tmp_path), base="") as sender:
        store = sender._engine.store
        store._slot.symbol_log.usable = False  # type: ignore[attr-defined]
        assert store.dense
        publish(sender, 3)
        fsn = sender.requeue(sender.dead_letters()[0])
        run = store.run(fsn, 1, 1)
        assert run is not None
        found = decode(bytes(run.payloads()[0]), Dictionary())
        run.release()
        assert (found.delta_start, found.tables[0].columns[0].values) == (0, ["sym-1"])
    (tmp_path / "default" / ".symbol-dict").unlink()
    with QwpServer() as server, open_sender(server, on_slot(tmp_path)) as sender:
        sender.wait()
        assert numbers(server) == [2, 3, 1]


def test_dlq_04_a_sender_takes_the_letters_of_another_one(tmp_path: Path) -> None:
    sender = stopped(tmp_path, sender_id="gone")
    letter = sender.skip_head_frame()
    closed(sender)
    with QwpServer() as server, open_sender(server, on_slot(tmp_path)) as sender:
        sender.requeue(letter)
        sender.wait()
        assert numbers(server) == [1]
    assert os.listdir(tmp_path / "gone.dead-letter") == []


def test_dlq_04_what_was_requeued_survives_a_restart(tmp_path: Path) -> None:
    sender = stopped(tmp_path)
    sender.skip_head_frame()
    closed(sender)
    nobody = f"ws::addr={NOBODY};initial_connect_retry=async;close_flush_timeout_millis=0;auto_flush=off;"
    with open_sender(nobody, on_slot(tmp_path), base="") as sender:
        assert sender.requeue(sender.dead_letters()[0]) == 3
        assert sender.dead_letters() == []
    with QwpServer() as server, open_sender(server, on_slot(tmp_path)) as sender:
        sender.wait()
        assert numbers(server) == [2, 1]


def test_dlq_04_a_sync_that_fails_leaves_the_letter_and_says_in_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = stopped(tmp_path)
    sender.skip_head_frame()
    closed(sender)
    with QwpServer() as server, open_sender(server, on_slot(tmp_path)) as sender:
        (letter,) = sender.dead_letters()
        with monkeypatch.context() as patch:
            patch.setattr(sender._engine.store, "sync", lambda: exec("raise StorageError('no')", globals()))
            with pytest.raises(StorageError) as caught:
                sender.requeue(letter)
        assert caught.value.in_doubt
        assert sender.dead_letters() == [letter]
        sender.wait()
        assert numbers(server) == [2, 1]


@pytest.mark.parametrize("at", ["publisher._on_published", "store.sync", "letters.kept.remove"])
def test_dlq_04_a_ctrl_c_behind_the_frame_leaves_the_letter_and_says_in_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def interrupted(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    sender = stopped(tmp_path)
    sender.skip_head_frame()
    closed(sender)
    with QwpServer() as server, open_sender(server, on_slot(tmp_path)) as sender:
        (letter,) = sender.dead_letters()
        owner, _, name = at.rpartition(".")
        with monkeypatch.context() as patch:
            patch.setattr(attrgetter(owner)(sender._engine), name, interrupted)
            with pytest.raises(KeyboardInterrupt) as caught:
                sender.requeue(letter)
        assert caught.value.in_doubt  # type: ignore[attr-defined]
        assert sender.dead_letters() == [letter]
        sender.wait()
        assert numbers(server) == [2, 1]


def test_dlq_04_what_cannot_be_queued_stays_a_letter_and_leaves_no_symbol(tmp_path: Path) -> None:
    with QwpServer(script=ALWAYS) as server:
        sender = open_sender(server, on_slot(tmp_path))
        publish_unanswered(server, sender, *range(100))
        with pytest.raises(ServerRejection):
            sender.wait()
        sender.skip_head_frame()
        closed(sender)
    with QwpServer() as server:
        small = on_slot(tmp_path, "sf_max_segment_bytes=600;sf_max_total_bytes=1200;")
        with open_sender(server, small) as sender:
            with pytest.raises(FrameTooLarge, match="sf_max_segment_bytes"):
                sender.requeue(sender.dead_letters()[0])
            assert len(sender._engine._symbols) == 0
            assert len(sender.dead_letters()) == 1
            publish(sender, 1)
        assert numbers(server) == [1]
    with QwpServer(script=Script(no_ack=True)) as server:
        tight = on_slot(
            tmp_path,
            "sf_max_segment_bytes=4000;sf_max_total_bytes=8000;sf_append_deadline_millis=1;close_flush_timeout_millis=0;",
        )
        with open_sender(server, tight) as sender:
            fill(sender)
            sender._engine.rows.clear()  # so that the letter itself finds no room
            known = len(sender._engine._symbols)
            with pytest.raises(BackpressureError, match="the message is not queued: try again when the server"):
                sender.requeue(sender.dead_letters()[0])
            assert len(sender._engine._symbols) == known
            assert len(sender.dead_letters()) == 1


def fill(sender: Sender) -> None:
    """To the cap of two segments."""
    number = 0
    while True:
        try:
            publish(sender, number)
        except BackpressureError:
            if sender.stats().spool_segments == 2:  # else the keeper was still making the second one
                return
        number += 1


def test_dlq_04_a_letter_that_is_gone_or_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    sender = stopped(tmp_path)
    sender.skip_head_frame()
    closed(sender)
    with QwpServer() as server, open_sender(server, on_slot(tmp_path)) as sender:
        (letter,) = sender.dead_letters()
        sender._engine.letters.kept.remove(letter)
        with pytest.raises(StorageError, match="cannot open"):
            sender.requeue(letter)
        kept = sender._engine.letters.kept.save(
            0, b"no message", sender._engine._symbols, status=None, category="skipped", text="", time_micros=1
        )
        with pytest.raises(StorageError, match="holds a frame that cannot be queued: message header too short"):
            sender.requeue(kept)


# -- inboxes -------------------------------------------------------------------------------------------


def test_the_connection_listener_has_the_inbox_it_was_given(server: QwpServer[Any]) -> None:
    held, entered = threading.Event(), threading.Event()

    def listener(event: Any) -> None:
        entered.set()
        assert held.wait(10)

    with open_sender(server, "connection_listener_inbox_capacity=1;", listener=listener) as sender:
        assert entered.wait(10)
        publish(sender, 0)
        sender.wait()
        for _ in range(2):
            server.drop_connections()
            publish(sender, 2)
            sender.wait()
        assert sender.stats().connection_events_dropped >= 3  # two losses, two reconnections, room for one
        held.set()
