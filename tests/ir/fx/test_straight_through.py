"""Rounding that lets gradients through: the numbers of the plain graph, the gradients of the papers' formulas."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from tersor.ir.fx import to_fx
from tersor.ir.fx.inverse.back import from_fx
from tersor.ir.fx.kernels.straight_through import binary_weight, fake_quantize, straighten, trained_ternary
from tersor.ir.fx.ops.quant import dequantize, quantize
from tersor.ir.text import graph, lines

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
    """dx = g inside; ds = g (round(x / s) - x / s) inside, g (end - z) elsewhere, summed where a scale serves many."""
    shape, options = LAYOUTS[layout]
    x, scale, zero = _given(shape)
    x, scale = x.requires_grad_(), scale.requires_grad_()
    gradient = torch.randn(x.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    fake_quantize(x, scale, zero, dtype=INT8, **options).backward(gradient)
    many, origin = (_spread(each.detach().numpy(), **options) for each in (scale, zero.double()))
    quotient = x.detach().numpy() / many
    inside = (quotient + origin > -128) & (quotient + origin < 127)
    assert 0 < inside.mean() < 1
    slope = np.where(inside, np.rint(quotient) - quotient, np.where(quotient > 0, 127, -128) - origin)
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


@pytest.mark.parametrize(
    ("quotient", "zero", "by_x", "by_scale"),
    [
        # inside: round(v / s) - v / s
        (126.7, 0, 1.0, 0.3),
        (-127.75, 0, 1.0, -0.25),
        (119.75, 7, 1.0, 0.25),
        # at the ends and beyond, also where it rounds to an end: the end
        (127.0, 0, 0.0, 127.0),
        (-128.0, 0, 0.0, -128.0),
        (127.3, 0, 0.0, 127.0),
        (127.7, 0, 0.0, 127.0),
        (-128.3, 0, 0.0, -128.0),
        (120.3, 7, 0.0, 120.0),
        (-135.3, 7, 0.0, -135.0),
    ],
)
def test_gradients_change_where_the_quotient_meets_an_end(
    quotient: float, zero: int, by_x: float, by_scale: float
) -> None:
    """Equations 3 and 5 of Esser et al. at single points, with Qn = 128 and Qp = 127 moved by the zero point."""
    scale = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    x = torch.tensor([0.5 * quotient], dtype=torch.float64, requires_grad=True)
    fake_quantize(x, scale, torch.tensor(zero, dtype=torch.int8), dtype=INT8).sum().backward()
    assert x.grad is not None
    assert scale.grad is not None
    assert (x.grad.item(), scale.grad.item()) == (by_x, pytest.approx(by_scale, abs=1e-12))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("codes", [ir.DataType.INT8, ir.DataType.INT16, ir.DataType.UINT16])
def test_answers_are_of_the_scales_type(kind: torch.dtype, codes: ir.DataType) -> None:
    """Codes of 16 bits are whole also where the scale's type holds 8 or 11 bits."""
    zero = {"INT8": torch.tensor(3, dtype=torch.int8), "INT16": torch.tensor(-1001, dtype=torch.int16)}.get(
        codes.name, torch.tensor(30011, dtype=torch.uint16)
    )
    scale = torch.tensor(0.02 if codes is ir.DataType.INT8 else 1e-3, dtype=kind, requires_grad=True)
    x = torch.linspace(-40, 40, 4001, requires_grad=True)
    wanted = dequantize(quantize(x, scale, zero, dtype=int(codes)), scale, zero)
    found = fake_quantize(x, scale, zero, dtype=int(codes))
    assert found.dtype is wanted.dtype is kind
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    found.sum().backward()
    assert x.grad is not None
    assert scale.grad is not None
    assert (x.grad.dtype, scale.grad.dtype) == (torch.float32, kind)
    assert 0 < x.grad.mean() < 1


def test_quotients_beyond_float16_are_at_the_end() -> None:
    scale = torch.tensor(1e-4, dtype=torch.float16, requires_grad=True)
    x = torch.tensor([3e4], dtype=torch.float16, requires_grad=True)
    fake_quantize(x, scale, dtype=int(ir.DataType.INT16)).sum().backward()
    assert x.grad is not None
    assert scale.grad is not None
    assert (x.grad.item(), scale.grad.item()) == (0.0, torch.tensor(32767.0).half().item())


