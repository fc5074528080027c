"""handover.py: the short way stores what the ordinary one stores, and where it is not taken it leaves no trace."""

from __future__ import annotations

import gc
import mmap
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spoolq import Sender, TimestampMicros, TimestampNanos, limits
from spoolq._implementation import COMPILED
from spoolq.columns import RowBuffer, SymbolTable
from spoolq.errors import SpoolqError, StorageError
from spoolq.runtime import handover_plain
from spoolq.runtime.progress import Progress
from spoolq.runtime.publisher import Publisher
from spoolq.spool import MemoryStore
from spoolq.spool.files import Files
from spoolq.testing import QwpServer
from tests.sender.harness import python
from tests.spool.disk_slot import fresh, replay

from .manual_clock import ManualClock

SEGMENT = 4_096


class Loop:
    """Stands for the I/O loop: asleep or not, and how often it was woken."""

    def __init__(self) -> None:
        self.asleep = False
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1


class Way:
    """A row buffer, its store, and a publisher between them."""

    def __init__(self, store: Any, *, short: bool = True, gorilla: bool = False) -> None:
        self.store = store
        self.symbols = SymbolTable()
        self.rows = RowBuffer(self.symbols)
        self.loop = Loop()
        self.publisher = Publisher(
            self.rows,
            self.symbols,
            store,
            progress=Progress(ManualClock()),
            clock=ManualClock(),
            append_deadline_millis=0,
            gorilla=gorilla,
            on_published=lambda: None,
            describe_wire=str,
        )
        if not short:
            self.publisher.handover = handover_plain.Handover(self.rows, store, gorilla=gorilla)
            self.publisher.cap_known(limits.BATCH_BYTES_ASSUMED)
        self.handover = self.publisher.handover
        self.handover.sleeper = self.loop

    def put(self, *numbers: int, table: str = "t", text: str = "", symbol: str = "s") -> None:
        for number in numbers:
            self.rows.row(table, symbols={"s": symbol}, columns={"n": number, "x": text}, at=TimestampNanos(number))

    def publish(self) -> int | None:
        with self.rows:
            return self.publisher.publish()

    def state(self) -> tuple[Any, ...]:
        """What a handover may change: the rows, the marks, the bytes of the segment, the symbols."""
        active = self.store.active
        place = (active.base, active.count, active.append_offset, bytes_of(self.store)) if active is not None else ()
        stats = self.store.stats()
        return (
            (len(self.rows), self.rows.table_count, self.symbols.published_count, len(self.symbols)),
            (self.store.published_fsn, stats.segments, stats.allocated_nbytes, self.handover.taken, self.loop.woken),
            place,
        )


@pytest.fixture(params=["memory", "disk"])
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Way]:
    """One that has published its symbol and two rows already."""
    with closing(store_of(request.param, tmp_path / "slot")) as store:
        made = Way(store)
        made.put(1, 2)
        made.publish()
        made.loop.asleep = True
        yield made


def store_of(kind: str, directory: Path, segment: int = SEGMENT) -> Any:
    if kind == "memory":
        return MemoryStore(segment, 4 * segment)
    return fresh(Files(), directory, segment=segment, total=4 * segment)


def bytes_of(store: Any) -> bytes:
    """What stands in the active segment behind its header."""
    file = getattr(store, "_active_file", None)
    stored = bytes(store.active.memory) if file is None else Path(file.stored.path).read_bytes()
    return stored[limits.SEGMENT_HEADER_BYTES :]


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63) + 1, 2**63 - 1),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.integers(0, 2**40).map(TimestampMicros),
)
ROWS = st.tuples(st.sampled_from("tu"), st.sampled_from("abc"), VALUES, st.integers(0, 2**60))
BATCHES = st.lists(st.lists(ROWS, max_size=5), max_size=12)


@pytest.mark.parametrize("kind", ["memory", "disk"])
@settings(max_examples=60, deadline=None)
@given(batches=BATCHES, gorilla=st.booleans())
def test_both_ways_store_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, kind: str, batches: list[list[Any]], gorilla: bool
) -> None:
    told, stored = [], []
    for short in (True, False):
        with closing(store_of(kind, tmp_path_factory.mktemp("way") / "slot", 1 << 16)) as store:
            way = Way(store, short=short, gorilla=gorilla)
            outcome: list[Any] = []
            for batch in batches:
                for number, (table, symbol, value, at) in enumerate(batch):
                    try:
                        way.rows.row(
                            table, symbols={"s": symbol}, columns={"v": value, "n": number}, at=TimestampNanos(at)
                        )
                    except SpoolqError as error:  # a column that another type has
                        outcome.append(str(error))
                outcome.append((way.publish(), len(way.rows), way.rows.nbytes, way.symbols.published_count))
            told.append(outcome)
            stored.append((replay(store, 0), bytes_of(store)))
    assert told[0] == told[1]
    assert stored[0] == stored[1]


