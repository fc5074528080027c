"""Random hand-overs of one slot between the official client and ours, each turn a process of its own.

    python -m tests.interop.handovers [--turns 200] [--seed N]        (make handovers)

A turn: one of the clients opens the slot, with the server in some state, writes or not, and is killed at a random
moment or closes in some way.  After every turn `Ledger.judge` looks at what has landed; when a turn has drained
the slot, everything must have landed, and none of it may land again.  The seed decides all but the very
moment at which a signal hits.  200 turns take about two minutes.
"""

from __future__ import annotations

import argparse
import random
import secrets
import struct
import tempfile
import time
from collections import Counter
from pathlib import Path

from spoolq.server import QwpServer, Script
from spoolq.server.script import Drop
from tests.interop.slot_process import (
    CLIENTS,
    NOWHERE,
    SENDER_ID,
    Active,
    Ledger,
    Server,
    Shape,
    Writer,
    active_segment,
    adopt,
    demand_empty,
    drain,
)
from tests.spool import slot_maker

_SEGMENTS = (4096, 4096, 16384, 1 << 20)
_SYMBOLS = (1, 10, 200, 5_000)
_FLUSHES_MAX = 200
_TEAR = 0.25
_ADOPT = 0.25
_OPENING_SECONDS = 0.6
_CLOSING_SECONDS = 0.03


