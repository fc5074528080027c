"""Steps that all run, whatever fails (behaviour.md 2.7).

`Steps.run` guards one step and keeps what it raised; `Steps.finish` raises the first error at the
end, with the others attached as notes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Steps:
    """The errors of a sequence of guarded steps, in order."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []

    def run(self, step: Callable[..., Any], *arguments: Any) -> None:
        """Runs one step; whatever it raises, a KeyboardInterrupt too, is kept."""
        try:
            step(*arguments)
        except BaseException as error:
            self.errors.append(error)

    def finish(self) -> None:
        """Raises the first error; an interrupt goes before ordinary ones."""
        if not self.errors:
            return
        first = next((error for error in self.errors if not isinstance(error, Exception)), self.errors[0])
        for other in self.errors:
            if other is not first:
                attach(first, other)
        raise first


def attach(error: BaseException, other: BaseException) -> None:
    """Makes ``other`` visible beside ``error`` without replacing it."""
    note = f"also while closing: {type(other).__name__}: {other}"
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)
