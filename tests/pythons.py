"""`make pythons`: the whole suite under every Python that pyproject.toml declares (ours.md 37).

    python -m tests.pythons                       everything, then codec and spool on their plain twins
    python -m tests.pythons [pytest arguments]    only that

Each version has a virtual environment of its own, ``.venv-3.12``, with the compiled rooms built for it.  A version
that is declared and not found fails: `find` looks for ``python3.12`` on the PATH, then among pyenv's.  One version
after the other, one process at a time: nothing meets another run's ports.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
_WITH_A_PLAIN_TWIN = [f"tests/{name}" for name in ("test_values.py", "columns", "qwp", "spool")]


def declared() -> list[str]:
    """The versions of pyproject.toml's classifiers."""
    return re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text())


def find(version: str) -> str | None:
    """An interpreter of that version that runs."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [
        shutil.which(f"python{version}"),
        *sorted(map(str, pyenv.glob(f"{version}.*/bin/python")), reverse=True),
    ]
    for python in filter(None, candidates):
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
        if done.stdout.strip() == version:
            return python
    return None


def commands(version: str, python: str, arguments: Sequence[str]) -> list[list[str]]:
    """What is run for one version, in the root of the tree."""
    own = f".venv-{version}/bin/python"
    pip = [own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pytest = [own, "-m", "pytest"]
    plain = ["env", "SPOOLQ_IMPLEMENTATION=plain", *pytest, *_WITH_A_PLAIN_TWIN]
    return [
        [python, "-m", "venv", f".venv-{version}"],
        [*pip, "-r", "requirements/dev.txt"],
        [*pip, "--no-build-isolation", "--no-deps", "--editable", "."],
        [*pytest, *arguments],
        *([] if arguments else [plain]),
    ]


def main(arguments: Sequence[str]) -> int:
    """0 when every version passed."""
    environment = {**os.environ, "SPOOLQ_REQUIRE_COMPILED": "1", "SPOOLQ_IMPLEMENTATION": "compiled"}
    outcomes = {}
    for version in declared():
        python = find(version)
        outcomes[version] = "not found"
        if python is not None:
            print(f"-- Python {version}: {python}", flush=True)
            failed = (
                command
                for command in commands(version, python, arguments)
                if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
            )
            command = next(failed, None)
            outcomes[version] = "passed" if command is None else f"failed: {' '.join(command)}"
    for version, outcome in outcomes.items():
        print(f"Python {version}: {outcome}")
    return 0 if set(outcomes.values()) == {"passed"} else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
