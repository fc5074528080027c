"""The public surface of `Sender` (design.md 4): signatures, states, counters, what an import costs."""

from __future__ import annotations

import ast
import contextlib
import copy
import inspect
import pickle
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import spoolq
from spoolq import Sender, TimestampMicros
from spoolq.errors import ConfigError, ServerRejection, SpoolqError
from spoolq.stats import SenderStats
from spoolq.testing import Auth, Drop, QwpServer, Reject, Script

from .harness import Call, Recorder, StepClock, numbers, open_sender, publish, put, python, until


@pytest.fixture
def server() -> Iterator[QwpServer]:
    with QwpServer() as running:
        yield running


_HANDLERS = (
    "error_handler=None, connection_listener=None, error_policy=None, category_policies=None, progress_handler=None"
)
_SIGNATURES = {
    "row": "(self, table_name, *, symbols=None, columns=None, at)",
    "rows": "(self, table_name, rows, *, symbols=(), columns=(), at=None)",
    "table": "(self, name, *, symbols=(), columns=())",
    "flush": "(self, buffer=None, clear=True, transactional=False, *, wait=False)",
    "flush_and_get_fsn": "(self, buffer=None)",
    "published_fsn": "(self)",
    "synced_fsn": "(self)",
    "ok_fsn": "(self)",
    "acked_fsn": "(self)",
    "await_synced_fsn": "(self, fsn, timeout_millis=None)",
    "await_acked_fsn": "(self, fsn, timeout_millis=None)",
    "await_ok_fsn": "(self, fsn, timeout_millis=None)",
    "await_durable_fsn": "(self, fsn, timeout_millis=None)",
    "wait": "(self, timeout_millis=0)",
    "drain": "(self, timeout_millis=None)",
    "poll_error": "(self)",
    "stats": "(self)",
    "close": "(self, flush=True)",
    "establish": "(self)",
    "close_drain": "(self)",
    "dead_letters": "(self)",
    "background_drainers": "(self)",
    "requeue": "(self, letter)",
    "skip_head_frame": "(self)",
    "from_conf": f"(conf_str, *, {_HANDLERS}, **settings)",
    "from_env": f"(*, {_HANDLERS}, **settings)",
}


@pytest.mark.parametrize("name", _SIGNATURES)
def test_the_signatures_are_those_of_the_design(name: str) -> None:
    found = inspect.signature(getattr(Sender, name))
    bare = found.replace(
        parameters=[p.replace(annotation=inspect.Parameter.empty) for p in found.parameters.values()],
        return_annotation=inspect.Signature.empty,
    )
    assert str(bare) == _SIGNATURES[name]
    assert inspect.getdoc(getattr(Sender, name))


def test_frk_01_what_never_raises_says_that_it_does_so_in_a_forked_child() -> None:
    docs = {name: inspect.getdoc(getattr(Sender, name)) or "" for name in dir(Sender) if not name.startswith("_")}
    page = (Path(__file__).parents[2] / "docs" / "migrating.md").read_text(encoding="utf-8")
    docs |= {row.split("|")[1].strip(): row for row in page.splitlines() if row.startswith("| `")}
    told = {name: text for name, text in docs.items() if "never raises" in text.lower()}
    assert {"published_fsn", "ok_fsn", "acked_fsn", "synced_fsn", "poll_error", "stats", "`acked_fsn`"} <= {*told}
    assert {name for name, text in told.items() if "ever raises but ForkedError" not in text} == set()


class _Own(Sender):
    """Overrides what the instance would else take from the row buffer."""

    def row(self, table, **keywords):
        return super().row(f"own_{table}", **keywords)

    def rows(self, table, rows, **keywords):
        return super().rows(f"own_{table}", rows, **keywords)


def test_a_subclass_keeps_its_own_row_and_rows(server: QwpServer) -> None:
    at = TimestampMicros(1)
    with _Own.from_conf(server.conf) as sender:
        sender.row("t", columns={"n": 1}, at=at)
        sender.rows("t", [(2,)], columns=["n"], at=at)
        sender.table("t", columns=["n"]).row(3, at=at)
    assert [row["n"] for row in server.store.rows("own_t")] == [1, 2, 3]


def test_the_names_that_people_import() -> None:
    wanted = (
        *("Sender", "TimestampMicros", "TimestampNanos", "ServerTimestamp", "Long256", "Geohash"),
        *("Char", "DateMillis"),
    )
    for name in wanted:
        assert hasattr(spoolq, name), name
        assert name in spoolq.__all__


