"""Repair: what is fitted to what, against least squares written out, and how it is written back."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.constants import constant_of
from tersor.ir.feeds import random_feeds
from tersor.ir.site import Site, sites
from tersor.ir.text import graph
from tersor.passes.fitting import RIDGE, RIDGES, Fit, error, fit, refit, repairable, scarce, write
from tersor.passes.moments import Moments, Target, biased, key_of, moments, target_of
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


def rows_of(x: np.ndarray, y: np.ndarray, halves: tuple[Moments, ...] = ()) -> Moments:
    """The moments of rows x, [tokens, in], that should give y, [tokens, out]."""
    return Moments(x.T @ x, x.T @ y, (y**2).sum(0), x.mean(0), y.mean(0), len(x), halves)


def halved(x: np.ndarray, y: np.ndarray) -> Moments:
    return rows_of(x, y, (rows_of(x[::2], y[::2]), rows_of(x[1::2], y[1::2])))


def samples(count: int, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, what a layer should give for them, and its weight; its bias is one."""
    rng = np.random.default_rng(31)
    true, x = rng.standard_normal((24, 6)), rng.standard_normal((count, 24)) + 0.5
    return x, x @ true + 1 + noise * rng.standard_normal((count, 6)), true


@pytest.mark.parametrize("biased", [False, True])
def test_the_fit_is_least_squares(biased: bool) -> None:
    x, y, true = samples(400, 0.5)
    rows = np.array([0, 2, 3, 5])
    toward = true + 0.1
    found = fit(rows_of(x, y), rows, toward, bias=np.zeros(6) if biased else None)
    now = x[:, rows]
    centred = now - now.mean(0) if biased else now
    goal = y - y.mean(0) if biased else y
    gram = centred.T @ centred
    ridge = RIDGE * np.diagonal(gram).mean() * np.eye(4)
    best = toward[rows] + np.linalg.solve(gram + ridge, centred.T @ goal - gram @ toward[rows])
    np.testing.assert_allclose(found.weight, best)
    assert found.ridge == RIDGE
    if biased:
        np.testing.assert_allclose(found.bias, y.mean(0) - now.mean(0) @ best)  # type: ignore[arg-type]
    else:
        assert found.bias is None


@pytest.mark.parametrize("biased", [True, False])
def test_the_error_is_that_of_the_rows(biased: bool) -> None:
    x, y, true = samples(50, 1.0)
    found = Fit(np.roll(true, 1), np.arange(6.0) if biased else None, None)
    lost = y - x @ found.weight - (0 if found.bias is None else found.bias)
    assert error(rows_of(x, y), found) == pytest.approx((lost**2).sum())


def test_little_ridge_where_rows_tell_much() -> None:
    x, y, true = samples(4000, 0.01)
    found = fit(halved(x, y), np.arange(24), 0 * true, bias=np.zeros(6))
    assert found.ridge == RIDGES[0]
    np.testing.assert_allclose(found.weight, true, atol=0.01)
    np.testing.assert_allclose(found.bias, 1, atol=0.05)  # type: ignore[arg-type]


def test_much_where_they_are_few_and_noisy() -> None:
    x, y, true = samples(60, 4.0)
    toward = true + 0.5 * np.random.default_rng(1).standard_normal(true.shape)
    found = fit(halved(x, y), np.arange(24), toward, bias=np.ones(6))
    assert found.ridge in RIDGES[-2:]


def test_what_fits_already_stays() -> None:
    x, y, true = samples(40, 10.0)
    found = fit(halved(x, y), np.arange(24), true, bias=np.ones(6))
    assert found.ridge is None
    np.testing.assert_array_equal(found.weight, true)


def test_one_batch_has_the_ridge_that_its_tokens_ask_for() -> None:
    x, y, true = samples(40, 1.0)
    found = fit(rows_of(x, y), np.arange(24), true, bias=None)
    assert found.ridge == pytest.approx(RIDGE * (8 * 24 / 40) ** 2)
    assert scarce(rows_of(x, y)) == "40 tokens for 24 inputs"
    assert scarce(rows_of(*samples(400, 1.0)[:2])) == ""


