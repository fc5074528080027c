"""Reads the registry of mutants and says what is wrong with it, before anything runs.

`load()` gives every entry, `problems(entries)` one line for each thing that is not as it must be: a text that does
not occur exactly once, a test that does not exist or does not carry the ids it is said to prove, an unknown id, an
entry given twice, a file that is compiled.  Reads files only.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.acceptance import ids as acceptance

ROOT = acceptance.ROOT
HERE = Path(__file__).parent
_KEYS = {"ids", "file", "find", "replace", "test", "implementation", "what", "slow", "history"}
_REQUIRED = {"ids", "file", "find", "replace", "test"}
_SECTION = re.compile(r"(ours|behaviour|slot|wire|observed)-\d+(\.\d+)*[a-z]?")
_COMPILED = {".pyx", ".pxd", ".h", ".c", ".so"}
_SHOWN_CHARS_MAX = 70


class Mutant(NamedTuple):
    """One entry.  `number` counts the entries of its file from 1; `source` is that file's name without `.toml`.

    `history`: the bugs of tests/history/bugs.toml that it brings back.
    """

    source: str
    number: int
    ids: tuple[str, ...]
    file: str
    find: str
    replace: str
    test: str
    implementation: str
    what: str
    slow: bool = False
    history: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """How the command and its output call it: `spool:17`."""
        return f"{self.source}:{self.number}"

    def change(self) -> str:
        """The change in a few words."""
        if self.what:
            return self.what
        before, after = (" ".join(text.split()) for text in (self.find, self.replace))
        same = 0
        while same < min(len(before), len(after)) and before[same] == after[same]:
            same += 1
        start = before.rfind(" ", 0, same) + 1  # the words that differ, from the last common blank on
        return f"`{_short(before[start:])}` → `{_short(after[start:]) or '(nothing)'}`"

    def function(self) -> str:
        """The node id of the test without its parameters."""
        return self.test.partition("[")[0]


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS_MAX else text[: _SHOWN_CHARS_MAX - 1] + "…"


def load(paths: Iterable[Path] | None = None) -> list[Mutant]:
    """All entries of these files, or of the whole registry.  Raises ValueError for an entry of another shape."""
    found = []
    for path in sorted(HERE.glob("*.toml")) if paths is None else paths:
        with path.open("rb") as file:
            read = tomllib.load(file)
        if set(read) - {"mutant"}:
            raise ValueError(f"{path.name}: nothing but [[mutant]] belongs here, found {sorted(set(read))}")
        for number, entry in enumerate(read.get("mutant", []), 1):
            found.append(_entry(path.stem, number, entry))
    return found


def _entry(source: str, number: int, entry: dict[str, object]) -> Mutant:
    where = f"{source}:{number}"
    if wrong := set(entry) - _KEYS:
        raise ValueError(f"{where}: unknown keys {sorted(wrong)}")
    if missing := _REQUIRED - set(entry):
        raise ValueError(f"{where}: no {', '.join(sorted(missing))}")
    ids = entry["ids"]
    if not isinstance(ids, list) or not ids or not all(isinstance(value, str) for value in ids):
        raise ValueError(f"{where}: ids is a list of at least one text")
    history = entry.get("history", [])
    if not isinstance(history, list) or not all(isinstance(name, str) for name in history):
        raise ValueError(f"{where}: history is a list of texts")
    texts = {key: entry.get(key, "") for key in _KEYS - {"ids", "slow", "history"}}
    if wrong := {key for key, value in texts.items() if not isinstance(value, str)}:
        raise ValueError(f"{where}: {sorted(wrong)} must be texts")
    if texts["implementation"] not in ("", "plain"):
        raise ValueError(f"{where}: implementation is 'plain' or left out")
    if entry.get("slow", True) is not True:
        raise ValueError(f"{where}: slow is true or left out")
    found = Mutant(source, number, tuple(ids), **{key: str(value) for key, value in texts.items()})
    return found._replace(slow="slow" in entry, history=tuple(history))


def problems(entries: Sequence[Mutant], root: Path = ROOT) -> Iterator[str]:
    """What is wrong with the entries, one text each; nothing when all can be replayed."""
    seen: dict[tuple[str, ...], str] = {}
    for mutant in entries:
        key = (mutant.file, mutant.find, mutant.replace, mutant.test, mutant.implementation)
        if key in seen:
            yield f"{mutant.name}: the same as {seen[key]}"
        seen.setdefault(key, mutant.name)
        for text in (*_wrong_change(mutant, root), *_wrong_test(mutant)):
            yield f"{mutant.name} ({', '.join(mutant.ids)}): {text}"


def _wrong_change(mutant: Mutant, root: Path) -> Iterator[str]:
    path = root / mutant.file
    if path.suffix in _COMPILED:
        yield f"{mutant.file} is compiled and would not be built again: change its plain twin"
        return
    if not path.is_file():
        yield f"there is no {mutant.file}"
        return
    text = path.read_text(encoding="utf-8")
    if mutant.find == mutant.replace:
        yield "find and replace are the same"
    elif (count := text.count(mutant.find) if mutant.find else 0) != 1:
        yield f"the text to find occurs {count} times in {mutant.file}: {mutant.find!r}"
    elif path.suffix == ".py":
        try:
            compile(text.replace(mutant.find, mutant.replace), mutant.file, "exec", ast.PyCF_ONLY_AST)
        except SyntaxError as error:
            yield f"the changed file is no Python: {error}"
    if mutant.file.endswith("_plain.py") and mutant.implementation != "plain":
        yield f'{mutant.file} runs only with implementation = "plain"'


def _wrong_test(mutant: Mutant) -> Iterator[str]:
    test = acceptance.tests().get(mutant.function())
    if test is None:
        yield f"there is no test {mutant.function()}"
        return
    for number in mutant.ids:
        if number not in acceptance.table() and not _SECTION.fullmatch(number):
            yield f"{number} is neither an acceptance id nor a section such as ours-29a"
    claimed = [number for number in mutant.ids if number in acceptance.table()]
    if claimed and not claims_of(mutant.test) & set(claimed):
        yield f"{mutant.test} carries none of {', '.join(claimed)}"


def claims_of(node: str) -> frozenset[str]:
    """The acceptance ids that a test carries: of its function and of the case that is named."""
    function, _, case = node.partition("[")
    return acceptance.tests()[function].ids | acceptance.ids_of_text(case)
