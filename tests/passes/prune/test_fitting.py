"""Repair: what is fitted to what, against least squares written out, and how it is written back."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.constants import constant_of
from tersor.ir.feeds import random_feeds
from tersor.ir.site import Site, sites
from tersor.ir.text import graph
from tersor.passes.prune.fitting import RIDGE, Target, fit, key_of, moments, refit, repairable, target_of, write
from tersor.passes.statistics import Calibration

RNG = np.random.default_rng(23)
X = {"x": "float[batch, sequence, 6]"}
SIZES = {"batch": 8, "sequence": 30}


def weight(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def layer(*, bias: bool = True, added: bool = True) -> ir.Model:
    text = ["h = Relu(x)", "o = MatMul(h, w)", *(["p = Add(o, b)"] if bias else [])]
    ends = "p" if bias else "o"
    text += [f"s = Add(x, {ends})"] if added else []
    return graph(
        *text, f"y = Tanh({'s' if added else ends})", inputs=X, w=weight(6, 6), **({"b": weight(6)} if bias else {})
    )


def data(model: ir.Model) -> Calibration:
    return Calibration([random_feeds(model, SIZES, seed=seed) for seed in range(4)])


def only(model: ir.Model) -> Site:
    (site,) = sites(model)
    return site


def test_targets() -> None:
    assert target_of(only(layer())) == Target("s", "x")
    assert target_of(only(layer(added=False))) == Target("p", None)
    assert target_of(only(layer(bias=False))) == Target("s", "x")
    # a constant that is added is no residual
    model = graph("o = MatMul(x, w)", "s = Add(o, c)", "y = Tanh(s)", inputs=X, w=weight(6, 6), c=weight(30, 6))
    assert target_of(only(model)).residual is None


def test_the_target_is_the_original_stream_less_what_it_is_added_to_now() -> None:
    original, model = layer(), layer()
    calibration = data(model)
    seen = moments(original, model, calibration, [only(model)])[key_of(only(model))]
    weights = {name: np.asarray(constant_of(value), np.float64) for name, value in original.graph.initializers.items()}
    x = np.concatenate([feeds["x"].reshape(-1, 6) for feeds in calibration.batches]).astype(np.float64)
    now, wanted = np.maximum(x, 0), x + np.maximum(x, 0) @ weights["w"] + weights["b"] - x
    np.testing.assert_allclose(seen.gram, now.T @ now, rtol=1e-4)
    np.testing.assert_allclose(seen.joint, now.T @ wanted, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(seen.inputs, now.mean(0), rtol=1e-5)
    np.testing.assert_allclose(seen.outputs, wanted.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(seen.energy, (wanted**2).sum(0), rtol=1e-4)
    assert seen.count == len(x)


@pytest.mark.parametrize("biased", [False, True])
def test_the_fit_is_least_squares(biased: bool) -> None:
    original, model = layer(), layer()
    calibration, rows = data(model), np.array([0, 2, 3, 5])
    site = only(model)
    seen = moments(original, model, calibration, [site])[key_of(site)]
    found, bias = fit(seen, rows, site.dense(), biased=biased)
    weights = {name: np.asarray(constant_of(value), np.float64) for name, value in original.graph.initializers.items()}
    x = np.concatenate([feeds["x"].reshape(-1, 6) for feeds in calibration.batches]).astype(np.float64)
    now, wanted = np.maximum(x, 0)[:, rows], np.maximum(x, 0) @ weights["w"] + weights["b"]
    centred = now - now.mean(0) if biased else now
    gram = centred.T @ centred
    ridge = RIDGE * np.diagonal(gram).mean() * np.eye(4)
    toward = site.dense()[rows]
    goal = wanted - wanted.mean(0) if biased else wanted
    best = toward + np.linalg.solve(gram + ridge, centred.T @ goal - gram @ toward)
    np.testing.assert_allclose(found, best, rtol=1e-3, atol=1e-3)
    if biased:
        np.testing.assert_allclose(bias, wanted.mean(0) - now.mean(0) @ best, rtol=1e-3, atol=1e-3)
    else:
        assert bias is None


@pytest.mark.parametrize("added", [False, True])
def test_a_refit_brings_the_original_back(added: bool) -> None:
    original = layer(added=added)
    model = original.clone()
    for name in "wb":
        value = model.graph.initializers[name]
        value.const_value = ir.tensor(0.5 * np.asarray(constant_of(value)), name=name)
    calibration = data(model)
    assert refit(model, original, calibration, only(model))
    for name in "wb":
        found, wanted = (constant_of(each.graph.initializers[name]) for each in (model, original))
        np.testing.assert_allclose(found, wanted, rtol=5e-3, atol=5e-3)  # type: ignore[arg-type]


def test_a_weight_that_others_read_is_not_refitted() -> None:
    model = graph("o = MatMul(x, w)", "p = Relu(o)", "y = MatMul(p, w)", inputs=X, w=weight(6, 6))
    first = sites(model)[0]
    assert not refit(model, model.clone(), data(model), first)


SPELLINGS = [
    (
        "Gemm",
        ("f = Reshape(x, [-1, 6])", "y = Gemm{transB=1, alpha=0.5, beta=2.0}(f, w, b)"),
        {"w": weight(4, 6), "b": weight(4)},
    ),
    ("MatMul", ("o = MatMul(x, w)", "y = Add(o, b)"), {"w": weight(6, 4), "b": weight(4)}),
    ("one number for all", ("o = MatMul(x, w)", "y = Add(o, b)"), {"w": weight(6, 4), "b": weight(1)}),
    (
        "Transpose",
        ("t = Transpose{perm=[1, 0]}(w)", "o = MatMul(x, t)", "y = Add(b, o)"),
        {"w": weight(4, 6), "b": weight(1, 4)},
    ),
]


@pytest.mark.parametrize(("text", "weights"), [case[1:] for case in SPELLINGS], ids=[case[0] for case in SPELLINGS])
def test_what_is_written_is_what_is_read(text: tuple[str, ...], weights: dict[str, np.ndarray]) -> None:
    model = graph(*text, inputs=X, **weights)
    new, bias = RNG.standard_normal((6, 4)), RNG.standard_normal(4)
    write(only(model), new, bias)
    site = only(model)
    np.testing.assert_allclose(site.dense(), new, rtol=1e-6)
    np.testing.assert_allclose(site.bias_array(), bias, rtol=1e-6)  # type: ignore[arg-type]


def test_what_cannot_be_fitted_says_why() -> None:
    computed = graph(
        "d = DequantizeLinear(w, s)", "y = MatMul(x, d)", inputs=X, w=np.ones((6, 6), np.int8), s=np.float32(0.1)
    )
    assert repairable(only(computed)) == "a weight that is computed"
    channels = {"x": "float[batch, 6, n]"}
    grouped = graph("y = Conv{group=2}(x, w)", inputs=channels, w=weight(4, 3, 3))
    assert repairable(only(grouped)) == "a convolution in groups"
    assert (
        repairable(only(graph("y = ConvTranspose(x, w)", inputs=channels, w=weight(6, 3, 3)))) == "a site of kind conv"
    )
    assert repairable(only(layer())) is None
