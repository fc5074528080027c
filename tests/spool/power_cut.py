"""The power goes at every step of a slot's life, and of what was not synced any subset is lost.

    python -m tests.spool.power_cut --seed 1 --lives 20 [--mode flush]          or: make powercut SEED=1 LIVES=20

A life is a script by seed on a `PowerCutFiles`: appends of all sizes, with symbols and without, explicit syncs,
checkpoints, trims, rotations, appends that are taken back, restarts, new lives, closes.  Before each call that stores
or syncs something the disk is looked at as it would be after a power cut there: with nothing of what is not synced,
with all of it, with each single effect, with all but one, and with random subsets.  What differs is opened and judged:

- everything that the mode has promised by then is there (behaviour.md 9): `Life.promised`, and what `synced_fsn`
  claims, whatever the mode;
- what is there are frames that were published, whole, without a hole, with the symbols they use;
- the slot opens, takes an append, and opens again.  Only ``memory`` may set a slot aside (ours.md 15d).

Now and then the opening itself is cut, and what that leaves is judged in the same way.  A sector (64 bytes here, for
segments of 400) is written whole; a directory that was made needs the sync of the one above.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, get_args

from spoolq.columns.symbols import SymbolTable
from spoolq.errors import StorageError
from spoolq.spool.disk import DiskStore
from spoolq.spool.opening import open_store
from spoolq.spool.store import Durability
from tests.spool import slot_maker
from tests.spool.disk_slot import replay
from tests.spool.files_double import SYNCS, Killed, PowerCutFiles, UnsyncedFiles, write_image

ID: Final = "writer"
SEGMENT: Final = 400
SECTOR: Final = 64
TOTAL: Final = 2_400
MODES: Final[tuple[Durability, ...]] = get_args(Durability)
CHANGES: Final = (
    "create", "open_or_create", "write", "append", "truncate", "reserve", "store", "rename", "unlink", "make_directory",
)  # fmt: skip


class Disk(PowerCutFiles):
    """Calls ``look`` before each step that changes or syncs something; from step ``last`` on the power is off."""

    def __init__(self, root: Path, *, last: int | None = None) -> None:
        super().__init__(root, sector=SECTOR, directories=True)
        self.root = root
        self.look: Any = None
        self.steps = 0
        self._last = last

    def step(self, name: str, path: str, arguments: tuple[Any, ...], act: Any) -> Any:
        if name in CHANGES or name in SYNCS:
            if self.look is not None:
                self.look()
            if self._last is not None and self.steps >= self._last:
                raise Killed(name)
            self.steps += 1
        return super().step(name, path, arguments, act)

    def subsets(self, rng: random.Random, some: int) -> Iterator[frozenset[int]]:
        """Which effects survive: see the module's text; ``some`` random ones."""
        every = frozenset(range(self.pending))
        yield frozenset()
        yield every
        for index in every:
            yield frozenset({index})
            yield every - {index}
        for _ in range(some):
            part = rng.random()
            yield frozenset(index for index in every if rng.random() < part)


@dataclass
class Told:
    """What a life was told until some moment."""

    promised: int
    acked: int
    published: dict[int, bytes]
    tried: dict[int, bytes]
    needs: dict[int, int]  # FSN -> symbols its frame uses, or was about to
    names: list[str]  # of the symbols in published frames, by id


