"""`make torture`: many stories, one after the other; prints what happened, by class.

python -m tests.crash --kills 1000 --seed 1      stories 1, 2, ... of 25 kills
python -m tests.crash --story 17                 one of them again
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.crash.judge import Wrong
from tests.crash.nursery import Nursery
from tests.crash.story import Story

KILLS_PER_STORY = 25


def main() -> int:
    """Exit 0 when every promise was kept, else 1; a failing slot stays where it is."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash")
    parser.add_argument("--kills", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--story", type=int)
    given = parser.parse_args()
    first, kills = (given.seed, given.kills) if given.story is None else (given.story, KILLS_PER_STORY)
    counts: Counter[str] = Counter()
    began = time.monotonic()
    seed = first
    with Nursery() as nursery:
        while counts["kills"] < kills:
            folder = Path(tempfile.mkdtemp(prefix="spoolq-torture-"))
            many = min(KILLS_PER_STORY, kills - counts["kills"])
            try:
                Story(seed, many, folder / "spool", nursery, counts).run()
            except Wrong as error:
                print(f"WRONG: {error}\nthe slot is in {folder}; once more: python -m tests.crash --story {seed}")
                return 1
            remove(folder)
            seed += 1
    print(f"stories {first} to {seed - 1}, {time.monotonic() - began:.0f} s")
    for name, count in sorted(counts.items()):
        print(f"{count:>9,}  {name}")
    return 0


def remove(folder: Path) -> None:
    """The folder, the slot in it, its two lock files; anything else there is an error."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


if __name__ == "__main__":
    sys.exit(main())
