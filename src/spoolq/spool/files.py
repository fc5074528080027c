"""The files layer: every call of the spool that touches a disk goes through one `Files`.

Tests put a double in its place, which records the calls, fails the n-th one, or loses what was not
synced (tests/spool/files_double.py).  So nothing else in spool/ imports ``os`` for its calls.

    file = files.create(path)            exclusive, 0600
    files.reserve(file, nbytes)          blocks are there, they read as zero
    files.write(file, offset, data)      whole or StorageError
    files.sync(file)                     data and size are durable; the name is, after sync_directory
    files.close(file)

- Files are opened with O_CLOEXEC and O_NOFOLLOW: a link inside a slot is an error (ours.md 21).
- A descriptor is any number from 0 on: a process may have closed its standard streams.
- Errors are `StorageError`: what was tried, the path, the system's text, what to do; ``errno`` is set.
  "Not there" is an answer only where the name says so (``..._if_there``); nothing else is swallowed.
- A failed `write` may have stored a part; who calls must undo that (`append` does it itself).

A `Files` keeps no state but the one WARN about reservation, so threads may share it.

A forked child closes its copies of all descriptors that are open here, whoever holds them (ours.md 32): the parent's
files, and the blocks of those it removes, are its own matter.  A `File` that the child inherited is a closed one.
The fork waits for what is being opened or closed (`fork_gate`).
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat as stat_module
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Final, Literal, NoReturn

from spoolq import limits
from spoolq.errors import StorageError
from spoolq.frozen import Frozen
from spoolq.spool.fork_gate import noted
from spoolq.spool.mapping import Mapping, reserve_blocks

_LOG = logging.getLogger("spoolq.spool")

#: The methods of `Files` that read or change something on a disk, for the doubles.
OPERATIONS: Final = (
    "open",
    "open_if_there",
    "create",
    "open_or_create",
    "close",
    "read",
    "read_into",
    "write",
    "append",
    "truncate",
    "reserve",
    "size",
    "sync",
    "sync_all",
    "sync_directory",
    "sync_system",
    "map",
    "unmap",
    "store",
    "sync_mapped",
    "populate",
    "rename",
    "unlink",
    "names",
    "names_if_there",
    "stat",
    "still_named",
    "real_path",
    "make_directory",
    "lock",
    "unlock",
)

_UNSUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})
#: The ``errno`` of what this process may not do.
FORBIDDEN: Final = (errno.EACCES, errno.EPERM)
_ADVICE: Final = {
    errno.ENOSPC: "free space on that filesystem, or lower sf_max_total_bytes",
    errno.EDQUOT: "the disk quota is used up: free space, or raise it",
    errno.EACCES: "the process needs read and write access there: check owner and mode",
    errno.EPERM: "the process needs read and write access there: check owner and mode",
    errno.EROFS: "that filesystem is mounted read-only: remount it, or choose another sf_dir",
    errno.ELOOP: "there is a link where a file of the slot should be: remove it",
    errno.ENAMETOOLONG: "choose a shorter sf_dir or sender_id",
    errno.EMFILE: "the process has no descriptor left: raise its limit (ulimit -n)",
    errno.ENFILE: "the system has no descriptor left: raise fs.file-max",
    errno.ENOENT: "the directory or file was removed: check sf_dir, and that nothing cleans it up",
    errno.EEXIST: "another process made it: give each producer a sender_id of its own",
    errno.EIO: "the device failed: see the kernel log, and replace the disk",
    errno.EISDIR: "there is a directory where a file of the slot should be: move it away",
    errno.ENOTDIR: "there is a file where a directory should be: check sf_dir",
}


class File(Frozen):
    """An open file: the descriptor and the path that errors name."""

    fd: int
    path: str


class Stat(Frozen):
    """What stands under a name (links are not followed): ``kind`` and size in bytes."""

    kind: Literal["file", "directory", "link", "other"]
    nbytes: int


#: What is open, by descriptor, with device and inode: a number may be somebody else's by the time of a fork.
_live: dict[int, tuple[File, tuple[int, int]]] = {}


def _opened(fd: int, path: str, found: os.stat_result) -> File:
    file = File(fd, path)
    _live[fd] = file, (found.st_dev, found.st_ino)
    return file


def _closing(file: File) -> int:
    """The descriptor, which the caller closes; before that, for a number is given out again at once."""
    _live.pop(file.fd, None)
    return file.fd


def _after_fork_in_child() -> None:
    for fd, (file, identity) in list(_live.items()):
        with suppress(OSError):
            found = os.fstat(fd)
            if (found.st_dev, found.st_ino) == identity:
                os.close(fd)
        object.__setattr__(file, "fd", -1)
    _live.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _fail(tried: str, path: str, error: OSError) -> NoReturn:
    number = error.errno or 0
    advice = _ADVICE.get(number, "check that filesystem")
    text = f"cannot {tried} {path}: {error.strerror or error}; {advice}"
    raise StorageError(text, errno=error.errno, filename=path) from error


@contextmanager
def _naming(tried: str, path: str) -> Iterator[None]:
    """Turns an OSError into a StorageError that says what was tried where."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        _fail(tried, path, error)


