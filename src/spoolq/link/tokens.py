"""Asks the user's callable for bearer tokens, one at a time, on a thread that anybody may leave.

One `Tokens` for a sender and its drainers: so the callable is never called by two threads at once, whatever
connects at the same time.  Each token goes to one connect.  A connect that stops waiting (the sender closes,
its time is over) leaves the call under way; the next one waits for that, and is given what it brings unless it
came more than 10 s before.  The last tokens that went to a server are kept: no text may show one that a peer quotes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from spoolq.link.foreign import ForeignCall

_FRESH_SECONDS: Final = 10.0
_GIVEN_MAX: Final = 16


class Tokens:
    """See the module's text; ``thread_name`` is that of the thread."""

    def __init__(self, provider: Callable[[], object], thread_name: str) -> None:
        self._provider = provider
        self._thread_name = thread_name
        self._lock = threading.Lock()
        self._call: ForeignCall[object] | None = None
        #: Tokens that went to a server, the newest first.
        self.given: tuple[str, ...] = ()

    def token(self, wait: Callable[[int], None]) -> object:
        """What the callable gives; ``wait(fileno)`` waits until that is readable.

        Raises what ``wait`` raises, and what the callable raised.
        """
        while True:
            with self._lock:
                call = self._call
                if call is None or call.is_older_than(_FRESH_SECONDS):
                    self._call = call = ForeignCall(self._provider, self._thread_name)
            call.wait(wait)
            with self._lock:
                if self._call is not call:
                    continue  # another connect was given this one
                self._call = None
            return call.found()

    def keep(self, token: str) -> None:
        """This one is about to go to a server."""
        with self._lock:
            self.given = (token, *(one for one in self.given if one != token))[:_GIVEN_MAX]

    @property
    def busy(self) -> bool:
        """Whether a call is under way."""
        call = self._call
        return call is not None and not call.ended

    def forked(self) -> None:
        """In a forked child: closes its copies of descriptors."""
        if self._call is not None:
            self._call.forked()
