"""What a user asks to be dynamic, `{"x": {0: "batch", 1: ("sequence", 2, 512)}}`, held against the example inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch

from .dimensions import Range, describe
from .errors import OptionError, nearest

#: One dynamic dimension: its name, or its name with the smallest and largest size, or torch's own.
Dimension: TypeAlias = "str | tuple[str, int, int | None] | torch.export.Dim"
#: {input name: {axis: dimension}}
Dynamic: TypeAlias = Mapping[str, Mapping[int, Dimension]]


@dataclass(frozen=True)
class Plan:
    """Which axes are dynamic and under what names; the sizes each name may take; which of those the user chose."""

    axes: Mapping[tuple[str, int], str]
    ranges: Mapping[str, Range]
    chosen: frozenset[str]
    own: Mapping[str, torch.export.Dim]

    @classmethod
    def of(cls, dynamic: Dynamic, tensors: Mapping[str, torch.Tensor]) -> Plan:
        """Raises OptionError for inputs, axes, names and ranges that do not fit `tensors` or each other."""
        plan = cls({}, {}, frozenset(), {})
        for name, axes in dynamic.items():
            if name not in tensors:
                raise OptionError(f"dynamic names the input {name!r}, which forward has not: {nearest(name, tensors)}")
            for axis, given in axes.items():
                plan = plan._with(f"dynamic, {name} axis {axis}", name, axis, given, tensors[name])
        plan._check_sizes(tensors)
        return plan

    def shapes(self) -> dict[str, dict[int, torch.export.Dim]]:
        """torch's dimensions of each input that has dynamic ones."""
        dims = {
            name: self.own.get(name) or torch.export.Dim(name, min=low, max=high)
            for name, (low, high) in self.ranges.items()
        }
        shapes: dict[str, dict[int, torch.export.Dim]] = {}
        for (name, axis), dimension in self.axes.items():
            shapes.setdefault(name, {})[axis] = dims[dimension]
        return shapes

    def widths(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[int, int]]:
        """{input: {axis: size}} for the axes whose example has size 1, which tracing would take as fixed."""
        found: dict[str, dict[int, int]] = {}
        for (name, axis), dimension in self.axes.items():
            low, high = self.ranges[dimension]
            if tensors[name].shape[axis] == 1 and (high is None or high > 1):
                found.setdefault(name, {})[axis] = max(2, low)
        return found

    def narrowed(self, ranges: Mapping[str, Range]) -> Plan | None:
        """This plan within narrower ranges; None where that changes nothing, or a range that the user chose."""
        new = {name: pair for name, pair in ranges.items() if name in self.ranges and self.ranges[name] != pair}
        if not new or self.chosen & new.keys():
            return None
        return replace(self, ranges={**self.ranges, **new})

    def _with(self, place: str, name: str, axis: int, given: Dimension, tensor: torch.Tensor) -> Plan:
        if not isinstance(axis, int) or not -tensor.ndim <= axis < tensor.ndim:
            raise OptionError(f"{place}: the example input has shape {list(tensor.shape)}, expected one of its axes")
        dimension, pair = parsed(given, place)
        own = {dimension: given} if isinstance(given, torch.export.Dim) else {}
        axes = {**self.axes, (name, axis % tensor.ndim): dimension}
        if pair is None:
            return replace(self, axes=axes, ranges={dimension: (1, None), **self.ranges})
        if dimension in self.chosen and self.ranges[dimension] != pair:
            raise OptionError(
                f"{place}: dimension {dimension!r} is {describe(pair)} here, {describe(self.ranges[dimension])} before"
            )
        return Plan(axes, {**self.ranges, dimension: pair}, self.chosen | {dimension}, {**self.own, **own})

    def _check_sizes(self, tensors: Mapping[str, torch.Tensor]) -> None:
        first: dict[str, tuple[int, str]] = {}
        for (name, axis), dimension in self.axes.items():
            size = tensors[name].shape[axis]
            place = f"{name} axis {axis}"
            before, where = first.setdefault(dimension, (size, place))
            if size != before:
                raise OptionError(
                    f"dynamic: dimension {dimension!r} has size {before} at {where} and {size} at {place} of the "
                    "example inputs; one name is one size, give the other a name of its own"
                )
            low, high = self.ranges[dimension]
            if size == 0 or (size > 1 and size < low) or (high is not None and size > high):
                raise OptionError(
                    f"dynamic: the example input has size {size} at {place}, where {dimension!r} is "
                    f"{describe((low, high))}: give an example within the range"
                )


def parsed(given: Dimension, place: str) -> tuple[str, Range | None]:
    """The name and the range, None where that is not given. Raises OptionError, beginning with `place`."""
    if isinstance(given, torch.export.Dim):
        high = given.max
        return given.__name__, (max(int(given.min), 1), int(high) if isinstance(high, int) else None)
    parts = (given,) if isinstance(given, str) else tuple(given)
    if len(parts) not in (1, 3) or not isinstance(parts[0], str) or not parts[0].isidentifier():
        raise OptionError(f"{place}: expected a name or (name, smallest size, largest size or None), found {given!r}")
    name = parts[0]
    if len(parts) == 1:
        return name, None
    low, high = parts[1:]
    if not isinstance(low, int) or not isinstance(high, int | None):
        raise OptionError(f"{place}: sizes are whole numbers, found {given!r}")
    if low < 0 or (high is not None and high < low):
        raise OptionError(f"{place}: the range of {name!r} is {low}..{high}, the smallest size comes first")
    return name, (low, high)