class HandOvers:
    """One slot below ``root``, one server that lives through all turns; ``counts`` says what happened how often."""

    def __init__(self, root: Path, server: Server, seed: int) -> None:
        self.root = root
        self.server = server
        self.rng = random.Random(seed)
        self.ledger = Ledger()
        self.counts: Counter[str] = Counter()
        self._address = ""
        self._client = ""
        self._segment = 0
        self._writing: Writer | None = None
        self._torn = False  # by hand, and nobody has opened the slot since

    def run(self, turns: int) -> Counter[str]:
        """All turns and a last drain; raises AssertionError as `Ledger` does."""
        for _ in range(turns):
            self._turn()
        self._serve("honest")
        drain(self.rng.choice(CLIENTS), self.server.conf, self.root, self.ledger)
        self._drained()
        return self.counts

    # --- one turn --------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._client = self.rng.choice(CLIENTS)
        self._segment = self.rng.choice(_SEGMENTS)
        state = self.rng.choice(("nobody", "nobody", "honest", "silent", "stops", "drops"))
        life = self.rng.choice(
            (self._killed_while_writing, self._killed_at_a_moment, self._killed_while_closing, self._closed_at_once)
            + ((self._drained_by_close,) if state in ("honest", "drops") else ())
        )
        adopting = state == "honest" and self.rng.random() < _ADOPT
        if adopting:
            self._client = "official"
        left = self._look()
        self._serve(state)
        if adopting and left:
            life = self._adopted
        life(state)
        if self._writing is not None and self._writing.opened:
            self._torn = False
        self._count(f"{self._client}: {state}, {life.__name__.strip('_').replace('_', ' ')}")
        self.ledger.judge(self.server, whole=False)

    def _serve(self, state: str) -> None:
        """Puts the server into a state for the connections to come."""
        self._address = NOWHERE if state == "nobody" else self.server.conf
        self.server.release_acks()
        self.server.set_script(())
        if state == "silent":
            self.server.hold_acks()
        elif state == "drops":
            steps = [self.rng.randrange(1, 20) for _ in range(4)]
            drops = [Script(drop=Drop(after_frames=n, before_ack=n % 2 == 0)) for n in steps]
            self.server.set_script([*drops, Script()])

    def _writer(self, extra: str = "", *, wait: bool = True) -> Writer:
        sizes = f"sf_max_segment_bytes={self._segment};sf_max_total_bytes=67108864;"
        self._writing = Writer(self._client, self._address, self.root, self.ledger, sizes + extra, wait=wait)
        return self._writing

    def _shape(self) -> Shape:
        return self.rng.randrange(1, 9), self.rng.randrange(1, 5), self.rng.choice(_SYMBOLS)

    def _write(self, writer: Writer, state: str) -> None:
        """Some flushes; the server that stops answers the first of them only."""
        for _ in range(2):
            writer.write(self.rng.randrange(_FLUSHES_MAX // 2), self._shape())
            if state == "stops":
                self.server.hold_acks()

    def _killed_while_writing(self, state: str) -> None:
        with self._writer() as writer:
            if state == "stops":
                self._write(writer, state)
            flushes = self.rng.randrange(1, _FLUSHES_MAX)
            writer.begin(flushes, self._shape())
            writer.read_flushes(writer.kept + self.rng.randrange(flushes))
            writer.kill()

    def _killed_at_a_moment(self, state: str) -> None:
        """Perhaps before it has opened."""
        with self._writer(wait=False) as writer:
            writer.begin(_FLUSHES_MAX, self._shape())
            writer.read_for(self.rng.uniform(0, _OPENING_SECONDS))
            self._count("killed before it was open", not writer.opened)
            writer.kill()

    def _killed_while_closing(self, state: str) -> None:
        with self._writer() as writer:
            self._write(writer, state)
            writer.begin_close()
            writer.read_for(self.rng.uniform(0, _CLOSING_SECONDS))
            writer.kill()

    def _closed_at_once(self, state: str) -> None:
        with self._writer(f"close_flush_timeout_millis={self.rng.choice((-1, 0, 30))};") as writer:
            self._write(writer, state)
            writer.close(drained=None)

    def _drained_by_close(self, state: str) -> None:
        with self._writer("close_flush_timeout_millis=60000;") as writer:
            self._write(writer, state)
            assert writer.close(drained=True) == ""
        self._drained()

    def _adopted(self, state: str) -> None:
        """By a background drainer of the official client, while its foreground has a slot of its own."""
        adopt(self.server, self.root, self.ledger)
        self._torn = False
        self._drained()

    # --- between turns ---------------------------------------------------------------------------

    def _drained(self) -> None:
        """Everything has landed, and the slot is empty."""
        self.counts.update(self.ledger.judge(self.server, whole=True))
        self._count("segments that were being made", demand_empty(self.root))
        self.ledger.forget(self.server)
        self._count("drained to an empty slot")

    def _look(self) -> int:
        """Counts what the next client will find, and now and then tears it first; how many frames are to be sent."""
        active = active_segment(self.root)
        if active is None:
            self._count(f"{self._client} opened an empty slot")
            return 0
        slot = self.root / SENDER_ID
        residue = bool(active.data[active.end :].strip(b"\0"))
        self._count("frames torn by a signal", residue and not self._torn)
        mark = slot_maker.read_record((slot / ".ack-watermark").read_bytes(), b"AKW1", 1)
        newest = active.base + len(active.payloads) - 1
        self._count(f"{self._client} recovered a slot")
        left = newest - (mark[0] if mark else -1)
        self._count(f"{self._client} recovered frames", left)
        self._count(f"{self._client} found segments", len(list(slot.glob("*.sfa"))))
        boundaries = slot_maker.read_record((slot / "sf-manifest.bin").read_bytes(), b"SFM1", 2)
        appends = (
            boundaries is not None and boundaries[1] == active.base
        )  # else a signal hit between rotation and frame
        if self.rng.random() < _TEAR and appends and not residue and not self._torn:
            self._tear(active)
        return left

    def _tear(self, active: Active) -> None:
        """What a writer leaves that a signal ended within an append: part of a chunk of symbols, part of a frame.

        Signals seldom hit there.  The frame was never published, so nothing of the demands changes.
        """
        self._torn = True
        with active.path.with_name(".symbol-dict").open("ab") as file:
            file.write(slot_maker.chunk([f"torn {self.rng.random()}"])[: self.rng.randrange(2, 12)])
        self._count(f"symbols torn by hand for {self._client}")
        room = len(active.data) - active.end - 8
        if room > 0:
            length = self.rng.randrange(1, min(room, 500) + 1)
            with active.path.open("r+b") as file:
                file.seek(active.end)
                file.write(struct.pack("<Ii", 0, length) + bytes([255] * self.rng.randrange(length)))
            self._count(f"frames torn by hand for {self._client}")

    def _count(self, what: str, times: int = 1) -> None:
        self.counts[what] += times


def run(turns: int, seed: int, root: Path) -> Counter[str]:
    """That many turns in ``root``; the counts.  An AssertionError names the seed."""
    with QwpServer() as server:
        hand_overs = HandOvers(root, server, seed)
        try:
            return hand_overs.run(turns)
        except AssertionError as error:
            error.add_note(f"seed {seed}, {turns} turns, so far: {dict(hand_overs.counts)}")
            raise


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    options = parser.parse_args()
    print(f"{options.turns} hand-overs, --seed {options.seed}", flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as root:
        counts = run(options.turns, options.seed, Path(root))
    for what, times in sorted(counts.items()):
        print(f"{times:8}  {what}")
    print(f"nothing lost, nothing invented, nothing out of order, in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
