"""A slice of `make sim`, and the simulator itself: a seed is a run, the slice meets what it is there for."""

from __future__ import annotations

from functools import cache

import pytest

from tests.sim.__main__ import command, run_chunk
from tests.sim.coverage import Total, meaningful
from tests.sim.world import run_seed

SLICE = 2_000
STEP = 250
MET = (
    "breaches", "caps too small", "catch-ups", "frames sent again", "pongs", "runs: everything arrived",
    "senders that took over", "strikes", "watermarks behind",
    *(f"loss: {kind}" for kind in ("fin", "reset")),
    *(f"close: {code}" for code in (1000, 1001, 1002, 1003, 1008, 1009, 1011, 4000, "no code")),
    *(f"refusal: {kind}" for kind in ("tcp", "dns", "timeout", "tls", "handshake", "status 503", "status 404")),
    *(f"refusal: {kind}" for kind in ("role REPLICA", "role PRIMARY_CATCHUP", "status 421", "auth 401", "auth 403")),
    *(f"rejection: {status} retriable" for status in ("01", "06", "09", "0a", "0c", "0d", "ff")),
    *(f"rejection: {status} terminal" for status in ("03", "05", "06", "08", "09")),
    *(f"terminal: {kind}" for kind in ("auth", "frame_too_large", "one round", "storage", "protocol_violation")),
    *(f"terminal: {kind}" for kind in ("schema_mismatch", "parse_error", "security_error", "write_error")),
    *(f"decided: {policy}" for policy in ("terminal", "retriable", "retriable_other", "drop")),
    "answers that came too late", "questions without an answer",
    "OKs inside a group", "early commits", "groups cut by the end of a connection", "groups delivered",
    "refusals inside a group", "the same, after a longer time",
    *(f"refusal: {kind}" for kind in ("slow name", "no such name")), "names that came late and were used",
    "dictionaries that began anew", "connections left for a new dictionary",
    "frames that a server works on for long",
    "connections given up as half-open", "dead letters", "PINGs", "terminal: durable",
    "terminal: connection-lost-budget-exhausted", "terminal: never-connected-budget-exhausted",
)  # fmt: skip
"""What 2,000 seeds have to meet: a fault that no run has is no test."""


@cache
def chunk(first: int) -> Total:
    """These seeds, run once for all tests."""
    return run_chunk(range(first, first + STEP))


@pytest.mark.parametrize("first", range(1, SLICE, STEP))
def test_what_must_hold_holds(first: int) -> None:
    total = chunk(first)
    assert not total.wrong, "\n".join(f"{one.wrong}: {command(one.seed)}" for one in total.wrong)


def test_the_slice_meets_every_class_and_every_pair_of_state_and_event() -> None:
    total = Total()
    for first in range(1, SLICE, STEP):
        total.merge(chunk(first))
    assert [name for name in MET if not total.counts[name]] == []
    assert meaningful() - total.pairs == set()


@pytest.mark.parametrize("seed", [3, 77, 1_234])
def test_a_seed_is_a_run(seed: int) -> None:
    first, again = run_seed(seed, trace=True), run_seed(seed, trace=True)
    assert first.trace == again.trace
    assert first.trace
    assert run_seed(seed).counts == first.counts
