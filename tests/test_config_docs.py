"""docs/configuration.md is what the table of settings says now."""

from __future__ import annotations

from pathlib import Path

from spoolq.config_docs import render

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run: python -m spoolq.config_docs > docs/configuration.md"


def test_no_row_of_the_page_is_broken() -> None:
    """Every row has the five cells of its heading: no setting's text holds a bar of its own."""
    rows = [line for line in render().partition("## Read past")[0].splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {6}
