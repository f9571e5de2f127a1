"""Resize and Upsample: the opsets before 18, ties, symbolic sizes, errors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tersor.ir.errors import ModelError
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.fx.ops.resize import resize
from tersor.ir.text import graph

Check = Callable[..., dict[str, np.ndarray]]

_EMPTY = np.zeros(0, np.float32)


def _numbers(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", [(1, 1, 2, 2), (1, 1, 1.5, 2.3), (1, 1, 3, 1)])
def test_upsample(mode: str, scales: tuple[float, ...], check: Check) -> None:
    given = [float(scale) for scale in scales]
    check(f'y = Upsample{{mode="{mode}", scales={given}}}(x)', x="float[1, 2, 3, 4]", opset=7)
    check(f'y = Upsample{{mode="{mode}"}}(x, s)', x="float[1, 2, 3, 4]", opset=9, constants={"s": _numbers(*scales)})


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", [(1, 1, 0.5, 0.6), (1, 1, 0.7, 2.5), (1, 1, 0.4, 1)])
def test_opset_10_shrinks_to_the_next_place(mode: str, scales: tuple[float, ...], check: Check) -> None:
    check(f'y = Resize{{mode="{mode}"}}(x, s)', x="float[1, 2, 7, 8]", opset=10, constants={"s": _numbers(*scales)})


@pytest.mark.parametrize("opset", [11, 19])
@pytest.mark.parametrize("coordinates", ["half_pixel", "pytorch_half_pixel", "asymmetric"])
@pytest.mark.parametrize(
    "mode",
    [
        'mode="nearest", nearest_mode="round_prefer_floor"',
        'mode="nearest", nearest_mode="round_prefer_ceil"',
        'mode="nearest", nearest_mode="floor"',
        'mode="nearest", nearest_mode="ceil"',
        'mode="linear"',
        'mode="cubic", cubic_coeff_a=-0.5',
        'mode="cubic", exclude_outside=1',
    ],
)
def test_modes(mode: str, coordinates: str, opset: int, check: Check) -> None:
    line = f'y = Resize{{{mode}, coordinate_transformation_mode="{coordinates}"}}'
    for scales in ((1, 1, 2, 0.6), (1, 1, 1.7, 3)):
        constants = {"e": _EMPTY, "s": _numbers(*scales)}
        check(f"{line}(x, e, s)", x="float[1, 2, 5, 7]", opset=opset, constants=constants, tolerance=2e-5)
    constants = {"e": _EMPTY, "z": np.array([1, 2, 9, 1])}
    check(f"{line}(x, e, e, z)", x="float[1, 2, 5, 7]", opset=opset, constants=constants, tolerance=2e-5)


def test_half_pixels_of_tensorflow(check: Check) -> None:
    line = 'y = Resize{coordinate_transformation_mode="tf_half_pixel_for_nn", nearest_mode="floor"}(x, e, s)'
    constants = {"e": _EMPTY, "s": _numbers(1, 1, 2, 0.6)}
    check(line, x="float[1, 2, 5, 7]", opset=11, constants=constants)


@pytest.mark.parametrize("opset", [11, 13, 19])
@pytest.mark.parametrize("sizes", [(1, 1, 4, 9), (1, 1, 1, 3)])
def test_a_region_beyond_the_input_is_extrapolated(opset: int, sizes: tuple[int, ...], check: Check) -> None:
    line = 'y = Resize{mode="linear", coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=7.0}'
    constants = {"r": _numbers(0, 0, -0.2, 0.1, 1, 1, 0.8, 1.4), "e": _EMPTY, "z": np.array(sizes)}
    check(f"{line}(x, r, e, z)", x="float[1, 1, 5, 7]", opset=opset, constants=constants)


def test_a_region_counts_where_the_size_stays() -> None:
    # ONNX Runtime leaves such an axis alone
    x = torch.arange(5.0).reshape(1, 5)
    y = resize(x, [0, 0.5, 1, 1], None, [1, 5], mode="linear", coordinate_transformation_mode="tf_crop_and_resize")
    assert torch.allclose(y, torch.tensor([[2.0, 2.5, 3.0, 3.5, 4.0]]))


@pytest.mark.parametrize("kind", ["align_corners", "half_pixel", "asymmetric"])
def test_torch_kernels_and_the_general_way_agree(kind: str) -> None:
    x = torch.randn(2, 3, 5, 6)
    for mode in ("linear", "cubic"):
        by_torch = resize(x, None, None, [2, 3, 9, 4], mode=mode, coordinate_transformation_mode=kind)
        axes = resize(
            x.permute(2, 3, 0, 1), None, None, [9, 4], mode=mode, coordinate_transformation_mode=kind, axes=[0, 1]
        )
        assert torch.allclose(by_torch, axes.permute(2, 3, 0, 1), atol=1e-5)


@pytest.mark.parametrize("scale", [2.0, 3.0, 41.0])
def test_whole_scales_repeat_every_place(scale: float) -> None:
    # 1 / 41 in float32 is less than it should be: a product in its place of the division falls short of whole numbers
    x = torch.arange(7.0).reshape(1, 1, 7, 1)
    y = resize(x, None, [1, 1, scale, 1], coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    assert torch.equal(y, x.repeat_interleave(int(scale), 2))


def test_integers_are_cut_off(check: Check) -> None:
    line = 'y = Resize{mode="nearest"}(x, e, s)'
    check(line, x="int32[1, 1, 4, 4]", opset=13, constants={"e": _EMPTY, "s": _numbers(1, 1, 2, 0.5)})
    y = resize(torch.tensor([[0, 3]], dtype=torch.uint8), None, [1, 2], mode="linear")
    assert y.tolist() == [[0, 0, 2, 3]]


@pytest.mark.parametrize("antialias", [0, 1])
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_gradients(mode: str, antialias: int) -> None:
    x = torch.randn(1, 1, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: resize(x, None, [1, 1, 0.6, 1.5], mode=mode, antialias=antialias), (x,))


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("scales", [(1, 1, 2, 2), (1, 1, 0.5, 1.5)])
def test_sizes_stay_symbolic(mode: str, scales: tuple[float, ...]) -> None:
    constants = {"e": _EMPTY, "s": _numbers(*scales)}
    line = f'y = Resize{{mode="{mode}"}}(x, e, s)'
    module = to_fx(graph(line, inputs={"x": "float[N, 2, H, W]"}, opset=22, **constants))
    sizes = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    exported = torch.export.export(module, (torch.randn(2, 2, 8, 9),), dynamic_shapes=(sizes,)).module()
    x = torch.randn(5, 2, 11, 14)
    assert torch.allclose(exported(x), module(x))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ('mode="sinc"', "mode is 'sinc'; expected one of cubic, linear, nearest"),
        ('coordinate_transformation_mode="odd"', "is none of"),
        ('nearest_mode="odd"', "is none of round_prefer_floor"),
        ('keep_aspect_ratio_policy="odd"', "is none of"),
        ('coordinate_transformation_mode="tf_crop_and_resize"', "needs the input roi"),
        ("axes=[2]", "must have a value for each of the axes"),
    ],
)
def test_errors(attributes: str, message: str) -> None:
    constants = {"s": _numbers(1, 1, 2, 2)}
    line = f"y = Resize{{{attributes}}}(x, _, s)"
    with pytest.raises(ModelError, match=message):
        Interpreter(to_fx(graph(line, inputs={"x": "float[1, 1, 4, 4]"}, opset=19, **constants))).run(
            {"x": np.zeros((1, 1, 4, 4), np.float32)}
        )
