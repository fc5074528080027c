"""An install without a compiler goes on with the plain twins, and says so once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TRY = """
import spoolq
from spoolq._implementation import COMPILED
from spoolq.columns import RowBuffer
print(spoolq.__file__, COMPILED, RowBuffer.__module__)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as an install leaves it where every compiler fails."""
    tree = tmp_path_factory.mktemp("tree")
    leave_out = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", tree / "src", ignore=leave_out)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SPOOLQ_")}
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build", "--build-lib", "lib"],
        cwd=tree,
        env={**environment, "CC": "/bin/false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return tree / "lib"


def run(library: Path, **forced: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SPOOLQ_")}
    return subprocess.run(
        [sys.executable, "-c", TRY],
        env={**environment, "PYTHONPATH": str(library), **forced},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_runs_on_the_plain_twins_and_says_so_once(library: Path) -> None:
    done = run(library)
    assert done.returncode == 0, done.stderr
    place, compiled, module = done.stdout.split()
    assert place.startswith(str(library))
    assert (compiled, module) == ("False", "spoolq.columns.rows_plain")
    assert done.stderr.count("running on the plain Python twins") == 1


def test_forcing_the_compiled_body_fails_loudly(library: Path) -> None:
    done = run(library, SPOOLQ_IMPLEMENTATION="compiled")
    assert done.returncode != 0
    assert "install a C compiler" in done.stderr


def test_forcing_the_plain_body_is_silent(library: Path) -> None:
    done = run(library, SPOOLQ_IMPLEMENTATION="plain")
    assert (done.returncode, done.stderr) == (0, "")


def test_another_word_is_refused(library: Path) -> None:
    done = run(library, SPOOLQ_IMPLEMENTATION="fast")
    assert "takes one of compiled, plain" in done.stderr
