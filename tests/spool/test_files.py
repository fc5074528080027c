"""files.py and the mapping: what a call did, and that what it could not do is said."""

from __future__ import annotations

import ast
import contextlib
import errno
import fcntl
import logging
import mmap
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import spoolq.spool
from spoolq import limits
from spoolq.errors import StorageError
from spoolq.spool import files as files_module
from spoolq.spool import fork_gate
from spoolq.spool import mapping as mapping_module
from spoolq.spool.files import OPERATIONS, File, Files
from spoolq.spool.mapping import live_mappings
from tests.spool.files_double import FailingFiles, Killed, KilledFiles, PowerCutFiles, RecordingFiles


@pytest.fixture
def files() -> Files:
    return Files()


def test_fil_01_write_read_append_truncate_reserve(files: Files, tmp_path: Path) -> None:
    file = files.create(str(tmp_path / "data"))
    files.write(file, 3, b"abc")
    assert files.size(file) == 6
    assert files.read(file, 0, 6) == b"\0\0\0abc"
    assert files.read(file, 4, 100) == b"bc"
    assert files.read(file, 50, 10) == b""
    files.append(file, 6, b"def")
    buffer = bytearray(4)
    assert files.read_into(file, 5, memoryview(buffer)) == 4
    assert buffer == b"cdef"
    files.truncate(file, 2)
    assert files.size(file) == 2
    files.reserve(file, 10_000)
    assert files.size(file) == 10_000
    assert files.read(file, 0, 10_000) == bytes(10_000)
    assert os.stat(file.path).st_blocks * 512 >= 10_000
    files.reserve(file, 5_000)
    assert files.size(file) == 10_000
    files.sync(file)
    files.sync_all(file)
    files.sync_directory(str(tmp_path))
    files.close(file)


def test_fil_01_a_large_write_goes_out_in_pieces(files: Files, tmp_path: Path, monkeypatch: Any) -> None:
    sizes: list[int] = []

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        sizes.append(len(data))
        return os.pwrite(fd, data, offset)

    monkeypatch.setattr(Files, "_pwrite", staticmethod(pwrite))
    file = files.create(str(tmp_path / "data"))
    data = os.urandom(3 * limits.WRITE_PIECE_BYTES + 17)
    files.write(file, 0, data)
    assert sizes == [limits.WRITE_PIECE_BYTES] * 3 + [17]
    assert files.read(file, 0, len(data)) == data
    files.close(file)


def test_fil_01_rename_list_stat_remove(files: Files, tmp_path: Path) -> None:
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    files.close(files.create(a))
    assert files.stat(a) == files_module.Stat("file", 0)
    assert files.stat(b) is None
    files.rename(a, b)
    assert files.names(str(tmp_path)) == ["b"]
    os.symlink(b, a)
    found = files.stat(a)
    assert found is not None
    assert found.kind == "link"
    files.unlink(a)
    files.unlink(b)
    assert files.names(str(tmp_path)) == []
    with pytest.raises(StorageError, match="cannot remove") as caught:
        files.unlink(b)
    assert caught.value.errno == errno.ENOENT
    assert files.open_if_there(b) is None
    assert files.names_if_there(b) is None
    with pytest.raises(StorageError, match="cannot open"):
        files.open(b)
    assert files.make_directory(b)
    assert not files.make_directory(b)
    assert files.stat(b).kind == "directory"  # type: ignore[union-attr]


