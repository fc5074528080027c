"""Where the slots of these tests are.

They sync some ten thousand times, and most of the time would go by waiting for a disk that has nothing to add: what a
cut of the power or a failing call leaves behind is made by doubles of `Files`.  So the run on the compiled rooms has
its folders in memory, where there is such a place, and the run on the plain twins has the same tests on the disk.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from spoolq._implementation import COMPILED

_MEMORY = Path("/dev/shm")


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A new folder, in place of pytest's own fixture."""
    memory = COMPILED and os.access(_MEMORY, os.W_OK)
    with tempfile.TemporaryDirectory(dir=_MEMORY if memory else tmp_path_factory.getbasetemp()) as name:
        yield Path(name)
