"""What happens to open senders when the interpreter ends or the process forks.

Exit without `close` (ours.md 31): buffered rows are published, the acknowledgements are waited for up
to the close timeout, the threads end before the interpreter does, and a ResourceWarning says so.

Fork (ours.md 32): a child has none of the threads, and it shares the sockets.  There every call on an
inherited sender raises ForkedError; its copies of the descriptors are closed without a word on the
wire, so the parent goes on undisturbed.

`watch` is called by an engine that has opened, `forget` by one that closes.
"""

from __future__ import annotations

import atexit
import logging
import os
import warnings
import weakref
from typing import Any, Protocol

_LOG = logging.getLogger("spoolq")


class Open(Protocol):
    """What is known of an engine here."""

    def describe(self) -> str:
        """The sender in a few words."""

    def close(self) -> None:
        """Ends it in order."""

    def forked(self) -> None:
        """This process is a child: let go of what the parent owns."""


_open: weakref.WeakSet[Any] = weakref.WeakSet()
_registered = False


def watch(engine: Open) -> None:
    """From now on the exit and a fork are looked after for this engine."""
    global _registered
    if not _registered:
        atexit.register(close_all)
        if hasattr(os, "register_at_fork"):  # Windows cannot fork
            os.register_at_fork(after_in_child=_after_fork)
        _registered = True
    _open.add(engine)


def forget(engine: Open) -> None:
    """The engine closes by itself."""
    _open.discard(engine)


def close_all() -> None:
    """Closes what is still open, and says so; never raises."""
    for engine in list(_open):
        warnings.warn(
            f"{engine.describe()} was not closed; call close() or use 'with'",
            ResourceWarning,
            stacklevel=1,
            source=engine,
        )
        try:
            engine.close()
        except Exception:
            _LOG.exception("closing %s at exit", engine.describe())


def _after_fork() -> None:
    for engine in list(_open):
        _open.discard(engine)
        engine.forked()
