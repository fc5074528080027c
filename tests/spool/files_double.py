"""Doubles of the files layer: one that records, one that fails, one that is killed, one that loses power.

They work on real files below a temporary directory, without real syncs, and see each outermost call of `Files` as one
step (`append` is one, not the `write` inside).  Mappings are plain ones, so that every stored byte
comes by a call.

    RecordingFiles()            .calls: (name, path) of every step
    FailingFiles(n, ...)        step n reports an error (``count=None``: and all later ones)
    KilledFiles(n)              step n and all later ones do not happen: `Killed`
    PowerCutFiles(root)         .image(target, keep): what a disk holds after a power cut
    WatchedFiles()              the real disk and real mappings; its syncs are noted, held up, or fail
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spoolq.spool.files import OPERATIONS, File, Files, _closing, _fail
from spoolq.spool.mapping_plain import Mapping

#: Given back even when they report an error, and by the death of a process.
_RELEASING = frozenset({"close", "unmap", "unlock"})
SYNCS = ("sync", "sync_all", "sync_directory", "sync_mapped")
PAGE = 4_096
SECTOR = 512


def _never(*_: str) -> bool:
    return False


def _quietly(*_: str) -> None:
    return None


class Killed(BaseException):
    """The process is dead from here on: no handler of the code under test may see this as an error."""


class UnsyncedFiles(Files):
    """Syncs nothing: quick, and no test takes the machine's power away."""

    def sync(self, file: File) -> None: ...

    def sync_all(self, file: File) -> None: ...

    def sync_directory(self, path: str) -> None: ...

    def sync_system(self, path: str) -> None: ...

    def sync_mapped(self, file: File, mapping: Any, offset: int, nbytes: int) -> None: ...


class SteppedFiles(UnsyncedFiles):
    """Calls `step` with the name, the path and the rest of the arguments around each outermost call."""

    def __init__(self, *, group_access: bool = False) -> None:
        super().__init__(group_access=group_access)
        self._depth = threading.local()
        self.open_files: dict[int, File] = {}
        self.open_mappings: list[Mapping] = []

    def step(self, name: str, path: str, arguments: tuple[Any, ...], act: Callable[[], Any]) -> Any:
        return act()

    def bury(self) -> None:
        """Gives back what a dead process held."""
        for mapping in self.open_mappings:
            mapping.close()
        for file in self.open_files.values():
            os.close(_closing(file))
        self.open_files.clear()
        self.open_mappings.clear()


def _stepped(name: str) -> Callable[..., Any]:
    real = getattr(UnsyncedFiles, name)

    def call(self: SteppedFiles, first: Any, *rest: Any, **named: Any) -> Any:
        if getattr(self._depth, "inside", False):
            return real(self, first, *rest, **named)
        self._depth.inside = True
        try:
            path = first.path if isinstance(first, File) else first
            found = self.step(name, path, (first, *rest), lambda: real(self, first, *rest, **named))
        except Exception:
            if name == "close":  # closed, whatever it reports; after `Killed` it is not
                self.open_files.pop(first.fd, None)
            raise
        finally:
            self._depth.inside = False
        if name == "close":
            self.open_files.pop(first.fd, None)
        if isinstance(found, File):
            self.open_files[found.fd] = found
        return found

    return call


for _name in OPERATIONS:
    setattr(SteppedFiles, _name, _stepped(_name))


def _plain_map(self: SteppedFiles, file: File, nbytes: int) -> Mapping:
    def act() -> Mapping:
        mapping = Mapping(file.fd, nbytes)
        self.open_mappings.append(mapping)
        return mapping

    return self.step("map", file.path, (file, nbytes), act)


SteppedFiles.map = _plain_map  # type: ignore[method-assign,assignment]


