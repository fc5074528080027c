"""A process that a test starts is gone when the test has ended, however it did.

    with started([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        ...

Nothing here has a limit of time: pytest's own ends a test that hangs.  It raises once, in whatever waits; a ``with`` of
`subprocess.Popen` alone would then wait for the process for ever.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


@contextmanager
def started(command: Sequence[str], **how: Any) -> Iterator[subprocess.Popen[Any]]:
    """`subprocess.Popen`, killed at the end of the block, pipes closed."""
    with subprocess.Popen(command, **how) as process:
        try:
            yield process
        finally:
            process.kill()