def test_watermarks_are_none_before_the_first_and_never_raise(server: QwpServer) -> None:
    with open_sender(server) as sender:
        assert (sender.published_fsn(), sender.ok_fsn(), sender.acked_fsn(), sender.synced_fsn()) == (None,) * 4
        assert sender.flush_and_get_fsn() is None
        sender.wait()
        assert sender.drain() is True
        assert sender.must_close is False
        assert sender.poll_error() is None
        assert publish(sender, 0) == 0
        sender.wait()
        assert (sender.published_fsn(), sender.ok_fsn(), sender.acked_fsn(), sender.synced_fsn()) == (0, 0, 0, None)


def test_len_is_the_size_of_the_message_at_most_and_an_empty_sender_is_still_true(server: QwpServer) -> None:
    with open_sender(server) as sender:
        assert (len(sender), bool(sender)) == (0, True)
        put(sender, *range(100))
        size = len(sender)
        sender.flush()
        assert len(sender) == 0
        sender.wait()
        (message,) = server.connections[0].messages
    assert len(message) <= size <= 1.1 * len(message)


def test_rows_and_the_table_writer_do_what_row_does(server: QwpServer) -> None:
    with open_sender(server) as sender:
        at = TimestampMicros(9)
        assert sender.rows("t", [("sym-0", 0, at), ("sym-1", 1, at)], symbols=["s"], columns=["n"]) == 2
        assert sender.rows("t", [("sym-2", 2)], symbols=["s"], columns=["n"], at=at) == 1
        writer = sender.table("t", symbols=["s"], columns=["n"])
        writer.row("sym-3", 3, at=at)
        assert writer.rows([("sym-4", 4, at), ("sym-5", 5, at)]) == 2
        assert writer.rows(iter([("sym-6", 6)]), at=at) == 1
        assert sender.stats().rows_buffered == 7
    assert numbers(server) == list(range(7))


def test_flush_with_wait_returns_when_all_is_acked(server: QwpServer) -> None:
    with open_sender(server) as sender:
        server.hold_acks()
        put(sender, 0)
        call = Call(sender.flush, wait=True)
        server.wait_for_rows("t", 1)
        assert call.is_alive()
        server.release_acks()
        call.outcome()
        assert sender.acked_fsn() == 0


def test_drain_flushes_and_waits_an_absolute_time(server: QwpServer) -> None:
    clock = StepClock()
    with open_sender(server, clock=clock) as sender:
        server.hold_acks()
        put(sender, 0)
        call = Call(sender.drain, 400)
        clock.wait_for_wait(400)
        clock.advance(400)
        assert call.outcome() is False
        assert len(sender) == 0
        server.release_acks()
        assert sender.drain() is True


@pytest.mark.parametrize(
    ("setting", "rows"),
    [
        ("auto_flush_rows=3;auto_flush_interval=off;", 3),
        ("auto_flush_rows=off;auto_flush_bytes=1k;auto_flush_interval=off;", 0),
    ],
)
def test_the_triggers_publish_by_themselves(server: QwpServer, setting: str, rows: int) -> None:
    with open_sender(server, "auto_flush=on;auto_flush_interval=off;" + setting) as sender:
        number = 0
        while sender.published_fsn() is None:
            put(sender, number)
            number += 1
            assert number < 200
        assert not rows or number == rows
        assert len(sender) == 0
        server.wait_for_rows("t", number)


def test_the_byte_trigger_is_never_above_what_a_segment_takes(server: QwpServer) -> None:
    with open_sender(server, "auto_flush=on;auto_flush_rows=off;sf_max_segment_bytes=65536;") as sender:
        for number in range(4):
            sender.row("t", columns={"b": b"x" * 30_000, "n": number}, at=TimestampMicros(number + 1))
        assert sender.published_fsn() is not None
    assert [row["n"] for row in server.store.rows("t")] == [0, 1, 2, 3]


# --- stats: each field moves ---------------------------------------------------------------------------


