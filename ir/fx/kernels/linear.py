"""Linear layers as one call each.

    before   x --> matmul --> add --> y      after   x --> linear --> y

For a module that is to run as it stands: the product without its bias can no longer be tapped. Left alone: weights that
are computed, batched or of another type than their bias, and products that somebody reads before the bias is added.

Products that share an input were tried as one product too: on MiniLM what it wins at one sentence is lost at 32, where
attention then reads its heads with the stride of all three.
"""

from __future__ import annotations

import torch
from torch import fx
from torch.nn import functional

from ..ops.linear import gemm
from .weights import Rewriter, bound, constant, drop_unread, finish

Tensor = torch.Tensor


def fuse_linears(module: fx.GraphModule) -> int:
    """Rewrite in place; how many products were. x [..., in], weight [in, out] or its transpose, bias [out]."""
    done = 0
    for node in list(module.graph.nodes):
        if node.op != "call_function":
            continue
        if node.target is torch.add:
            done += _added(module, node)
        elif node.target is gemm:
            done += _gemm(module, node)
    if done:
        finish(module)
        drop_unread(module)
    return done


def _added(module: fx.GraphModule, node: fx.Node) -> bool:
    for product, bias in (node.args, node.args[::-1]):
        if isinstance(product, fx.Node) and product.target is torch.matmul and len(product.users) == 1:
            x, weight = product.args
            return _fused(module, node, x, weight, bias, transposed=False)
    return False


def _gemm(module: fx.GraphModule, node: fx.Node) -> bool:
    given = bound(node, ("a", "b", "c"))
    if given.get("trans_a", 0) or given.get("alpha", 1.0) != 1 or given.get("beta", 1.0) != 1:
        return False
    return _fused(module, node, given["a"], given["b"], given.get("c"), transposed=bool(given.get("trans_b", 0)))


def _fused(
    module: fx.GraphModule, node: fx.Node, x: object, source: object, offset: object, *, transposed: bool
) -> bool:
    weight, bias = constant(module, source), constant(module, offset)
    if weight is None or weight.dim() != 2 or not weight.is_floating_point():
        return False
    rows = weight if transposed else weight.T
    if bias is None or bias.dtype != rows.dtype or bias.shape != rows.shape[:1]:
        return False
    write = Rewriter(module, node)
    assert isinstance(source, fx.Node)
    # [out, in] is a view: `linear` multiplies by [in, out] as it lies in memory
    write.replace(write.call(functional.linear, x, source if transposed else write.own(rows, source, "rows"), offset))
    return True
