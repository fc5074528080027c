"""Ctrl-C at every place of every call (ours.md 33): what was told to be published arrives, nothing is left behind.

`tests.interrupts` says what a place is.  tests/columns/test_interrupt_anywhere.py does the same inside a row.
On a slot, where each takes some syncs, it is every seventeenth place; `make interrupts` takes all.
"""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spoolq import Sender
from spoolq.config import parse
from spoolq.spool import lock
from spoolq.spool.files import Files
from spoolq.testing import QwpServer
from tests.interrupts import Interrupt, interrupt_at
from tests.runtime.test_aside import ctrl_c

from .harness import FAST, numbers, open_sender, put
from .test_on_a_slot import offline

_STEP = int(os.environ.get("INTERRUPT_STEP", "17"))


@pytest.fixture(scope="module", autouse=True)
def _no_collection() -> Iterator[None]:
    """A collection in the middle runs finalizers there, each time at another place."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def server() -> Iterator[QwpServer]:
    with QwpServer() as running:
        yield running


def ours() -> list[str]:
    """Threads of senders."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("spoolq-") and name != "spoolq-server"]


def is_free(slot: Path) -> None:
    """The slot's lock can be had at once."""
    if slot.exists():
        lock.SlotLock.acquire(Files(), str(slot)).release()


def at_each_place(call: Callable[[int], Interrupt], step: int = 1) -> int:
    """Calls with 1, 2, 3 ... (or each so many) until the call is through before; how many places there were."""
    for place in itertools.count(1, step):
        interrupt = call(place)
        if interrupt.passed:
            return place - 1
    raise AssertionError


OPENED = {
    "memory": "",
    "slot": "sf_dir={};",
    "slot async": "sf_dir={};initial_connect_retry=async;",
    "slot flush": "sf_dir={};sf_durability=flush;",
    "drainers": "sf_dir={};sender_id=mine;drain_orphans=on;",
}


@pytest.mark.parametrize("kind", OPENED)
def test_33_ctrl_c_while_a_sender_is_opened_leaves_nothing_of_it(server: QwpServer, tmp_path: Path, kind: str) -> None:
    settings = OPENED[kind].format(tmp_path)
    open_sender(server, settings).close()  # everything is imported now
    config = parse(server.conf, **dict(item.split("=") for item in (FAST + settings).split(";") if "=" in item))
    slot = tmp_path / ("mine" if kind == "drainers" else "default")
    if kind == "drainers":
        offline(tmp_path / "..", (0,))

    def call(place: int) -> Interrupt:
        if kind == "drainers":
            shutil.copytree(tmp_path.parent / "default", tmp_path / "orphan", dirs_exist_ok=True)
        opened = Sender.__new__(Sender)
        with interrupt_at(place) as interrupt:
            opened._open(config, None, None)
        if interrupt.came:
            assert ours() == [], interrupt.where
            is_free(slot)
        else:
            opened.close()
        return interrupt

    assert at_each_place(call, 1 if kind == "memory" else _STEP) > 20


CLOSED = {**OPENED, "memory, waits": "close_flush_timeout_millis=10000;"}


