"""Where a node is told a size as a number: what must follow when the axis is cut.

    Reshape(x, [0, 0, 12, 32])                          the constant itself
    Reshape(x, Concat(batch, sequence, [12], [32]))     the piece of the Concat that is constant
    Split(x, [384, 384]), Slice(x, 0, 384), Expand(x, [1, 12, 1, 1]), ConstantOfShape([1, 1, 256])

Where the number is computed in another way, nothing can follow, and the axis is held.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from ..constants import is_constant, tensor_of

#: The input that holds the shape of the output.
TARGETS: Mapping[str, int] = {"Reshape": 1, "Expand": 1, "ConstantOfShape": 0}
#: Ops that are told sizes or counts in other ways, by attributes or by numbers along one axis.
TOLD = frozenset((*TARGETS, "Split", "Slice", "Attention", "RotaryEmbedding", "LSTM", "GRU", "RNN", "Conv"))


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
