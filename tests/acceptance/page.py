"""docs/acceptance.md: each id with its requirement, the tests that carry it and the mutants that made one of them fail.

`render()` is the page, `problems()` what is missing, one line each.  Both read sources and the registry of mutants;
nothing is imported or run.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.acceptance import ids
from tests.mutants import registry
from tests.mutants.registry import Mutant

_HEAD = """\
# Acceptance list

Made by `python -m tests.acceptance > docs/acceptance.md`; `make test` fails when it is stale, when an id has no test or
a tested id no mutant.  A mutant is a wrong version of the code with which a test of that id was seen red; all of them
are in `tests/mutants/*.toml`, `make mutants` applies each one again, and `make test` 20 at random.
Kinds: U unit, F fault injection, P property, S stress or race, I with a server, E with the official client beside it,
B benchmark, L the suite itself, V invariant of a slot (slot.md 9).
"""
_TESTS_SHOWN_MAX = 6


def mutants_by_id() -> dict[str, list[Mutant]]:
    """The mutants of each acceptance id that has one: those whose test carries the id."""
    found: dict[str, list[Mutant]] = {}
    for mutant in registry.load():
        for number in mutant.ids:
            if number in registry.claims_of(mutant.test):
                found.setdefault(number, []).append(mutant)
    return found


def problems() -> Iterator[str]:
    """Ids without a test or without a mutant, unknown ones, and what `NOT_YET` should not hold any more."""
    mutants = mutants_by_id()
    for number, tests in ids.carriers().items():
        if number not in ids.table():
            yield f"{number} is not in tests/acceptance/ids.toml, but {tests[0]} carries it"
        elif number in ids.NOT_YET:
            if tests:
                yield f"{number} has a test ({tests[0]}): take it out of NOT_YET in tests/acceptance/ids.py"
        elif not tests:
            yield f"{number} has no test: {ids.table()[number].text}"
        elif number not in mutants:
            yield f"{number} has a test and no mutant in tests/mutants/*.toml: {tests[0]}"
    yield from (f"{number} of NOT_YET is not in the table" for number in sorted(ids.NOT_YET - set(ids.table())))


def render() -> str:
    """The page."""
    carriers, mutants = ids.carriers(), mutants_by_id()
    lines = [_HEAD, "| Id | Kind | Requirement | Tests | Mutants |", "|---|---|---|---|---|"]
    for number, requirement in ids.table().items():
        tests, changes = carriers[number], mutants.get(number, [])
        cells = (
            number,
            requirement.kind,
            requirement.text,
            "<br>".join(_tests(tests)) or "not yet",
            "<br>".join(dict.fromkeys(f"{_file(mutant)}: {mutant.change()}" for mutant in changes)) or "not yet",
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    tested = sum(bool(tests) for number, tests in carriers.items() if number in ids.table())
    lines.append(f"\n{len(ids.table())} ids, {tested} with a test, {len(mutants)} with a mutant; "
                 f"{len(registry.load())} mutants in all.")  # fmt: skip
    return "\n".join(lines) + "\n"


def _tests(nodes: list[str]) -> list[str]:
    """The names to show: a case of many is shown once a function, with the count of the others."""
    shown = [node.removeprefix("tests/") for node in nodes[:_TESTS_SHOWN_MAX]]
    return shown + ([f"and {len(nodes) - _TESTS_SHOWN_MAX} more"] if len(nodes) > _TESTS_SHOWN_MAX else [])


def _file(mutant: Mutant) -> str:
    return mutant.file.removeprefix("src/spoolq/")
