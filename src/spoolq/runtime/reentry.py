"""Whether the thread that calls into a sender is in the middle of another call of it.

A signal handler runs on the main thread between any two steps of what that is doing, so also inside `flush`: what
the interrupted call holds, a lock or a sync under way, is let go only when the handler has returned, and who waits
for it in the handler waits for ever.  Nothing marks the calls, for each flush would pay for it; the stack tells,
and only `close` looks.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any


def calls_under_way(owner: object) -> set[str]:
    """Names of the methods of ``owner`` that this thread is in, the one that asks left out."""
    codes = {f.__code__ for f in vars(type(owner)).values() if hasattr(f, "__code__")}
    return {
        frame.f_code.co_name
        for frame in _stack(sys._getframe(2))
        if frame.f_code in codes and frame.f_locals.get("self") is owner
    }


def in_signal_handler() -> bool:
    """Whether this thread is in one of the program's own signal handlers."""
    signal: Any = sys.modules.get("signal")  # not imported: who has a handler has it
    if signal is None or threading.current_thread() is not threading.main_thread():
        return False
    handlers = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()}
    return any(frame.f_code in handlers for frame in _stack(sys._getframe(1)))


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _code_of(handler: Any) -> CodeType | None:
    """The body of a function, a method, a partial or an object that can be called; None for anything else."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    if not callable(handler):
        return None
    found = getattr(handler, "__code__", None) or getattr(handler.__call__, "__code__", None)
    return found if isinstance(found, CodeType) else None
