"""Whole numbers are divided by nothing that is 0.

    before   a / b          after   assert all(b != 0)
                                    a / (b where b != 0, else 1)

The processor stops a process that divides by 0, and what Inductor's kernel for a remainder throws ends it where several
threads are at it.
"""

from __future__ import annotations

import torch
from torch import fx

from .hazards import demand, graphs

_ATEN = torch.ops.aten

#: op(a, b)
_DIVIDING = (
    *(_ATEN.div.Tensor_mode, _ATEN.floor_divide.default),
    *(_ATEN.remainder.Tensor, _ATEN.remainder.Scalar_Tensor, _ATEN.fmod.Tensor),
)


def check_divisors(module: fx.GraphModule) -> None:
    """Check every divisor that is a tensor of whole numbers, in place."""
    for graph in graphs(module):
        for node in list(graph.nodes):
            if node.target not in _DIVIDING or node.meta["val"].is_floating_point():
                continue
            divisor = node.args[1]
            if not isinstance(divisor, fx.Node):
                # torch.export has divided by a number that is written down
                continue
            with graph.inserting_before(node):
                zero = graph.call_function(_ATEN.eq.Scalar, (divisor, 0))
                demand(graph, graph.call_function(_ATEN.logical_not.default, (zero,)), "a whole number is divided by 0")
                usable = graph.call_function(_ATEN.masked_fill.Scalar, (divisor, zero, 1))
            node.args = (node.args[0], usable)
