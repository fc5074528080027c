"""Runs tests in a copy of the project and judges how they ended.

`prove_green(tree, mutants)` runs the tests of all of them on the unchanged copy; `replay(tree, mutant)` runs one test
with its mutant.  A mutant is killed only by a test that

- was called and failed, or whose clean-up found something left behind (the leak fixture's assertion);
- did not end by a NameError, ImportError or the like, which any nonsense in place of the code would give;
- ended within its time: a test that hangs is stopped by pytest's own time limit, which counts and is told; one that
  cannot even be stopped so is killed, and that does not count.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.mutants.registry import Mutant
from tests.mutants.tree import Tree

TEST_SECONDS_MAX = 60
"""Of one test, by pytest's own limit; a test that needs it to fail is told as `by its time limit`."""
_RUN_SECONDS_MAX = 150
_NONSENSE = {"NameError", "UnboundLocalError", "ImportError", "ModuleNotFoundError", "SyntaxError", "IndentationError"}


class Verdict(NamedTuple):
    """`red` when the mutant was killed; `text` says how, or why not."""

    red: bool
    text: str
    seconds: float


@dataclass
class _Ended:
    status: int | None
    passed: list[str]
    failed: list[tuple[str, str, str, str]]
    output: str
    seconds: float


def replay(tree: Tree, mutant: Mutant) -> Verdict:
    """Runs the mutant's test on the changed copy."""
    with tree.changed(mutant):
        ended = _pytest(tree, [mutant.test], mutant.implementation, _RUN_SECONDS_MAX)
    return _judge(ended)


def _judge(ended: _Ended) -> Verdict:
    if ended.status is None:
        return Verdict(False, f"hangs: killed after {_RUN_SECONDS_MAX} s", ended.seconds)
    if ended.status == 0:
        return Verdict(False, "survives: the test passes", ended.seconds)
    if ended.status != 1 or not ended.failed:
        return Verdict(False, f"the test did not run (pytest ended with {ended.status}): {ended.output}", ended.seconds)
    node, when, kind, text = ended.failed[0]
    said = f"{kind}: {' '.join(text.split())}"
    if when == "setup":
        return Verdict(False, f"the test could not be set up: {said}", ended.seconds)
    if kind in _NONSENSE:
        return Verdict(False, f"nonsense, not a wrong behaviour: {said}", ended.seconds)
    late = "by its time limit " if kind == "Failed" and text.startswith("Timeout") else ""
    return Verdict(True, f"{late}{node.partition('::')[2]} {said}", ended.seconds)


def prove_green(tree: Tree, mutants: Iterable[Mutant]) -> list[str]:
    """The tests of these mutants on the unchanged copy: what is wrong with them, nothing when all pass."""
    wrong = foreign(tree)
    by_body: dict[str, list[str]] = {}
    for mutant in mutants:
        tests = by_body.setdefault(mutant.implementation, [])
        if mutant.test not in tests:
            tests.append(mutant.test)
    for implementation, tests in by_body.items():
        ended = _pytest(tree, tests, implementation, _RUN_SECONDS_MAX + 20 * len(tests), stop=False)
        wrong += [f"{node} fails without a mutant: {kind}: {text}" for node, _, kind, text in ended.failed]
        if ended.status != 0 and not ended.failed:
            wrong.append(f"the tests do not run without a mutant (pytest ended with {ended.status}): {ended.output}")
    return wrong


def foreign(tree: Tree) -> list[str]:
    """An installed package may stand before the copy, and no mutant would ever be imported."""
    found = subprocess.run(
        [sys.executable, "-c", "import spoolq; print(spoolq.__file__)"],
        cwd=tree.folder,
        env=_environment(tree, ""),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    expected = tree.folder / "src" / "spoolq" / "__init__.py"
    return [] if Path(found).resolve() == expected.resolve() else [f"the tests would import {found}, not {expected}"]


def _environment(tree: Tree, implementation: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in ("SPOOLQ_IMPLEMENTATION", "PYTHONPATH")}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of runs of the same sources
    kept["PYTHONPATH"] = os.pathsep.join([str(tree.folder / "src"), str(tree.folder)])
    if implementation:
        kept["SPOOLQ_IMPLEMENTATION"] = implementation
    return kept


def _pytest(tree: Tree, tests: Sequence[str], implementation: str, seconds_max: float, *, stop: bool = True) -> _Ended:
    """One pytest process in its own session; whatever it started is gone when this returns."""
    report = tree.folder.with_suffix(".json")
    report.unlink(missing_ok=True)
    arguments = [sys.executable, "-m", "pytest", "-p", "tests.mutants.verdict", f"--timeout={TEST_SECONDS_MAX}"]
    started = time.monotonic()
    process = subprocess.Popen(
        [*arguments, "--tb=line", *(["-x"] if stop else []), *tests],
        cwd=tree.folder,
        env={**_environment(tree, implementation), "SPOOLQ_VERDICT": str(report)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    status: int | None = None
    output = ""
    with process, tree.runs(process), suppress(subprocess.TimeoutExpired):
        output, _ = process.communicate(timeout=seconds_max)
        status = process.returncode
    read = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else {"passed": [], "failed": []}
    return _Ended(status, read["passed"], read["failed"], _tail(output), time.monotonic() - started)


def _tail(output: str) -> str:
    return " / ".join(line for line in output.strip().splitlines()[-4:] if line)
