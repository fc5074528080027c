"""The demo's server: `spoolq serve --sql` as a process of its own, and SQL over its HTTP side."""

from __future__ import annotations

import http.client
import json
import subprocess
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlencode

from spoolq.cli._demo_process import start

_QUERY_SECONDS: Final = 120.0
_STOP_SECONDS: Final = 10.0
_NAMES: Final = ("--timestamp-name", "time_hour")  # as the source calls it
# At least once: a frame whose acknowledgement died with the process comes twice.  With its time a flight is one row.
_DEDUP: Final = ("--dedup", "flights=carrier,flight,origin", "--dedup", "weather=origin")


class ServerFailed(Exception):
    """The server did not start, or refused a query; the text has its words."""


class ServerProcess:
    """A server on a free port, for a ``with`` block; it ends with the block, whatever happened in it.

    It runs in a session of its own, so that a Ctrl-C of the terminal reaches the demo alone, which then
    ends it in order.
    """

    def __enter__(self) -> Self:
        self._process = start("spoolq.cli", "serve", "--sql", "--json", "--port", "0", *_NAMES, *_DEDUP)
        try:
            self.port, self.conf = self._ready()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

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

    def _ready(self) -> tuple[int, str]:
        """Waits for the line that says where it listens."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ServerFailed(f"the server ended at once, with status {self._process.wait()}")
        ready = json.loads(line)
        return ready["port"], ready["conf"]

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.communicate(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
