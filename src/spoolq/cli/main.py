"""The click group of all sub-commands; each is imported when it is called, so that the rest costs nothing."""

from __future__ import annotations

import importlib
from typing import Final

import click

# Name -> module and attribute of the click command.
_COMMANDS: Final = {
    "demo": ("spoolq.cli.demo", "demo"),
    "serve": ("spoolq.cli.serve", "serve"),
    "sql": ("spoolq.cli.sql", "sql"),
}


class _LazyGroup(click.Group):
    """Knows the names of its commands and imports the one that is wanted."""

    def list_commands(self, ctx: click.Context | None) -> list[str]:
        """All names, sorted."""
        del ctx  # every command is always there
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or None when there is none of that name."""
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module, attribute = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.group(cls=_LazyGroup)
@click.version_option(package_name="spoolq")
def cli() -> None:
    """Store-and-forward client for QuestDB's QWP ingest protocol."""
