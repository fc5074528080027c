"""The descriptor that ends a wait: whose it is while one thread writes and another one closes."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from spoolq.runtime.wakeup import Wakeup


def test_a_wake_writes_into_nobody_elses_file_when_the_sender_closes_just_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system gives a number out again at once: eight bytes at the start of a segment would be a lost segment."""
    wakeup = Wakeup()
    lock, came = threading.RLock(), threading.Event()

    class ToldLock:
        """Tells when the thread that closes has to wait for it."""

        def __enter__(self) -> None:
            if not lock.acquire(blocking=False):
                came.set()
                lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()

    def close() -> None:
        wakeup.close()
        came.set()  # also when it has not waited

    closer = threading.Thread(target=close)
    real, opened = os.write, []

    def write(number: int, data: bytes) -> int:
        """Between the number and the system's call another thread comes, for the GIL is given away there."""
        closer.start()
        assert came.wait(10)
        while not opened or opened[-1] < number:  # until a file has the number, if it is to be had
            opened.append(os.open(tmp_path / str(len(opened)), os.O_RDWR | os.O_CREAT))
        return real(number, data)

    monkeypatch.setattr(wakeup, "_lock", ToldLock())
    monkeypatch.setattr(os, "write", write)
    wakeup.set()
    monkeypatch.undo()
    closer.join()
    for number in opened:
        os.close(number)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b""] * len(opened)
    assert wakeup.fileno() == -1
    wakeup.set()


def test_FRK_03_a_forked_child_closes_one_in_which_a_thread_of_the_parent_writes() -> None:
    wakeup = Wakeup()
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with wakeup._lock:
            held.set()
            done.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(10)
    child = threading.Thread(target=wakeup.forked)  # as there: another thread, and nobody gives the lock back
    child.start()
    child.join(10)
    assert not child.is_alive()
    assert wakeup.fileno() == -1
    done.set()
    holder.join()
