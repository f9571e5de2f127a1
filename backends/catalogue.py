"""The one table of backends: a name and where its class lives, imported when it is asked for.

Packages add theirs by the entry point group `tersor.backends` (name = "module:Class").
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import entry_points

from ..ir.errors import OptionError, UnsupportedError, nearest
from ..passes.syntax import build, parse
from .base import Backend

GROUP = "tersor.backends"

#: name -> "module:Class", modules relative to this package.
BACKENDS: Mapping[str, str] = {
    "inductor": ".inductor.backend:Inductor",
    "onnxruntime": ".onnxruntime.backend:OnnxRuntime",
    "openvino": ".openvino.backend:OpenVino",
    "torch": ".torch.backend:Torch",
}

#: Targets that stand for several backends: all are compiled and timed, the fastest within contract is kept.
#: `cpu` takes seconds; `cpu-all` adds those that take a minute.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "cpu": ("onnxruntime", "openvino", "torch"),
    "cpu-all": ("onnxruntime", "openvino", "torch", "inductor"),
}


@cache
def table() -> dict[str, str]:
    """Every known backend. Raises OptionError when two packages claim one name."""
    known = dict(BACKENDS)
    for point in entry_points(group=GROUP):
        if point.name in known and known[point.name] != point.value:
            raise OptionError(f"two packages offer a backend {point.name!r}: {known[point.name]} and {point.value}")
        known[point.name] = point.value
    return known


def find(name: str) -> type[Backend]:
    """The class of a backend, installed or not. Raises OptionError with the nearest names."""
    if name not in table():
        raise OptionError(f"there is no target {name!r}; {nearest(name, [*table(), *GROUPS])}")
    module, _, attribute = table()[name].partition(":")
    found: type[Backend] = getattr(importlib.import_module(module, __package__), attribute)
    return found


def create(target: str) -> Backend:
    """The backend that `onnxruntime` or `onnxruntime{threads=2}` names.

    Raises OptionError for an unknown name or option, UnsupportedError with the line that installs it where it is
    missing.
    """
    (step,) = parse(target)
    kind = find(step.name)
    if kind.version() is None:
        raise UnsupportedError(f"the target {step.name!r} is not installed; {kind.install}")
    return build(kind, step.name, step.options)


def candidates(target: str) -> Iterator[Backend]:
    """The backends a target stands for: itself, or every installed member of its group (options go to each)."""
    name, brace, options = target.partition("{")
    if name not in GROUPS:
        yield create(target)
        return
    for member in GROUPS[name]:
        if find(member).version() is not None:
            yield create(f"{member}{brace}{options}")
