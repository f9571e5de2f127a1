"""What the passes over our modules write in place of our own calls, as ONNX again: linear layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import onnx_ir as oir
from torch import fx
from torch.nn import functional

from .table import UnwritableError

if TYPE_CHECKING:
    from .body import Writer


def _linear(writer: Writer, node: fx.Node) -> oir.Value:
    """x W^T + b as what it was fused from: `Gemm`, or `MatMul` and `Add`."""
    x, weight, *rest = node.args
    bias = writer.optional(rest[0] if rest else None, f"{node.name}_bias")
    if node.kwargs:
        raise UnwritableError(f"the call at {node.name} names its arguments")
    left, origin = writer.needed(x, f"{node.name}_x"), node.meta.get("onnx")
    if origin is not None and origin.op == "Gemm":
        made = writer.made(weight)
        right = writer.transposed(weight) if made else writer.needed(weight, f"{node.name}_weight")
        attributes = () if made else (oir.AttrInt64("transB", 1),)
        return writer.one(node, "Gemm", [left, right, bias], attributes)
    right = writer.transposed(weight)
    if right is None:
        order = (oir.AttrInt64s("perm", [1, 0]),)
        right = writer.step(node, "Transpose", [writer.needed(weight, f"{node.name}_weight")], order)
    if bias is None:
        return writer.one(node, "MatMul", [left, right])
    return writer.one(node, "Add", [writer.step(node, "MatMul", [left, right]), bias])


FUSED: Mapping[object, Callable[[Writer, fx.Node], oir.Value]] = {functional.linear: _linear}
