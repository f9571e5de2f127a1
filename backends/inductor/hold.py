"""Weights of few bits stay few bits in the package.

    before   W4, scale --> ops --> float W        after   W4 * one, scale * one --> the same ops --> float W
                                                          one = dequantize_per_tensor(1)

What is computed from weights alone Inductor computes at compile time, and would write floats into the package, where it
freezes. It leaves that operator alone, and so all that is computed from it; the loop that decodes a weight multiplies.
"""

from __future__ import annotations

from operator import attrgetter

import torch
from torch import fx

from ...ir.fx.dtypes import FLOAT8
from ...ir.fx.kernels.constants import Constants
from ...ir.fx.kernels.weights import free_name

_ATEN = torch.ops.aten

#: Smaller tensors than this, in elements and in bytes, may be computed from and computed.
_LEAST, _SMALL = 16, 4096


def hold_packed(module: fx.GraphModule) -> None:
    """Let Inductor compute nothing larger from the tensors of 8 and 16 bits that the module stores, in place, nor from
    what is computed with them."""
    from torch.ao.quantization.fx import _decomposed  # noqa: F401  registers the operators

    constants, ones = Constants(module), dict[torch.dtype, fx.Node]()
    found: dict[fx.Node, torch.Tensor] = {}
    for node in module.graph.find_nodes(op="get_attr"):
        tensor = attrgetter(node.target)(module)
        if isinstance(tensor, torch.Tensor) and tensor.numel() >= _LEAST and tensor.dtype is not torch.bool:
            found[node] = tensor
    reach = {node: _reach(constants, node) for node in found}
    narrow = {made for node, tensor in found.items() if tensor.itemsize <= 2 for made in reach[node]}
    for node, tensor in found.items():
        most = max((_bytes(constants, made) for made in reach[node] & narrow), default=0)
        if most > max(tensor.nbytes, _SMALL):
            readers = [user for user in node.users if user in reach[node]]
            _hold(module, node, tensor, readers, ones)
    module.graph.eliminate_dead_code()


def _left_alone() -> tuple[object, ...]:
    """What Inductor does not compute at compile time either."""
    held = torch.ops.quantized_decomposed
    return held.dequantize_per_channel.default, held.dequantize_per_tensor.default


def _reach(constants: Constants, node: fx.Node) -> set[fx.Node]:
    """What is computed from a stored tensor before an input comes in."""
    waiting, seen = [node], set[fx.Node]()
    while waiting:
        fresh = {user for user in waiting.pop().users if user in constants and user.target not in _left_alone()} - seen
        seen |= fresh
        waiting += fresh
    return seen


def _bytes(constants: Constants, node: fx.Node) -> int:
    made = constants.meta(node)
    return 0 if made is None else made.nbytes


def _hold(
    module: fx.GraphModule,
    node: fx.Node,
    tensor: torch.Tensor,
    readers: list[fx.Node],
    ones: dict[torch.dtype, fx.Node],
) -> None:
    stored, dtype = node, tensor.dtype
    if dtype in FLOAT8:
        # they cannot be multiplied
        dtype = torch.uint8
        stored = _own(module, free_name(module, f"{str(node.target).replace('.', '_')}_bits"), tensor.view(dtype), node)
    one = _one(module, dtype, ones)
    first = min(readers, key=list(module.graph.nodes).index)
    with module.graph.inserting_before(first):
        held = module.graph.call_function(_ATEN.mul.Tensor, (stored, one))
        if dtype is not tensor.dtype:
            held = module.graph.call_function(_ATEN.view.dtype, (held, tensor.dtype))
    for reader in readers:
        reader.replace_input_with(node, held)


def _one(module: fx.GraphModule, dtype: torch.dtype, ones: dict[torch.dtype, fx.Node]) -> fx.Node:
    """A one of the type that Inductor does not know the number of."""
    if dtype not in ones:
        graph, start = module.graph, next(iter(module.graph.nodes))
        stored = _own(module, free_name(module, "one"), torch.ones(1, dtype=torch.uint8), start)
        with graph.inserting_after(stored):
            op = torch.ops.quantized_decomposed.dequantize_per_tensor.default
            wide = graph.call_function(op, (stored, 1.0, 0, 0, 255, torch.uint8))
        with graph.inserting_after(wide):
            ones[dtype] = graph.call_function(_ATEN.to.dtype, (wide, dtype))
    return ones[dtype]


def _own(module: fx.GraphModule, name: str, tensor: torch.Tensor, before: fx.Node) -> fx.Node:
    module.register_buffer(name, tensor)
    with module.graph.inserting_before(before):
        return module.graph.get_attr(name)
