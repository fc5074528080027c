"""`make chaos SECONDS= SEED=`: one world for that long; prints what happened, by class."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.chaos.world import World
from tests.crash.judge import Wrong
from tests.crash.nursery import Nursery


def main() -> int:
    """Exit 0 when every promise was kept, else 1; slot and journals then stay where they are."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    counts: Counter[str] = Counter()
    folder = Path(tempfile.mkdtemp(prefix="spoolq-chaos-"))
    with Nursery() as nursery:
        try:
            World(given.seed, given.seconds, folder, nursery, counts).run()
        except Wrong as error:
            print(f"WRONG: {error}\nslot and journals are in {folder}")
            return 1
    shutil.rmtree(folder)
    print(f"seed {given.seed}, {given.seconds:.0f} s")
    for name, count in sorted(counts.items()):
        print(f"{count:>9,}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
