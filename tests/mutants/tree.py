"""A copy of the project in which one file at a time is changed.

`Tree(folder)` copies what the tests need: sources with the built extension modules, tests, benchmarks, pages.  The
project itself is never touched, so that a replay can be stopped at any point.  `changed(mutant)` is a context: inside
it the copy holds the mutant, behind it what it held before.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.mutants.registry import ROOT, Mutant

_FOLDERS = ("src", "tests", "bench", "docs", "requirements", ".ci")
_FILES = ("pyproject.toml", "setup.py", "Makefile", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.c", "*.egg-info", ".hypothesis", ".mypy_cache", ".ruff_cache")


class Tree:
    """The copy below `folder`, which must not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
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

    def _write(self, path: Path, text: str) -> None:
        """Writes and forgets the bytecode: a file of equal size that was changed in the same second looks unchanged."""
        path.write_text(text, encoding="utf-8")
        for stale in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            stale.unlink()
