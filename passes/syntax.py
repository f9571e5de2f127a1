"""A pipeline as text and as YAML, and options as typed values.

    pipeline := step ("," step)*
    step     := NAME [ "{" option ("," option)* "}" ]       a pass: quantize-dynamic{rows=true}
              | [ NAME ] "(" pipeline ")"                   a nested pipeline, named if you like
    option   := NAME "=" VALUE                              VALUE is what YAML reads: 4, 0.1, true, [a, b], text

The same in YAML: a list whose items are a name, `{name: {option: value}}`, or `{name: [items]}` for nesting.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import yaml

from ..ir.errors import OptionError, nearest

Options = typing.TypeVar("Options")

_NAME = re.compile(r"\s*([A-Za-z_][\w.:-]*)\s*")
_TOKEN = re.compile(r"""'(?:[^']|'')*'|"(?:[^"\\]|\\.)*"|.""", re.DOTALL)
_BARE = re.compile(r"[A-Za-z_][\w./-]*")


@dataclass(frozen=True)
class Step:
    """One parsed step: a pass with its raw options, or a nested pipeline with its steps."""

    name: str
    options: Mapping[str, object] = field(default_factory=dict)
    steps: tuple[Step, ...] | None = None


def parse(text: str) -> tuple[Step, ...]:
    """Read a pipeline's text. Raises OptionError that points at the place it could not read."""
    if not text.strip():
        return ()
    steps, end = _steps(text, 0)
    if text[end:].strip():
        raise _bad(text, end, "a comma or the end")
    return steps


def from_yaml(items: object) -> tuple[Step, ...]:
    """Read a pipeline from what a YAML document holds. Raises OptionError for any other shape."""
    if isinstance(items, str):
        return parse(items)
    if not isinstance(items, Sequence):
        raise OptionError(f"a pipeline is a list of passes or their text, found {type(items).__name__}")
    return tuple(_item(item) for item in items)


def to_text(steps: Sequence[Step]) -> str:
    """The text that `parse` reads back."""
    return ",".join(_text(step) for step in steps)


def to_yaml(steps: Sequence[Step]) -> list[object]:
    """The list that `from_yaml` reads back."""
    return [_data(step) for step in steps]


def build(kind: type[Options], owner: str, given: Mapping[str, object]) -> Options:
    """Make a frozen options dataclass from raw values. Raises OptionError on an unknown option or a wrong type."""
    hints = typing.get_type_hints(kind)
    known = {item.name for item in dataclasses.fields(kind) if item.init}  # type: ignore[arg-type]
    for name in given:
        if name.replace("-", "_") not in known:
            hint = nearest(name, known) if known else "it takes none"
            raise OptionError(f"{owner} has no option {name!r}; {hint}")
    values = {name.replace("-", "_"): value for name, value in given.items()}
    missing = [item.name for item in _required(kind) if item.name not in values]
    if missing:
        raise OptionError(f"{owner} needs the option {missing[0]!r}")
    return kind(**{name: _coerce(value, hints[name], f"{owner}: option {name}") for name, value in values.items()})


def _required(kind: type[object]) -> list[dataclasses.Field[object]]:
    unset = dataclasses.MISSING
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    return [item for item in fields if item.init and item.default is unset and item.default_factory is unset]


def _steps(text: str, start: int) -> tuple[tuple[Step, ...], int]:
    steps: list[Step] = []
    while True:
        step, start = _step(text, start)
        steps.append(step)
        if start >= len(text) or text[start] != ",":
            return tuple(steps), start
        start += 1


def _step(text: str, start: int) -> tuple[Step, int]:
    found = _NAME.match(text, start)
    name = found[1] if found else ""
    start = found.end() if found else start + len(text[start:]) - len(text[start:].lstrip())
    if start < len(text) and text[start] == "(":
        inside = _skip(text, start + 1)
        steps, end = ((), inside) if text[inside : inside + 1] == ")" else _steps(text, inside)
        if end >= len(text) or text[end] != ")":
            raise _bad(text, end, "')'")
        return Step(name, steps=steps), _skip(text, end + 1)
    if not name:
        raise _bad(text, start, "the name of a pass")
    if start < len(text) and text[start] == "{":
        items, end = _braced(text, start)
        return Step(name, _options(items, text)), _skip(text, end + 1)
    return Step(name), start


