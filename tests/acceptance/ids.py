"""Acceptance ids and the tests that carry them, found in the sources without importing them.

A test carries an id in its function's name (`test_seg_06_...`, `test_..._cfg_03`, `test_invariant_31_32_...`, in
either case), or in the name of one of its cases: given as `id=` or `ids=` in its decorators, or to the module's
`_case(...)` when the function is parametrised with `_CASES`.

`table()` reads ids.toml; `tests()` gives every test function with its ids.  Both read files only.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
_TABLE = Path(__file__).parent / "ids.toml"

NOT_YET: frozenset[str] = frozenset()
"""Ids whose behaviour is still being built.  Nothing that has a test may stand here."""


class Requirement(NamedTuple):
    """What an id asks for, and the kind of its proof (the letters are explained in ids.toml)."""

    kind: str
    text: str


class Test(NamedTuple):
    """A test function: its node id without parameters, the ids of its name, and its cases that carry ids."""

    node: str
    ids: frozenset[str]
    cases: tuple[tuple[str, frozenset[str]], ...]

    def named(self, wanted: str) -> list[str]:
        """The node ids that carry this id: the function, or those of its cases that do."""
        if wanted in self.ids:
            return [self.node]
        return [f"{self.node}[{text}]" for text, ids in self.cases if wanted in ids]

    def claims(self) -> frozenset[str]:
        """All ids of the function and of its cases."""
        return self.ids.union(*(ids for _, ids in self.cases))


@cache
def table() -> dict[str, Requirement]:
    """The requirement of each id, in the order of the table."""
    read = tomllib.loads(_TABLE.read_text(encoding="utf-8"))
    return {number: Requirement(row["kind"], row["requirement"]) for number, row in read.items()}


@cache
def tests() -> dict[str, Test]:
    """Every test function under tests/ by its node id."""
    found = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        shared = tuple(_cases_of_the_module(tree))
        for function in _functions(tree):
            node = f"{path.relative_to(ROOT).as_posix()}::{function.name}"
            texts = [text for decorator in function.decorator_list for text in _names_of_cases(decorator)]
            cases = [(text, ids) for text in texts if (ids := ids_of_text(text))]
            if any(isinstance(part, ast.Name) and part.id == "_CASES" for part in _parts(function.decorator_list)):
                cases.extend(shared)
            found[node] = Test(node, ids_of_name(function.name), tuple(cases))
    return found


def carriers() -> dict[str, list[str]]:
    """The node ids of the tests that carry each id of the table, and of any other id that a test claims."""
    found: dict[str, list[str]] = {number: [] for number in table()}
    for test in tests().values():
        for number in sorted(test.claims()):
            found.setdefault(number, []).extend(test.named(number))
    return found


def ids_of_name(name: str) -> frozenset[str]:
    """The ids in a function's name."""
    lower = name.lower()
    ids = {f"{family.upper()}-{number}" for family, number in _name_pattern().findall(lower)}
    for numbers in re.findall(r"invariant((?:_\d\d)+)(?=_|$)", lower):
        ids.update(f"INV-{number}" for number in numbers[1:].split("_"))
    return frozenset(ids)


def ids_of_text(text: str) -> frozenset[str]:
    """The ids in the name of a case: `REC-03`, `invariant 06`."""
    ids = {f"{family}-{number}" for family, number in _text_pattern().findall(text)}
    ids.update(f"INV-{number}" for number in re.findall(r"\binvariant (\d\d)\b", text))
    return frozenset(ids)


def _families() -> list[str]:
    return sorted({number.partition("-")[0] for number in table()})


@cache
def _name_pattern() -> re.Pattern[str]:
    return re.compile(rf"(?<![a-z0-9])({'|'.join(_families()).lower()})_(\d\d)(?=_|$)")


@cache
def _text_pattern() -> re.Pattern[str]:
    return re.compile(rf"\b({'|'.join(_families())})-(\d\d)\b")


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    for part in ast.walk(tree):
        if isinstance(part, ast.FunctionDef) and part.name.startswith("test"):
            yield part


def _parts(nodes: list[ast.expr]) -> Iterator[ast.AST]:
    for node in nodes:
        yield from ast.walk(node)


def _names_of_cases(decorator: ast.expr) -> Iterator[str]:
    """What is given to `parametrize` as `ids=`, to `pytest.param` as `id=`."""
    for part in ast.walk(decorator):
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute):
            for keyword in part.keywords:
                if (part.func.attr, keyword.arg) in (("parametrize", "ids"), ("param", "id")):
                    yield from (_text_of(value) for value in ast.walk(keyword.value) if isinstance(value, ast.expr))


def _cases_of_the_module(tree: ast.Module) -> Iterator[tuple[str, frozenset[str]]]:
    """Names given to `_case(...)` that hold an id; what a formatted name leaves open is an ellipsis."""
    for part in ast.walk(tree):
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id == "_case" and part.args:
            text = _text_of(part.args[0])
            if ids := ids_of_text(text):
                yield text, ids


def _text_of(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return str(node.value) if isinstance(node, ast.Constant) else ""