def test_fil_01_a_mapping_and_the_file_are_the_same_bytes(files: Files, tmp_path: Path) -> None:
    before = live_mappings()
    file = files.create(str(tmp_path / "data"))
    files.reserve(file, 20_000)
    mapping = files.map(file, 20_000)
    assert live_mappings() == before + 1
    files.populate(file, mapping)
    files.store(file, mapping, 9_999, b"xyz")
    assert files.read(file, 9_999, 3) == b"xyz"
    files.write(file, 5, b"front")
    assert mapping.load(5, 5) == b"front"
    files.sync_mapped(file, mapping, 9_999, 3)
    for offset, nbytes in ((-1, 1), (20_000, 1), (0, 20_001), (0, -1)):
        with pytest.raises(OSError, match="outside a mapping"):
            mapping.load(offset, nbytes)
        with pytest.raises(OSError, match="outside a mapping"):
            mapping.sync(offset, nbytes)
    with pytest.raises(StorageError, match="outside a mapping"):
        files.store(file, mapping, 19_999, b"xy")
    files.unmap(file, mapping)
    files.unmap(file, mapping)
    assert mapping.closed
    assert live_mappings() == before
    with pytest.raises(StorageError, match="closed"):
        files.store(file, mapping, 0, b"x")
    files.close(file)


def test_fil_01_a_sync_begins_and_ends_anywhere_in_the_pages_of_this_system(files: Files, tmp_path: Path) -> None:
    """msync(2) takes whole pages, whose size is asked of the system; a mapping ends inside one."""
    page, file = mmap.PAGESIZE, files.create(str(tmp_path / "data"))
    nbytes = 2 * page + page // 2 + 1
    files.reserve(file, nbytes)
    mapping = files.map(file, nbytes)
    files.populate(file, mapping)
    for first, last in ((0, 0), (1, page - 1), (page - 1, page), (page, page), (page + 1, 2 * page), (0, nbytes - 1)):
        files.store(file, mapping, first, b"<")
        files.store(file, mapping, last, b">")
        files.sync_mapped(file, mapping, first, last - first + 1)
        assert files.read(file, last, 1) == mapping.load(last, 1) == b">"
    files.sync_mapped(file, mapping, nbytes - 1, 1)
    files.unmap(file, mapping)
    assert files.size(file) == nbytes, "no page of the mapping made the file longer"
    files.close(file)


def test_a_mapping_in_use_is_not_taken_away(files: Files, tmp_path: Path) -> None:
    file = files.create(str(tmp_path / "data"))
    files.reserve(file, 100)
    mapping = files.map(file, 100)
    if mapping.direct:  # the plain body gives no memory
        view: Any = memoryview(mapping)  # type: ignore[arg-type]
        view[2:5] = b"abc"
        with pytest.raises(BufferError):
            files.unmap(file, mapping)
        view.release()
    else:
        files.store(file, mapping, 2, b"abc")
    assert files.read(file, 0, 6) == b"\0\0abc\0"
    files.unmap(file, mapping)
    files.close(file)


def test_an_empty_mapping_is_refused(files: Files, tmp_path: Path) -> None:
    file = files.create(str(tmp_path / "data"))
    with pytest.raises(StorageError, match="at least one byte"):
        files.map(file, 0)
    files.close(file)


