"""A copy of the project in which one file at a time is changed.

`Tree(folder)` copies what the tests need: sources with the built extension modules, tests, benchmarks, pages.  The
project itself is never touched, so that a replay can be stopped at any point.  `changed(mutant)` is a context: inside
it the copy holds the mutant, behind it what it held before.  Who runs something in the copy says so by `runs`, so that
`stop`, from another thread, ends it and whatever would begin later.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.mutants.registry import ROOT, Mutant

_FOLDERS = ("src", "tests", "bench", "docs", "requirements", ".ci")
_FILES = ("pyproject.toml", "setup.py", "Makefile", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.c", "*.egg-info", ".hypothesis", ".mypy_cache", ".ruff_cache")


class Tree:
    """The copy below `folder`, which must not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False
        folder.mkdir()
        for name in _FOLDERS:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=_LEFT_OUT)
        for name in _FILES:
            if (ROOT / name).is_file():
                shutil.copy(ROOT / name, folder / name)

    @contextmanager
    def changed(self, mutant: Mutant) -> Iterator[None]:
        """The copy with the mutant in it."""
        path = self.folder / mutant.file
        original = path.read_text(encoding="utf-8")
        assert original.count(mutant.find) == 1, mutant.name
        try:
            self._write(path, original.replace(mutant.find, mutant.replace))
            yield
        finally:
            self._write(path, original)

    @contextmanager
    def runs(self, process: subprocess.Popen[str]) -> Iterator[None]:
        """Something runs in the copy; it is the leader of a session, which is gone behind this."""
        self._process = process
        try:
            if self._stopped:
                end_session(process)
            yield
        finally:
            self._process = None
            end_session(process)
            process.wait()

    def stop(self) -> None:
        """Ends what runs here now, and what would begin later."""
        self._stopped = True
        if (process := self._process) is not None:
            end_session(process)

    def _write(self, path: Path, text: str) -> None:
        """Writes and forgets the bytecode: a file of equal size that was changed in the same second looks unchanged."""
        path.write_text(text, encoding="utf-8")
        for stale in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            stale.unlink()


def end_session(process: subprocess.Popen[str]) -> None:
    """Kills a process that leads a session, and all that it started there."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
