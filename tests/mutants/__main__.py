"""`python -m tests.mutants`: applies mutants one by one and wants the test of each to fail.

A line for each, then the counts by registry file; exit status 1 when one survives, 2 when the registry itself is wrong
or a test fails without its mutant.  `--sample 20 --seed S` takes 20 by the seed, which is printed, so that a failure
in CI is replayed with the same command.
"""

from __future__ import annotations

import argparse
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.history import page
from tests.mutants import registry, run
from tests.mutants.registry import Mutant
from tests.mutants.tree import Tree


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line, read."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__, allow_abbrev=False)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--all", action="store_true", help="every mutant (the default)")
    what.add_argument("--sample", type=int, metavar="N", help="N of them at random, slow ones left out")
    what.add_argument("--id", action="append", default=[], help="those of an acceptance id; may be given again")
    what.add_argument("--name", action="append", default=[], help="one, as the output calls it: spool:17")
    what.add_argument("--history", action="store_true", help="those that bring back a bug of tests/history/bugs.toml")
    parser.add_argument("--file", type=Path, action="append", help="only this registry file; may be given again")
    parser.add_argument("--seed", help="of --sample (default: the commit, so that it changes)")
    parser.add_argument("--jobs", type=int, default=1, help="copies that work side by side (default 1)")
    parser.add_argument("--check", action="store_true", help="only read and check the registry")
    parser.add_argument("--trust", action="store_true", help="do not run the tests without mutants first")
    return parser.parse_args(words)


def _commit() -> str:
    """The commit's short name; a tree without git gives one fixed seed."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=registry.ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "no-commit"


def chosen(entries: list[Mutant], wanted: argparse.Namespace) -> list[Mutant]:
    """Those of the entries that these arguments ask for."""
    if wanted.id:
        return [mutant for mutant in entries if set(wanted.id) & set(mutant.ids)]
    if wanted.history:
        return list(page.mutants_in(entries))
    if wanted.name:
        return [mutant for mutant in entries if mutant.name in wanted.name]
    if wanted.sample is not None:
        seed = wanted.seed or _commit()
        print(f"{wanted.sample} of {len(entries)} mutants; again: "
              f"python -m tests.mutants --sample {wanted.sample} --seed {seed}", flush=True)  # fmt: skip
        quick = [mutant for mutant in entries if not mutant.slow]
        return random.Random(seed).sample(quick, min(wanted.sample, len(quick)))
    return entries


class _Replay:
    """Takes mutants from one queue on as many threads as there are copies."""

    def __init__(self, mutants: list[Mutant], trees: list[Tree]) -> None:
        self.total: Counter[str] = Counter()
        self.survivors: list[Mutant] = []
        self._trees = trees
        self._stopped = False
        self._left: queue.SimpleQueue[Mutant] = queue.SimpleQueue()
        self._lock = threading.Lock()
        for mutant in mutants:
            self._left.put(mutant)

    def work(self, tree: Tree) -> None:
        """A thread with a copy of its own: until none is left."""
        while (mutant := self._next()) is not None:
            verdict = run.replay(tree, mutant)
            if not self._stopped:  # else that is why it ended
                self._note(mutant, verdict)

    def stop(self) -> None:
        """No other one begins, and those under way end now.  A signal handler: takes no lock."""
        self._stopped = True
        for tree in self._trees:
            tree.stop()

    def _next(self) -> Mutant | None:
        if self._stopped:
            return None
        try:
            return self._left.get_nowait()
        except queue.Empty:
            return None

    def _note(self, mutant: Mutant, verdict: run.Verdict) -> None:
        with self._lock:
            self.total[mutant.source] += 1
            if not verdict.red:
                self.survivors.append(mutant)
            word = "red     " if verdict.red else "SURVIVES"
            file = mutant.file.removeprefix("src/spoolq/")
            print(f"{word} {mutant.name:16} {','.join(mutant.ids):22} {file:26} {verdict.seconds:5.1f} s  "
                  f"{verdict.text if not verdict.red else verdict.text[:110]}", flush=True)  # fmt: skip


@contextmanager
def _interrupt_calls(stop: Callable[[], None]) -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM only call ``stop``; KeyboardInterrupt is raised behind it.

    Raised inside, it could come between any two steps, and Python 3.11 takes a thread for dead when it ends the
    ``join`` of it: the copies were removed while a replay was still writing there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told: list[int] = []

    def tell(number: int, _: object) -> None:
        told.append(number)
        stop()

    old = [(number, signal.signal(number, tell)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield
    finally:
        for number, handler in old:
            signal.signal(number, handler)
    if told:
        raise KeyboardInterrupt


@contextmanager
def _folder() -> Iterator[Path]:
    """Where the copies are; it is gone afterwards, and another Ctrl-C does not cut that short."""
    folder = tempfile.mkdtemp(prefix="spoolq-mutants-")
    try:
        yield Path(folder)
    finally:
        on_main = threading.current_thread() is threading.main_thread()
        old = signal.signal(signal.SIGINT, signal.SIG_IGN) if on_main else None
        shutil.rmtree(folder)
        if on_main:
            signal.signal(signal.SIGINT, old)


def main(words: Sequence[str] | None = None) -> int:
    wanted = arguments(words)
    entries = registry.load([path.resolve() for path in wanted.file] if wanted.file else None)
    if wrong := list(registry.problems(entries)):
        print("\n".join(wrong), file=sys.stderr)
        return 2
    if wanted.check:
        print(f"{len(entries)} mutants, all can be applied")
        return 0
    taken = chosen(entries, wanted)
    if not taken:
        print("no such mutant", file=sys.stderr)
        return 2
    with _folder() as folder:
        trees = [Tree(folder / f"copy-{number}") for number in range(min(wanted.jobs, len(taken)))]
        if wrong := run.foreign(trees[0]) if wanted.trust else run.prove_green(trees[0], taken):
            print("\n".join(wrong), file=sys.stderr)
            return 2
        replay = _Replay(taken, trees)
        with _interrupt_calls(replay.stop):
            threads = [threading.Thread(target=replay.work, args=(tree,)) for tree in trees]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    print(", ".join(f"{source} {count}" for source, count in sorted(replay.total.items())), end=": ")
    print(f"{len(taken) - len(replay.survivors)} red, {len(replay.survivors)} survive")
    for mutant in replay.survivors:
        print(f"  {mutant.name}  {mutant.file}: {mutant.change()}  {mutant.test}")
    return 1 if replay.survivors else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a time limit cleans up as Ctrl-C does
    sys.exit(main())
