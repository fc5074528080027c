"""Work that a Ctrl-C must not cut in two: another thread does it while the main thread waits (ours.md 33).

    task = Aside(work, "spoolq-open")
    task.run(interrupted)            what `work` returns; raises what it raises

Python raises KeyboardInterrupt, and whatever else a program's signal handlers raise, on the main thread, behind any
call: also behind the one that opened a descriptor, before anybody knows its number, or took a lock, or started a
thread.  No ``try`` can mend that.  So the main thread only waits:

- An interrupt before the work has begun: it never begins.
- While it waits: ``interrupted()`` is called, which is to make the work end soon; its end is waited for, then the
  interrupt goes on, with what the work raised as a note.
- Another one during that wait goes on at once; the work is done to its end all the same, by itself.

On any other thread, to which no signal is told, and where no thread can be started (at the interpreter's exit), the
work is done right here.

A flag and a lock are what is waited for: `threading.Event`, `Condition` and `Thread.start` are Python code, and leave
their own locks held when they are cut.  For the same reason `Thread.start` itself is called on a bare thread.  The wait
looks up five times a second: a signal that comes just before a thread blocks does not end its wait (and none does on
Windows).  The thread is no daemon: the interpreter waits for work that was left to itself, which must have bounds of
its own.
"""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from spoolq.runtime.steps import attach

T = TypeVar("T")
_LOOK_SECONDS: Final = 0.2


class Cancelled(Exception):
    """The work has ended because nobody wants it any more; everything is undone."""


class Cancel:
    """Whether the work is not wanted any more; who does it asks, or is told."""

    def __init__(self) -> None:
        self.cancelled = False
        self._told: Callable[[], object] | None = None

    def tells(self, told: Callable[[], object] | None) -> None:
        """From now on `now` calls this, and at once when it was called already."""
        self._told = told
        if self.cancelled and told is not None:
            told()

    def asked(self) -> bool:
        """``cancelled``, as a call."""
        return self.cancelled

    def now(self) -> None:
        """Ends it."""
        self.cancelled = True
        if self._told is not None:
            self._told()


class Aside(Generic[T]):
    """See the module's text.  One `run` each."""

    def __init__(self, work: Callable[[], T], name: str) -> None:
        self._work = work
        self._begun = threading.Lock()  # who takes it decides: the work begins, or never will
        self._under_way = threading.Lock()  # held until the end
        self._thread = threading.Thread(target=self._do, name=name, daemon=False)
        self._error: BaseException | None = None
        self._refused = self._ended = False
        self._results: list[T] = []

    def run(self, interrupted: Callable[[], object]) -> T:
        """See the module's text."""
        if threading.current_thread() is not threading.main_thread():
            return self._work()
        self._under_way.acquire()
        try:
            try:
                _thread.start_new_thread(self._start, ())
            except RuntimeError:
                self._refused = self._ended = True
            self.wait()
        except BaseException as interrupt:
            if self._begun.acquire(blocking=False):
                raise
            interrupted()
            self.wait()
            if self._error is not None and not isinstance(self._error, Cancelled):
                attach(interrupt, self._error)
            raise
        if self._refused:
            return self._work()
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # else its traceback would hold itself
        return self._results.pop()

    def wait(self) -> None:
        """Until the work has ended, when it has begun."""
        while not self._ended:
            if self._under_way.acquire(timeout=_LOOK_SECONDS):
                self._under_way.release()
        if self._thread.ident is not None:
            self._thread.join()  # it has nothing to do any more but to end

    def _start(self) -> None:
        """On a bare thread."""
        if not self._begun.acquire(blocking=False):
            return
        try:
            self._thread.start()
        except RuntimeError:
            self._refused = True
            self._end()
        except BaseException as error:
            self._error = error
            self._end()

    def _do(self) -> None:
        try:
            self._results.append(self._work())
        except BaseException as error:
            self._error = error
        finally:
            self._end()

    def _end(self) -> None:
        self._ended = True
        self._under_way.release()
