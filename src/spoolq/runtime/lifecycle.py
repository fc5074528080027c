"""What happens to open senders when the interpreter ends or the process forks.

Exit without `close` (ours.md 31): buffered rows are published, the acknowledgements are waited for up
to the close timeout, the threads end before the interpreter does, and a ResourceWarning says so.  Where
that warning is an error (``-W error``), it comes out when everything is closed.

A worker of `multiprocessing` that was forked, from its parent or from the fork server, ends by `os._exit`:
before Python 3.13 without `atexit`, so a finalizer of multiprocessing's own does it there.  A worker begins
with empty lists of both kinds, so each process registers for itself.

Fork (ours.md 32): a child has none of the threads, and it shares the sockets.  There every call on an
inherited sender raises ForkedError; its copies of the descriptors are closed without a word on the
wire, so the parent goes on undisturbed.

`watch` is called by an engine that has opened, `forget` by one whose `close` comes back, `ended` by one that has
nothing open: in between a fork still finds its locks held and its descriptors open.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import warnings
import weakref
from typing import Any, Final, Protocol

from spoolq.runtime.steps import Steps

_LOG = logging.getLogger("spoolq")


class Open(Protocol):
    """What is known of an engine here."""

    def describe(self) -> str:
        """The sender in a few words."""

    @property
    def closing(self) -> bool:
        """Whether somebody has begun to close it."""

    def close(self) -> None:
        """Ends it in order; waits for whoever has begun."""

    def forked(self) -> None:
        """This process is a child: let go of what the parent owns."""


_FINALIZER_PRIORITY: Final = 20  # before the pools (15) and queues (-5) of the worker, which a handler may use

_open: weakref.WeakSet[Any] = weakref.WeakSet()
_inheritable: weakref.WeakSet[Any] = weakref.WeakSet()  # those, and what is closing just now
_fork_watched = False
_exit_watched = False  # of this process


def watch(engine: Open) -> None:
    """From now on the exit and a fork are looked after for this engine."""
    global _exit_watched, _fork_watched
    if not _fork_watched:
        if hasattr(os, "register_at_fork"):  # Windows cannot fork
            os.register_at_fork(after_in_child=_after_fork)
        _fork_watched = True
    if not _exit_watched:
        _watch_exit()
        _exit_watched = True
    _open.add(engine)
    _inheritable.add(engine)


def _watch_exit() -> None:
    atexit.unregister(close_all)  # the parent's, where the child has it
    atexit.register(close_all)
    processes = sys.modules.get("multiprocessing.process")  # not imported: who is such a worker has it
    if processes is None or processes.parent_process() is None or sys.version_info >= (3, 13):
        return
    from multiprocessing import get_start_method, util

    if get_start_method() != "spawn":  # such a worker ends like any other process
        util.Finalize(None, close_all, exitpriority=_FINALIZER_PRIORITY)


def forget(engine: Open) -> None:
    """Nobody has to close the engine any more."""
    _open.discard(engine)


def ended(engine: Open) -> None:
    """The engine has nothing open any more: a fork need not look after it."""
    _inheritable.discard(engine)


def close_all() -> None:
    """Closes what is still open, and says so; a second call finds nothing.

    Raises what the filters of warnings make of that, behind the last close.  A Ctrl-C ends the wait of one sender for
    its server (`Engine.close`); the others are closed all the same.
    """
    steps = Steps()
    for engine in list(_open):
        if not engine.closing:  # else another thread is at it, and `close` waits for that
            steps.run(_say_not_closed, engine)
        try:
            engine.close()
        except BaseException:  # the next one is closed as well
            _LOG.exception("closing %s at exit", engine.describe())
    steps.finish()


def _say_not_closed(engine: Open) -> None:
    text = f"{engine.describe()} was not closed; call close() or use 'with'"
    warnings.warn(text, ResourceWarning, stacklevel=1, source=engine)


def _after_fork() -> None:
    global _exit_watched
    _exit_watched = False
    for engine in list(_inheritable):
        engine.forked()
    _open.clear()
    _inheritable.clear()
