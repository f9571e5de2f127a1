"""Spellings that are older than the standard, and small arithmetic, held to ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from tersor.ir.text import lines
from tersor.passes.raising.contrib.raise_contrib import RaiseContrib
from tersor.tests.passes.raising.contrib.cases import Arrays, X, agrees, model, normal
from tersor.tests.support import apply, misses

I64 = np.int64
GRID = {"x": normal(1, 2, 4, 5), "g": np.clip(normal(1, 3, 3, 2, seed=1), -1.2, 1.2)}
PADS = np.array([0, 1, 2, 0, 0, 3], I64)
IMAGE, KERNEL = {"x": normal(1, 2, 4, 4)}, normal(2, 3, 3, 3)
CASES = [
    ("y = Trilu(a, k)", {"a": normal(2, 4, 5)}, {"k": np.array(1, I64)}),
    ("y = Trilu{upper=0}(a)", {"a": normal(4, 5)}, {}),
    ("y = ExpandDims(x, k)", X, {"k": np.array(1, np.int32)}),
    ("y = ExpandDims(x, k)", X, {"k": np.array([-1], np.int32)}),
    ("y = GatherND(x, i)", X | {"i": np.array([[0, 2], [1, 1]], np.int32)}, {}),
    ("y = GatherND(x, i)", X | {"i": np.array([[[1]], [[0]]], I64)}, {}),
    ("y = GridSample(x, g)", GRID, {}),
    ("y = GridSample{mode='bicubic', align_corners=1, padding_mode='border'}(x, g)", GRID, {}),
    ("y = GridSample{mode='nearest', padding_mode='reflection'}(x, g)", GRID, {}),
    ("y = Pad(x, p)", X, {"p": PADS}),
    ("y = Pad(x, p, v)", X, {"p": PADS.reshape(1, 6), "v": np.array([2.5], np.float32)}),
    ("y = Pad{mode='edge'}(x, p)", X | {"p": PADS}, {}),
    ("y = Pad{mode='reflect'}(x, p)", X, {"p": np.array([0, 1, 2, 0, 0, 3], I64)}),
    ("y = Range(a, b)", {"a": np.array(2, I64), "b": np.array(7, I64)}, {}),
    ("y = Range(a, b, d)", {"a": np.array([2.0], np.float32), "b": np.array([0.5], np.float32)},
     {"d": np.array([-0.5], np.float32)}),
    ("(y, i, n) = Unique(v)", {"v": np.array([2, 1, 1, 3, 4, 3], np.float32)}, {}),
    ("y = CDist(a, b)", {"a": normal(5, 3), "b": normal(4, 3, seed=1)}, {}),
    ("y = CDist{metric='euclidean'}(a, b)", {"a": normal(5, 3), "b": normal(4, 3, seed=1)}, {}),
    ("y = ConvTransposeWithDynamicPads{strides=[2, 2], output_padding=[1, 1]}(x, w, p, b)", IMAGE,
     {"w": KERNEL, "p": np.array([1, 0, 1, 1], I64), "b": normal(3)}),
    ("y = ScaledSiLU(x)", X, {}),
    ("y = ScaledSiLU{alpha=0.5}(x)", X, {}),
    ("y = ScaledSiLU{alpha=0.5}(x, s)", X, {"s": np.array(1.5, np.float32)}),
    ("y = GatedAdd(x, z, g)", X | {"z": normal(2, 3, 8, seed=3), "g": normal(2, 3, 1)}, {}),
    ("y = GatedRMSNorm(x, w, g)", X | {"g": normal(2, 3, 8, seed=3)}, {"w": normal(8)}),
    ("y = GatedRMSNorm{activation='sigmoid', epsilon=0.1}(x, w, g)", X | {"g": normal(2, 3, 8, seed=3)},
     {"w": normal(4)}),
]  # fmt: skip

#: ONNX Runtime has no CPU kernel for these; they are held to the reference.
BY_REFERENCE = [
    ("y = TorchEmbedding(t, i)", {"t": normal(5, 3), "i": np.array([[4, 0], [1, 1]], I64)}, {}),
    ("y = TorchEmbedding(t, i, p)", {"t": normal(5, 3), "i": np.array([[4, 0], [1, 1]], I64)}, {"p": np.array(1, I64)}),
    ("y = ComplexMul(a, b)", {"a": normal(3, 2), "b": normal(3, 2, seed=1)}, {}),
    ("y = ComplexMulConj(a, b)", {"a": normal(3, 2), "b": normal(3, 2, seed=1)}, {}),
    ("y = SkipGroupNorm{groups=2, activation=1}(x, w, c, s)",
     {"x": normal(2, 3, 3, 4), "s": normal(2, 3, 3, 4, seed=1)}, {"w": normal(4), "c": normal(4, seed=2)}),
    ("(y, t) = SkipGroupNorm{groups=2, activation=0}(x, w, c, s, b)", {"x": normal(2, 3, 3, 4), "s": normal(2, 4)},
     {"w": normal(4), "c": normal(4, seed=2), "b": normal(4, seed=3)}),
    ("(y, t) = SkipGroupNorm{groups=2, activation=0, channels_last=0}(x, w, c, s, b)",
     {"x": normal(2, 4, 3, 3), "s": normal(2, 4)}, {"w": normal(4), "c": normal(4, seed=2), "b": normal(4, seed=3)}),
    ("y = SkipGroupNorm{groups=2, activation=0, channels_last=0}(x, w, c, s, b)",
     {"x": normal(2, 4, 3, 3), "s": normal(2, 4, 3, 3)},
     {"w": normal(4), "c": normal(4, seed=2), "b": normal(4, seed=3)}),
]  # fmt: skip


def _names(cases: list[tuple[str, Arrays, Arrays]]) -> list[str]:
    return [f"{index}-{line}" for index, (line, *_) in enumerate(cases)]


@pytest.mark.parametrize(("line", "feeds", "constants"), CASES, ids=_names(CASES))
def test_as_onnxruntime_runs_it(line: str, feeds: Arrays, constants: Arrays) -> None:
    agrees(line, feeds, constants)


@pytest.mark.parametrize(("line", "feeds", "constants"), BY_REFERENCE, ids=_names(BY_REFERENCE))
def test_as_the_reference_has_it(line: str, feeds: Arrays, constants: Arrays) -> None:
    agrees(line, feeds, constants, kernel=False)


def test_an_axis_that_is_data() -> None:
    agrees("y = ExpandDims(x, k)", X | {"k": np.array(2, np.int32)}, kernel=False)


REFUSED = [
    ("mode", "y = GridSample{mode='quintic'}(x, g)", GRID, {}),
    ("mode", "y = Pad{mode='wrap'}(x, p)", X, {"p": PADS}),
    ("metric", "y = CDist{metric='cosine'}(a, b)", {"a": normal(5, 3), "b": normal(4, 3)}, {}),
    ("pads", "y = ConvTransposeWithDynamicPads(x, w, p)", IMAGE | {"p": np.zeros(4, I64)}, {"w": KERNEL}),
    ("pairs", "y = ComplexMul(a, b)", {"a": normal(3, 4), "b": normal(3, 4)}, {}),
    ("activation", "y = GatedRMSNorm{activation='tanh'}(x, w, g)", X | {"g": normal(2, 3, 8)}, {"w": normal(8)}),
    ("scale", "y = GatedRMSNorm(x, w, g)", X | {"g": normal(2, 3, 8)}, {"w": normal(3)}),
    ("skip", "y = SkipGroupNorm{groups=2, activation=0}(x, w, c, s)", {"x": normal(2, 3, 3, 4), "s": normal(3, 3, 4)},
     {"w": normal(4), "c": normal(4)}),
    ("inputs", "y = GatedAdd(x)", X, {}),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "line", "feeds", "constants"), REFUSED, ids=[f"{c[0]}-{c[1]}" for c in REFUSED])
def test_leaves_alone(rule: str, line: str, feeds: Arrays, constants: Arrays) -> None:
    made = model(line, feeds, constants)
    (miss,) = misses(RaiseContrib(), made)
    assert miss.rule == rule, miss
    before = lines(made)
    assert apply(RaiseContrib(), made) == before
