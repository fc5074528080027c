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

    @property
    def first(self) -> BaseException:
        """What `finish` raises; there is one."""
        return next((error for error in self.errors if not isinstance(error, Exception)), self.errors[0])

    def note(self, text: str) -> None:
        """Says something beside the error that `finish` raises; there is one."""
        self.first.add_note(text)

    def finish(self) -> None:
        """Raises the first error; an interrupt goes before ordinary ones."""
        if not self.errors:
            return
        first = self.first
        for other in self.errors:
            if other is not first and repr(other) != repr(first):  # a latched error comes out of many steps, as copies
                attach(first, other)
        raise first


def attach(error: BaseException, other: BaseException) -> None:
    """Makes ``other``, with its own notes, visible beside ``error`` without replacing it."""
    note = "\n".join([f"also while closing: {type(other).__name__}: {other}", *getattr(other, "__notes__", ())])
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)
