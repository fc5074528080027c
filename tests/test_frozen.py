"""frozen.py: what a class of fields promises, the same as a frozen dataclass with slots."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from spoolq.frozen import Frozen


class Point(Frozen):
    """Two fields, the second with a default."""

    x: int
    y: int = 7

    @property
    def both(self) -> tuple[int, int]:
        """A member that is no field."""
        return self.x, self.y


class Place(Frozen):
    """The same fields, another class."""

    x: int
    y: int = 7


class Nothing(Frozen):
    """No field at all."""


def test_fields_come_by_position_and_by_name_and_from_defaults() -> None:
    assert [Point(1, 2).both, Point(1, y=2).both, Point(y=2, x=1).both, Point(1).both] == [(1, 2)] * 3 + [(1, 7)]


@pytest.mark.parametrize(
    "call",
    [
        lambda: Point(),  # type: ignore[call-arg]
        lambda: Point(y=1),  # type: ignore[call-arg]
        lambda: Point(1, 2, 3),  # type: ignore[call-arg]
        lambda: Point(1, x=1),  # type: ignore[misc]
        lambda: Point(1, z=1),  # type: ignore[call-arg]
        lambda: Nothing(1),  # type: ignore[call-arg]
    ],
)
def test_a_call_that_no_function_with_these_parameters_takes(call: Callable[[], object]) -> None:
    with pytest.raises(TypeError, match=r"(Point\(x, y\)|Nothing\(\)) was called with"):
        call()


def test_two_are_equal_when_class_and_fields_are() -> None:
    assert Point(1, 2) == Point(1, 2)
    assert hash(Point(1, 2)) == hash(Point(1, 2))
    assert Nothing() == Nothing()
    assert Point(1, 2) != Point(1, 3)
    assert Point(1, 2) != Place(1, 2)
    assert Point(1, 2) != (1, 2)
    assert Nothing() != ()


def test_nothing_can_be_set_or_deleted_or_added() -> None:
    point: Any = Point(1, 2)
    with pytest.raises(AttributeError, match="cannot set 'x': a Point is immutable"):
        point.x = 5
    with pytest.raises(AttributeError, match="cannot set 'z'"):
        point.z = 5
    with pytest.raises(AttributeError, match="cannot delete 'x'"):
        del point.x
    assert point == Point(1, 2)
    assert not hasattr(point, "__dict__")


def test_the_repr_names_the_fields() -> None:
    assert repr(Point(1)) == "Point(x=1, y=7)"
    assert repr(Nothing()) == "Nothing()"


def test_a_match_takes_the_fields_in_their_order() -> None:
    match Point(1, 2):
        case Place():
            raise AssertionError("another class")
        case Point(x, y):
            assert (x, y) == (1, 2)


def test_one_like_it_with_another_value() -> None:
    point = Point(1, 2)
    assert point.replaced(y=3) == Point(1, 3)
    assert point == Point(1, 2)
    with pytest.raises(TypeError):
        point.replaced(z=3)


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_is_equal_and_immutable(way: Callable[[Point], Point]) -> None:
    copied = way(Point(1, 2))
    assert copied == Point(1, 2)
    with pytest.raises(AttributeError, match="immutable"):
        copied.x = 3  # type: ignore[misc]
