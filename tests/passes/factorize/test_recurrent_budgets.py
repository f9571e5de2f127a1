"""Ranks of recurrent layers within a budget of multiply-adds, or of what layers take on the target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.errors import OptionError
from tersor.ir.site import sites
from tersor.ir.text import lines
from tersor.passes.base import Candidate, Context, Miss, Pass
from tersor.passes.budget import costs_by_name
from tersor.passes.factorize.factorize_recurrent import FactorizeRecurrent
from tersor.passes.factorize.recurrences import Item, items
from tersor.passes.factorize.recurrent_costs import Multiplied
from tersor.tests.passes.factorize.recurrent import GATES, calibrated, factored, noise, stacked


def never(item: Item, rank: int) -> bool:
    return False


def full(op: str, direction: str = "forward") -> ir.Model:
    """Two layers whose weights read every direction."""
    model = stacked(op, direction)
    for name in ("w0", "r0", "w1", "r1"):
        held = model.graph.initializers[name]
        held.const_value = ir.tensor(noise(*held.const_value.shape).astype(np.float32))
    return model


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("shared", ["always", "never"])
@pytest.mark.parametrize("recurrent", ["weight", "loop"])
def test_what_is_predicted_is_what_the_made_model_costs(op: str, direction: str, shared: str, recurrent: str) -> None:
    model = stacked(op, direction)
    before = Multiplied.of_model(model, lambda item, rank: recurrent == "loop")
    assert before.total == before.first == sum(costs_by_name(model, "flops").values())
    every = items(list({site.weight: site for site in sites(model)}.values()), shared == "always")
    ahead = before.around(every)[0] + sum(before.of(item, 4) for item in every)
    factored(FactorizeRecurrent(rank=4, shared=shared, recurrent=recurrent, smallest=1), model)  # type: ignore[arg-type]
    after = Multiplied.of_model(model, never)
    assert (after.total, after.first) == (ahead, before.first)


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize(("recurrent", "share"), [("weight", 0.75), ("loop", 0.8), ("loop", 0.5), ("auto", 0.75)])
def test_a_budget_of_flops_is_kept_and_nearly_used(op: str, direction: str, recurrent: str, share: float) -> None:
    model = full(op, direction)
    before = sum(costs_by_name(model, "flops").values())
    made = FactorizeRecurrent(budget=f"{share} flops", recurrent=recurrent, multiple=1, smallest=1)  # type: ignore[arg-type]
    found = factored(made, model)
    spent = Multiplied.of_model(model, never)
    assert 0.9 * share * before <= spent.total <= share * before
    assert sum(costs_by_name(model, "flops").values()) <= spent.total
    assert found.curve is not None and found.curve.chosen[0] == pytest.approx(spent.total / before)
    after = lines(model)
    assert not factored(made, model).matches
    assert lines(model) == after


@pytest.mark.parametrize("recurrent", ["weight", "loop"])
def test_no_other_ranks_lose_less_within_the_budget(recurrent: str) -> None:
    model = full("LSTM")
    made = FactorizeRecurrent(budget="0.8 flops", recurrent=recurrent, shared="never", multiple=4, smallest=1)  # type: ignore[arg-type]
    costs, every = Multiplied.of_model(model, lambda item, rank: recurrent == "loop"), items(sites(model), False)
    lists = []
    for item in every:
        lost = item.lost({}, leading=False, damping=0.0)
        ways = [(costs.whole(item), 0.0)]
        ways += [(costs.of(item, r), float(lost[r])) for r in range(4, item.most + 1, 4)]
        lists.append([way for at, way in enumerate(ways) if not at or way[0] < ways[0][0]])
    room = 0.8 * costs.first - costs.around(every)[0]
    best = min(sum(loss for _, loss in each) for each in product(*lists) if sum(cost for cost, _ in each) <= room)
    found = factored(made, model)
    assert found.curve is not None and found.curve.chosen[1] == pytest.approx(best)


def test_what_pays_as_a_loop_counts_as_two_products() -> None:
    def pays(made: Pass, model: ir.Model, site: Candidate) -> Miss | None:
        return None

    model = full("LSTM")
    made = FactorizeRecurrent(budget="0.4 flops", multiple=1, smallest=1)
    with pytest.raises(OptionError, match=r"0\.4 flops cannot be kept.*recurrent=loop"):
        made.apply(full("LSTM"), Context())
    before = sum(costs_by_name(model, "flops").values())
    factored(made, model, Context(pays=pays))
    assert Multiplied.of_model(model, never).total <= 0.4 * before
    assert any(node.op_type == "ProjectedLSTM" for node in model.graph)


def test_weights_of_states_alone_cost_no_less_at_load() -> None:
    made = FactorizeRecurrent(budget="0.9 flops", recurrent="weight", ignore=("kind:recurrent-input",), smallest=1)
    outcome = factored(made, full("GRU"))
    assert not outcome.matches
    told = {finding.place.split(" ")[0]: str(finding.miss) for finding in outcome.misses}
    assert all("recurrent=loop" in told[name] for name in ("r0.hidden", "r1.hidden")), told


class TestLatency:
    """Each number of a weight takes as long as any other."""

    @staticmethod
    def latency(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> float:
        return 1e-9 * TestLatency.numbers(model)

    @staticmethod
    def numbers(model: ir.Model) -> int:
        values = {value for node in model.graph for value in node.inputs if value is not None}
        stored = [value for value in model.graph.initializers.values() if value in values]
        return sum(value.const_value.size for value in stored if len(value.shape) > 1)

    @pytest.mark.parametrize("recurrent", ["weight", "loop"])
    @pytest.mark.parametrize("direction", ["forward", "bidirectional"])
    @pytest.mark.parametrize("op", GATES)
    def test_it_is_kept_by_what_was_timed(self, op: str, direction: str, recurrent: str) -> None:
        model = full(op, direction)
        before = self.numbers(model)
        made = FactorizeRecurrent(budget="0.8 latency", recurrent=recurrent, multiple=1, smallest=1)  # type: ignore[arg-type]
        context = replace(calibrated(model), latency=self.latency)
        outcome = factored(made, model, context)
        assert outcome.matches
        assert outcome.curve is not None and outcome.curve.chosen[0] <= 0.8
        once, notes = lines(model), [dict(node.metadata_props) for node in model.graph]
        assert not factored(made, model, context).matches
        assert (lines(model), [dict(node.metadata_props) for node in model.graph]) == (once, notes)
        if recurrent == "loop":
            # what is timed of two factors is not what is timed of one weight less another
            assert 0.6 * before <= self.numbers(model) <= 0.85 * before

    def test_what_is_left_alone_is_not_noted(self) -> None:
        model = full("LSTM")
        made = FactorizeRecurrent(budget="1 latency", recurrent="loop", smallest=1)
        assert not factored(made, model, replace(calibrated(model), latency=self.latency)).matches
        assert not any("tersor.factored.nanoseconds" in node.metadata_props for node in model.graph)

    def test_loops_that_are_slow_are_not_taken(self) -> None:
        def slow(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> float:
            return 1e-6 * (1 + any(node.op_type.startswith("Projected") for node in model.graph))

        model = full("LSTM")
        made = FactorizeRecurrent(budget="0.8 latency", recurrent="loop", smallest=1)
        outcome = factored(made, model, replace(calibrated(model), latency=slow))
        assert not outcome.matches
        told = {finding.place.split(" ")[0]: str(finding.miss) for finding in outcome.misses}
        assert told["r0.hidden"].endswith("needed a rank at which the factors take less time on the target")

    @pytest.mark.parametrize("context", [Context(), Context(latency=lambda model, feeds: 1.0)])
    def test_there_is_a_target_and_data(self, context: Context) -> None:
        with pytest.raises(OptionError, match="a budget of latency is one of a target on some data"):
            FactorizeRecurrent(budget="0.8 latency", smallest=1).apply(full("LSTM"), context)
