"""Fixtures of the whole suite: every test must leave the process as it found it.

`no_leaks` runs around each test and counts threads, descriptors, mappings of slots, locks of slots, files in
the working directory and native bytes; what is still there after a short settling is a failure of that test.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from _pytest.logging import caplog_records_key
from hypothesis import HealthCheck, settings

from spoolq._implementation import COMPILED
from spoolq.spool import lock, mapping, segment
from tests import ports as ports  # holds them from here on: no test's descriptors

if COMPILED:
    from spoolq.columns._column import live_native_bytes as live_column_bytes
else:

    def live_column_bytes() -> int:
        """The plain row buffer holds Python objects only."""
        return 0


pytest_plugins = ["tests.skips"]
# How long a made case takes says how busy the machine is.
settings.register_profile("without a clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("without a clock")
_SETTLE_SECONDS = 2.0
_MEMORY = "/dev/shm/"  # where many a test has its slots


def pytest_configure() -> None:
    """A job in the background starts with SIGINT ignored; the tests of Ctrl-C, and their children, need it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Thousands of collected tests stay to the end; no garbage collection needs to look at them."""
    gc.collect()
    gc.freeze()


def _threads() -> set[str]:
    return {f"{thread.name} ({thread.ident})" for thread in threading.enumerate()}


def _descriptors() -> dict[str, str]:
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue  # the listing's own descriptor is gone again
        if not target.startswith(("/proc/", "/dev/")) or target.startswith(_MEMORY):
            found[number] = target
    return found


def _native() -> dict[str, int]:
    """What there is of what must not grow: mappings, native bytes, files, locks that are held, a handler of Ctrl-C."""
    return {
        "mappings of segments": mapping.live_mappings(),
        "bytes of segments": segment.live_native_bytes(),
        "bytes of columns": live_column_bytes(),
        "handlers of Ctrl-C": int(signal.getsignal(signal.SIGINT) is not signal.default_int_handler),
        "locks of slots": sum(held.held for held in list(lock._held)),
        "files in the working directory": sum(not name.startswith(".") for name in os.listdir()),
    }


def _left_behind(threads: set[str], descriptors: dict[str, str], native: dict[str, int]) -> list[str]:
    left = [f"thread {name}" for name in sorted(_threads() - threads)]
    left += [
        f"descriptor {number} -> {target}"
        for number, target in _descriptors().items()
        if descriptors.get(number) != target
    ]
    return left + [f"{count - native[name]} {name}" for name, count in _native().items() if count > native[name]]


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails the test that leaves something behind."""
    before = _threads(), _descriptors(), _native()
    yield
    if request.node.get_closest_marker("leaves") or request.node.funcargs is None:  # None: Ctrl-C ended the test
        return
    request.node.funcargs.clear()  # pytest keeps what the fixtures gave until later
    for records in request.node.stash.get(caplog_records_key, {}).values():
        records.clear()  # an error in a record holds the frames it went through, and what these hold
    deadline = time.monotonic() + _SETTLE_SECONDS
    left = _left_behind(*before)
    if left:  # mostly a buffer, held by a traceback that holds itself: to look at the young objects is cheap
        gc.collect(1)
        left = _left_behind(*before)
    while left and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.005)
        left = _left_behind(*before)
    assert not left, "left behind by this test: " + "; ".join(left)
