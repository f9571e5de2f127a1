"""Normalizations at the opsets ONNX's own tests have left behind, and convolutions' automatic pads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.fx.export import export
from tersor.ir.fx.ops.norm import batch_norm, batch_norm_7, local_response_norm, lp_norm
from tersor.ir.text import graph

Check = Callable[..., dict[str, np.ndarray]]


@pytest.mark.parametrize("opset", [7, 9, 14, 15])
@pytest.mark.parametrize("dims", ["4, 3", "2, 3, 4", "2, 3, 4, 5"])
def test_batch_norm(opset: int, dims: str, check: Check) -> None:
    rng = np.random.default_rng(0)
    constants = {name: rng.uniform(0.5, 2, 3).astype(np.float32) for name in "sbmv"}
    check("y = BatchNormalization{epsilon=0.01}(x, s, b, m, v)", x=f"float[{dims}]", opset=opset, constants=constants)


def test_batch_norm_of_single_numbers() -> None:
    one = torch.ones(1)
    y = batch_norm(torch.tensor([1.0, 3.0]), one, one, one, one, epsilon=0.0, outputs=1)
    assert isinstance(y, torch.Tensor)
    assert y.tolist() == [1.0, 3.0]


@pytest.mark.parametrize(("opset", "attributes", "count"), [(7, "", 5), (9, "", 5), (14, "{training_mode=1}", 3)])
def test_training_gives_statistics(opset: int, attributes: str, count: int) -> None:
    names = ["y", "rm", "rv", "sm", "sv"][:count]
    constants = {name: np.float32([1, 2, 3]) for name in "sbmv"}
    line = f"{', '.join(names)} = BatchNormalization{attributes}(x, s, b, m, v)"
    x = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32)
    model = graph(line, inputs={"x": "float[4, 3, 5]"}, outputs=names, opset=opset, **constants)
    found = Interpreter(to_fx(model)).run({"x": x})
    mean, variance = x.mean((0, 2)), x.var((0, 2))
    scaled = (x - mean[:, None]) / np.sqrt(variance + 1e-5)[:, None] * constants["s"][:, None] + constants["b"][:, None]
    given = constants["m"]
    wanted = [scaled, given * 0.9 + mean * 0.1, given * 0.9 + variance * 0.1, mean, variance][:count]
    for name, value in zip(names, wanted, strict=True):
        assert np.allclose(found[name], value, atol=1e-5), name


def test_each_element_may_be_a_channel_of_its_own() -> None:
    x, parts = torch.randn(4, 2, 3), [torch.rand(2, 3) + 0.5 for _ in range(4)]
    scale, bias, mean, variance = parts
    y = batch_norm_7(x, *parts, spatial=0, outputs=1)
    assert isinstance(y, torch.Tensor)
    assert torch.allclose(y, (x - mean) * (variance + 1e-5).rsqrt() * scale + bias, atol=1e-5)
    trained = batch_norm_7(x, *parts, spatial=0, outputs=5)
    assert isinstance(trained, tuple)
    assert [part.shape for part in trained] == [x.shape, *[(2, 3)] * 4]
    assert torch.allclose(trained[3], x.mean(0), atol=1e-6)


def test_statistics_that_are_parameters_do_not_stop_gradients() -> None:
    constants = {name: np.float32([1, 2, 3]) for name in "sbmv"}
    module = to_fx(
        graph("y = BatchNormalization(x, s, b, m, v)", inputs={"x": "float[2, 3, 4]"}, opset=15, **constants)
    )
    x = torch.randn(2, 3, 4)
    with torch.no_grad():
        wanted = module(x)
    y = module(x)
    assert torch.allclose(y, wanted, atol=1e-5)
    y.square().sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_half_precision_data_with_wide_statistics() -> None:
    x, wide = torch.randn(2, 3, 4), torch.rand(3) + 0.5
    y = batch_norm(x.half(), wide.half(), wide.half(), wide, wide, outputs=1)
    full = batch_norm(x, wide, wide, wide, wide, outputs=1)
    assert isinstance(y, torch.Tensor) and isinstance(full, torch.Tensor)
    assert y.dtype is torch.float16
    assert torch.allclose(y.float(), full, atol=1e-2)


@pytest.mark.parametrize("size", [1, 3, 5, 9])
def test_local_response(size: int, check: Check) -> None:
    check(f"y = LRN{{size={size}, alpha=0.5, beta=0.7, bias=1.2}}(x)", x="float[2, 5, 3, 2]", opset=7)


def test_an_even_neighbourhood_reaches_further_up() -> None:
    # ONNX Runtime has odd sizes only
    x = torch.arange(1.0, 5.0).reshape(1, 4, 1)
    y = local_response_norm(x, size=2, alpha=2.0, beta=1.0, bias=0.0)
    assert torch.allclose(y.flatten(), torch.tensor([1 / 5, 2 / 13, 3 / 25, 4 / 16]))


def test_one_element_per_channel(check: Check) -> None:
    constants = {"s": np.float32([1, 2, 3]), "b": np.float32([4, 5, 6])}
    check("y = InstanceNormalization(x, s, b)", x="float[1, 3, 1]", opset=7, constants=constants)


def test_zeros_have_a_gradient() -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    y = lp_norm(x)
    assert y.tolist() == [[0.0, 0.0], pytest.approx([0.6, 0.8])]
    y.sum().backward()
    assert x.grad is not None and bool(x.grad.isfinite().all())


@pytest.mark.parametrize("opset", [7, 11, 22])
@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize(("kernel", "strides"), [((3, 2), (2, 3)), ((4, 4), (1, 1)), ((2, 3), (2, 2))])
def test_automatic_pads_of_convolutions(
    auto: str, kernel: tuple[int, int], strides: tuple[int, int], opset: int, check: Check
) -> None:
    constants = {"w": np.random.default_rng(0).standard_normal((3, 2, *kernel)).astype(np.float32)}
    line = f'y = Conv{{auto_pad="{auto}", strides={list(strides)}}}(x, w)'
    check(line, x="float[1, 2, 7, 8]", opset=opset, constants=constants)


@pytest.mark.parametrize("attributes", ["output_shape=[15, 17]", "pads=[1, 0, 2, 1], output_padding=[1, 0]"])
def test_transposed_convolution(attributes: str, check: Check) -> None:
    constants = {"w": np.random.default_rng(0).standard_normal((2, 3, 3, 3)).astype(np.float32)}
    for auto in ("", ', auto_pad="SAME_UPPER"', ', auto_pad="SAME_LOWER"'):
        if auto and "pads" in attributes:
            continue
        line = f"y = ConvTranspose{{strides=[2, 2], {attributes}{auto}}}(x, w)"
        check(line, x="float[1, 2, 7, 8]", opset=11, constants=constants)


def test_automatic_pads_stay_symbolic() -> None:
    constants = {"w": np.random.default_rng(0).standard_normal((3, 2, 3, 3)).astype(np.float32)}
    line = 'y = Conv{auto_pad="SAME_UPPER", strides=[2, 2]}(x, w)'
    module = to_fx(graph(line, inputs={"x": "float[N, 2, H, W]"}, opset=22, **constants))
    sizes = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    exported = torch.export.export(module, (torch.randn(2, 2, 8, 9),), dynamic_shapes=(sizes,)).module()
    x = torch.randn(5, 2, 11, 14)
    assert torch.allclose(exported(x), module(x), atol=1e-5)


def test_local_response_without_channels() -> None:
    assert local_response_norm(torch.ones(2, 0, 4), size=3).shape == (2, 0, 4)


def test_an_exported_batch_norm_trains_on() -> None:
    rng = np.random.default_rng(0)
    constants = {name: rng.uniform(0.5, 2, 3).astype(np.float32) for name in "sbmv"}
    model = graph("y = BatchNormalization(x, s, b, m, v)", inputs={"x": "float[n, 3, h]"}, **constants)
    program = export(model, to_fx(model)).module()
    x = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    program(x).sum().backward()
    wanted = constants["s"] / np.sqrt(constants["v"] + 1e-5)
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), np.broadcast_to(wanted[:, None], x.shape), rtol=1e-5)
