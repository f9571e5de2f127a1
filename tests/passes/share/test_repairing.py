"""Norms and biases fitted to what the original gives, feature by feature."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.block import blocks
from tersor.ir.constants import constant_of
from tersor.ir.feeds import random_feeds
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.clean.infer_shapes import InferShapes
from tersor.passes.share.repairing import kept, renormalized, repair
from tersor.passes.statistics import Calibration
from tersor.tests.passes.corpus_share import layer, layers

RNG = np.random.default_rng(0)
X = RNG.standard_normal((200, 5)) * np.linspace(0.5, 3, 5) + np.arange(5)
Y = 0.7 * X + RNG.standard_normal((200, 5)) - 2


def means(now: np.ndarray, then: np.ndarray) -> np.ndarray:
    return np.stack([each.mean(0) for each in (now, then, now * now, then * then)])


class TestRenormalized:
    def test_has_the_mean_and_the_deviation_of_the_original(self) -> None:
        scale, shift = renormalized(means(X, Y), shift=True)
        found = X * scale + shift
        assert found.mean(0) == pytest.approx(Y.mean(0))
        assert found.std(0) == pytest.approx(Y.std(0))

    def test_without_a_shift(self) -> None:
        scale, shift = renormalized(means(X, Y), shift=False)
        assert ((X * scale) ** 2).mean(0) == pytest.approx((Y**2).mean(0))
        assert not shift.any()

    def test_a_feature_that_stays_the_same_is_moved_alone(self) -> None:
        still = np.full((200, 1), 3.0)
        scale, shift = renormalized(means(still, Y[:, :1]), shift=True)
        assert scale.tolist() == [1.0]
        assert shift == pytest.approx(Y[:, 0].mean() - 3.0)

    def test_nothing_to_do_is_nothing_done(self) -> None:
        scale, shift = renormalized(means(X, X), shift=True)
        assert scale == pytest.approx(np.ones(5))
        assert shift == pytest.approx(np.zeros(5), abs=1e-9)


def store(model: ir.Model, name: str, array: np.ndarray) -> None:
    model.graph.initializers[name].const_value = ir.Tensor(array.astype(np.float32), name=name)


def fitted(model: ir.Model, original: ir.Model, *names: str) -> int:
    (block, _) = blocks(model)
    reads = [
        (node, at)
        for node in block.nodes
        for at, value in enumerate(node.inputs)
        if value is not None and value.name in names
    ]
    feeds = [random_feeds(original, {"batch": 4, "sequence": 25}, seed=seed) for seed in range(2)]
    return repair(model, original, Calibration(feeds), kept(block, reads))


@pytest.mark.parametrize("name", ["ub0", "db0"])
def test_a_bias_that_was_moved_comes_back(name: str) -> None:
    original, model = (layers(layer(), layer(1, noise=0.1)) for _ in range(2))
    own = constant_of(original.graph.initializers[name])
    assert own is not None
    store(model, name, own + RNG.standard_normal(own.shape))
    assert fitted(model, original, name) == 1
    assert constant_of(model.graph.initializers[name]) == pytest.approx(own, abs=1e-5)


def normed() -> ir.Model:
    """Two blocks that end in norms, one with a bias and one without."""
    lines, arrays, stream = list[str](), dict[str, np.ndarray](), "x"
    rng = np.random.default_rng(5)
    for at in range(2):
        lines += [f"h{at} = MatMul({stream}, w{at})", f"r{at} = Gelu(h{at})", f"a{at} = Add({stream}, r{at})"]
        lines += [f"n{at} = LayerNormalization{{axis=-1}}(a{at}, g{at}, b{at})", f"i{at} = MatMul(n{at}, v{at})"]
        lines += [f"c{at} = Add(n{at}, i{at})", f"m{at} = RMSNormalization{{axis=-1}}(c{at}, f{at})"]
        arrays |= {f"{name}{at}": rng.standard_normal((8, 8)).astype(np.float32) for name in "wv"}
        arrays |= {f"{name}{at}": rng.standard_normal(8).astype(np.float32) for name in "gbf"}
        stream = f"m{at}"
    model = graph(*lines, f"y = Neg({stream})", inputs={"x": "float[batch, sequence, 8]"}, **arrays)
    InferShapes().apply(model, Context())
    return model


@pytest.mark.parametrize("names", [("g0", "b0"), ("f0",)])
def test_a_norm_that_was_moved_comes_back(names: tuple[str, ...]) -> None:
    original, model = normed(), normed()
    for name in names:
        own = constant_of(original.graph.initializers[name])
        assert own is not None
        store(model, name, own * 1.7 + (0.3 if name == "b0" else 0.0))
    assert fitted(model, original, *names) == 1
    for name in names:
        assert constant_of(model.graph.initializers[name]) == pytest.approx(
            constant_of(original.graph.initializers[name]), rel=1e-4, abs=1e-4
        )


def test_too_few_tokens_change_nothing() -> None:
    original, model = normed(), normed()
    (block, _) = blocks(model)
    reads = [(node, 1) for node in block.nodes if node.op_type == "RMSNormalization"]
    few = Calibration([random_feeds(original, {"batch": 2, "sequence": 3})])
    assert repair(model, original, few, kept(block, reads)) == 0
