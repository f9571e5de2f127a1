"""Hidden units out of layers: which, of what kinds of layers, and how well the rest is fitted."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.constants import constant_of
from tersor.ir.errors import OptionError
from tersor.ir.feeds import Feeds, random_feeds
from tersor.ir.runner import runner
from tersor.ir.shapes import dimension_names
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.prune.prune_neurons import PruneNeurons
from tersor.passes.statistics import Calibration
from tersor.tests.support import ROUNDED

RNG = np.random.default_rng(11)
X = {"x": "float[batch, sequence, 16]"}


def weight(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) / np.sqrt(shape[-2] if len(shape) > 1 else 4)).astype(np.float32)


def feed_forward() -> ir.Model:
    return graph(
        "a = MatMul(x, w)", "b = Add(a, c)", "h = Relu(b)", "o = MatMul(h, v)", "p = Add(o, d)", "s = Add(x, p)",
        "y = LayerNormalization{axis=-1}(s, g)",
        inputs=X, w=weight(16, 48), c=weight(48), v=weight(48, 16), d=weight(16), g=np.ones(16, np.float32),
    )  # fmt: skip


def gated() -> ir.Model:
    return graph(
        "a = MatMul(x, w)", "(b, u) = Split{axis=-1, num_outputs=2}(a)", "r = Sigmoid(b)", "h = Mul(r, u)",
        "y = MatMul(h, v)", inputs=X, w=weight(16, 96), v=weight(48, 16),
    )  # fmt: skip


def recurrent() -> ir.Model:
    return graph(
        "t = Transpose{perm=[1, 0, 2]}(x)", "a, h, c = LSTM{hidden_size=24}(t, w, r, b)", "d = Squeeze(a, [1])",
        "y = MatMul(d, v)", inputs=X, outputs=["y"],
        w=weight(1, 96, 16), r=weight(1, 96, 24), b=weight(1, 192), v=weight(24, 5),
    )  # fmt: skip


def stacked() -> ir.Model:
    return graph(
        "t = Transpose{perm=[1, 0, 2]}(x)", "a, h = GRU{hidden_size=24}(t, w, r)", "d = Squeeze(a, [1])",
        "e, i = GRU{hidden_size=8}(d, u, q)", "y = Squeeze(e, [1])",
        inputs=X, outputs=["y"], w=weight(1, 72, 16), r=weight(1, 72, 24), u=weight(1, 24, 24), q=weight(1, 24, 8),
    )  # fmt: skip


def convolutions() -> ir.Model:
    return graph(
        "a = Conv{pads=[1, 1, 1, 1]}(x, w, b)", "h = Relu(a)", "y = Conv{pads=[1, 1, 1, 1]}(h, v, d)",
        inputs={"x": "float[batch, 3, 7, 7]"}, w=weight(24, 3, 3, 3), b=weight(24), v=weight(5, 24, 3, 3), d=weight(5),
    )  # fmt: skip


def by_channel() -> ir.Model:
    return graph(
        "a = Conv(x, w, b)", "h = Relu(a)", "c = Conv{group=24}(h, k, e)", "y = Conv(c, v, d)",
        inputs={"x": "float[batch, 3, 9, 9]"}, w=weight(24, 3, 3, 3), b=weight(24), k=weight(24, 1, 3, 3), e=weight(24),
        v=weight(5, 24, 1, 1), d=weight(5),
    )  # fmt: skip


def in_groups() -> ir.Model:
    return graph(
        "a = Conv{group=3}(x, w, b)", "h = Relu(a)", "y = Conv{group=3}(h, v, d)",
        inputs={"x": "float[batch, 6, 7, 7]"}, w=weight(72, 2, 3, 3), b=weight(72), v=weight(6, 24, 3, 3), d=weight(6),
    )  # fmt: skip


MODELS = {
    made.__name__: made for made in (feed_forward, gated, recurrent, stacked, convolutions, by_channel, in_groups)
}
SIZES = {"batch": 6, "sequence": 20}


def feeds_of(model: ir.Model, seed: int) -> Feeds:
    return random_feeds(model, {name: SIZES[name] for name in dimension_names(model)}, seed=seed)


def calibrated(model: ir.Model, batches: int = 4) -> Context:
    return Context(calibration=Calibration([feeds_of(model, seed) for seed in range(batches)]))


def error(one: ir.Model, other: ir.Model) -> float:
    """Relative L2 on feeds that nothing was calibrated on."""
    feeds = feeds_of(one, 99)
    first, second = (runner(model)(feeds)["y"] for model in (one, other))
    return float(np.linalg.norm(first - second) / np.linalg.norm(first))


def stored(model: ir.Model) -> int:
    return sum(value.const_value.size for value in model.graph.initializers.values() if value.const_value is not None)


@pytest.mark.parametrize("name", MODELS)
def test_units_go_and_the_graph_runs(name: str) -> None:
    plain = MODELS[name]()
    model = plain.clone()
    outcome = PruneNeurons(ratio=0.5).apply(model, calibrated(model))
    assert outcome.matches == 1
    assert stored(model) < 0.7 * stored(plain)
    assert len(lines(model)) == len(lines(plain))
    assert error(plain, model) < 1


@pytest.mark.parametrize("name", [name for name in MODELS if name != "in_groups"])
def test_repair_helps(name: str) -> None:
    plain = MODELS[name]()
    errors = []
    for repair in (False, True):
        model = plain.clone()
        PruneNeurons(ratio=0.5, repair=repair).apply(model, calibrated(model, 12))
        errors.append(error(plain, model))
    assert errors[1] < errors[0]


def test_what_ends_in_a_stream_that_is_shorter_now_is_fitted_to_what_is_left_of_it() -> None:
    plain = graph(
        "s = MatMul(x, w)", "a = MatMul(s, u)", "h = Relu(a)", "o = MatMul(h, v)", "t = Add(s, o)", "y = MatMul(t, z)",
        inputs=X, w=weight(16, 32), u=weight(32, 48), v=weight(48, 32), z=weight(32, 5),
    )  # fmt: skip
    errors = []
    for repair in (False, True):
        model = plain.clone()
        assert PruneNeurons(ratio=0.25, repair=repair).apply(model, calibrated(model, 12)).matches == 2
        errors.append(error(plain, model))
    assert errors[1] < errors[0] / 2


SCORES = ("obs", "magnitude", "inorm", "onorm", "activation", "entropy", "taylor", "fisher")
#: What makes a recurrent unit also reads others, so that inorm is of more than zeros; states that never change their
#: sign tell as little as none.
BLIND = {("recurrent", "inorm"), ("stacked", "inorm"), ("recurrent", "entropy")}


@pytest.mark.parametrize(("name", "score"), [(n, s) for n in MODELS for s in SCORES if (n, s) not in BLIND])
def test_zeroed_units_go_first_and_nothing_changes(name: str, score: str) -> None:
    plain = MODELS[name]()
    silent(plain, score)
    model = plain.clone()
    kind = PruneNeurons(ratio=1 / 3, score=score, repair=False)  # type: ignore[arg-type]
    assert kind.apply(model, calibrated(model)).matches == 1
    assert error(plain, model) < ROUNDED[np.float32]


def silent(model: ir.Model, score: str) -> None:
    """Set every third unit to zero in all weights that make it or read it."""
    from tersor.ir.axes import kept
    from tersor.passes.prune.units import units

    (group,) = [each for each in units(model) if PruneNeurons().verdict(each) is None]
    mask = np.arange(group.size) % 3 != 0
    for value, _ in group.group.weights:
        array = constant_of(value)
        assert array is not None
        array = array.copy()
        for at, axis in enumerate(group.found.axes[value]):
            array[(slice(None),) * at + (~kept(axis, {group.axis: mask}),)] = 0
        value.const_value = ir.tensor(array, name=value.name)


def test_ratio_zero_is_the_identity() -> None:
    model = feed_forward()
    before = {name: constant_of(value) for name, value in model.graph.initializers.items()}
    outcome = PruneNeurons(ratio=0).apply(model, calibrated(model))
    assert not outcome.matches
    for name, value in model.graph.initializers.items():
        assert constant_of(value) is before[name] or np.array_equal(constant_of(value), before[name])  # type: ignore[arg-type]


@pytest.mark.parametrize("ratio", [1.0, 1.5, -0.1])
def test_ratios_beyond_are_refused(ratio: float) -> None:
    with pytest.raises(OptionError, match="at least 0 and less than 1"):
        PruneNeurons(ratio=ratio)


def test_what_stays_is_a_multiple_and_never_nothing() -> None:
    model = feed_forward()
    PruneNeurons(ratio=0.99, multiple=8).apply(model, Context())
    assert constant_of(model.graph.initializers["w"]).shape == (16, 8)  # type: ignore[union-attr]
    model = feed_forward()
    PruneNeurons(ratio=0.4, multiple=16).apply(model, Context())
    assert constant_of(model.graph.initializers["w"]).shape == (16, 32)  # type: ignore[union-attr]


def test_a_global_ratio_takes_more_of_what_matters_less() -> None:
    model = graph(
        "a = MatMul(x, w)", "h = Relu(a)", "o = MatMul(h, v)", "s = Add(x, o)",
        "c = MatMul(s, u)", "k = Relu(c)", "y = MatMul(k, t)",
        inputs=X, w=weight(16, 48), v=weight(48, 16), u=0.01 * weight(16, 48), t=0.01 * weight(48, 16),
    )  # fmt: skip
    PruneNeurons(ratio=0.25, scope="global", score="magnitude", multiple=1).apply(model, Context())
    shapes = [constant_of(model.graph.initializers[name]).shape[1] for name in "wu"]  # type: ignore[union-attr]
    assert shapes == [48, 24]


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("score", ["obs", "taylor"])
def test_a_second_run_takes_no_more(scope: str, score: str) -> None:
    model = two_layers()
    made = PruneNeurons(ratio=0.3, scope=scope, score=score)  # type: ignore[arg-type]
    assert made.apply(model, calibrated(model)).matches
    # 30 % of 196, to the nearest that steps of 4 and 8 allow
    sizes = widths(model)
    assert abs(sum(sizes) - (196 - 59)) <= 4 or scope == "layer"
    again = made.apply(model, calibrated(model))
    assert widths(model) == sizes
    assert {finding.miss.rule for finding in again.findings if finding.miss} == {"held", "ratio"}


def test_a_layer_of_which_nothing_goes_keeps_its_odd_size_and_says_so() -> None:
    model = two_layers(0.01)
    outcome = PruneNeurons(ratio=0.25, scope="global", score="magnitude").apply(model, Context())
    assert widths(model) == [100, 48]
    (miss,) = (finding.miss for finding in outcome.findings if finding.miss and finding.miss.rule == "ratio")
    assert miss.value == "none of 100 units"


def two_layers(by: float = 1.0) -> ir.Model:
    return graph(
        "a = MatMul(x, w)", "h = Relu(a)", "o = MatMul(h, v)", "s = Add(x, o)", "c = MatMul(s, u)", "k = Relu(c)",
        "y = MatMul(k, t)",
        inputs=X, w=weight(16, 100), v=weight(100, 16), u=by * weight(16, 96), t=by * weight(96, 16),
    )  # fmt: skip


def widths(model: ir.Model) -> list[int]:
    return [constant_of(model.graph.initializers[name]).shape[1] for name in "wu"]  # type: ignore[union-attr]


def told(made: PruneNeurons, model: ir.Model, context: Context) -> str:
    (finding,) = (each for each in made.apply(model, context).findings if each.miss is None)
    return finding.chosen


def test_too_few_tokens_are_told() -> None:
    model = feed_forward()
    few = Context(calibration=Calibration([random_feeds(model, {"batch": 1, "sequence": 20}, seed=1)]))
    found = told(PruneNeurons(ratio=0.5), model, few)
    # of the 48 inputs half are left to be fitted
    assert "20 tokens for 24 inputs, ridge 0.092" in found
    assert "one batch of data" in found


@pytest.mark.parametrize("score", ["obs", "activation"])
def test_readers_that_cannot_be_fitted_are_told(score: str) -> None:
    model = graph(
        "a = Conv(x, w)", "h = Relu(a)", "y = ConvTranspose(h, v)", inputs={"x": "float[batch, 3, 7, 7]"},
        w=weight(24, 3, 3, 3), v=weight(24, 3, 2, 2),
    )  # fmt: skip
    found = told(PruneNeurons(ratio=1 / 3, score=score), model, calibrated(model))  # type: ignore[arg-type]
    assert found == (
        "24 -> 16, no reader that can be repaired; by magnitude: no reader that can be fitted; v: a site of kind conv"
    )


def test_what_is_not_fitted_is_not_said_to_be() -> None:
    model = feed_forward()
    silent(model, "obs")
    found = told(PruneNeurons(ratio=1 / 3), model, calibrated(model))
    assert found == "48 -> 32, not repaired, what was there does best"


def test_attention_that_was_not_raised_has_no_neurons() -> None:
    model = graph(
        *(f"{one} = MatMul(x, w{one})" for one in "qkv"),
        *(f"{one}h = Reshape({one}, [0, 0, 4, 8])" for one in "qkv"),
        *(f"{one}t = Transpose{{perm=[0, 2, 1, 3]}}({one}h)" for one in "qv"),
        "kt = Transpose{perm=[0, 2, 3, 1]}(kh)", "s = MatMul(qt, kt)", "p = Softmax{axis=-1}(s)", "z = MatMul(p, vt)",
        "zt = Transpose{perm=[0, 2, 1, 3]}(z)", "f = Reshape(zt, [0, 0, 32])", "y = MatMul(f, wo)",
        inputs=X, wq=weight(16, 32), wk=weight(16, 32), wv=weight(16, 32), wo=weight(32, 16),
    )  # fmt: skip
    before = lines(model)
    findings = PruneNeurons(ratio=0.5, multiple=1).apply(model, Context()).findings
    assert {finding.miss.rule for finding in findings if finding.miss} == {"attention"}
    assert all("Softmax at p" in finding.miss.value for finding in findings if finding.miss)
    assert lines(model) == before


def test_scores_by_data_ask_for_it() -> None:
    with pytest.raises(OptionError, match="read off calibration data"):
        PruneNeurons(score="obs").apply(feed_forward(), Context())


HELD = [
    (("a = MatMul(x, w)", "h = Relu(a)", "y = MatMul(h, v)", "z = Identity(h)"), "held", "an output of the model: z"),
    (("a = MatMul(x, w)", "h = LayerNormalization{axis=-1}(a, g)", "y = MatMul(h, v)"), "held", "normalized over"),
    (("a = MatMul(x, w)", "h = Softmax{axis=-1}(a)", "y = MatMul(h, v)"), "held", "Softmax goes over it"),
    (
        (
            "a = MatMul(x, w)",
            "u = Unsqueeze(a, [2])",
            "t = Unsqueeze(a, [3])",
            "p = Mul(u, t)",
            "f = Reshape(p, [0, 0, 2304])",
            "y = MatMul(f, m)",
        ),
        "joint",
        "inputs of m",
    ),
]


@pytest.mark.parametrize(("text", "rule", "value"), HELD)
def test_leaves_alone(text: tuple[str, ...], rule: str, value: str) -> None:
    constants = {"w": weight(16, 48), "v": weight(48, 16), "m": weight(2304, 5), "g": np.ones(48, np.float32)}
    used = {name: array for name, array in constants.items() if any(name in line.split("(", 1)[1] for line in text)}
    model = graph(*text, inputs=X, **used)
    before = lines(model)
    outcome = PruneNeurons(ratio=0.5).apply(model, Context())
    (miss,) = (finding.miss for finding in outcome.findings if finding.miss is not None)
    assert (miss.rule, value in miss.value) == (rule, True)
    assert lines(model) == before
    assert not outcome.matches


def test_names_choose() -> None:
    model = feed_forward()
    outcome = PruneNeurons(ratio=0.5, ignore=("v", "nothing")).apply(model, Context())
    # the stream is held, v is spared, and `nothing` fits nothing
    assert [finding.miss.rule for finding in outcome.findings if finding.miss] == ["held", "ignore", "ignore"]
    assert not outcome.matches
    misses = [finding.miss for finding in PruneNeurons(ratio=0.5, only=("other",)).apply(model, Context()).misses]
    assert [miss.rule for miss in misses if miss is not None] == ["held", "only"]
