"""What ranks are predicted to lose: by the curve, by the error itself, and in the answers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.runner import runner
from tersor.ir.site import sites
from tersor.ir.text import graph
from tersor.passes.drop import Drop
from tersor.passes.factorize.groups import Group, groups
from tersor.passes.factorize.measure import Algorithm, Measure
from tersor.tests.passes.corpus_attention import X, normal
from tersor.tests.passes.factorize.linear import calibrated

ALGORITHMS = ("svd", "scaled", "fisher", "whitened", "kronecker")


def measured(algorithm: Algorithm) -> tuple[ir.Model, Group, Measure]:
    """One layer whose inputs are far from alike; what errors cost hardly depends on those, as answers lie close."""
    model = graph(
        "s = Mul(x, g)", "p = MatMul(s, w)", "y = Add(p, b)", inputs=X,
        g=np.geomspace(0.3, 3, 32).astype(np.float32), w=normal(32, 20), b=300 * normal(20),
    )  # fmt: skip
    (group,) = groups(sites(model))
    found = Measure.of(model, [group], algorithm, calibrated(model), drop="cosine", probes=256, compared=True)
    return model, group, found


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("rank", [1, 7, 15])
def test_the_curve_is_what_the_error_costs(algorithm: Algorithm, rank: int) -> None:
    _, group, measure = measured(algorithm)
    weight = group.weight()
    found = measure.spectrum(group, weight, None)
    error = weight - found.factors(rank).dense()
    curve = measure.lost(group, weight, found, None)
    # that of the damped matrices, by which the factors were found, is a little higher
    assert measure.lost_by(group, weight, error, None) == pytest.approx(curve[rank], rel=2e-2)
    assert curve[20] == 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_is_what_the_answers_lose(algorithm: Algorithm) -> None:
    model, group, measure = measured(algorithm)
    weight = group.weight()
    found = measure.spectrum(group, weight, None)
    # a small part of the error of rank 4, as the prediction is of small ones
    error = 0.1 * (weight - found.factors(4).dense())
    other = model.clone()
    (site,) = sites(other)
    site.weight.const_value = ir.tensor((weight - error).astype(np.float32), name=site.weight.name)
    drop, (before, after) = Drop.of(model), (runner(model), runner(other))
    context = calibrated(model)
    assert context.calibration is not None
    parts = [drop.measure(before(feeds), after(feeds), feeds) for feeds in context.calibration.batches]
    lost = sum(total for total, _ in parts) / sum(rows for _, rows in parts)
    assert measure.lost_by(group, weight, error, None) == pytest.approx(lost, rel=0.15)
    curve = measure.lost(group, weight, found, None)
    assert 0.01 * curve[4] == pytest.approx(lost, rel=0.15)