def test_every_field_of_stats_moves(server: QwpServer) -> None:
    clock = StepClock()
    handler, listener = Recorder(), Recorder()
    small = "sf_max_segment_bytes=65536;sf_max_total_bytes=131072;sf_append_deadline_millis=1000;"
    slow = "auto_flush_interval=100;reconnect_initial_backoff_millis=1000;reconnect_max_backoff_millis=1000;"
    sender = open_sender(server, small + slow, clock=clock, handler=handler, listener=listener)
    seen: dict[str, set[object]] = {field.name: set() for field in fields(SenderStats)}

    def look() -> SenderStats:
        stats = sender.stats()
        for name, values in seen.items():
            values.add(str(getattr(stats, name)))
        return stats

    first = look()
    assert (first.published_fsn, first.acked_fsn, first.outage_millis, first.last_terminal_error) == (None,) * 4
    put(sender, 0)
    assert look().rows_buffered == 1
    clock.wait_for_wait(100)
    clock.advance(100)
    assert sender.await_acked_fsn(0)
    until(lambda: look().total_timer_flushes == 1)  # counted behind the publish
    server.hold_acks()
    for number in (1, 2):
        sender.row("t", columns={"b": b"x" * 60_000, "n": number}, at=TimestampMicros(number + 1))
        sender.flush()
    server.wait_for_messages(3)
    clock.asleep()
    stats = look()
    assert (stats.frames_unacked, stats.total_frames_sent) == (2, 3)
    sender.row("t", columns={"b": b"x" * 60_000, "n": 3}, at=TimestampMicros(9))
    clock.advance(100)
    clock.wait_for_wait(100)
    clock.advance(1_000)
    clock.wait_for_wait(100)
    assert look().total_timer_flush_failures == 1
    server.refuse_new(503)
    server.drop_connections()
    listener.wait_for(lambda event: event.kind == "all_endpoints_unreachable")
    clock.wait_for_poll(lambda timeout: timeout is not None and timeout > 1)
    clock.advance(7)
    assert look().outage_millis is not None
    server.set_script([Script(reject=(Reject(0, 6, "busy"),)), Script()])
    server.accept_new()
    server.release_acks()
    clock.advance(2_000)  # reconnects; that connection is refused its first frame
    handler.wait_for(lambda event: event.status == 6)
    clock.wait_for_poll(lambda timeout: timeout is not None and timeout > 1)
    clock.advance(60_000)
    assert sender.await_acked_fsn(2)
    stats = look()
    assert stats.total_frames_replayed >= 2
    assert stats.total_reconnects_succeeded == 2
    server.set_script(Script(reject=(Reject(0, 3, "no"), Reject(1, 3, "no"))))
    assert clock.asleep() is None
    server.drop_connections()
    with contextlib.suppress(ServerRejection):  # the refusal may be here; the timer may have published the row before
        sender.flush()  # after it rows are taken again, should the timer's last try have found no room
        publish(sender, 4)
    handler.wait_for(lambda event: event.policy == "terminal")
    assert look().last_terminal_error is not None
    with pytest.raises(SpoolqError):
        sender.close()
    look()
    unmoved = {name for name, values in seen.items() if len(values) < 2}
    assert unmoved <= {
        "was_recovered_from_disk",  # test_on_a_slot.py
        "torn_tail_bytes",  # test_on_a_slot.py
        "synced_fsn",  # this and the next four: test_durability.py
        *("total_syncs", "total_sync_failures", "last_checkpoint", "checkpoint_failure"),
        "spool_bytes_max",  # a setting
        "total_backpressure_stalls",  # test_backpressure.py: a call has to wait
        "total_dead_letters",  # test_dead_letters.py
        "active_background_drainers",  # test_drainers.py
        "total_background_drainers_succeeded",  # test_drainers.py
        "total_background_drainers_failed",  # test_drainers.py
        "was_ever_connected",  # False only in ASYNC: test_open.py
        "dropped_error_notifications",  # test_events.py
        "connection_events_dropped",  # test_events.py
        "total_durable_acks",  # test_durable.py
        "total_durable_trim_advances",  # test_durable.py
        "durable_seq_txns",  # test_durable.py
    }


def test_frames_sent_and_acks_are_counted_per_frame_and_answer(server: QwpServer) -> None:
    server.set_script([Script(drop=Drop(after_frames=2, before_ack=True)), Script()])
    with open_sender(server) as sender:
        server.hold_acks()  # of the first frame, too, should it go out alone
        publish(sender, 0)
        publish(sender, 1)
        server.wait_for(lambda: server.connections[0].closed_by)
        server.release_acks()
        sender.wait()
        stats = sender.stats()
    assert stats.total_frames_sent == 4
    assert stats.total_frames_replayed == 2
    assert (stats.total_connect_attempts, stats.total_reconnect_attempts, stats.total_reconnects_succeeded) == (2, 1, 1)
    assert stats.total_acks >= 1


