"""The `spoolq` command.  `main` is its entry point; click is imported when it runs, and only then.

Without the ``[cli]`` extra it says so and exits 2.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the `spoolq` script."""
    try:
        import click  # noqa: F401  # only whether it is there
    except ImportError:
        print("the spoolq command needs click: pip install 'spoolq[cli]'", file=sys.stderr)
        raise SystemExit(2) from None
    from spoolq.cli.main import cli

    cli(prog_name="spoolq")
