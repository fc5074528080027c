"""Doubles of the files layer: one that records, one that fails, one that is killed, one that loses power.

They work on real files below a temporary directory, without real syncs, and see each outermost call of `Files` as one
step (`append` is one, not the `write` inside).  Mappings are plain ones, so that every stored byte
comes by a call.

    RecordingFiles()            .calls: (name, path) of every step
    FailingFiles(n, ...)        step n reports an error (``count=None``: and all later ones)
    KilledFiles(n)              step n and all later ones do not happen: `Killed`
    PowerCutFiles(root)         .image(target, keep): what a disk holds after a power cut
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spoolq.spool.files import OPERATIONS, File, Files, _fail
from spoolq.spool.mapping_plain import Mapping

#: Given back even when they report an error, and by the death of a process.
_RELEASING = frozenset({"close", "unmap", "unlock"})
PAGE = 4_096
SECTOR = 512


class Killed(BaseException):
    """The process is dead from here on: no handler of the code under test may see this as an error."""


class UnsyncedFiles(Files):
    """Syncs nothing: quick, and no test takes the machine's power away."""

    def sync(self, file: File) -> None: ...

    def sync_all(self, file: File) -> None: ...

    def sync_directory(self, path: str) -> None: ...

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
        for fd in self.open_files:
            os.close(fd)
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

    def shares_sector(self, other: _Effect) -> bool:
        """Whether both store bytes in one sector of one file."""
        if self.inode is None or self.inode is not other.inode or self.kind != "write" or other.kind != "write":
            return False
        return (
            self.offset // SECTOR <= (other.offset + len(other.data) - 1) // SECTOR
            and other.offset // SECTOR <= (self.offset + len(self.data) - 1) // SECTOR
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
    is written whole, so what was stored in it earlier comes along; new directories are safe at once.
    """

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root
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
        elif name in ("sync", "sync_all"):
            self._settle(lambda effect: effect.inode is self._by_fd[arguments[0].fd])
        elif name == "sync_mapped":
            first = arguments[2] // PAGE * PAGE
            end = -(-(arguments[2] + arguments[3]) // PAGE) * PAGE
            inode = self._by_fd[arguments[0].fd]
            self._settle(lambda effect: effect.inode is inode and first <= effect.offset < end)
        elif name == "sync_directory":
            self._settle(lambda effect: effect.inode is None and effect.directory == path)
        elif name == "rename":
            self._names[arguments[1]] = self._names.pop(path)
            self._pending.append((_Effect(directory, kind="rename", old=path, new=arguments[1]), None))
        elif name == "unlink":
            self._names.pop(path, None)
            self._pending.append((_Effect(directory, kind="unlink", old=path), None))
        return found

    def _change(self, file: File, kind: str, offset: int, data: bytes = b"") -> None:
        effect = _Effect(os.path.dirname(file.path), self._by_fd[file.fd], file.path, kind, offset, data)
        self._pending.append((effect, None))

    def _settle(self, concerns: Callable[[_Effect], bool]) -> None:
        left = []
        for effect, made in self._pending:
            if not concerns(effect):
                left.append((effect, made))
            elif effect.inode is None:
                effect.rename(self._safe_names, made)
            else:
                effect.apply(effect.inode.safe)
        self._pending = left

    @property
    def pending(self) -> int:
        """How many effects a power cut could lose now."""
        return len(self._pending)

    def image(self, target: Path, keep: Callable[[int], bool]) -> Path:
        """Makes ``target`` what the disk holds when only the effects that ``keep(index)`` names survived."""
        names, content = dict(self._safe_names), {}
        kept = {index for index in range(len(self._pending)) if keep(index)}
        for later in range(len(self._pending) - 1, -1, -1):
            if later in kept:
                kept |= {
                    index for index in range(later) if self._pending[index][0].shares_sector(self._pending[later][0])
                }
        for index, (effect, made) in enumerate(self._pending):
            if index not in kept:
                continue
            if effect.inode is None:
                effect.rename(names, made)
            else:
                effect.apply(content.setdefault(effect.inode, bytearray(effect.inode.safe)))
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for directory in self._root.rglob("*"):
            if directory.is_dir():
                (target / directory.relative_to(self._root)).mkdir(parents=True, exist_ok=True)
        for path, inode in names.items():
            copy = target / Path(path).relative_to(self._root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(bytes(content.get(inode, inode.safe)))
        return target
