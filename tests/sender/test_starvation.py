"""The I/O thread beside a producer that never waits: it gets the interpreter for a moment every few milliseconds.

In such a moment it must send whatever has been published meanwhile.  Frame by frame it sent 75 of 150,000
(design.md 3): each send gives the GIL away, and it comes back only when the producer is made to let go.  The server
is a process of its own, so that only the two threads of the client compete.  When the machine keeps the I/O thread from
such a moment the producer goes on until it had some.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from spoolq import Sender, TimestampNanos
from tests.processes import started

FRAMES = 20_000
FRAMES_MAX = 10 * FRAMES


@pytest.fixture
def sink() -> Iterator[str]:
    """The configuration of a sender whose frames another process takes."""
    command = [sys.executable, "-m", "bench.sink"]
    with started(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        yield f"ws::addr=127.0.0.1:{port};auto_flush=off;"
        process.communicate()


def test_a_busy_producer_does_not_starve_the_io_thread(sink: str) -> None:
    with Sender.from_conf(sink) as sender:
        published = sent = 0
        while sent <= published // 4 and published < FRAMES_MAX:
            for number in range(FRAMES):
                sender.row("t", columns={"i": number}, at=TimestampNanos(1))
                sender.flush()
            published += FRAMES
            sent = sender.stats().total_frames_sent
    assert sent > published // 4, f"{sent} of {published} frames were sent while the producer worked"