class RecordingFiles(SteppedFiles):
    """``calls`` lists the steps."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.calls: list[tuple[str, str]] = []

    def step(self, name: str, path: str, arguments: tuple[Any, ...], act: Callable[[], Any]) -> Any:
        self.calls.append((name, os.path.basename(path)))
        return act()


class FailingFiles(RecordingFiles):
    """Step ``nth`` (0-based) and ``count - 1`` more report ``number``; ``only`` names the steps that count."""

    def __init__(
        self, nth: int, number: int = errno.ENOSPC, *, count: int | None = 1, only: tuple[str, ...] = OPERATIONS
    ) -> None:
        super().__init__()
        self.nth, self.number, self.count, self.only = nth, number, count, only
        self.seen = 0
        self.failed: list[tuple[str, str]] = []

    def step(self, name: str, path: str, arguments: tuple[Any, ...], act: Callable[[], Any]) -> Any:
        if name not in self.only:
            return super().step(name, path, arguments, act)
        index = self.seen
        self.seen += 1
        if index < self.nth or (self.count is not None and index >= self.nth + self.count):
            return super().step(name, path, arguments, act)
        self.failed.append((name, os.path.basename(path)))
        if name in _RELEASING:
            act()
        return _fail(name, path, OSError(self.number, os.strerror(self.number)))


class KilledFiles(RecordingFiles):
    """Step ``nth`` (0-based) does not happen any more; call `bury` afterwards."""

    def __init__(self, nth: int) -> None:
        super().__init__()
        self.nth = nth
        self.dead = False

    def step(self, name: str, path: str, arguments: tuple[Any, ...], act: Callable[[], Any]) -> Any:
        if self.dead or len(self.calls) >= self.nth:
            self.dead = True
            raise Killed(name)
        return super().step(name, path, arguments, act)


@dataclass(eq=False)
class _Inode:
    """A file on the disk: what is safe, and what is not yet."""

    safe: bytearray = field(default_factory=bytearray)


@dataclass
class _Effect:
    """One change that a power cut can lose: of a file's bytes (``inode``) or of a directory (``names``)."""

    directory: str
    inode: _Inode | None = None
    path: str = ""
    kind: str = ""
    offset: int = 0
    data: bytes = b""
    old: str = ""
    new: str = ""

    def shares_sector(self, other: _Effect, sector: int) -> bool:
        """Whether both store bytes in one sector of one file."""
        if self.inode is None or self.inode is not other.inode or self.kind != "write" or other.kind != "write":
            return False
        return (
            self.offset // sector <= (other.offset + len(other.data) - 1) // sector
            and other.offset // sector <= (self.offset + len(self.data) - 1) // sector
        )

    def apply(self, content: bytearray) -> None:
        if self.kind == "write":
            if len(content) < self.offset:
                content.extend(bytes(self.offset - len(content)))
            content[self.offset : self.offset + len(self.data)] = self.data
        elif self.kind == "truncate":
            del content[self.offset :]
            content.extend(bytes(self.offset - len(content)))
        elif self.kind == "grow" and len(content) < self.offset:
            content.extend(bytes(self.offset - len(content)))

    def rename(self, names: dict[str, _Inode], made: _Inode | None) -> None:
        if self.kind == "create" and made is not None:
            names[self.new] = made
        elif self.kind == "unlink":
            names.pop(self.old, None)
        elif self.kind == "rename" and self.old in names:
            names[self.new] = names.pop(self.old)


