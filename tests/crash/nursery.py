"""The parent's end of `writer`: gives orders, hears reports, kills."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from types import TracebackType
from typing import Any, Self

_PATIENCE_SECONDS = 90.0


class Nursery:
    """One nursery process for a ``with`` block; one child at a time."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.writer"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self._heard = b""
        self.child = 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def start(self, order: dict[str, Any]) -> None:
        """Brings a child forth; reports follow."""
        self._order({"do": "start", **order})

    def kill(self) -> None:
        """SIGKILL; the child may have ended by itself, its id is still its own until `reap`."""
        os.kill(self.child, signal.SIGKILL)

    def reap(self, life: int) -> None:
        """The last report of this life will be ``gone``."""
        self._order({"do": "reap", "life": life})

    def report(self, timeout_seconds: float = _PATIENCE_SECONDS) -> list[Any] | None:
        """The next report; None when the time ran out.  Raises EOFError when the nursery has ended."""
        assert self._process.stdout is not None
        until = time.monotonic() + timeout_seconds
        while b"\n" not in self._heard:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                return None
            piece = os.read(self._process.stdout.fileno(), 1 << 16)
            if not piece:
                raise EOFError("the nursery has ended")
            self._heard += piece
        line, _, self._heard = self._heard.partition(b"\n")
        report: list[Any] = json.loads(line)
        if report[1] == "born":
            self.child = report[2]
        return report

    def _order(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
