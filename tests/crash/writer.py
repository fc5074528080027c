"""The writing process, and the nursery that brings it forth: a program of its own, killed and started again.

    python -m tests.crash.writer        orders on standard input, JSON a line; reports on standard output

The nursery has imported everything and opened nothing: it has no thread, no sender, no file.  For each order
``start`` it forks one child, which opens its own `spoolq.Sender` on the slot; for ``reap`` it waits for that child
and says how it ended.  A child's process id is not given to anybody else before it is reaped.

Reports are JSON lists, each written by one `write`, so that none is torn and all that a dead child said stands
before the nursery's ``gone``:

    [life, "opening"]                              about to open the slot
    [life, "unconnected"]                          the first connect was refused; the slot is given back
    [life, "open", {found}]                        what recovery found
    [life, "batch", first, end, published]         rows first to end - 1 are about to be handed to row()
    [life, "flush"]                                flush() is called
    [life, "flushed", [[first, end] ...], fsn]     a flush returned and covers these rows
    [life, "full"]                                 a flush found no room; its rows are still buffered
    [life, "idle"]                                 nothing to write for a moment
    [life, "closing"] [life, "closed"]             around close(); rows that were not flushed are in doubt
    [life, "failed", text]                         anything that must not happen
    [life, "gone", status]                         by the nursery: the child has ended
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
import traceback
from typing import Any

import spoolq.link.connection
import spoolq.spool.opening  # noqa: F401  what a sender imports at its first use: no child pays for it
from spoolq import BackpressureError, DeliveryTimeout, Sender, TimestampMicros
from tests.crash.rows import row

_BATCHES = (1, 1, 1, 5, 20, 100)
_TRIGGERS = ("auto_flush=off;", "auto_flush=off;", "auto_flush_rows=7;", "auto_flush_interval=2;")
_DRAIN_MILLIS = 60_000


class Writer:
    """One life: opens, writes, closes, opens again, until it is killed; or drains and ends."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.random = random.Random(f"{order['seed']}/{order['life']}")
        self.number: int = order["number"]
        self.pending: list[list[int]] = []  # rows that were taken and that no flush has covered, as first and end

    def say(self, *what: Any) -> None:
        os.write(1, json.dumps([self.order["life"], *what]).encode() + b"\n")

    def run(self) -> None:
        if self.order["drain"]:
            self._life(f"auto_flush=off;close_flush_timeout_millis={_DRAIN_MILLIS};", steps=0)
            return
        while True:
            timeout = self.random.choice((0, 0, 5, 50))
            conf = f"{self.random.choice(_TRIGGERS)}close_flush_timeout_millis={timeout};"
            self._life(conf, self.random.randint(0, self.order["steps_max"]))

    def _life(self, conf: str, steps: int) -> None:
        connect = "async" if self.random.random() < 0.8 else "off"
        self.say("opening")
        try:
            sender = Sender.from_conf(
                self.order["conf"] + conf, sf_dir=self.order["sf_dir"], initial_connect_retry=connect
            )
        except ConnectionError:
            self.say("unconnected")
            time.sleep(0.002)
            return
        found = sender.recovery
        assert found is not None
        self.say(
            "open",
            {
                "recovered": found.recovered,
                "next_fsn": found.next_fsn,
                "published": sender.published_fsn(),
                "remaining": found.frames_remaining,
                "deferred": found.frames_deferred,
                "torn": [cut.nbytes for cut in found.cut],
                "copies": [cut.copy for cut in found.cut if cut.copy],
                "symbols_rebuilt": found.symbols_rebuilt,
                "quarantined": found.quarantined,
                "set_aside": found.set_aside,
                "warnings": found.warnings,
            },
        )
        for _ in range(steps):
            self._step(sender)
        self.say("closing")
        with contextlib.suppress(DeliveryTimeout, BackpressureError):
            sender.close()
        self.say("closed")
        self.pending = []

    def _step(self, sender: Sender) -> None:
        chance = self.random.random()
        if chance < 0.75:
            self._batch(sender, self.random.choice(_BATCHES))
        elif chance < 0.9:
            self.say("idle")
            time.sleep(self.random.random() * 0.008)
        else:
            self.say("idle")
            sender.await_acked_fsn(sender.published_fsn() or 0, timeout_millis=20)

    def _batch(self, sender: Sender, count: int) -> None:
        self.say("batch", self.number, self.number + count, sender.published_fsn())
        for number in range(self.number, self.number + count):
            self._row(sender, number)
        self.number += count
        self.say("flush")
        try:
            sender.flush()
        except BackpressureError:
            self.say("full")
        else:
            self.say("flushed", self.pending, sender.published_fsn())
            self.pending = []

    def _row(self, sender: Sender, number: int) -> None:
        made = row(number, self.order["text_nbytes_max"])
        try:
            sender.row(
                made.table,
                symbols={"s": made.s},
                columns={"n": made.n, "x": made.x, "text": made.text},
                at=TimestampMicros(made.micros),
            )
        except BackpressureError:
            return  # of a flush that the row tripped (it is buffered), or of the timer's (it is not): no promise
        if self.pending and self.pending[-1][1] == number:
            self.pending[-1][1] += 1
        else:
            self.pending.append([number, number + 1])


def _child(order: dict[str, Any]) -> None:
    """Never returns."""
    code = 1
    writer = Writer(order)
    try:
        writer.run()
        code = 0
    except BaseException as error:
        traceback.print_exc()
        writer.say("failed", f"{type(error).__name__}: {error}")
    finally:
        os._exit(code)


def main() -> None:
    """The nursery, until its standard input ends."""
    child = None
    try:
        for line in sys.stdin:
            order = json.loads(line)
            if order["do"] == "start":
                child = os.fork()
                if child == 0:
                    _child(order)
                os.write(1, json.dumps([order["life"], "born", child]).encode() + b"\n")
            elif child is not None:
                _, status = os.waitpid(child, 0)
                child = None
                os.write(1, json.dumps([order["life"], "gone", status]).encode() + b"\n")
    finally:
        if child is not None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


if __name__ == "__main__":
    main()
