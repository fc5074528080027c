"""What a rejection means and what follows from it (behaviour.md 6.1, 6.2; ours.md 27).

| category           | status | default         | can be overridden |
|--------------------|--------|-----------------|-------------------|
| schema_mismatch    | 03     | terminal        | yes               |
| parse_error        | 05     | terminal        | yes               |
| internal_error     | 06     | retriable       | yes               |
| security_error     | 08     | terminal        | yes               |
| write_error        | 09     | retriable       | yes               |
| not_writable       | 0C     | retriable_other | no                |
| dictionary_gap     | 0D     | retriable       | no                |
| protocol_violation | -      | terminal        | no                |
| unknown            | other  | retriable       | no                |
| frame_too_large    | -      | terminal        | no                |
| connect_failed     | -      | terminal        | no                |
| storage_error      | -      | terminal        | no                |

The last three are this side's own verdicts, for the handlers (behaviour.md 5.5).

terminal: stop, keep the bytes.  retriable: drop the connection, replay from the first unacked frame.
retriable_other: the same, and prefer another endpoint.
drop: keep the frame as a dead letter, settle it, go on; only where somebody asked for it.

Who is asked, the first answer counts (behaviour.md 6.2): the resolver callable, the policy of the category
(``category_policies``, then ``on_*_error``), ``on_server_error``, the table.  The machine has the last three
as ``policies``; the resolver is `Refusal`'s matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from spoolq.delivery.actions import ServerErrorEvent
from spoolq.frozen import Frozen
from spoolq.qwp.layout import Status
from spoolq.qwp.responses import ErrorFrame

TERMINAL: Final = "terminal"
RETRIABLE: Final = "retriable"
RETRIABLE_OTHER: Final = "retriable_other"
DROP: Final = "drop"

_CATEGORY: Final[dict[int, str]] = {
    Status.SCHEMA_MISMATCH: "schema_mismatch",
    Status.PARSE_ERROR: "parse_error",
    Status.INTERNAL_ERROR: "internal_error",
    Status.SECURITY_ERROR: "security_error",
    Status.WRITE_ERROR: "write_error",
    Status.NOT_WRITABLE: "not_writable",
    Status.DICTIONARY_GAP: "dictionary_gap",
}
_DEFAULT: Final[dict[str, str]] = {
    "schema_mismatch": TERMINAL,
    "parse_error": TERMINAL,
    "internal_error": RETRIABLE,
    "security_error": TERMINAL,
    "write_error": RETRIABLE,
    "not_writable": RETRIABLE_OTHER,
    "dictionary_gap": RETRIABLE,
    "protocol_violation": TERMINAL,
    "unknown": RETRIABLE,
}
OVERRIDABLE: Final = frozenset({"schema_mismatch", "parse_error", "internal_error", "security_error", "write_error"})
CHOICES: Final = frozenset({TERMINAL, RETRIABLE, RETRIABLE_OTHER, DROP})


def category_of(status: int) -> str:
    """The category of a status byte."""
    return _CATEGORY.get(status, "unknown")


class Refusal(Frozen):
    """A rejection, and what may follow from it.

    ``policy`` is what the settings say.  ``droppable``: it names one stored frame, the oldest one, which this
    connection has taken whole, and there is a place for dead letters; else ``drop`` has nothing to drop, and the
    table's policy counts.  ``tables``: those that its frames have rows of.
    """

    rejection: ErrorFrame
    category: str
    policy: str
    first_fsn: int
    last_fsn: int
    droppable: bool
    tables: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        rejection: ErrorFrame,
        overrides: Mapping[str, str],
        first_fsn: int,
        last_fsn: int,
        tables: tuple[str, ...] = (),
        *,
        droppable: bool,
    ) -> Refusal:
        """By the table and the overrides, which count only where the table allows it."""
        category = category_of(rejection.status)
        chosen = overrides.get(category) if category in OVERRIDABLE else None
        if chosen is None or (chosen == DROP and not droppable):
            chosen = _DEFAULT[category]
        return cls(rejection, category, chosen, first_fsn, last_fsn, droppable, tables)

    @property
    def choices(self) -> frozenset[str]:
        """The policies a resolver may choose; none where the table is the last word."""
        if self.category not in OVERRIDABLE:
            return frozenset()
        return CHOICES if self.droppable else CHOICES - {DROP}

    def event(self, chosen: str) -> ServerErrorEvent:
        """For the handlers, with the policy that was applied."""
        said = self.rejection
        return ServerErrorEvent(
            self.category, chosen, said.status, said.text, said.sequence, self.first_fsn, self.last_fsn, self.tables
        )