@pytest.mark.parametrize("kind", CLOSED)
def test_33_ctrl_c_while_a_sender_closes_ends_it_all_the_same(
    server: QwpServer, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = CLOSED[kind].format(tmp_path)
    slot = tmp_path / ("mine" if kind == "drainers" else "default")
    with open_sender(server, settings) as sender:
        put(sender, 0)
    wanted = {0}

    def call(place: int) -> Interrupt:
        sender = open_sender(server, settings)
        put(sender, place)
        wanted.add(place)
        with interrupt_at(place) as interrupt:
            sender.close()
        if interrupt.came and ours():
            sender.close()  # it had not begun
        assert ours() == [], interrupt.where
        is_free(slot)
        sender.close()
        return interrupt

    assert at_each_place(call, 1 if "memory" in kind else _STEP) > 10
    if "memory" not in kind:  # a wait that was interrupted leaves the rest to the next sender
        with open_sender(server, settings) as sender:
            sender.drain()
        caplog.clear()
    missing = wanted - set(numbers(server))
    said = [record for record in caplog.records if "1 frames wait" in record.getMessage()]
    assert len(missing) <= len(said), "what ends in memory with a wait that was interrupted is told"
    assert set(numbers(server)) <= wanted


def _row(sender: Sender, number: int) -> None:
    put(sender, number)


def _flush(sender: Sender, number: int) -> None:
    put(sender, number)
    sender.flush()


def _fsn(sender: Sender, number: int) -> None:
    put(sender, number)
    fsn = sender.flush_and_get_fsn()
    assert fsn is not None
    assert sender.await_acked_fsn(fsn, 10_000)


def _wait(sender: Sender, number: int) -> None:
    put(sender, number)
    sender.flush(wait=True)


def _look(sender: Sender, _: int) -> None:
    sender.stats()
    sender.background_drainers()
    sender.poll_error()
    repr(sender)


def _synced(sender: Sender, number: int) -> None:
    put(sender, number)
    fsn = sender.flush_and_get_fsn()
    assert fsn is not None
    assert sender.await_synced_fsn(fsn, 10_000)


CALLS: dict[str, tuple[Callable[[Sender, int], None], str]] = {
    "row": (_row, ""),
    "row with a deadline": (_row, "auto_flush=on;auto_flush_interval=60000;"),
    "row that flushes": (_row, "auto_flush=on;auto_flush_rows=1;"),
    "flush": (_flush, ""),
    "flush on a slot": (_flush, "sf_dir={};"),
    "flush, rotating": (_flush, "sf_dir={};sf_max_segment_bytes=400;sf_max_total_bytes=100000;"),
    "flush, synced": (_flush, "sf_dir={};sf_durability=flush;"),
    "append": (_row, "sf_dir={};sf_durability=append;auto_flush=on;auto_flush_rows=1;"),
    "await_acked_fsn": (_fsn, ""),
    "await_synced_fsn": (_synced, "sf_dir={};sf_durability=periodic;"),
    "flush and wait": (_wait, ""),
    "looks": (_look, "sf_dir={};sender_id=mine;drain_orphans=on;"),
}


@pytest.mark.parametrize("name", CALLS)
def test_33_ctrl_c_in_a_call_leaves_a_sender_that_works_and_every_row_once(
    server: QwpServer, tmp_path: Path, name: str
) -> None:
    """A row whose call was interrupted is there or not; those before and behind it arrive, in order, once."""
    call, settings = CALLS[name]
    returned: list[int] = []
    maybe: set[int] = set()
    with open_sender(server, settings.format(tmp_path)) as sender:
        put(sender, 0)
        call(sender, 1)
        returned += [0] if call is _look else [0, 1]
        wheres: dict[int, str] = {}

        def interrupted(place: int) -> Interrupt:
            number = 2 * place
            with interrupt_at(place) as interrupt:
                call(sender, number)
            wheres[number] = interrupt.where
            if call is not _look:
                (maybe.add if interrupt.came else returned.append)(number)
            put(sender, number + 1)
            returned.append(number + 1)
            sender.flush()  # what was left buffered goes too, so that the next call has as much to do
            return interrupt

        assert at_each_place(interrupted, 1 if call is _look or "sf_dir" not in settings else _STEP) > 5
        assert sender.drain(10_000), sender.stats()
    found = numbers(server)
    wrong = [n for n in found if found.count(n) > 1] or [b for a, b in itertools.pairwise(found) if a > b]
    assert not wrong, [f"{n} after {wheres.get(n - n % 2)}" for n in wrong]
    assert set(returned) <= set(found) <= {*returned, *maybe}


def test_33_a_close_that_is_interrupted_says_what_is_not_delivered(
    server: QwpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.hold_acks()
    sender = open_sender(server)
    put(sender, 0)
    ending = sender._engine._ending
    real = ending._drain

    def drain() -> None:
        ctrl_c()
        real()

    monkeypatch.setattr(ending, "_drain", drain)
    with pytest.raises(KeyboardInterrupt) as caught:
        sender.close()
    assert "close() was interrupted: FSN -1 is acked, 0 published, 1 frames wait" in caught.value.__notes__[0]
    assert ours() == []
    server.release_acks()
