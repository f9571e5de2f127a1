"""Ranks of recurrent layers: what bounds them, what is told of them, what a budget and sharing make of them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.text import graph, lines
from tersor.passes.base import Candidate, Context, Miss, Pass
from tersor.passes.factorize.factorize_recurrent import FactorizeRecurrent
from tersor.passes.factorize.timing import Thin
from tersor.passes.report import Size
from tersor.tests.passes.factorize.recurrent import HIDDEN, RANK, calibrated, factored, noise, stacked


@pytest.mark.parametrize("recurrent", ["weight", "loop"])
def test_ranks_are_no_higher_than_what_is_fast_on_the_target(recurrent: str) -> None:
    def pays(made: Pass, model: ir.Model, site: Candidate) -> Miss | None:
        assert isinstance(made, Thin)
        return Miss("speed", "half", "more") if made.rank > (8 if made.hidden else 4) else None

    for shared, options in (("never", {"ratio": 0.9}), ("never", {"energy": 0.9}), ("auto", {"ratio": 0.9})):
        model = stacked("LSTM", "bidirectional")
        for name in ("w0", "r0", "w1", "r1"):
            held = model.graph.initializers[name]
            held.const_value = ir.tensor(noise(*held.const_value.shape).astype(np.float32))
        made = FactorizeRecurrent(shared=shared, recurrent=recurrent, multiple=1, **options)  # type: ignore[arg-type]
        found = factored(made, model, Context(pays=pays))
        ranks = {
            finding.place.split()[0]: int(finding.chosen.split(",")[0].split(";")[0].removeprefix("rank "))
            for finding in found.findings if finding.chosen
        }  # fmt: skip
        assert all(rank <= 4 for name, rank in ranks.items() if name.startswith("w"))
        assert recurrent == "weight" or all(rank <= 8 for rank in ranks.values())
        if "energy" in options:
            assert "speed" in {finding.miss.rule for finding in found.misses if finding.miss is not None}


def test_explain_tells_the_ranks_and_changes_nothing() -> None:
    model = stacked("GRU")
    before, context = lines(model), calibrated(model)
    made = FactorizeRecurrent(ratio=0.4, recurrent="loop")
    told = made.explain(model, context)
    assert lines(model) == before
    assert told == made.apply(model, context) and any("rank" in finding.chosen for finding in told.findings)
    unfed = FactorizeRecurrent(algorithm="whitened").explain(stacked("GRU"), Context())
    assert unfed.matches and not any(finding.chosen for finding in unfed.findings)


@pytest.mark.parametrize("share", [0.8, 0.5])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_budget_of_bytes_is_of_all_weights(share: float, dtype: type) -> None:
    model = graph(
        "(y, h, _) = LSTM{hidden_size=32}(x, w, r)", "z = MatMul(y, v)",
        inputs={"x": f"{np.dtype(dtype).name.replace('float32', 'float')}[time, batch, 24]"}, outputs=["z", "h"],
        w=noise(1, 128, 24).astype(dtype), r=noise(1, 128, 32).astype(dtype), v=noise(32, 32).astype(dtype),
    )  # fmt: skip
    before = Size.of(model).bytes
    made = FactorizeRecurrent(budget=f"{share} bytes", multiple=1)
    found = factored(made, model)
    assert 0.93 * share * before <= Size.of(model).bytes <= share * before
    assert found.curve is not None and found.curve.chosen[0] == pytest.approx(Size.of(model).bytes / before)
    after = lines(model)
    assert not factored(made, model).matches
    assert lines(model) == after


def test_at_a_rank_what_is_shared_is_what_loses_less_and_of_an_energy_what_is_smaller() -> None:
    model = stacked("LSTM")
    held = model.graph.initializers["w1"]
    # other directions than those of R
    held.const_value = ir.tensor((noise(HIDDEN, 4) @ noise(4, 4 * HIDDEN)).T[None].astype(np.float32))
    for options in ({"rank": RANK}, {"energy": 0.999999}):
        found = factored(FactorizeRecurrent(multiple=1, **options), model.clone())  # type: ignore[arg-type]
        assert not any("that of the states below" in finding.chosen for finding in found.findings)
    found = factored(FactorizeRecurrent(multiple=1, energy=0.999999), stacked("LSTM"))
    assert any("that of the states below" in finding.chosen for finding in found.findings)


def test_a_bottleneck_of_the_models_own_is_no_factor() -> None:
    model = graph(
        "n = MatMul(x, q)", "(y, h) = LSTM{hidden_size=32}(n, w, r)", inputs={"x": "float[time, batch, 24]"},
        outputs=["y"], q=noise(24, 12).astype(np.float32), w=noise(1, 128, 12).astype(np.float32),
        r=noise(1, 128, 32).astype(np.float32),
    )  # fmt: skip
    found = factored(FactorizeRecurrent(rank=4, smallest=1), model)
    misses = {finding.place.split(" ")[0]: finding.miss for finding in found.findings}
    assert (misses["w.input"], misses["r.hidden"]) == (None, None)
