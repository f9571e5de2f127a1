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

import onnx_ir as ir

from ..constants import is_constant, tensor_of
from ..content import content
from ..shapes import Shapes, Visit
from ..text import place
from ..walk import every_node, held_graphs
from .axis import Axis, Hold, Role, Why
from .compute_rules import COMPUTE
from .following import TARGETS, TOLD, teller
from .layout_rules import LAYOUT
from .scope import Axes, Ties

RULES = {**COMPUTE, **LAYOUT}


@dataclass(frozen=True)
class Group:
    """Axes that are cut together.

    axis: the leaf that they share. uses: each value that has it, and the position of the axis that it is a part of.
    """

    axis: Axis
    size: int
    uses: tuple[tuple[ir.Value, int], ...]

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

    @cached_property
    def parameters(self) -> int:
        """Elements of weights that one unit takes with it."""
        values = dict.fromkeys(value for value, _ in self.weights)
        return sum(tensor.size for value in values if (tensor := tensor_of(value)) is not None) // self.size

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
    """Follow the axes of a model at the semantic level; reads no weights."""
    ties = Ties(model, {}, observe=_visit, strict=True)
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
            yield Group(leaf, leaf.count, tuple(found))


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
    if node.op_type in TOLD and not node.domain:
        if visit.top is not node:
            for port in (*node.inputs, *node.outputs):
                known = None if port is None else shapes.axes.get(port)
                shapes.hold(node, known or (), "told a size inside of a function or subgraph")
        elif node.op_type in TARGETS:
            _hold_computed(shapes, node)


def _follow(ties: Ties, node: ir.Node) -> list[Axes]:
    """The axes of the outputs; what the rule cannot tell of is held."""
    for each in (each for graph in held_graphs(node) for each in every_node(graph)):
        ties.hold_all(each, "read by a subgraph")
    rule = RULES.get((node.domain, node.op_type))
    if rule is None:
        ties.hold_all(node, f"no rule for {node.op_type}")
        return []
    found: list[Axes] = []
    try:
        found.extend(rule(node, ties))
    except (IndexError, KeyError, TypeError, ValueError) as error:
        ties.hold_all(node, f"{error}:")
    return found


def _hold_computed(ties: Ties, node: ir.Node) -> None:
    """Hold what a target says in a number that is computed."""
    target, axes = node.inputs[TARGETS[node.op_type]], ties.axes.get(node.outputs[0])
    said = content(target) if target is not None else None
    for at, axis in enumerate(axes or ()):
        number = said[at] if said is not None and len(said) == len(axes or ()) else None
        if axis.count not in (None, 1) and number != -1 and (target is None or teller(target, at) is None):
            ties.hold(node, [axis], "its size is computed")
