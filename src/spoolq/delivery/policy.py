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
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from spoolq.qwp.layout import Status

TERMINAL: Final = "terminal"
RETRIABLE: Final = "retriable"
RETRIABLE_OTHER: Final = "retriable_other"

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


def category_of(status: int) -> str:
    """The category of a status byte."""
    return _CATEGORY.get(status, "unknown")


def policy_of(category: str, overrides: Mapping[str, str]) -> str:
    """The policy of a category; ``overrides`` count only where the table allows it."""
    if category in OVERRIDABLE and category in overrides:
        return overrides[category]
    return _DEFAULT[category]
