"""Fixtures of the row buffer's tests."""

from __future__ import annotations

import pytest

from tests.columns.bodies import BODIES, Body


@pytest.fixture(params=BODIES, ids=lambda body: body.name)
def body(request: pytest.FixtureRequest) -> Body:
    """Each body in turn."""
    found: Body = request.param
    return found
