"""The list of historical bugs is whole: each has a mutant that brings it back, and docs/historical-bugs.md says so."""

from __future__ import annotations

from tests.acceptance import ids
from tests.history import page
from tests.mutants import __main__ as command
from tests.mutants import registry


def test_every_bug_has_a_mutant_that_brings_it_back() -> None:
    assert not list(page.problems())


def test_the_page_is_current() -> None:
    stored = (ids.ROOT / "docs" / "historical-bugs.md").read_text(encoding="utf-8")
    assert stored == page.render(), "run: python -m tests.history > docs/historical-bugs.md"


def test_all_of_them_can_be_brought_back_by_one_command() -> None:
    entries = registry.load()
    chosen = command.chosen(entries, command.arguments(["--history"]))
    assert {name for mutant in chosen for name in mutant.history} == {
        name for mutant in entries for name in mutant.history
    }
    assert len(chosen) >= len(page.bugs())
