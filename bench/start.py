"""From the start of a process to the acknowledgement of its first row: what a short-lived program waits for.

The clock is the system's monotonic one, which two processes share.  It starts in front of the new process and is read
there when the row is acknowledged: the interpreter, the import, the connect, the row and its flush are in between, and
nothing else; the process imports no module of its own beside the client.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Final

from bench.worker import CONF

_PROGRAM: Final = """
import sys, time
if sys.argv[1] == "spoolq":
    import spoolq as client
else:
    import questdb as client
with client.Sender.from_conf(sys.argv[2]) as sender:
    sender.row("t", symbols={"s": "a"}, columns={"x": 1.0}, at=client.TimestampNanos(1))
    if not sender.await_acked_fsn(sender.flush_and_get_fsn(), timeout_millis=60_000):
        raise TimeoutError("the first row was not acknowledged within 60 s")
    print(time.monotonic_ns())
"""


def environment() -> dict[str, str]:
    """This process's, but that modules are kept compiled, as they are for every program that starts twice."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def measure_start(client: str, port: str) -> dict[str, float]:
    """One process."""
    command = [sys.executable, "-c", _PROGRAM, client, CONF.format(port=port)]
    env = environment()
    began = time.monotonic_ns()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{client} start failed:\n{done.stderr}")
    return {"start_ns": int(done.stdout) - began}
