"""Branches of the stream out: which, and what stands for them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.constants import constant_of
from tersor.ir.errors import OptionError
from tersor.ir.feeds import random_feeds
from tersor.ir.runner import runner
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.prune.drop_sublayers import DropSublayers
from tersor.passes.statistics import Calibration

RNG = np.random.default_rng(19)
X = {"x": "float[batch, sequence, 16]"}
SIZES = {"batch": 6, "sequence": 20}


def weight(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)


def stream(scales: tuple[float, ...]) -> ir.Model:
    """Feed-forward branches that add so much."""
    text, weights, before = list[str](), dict[str, np.ndarray](), "x"
    for at, scale in enumerate(scales):
        text += [f"a{at} = MatMul({before}, w{at})", f"h{at} = Relu(a{at})", f"o{at} = MatMul(h{at}, v{at})"]
        text += [f"p{at} = Add(o{at}, b{at})", f"s{at} = Add({before}, p{at})"]
        before = f"s{at}"
        weights |= {f"w{at}": weight(16, 32), f"v{at}": scale * weight(32, 16), f"b{at}": scale * weight(1, 16)[0]}
    return graph(*text, f"y = Relu({before})", inputs=X, **weights)


def calibrated(model: ir.Model) -> Context:
    return Context(calibration=Calibration([random_feeds(model, SIZES, seed=seed) for seed in range(6)]))


def answer(model: ir.Model, seed: int = 99) -> np.ndarray:
    return np.asarray(runner(model)(random_feeds(model, SIZES, seed=seed))["y"])


@pytest.mark.parametrize("score", ["auto", "output", "influence", "spectral"])
def test_the_branch_that_adds_least_goes(score: str) -> None:
    plain = stream((1.0, 0.01, 1.0))
    model = plain.clone()
    made = DropSublayers(score=score)  # type: ignore[arg-type]
    assert made.apply(model, calibrated(model)).matches == 1
    assert "w1" not in model.graph.initializers
    assert {"w0", "v0", "w2", "v2"} <= set(model.graph.initializers)
    np.testing.assert_allclose(answer(model), answer(plain), atol=0.1)


def test_without_repair_the_stream_goes_on_alone() -> None:
    model = stream((1.0, 0.01, 1.0))
    DropSublayers(repair=False).apply(model, Context())
    assert lines(model)[-6:] == [
        "a2 = MatMul(s1, w2)", "h2 = Relu(a2)", "o2 = MatMul(h2, v2)", "p2 = Add(o2, b2)", "s2 = Add(s1, p2)",
        "y = Relu(s2)",
    ]  # fmt: skip


def test_the_mean_of_what_is_missing_stands_for_it() -> None:
    plain = stream((0.5, 1.0, 0.01))
    model, context = plain.clone(), calibrated(plain)
    DropSublayers(count=1, only=("v1",)).apply(model, context)
    assert context.calibration is not None
    total, count = np.zeros(16), 0
    weights = {name: constant_of(value) for name, value in plain.graph.initializers.items()}
    for feeds in context.calibration.batches:
        before = feeds["x"] + np.maximum(feeds["x"] @ weights["w0"], 0) @ weights["v0"] + weights["b0"]
        added = np.maximum(before @ weights["w1"], 0) @ weights["v1"] + weights["b1"]
        total, count = total + added.reshape(-1, 16).sum(0), count + added.size // 16
    (name,) = set(model.graph.initializers) - set(plain.graph.initializers)
    np.testing.assert_allclose(constant_of(model.graph.initializers[name]), total / count, rtol=1e-4, atol=1e-5)  # type: ignore[arg-type]


def test_the_mean_lies_along_the_axis_of_the_features() -> None:
    def made() -> ir.Model:
        return graph(
            "a = Relu(x)", "o = MatMul(w, a)", "s = Add(x, o)", "y = Relu(s)",
            inputs={"x": "float[batch, 16, sequence]"}, w=weight(16, 16),
        )  # fmt: skip

    model, context = made(), calibrated(made())
    assert DropSublayers().apply(model, context).matches == 1
    assert [str(value.shape) for value in model.graph.initializers.values()] == ["[16,1]"]
    assert answer(model).shape == answer(made()).shape


def test_a_second_application_takes_no_more() -> None:
    model = stream((1.0, 1.0, 1.0))
    made = DropSublayers(repair=False)
    assert made.apply(model, Context()).matches == 1
    assert made.apply(model, Context()).matches == 0
    assert DropSublayers(count=2, repair=False).apply(model, Context()).matches == 1


def test_names_choose() -> None:
    model = stream((1.0, 0.01, 1.0))
    outcome = DropSublayers(ignore=("v1", "none"), repair=False).apply(model, Context())
    assert [finding.miss.rule for finding in outcome.findings if finding.miss is not None] == ["ignore", "ignore"]
    assert "v1" in model.graph.initializers


def test_each_choice_counts_on_its_own() -> None:
    """As attention first, then feed-forward layers."""
    model = stream((1.0, 1.0, 1.0, 1.0))
    made = [DropSublayers(only=only, repair=False) for only in (("v0", "v1"), ("v2", "v3"))]
    for number, each in enumerate(made, 1):
        assert each.apply(model, Context()).matches == 1
        assert len([name for name in model.graph.initializers if name[0] == "v"]) == 4 - number
    for each in made:
        outcome = each.apply(model, Context())
        assert not outcome.matches
        (miss,) = (finding.miss for finding in outcome.findings if finding.place == "the graph")
        assert miss is not None
        assert (miss.rule, miss.value) == ("count", "1 gone")
    # one of all counts what went under either
    assert not DropSublayers(count=2, repair=False).apply(model, Context()).matches


@pytest.mark.parametrize("score", ["output", "influence", "spectral"])
def test_branches_of_one_weight_are_told_apart(score: str) -> None:
    """A block that is used four times over, as in ALBERT: its branches are counted anew when one is gone."""
    text, before = list[str](), "x"
    for at in range(4):
        text += [f"a{at} = MatMul({before}, w)", f"h{at} = Relu(a{at})", f"o{at} = MatMul(h{at}, v)"]
        text += [f"s{at} = Add({before}, o{at})"]
        before = f"s{at}"
    model = graph(*text, f"y = Relu({before})", inputs=X, w=weight(16, 32), v=weight(32, 16))
    made = DropSublayers(count=3, score=score)  # type: ignore[arg-type]
    outcome = made.apply(model, calibrated(model))
    assert outcome.matches == 3
    assert len([node for node in model.graph if node.op_type == "MatMul"]) == 2
    assert len({finding.place for finding in outcome.findings}) == 3


@pytest.mark.parametrize("repair", [False, True])
def test_an_input_or_output_keeps_its_name(repair: bool) -> None:
    """s = x + f(x) and the sum are outputs, x is an input, and t = s + f(s) is one too."""
    model = stream((1.0, 1.0))
    named = {value.name: value for node in model.graph for value in node.outputs}
    model.graph.outputs.extend(named[name] for name in ("s0", "s1"))
    DropSublayers(count=2, repair=repair).apply(model, calibrated(model))
    assert [value.name for value in model.graph.outputs] == ["y", "s0", "s1"]
    assert [value.name for value in model.graph.inputs] == ["x"]
    feeds = random_feeds(model, SIZES, seed=1)
    found = runner(model)(feeds)
    if not repair:
        for name in ("s0", "s1"):
            np.testing.assert_array_equal(found[name], feeds["x"])


@pytest.mark.parametrize(
    ("repair", "data", "said"),
    [(False, True, "not repaired"), (True, False, "no data to repair on"), (True, True, "its mean stays")],
)
def test_what_was_done_is_told(repair: bool, data: bool, said: str) -> None:
    model = stream((1.0, 0.01, 1.0))
    context = calibrated(model) if data else Context()
    (finding,) = DropSublayers(score="spectral", repair=repair).apply(model, context).findings
    assert finding.chosen == f"dropped, {said}"


def test_a_graph_without_branches_is_told() -> None:
    (finding,) = DropSublayers().apply(graph("y = MatMul(x, w)", inputs=X, w=weight(16, 16)), Context()).findings
    assert finding.miss is not None
    assert finding.miss.rule == "branches"


@pytest.mark.parametrize(
    ("made", "said"),
    [(DropSublayers(count=4), "at most 3 branches"), (DropSublayers(score="output"), "calibration data are needed")],
)
def test_what_cannot_be_is_refused(made: DropSublayers, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        made.apply(stream((1.0, 1.0, 1.0)), Context())
