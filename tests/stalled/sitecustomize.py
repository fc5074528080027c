"""Puts one kind of thread to sleep at random calls: in the process of the tests, and in those that they start.

`tests/stalls.py` is the plugin; it has this folder on the PYTHONPATH of every process that a test starts, so that a
Python imports this file first and stalls itself (`begin`), and what it starts in its turn.  A forked child is stalled
by `_after_fork`.  Not reached is a Python that ignores its environment (``-I``, ``-E``, ``-S``), and what is none.

The main thread of a process that a test has started is of the kind `child`, and it is held at other places, too:
before its first line; in `threading`, whose locks a signal handler may meet half-way; and in its main script, whose
text a test may have given by ``-c``, behind every other call, for such a script is short.  Its imports are not held.
What a signal handler raises while it sleeps comes where Python itself would let it come: it looks for signals at the
begin of a function and behind a call of one in C.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from types import FrameType
from typing import Any, Final

KINDS: Final = {
    "test": ("MainThread",),
    "io": ("spoolq-io",),
    "server": ("spoolq-server",),
    "keeper": ("spoolq-keeper",),
    "dispatcher": ("spoolq-errors", "spoolq-connections", "spoolq-progress", "spoolq-policy"),
    "drainer": ("spoolq-drainer",),
    "caller": ("Thread-", "spoolq-open", "spoolq-close"),  # the tests' own calls beside; what a call has done aside
    "child": (),  # the main thread of each process that a test has started
}
_NAPS_MILLIS: Final = (1, 5, 20, 60)
_NAPS_BEFORE_MILLIS: Final = (0, 50, 300)
_ONE_OF: Final = 40  # calls
_ONE_OF_MAIN_SCRIPT: Final = 2
_ONE_OF_THREADING: Final = 10
_SECONDS_MAX: Final = 1.5  # a process, or a test in the process of the tests
_PLACES: Final = (os.sep + "spoolq" + os.sep, os.sep + "tests" + os.sep, os.sep + "bench" + os.sep)
_FOLDER: Final = os.path.dirname(os.path.abspath(__file__))
_TEST, _WHO, _PLACE = "STALLS_TEST", "STALLS_KIND", "STALLS_PROCESS"


class Staller:
    """A profile function.  ``process``: "" is the one of the tests, "2.1" the first one of the second one of that."""

    def __init__(self, who: str, test: str, process: str = "") -> None:
        self._who = who
        self._test = test
        self._begin(process)

    def _begin(self, process: str) -> None:
        self.process = process
        self._rng = Random(" ".join(filter(None, (self._test, process))))
        self._left = _SECONDS_MAX
        self._names = () if process and self._who == "test" else KINDS[self._who]
        self._main = threading.main_thread() if process and self._who == "child" else None
        self._children = 0

    def next_child(self) -> str:
        """Which process the next one is."""
        self._children += 1
        return f"{self.process}.{self._children}".strip(".")

    def forked(self) -> None:
        """This process is a child now."""
        self._begin(f"{self.process}.{self._children}".strip("."))

    def environment(self, of: dict[str, str]) -> dict[str, str]:
        """That environment as a child must have it."""
        others = of.get("PYTHONPATH", "").split(os.pathsep)
        path = os.pathsep.join([_FOLDER, *(folder for folder in others if folder not in ("", _FOLDER))])
        return {**of, "PYTHONPATH": path, _TEST: self._test, _WHO: self._who, _PLACE: self.next_child()}

    def hold(self) -> None:
        """Before the first line of a child."""
        if self._main is not None:
            self._nap(_NAPS_BEFORE_MILLIS)

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if self._left <= 0:
            return
        thread = threading._active.get(threading.get_ident())  # type: ignore[attr-defined]  # one that begins has no name
        if thread is None:
            return
        one_of = _ONE_OF
        if thread is self._main:
            if event not in ("call", "c_return"):
                return
            if frame.f_globals.get("__name__") in ("__main__", "__mp_main__"):
                one_of = _ONE_OF_MAIN_SCRIPT
            elif frame.f_code.co_filename == threading.__file__:
                one_of = _ONE_OF_THREADING
            elif frame.f_code.co_name == "<module>" or not _is_here(frame):
                return
        elif event not in ("call", "return") or not thread.name.startswith(self._names) or not _is_here(frame):
            return
        if not self._rng.randrange(one_of):
            self._nap(_NAPS_MILLIS)

    def _nap(self, choice: tuple[int, ...]) -> None:
        nap = self._rng.choice(choice) / 1_000
        self._left -= nap
        time.sleep(nap)


def _is_here(frame: FrameType) -> bool:
    return any(place in frame.f_code.co_filename for place in _PLACES) and frame.f_code.co_filename != __file__


_current: Staller | None = None
_start: Any = subprocess.Popen.__init__


def _popen(self: Any, args: Any, *more: Any, **how: Any) -> None:
    if _current is not None and not more and not _is_left_alone(args):
        how["env"] = _current.environment(dict(os.environ if how.get("env") is None else how["env"]))
    _start(self, args, *more, **how)


def _is_left_alone(args: Any) -> bool:
    return isinstance(args, list | tuple) and os.path.basename(str(args[0])) == "strace"


def _before_fork() -> None:
    if _current is not None:
        _current.next_child()


def _after_fork() -> None:
    if _current is not None:
        _current.forked()
        threading.setprofile(_current)
        sys.setprofile(_current)


os.register_at_fork(before=_before_fork, after_in_child=_after_fork)


def begin(who: str, test: str, process: str = "") -> None:
    """This process is stalled from now on, and those that it starts."""
    global _current
    _current = Staller(who, test, process)
    subprocess.Popen.__init__ = _popen  # type: ignore[method-assign]
    _current.hold()
    threading.setprofile(_current)
    sys.setprofile(_current)


@contextmanager
def stalled(who: str, test: str) -> Iterator[None]:
    """Inside, the process of the tests is stalled."""
    global _current
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", _TEST, _WHO, _PLACE)}
    os.environ.update(Staller(who, test).environment(dict(os.environ)))  # of what is started by other ways than `Popen`
    begin(who, test)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        subprocess.Popen.__init__ = _start  # type: ignore[method-assign]
        _current = None
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


if __name__ == "sitecustomize" and _TEST in os.environ:
    begin(os.environ[_WHO], os.environ[_TEST], os.environ[_PLACE])
