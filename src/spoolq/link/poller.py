"""Waiting for descriptors: poll(2), or the same by select where the system has no poll (Windows).

    poller = Poller()
    poller.register(sock, POLLIN)
    ready = poller.poll(timeout_millis)     [(descriptor, what it is ready for), ...]; None waits without limit

A socket whose connect failed is ready for writing in both.  Which one is taken is decided once, by what `select` has.
"""

from __future__ import annotations

import select
import time
from typing import Protocol


class HasFileno(Protocol):
    """A socket, or whatever gives its descriptor."""

    def fileno(self) -> int:
        """The descriptor."""


class SelectPoller:
    """`select.poll`'s two methods by `select.select`.  (Windows takes sockets only, and no empty lists.)"""

    def __init__(self) -> None:
        self._masks: dict[int, int] = {}

    def register(self, fd: int | HasFileno, eventmask: int, /) -> None:
        """Watches a descriptor for these events."""
        self._masks[fd if isinstance(fd, int) else fd.fileno()] = eventmask

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]:
        """Waits until one of them is ready or the time, in milliseconds, is over."""
        reading = [fd for fd, mask in self._masks.items() if mask & POLLIN]
        writing = [fd for fd, mask in self._masks.items() if mask & POLLOUT]
        seconds = None if timeout is None else max(timeout, 0) / 1_000
        if not reading and not writing:
            time.sleep(seconds or 0)
            return []
        # Windows tells of a failed connect by the third list alone.
        readable, writable, failed = select.select(reading, writing, writing, seconds)
        ready = dict.fromkeys(readable, POLLIN)
        for fd in {*writable, *failed}:
            ready[fd] = ready.get(fd, 0) | POLLOUT
        return list(ready.items())


HAS_POLL = hasattr(select, "poll")
POLLIN: int = getattr(select, "POLLIN", 1)
POLLOUT: int = getattr(select, "POLLOUT", 4)
Poller = select.poll if HAS_POLL else SelectPoller
