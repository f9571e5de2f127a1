"""Linear layers fused in FX modules: which products, the same values, and what becomes of the weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from tersor.ir.fx import to_fx
from tersor.ir.fx.kernels.linear import fuse_linears
from tersor.ir.fx.kernels.weights import quicken
from tersor.ir.text import graph
from torch.nn import functional

RNG = np.random.default_rng(0)
WEIGHTS: Mapping[str, np.ndarray] = {
    "w": RNG.standard_normal((8, 6)).astype(np.float32),
    "t": RNG.standard_normal((6, 8)).astype(np.float32),
    "batched": RNG.standard_normal((2, 8, 6)).astype(np.float32),
    "b": RNG.standard_normal(6).astype(np.float32),
    "one": RNG.standard_normal(1).astype(np.float32),
}


def module(*lines: str, x: str = "float[2, n, 8]") -> torch.fx.GraphModule:
    used = {name: value for name, value in WEIGHTS.items() if any(name in line for line in lines)}
    return to_fx(graph(*lines, inputs={"x": x}, **used))


def targets(made: torch.fx.GraphModule) -> list[object]:
    return [node.target for node in made.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize(
    ("lines", "x"),
    [
        (("m = MatMul(x, w)", "y = Add(m, b)"), "float[2, n, 8]"),
        (("m = MatMul(x, w)", "y = Add(b, m)"), "float[n, 8]"),
        (("y = Gemm(x, w, b)",), "float[n, 8]"),
        (("y = Gemm{transB=1}(x, t, b)",), "float[n, 8]"),
    ],
)
def test_becomes_one_call(lines: Sequence[str], x: str) -> None:
    made = module(*lines, x=x)
    feed = torch.randn(*(3 if part == "n" else int(part) for part in x[6:-1].split(", ")))
    wanted = made(feed)
    assert fuse_linears(made) == 1
    assert targets(made) == [functional.linear]
    torch.testing.assert_close(made(feed), wanted)
    assert [node.meta["onnx_name"] for node in made.graph.nodes if node.target is functional.linear] == ["y"]


@pytest.mark.parametrize(
    ("lines", "x"),
    [
        pytest.param(("y = MatMul(x, w)",), "float[2, n, 8]", id="no bias"),
        pytest.param(("m = MatMul(x, w)", "y = Add(m, b)", "z = Relu(m)"), "float[2, n, 8]", id="product read twice"),
        pytest.param(("m = MatMul(x, w)", "y = Add(m, x)"), "float[2, 6, 8]", id="a residual"),
        pytest.param(("m = MatMul(x, batched)", "y = Add(m, b)"), "float[2, n, 8]", id="weights of each batch"),
        pytest.param(("m = MatMul(x, w)", "y = Add(m, one)"), "float[2, n, 8]", id="bias that broadcasts"),
        pytest.param(("y = Gemm{alpha=0.5}(x, w, b)",), "float[n, 8]", id="a scaled product"),
        pytest.param(("y = Gemm{transA=1}(x, w, b)",), "float[8, n]", id="a transposed input"),
    ],
)
def test_leaves_alone(lines: Sequence[str], x: str) -> None:
    made = module(*lines, x=x)
    before = targets(made)
    assert fuse_linears(made) == 0
    assert targets(made) == before


def test_weights_are_held_once() -> None:
    made = module("m = MatMul(x, w)", "y = Add(m, b)")
    (weight,) = (tensor for tensor in made.parameters() if tensor.dim() == 2)
    fuse_linears(made)
    held = [*made.parameters(), *made.buffers()]
    assert sorted(tuple(tensor.shape) for tensor in held) == [(6,), (6, 8)]
    assert weight.untyped_storage().data_ptr() in {tensor.untyped_storage().data_ptr() for tensor in held}
    assert made.meta["initializers"] == {"b": "b"}


def test_quickened_module_answers_the_same_and_copies() -> None:
    made = to_fx(graph("y = Add(x, block)", inputs={"x": "float[4]"}, block=WEIGHTS["b"][:4]))
    feed = torch.randn(4)
    wanted = made(feed)
    quicken(made)
    torch.testing.assert_close(made(feed), wanted, rtol=0, atol=0)
    torch.testing.assert_close(copy.deepcopy(made)(feed), wanted, rtol=0, atol=0)
    assert [*made.state_dict()] == ["block"]