_HOLDER = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.flock(fd, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_fil_02_the_lock_excludes_a_second_holder_here_and_in_another_process(files: Files, tmp_path: Path) -> None:
    path = str(tmp_path / ".lock")
    first = files.open_or_create(path)
    second = files.open_or_create(path)
    assert files.lock(first)
    assert not files.lock(second)
    files.unlock(first)
    assert files.lock(second)
    files.close(second)
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert not files.lock(first)
        holder.kill()
    assert files.lock(first)
    files.close(first)


def test_fil_03_short_writes_are_completed(files: Files, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(Files, "_pwrite", staticmethod(lambda fd, data, offset: os.pwrite(fd, data[:7], offset)))
    monkeypatch.setattr(Files, "_preadv", staticmethod(lambda fd, into, offset: os.preadv(fd, [into[0][:5]], offset)))
    file = files.create(str(tmp_path / "data"))
    data = os.urandom(1_000)
    files.write(file, 0, data)
    assert files.read(file, 0, 1_000) == data
    files.close(file)


def test_fil_03_a_failed_append_is_undone(files: Files, tmp_path: Path, monkeypatch: Any) -> None:
    file = files.create(str(tmp_path / "data"))
    files.append(file, 0, b"before")
    room = [10]

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        wrote = os.pwrite(fd, data[: room[0]], offset)
        room[0] -= wrote
        return wrote

    monkeypatch.setattr(Files, "_pwrite", staticmethod(pwrite))
    with pytest.raises(StorageError, match=r"cannot write .*data: No space left on device; free space") as caught:
        files.append(file, 6, bytes(100))
    assert caught.value.errno == errno.ENOSPC
    assert files.size(file) == 6
    files.close(file)


def test_fil_03_a_write_of_nothing_ends(files: Files, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(Files, "_pwrite", staticmethod(lambda *_: 0))
    file = files.create(str(tmp_path / "data"))
    with pytest.raises(StorageError, match="wrote nothing"):
        files.write(file, 0, b"x")
    files.close(file)


@pytest.mark.parametrize(("offset", "nbytes"), [(-1, 5), (0, -1), (limits.FILE_BYTES_MAX, 1)])
def test_fil_03_negative_and_oversize_lengths_are_refused(
    files: Files, tmp_path: Path, offset: int, nbytes: int
) -> None:
    file = files.create(str(tmp_path / "data"))
    calls: list[Any] = [lambda: files.truncate(file, offset + nbytes), lambda: files.reserve(file, offset + nbytes)]
    if nbytes >= 0:
        calls = [lambda: files.write(file, offset, bytes(nbytes)), lambda: files.read(file, offset, nbytes)]
    for call in calls:
        with pytest.raises(StorageError, match="were asked for"):
            call()
    assert files.size(file) == 0
    files.close(file)


def test_fil_03_no_reservation_means_zeros_and_one_warning(
    files: Files, tmp_path: Path, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(files_module, "reserve_blocks", lambda *_: errno.EOPNOTSUPP)
    file = files.create(str(tmp_path / "data"))
    files.write(file, 0, b"kept")
    with caplog.at_level(logging.WARNING, "spoolq.spool"):
        files.reserve(file, 200_000)
        files.reserve(file, 200_001)
    assert files.read(file, 0, 6) == b"kept\0\0"
    assert files.size(file) == 200_001
    assert os.stat(file.path).st_blocks * 512 >= 200_000
    assert [record.message.count("cannot reserve") for record in caplog.records] == [1]
    files.close(file)


def test_fil_03_a_full_disk_at_reserve_is_an_error(files: Files, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(files_module, "reserve_blocks", lambda *_: errno.ENOSPC)
    file = files.create(str(tmp_path / "data"))
    with pytest.raises(StorageError, match=r"cannot reserve disk blocks for .*data: No space left"):
        files.reserve(file, 10)
    files.close(file)


class _BadEntries:
    def __init__(self, good: int) -> None:
        self.left = good

    def __enter__(self) -> _BadEntries:
        return self

    def __exit__(self, *_: object) -> None: ...

    def __iter__(self) -> _BadEntries:
        return self

    def __next__(self) -> Any:
        if not self.left:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.left -= 1
        return type("Entry", (), {"name": f"e{self.left}"})


@pytest.mark.parametrize("good", [0, 2])
def test_fil_04_a_directory_error_is_not_an_empty_directory(
    files: Files, tmp_path: Path, monkeypatch: Any, good: int
) -> None:
    assert files.names(str(tmp_path)) == []
    monkeypatch.setattr(Files, "_scandir", lambda *_: _BadEntries(good))
    for call in (files.names, files.names_if_there):
        with pytest.raises(StorageError, match="cannot list"):
            call(str(tmp_path))


def test_fil_04_seg_08_a_failing_stat_is_not_a_missing_file(files: Files, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot look at"):
        files.stat(str(tmp_path / "file" / "below"))


_LOW_DESCRIPTORS = """
import os, sys
from spoolq.spool.files import Files
for fd in (0, 1, 2):
    os.close(fd)
files, numbers = Files(), []
data = files.create(sys.argv[1] + "/data")
lock = files.open_or_create(sys.argv[1] + "/.lock")
more = files.create(sys.argv[1] + "/more")
assert (data.fd, lock.fd, more.fd) == (0, 1, 2)
assert files.lock(lock)
for file in (data, more):
    files.reserve(file, 8192)
    mapping = files.map(file, 8192)
    files.store(file, mapping, 100, b"through")
    files.unmap(file, mapping)
    files.write(file, 200, b"by write")
    assert files.read(file, 100, 7) == b"through" and files.read(file, 200, 8) == b"by write"
    files.sync(file)
for file in (lock, data, more):
    files.close(file)
assert files.create(sys.argv[1] + "/again").fd == 0
with open(sys.argv[1] + "/done", "w") as done:
    done.write("ok")
"""


def test_fil_05_descriptors_0_to_2_are_files_like_others(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _LOW_DESCRIPTORS, str(tmp_path)], check=True)
    assert (tmp_path / "done").read_text() == "ok"


def test_fil_06_all_file_calls_go_through_the_files_layer() -> None:
    """Nothing else in spool/ calls os, fcntl, mmap, shutil, pathlib or open()."""
    below = Path(spoolq.spool.__file__).parent
    pure = {"path", "getpid", "fspath", "sep", "pardir", "strerror", "register_at_fork"}
    found = []
    for source in sorted(below.rglob("*.py")):
        if source.name in ("files.py", "mapping_plain.py"):
            continue
        for node in ast.walk(ast.parse(source.read_text())):
            match node:
                case ast.Call(func=ast.Name(id="open")):
                    found.append(f"{source.name}:{node.lineno} open()")
                case ast.Attribute(value=ast.Name(id="os"), attr=name) if name not in pure:
                    found.append(f"{source.name}:{node.lineno} os.{name}")
                case ast.Import(names=names):
                    heavy = {"fcntl", "mmap", "shutil", "pathlib", "io", "tempfile"}
                    found += [f"{source.name}:{node.lineno} {n.name}" for n in names if n.name in heavy]
                case ast.ImportFrom(module="pathlib" | "mmap" | "fcntl" | "shutil" | "tempfile"):
                    found.append(f"{source.name}:{node.lineno} from {node.module}")
    assert found == []


def test_fil_01_still_named_and_real_path(files: Files, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    assert files.real_path(str(tmp_path / "link" / ".." / "link")) == str(tmp_path / "folder")
    with pytest.raises(StorageError, match="cannot look at") as caught:
        files.real_path(str(tmp_path / "missing"))
    assert caught.value.errno == errno.ENOENT
    path = tmp_path / "link" / "data"
    file = files.create(str(path))
    assert files.still_named(file)
    os.rename(tmp_path / "folder", tmp_path / "away")
    assert not files.still_named(file)
    (tmp_path / "folder").mkdir()
    assert not files.still_named(file)
    path.write_bytes(b"")
    assert not files.still_named(file)
    path.unlink()
    os.link(tmp_path / "away" / "data", path)
    assert files.still_named(file)
    files.close(file)
    with pytest.raises(StorageError, match="cannot look at"):
        files.still_named(file)


def _in_child(check: Callable[[], None]) -> str:
    """What went wrong in a forked child; "" when nothing did."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        text = ""
        try:
            check()
        except BaseException as error:
            text = repr(error)
        os.write(write, text.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as reader:
        text = reader.read()
    status = os.waitpid(pid, 0)[1]
    return f"{status} {text}" if status or text else ""


def test_frk_03_a_child_has_no_descriptor_of_ours_and_no_number_is_taken_from_others(
    files: Files, tmp_path: Path
) -> None:
    path = tmp_path / "data"
    file = files.create(str(path))
    files.write(file, 0, b"the parent's")
    gone = files.create(str(tmp_path / "gone"))
    number = gone.fd
    os.close(number)  # behind the back of `Files`; a pipe takes the number
    ends = os.pipe()
    assert number in ends

    def check() -> None:
        os.write(ends[1], b"x")
        assert os.read(ends[0], 1) == b"x"
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(inherited)
        other = os.dup2(os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT), inherited)
        for call in (lambda: files.write(file, 0, b"the child's"), lambda: files.close(file)):
            with pytest.raises(StorageError, match="Bad file descriptor"):
                call()
        assert os.pread(other, 100, 0) == b""

    inherited = file.fd
    assert _in_child(check) == ""
    assert path.read_bytes() == b"the parent's"
    files.close(file)
    files_module._closing(gone)
    for end in ends:
        os.close(end)


class _Window:
    """Stops the thread that comes to a place, what it opened or closed still on no record, until a fork waits."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        self.reached, self.leave = threading.Event(), threading.Event()
        self.waited = threading.Event()
        pause = fork_gate._pause

        def told() -> None:
            self.waited.set()
            self.leave.set()
            pause()

        patch.setattr(fork_gate, "_pause", told)

    def stop_behind(self, owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*arguments: Any) -> Any:
            result = real(*arguments)
            self._stop()
            return result

        self._patch.setattr(owner, name, call)

    def stop_before(self, owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*arguments: Any) -> Any:
            self._stop()
            return real(*arguments)

        self._patch.setattr(owner, name, call)

    def _stop(self) -> None:
        if not self.reached.is_set():
            self.reached.set()
            self.leave.wait(10)


def _descriptors_below(folder: Path) -> list[str]:
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return [path for path in found if path.startswith(str(folder))]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("call", ["open", "close", "directory", "end of directory", "names", "map", "unmap"])
def test_frk_03_a_fork_waits_for_what_another_thread_opens_or_closes_just_now(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = str(tmp_path / "data")
    file = files.create(path)
    files.reserve(file, 10_000)
    mapping = files.map(file, 10_000)
    window = _Window(monkeypatch)
    match call:
        case "open" | "directory":
            window.stop_before(files_module, "_opened")
        case "close" | "end of directory":
            window.stop_behind(files_module, "_closing")
        case "names":
            window.stop_behind(files, "_scandir")
        case "map":
            window.stop_behind(files_module, "Mapping")
        case _:
            unmap = mapping.close
            mapping = SimpleNamespace(close=unmap)  # type: ignore[assignment]
            window.stop_before(mapping, "close")
    made: list[Any] = []
    calls: dict[str, Callable[[], Any]] = {
        "open": lambda: made.append(files.open(path)),
        "close": lambda: files.close(file),
        "directory": lambda: files.sync_directory(str(tmp_path)),
        "end of directory": lambda: files.sync_directory(str(tmp_path)),
        "names": lambda: files.names(str(tmp_path)),
        "map": lambda: made.append(files.map(file, 10_000)),
        "unmap": lambda: files.unmap(file, mapping),
    }

    def check() -> None:
        assert _descriptors_below(tmp_path) == []
        assert str(tmp_path) not in Path("/proc/self/maps").read_text()
        files.close(files.create(str(tmp_path / "the child's")))

    thread = threading.Thread(target=calls[call])
    thread.start()
    assert window.reached.wait(10)
    try:
        assert _in_child(check) == ""
        assert window.waited.is_set()
    finally:
        window.leave.set()
        thread.join(10)
    if call == "map":
        files.unmap(file, made.pop())
    if call != "unmap":
        files.unmap(file, mapping)
    if call != "close":
        made.append(file)
    for each in made:
        files.close(each)


def test_frk_03_a_fork_waits_neither_for_ever_nor_for_its_own_thread(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a signal handler; and a disk that hangs keeps no process from forking."""
    window = _Window(monkeypatch)
    monkeypatch.setattr(window, "_stop", lambda: told.append(_in_child(lambda: None)))
    window.stop_before(files_module, "_opened")
    told: list[str] = []
    files.close(files.create(str(tmp_path / "data")))
    assert told == [""]
    assert not window.waited.is_set()

    fork_gate._under_way.add(0)
    monkeypatch.setattr(limits, "FORK_WAIT_SECONDS_MAX", 0.001)
    assert _in_child(lambda: None) == ""
    assert window.waited.is_set()
    fork_gate._under_way.discard(0)


@pytest.mark.parametrize("note", ["add", "discard"])
def test_frk_03_a_signal_handler_in_the_gate_may_wait_for_another_thread_that_comes_to_it(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, note: str
) -> None:
    """It closes another sender, say, whose keeper opens a file."""
    got_in: list[bool] = []

    def handler() -> None:
        other = threading.Thread(target=files.names, args=(str(tmp_path),), daemon=True)
        other.start()
        other.join(10)
        got_in.append(not other.is_alive())

    class Interrupted(set[int]):
        def add(self, thread: int, /) -> None:
            super().add(thread)
            self._noted("add")

        def discard(self, thread: object, /) -> None:
            super().discard(thread)
            self._noted("discard")

        def _noted(self, name: str) -> None:
            if name == note and threading.current_thread() is threading.main_thread():
                handler()

    monkeypatch.setattr(fork_gate, "_under_way", Interrupted())
    files.names(str(tmp_path))
    assert got_in == [True]


def test_frk_03_what_another_thread_begins_while_one_forks_waits_for_it(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    withdrew = threading.Event()
    scan = files._scandir

    class Told(set[int]):
        def discard(self, thread: object, /) -> None:
            super().discard(thread)
            told.append("no longer noted")
            withdrew.set()

    def told_scan(*arguments: Any) -> Any:
        told.append("opens")
        return scan(*arguments)

    fork_gate._before_fork()
    try:
        files.names(str(tmp_path))  # a signal handler of the thread that forks
        monkeypatch.setattr(fork_gate, "_under_way", Told())
        monkeypatch.setattr(files, "_scandir", told_scan)
        thread = threading.Thread(target=files.names, args=(str(tmp_path),))
        thread.start()
        assert withdrew.wait(10)
    finally:
        fork_gate._after_fork_in_parent()
    thread.join()
    assert told == ["no longer noted", "opens", "no longer noted"]


def test_frk_03_a_child_of_a_signal_handler_that_came_in_the_gate_gets_out_of_it(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler returns there, and what this thread was about to give back is not the child's."""
    forked: list[int] = []

    class Interrupted(set[int]):
        def add(self, thread: int, /) -> None:
            super().add(thread)
            forked.append(os.fork())

    with monkeypatch.context() as patched:
        patched.setattr(fork_gate, "_under_way", Interrupted())
        got_out = False
        try:
            files.names(str(tmp_path))
            got_out = True
        finally:
            if forked == [0]:
                os._exit(not got_out)
    assert os.waitpid(forked[0], 0)[1] == 0


def test_frk_03_what_a_child_still_reads_and_writes_in_a_mapping_is_nobodys(files: Files, tmp_path: Path) -> None:
    """A thread that forks may be in the middle of a frame; the child must neither die of that nor change the file."""
    file = files.create(str(tmp_path / "data"))
    files.reserve(file, 20_000)
    mapping = files.map(file, 20_000)
    files.store(file, mapping, 0, b"the parent's")
    view: Any = memoryview(mapping) if mapping.direct else None  # type: ignore[arg-type]

    def check() -> None:
        assert live_mappings() == 0
        if view is None:
            with pytest.raises(StorageError, match="closed"):
                files.store(file, mapping, 0, b"the child's")
            return
        assert bytes(view[:12]) == bytes(12)
        view[:11] = b"the child's"
        assert str(tmp_path) not in Path("/proc/self/maps").read_text()
        view.release()
        files.unmap(file, mapping)

    assert _in_child(check) == ""
    assert files.read(file, 0, 12) == b"the parent's"
    if view is not None:
        assert bytes(view[:12]) == b"the parent's"
        view.release()
    files.unmap(file, mapping)
    files.close(file)


def test_fil_06_every_operation_can_be_recorded_failed_and_killed(tmp_path: Path) -> None:
    """The doubles see each public method, so one that is added without them fails here."""
    public = {name for name, value in vars(Files).items() if callable(value) and not name.startswith("_")}
    assert public == set(OPERATIONS)
    recording = RecordingFiles()
    file = recording.open_or_create(str(tmp_path / "data"))
    recording.append(file, 0, b"x")
    recording.close(file)
    assert recording.calls == [("open_or_create", "data"), ("append", "data"), ("close", "data")]
    failing = FailingFiles(1)
    file = failing.create(str(tmp_path / "more"))
    with pytest.raises(StorageError, match="No space"):
        failing.write(file, 0, b"x")
    failing.close(file)
    killed = KilledFiles(1)
    killed.create(str(tmp_path / "third"))
    with pytest.raises(Killed):
        killed.unlink(str(tmp_path / "third"))
    killed.bury()
    assert (tmp_path / "third").exists()


def test_a_power_cut_loses_what_was_not_synced(tmp_path: Path) -> None:
    root, target = tmp_path / "root", tmp_path / "image"
    root.mkdir()
    files = PowerCutFiles(root)
    file = files.create(str(root / "data"))
    files.write(file, 0, b"safe")
    files.sync(file)
    assert list(files.image(target, lambda _: False).iterdir()) == []  # no name yet
    files.sync_directory(str(root))
    files.write(file, 4, b"lost")
    files.rename(str(root / "data"), str(root / "renamed"))
    assert (files.image(target, lambda _: False) / "data").read_bytes() == b"safe"
    assert (files.image(target, lambda _: True) / "renamed").read_bytes() == b"safelost"
    assert (files.image(target, lambda index: index == 0) / "data").read_bytes() == b"safelost"
    files.close(file)


def test_new_files_are_private_whatever_the_umask_gives(files: Files, tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        files.make_directory(str(tmp_path / "slot"))
        files.close(files.create(str(tmp_path / "slot" / "data")))
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "slot").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "slot" / "data").stat().st_mode) == 0o600


def test_group_access_opens_to_the_group_whatever_the_umask_takes(tmp_path: Path) -> None:
    files = Files(group_access=True)
    previous = os.umask(0o077)
    try:
        files.make_directory(str(tmp_path / "slot"))
        files.close(files.open_or_create(str(tmp_path / "slot" / "data")))
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "slot").stat().st_mode) == 0o770
    assert stat.S_IMODE((tmp_path / "slot" / "data").stat().st_mode) == 0o660


def test_a_link_or_directory_in_place_of_a_file_is_an_error(files: Files, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"x")
    os.symlink(tmp_path / "target", tmp_path / "link")
    (tmp_path / "directory").mkdir()
    for write in (True, False):
        with pytest.raises(StorageError, match="a link where a file"):
            files.open(str(tmp_path / "link"), write=write)
        with pytest.raises(StorageError, match="a directory where a file"):
            files.open(str(tmp_path / "directory"), write=write)
    with pytest.raises(StorageError, match="a link where a file"):
        files.open_or_create(str(tmp_path / "link"))
    with pytest.raises(StorageError, match=r"cannot create .*target: File exists"):
        files.create(str(tmp_path / "target"))


def test_descriptors_are_not_inherited(files: Files, tmp_path: Path) -> None:
    file = files.create(str(tmp_path / "data"))
    assert fcntl.fcntl(file.fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    files.close(file)


def test_the_bare_fallocate_tells_when_it_is_not_supported(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    assert mapping_module.reserve_blocks(write_end, 100) in (errno.ESPIPE, errno.ENODEV)
    os.close(read_end)
    os.close(write_end)
    assert mapping_module.reserve_blocks(0, 0) == 0


def test_a_closed_descriptor_is_named_by_its_path(files: Files, tmp_path: Path) -> None:
    gone = File(1_000_000, str(tmp_path / "gone"))
    for call in (
        lambda: files.size(gone),
        lambda: files.sync(gone),
        lambda: files.sync_all(gone),
        lambda: files.read(gone, 0, 1),
        lambda: files.write(gone, 0, b"x"),
        lambda: files.truncate(gone, 0),
        lambda: files.reserve(gone, 10),
        lambda: files.map(gone, 10),
        lambda: files.lock(gone),
        lambda: files.unlock(gone),
        lambda: files.close(gone),
    ):
        with pytest.raises(StorageError, match="gone: Bad file descriptor"):
            call()
