"""A pytest plugin that keeps threads from the processor: what a loaded machine does, at will and by seed.

    python -m pytest -p tests.stalls tests/sender           STALLS_SEED=1 STALLS_WHO=io ...
    make stalls SEED=... [STALLED="tests/sender ..."]

A test that is right only when another thread is quick enough passes on a quick machine and fails here.  While
a test runs, one kind of thread (`KINDS`: those whose names begin so) is put to sleep at random calls of Python
functions of this project, for `_NAPS_MILLIS`, at most `_SECONDS_MAX` in a test, so that no honest time limit is passed.
Seed and test decide which kind and where, as far as threads can be made to repeat; ``STALLS_WHO`` fixes the kind.  The
kind is in the report of a failed test.  One seed tries one place: ten of them, with the kind that a test depends on,
find what one does not.  Processes that a test starts are not reached.

It is not part of `make test`: it makes nothing that a busy machine does not, only sooner.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from random import Random
from types import FrameType
from typing import Any, Final

import pytest

KINDS: Final = {
    "test": ("MainThread",),
    "io": ("spoolq-io",),
    "server": ("spoolq-server",),
    "keeper": ("spoolq-keeper",),
    "dispatcher": ("spoolq-errors", "spoolq-connections", "spoolq-progress", "spoolq-policy"),
    "drainer": ("spoolq-drainer",),
    "caller": ("Thread-", "spoolq-open", "spoolq-close"),  # the tests' own calls beside; what a call has done aside
}
_NAPS_MILLIS: Final = (1, 5, 20, 60)
_ONE_OF: Final = 40  # calls
_SECONDS_MAX: Final = 1.5
_PLACES: Final = (os.sep + "spoolq" + os.sep, os.sep + "tests" + os.sep)


class _Staller:
    def __init__(self, who: str, rng: Random) -> None:
        self._names = KINDS[who]
        self._rng = rng
        self._left = _SECONDS_MAX

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event not in ("call", "return") or self._left <= 0:
            return
        thread = threading._active.get(threading.get_ident())  # type: ignore[attr-defined]  # one that begins has no name
        if thread is None or not thread.name.startswith(self._names):
            return
        if not any(place in frame.f_code.co_filename for place in _PLACES):
            return
        if self._rng.randrange(_ONE_OF):
            return
        nap = self._rng.choice(_NAPS_MILLIS) / 1_000
        self._left -= nap
        time.sleep(nap)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Around the test itself, its fixtures left out."""
    rng = Random(f"{os.environ.get('STALLS_SEED', '1')} {item.nodeid}")
    who = os.environ.get("STALLS_WHO") or rng.choice(list(KINDS))
    staller = _Staller(who, rng)
    item.add_report_section("call", "stalled", f"kind of thread: {who}")
    threading.setprofile(staller)
    sys.setprofile(staller)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
