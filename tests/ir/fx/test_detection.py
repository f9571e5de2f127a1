"""Boxes to keep and regions to pool, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tersor.ir.errors import ModelError
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.fx.ops.detection import non_max_suppression, roi_align
from tersor.ir.text import graph

Check = Callable[..., dict[str, np.ndarray]]


@pytest.mark.parametrize("opset", [10, 11])
@pytest.mark.parametrize("centred", [0, 1])
@pytest.mark.parametrize(("most", "overlap", "score"), [(0, 0.5, 0.0), (3, 0.2, 0.4), (100, 0.0, 0.0), (100, 0.6, 0.5)])
def test_kept_boxes(most: int, overlap: float, score: float, centred: int, opset: int, check: Check) -> None:
    rng = np.random.default_rng(most)
    # few different scores, so that ties are broken too
    scores = (rng.integers(0, 6, (2, 3, 25)) / 5).astype(np.float32)
    feeds = {"b": rng.uniform(0, 1, (2, 25, 4)).astype(np.float32), "s": scores}
    constants = {"m": np.array([most]), "i": np.float32([overlap]), "t": np.float32([score])}
    line = f"y = NonMaxSuppression{{center_point_box={centred}}}(b, s, m, i, t)"
    check(line, b="float[2, 25, 4]", s="float[2, 3, 25]", feeds=feeds, constants=constants, opset=opset)


def test_without_thresholds(check: Check) -> None:
    constants = {"m": np.array([4])}
    check("y = NonMaxSuppression(b, s, m)", b="float[1, 9, 4]", s="float[1, 2, 9]", constants=constants, opset=11)
    check("y = NonMaxSuppression(b, s)", b="float[1, 9, 4]", s="float[1, 2, 9]", opset=11)


def test_a_chain_of_boxes_is_settled_from_the_best_down() -> None:
    # each box hides the next one only, so every other box stays, however long the chain
    start = torch.arange(40.0)
    boxes = torch.stack([torch.zeros(40), start, torch.ones(40), start + 1.6], 1).unsqueeze(0)
    scores = torch.arange(40.0, 0, -1).reshape(1, 1, 40)
    kept = non_max_suppression(boxes, scores, 40, 0.1)
    assert kept[:, 2].tolist() == list(range(0, 40, 2))


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [0, 1, 3])
@pytest.mark.parametrize(
    ("opset", "coordinates"),
    [
        (10, ""),
        (16, ', coordinate_transformation_mode="half_pixel"'),
        (16, ', coordinate_transformation_mode="output_half_pixel"'),
    ],
)
def test_regions(opset: int, coordinates: str, ratio: int, mode: str, check: Check) -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(-3, 8, (6, 2))
    rois = np.concatenate([corner, corner + rng.uniform(-0.5, 8, (6, 2))], 1).astype(np.float32)
    feeds = {"x": rng.standard_normal((2, 3, 7, 6)).astype(np.float32), "r": rois, "b": rng.integers(0, 2, 6)}
    options = f'mode="{mode}", output_height=3, output_width=2, sampling_ratio={ratio}, spatial_scale=0.7'
    check(
        f"y = RoiAlign{{{options}{coordinates}}}(x, r, b)",
        x="float[2, 3, 7, 6]",
        r="float[6, 4]",
        b="int64[6]",
        feeds=feeds,
        opset=opset,
    )


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [0, 1])
def test_no_regions(ratio: int, mode: str) -> None:
    none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
    y = roi_align(torch.randn(1, 2, 4, 4), *none, mode=mode, sampling_ratio=ratio)
    assert y.shape == (0, 2, 1, 1)


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_what_lies_outside_a_region_does_not_reach_it(mode: str) -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    far = x.clone()
    far[0, 0, 0, 0], far[0, 0, 3, 0] = float("inf"), float("nan")
    region = torch.tensor([[1.5, 0.5, 3.5, 2.5]]), torch.zeros(1, dtype=torch.long)
    options = {"mode": mode, "output_height": 2, "output_width": 2}
    assert torch.equal(roi_align(far, *region, **options), roi_align(x, *region, **options))  # type: ignore[arg-type]


def test_another_mode_is_an_error() -> None:
    shapes = {"x": "float[1, 1, 4, 4]", "r": "float[1, 4]", "b": "int64[1]"}
    module = to_fx(graph('y = RoiAlign{mode="median"}(x, r, b)', inputs=shapes, opset=16))
    feeds = {"x": np.zeros((1, 1, 4, 4), np.float32), "r": np.zeros((1, 4), np.float32), "b": np.zeros(1, np.int64)}
    with pytest.raises(ModelError, match="neither avg nor max"):
        Interpreter(module).run(feeds)
