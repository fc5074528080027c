"""A pytest plugin for the replay: writes how the tests ended to the file named by SPOOLQ_VERDICT.

One JSON object: `passed`, and `failed` as a list of [node id, when, exception's type, text].  Exit status and
summary of pytest do not tell a test that failed from one that could not be set up, nor an assertion from a NameError
in the changed text.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from pathlib import Path

import pytest

_failed: list[tuple[str, str, str, str]] = []
_passed: list[str] = []
_TEXT_CHARS_MAX = 300


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.Item, None]:
    """Notes each phase that failed, and each test whose call passed."""
    yield
    if call.excinfo is not None:
        text = str(call.excinfo.value)[:_TEXT_CHARS_MAX]
        _failed.append((item.nodeid, call.when, call.excinfo.type.__name__, text))
    elif call.when == "call":
        _passed.append(item.nodeid)


def pytest_sessionfinish() -> None:
    """Writes the file."""
    Path(os.environ["SPOOLQ_VERDICT"]).write_text(json.dumps({"passed": _passed, "failed": _failed}), encoding="utf-8")
