"""A fork waits until what other threads open or close just now is on record (ours.md 32).

    with noted:
        fd = os.open(...)
        ...                 the note of it, by which a forked child finds what it has to close

A child that is born between the call of the system and its note has a descriptor, or a mapping, that nobody there
knows of: it would keep a lock of its parent's alive, or the blocks of a removed file.  So the fork waits; and what
comes meanwhile waits for the fork, which is short.  A call that hangs, as on a disk that is gone, does not keep a
process from forking: `limits.FORK_WAIT_SECONDS_MAX`.

A thread never waits for itself: the fork may be in a signal handler that has interrupted such a call.  Nor does a call
hold a lock while it makes its note: a handler that comes there may wait for another thread, as `close` does, and that
one opens and closes files, too.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import Final

from spoolq import limits

_LOOK_SECONDS: Final = 0.001

_lock = threading.RLock()  # held over the fork, and may be taken again by a signal handler that forks
_forking: Final[list[int]] = []  # the thread that forks; again for each fork of a handler meanwhile
_under_way: Final[set[int]] = set()  # threads


class _Noted:
    """See the module's text; not to be nested."""

    def __enter__(self) -> None:
        thread = threading.get_ident()
        _under_way.add(thread)  # before the look, as the fork notes itself before it looks: one of them sees the other
        while _forking and thread not in _forking:
            _under_way.discard(thread)
            with _lock:
                pass
            _under_way.add(thread)

    def __exit__(self, *_: object) -> None:
        _under_way.discard(threading.get_ident())


noted: Final = _Noted()


def _before_fork() -> None:
    thread = threading.get_ident()
    _lock.acquire()
    _forking.append(thread)
    end = time.monotonic() + limits.FORK_WAIT_SECONDS_MAX
    while not _under_way <= {thread} and time.monotonic() < end:
        _pause()


def _pause() -> None:
    time.sleep(_LOOK_SECONDS)


def _after_fork_in_parent() -> None:
    if threading.get_ident() in _forking:  # else a Ctrl-C came before
        _forking.pop()
    with suppress(RuntimeError):  # likewise
        _lock.release()


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()
    _forking.clear()
    _under_way.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
