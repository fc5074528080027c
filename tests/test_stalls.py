"""`tests.stalls` reaches the processes that a test starts, however it starts them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TELL = """
import os, sys
def tell():
    found = sys.getprofile()
    print("process", "none" if found is None else found.process, flush=True)
"""
STARTED = {
    "another": ("tell()", ["1"]),
    "another of that": (
        "import subprocess; subprocess.run([sys.executable, '-c', sys.argv[1] + 'tell()'], env={'A': 'B'}); tell()",
        ["1.1", "1"],
    ),
    "its fork": ("os.fork() and os.wait(); tell()", ["1.1", "1"]),
    "a worker": (
        """
import multiprocessing
if __name__ == "__main__":
    for method in "spawn", "fork":
        worker = multiprocessing.get_context(method).Process(target=tell)
        worker.start()
        worker.join()
    tell()
""",
        ["1", "1.1", "1"],
    ),
}


def told(folder: Path, code: str, *flags: str) -> list[str]:
    """What the processes of that code say, which a test under the plugin starts."""
    (folder / "child.py").write_text(TELL + code)
    (folder / "test_one.py").write_text(f"""
import subprocess, sys
def test_one():
    command = [sys.executable, *{flags}, "child.py", {TELL!r}]
    sys.stdout.write(subprocess.run(command, env={{}}, stdout=subprocess.PIPE, text=True, check=True).stdout)
    assert sys.getprofile().process == ""
""")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "tests.stalls", "-p", "no:cacheprovider", "test_one.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "STALLS_WHO": "child"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return re.findall(r"process (\S+)", done.stdout)


@pytest.mark.parametrize(("code", "expected"), STARTED.values(), ids=STARTED)
def test_a_process_that_a_test_starts_is_stalled(tmp_path: Path, code: str, expected: list[str]) -> None:
    assert told(tmp_path, code) == expected


@pytest.mark.parametrize("flag", ["-I", "-E", "-S"])
def test_one_that_ignores_its_environment_is_not(tmp_path: Path, flag: str) -> None:
    assert told(tmp_path, "tell()", flag) == ["none"]
