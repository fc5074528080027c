"""The places that `tests.interrupts` finds are the same on each version of Python, in code that runs the first time."""

from __future__ import annotations

from typing import Any

from tests.interrupts import interrupt_at

# Not in a file of the tests, whose places are left out.
_CODE = """\
class Held:
    def __enter__(self):
        return self
    def __exit__(self, *_):
        len("")
def inner():
    return len("")
def work():
    len("")
    inner()
    for _ in range(2):
        len("")
    with Held():
        len("")
        len("")
    try:
        len("")
    finally:
        len("")
    return sorted([1], key=lambda one: one)
"""
_PLACES = [
    *("8 work", "9 work", "6 inner", "7 inner", "11 work", "12 work", "11 work", "12 work", "11 work"),
    *("13 work", "2 Held.__enter__", "14 work", "15 work", "4 Held.__exit__", "5 Held.__exit__"),
    *("17 work", "19 work", "20 work.<locals>.<lambda>"),
]


def _places() -> list[str]:
    names: dict[str, Any] = {}
    exec(compile(_CODE, "made", "exec"), names)
    found: list[str] = []
    while True:
        with interrupt_at(len(found) + 1) as interrupt:
            names["work"]()
        if interrupt.passed:
            return found
        found.append(interrupt.where.removeprefix("made:"))


def test_33_the_starts_of_functions_the_jumps_back_and_the_calls_are_the_places() -> None:
    assert _places() == _PLACES
