"""What a user asks to be dynamic, `{"x": {0: "batch", 1: ("sequence", 2, 512)}}`, held against the example inputs.

A dimension may be the sum of others, as that of a mask over what is cached and what is new: `"past + sequence"`. The
name of a parameter that holds several tensors stands for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch

from .dimensions import Range, describe
from .errors import OptionError, nearest

#: One dynamic dimension: its name, or its name with the smallest and largest size, or a sum of names, or torch's own.
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
    def of(
        cls, dynamic: Dynamic, tensors: Mapping[str, torch.Tensor], groups: Mapping[str, Sequence[str]] | None = None
    ) -> Plan:
        """`groups` are the names of the tensors in each parameter that holds several.

        Raises OptionError for inputs, axes, names and ranges that do not fit `tensors` or each other.
        """
        plan = cls({}, {}, frozenset(), {})
        parts = groups or {}
        for group, axes in dynamic.items():
            if group not in tensors and group not in parts:
                hint = nearest(group, [*tensors, *parts])
                raise OptionError(f"dynamic names the input {group!r}, which forward has not: {hint}")
            for name in (group,) if group in tensors else parts[group]:
                for axis, given in axes.items():
                    plan = plan._with(f"dynamic, {name} axis {axis}", name, axis, given, tensors[name])
        plan._check_sizes(tensors)
        return plan

    def shapes(self) -> dict[str, dict[int, torch.export.Dim]]:
        """torch's dimensions of each input that has dynamic ones."""
        dims = {
            name: self.own.get(name) or torch.export.Dim(name, min=low, max=high)
            for name, (low, high) in self.ranges.items()
            if len(addends(name)) == 1
        }
        # torch has no sums, and takes every size in one to be 2 or more
        for name in self.ranges.keys() - dims.keys():
            parts = addends(name)
            dims[name] = torch.export.Dim("_plus_".join(parts), min=2 * len(parts))
        shapes: dict[str, dict[int, torch.export.Dim]] = {}
        for (name, axis), dimension in self.axes.items():
            shapes.setdefault(name, {})[axis] = dims[dimension]
        return shapes

    def widths(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[int, int]]:
        """{input: {axis: size}} for the axes whose example has size 1, which tracing would take as fixed, and for those
        that are a sum with such a size in it."""
        sizes = {
            dimension: self._width(dimension, tensors[name].shape[axis]) for (name, axis), dimension in self._axes()
        }
        found: dict[str, dict[int, int]] = {}
        for (name, axis), dimension in self.axes.items():
            size = sum(sizes[part] for part in addends(dimension))
            if size != tensors[name].shape[axis]:
                found.setdefault(name, {})[axis] = size
        return found

    def _axes(self) -> list[tuple[tuple[str, int], str]]:
        """The axes whose dimension is no sum."""
        return [(place, dimension) for place, dimension in self.axes.items() if len(addends(dimension)) == 1]

    def _width(self, dimension: str, size: int) -> int:
        """The size that a dimension is traced at."""
        low, high = self.ranges[dimension]
        return max(2, low) if size == 1 and (high is None or high > 1) else size

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
        sizes = {dimension: tensors[name].shape[axis] for (name, axis), dimension in self._axes()}
        for (name, axis), dimension in self.axes.items():
            size = tensors[name].shape[axis]
            place = f"{name} axis {axis}"
            unknown = [part for part in addends(dimension) if part not in sizes]
            if unknown:
                raise OptionError(f"dynamic, {place}: no input has the dimension {unknown[0]!r} of {dimension!r}")
            if size != sum(sizes[part] for part in addends(dimension)) and dimension not in sizes:
                raise OptionError(f"dynamic, {place}: the example input has size {size}, {dimension!r} is another")
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
    names = addends(parts[0]) if parts and isinstance(parts[0], str) else ()
    named = bool(names) and all(map(str.isidentifier, names))
    if not named or len(parts) not in (1, 3) or (len(parts) == 3 and len(names) > 1):
        raise OptionError(
            f"{place}: expected a name, a sum of names or (name, smallest size, largest size or None), found {given!r}"
        )
    name = " + ".join(names)
    if len(parts) == 1:
        return name, None
    low, high = parts[1:]
    if not isinstance(low, int) or not isinstance(high, int | None):
        raise OptionError(f"{place}: sizes are whole numbers, found {given!r}")
    if low < 0 or (high is not None and high < low):
        raise OptionError(f"{place}: the range of {name!r} is {low}..{high}, the smallest size comes first")
    return name, (low, high)


def addends(dimension: str) -> tuple[str, ...]:
    """The dimensions that this one is the sum of; only itself where it is none.

    >>> addends("past + sequence"), addends("batch")
    (('past', 'sequence'), ('batch',))
    """
    return tuple(part.strip() for part in dimension.split("+"))
