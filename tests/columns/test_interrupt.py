"""Ctrl-C at any line: the row and its symbols are whole or absent (ours.md 33).

Lines of Python only; compiled code is not interrupted between two of its statements.

Seen red with: `intern` and `_store` as they were before (wire bytes without an id, columns of differing
lengths); the lines of `_Mark.restore` left out, one by one, but for the one that forgets a table
without rows: the next row finds it and uses it as new.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from decimal import Decimal
from types import FrameType
from typing import Any

from spoolq.values import Geohash, TimestampMicros
from tests.columns.bodies import PLAIN, Body, state_of

AT = TimestampMicros(5)


class Interrupt:
    """A trace function that raises KeyboardInterrupt at the n-th line of the functions that are named."""

    def __init__(self, line: int, file: str, names: tuple[str, ...]) -> None:
        self.left, self.file, self.names = line, file, names

    def __call__(self, frame: FrameType, event: str, _: Any) -> Interrupt | None:
        code = frame.f_code
        if not (code.co_filename.endswith(self.file) and code.co_name in self.names):
            return self if event == "call" and self.left else None
        if event == "line":
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt
        return self


def interrupted(call: Callable[[], object], file: str, names: tuple[str, ...], line: int) -> bool:
    """Makes the call, interrupted at the n-th line; False when it was through before."""
    interrupt, old = Interrupt(line, file, names), sys.gettrace()
    try:
        sys.settrace(interrupt)
        call()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(old)
    return not interrupt.left


def test_ours_33_at_any_line_of_intern(body: Body) -> None:
    for line in range(1, 60):
        rows = body.buffer()
        rows.row("t", symbols={"s": "x"}, columns={"i": 1}, at=AT)
        before = state_of(body, rows)
        call = lambda rows=rows: rows.row("t", symbols={"s": "y"}, columns={"i": 2}, at=AT)  # noqa: E731
        if not interrupted(call, "symbols.py", ("intern", "_check_room"), line):
            break
        assert state_of(body, rows) == before, f"line {line}"
        rows.row("t", symbols={"s": "z"}, columns={"i": 2}, at=AT)
        rows.row("t", symbols={"s": "y"}, columns={"i": 3}, at=AT)
        assert rows.symbols.entries(0, len(rows.symbols)) == b"\1x\1z\1y"
    assert 10 < line < 59


def test_ours_33_at_any_line_of_storing_a_row_in_the_plain_body() -> None:
    stored = ("_store", "append", "_rescaled", "add")
    first = {"num": Decimal(1), "text": "a", "i": 1}
    second = {"text": "b", "num": Decimal("0.001"), "fresh": 2, "geo": Geohash(1, 5)}
    for table in ("t", "new"):
        for line in range(1, 200):
            rows = PLAIN.buffer()
            rows.row("t", symbols={"s": "x"}, columns=first, at=AT)
            before = state_of(PLAIN, rows)
            call = lambda rows=rows: rows.row(table, symbols={"s": "y"}, columns=second, at=AT)  # noqa: B023, E731
            if not interrupted(call, "rows_plain.py", stored, line):
                break
            assert state_of(PLAIN, rows) == before, f"line {line}"
            other = PLAIN.buffer()
            other.row("t", symbols={"s": "x"}, columns=first, at=AT)
            for buffer in (rows, other):
                buffer.row(table, symbols={"s": "y"}, columns=second, at=AT)
                buffer.row("t", symbols={"s": "z"}, columns=first, at=AT)
            assert state_of(PLAIN, rows) == state_of(PLAIN, other), f"line {line}"
        assert 20 < line < 199


def test_ours_33_behind_a_first_row_that_was_not_told_of_the_next_one_is(body: Body) -> None:
    """The flush deadline runs from there; without it the rows would wait for the next flush."""
    rows, told = body.buffer(), []

    def first_row() -> None:
        told.append(len(rows))
        if len(told) == 1:
            raise KeyboardInterrupt

    rows.on_first_row = first_row
    with contextlib.suppress(KeyboardInterrupt):
        rows.row("t", symbols={"s": "x"}, columns={"i": 1}, at=AT)
    for number in (2, 3):
        rows.row("t", symbols={"s": "x"}, columns={"i": number}, at=AT)
    assert told == [1, 1], "the one that was interrupted was not taken"
