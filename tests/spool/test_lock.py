"""The slot's lock (slot.md 3)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from spoolq.errors import SlotBusyError, StorageError
from spoolq.spool import lock
from spoolq.spool.files import Files
from spoolq.spool.lock import SlotLock, logical_lock
from tests.spool.files_double import FailingFiles, RecordingFiles

_HOLDER = """
import sys
from spoolq.spool.files import Files
from spoolq.spool.lock import SlotLock
held = SlotLock.acquire(Files(), sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""

_RECORD_LOCK = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def _free(slot: Path) -> bool:
    """Whether somebody else could take the lock now."""
    with (slot / lock.NAME).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _start_holder(slot: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(slot)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def test_lck_01_acquire_makes_directory_and_files_and_ids_do_not_disturb_each_other(tmp_path: Path) -> None:
    one = SlotLock.acquire(Files(), str(tmp_path / "one"))
    two = SlotLock.acquire(Files(), str(tmp_path / "two"))
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == [".lock", ".lock.pid"]
    assert (tmp_path / "one" / ".lock").read_bytes() == b""
    assert (tmp_path / "one" / ".lock.pid").read_bytes() == f"{os.getpid()}\n".encode()
    assert (tmp_path / "one").stat().st_mode & 0o777 == 0o700
    with pytest.raises(SlotBusyError):
        SlotLock.acquire(Files(), str(tmp_path / "one"))
    one.release()
    two.release()


def test_lck_02_a_second_process_is_named_and_its_pid_file_stays(tmp_path: Path) -> None:
    slot = tmp_path / "s"
    child = _start_holder(slot)
    with pytest.raises(SlotBusyError, match=rf"slot already in use: {slot} \[holder=pid={child.pid}\]"):
        SlotLock.acquire(Files(), str(slot))
    assert (slot / ".lock.pid").read_text() == f"{child.pid}\n"
    child.communicate("")
    SlotLock.acquire(Files(), str(slot)).release()


def test_invariant_28_a_second_opener_in_this_process_learns_where_the_first_was(tmp_path: Path) -> None:
    held = SlotLock.acquire(Files(), str(tmp_path / "s"))
    line = sys._getframe().f_lineno - 1
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(SlotBusyError, match=rf"opened in this process at {__file__}:{line};"):
        SlotLock.acquire(Files(), str(tmp_path / "link" / "s"))
    held.release()
    assert not held.held
    SlotLock.acquire(Files(), str(tmp_path / "s")).release()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "unknown"),
        (b"", "unknown"),
        (b" \n", "unknown"),
        (b"12\n", "12"),
        (b"x" * 90, "x" * 64),
        (b"a\x1b\xff", "a??"),
    ],
)
def test_lck_02_whatever_the_pid_file_holds_is_quoted(tmp_path: Path, content: bytes | None, said: str) -> None:
    held = SlotLock.acquire(Files(), str(tmp_path / "s"))
    path = tmp_path / "s" / ".lock.pid"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert lock.holder(Files(), str(path)) == said.replace("\ufffd", "?") or said == "a??"
    with pytest.raises(SlotBusyError, match=r"holder=pid="):
        SlotLock.acquire(Files(), str(tmp_path / "s"))
    held.release()


def test_lck_03_freed_by_release_and_by_sigkill(tmp_path: Path) -> None:
    slot = tmp_path / "s"
    SlotLock.acquire(Files(), str(slot)).release()
    assert _free(slot)
    child = _start_holder(slot)
    assert not _free(slot)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert _free(slot)


def test_lck_03_a_shared_flock_blocks_and_a_record_lock_does_not(tmp_path: Path) -> None:
    slot = tmp_path / "s"
    SlotLock.acquire(Files(), str(slot)).release()
    with (slot / ".lock").open("rb") as shared:
        fcntl.flock(shared, fcntl.LOCK_SH)
        with pytest.raises(SlotBusyError):
            SlotLock.acquire(Files(), str(slot))
    child = subprocess.Popen(
        [sys.executable, "-c", _RECORD_LOCK, str(slot / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.readline()
    SlotLock.acquire(Files(), str(slot)).release()
    child.communicate(b"")


def test_lck_04_a_failing_unlock_still_frees(tmp_path: Path) -> None:
    files = FailingFiles(0, only=("unlock",))
    held = SlotLock.acquire(files, str(tmp_path / "s"))
    with pytest.raises(StorageError):
        held.release()
    assert not files.open_files
    assert _free(tmp_path / "s")
    held.release()


def test_invariant_27_every_failing_call_leaves_the_lock_free(tmp_path: Path) -> None:
    files = RecordingFiles()
    SlotLock.acquire(files, str(tmp_path / "0")).release()
    for step in range(len(files.calls)):
        slot = tmp_path / f"s{step}"
        failing = FailingFiles(step)
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(StorageError):
                held = SlotLock.acquire(failing, str(slot))
                stack.callback(held.release)
            if failing.failed and failing.failed[0][1] == ".lock.pid":
                assert not _free(slot)  # the pid file is best effort
            if not failing.failed:
                stack.pop_all()
                with pytest.raises(StorageError):
                    held.release()
        assert failing.failed
        assert not (slot / ".lock").exists() or _free(slot)


def test_frk_01_a_forked_child_neither_frees_nor_keeps_the_lock(tmp_path: Path) -> None:
    slot = tmp_path / "s"
    held = SlotLock.acquire(Files(), str(slot))
    report_read, report_write = os.pipe()
    wait_read, wait_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(wait_write)
        os.write(report_write, b"n" if held.held else b"y")
        held.release()
        os.write(report_write, b".")
        os.read(wait_read, 1)  # alive until the parent has looked
        os._exit(0)
    os.close(wait_read)
    assert os.read(report_read, 2) in (b"y.", b"y")
    assert not _free(slot)  # the child's release did not unlock us
    held.release()
    assert _free(slot)  # and its copy does not keep the lock
    os.close(wait_write)
    os.waitpid(pid, 0)
    for fd in (report_read, report_write):
        os.close(fd)


def test_the_logical_lock_is_another_file(tmp_path: Path) -> None:
    outer = logical_lock(Files(), str(tmp_path), "id")
    inner = SlotLock.acquire(Files(), str(tmp_path / "id"))
    names = sorted(p.name for p in (tmp_path / ".slot-locks").iterdir())
    assert names == ["id.lock", "id.lock.pid"]
    with pytest.raises(SlotBusyError, match=str(tmp_path / "id")):
        logical_lock(Files(), str(tmp_path), "id")
    inner.release()
    outer.release()
