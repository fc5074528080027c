"""A descriptor that another thread can make readable: it ends a ``select``.

`Wakeup.set` may be called from any thread, any number of times; `clear` only by the thread that
selects.  Owned by the I/O loop; an eventfd on Linux, a pipe elsewhere.
"""

from __future__ import annotations

import contextlib
import os


class Wakeup:
    """One eventfd (or pipe), closed by `close`."""

    def __init__(self) -> None:
        if hasattr(os, "eventfd"):
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
        with contextlib.suppress(OSError):  # a full pipe is readable already
            os.write(self._write, b"\1\0\0\0\0\0\0\0")

    def clear(self) -> None:
        """Makes it unreadable again."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 4_096)

    def close(self) -> None:
        """Frees the descriptors; a second call does nothing."""
        read, write = self._read, self._write
        self._read = self._write = -1
        for descriptor in {read, write} - {-1}:
            os.close(descriptor)
