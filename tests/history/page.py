"""docs/historical-bugs.md: each bug that clients of this kind have had, the mutants that bring it back, the tests.

A bug of bugs.toml is brought back by the mutants that name it (``history``) and, where it is what an acceptance id
stands against, by those of that id (``ids``).  `render()` is the page, `problems()` what is missing.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.acceptance.page import mutants_by_id
from tests.mutants import registry
from tests.mutants.registry import Mutant

_BUGS = Path(__file__).parent / "bugs.toml"
_HEAD = """\
# Historical bugs

Made by `python -m tests.history > docs/historical-bugs.md`; `make test` fails when it is stale or when a bug has no
mutant.  A mutant is a wrong version of the code that makes the mistake again; the test beside it was seen red with it,
and `python -m tests.mutants --history` applies all of them once more.  The list is tests/history/bugs.toml.

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
    ids: tuple[str, ...] = ()
    how: str = ""


@cache
def bugs() -> dict[str, Bug]:
    """All of them, in the order of the file.  Raises TypeError for an entry of another shape."""
    with _BUGS.open("rb") as file:
        read = tomllib.load(file)
    return {
        name: Bug(name, entry["bug"], tuple(entry["known_from"]), tuple(entry.get("ids", ())), entry.get("how", ""))
        for name, entry in read.items()
    }


def mutants_in(entries: Iterable[Mutant]) -> Iterator[Mutant]:
    """Those that bring back some bug of the list."""
    ids = {number for bug in bugs().values() for number in bug.ids}
    return (one for one in entries if one.history or ids & set(one.ids) & registry.claims_of(one.test))


def _of(bug: Bug) -> list[Mutant]:
    named = [mutant for mutant in registry.load() if bug.name in mutant.history]
    of_ids = [mutant for number in bug.ids for mutant in mutants_by_id().get(number, [])]
    return list(dict.fromkeys(named + of_ids))


def problems() -> Iterator[str]:
    """Bugs without a mutant, and mutants that name a bug which is not in the list."""
    for bug in bugs().values():
        if not _of(bug):
            yield f"{bug.name}: no mutant of tests/mutants/*.toml has it in its history"
    for mutant in registry.load():
        yield from (f"{mutant.name}: {name} is not in {_BUGS.name}" for name in mutant.history if name not in bugs())


def render() -> str:
    """The page."""
    lines = [_HEAD, "| Bug | Known from | Brought back by | Caught by |", "|---|---|---|---|"]
    count = 0
    for bug in bugs().values():
        mutants = _of(bug)
        count += len(mutants)
        cells = (
            bug.bug + (f" {bug.how}" if bug.how else ""),
            ", ".join(bug.known_from) + "".join(f", {number}" for number in bug.ids),
            _each(f"{mutant.file.removeprefix('src/spoolq/')}: {mutant.change()}" for mutant in mutants),
            _each(mutant.test.removeprefix("tests/") for mutant in mutants),
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines.append(f"\n{len(bugs())} bugs, {count} ways to bring one back.")
    return "\n".join(lines) + "\n"


def _each(texts: Iterable[str]) -> str:
    return "<br>".join(dict.fromkeys(texts))
