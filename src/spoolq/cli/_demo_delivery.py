"""The demo's delivery: starts the ingesting process, kills it half-way, starts it again on the same slot.

`deliver` returns when everything is acknowledged and the slot is drained.  The processes (`_demo_ingest`) run in
sessions of their own, so that a Ctrl-C of the terminal reaches the demo alone, which then ends them; a process
whose demo is gone ends at its next report.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from spoolq.cli._demo_process import start

_END_SECONDS: Final = 30.0

# Rows handed over so far, frames that wait for their acknowledgement, whether the process has had a connection.
Tell = Callable[[int, int, bool], None]
Say = Callable[[str], None]


class IngestFailed(Exception):
    """The ingesting process failed; the text has its words."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """How it went.

    ``killed_at``: rows that the first process had told of when it was killed, None when it was not.
    ``frames_found``: frames that the second process found published, ``frames_recovered`` those of them that were
    not acknowledged and went out from the slot, ``next_row`` the row with which it went on.  ``reconnects``: how
    often the last process got a connection after the one it had was lost.
    """

    frames: int
    reconnects: int
    killed_at: int | None = None
    frames_found: int = 0
    frames_recovered: int = 0
    next_row: int = 0


def deliver(conf: str, sf_dir: str, limit: int | None, *, kill_at: int | None, tell: Tell, say: Say) -> Delivery:
    """All rows; the process is killed as soon as it has told of ``kill_at`` rows, never when that is None.

    Raises IngestFailed.
    """
    if kill_at is None:
        with Ingest(conf, sf_dir, limit) as ingest:
            say(f"ingest: process {ingest.pid}")
            return Delivery(*ingest.finish(ingest.reports(), tell))
    with Ingest(conf, sf_dir, limit) as ingest:
        say(f"ingest: process {ingest.pid}, to be killed behind row {kill_at:,}")
        killed_at = next(ingest.told(tell, kill_at))
        ingest.kill()
        say(f"ingest: process {ingest.pid} was killed by SIGKILL when it had told of {killed_at:,} rows")
    with Ingest(conf, sf_dir, limit) as ingest:
        reports = ingest.reports()
        opened = next(reports)
        say(
            f"ingest: process {ingest.pid} found {opened['frames']} frames in the slot, {opened['unacked']} of them "
            f"not acknowledged, and goes on with row {opened['next_row']:,}"
        )
        frames, reconnects = ingest.finish(reports, tell)
    return Delivery(frames, reconnects, killed_at, opened["frames"], opened["unacked"], opened["next_row"])


class Ingest:
    """One ingesting process, for a ``with`` block; it ends with the block, whatever happened in it."""

    def __init__(self, conf: str, sf_dir: str, limit: int | None) -> None:
        self._arguments = [conf, sf_dir, *([] if limit is None else [str(limit)])]

    def __enter__(self) -> Self:
        self._process = start("spoolq.cli._demo_ingest", *self._arguments, takes_input=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL, and it is gone when this returns; nothing when it has ended."""
        self._process.kill()
        self._process.communicate()

    def reports(self) -> Iterator[dict[str, Any]]:
        """What it says, until it ends; raises IngestFailed when it says that it failed, or dies.

        When it waits it goes on behind what the caller does with the reports before that.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            report = json.loads(line)
            if "failed" in report:
                raise IngestFailed(f"the ingesting process failed: {report['failed']}")
            if "waits" in report:
                self._let_go_on()
            else:
                yield report
        raise IngestFailed(f"the ingesting process ended early, with status {self._process.wait()}")

    def _let_go_on(self) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, and its reports do too
            print(file=self._process.stdin, flush=True)

    def told(self, tell: Tell, rows: int) -> Iterator[int]:
        """How many rows it has told of, from ``rows`` on."""
        for report in self.reports():
            if "done" in report:
                tell(report["done"], report["unacked"], report["connected"])
                if report["done"] >= rows:
                    yield report["done"]

    def finish(self, reports: Iterator[dict[str, Any]], tell: Tell) -> tuple[int, int]:
        """Waits until all is acknowledged, lets the process go, waits for its end; frames and reconnects."""
        for report in reports:
            if "done" in report:
                tell(report["done"], report["unacked"], report["connected"])
            if "acknowledged" in report:
                try:
                    self._process.communicate(timeout=_END_SECONDS)
                except subprocess.TimeoutExpired:
                    raise IngestFailed(f"the ingesting process does not end within {_END_SECONDS:.0f} s") from None
                if self._process.returncode:
                    raise IngestFailed(f"the ingesting process ended with status {self._process.returncode}")
                return report["acknowledged"], report["reconnects"]
        raise IngestFailed("the ingesting process says nothing")
