"""Answers of the original that changes are held against: on which batches, and what is lost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.feeds import random_feeds
from tersor.ir.runner import runner
from tersor.ir.text import graph
from tersor.passes.answers import Answers
from tersor.passes.base import Context, Pass
from tersor.passes.drop import Form, cosine, kl
from tersor.passes.prune.drop_layers import DropLayers
from tersor.passes.prune.drop_sublayers import DropSublayers
from tersor.passes.prune.prune_budget import PruneBudget
from tersor.passes.statistics import Calibration
from tersor.passes.trail import unchanged
from tersor.tests.passes.corpus_prune import redundant_layers
from tersor.tests.support import ROUNDED, inside_if


def layer(scale: float = 1.0) -> ir.Model:
    rng = np.random.default_rng(5)
    weight = rng.standard_normal((6, 4)) + (scale - 1) * rng.standard_normal((6, 4))
    return graph("y = MatMul(x, w)", inputs={"x": "float[batch, 6]"}, w=weight.astype(np.float32))


def data(count: int) -> Calibration:
    return Calibration([random_feeds(layer(), {"batch": 3}, seed=seed) for seed in range(count)])


@pytest.mark.parametrize(
    ("count", "most", "held"),
    [(8, 2, [2, 6]), (8, 4, [1, 3, 5, 7]), (8, 100, [1, 3, 5, 7]), (5, 100, [1, 3]), (3, 1, [1]), (2, 4, [1])],
)
def test_some_batches_are_held_out_and_the_rest_are_the_others(count: int, most: int, held: list[int]) -> None:
    calibration = data(count)
    answers = Answers.of(layer(), calibration, batches=most)
    assert [feeds is calibration.batches[at] for feeds, at in zip(answers.batches, held, strict=True)] == [True] * len(
        held
    )
    others = [feeds for at, feeds in enumerate(calibration.batches) if at not in held]
    assert [one is other for one, other in zip(answers.rest.batches, others, strict=True)] == [True] * len(others)


def test_a_single_batch_is_both() -> None:
    calibration = data(1)
    answers = Answers.of(layer(), calibration, batches=4)
    assert answers.batches[0] is answers.rest.batches[0] is calibration.batches[0]


@pytest.mark.parametrize("form", ["cosine", "kl"])
def test_the_loss_is_the_mean_over_rows(form: Form) -> None:
    answers, changed = Answers.of(layer(), data(4), batches=2, form=form), layer(1.3)
    rows = [
        [np.asarray(runner(model)(feeds)["y"], np.float64) for feeds in answers.batches] for model in (layer(), changed)
    ]
    drops = {"cosine": cosine, "kl": kl}[form](*(np.concatenate(each) for each in rows))
    assert answers.loss(changed) == pytest.approx(drops.mean()) != 0
    assert answers.loss(layer()) == 0


def blocks(scale: float = 1.0) -> ir.Model:
    """Three branches, of which `scale` changes the second; the third reads what came before it as well."""
    rng = np.random.default_rng(3)
    weights = {f"w{at}": 0.3 * rng.standard_normal((6, 6)).astype(np.float32) for at in range(3)}
    weights["w1"] = weights["w1"] * np.float32(scale)
    return graph(
        "a = MatMul(x, w0)", "r = Relu(a)", "s = Add(x, r)", "b = MatMul(s, w1)", "t = Add(s, b)", "m = Mul(t, r)",
        "c = MatMul(m, w2)", "y = Add(t, c)", inputs={"x": "float[batch, 6]"}, **weights,
    )  # fmt: skip


def changing(model: ir.Model, name: str) -> set[ir.Node]:
    return set(model.graph.initializers[name].consumers())


@pytest.mark.parametrize(("name", "wanted"), [("w0", []), ("w1", ["s", "r"]), ("w2", ["m", "t"])])
def test_what_lies_before_a_change_is_unchanged(name: str, wanted: list[str]) -> None:
    model = blocks()
    assert sorted(value.name or "" for value in unchanged(model, changing(model, name))) == sorted(wanted)


def giving(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """With other values as its outputs."""
    made = {value.name: value for node in model.graph for value in node.outputs}
    model.graph.outputs[:] = [made[name] for name in names]
    return model


@pytest.mark.parametrize("outputs", [("y",), ("y", "s"), ("s", "t"), ("r", "y"), ("s",)])
def test_a_run_from_a_change_on_loses_what_a_whole_one_does(outputs: tuple[str, ...]) -> None:
    original = giving(blocks(), outputs)
    answers = Answers.of(original, data(6), batches=3)
    whole = [answers.loss(giving(blocks(scale), outputs)) for scale in (0.5, 2.0)]
    for _ in range(2):
        # forwards, and back again
        for name in ("w0", "w1"):
            found = [answers.loss(giving(blocks(scale), outputs), changing(original, name)) for scale in (0.5, 2.0)]
            assert found == pytest.approx(whole, rel=ROUNDED[np.float32])


def test_only_what_lies_behind_a_change_runs() -> None:
    original, broken = blocks(), blocks(0.5)
    first = broken.graph.initializers["w0"].const_value
    assert first is not None
    # what the changed model has before the change is not looked at
    broken.graph.initializers["w0"].const_value = ir.tensor(7 * first.numpy(), name="w0")
    answers = Answers.of(original, data(6), batches=3)
    assert answers.loss(broken, changing(original, "w1")) == pytest.approx(
        answers.loss(blocks(0.5)), rel=ROUNDED[np.float32]
    )


def test_a_change_in_a_branch_of_an_if_is_one_of_the_if() -> None:
    original = inside_if(blocks())
    answers = Answers.of(
        original, Calibration([{**feeds, "cond": np.array(True)} for feeds in data(4).batches]), batches=2
    )
    node = next(iter(original.graph.initializers["w1"].consumers()))
    assert unchanged(original, {node}) == []
    assert answers.loss(inside_if(blocks(0.5)), {node}) == pytest.approx(
        Answers.of(blocks(), data(4), batches=2).loss(blocks(0.5)), rel=ROUNDED[np.float32]
    )


def test_nodes_of_another_model_are_refused() -> None:
    original = blocks()
    answers = Answers.of(original, data(4), batches=2)
    with pytest.raises(ValueError, match="of another"):
        answers.loss(blocks(0.5), changing(blocks(), "w1"))


def test_inputs_with_a_default_may_be_left_out() -> None:
    def model(scale: float = 1.0) -> ir.Model:
        made = blocks(scale)
        made.graph.inputs.append(made.graph.initializers["w2"])
        return made

    answers = Answers.of(model(), data(4), batches=2)
    changed = changing(answers.original, "w1")
    assert answers.loss(model(0.5), changed) == pytest.approx(answers.loss(model(0.5)), rel=ROUNDED[np.float32])


def test_what_follows_from_constants_alone_is_no_value_that_is_kept() -> None:
    model = graph(
        "c = Constant{value_float=2.0}()", "d = Exp(c)", "a = MatMul(x, w0)", "b = Mul(a, d)", "e = MatMul(b, w1)",
        "y = Mul(e, d)",
        inputs={"x": "float[batch, 6]"}, w0=np.eye(6, dtype=np.float32), w1=np.ones((6, 6), np.float32),
    )  # fmt: skip
    assert [value.name for value in unchanged(model, changing(model, "w1"))] == ["b"]


@pytest.mark.parametrize("made", [DropLayers(drop="kl"), DropSublayers(drop="kl"), PruneBudget(drop="kl")])
def test_what_passes_ask_of_answers_is_an_option(made: Pass, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()
    plain = Answers.of

    def of(*given: object, form: str = "cosine", batches: int) -> Answers:
        asked.append(form)
        return plain(*given, form=form, batches=batches)  # type: ignore[arg-type]

    monkeypatch.setattr(Answers, "of", of)
    model = redundant_layers()
    batches = [random_feeds(model, {"batch": 4, "sequence": 6}, seed=seed) for seed in range(6)]
    made.apply(model, Context(calibration=Calibration(batches)))
    assert asked == ["kl"]
