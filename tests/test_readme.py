"""The README is true: its code runs, its commands exist, its links lead somewhere."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from spoolq.testing import QwpServer

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PLACE = "localhost:9000"  # where the README's code finds its server


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"))
def test_the_code_runs(code: str) -> None:
    assert PLACE in code
    with QwpServer() as server:
        exec(compile(code.replace(PLACE, f"127.0.0.1:{server.port}"), "README.md", "exec"), {})
        rows = server.store.rows("trades")
    assert len(rows) == 1


def test_there_is_code_of_ten_lines() -> None:
    code, *_ = blocks("python")
    assert len(code.splitlines()) <= 10


@pytest.mark.parametrize(
    "command", [line.partition("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
)
def test_the_commands_exist(command: str) -> None:
    """A ``make`` target is planned, not run: running `make test` here would run this test again."""
    tool, *arguments = command.split()
    if tool == "make":
        done = subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    elif tool == "pip":
        assert command == "pip install '.[cli,sql]'"
    else:
        assert tool == "spoolq"
        from spoolq.cli.main import cli

        assert arguments[0] in cli.list_commands(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", re.findall(r"\]\((?!https:)([^)#]+)\)", README))
def test_the_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


def test_make_demo_is_the_demo() -> None:
    command = ["make", "--no-print-directory", "-n", "demo"]  # CI runs this under a make of its own
    plan = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert plan.rstrip().endswith("/spoolq demo")


def test_the_figures_are_the_stored_ones() -> None:
    """Each line of the table of figures: title, spoolq, questdb, ratio as bench/results/latest.json has them."""
    report = json.loads((ROOT / "bench" / "results" / "latest.json").read_text(encoding="utf-8"))
    stored = {line["figure"]: (line["spoolq"], line["questdb"], line["ratio"]) for line in report["figures"]}
    shown = re.findall(r"^\| (.*?) \| ([\d,.]+) \| ([\d,.]+) \| ([\d.]+) \|$", README, re.MULTILINE)
    assert shown
    for title, *figures in shown:
        for text, value in zip(figures, stored[title], strict=True):
            digits = len(text.partition(".")[2])
            assert text == f"{value:,.{digits}f}", f"{title}: {value}"
    assert report["machine"]["processor"] in README


def test_a_line_of_the_changelog_has_at_most_120_characters() -> None:
    lines = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 120] == []
