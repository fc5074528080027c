"""Text of a peer made fit for a log line and an error.  Imports nothing of spoolq."""

from __future__ import annotations


def printable(text: str, characters_max: int = 1_024) -> str:
    """``text`` with every control, format or separator character as a blank, trimmed and cut."""
    return "".join(character if character.isprintable() else " " for character in text[:characters_max]).strip()