def test_a_batch_of_known_symbols_takes_the_short_way(way: Way) -> None:
    for flush in (way.handover.flush, way.publish):
        way.put(3, 4)
        before = way.store.published_fsn
        assert flush() == (before + 1 if COMPILED or flush != way.handover.flush else -1)
        way.publish()
        assert (way.store.published_fsn, len(way.rows)) == (before + 1, 0)
    assert way.handover.taken == (2 if COMPILED else 0)
    assert [len(payload) for payload in replay(way.store, 0)][1:] == [len(replay(way.store, 1)[0])] * 2


def test_many_tables_large_crc_and_repeated_batches_take_it_too(way: Way) -> None:
    for batch in range(3):
        way.store.keep(0)  # the next segment
        for table in "tuvw":
            way.put(batch, table=table, text="x" * 700)
        way.publish()
        assert len(way.rows) == 0
    payloads = replay(way.store, 0)
    assert [len(payload) > 2_800 for payload in payloads] == [False, True, True, True]
    assert len(set(payloads)) == 4


def test_a_sleeping_loop_is_woken_behind_the_frame_and_another_is_not(way: Way) -> None:
    way.put(3)
    if way.handover.flush() >= 0:
        assert way.loop.woken == 1
    way.loop.asleep = False
    way.put(4)
    way.handover.flush()
    assert way.loop.woken == way.handover.taken - (way.handover.taken > 1)


def test_no_python_code_runs_between_the_look_and_the_forgotten_rows(way: Way) -> None:
    """So no signal handler does, and a row is never both published and buffered (ours.md 33)."""
    way.loop.asleep = False
    way.put(3)
    calls: list[str] = []
    if COMPILED:
        gc.disable()  # a collection calls what others have hooked into it
        sys.setprofile(lambda frame, event, _: calls.append(frame.f_code.co_name) if event == "call" else None)
        try:
            fsn = way.handover.flush()
        finally:
            sys.setprofile(None)
            gc.enable()
        assert fsn == 1
    assert calls == []


def _empty(way: Way) -> None:
    way.publish()


def _latched(way: Way) -> None:
    way.rows.latched = SpoolqError("over")


def _new_symbol(way: Way) -> None:
    way.put(4, symbol="new")


def _above_the_frame_limit(way: Way) -> None:
    way.publisher.cap_known(50)


def _closed(way: Way) -> None:
    way.store.close()


def _dense(way: Way) -> None:
    way.store.symbols_ahead = -1


def _room_that_was_interrupted(way: Way) -> None:
    way.store.reserve(30)


def _above_64_kib(way: Way) -> None:
    for number in range(20):
        way.put(number, text="x" * 4_000)


@pytest.mark.parametrize(
    "spoil",
    [_empty, _latched, _new_symbol, _above_the_frame_limit, _closed, _dense, _room_that_was_interrupted, _above_64_kib],
)
@pytest.mark.parametrize("how", ["flush", "publish"])
def test_where_it_is_not_taken_nothing_has_changed(way: Way, spoil: Callable[[Way], None], how: str) -> None:
    way.put(3)
    spoil(way)
    before = way.state()
    if how == "flush":
        assert way.handover.flush() == -1
    else:
        with way.rows:
            assert way.handover.publish() == -1
    assert way.state() == before


def test_a_full_segment_is_left_to_the_ordinary_way(way: Way) -> None:
    number = 2
    while way.store.active.fits(300):
        number += 1
        way.put(number, text="x" * 200)
        way.publish()
    frames = way.store.published_fsn
    way.put(number + 1, text="x" * 400)
    before = way.state()
    assert way.handover.flush() == -1
    assert way.state() == before
    way.store.keep(0)
    assert way.publish() == frames + 1
    assert way.store.active.base == frames + 1


