"""`Frozen`: small immutable classes that cost next to nothing to make.

    class Settle(Frozen):
        fsn: int

    Settle(5) == Settle(fsn=5) != Committed(5)

The annotations are the fields.  To a type checker, a reader and a ``match`` it is a frozen dataclass with slots: two
are equal when they are of one class and their fields are, and the repr names these.  A dataclass is generated as text
and compiled whenever its module is imported; here all classes share methods that look the fields up (docs/decisions.md
says what that is worth).  What users are given is a dataclass all the same: ``dataclasses.fields`` is for that.

A class derives from `Frozen` alone.  A default is one value for all, so it is an immutable one.
"""

from __future__ import annotations

from typing import Any, NoReturn, Self, dataclass_transform


@dataclass_transform(frozen_default=True)
class _Maker(type):
    """Makes slots of a class's annotations, and keeps what its instances are made by."""

    _fields: tuple[str, ...]
    _defaults: dict[str, Any]
    _setters: tuple[Any, ...]  # of the slots: they go past `Frozen.__setattr__`

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> _Maker:
        fields = tuple(namespace.get("__annotations__", ()))
        defaults = {field: namespace.pop(field) for field in fields if field in namespace}
        made = super().__new__(mcs, name, bases, {**namespace, "__slots__": fields, "__match_args__": fields})
        made._fields = fields
        made._defaults = defaults
        made._setters = tuple(made.__dict__[field].__set__ for field in fields)
        return made


class Frozen(metaclass=_Maker):
    """See the module's text."""

    def __init__(self, *values: Any, **named: Any) -> None:
        kind = type(self)
        if named or len(values) != len(kind._setters):
            values = _in_order(kind, values, named)
        for put, value in zip(kind._setters, values, strict=True):
            put(self, value)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"cannot set {name!r}: a {type(self).__name__} is immutable")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"cannot delete {name!r}: a {type(self).__name__} is immutable")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return _values(self) == _values(other)

    def __hash__(self) -> int:
        return hash(_values(self))

    def __repr__(self) -> str:
        shown = zip(type(self)._fields, _values(self), strict=True)
        return f"{type(self).__qualname__}({', '.join(f'{field}={value!r}' for field, value in shown)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), _values(self)  # copy and pickle would set the fields one by one

    def replaced(self, **changes: Any) -> Self:
        """One like it with other values of these fields."""
        kind = type(self)
        return kind(**{**dict(zip(kind._fields, _values(self), strict=True)), **changes})


def _values(one: Frozen) -> tuple[Any, ...]:
    return tuple([getattr(one, field) for field in type(one)._fields])


def _in_order(kind: type[Frozen], values: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
    """A value for each field: the given ones, else the defaults.  Raises TypeError."""
    fields = kind._fields
    found = {**kind._defaults, **dict(zip(fields, values, strict=False)), **named}
    if len(values) > len(fields) or found.keys() != set(fields) or not named.keys().isdisjoint(fields[: len(values)]):
        raise TypeError(f"{kind.__qualname__}({', '.join(fields)}) was called with {len(values)} values and {[*named]}")
    return tuple([found[field] for field in fields])
