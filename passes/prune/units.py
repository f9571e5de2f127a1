"""What can be pruned: groups of dependent axes (`ir.axes`) as units, with the sites that make and that read them.

x --> [fc1] --> Gelu --> [fc2] --> y           1,536 units: made by fc1, read by fc2
x --> [q] [k] [v] --> Attention --> [o]        12 units of 32 features: made by q, k and v, read by o
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...ir.axes import Axis, Dependencies, Group, Role, dependencies, places
from ...ir.site import Kind, Site, sites
from ..choosing import names

#: In the metadata of the first weight of a group, by axis: how many units there were at first.
_FIRST = "tersor.units"

Places = NDArray[np.intp]
#: What tells a group of a model from its others, also after some of its units are gone.
Key = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Units:
    """A group of axes whose units are made and read by weight sites. name: of the site that reads them.

    number: among the groups that lie along the same axes of the same weights, side by side.
    """

    found: Dependencies
    group: Group
    makers: tuple[Site, ...]
    readers: tuple[Site, ...]
    number: int = 0

    @property
    def name(self) -> str:
        return self.readers[0].name

    @property
    def node(self) -> ir.Node:
        """The node that findings speak of."""
        return self.readers[0].node

    @cached_property
    def key(self) -> Key:
        return (*_along(self.group), *([("", self.number)] if self.number else []))

    @property
    def first(self) -> int:
        """How many units there were before any pass took some."""
        return int(self.group.weights[0][0].metadata_props.get(self._noted, self.size))

    def remember(self) -> None:
        """Note how many units there are, unless an earlier pass has."""
        self.group.weights[0][0].metadata_props.setdefault(self._noted, str(self.size))

    @property
    def _noted(self) -> str:
        return f"{_FIRST}.{self.group.weights[0][1]}" + (f".{self.number}" if self.number else "")

    @cached_property
    def names(self) -> list[str]:
        """What patterns know them by: the names of the sites that read them."""
        return [name for site in self.readers for name in names(site)]

    @property
    def size(self) -> int:
        return self.group.size

    @property
    def axis(self) -> Axis:
        return self.group.axis

    @cached_property
    def heads(self) -> bool:
        return Role.HEADS in self.group.roles

    def read_by(self, site: Site) -> Places | None:
        """Of which unit each input feature of a reader is, -1 for none; None where that is not known."""
        axis = _features(self.found, site.activation, site.axis)
        if site.node.op_type == "Conv" and site.kind is Kind.CONV and site.node.inputs[1] is not None:
            # of the channels of one group
            axis = _features(self.found, site.node.inputs[1], 1)
        owners = None if axis is None else places(axis, self.axis)
        if owners is None:
            return None
        taps, rest = divmod(site.in_features, len(owners))
        # a convolution's inputs are its channels, each with the taps of the kernel
        return np.repeat(owners, taps) if taps and not rest else None

    def made_by(self, site: Site) -> Places | None:
        """Of which unit each output feature of a maker is, -1 for none; None where that is not known."""
        if site.kind in (Kind.RECURRENT_INPUT, Kind.RECURRENT_HIDDEN):
            return np.tile(np.arange(self.size), site.out_features // self.size)
        axis = _features(self.found, site.output, site.output_axis)
        owners = None if axis is None else places(axis, self.axis)
        return owners if owners is not None and len(owners) == site.out_features else None


def units(model: ir.Model) -> list[Units]:
    """All groups that sites make and read, held ones too, in the order in which they are read."""
    found = dependencies(model)
    makers: dict[Axis, dict[int, Site]] = {}
    readers: dict[Axis, dict[int, Site]] = {}
    listed = sites(model)
    for number, site in enumerate(listed):
        for leaf in _leaves(found, site.output, site.output_axis):
            makers.setdefault(leaf, {})[number] = site
        if site.kind is Kind.RECURRENT_HIDDEN:
            # it reads its own output, one step late
            continue
        for leaf in _leaves(found, site.activation, site.axis) if site.kind is not Kind.EMBEDDING else ():
            readers.setdefault(leaf, {})[number] = site
    made = []
    numbers: dict[Key, int] = {}
    for group in found.groups:
        making, reading = (of.get(group.axis, {}) for of in (makers, readers))
        along = [value for value, _ in group.weights]
        # a convolution by channel hands units on: its weight has them once
        last = {at: site for at, site in reading.items() if at not in making or along.count(site.weight) > 1}
        if making and last:
            number = numbers.setdefault(_along(group), 0)
            numbers[_along(group)] += 1
            made.append((min(last), Units(found, group, tuple(making.values()), tuple(last.values()), number)))
    return [each for _, each in sorted(made, key=lambda pair: pair[0])]


def _along(group: Group) -> Key:
    return tuple(sorted((value.name or "", at) for value, at in group.weights))


def _features(found: Dependencies, value: ir.Value, axis: int) -> Axis | None:
    return found.axis(value, axis)


def _leaves(found: Dependencies, value: ir.Value, axis: int) -> Iterable[Axis]:
    of = _features(found, value, axis)
    return () if of is None else of.leaves()
