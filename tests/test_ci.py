"""What CI runs (NFR-06): the whole suite, against the strict server of the same commit and the official client 6.0.0.

A real QuestDB is not at hand there; the server in src/spoolq/server is held to its behaviour by observed.md, and the
official client stands beside ours in tests/interop as the second opinion.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

import spoolq
from spoolq import server
from tests import lines

ROOT = Path(__file__).parent.parent
DIFF = """\
diff --git a/src/spoolq/a.py b/src/spoolq/a.py
--- a/src/spoolq/a.py
+++ b/src/spoolq/a.py
@@ -3 +3,2 @@ def one():
-    old
+    new
+    newer
@@ -9,2 +10,0 @@ def two():
-    gone
-    gone
@@ -20,0 +19 @@
+    last
"""


def planned(target: str) -> list[str]:
    """The commands that make would run."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(
        ["make", "--no-print-directory", "-n", "-W", "setup.py", target],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_nfr_06_ci_runs_the_whole_suite_of_its_own_commit_with_the_pinned_official_client() -> None:
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "exec make test"
    commands = [line.strip().removesuffix("; \\").partition(".venv/bin/python -m ") for line in planned("test")]
    runs = {(before, words) for before, python, words in commands if python}
    apart = "tests/columns tests/qwp tests/spool"
    ignored = " ".join(f"--ignore={folder}" for folder in apart.split())
    assert {("", f"pytest {ignored}"), ("", f"pytest {apart}")} <= runs, "all of tests/, nothing left out"
    assert ("SPOOLQ_IMPLEMENTATION=plain ", f"pytest tests/test_values.py {apart}") in runs, "and the plain twins"
    assert ("", "tests.mutants --sample 20 --trust") in runs
    pinned = re.findall(r"^questdb==(.+)$", (ROOT / "requirements" / "dev.txt").read_text(), re.MULTILINE)
    assert pinned == ["6.0.0"]
    assert importlib.metadata.version("questdb") == "6.0.0"
    assert {Path(module.__file__ or "").parts[-2] for module in (spoolq, server)} == {"spoolq", "server"}
    assert Path(server.__file__ or "").is_relative_to(Path(spoolq.__file__ or "").parent)


def test_nfr_06_the_coverage_report_tells_new_lines_that_no_test_runs() -> None:
    new = lines.new_lines(DIFF)
    assert new == {"src/spoolq/a.py": {3, 4, 19}}
    files = {"src/spoolq/a.py": {"missing_lines": [2, 4, 19, 20]}, "src/spoolq/b.py": {"missing_lines": [3]}}
    assert lines.not_run(files, new) == ["src/spoolq/a.py:4", "src/spoolq/a.py:19"]
    assert lines.not_run(files, {"src/spoolq/removed.py": {1}}) == []
    assert any("-m tests.lines" in line for line in planned("coverage"))


def test_the_share_of_a_room_counts_lines() -> None:
    def file(covered: int, there: int) -> dict[str, dict[str, int]]:
        return {"summary": {"covered_lines": covered, "num_statements": there}}

    files = {"src/spoolq/a.py": file(1, 2), "src/spoolq/qwp/b.py": file(3, 3), "src/spoolq/qwp/c.py": file(0, 3)}
    assert lines.rooms(files) == {"qwp": (3, 6), "spoolq": (1, 2)}


@pytest.mark.parametrize("key", ["commit", "lines run, lines"])
def test_figures_of_coverage_are_stored(key: str) -> None:
    assert json.loads(lines.RESULTS.read_text())[key]
