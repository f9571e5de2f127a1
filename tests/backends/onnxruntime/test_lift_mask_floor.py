"""Masks of the lowest float, and ONNX Runtime's Attention."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.backends.onnxruntime.rules.lift_mask_floor import LiftMaskFloor
from tersor.ir.runner import runner
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.tests.support import apply, distance, holds, misses, on_onnxruntime

LOWEST = float(np.finfo(np.float32).min)
SIZES = dict.fromkeys("qkv", "float[batch, 2, 3, 4]") | {"c": "bool[batch, 1, 3, 3]", "b": "float[batch, 1, 3, 3]"}
SIZES["d"] = "bool[1, 3]"
ATTEND = "y = Attention(q, k, v, m)"


def model(*text: str, outputs: list[str] | None = None) -> ir.Model:
    read = " ".join(text).replace("(", " ").replace(",", " ").replace(")", " ").split()
    return graph(*text, inputs={name: kind for name, kind in SIZES.items() if name in read}, outputs=outputs)


@pytest.mark.parametrize("where", [f"Where(c, 0.0, {LOWEST!r})", f"Where(c, {LOWEST!r}, 0.0)", "Where(c, 0.0, -1e38)"])
def test_the_floor_is_lifted(where: str) -> None:
    made = model(f"m = {where}", ATTEND)
    LiftMaskFloor().apply(made, Context())
    values = [
        value.const_value.numpy().item()
        for node in made.graph
        if node.op_type == "Where"
        for value in node.inputs
        if value is not None and value.const_value is not None
    ]
    assert min(values) == np.float32(-1e30)


def test_behind_a_bias_and_for_several_readers() -> None:
    wide = ("e = Expand(w, [1, 2, 1, 1])", "z = Attention(q, k, v, e)")
    made = model(f"w = Where(c, 0.0, {LOWEST!r})", "m = Add(w, b)", ATTEND, *wide)
    assert apply(LiftMaskFloor(), made)[0] == "w = Where(c, const_0, w/floor)"
    assert [miss.rule for miss in misses(LiftMaskFloor(), made)] == ["floor"]


def test_a_fill_over_another_is_lifted_with_it() -> None:
    made = model(f"f = Where(c, b, {LOWEST!r})", f"m = Where(d, f, {LOWEST!r})", ATTEND)
    assert apply(LiftMaskFloor(), made) == [
        "f = Where(c, b, f/floor)",
        "m = Where(d, f, m/floor)",
        "y = Attention(q, k, v, m)",
    ]


@pytest.mark.parametrize(
    ("rule", "made"),
    [
        ("floor", model("m = Where(c, 0.0, -10000.0)", ATTEND)),
        ("floor", model("m = Where(c, 0.0, -inf)", ATTEND)),
        ("floor", model("m = Where(c, 0.0, b)", ATTEND)),
        ("floor", model(f"m = Where(c, {LOWEST!r}, {LOWEST!r})", ATTEND)),
        ("dtype", model("m = Where(c, 0, -4)", "y = Add(m, 1)")),
        ("floors", model("f = Where(c, b, -1e30)", f"m = Where(d, f, {LOWEST!r})", ATTEND)),
        ("floors", model("f = Where(c, b, -1e30)", f"g = Where(d, 0.0, {LOWEST!r})", "m = Add(f, g)", ATTEND)),
        ("readers", model(f"m = Where(c, 0.0, {LOWEST!r})", ATTEND, outputs=["y", "m"])),
        ("readers", model(f"m = Where(c, 0.0, {LOWEST!r})", ATTEND, "z = Relu(m)")),
        ("readers", model(f"m = Where(c, 0.0, {LOWEST!r})", "y = Softmax(m)")),
        ("readers", model(f"m = Where(c, 0.0, {LOWEST!r})", "y = Attention(q, k, m)")),
        ("readers", model(f"m = Where(c, 0.0, {LOWEST!r})", "n = Mul(m, b)", "y = Attention(q, k, v, n)")),
    ],
)
def test_leaves_alone(rule: str, made: ir.Model) -> None:
    assert misses(LiftMaskFloor(), made)[-1].rule == rule
    before = lines(made)
    assert apply(LiftMaskFloor(), made) == before


def test_holds() -> None:
    holds(LiftMaskFloor(), model(f"m = Where(c, 0.0, {LOWEST!r})", ATTEND), {"batch": 2})


def test_a_row_whose_keys_are_all_masked_is_their_mean_on_onnx_runtime_too() -> None:
    made = model(f"m = Where(c, 0.0, {LOWEST!r})", ATTEND)
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal((1, 2, 3, 4)).astype(np.float32) for name in "qkv"}
    feeds["c"] = np.array([[[[True, True, False], [False, False, False], [True, True, True]]]])
    expected = runner(made)(feeds)["y"]
    np.testing.assert_allclose(expected[:, :, 1], feeds["v"].mean(axis=2), rtol=1e-5)
    LiftMaskFloor().apply(made, Context())
    assert distance(on_onnxruntime(made, feeds), [expected]) <= LiftMaskFloor.contract.tolerance