class Files:
    """The real disk.  ``group_access`` gives new files 0660 and directories 0770 (ours.md 21)."""

    def __init__(self, *, group_access: bool = False) -> None:
        self._file_mode = 0o660 if group_access else 0o600
        self._directory_mode = 0o770 if group_access else 0o700
        self._group_access = group_access
        self._warned = False

    # --- open and close ---------------------------------------------------------------------------

    def open(self, path: str, *, write: bool = True) -> File:
        """Opens a file that is there."""
        return self._open("open", path, os.O_RDWR if write else os.O_RDONLY)

    def open_if_there(self, path: str, *, write: bool = True) -> File | None:
        """Opens a file; None when the name does not exist."""
        try:
            return self.open(path, write=write)
        except StorageError as error:
            if error.errno == errno.ENOENT:
                return None
            raise

    def create(self, path: str) -> File:
        """Makes a file; the name must be free (slot.md invariant 12)."""
        return self._open("create", path, os.O_RDWR | os.O_CREAT | os.O_EXCL)

    def open_or_create(self, path: str) -> File:
        """Opens a file, made empty when it is not there."""
        while True:
            try:
                return self._open("create", path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            except StorageError as error:
                if error.errno != errno.EEXIST:
                    raise
            found = self.open_if_there(path)
            if found is not None:  # else it was removed between the two calls
                return found

    def close(self, file: File) -> None:
        """Gives the descriptor back, whatever it reports: after an error it is closed, too."""
        with _naming("close", file.path), noted:
            os.close(_closing(file))

    # --- read and write ---------------------------------------------------------------------------

    def read(self, file: File, offset: int, nbytes: int) -> bytes:
        """``nbytes`` from ``offset``; fewer only where the file ends."""
        found = bytearray(nbytes)
        got = self.read_into(file, offset, memoryview(found))
        return bytes(found) if got == nbytes else bytes(found[:got])

    def read_into(self, file: File, offset: int, buffer: memoryview) -> int:
        """Fills ``buffer`` from ``offset``; how many bytes there were, fewer only where the file ends."""
        _check_range(file.path, offset, len(buffer))
        done = 0
        with _naming("read", file.path):
            while done < len(buffer):
                got = self._preadv(file.fd, [buffer[done:]], offset + done)
                if got == 0:
                    break
                done += got
        return done

    def write(self, file: File, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Stores all of ``data`` at ``offset``, in pieces of 64 KiB (decisions: faster than one large write)."""
        view = memoryview(data)
        _check_range(file.path, offset, len(view))
        done = 0
        with _naming("write", file.path):
            while done < len(view):
                wrote = self._pwrite(file.fd, view[done : done + limits.WRITE_PIECE_BYTES], offset + done)
                if wrote <= 0:
                    raise OSError(errno.EIO, "the system wrote nothing and gave no reason")
                done += wrote

    def append(self, file: File, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Stores ``data`` at ``offset``, which is the file's end; a failure cuts the file back to there."""
        try:
            self.write(file, offset, data)
        except StorageError:
            self.truncate(file, offset)
            raise

    def truncate(self, file: File, nbytes: int) -> None:
        """Cuts or grows the file to ``nbytes``."""
        _check_range(file.path, 0, nbytes)
        with _naming("truncate", file.path):
            os.ftruncate(file.fd, nbytes)

    def reserve(self, file: File, nbytes: int) -> None:
        """Takes the disk blocks of the first ``nbytes`` now; what was not written reads as zero.

        Where the filesystem cannot, zeros are written behind the present end, with one WARN (ours.md 15e).
        """
        _check_range(file.path, 0, nbytes)
        number = reserve_blocks(file.fd, nbytes)
        if number in _UNSUPPORTED:
            if not self._warned:
                self._warned = True
                _LOG.warning("the filesystem of %s cannot reserve blocks: writing zeros instead", file.path)
            present = self.size(file)
            piece = bytes(min(limits.WRITE_PIECE_BYTES, max(nbytes - present, 0)))
            while present < nbytes:
                step = min(len(piece), nbytes - present)
                self.write(file, present, memoryview(piece)[:step])
                present += step
        elif number:
            _fail("reserve disk blocks for", file.path, OSError(number, os.strerror(number)))

    def size(self, file: File) -> int:
        """Length in bytes."""
        with _naming("look at", file.path):
            return os.fstat(file.fd).st_size

    # --- syncs ------------------------------------------------------------------------------------

    def sync(self, file: File) -> None:
        """Data and length are durable when this returns (fdatasync)."""
        with _naming("sync", file.path):
            if sys.platform == "darwin":
                fcntl.fcntl(file.fd, fcntl.F_FULLFSYNC)
            else:
                os.fdatasync(file.fd)

    def sync_all(self, file: File) -> None:
        """As `sync`, with all of the metadata (fsync)."""
        with _naming("sync", file.path):
            if sys.platform == "darwin":
                fcntl.fcntl(file.fd, fcntl.F_FULLFSYNC)
            else:
                os.fsync(file.fd)

    def sync_directory(self, path: str) -> None:
        """Names made, renamed and removed in ``path`` are durable when this returns."""
        with _naming("sync the directory", path):
            with noted:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                directory = _opened(fd, path, os.fstat(fd))
            try:
                if sys.platform == "darwin":  # its fsync leaves names in the drive's cache, too
                    fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
                else:
                    os.fsync(fd)
            finally:
                with noted:
                    os.close(_closing(directory))

    def sync_system(self, path: str) -> None:
        """All that the system has not written yet is durable when this returns (sync(2); begun only, on macOS).

        For the name of ``path`` in a directory that this process may pass and not list, so not sync.
        """
        with _naming("sync the system for", path):
            os.sync()

    # --- mappings ---------------------------------------------------------------------------------

    def map(self, file: File, nbytes: int) -> Mapping:
        """The first ``nbytes`` as memory (in the plain body: by reads and writes)."""
        _check_range(file.path, 0, nbytes)
        with _naming("map", file.path), noted:
            return Mapping(file.fd, nbytes)

    def unmap(self, file: File, mapping: Mapping) -> None:
        """Takes the mapping away.  Raises BufferError while somebody still reads there."""
        with _naming("unmap", file.path), noted:
            mapping.close()

    def store(self, file: File, mapping: Mapping, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Stores ``data`` through the mapping."""
        with _naming("write", file.path):
            mapping.store(offset, data)

    def sync_mapped(self, file: File, mapping: Mapping, offset: int, nbytes: int) -> None:
        """The pages of that range are durable when this returns."""
        with _naming("sync", file.path):
            mapping.sync(offset, nbytes)
            if sys.platform == "darwin":  # msync leaves it in the drive's cache
                fcntl.fcntl(file.fd, fcntl.F_FULLFSYNC)

    def populate(self, file: File, mapping: Mapping) -> None:
        """Every page is there and writable: what would be SIGBUS at a store is an error here."""
        with _naming("touch the pages of", file.path):
            mapping.populate()

    # --- names ------------------------------------------------------------------------------------

    def rename(self, old: str, new: str) -> None:
        """Gives ``old`` the name ``new``, which is replaced when it is there."""
        with _naming("rename", old):
            os.rename(old, new)

    def unlink(self, path: str) -> None:
        """Removes a file.  A name that is not there is an error."""
        with _naming("remove", path):
            os.unlink(path)

    def names(self, path: str) -> list[str]:
        """Names in a directory, in no order; an error at any entry is an error of the whole (invariant 7)."""
        with _naming("list", path), noted, self._scandir(path) as entries:
            return [entry.name for entry in entries]

    def names_if_there(self, path: str) -> list[str] | None:
        """As `names`; None when there is no such directory."""
        try:
            return self.names(path)
        except StorageError as error:
            if error.errno == errno.ENOENT:
                return None
            raise

    def stat(self, path: str) -> Stat | None:
        """What stands under a name; None when nothing does."""
        with _naming("look at", path):
            try:
                found = os.lstat(path)
            except FileNotFoundError:
                return None
        if stat_module.S_ISREG(found.st_mode):
            return Stat("file", found.st_size)
        if stat_module.S_ISDIR(found.st_mode):
            return Stat("directory", found.st_size)
        return Stat("link" if stat_module.S_ISLNK(found.st_mode) else "other", found.st_size)

    def still_named(self, file: File) -> bool:
        """Whether the name that ``file`` was opened by still leads to it, and not to another file or to none."""
        with _naming("look at", file.path):
            ours = os.fstat(file.fd)
            try:
                found = os.lstat(file.path)
            except (FileNotFoundError, NotADirectoryError):
                return False
        return (ours.st_dev, ours.st_ino) == (found.st_dev, found.st_ino)

    def real_path(self, path: str) -> str:
        """The absolute path without links of something that is there."""
        with _naming("look at", path):
            return os.path.realpath(path, strict=True)

    def make_directory(self, path: str) -> bool:
        """Makes one directory; False when it was there.  The one above must exist."""
        with _naming("make the directory", path):
            try:
                os.mkdir(path, self._directory_mode)
            except FileExistsError:
                if os.path.isdir(path):  # sf_dir itself may be a link (ours.md 21)
                    return False
                found = "a link to no directory" if os.path.islink(path) else "a file of that name, not a directory"
                raise StorageError(
                    f"cannot make the directory {path}: there is {found}; move it away, or choose another sf_dir or "
                    "sender_id",
                    errno=errno.EEXIST,
                    filename=path,
                ) from None
            if self._group_access:
                mode = stat_module.S_IMODE(os.stat(path).st_mode)
                if mode & 0o777 != self._directory_mode:  # the umask took something away
                    # The bit that makes files inherit the group stays: it is how another user's files are ours.
                    os.chmod(path, self._directory_mode | mode & stat_module.S_ISGID)
        return True

    # --- lock -------------------------------------------------------------------------------------

    def lock(self, file: File) -> bool:
        """Takes the exclusive flock; False at once when somebody holds it (slot.md 3: never lockf)."""
        with _naming("lock", file.path):
            try:
                fcntl.flock(file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def unlock(self, file: File) -> None:
        """Gives the flock back, also for copies of the descriptor in forked children."""
        with _naming("unlock", file.path):
            fcntl.flock(file.fd, fcntl.LOCK_UN)

    # --- the system's calls that tests cut short ----------------------------------------------------

    _pwrite = staticmethod(os.pwrite)
    _preadv = staticmethod(os.preadv)

    def _scandir(self, path: str) -> AbstractContextManager[Iterator[os.DirEntry[str]]]:
        return os.scandir(path)

    def _open(self, tried: str, path: str, flags: int) -> File:
        with _naming(tried, path), noted:
            # O_NONBLOCK: opening a pipe would wait for its other end
            fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, self._file_mode)
            try:
                found = os.fstat(fd)
                mode = found.st_mode
                if stat_module.S_ISDIR(mode):
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                if not stat_module.S_ISREG(mode):
                    raise OSError(errno.EINVAL, "it is a device or a pipe, not a file")
                if self._group_access and flags & os.O_CREAT:
                    os.fchmod(fd, self._file_mode)  # whatever the umask took away
            except BaseException:
                os.close(fd)
                raise
            return _opened(fd, path, found)


def take_back(files: Files, file: File) -> None:
    """Closes a file that was made just now and removes it, unless its name leads to another one by now.

    Both are tried whatever fails; then the first error is raised.
    """
    ours = True
    with suppress(StorageError):
        ours = files.still_named(file)  # the directory may have been replaced meanwhile, by another sender's
    try:
        files.close(file)
    finally:
        if ours:
            files.unlink(file.path)


def _check_range(path: str, offset: int, nbytes: int) -> None:
    if offset < 0 or nbytes < 0 or offset + nbytes > limits.FILE_BYTES_MAX:
        raise StorageError(
            f"bytes {offset} to {offset + nbytes} of {path} were asked for; a file of the spool has "
            f"0 to {limits.FILE_BYTES_MAX}: this is a fault of spoolq, please report it"
        )
