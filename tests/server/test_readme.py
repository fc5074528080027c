"""README.md here: each row names tests that are there, and each test of the observed behaviour has a row."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGE = (HERE / "README.md").read_text(encoding="utf-8")
ROWS = [line.split("|")[1:-1] for line in PAGE.splitlines() if re.match(r"\| \d ", line)]
NODE = re.compile(r"`([^`]+\.py)::(\w+)`")
NO_ROW = {"test_no_connection_is_left", "test_4_acks_late_twice_and_swapped_are_taken"}


def names_in(path: Path) -> set[str]:
    """Names of the test functions of a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize(("section", "row", "tests"), ROWS, ids=[f"{a.strip()} {b.strip()}" for a, b, _ in ROWS])
def test_each_row_names_tests_that_are_there(section: str, row: str, tests: str) -> None:
    assert section.strip() in "12345678"
    found = NODE.findall(tests)
    assert found or "slow" in tests
    for path, name in found:
        assert name in names_in(HERE / path), (path, name)
    if "slow" in tests:
        from .observed_slow import ROWS as SLOW

        assert any(name.startswith(section.strip()) for name in SLOW)


def test_each_test_of_observed_behaviour_has_a_row() -> None:
    named = {name for _, _, tests in ROWS for _, name in NODE.findall(tests)}
    there = set().union(*map(names_in, HERE.glob("test_observed*.py")))
    assert there - named == NO_ROW


def test_each_section_of_the_page_is_there() -> None:
    assert {section.strip() for section, _, _ in ROWS} == set("12345678")
