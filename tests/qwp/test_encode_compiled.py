"""_encode: the edges of the buffer, and messages that are written without the GIL."""

from __future__ import annotations

from array import array
from typing import Any

import pytest

from spoolq.qwp.cut import Cut
from spoolq.values import TimestampNanos
from tests.columns.bodies import PLAIN, _body

COMPILED = _body("compiled", "spoolq.columns._rows", "spoolq.qwp._encode")


def filled(body: Any, count: int) -> Any:
    rows = body.buffer()
    for index in range(count):
        cells = {"x": index, "t": f"text {index}" * 3, "late": 1.5 if index > 5 else None}
        rows.row("t", symbols={"s": f"s{index % 11}"}, columns=cells, at=TimestampNanos(index * index))
    return rows


@pytest.mark.parametrize("by", [-1, 1, -12, 1_000])
def test_a_buffer_of_another_size_is_refused_and_not_touched(by: int) -> None:
    rows = filled(COMPILED, 20)
    nbytes = COMPILED.encode.frame_bytes(rows)
    room = bytearray(b"\xa5" * (nbytes + by))
    with pytest.raises(ValueError, match=f"{nbytes + by} bytes, the message {nbytes}"):
        COMPILED.encode.write(rows, room)
    assert room == b"\xa5" * (nbytes + by)


def test_what_cannot_be_written_is_refused() -> None:
    for body in (PLAIN, COMPILED):
        rows = filled(body, 3)
        nbytes = body.encode.frame_bytes(rows)
        for wrong in (bytes(nbytes), memoryview(bytearray(2 * nbytes))[::2], "text", None):
            with pytest.raises((TypeError, BufferError, ValueError)):
                body.encode.write(rows, wrong)


def test_any_contiguous_buffer_will_do() -> None:
    rows = filled(COMPILED, 4)
    expected = COMPILED.message(rows)
    room = array("B", bytes(len(expected)))
    COMPILED.encode.write(rows, room)
    assert room.tobytes() == expected


def test_a_large_message_is_written_without_the_gil_and_is_the_same() -> None:
    plain, compiled = filled(PLAIN, 9_000), filled(COMPILED, 9_000)
    for gorilla in (False, True):
        message = COMPILED.message(compiled, gorilla=gorilla)
        assert len(message) > 256 << 10
        assert message == PLAIN.message(plain, gorilla=gorilla)


def test_rows_that_are_not_there_are_an_error() -> None:
    rows = filled(COMPILED, 4)
    for cut in (Cut(((0, 0, 5),), 0, 0), Cut(((0, 3, 2),), 0, 0), Cut(((0, -1, 2),), 0, 0), Cut(((1, 0, 1),), 0, 0)):
        with pytest.raises(IndexError):
            COMPILED.encode.frame_bytes(rows, cut)
        with pytest.raises(IndexError):
            COMPILED.encode.write(rows, bytearray(100), cut)


def test_every_cut_of_a_batch_is_what_the_plain_body_writes() -> None:
    plain, compiled = filled(PLAIN, 19), filled(COMPILED, 19)
    for first in range(20):
        for end in range(first, 20):
            cut = Cut(((0, first, end),), 3, 7)
            assert COMPILED.message(compiled, cut, gorilla=True) == PLAIN.message(plain, cut, gorilla=True)


def test_the_compiled_encoder_takes_the_compiled_row_buffer_only() -> None:
    with pytest.raises(TypeError):
        COMPILED.encode.frame_bytes(PLAIN.buffer())
