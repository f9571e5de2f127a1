"""Q/DQ as TorchInductor's pattern: which products, the same values, and that Inductor fuses them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from tersor.ir.fx import to_fx
from tersor.ir.fx.kernels import qdq
from tersor.ir.fx.kernels.qdq import lower_qdq
from tersor.ir.text import graph

RNG = np.random.default_rng(0)
CONSTANTS: dict[str, object] = {
    "w": RNG.integers(-64, 65, (32, 48)).astype(np.int8),
    "ws": (RNG.random(48) * 0.01 + 0.001).astype(np.float32),
    "rs": (RNG.random(32) * 0.01 + 0.001).astype(np.float32),
    "one": np.float32(0.01),
    "wz": np.zeros(48, np.int8),
    "odd": np.arange(48, dtype=np.int8),
    "s": np.float32(0.05),
    "z": np.uint8(120),
    "b": RNG.standard_normal(48).astype(np.float32),
    "k": RNG.integers(-64, 65, (6, 4, 3, 3)).astype(np.int8),
    "ks": (RNG.random(6) * 0.01 + 0.001).astype(np.float32),
    "kb": RNG.standard_normal(6).astype(np.float32),
}
INPUT = ("q = QuantizeLinear(x, s, z)", "d = DequantizeLinear(q, s, z)")


OWN = ("(q, s0, z0) = DynamicQuantizeLinear(x)", "d = DequantizeLinear(q, s0, z0)")
OF_RANGE = (*OWN, "e = DequantizeLinear{axis=1}(w, ws)", "y = MatMul(d, e)")


def module(*lines: str, x: str = "float[n, 5, 32]", **changed: object) -> torch.fx.GraphModule:
    text = " ".join(lines).replace(",", " ").replace(")", " ").replace("(", " ").split()
    used = {name: value for name, value in {**CONSTANTS, **changed}.items() if name in text}
    return to_fx(graph(*lines, inputs={"x": x}, **used))


LINEAR = {
    "per output": (*INPUT, "e = DequantizeLinear{axis=1}(w, ws, wz)", "y = MatMul(d, e)"),
    "one scale": (*INPUT, "e = DequantizeLinear(w, one)", "y = MatMul(d, e)"),
}
GEMM = {
    "transposed": (*INPUT, "e = DequantizeLinear{axis=0}(w, rs)", "y = Gemm{transB=1}(d, e)"),
    "bias": (*INPUT, "e = DequantizeLinear{axis=1}(w, ws)", "y = Gemm(d, e, b)"),
}
CONV = (*INPUT, "e = DequantizeLinear{axis=0}(k, ks)", "y = Conv{pads=[1, 1, 1, 1]}(d, e, kb)")


def rewritten(made: torch.fx.GraphModule, x: torch.Tensor) -> None:
    with torch.no_grad():
        before = made(x)
        assert lower_qdq(made) == 1
        torch.testing.assert_close(made(x), before, rtol=1e-6, atol=1e-5)
    assert any("quantized_decomposed" in str(node.target) for node in made.graph.nodes)


@pytest.mark.parametrize("name", LINEAR)
def test_matmul(name: str) -> None:
    rewritten(module(*LINEAR[name]), torch.randn(2, 5, 32))


def test_activations_by_their_own_range() -> None:
    rewritten(module(*OF_RANGE), torch.randn(2, 5, 32))


@pytest.mark.parametrize("name", GEMM)
def test_gemm(name: str) -> None:
    width = 48 if name == "transposed" else 32
    rewritten(module(*GEMM[name], x=f"float[n, {width}]"), torch.randn(3, width))


def test_conv() -> None:
    rewritten(module(*CONV, x="float[n, 4, 7, 7]"), torch.randn(2, 4, 7, 7))


def test_names_and_weights_stay() -> None:
    made = module(*LINEAR["per output"])
    lower_qdq(made)
    assert set(made.meta["initializers"]) >= {"w", "ws", "s", "z"}
    assert torch.equal(made.w, torch.from_numpy(np.asarray(CONSTANTS["w"])))
    assert [node.meta["onnx_name"] for node in made.graph.nodes if node.meta.get("tap")][-1] == "y"


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ((*INPUT, "e = DequantizeLinear{axis=0}(w, rs)", "y = MatMul(d, e)"), "the scale is per input"),
        ((*INPUT, "e = DequantizeLinear{axis=1}(w, ws, odd)", "y = MatMul(d, e)"), "the weight has zero points"),
        ((*INPUT, "e = DequantizeLinear{axis=1}(w, ws)", "y = Gemm{alpha=2.0}(d, e)"), "alpha is not 1"),
        (("e = DequantizeLinear{axis=1}(w, ws)", "y = MatMul(x, e)"), "the activation is float"),
    ],
)
def test_left_alone(lines: tuple[str, ...], why: str) -> None:
    assert lower_qdq(module(*lines, x="float[n, 32]")) == 0, why


def test_weights_that_saturate_are_left_alone_without_vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = RNG.integers(-127, 128, (32, 48)).astype(np.int8)
    monkeypatch.setattr(qdq, "has_vnni", lambda: False)
    assert lower_qdq(module(*LINEAR["per output"], w=wide)) == 0
    monkeypatch.setattr(qdq, "has_vnni", lambda: True)
    assert lower_qdq(module(*LINEAR["per output"], w=wide)) == 1


@pytest.mark.parametrize(
    ("pair", "fits"), [((127, 1), True), ((127, -127), True), ((100, 29), False), ((-65, -64), False)]
)
@pytest.mark.parametrize("place", [0, 30])
def test_neighbours_share_16_bits_without_vnni(
    monkeypatch: pytest.MonkeyPatch, pair: tuple[int, int], fits: bool, place: int
) -> None:
    monkeypatch.setattr(qdq, "has_vnni", lambda: False)
    weight = np.zeros((32, 48), np.int8)
    weight[place : place + 2, 5] = pair
    assert lower_qdq(module(*LINEAR["per output"], w=weight)) == fits
    shifted = np.roll(weight, 1, axis=0)
    assert lower_qdq(module(*LINEAR["per output"], w=shifted)) == 1, "the next pair begins in between"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lines", "shape", "kernel"),
    [
        (OF_RANGE, (4, 5, 32), "qlinear_pointwise.tensor"),
        (LINEAR["per output"], (4, 5, 32), "qlinear_pointwise"),
        (LINEAR["one scale"], (4, 5, 32), "qlinear_pointwise"),
        (GEMM["bias"], (4, 32), "qlinear_pointwise"),
        (CONV, (2, 4, 7, 7), "qconv_pointwise"),
    ],
)
def test_inductor_fuses_it(lines: tuple[str, ...], shape: tuple[int, ...], kernel: str) -> None:
    from torch._inductor import config
    from torch._inductor.utils import run_and_get_code

    made = module(*lines, x=f"float[n, {', '.join(map(str, shape[1:]))}]")
    x = torch.randn(shape)
    with torch.no_grad(), config.patch(freezing=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = made(x)
        assert lower_qdq(made) == 1
        program = torch.export.export(made, (x,), dynamic_shapes=({0: torch.export.Dim("n", max=64)},), strict=False)
        torch._dynamo.reset()
        found, code = run_and_get_code(torch.compile(program.module()), x)
    assert kernel in "\n".join(code)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)
