"""Raise a group normalization spelled with an instance normalization.

    before   x: [N, C, ..] --> Reshape [N, G, -1] --> InstanceNormalization --> Reshape [N, C, ..] --> * w --> + b
    after    GroupNormalization(x, w, b){num_groups=G}                          w, b: [C]

Exact: Wu and He, Group Normalization, 2018, equations 1 to 4; that of a group is the instance normalization of what it
holds (section 3.1). The walk starts at the InstanceNormalization; groups are found by the layout of its input
(`ir.layout`), and scale and shift may be left out. Left alone: an instance normalization that scales or shifts by
itself, channels that are cut otherwise, half precision, whose statistics would be computed in another type, and scales
that are not constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ....ir.atoms import Axis, size_of
from ....ir.constants import tensor_of
from ....ir.content import dimensions
from ....ir.layout import View, after, rearranges, views, whole
from ...base import Match, Miss, Rewrite
from ...edit import Array, Tape, constant_of, is_op, only_reader, replace

#: Channels of a normalization that is looked at.
_CHANNELS = 1 << 16


@dataclass(frozen=True)
class Factor:
    """A constant for each channel, as [C], and the name it goes by."""

    numbers: Array
    name: str


@dataclass(frozen=True, kw_only=True)
class Groups(Match):
    """What is normalized, in how many groups, and what scales and shifts it to `result`."""

    x: ir.Value
    groups: int
    channels: int
    epsilon: float
    scale: Factor | None
    shift: Factor | None
    result: ir.Value


@dataclass(frozen=True, kw_only=True)
class RaiseGroupNormalization(Rewrite):
    """Reshape, InstanceNormalization, Reshape, Mul, Add -> GroupNormalization"""

    name: ClassVar[str] = "raise-group-normalization"
    anchors: ClassVar[tuple[str, ...]] = ("InstanceNormalization",)
    subject: ClassVar[str] = "group normalization"

    def match(self, node: ir.Node) -> Match | Miss:
        value, *own = node.inputs
        if value is None or value.dtype is not ir.DataType.FLOAT:
            return Miss("type", str(value.dtype if value is not None else None), "float32")
        if not _is_all(own[0], 1.0) or not _is_all(own[1], 0.0):
            return Miss("parameters", node.name or "", "an instance normalization that scales by 1 and shifts by 0")
        missed = Miss("groups", value.name or "", "[N, groups, ..], cut from the channels of [N, C, ..]")
        for view in views(value):
            groups = None if view.root is value else _groups(view)
            channels = (dimensions(view.root) or [None, None])[1] if groups is not None else None
            if groups is None or not isinstance(channels, int):
                continue
            normal = _back(node, view)
            if normal is None:
                missed = Miss("back", node.outputs[0].name or "", "a Reshape to the sizes before, which alone reads it")
                continue
            scaled, scale = _factor(normal, "Mul", channels)
            result, shift = _factor(scaled, "Add", channels)
            epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
            return Groups(
                node=node, x=view.root, groups=groups, channels=channels, epsilon=epsilon, scale=scale, shift=shift,
                result=result,
            )  # fmt: skip
        return missed

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Groups)
        tape = Tape()
        ones = Factor(np.ones(found.channels, np.float32), "scale")
        zeros = Factor(np.zeros(found.channels, np.float32), "shift")
        held = [tape.constant(factor.numbers, factor.name) for factor in (found.scale or ones, found.shift or zeros)]
        attributes = {"num_groups": found.groups, "epsilon": found.epsilon}
        made = tape.node("GroupNormalization", [found.x, *held], attributes)
        replace(tape, [found.result], made.outputs, matched=_between(found))


def _groups(view: View) -> int | None:
    """How many groups a view [N, G, ..] of [N, C, ..] has; None where it is no such view."""
    root = whole(view.root)
    if root is None or len(root) < 3 or len(view.axes) < 3 or not root[1] or view.axes[0] != root[0]:
        return None
    if not _in_order(view.axes):
        return None
    groups, channels = size_of(view.axes[1]).constant, root[1][0].size.constant
    outermost = all(atom.axis == 1 for atom in view.axes[1])
    return groups if groups and channels and outermost and channels % groups == 0 else None


def _in_order(axes: Sequence[Axis]) -> bool:
    """Whether elements lie as in what is viewed: the outer parts of an axis before its inner ones."""
    atoms = [atom for axis in axes for atom in axis]
    places = [-1 if atom.axis is None else atom.axis for atom in atoms]
    return places == sorted(places) and all(
        before.axis != behind.axis or before.stride == behind.stride * behind.size for before, behind in pairwise(atoms)
    )


def _back(node: ir.Node, view: View) -> ir.Value | None:
    """The normalized value laid out as before."""
    value, wanted = node.outputs[0], [size_of(axis) for axis in whole(view.root) or ()]
    axes: Sequence[Axis] | None = view.axes
    while axes is not None and not (_in_order(axes) and [size_of(axis) for axis in axes] == wanted):
        reader = only_reader(value)
        if reader is None or not rearranges(reader):
            return None
        axes, value = after(reader, axes), reader.outputs[0]
    return None if axes is None or value is node.outputs[0] else value


def _factor(value: ir.Value, op: str, channels: int) -> tuple[ir.Value, Factor | None]:
    """What a constant for each channel makes of a value, and that constant; the value itself where there is none."""
    reader, dims = only_reader(value), dimensions(value)
    if not is_op(reader, op) or dims is None or dimensions(reader.outputs[0]) != dims:
        return value, None
    other = reader.inputs[1] if reader.inputs[0] is value else reader.inputs[0]
    sizes = None if other is value else dimensions(other)
    if other is None or sizes is None or len(sizes) > len(dims) or other.is_graph_input():
        return value, None
    padded = [*[1] * (len(dims) - len(sizes)), *sizes]
    spread = [size if index != 1 else 1 for index, size in enumerate(padded)]
    if any(size != 1 for size in spread) or padded[1] not in (1, channels) or channels > _CHANNELS:
        return value, None
    array = constant_of(other)
    if array is None or array.dtype != np.float32:
        return value, None
    return reader.outputs[0], Factor(np.broadcast_to(array.reshape(-1), channels).copy(), other.name or op.lower())


def _is_all(value: ir.Value | None, number: float) -> bool:
    tensor = tensor_of(value)
    return tensor is not None and tensor.size <= _CHANNELS and bool((tensor.numpy() == number).all())


def _between(found: Groups) -> list[ir.Node]:
    """The nodes from the result up to what is normalized."""
    nodes: list[ir.Node] = []
    value: ir.Value | None = found.result
    while value is not None and value is not found.x:
        node = value.producer()
        if node is None:
            break
        nodes.append(node)
        # of a product or a sum the side that is computed
        value = next((item for item in node.inputs if item is not None and item.producer() is not None), None)
        value = node.inputs[0] if node is found.node or rearranges(node) else value
    return nodes
