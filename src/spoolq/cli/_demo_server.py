"""The demo's servers: two processes of `spoolq serve`, one of them with the rows, and SQL over its HTTP side.

One is the primary and has the rows in a file; the other stands by as a replica, which refuses writers (421).  When
the primary is killed the replica takes over its file and its place, as a replicated node would: on its own port, so
that the sender has to find it.  The killed one comes back as the replica.
"""

from __future__ import annotations

import http.client
import json
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlencode

from spoolq.cli._demo_process import start

_QUERY_SECONDS: Final = 120.0
_STOP_SECONDS: Final = 10.0
_NAMES: Final = ("--timestamp-name", "time_hour")  # as the source calls it
# At least once: a frame whose acknowledgement died with a process comes twice.  With its time a flight is one row.
_DEDUP: Final = ("--dedup", "flights=carrier,flight,origin", "--dedup", "weather=origin")


class ServerFailed(Exception):
    """A server did not start, or refused a query; the text has its words."""


class ServerProcess:
    """One server; ``port`` 0: a free one.  It runs until `stop` or `kill`.

    In a session of its own, so that a Ctrl-C of the terminal reaches the demo alone, which then ends it in order.
    """

    def __init__(self, *arguments: str, port: int = 0) -> None:
        self._process = start("spoolq.cli", "serve", "--json", "--port", str(port), *arguments)
        try:
            self.port = self._ready()
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def query(self, sql: str) -> list[list[Any]]:
        """The rows of a query, by ``GET /exec``; raises ServerFailed with the server's words."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_QUERY_SECONDS)
        try:
            connection.request("GET", "/exec?" + urlencode({"query": sql}))
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise ServerFailed(f"the query {sql!r} got no answer: {error!r}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise ServerFailed(f"the query {sql!r} was refused: {body.decode(errors='replace')}")
        dataset: list[list[Any]] = json.loads(body)["dataset"]
        return dataset

    def _ready(self) -> int:
        """Waits for the line that says where it listens."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ServerFailed(f"the server ended at once, with status {self._process.wait()}")
        port: int = json.loads(line)["port"]
        return port

    def kill(self) -> None:
        """SIGKILL, and it is gone when this returns; nothing when it has ended."""
        self._process.kill()
        self._gone()

    def stop(self) -> None:
        """In order; by SIGKILL when that takes too long.  Nothing when it has ended."""
        self._process.terminate()
        try:
            self._process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._gone()

    def _gone(self) -> None:
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


class Servers:
    """The primary and the replica, for a ``with`` block; they end with the block, whatever happened in it.

    ``folder`` is where the rows are kept.
    """

    def __init__(self, folder: str) -> None:
        self._rows = str(Path(folder, "rows.duckdb"))

    def __enter__(self) -> Self:
        self.primary = self._primary()
        try:
            self.replica = self._replica()
        except BaseException:
            self.primary.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.replica.stop()
        self.primary.stop()

    @property
    def conf(self) -> str:
        """A connect string with both addresses, the primary's first."""
        return f"ws::addr=127.0.0.1:{self.primary.port},127.0.0.1:{self.replica.port};"

    def query(self, sql: str) -> list[list[Any]]:
        """The rows of a query, from the primary; raises ServerFailed."""
        return self.primary.query(sql)

    def fail_over(self) -> None:
        """Kills the primary; the replica takes its place, and a new replica the place of the killed one."""
        killed, promoted = self.primary, self.replica
        killed.kill()
        promoted.stop()
        self.primary = self._primary(promoted.port)
        self.replica = self._replica(killed.port)

    def _primary(self, port: int = 0) -> ServerProcess:
        return ServerProcess("--role", "PRIMARY", "--sql", self._rows, *_NAMES, *_DEDUP, port=port)

    def _replica(self, port: int = 0) -> ServerProcess:
        return ServerProcess("--role", "REPLICA", port=port)
