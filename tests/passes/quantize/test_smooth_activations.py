"""Smoothed activations: the same function, easier to round; where it is searched, and why it is left."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.compare import compare
from tersor.ir.errors import OptionError
from tersor.ir.level import Level, violations
from tersor.ir.runner import runner
from tersor.ir.text import graph, lines
from tersor.passes.base import Context, Outcome
from tersor.passes.edit import constant_of
from tersor.passes.quantize.methods.smooth import smooth
from tersor.passes.quantize.quantize_codebook import QuantizeCodebook
from tersor.passes.quantize.quantize_dynamic import QuantizeDynamic
from tersor.passes.quantize.smooth_activations import SmoothActivations
from tersor.passes.statistics import Calibration
from tersor.passes.verify import allowed
from tersor.tests.passes.quantize.test_scaling import EXACT
from tersor.tests.support import misses

RNG = np.random.default_rng(4)
X = {"x": "float[batch, 5, 32]"}


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


G = np.exp(np.random.default_rng(2).uniform(-3, 3, 32)).astype(np.float32)
W, U = normal(32, 48), normal(48, 32)
HELD = {"g": G, "b": normal(32), "w": W, "d": U} | {name: normal(32, 32) for name in "qkvo"}


def block() -> ir.Model:
    """A block before which a normalization stands, some of whose features are loud."""
    return graph(
        "n = LayerNormalization(x, g, b)", "a = MatMul(n, q)", "b1 = MatMul(n, k)", "c = MatMul(n, v)",
        "h = Attention{q_num_heads=4, kv_num_heads=4}(a, b1, c)", "p = MatMul(h, o)", "s = Add(p, x)",
        "m = RMSNormalization(s, g)", "u = MatMul(m, w)", "r = Gelu(u)", "y = MatMul(r, d)",
        inputs=X, **HELD,
    )  # fmt: skip


def batches(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((4, 5, 32)).astype(np.float32)} for _ in range(count)]


CONTEXT = Context(calibration=Calibration(batches(3)))


def verdicts(found: Outcome) -> list[str]:
    return ["" if finding.miss is None else finding.miss.rule for finding in found.findings]


@pytest.mark.parametrize("multiply", [False, True])
@pytest.mark.parametrize("alpha", [None, 0.5, 0.8])
def test_the_function_stays_the_same(alpha: float | None, multiply: bool) -> None:
    model, made = block(), SmoothActivations(alpha=alpha, multiply=multiply)
    outcome = made.apply(model, CONTEXT)
    assert outcome.matches >= 4
    assert compare(runner(block()), runner(model), batches(1, seed=8)).within(allowed(made.contract))
    assert violations(model, Level.SEMANTIC) == []
    assert multiply or lines(model)[0] == lines(block())[0]


def test_scales_are_those_of_the_paper() -> None:
    model = graph(
        "h = RMSNormalization(x, g)", "y = MatMul(h, w)", "z = MatMul(h, w2)", inputs=X, g=G, w=W, w2=W[:, ::2].copy()
    )
    side = graph("h = RMSNormalization(x, g)", inputs=X, g=G)
    reach = np.max([np.abs(runner(side)(batch)["h"]).max((0, 1)) for batch in batches(3)], axis=0)
    SmoothActivations(alpha=0.3).apply(model, CONTEXT)
    scales = smooth([W], reach, alpha=0.3)
    for name, wanted in (("g", G / scales), ("w", W * scales[:, None]), ("w2", W[:, ::2] * scales[:, None])):
        # scales, and what they are applied to, are rounded once each
        found = constant_of(model.graph.initializers[name])
        np.testing.assert_allclose(found, wanted, rtol=2 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("alpha", [None, 0.5, 0.8])
def test_what_is_smooth_is_left_alone(alpha: float | None) -> None:
    model, made = block(), SmoothActivations(alpha=alpha, multiply=True)
    made.apply(model, CONTEXT)
    before = {name: constant_of(value).copy() for name, value in model.graph.initializers.items()}
    assert set(verdicts(made.apply(model, CONTEXT))) == {"smooth"}
    for name, array in before.items():
        np.testing.assert_array_equal(constant_of(model.graph.initializers[name]), array)


@pytest.mark.parametrize("alpha", [None, 0.5])
def test_int8_loses_less_afterwards(alpha: float | None) -> None:
    losses = {}
    for smoothed in (False, True):
        model = block()
        if smoothed:
            SmoothActivations(alpha=alpha, multiply=True).apply(model, CONTEXT)
        QuantizeDynamic(smallest=1).apply(model, Context())
        losses[smoothed] = compare(runner(block()), runner(model), batches(2, seed=8)).relative_l2
    assert losses[True] < 0.9 * losses[False]


def test_explaining_needs_no_data_and_applying_does() -> None:
    model = block()
    outcome = SmoothActivations().explain(model, Context())
    assert verdicts(outcome) == ["", "", "", "", "", "producer"]
    with pytest.raises(OptionError, match="calibration data are needed"):
        SmoothActivations().apply(model, Context())


@pytest.mark.parametrize(
    ("model", "options", "rule"),
    [
        (EXACT["layer normalization"], {"only": ("other",)}, "only"),
        (graph("h = RMSNormalization(x, g)", "y = MatMul(h, w)", inputs=X, g=G, w=W), {"ignore": ("w",)}, "ignore"),
        (graph("y = MatMul(x, w)", inputs=X, w=W), {}, "producer"),
        (graph("h = RMSNormalization(x, g)", "y = MatMul(h, w)", "z = Neg(h)", inputs=X, g=G, w=W), {}, "readers"),
        (graph("y = Gemm(x, v, x)", inputs={"x": "float[32, 32]"}, v=normal(32, 32)), {"multiply": True}, "readers"),
        (
            graph(
                "h = RMSNormalization(x, g)", "y = MatMul(h, w)", inputs={"x": "float16[batch, 32]"},
                g=G.astype(np.float16), w=W.astype(np.float16),
            ),
            {}, "dtype",
        ),
        (
            graph("h = RMSNormalization(x, g)", "y = MatMul(h, w)", "z = MatMul(h, w)", inputs=X, g=G, w=W),
            {}, "tied",
        ),
        (
            graph(
                "h = RMSNormalization(x, g)", "t = Reshape(w, [32, 48])", "y = MatMul(h, t)", inputs=X, g=G,
                w=normal(32, 4, 12),
            ),
            {}, "weight",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_left_alone(model: ir.Model, options: dict[str, object], rule: str) -> None:
    assert rule in {miss.rule for miss in misses(SmoothActivations(**options), model)}


def test_a_site_that_is_left_out_keeps_its_neighbours_as_they_are() -> None:
    found = verdicts(SmoothActivations(ignore=("k",)).explain(block(), Context()))
    assert found == ["readers", "ignore", "readers", "", "", "producer"]


def test_quantized_weights_are_left_alone() -> None:
    model = block()
    QuantizeDynamic(smallest=1).apply(model, Context())
    assert {miss.rule for miss in misses(SmoothActivations(multiply=True), model)} == {"quantized"}


def test_weights_that_nodes_compute_are_told_of() -> None:
    model = block()
    QuantizeCodebook(smallest=1).apply(model, Context())
    assert {miss.rule for miss in misses(SmoothActivations(multiply=True), model)} == {"quantized"}


@pytest.mark.parametrize("options", [{"alpha": -0.1}, {"alpha": 1.5}, {"bits": 1}, {"weight_bits": 9}])
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(OptionError, match="smooth-activations: expected"):
        SmoothActivations(**options)
