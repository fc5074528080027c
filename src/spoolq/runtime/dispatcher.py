"""Runs the user's handlers on a thread of their own, as things happen (ours.md 29c).

`post` never waits and never fails: the inbox is bounded, the oldest entry gives way and is counted.
The thread starts with the first entry and is a daemon.  When it cannot start (no thread to be had; behind the
end of the main thread from Python 3.12 on), the entry is counted as dropped, logged once, and the next one tries
again.  A handler that raises, SystemExit too, is logged and counts as delivered.  A handler may call into the
sender, `close()` included.

`close` lets the handlers finish for a moment, then leaves the thread behind: what it did not
deliver is counted as dropped (behaviour.md 6.3).
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

_LOG = logging.getLogger("spoolq.events")
_JOIN_SECONDS = 0.2  # behaviour.md 6.3: drain about 100 ms, join at most about 200 ms

T = TypeVar("T")


class Dispatcher(Generic[T]):
    """One handler, one bounded inbox, one thread."""

    def __init__(self, handler: Callable[[T], object], capacity: int, name: str) -> None:
        self._handler = handler
        self._inbox: deque[T] = deque(maxlen=capacity)
        self._lock = threading.RLock()  # what `with` takes, and why each `notify` is for all: see `Progress`
        self._condition = threading.Condition(self._lock)
        self._name = name
        self._thread: threading.Thread | None = None  # one that has started
        self._failure_told = False
        self._closing = False
        self.delivered = 0
        self.dropped = 0

    def post(self, entry: T) -> bool:
        """Queues one entry; the oldest is dropped when the inbox is full.  False: this one was dropped."""
        with self._lock:
            if self._closing or not self._has_thread():
                self.dropped += 1
                return False
            if len(self._inbox) == self._inbox.maxlen:
                self.dropped += 1
            self._inbox.append(entry)
            self._condition.notify_all()
            return True

    def _has_thread(self) -> bool:
        """Whether there is a thread; starts it when it is not there."""
        if self._thread is not None:
            return True
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            thread.start()
        except Exception as error:  # RuntimeError of Python, MemoryError; the sender goes on without the handler
            if not self._failure_told:
                self._failure_told = True
                _LOG.error("no thread for %s: %s; its events are dropped until there is one", self._name, error)
            return False
        self._thread = thread
        return True

    def close(self) -> None:
        """Ends the thread after what is queued; waits at most 0.2 s, and not at all inside a handler."""
        with self._lock:
            self._closing = True
            self._condition.notify_all()
            thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        thread.join(_JOIN_SECONDS)
        with self._lock:
            self.dropped += len(self._inbox)
            self._inbox.clear()

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._inbox:
                    if self._closing:
                        return
                    self._condition.wait()
                entry = self._inbox.popleft()
            try:
                self._handler(entry)
            except BaseException:  # a SystemExit, too: it would end this thread and nobody else
                _LOG.exception("a handler of %s raised; the event counts as delivered", self._name)
            finally:
                self.delivered += 1
