"""Under one budget: what stays where, against every way there is, and that the budget is kept."""

from __future__ import annotations

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
from tersor.passes.base import Context
from tersor.passes.prune.budget import Budget, Level, chosen
from tersor.passes.prune.prune_budget import PruneBudget
from tersor.passes.prune.prune_heads import PruneHeads
from tersor.passes.prune.prune_neurons import PruneNeurons
from tersor.passes.statistics import Calibration
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
        taken, curve = chosen(parts, 400.0, Budget(share, "flops"))
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
    model, context = plain.clone(), replace(calibrated(plain), latency=latency)
    PruneBudget(budget="0.6 latency", levels=4, multiple=8).apply(model, context)
    assert stored(model) <= 0.6 * stored(plain)
    again = PruneBudget(budget="0.6 latency", levels=4, multiple=8).apply(model, context)
    assert not again.matches


def test_a_latency_needs_a_target() -> None:
    model = redundant_layers()
    with pytest.raises(OptionError, match="a latency is one of a target"):
        PruneBudget(budget="0.6 latency").apply(model, calibrated(model))
