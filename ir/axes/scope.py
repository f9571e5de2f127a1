"""What a rule for axes may ask and tell: the axes of the inputs of the node at hand, and what holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import onnx_ir as ir

from ..atoms import ONE
from ..constants import is_constant
from ..polynomial import Polynomial
from ..shapes import Shapes
from ..text import place
from .axis import Axis, Why, tie
from .vanishing import Of, Sums, Vanishing, vanishing

#: The axes of a value, None where its rank is unknown.
Axes: TypeAlias = "tuple[Axis, ...] | None"
Rule: TypeAlias = "Callable[[ir.Node, Ties], Iterator[Axes]]"


@dataclass(eq=False)
class Ties(Shapes):
    """Shapes that know of each axis what it is tied to. A rule yields the axes of each output in turn."""

    axes: dict[ir.Value, Axes] = field(default_factory=dict)
    sums: Sums = field(default_factory=Sums)
    zeros: dict[ir.Value, Vanishing] = field(default_factory=dict)
    read_by_rule: set[int] = field(default_factory=set)
    late: list[tuple[ir.Value, ir.Node, str]] = field(default_factory=list)

    def axes_of(self, value: ir.Value) -> Axes:
        """The axes of a value, those of a weight made when it is read first."""
        if value not in self.axes:
            dims = self.of(value)
            unknown = (Polynomial.of(f"?{value.name}:{index}") for index in range(len(dims or ())))
            self.axes[value] = (
                None if dims is None else tuple(Axis(next(unknown) if dim is None else dim) for dim in dims)
            )
        return self.axes[value]

    def bind(self, inner: ir.Value, outer: ir.Value | None) -> None:
        super().bind(inner, outer)
        self.axes[inner] = None if outer is None else self.axes_of(outer)
        self.zeros.pop(inner, None)
        if outer is not None and (known := self.vanishing(outer)) is not None:
            self.zeros[inner] = known

    def _bind_body(self, node: ir.Node, graph: ir.Graph) -> None:
        super()._bind_body(node, graph)
        for inner in graph.inputs:
            # what is scanned has lost an axis, and what goes round may be of another shape
            self.axes.pop(inner, None)

    def vanishing(self, value: ir.Value) -> Vanishing | None:
        """When a value vanishes; None for one of unknown rank."""
        axes = self.axes_of(value)
        if value not in self.zeros and axes is not None:
            self.zeros[value] = self.sums.note(axes, Of.ALWAYS if is_constant(value) else Of.NEVER)
        return self.zeros.get(value)

    def read(self, node: ir.Node, index: int) -> tuple[Axis, ...]:
        """The axes of an input. ValueError where there are none, which ends the rule."""
        value = node.inputs[index] if index < len(node.inputs) else None
        found = None if value is None else self.axes_of(value)
        if found is None:
            raise ValueError("an input of unknown rank")
        self.read_by_rule.add(index)
        return found

    def add_up(self, node: ir.Node, axes: Iterable[Axis], *factors: int) -> None:
        """Note that a node sums over axes, of the product of these inputs."""
        values = [value for index in factors if (value := node.inputs[index]) is not None]
        known = tuple(found for value in values if (found := self.vanishing(value)) is not None)
        self.sums.summed.append((place(node), tuple(axes), known))

    def given(self, node: ir.Node) -> list[tuple[Axis, ...]]:
        """The axes of all inputs that are there."""
        return [self.read(node, index) for index in range(len(node.inputs)) if self.has(node, index)]

    def fresh(self, value: ir.Value, why: str = "") -> Axes:
        """New axes for what a node makes, held where a reason is given."""
        dims = self.of(value)
        if dims is None:
            return None
        made = tuple(
            Axis(dim if dim is not None else Polynomial.of(f"?{value.name}:{at}")) for at, dim in enumerate(dims)
        )
        for axis in made:
            if why:
                axis.hold(Why.FIXED, why)
        return made

    def hold(self, node: ir.Node, axes: Iterable[Axis], why: str) -> None:
        """Let none of these be cut, for what a node does with them."""
        for axis in axes:
            if axis.root().size != ONE:
                axis.hold(Why.FIXED, f"{why} at {place(node)}")

    def hold_all(self, values: Iterable[ir.Value | None], node: ir.Node, why: str) -> None:
        """Let nothing of these values be cut."""
        for value in values:
            self.hold(node, () if value is None else self.axes_of(value) or (), why)

    def hold_late(self, value: ir.Value, node: ir.Node, why: str) -> None:
        """Let nothing of a value be cut, once a rule reads its axes: numbers that none does belong to no group."""
        if self.axes.get(value) is not None:
            self.hold_all([value], node, why)
        else:
            self.late.append((value, node, why))

    def note_zeros(self, node: ir.Node) -> None:
        """Note where what a node gives vanishes."""
        outputs = [(value, axes) for value in node.outputs if (axes := self.axes.get(value)) is not None]
        read = self.read_by_rule
        inputs = [
            self.vanishing(value) if value is not None and index in read else None
            for index, value in enumerate(node.inputs)
        ]
        found = vanishing(node, inputs, [axes for _, axes in outputs], self.sums)
        self.zeros |= {value: zero for (value, _), zero in zip(outputs, found, strict=True)}

    def settle(self) -> None:
        """Hold what only shows when all is tied."""
        for value, node, why in self.late:
            self.hold(node, self.axes.get(value) or (), why)
        self.sums.settle()

    def join(self, node: ir.Node, axes: Sequence[Axis]) -> Axis:
        """One axis of axes that meet element by element, those of size one being repeated."""
        long = [axis for axis in axes if axis.root().size != ONE]
        if not long:
            return axes[0]
        known = [axis for axis in long if axis.count is not None]
        first, *rest = known or long
        for axis in rest:
            if axis.size == first.size:
                tie(first, axis)
            elif known:
                self.hold(node, (first, axis), f"{first!r} meets {axis!r}")
        if known and len(known) < len(long):
            self.hold(node, known, f"{first!r} meets a dynamic dimension")
        return first

    def broadcast(self, node: ir.Node, shapes: Sequence[tuple[Axis, ...]]) -> tuple[Axis, ...]:
        """The axes of shapes that are broadcast against each other."""
        rank = max(map(len, shapes), default=0)
        found = []
        for back in range(rank, 0, -1):
            found.append(self.join(node, [shape[len(shape) - back] for shape in shapes if len(shape) >= back]))
        return tuple(found)
