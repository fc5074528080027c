"""A file's bytes behind the mapping's names, plain body: by pread and pwrite, nothing is mapped.

What is stored is in the page cache at once, as with a mapping, so a killed process loses nothing.
``direct`` is False: there is no memory to write into.

Made by `Files.map`, which owns the descriptor; closed before that is.  Errors are OSErrors, which
`Files` gives a path.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import threading
from typing import Final

_counter = threading.Lock()
_live = 0
_forks = 0  # a mapping of an earlier number is the parent's


class Mapping:
    """The first ``nbytes`` of an open file."""

    __slots__ = ("_fd", "_forks", "nbytes")

    #: Whether the buffer protocol gives the file's memory.
    direct: Final = False

    def __init__(self, fd: int, nbytes: int) -> None:
        global _live
        if nbytes < 1:
            raise OSError(errno.EINVAL, "a mapping has at least one byte")
        os.fstat(fd)  # a bad descriptor is refused at once, as by mmap(2)
        self._fd: int | None = fd
        self._forks = _forks
        self.nbytes = nbytes
        with _counter:
            _live += 1

    @property
    def closed(self) -> bool:
        """Whether `close` was called, or this process inherited it."""
        return self._fd is None or self._forks != _forks

    def store(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Stores ``data`` at ``offset``."""
        view = memoryview(data)
        fd = self._check(offset, len(view))
        done = 0
        while done < len(view):
            done += os.pwrite(fd, view[done:], offset + done)

    def load(self, offset: int, nbytes: int) -> bytes:
        """A copy of ``nbytes`` from ``offset``."""
        fd = self._check(offset, nbytes)
        found = b""
        while len(found) < nbytes:
            piece = os.pread(fd, nbytes - len(found), offset + len(found))
            if not piece:
                raise OSError(errno.EIO, "the file is shorter than its mapping: another process cut it")
            found += piece
        return found

    def sync(self, offset: int, nbytes: int) -> None:
        """The bytes of that range are durable when this returns."""
        fd = self._check(offset, nbytes)
        if sys.platform == "darwin":
            os.fsync(fd)
        else:
            os.fdatasync(fd)

    def populate(self) -> None:
        """Nothing is mapped, so there is nothing to touch."""
        self._check(0, 0)

    def close(self) -> None:
        """Ends it; a second call does nothing."""
        global _live
        if not self.closed:
            self._fd = None
            with _counter:
                _live -= 1

    def _check(self, offset: int, nbytes: int) -> int:
        if self._fd is None or self._forks != _forks:
            raise OSError(errno.EBADF, "the mapping is closed")
        if offset < 0 or nbytes < 0 or offset + nbytes > self.nbytes:
            raise OSError(
                errno.EFAULT, f"bytes {offset} to {offset + nbytes} are outside a mapping of {self.nbytes} bytes"
            )
        return self._fd


def let_go() -> None:
    """In a forked child: every mapping so far is the parent's and counts as closed, as its descriptor is."""
    global _counter, _forks, _live
    _counter = threading.Lock()  # another thread of the parent may have held it
    _forks += 1
    _live = 0


def live_mappings() -> int:
    """How many mappings are open in this process."""
    return _live


def reserve_blocks(fd: int, nbytes: int) -> int:
    """fallocate(2) of the first ``nbytes``; 0 or the errno.

    The C library's ``posix_fallocate`` (and so Python's) would write byte by byte where the
    filesystem has no reservation and hide that; this is the bare call.
    """
    if nbytes < 1:
        return 0
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "fallocate"):
        return errno.EOPNOTSUPP
    call = library.fallocate
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    while call(fd, 0, 0, nbytes):
        number = ctypes.get_errno()
        if number != errno.EINTR:
            return number
    return 0
