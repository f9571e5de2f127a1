"""Pools that ONNX's own tests leave out: old opsets, uneven pads, column-major places, regions, export."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tersor.ir.errors import ModelError
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.fx.ops.pool import (
    average_pool,
    global_lp_pool,
    global_max_pool,
    lp_pool,
    max_pool,
    max_roi_pool,
    max_unpool,
)
from tersor.ir.text import graph

Check = Callable[..., dict[str, np.ndarray]]


@pytest.mark.parametrize("opset", [7, 10, 22])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(
    "attributes",
    [
        "kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 0]",
        "kernel_shape=[3, 3], strides=[2, 2], pads=[0, 1, 2, 0]",
        'kernel_shape=[3, 2], strides=[2, 3], auto_pad="SAME_LOWER"',
        'kernel_shape=[2, 2], strides=[2, 2], auto_pad="VALID"',
    ],
)
def test_pools_at_every_opset(op: str, attributes: str, opset: int, check: Check) -> None:
    check(f"y = {op}{{{attributes}}}(x)", x="float[2, 3, 6, 7]", opset=opset)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("dims", ["7", "6, 7", "4, 5, 6"])
def test_places_of_the_greatest_count_in_the_whole_input(order: int, dims: str, check: Check) -> None:
    deep = len(dims.split(", "))
    attributes = f"kernel_shape={[2] * deep}, strides={[2] * deep}, pads={[1] + [0] * (2 * deep - 1)}"
    check(f"y, i = MaxPool{{{attributes}, storage_order={order}}}(x)", x=f"float[2, 3, {dims}]", opset=12)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_pools_bytes(dtype: str, check: Check) -> None:
    check("y, i = MaxPool{kernel_shape=[2, 2], pads=[1, 0, 0, 1]}(x)", x=f"{dtype}[1, 2, 4, 5]", opset=12)


@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("count", [0, 1])
def test_dilated_averages_count_what_is_there(ceil: int, count: int, check: Check) -> None:
    attributes = "kernel_shape=[3, 2], strides=[2, 2], dilations=[2, 1], pads=[1, 0, 2, 1]"
    check(
        f"y = AveragePool{{{attributes}, ceil_mode={ceil}, count_include_pad={count}}}(x)",
        x="float[1, 2, 8, 7]",
        opset=19,
    )


def test_a_dilated_same_pool_keeps_the_size() -> None:
    # ONNX Runtime pads as if the window were not dilated
    y = max_pool(torch.randn(1, 1, 9, 9), kernel_shape=(3, 3), dilations=(2, 2), auto_pad="SAME_UPPER", outputs=1)
    assert isinstance(y, torch.Tensor)
    assert y.shape == (1, 1, 9, 9)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_norms(p: int, check: Check) -> None:
    check(f"y = LpPool{{kernel_shape=[2, 3], p={p}, pads=[1, 0, 0, 1]}}(x)", x="float[1, 2, 5, 6]", opset=11)
    check(f"y = GlobalLpPool{{p={p}}}(x)", x="float[1, 2, 5, 6]", opset=9)


def test_four_spatial_axes_agree_with_three() -> None:
    x = torch.randn(2, 3, 5, 6, 7)
    wide, options = x.unsqueeze(2), {"strides": (2, 1, 2), "pads": (1, 0, 1, 0, 1, 1)}
    more = {"strides": (1, 2, 1, 2), "pads": (0, 1, 0, 1, 0, 0, 1, 1)}
    y, i = max_pool(x, kernel_shape=(2, 3, 2), outputs=2, **options)  # type: ignore[misc, arg-type]
    y4, i4 = max_pool(wide, kernel_shape=(1, 2, 3, 2), outputs=2, **more)  # type: ignore[misc, arg-type]
    assert torch.equal(y4.squeeze(2), y)
    assert torch.equal(i4.squeeze(2), i)
    mean = average_pool(x, kernel_shape=(2, 3, 2), **options)  # type: ignore[arg-type]
    mean4 = average_pool(wide, kernel_shape=(1, 2, 3, 2), **more)  # type: ignore[arg-type]
    assert torch.allclose(mean4.squeeze(2), mean)


def test_unpooling_undoes_pooling_at_the_greatest() -> None:
    x = torch.randn(2, 3, 6, 8)
    y, i = max_pool(x, kernel_shape=(2, 2), strides=(2, 2), outputs=2)  # type: ignore[misc]
    back = max_unpool(y, i, kernel_shape=(2, 2), strides=(2, 2))
    assert torch.equal(back, torch.where(back == 0, 0.0, x))
    assert torch.equal(max_pool(back.clamp(min=0), kernel_shape=(2, 2), strides=(2, 2), outputs=1), y.clamp(min=0))


def test_regions(check: Check) -> None:
    rois = np.array([[0, 1, 1, 5, 4], [1, -2, 0, 2.5, 7.5], [0, 6, 6, 9, 9], [1, 4, 4, 2, 2]], np.float32)
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3, 7, 8)).astype(np.float32), "r": rois}
    for scale in (1.0, 0.5):
        line = f"y = MaxRoiPool{{pooled_shape=[2, 3], spatial_scale={scale}}}(x, r)"
        check(line, x="float[2, 3, 7, 8]", r="float[4, 5]", feeds=feeds, opset=7)


def test_a_region_of_infinities_is_not_empty() -> None:
    x = torch.full((1, 1, 2, 2), -torch.inf)
    rois = torch.tensor([[0.0, 0, 0, 1, 1], [0, 5, 5, 6, 6]])
    assert max_roi_pool(x, rois, pooled_shape=(1, 1)).flatten().tolist() == [-torch.inf, 0]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: max_pool(x, kernel_shape=(3, 3), pads=(0, 1, 2, 0), outputs=1),
        lambda x: average_pool(x, kernel_shape=(2, 2), dilations=(2, 1), pads=(1, 0, 0, 1)),
        lambda x: lp_pool(x, kernel_shape=(2, 2), p=3),
        lambda x: global_lp_pool(x),
        lambda x: max_roi_pool(x, torch.tensor([[0.0, 0, 1, 3, 4]], dtype=x.dtype), pooled_shape=(2, 2)),
    ],
)
def test_gradients(function: object) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(function, (x,))  # type: ignore[arg-type]


def test_a_norm_of_zeros_has_a_gradient() -> None:
    x = torch.zeros(1, 1, 4, requires_grad=True)
    lp_pool(x, kernel_shape=(2,)).sum().backward()
    assert x.grad is not None and bool(x.grad.isfinite().all())


@pytest.mark.parametrize(
    "line",
    [
        "y = MaxPool{kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1], ceil_mode=1}(x)",
        'y = AveragePool{kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER"}(x)',
        "y = GlobalAveragePool(x)",
    ],
)
def test_sizes_stay_symbolic(line: str) -> None:
    module = to_fx(graph(line, inputs={"x": "float[N, 2, H, W]"}, opset=22))
    sizes = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    exported = torch.export.export(module, (torch.randn(2, 2, 8, 9),), dynamic_shapes=(sizes,)).module()
    x = torch.randn(5, 2, 11, 14)
    assert torch.allclose(exported(x), module(x))


def test_a_kernel_of_another_rank_is_an_error() -> None:
    module = to_fx(graph("y = MaxPool{kernel_shape=[3]}(x)", inputs={"x": "float[1, 1, 4, 4]"}, opset=12))
    with pytest.raises(ModelError, match="needs 1 spatial axes, the input has 2"):
        Interpreter(module).run({"x": np.zeros((1, 1, 4, 4), np.float32)})


@pytest.mark.parametrize("dims", [(0, 2, 0), (2, 0, 0), (0, 0, 3)])
def test_the_maximum_of_no_image(dims: tuple[int, ...]) -> None:
    assert global_max_pool(torch.ones(dims)).shape == (*dims[:2], 1)
