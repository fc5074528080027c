"""Opens an engine so that a Ctrl-C leaves nothing of it behind: no lock of a slot, descriptor or thread.

    engine = open_engine(lambda cancel, place: Engine(..., cancel=cancel, place=place))

All of it is done aside (`aside`), the first connect too.  An interrupt cancels: the reading of a large slot ends
before its next segment, a connect at once, and whatever was opened is closed again before the interrupt goes on.
"""

from __future__ import annotations

from collections.abc import Callable

from spoolq import _callers
from spoolq.runtime.aside import Aside, Cancel, Cancelled
from spoolq.runtime.engine import Engine


def open_engine(make: Callable[[Cancel, str], Engine]) -> Engine:
    """The engine that ``make(cancel, place)`` gives, opened.  Raises what `Engine` and `Engine.open` raise."""
    opening = _Opening(make, f"at {_callers.place()}")
    task = Aside(opening.open, "spoolq-open")
    try:
        return task.run(opening.cancel.now)
    except BaseException:
        if opening.engine is not None:  # it was open already, or another interrupt came
            Aside(lambda: opening.undo(task), "spoolq-open").run(_nothing)
        raise


class _Opening:
    def __init__(self, make: Callable[[Cancel, str], Engine], place: str) -> None:
        self.cancel = Cancel()
        self.engine: Engine | None = None
        self._make = make
        self._place = place

    def open(self) -> Engine:
        try:
            engine = self._make(self.cancel, self._place)
            engine.open()
        except BaseException:
            if self.cancel.cancelled:
                raise Cancelled from None
            raise
        self.engine = engine
        return engine

    def undo(self, task: Aside[Engine]) -> None:
        """Behind the opening, which may go on when a second interrupt came."""
        task.wait()
        if self.engine is not None:
            self.engine.undo()


def _nothing() -> None:
    """The undoing cannot be hurried: it takes no longer than its threads need to end."""
