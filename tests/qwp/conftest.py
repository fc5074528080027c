"""Property tests write many sentinels; the warning about them has its own test in tests/columns."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture(autouse=True)
def no_sentinel_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("spoolq.rows"), "disabled", True)
