"""`spoolq serve`: the strict server as a process.

Prints one line when it takes connections, on standard output: where it listens, or with ``--json``
``{"port", "conf", "pid"}``, and ``"dedup"`` when there is any.  SIGTERM and SIGINT end it in order, with exit 0;
what was acknowledged is in the file then.  Exit 2 for a wrong option, 1 when the port is taken.
"""

from __future__ import annotations

import errno
import json
import os
import queue
import signal
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import click

from spoolq.errors import ConfigError
from spoolq.server import Auth, QwpServer, Script, from_json
from spoolq.server.options import ROLES

_IN_MEMORY: Final = ""  # --sql without a file
_LOOK_SECONDS: Final = 0.2


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=9000, show_default=True, type=click.IntRange(0, 65535), help="0: a free one.")
@click.option(
    "--sql", is_flag=False, flag_value=_IN_MEMORY, metavar="[FILE]", help="SQL by /exec; FILE keeps the rows."
)
@click.option("--script", "script_file", type=click.Path(exists=True, dir_okay=False), help="Faults, as JSON.")
@click.option("--auth-file", type=click.Path(exists=True, dir_okay=False), help="Lines of user:password or a token.")
@click.option("--tls-cert", type=click.Path(exists=True, dir_okay=False), help="Certificate and key, PEM.")
@click.option("--role", default="STANDALONE", show_default=True, type=click.Choice(ROLES), help="X-QuestDB-Role.")
@click.option("--cap", "cap_nbytes", type=click.IntRange(min=13), help="Largest message in bytes. [default: 2097138]")
@click.option("--durable-ack", is_flag=True, help="Grant durable acks.")
@click.option("--durable-ack-delay", "delay_millis", default=0, type=click.IntRange(min=0), help="Milliseconds.")
@click.option("--lenient", is_flag=True, help="Go on after an error, as older servers do.")
@click.option("--timestamp-name", default="timestamp", show_default=True, help="Of tables that are created.")
@click.option(
    "--dedup",
    "dedup",
    multiple=True,
    metavar="TABLE=COLUMN,...",
    help="A row that equals an earlier one in these columns and its timestamp takes its place; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="The line as one JSON object.")
def serve(
    host: str,
    port: int,
    sql: str | None,
    script_file: str | None,
    auth_file: str | None,
    tls_cert: str | None,
    role: str,
    cap_nbytes: int | None,
    durable_ack: bool,
    delay_millis: int,
    lenient: bool,
    timestamp_name: str,
    dedup: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run a strict QWP server until SIGTERM or SIGINT."""
    options: dict[str, Any] = {
        "role": role,
        "durable_ack": durable_ack,
        "durable_ack_delay_millis": delay_millis,
        "latched": not lenient,
        "timestamp_name": timestamp_name,
        "record_nbytes_max": 0,  # nobody can ask a process for it
    }
    if cap_nbytes is not None:
        options["receive_buffer_nbytes"] = cap_nbytes + 14
    try:
        options["dedup_keys"] = _dedup_keys(dedup)
        if auth_file is not None:
            options["auth"] = _read_auth(auth_file)
        script = _read_script(script_file)
        server = QwpServer(host, port, store=_store(sql), script=script, tls=_tls(tls_cert), **options)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    _run(server, as_json)


class _Stop:
    """Told by a signal handler, which may come between any two steps of who waits, also twice.

    `threading.Event` is Python and not made for that: a handler that comes while `wait` holds the event's lock waits
    for that lock for ever.  The wait looks up now and then: a signal just before the thread blocks does not end it.
    """

    def __init__(self) -> None:
        self._told: queue.SimpleQueue[int] = queue.SimpleQueue()

    def tell(self, number: int, _: object) -> None:
        """A handler."""
        self._told.put(number)

    def wait(self) -> None:
        """Until it was told."""
        while True:
            with suppress(queue.Empty):
                self._told.get(timeout=_LOOK_SECONDS)
                return


def _run(server: QwpServer[Any], as_json: bool) -> None:
    stop = _Stop()
    before = {number: signal.signal(number, stop.tell) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        _serve_until(stop, server, as_json)
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _serve_until(stop: _Stop, server: QwpServer[Any], as_json: bool) -> None:
    try:
        server.start()
    except OSError as error:
        server.store.close()
        hint = "; --port takes another one, 0 a free one" if error.errno == errno.EADDRINUSE else ""
        why = (error.strerror or str(error)).partition(" (while attempting")[0]  # says the address once more
        text = f"cannot listen on {server.host}:{server.port}: {why}{hint}"
        raise click.ClickException(text) from None
    try:
        keys, stamp = server.options.dedup_keys, server.options.timestamp_name
        if as_json:
            told = {"port": server.port, "conf": server.conf, "pid": os.getpid()}
            click.echo(json.dumps(told | ({"dedup": keys} if keys else {})))
        else:
            tables = "".join(f" {table}: one row for each {', '.join((stamp, *keys[table]))};" for table in keys)
            click.echo(f"listening: {server.conf}{tables}")
        stop.wait()
    finally:
        server.stop()
        server.store.close()


def _store(sql: str | None) -> Any:
    from spoolq.server import MemoryStore

    if sql is None:
        return MemoryStore()
    from spoolq.server.duck import DuckStore

    return DuckStore(sql or None)


def _dedup_keys(given: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Table -> columns besides the designated timestamp; there may be none."""
    found = {}
    for item in given:
        table, equals, columns = item.partition("=")
        names = tuple(columns.split(",")) if columns else ()
        if not table or not equals or not all(names):
            raise ConfigError(f"--dedup {item!r}: it takes TABLE=COLUMN,COLUMN; TABLE= for the timestamp alone")
        if table in found:
            raise ConfigError(f"--dedup names the table {table!r} twice")
        found[table] = names
    return found


def _read_script(path: str | None) -> tuple[Script, ...]:
    if path is None:
        return ()
    text = _read_text(path)
    try:
        return from_json(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as text: {getattr(error, 'strerror', None) or error}") from None


def _read_auth(path: str) -> Auth:
    """A line with a colon is a user and a password, any other a token; blank ones and those with # do not count."""
    users, tokens = {}, set()
    for line in _read_text(path).splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, password = line.partition(":")
        if colon:
            users[name] = password
        else:
            tokens.add(line.strip())
    return Auth(users, frozenset(tokens))


def _tls(path: str | None) -> ssl.SSLContext | None:
    if path is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(path)
    except ssl.SSLError as error:
        why = error.reason or "no PEM in it"
        raise ConfigError(f"{path} is no certificate with its key: {why}") from None
    return context
