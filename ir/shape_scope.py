"""What a shape rule may ask: dimensions, contents and attributes of the node at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .polynomial import Polynomial

Dims: TypeAlias = tuple[Polynomial | None, ...] | None
Content: TypeAlias = NDArray[np.object_]
Rule: TypeAlias = "Callable[[ir.Node, Scope], Iterator[Dims]]"

ONE = Polynomial.of(1)


#: What follows for an output beside the names that its author gave its dimensions: (declared, what follows).
FOLLOWS = "tersor.follows"


def known(value: ir.Value) -> Sequence[int | str | None] | None:
    """The dimensions of a value as they follow from the inputs', an output's too; None where no rank is known."""
    if value.shape is None:
        return None
    declared = [dim if isinstance(dim, int) else dim.value for dim in value.shape]
    found = value.meta.get(FOLLOWS) if value.is_graph_output() else None
    return found[1] if found is not None and found[0] == declared else declared


@dataclass(eq=False, kw_only=True)
class Scope:
    """Dimensions and contents found so far, and the attributes of the function call being walked.

    strict: say only what holds for every size of the dimensions. Otherwise a rule takes the likely for granted: that
    different dimensions which meet in a broadcast are equal, and that a slice lies inside.
    """

    strict: bool = False
    dims: dict[ir.Value, Dims] = field(default_factory=dict)
    contents: dict[ir.Value, Content] = field(default_factory=dict)
    types: dict[ir.Value, ir.DataType | None] = field(default_factory=dict)
    attributes: Mapping[str, ir.Attr] = field(default_factory=dict)

    def of(self, value: ir.Value) -> Dims:
        """Dimensions of a value."""
        return self.dims.get(value)

    def content(self, value: ir.Value | None) -> Content | None:
        """Numbers in a small integer tensor."""
        return None if value is None else self.contents.get(value)

    def type_of(self, value: ir.Value) -> ir.DataType | None:
        """Element type of a value, None where unknown."""
        if value.dtype is not None:
            return value.dtype
        found = self.types.get(value)
        tensor = ir.convenience.get_const_tensor(value) if found is None else None
        return found if tensor is None else tensor.dtype

    def bind(self, inner: ir.Value, outer: ir.Value | None) -> None:
        """Let `inner` (of a body) be what `outer` is."""
        self.dims[inner] = None if outer is None else self.of(outer)
        self.types[inner] = None if outer is None else self.type_of(outer)
        content = self.content(outer)
        if content is None:
            self.contents.pop(inner, None)
        else:
            self.contents[inner] = content

    def input(self, node: ir.Node, index: int) -> tuple[Polynomial | None, ...]:
        """Dimensions of an input; IndexError or ValueError where there are none, which ends the rule."""
        value = node.inputs[index]
        dims = None if value is None else self.of(value)
        if dims is None:
            raise ValueError("the shape is unknown")
        return dims

    def has(self, node: ir.Node, index: int) -> bool:
        """Whether an optional input is given."""
        return index < len(node.inputs) and node.inputs[index] is not None

    def numbers(self, node: ir.Node, index: int) -> list[Polynomial | None] | None:
        """Contents of an input as a flat list."""
        content = self.content(node.inputs[index]) if index < len(node.inputs) else None
        return None if content is None else list(content.reshape(-1))

    def constants(self, node: ir.Node, index: int, attribute: str) -> list[int] | None:
        """Integers that newer opsets give as an input and older ones as an attribute; None where absent.

        ValueError where they are computed from data.
        """
        attr = self.attribute(node, attribute)
        if attr is not None:
            return [attr.as_int()] if attr.type == ir.AttributeType.INT else list(attr.as_ints())
        found = self.numbers(node, index)
        if found is None and self.has(node, index):
            raise ValueError(f"the {attribute} are unknown")
        return None if found is None else [int_of(number) for number in found]

    def attribute(self, node: ir.Node, name: str) -> ir.Attr | None:
        """An attribute, looked up in the call where the body refers to it."""
        attr = node.attributes.get(name)
        if attr is not None and attr.is_ref():
            return self.attributes.get(attr.ref_attr_name or "")
        return attr

    def integer(self, node: ir.Node, name: str, default: int) -> int:
        attr = self.attribute(node, name)
        return default if attr is None else attr.as_int()

    def integers(self, node: ir.Node, name: str, default: list[int]) -> list[int]:
        attr = self.attribute(node, name)
        return default if attr is None else list(attr.as_ints())

    def string(self, node: ir.Node, name: str, default: str) -> str:
        attr = self.attribute(node, name)
        return default if attr is None else attr.as_string()

    def branches(self, node: ir.Node) -> list[str]:
        """Which branches of an If may run: one where the shapes decide the condition."""
        test = self.numbers(node, 0)
        decided = None if not test or test[0] is None else test[0].constant
        if decided is None:
            return ["then_branch", "else_branch"]
        return ["then_branch"] if decided else ["else_branch"]

    def trips(self, node: ir.Node) -> Polynomial | None:
        """How often a Loop or Scan runs its body, None where only the data tell."""
        if node.op_type == "Scan":
            value = node.inputs[-1]
            dims = None if value is None else self.of(value)
            axes = self.integers(node, "scan_input_axes", [0])
            return dims[axes[-1]] if dims else None
        found = self.numbers(node, 0)
        return found[0] if found else None


def dim_of(dim: Polynomial | None) -> Polynomial:
    """The dimension; ValueError where it is unknown, which ends the rule."""
    if dim is None:
        raise ValueError("the dimension is unknown")
    return dim


def int_of(dim: Polynomial | None) -> int:
    """The number; ValueError where it is unknown or depends on a dimension."""
    return int(dim_of(dim))
