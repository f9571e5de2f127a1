"""Tables of embeddings: constant matrices of floats, a row of which is looked up."""

from __future__ import annotations

import onnx_ir as ir

from ....ir.constants import tensor_of
from ...edit import attribute


def stored_table(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor [rows, width] behind a constant table of floats, unread; None for anything else."""
    tensor = tensor_of(value)
    if tensor is None or len(tensor.shape) != 2 or not tensor.dtype.is_floating_point():
        return None
    return tensor


def table_of(node: ir.Node) -> ir.Value | None:
    """The table that a Gather looks up whole rows of; None where it does something else."""
    table = node.inputs[0]
    tensor = stored_table(table)
    return table if tensor is not None and attribute(node, "axis", 0) in (0, -2) else None


def rows_of(table: ir.Value) -> int:
    """The number of rows of a table."""
    tensor = stored_table(table)
    assert tensor is not None
    return int(tensor.shape.numpy()[0])


def width_of(table: ir.Value) -> int:
    """The length of each row of a table."""
    tensor = stored_table(table)
    assert tensor is not None
    return int(tensor.shape.numpy()[1])