class PowerCutFiles(RecordingFiles):
    """A disk where nothing is safe before its sync: bytes by file, names by directory.

    The strictest reading of POSIX: a synced file whose directory was not synced has no name, and
    any subset of the effects not synced may be there.  Two things are taken from hardware: a sector
    is written whole, so what was stored in it earlier comes along; new directories are safe at once,
    unless ``directories`` says that they need the sync of the one above.

    Where ``broken(name, path)`` says so a sync fails, as a kernel does it: what it should have made safe is
    marked clean, so no later sync stores it unless it is written again.
    """

    def __init__(self, root: Path, *, sector: int = SECTOR, directories: bool = False) -> None:
        super().__init__()
        self._root = root
        self._sector = sector
        self._directories = directories
        self._safe_directories = {str(path) for path in root.rglob("*") if path.is_dir()}
        self.broken: Callable[[str, str], bool] = _never
        self._names: dict[str, _Inode] = {}  # now
        self._safe_names: dict[str, _Inode] = {}
        self._pending: list[tuple[_Effect, _Inode | None]] = []
        for path in sorted(root.rglob("*")):
            if path.is_file():
                inode = _Inode(bytearray(path.read_bytes()))
                self._names[str(path)] = self._safe_names[str(path)] = inode
        self._by_fd: dict[int, _Inode] = {}

    def step(self, name: str, path: str, arguments: tuple[Any, ...], act: Callable[[], Any]) -> Any:
        was_there = name != "open_or_create" or os.path.exists(path)
        found = super().step(name, path, arguments, act)
        directory = os.path.dirname(path)
        if name in SYNCS and self.broken(name, path):
            self._settle(self._concerned(name, path, arguments), lost=True)
            _fail("sync", path, OSError(errno.EIO, os.strerror(errno.EIO)))
        if name == "make_directory" and found and self._directories:
            self._pending.append((_Effect(directory, kind="make_directory", new=path), None))
        elif name == "make_directory" and found:
            self._safe_directories.add(path)
        if name == "create" or not was_there:
            self._names[path] = _Inode()
            self._pending.append((_Effect(directory, kind="create", new=path), self._names[path]))
        if isinstance(found, File):
            self._by_fd[found.fd] = self._names[path]
        if name in ("write", "append"):
            self._change(arguments[0], "write", arguments[1], bytes(arguments[2]))
        elif name == "store":
            self._change(arguments[0], "write", arguments[2], bytes(arguments[3]))
        elif name == "truncate":
            self._change(arguments[0], "truncate", arguments[1])
        elif name == "reserve":
            self._change(arguments[0], "grow", arguments[1])
        elif name in SYNCS:
            self._settle(self._concerned(name, path, arguments))
        elif name == "rename":
            self._names[arguments[1]] = self._names.pop(path)
            self._pending.append((_Effect(directory, kind="rename", old=path, new=arguments[1]), None))
        elif name == "unlink":
            self._names.pop(path, None)
            self._pending.append((_Effect(directory, kind="unlink", old=path), None))
        return found

    def _concerned(self, name: str, path: str, arguments: tuple[Any, ...]) -> Callable[[_Effect], bool]:
        """Which effects a sync makes safe."""
        if name == "sync_directory":
            directory = os.path.normpath(path)
            return lambda effect: effect.inode is None and effect.directory == directory
        inode = self._by_fd[arguments[0].fd]
        if name != "sync_mapped":
            return lambda effect: effect.inode is inode
        first = arguments[2] // PAGE * PAGE
        end = -(-(arguments[2] + arguments[3]) // PAGE) * PAGE
        return lambda effect: effect.inode is inode and first <= effect.offset < end

    def _change(self, file: File, kind: str, offset: int, data: bytes = b"") -> None:
        """A write is one effect for each sector it touches: no disk promises more."""
        directory, inode, done = os.path.dirname(file.path), self._by_fd[file.fd], 0
        while True:
            nbytes = self._sector - (offset + done) % self._sector
            piece = data[done : done + nbytes]
            self._pending.append((_Effect(directory, inode, file.path, kind, offset + done, piece), None))
            done += nbytes
            if done >= len(data):
                return

    def _settle(self, concerns: Callable[[_Effect], bool], *, lost: bool = False) -> None:
        left = []
        for effect, made in self._pending:
            if not concerns(effect):
                left.append((effect, made))
            elif lost and effect.inode is not None:
                continue
            elif lost:
                left.append((effect, made))
            elif effect.kind == "make_directory":
                self._safe_directories.add(effect.new)
            elif effect.inode is None:
                effect.rename(self._safe_names, made)
            else:
                effect.apply(effect.inode.safe)
        self._pending = left

    def frames_are_safe(self) -> None:
        """The kernel has written all data back by itself, which it does sooner or later."""
        self._settle(lambda effect: effect.path.endswith(".sfa"))

    @property
    def pending(self) -> int:
        """How many effects a power cut could lose now."""
        return len(self._pending)

    def contents(self, keep: Callable[[int], bool]) -> tuple[set[str], dict[str, bytes]]:
        """Directories and files below the root when only the effects that ``keep(index)`` names survived."""
        names, content, directories = dict(self._safe_names), {}, set(self._safe_directories)
        kept = {index for index in range(len(self._pending)) if keep(index)}
        for later in range(len(self._pending) - 1, -1, -1):
            if later in kept:
                kept |= {
                    index
                    for index in range(later)
                    if self._pending[index][0].shares_sector(self._pending[later][0], self._sector)
                }
        for index, (effect, made) in enumerate(self._pending):
            if index not in kept:
                continue
            if effect.kind == "make_directory":
                directories.add(effect.new)
            elif effect.inode is None:
                effect.rename(names, made)
            else:
                effect.apply(content.setdefault(effect.inode, bytearray(effect.inode.safe)))
        reached = {str(self._root)}
        for made_directory in sorted(directories):  # those above come first
            if os.path.dirname(made_directory) in reached:
                reached.add(made_directory)
        return reached - {str(self._root)}, {
            path: bytes(content.get(inode, inode.safe))
            for path, inode in names.items()
            if os.path.dirname(path) in reached  # else nothing leads to it
        }

    def image(self, target: Path, keep: Callable[[int], bool]) -> Path:
        """Makes ``target`` what the disk holds when only the effects that ``keep(index)`` names survived."""
        return write_image(target, self._root, *self.contents(keep))


def write_image(target: Path, root: Path, directories: set[str], files: dict[str, bytes]) -> Path:
    """Makes ``target`` hold what `PowerCutFiles.contents` gave for ``root``."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for directory in sorted(directories):
        (target / Path(directory).relative_to(root)).mkdir()
    for path, content in files.items():
        (target / Path(path).relative_to(root)).write_bytes(content)
    return target


class WatchedFiles(Files):
    """``syncs``: (call, name of the file) as each begins.  ``failing`` says which fail; `held` holds them up."""

    def __init__(self, *, group_access: bool = False) -> None:
        super().__init__(group_access=group_access)
        self.syncs: list[tuple[str, str]] = []
        self.failing: Callable[[str, str], bool] = _never
        self.began: Callable[[str, str], None] = _quietly
        self.ended: Callable[[str, str], None] = _quietly
        self.entered = threading.Semaphore(0)  # released as a sync that is held up begins
        self._holds: Callable[[str, str], bool] = _never
        self._go = threading.Semaphore(0)

    @contextmanager
    def holding(self, holds: Callable[[str, str], bool]) -> Iterator[Callable[[], None]]:
        """Each sync of which ``holds(call, name)`` is true waits for a call of what this gives."""
        self._holds = holds
        try:
            yield self._go.release
        finally:
            self._holds = _never
            self._go.release(100)

    def frames(self) -> list[str]:
        """The files of which data was synced, as it happened: those that hold frames and symbols."""
        return [path for name, path in self.syncs if name == "sync" and path.endswith((".sfa", ".symbol-dict"))]

    def _watch(self, name: str, path: str, act: Callable[[], None]) -> None:
        base = os.path.basename(path)
        self.syncs.append((name, base))
        if self._holds(name, base):
            self.entered.release()
            self._go.acquire()
        self.began(name, base)
        if self.failing(name, base):
            _fail("sync", path, OSError(errno.EIO, os.strerror(errno.EIO)))
        act()
        self.ended(name, base)

    def sync(self, file: File) -> None:
        self._watch("sync", file.path, lambda: Files.sync(self, file))

    def sync_all(self, file: File) -> None:
        self._watch("sync_all", file.path, lambda: Files.sync_all(self, file))

    def sync_directory(self, path: str) -> None:
        self._watch("sync_directory", os.path.normpath(path), lambda: Files.sync_directory(self, path))

    def sync_mapped(self, file: File, mapping: Any, offset: int, nbytes: int) -> None:
        self._watch("sync_mapped", file.path, lambda: Files.sync_mapped(self, file, mapping, offset, nbytes))
