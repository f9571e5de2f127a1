"""What an expansion sees of a node, and the small things that expansions share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import onnx_ir as ir

from ....ir.constants import tensor_of
from ....ir.content import Element, dimensions
from ...base import Miss
from ...edit import Array, Attribute, Tape, constant_of

MICROSOFT = "com.microsoft"

#: Records the nodes that a call stands for; gives a value for each output, None for one that nobody reads.
Build = Callable[[Tape], Sequence[ir.Value | None]]


class AbsentError(LookupError):
    """A required input is left out: the node is not what its op says."""


@dataclass(frozen=True)
class Call:
    """A node whose inputs and attributes are read with their defaults."""

    node: ir.Node

    def __getitem__(self, index: int) -> ir.Value | None:
        """An input, None where it is left out."""
        inputs = self.node.inputs
        found = inputs[index] if index < len(inputs) else None
        return found if found is not None and found.name else None

    def need(self, index: int) -> ir.Value:
        """An input that the op's definition requires. Raises AbsentError where it is left out all the same."""
        found = self[index]
        if found is None:
            raise AbsentError(f"input {index}")
        return found

    def reads(self, index: int) -> bool:
        """Whether anybody reads an output."""
        outputs = self.node.outputs
        return index < len(outputs) and bool(outputs[index].uses() or outputs[index].is_graph_output())

    def integer(self, name: str, default: int = 0) -> int:
        found = self.node.attributes.get(name)
        return default if found is None else found.as_int()

    def number(self, name: str, default: float) -> float:
        found = self.node.attributes.get(name)
        return default if found is None else found.as_float()

    def text(self, name: str, default: str = "") -> str:
        found = self.node.attributes.get(name)
        return default if found is None else found.as_string()

    def integers(self, name: str) -> tuple[int, ...]:
        found = self.node.attributes.get(name)
        return () if found is None else tuple(found.as_ints())

    def numbers(self, name: str) -> tuple[float, ...]:
        found = self.node.attributes.get(name)
        return () if found is None else tuple(found.as_floats())

    def kept(self, *names: str) -> dict[str, Attribute]:
        """These attributes as they are, where they are given."""
        return {name: self.node.attributes[name] for name in names if name in self.node.attributes}


#: From a node to what stands for it, or why nothing does.
Expansion = Callable[[Call], Build | Miss]
Table = Mapping[tuple[str, str], Expansion]


def named(expansions: Mapping[str, Expansion]) -> Table:
    """The table of ops of ONNX Runtime's own domain."""
    return {(MICROSOFT, name): expansion for name, expansion in expansions.items()}


def rank(value: ir.Value | None) -> int | None:
    """Number of axes, None where unknown."""
    return None if value is None or value.shape is None else len(value.shape)


def size(value: ir.Value | None, axis: int) -> Element:
    """One dimension: a number, a name, or None."""
    dims = dimensions(value)
    return None if dims is None or not -len(dims) <= axis < len(dims) else dims[axis]


def like(tape: Tape, number: float, x: ir.Value) -> ir.Value:
    """A scalar of the type of x."""
    if x.dtype is None:
        return tape("CastLike", tape.constant(float(number)), x)
    return tape.constant(np.asarray(number, x.dtype.numpy()))


def one(tape: Tape, op: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Attribute]) -> ir.Value:
    """A node of one output, its attributes in a mapping."""
    return tape.node(op, inputs, attributes).outputs[0]


def times(tape: Tape, x: ir.Value, factor: float) -> ir.Value:
    """x * factor; x itself for a factor of 1."""
    return x if factor == 1.0 else alike(tape("Mul", x, like(tape, factor, x)), x)


def alike(value: ir.Value, x: ir.Value) -> ir.Value:
    """`value`, known to have the type and shape of x."""
    value.type, value.shape = x.type, x.shape
    return value


def added(tape: Tape, x: ir.Value, *others: ir.Value | None) -> ir.Value:
    """x and whatever else is there, summed from the left, all of the shape of x or broadcast to it."""
    for other in others:
        if other is not None:
            x = alike(tape("Add", x, other), x)
    return x


def pieces(tape: Tape, value: ir.Value, sizes: Sequence[int], first: int | None = None) -> list[ir.Value]:
    """`value` cut along its last axis. A constant is cut when its bytes are read, each piece a constant of its own.
    `first` says how many pieces are wanted, all by default.
    """
    axis = -1
    if sum(sizes) == size(value, axis) and len(sizes) == 1:
        return [value]
    if tensor_of(value) is not None:
        starts = np.cumsum([0, *sizes[:first]])
        return [_piece(tape, value, int(a), int(b)) for a, b in pairwise(starts)]
    cuts = tape.constant([*sizes], "sizes")
    return list(tape.node("Split", [value, cuts], {"axis": axis}, outputs=len(sizes)).outputs)[:first]


def derived(
    tape: Tape, tensor: ir.TensorProtocol, shape: Sequence[int], function: Callable[[Array], Array], name: str
) -> ir.Value:
    """A constant of the same type, computed from a stored one when its bytes are read."""
    return tape.derived(name, shape, tensor.dtype, lambda: function(tensor.numpy()))


def _piece(tape: Tape, value: ir.Value, start: int, end: int) -> ir.Value:
    tensor = tensor_of(value)
    assert tensor is not None
    shape = [*tensor.shape.numpy()[:-1], end - start]
    return derived(tape, tensor, shape, lambda array: array[..., start:end], f"{value.name}[{start}:{end}]")


def ends(tape: Tape, x: ir.Value, axis: int) -> ir.Value:
    """The size of an axis, [1]."""
    if axis == -1:
        return tape("Shape", x, start=-1)
    return tape("Shape", x, start=axis, end=axis + 1)


def counted(tape: Tape, count: ir.Value) -> ir.Value:
    """0, 1, ... count - 1 for a count [1]"""
    zero, one = tape.constant(np.array(0, np.int64), "zero"), tape.constant(np.array(1, np.int64), "one")
    return tape("Range", zero, tape("Squeeze", count, tape.constant([0], "axes")), one)


def small(value: ir.Value | None, most: int = 64) -> Array | None:
    """The numbers of a constant of a few elements."""
    if value is None or value.is_graph_input():
        return None
    tensor = tensor_of(value)
    return None if tensor is None or tensor.size > most else constant_of(value)