# --- secrets ----------------------------------------------------------------------------------------------


def test_no_text_holds_a_secret(server: QwpServer, caplog) -> None:
    caplog.set_level("DEBUG")
    listener = Recorder()
    with QwpServer(auth=Auth(users={"joe": "s3cr3t-pw"})) as guarded:
        with open_sender(guarded, "username=joe;password=s3cr3t-pw;", listener=listener) as sender:
            publish(sender, 0)
            sender.wait()
            texts = [repr(sender), str(sender), repr(sender.stats()), repr(sender._engine.config)]
        with pytest.raises(SpoolqError) as caught:
            open_sender(guarded, "token=t0k3n-secret;", listener=listener)
        texts += [str(caught.value), repr(caught.value)]
        with pytest.raises(ConfigError) as caught:
            open_sender(guarded, "password=s3cr3t-pw;unknown_key=1;")
        texts += [str(caught.value), caplog.text, repr(listener.told)]
    for secret in ("s3cr3t-pw", "t0k3n-secret", "am9lOnMzY3IzdC1wdw"):
        assert not [text for text in texts if secret in text]


def test_the_repr_says_where_and_in_which_state(server: QwpServer) -> None:
    with open_sender(server) as sender:
        assert repr(sender) == f"<Sender ws::127.0.0.1:{server.port} connected>"
    assert repr(sender) == f"<Sender ws::127.0.0.1:{server.port} closed>"


_HEAVY = (
    *(
        "websockets",
        "ssl",
        "decimal",
        "pyarrow",
        "numpy",
        "pandas",
        "http",
        "html",
        "json",
        "uuid",
        "argparse",
        "signal",
    ),
    *("spoolq.link.credentials", "spoolq.delivery.drain", "spoolq.official", "spoolq.spool.files"),
)
_MADE = """
import sys
before = set(sys.modules)
import spoolq
for conf in sys.argv[1:]:
    with spoolq.Sender.from_conf(conf) as sender:
        sender.row("t", symbols={"s": "a"}, columns={"x": 1.0}, at=spoolq.TimestampNanos(1))
        assert sender.await_acked_fsn(sender.flush_and_get_fsn(), timeout_millis=20_000)
came = set(sys.modules) - before
there = [kind for name in came if name.startswith("spoolq") for kind in vars(sys.modules[name]).values()]
print(sorted(came))
frozen = [kind for kind in there if isinstance(kind, type) and getattr(kind, "__dataclass_params__", None)]
print(sorted({kind.__name__ for kind in frozen if kind.__dataclass_params__.frozen}))
"""


_GIVEN_TO_USERS = ["ConnectionEvent", "DrainerStatus", "ErrorEvent", "SenderStats"]
_OF_A_SLOT = ["Cut", "DeadLetter", "RecoveryReport", "Frame", "Reader"]  # one for each frame; makes a buffer


@pytest.mark.parametrize(
    ("way", "dataclasses"),
    [
        ("imported", _GIVEN_TO_USERS),
        ("a row acknowledged", _GIVEN_TO_USERS),
        ("a row acknowledged, from a slot", _GIVEN_TO_USERS + _OF_A_SLOT),
    ],
)
def test_importing_spoolq_imports_nothing_heavy(
    server: QwpServer, tmp_path: Path, way: str, dataclasses: list[str]
) -> None:
    """Nor does the first row.  A frozen dataclass costs what two modules do, so what rooms hand each other is none."""
    stored = f"sf_dir={tmp_path};" if way.endswith("slot") else ""
    done = python(_MADE, *([] if way == "imported" else [server.conf + stored]))
    assert done.returncode == 0, done.stderr
    modules, found = (ast.literal_eval(line) for line in done.stdout.splitlines())
    assert "spoolq.sender" in modules
    assert [name for name in _HEAVY if name in modules and not (stored and ".spool." in name)] == []
    assert found == sorted(dataclasses)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (("ws::addr=localhost:9000;",), "Sender.from_conf"),
        (("localhost", 9000), "Sender\\('ws', 'localhost', 9000\\)"),
        (("localhost",), "write ws::"),
    ],
)
def test_a_constructor_that_is_given_something_else_says_how_it_is_called(given: tuple[Any, ...], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        Sender(*given)


def test_a_sender_is_not_pickled_or_copied_and_says_what_to_do(server: QwpServer) -> None:
    with open_sender(server) as sender:
        for take in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="pass the connect string on"):
                take(sender)
