"""One process at a time in a slot: ``flock`` on ``<slot>/.lock`` (slot.md 3).

The peers take the same lock in the same way, so they exclude us and we them.  ``.lock`` stays empty and
is never removed: a lock belongs to the inode.  ``.lock.pid`` beside it says who holds it; it is written
after each success, best effort, and only ever quoted.

- `SlotLock.acquire`: makes the slot's directory when needed.  Before any other file of the slot.
- `SlotLock.check`: before a name in the slot is made, removed or opened.  The lock is on a file, everything else
  goes by path; the directory may have been moved, removed and made anew, or covered by a mount meanwhile.
- `SlotLock.release`: last, on every path; a second call does nothing.
- `logical_lock`: the same on ``<sf_dir>/.slot-locks/<sender_id>.lock``.  Taken before the slot's own, and
  only to set a slot aside or to adopt one (ours.md 15g); released when that is done.

A forked child has a copy of the descriptor, which alone would keep the lock when the parent has died.
So the child closes its copy at the fork (`files`), without LOCK_UN, which would unlock the parent (ours.md 32).
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from typing import Final

from spoolq import _callers, limits
from spoolq.errors import SlotBusyError, StorageError
from spoolq.spool.files import File, Files

NAME: Final = ".lock"
PID_NAME: Final = ".lock.pid"
LOGICAL_DIRECTORY: Final = ".slot-locks"

_held: weakref.WeakSet[SlotLock] = weakref.WeakSet()
_held_guard = threading.Lock()


class SlotLock:
    """A lock that is held, until `release`.  ``path`` is the lock file's."""

    def __init__(self, files: Files, file: File, place: str) -> None:
        self._files = files
        self._file: File | None = file
        self.path = file.path
        self.place = place

    @classmethod
    def acquire(cls, files: Files, slot: str, *, make: bool = True, place: str = "") -> SlotLock:
        """Takes the lock of the slot in directory ``slot``, made when it is not there (its parent must be).

        With ``make=False`` the directory must be there.  ``place`` says who has it, for an error of this process;
        else the caller's file and line do.

        Raises SlotBusyError at once when somebody holds it, StorageError when the files cannot be used.
        """
        path, pid_path = os.path.join(slot, NAME), os.path.join(slot, PID_NAME)
        return cls._acquire(files, slot, path, pid_path, place, directory=slot if make else None)

    @classmethod
    def _acquire(
        cls, files: Files, slot: str, path: str, pid_path: str, place: str = "", *, directory: str | None
    ) -> SlotLock:
        """The lock on the file that ``path`` leads to when it is taken, ``directory`` made where it is missing.

        Between opening and locking the slot may be set aside and another one take its name: then once more.
        """
        for _ in range(limits.LOCK_TRIES_MAX):
            if directory is not None:
                files.make_directory(directory)
            file = files.open_or_create(path)
            try:
                if not files.lock(file):
                    raise SlotBusyError(_busy_text(files, slot, path, pid_path))
                if files.still_named(file):
                    break
            except BaseException:
                files.close(file)
                raise
            files.close(file)
        else:
            raise SlotBusyError(
                f"slot already in use: {path} was replaced {limits.LOCK_TRIES_MAX} times while it was being locked; "
                "look for what removes or moves the slot"
            )
        lock = cls(files, file, place or f"at {_callers.place()}")
        with _held_guard:
            _held.add(lock)
        with contextlib.suppress(StorageError):  # a hint for whoever comes second, nothing hangs on it
            _write_pid(files, pid_path)
        return lock

    @property
    def held(self) -> bool:
        """Whether `release` was not called yet, and this is not a forked child."""
        return self._file is not None

    def check(self) -> None:
        """Raises StorageError when the lock's path does not lead to the file that is locked any more.

        Then whatever is under the slot's path may be another sender's.
        """
        file = self._file
        if file is None or not self._files.still_named(file):
            slot = os.path.dirname(self.path)
            raise StorageError(
                f"the slot {slot} is not the one that this process has locked: {self.path} was removed or replaced, or "
                "the directory was moved, removed or covered by a mount; what is there now is left untouched.  Frames "
                "that were not acknowledged are where the directory was moved to; put it back, or close this sender "
                "and open a new one",
                filename=self.path,
            )

    def release(self) -> None:
        """Unlocks and closes.  When the unlock fails the close still ends the lock."""
        file, self._file = self._file, None
        if file is None:
            return
        with _held_guard:
            _held.discard(self)
        try:
            self._files.unlock(file)
        finally:
            self._files.close(file)


def logical_lock(files: Files, sf_dir: str, sender_id: str) -> SlotLock:
    """Takes the lock that serialises setting aside and adoption of one slot.  Errors as `SlotLock.acquire`."""
    directory = os.path.join(sf_dir, LOGICAL_DIRECTORY)
    path = os.path.join(directory, f"{sender_id}.lock")
    return SlotLock._acquire(files, os.path.join(sf_dir, sender_id), path, f"{path}.pid", directory=directory)


def holder(files: Files, pid_path: str) -> str:
    """What the pid file says, printable; "unknown" when it is absent, empty or cannot be read."""
    try:
        file = files.open_if_there(pid_path, write=False)
        if file is None:
            return "unknown"
        try:
            data = files.read(file, 0, limits.PID_FILE_BYTES_MAX)
        finally:
            files.close(file)
    except StorageError:
        return "unknown"
    text = data.decode("utf-8", "replace").strip()
    return "".join(c if c.isprintable() else "?" for c in text) or "unknown"


def _write_pid(files: Files, pid_path: str) -> None:
    file = files.open_or_create(pid_path)
    try:
        files.truncate(file, 0)
        files.write(file, 0, f"{os.getpid()}\n".encode())
    finally:
        files.close(file)


def _busy_text(files: Files, slot: str, path: str, pid_path: str) -> str:
    found = f"slot already in use: {slot} [holder=pid={holder(files, pid_path)}]"  # behaviour.md 2.1
    real = os.path.realpath(path)  # sf_dir may be a link
    with _held_guard:
        ours = [lock for lock in _held if lock.held and os.path.realpath(lock.path) == real]
    if ours:
        found += f", opened in this process {ours[0].place}"
    return f"{found}; only one sender at a time may open it: give each one a sender_id of its own, or close that one"


def _after_fork_in_child() -> None:
    global _held_guard
    _held_guard = threading.Lock()  # another thread of the parent may have held it at the fork
    for lock in list(_held):
        lock._file = None
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
