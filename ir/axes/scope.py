"""What a rule for axes may ask and tell: the axes of the inputs of the node at hand, and what holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import onnx_ir as ir

from ..atoms import ONE
from ..polynomial import Polynomial
from ..shapes import Shapes
from ..text import place
from .axis import Axis, Why, tie

#: The axes of a value, None where its rank is unknown.
Axes: TypeAlias = "tuple[Axis, ...] | None"
Rule: TypeAlias = "Callable[[ir.Node, Ties], Iterator[Axes]]"


@dataclass(eq=False)
class Ties(Shapes):
    """Shapes that know of each axis what it is tied to. A rule yields the axes of each output in turn."""

    axes: dict[ir.Value, Axes] = field(default_factory=dict)

    def axes_of(self, value: ir.Value) -> Axes:
        """The axes of a value, those of a weight made when it is read first."""
        if value not in self.axes:
            dims = self.of(value)
            unknown = (Polynomial.of(f"?{value.name}:{index}") for index in range(len(dims or ())))
            self.axes[value] = None if dims is None else tuple(Axis(dim or next(unknown)) for dim in dims)
        return self.axes[value]

    def bind(self, inner: ir.Value, outer: ir.Value | None) -> None:
        super().bind(inner, outer)
        found = None if outer is None else self.axes_of(outer)
        self.axes[inner] = found

    def read(self, node: ir.Node, index: int) -> tuple[Axis, ...]:
        """The axes of an input. ValueError where there are none, which ends the rule."""
        value = node.inputs[index] if index < len(node.inputs) else None
        found = None if value is None else self.axes_of(value)
        if found is None:
            raise ValueError("an input of unknown rank")
        return found

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

    def hold_all(self, node: ir.Node, why: str) -> None:
        """Let nothing that a node reads be cut."""
        for value in node.inputs:
            self.hold(node, () if value is None else self.axes_of(value) or (), why)

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
