"""The options of a pass or backend, read from its fields."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
import types
import typing
from dataclasses import dataclass


@dataclass(frozen=True)
class Described:
    """One option as it is written on the command line: its name, what it takes, its default, and what it does where
    the docstring of its class says so."""

    name: str
    type: str
    default: str
    meaning: str = ""


def describe(kind: type[object]) -> list[Described]:
    """The options of a frozen options dataclass, in the order of its fields."""
    if not dataclasses.is_dataclass(kind):
        return []
    hints = typing.get_type_hints(kind)
    told: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        told |= _meanings(inspect.cleandoc(each.__doc__ or ""))
    return [
        Described(item.name, _type(hints[item.name]), _value(_default(item)), told.get(item.name, ""))
        for item in dataclasses.fields(kind)
        if item.init
    ]


def _meanings(text: str) -> dict[str, str]:
    """Of the lines `name: what it does`, continued by indented ones.

    >>> _meanings("A backend.\\n\\nthreads: how many;\\n    0 for all\\ndevice: where")
    {'threads': 'how many; 0 for all', 'device': 'where'}
    """
    found = re.findall(r"^(\w+): (.+(?:\n +.+)*)", text, re.MULTILINE)
    return {name: " ".join(meaning.split()) for name, meaning in found}


def _default(item: dataclasses.Field[object]) -> object:
    if item.default_factory is not dataclasses.MISSING:
        return item.default_factory()
    return item.default


def _type(hint: object) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " | ".join(map(str, args))
    if origin in (typing.Union, types.UnionType):
        return " | ".join("none" if arg is type(None) else _type(arg) for arg in args)
    if origin is tuple:
        return f"list of {_type(args[0])}"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return " | ".join(str(member.value) for member in hint)
    return hint.__name__ if isinstance(hint, type) else str(hint)


def _value(value: object) -> str:
    if value is dataclasses.MISSING:
        return "required"
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_value, value))}]"
    return str(value)
