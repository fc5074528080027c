"""The acceptance list is whole: every id has a test, every tested id a mutant, and docs/acceptance.md says so."""

from __future__ import annotations

import pytest

from tests.acceptance import ids, page
from tests.mutants import registry


def test_every_id_has_a_test_and_a_mutant() -> None:
    assert not list(page.problems())


def test_every_mutant_can_be_applied_and_its_test_exists() -> None:
    assert not list(registry.problems(registry.load()))


def test_the_page_is_current() -> None:
    stored = (ids.ROOT / "docs" / "acceptance.md").read_text(encoding="utf-8")
    assert stored == page.render(), "run: python -m tests.acceptance > docs/acceptance.md"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("test_seg_06_absurd_lengths", {"SEG-06"}),
        ("test_SND_12_a_connection", {"SND-12"}),
        ("test_seg_09_mgr_09_a_spare", {"SEG-09", "MGR-09"}),
        ("test_the_default_cap_is_larger_on_disk_cfg_05", {"CFG-05"}),
        ("test_wmk_01_invariant_22_slot", {"WMK-01", "INV-22"}),
        ("test_invariant_31_32_no_damage", {"INV-31", "INV-32"}),
        ("test_err_005_no", set()),
        ("test_a_torn_record_leaves_the_one_before", set()),
    ],
)
def test_ids_are_read_from_names(name: str, expected: set[str]) -> None:
    assert ids.ids_of_name(name) == expected
