"""The versions of Python that are declared, and how they are tested (ours.md 37)."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from spoolq import _implementation
from tests import pythons

README = (pythons.ROOT / "README.md").read_text(encoding="utf-8")


def test_37_what_is_declared_is_what_is_tested() -> None:
    assert pythons.declared() == ["3.11", "3.12", "3.13"]
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in pythons.declared()


def test_an_interpreter_is_believed_only_when_it_runs_and_is_of_that_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "versions" / "3.98.1" / "bin").mkdir(parents=True)
    (tmp_path / "versions" / "3.98.1" / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert pythons.find("3.98") is None
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    (tmp_path / "versions" / "3.98.1").rename(tmp_path / "versions" / f"{own}.1")
    monkeypatch.setenv("PATH", "")
    assert pythons.find(own) == str(tmp_path / "versions" / f"{own}.1" / "bin" / "python")


@pytest.mark.parametrize(
    ("found", "failing", "status"), [("python", "", 0), (None, "", 1), ("python", "pytest", 1), ("python", "venv", 1)]
)
def test_each_version_is_built_and_tested_and_one_that_is_missing_or_fails_fails(
    found: str | None, failing: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run: list[list[str]] = []

    def stand_in(command: list[str], **_: object) -> SimpleNamespace:
        run.append(command)
        return SimpleNamespace(returncode=int(failing in command))

    monkeypatch.setattr(pythons, "find", lambda _version: found)
    monkeypatch.setattr(subprocess, "run", stand_in)
    assert pythons.main([]) == status
    whole = [command for command in run if command[-1] == "pytest"]
    plain = [command for command in run if "SPOOLQ_IMPLEMENTATION=plain" in command]
    assert len(whole) == (0 if found is None or failing == "venv" else 3), "all of tests/"
    assert len(plain) == (3 if status == 0 else 0)
    assert capsys.readouterr().out.count("passed") == (3 if status == 0 else 0)


def test_37_a_free_threaded_interpreter_is_warned_about() -> None:
    with pytest.warns(RuntimeWarning, match="free-threaded"):
        _implementation._warn_about_free_threads("t")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _implementation._warn_about_free_threads("")


@pytest.mark.parametrize("word", ["Python 3.11, 3.12, 3.13", "free-threaded", "macOS", "never run there", "Windows"])
def test_the_readme_says_where_it_was_tested(word: str) -> None:
    assert word in README.partition("## Platforms")[2].partition("## ")[0].replace("\n", " ")
