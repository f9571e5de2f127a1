"""What a value holds when it is a constant: an initializer, or the output of a Constant node.

A default that the caller may override (an initializer that is an input too) is no constant. Only `constant_of` and what
reads small constants touch their bytes.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Array = NDArray[np.generic]

#: In a node's metadata: what it reads is a weight that a pass stores as another type than it is read, on purpose.
STORED = "tersor.stored"


def tensor_of(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor behind a constant, unread; None for anything else."""
    if value is None or value.is_graph_input():
        return None
    if value.const_value is not None:
        return value.const_value
    # asked of nearly every value: only a Constant node is worth a closer look
    node = value.producer()
    return None if node is None or node.op_type != "Constant" else ir.convenience.get_const_tensor(value)


def is_constant(value: ir.Value | None) -> bool:
    """Whether a value is a constant; reads no bytes."""
    return tensor_of(value) is not None


def constant_of(value: ir.Value | None) -> Array | None:
    """The array behind a constant; None for anything computed, and for a default that the caller may override."""
    tensor = tensor_of(value)
    return None if tensor is None else tensor.numpy()


def scalar_of(value: ir.Value | None) -> float | None:
    """The number behind a constant of one element, else None. Reads nothing larger than that."""
    tensor = tensor_of(value)
    return float(tensor.numpy().item()) if tensor is not None and tensor.size == 1 else None


def integers_of(value: ir.Value | None) -> list[int] | None:
    """The integers behind a constant vector or scalar, else None."""
    tensor = tensor_of(value)
    if tensor is None or not tensor.dtype.is_integer() or len(tensor.shape) > 1:
        return None
    return [int(item) for item in tensor.numpy().reshape(-1)]
