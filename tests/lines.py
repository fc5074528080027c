"""`python -m tests.lines`: which lines of src/spoolq the suite runs (NFR-06).

Runs the suite in one process under coverage.py, without the parts whose work is done by other processes, and prints
the share of lines run a room, and every line that is new since ``--since`` and was not run; by default since the
commit of the figures that are stored in bench/results/coverage.json.  ``--store`` stores the new ones, when all passed.

Lines, not branches, and of Python files only: of a room with a compiled body the plain twin is not run here.  The
figures are for finding what nobody tests; whether a test can fail is what the mutants show.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results" / "coverage.json"
_ELSEWHERE = ("bench", "chaos", "crash", "test_install.py", "test_mutants.py")


def run(folder: Path) -> tuple[int, dict[str, Any]]:
    """The suite under coverage: pytest's status, and what coverage.py says of each file."""
    data = f"--data-file={folder / 'data'}"
    ignored = [f"--ignore=tests/{name}" for name in _ELSEWHERE]
    suite = [
        sys.executable,
        "-m",
        "coverage",
        "run",
        data,
        "--source=src/spoolq",
        "-m",
        "pytest",
        "--timeout=1800",
        *ignored,
    ]
    status = subprocess.run(suite, cwd=ROOT, check=False).returncode
    report = folder / "report.json"
    subprocess.run([sys.executable, "-m", "coverage", "json", data, "-q", "-o", str(report)], cwd=ROOT, check=True)
    found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))["files"]
    return status, found


def rooms(files: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Lines that were run and lines there are, a room; files beside the rooms count as `spoolq`."""
    ran: Counter[str] = Counter()
    there: Counter[str] = Counter()
    for name, file in files.items():
        parts = Path(name).parts  # src, spoolq, room or file, ...
        room = parts[2] if len(parts) > 3 else "spoolq"
        ran[room] += file["summary"]["covered_lines"]
        there[room] += file["summary"]["num_statements"]
    return {room: (ran[room], there[room]) for room in sorted(there)}


def new_lines(diff: str) -> dict[str, set[int]]:
    """File -> numbers of the lines that a diff without context adds."""
    found: dict[str, set[int]] = {}
    name = ""
    for line in diff.splitlines():
        if line.startswith("+++ "):
            name = line.removeprefix("+++ ").removeprefix("b/")
        elif place := re.match(r"@@ -\S+ \+(\d+)(?:,(\d+))? @@", line):
            first, count = int(place[1]), int(place[2] or 1)
            found.setdefault(name, set()).update(range(first, first + count))
    return found


def not_run(files: dict[str, Any], new: dict[str, set[int]]) -> list[str]:
    """`file:line` of each new line that was not run."""
    missing = {name: new[name] & set(files[name]["missing_lines"]) for name in sorted(new) if name in files}
    return [f"{name}:{line}" for name, lines in missing.items() for line in sorted(lines)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.lines", description="lines that the suite runs")
    parser.add_argument("--since", help="commit; lines that are newer are looked at one by one")
    parser.add_argument("--store", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")
    words = parser.parse_args()
    since = words.since or json.loads(RESULTS.read_text(encoding="utf-8"))["commit"]
    with tempfile.TemporaryDirectory() as folder:
        status, files = run(Path(folder))
    diff = _git("diff", "--unified=0", since, "--", "src/spoolq/*.py")
    counts = rooms(files)
    counts["all"] = sum(ran for ran, _ in counts.values()), sum(there for _, there in counts.values())
    for room, (ran, there) in counts.items():
        print(f"{room:>10} {ran:>6} of {there:>6} lines  {100 * ran / there:5.1f} %")
    new = new_lines(diff)
    missing = not_run(files, new)
    print(
        f"since {since}: {sum(map(len, new.values()))} new lines, {len(missing)} of them not run", *missing, sep="\n  "
    )
    if words.store and not status:
        stored = {"commit": _git("rev-parse", "--short", "HEAD").strip(), "lines run, lines": counts}
        RESULTS.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    sys.exit(status)


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main()
