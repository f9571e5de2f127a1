"""Where a node is told a size as a number: what must follow when the axis is cut.

    Reshape(x, [0, 0, 12, 32])                          the constant itself
    Reshape(x, Concat(batch, sequence, [12], [32]))     the piece of the Concat that is constant
    Split(x, [384, 384]), Slice(x, 0, 384), Expand(x, [1, 12, 1, 1]), ConstantOfShape([1, 1, 256])

Where the number is computed in another way, nothing can follow, and the axis is held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ..constants import is_constant, tensor_of
from ..content import content

#: The input that holds the shape of the output.
TARGETS: Mapping[str, int] = {"Reshape": 1, "Expand": 1, "ConstantOfShape": 0, "Resize": 3}
#: Ops that are told sizes or counts in other ways, by attributes or by numbers along one axis.
TOLD = frozenset(
    (
        *TARGETS, "Split", "Slice", "Attention", "RotaryEmbedding", "LSTM", "GRU", "RNN", "Conv", "ConvTranspose",
        "GroupNormalization",
    )
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """The shape that a node is told: element 0 says the size of axis `first` of the output.

    said: its numbers as far as they are known, None for each that is not.
    """

    value: ir.Value
    first: int
    said: Sequence[int | str | None]

    def index(self, axis: int) -> int | None:
        """Which element says the size of an axis; None where none does."""
        return axis - self.first if axis >= self.first else None


def target_of(node: ir.Node, rank: int) -> Target | None:
    """What a node whose output has this rank is told; None for nothing. ValueError where its length is not known."""
    at = TARGETS[node.op_type]
    value = node.inputs[at] if at < len(node.inputs) else None
    if value is None or (node.op_type == "Resize" and "axes" in node.attributes):
        return None
    said = content(value)
    if said is None:
        dims = value.shape
        length = dims[0] if dims is not None and len(dims) == 1 else None
        if not isinstance(length, int):
            raise ValueError("told a size that is not known")
        said = [None] * length
    # shorter ones are of the last axes: Expand
    return Target(value, rank - len(said), said)


@dataclass(frozen=True)
class Teller:
    """A constant that says a size: the element `at` of it; `piece` is which input of the Concat that makes the target,
    None where the constant is the target.
    """

    constant: ir.Value
    at: int
    piece: int | None = None


def teller(target: ir.Value, index: int) -> Teller | None:
    """What says element `index` of a target; None where that is computed."""
    if is_constant(target):
        return Teller(target, index)
    node = target.producer()
    if node is None or node.op_type != "Concat" or node.domain:
        return None
    start = 0
    for piece, value in enumerate(node.inputs):
        tensor = tensor_of(value)
        shape = value.shape if value is not None and tensor is None else None if tensor is None else tensor.shape
        length = shape[0] if shape is not None and len(shape) == 1 else None
        if value is None or not isinstance(length, int):
            return None
        if index < start + length:
            return None if tensor is None else Teller(value, index - start, piece)
        start += length
    return None