def test_what_has_no_grid_of_integers_is_refused() -> None:
    with pytest.raises(ValueError, match="expected integers of 2 to 16 bits, found float8e4m3fn"):
        fake_quantize(torch.ones(2), torch.tensor(1.0), dtype=int(ir.DataType.FLOAT8E4M3FN))
    with pytest.raises(ValueError, match=r"expected a scale of floats of 16 to 64 bits, found torch\.int32"):
        fake_quantize(torch.ones(2), torch.tensor(1, dtype=torch.int32))


WEIGHT = ((0.5, -2.0), (-1.5, 0.25), (0.0, 0.75))
GRADIENT = ((1.0, 2.0), (3.0, -1.0), (0.5, 4.0))


@pytest.mark.parametrize("axis", [1, 0, -1])
def test_signs_and_their_mean(axis: int) -> None:
    """a sign(w), a the mean |w| of an output; dw = g a [|w| <= 1] + sign(w) mean(g sign(w))."""
    weight = torch.tensor(WEIGHT, dtype=torch.float64, requires_grad=True)
    made = binary_weight(weight, axis=axis)
    w, g = np.array(WEIGHT), np.array(GRADIENT)
    reduced = 1 if axis == 0 else 0
    sign, scale = np.where(w < 0, -1.0, 1.0), np.abs(w).mean(reduced, keepdims=True)
    np.testing.assert_allclose(made.detach().numpy(), scale * sign, rtol=1e-15)
    made.backward(torch.tensor(GRADIENT, dtype=torch.float64))
    assert weight.grad is not None
    wanted = g * scale * (np.abs(w) <= 1) + sign * (g * sign).mean(reduced, keepdims=True)
    np.testing.assert_allclose(weight.grad.numpy(), wanted, rtol=1e-15)


def test_a_kernels_outputs_have_a_scale_each() -> None:
    """The mean's derivative is the whole one: numeric differences agree with it where no sign changes."""
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn(4, 3, 2, 2, generator=generator, dtype=torch.float64)
    means = binary_weight(kernel, axis=0).abs()
    torch.testing.assert_close(means, kernel.abs().mean((1, 2, 3), keepdim=True).expand_as(kernel))
    # beyond 1 signs pass nothing: what is left is the mean's derivative
    kernel = (kernel + 2 * kernel.sign()).requires_grad_()
    assert torch.autograd.gradcheck(lambda given: binary_weight(given, axis=0), (kernel,))


@pytest.mark.parametrize(
    ("weight", "axis"),
    [(torch.ones(3), 0), (torch.ones(3, 2), 2), (torch.ones(3, 2, dtype=torch.int8), 1)],
    ids=["one axis", "no such axis", "integers"],
)
def test_weights_without_outputs_have_no_signs(weight: torch.Tensor, axis: int) -> None:
    with pytest.raises(ValueError, match=f"expected floats of at least 2 axes, among them {axis}, found"):
        binary_weight(weight, axis=axis)


def _levels(*values: float) -> list[torch.Tensor]:
    return [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values]


def test_trained_levels() -> None:
    """Equations 7 and 8 of the paper: the levels get the sums, -n's with its sign; the weights their level's part."""
    weight = torch.tensor([[0.9, -0.02], [-1.0, 0.04], [0.3, -0.6]], dtype=torch.float64, requires_grad=True)
    up, down = _levels(0.7, 0.4)
    made = trained_ternary(weight, up, down, threshold=0.05)
    np.testing.assert_array_equal(made.detach().numpy(), [[0.7, 0.0], [-0.4, 0.0], [0.7, -0.4]])
    made.backward(torch.tensor(GRADIENT, dtype=torch.float64))
    assert weight.grad is not None
    np.testing.assert_allclose(weight.grad.numpy(), [[0.7, 2.0], [1.2, -1.0], [0.35, 1.6]], rtol=1e-15)
    assert (up.grad, down.grad) == (torch.tensor(1.5), torch.tensor(-7.0))


def test_levels_of_ternary_weights_are_their_true_derivatives() -> None:
    weight = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    levels = [torch.tensor([0.7, 0.2, 0.5], dtype=torch.float64, requires_grad=True), *_levels(0.4)]
    assert torch.autograd.gradcheck(lambda up, down: trained_ternary(weight, up, down, threshold=0.3), levels)


