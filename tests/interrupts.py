"""Ctrl-C at the n-th place where it can come: a trace function that raises KeyboardInterrupt there, once.

    with interrupt_at(n) as interrupt:
        call()                          KeyboardInterrupt comes out of it, when it has so many places
    interrupt.came

CPython looks at signals at the start of a Python function, at a jump back, and behind a call of something that is not
a Python function; nowhere else.  Those are the places, in whatever Python code the call runs on this thread, the
standard library's included: `threading.Condition`, `Event` and `Thread` are Python, and can be cut in two.  Left out:
imports, callbacks of weak references and finalizers, out of which nothing is raised, the tests themselves, and the
plain bodies, which stand for compiled calls, where no signal is looked at.

The interpreter counts such an exception to the call; a trace function can raise it at the instruction behind only.
Where a ``try`` or ``with`` ends between the two, the place is left out.
"""

from __future__ import annotations

import dis
import gc
import itertools
import os
import sys
from collections import deque
from types import CodeType, FrameType
from typing import Any

_CALLS = {"CALL", "CALL_FUNCTION_EX", "CALL_KW", "CALL_FUNCTION", "CALL_METHOD"}
_TESTS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_places: dict[CodeType, set[int]] = {}


class Interrupt:
    """See the module's text."""

    def __init__(self, place: int) -> None:
        self._left = place
        self.came = False
        self.where = ""
        self._last: dict[FrameType, int] = {}  # the instruction before, per frame
        self._returned: FrameType | None = None  # a Python function has just come back into this frame

    @property
    def passed(self) -> bool:
        """Whether the call was through before."""
        return not self.came

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        """For `sys.settrace`."""
        name = frame.f_code.co_filename
        left_out = name.startswith((_TESTS, "<frozen importlib")) or name.endswith("_plain.py")
        if self.came or left_out or frame.f_code.co_name in ("_remove", "__del__"):
            return None
        if event == "call":
            frame.f_trace = self.trace  # first: CPython 3.13 looks for it when the instructions are asked for
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            self._returned = None
            self._place(frame)
        elif event == "opcode":
            before, self._last[frame] = self._last.get(frame), frame.f_lasti
            inlined, self._returned = self._returned is frame, None
            if before is not None and self._is_looked_at(frame, before, inlined):
                self._place(frame)
        elif event == "return":
            self._last.pop(frame, None)
            self._returned = None if frame.f_code.co_name == "__init__" else frame.f_back
        return self.trace

    def forget(self) -> None:
        """Holds no frame any more."""
        self._last.clear()
        self._returned = None

    def _is_looked_at(self, frame: FrameType, before: int, inlined: bool) -> bool:
        found = _places.get(frame.f_code)
        if found is None:
            found = _places[frame.f_code] = _places_of(frame.f_code)
        return before in found and not inlined

    def _place(self, frame: FrameType) -> None:
        self._left -= 1
        if not self._left:
            self.came = True
            self.where = f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}"
            raise KeyboardInterrupt


def _places_of(code: CodeType) -> set[int]:
    """Offsets of the instructions behind which CPython looks at signals."""
    bytecode = dis.Bytecode(code)
    ranges = bytecode.exception_entries  # type: ignore[attr-defined]  # the table of what catches where

    def caught_by(offset: int) -> int:
        return next((entry.target for entry in ranges if entry.start <= offset < entry.end), -1)

    listed = list(bytecode)
    found = {one.offset for one in listed if one.opname.startswith("JUMP_BACKWARD")}
    for one, behind in itertools.pairwise(listed):
        if one.opname in _CALLS and caught_by(one.offset) == caught_by(behind.offset):
            found.add(one.offset)
    return found


class CutNotify(deque[Any]):
    """In place of the ``_waiters`` of a `threading.Condition`: Ctrl-C inside `notify`, once ``armed``, once.

    It comes when a thread has been woken, and before that is noted.
    """

    armed = False

    def remove(self, waiter: Any) -> None:
        """As a deque does it."""
        if self.armed:
            self.armed = False
            raise KeyboardInterrupt
        super().remove(waiter)


class interrupt_at:
    """Inside, the n-th place raises; KeyboardInterrupt ends the block and goes no further.

    A class, for `contextlib`'s code would be traced.
    """

    def __init__(self, place: int) -> None:
        self._interrupt = Interrupt(place)

    def __enter__(self) -> Interrupt:
        self._before, self._collects = sys.gettrace(), gc.isenabled()
        gc.disable()  # a collection calls what others have hooked into it: no place of ours
        sys.settrace(self._interrupt.trace)
        return self._interrupt

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        sys.settrace(self._before)
        if self._collects:
            gc.enable()
        self._interrupt.forget()
        return isinstance(error, KeyboardInterrupt) and self._interrupt.came