@dataclass
class Life:
    """One script.  ``tally`` counts steps looked at, states, and what became of them."""

    folder: Path
    mode: Durability
    seed: int
    some: int = 3
    length: int = 45
    tally: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.mode} {self.seed}")
        self.disk = Disk(self.folder / "disk")
        self.store: DiskStore | None = None
        self.symbols = SymbolTable()
        self.seen: set[bytes] = set()
        self.now = 0
        self.begin_anew()

    def begin_anew(self) -> None:
        """A slot's life ended with a drained close: FSNs start again."""
        self.told = Told(-1, -1, {}, {}, {}, [])

    # --- the script -----------------------------------------------------------------------------------

    def run(self) -> None:
        """From the first open to a close, looked at all the way."""
        (self.folder / "disk").mkdir(parents=True)
        self.disk.look = self.look
        try:
            self.disk.make_directory(str(self.folder / "disk" / "spool"))
            self.open()
            for _ in range(self.length):
                self.rng.choices(
                    [self.append, self.sync, self.keep, self.acknowledge, self.take_back, self.restart, self.live_anew],
                    [12, 3, 4, 2, 1, 1, 1],
                )[0]()
            self.close()
            self.look()
        finally:
            self.disk.bury()

    def open(self) -> None:
        opened = open_store(
            self.disk,
            str(self.folder / "disk" / "spool"),
            ID,
            segment_nbytes=SEGMENT,
            total_nbytes=TOTAL,
            durability=self.mode,
            sync_interval_millis=3_000,
        )
        assert opened.report.set_aside == ""
        self.store, self.symbols = opened.store, opened.symbols
        self.claim()

    def claim(self) -> None:
        """What is synced is promised, whoever did it."""
        assert self.store is not None
        self.told.promised = max(self.told.promised, self.store.synced_fsn)

    def append(self) -> None:
        """A frame of any size, with up to two symbols of its own; with `append` it is synced before this returns."""
        store, told = self.store, self.told
        assert store is not None
        fsn, first = store.published_fsn + 1, self.symbols.published_count
        new = [f"s{first + index}-{self.rng.randrange(100)}" for index in range(self.rng.choice((0, 0, 1, 2)))]
        body = b"frame %05d " % fsn + bytes(self.rng.choices(range(1, 256), k=self.rng.choice((0, 20, 90, 250))))
        payload = slot_maker.message(first, new, body=body)
        room = store.reserve(len(payload))
        if room is None:
            self.keep()
            return
        room.view[:] = payload
        told.tried[fsn], told.needs[fsn] = payload, first + len(new)
        self.symbols.truncate(first)  # those that were taken back
        for name in new:
            self.symbols.intern(name)
        del told.names[first:]
        told.names += new
        store.write_ahead(self.symbols, first, first + len(new))
        self.symbols.published_count = first + len(new)
        assert store.publish(room) == fsn
        told.published[fsn] = payload
        if self.mode == "append":
            store.sync(fsn)
            assert store.synced_fsn >= fsn
            self.claim()

    def sync(self) -> None:
        """An explicit flush: `flush` and `append` sync what is published."""
        assert self.store is not None
        if self.mode in ("flush", "append"):
            self.store.sync()
            assert self.store.synced_fsn == self.store.published_fsn
            self.claim()

    def keep(self) -> None:
        """The keeper comes by a second later, in `periodic` with a checkpoint when it is time."""
        assert self.store is not None
        self.now += 1_000
        self.store.keep(self.now)
        assert self.store.stats().trouble == ""
        self.claim()

    def acknowledge(self) -> None:
        store = self.store
        assert store is not None
        if store.published_fsn > store.acked_fsn:
            self.told.acked = self.rng.randint(store.acked_fsn + 1, store.published_fsn)
            store.acknowledge(self.told.acked)

    def take_back(self) -> None:
        """Symbols are written ahead of a frame that is not published then."""
        assert self.store is not None
        room = self.store.reserve(20)
        if room is None:
            return
        first = self.symbols.published_count
        self.symbols.truncate(first)
        self.symbols.intern(f"never-{self.now}")
        self.store.write_ahead(self.symbols, first, first + 1)
        self.store.abandon(room)
        self.symbols.truncate(first)

    def live_anew(self) -> None:
        """All is acknowledged, and the ids of symbols begin anew; with nothing published there is nothing to begin."""
        store = self.store
        assert store is not None
        if store.published_fsn < 0:
            return
        self.told.acked = store.published_fsn
        store.acknowledge(self.told.acked)
        if store.restart_dictionary():
            self.symbols.restart()
            self.told.names.clear()
            self.tally["new lives"] += 1

    def restart(self) -> None:
        """Close and open again; half of the time as if a kill had come instead of the close."""
        if self.rng.random() < 0.5:
            self.disk.bury()
            self.store = None
        else:
            self.close()
        self.open()

    def close(self) -> None:
        store, self.store = self.store, None
        assert store is not None
        drained = store.acked_fsn >= store.published_fsn
        if not drained and self.mode != "memory":
            self.told.promised = max(self.told.promised, store.synced_fsn)
        published = store.published_fsn
        store.close()
        if drained:
            self.begin_anew()
        elif self.mode != "memory":
            self.told.promised = published

    # --- looking --------------------------------------------------------------------------------------

    def look(self) -> None:
        """Every state that a power cut could leave now."""
        self.tally["steps"] += 1
        if self.store is not None:
            self.claim()
        for subset in set(self.disk.subsets(self.rng, self.some)):
            found = self.disk.contents(subset.__contains__)
            if self.is_new(*found):
                self.tally["states"] += 1
                opened = self.judge(write_image(self.folder / "image", self.disk.root, *found))
                if opened and self.rng.random() < 0.05:
                    self.cut_again(write_image(self.folder / "again", self.disk.root, *found))

    def is_new(self, directories: set[str], files: dict[str, bytes]) -> bool:
        digest = hashlib.sha256(repr((sorted(directories), self.told.promised, self.told.acked)).encode())
        for path, content in sorted(files.items()):
            digest.update(f"{path} {len(content)} ".encode() + content)
        key = digest.digest()
        new = key not in self.seen
        self.seen.add(key)
        return new

    def cut_again(self, root: Path) -> None:
        """The power goes once more while the slot is being opened."""
        disk = Disk(root, last=self.rng.randrange(30))
        try:
            if (root / "spool").is_dir():
                open_store(
                    disk, str(root / "spool"), ID, segment_nbytes=SEGMENT, total_nbytes=TOTAL, durability=self.mode
                ).store.close(sync=False)
        except Killed:
            disk.look = None
            for subset in [frozenset(), *disk.subsets(self.rng, 1)][:6]:
                self.tally["cut twice"] += 1
                self.judge(disk.image(self.folder / "image", subset.__contains__))
        finally:
            disk.bury()

    def judge(self, image: Path) -> bool:
        """Opens what is left, twice; False when it was set aside."""
        told = self.told
        promised = {f: p for f, p in told.published.items() if told.acked < f <= told.promised}
        if not (image / "spool").is_dir():
            assert self.mode == "memory" or not promised
            (image / "spool").mkdir()
        next_fsn = None
        for turn in range(2):
            opened = open_store(UnsyncedFiles(), str(image / "spool"), ID, segment_nbytes=SEGMENT, total_nbytes=1 << 20)
            store = opened.store
            try:
                if opened.report.set_aside:
                    assert self.mode == "memory", opened.report.line()
                    self.tally["set aside"] += 1
                    return False
                first = store.acked_fsn + 1
                found = dict(enumerate(replay(store, first), first))
                assert promised.items() <= found.items(), (sorted(promised), sorted(found), opened.report.line())
                if turn == 0:
                    self.tally["frames"] += len(found)
                    assert found.items() <= told.tried.items()
                    assert store.acked_fsn <= told.acked
                    self.tally["cut tails"] += bool(opened.report.cut)
                need = max((told.needs[f] for f, p in found.items() if told.tried.get(f) == p), default=0)
                assert len(opened.symbols) >= need
                assert opened.symbols.entries(0, need) == slot_maker.entries(told.names[:need])
                assert next_fsn in (None, store.published_fsn + 1)
                payload = slot_maker.message(opened.symbols.published_count, [], body=b"another")
                room = store.reserve(len(payload))
                if room is None:
                    store.keep(0)
                    room = store.reserve(len(payload))
                assert room is not None
                room.view[:] = payload
                promised = {**promised, store.publish(room): payload}
                next_fsn = store.published_fsn + 1
            finally:
                store.close()
        return True


def run(folder: Path, mode: Durability, seed: int, *, some: int = 3, length: int = 45) -> Counter[str]:
    """One life; what it counted.  A failure names mode and seed."""
    life = Life(folder, mode, seed, some=some, length=length)
    try:
        life.run()
    except (AssertionError, StorageError) as error:
        raise AssertionError(f"mode {mode}, seed {seed}, step {life.tally['steps']}: {error!r}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return life.tally


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lives", type=int, default=20)
    parser.add_argument("--mode", choices=MODES, action="append")
    options = parser.parse_args()
    logging.disable()  # each state would tell what was found
    with tempfile.TemporaryDirectory() as folder:
        for mode in options.mode or MODES:
            tally: Counter[str] = Counter()
            for seed in range(options.seed, options.seed + options.lives):
                tally += run(Path(folder) / "life", mode, seed, some=8)
            print(f"{mode:8} {', '.join(f'{name} {count:,}' for name, count in sorted(tally.items()))}", flush=True)


if __name__ == "__main__":
    main()
