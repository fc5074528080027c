"""The world of one seed: a writer, two servers, and what happens to them.  The clock is real."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from tests.chaos.journal import Journals
from tests.chaos.server import ServerProcess
from tests.crash.judge import Judge, Wrong
from tests.crash.nursery import Nursery

_TEXT_NBYTES_MAX: Final = 9_000
_CONF: Final = (
    "reconnect_initial_backoff_millis=5;reconnect_max_backoff_millis=200;auth_timeout_ms=2000;"
    # What the servers do here is never a frame's fault; and a full slot must end a flush soon, not the writer.
    "max_frame_rejections=1000000;sf_max_segment_bytes=65536;sf_max_total_bytes=4194304;sf_append_deadline_millis=100;"
)
_CHANGE_SECONDS: Final = 0.4  # of one server, on average
_WRITER_LIFE_SECONDS: Final = 6.0  # until it is killed, on average
_STEPS_MAX: Final = 2_000  # of one sender of the writer, until it closes
_DRAIN_SECONDS: Final = 90.0


class Server:
    """One server and the time of its next change."""

    def __init__(self, process: ServerProcess, rng: random.Random, counts: Counter[str]) -> None:
        self._process = process
        self._random = rng
        self._counts = counts
        self.next_change = 0.0

    def change(self) -> None:
        """Something happens to it."""
        rng = self._random
        self.next_change = time.monotonic() + rng.expovariate(1 / _CHANGE_SECONDS)
        if not self._process.is_up:
            self._process.start()
            self._counts["server: started again"] += 1
            return
        kinds: list[tuple[str, tuple[Any, ...] | None]] = [
            ("killed by SIGKILL", None),
            ("acks held back", ("hold",)),
            ("acks let go", ("release",)),
            ("connections dropped", ("drop", rng.random() < 0.5)),
            ("closed", ("close", rng.choice((1000, 1001, 1008, 1009, 1011, 4000)))),
            ("demoted", ("refuse", 421, rng.choice(("REPLICA", "PRIMARY_CATCHUP")))),
            ("busy: 503", ("refuse", 503, None)),
            ("acks late", ("late", rng.randrange(1, 300))),
            ("a frame rejected", ("reject", rng.randrange(20), rng.choice((0x06, 0x09, 0x0C, 0x0D, 0x7F)))),
            ("closed behind a frame", ("closing", rng.randrange(20), rng.choice((1000, 1011)))),
            ("six scripts with faults", ("faults", rng.randrange(1 << 32))),
            ("a smaller cap", ("smaller", rng.choice((20_000, 100_000)))),
            *[("fine again", ("fine",))] * 5,
        ]
        name, order = rng.choice(kinds)
        self._counts[f"server: {name}"] += 1
        if order is None:
            self._process.kill()
        else:
            self._process.order(*order)

    def mend(self) -> None:
        """Up and honest from now on."""
        if not self._process.is_up:
            self._process.start()
        self._process.order("fine")


class World:
    """See the package's text; ``counts`` grows by what happened.

    ``kills_min``: it goes on beyond its seconds until so many servers, and so many writers, have been killed: how
    many that are in a minute says how long a process takes to start here.
    """

    def __init__(
        self, seed: int, seconds: float, folder: Path, nursery: Nursery, counts: Counter[str], kills_min: int = 0
    ) -> None:
        self._seed = seed
        self._seconds = seconds
        self._kills_min = kills_min
        self._nursery = nursery
        self._counts = counts
        self._random = random.Random(seed)
        self._slots = folder / "spool"
        self._journals_folder = folder / "journals"
        self._journals_folder.mkdir()
        self._processes = [ServerProcess(name, self._journals_folder, _TEXT_NBYTES_MAX) for name in ("one", "two")]
        self._servers = [Server(process, self._random, counts) for process in self._processes]
        self._journals = Journals(self._journals_folder)
        self._judge = Judge(self._journals, self._slots / "default", counts)
        self._life = -1

    def run(self) -> None:
        """The given time of chaos, then the drain and the verdict; raises `Wrong`."""
        try:
            for process in self._processes:
                process.start()
            self._chaos(time.monotonic() + self._seconds)
            for server in self._servers:
                server.mend()
            self._drain()
        except Wrong as error:
            raise Wrong(f"seed {self._seed}, life {self._life}: {error}") from error
        finally:
            for process in self._processes:
                process.kill()
        self._verdict()

    def _chaos(self, until: float) -> None:
        self._start(drain=False)
        killed_at = self._next_kill()
        while (now := time.monotonic()) < until or not self._killed_enough():
            for server in self._servers:
                if server.next_change <= now:
                    server.change()
            if killed_at <= now:
                self._kill()
                self._start(drain=False)
                killed_at = self._next_kill()
            upcoming = [killed_at, *(server.next_change for server in self._servers)]
            self._hear_until(min(upcoming) if until <= now else min(until, *upcoming))
        self._kill()

    def _killed_enough(self) -> bool:
        return all(self._counts[f"{who}: killed by SIGKILL"] >= self._kills_min for who in ("server", "writer"))

    def _next_kill(self) -> float:
        return time.monotonic() + self._random.expovariate(1 / _WRITER_LIFE_SECONDS)

    def _hear_until(self, when: float) -> None:
        """Everything the writer says until then."""
        while (left := when - time.monotonic()) > 0:
            report = self._nursery.report(left)
            if report is not None:
                self._judge.heard(report)

    def _kill(self) -> None:
        self._nursery.kill()
        if self._end() != 9:
            raise Wrong("the writer ended before it was killed")
        self._counts["writer: killed by SIGKILL"] += 1
        self._judge.autopsy()

    def _drain(self) -> None:
        """One last sender delivers what is left."""
        self._start(drain=True)
        self._nursery.reap(self._life)
        if self._end(reaped=True) != 0:
            raise Wrong("the last sender failed")
        self._judge.autopsy()
        self._judge.settle("after the last drain")
        self._judge.clean()

    def _verdict(self) -> None:
        """Order, over all servers and all lives."""
        arrivals = self._journals.arrivals()
        if arrivals.faults:
            raise Wrong(f"seed {self._seed}: {'; '.join(arrivals.faults)}")
        self._counts["rows landed"] += len(arrivals.landed)
        self._counts["rows landed more than once"] += arrivals.twice

    def _start(self, *, drain: bool) -> None:
        self._life += 1
        addresses = ",".join(f"127.0.0.1:{process.port}" for process in self._processes)
        self._nursery.start(
            {
                "seed": self._seed,
                "life": self._life,
                "number": self._judge.announced_end,
                "conf": f"ws::addr={addresses};{_CONF}",
                "sf_dir": str(self._slots),
                "text_nbytes_max": _TEXT_NBYTES_MAX,
                "steps_max": _STEPS_MAX,
                "drain": drain,
            }
        )
        while True:  # its process id
            report = self._nursery.report()
            assert report is not None, "the nursery does not answer"
            if report[1] == "born":
                return
            self._judge.heard(report)

    def _end(self, *, reaped: bool = False) -> int:
        """Hears everything that the dead one said; its status."""
        if not reaped:
            self._nursery.reap(self._life)
        until = time.monotonic() + _DRAIN_SECONDS
        while (left := until - time.monotonic()) > 0:
            report = self._nursery.report(left)
            if report is None:
                break
            if report[1] == "gone":
                return int(report[2])
            self._judge.heard(report)
        self._nursery.kill()
        raise Wrong("the writer does not end")
