"""Rewrites of the exported graph, ours and the user's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from tersor.backends.inductor.rewrite import rewritten
from tersor.ir.errors import OptionError, PassError
from tersor.ir.feeds import random_feeds
from tersor.ir.fx import to_fx
from tersor.ir.fx.export import export
from tersor.ir.text import graph
from tersor.tests.backends.inductor.models import normal

ATEN = torch.ops.aten


def layer(bias: object = None, weight: object = None, *more: str) -> ir.Model:
    return graph(
        "p = MatMul(x, w)",
        "a = Add(p, b)",
        "y = Relu(a)",
        *more,
        inputs={"x": "float[batch, s, 8]"},
        w=normal(8, 4) if weight is None else weight,
        b=normal(4) if bias is None else bias,
    )


def apply(model: ir.Model, *passes: str) -> torch.export.ExportedProgram:
    module = to_fx(model)

    def again(made: torch.fx.GraphModule) -> torch.export.ExportedProgram:
        made.meta["inputs"] = module.meta["inputs"]
        return export(model, made)

    return rewritten(export(model, module), again, passes)


def calls(program: torch.export.ExportedProgram) -> list[str]:
    return [str(node.target).split(".")[1] for node in program.graph.nodes if node.op == "call_function"]


def relu_to_square(module: torch.fx.GraphModule) -> None:
    """A pass as a user writes it: in place."""
    for node in module.graph.find_nodes(op="call_function", target=ATEN.relu.default):
        node.target, node.args = ATEN.mul.Tensor, (node.args[0], node.args[0])


def copied(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """A pass that returns another module."""
    made = torch.fx.GraphModule(module, module.graph)
    relu_to_square(made)
    return made


def fails(module: torch.fx.GraphModule) -> None:
    raise KeyError("no such node")


def text(module: torch.fx.GraphModule) -> str:
    return "done"


def breaks(module: torch.fx.GraphModule) -> None:
    node = next(node for node in module.graph.nodes if node.op == "call_function")
    node.target, node.args = ATEN.relu.default, ("text",)


def loses(module: torch.fx.GraphModule) -> None:
    module.graph.set_codegen(torch.fx.graph.CodeGen())
    output = module.graph.output_node()
    output.args = ((*output.args[0], *output.args[0]),)


@pytest.mark.parametrize("order", ["Add(p, b)", "Add(b, p)"])
def test_a_bias_joins_its_product(order: str) -> None:
    model = graph("p = MatMul(x, w)", f"y = {order}", inputs={"x": "float[n, 8]"}, w=normal(8, 4), b=normal(4))
    program = apply(model)
    assert calls(program) == ["t", "linear"]
    feeds = torch.from_numpy(random_feeds(model, {"n": 3})["x"])
    torch.testing.assert_close(program.module()(feeds), to_fx(model)(feeds))


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (layer(bias=normal(1, 4)), "a bias of two axes"),
        (layer(weight=normal(1, 8, 4)), "a batch of matrices"),
        (layer(None, None, "z = Neg(p)"), "the product is read elsewhere"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_leaves_other_sums_alone(model: ir.Model, why: str) -> None:
    assert "linear" not in calls(apply(model)), why


def test_a_scalar_that_is_spread_becomes_a_fill() -> None:
    shape = ("n = Shape{start=0, end=1}(x)", "e = Expand(c, n)", "y = Add(x, e)")
    model = graph(*shape, inputs={"x": "float[n]"}, c=np.array(0.1, np.float32))
    program = apply(model)
    assert "expand" not in calls(program)
    feeds = torch.from_numpy(random_feeds(model, {"n": 3})["x"])
    torch.testing.assert_close(program.module()(feeds), to_fx(model)(feeds))


@pytest.mark.parametrize("name", ["relu_to_square", "copied"])
def test_a_pass_of_the_user_rewrites_the_graph(name: str) -> None:
    assert calls(apply(layer(), f"{__name__}:{name}")) == ["t", "linear", "mul"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails", "failed: KeyError: 'no such node'"),
        ("text", r"returned str, expected a torch.fx.GraphModule or None"),
        ("breaks", "broke the graph"),
        ("loses", "left 2 outputs, expected 1"),
    ],
)
def test_a_pass_that_goes_wrong_is_named(name: str, message: str) -> None:
    with pytest.raises(PassError, match=f"the fx pass '{__name__}:{name}' {message}"):
        apply(layer(), f"{__name__}:{name}")


def test_a_pass_that_is_not_there_is_an_option_error(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"the fx pass .* has no 'relu'"):
        apply(layer(), f"{__name__}:relu")
