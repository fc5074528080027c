"""The pytest plugin of spoolq: fixtures with a strict QWP server.

    def test_rows_arrive(qwp_server): ...           one server
    def test_two(make_qwp_server): ...              servers with options: make_qwp_server(script=..., latched=False)

A module of its own outside the package, because pytest imports it at every start of everybody who has spoolq
installed: nothing of spoolq is imported before a test asks for a server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from spoolq.testing import MemoryStore, QwpServer


@pytest.fixture
def make_qwp_server() -> Iterator[Callable[..., QwpServer[Any]]]:
    """Starts servers with the arguments of `spoolq.testing.QwpServer`; all of them are stopped after the test."""
    from spoolq.testing import QwpServer

    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(QwpServer(*args, **options))


@pytest.fixture
def qwp_server(make_qwp_server: Callable[..., QwpServer[MemoryStore]]) -> QwpServer[MemoryStore]:
    """A running server that keeps rows in memory; ``qwp_server.conf`` is the connect string for it."""
    return make_qwp_server()