def test_a_lock_that_is_held_is_left_to_the_ordinary_way(way: Way) -> None:
    way.put(3)
    with way.rows:
        before = way.state()
        assert way.handover.flush() == -1
        assert way.state() == before
    if COMPILED:
        with pytest.raises(RuntimeError, match="not locked"):
            way.handover.publish()
    way.publish()
    assert way.store.published_fsn == 1


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_sender_takes_it_for_flushes_and_for_triggers(on_disk: bool, tmp_path: Path) -> None:
    slot = f"sf_dir={tmp_path};" if on_disk else ""
    with QwpServer() as server, Sender.from_conf(f"{server.conf}auto_flush_rows=2;auto_flush_interval=off;{slot}") as s:
        taken = lambda: s._engine.publisher.handover.taken  # noqa: E731 - read again after each step
        for number in range(3):
            s.row("t", symbols={"s": "one"}, columns={"n": number}, at=TimestampNanos(number))
            s.flush()
        assert taken() == (2 if COMPILED else 0)  # the first frame brings the symbol
        for number in range(3, 7):
            s.row("t", symbols={"s": "one"}, columns={"n": number}, at=TimestampNanos(number))
        assert (taken(), s.published_fsn(), len(s)) == (4 if COMPILED else 0, 4, 0)
        s.wait()
        assert [row["n"] for row in server.store.rows("t")] == list(range(7))


def test_without_an_interval_nobody_is_told_of_a_first_row() -> None:
    with QwpServer() as server:
        with Sender.from_conf(server.conf + "auto_flush_interval=off;") as sender:
            assert sender._engine.rows.on_first_row is None
        with Sender.from_conf(server.conf + "auto_flush_interval=50;") as sender:
            assert sender._engine.rows.on_first_row is not None


@pytest.mark.parametrize("can_cut", [True, False])
def test_a_slot_says_which_symbols_need_nothing_written_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_cut: bool
) -> None:
    def refuse(*_: Any) -> None:
        raise StorageError("it cannot be cut")

    with closing(store_of("disk", tmp_path / "slot")) as store:
        symbols = SymbolTable()
        assert store.symbols_ahead == 0
        symbols.intern("a")
        room = store.reserve(30)
        store.write_ahead(symbols, 0, 1)
        assert store.symbols_ahead == 1
        if not can_cut:
            monkeypatch.setattr(Files, "truncate", refuse)
        store.abandon(room)
        assert (store.symbols_ahead, store.dense) == ((0, False) if can_cut else (-1, True))
        monkeypatch.undo()


_KILLED_IN_THE_PAYLOAD = """
import ctypes, mmap, sys
from spoolq import TimestampMicros, limits
from spoolq.columns import RowBuffer, SymbolTable
from spoolq.runtime.handover import Handover
from spoolq.spool.segment import Appender, Segment
page = mmap.PAGESIZE
with open(sys.argv[1], "r+b") as file:
    memory = mmap.mmap(file.fileno(), 2 * page)
store = Appender(page, symbols_ahead=limits.DICTIONARY_ENTRIES_MAX)
store.active = Segment(0, len(memory), memory)
first = page - limits.SEGMENT_HEADER_BYTES - 2 * limits.FRAME_HEADER_BYTES
store.publish(store.reserve(first))  # so the payload of the next frame begins with the second page ...
rows = RowBuffer(SymbolTable())
rows.row("t", columns={"n": 1}, at=TimestampMicros(1))
handover = Handover(rows, store, gorilla=False)
handover.frame_nbytes_max = page
start = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory)) + page)
assert ctypes.CDLL(None).mprotect(start, page, mmap.PROT_READ) == 0  # ... and its first byte ends the process
if handover.flush() < 0:  # the plain body takes the ordinary way
    store.reserve(100).view[0] = 1
"""


def test_inv_03_the_length_of_a_frame_is_stored_before_its_payload(tmp_path: Path) -> None:
    """slot.md 2.2: length, payload, CRC last; looked at where the first byte of the payload was never stored."""
    memory = tmp_path / "memory"
    memory.write_bytes(bytes(2 * mmap.PAGESIZE))
    done = python(_KILLED_IN_THE_PAYLOAD, str(memory))
    assert done.returncode == -signal.SIGSEGV, done.stderr
    crc, length = struct.unpack_from("<II", memory.read_bytes(), mmap.PAGESIZE - limits.FRAME_HEADER_BYTES)
    assert crc == 0
    assert length > 0
