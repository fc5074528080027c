"""A descriptor that another thread can make readable: it ends a ``select``.

`Wakeup.set` may be called from any thread, any number of times, also while another one calls `close`; `clear` only
by the thread that selects.  Owned by the I/O loop.  An eventfd on Linux, a pipe elsewhere; a pair of sockets where
only sockets can be waited for (Windows).
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading

from spoolq.link.poller import HAS_POLL


class Wakeup:
    """One eventfd (or pipe, or pair), closed by `close`."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a write that is on its way must not find the number with somebody else's file
        self._sockets: tuple[socket.socket, ...] = ()
        if not HAS_POLL:
            reader, writer = self._sockets = socket.socketpair()
            reader.setblocking(False)
            writer.setblocking(False)
            self._read, self._write = reader.fileno(), writer.fileno()
        elif hasattr(os, "eventfd"):
            self._read = self._write = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self._read, self._write = os.pipe()
            os.set_blocking(self._read, False)
            os.set_blocking(self._write, False)

    def fileno(self) -> int:
        """Readable once `set` was called and until `clear`."""
        return self._read

    def set(self) -> None:
        """Makes the descriptor readable; harmless after `close`."""
        with self._lock, contextlib.suppress(OSError):  # a full pipe is readable already
            if self._sockets:
                self._sockets[1].send(b"\1")
            else:
                os.write(self._write, b"\1\0\0\0\0\0\0\0")

    def clear(self) -> None:
        """Makes it unreadable again."""
        with contextlib.suppress(BlockingIOError):
            if self._sockets:
                self._sockets[0].recv(4_096)
            else:
                os.read(self._read, 4_096)

    def close(self) -> None:
        """Frees the descriptors; a second call does nothing."""
        with self._lock:
            read, write = self._read, self._write
            self._read = self._write = -1
            for one in self._sockets:
                one.close()
            if self._sockets:
                return
            for descriptor in {read, write} - {-1}:
                os.close(descriptor)

    def forked(self) -> None:
        """`close` in a forked child; a thread that is not here may have held the lock."""
        self._lock = threading.RLock()
        self.close()
