"""Under one budget: what stays where, against every way there is, and that the budget is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.cost import cost
from tersor.ir.errors import OptionError
from tersor.ir.feeds import Feeds, random_feeds
from tersor.ir.runner import runner
from tersor.ir.site import sites
from tersor.ir.text import graph
from tersor.passes.answers import Answers
from tersor.passes.base import Context, Outcome
from tersor.passes.budget import Budget, Level, chosen
from tersor.passes.prune.carving import Carver
from tersor.passes.prune.prune_budget import PruneBudget
from tersor.passes.prune.prune_heads import PruneHeads
from tersor.passes.prune.prune_neurons import PruneNeurons
from tersor.passes.prune.units import Units
from tersor.passes.statistics import Calibration
from tersor.tests.passes.corpus_attention import X, normal
from tersor.tests.passes.corpus_prune import redundant_layers

SIZES = {"batch": 8, "sequence": 24}


def calibrated(model: ir.Model) -> Context:
    return Context(calibration=Calibration([random_feeds(model, SIZES, seed=seed) for seed in range(8)]))


def multiplied(model: ir.Model) -> int:
    """FLOPs of the nodes with weights."""
    nodes = {site.node for site in sites(model)}
    found = cost(model, SIZES)
    return sum(each.flops.constant or 0 for each in found.nodes if each.node in nodes)


def stored(model: ir.Model) -> int:
    weights = dict.fromkeys(site.weight for site in sites(model))
    return sum(weight.const_value.nbytes for weight in weights if weight.const_value is not None)


def error(one: ir.Model, other: ir.Model) -> float:
    feeds = random_feeds(one, SIZES, seed=99)
    first, second = (runner(model)(feeds)["y"] for model in (one, other))
    return float(np.linalg.norm(first - second) / np.linalg.norm(first))


@pytest.mark.parametrize("share", [0.9, 0.7, 0.5])
def test_flops_are_kept_below(share: float) -> None:
    plain = redundant_layers()
    model = plain.clone()
    outcome = PruneBudget(budget=f"{share} flops", levels=4, multiple=8).apply(model, calibrated(model))
    spent = multiplied(model) / multiplied(plain)
    assert spent <= share
    assert outcome.curve is not None
    assert outcome.curve.chosen[0] == pytest.approx(spent, abs=1e-3)
    assert error(plain, model) < 0.5


def test_bytes_are_kept_below() -> None:
    plain = redundant_layers()
    model = plain.clone()
    PruneBudget(budget="0.6 bytes", levels=4, multiple=8).apply(model, calibrated(model))
    assert stored(model) <= 0.6 * stored(plain)


@pytest.mark.parametrize("kinds", [("neurons",), ("heads",), ("branches",)])
def test_only_these_kinds_go(kinds: tuple[str, ...]) -> None:
    plain = redundant_layers()
    model = plain.clone()
    share = {"heads": 0.85}.get(kinds[0], 0.7)
    made = PruneBudget(budget=f"{share} flops", levels=4, multiple=8, kinds=kinds)  # type: ignore[arg-type]
    outcome = made.apply(model, calibrated(model))
    told = {finding.place.split(" ")[0]: finding.chosen for finding in outcome.findings if finding.chosen}
    heads = {name: text for name, text in told.items() if name.startswith("wo")}
    neurons = {name: text for name, text in told.items() if name.startswith("wd")}
    if kinds != ("branches",):
        assert not any(text.endswith("-> 0") for text in told.values())
        assert all("->" not in text for text in (neurons if kinds == ("heads",) else heads).values())
    else:
        assert {text for text in told.values() if "->" in text} <= {"4 -> 0", "64 -> 0"}
    assert any("->" in text for text in told.values())


def test_jointly_is_better_than_the_same_share_everywhere() -> None:
    plain = redundant_layers()
    jointly, context = plain.clone(), calibrated(plain)
    PruneBudget(budget="0.5 flops", levels=8, multiple=4).apply(jointly, context)
    alike = plain.clone()
    PruneNeurons(ratio=0.5).apply(alike, calibrated(plain))
    PruneHeads(ratio=0.5).apply(alike, calibrated(plain))
    assert multiplied(jointly) <= multiplied(alike)
    assert error(plain, jointly) < error(plain, alike)


def test_levels_are_chosen_as_trying_all_would() -> None:
    rng = np.random.default_rng(0)
    parts = []
    for _ in range(4):
        losses = [0.0, *np.sort(rng.random(4))]
        parts.append([Level(units, 100.0 * units, loss) for units, loss in zip((8, 6, 4, 2, 0), losses, strict=True)])
    for share in (0.3, 0.5, 0.8):
        taken, curve = chosen(parts, 400.0, Budget(share, "flops"), advice="")
        room = share * (400 + 4 * 800) - 400
        able = [ways for ways in product(*parts) if sum(way.cost for way in ways) <= room]
        best = min(sum(way.loss for way in ways) for ways in able)
        assert sum(level.loss for level in taken) == pytest.approx(best)
        assert curve.chosen[0] <= share


@pytest.mark.parametrize("budget", ["0.5", "1.5 flops", "0 flops", "50% flops", "0.5 tokens"])
def test_what_is_no_budget_is_refused(budget: str) -> None:
    with pytest.raises(OptionError, match=r"expected a budget such as '0\.45 flops'"):
        PruneBudget(budget=budget)


def test_a_budget_that_cannot_be_kept_says_what_can() -> None:
    model = redundant_layers()
    with pytest.raises(OptionError, match=r"leaves 0\.[0-9]+ of it"):
        PruneBudget(budget="0.01 flops", kinds=("heads",)).apply(model, calibrated(model))


def test_all_of_it_is_the_identity() -> None:
    model = redundant_layers()
    before = stored(model)
    assert not PruneBudget(budget="1 flops").apply(model, calibrated(model)).matches
    assert stored(model) == before


def test_data_are_asked_for() -> None:
    with pytest.raises(OptionError, match="calibration data are needed"):
        PruneBudget().apply(redundant_layers(), Context())


def test_a_latency_is_kept_by_what_parts_take() -> None:
    """A target on which every weight costs a nanosecond, however often it is read."""

    def latency(part: ir.Model, feeds: Feeds) -> float:
        runner(part)(feeds)
        tensors = (value.const_value for value in part.graph.initializers.values())
        return 1e-9 * sum(tensor.size for tensor in tensors if tensor is not None)

    plain = redundant_layers()
    noise = iter(1 + 0.3 * np.random.default_rng(0).random(10_000))
    model, context = plain.clone(), replace(calibrated(plain), latency=latency)
    PruneBudget(budget="0.6 latency", levels=4, multiple=8).apply(model, context)
    assert stored(model) <= 0.6 * stored(plain)
    # what is timed again is never quite the same
    noisy = replace(context, latency=lambda part, feeds: next(noise) * latency(part, feeds))
    again = PruneBudget(budget="0.6 latency", levels=4, multiple=8).apply(model, noisy)
    assert not again.matches
    (miss,) = (finding.miss for finding in again.findings if finding.place == "the graph")
    assert miss is not None
    assert miss.rule == "budget"


def test_a_latency_needs_a_target() -> None:
    model = redundant_layers()
    with pytest.raises(OptionError, match="a latency is one of a target"):
        PruneBudget(budget="0.6 latency").apply(model, calibrated(model))


def joined() -> ir.Model:
    """Two layers whose neurons one projection reads side by side, and that another weight makes with the first's."""
    return graph(
        "p = MatMul(x, w)", "a, b = Split{axis=-1, num_outputs=2}(p)", "f = Relu(a)", "g = Gelu(b)",
        "c = Concat{axis=-1}(f, g)", "o = MatMul(c, v)", "y = Add(x, o)",
        inputs=X, w=normal(32, 128), v=0.3 * normal(128, 33)[:, :32],
    )  # fmt: skip


