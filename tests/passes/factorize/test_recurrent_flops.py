"""Ranks of recurrent layers within a budget of multiply-adds."""

from __future__ import annotations

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
from tersor.passes.factorize.recurrences import items
from tersor.passes.factorize.recurrent_costs import Multiplied
from tersor.tests.passes.factorize.recurrent import GATES, factored, noise, stacked


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
    before = Multiplied.of_model(model)
    assert before.total == before.first == sum(costs_by_name(model, "flops").values())
    every = items(list({site.weight: site for site in sites(model)}.values()), shared == "always")
    ahead = before.around(every)[0] + sum(before.of(item, 4, stepped=recurrent == "loop") for item in every)
    factored(FactorizeRecurrent(rank=4, shared=shared, recurrent=recurrent, smallest=1), model)  # type: ignore[arg-type]
    after = Multiplied.of_model(model)
    assert (after.total, after.first) == (ahead, before.first)


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize(("recurrent", "share"), [("weight", 0.75), ("loop", 0.8), ("loop", 0.5), ("auto", 0.75)])
def test_a_budget_of_flops_is_kept_and_nearly_used(op: str, direction: str, recurrent: str, share: float) -> None:
    model = full(op, direction)
    before = sum(costs_by_name(model, "flops").values())
    made = FactorizeRecurrent(budget=f"{share} flops", recurrent=recurrent, multiple=1, smallest=1)  # type: ignore[arg-type]
    found = factored(made, model)
    spent = Multiplied.of_model(model)
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
    costs, every = Multiplied.of_model(model), items(sites(model), False)
    lists = []
    for item in every:
        lost = item.lost({}, leading=False, damping=0.0)
        ways = [(costs.whole(item), 0.0)]
        ways += [(costs.of(item, r, stepped=recurrent == "loop"), float(lost[r])) for r in range(4, item.most + 1, 4)]
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
    assert Multiplied.of_model(model).total <= 0.4 * before
    assert any(node.op_type == "ProjectedLSTM" for node in model.graph)


def test_weights_of_states_alone_cannot_keep_it_at_load() -> None:
    made = FactorizeRecurrent(budget="0.9 flops", recurrent="weight", ignore=("kind:recurrent-input",), smallest=1)
    with pytest.raises(OptionError, match="recurrent=loop"):
        made.apply(full("GRU"), Context())
