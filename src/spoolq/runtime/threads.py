"""Starting a thread that a sender cannot do without.

    start(thread)        it runs; raises SpoolqError, and it never will

Python raises a bare RuntimeError when the system has no thread left, and from 3.12 on at the interpreter's exit too.
Who opens a sender is told which thread it was and what to look at.  Owner of the thread, and of what an opening
that fails must undo, is the caller.
"""

from __future__ import annotations

import threading

from spoolq.errors import SpoolqError


def start(thread: threading.Thread) -> None:
    """See the module's text."""
    try:
        thread.start()
    except RuntimeError as error:
        raise SpoolqError(
            f"the thread {thread.name} cannot be started: {error}; either the interpreter is ending, or this process "
            "has as many threads as the system allows: ulimit -u, the pids limit of its container"
        ) from error
