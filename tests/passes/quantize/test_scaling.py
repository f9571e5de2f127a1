"""Scales of an activation's features: what takes them computes the same, what cannot take them says why."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.compare import TOLERANCE, compare
from tersor.ir.feeds import random_feeds
from tersor.ir.level import Level, violations
from tersor.ir.runner import runner
from tersor.ir.site import Kind, sites
from tersor.ir.text import graph, lines
from tersor.passes.base import Miss
from tersor.passes.quantize.scaling import Fan, Scalable, fans, makers, producer, rows

RNG = np.random.default_rng(3)
X, IMAGE, IDS = {"x": "float[batch, time, 32]"}, {"x": "float[batch, 8, time]"}, {"x": "int64[batch, time]"}


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


G, B, ONE = normal(32), normal(32), normal(1)
V, W, U = normal(32, 32), normal(32, 48), normal(32, 16)
ATTENTION = "Attention{q_num_heads=4, kv_num_heads=4}"

#: Models whose last sites, `w` and `u`, share an activation that can be scaled.
EXACT: dict[str, ir.Model] = {
    "layer normalization": graph(
        "h = LayerNormalization(x, g, b)", "y = MatMul(h, w)", "z = MatMul(h, u)", inputs=X, g=G, b=B, w=W, u=U
    ),
    "no bias": graph("h = LayerNormalization(x, g)", "y = MatMul(h, w)", inputs=X, g=G, w=W),
    "root mean square": graph(
        "h = RMSNormalization(x, g)", "y = MatMul(h, w)", "z = MatMul(h, u)", inputs=X, g=G, w=W, u=U
    ),
    "shared scale": graph(
        "n = RMSNormalization(x, g)", "h = RMSNormalization(n, g)", "y = MatMul(h, w)", inputs=X, g=G, w=W
    ),
    "scale that is its bias": graph("h = LayerNormalization(x, g, g)", "y = MatMul(h, w)", inputs=X, g=G, w=W),
    "linear": graph("h = MatMul(x, v)", "y = MatMul(h, w)", inputs=X, v=V, w=W),
    "linear, bias": graph("p = MatMul(x, v)", "h = Add(b, p)", "y = MatMul(h, w)", inputs=X, v=V, b=B, w=W),
    "one number as bias": graph("p = MatMul(x, v)", "h = Add(p, b)", "y = MatMul(h, w)", inputs=X, v=V, b=ONE, w=W),
    "shared bias": graph(
        "o = Add(x, b)", "p = MatMul(o, v)", "h = Add(p, b)", "y = MatMul(h, w)", inputs=X, v=V, b=B, w=W
    ),
    "turned": graph(
        "t = Transpose(v)", "p = MatMul(x, t)", "h = Relu(p)", "s = Transpose{perm=[1, 0]}(w)", "y = MatMul(h, s)",
        inputs=X, v=V, w=W.T.copy(),
    ),
    "gemm": graph(
        "h = Gemm{transB=1, alpha=0.5, beta=2.0}(x, v, b)", "y = Gemm{transB=1}(h, w)",
        inputs={"x": "float[batch, 32]"}, v=V, b=B, w=W.T.copy(),
    ),
    "left": graph(
        "p = MatMul(v, x)", "h = Add(p, b)", "y = MatMul(w, h)", inputs={"x": "float[32, batch]"}, v=V,
        b=B[:, None].copy(), w=W.T.copy(),
    ),
    "left, to a gemm": graph(
        "h = MatMul(v, x)", "y = Gemm{transA=1}(h, w)", inputs={"x": "float[32, batch]"}, v=V, w=W
    ),
    "pointwise": graph(
        "c = Conv(x, v, b)", "h = PRelu(c, [0.1])", "y = Conv(h, w)", inputs=IMAGE, v=normal(32, 8, 1), b=B,
        w=normal(16, 32, 1),
    ),
    "convolution": graph(
        "c = Conv{group=2}(x, v)", "d = Add(c, b)", "h = Relu(d)", "y = Conv(h, w)", inputs=IMAGE, v=normal(32, 4, 3),
        b=B[:, None].copy(), w=normal(16, 32, 1),
    ),
    "factors": graph("h = Mul(g, x)", "r = Relu(h)", "y = MatMul(r, w)", inputs=X, g=G, w=W),
    "factors of channels": graph(
        "h = Mul(x, g)", "y = Conv(h, w)", inputs={"x": "float[batch, 32, time]"}, g=G[:, None].copy(),
        w=normal(16, 32, 1),
    ),
    "gate": graph(
        "a = MatMul(x, v)", "s = Sigmoid(a)", "g = Mul(a, s)", "c = MatMul(x, q)", "h = Mul(g, c)", "y = MatMul(h, w)",
        inputs=X, v=V, q=V.T.copy(), w=W,
    ),
    "values of attention": graph(
        "q = MatMul(x, a)", "v = MatMul(x, c)", "e = Add(v, b)", f"h = {ATTENTION}(q, x, e)", "y = MatMul(h, w)",
        inputs=X, a=V, c=V.T.copy(), b=B, w=W,
    ),
    "table and recurrence": graph(
        "h = Gather(t, x)", "(y, s) = GRU{hidden_size=16, direction=bidirectional}(h, w, r)",
        inputs=IDS, t=normal(64, 32), w=normal(2, 48, 32), r=normal(2, 48, 16),
    ),
}  # fmt: skip


def last_fan(model: ir.Model) -> Fan:
    found = fans(site for site in sites(model) if site.kind in (Kind.LINEAR, Kind.RECURRENT_INPUT))[-1]
    # both directions of a recurrent weight lie in one tensor
    return Fan(found.activation, found.axis, tuple({site.weight: site for site in found.sites}.values()))


def scales(features: int) -> np.ndarray:
    return np.exp(np.random.default_rng(1).uniform(-3, 3, features))


def unchanged(model: ir.Model, before: ir.Model) -> bool:
    feeds = random_feeds(before, seed=2)
    return compare(runner(before), runner(model), [feeds]).within(TOLERANCE)


@pytest.mark.parametrize("name", EXACT)
def test_the_model_computes_the_same(name: str) -> None:
    model = EXACT[name].clone()
    fan = last_fan(model)
    by = scales(fan.sites[0].in_features)
    taken, undone = producer(fan, makers(model)), rows(fan)
    assert isinstance(taken, Scalable) and isinstance(undone, Scalable)
    text = lines(model)
    assert taken.divide(by)
    assert not unchanged(model, EXACT[name])
    assert undone.divide(by)
    assert unchanged(model, EXACT[name])
    assert violations(model, Level.SEMANTIC) == []
    assert name.startswith(("shared", "scale that")) or lines(model) == text


@pytest.mark.parametrize("name", EXACT)
def test_a_multiplication_in_front_does_as_well(name: str) -> None:
    model = EXACT[name].clone()
    fan = last_fan(model)
    by, undone = scales(fan.sites[0].in_features), rows(fan)
    assert isinstance(undone, Scalable)
    assert fan.plain and undone.divide(by)
    fan.divide(by)
    assert unchanged(model, EXACT[name])
    assert violations(model, Level.SEMANTIC) == []
    assert len(lines(model)) == len(lines(EXACT[name])) + 1


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        (graph("y = MatMul(x, w)", inputs=X, w=W), "producer"),
        (graph("h = Gelu(x)", "y = MatMul(h, w)", inputs=X, w=W), "producer"),
        (graph("p = MatMul(x, v)", "h = Gelu(p)", "y = MatMul(h, w)", inputs=X, v=V, w=W), "producer"),
        (graph("p = MatMul(x, v)", "h = Mul(p, p)", "y = MatMul(h, w)", inputs=X, v=V, w=W), "producer"),
        (graph("p = MatMul(x, v)", "h = Div(x, p)", "y = MatMul(h, w)", inputs=X, v=V, w=W), "producer"),
        (graph("p = MatMul(x, v)", "h = Add(p, x)", "y = MatMul(h, w)", inputs=X, v=V, w=W), "producer"),
        (
            graph(
                "h = LayerNormalization(x, g)", "p = MatMul(h, w)", "y = Add(p, h)", inputs=X, g=G, w=V,
            ),
            "readers",
        ),
        (
            graph("h = LayerNormalization(x, g)", "y = MatMul(h, w)", inputs=X, outputs=["y", "h"], g=G, w=W),
            "readers",
        ),
        (
            graph("h = LayerNormalization(x, g)", "y = MatMul(h, w)", inputs=X | {"g": "float[32]"}, w=W),
            "normalization",
        ),
        (
            graph(
                "h = LayerNormalization{axis=1}(x, g)", "y = MatMul(h, w)", inputs={"x": "float[2, 5, 32]"},
                g=normal(5, 32), w=W,
            ),
            "normalization",
        ),
        (
            graph(
                "h = RMSNormalization{axis=1}(x, g)", "y = Conv(h, w)", inputs={"x": "float[2, 32, 32]"}, g=G,
                w=normal(16, 32, 1),
            ),
            "normalization",
        ),
        (
            graph("o = MatMul(x, v)", "h = MatMul(o, v)", "y = MatMul(h, w)", inputs=X, v=V, w=W),
            "tied",
        ),
        (
            graph("c = Cast{to=1}(v)", "h = MatMul(x, c)", "y = MatMul(h, w)", inputs=X, v=V.astype(np.float16), w=W),
            "weight",
        ),
        (
            graph(
                "t = Transpose(v)", "z = Neg(t)", "h = MatMul(x, t)", "y = MatMul(h, w)", inputs=X, v=V, w=W,
            ),
            "tied",
        ),
        (
            graph(
                "h = Gemm(x, v, c)", "y = MatMul(h, w)", inputs={"x": "float[b, 32]", "c": "float[b, 32]"}, v=V, w=W
            ),
            "bias",
        ),
        (
            graph("h = MatMul(v, x)", "y = MatMul(h, w)", inputs={"x": "float[32, 32]"}, v=V, w=W),
            "features",
        ),
        (
            graph(
                "v = MatMul(x, c)", "h = Attention{q_num_heads=8, kv_num_heads=4}(x, v, v)", "y = MatMul(h, w)",
                inputs=X, c=U, w=W,
            ),
            "producer",
        ),
        (
            graph("v = MatMul(x, c)", f"h = {ATTENTION}(x, v, x)", "y = MatMul(h, w)", inputs=X, c=V, w=W),
            "producer",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_cannot_take_scales_says_why(model: ir.Model, rule: str) -> None:
    found = producer(last_fan(model), makers(model))
    assert isinstance(found, Miss)
    assert found.rule == rule


def test_scales_that_leave_the_range_of_the_weights_change_nothing() -> None:
    model = graph("h = RMSNormalization(x, g)", "y = MatMul(h, w)", inputs=X, g=G, w=W)
    taken = producer(last_fan(model), makers(model))
    assert isinstance(taken, Scalable)
    assert not taken.divide(np.full(32, 1e-39))
    np.testing.assert_array_equal(model.graph.initializers["g"].const_value.numpy(), G)


def test_who_reads_an_activation_twice_is_not_given_another() -> None:
    assert not last_fan(graph("y = Gemm(x, v, x)", inputs={"x": "float[32, 32]"}, v=V)).plain
