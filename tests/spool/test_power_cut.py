"""A slice of `power_cut` for the suite; the long run is ``make powercut``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from spoolq.spool.store import Durability
from tests.spool.power_cut import MODES, run


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Thousands of openings that would each tell what they found."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("mode", MODES)
def test_dur_02_dur_04_per_01_per_03_a_power_cut_at_any_step_keeps_what_the_mode_promised(
    tmp_path: Path, mode: Durability
) -> None:
    """Invariants 14, 17, 18, 29: `memory` opens with a prefix, the others keep what they said is synced."""
    for seed in (1, 2):
        tally = run(tmp_path / "life", mode, seed, some=1, length=20)
        print(mode, seed, dict(tally))
        assert tally["states"] > 100
        assert tally["frames"] > 0
        assert mode == "memory" or not tally["set aside"]
