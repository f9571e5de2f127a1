"""Ops that read images at computed places, where ONNX's own tests are thin."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx.reference
import onnx_ir
import pytest
import torch
from tersor.ir.errors import ModelError
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.fx.ops.linear import conv
from tersor.ir.fx.ops.spatial import col2im, deform_conv, grid_sample, read
from tersor.ir.text import graph

Check = Callable[..., dict[str, np.ndarray]]


def _grid(*dims: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-2.5, 2.5, dims).astype(np.float32)


def _image(*dims: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(dims).astype(np.float32)


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("outside", ["zeros", "border", "reflection"])
@pytest.mark.parametrize(("opset", "mode"), [(16, "bilinear"), (16, "bicubic"), (20, "linear"), (22, "nearest")])
def test_grids_far_outside(opset: int, mode: str, outside: str, corners: int, check: Check) -> None:
    line = f'y = GridSample{{mode="{mode}", padding_mode="{outside}", align_corners={corners}}}(x, g)'
    feeds = {"x": _image(2, 2, 4, 3), "g": _grid(2, 5, 4, 2)}
    check(line, x="float[2, 2, 4, 3]", g="float[2, 5, 4, 2]", feeds=feeds, opset=opset)


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize(
    ("mode", "outside", "dims"),
    [
        ("cubic", "zeros", (3, 4, 2)),
        ("cubic", "reflection", (3, 4, 2)),
        ("linear", "border", (5,)),
        ("nearest", "reflection", (5,)),
        ("linear", "zeros", (2, 3, 2, 3)),
    ],
)
def test_grids_of_other_ranks(mode: str, outside: str, dims: tuple[int, ...], corners: int) -> None:
    line = f'y = GridSample{{mode="{mode}", padding_mode="{outside}", align_corners={corners}}}(x, g)'
    feeds = {"x": _image(1, 2, *dims), "g": _grid(1, *(2,) * len(dims), len(dims))}
    shapes = {name: f"float{list(value.shape)}" for name, value in feeds.items()}
    model = graph(line, inputs=shapes, opset=20)
    found = Interpreter(to_fx(model)).run(feeds)["y"]
    # ONNX Runtime has no kernel for these ranks
    evaluator = onnx.reference.ReferenceEvaluator(onnx_ir.serde.serialize_model(model))
    assert np.allclose(found, np.asarray(evaluator.run(None, feeds)[0]), atol=1e-5)


def test_a_cubic_grid_in_a_volume_is_one_in_each_plane() -> None:
    x, flat = torch.from_numpy(_image(1, 2, 4, 5)), torch.from_numpy(_grid(1, 3, 3, 2))
    deep = torch.cat([flat.unsqueeze(1), torch.zeros(1, 1, 3, 3, 1)], -1)
    for outside in ("zeros", "border", "reflection"):
        plane = grid_sample(x, flat, mode="cubic", padding_mode=outside)
        volume = grid_sample(x.unsqueeze(2), deep, mode="cubic", padding_mode=outside)
        if outside == "zeros":
            continue
        assert torch.allclose(volume.squeeze(2), plane, atol=1e-5)


def test_columns_with_uneven_pads_sum_up_in_the_image() -> None:
    # col2im is the transpose of taking columns: <columns(image), x> == <image, col2im(x)>
    image = torch.randn(1, 2, 5, 6, dtype=torch.float64)
    padded = torch.nn.functional.pad(image, (1, 0, 0, 2))
    columns = torch.nn.functional.unfold(padded, (2, 3), dilation=(2, 1), stride=(1, 2))
    x = torch.randn_like(columns)
    back = col2im(x, (5, 6), (2, 3), dilations=(2, 1), pads=(0, 1, 2, 0), strides=(1, 2))
    assert torch.allclose((columns * x).sum(), (image * back).sum())


@pytest.mark.parametrize("dims", [(3, 9), (8, 4), (5, 6)])
def test_crop_and_pad(dims: tuple[int, int], check: Check) -> None:
    constants = {"z": np.array(dims)}
    check("y = CenterCropPad{axes=[1, -1]}(x, z)", x="float[2, 5, 3, 6]", opset=18, constants=constants)


@pytest.mark.parametrize("deep", [1, 2, 3])
def test_a_deformable_convolution_that_moves_nothing_is_a_convolution(deep: int) -> None:
    x, weight = torch.randn(2, 4, *(6,) * deep), torch.randn(6, 2, *(2,) * deep)
    options = {"group": 2, "pads": (1,) * 2 * deep, "strides": (2,) * deep, "dilations": (2,) * deep}
    y = conv(x, weight, **options)  # type: ignore[arg-type]
    offset = torch.zeros(2, 2 * 2**deep * deep, *y.shape[2:])
    assert torch.allclose(deform_conv(x, weight, offset, offset_group=2, **options), y, atol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("attributes", "message"), [('mode="sinc"', "is none of nearest"), ('padding_mode="odd"', "is none of zeros")]
)
def test_errors(attributes: str, message: str) -> None:
    shapes = {"x": "float[1, 1, 2, 2]", "g": "float[1, 1, 1, 2]"}
    module = to_fx(graph(f"y = GridSample{{{attributes}}}(x, g)", inputs=shapes, opset=20))
    with pytest.raises(ModelError, match=message):
        Interpreter(module).run({"x": _image(1, 1, 2, 2), "g": _grid(1, 1, 1, 2)})


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize(("op", "size"), [("2, 3", [2, 1, 3, 4]), ("3, 4", [2, 1, 2, 3, 4])])
def test_a_grid_of_places(op: str, size: list[int], corners: int, check: Check) -> None:
    constants = {"s": np.array(size)}
    check(f"y = AffineGrid{{align_corners={corners}}}(t, s)", t=f"float[2, {op}]", opset=20, constants=constants)


def test_the_only_element_of_an_axis_is_at_its_start() -> None:
    model = graph("y = AffineGrid{align_corners=1}(t, [1, 1, 1, 3])", inputs={"t": "bfloat16[1, 2, 3]"}, opset=20)
    theta = np.array([[[1, 0, 0], [0, 1, 0]]]).astype(onnx_ir.DataType.BFLOAT16.numpy())
    found = Interpreter(to_fx(model)).run({"t": theta})["y"]
    assert found.dtype == theta.dtype
    assert found.astype(float).tolist() == [[[[-1, -1], [0, -1], [1, -1]]]]


def test_an_infinite_element_at_the_edge_does_not_reach_what_is_read_outside() -> None:
    x = torch.tensor([[[[1.0, float("inf")]]]])
    at = [torch.tensor([[0.0]]), torch.tensor([[2.5]])]
    assert read(x, at).tolist() == [[[0.0]]]
