"""Starts a process of the demo so that no Ctrl-C, whenever it comes, leaves it behind."""

from __future__ import annotations

import signal
import subprocess
import sys


def start(module: str, *arguments: str, takes_input: bool = False) -> subprocess.Popen[str]:
    """``python -m module``, its standard output a pipe, its standard input one or nothing; main thread only.

    It gets a session of its own: a Ctrl-C of the terminal reaches the demo alone, which then ends it in order.  One
    that comes while it starts is kept until the process is known, and raised when it is gone again.
    """
    kept: list[int] = []
    process: subprocess.Popen[str] | None = None
    before = signal.signal(signal.SIGINT, lambda number, _: kept.append(number))
    try:
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE if takes_input else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        finally:
            signal.signal(signal.SIGINT, before)
        if kept:
            raise KeyboardInterrupt
    except BaseException:
        if process is not None:
            process.kill()
            process.communicate()
        raise
    return process
