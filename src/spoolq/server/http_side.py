"""Requests on the server's port that are no upgrade: ``/ping``, ``/stats``, ``/metrics``, ``/exec?query=``.

`HttpSide.answer` gives the whole response, or None for a query, which is worked on by a thread of its own
(`HttpSide.execute`), so that nobody else waits for it; one that takes too long is ended, as the queries behind it
wait.  ``/exec`` has the JSON shape of QuestDB's REST:

    {"query", "columns": [{"name", "type"}], "timestamp": index or -1, "dataset": [[...]], "count"}
    {"query", "error", "position"}  with status 400

``limit=10`` gives the first 10 rows, ``limit=10,20`` rows 10 to 20, counted from 1; ``count`` counts what is given.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable
from urllib.parse import parse_qs

from spoolq.qwp.upgrade import Refusal
from spoolq.server import handshake
from spoolq.server.handshake import Request

_log = logging.getLogger("spoolq.server")
_JSON: Final = "application/json; charset=utf-8"
_INTERRUPT_MILLIS: Final = 20
_GAUGES: Final = ("connections_open", "held_bytes")
_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"


class QueryError(Exception):
    """A query that is refused or fails; the text is for the one who asked, ``position`` counts characters."""

    def __init__(self, text: str, position: int = 0) -> None:
        super().__init__(text)
        self.position = position


@dataclass(frozen=True, slots=True)
class Result:
    """What a query found; values are ready for JSON.  ``timestamp``: index of the designated column, or -1."""

    columns: list[tuple[str, str]]
    dataset: list[list[Any]]
    timestamp: int = -1


# First row, from 0, and the end; None for all.
Rows = tuple[int, int] | None


@runtime_checkable
class SqlStore(Protocol):
    """A store that takes SQL."""

    def query(self, sql: str, rows: Rows = None) -> Result:
        """Reads, ``rows`` of what is found or all; raises QueryError.  Called from a thread of its own."""

    def interrupt(self) -> None:
        """Ends a running `query`; any thread."""


class HttpSide:
    """``stats`` gives the counters; ``store`` is asked for rows when it takes SQL."""

    def __init__(self, store: object, stats: Callable[[], dict[str, int]], query_timeout_millis: int) -> None:
        self._store = store
        self._stats = stats
        self._query_timeout_millis = query_timeout_millis

    def answer(self, request: Request) -> bytes | None:
        """The response, or None: `execute` has it."""
        if request.method not in ("GET", "HEAD"):
            return handshake.refuse(Refusal(405, "only GET", (("Allow", "GET, HEAD"),)))
        match request.path:
            case "/ping":
                return handshake.response(204, [("Connection", "close")])
            case "/stats":
                return _found(request, json.dumps(self._stats()), _JSON)
            case "/metrics":
                return _found(request, _metrics(self._stats()), _TEXT)
            case "/exec":
                return None
        return handshake.refuse(Refusal(404, "no such path"))

    def execute(self, request: Request) -> bytes:
        """``/exec``: any thread."""
        found = parse_qs(request.query, keep_blank_values=True)
        limit = _TimeLimit(self._query_timeout_millis, self.interrupt)
        with limit:
            body = answer_query(self._store, found.get("query", [""])[0], found.get("limit", [""])[0])
        if limit.is_over and "error" in body:
            body["error"] = f"the query took more than {self._query_timeout_millis} ms (query_timeout_millis)"
        return _found(request, json.dumps(body), _JSON, status=400 if "error" in body else 200)

    def interrupt(self) -> None:
        """Ends a query that `execute` is at."""
        if isinstance(self._store, SqlStore):
            self._store.interrupt()


class _TimeLimit:
    """Calls ``interrupt`` when the ``with`` block takes longer, again and again until it ends."""

    def __init__(self, timeout_millis: int, interrupt: Callable[[], None]) -> None:
        self._timeout_millis = timeout_millis
        self._interrupt = interrupt
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="spoolq-server-query-limit", daemon=True)
        self.is_over = False

    def _watch(self) -> None:
        wait_millis = self._timeout_millis
        while not self._ended.wait(wait_millis / 1_000):
            self.is_over, wait_millis = True, _INTERRUPT_MILLIS  # again: it may not have begun the first time
            self._interrupt()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def answer_query(store: object, sql: str, limit: str = "") -> dict[str, Any]:
    """The body of ``/exec``: what was found, or ``error``; never raises."""
    try:
        if not sql.strip():
            raise QueryError("empty query")
        if not isinstance(store, SqlStore):
            raise QueryError(
                "this server keeps rows in memory and takes no SQL; `spoolq serve --sql` and a DuckStore do"
            )
        result = store.query(sql, _rows(limit))
    except QueryError as error:
        return {"query": sql, "error": str(error), "position": error.position}
    except Exception as error:
        _log.exception("a query failed")
        return {"query": sql, "error": f"internal error: {type(error).__name__}", "position": 0}
    return {
        "query": sql,
        "columns": [{"name": name, "type": kind} for name, kind in result.columns],
        "timestamp": result.timestamp,
        "dataset": result.dataset,
        "count": len(result.dataset),
    }


def _rows(limit: str) -> Rows:
    """What ``limit=`` asks for: a count, or the first and the last row."""
    if not limit:
        return None
    numbers = limit.split(",")
    if len(numbers) > 2 or not all(number.isascii() and number.isdigit() and len(number) < 19 for number in numbers):
        raise QueryError(f"limit is {limit!r}; it takes a number of rows, or the first and the last row: 10 or 10,20")
    first = max(1, int(numbers[0])) if len(numbers) == 2 else 1
    return first - 1, max(first - 1, int(numbers[-1]))


def _metrics(stats: dict[str, int]) -> str:
    """Prometheus text."""
    lines = []
    for name, value in stats.items():
        kind = "gauge" if name in _GAUGES else "counter"
        full = f"spoolq_server_{name}" + ("" if kind == "gauge" else "_total")
        lines += [f"# TYPE {full} {kind}", f"{full} {value}"]
    return "\n".join(lines) + "\n"


def _found(request: Request, text: str, content_type: str, status: int = 200) -> bytes:
    body = text.encode()
    headers = [("Content-Type", content_type), ("Content-Length", str(len(body))), ("Connection", "close")]
    return handshake.response(status, headers, body if request.method == "GET" else b"")
