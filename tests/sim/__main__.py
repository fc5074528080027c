"""`make sim`: many seeds on all cores, and what they met, by class.

python -m tests.sim --seeds 100000 [--first 1]      seeds 1, 2, ...
python -m tests.sim --seed 17 [--verbose]           one of them again
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from os import cpu_count

from tests.sim.coverage import Total
from tests.sim.world import run_seed

_CHUNK = 250
_SHOWN = 20


def main() -> int:
    """Exit 0 when nothing was wrong, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim")
    parser.add_argument("--seeds", type=int, default=1_000)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=cpu_count() or 1)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--verbose", action="store_true")
    given = parser.parse_args()
    if given.seed is not None:
        return _one(given.seed, given.verbose)
    return _many(given.first, given.seeds, given.jobs)


def _one(seed: int, verbose: bool) -> int:
    outcome = run_seed(seed, trace=verbose)
    for line in outcome.trace or ():
        print(line)
    print(f"seed {seed}: {outcome.wrong or 'right'}, {outcome.millis} ms")
    return bool(outcome.wrong)


def run_chunk(seeds: range) -> Total:
    """Some seeds added up."""
    total = Total()
    for seed in seeds:
        total.add(run_seed(seed))
    return total


def _many(first: int, seeds: int, jobs: int) -> int:
    logging.disable(logging.WARNING)  # full queues are what many of the worlds are about
    began = time.monotonic()
    end = first + seeds
    chunks = [range(at, min(at + _CHUNK, end)) for at in range(first, end, _CHUNK)]
    total = Total()
    with ProcessPoolExecutor(jobs) as pool:
        for found in pool.map(run_chunk, chunks):
            total.merge(found)
    for line in total.lines():
        print(line)
    seconds, hours = time.monotonic() - began, total.millis / 3_600_000
    print(f"seeds {first} to {end - 1}: {seconds:.0f} s, {hours:,.1f} virtual hours, {len(total.wrong)} wrong")
    for wrong in total.wrong[:_SHOWN]:
        print(f"WRONG: seed {wrong.seed}: {wrong.wrong}\n  {command(wrong.seed)}")
    return bool(total.wrong)


def command(seed: int) -> str:
    """How to see it again."""
    return f"python -m tests.sim --seed {seed} --verbose"


if __name__ == "__main__":
    sys.exit(main())