def test_what_is_not_finite_is_seen() -> None:
    for bad in (torch.nan, torch.inf):
        made = trained_ternary(torch.tensor([[bad, 1.0]], dtype=torch.float64), *_levels(0.7, 0.4))
        assert made.isnan().any()
    assert trained_ternary(torch.zeros(0, 2, dtype=torch.float64), *_levels(0.7, 0.4)).shape == (0, 2)


def test_impossible_ternary_weights_are_refused() -> None:
    up, down = _levels(0.7, 0.4)
    for threshold in (-0.1, 1.0):
        with pytest.raises(ValueError, match="expected a threshold from 0 to below 1"):
            trained_ternary(torch.ones(2, 2), up, down, threshold=threshold)
    with pytest.raises(ValueError, match=r"expected floats, found torch\.int8"):
        trained_ternary(torch.ones(2, 2, dtype=torch.int8), up, down)
    for shape in ((3,), (1, 2, 2)):
        with pytest.raises(ValueError, match=r"expected levels that broadcast to \[2, 2\], found"):
            trained_ternary(torch.ones(2, 2), torch.ones(shape), down)


def test_nothing_is_differentiated_twice() -> None:
    x, scale = torch.ones(2, requires_grad=True), torch.tensor(0.3, requires_grad=True)
    (slope,) = torch.autograd.grad((fake_quantize(x, scale) ** 2).sum(), scale, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.backward()


CONSTANTS: dict[str, object] = {
    "s": np.float32(0.1),
    "z": np.array(3, np.uint8),
    "t": np.float32(0.2),
    "u": np.array(4, np.uint8),
    "many": np.full(8, 0.1, np.float32),
    "blocks": np.full((1, 8), 0.1, np.float32),
    "f": np.array(0, ir.DataType.FLOAT8E4M3FN.numpy()),
}


def _module(*text: str, kind: str = "float", shape: str = "n, 8") -> torch.fx.GraphModule:
    read = " ".join(text).replace(",", " ").replace(")", " ").replace("(", " ").split()
    constants = {name: array for name, array in CONSTANTS.items() if name in read}
    return to_fx(graph(*text, inputs={"x": f"{kind}[{shape}]"}, **constants))


def _model() -> ir.Model:
    """Activations and a weight of floats, both rounded."""
    return graph(
        "q = QuantizeLinear(x, s, z)",
        "d = DequantizeLinear(q, s, z)",
        "p = QuantizeLinear(w, r, y0)",
        "e = DequantizeLinear(p, r, y0)",
        "y = MatMul(d, e)",
        inputs={"x": "float[n, 8]"},
        w=np.linspace(-2, 1, 32, dtype=np.float32).reshape(8, 4),
        r=np.float32(0.01),
        y0=np.array(2, np.int8),
        s=np.float32(0.1),
        z=np.array(3, np.uint8),
    )


def test_a_graph_trains_through_its_rounding() -> None:
    """dw is the gradient of the product inside of the grid; the scales of weights and activations train too."""
    module = to_fx(_model())
    x = torch.linspace(-2, 30, 24).reshape(3, 8)
    with torch.no_grad():
        before = module(x)
    assert straighten(module) == 2
    x.requires_grad_()
    answers = module(x)
    torch.testing.assert_close(answers, before, rtol=0, atol=0)
    answers.sum().backward()
    inside = (x / 0.1 + 3 > 0) & (x / 0.1 + 3 < 255)
    weight, step = module.get_parameter("w"), module.get_parameter("r")
    quotient = weight.detach().double() / step.detach().double()
    held = (quotient + 2 > -128) & (quotient + 2 < 127)
    assert 0 < inside.float().mean() < 1
    assert 0 < held.float().mean() < 1
    rounded = ((torch.round(quotient) + 2).clamp(-128, 127) - 2) * 0.01
    torch.testing.assert_close(x.grad, (inside * rounded.sum(1)).float())
    column = ((torch.round(x.detach() / 0.1) + 3).clamp(0, 255) - 3).sum(0) * 0.1
    torch.testing.assert_close(weight.grad, column[:, None] * held)
    slope = torch.where(held, torch.round(quotient) - quotient, torch.where(quotient > 0, 125.0, -130.0))
    torch.testing.assert_close(step.grad, (slope * column[:, None]).sum().float(), rtol=1e-5, atol=1e-4)
    assert module.get_parameter("s").grad is not None
    assert straighten(module) == 0


def test_what_was_trained_goes_into_a_module_made_anew() -> None:
    trained, module = to_fx(_model()), to_fx(_model())
    straighten(trained)
    with torch.no_grad():
        trained.get_parameter("w").mul_(0.5)
        module.load_state_dict(trained.state_dict())
        x = torch.linspace(-2, 30, 24).reshape(3, 8)
        torch.testing.assert_close(module(x), trained(x), rtol=0, atol=0)
    assert lines(from_fx(module)) == lines(_model())


def test_stored_integers_do_not_train() -> None:
    text = "e = DequantizeLinear(w8, s)", "y = MatMul(x, e)"
    model = graph(*text, inputs={"x": "float[n, 8]"}, w8=np.ones((8, 4), np.int8), s=np.float32(0.1))
    module = to_fx(model)
    assert straighten(module) == 0
    assert [name for name, _ in module.named_parameters()] == ["s"]


@pytest.mark.parametrize(
    "text",
    [
        ("q = QuantizeLinear(x, s)", "y = DequantizeLinear(q, s)"),
        ("q = QuantizeLinear{output_dtype=5}(x, s)", "y = DequantizeLinear(q, s)"),
        ("q = QuantizeLinear{axis=1}(x, many)", "y = DequantizeLinear(q, many)"),
        ("q = QuantizeLinear(x, many)", "y = DequantizeLinear{axis=1, block_size=0}(q, many)"),
        (
            "q = QuantizeLinear{axis=0, block_size=8}(x, blocks)",
            "y = DequantizeLinear{axis=0, block_size=8}(q, blocks)",
        ),
    ],
    ids=["no zero point", "int16 by output_dtype", "axis on one", "defaults on the other", "blocks"],
)
def test_what_is_not_told_is_the_default(text: tuple[str, ...]) -> None:
    module = _module(*text, shape="8, 8")
    x = torch.linspace(-40, 40, 64).reshape(8, 8)
    with torch.no_grad():
        before = module(x)
        assert straighten(module) == 1
        torch.testing.assert_close(module(x), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    "text",
    [
        ("q = QuantizeLinear(x, s, z)", "y = DequantizeLinear(q, t, z)"),
        ("q = QuantizeLinear(x, s, z)", "y = DequantizeLinear(q, s, u)"),
        ("q = QuantizeLinear(x, s, z)", "y = DequantizeLinear(q, s)"),
        ("q = QuantizeLinear{axis=0}(x, many)", "y = DequantizeLinear(q, many)"),
        ("q = QuantizeLinear{axis=0, block_size=8}(x, blocks)", "y = DequantizeLinear{axis=0}(q, blocks)"),
        ("q = QuantizeLinear(x, s, z)", "y = DequantizeLinear{output_dtype=10}(q, s, z)"),
        ("q = QuantizeLinear{precision=1}(x, s, z)", "y = DequantizeLinear(q, s, z)"),
        ("q = QuantizeLinear(x, s, f)", "y = DequantizeLinear(q, s, f)"),
        ("q = QuantizeLinear{output_dtype=17}(x, s)", "y = DequantizeLinear(q, s)"),
        ("q = QuantizeLinear(x, s, z)", "d = DequantizeLinear(q, s, z)", "c = Cast{to=1}(q)", "y = Add(c, d)"),
        ("y = DequantizeLinear(x, s, z)",),
    ],
    ids=[
        "another scale",
        "another zero point",
        "a zero point on one",
        "another axis",
        "blocks on one",
        "another type",
        "a precision",
        "8-bit floats",
        "8-bit floats by output_dtype",
        "other readers",
        "stored integers",
    ],
)
def test_what_is_no_round_trip_stays(text: tuple[str, ...]) -> None:
    module = _module(*text, kind="uint8" if text[0].startswith("y") else "float", shape="8, 8")
    before = [node.target for node in module.graph.nodes]
    assert straighten(module) == 0
    assert [node.target for node in module.graph.nodes] == before
