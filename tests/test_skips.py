"""The plugin that makes a skipped test fail the run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.skips import read_allowed

ROOT = Path(__file__).parent.parent
TESTS = """
import pytest

@pytest.mark.skip(reason="no server")
@pytest.mark.parametrize("n", [1, 2])
def test_skipped(n): ...

@pytest.mark.xfail(reason="known")
def test_expected(): raise ValueError

def test_passes(): ...
"""
WHOLE = "import pytest\npytest.skip('not here', allow_module_level=True)\n"


def run(folder: Path, allowed: str) -> tuple[int, str]:
    """Exit status and output of pytest on two files with that list of allowed skips."""
    (folder / "test_some.py").write_text(TESTS)
    (folder / "test_whole.py").write_text(WHOLE)
    (folder / "allowed.txt").write_text(allowed)
    arguments = ["-m", "pytest", "-p", "tests.skips", "-p", "no:cacheprovider", "--allowed-skips", "allowed.txt"]
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_a_skip_that_nobody_listed_fails_the_run(tmp_path: Path) -> None:
    status, output = run(tmp_path, "test_whole.py | it skips whole\ntest_some.py::test_skipped[1] | so it is\n")
    assert status == pytest.ExitCode.TESTS_FAILED
    refused = output.partition("not in the list of allowed skips")[2]
    assert "test_some.py::test_skipped[2] | Skipped: no server" in refused
    assert "test_skipped[1]" not in refused
    assert "test_expected" not in refused
    assert "test_whole" not in refused


def test_a_module_that_skips_fails_the_run(tmp_path: Path) -> None:
    status, output = run(tmp_path, "test_some.py::test_skipped | both of them\n")
    assert status == pytest.ExitCode.TESTS_FAILED
    assert "test_whole.py | Skipped: not here" in output


def test_listed_skips_pass(tmp_path: Path) -> None:
    status, output = run(tmp_path, "# a comment\n\ntest_some.py::test_skipped | a\ntest_whole.py | b\n")
    assert (status, "not in the list" in output) == (pytest.ExitCode.OK, False)


@pytest.mark.parametrize("line", ["tests/x.py::test", "tests/x.py::test |", "| reason"])
def test_an_entry_without_a_reason_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "allowed.txt"
    path.write_text(line)
    with pytest.raises(pytest.UsageError, match="line 1: not 'node id"):
        read_allowed(path)


def test_the_suite_runs_with_it(request: pytest.FixtureRequest) -> None:
    assert request.config.pluginmanager.has_plugin("skip-check")
