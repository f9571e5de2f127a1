"""Rewrites of the exported graph before Inductor lowers it: our own, then the user's.

The graph is that of `torch.export.ExportedProgram.module()`: calls of aten operators, weights as attributes. After a
rewrite it is exported again, so that shapes are derived anew and a broken graph is found here.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

import torch
from torch import fx

from ...ir import reference
from ...ir.errors import PassError, TersorError
from .divisors import check_divisors
from .hold import hold_packed
from .indices import check_indices

Rewrite = Callable[[fx.GraphModule], object]
Export = Callable[[fx.GraphModule], torch.export.ExportedProgram]

_ATEN = torch.ops.aten


def rewritten(
    program: torch.export.ExportedProgram, again: Export, passes: tuple[str, ...], *, check: bool = False
) -> torch.export.ExportedProgram:
    """The program after our rewrites and those that `passes` name (`module:function`); `again` exports what they leave.

    `check` has indices and divisors checked outside of the kernels at last, as code for the CPU needs it.

    Raises OptionError for a function that is not there, PassError that names one which fails or breaks the graph.
    """
    found = {text: reference.resolve(text, "the fx pass") for text in passes}
    program = _apply(program, again, "the rewrite of layers and weights", _own)
    for text, function in found.items():
        program = _apply(program, again, f"the fx pass {text!r}", function)
    return _apply(program, again, "the check of indices and divisors", _check) if check else program


def _own(module: fx.GraphModule) -> None:
    fuse_bias(module)
    fill_scalars(module)
    hold_packed(module)


def _check(module: fx.GraphModule) -> None:
    check_indices(module)
    check_divisors(module)


def fuse_bias(module: fx.GraphModule) -> None:
    """matmul(x, w) + b -> linear(x, w^T, b), for which Inductor has kernels that add the bias, and what follows it, in
    place. w and b are weights: w of [in, out], b of [out]."""
    for node in module.graph.find_nodes(op="call_function", target=_ATEN.add.Tensor):
        for product, bias in (node.args, node.args[::-1]):
            if not node.kwargs and _is_product(product) and _is_weight(bias, 1):
                x, weight = product.args
                if weight.meta["val"].dtype == bias.meta["val"].dtype == x.meta["val"].dtype:
                    with module.graph.inserting_before(node):
                        transposed = module.graph.call_function(_ATEN.t.default, (weight,))
                        linear = module.graph.call_function(_ATEN.linear.default, (x, transposed, bias))
                    node.replace_all_uses_with(linear)
                    break
    module.graph.eliminate_dead_code()


def fill_scalars(module: fx.GraphModule) -> None:
    """expand(scalar, shape) -> full(shape, value) for weights: Inductor (torch 2.13) cannot slice the former."""
    for node in module.graph.find_nodes(op="call_function", target=_ATEN.expand.default):
        scalar, shape = node.args
        if not _is_weight(scalar, 0):
            continue
        value = attrgetter(scalar.target)(module)
        with module.graph.inserting_before(node):
            options = {"dtype": value.dtype, "device": value.device}
            full = module.graph.call_function(_ATEN.full.default, (shape, value.item()), options)
        node.replace_all_uses_with(full)
    module.graph.eliminate_dead_code()


def _apply(
    program: torch.export.ExportedProgram, again: Export, title: str, rewrite: Rewrite
) -> torch.export.ExportedProgram:
    given = program.module(check_guards=False)
    assert isinstance(given, fx.GraphModule)
    before = _code(given)
    try:
        result = rewrite(given)
    except TersorError:
        raise
    except Exception as error:
        raise PassError(f"inductor: {title} failed: {type(error).__name__}: {error}") from error
    made = given if result is None else result
    if not isinstance(made, fx.GraphModule):
        raise PassError(f"inductor: {title} returned {type(made).__name__}, expected a torch.fx.GraphModule or None")
    try:
        made.graph.lint()
        if made is given and _code(made) == before:
            return program
        left = again(made)
    except Exception as error:
        raise PassError(f"inductor: {title} broke the graph: {error}") from error
    found, wanted = (len(one.graph_signature.user_outputs) for one in (left, program))
    if found != wanted:
        raise PassError(f"inductor: {title} left {found} outputs, expected {wanted}")
    return left


def _code(module: fx.GraphModule) -> list[str]:
    """Of the graph as it is now, and of the bodies of its control flow."""
    parts = [part for part in module.modules() if isinstance(part, fx.GraphModule)]
    for part in parts:
        part.recompile()
    return [part.code for part in parts]


def _is_product(node: object) -> bool:
    """A product with a weight matrix that nothing else reads."""
    if not isinstance(node, fx.Node) or node.target is not _ATEN.matmul.default or len(node.users) != 1:
        return False
    x, weight = node.args
    return isinstance(x, fx.Node) and _is_weight(weight, 2) and x.meta["val"].is_floating_point()


def _is_weight(node: object, rank: int) -> bool:
    return isinstance(node, fx.Node) and node.op == "get_attr" and node.meta["val"].dim() == rank
