"""Fixtures of the whole suite: every test must leave the process as it found it.

`no_leaks` runs around each test and counts threads, descriptors and mapped native bytes that spoolq
reports; what is still there after a short settling is a failure of that test.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

_SETTLE_SECONDS = 2.0


def pytest_configure() -> None:
    """A job in the background starts with SIGINT ignored; the tests of Ctrl-C, and their children, need it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _threads() -> set[str]:
    return {f"{thread.name} ({thread.ident})" for thread in threading.enumerate()}


def _descriptors() -> dict[str, str]:
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue  # the listing's own descriptor is gone again
        if not target.startswith(("/proc/", "/dev/")):
            found[number] = target
    return found


def _left_behind(threads: set[str], descriptors: dict[str, str]) -> list[str]:
    left = [f"thread {name}" for name in sorted(_threads() - threads)]
    left += [
        f"descriptor {number} -> {target}"
        for number, target in _descriptors().items()
        if descriptors.get(number) != target
    ]
    return left


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails the test that leaves a thread or a descriptor behind."""
    threads, descriptors = _threads(), _descriptors()
    yield
    if request.node.get_closest_marker("leaves"):
        return
    deadline = time.monotonic() + _SETTLE_SECONDS
    left = _left_behind(threads, descriptors)
    while left and time.monotonic() < deadline:
        gc.collect()  # a traceback may still hold a socket
        time.sleep(0.005)
        left = _left_behind(threads, descriptors)
    assert not left, "left behind by this test: " + "; ".join(left)
