"""merge-neurons: neurons that compute alike become one."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.compare import compare
from tersor.ir.errors import OptionError
from tersor.ir.feeds import random_feeds
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.prune.merge_neurons import MergeNeurons
from tersor.tests.passes.corpus_attention import X, normal
from tersor.tests.passes.corpus_prune import doubled_neurons
from tersor.tests.support import ROUNDED, apply, misses

#: What duplicates may cost, wherever arithmetic is only reordered.
EXACT = ROUNDED[np.float32]


def shape(model: ir.Model, name: str) -> list[int]:
    found = model.graph.initializers[name].shape
    assert found is not None
    return [int(size) for size in found.numpy()]


def doubled(array: np.ndarray, axis: int, count: int = 16) -> np.ndarray:
    """With the first units once more at the end."""
    return np.concatenate([array, np.take(array, range(count), axis)], axis)


def layer(activation: str, w: np.ndarray, b: np.ndarray, **more: np.ndarray) -> ir.Model:
    return graph(
        "p = MatMul(x, w)", "h = Add(p, b)", f"g = {activation}(h)", "y = MatMul(g, v)",
        inputs=X, w=w, b=b, v=normal(64, 32), **more,
    )  # fmt: skip


def gated() -> ir.Model:
    return graph(
        "p = MatMul(x, w)", "u = MatMul(x, t)", "s = Sigmoid(p)", "g = Mul(s, u)", "y = MatMul(g, v)",
        inputs=X, w=doubled(normal(32, 48), 1), t=doubled(normal(33, 48)[1:], 1), v=normal(64, 32),
    )  # fmt: skip


def packed() -> ir.Model:
    """Gate and up projection in one weight."""
    both = np.concatenate([doubled(normal(32, 48), 1), doubled(normal(33, 48)[1:], 1)], 1)
    return graph(
        "p = MatMul(x, w)", "(a, u) = Split{axis=-1, num_outputs=2}(p)", "s = Sigmoid(a)", "g = Mul(s, u)",
        "y = MatMul(g, v)", inputs=X, w=both, v=normal(64, 32),
    )  # fmt: skip


def channels() -> ir.Model:
    numbers = {name: doubled(normal(index + 2, 24)[index], 0, 8) for index, name in enumerate("sbm")}
    return graph(
        "c = Conv{pads=[1, 1, 1, 1]}(x, k)", "n = BatchNormalization(c, s, b, m, d)", "r = Relu(n)",
        "p = MaxPool{kernel_shape=[2, 2]}(r)", "y = Conv(p, q)", inputs={"x": "float[batch, 3, 8, 8]"},
        k=doubled(normal(24, 3, 3, 3), 0, 8), d=np.ones(32, np.float32), q=normal(8, 32, 3, 3), **numbers,
    )  # fmt: skip


def stacked() -> ir.Model:
    """Two hidden layers: the second reads what is merged in the first."""
    return graph(
        "p = MatMul(x, w)", "g = Tanh(p)", "q = MatMul(g, u)", "h = Tanh(q)", "y = MatMul(h, v)",
        inputs=X, w=doubled(normal(32, 48), 1), u=doubled(normal(64, 48), 1), v=normal(64, 32),
    )  # fmt: skip


def scaled(activation: str) -> ir.Model:
    """The units at the end are multiples of the first."""
    by = np.concatenate([np.ones(48), np.linspace(0.5, 3.0, 16)]).astype(np.float32)
    return layer(activation, doubled(normal(32, 48), 1) * by, doubled(normal(2, 48)[0], 0) * by)


# rewrites


def test_merges_equal_neurons() -> None:
    model = doubled_neurons()
    assert apply(MergeNeurons(), model) == [
        "p = MatMul(x, w)", "h = Add(p, b)", "g = Gelu(h)", "y = MatMul(g, v)",
    ]  # fmt: skip
    assert [shape(model, name) for name in "wbv"] == [[32, 48], [48], [48, 32]]


def test_one_takes_over_the_outgoing_weights_of_the_other() -> None:
    model = doubled_neurons()
    v = model.graph.initializers["v"].const_value
    assert v is not None
    MergeNeurons().apply(model, Context())
    after = model.graph.initializers["v"].const_value
    assert after is not None
    np.testing.assert_allclose(after.numpy().sum(0), v.numpy().sum(0), atol=EXACT)


def test_what_stays_is_a_multiple() -> None:
    model = layer("Gelu", doubled(normal(32, 51), 1, 13), doubled(normal(2, 51)[0], 0, 13))
    MergeNeurons().apply(model, Context())
    assert shape(model, "w") == [32, 56]
    MergeNeurons(multiple=1).apply(model, Context())
    assert shape(model, "w") == [32, 51]


def test_no_more_than_the_ratio_goes() -> None:
    model = layer("Gelu", np.ones((32, 64), np.float32), np.ones(64, np.float32))
    MergeNeurons(ratio=0.25).apply(model, Context())
    assert shape(model, "w") == [32, 48]


def test_a_second_run_takes_no_more() -> None:
    model = layer("Gelu", np.ones((32, 64), np.float32), np.ones(64, np.float32))
    for _ in range(2):
        outcome = MergeNeurons(ratio=0.25).apply(model, Context())
        assert shape(model, "w") == [32, 48]
    assert [finding.miss and finding.miss.rule for finding in outcome.findings] == ["ratio"]
    # what is left of a larger share
    MergeNeurons(ratio=0.5).apply(model, Context())
    assert shape(model, "w") == [32, 32]


def test_tells_how_far_merged_neurons_are_apart() -> None:
    (finding,) = MergeNeurons().explain(scaled("Relu"), Context()).findings
    assert finding.chosen.startswith("64 -> 48, apart ")


# leaves alone


@pytest.mark.parametrize(
    ("made", "model", "rule", "value"),
    [
        (MergeNeurons(), layer("Gelu", normal(32, 64), normal(2, 64)[0]), "alike", "0 of 64 units"),
        (MergeNeurons(), scaled("Gelu"), "alike", ""),
        (MergeNeurons(only=("other",)), doubled_neurons(), "only", "v"),
        (MergeNeurons(ignore=("v",)), doubled_neurons(), "ignore", "v"),
        (MergeNeurons(ratio=0.0), doubled_neurons(), "alike", ""),
        (
            MergeNeurons(),
            graph(
                "p = MatMul(x, w)", "g = Relu(p)", "y = MatMul(g, v)", "z = ReduceSum(g, [-1])",
                inputs=X, outputs=["y", "z"], w=doubled(normal(32, 48), 1), v=normal(64, 32),
            ),
            "readers",
            "ReduceSum at z",
        ),
        (
            MergeNeurons(),
            graph("g = MatMul(x, w)", "y = MatMul(g, v)", inputs=X, outputs=["y", "g"], w=normal(32, 64),
                  v=normal(64, 8)),
            "held",
            "an output of the model: g",
        ),
        (
            MergeNeurons(),
            graph("p = MatMul(x, w)", "q = MatMul(p, u)", "r = Add(p, q)", "y = MatMul(r, v)", inputs=X,
                  w=normal(32, 48), u=normal(48, 48), v=normal(48, 8)),
            "stream",
            "u",
        ),
        (
            MergeNeurons(),
            graph("e = Gather(t, ids)", "p = Gather(q, ids)", "s = Add(e, p)", "h = Tanh(s)",
                  "u = Transpose{perm=[1, 0]}(t)", "y = MatMul(h, u)", inputs={"ids": "int64[batch, sequence]"},
                  t=doubled(normal(50, 24), 1), q=doubled(normal(50, 24), 1)),
            "stream",
            "t",
        ),
        (
            MergeNeurons(),
            graph("e = Gather(t, ids)", "h = Tanh(e)", "u = Transpose{perm=[1, 0]}(t)", "y = MatMul(h, u)",
                  inputs={"ids": "int64[batch, sequence]"}, t=doubled(normal(50, 24), 1)),
            "stream",
            "t",
        ),
    ],
)  # fmt: skip
def test_leaves_alone(made: MergeNeurons, model: ir.Model, rule: str, value: str) -> None:
    (miss,) = misses(made, model)
    assert miss.rule == rule
    assert miss.value.startswith(value)


def test_leaves_recurrent_units() -> None:
    model = graph(
        "(h, _) = RNN{hidden_size=16}(x, w, r)", "s = Squeeze(h, [1])", "y = MatMul(s, v)",
        inputs={"x": "float[time, batch, 8]"}, w=np.ones((1, 16, 8), np.float32), r=np.ones((1, 16, 16), np.float32),
        v=normal(16, 4),
    )  # fmt: skip
    assert [miss.value for miss in misses(MergeNeurons(), model)] == ["recurrent units"]


def test_weights_without_numbers_stay() -> None:
    weight = doubled(normal(32, 48), 1)
    weight[0, 0] = np.nan
    assert [miss.rule for miss in misses(MergeNeurons(), layer("Gelu", weight, np.zeros(64, np.float32)))] == ["finite"]


@pytest.mark.parametrize("options", [{"ratio": 1.0}, {"ratio": -0.1}, {"multiple": 0}, {"threshold": -1.0}])
def test_refuses_options(options: dict[str, float]) -> None:
    with pytest.raises(OptionError, match="merge-neurons: expected a"):
        MergeNeurons(**options)  # type: ignore[arg-type]


# holds numerically


@pytest.mark.parametrize(
    "model",
    [doubled_neurons(), gated(), packed(), channels(), stacked(), scaled("Relu"), scaled("LeakyRelu")],
    ids=["gelu", "gated", "packed", "channels", "stacked", "relu", "leaky"],
)
def test_equal_neurons_merge_exactly(model: ir.Model) -> None:
    after = model.clone()
    outcome = MergeNeurons(threshold=1e-6).apply(after, Context())
    assert outcome.matches
    assert outcome.misses == ()
    assert compare(model, after, random_feeds(model)).relative_l2 < EXACT


def test_nearly_equal_neurons_stay_in_contract() -> None:
    noise = 0.01 * np.random.default_rng(0).standard_normal((32, 64)).astype(np.float32) / np.sqrt(32)
    model = layer("Gelu", doubled(normal(32, 48), 1) + noise.astype(np.float32), np.zeros(64, np.float32))
    after = model.clone()
    assert MergeNeurons().apply(after, Context()).matches == 1
    assert compare(model, after, random_feeds(model)).outputs[0].cosine > 1 - MergeNeurons.contract.budget  # type: ignore[union-attr]
