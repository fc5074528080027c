"""A call that cannot be cut short, on a daemon thread of its own: the system's resolver, a user's callable.

    call = ForeignCall(function, "spoolq-resolve")        it is under way
    call.wait(wait)                                       ``wait(fileno)`` waits until that is readable
    call.found()                                          what it returned; raises what it raised

Who waits does so as a connect waits for its socket, so a `close` or a time bound ends the wait.  The thread is
then left to itself: it touches nothing but its own call and ends when that does.  Where no thread can be had (at the
interpreter's exit from Python 3.12 on, when a sender may still have rows to deliver) the caller's own makes the call,
which nothing cuts short then.  Several threads may wait; the
pair of sockets of a wait (Windows waits for nothing else) exists only as long as the wait.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class ForeignCall(Generic[T]):
    """See the module's text."""

    def __init__(self, call: Callable[[], T], name: str) -> None:
        self._call = call
        self._lock = threading.Lock()  # the thread writes to no descriptor that was closed
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._ended_at: float | None = None
        self._found: list[T] = []
        self._error: BaseException | None = None
        try:
            threading.Thread(target=self._run, name=name, daemon=True).start()
        except RuntimeError:
            self._run()

    @property
    def ended(self) -> bool:
        """Whether it has come back."""
        return self._ended_at is not None

    def is_older_than(self, seconds: float) -> bool:
        """Whether it has ended so long ago."""
        return self._ended_at is not None and time.monotonic() - self._ended_at > seconds

    def wait(self, wait: Callable[[int], None]) -> None:
        """Until it has ended; raises what ``wait`` raises, and goes on then."""
        with self._lock:
            if self.ended:
                return
            pair = socket.socketpair()
            self._pairs.append(pair)
        try:
            wait(pair[0].fileno())
        finally:
            with self._lock:
                if pair in self._pairs:
                    self._pairs.remove(pair)
                for one in pair:
                    one.close()

    def found(self) -> T:
        """The outcome of a call that has ended."""
        if self._error is not None:
            raise self._error
        return self._found[0]

    def forked(self) -> None:
        """In a forked child: closes its copies of what the waits opened; no lock, somebody may have held it."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for one in pair:
                one.close()

    def _run(self) -> None:
        try:
            self._found.append(self._call())
        except BaseException as error:  # raised to whoever waits
            self._error = error
        with self._lock:
            self._ended_at = time.monotonic()
            for _, writer in self._pairs:
                writer.send(b"\1")
