"""One story: a slot, a server in bad weather, a writer that is killed again and again; all from one seed.

    with Nursery() as nursery:
        Story(seed, kills, folder, nursery, counts).run()      raises `judge.Wrong`

The seed chooses segment and row sizes, what the server does, what each writer does and when it dies.  The clock is
real, so a seed repeats a story, not each microsecond of it; `python -m tests.crash --story SEED` tells it again.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

from spoolq.testing import QwpServer, Script, random_scripts
from tests.crash.judge import Judge, Ledger, Wrong
from tests.crash.nursery import Nursery
from tests.ports import free_port

# Segment, cap and longest text in bytes; frames above 64 KiB do not go through the mapping.
_SIZES = (
    (4 << 10, 1 << 20, 2_000),
    (4 << 10, 32 << 10, 2_000),
    (16 << 10, 4 << 20, 9_000),
    (1 << 20, 16 << 20, 90_000),
    (1 << 20, 16 << 20, 250_000),
)
_RECONNECT = "reconnect_initial_backoff_millis=1;reconnect_max_backoff_millis=10;"
_LIFE_SECONDS_MAX = 2.0
# Any other report: idle.
_PHASE = {"opening": "opening", "batch": "handing rows over", "flush": "flushing", "closing": "closing"}


class Weather:
    """What the server does meanwhile: down, up, silent, full of faults, changing."""

    def __init__(self, server: QwpServer[Ledger], rng: random.Random) -> None:
        self._server = server
        self._random = rng
        self.is_up = False
        self._next_change = 0.0

    def begin(self) -> None:
        """A life begins."""
        self._random.choice((self._down, self._down, self._down, self._fine, self._fine, self._silent, self._faults))()
        self._plan()

    def change(self, now: float) -> float:
        """Changes when it is time to; how long it stays now, in seconds."""
        if now >= self._next_change:
            every = (self._down, self._fine, self._silent, self._faults, self._drop, self._fine)
            self._random.choice(every)()
            self._plan()
        return max(0.0, self._next_change - time.monotonic())

    def end(self) -> None:
        """Fine from now on."""
        self._fine()

    def _plan(self) -> None:
        self._next_change = time.monotonic() + self._random.expovariate(1 / 0.06)

    def _up(self) -> None:
        if not self.is_up:
            self._server.start()
            self.is_up = True

    def _down(self) -> None:
        self._server.stop()
        self.is_up = False

    def _fine(self) -> None:
        self._up()
        self._server.set_script(Script())
        self._server.release_acks()
        self._server.drop_connections()  # those that have a script with faults

    def _silent(self) -> None:
        self._up()
        self._server.hold_acks()

    def _faults(self) -> None:
        self._up()
        self._server.set_script(random_scripts(self._random.randrange(1 << 32), 6))
        self._server.release_acks()
        self._server.drop_connections()

    def _drop(self) -> None:
        self._up()
        self._server.drop_connections(reset=self._random.random() < 0.5)


class Story:
    """See the module's text; ``counts`` grows by what happened."""

    def __init__(self, seed: int, kills: int, folder: Path, nursery: Nursery, counts: Counter[str]) -> None:
        self._seed = seed
        self._kills = kills
        self._nursery = nursery
        self._counts = counts
        self._random = random.Random(seed)
        segment, total, self._text_nbytes_max = self._random.choice(_SIZES)
        self._sizes = f"sf_max_segment_bytes={segment};sf_max_total_bytes={total};"
        self._folder = folder
        self._ledger = Ledger(self._text_nbytes_max)
        self._judge = Judge(self._ledger, folder / "default", counts)
        self._phase = ""
        self._life = -1

    def run(self) -> None:
        """All lives, the last drain, the verdict."""
        with QwpServer(port=free_port(), store=self._ledger, record_nbytes_max=0) as server:
            weather = Weather(server, self._random)
            weather.is_up = True
            self._conf = f"{server.conf}{self._sizes}{_RECONNECT}sf_append_deadline_millis=30;"
            try:
                for _ in range(self._kills):
                    self._one_life(weather)
                weather.end()
                self._drain()
            except Wrong as error:
                raise Wrong(f"story {self._seed}, life {self._life}, {self._sizes}: {error}") from error
        self._counts["rows landed"] += len(self._ledger.landed)
        self._counts["rows landed more than once"] += self._ledger.twice

    def _one_life(self, weather: Weather) -> None:
        """Start, wait for the moment, kill, look."""
        target = self._random.choice(("opening", "open", "open", "batch", "flush", "flush", "closing"))
        delay, nth = self._moment(target)
        weather.begin()
        self._start(steps_max=6 if target == "closing" else 60)
        latest = time.monotonic() + _LIFE_SECONDS_MAX
        kill_at = latest
        while (now := time.monotonic()) < kill_at:
            report = self._nursery.report(min(weather.change(now), max(0.0, kill_at - now)))
            if report is None:
                continue
            self._heard(report)
            if report[1] == target and kill_at == latest:
                nth -= 1
                if nth == 0:
                    kill_at = time.monotonic() + delay
        if kill_at == latest:
            self._counts["killed late, for its moment did not come"] += 1
        self._nursery.kill()
        up = weather.is_up
        if self._end() != 9:
            raise Wrong("the writer ended before it was killed")
        self._counts["kills"] += 1
        self._counts[f"killed while {self._phase}"] += 1
        self._counts[f"killed with the server {'up' if up else 'down'}"] += 1
        self._judge.autopsy()

    def _moment(self, target: str) -> tuple[float, int]:
        """Seconds behind the n-th report of a kind."""
        rng = self._random
        match target:
            case "opening":
                return rng.random() * 0.006, rng.choice((1, 1, 2))
            case "open":
                return 0.001 * 200 ** rng.random(), 1
            case "batch":
                return rng.random() * 0.002, rng.randint(1, 40)
            case "flush":
                return rng.random() * 0.0004, rng.randint(1, 20)
        return rng.random() * 0.003, rng.randint(1, 2)

    def _drain(self) -> None:
        """One last sender delivers what is left."""
        self._start(drain=True)
        self._nursery.reap(self._life)
        if self._end(reaped=True) != 0:
            raise Wrong("the last sender failed")
        self._judge.autopsy()
        self._judge.settle("after the last drain")
        self._judge.clean()

    def _start(self, *, steps_max: int = 0, drain: bool = False) -> None:
        self._life += 1
        order: dict[str, Any] = {
            "seed": self._seed,
            "life": self._life,
            "number": self._judge.announced_end,
            "conf": self._conf,
            "sf_dir": str(self._folder),
            "text_nbytes_max": self._text_nbytes_max,
            "steps_max": steps_max,
            "drain": drain,
        }
        self._phase = "starting"
        self._nursery.start(order)
        while True:  # its process id
            report = self._nursery.report()
            assert report is not None, "the nursery does not answer"
            self._heard(report)
            if report[1] == "born":
                return

    def _end(self, *, reaped: bool = False) -> int:
        """Hears everything that the dead one said; its status."""
        if not reaped:
            self._nursery.reap(self._life)
        while True:
            report = self._nursery.report()
            if report is None:
                self._nursery.kill()
                raise Wrong("the writer does not end")
            if report[1] == "gone":
                return int(report[2])
            self._heard(report)

    def _heard(self, report: list[Any]) -> None:
        if report[1] == "born":
            return
        self._phase = _PHASE.get(report[1], "idle")
        self._judge.heard(report)