def _skip(text: str, start: int) -> int:
    while start < len(text) and text[start].isspace():
        start += 1
    return start


def _braced(text: str, start: int) -> tuple[list[str], int]:
    """What stands between the brace at `start` and the one that closes it, split at commas, and where that one is."""
    items, depth = [""], 0
    for token in _TOKEN.finditer(text, start + 1):
        letter = token[0]
        if letter == "}" and depth == 0:
            return (items if len(items) > 1 or items[0].strip() else []), token.start()
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            items.append("")
        else:
            items[-1] += letter
    raise _bad(text, len(text), "'}'")


def _options(items: Sequence[str], text: str) -> dict[str, object]:
    options: dict[str, object] = {}
    for item in items:
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not name:
            raise OptionError(f"in {text!r}: {item.strip()!r} is no option; write name=value")
        if name in options:
            raise OptionError(f"in {text!r}: {name!r} is given twice; write a list for several values: {name}=[a, b]")
        try:
            options[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            hint = "put text with other characters than letters in quotes"
            raise OptionError(f"in {text!r}: cannot read the value of {name!r}: {value!r}; {hint}") from error
    return options


def _bad(text: str, at: int, wanted: str) -> OptionError:
    found = repr(text[at : at + 12]) if at < len(text) else "the end"
    return OptionError(f"cannot read the pipeline {text!r}: expected {wanted} at character {at + 1}, found {found}")


def _item(item: object) -> Step:
    if isinstance(item, str):
        steps = parse(item)
        return steps[0] if len(steps) == 1 else Step("", steps=steps)
    if isinstance(item, Mapping) and len(item) == 1:
        name, content = next(iter(item.items()))
        if isinstance(content, list):
            return Step(str(name), steps=from_yaml(content))
        if content is None or isinstance(content, Mapping):
            return Step(str(name), {str(key): value for key, value in (content or {}).items()})
    raise OptionError(f"a step is a name, {{name: options}} or {{name: [steps]}}, found {item!r}")


def _text(step: Step) -> str:
    if step.steps is not None:
        return f"{step.name}({to_text(step.steps)})"
    if not step.options:
        return step.name
    return f"{step.name}{{{','.join(f'{name}={_scalar(value)}' for name, value in step.options.items())}}}"


def _data(step: Step) -> object:
    if step.steps is not None:
        return {step.name: to_yaml(step.steps)}
    return {step.name: {name: _plain(value) for name, value in step.options.items()}} if step.options else step.name


def _plain(value: object) -> object:
    if isinstance(value, enum.Enum):
        return value.value
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _scalar(value: object) -> str:
    plain = _plain(value)
    if isinstance(plain, list):
        return f"[{', '.join(map(_scalar, plain))}]"
    if isinstance(plain, str) and not (_BARE.fullmatch(plain) and yaml.safe_load(plain) == plain):
        return yaml.safe_dump(plain, default_style='"', width=math.inf).strip()
    return yaml.safe_dump(plain).removesuffix("\n...\n").strip()


def _coerce(value: object, hint: object, owner: str) -> object:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _union(value, args, owner, hint)
    if origin is typing.Literal:
        if value in args:
            return value
        raise OptionError(f"{owner} is one of {', '.join(map(str, args))}; found {value!r}")
    if origin is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_coerce(item, args[0], owner) for item in items)
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        names = [str(member.value) for member in hint]
        if str(value) in names:
            return hint(value)
        raise OptionError(f"{owner} is one of {', '.join(names)}; found {value!r}")
    wanted = hint.__name__ if isinstance(hint, type) else str(hint)
    raise OptionError(f"{owner} is {_article(wanted)}; found {value!r} ({type(value).__name__})")


def _union(value: object, args: tuple[object, ...], owner: str, hint: object) -> object:
    if value is None and type(None) in args:
        return None
    for arg in args:
        if arg is not type(None):
            try:
                return _coerce(value, arg, owner)
            except OptionError:
                continue
    if any(typing.get_origin(arg) is typing.Literal for arg in args):
        choices = [choice for arg in args for choice in (typing.get_args(arg) or ("null",))]
        raise OptionError(f"{owner} is one of {', '.join(map(str, choices))}; found {value!r}")
    wanted = " or ".join("null" if arg is type(None) else getattr(arg, "__name__", str(arg)) for arg in args)
    raise OptionError(f"{owner} is {_article(wanted)}; found {value!r} ({type(value).__name__})")


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