def test_every_other_batch_is_a_half() -> None:
    original, model = layer(), layer()
    calibration = data(model)
    whole = moments(original, model, calibration, [only(model)])[key_of(only(model))]
    for half, batches in zip(whole.halves, (calibration.batches[::2], calibration.batches[1::2]), strict=True):
        alone = moments(original, model, Calibration(batches[:1]), [only(model)])[key_of(only(model))]
        other = moments(original, model, Calibration(batches[1:]), [only(model)])[key_of(only(model))]
        np.testing.assert_allclose(half.gram, alone.gram + other.gram, rtol=1e-6)
        np.testing.assert_allclose(half.outputs, (alone.outputs + other.outputs) / 2, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(whole.joint, sum(half.joint for half in whole.halves), rtol=1e-12)
    np.testing.assert_allclose(whole.inputs, sum(half.inputs for half in whole.halves) / 2, rtol=1e-12)
    assert (
        moments(original, model, Calibration(calibration.batches[:1]), [only(model)])[key_of(only(model))].halves == ()
    )


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
    write(only(model), Fit(new, bias, None))
    site = only(model)
    np.testing.assert_allclose(site.dense(), new, rtol=1e-6)
    np.testing.assert_allclose(site.bias_array(), bias, rtol=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("y = Conv(x, w, b)", (5, 6, 3)),
        ("y = Conv{pads=[2, 1], strides=[2]}(x, w, b)", (5, 6, 3)),
        ("y = Conv(x, w, b)", (5, 6, 1)),
        ("y = Conv{strides=[2]}(x, w, b)", (5, 6, 1)),
        ("y = Conv{pads=[1, 1]}(x, w, b)", (5, 6, 1)),
    ],
)
def test_a_convolution_that_lost_nothing_stays_what_it_is(text: str, shape: tuple[int, ...]) -> None:
    model = graph(text, inputs={"x": "float[batch, 6, n]"}, w=weight(*shape), b=weight(5))
    before = model.clone()
    calibration = Calibration([random_feeds(model, {"batch": 8, "n": 30}, seed=seed) for seed in range(4)])
    assert refit(model, before, calibration, only(model))
    np.testing.assert_allclose(only(model).dense(), only(before).dense(), atol=1e-5)
    np.testing.assert_allclose(only(model).bias_array(), only(before).bias_array(), atol=1e-5)  # type: ignore[arg-type]


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
    turned = graph("t = Transpose{perm=[1, 0, 2]}(w)", "y = Conv(x, t)", inputs=channels, w=weight(6, 5, 3))
    assert repairable(only(turned)) == "a weight that is computed"
    recurrence = graph(
        "t = Transpose{perm=[0, 2, 1]}(w)", "a, h = GRU{hidden_size=4}(x, t, r)", "y = Identity(h)",
        inputs={"x": "float[time, batch, 6]"}, outputs=["y"], w=weight(1, 6, 12), r=weight(1, 12, 4),
    )  # fmt: skip
    assert repairable(sites(recurrence)[0]) == "a weight that is computed"
    assert repairable(only(held_by_a_node(layer(), "w"))) == "a weight that is no initializer; run fold-constants first"
    assert repairable(only(layer())) is None


def held_by_a_node(model: ir.Model, name: str) -> ir.Model:
    """The model with a Constant node in an initializer's place."""
    value = model.graph.initializers[name]
    node = ir.node("Constant", [], {"value": value.const_value})
    value.replace_all_uses_with(node.outputs[0])
    del model.graph.initializers[name]
    node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type = name, value.shape, value.type
    model.graph.insert_before(next(iter(model.graph)), node)
    return model


@pytest.mark.parametrize("kind", ["held by a node", "behind a node"])
def test_a_bias_that_is_not_written_is_not_fitted(kind: str) -> None:
    """It stays where it is, and what it adds is no part of what the weight is fitted to."""
    if kind == "held by a node":
        original = held_by_a_node(layer(), "b")
    else:
        original = graph(
            "h = Relu(x)", "o = MatMul(h, w)", "c = Cast{to=1}(b)", "p = Add(o, c)", "s = Add(x, p)", "y = Tanh(s)",
            inputs=X, w=weight(6, 6), b=weight(6).astype(np.float16),
        )  # fmt: skip
    model = original.clone()
    assert not biased(only(model))
    value = model.graph.initializers["w"]
    wanted = np.asarray(constant_of(value))
    value.const_value = ir.tensor(0.5 * wanted, name="w")
    assert refit(model, original, data(model), only(model))
    np.testing.assert_allclose(np.asarray(constant_of(model.graph.initializers["w"])), wanted, rtol=5e-3, atol=5e-3)
