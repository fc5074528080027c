"""Counts which kinds of columns were proven, and prints them as a table: type x null pattern x rows.

A cell counts distinct messages that hold such a column.  With one row only the patterns "none" and
"all" exist, with two to seven rows all of them do; the cells that cannot exist show a dash.
"""

from __future__ import annotations

from spoolq.columns import ColumnType
from tests.columns.strategies import PATTERNS, pattern_of

CLASSES = {
    "1": range(1, 2),
    "2-7": range(2, 8),
    "8-9": range(8, 10),
    "10-100": range(10, 101),
    ">100": range(101, 10**6),
}
LEAST = 50


class Coverage:
    """Distinct messages by (type, pattern, class of row count)."""

    def __init__(self) -> None:
        self.messages: set[bytes] = set()
        self.cells = {
            (column_type, pattern, name): 0 for column_type in ColumnType for pattern in PATTERNS for name in CLASSES
        }

    def add(self, message: bytes, columns: dict[ColumnType, list[bool]]) -> None:
        """A proven message and the nulls of its columns, one column a type at most."""
        if message in self.messages:
            return
        self.messages.add(message)
        for column_type, nulls in columns.items():
            name = next(name for name, rows in CLASSES.items() if len(nulls) in rows)
            self.cells[column_type, pattern_of(nulls), name] += 1

    def missing(self) -> dict[tuple[str, str, str], int]:
        """The cells below `LEAST` that can exist."""
        return {
            (column_type.name, pattern, name): count
            for (column_type, pattern, name), count in self.cells.items()
            if count < LEAST and exists(pattern, name)
        }

    def table(self) -> str:
        """The table as text."""
        heads = [(pattern, name) for pattern in PATTERNS for name in CLASSES if exists(pattern, name)]
        lines = [f"{len(self.messages)} distinct messages; how many of them hold a column of that type with"]
        lines.append(f"{'nulls':16}" + "".join(f"{pattern[:6]:>7}" for pattern, _ in heads))
        lines.append(f"{'rows':16}" + "".join(f"{name:>7}" for _, name in heads))
        for column_type in ColumnType:
            counts = (self.cells[column_type, pattern, name] for pattern, name in heads)
            lines.append(f"{column_type.name:16}" + "".join(f"{count:>7}" for count in counts))
        return "\n".join(lines)


def exists(pattern: str, name: str) -> bool:
    """Whether a column of that many rows can have the pattern."""
    return name != "1" or pattern in ("none", "all")
