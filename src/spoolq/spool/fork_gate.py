"""A fork waits until what other threads open or close just now is on record (ours.md 32).

    with noted:
        fd = os.open(...)
        ...                 the note of it, by which a forked child finds what it has to close

A child that is born between the call of the system and its note has a descriptor, or a mapping, that nobody there
knows of: it would keep a lock of its parent's alive, or the blocks of a removed file.  So the fork waits; and what
comes meanwhile waits for the fork, which is short.  A call that hangs, as on a disk that is gone, does not keep a
process from forking: `limits.FORK_WAIT_SECONDS_MAX`.

A thread never waits for itself: the fork may be in a signal handler that has interrupted such a call.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import Final

from spoolq import limits

# Held over the fork, and may be taken again by a signal handler.  It is what `with` takes, not the condition: a Ctrl-C
# inside the condition's own methods would leave it locked, and with it every file of this process.
_lock = threading.RLock()
_condition = threading.Condition(_lock)
_under_way: Final[set[int]] = set()  # threads


class _Noted:
    """See the module's text; not to be nested."""

    def __enter__(self) -> None:
        with _lock:
            _under_way.add(threading.get_ident())

    def __exit__(self, *_: object) -> None:
        with _lock:
            _under_way.discard(threading.get_ident())
            with suppress(RuntimeError):  # a signal handler has forked just now: this is the child, where nobody waits
                _condition.notify_all()


noted: Final = _Noted()


def _before_fork() -> None:
    own = {threading.get_ident()}
    _condition.acquire()
    _condition.wait_for(lambda: _under_way <= own, limits.FORK_WAIT_SECONDS_MAX)


def _after_fork_in_parent() -> None:
    with suppress(RuntimeError):  # a Ctrl-C came before the lock was taken
        _condition.release()


def _after_fork_in_child() -> None:
    global _lock, _condition
    _lock = threading.RLock()
    _condition = threading.Condition(_lock)
    _under_way.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
