"""Rounding that lets gradients through: the numbers of the plain graph, the gradients of the papers' formulas."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from tersor.ir.fx import to_fx
from tersor.ir.fx.kernels.straight_through import binary, fake_quantize, straighten, ternary
from tersor.ir.fx.ops.quant import dequantize, quantize
from tersor.ir.text import graph

INT8 = int(ir.DataType.INT8)
LAYOUTS = {
    "tensor": ((), {}),
    "axis": ((6,), {"axis": 1}),
    "first axis": ((8,), {"axis": 0}),
    "blocks": ((2, 6), {"axis": 0, "block_size": 4}),
    "blocks that do not divide": ((3, 6), {"axis": 0, "block_size": 3}),
}


def _given(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(len(shape))
    x = 3 * torch.randn(8, 6, generator=generator, dtype=torch.float64)
    scale = 0.02 + 0.02 * torch.rand(shape, generator=generator, dtype=torch.float64)
    return x, scale, torch.randint(-20, 20, shape, generator=generator, dtype=torch.int8)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_numbers_are_those_of_the_two_ops(layout: str) -> None:
    shape, options = LAYOUTS[layout]
    x, scale, zero = (each.float() if each.is_floating_point() else each for each in _given(shape))
    wanted = dequantize(quantize(x, scale, zero, dtype=INT8, **options), scale, zero, **options)
    torch.testing.assert_close(fake_quantize(x, scale, zero, dtype=INT8, **options), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_are_those_of_learned_step_sizes(layout: str) -> None:
    """dx = g inside; ds = g (round(x / s) - x / s) inside, g (end - z) outside, summed where one scale serves many."""
    shape, options = LAYOUTS[layout]
    x, scale, zero = _given(shape)
    x, scale = x.requires_grad_(), scale.requires_grad_()
    gradient = torch.randn(x.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    fake_quantize(x, scale, zero, dtype=INT8, **options).backward(gradient)
    many, origin = (_spread(each.detach().numpy(), **options) for each in (scale, zero.double()))
    steps = x.detach().numpy() / many
    codes = np.rint(steps) + origin
    inside = (codes >= -128) & (codes <= 127)
    assert 0 < inside.mean() < 1
    slope = np.where(inside, np.rint(steps) - steps, np.clip(codes, -128, 127) - origin)
    assert x.grad is not None
    assert scale.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), gradient.numpy() * inside, rtol=1e-12)
    wanted = _gathered(gradient.numpy() * slope, shape, **options)
    np.testing.assert_allclose(scale.grad.numpy(), wanted, rtol=1e-10, atol=1e-10)


def _spread(parameter: np.ndarray, axis: int = 1, block_size: int = 0) -> np.ndarray:
    if block_size:
        return np.repeat(parameter, block_size, axis)[:8]
    return np.broadcast_to(parameter[:, None] if parameter.ndim and axis == 0 else parameter, (8, 6))


def _gathered(terms: np.ndarray, shape: tuple[int, ...], axis: int = 1, block_size: int = 0) -> np.ndarray:
    if block_size:
        return np.add.reduceat(terms, np.arange(0, 8, block_size), axis)
    return terms.sum().reshape(()) if not shape else terms.sum(1 - axis)


@pytest.mark.parametrize("kind", [torch.float16, torch.float32])
def test_answers_are_of_the_scales_type(kind: torch.dtype) -> None:
    x, scale, zero = _given(())
    x, scale = x.float(), scale.to(kind)
    wanted = dequantize(quantize(x, scale, zero, dtype=INT8), scale, zero)
    assert wanted.dtype is kind
    torch.testing.assert_close(fake_quantize(x, scale, zero, dtype=INT8), wanted, rtol=0, atol=0)


def test_floats_have_no_grid_of_integers() -> None:
    with pytest.raises(ValueError, match="expected integers of 2 to 16 bits, found float8e4m3fn"):
        fake_quantize(torch.ones(2), torch.tensor(1.0), dtype=int(ir.DataType.FLOAT8E4M3FN))


def test_signs_and_their_mean() -> None:
    """a sign(w), a the mean |w| of a column; dw = g a [|w| <= 1] + sign(w) mean(g sign(w))."""
    weight = torch.tensor([[0.5, -2.0], [-1.5, 0.25], [0.0, 0.75]], dtype=torch.float64, requires_grad=True)
    gradient = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 4.0]], dtype=torch.float64)
    made = binary(weight)
    w, g = weight.detach().numpy(), gradient.numpy()
    sign, scale = np.where(w < 0, -1.0, 1.0), np.abs(w).mean(0)
    np.testing.assert_allclose(made.detach().numpy(), scale * sign, rtol=1e-15)
    made.backward(gradient)
    assert weight.grad is not None
    wanted = g * scale * (np.abs(w) <= 1) + sign * (g * sign).mean(0)
    np.testing.assert_allclose(weight.grad.numpy(), wanted, rtol=1e-15)


def test_trained_levels() -> None:
    """Equation 8 of the paper: the levels get the sums, the weights the gradients times their level, zeros as it is."""
    weight = torch.tensor([[0.9, -0.02], [-1.0, 0.04], [0.3, -0.6]], dtype=torch.float64, requires_grad=True)
    up, down = (torch.tensor(level, dtype=torch.float64, requires_grad=True) for level in (0.7, 0.4))
    gradient = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 4.0]], dtype=torch.float64)
    made = ternary(weight, up, down, threshold=0.05)
    np.testing.assert_array_equal(made.detach().numpy(), [[0.7, 0.0], [-0.4, 0.0], [0.7, -0.4]])
    made.backward(gradient)
    assert weight.grad is not None
    np.testing.assert_allclose(weight.grad.numpy(), [[0.7, 2.0], [1.2, -1.0], [0.35, 1.6]], rtol=1e-15)
    assert (up.grad, down.grad) == (torch.tensor(1.5), torch.tensor(-7.0))


SCALES = {"s": np.float32(0.1), "z": np.array(3, np.uint8), "t": np.float32(0.2)}


def test_a_graph_trains_through_its_rounding() -> None:
    model = graph(
        "q = QuantizeLinear(x, s, z)",
        "d = DequantizeLinear(q, s, z)",
        "y = MatMul(d, w)",
        inputs={"x": "float[n, 8]"},
        w=np.ones((8, 4), np.float32),
        **{name: SCALES[name] for name in "sz"},
    )
    module = to_fx(model)
    x = torch.linspace(-2, 30, 24).reshape(3, 8)
    before = module(x)
    assert straighten(module) == 1
    x.requires_grad_()
    torch.testing.assert_close(module(x), before, rtol=0, atol=0)
    module(x).sum().backward()
    inside = (torch.round(x / 0.1) + 3 >= 0) & (torch.round(x / 0.1) + 3 <= 255)
    assert 0 < inside.float().mean() < 1
    torch.testing.assert_close(x.grad, 4.0 * inside)
    assert straighten(module) == 0


@pytest.mark.parametrize(
    "lines",
    [
        ("q = QuantizeLinear(x, s, z)", "y = DequantizeLinear(q, t, z)"),
        ("q = QuantizeLinear(x, s, z)", "d = DequantizeLinear(q, s, z)", "c = Cast{to=1}(q)", "y = Add(c, d)"),
        ("y = DequantizeLinear(x, s, z)",),
    ],
    ids=["another scale", "other readers", "stored integers"],
)
def test_what_is_no_round_trip_stays(lines: tuple[str, ...]) -> None:
    read = " ".join(lines)
    kind = "uint8" if lines[0].startswith("y") else "float"
    constants = {name: array for name, array in SCALES.items() if f"{name}," in read or f"{name})" in read}
    assert straighten(to_fx(graph(*lines, inputs={"x": f"{kind}[n, 8]"}, **constants))) == 0
