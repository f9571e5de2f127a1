"""Weights packed once for the kernels that want them so.

`to_fx` leaves a low-bit weight as the model stores it: it is a constant of the model, it can be written back, and the
module runs on any device. A packed weight fits one kind of device only, so packing is a pass of its own over the
module, for whoever compiles or runs it there. The old weight stays on the module, unread, under its own name.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx

from ..ops.contrib.nbits import matmul_nbits, unpack, zero_points
from ..ops.quant import dequantize
from .products import float8_product, int4_fits, int4_linear, int4_pack, int8_linear
from .weights import Rewriter, bound, constant, finish

Tensor = torch.Tensor
_NBITS = ("x", "packed", "scales", "zeros", "group_of", "bias")
_BFLOAT16, _INT8 = 3, 4
_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)


def prepack(module: fx.GraphModule, *, device: str = "cpu", rounded: bool = False) -> int:
    """Rewrite in place what has a fast kernel on the device; how many products were.

    MatMulNBits of 4 bits becomes `int4_linear`; MatMul with a dequantized int8 weight that is symmetric with one scale
    per output becomes `int8_linear`; MatMul of two dequantized float8 with one scale each becomes `float8_product`.
    `rounded` lets MatMulNBits round its input to bfloat16 where its accuracy level (3 or 4) says a runtime may.
    """
    rules: dict[object, Callable[[fx.GraphModule, fx.Node, torch.device, bool], bool]] = {
        matmul_nbits: _nbits,
        torch.matmul: _matmul,
    }
    done = 0
    for node in list(module.graph.nodes):
        if node.op == "call_function" and (rule := rules.get(node.target)) is not None:
            done += rule(module, node, torch.device(device), rounded)
    if done:
        finish(module)
    return done


def _nbits(module: fx.GraphModule, node: fx.Node, device: torch.device, rounded: bool) -> bool:
    given = bound(node, _NBITS)
    packed, scales = constant(module, given["packed"]), constant(module, given["scales"])
    stored = constant(module, given.get("zeros"))
    if packed is None or scales is None or given.get("group_of") is not None or given.get("bits", 4) != 4:
        return False
    if given.get("zeros") is not None and stored is None:
        return False
    rows, columns, group = (int(str(given[name])) for name in ("n", "k", "block_size"))
    dtype = torch.bfloat16 if rounded and given.get("accuracy_level", 0) in (_BFLOAT16, _INT8) else scales.dtype
    if not int4_fits(rows, columns, group, dtype, device):
        return False
    groups = columns // group
    codes = unpack(packed.reshape(rows, groups, -1), 4).flatten(1).to(device)
    zero = zero_points(stored, 4, rows, groups)
    zeros = torch.full((rows, groups), zero) if isinstance(zero, int) else zero
    weight, pairs = int4_pack(codes, scales.reshape(rows, groups).to(device, dtype), zeros.to(device))
    write, source = Rewriter(module, node), given["packed"]
    assert isinstance(source, fx.Node)
    y = write.call(
        int4_linear,
        given["x"],
        write.own(weight, source, "int4"),
        write.own(pairs, source, "pairs"),
        group=group,
    )
    if given.get("bias") is not None:
        y = write.call(torch.add, y, given["bias"])
    write.replace(y)
    return True


def _matmul(module: fx.GraphModule, node: fx.Node, device: torch.device, rounded: bool) -> bool:
    left, right = node.args
    if not isinstance(right, fx.Node) or right.target is not dequantize:
        return False
    weight, scale, zero, axis = _dequantized(module, right)
    if weight is None or scale is None or weight.dim() != 2:
        return False
    write, source = Rewriter(module, node), right.args[0]
    assert isinstance(source, fx.Node)
    if weight.dtype in _FLOAT8:
        return _float8(module, node, write, source, scale)
    if weight.dtype is not torch.int8 or scale.dtype is not torch.bfloat16 or device.type != "cpu":
        return False
    if (zero is not None and bool(zero.any())) or (scale.numel() != 1 and axis % 2 != 1):
        return False
    scales = scale.reshape(-1).expand(weight.shape[1]).contiguous()
    rows = write.own(weight.T.contiguous(), source, "rows")
    write.replace(write.call(int8_linear, left, rows, write.own(scales, source, "scales")))
    return True


def _float8(module: fx.GraphModule, node: fx.Node, write: Rewriter, weight: fx.Node, scale: Tensor) -> bool:
    left, right = node.args
    if not isinstance(left, fx.Node) or left.target is not dequantize or scale.numel() != 1:
        return False
    source, other, zero, _ = _dequantized(module, left)
    given = bound(left, ("x", "scale", "zero"))
    if source is not None or other is None or other.numel() != 1 or zero is None or zero.dtype not in _FLOAT8:
        return False
    assert isinstance(right, fx.Node)
    scales = given["scale"], bound(right, ("x", "scale"))["scale"]
    write.replace(write.call(float8_product, given["x"], weight, *scales, dtype=scale.dtype))
    return True


def _dequantized(module: fx.GraphModule, node: fx.Node) -> tuple[Tensor | None, Tensor | None, Tensor | None, int]:
    """The constants of a dequantization that is not by block: values, scale, zero point, axis."""
    given = bound(node, ("x", "scale", "zero"))
    if given.get("block_size", 0) or given.get("output_dtype", 0):
        return None, None, None, 0
    scale, zero = constant(module, given["scale"]), constant(module, given.get("zero"))
    if given.get("zero") is not None and zero is None:
        return None, None, None, 0
    return constant(module, given["x"]), scale, zero, int(str(given.get("axis", 1)))
