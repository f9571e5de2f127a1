"""Which axes of which weights and activations are tied: cutting one cuts all.

    found = dependencies(model)
    for group in found.groups: ...            1,536 units: rows of fc2.weight, columns of fc1.weight, fc1.bias

Axes are followed through the whole graph and its functions, once, in order. What a group's units are (heads, recurrent
units, features) follows from the ops that count them. An axis that reaches an input or output of the model, an op
without a rule or a subgraph is held, and says where.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from math import prod

import numpy as np
import onnx_ir as ir

from ..constants import is_constant
from ..errors import ModelError
from ..shapes import Shapes, Visit
from ..text import place
from ..walk import every_graph, held_graphs
from .axis import Axis, Hold, Mask, Role, Why, length
from .compute_rules import COMPUTE
from .following import TARGETS, TOLD, target_of, teller
from .layout_rules import LAYOUT
from .scope import Axes, Ties

RULES = {**COMPUTE, **LAYOUT}

#: Softmax, Split, Squeeze and the like have meant the same since.
_OLDEST = 13


@dataclass(frozen=True)
class Group:
    """Axes that are cut together.

    axis: the leaf that they share. uses: each value that has it, and the position of the axis that it is a part of.
    parameters: elements of weights that one unit takes with it.
    """

    axis: Axis
    size: int
    uses: tuple[tuple[ir.Value, int], ...]
    parameters: int

    @property
    def weights(self) -> tuple[tuple[ir.Value, int], ...]:
        """The constants among the uses."""
        return tuple(use for use in self.uses if is_constant(use[0]))

    @property
    def holds(self) -> tuple[Hold, ...]:
        """Why it may not be cut."""
        return self.axis.holds

    @property
    def roles(self) -> frozenset[Role]:
        """What its units are to the ops that count them."""
        return frozenset(role for role, _ in self.axis.roles)

    @property
    def free(self) -> bool:
        """Whether nothing holds it."""
        return not self.holds


@dataclass(frozen=True)
class Dependencies:
    """The axes of every value of a model's main graph, and the groups of those that weights have."""

    model: ir.Model
    axes: Mapping[ir.Value, tuple[Axis, ...]]
    groups: tuple[Group, ...]

    def group(self, axis: Axis) -> Group | None:
        """The group of a leaf, None where no weight has it."""
        return self._groups.get(axis.root())

    @cached_property
    def _groups(self) -> dict[Axis, Group]:
        return {group.axis: group for group in self.groups}

    def axis(self, value: ir.Value, at: int) -> Axis | None:
        """An axis of a value; None where its rank is unknown."""
        found = self.axes.get(value)
        return None if found is None else found[at].root()


def dependencies(model: ir.Model) -> Dependencies:
    """Follow the axes of a model at the semantic level; reads no weights.

    Raises ModelError for a model of an opset whose ops mean other things by the same names.
    """
    version = model.opset_imports.get("", _OLDEST)
    if version < _OLDEST:
        raise ModelError(
            f"{model.graph.name or 'the model'}: expected opset {_OLDEST} or newer to follow its axes, "
            f"found {version}; raise it first (tersor.passes.presets.RAISING, or --raise)"
        )
    ties = Ties(model, {}, observe=_visit, strict=True)
    ties.settle()
    for value in model.graph.inputs:
        for axis in ties.axes_of(value) or ():
            axis.hold(Why.INPUT, value.name or "")
    for value in model.graph.outputs:
        for axis in ties.axes_of(value) or ():
            axis.hold(Why.OUTPUT, value.name or "")
    inside = set(model.graph.inputs) | set(model.graph.initializers.values())
    inside |= {value for node in model.graph for value in node.outputs}
    known = {value: axes for value, axes in ties.axes.items() if axes is not None and value in inside}
    return Dependencies(model, known, tuple(_groups(known)))


