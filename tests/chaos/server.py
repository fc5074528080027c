"""One server process: a `QwpServer` with a journal, ordered about over standard input.

    python -m tests.chaos.server PORT JOURNAL TEXT_NBYTES_MAX

The first line on standard output is its port.  Each order is a JSON list on a line, the name of a call of
`QwpServer` first; the answer is a line with what it did.  It ends with its standard input.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from spoolq.testing import Close, QwpServer, Reject, Script, random_scripts
from tests.chaos.journal import JournalStore
from tests.ports import free_port


class ServerProcess:
    """The parent's end: starts it, gives orders, kills it.  ``port`` is held for it, whether it is up or not."""

    def __init__(self, name: str, folder: Path, text_nbytes_max: int) -> None:
        self._name = name
        self._folder = folder
        self._text_nbytes_max = text_nbytes_max
        self._starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def is_up(self) -> bool:
        """Whether it runs."""
        return self._process is not None

    def start(self) -> None:
        """A new process on the old port; it listens when this returns."""
        self._starts += 1
        journal = self._folder / f"{self._name}-{self._starts}.journal"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.server", str(self.port), str(journal), str(self._text_nbytes_max)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self.port = int(self._answer())

    def order(self, *order: Any) -> str:
        """What it did."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        return self._answer()

    def kill(self) -> None:
        """SIGKILL; it is gone when this returns."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _answer(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode().strip()
        if not line:
            raise RuntimeError(f"server {self._name} ended by itself, with status {self._process.wait()}")
        return line


def _do(server: QwpServer[JournalStore], order: list[Any]) -> str:
    """One order; the name of what was done."""
    match order:
        case ["hold"]:
            server.hold_acks()
        case ["release"]:
            server.release_acks()
        case ["drop", reset]:
            server.drop_connections(reset=reset)
        case ["close", code]:
            server.close_connections(code, "chaos")
        case ["refuse", status, role]:
            server.refuse_new(status, role=role, retry_after_seconds=1 if status == 503 else None)
            server.close_connections(1001, "this node is being demoted")
        case ["late", millis]:
            server.set_script(Script(ack_delay_millis=millis))
            server.drop_connections()
        case ["reject", frame, status]:
            server.set_script([Script(reject=(Reject(frame, status, "chaos"),)), Script()])
            server.drop_connections()
        case ["closing", frame, code]:
            server.set_script([Script(close=Close(frame, code)), Script()])
            server.drop_connections()
        case ["faults", seed]:
            server.set_script(random_scripts(seed, 6))
            server.drop_connections()
        case ["smaller", nbytes]:
            server.set_script(Script(cap_nbytes=nbytes))
            server.drop_connections()
        case ["fine"]:
            server.accept_new()
            server.release_acks()
            server.set_script(Script())
            server.drop_connections()
        case _:
            raise ValueError(f"no such order: {order}")
    return str(order[0])


def main() -> None:
    """Until standard input ends."""
    port, journal, text_nbytes_max = sys.argv[1:]
    store = JournalStore(Path(journal), int(text_nbytes_max))
    with QwpServer(port=int(port), store=store, record_nbytes_max=0) as server:
        print(server.port, flush=True)
        for line in sys.stdin:
            print(_do(server, json.loads(line)), flush=True)
    store.close()


if __name__ == "__main__":
    main()
