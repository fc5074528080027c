"""`spoolq sql`: one query, to a server's ``/exec`` or to the file of `spoolq serve --sql FILE`.

Prints a table, or with ``--json`` the answer as the server gives it.  Exit 1 when the query is refused or nobody
answers.  A file can be read while no server has it open.
"""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

import click

from spoolq import limits
from spoolq.errors import ConfigError

_TIMEOUT_SECONDS: Final = 120.0
_PORT_MAX: Final = 65_535
_WIDTH_MAX: Final = 10_000_000


@dataclass(frozen=True, slots=True)
class _Address:
    host: str
    port: int


class _AddressType(click.ParamType[Any]):
    name = "host[:port]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> _Address:
        """Text to an address; IPv6 in brackets."""
        host, colon, port = str(value).rpartition(":")
        if not colon or port.endswith("]"):
            host, port = str(value), str(limits.DEFAULT_PORT)
        if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= _PORT_MAX):
            self.fail(f"{value!r} is not host:port", param, ctx)
        return _Address(host.strip("[]"), int(port))


@click.command()
@click.argument("query")
@click.option("--addr", type=_AddressType(), default="127.0.0.1:9000", show_default=True, help="The server.")
@click.option("--file", "path", type=click.Path(exists=True, dir_okay=False), help="A file instead of a server.")
@click.option("--json", "as_json", is_flag=True, help="The whole answer as one JSON object.")
def sql(query: str, addr: _Address, path: str | None, as_json: bool) -> None:
    """Run one SELECT and print what it finds."""
    answer = _ask_server(addr, query) if path is None else _ask_file(path, query)
    if as_json:
        click.echo(json.dumps(answer))
    if "error" in answer:
        raise click.ClickException(str(answer["error"]))
    if not as_json:
        _show(answer)


def _ask_server(address: _Address, query: str) -> dict[str, Any]:
    connection = http.client.HTTPConnection(address.host, address.port, timeout=_TIMEOUT_SECONDS)
    place = f"{address.host}:{address.port}"
    try:
        connection.request("GET", "/exec?" + urlencode({"query": query}, errors="replace"))
        response = connection.getresponse()
        body = response.read()
    except (OSError, UnicodeError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or error
        raise click.ClickException(f"no answer from {place}: {why}; is `spoolq serve --sql` running?") from None
    finally:
        connection.close()
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        why = _REFUSED.get(response.status, "")
        raise click.ClickException(f"{place} answered with HTTP status {response.status} and no JSON{why}") from None
    if not isinstance(answer, dict) or not ("error" in answer or _has_rows(answer)):
        raise click.ClickException(f"{place} answered with something else than rows")
    return answer


def _has_rows(answer: dict[str, Any]) -> bool:
    """Whether `_show` can show it: somebody else may listen there."""
    columns, rows = answer.get("columns"), answer.get("dataset")
    return (
        isinstance(columns, list)
        and all(isinstance(column, dict) and {"name", "type"} <= set(column) for column in columns)
        and isinstance(rows, list)
        and all(isinstance(row, list) and len(row) == len(columns) for row in rows)
        and isinstance(answer.get("count"), int)
    )


_REFUSED: Final = {
    401: ": it wants credentials, which this command has none of; stop it and ask its file by --file",
    431: ": the query is too long for a request; stop the server and ask its file by --file",
}


def _ask_file(path: str, query: str) -> dict[str, Any]:
    from spoolq.server.duck import DuckStore
    from spoolq.server.http_side import answer_query

    try:
        store = DuckStore(path)
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    try:
        return answer_query(store, query)
    finally:
        store.close()


def _show(answer: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def cell(value: object) -> Text:  # not a str: data has no markup, and does not talk to the terminal
        return Text("".join(character if character.isprintable() else " " for character in str(value)))

    grid = Table()
    for column in answer["columns"]:
        number = column["type"] in ("BYTE", "SHORT", "INT", "LONG", "FLOAT", "DOUBLE")
        grid.add_column(cell(column["name"]), justify="right" if number else "left")
    for row in answer["dataset"]:
        grid.add_row(*(cell("" if value is None else value) for value in row))
    # As wide as it is, or values would be cut to fit; a terminal wraps the lines.
    console = Console(width=max(Console().width, Console(width=_WIDTH_MAX).measure(grid).maximum))
    console.print(grid)
    console.print(f"{answer['count']:,} rows")