def _groups(known: Mapping[ir.Value, tuple[Axis, ...]]) -> Iterable[Group]:
    uses: dict[Axis, list[tuple[ir.Value, int]]] = {}
    for value, axes in known.items():
        for at, axis in enumerate(axes):
            for leaf in axis.leaves():
                if leaf.count is not None and leaf.count > 1:
                    uses.setdefault(leaf, []).append((value, at))
    for leaf, found in uses.items():
        if any(is_constant(value) for value, _ in found) and leaf.count is not None:
            yield Group(leaf, leaf.count, tuple(found), _parameters(leaf, leaf.count, found, known))


def _parameters(
    leaf: Axis, size: int, found: Iterable[tuple[ir.Value, int]], known: Mapping[ir.Value, tuple[Axis, ...]]
) -> int:
    """Elements of weights without one of the units against those with it."""
    without = {leaf: np.arange(size) > 0}
    axes = [known[value] for value in dict.fromkeys(value for value, _ in found) if is_constant(value)]
    return sum(_elements(each, {}) - _elements(each, without) for each in axes)


def _elements(axes: Iterable[Axis], leaves: Mapping[Axis, Mask]) -> int:
    return prod(length(axis, leaves).constant or 0 for axis in axes)


def _visit(shapes: Shapes, visit: Visit) -> None:
    assert isinstance(shapes, Ties)
    node = visit.node
    made = _follow(shapes, node)
    for index, value in enumerate(node.outputs):
        if value.name:
            axes = made[index] if index < len(made) else None
            shapes.axes[value] = (
                shapes.fresh(value, f"no rule for {node.op_type} at {place(node)}") if (axes is None) else axes
            )
    shapes.note_zeros(node)
    if node.domain or (visit.top is node and node.op_type not in TARGETS):
        return
    if visit.top is node:
        _hold_computed(shapes, node)
    elif node.op_type in TOLD:
        _hold_ports(shapes, node, "told a size inside of a function or subgraph")
    elif node.op_type == "Constant":
        _hold_ports(shapes, node, "a constant inside of a function or subgraph")


def _hold_ports(ties: Ties, node: ir.Node, why: str) -> None:
    for port in (*node.inputs, *node.outputs):
        known = None if port is None else ties.axes.get(port)
        ties.hold(node, known or (), why)


def _follow(ties: Ties, node: ir.Node) -> list[Axes]:
    """The axes of the outputs; what the rule cannot tell of is held."""
    for graph in (inner for held in held_graphs(node) for inner in every_graph(held)):
        for each in graph:
            ties.hold_all(each.inputs, node, "read by a subgraph")
        # a value from outside that is given on bears its name and is another object
        given = {value.name for value in graph.outputs if value.producer() is None}
        outside = [value for value in ties.axes if value.name in given] if given else []
        ties.hold_all(outside, node, "given by a subgraph")
    rule = RULES.get((node.domain, node.op_type))
    if rule is None:
        ties.hold_all(node.inputs, node, f"no rule for {node.op_type}")
        return []
    found: list[Axes] = []
    ties.read_by_rule.clear()
    try:
        found.extend(rule(node, ties))
        if any(value.name and axes is None for value, axes in zip_longest(node.outputs, found[: len(node.outputs)])):
            raise ValueError("an output of unknown axes")
    except (IndexError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        ties.hold_all(node.inputs, node, f"{error}:")
        return []
    for index, value in enumerate(node.inputs):
        # sizes, places and counts: numbers that mean what they say
        if value is not None and index not in ties.read_by_rule and (node.op_type, index) != ("CastLike", 1):
            ties.hold_late(value, node, "read as numbers")
    return found


def _hold_computed(ties: Ties, node: ir.Node) -> None:
    """Hold what a target says in a number that is computed."""
    axes = ties.axes.get(node.outputs[0]) or ()
    try:
        target = target_of(node, len(axes))
    except ValueError as error:
        ties.hold(node, axes, f"{error}:")
        return
    for at, axis in enumerate(axes if target is not None else ()):
        index = target.index(at) if target is not None else None
        if target is None or index is None or axis.count in (None, 1):
            continue
        if (node.op_type, target.said[index]) != ("Reshape", -1) and teller(target.value, index) is None:
            ties.hold(node, [axis], "its size is computed")
