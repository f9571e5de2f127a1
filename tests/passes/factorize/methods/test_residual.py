"""Low rank and what it leaves, against sums that are known and against the normal equations."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from tersor.passes.factorize.methods.residual import Metric, Rest, alternated, diagonal, quantized, sparse
from tersor.passes.numerics.grid import Scheme
from tersor.passes.numerics.low_rank import spectrum

RNG = np.random.default_rng(0)
SIZE, RANK = 20, 3
LOW = RNG.standard_normal((SIZE, RANK)) @ RNG.standard_normal((RANK, SIZE))
INPUTS = RNG.standard_normal((90, SIZE)) * np.exp(RNG.standard_normal(SIZE))
OUTPUTS = RNG.standard_normal((90, SIZE)) * np.exp(RNG.standard_normal(SIZE) / 2)
METRICS = {
    "plain": Metric(),
    "rows": Metric(np.exp(RNG.standard_normal(SIZE))),
    "inputs": Metric(INPUTS.T @ INPUTS),
    "both": Metric(INPUTS.T @ INPUTS, OUTPUTS.T @ OUTPUTS),
}
FLOAT = np.dtype(np.float64)


def weighed(error: np.ndarray, metric: Metric) -> float:
    """|L E R|^2 from roots of both."""
    left = np.eye(SIZE) if metric.inputs is None else metric.inputs
    left = np.diag(left) if left.ndim == 1 else np.linalg.cholesky(left).T if metric.inputs is not None else left
    right = np.eye(SIZE) if metric.outputs is None else np.linalg.cholesky(metric.outputs)
    return float(np.linalg.norm(left @ error @ right) ** 2)


def rests(metric: Metric) -> dict[str, Rest]:
    return {
        "diagonal": diagonal(metric),
        "sparse": sparse(metric, 0.05, FLOAT),
        "quantized": quantized(Scheme(bits=4, group=10), FLOAT),
    }


def apart(metric: Metric):
    return partial(spectrum, inputs=metric.inputs, outputs=metric.outputs)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_costs_are_those_of_the_roots(metric: Metric) -> None:
    error = RNG.standard_normal((SIZE, SIZE))
    assert metric.cost(error) == pytest.approx(weighed(error, metric))


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_no_other_diagonal_costs_less(metric: Metric) -> None:
    left = RNG.standard_normal((SIZE, SIZE))
    found, matrix = diagonal(metric)(left)
    least = metric.cost(left - matrix)
    for at in range(SIZE):
        for step in (-1e-3, 1e-3):
            other = np.array(found)
            other[at] += step
            assert metric.cost(left - np.diag(other)) > least


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_few_entries_are_those_that_cost_the_most_alone(metric: Metric) -> None:
    left = RNG.standard_normal((SIZE, SIZE))
    _, kept = sparse(metric, 0.1, FLOAT)(left)
    alone = np.zeros_like(left)
    for row, column in np.ndindex(*left.shape):
        single = np.zeros_like(left)
        single[row, column] = left[row, column]
        alone[row, column] = metric.cost(single)
    mask = kept != 0
    assert mask.sum() == 40
    assert alone[mask].min() >= alone[~mask].max()
    assert np.array_equal(kept[mask], left[mask])


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
@pytest.mark.parametrize("name", ["diagonal", "sparse", "quantized"])
def test_rounds_never_cost_more_than_one(metric: Metric, name: str) -> None:
    weight = LOW + 0.5 * RNG.standard_normal((SIZE, SIZE))
    once, more = (alternated(weight, RANK, apart(metric), rests(metric)[name], metric, rounds=n) for n in (1, 8))
    assert more.error <= once.error
    assert more.error == pytest.approx(metric.cost(weight - more.dense()))
    assert more.error < metric.cost(weight - apart(metric)(weight).factors(RANK).dense())


def test_a_diagonal_that_is_there_is_found() -> None:
    weight = LOW + np.diag(np.linspace(1, 3, SIZE))
    found = alternated(weight, RANK, apart(Metric()), diagonal(Metric()), Metric(), rounds=400)
    np.testing.assert_allclose(found.dense(), weight, rtol=0, atol=1e-3)


def test_few_large_entries_that_are_there_are_found() -> None:
    weight = LOW.copy()
    places = RNG.choice(SIZE * SIZE, 4, replace=False)
    weight.reshape(-1)[places] += 8 * np.sign(RNG.standard_normal(4))
    found = alternated(weight, RANK, apart(Metric()), sparse(Metric(), 0.01, FLOAT), Metric(), rounds=200)
    np.testing.assert_allclose(found.dense(), weight, rtol=0, atol=1e-3)


def test_full_rank_leaves_nothing() -> None:
    weight = RNG.standard_normal((SIZE, SIZE))
    for rest in rests(Metric()).values():
        found = alternated(weight, SIZE, apart(Metric()), rest, Metric(), rounds=2)
        np.testing.assert_allclose(found.dense(), weight, rtol=0, atol=1e-10)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a square weight"):
        diagonal(Metric())(np.zeros((3, 4)))
    for share in (0, 1.5):
        with pytest.raises(ValueError, match="expected a share above 0"):
            sparse(Metric(), share, FLOAT)
