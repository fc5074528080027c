"""docs/historical-bugs.md: each bug that clients of this kind have had, the mutants that bring it back, the tests.

A bug of bugs.toml is brought back by the mutants that name it in their ``history``.  `render()` is the page,
`problems()` what is missing.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.mutants import registry
from tests.mutants.registry import Mutant

_BUGS = Path(__file__).parent / "bugs.toml"
_HEAD = """\
# Historical bugs

Made by `python -m tests.history > docs/historical-bugs.md`; `make test` fails when it is stale or when a bug has no
mutant.  A mutant is a wrong version of the code that makes the mistake again; the test beside it was seen red with it,
and `python -m tests.mutants --history` applies all of them once more.  The list is tests/history/bugs.toml; where a
mutant is told by an acceptance id, docs/acceptance.md shows what it changes.

Known from: "team" is this project's own list; "design" the design source and its follow-ups (behaviour.md, slot.md 9);
"official" what questdb 6.0.0 was seen to do (observed.md, slot.md); java, go, c, net, node, py and questdb are the
trackers of those clients and of the server, by number.

Not here, for a client cannot see it: questdb 7496, durable marks of a table that is dropped and made again under its
name while a connection lasts.
"""


class Bug(NamedTuple):
    """One entry.  ``how``: what a mutant alone does not say, for bugs that no change of Python makes whole."""

    name: str
    bug: str
    known_from: tuple[str, ...]
    how: str = ""


@cache
def bugs() -> dict[str, Bug]:
    """All of them, in the order of the file.  Raises TypeError for an entry of another shape."""
    with _BUGS.open("rb") as file:
        read = tomllib.load(file)
    return {
        name: Bug(name, entry["bug"], tuple(entry["known_from"]), entry.get("how", "")) for name, entry in read.items()
    }


def mutants_in(entries: Iterable[Mutant]) -> Iterator[Mutant]:
    """Those that bring back some bug."""
    return (mutant for mutant in entries if mutant.history)


def _by_bug() -> dict[str, list[Mutant]]:
    found: dict[str, list[Mutant]] = {name: [] for name in bugs()}
    for mutant in registry.load():
        for name in mutant.history:
            found.setdefault(name, []).append(mutant)
    return found


def problems() -> Iterator[str]:
    """Bugs without a mutant, and mutants that name a bug which is not in the list."""
    for name, mutants in _by_bug().items():
        if not mutants:
            yield f"{name}: no mutant of tests/mutants/*.toml has it in its history"
        elif name not in bugs():
            yield f"{name} is in the history of {mutants[0].name} and not in {_BUGS.name}"


def render() -> str:
    """The page."""
    lines = [_HEAD, "| Bug | Known from | Brought back by | Caught by |", "|---|---|---|---|"]
    by_bug, entries = _by_bug(), registry.load()
    for bug in bugs().values():
        mutants = by_bug[bug.name]
        cells = (
            bug.bug + (f" {bug.how}" if bug.how else ""),
            ", ".join(bug.known_from),
            _each(map(_change, mutants)),
            _each(mutant.test.removeprefix("tests/") for mutant in mutants),
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines.append(f"\n{len(bugs())} bugs, {len(list(mutants_in(entries)))} mutants that bring one back.")
    return "\n".join(lines) + "\n"


def _change(mutant: Mutant) -> str:
    """Not the text that it changes: the page would be stale with every edit of it; docs/acceptance.md shows that."""
    return f"{mutant.file.removeprefix('src/spoolq/')}: {mutant.what or ', '.join(mutant.ids)}"


def _each(texts: Iterable[str]) -> str:
    return "<br>".join(dict.fromkeys(texts))
