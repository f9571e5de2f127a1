"""What a linear site multiplies, its features last, and the way from the product to what its node gives.

y = MatMul(W, x)                x [.., in, n]           y = Transpose(Transpose(x) times W)
y = Gemm{transA=1}(x, W, b)     x [in, m]               y = Transpose(x) times W + b
y = Conv[1x1](x, W, b)          x [n, in, places..]     y = Transpose(Transpose(Slice(x)) times W + b)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ..ir.site import Site
from .edit import Tape, constant_of

Dim = int | ir.SymbolicDim


def lined(tape: Tape, site: Site) -> ir.Value:
    """The activation [.., in], of the type and shape that are known of it."""
    node = site.node
    # another pass may have put another value in the place of the site's activation
    x = node.inputs[int(node.op_type == "MatMul" and site.flipped)]
    assert x is not None
    strides = list(node.attributes["strides"].as_ints()) if "strides" in node.attributes else []
    if any(stride != 1 for stride in strides):
        axes = list(range(2, 2 + len(strides)))
        ends = tape.constant(np.full(len(axes), np.iinfo(np.int64).max), "ends")
        starts, steps = tape.constant([0] * len(axes), "starts"), tape.constant(strides, "steps")
        out = node.outputs[0].shape
        places = [ir.SymbolicDim(None)] * len(axes) if out is None else list(out)[2:]
        dims = None if x.shape is None else [*list(x.shape)[:2], *places]
        x = typed(tape("Slice", x, starts, ends, tape.constant(axes, "axes"), steps), x.dtype, dims)
    return _moved(tape, x, site.axis, -1)


def unlined(tape: Tape, site: Site, made: ir.Value) -> ir.Value:
    """What the node gives, of the activation times the weight, [.., out]: what it adds itself, its features where they
    were.
    """
    node, before = site.node, site.activation.shape
    bias = node.inputs[2] if node.op_type in ("Conv", "Gemm") and len(node.inputs) > 2 else None
    if bias is not None:
        made = typed(tape("Add", made, _scaled(tape, site, bias)), made.dtype, made.shape)
    if before is None:
        # sites of unknown rank are taken on where their features come last, before and after
        return made
    made = _moved(tape, made, -1, site.output_axis, len(before))
    ones = len(site.view.shape) - max(len(before), 2) if node.op_type == "MatMul" else 0
    if ones > 0:
        # leading ones of a weight make a product deeper than its activation
        made = tape("Unsqueeze", made, tape.constant(list(range(ones)), "axes"))
    return made


def typed(value: ir.Value, dtype: ir.DataType | None, dims: Sequence[Dim] | ir.Shape | None) -> ir.Value:
    """A value with its type and shape, as far as they are known."""
    value.type = None if dtype is None else ir.TensorType(dtype)
    value.shape = None if dims is None else ir.Shape(list(dims))
    return value


def _moved(tape: Tape, value: ir.Value, start: int, end: int, rank: int | None = None) -> ir.Value:
    """A value with one of its axes at another place. rank: that of the value, where it does not tell."""
    dims = None if value.shape is None else list(value.shape)
    size = max(rank or len(dims or ()), 1)
    if start % size == end % size:
        return value
    order = list(range(size))
    order.insert(end % size, order.pop(start % size))
    made = tape("Transpose", value, perm=order)
    return typed(made, value.dtype, None if dims is None else [dims[axis] for axis in order])


def _scaled(tape: Tape, site: Site, bias: ir.Value) -> ir.Value:
    """What the node adds."""
    if site.beta == 1:
        return bias
    array = constant_of(bias)
    if array is not None:
        return tape.constant(np.multiply(array, np.asarray(site.beta, array.dtype)), "bias")
    scalar = (bias.dtype or ir.DataType.FLOAT).numpy()
    return tape("Mul", bias, tape.constant(np.asarray(site.beta, scalar), "beta"))