def deep() -> ir.Model:
    """A branch of three layers: the one in the middle is cut on both sides."""
    return graph(
        "a = MatMul(x, w)", "f = Relu(a)", "b = MatMul(f, u)", "g = Relu(b)", "o = MatMul(g, v)", "y = Add(x, o)",
        inputs=X, w=normal(32, 64), u=normal(64, 64), v=0.3 * normal(64, 33)[:, :32],
    )  # fmt: skip


@pytest.mark.parametrize("unit", ["flops", "bytes"])
@pytest.mark.parametrize("made", [joined, deep])
def test_weights_of_several_groups_are_counted_as_they_are_cut(made: Callable[[], ir.Model], unit: str) -> None:
    plain = made()
    model = plain.clone()
    outcome = PruneBudget(budget=f"0.6 {unit}", levels=8, multiple=8, kinds=("neurons",)).apply(
        model, calibrated(plain)
    )
    measure = multiplied if unit == "flops" else stored
    spent = measure(model) / measure(plain)
    assert spent <= 0.6
    assert outcome.curve is not None
    if made is joined:
        assert outcome.curve.chosen[0] == pytest.approx(spent, abs=1e-3)
    else:
        assert outcome.curve.chosen[0] >= spent


def test_bytes_are_those_of_all_weights() -> None:
    plain = graph(
        "e = Gather(table, ids)", "a = MatMul(e, w)", "b = Add(a, c)", "f = Relu(b)", "o = MatMul(f, v)",
        "y = Add(e, o)",
        inputs={"ids": "int64[batch, sequence]"}, table=normal(64, 32), w=normal(32, 64), v=normal(64, 32),
        c=normal(64),
    )  # fmt: skip

    def every(model: ir.Model) -> int:
        return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)

    model = plain.clone()
    PruneBudget(budget="0.75 bytes", multiple=4, kinds=("neurons",)).apply(model, calibrated(plain))
    assert 0.7 < every(model) / every(plain) <= 0.75
    with pytest.raises(OptionError, match="cannot be kept"):
        PruneBudget(budget="0.3 bytes").apply(plain.clone(), calibrated(plain))


