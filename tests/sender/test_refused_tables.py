"""An error names the tables of the frame that was refused (behaviour.md 6.3: "table when known")."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib.abc import MetaPathFinder
from pathlib import Path

import pytest

from spoolq.errors import ServerRejection, StorageError
from spoolq.qwp.layout import Status
from spoolq.qwp.reader import WireFault
from spoolq.runtime.refused import TABLES_MAX
from spoolq.spool.memory import MemoryStore
from spoolq.testing import QwpServer, Reject, Script

from .harness import Recorder, StepClock, open_sender, publish, put, until

_NEVER = Script(reject=(Reject(1, 3, "column n is a DATE"),))
_BUSY = Script(reject=(Reject(1, 6, "busy"),))


@pytest.fixture
def server() -> Iterator[QwpServer]:
    with QwpServer(script=_NEVER) as running:
        yield running


def _refused(sender, *tables: str) -> None:
    """One frame that is taken, one of these tables that is not; both with symbols."""
    put(sender, 0, table="first")
    sender.flush(wait=True)
    for table in tables:
        put(sender, 1, 2, table=table)
    with suppress(ServerRejection):  # the refusal may be here before the call is over
        sender.flush()


@pytest.mark.parametrize("where", ["memory", "slot"])
def test_6_3_the_error_and_its_event_name_the_tables_of_the_frame(
    server: QwpServer, tmp_path: Path, where: str
) -> None:
    handler = Recorder()
    sender = open_sender(server, f"sf_dir={tmp_path};" if where == "slot" else "", handler=handler)
    _refused(sender, "trades", "Größe 1")
    assert handler.wait_for().tables == ("trades", "Größe 1")
    with pytest.raises(
        ServerRejection, match=r"refused FSN 1 \(tables 'trades', 'Größe 1'\): schema mismatch"
    ) as caught:
        sender.close()
    assert caught.value.tables == ("trades", "Größe 1")


def test_6_3_a_log_line_names_the_table(server: QwpServer, caplog) -> None:
    server.set_script([_BUSY, Script()])
    with open_sender(server) as sender:
        _refused(sender, "trades")
        sender.wait()
    assert "the server refused FSN 1 (table 'trades'): internal_error, retriable: busy" in caplog.text


def test_6_3_the_resolver_and_a_dead_letters_event_have_them_too(server: QwpServer, tmp_path: Path) -> None:
    asked = Recorder()
    handler = Recorder()

    def resolver(event) -> str:
        asked(event)
        return "drop"

    server.set_script([_NEVER, Script()])
    with open_sender(server, f"sf_dir={tmp_path};", handler=handler, error_policy=resolver) as sender:
        _refused(sender, "trades")
        sender.wait()
        handler.wait_for()
    assert [event.tables for event in asked.told] == [("trades",)]
    assert [(event.policy, event.tables) for event in handler.told] == [("drop", ("trades",))]


def test_6_3_many_tables_are_some_in_the_text_and_a_hundred_in_the_event(server: QwpServer) -> None:
    handler = Recorder()
    names = [f"t{number}" for number in range(TABLES_MAX + 1)]
    sender = open_sender(server, handler=handler)
    _refused(sender, *names)
    assert handler.wait_for().tables == tuple(names[:TABLES_MAX])
    with pytest.raises(ServerRejection, match=r"\(tables 't0', 't1', 't2', 't3' and 96 more\)"):
        sender.close()


def test_6_3_a_refusal_of_no_frame_names_none(server: QwpServer) -> None:
    """The catch-up, which registers symbols of all tables, is refused for good."""
    server.set_script([Script(no_ack=True), Script(reject=(Reject(0, 3, "no"),))])
    handler = Recorder()
    sender = open_sender(server, handler=handler)
    publish(sender, 0, table="first")
    publish(sender, 1, table="trades")
    server.wait_for_messages(2)
    server.drop_connections()
    event = handler.wait_for()
    assert (event.from_fsn, event.to_fsn, event.tables) == (0, 1, ())
    with pytest.raises(ServerRejection, match="refused FSN 0 to 1: schema mismatch"):
        sender.close()


@pytest.mark.parametrize("fault", ["unreadable", "not ours"])
def test_6_3_a_frame_that_cannot_be_looked_at_is_refused_all_the_same(
    server: QwpServer, monkeypatch, fault: str
) -> None:
    clock, handler = StepClock(), Recorder()
    server.hold_acks()
    sender = open_sender(server, handler=handler, clock=clock)
    publish(sender, 0, table="first")
    publish(sender, 1, table="trades")
    server.wait_for_messages(2)
    clock.asleep()

    def broken(store: MemoryStore, *_: int) -> None:
        raise StorageError("gone")

    def not_ours(_: memoryview) -> None:
        raise WireFault(Status.PARSE_ERROR, "invalid magic bytes")

    if fault == "unreadable":
        monkeypatch.setattr(MemoryStore, "run", broken)
    else:
        monkeypatch.setattr("spoolq.qwp.decode.read_header", not_ours)
    server.release_acks()
    event = handler.wait_for()
    assert (event.from_fsn, event.tables) == (1, ())
    with pytest.raises(ServerRejection, match="refused FSN 1: schema mismatch"):
        sender.close()


class _Finder(MetaPathFinder):
    """Cannot look for the decoder."""

    def __init__(self, make_error: Callable[[], Exception]) -> None:
        self._make_error = make_error

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name == "spoolq.qwp.decode":
            raise self._make_error()


@pytest.mark.parametrize("make_error", [partial(OSError, errno.EMFILE, "no descriptor"), ImportError, MemoryError])
def test_6_3_without_the_decoder_a_frame_is_refused_all_the_same(
    server: QwpServer, monkeypatch: pytest.MonkeyPatch, make_error: Callable[[], Exception]
) -> None:
    """It is loaded at the first refusal, which opens files."""
    handler = Recorder()
    sender = open_sender(server, handler=handler)
    monkeypatch.delitem(sys.modules, "spoolq.qwp.decode")  # the server has loaded it
    monkeypatch.setattr(sys, "meta_path", [_Finder(make_error), *sys.meta_path])
    _refused(sender, "trades")
    event = handler.wait_for()
    assert (event.from_fsn, event.tables) == (1, ())
    with pytest.raises(ServerRejection, match="refused FSN 1: schema mismatch"):
        sender.close()


def test_6_3_what_ends_a_drainer_names_the_table_in_its_note(server: QwpServer, tmp_path: Path) -> None:
    with QwpServer() as other:
        left = open_sender(other, f"sf_dir={tmp_path};sender_id=left;close_flush_timeout_millis=0;")
        other.hold_acks()
        publish(left, 0, table="first")
        publish(left, 1, table="trades")
        left.close(flush=False)
    server.set_script([Script(), Script(reject=(Reject(2, 3, "column n is a DATE"),))])  # message 0 is the catch-up
    with open_sender(server, f"sf_dir={tmp_path};sender_id=me;drain_orphans=on;") as sender:
        until(lambda: sender.background_drainers()[0].outcome == "failed")
    assert "refused FSN 1 (table 'trades')" in (tmp_path / "left" / ".failed").read_text()
