"""Whole blocks out: which, what the stream is then, and what is fitted."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.block import blocks
from tersor.ir.constants import constant_of
from tersor.ir.errors import OptionError
from tersor.ir.feeds import random_feeds
from tersor.ir.runner import runner
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.prune.drop_layers import DropLayers
from tersor.passes.statistics import Calibration

RNG = np.random.default_rng(17)
X = {"x": "float[batch, sequence, 16]"}
SIZES = {"batch": 6, "sequence": 20}


def weight(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)


def stack(scales: tuple[float, ...], *, after: bool) -> ir.Model:
    """Feed-forward blocks that add so much to the stream, normalized before each branch or after each sum."""
    text, weights, stream = list[str](), dict[str, np.ndarray](), "x"
    for at, scale in enumerate(scales):
        read = stream if after else f"n{at}"
        text += [] if after else [f"n{at} = RMSNormalization{{axis=-1}}({stream}, g{at})"]
        text += [f"a{at} = MatMul({read}, w{at})", f"h{at} = Relu(a{at})", f"o{at} = MatMul(h{at}, v{at})"]
        text += [f"p{at} = Add(o{at}, b{at})", f"s{at} = Add({stream}, p{at})"]
        text += [f"m{at} = RMSNormalization{{axis=-1}}(s{at}, g{at})"] if after else []
        stream = f"m{at}" if after else f"s{at}"
        weights |= {f"w{at}": weight(16, 32), f"v{at}": scale * weight(32, 16), f"b{at}": scale * weight(1, 16)[0]}
        weights |= {f"g{at}": np.ones(16, np.float32) * (1 + 0.1 * at)}
    return graph(*text, f"y = Identity({stream})", inputs=X, **weights)


def calibrated(model: ir.Model, batches: int = 6) -> Context:
    return Context(calibration=Calibration([random_feeds(model, SIZES, seed=seed) for seed in range(batches)]))


def error(one: ir.Model, other: ir.Model) -> float:
    feeds = random_feeds(one, SIZES, seed=99)
    first, second = (runner(model)(feeds)["y"] for model in (one, other))
    return float(np.linalg.norm(first - second) / np.linalg.norm(first))


def two_stacks(first: int = 3, second: int = 3) -> ir.Model:
    """An encoder, and a decoder each of whose blocks reads what the encoder ends in."""
    text, weights = list[str](), dict[str, np.ndarray]()
    for stream, count, name in (("x", first, "e"), ("z", second, "d")):
        now = stream
        for at in range(count):
            one = f"{name}{at}"
            text += [f"n{one} = RMSNormalization{{axis=-1}}({now}, g)", f"a{one} = MatMul(n{one}, w{one})"]
            text += [f"c{one} = MatMul(e, k{one})", f"r{one} = Add(a{one}, c{one})"] if name == "d" else []
            text += [f"h{one} = Relu({'r' if name == 'd' else 'a'}{one})", f"o{one} = MatMul(h{one}, v{one})"]
            text += [f"s{one} = Add({now}, o{one})"]
            weights |= {f"w{one}": weight(16, 32), f"v{one}": weight(32, 16)}
            weights |= {f"k{one}": weight(16, 32)} if name == "d" else {}
            now = f"s{one}"
        text.append(f"{'e' if name == 'e' else 'y'} = Identity({now})")
    return graph(*text, inputs={**X, "z": "float[batch, sequence, 16]"}, g=np.ones(16, np.float32), **weights)


def left(model: ir.Model) -> set[str]:
    return {name[1:] for name in model.graph.initializers if name[0] == "w"}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("score", ["output", "influence"])
def test_the_block_that_does_least_goes(after: bool, score: str) -> None:
    plain = stack((1.0, 1.0, 0.01, 1.0), after=after)
    model = plain.clone()
    made = DropLayers(count=1, score=score, repair=False)  # type: ignore[arg-type]
    outcome = made.apply(model, calibrated(model))
    assert [finding.place for finding in outcome.findings] == ["block 2"]
    assert len(blocks(model)) == 3
    # the norm behind a sum stays, that of the block before goes
    assert {name for name in model.graph.initializers if name[0] == "w"} == {"w0", "w1", "w3"}
    # the norm of another block is of another scale
    assert error(plain, model) < (0.15 if after else 0.05)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("layers", [(0,), (1,), (3,), (1, 2), (2, 1), (0, 1)])
def test_these_blocks_go_and_the_rest_is_as_if_they_never_were(after: bool, layers: tuple[int, ...]) -> None:
    model = stack((1.0, 0.5, 0.7, 0.3), after=after)
    left = [at for at in range(4) if at not in layers]
    weights = {name: constant_of(value) for name, value in model.graph.initializers.items()}
    DropLayers(layers=layers, repair=False).apply(model, Context())
    x = random_feeds(model, SIZES, seed=5)["x"]
    stream = x.astype(np.float64)
    for at in left:
        norm = stream if after else normalized(stream, weights[f"g{at}"])
        stream = stream + np.maximum(norm @ weights[f"w{at}"], 0) @ weights[f"v{at}"] + weights[f"b{at}"]
        if after:
            # a block that goes leaves its norm to the one before
            behind = [other for other in range(at + 1, 4) if all(each in layers for each in range(at + 1, other + 1))]
            stream = normalized(stream, weights[f"g{behind[-1] if behind else at}"])
    np.testing.assert_allclose(runner(model)({"x": x})["y"], stream, rtol=1e-4, atol=1e-5)


def normalized(stream: np.ndarray, scale: object) -> np.ndarray:
    return np.asarray(stream / np.sqrt((stream**2).mean(-1, keepdims=True) + 1e-5) * np.asarray(scale), np.float64)


@pytest.mark.parametrize("after", [False, True])
def test_repair_helps(after: bool) -> None:
    plain = stack((1.0, 0.4, 0.4, 1.0), after=after)
    errors = []
    for repair in (False, True):
        model = plain.clone()
        DropLayers(layers=(2,), repair=repair).apply(model, calibrated(model, 12))
        errors.append(error(plain, model))
    assert errors[1] < errors[0]


@pytest.mark.parametrize(("score", "gone"), [("top", {"3", "2"}), ("bottom", {"0", "1"}), ("every-other", {"1", "3"})])
def test_orders_that_need_no_data(score: str, gone: set[str]) -> None:
    model = stack((1.0, 1.0, 1.0, 1.0), after=False)
    DropLayers(count=2, score=score).apply(model, Context())  # type: ignore[arg-type]
    assert {name[1:] for name in model.graph.initializers} == {"0", "1", "2", "3"} - gone


def test_merged_blocks_add_their_difference() -> None:
    model = stack((1.0, 1.0, 1.0, 1.0), after=False)
    first, second, third = (constant_of(model.graph.initializers[f"w{at}"]) for at in range(3))
    assert first is not None
    DropLayers(layers=(1, 2), merge=True).apply(model, Context())
    found = constant_of(model.graph.initializers["w0"])
    np.testing.assert_allclose(found, first + (second - first) + (third - first), rtol=1e-5, atol=1e-6)  # type: ignore[operator]


def test_a_second_application_takes_no_more() -> None:
    model = stack((1.0, 1.0, 1.0, 1.0), after=False)
    made = DropLayers(count=1, score="top")
    assert made.apply(model, Context()).matches == 1
    again = made.apply(model, Context())
    assert (again.matches, len(blocks(model))) == (0, 3)
    assert DropLayers(count=2, score="top").apply(model, Context()).matches == 1


def test_leaves_alone_blocks_that_something_else_reads() -> None:
    plain = stack((1.0, 1.0, 1.0), after=False)
    model = plain.clone()
    inner = next(node for node in model.graph if node.outputs[0].name == "h1").outputs[0]
    model.graph.outputs.append(inner)
    outcome = DropLayers(layers=(1,)).apply(model, Context())
    (miss,) = (finding.miss for finding in outcome.findings)
    assert miss is not None
    assert (miss.rule, miss.value) == ("inside", "h1, an output of the model")
    assert not outcome.matches


def test_blocks_of_two_stacks_go_once() -> None:
    model = two_stacks()
    made = DropLayers(layers=(1, 4), repair=False)
    assert made.apply(model, Context()).matches == 2
    assert left(model) == {"e0", "e2", "d0", "d2"}
    (again,) = made.apply(model, Context()).findings
    assert again.miss is not None
    assert (again.miss.rule, again.miss.value) == ("count", "2 gone")
    assert left(model) == {"e0", "e2", "d0", "d2"}


def test_of_each_stack_so_many_go() -> None:
    model = two_stacks(4, 3)
    DropLayers(layers=(1,), repair=False).apply(model, Context())
    DropLayers(count=1, score="top").apply(model, Context())
    assert left(model) == {"e0", "e2", "e3", "d0", "d1"}
    DropLayers(count=2, score="top").apply(model, Context())
    assert left(model) == {"e0", "e2", "d0"}
    # a block alone is no stack, and still counts
    assert not DropLayers(layers=(5, 6)).apply(model, Context()).matches
    with pytest.raises(OptionError, match="expected a block to stay"):
        DropLayers(layers=(4,)).apply(model, Context())


def test_numbers_are_those_of_the_model_as_it_was() -> None:
    model = stack((1.0, 1.0, 1.0, 1.0), after=False)
    for layers, gone in (((1,), {"1"}), ((3, 3), {"1", "3"}), ((1, 1, 0), {"0", "1", "3"})):
        DropLayers(layers=layers).apply(model, Context())
        assert {"0", "1", "2", "3"} - left(model) == gone


def test_blocks_that_were_changed_are_told() -> None:
    model = stack((1.0, 1.0, 1.0, 1.0), after=False)
    DropLayers(layers=(1,)).apply(model, Context())
    model.graph.initializers["w3"].const_value = ir.tensor(weight(16, 24))
    model.graph.initializers["v3"].const_value = ir.tensor(weight(24, 16))
    for value in model.graph.initializers.values():
        value.shape = value.const_value.shape  # type: ignore[union-attr, assignment]
    (finding,) = DropLayers(layers=(2,)).apply(model, Context()).findings
    assert finding.miss is not None
    assert (finding.miss.rule, finding.miss.value) == ("blocks", "stacks of 2")


@pytest.mark.parametrize("layers", [(0,), (1,), (2,), (0, 1), (1, 2)])
def test_values_between_blocks_that_are_outputs_keep_their_names(layers: tuple[int, ...]) -> None:
    """As of a model that answers with all its hidden states."""
    model = stack((1.0, 0.5, 0.7), after=False)
    named = {value.name: value for node in model.graph for value in node.outputs}
    model.graph.outputs.extend(named[f"s{at}"] for at in range(3))
    plain = model.clone()
    assert DropLayers(layers=layers).apply(model, calibrated(model)).matches == len(layers)
    assert [value.name for value in model.graph.outputs] == ["y", "s0", "s1", "s2"]
    feeds = random_feeds(plain, SIZES, seed=3)
    before, now = runner(plain)(feeds), runner(model)(feeds)
    for at in range(3):
        if at in layers:
            np.testing.assert_array_equal(now[f"s{at}"], now[f"s{at - 1}"] if at else feeds["x"])
    if 0 not in layers:
        np.testing.assert_allclose(now["s0"], before["s0"], rtol=1e-5)


@pytest.mark.parametrize(
    ("repair", "batches", "said"),
    [
        (False, 6, "dropped, not repaired"),
        (True, 0, "dropped, no data to repair on"),
        (True, 12, "dropped, repaired"),
        (True, 1, "dropped, repaired (120 tokens for 32 inputs, ridge "),
    ],
)
def test_what_was_fitted_is_told(repair: bool, batches: int, said: str) -> None:
    model = stack((1.0, 0.4, 0.4, 1.0), after=False)
    context = calibrated(model, batches) if batches else Context()
    (finding,) = DropLayers(layers=(2,), repair=repair).apply(model, context).findings
    assert finding.chosen.startswith(said)
    assert finding.chosen == said or said.endswith(" ")


def test_what_no_fit_makes_better_is_told() -> None:
    model = stack((1.0, 1.0, 0.0, 1.0), after=False)
    before = constant_of(model.graph.initializers["v1"])
    (finding,) = DropLayers(layers=(2,)).apply(model, calibrated(model)).findings
    assert finding.chosen == "dropped, not repaired: no fit does better on unseen data"
    np.testing.assert_array_equal(constant_of(model.graph.initializers["v1"]), before)  # type: ignore[arg-type]


def test_biases_and_norms_are_merged_too() -> None:
    model = stack((1.0, 1.0, 1.0, 1.0), after=False)
    held = {name: constant_of(value) for name, value in model.graph.initializers.items()}
    outcome = DropLayers(layers=(0, 2), merge=True).apply(model, Context())
    for kind in "wvbg":
        found = constant_of(model.graph.initializers[f"{kind}1"])
        np.testing.assert_allclose(found, held[f"{kind}2"], rtol=1e-5, atol=1e-6)  # type: ignore[arg-type]
    told = [finding.chosen.split(", ")[-1] for finding in outcome.findings]
    assert told == ["not merged: no block like it stays before it", "merged"]


def test_weights_are_merged_by_what_they_are_for_not_by_their_order() -> None:
    text, weights, now = list[str](), dict[str, np.ndarray](), "x"
    for at, order in enumerate(("gu", "ug", "gu")):
        text += [f"{name}{at} = MatMul({now}, w{name}{at})" for name in order]
        text += [f"r{at} = Sigmoid(g{at})", f"p{at} = Mul({', '.join(f'{a}{at}' for a in ('ru', 'ur')[at % 2])})"]
        text += [f"d{at} = MatMul(p{at}, wd{at})", f"s{at} = Add({now}, d{at})"]
        weights |= {f"w{name}{at}": weight(*((32, 16) if name == "d" else (16, 32))) for name in "gud"}
        now = f"s{at}"
    model = graph(*text, f"y = Relu({now})", inputs=X, **weights)
    assert DropLayers(layers=(1,), merge=True).apply(model, Context()).matches == 1
    for name in "gud":
        found = constant_of(model.graph.initializers[f"w{name}0"])
        np.testing.assert_allclose(found, weights[f"w{name}1"], rtol=1e-5, atol=1e-6)  # type: ignore[arg-type]


def test_blocks_are_tried_as_they_are_merged() -> None:
    plain = stack((1.0, 0.3, 0.5, 0.2), after=False)
    tried = plain.clone()
    outcome = DropLayers(count=1, score="output", merge=True, repair=False).apply(tried, calibrated(plain))
    (chosen,) = (int(finding.place.split()[1]) for finding in outcome.findings)
    errors = []
    for at in range(4):
        model = plain.clone()
        DropLayers(layers=(at,), merge=True, repair=False).apply(model, calibrated(plain))
        errors.append(error(plain, model))
    assert chosen == int(np.argmin(errors))


def test_a_graph_without_blocks_is_told() -> None:
    (finding,) = DropLayers().apply(graph("y = Relu(x)", inputs=X), Context()).findings
    assert finding.miss is not None
    assert finding.miss.rule == "blocks"


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (DropLayers(count=3), "count below the 3 blocks"),
        (DropLayers(layers=(7,)), "no block 7; the model has 3"),
        (DropLayers(layers=(0, 1, 2)), "expected a block to stay"),
        (DropLayers(score="influence"), "calibration data are needed"),
    ],
)
def test_what_cannot_be_is_refused(made: DropLayers, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        made.apply(stack((1.0, 1.0, 1.0), after=False), Context())


def test_a_count_below_zero_is_refused() -> None:
    with pytest.raises(OptionError, match="at least 0"):
        DropLayers(count=-1)