def test_a_block_that_is_used_again_is_no_branch_of_its_own() -> None:
    """As in ALBERT: what goes in one place would go in all."""
    text, before = list[str](), "x"
    for at in range(3):
        text += [f"a{at} = MatMul({before}, w)", f"h{at} = Relu(a{at})", f"o{at} = MatMul(h{at}, v)"]
        text += [f"s{at} = Add({before}, o{at})"]
        before = f"s{at}"
    model = graph(*text, f"y = Relu({before})", inputs=X, w=normal(32, 64), v=0.2 * normal(64, 32))
    outcome = PruneBudget(budget="0.5 flops", multiple=8).apply(model, calibrated(model))
    assert [finding.chosen for finding in outcome.findings if finding.chosen] == ["64 -> 32"]


@pytest.mark.parametrize("repair", [False, True])
def test_a_branch_goes_whose_weight_cannot_be_fitted(repair: bool) -> None:
    plain = graph(
        "a = MatMul(x, w)", "f = Relu(a)", "c = Cast{to=1}(v)", "o = MatMul(f, c)", "s = Add(x, o)",
        "b = MatMul(s, u)", "g = Relu(b)", "p = MatMul(g, t)", "y = Add(s, p)",
        inputs=X, w=normal(32, 64), v=(0.01 * normal(64, 33)[:, :32]).astype(np.float16), u=normal(32, 64),
        t=normal(65, 32)[:64],
    )  # fmt: skip
    model = plain.clone()
    made = PruneBudget(budget="0.5 flops", kinds=("branches",), repair=repair)
    outcome = made.apply(model, calibrated(plain))
    assert "64 -> 0" in {finding.chosen for finding in outcome.findings}
    assert error(plain, model) < 0.05


def rules(outcome: Outcome) -> list[str]:
    found = [finding.miss.rule for finding in outcome.findings if finding.miss is not None]
    # the stream itself, which norms and the model's input hold
    return [rule for rule in found if rule != "held"]


def test_what_there_is_nothing_to_do_for_is_told() -> None:
    model = redundant_layers()
    context = calibrated(model)
    assert rules(PruneBudget(budget="1 flops").apply(model, context)) == ["budget"]
    made = PruneBudget(ignore=("nothing like it",), kinds=("branches",), budget="1 flops")
    assert rules(made.apply(model, context)) == ["ignore", "budget"]
    plain = graph("y = MatMul(x, w)", inputs=X, w=normal(32, 32))
    assert rules(PruneBudget().apply(plain, calibrated(plain))) == ["units"]


def test_attention_that_was_not_raised_is_told() -> None:
    model = graph(
        "q = MatMul(x, w)", "t = Transpose{perm=[0, 2, 1]}(x)", "s = MatMul(q, t)", "p = Softmax(s)",
        "a = MatMul(p, x)", "f = MatMul(a, u)", "g = Relu(f)", "y = MatMul(g, v)",
        inputs=X, w=normal(32, 32), u=normal(32, 64), v=normal(64, 32),
    )  # fmt: skip
    assert "attention" in rules(PruneBudget(budget="0.9 flops").apply(model, calibrated(model)))
    assert "attention" not in rules(PruneBudget(kinds=("neurons",)).explain(model, calibrated(model)))


def test_kinds_that_may_not_go_are_no_findings() -> None:
    model = redundant_layers()
    made = PruneBudget(budget="0.9 flops", kinds=("neurons",), multiple=8)
    outcome = made.apply(model, calibrated(model))
    assert {finding.place.split(" ")[0] for finding in outcome.findings if not finding.miss} == {"wd0", "wd1"}
    assert "kind" not in rules(outcome)


def test_names_and_levels_choose() -> None:
    for made, places in (
        (PruneBudget(budget="0.95 flops", only=("wd0",), levels=2), {"wd0"}),
        (PruneBudget(budget="0.95 flops", ignore=("wo*", "wd1"), levels=2), {"wd0"}),
    ):
        model = redundant_layers()
        outcome = made.apply(model, calibrated(model))
        told = {finding.place.split(" ")[0]: finding.chosen for finding in outcome.findings if finding.chosen}
        assert told.keys() == places
        # between one number and none
        assert set(told.values()) <= {"64 -> 32", "64 -> 0"}
    model = redundant_layers()
    outcome = PruneBudget(budget="0.9 flops", kinds=("neurons",), levels=8, multiple=8).apply(model, calibrated(model))
    assert any("-> 56" in finding.chosen for finding in outcome.findings)


