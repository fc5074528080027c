"""_rows, _column: what only the compiled body can get wrong: memory, references, stale plans, the lock."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spoolq.columns import SymbolTable, _column, _rows, rows_plain
from spoolq.columns.types import ColumnType
from spoolq.errors import InputError, ReentryError, SpoolqError
from spoolq.qwp.cut import Cut
from spoolq.values import Geohash, ServerTimestamp, TimestampMicros, TimestampNanos
from tests.columns.bodies import PLAIN, Body, _body, state_of

COMPILED = _body("compiled", "spoolq.columns._rows", "spoolq.qwp._encode")
AT = TimestampMicros(1)


def pair() -> tuple[Any, Any]:
    return PLAIN.buffer(), COMPILED.buffer()


def assert_same(plain: Any, compiled: Any) -> None:
    assert state_of(COMPILED, compiled) == state_of(PLAIN, plain)


# -- native memory ---------------------------------------------------------------------------------
def test_native_memory_is_counted_and_given_back_without_the_collector() -> None:
    before = _column.live_native_bytes()
    rows = COMPILED.buffer()
    for index in range(1_000):
        rows.row("t", symbols={"s": "a"}, columns={"x": index, "y": "text " * 10}, at=AT)
    held = _column.live_native_bytes() - before
    assert 1_000 * (1 + 8 + 50 + 4 + 8) < held < 4 * 1_000 * (1 + 8 + 50 + 4 + 8)
    COMPILED.message(rows)
    assert _column.live_native_bytes() - before == held  # the encoder keeps nothing
    del rows
    assert _column.live_native_bytes() == before


@pytest.mark.parametrize(
    "column", [{"x": 1}, {"x": "text"}, {"x": b"bytes"}, {"x": 1.5}], ids=["int", "str", "bytes", "float"]
)
def test_the_columns_of_a_table_begin_with_the_room_that_was_asked_for(column: dict[str, Any]) -> None:
    before = _column.live_native_bytes()
    rows = COMPILED.buffer()
    rows.initial_nbytes = 60_000
    rows.row("t", symbols={"s": "a", "r": "b"}, columns=column, at=AT)
    held = _column.live_native_bytes() - before
    assert 60_000 <= held < 64_000, "shared by the three columns and the timestamp"
    rows.row("t", symbols={"s": "a", "r": "b"}, columns=column, at=AT)
    assert _column.live_native_bytes() - before == held, "nothing grew"
    rows.row("u", columns={"y": 1}, at=AT)
    assert _column.live_native_bytes() - before >= 120_000, "each table"


def test_a_huge_batch_does_not_stay_in_memory_and_a_usual_one_does() -> None:
    rows = COMPILED.buffer()
    rows.row("t", columns={"b": b"x" * (8 << 20)}, at=AT)
    rows.clear()
    assert _column.live_native_bytes() < 1 << 20
    for _ in range(2):
        rows.row("t", columns={"b": b"x" * 100_000}, at=AT)
        held = _column.live_native_bytes()
        rows.clear()
        assert _column.live_native_bytes() == held


def test_tables_that_come_and_go_are_forgotten() -> None:
    rows = COMPILED.buffer()
    for index in range(3_000):
        rows.row(f"table {index}", columns={"x": index}, at=AT)
        rows.clear()
    assert _column.live_native_bytes() < 1 << 20
    for index in range(3_000):  # refused rows make no table
        with pytest.raises(InputError):
            rows.row(f"refused {index}", columns={"x": object()}, at=AT)
    assert _column.live_native_bytes() < 2 << 20


def test_columns_grow_over_many_rows() -> None:
    plain, compiled = pair()
    for rows in (plain, compiled):
        for index in range(3_000):
            cells = {"i": index, "t": "é" * (index % 50), "b": index % 3 == 0, "n": None if index % 7 else 1.5}
            rows.row("t", symbols={"s": f"symbol {index % 300}"}, columns=cells, at=TimestampNanos(index))
    assert_same(plain, compiled)


# -- references ------------------------------------------------------------------------------------
class Hook(int):
    """A value that runs code when it is converted."""

    def __new__(cls, run: Callable[[], object]) -> Hook:
        made = super().__new__(cls, 7)
        made.run = run  # type: ignore[attr-defined]
        return made

    def __int__(self) -> int:
        self.run()  # type: ignore[attr-defined]
        return 7


def test_a_hook_may_throw_the_callers_values_away() -> None:
    plain, compiled = pair()
    for rows in (plain, compiled):
        cells: dict[str, Any] = {}

        def forget(cells: dict[str, Any] = cells) -> None:
            cells.clear()
            [bytes([65 + n]) * 24 for n in range(100)]  # what was freed is used again

        cells |= {"hook": Hook(forget), "text": "x" * 20 + str(len(cells)), "big": 10**15 + len(cells), "last": 2.5e300}
        rows.row("t", symbols={"s": "a"}, columns=cells, at=AT)
        assert cells == {}
    assert_same(plain, compiled)


def test_no_reference_is_kept_or_lost() -> None:
    rows = COMPILED.buffer()
    text, number, symbol, moment = "some text é", 10**15, "some symbol", TimestampNanos(5)
    names, hook, bad = ("column one", "column two", "three"), Hook(int), object()
    watched = (text, number, symbol, moment, *names, hook, bad, AT)

    def work() -> None:
        for _ in range(50):
            rows.row("t", symbols={names[0]: symbol}, columns={names[1]: text, names[2]: number}, at=moment)
            rows.row("u", columns={names[1]: hook, names[2]: moment}, at=AT)
            rows.rows("v", [(symbol, text, moment)], symbols=[names[0]], columns=[names[1]])
            with pytest.raises(InputError):
                rows.row("t", symbols={names[0]: symbol}, columns={names[1]: text, names[2]: bad}, at=moment)
        rows.clear()

    work()
    before = [sys.getrefcount(one) for one in watched]
    work()
    assert [sys.getrefcount(one) for one in watched] == before


@given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-3)), ZoneInfo("UTC")])))
@example(datetime(1, 1, 1, tzinfo=UTC))
@example(datetime(2000, 2, 29, tzinfo=UTC))
@example(datetime(1970, 1, 1, tzinfo=UTC))
@example(datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC))
@example(datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC))
def test_a_datetime_is_the_same_instant_in_both_bodies(moment: datetime) -> None:
    plain, compiled = pair()
    for rows in (plain, compiled):
        rows.row("t", columns={"v": moment}, at=AT)
        if moment >= datetime(1970, 1, 1, tzinfo=UTC):
            rows.row("t", columns={"v": None}, at=moment)
        else:
            with pytest.raises(InputError, match="before 1970"):
                rows.row("t", columns={"v": None}, at=moment)
    assert_same(plain, compiled)


# -- plans -----------------------------------------------------------------------------------------
def test_keys_are_compared_by_what_they_say_not_by_which_object_they_are() -> None:
    plain, compiled = pair()
    for rows in (plain, compiled):
        for index in range(6):
            first, second = "".join(["ab", "cd"]), "".join(["x", str(index % 2)])
            cells = {first: index, second: 1.5} if index % 3 else {second: 1.5, first: index}
            rows.row("".join(["t", "able"]), columns=cells, at=AT)
    assert_same(plain, compiled)
    assert compiled.table_count == 1


def test_more_shapes_than_are_kept() -> None:
    plain, compiled = pair()
    for rows in (plain, compiled):
        for _ in range(2):
            for index in range(150):
                rows.row("t", columns={f"c{index}": index, f"C{index + 1}": 1}, at=AT)
    assert_same(plain, compiled)


def churn(rows: Any) -> None:
    """Makes the buffer forget tables and columns that are in no row, and use their memory for others."""
    for index in range(700):
        with pytest.raises(InputError):
            rows.row(f"idle{index}", columns={"x": object()}, at=AT)
    for index in range(5_000):
        rows.row("t", columns={f"idle{index}": None}, at=AT)
    rows.row("t", columns={f"idle{index}": index for index in range(3_900, 5_000)}, at=AT)


def test_a_plan_in_use_by_rows_survives_that_its_columns_are_forgotten() -> None:
    plain, compiled = pair()
    for rows in (plain, compiled):

        def source(rows: Any = rows) -> Iterator[tuple[Any, ...]]:
            yield ("a", 1, None)
            churn(rows)
            yield ("b", 2, 1.5)
            rows.clear()
            churn(rows)
            yield ("c", 3, 2.5)
            yield ("d", 4, 3.5)
            rows.clear()
            for _ in range(2):  # the table itself is forgotten, and the other rows make a new one of its name
                for index in range(700):
                    rows.row(f"other{index}", columns={"x": 1}, at=AT)
                rows.clear()
            rows.row("t", columns={"x": 5}, at=AT)
            yield ("e", 6, None)

        assert rows.rows("t", source(), symbols=["s"], columns=["x", "late"], at=AT) == 5
    assert_same(plain, compiled)
    assert compiled.table_count == 1


def test_a_column_changes_its_type_between_batches() -> None:
    plain, compiled = pair()
    for rows in (plain, compiled):
        for value in (1, "text", 2.5, True, Decimal("1.5"), Geohash(3, 5), b"x", np.ones((2, 2)), AT, None):
            for _ in range(9):
                rows.row("t", columns={"v": value, "w": None}, at=AT)
            rows.row("t", columns={"v": None}, at=AT)
            if value is not None:
                assert rows.nbytes + 12 >= len((COMPILED if rows is compiled else PLAIN).message(rows))
            if value is None:
                break
            rows.clear()
    assert_same(plain, compiled)


def test_a_decimal_that_raises_the_scale_is_undone_with_its_row() -> None:
    plain, compiled = pair()
    for rows in (plain, compiled):
        for text in ("1", "-2.5", "3.25"):
            rows.row("t", columns={"d": Decimal(text)}, at=AT)
        before = state_of(COMPILED if rows is compiled else PLAIN, rows)
        for wrong in ({"d": Decimal("0.0001"), "x": object()}, {"d": Decimal("1e-76")} | {"x": object()}):
            with pytest.raises(InputError):
                rows.row("t", columns=wrong, at=AT)
            assert state_of(COMPILED if rows is compiled else PLAIN, rows) == before
        rows.row("t", columns={"d": Decimal("0.0001")}, at=AT)
    assert_same(plain, compiled)


# -- the lock --------------------------------------------------------------------------------------
def test_rows_of_many_threads_are_all_there() -> None:
    rows = COMPILED.buffer()
    stop = threading.Barrier(5)

    def write(thread: int) -> None:
        stop.wait()
        for index in range(400):
            # The hook gives the GIL away while the lock is held.
            cells = {"x": thread, "hook": Hook(lambda: threading.Event().wait(0))} if index % 4 == 0 else {"x": thread}
            rows.row(f"t{index % 3}", symbols={"s": f"{thread}-{index}"}, columns=cells, at=AT)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    stop.wait()
    for thread in threads:
        thread.join()
    assert len(rows) == 1_600
    assert len(rows.symbols) == 1_600
    assert rows.nbytes + 12 >= len(COMPILED.message(rows))


def test_the_lock_keeps_others_out_and_lets_them_in_again() -> None:
    rows = COMPILED.buffer()
    rows.lock()
    seen: list[Any] = []
    tried = threading.Event()

    def other() -> None:
        seen.append(rows.lock(False))
        with pytest.raises(RuntimeError):
            rows.unlock()
        tried.set()
        rows.row("t", columns={"x": 1}, at=AT)
        seen.append(len(rows))

    thread = threading.Thread(target=other)
    thread.start()
    tried.wait()
    assert seen == [False]
    assert len(rows) == 0
    for call in (rows.lock, lambda: rows.row("t", columns={"x": 1}, at=AT), lambda: rows.lock(False)):
        with pytest.raises(ReentryError):
            call()
    rows.unlock()
    thread.join()
    assert seen == [False, 1]
    with pytest.raises(RuntimeError):
        rows.unlock()
    with rows:
        pass


def test_a_wait_for_the_lock_can_be_interrupted() -> None:
    """The signal comes again and again, for one could fall between the last look at it and the wait; it counts once."""
    rows = COMPILED.buffer()
    locked, pause = threading.Event(), threading.Event()
    waits: list[bool] = []
    came: list[bool] = []  # no event: a handler inside a handler would wait for its lock

    def once(*_: object) -> None:
        if not came:
            came.append(True)
            raise KeyboardInterrupt

    def holder() -> None:
        with rows:
            locked.set()
            while not came:
                pause.wait(0.01)
                if waits:
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    before = signal.signal(signal.SIGINT, once)
    try:
        thread = threading.Thread(target=holder)
        thread.start()
        locked.wait()
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the first signal may come at either line
            waits.append(True)
            rows.row("t", columns={"x": 1}, at=AT)
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    rows.row("t", columns={"x": 2}, at=AT)
    assert len(rows) == 1


def test_the_encoder_takes_the_lock_when_its_caller_has_not() -> None:
    rows = COMPILED.buffer()
    rows.row("t", columns={"x": 1}, at=AT)
    room = bytearray(COMPILED.encode.frame_bytes(rows))
    started, written = threading.Event(), threading.Event()

    def write() -> None:
        started.set()
        COMPILED.encode.write(rows, room)
        written.set()

    thread = threading.Thread(target=write)
    with rows:
        thread.start()
        started.wait()
        COMPILED.encode.write(rows, bytearray(len(room)))  # whoever holds it may
        assert not written.is_set()
    thread.join()
    assert bytes(room) == COMPILED.message(rows)


# -- everything at once ----------------------------------------------------------------------------
CELLS = st.sampled_from(
    (
        *(1, -(1 << 62), 2.5, float("nan"), True, "", "é" * 70, b"\0", None, AT, TimestampNanos(-5)),
        *(Decimal("1.25"), Decimal("-7"), Geohash(255, 8), Geohash(1, 8), np.ones(3), np.zeros((0,)), object()),
        *(1 << 64, "\ud800", datetime(2020, 1, 1, tzinfo=UTC), np.int16(3), (1 << 53) + 1),
    )
)
NAMES = st.sampled_from(["a", "A", "b", "c", "bad.name"])
MOMENTS = st.sampled_from([AT, TimestampMicros(9), ServerTimestamp, TimestampNanos(1), TimestampMicros(-1)])
ROW = st.tuples(
    st.just("row"),
    st.sampled_from(["t", "u"]),
    st.dictionaries(st.sampled_from("sT"), st.sampled_from(["x", "y", "z" * 200, None, 5]), max_size=2),
    st.dictionaries(NAMES, CELLS, max_size=4),
    MOMENTS,
)
FORMS = (
    ("i", ColumnType.INT, 5),
    ("i", ColumnType.INT, 1 << 31),
    ("f", ColumnType.FLOAT, 1e39),
    ("f", ColumnType.FLOAT, 1.5),
    ("b", ColumnType.BYTE, None),
    ("b", ColumnType.BYTE, -1),
    ("p", ColumnType.IPV4, 0),
    ("s", ColumnType.SYMBOL, "q"),
    ("d", ColumnType.DECIMAL64, (10**17, 2)),
    ("d", ColumnType.DECIMAL64, (1, 4)),
    ("u", ColumnType.UUID, b"0" * 16),
    ("y", ColumnType.LONG_ARRAY, ((2, 1), bytes(16))),
    ("y", ColumnType.LONG_ARRAY, ((2, 1), bytes(8))),
    ("y", ColumnType.LONG_ARRAY, ((-1,), b"")),
)
TYPED = st.tuples(st.just("typed"), st.lists(st.sampled_from(FORMS), max_size=3), MOMENTS)
STEP = st.one_of(ROW, ROW, ROW, TYPED, st.tuples(st.sampled_from(["clear", "drop", "publish"]), st.integers(0, 5)))


def perform(body: Body, rows: Any, step: tuple[Any, ...]) -> object:
    """One step; what it raised, to be compared."""
    try:
        if step[0] == "row":
            rows.row(step[1], symbols=step[2], columns=step[3], at=step[4])
        elif step[0] == "typed":
            rows.typed_row("t", step[1], step[2])
        elif step[0] == "clear":
            rows.clear()
        elif step[0] == "publish":
            rows.symbols.published_count = len(rows.symbols)
        elif rows.table_count:
            rows.drop_rows(0, min(step[1], rows.table_rows(0)))
    except SpoolqError as error:
        return type(error), str(error)
    return None


@given(st.lists(STEP, max_size=25), st.integers(0, 30), st.integers(0, 30), st.sampled_from([0, 0, 150]))
@settings(deadline=None)
def test_any_sequence_of_calls_leaves_both_bodies_equal(
    steps: list[tuple[Any, ...]], one: int, two: int, row_bytes_max: int
) -> None:
    plain, compiled = pair()
    plain.row_bytes_max = compiled.row_bytes_max = row_bytes_max
    for step in steps:
        assert perform(COMPILED, compiled, step) == perform(PLAIN, plain, step)
        assert compiled.nbytes == plain.nbytes
    assert_same(plain, compiled)
    for index in range(plain.table_count):
        first, end = sorted((one % (plain.table_rows(index) + 1), two % (plain.table_rows(index) + 1)))
        cut = Cut(((index, first, end),), 0, len(plain.symbols))
        for gorilla in (False, True):
            assert COMPILED.message(compiled, cut, gorilla=gorilla) == PLAIN.message(plain, cut, gorilla=gorilla)
    assert isinstance(compiled, _rows.RowBuffer)
    assert isinstance(plain, rows_plain.RowBuffer)


def triggered(body: Body) -> list[int]:
    """After how many rows the trigger came."""
    rows, fired, done = body.buffer(), [], 0

    def full() -> None:
        fired.append(done)
        rows.symbols.published_count = len(rows.symbols)
        rows.clear()

    rows.byte_trigger, rows.row_trigger, rows.on_trigger = 3_000, 70, full
    for done in range(600):
        text = "x" * (done * 7 % 40)
        rows.row("tu"[done % 2], symbols={"s": text}, columns={"t": text, "b": None if done % 3 else 1}, at=AT)
    return fired


def test_triggers_fire_at_the_same_row() -> None:
    assert triggered(COMPILED) == triggered(PLAIN)
    assert len(triggered(PLAIN)) > 5


def test_the_dictionary_may_be_shared_and_taken_back() -> None:
    symbols = SymbolTable()
    rows = COMPILED.buffer(symbols)
    rows.row("t", symbols={"s": "a"}, at=AT)
    with pytest.raises(InputError):
        rows.row("t", symbols={"s": "b", "r": 5}, at=AT)
    assert len(symbols) == 1
    assert symbols.entries(0, 1) == b"\1a"


def test_an_index_beyond_the_tables_is_an_error() -> None:
    for rows in pair():
        rows.row("t", columns={"x": 1}, at=AT)
        for call in (rows.table_rows, rows.table_name, lambda index, rows=rows: rows.drop_rows(index, 0)):
            with pytest.raises(IndexError):
                call(1)
        with pytest.raises(ValueError, match="has 1 rows"):
            rows.drop_rows(0, 2)
