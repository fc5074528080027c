"""A pytest plugin that keeps threads from the processor: what a loaded machine does, at will and by seed.

    python -m pytest -p tests.stalls tests/sender           STALLS_SEED=1 STALLS_WHO=io ...
    make stalls SEED=... [STALLED="tests/sender ..."]

A test that is right only when another thread is quick enough passes on a quick machine and fails here.  While
a test runs, one kind of thread (`KINDS`: those whose names begin so) is put to sleep at random calls of Python
functions of this project, for some milliseconds, at most 1.5 s in a test, so that no honest time limit is passed; so it
is in each process that the test starts, of whose main threads there is the kind ``child`` (tests/stalled).
Seed and test decide which kind and where, as far as threads can be made to repeat; ``STALLS_WHO`` fixes the kind.  The
kind is in the report of a failed test.  One seed tries one place: ten of them, with the kind that a test depends on,
find what one does not.

It is not part of `make test`: it makes nothing that a busy machine does not, only sooner.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from random import Random

import pytest

from tests.stalled.sitecustomize import KINDS, stalled


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Around the test itself, its fixtures left out."""
    test = f"{os.environ.get('STALLS_SEED', '1')} {item.nodeid}"
    who = os.environ.get("STALLS_WHO") or Random(test).choice(list(KINDS))
    item.add_report_section("call", "stalled", f"kind of thread: {who}")
    with stalled(who, test):
        yield