def test_repair_helps() -> None:
    plain, errors = redundant_layers(), []
    for repair in (False, True):
        model = plain.clone()
        PruneBudget(budget="0.5 flops", repair=repair, multiple=8).apply(model, calibrated(plain))
        errors.append(error(plain, model))
    assert errors[1] < errors[0]


def test_answers_are_held_against_batches_that_were_not_fitted_to(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Answers]] = []
    fitted: list[list[Feeds]] = []
    of, see = Answers.of, Carver.see_all

    def answers(*given: object, form: str = "cosine", batches: int) -> Answers:
        asked.append((form, of(*given, form=form, batches=batches)))  # type: ignore[arg-type]
        return asked[-1][1]

    def seen(carver: Carver, groups: Sequence[Units]) -> object:
        assert carver.calibration is not None
        fitted.append(list(carver.calibration.batches))
        return see(carver, groups)

    monkeypatch.setattr(Answers, "of", answers)
    monkeypatch.setattr(Carver, "see_all", seen)
    model = redundant_layers()
    PruneBudget(budget="0.8 flops", drop="kl", levels=2).apply(model, calibrated(model))
    ((form, held),) = asked
    assert form == "kl"
    assert held.batches
    assert not {id(feeds) for feeds in fitted[0]} & {id(feeds) for feeds in held.batches}


def test_units_of_zeros_are_those_that_go() -> None:
    plain = redundant_layers()
    for name, keep in {"wd0": 40, "wd1": 24, "wo0": 16, "wo1": 24}.items():
        value = plain.graph.initializers[name]
        assert value.const_value is not None
        value.const_value = ir.tensor(
            value.const_value.numpy() * (np.arange(len(value.const_value.numpy())) < keep)[:, None]
        )
    # 64 inputs and outputs for each neuron and 32 * 4 for each feature of a head
    every = 2 * (64 * 3 * 32 + 32 * 4 * 32)
    share = (64 * 3 * 32 + 40 * 4 * 32) / every
    model = plain.clone()
    outcome = PruneBudget(budget=f"{share} flops", multiple=8).apply(model, calibrated(plain))
    told = {finding.place.split(" ")[0]: finding.chosen for finding in outcome.findings if finding.chosen}
    assert {name: text.split(";")[0] for name, text in told.items()} == {
        "wd0": "64 -> 40", "wd1": "64 -> 24", "wo0": "4 -> 2", "wo1": "4 -> 3",
    }  # fmt: skip
    feeds = random_feeds(plain, SIZES, seed=99)
    np.testing.assert_allclose(runner(model)(feeds)["y"], runner(plain)(feeds)["y"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"multiple": 0}, "a multiple of at least 1"),
        ({"levels": 1}, "at least 2 levels"),
        ({"kinds": ()}, "found none"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        PruneBudget(**options)  # type: ignore[arg-type]


def spread_mask() -> ir.Model:
    """Two layers of attention with one mask, which nodes repeat for each head before either of them."""
    text, weights = ["m = Expand(mask, heads)"], {"heads": np.array([1, 4, 1, 1])}
    stream = "x"
    for at in range(2):
        text += [
            *(f"{name}{at} = MatMul({stream}, w{name}{at})" for name in "qkv"),
            f"a{at} = Attention{{q_num_heads=4, kv_num_heads=4}}(q{at}, k{at}, v{at}, m)",
            f"o{at} = MatMul(a{at}, wo{at})", f"s{at} = Add({stream}, o{at})",
        ]  # fmt: skip
        stream = f"s{at}"
        weights |= {f"w{name}{at}": np.roll(normal(32, 32), at + shift, 0) for shift, name in enumerate("qkvo")}
    return graph(*text, "y = Identity(s1)", inputs=X | {"mask": "float[1, 1, sequence, sequence]"}, **weights)


def test_what_nodes_make_for_each_head_is_cut_with_the_heads() -> None:
    plain = spread_mask()
    model = plain.clone()
    outcome = PruneBudget(budget="0.6 flops", kinds=("heads",)).apply(model, calibrated(plain))
    assert outcome.matches
    assert multiplied(model) <= 0.6 * multiplied(plain)
    answers = Answers.of(plain, Calibration([random_feeds(plain, SIZES, seed=9)]), batches=1)
    assert 0 < answers.loss(model) < PruneBudget.contract.budget  # type: ignore[union-attr]
