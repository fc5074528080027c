"""The tool that applies mutants: what it refuses, what it calls red, and that the copy is whole again afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.mutants import __main__ as command
from tests.mutants import registry, run
from tests.mutants.registry import Mutant
from tests.mutants.tree import Tree

FILE = "src/spoolq/printable.py"
SMALL = "tests/test_small.py"
TESTS = """
import pytest
from spoolq.printable import printable

def test_a_tab_is_a_blank():
    assert printable("a\\tb") == "a b"

@pytest.fixture
def text():
    return printable("a\\tb")

def test_with_a_fixture(text): ...
"""


def mutant(find: str, replace: str, test: str = "test_a_tab_is_a_blank") -> Mutant:
    return Mutant("some", 1, ("ours-1",), FILE, find, replace, f"{SMALL}::{test}", "", "")


def entry(**changes: str | list[str]) -> str:
    """An entry of a registry file that has nothing wrong, but for these changes."""
    values: dict[str, str | list[str]] = {
        "ids": ["ours-1"],
        "file": FILE,
        "find": ".strip()",
        "replace": ".lstrip()",
        "test": "tests/test_values.py::test_equality_is_by_type_and_copies_are_equal",
        **changes,
    }
    return "[[mutant]]\n" + "".join(f"{key} = {value!r}\n" for key, value in values.items() if value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (entry(find="text"), "the text to find occurs 3 times"),
        (entry(find="not there"), "the text to find occurs 0 times"),
        (entry(replace=".strip()"), "find and replace are the same"),
        (entry(replace="("), "the changed file is no Python"),
        (entry(file="src/spoolq/none.py"), "there is no src/spoolq/none.py"),
        (entry(file="src/spoolq/spool/_crc.pyx"), "is compiled and would not be built again"),
        (entry(file="src/spoolq/spool/segment_plain.py", find="self.count += 1"), 'only with implementation = "plain"'),
        (entry(test="tests/test_values.py::test_none"), "there is no test tests/test_values.py::test_none"),
        (entry(ids=["SEG-01"]), "carries none of SEG-01"),
        (entry(ids=["SEG-99"]), "SEG-99 is neither an acceptance id nor a section"),
        (entry() + entry(), "some:2: the same as some:1"),
        (
            entry(ids=["SEG-05"], test="tests/spool/test_recovery.py::test_row_of_5_2[REC-04 two]"),
            "carries none of SEG-05",
        ),
    ],
)
def test_an_entry_that_cannot_be_replayed_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, expected: str
) -> None:
    path = tmp_path / "some.toml"
    path.write_text(text)
    assert command.main(["--file", str(path), "--check"]) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (entry(colour="red"), "unknown keys"),
        (entry(find=""), "no find"),
        (entry(implementation="compiled"), "implementation is 'plain'"),
        ("[[mutants]]\n", "nothing but"),
    ],
)
def test_an_entry_of_another_shape_is_an_error(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "some.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=expected):
        registry.load([path])


def test_an_entry_that_is_whole_has_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "some.toml"
    path.write_text(entry())
    assert command.main(["--file", str(path), "--check"]) == 0


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """A copy of the project with a small test file in it."""
    copy = Tree(tmp_path_factory.mktemp("mutants") / "copy")
    (copy.folder / SMALL).write_text(TESTS)
    yield copy
    assert (copy.folder / FILE).read_text() == (registry.ROOT / FILE).read_text()


def test_tests_that_pass_without_a_mutant_are_told_from_others(tree: Tree) -> None:
    good = mutant("strip", "lstrip")
    assert run.prove_green(tree, [good]) == []
    with tree.changed(mutant('" " for', '"-" for')):
        assert "fails without a mutant" in run.prove_green(tree, [good])[0]


@pytest.mark.parametrize(
    ("wrong", "red", "text"),
    [
        (mutant('" " for', '"-" for'), True, "AssertionError: assert 'a-b' == 'a b'"),
        (mutant('"".join', "str().join"), False, "survives: the test passes"),
        (mutant("character.is", "caracter.is"), False, "nonsense, not a wrong behaviour: NameError"),
        (mutant("from __future__ import annotations", "import none"), False, "the test did not run (pytest ended with"),
        (
            mutant("    return", "    1 / 0\n    return", "test_with_a_fixture"),
            False,
            "could not be set up: ZeroDivisionError",
        ),
        (mutant(".strip()", "", "test_none"), False, "the test did not run (pytest ended with 4)"),
    ],
)
def test_only_a_test_that_ran_and_failed_is_red(tree: Tree, wrong: Mutant, red: bool, text: str) -> None:
    verdict = run.replay(tree, wrong)
    assert (verdict.red, text in verdict.text) == (red, True), verdict


def test_a_test_that_hangs_is_stopped_by_its_own_limit_and_that_is_told(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "TEST_SECONDS_MAX", 1)
    verdict = run.replay(tree, mutant("    return", "    while True: pass\n    return"))
    assert verdict.red
    assert verdict.text.startswith("by its time limit")


def test_a_run_that_its_own_limit_cannot_stop_is_killed_and_does_not_count(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_RUN_SECONDS_MAX", 3)
    deaf = "    while True:\n        try:\n            while True: pass\n        except BaseException: pass\n    return"
    verdict = run.replay(tree, mutant("    return", deaf))
    assert (verdict.red, verdict.text) == (False, "hangs: killed after 3 s")


def test_a_sample_is_the_same_for_the_same_seed(capsys: pytest.CaptureFixture[str]) -> None:
    entries = registry.load()
    taken = []
    for seed in ("a", "a", "b"):
        taken.append(command.chosen(entries, command.arguments(["--sample", "5", "--seed", seed])))
    assert taken[0] == taken[1] != taken[2]
    assert "--sample 5 --seed a" in capsys.readouterr().out


_STOPPED = """
import os, shutil, signal, subprocess, sys
from tests.mutants import __main__ as command, run, tree
started, replay, remove, at_work = subprocess.Popen, run.replay, shutil.rmtree, []
def popen(words, **how):  # instead of pytest something that lasts; Ctrl-C comes when it is there
    process = started([sys.executable, "-c", "import time; time.sleep(600)"], **how)
    print(process.pid, os.listdir(sys.argv[1]), flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    return process
def replaying(*arguments):
    at_work.append(True)
    try:
        return replay(*arguments)
    finally:
        at_work.clear()
def removing(folder):
    print("removed while a replay writes there" if at_work else "removed at the end", flush=True)
    remove(folder)
run.replay, shutil.rmtree = replaying, removing
tree._FOLDERS, run.foreign, run.subprocess.Popen = ("src",), lambda tree: [], popen
command.main(["--trust", "--name", "spool:1"])
"""


def test_a_replay_that_is_interrupted_ends_at_once_and_leaves_no_copy_and_no_process(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _STOPPED, str(tmp_path)],
        cwd=registry.ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(["src", "."])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            told, errors = process.communicate()  # pytest has the limit; what is interrupted sleeps far longer
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert "KeyboardInterrupt" in errors
    started, _, rest = told.partition(" ")
    copies, _, end = rest.partition("\n")
    assert (copies[:17], end) == ("['spoolq-mutants-", "removed at the end\n")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(started), 0)
