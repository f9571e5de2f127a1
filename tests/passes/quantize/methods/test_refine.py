"""Coordinate descent against trying every point, and never worse than where it starts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tersor.passes.numerics.gram import level
from tersor.passes.numerics.grid import Scheme, nearest
from tersor.passes.quantize.methods.gptq import gptq
from tersor.passes.quantize.methods.refine import refine
from tersor.passes.weights import Quantized
from tersor.tests.passes.quantize.methods.problems import DAMPING, SCHEMES, problem


def _errors(dense: np.ndarray, weight: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """|x w - x w'|^2 of each column, on the damped Gram matrix."""
    off = dense.astype(np.float64) - weight
    return np.einsum("ij,ij->j", off, (gram + DAMPING * level(gram) * np.eye(len(gram))) @ off)


def _naive_sweep(weight: np.ndarray, gram: np.ndarray, start: Quantized, scheme: Scheme) -> np.ndarray:
    """Every value in turn the best of all its grid's, the others as they are."""
    values = start.values.astype(int)
    scale = start.spread(start.scale).astype(np.float64) * np.ones(weight.shape)
    zero = (0 if start.zero is None else start.spread(start.zero).astype(np.float64)) * np.ones(weight.shape)
    hessian = gram + DAMPING * level(gram) * np.eye(len(gram))
    for row, column in itertools.product(*map(range, weight.shape)):

        def error(value: int, row: int = row, column: int = column) -> float:
            tried = values[:, column].copy()
            tried[row] = value
            off = weight[:, column].astype(np.float64) - (tried - zero[:, column]) * scale[:, column]
            return float(off @ hessian @ off)

        values[row, column] = min(range(scheme.low, scheme.high + 1), key=error)
    return values


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_a_sweep_puts_each_value_at_the_best_point_in_turn(scheme: Scheme) -> None:
    weight, gram = problem(0)
    start = nearest(weight, scheme)
    found = refine(weight, gram, start, scheme, sweeps=1, rescale=False)
    np.testing.assert_array_equal(found.values, _naive_sweep(weight, gram, start, scheme))
    np.testing.assert_array_equal(found.scale, start.scale)


def test_blocks_of_rows_change_nothing() -> None:
    weight, gram = problem(1, rows=150, columns=2, tokens=200)
    scheme = Scheme(bits=2, group=50)
    start = nearest(weight, scheme)
    found = refine(weight, gram, start, scheme, sweeps=1, rescale=False)
    np.testing.assert_array_equal(found.values, _naive_sweep(weight, gram, start, scheme))


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_no_column_gets_worse_with_more_sweeps(scheme: Scheme, rescale: bool) -> None:
    for seed in range(5):
        weight, gram = problem(seed)
        rounded = nearest(weight, scheme)
        for start in (rounded, gptq(weight, gram, scheme)):
            found = [refine(weight, gram, start, scheme, sweeps=count, rescale=rescale) for count in range(4)]
            np.testing.assert_array_equal(found[0].values, start.values)
            errors = np.stack([_errors(one.dense(), weight, gram) for one in found])
            # dense() rounds each weight to float32
            assert (errors[1:] <= errors[:-1] * (1 + 1e-5)).all()
            # GPTQ may end where no single value can be bettered
            assert start is not rounded or errors[-1].sum() < errors[0].sum()


def test_a_scale_becomes_the_one_of_least_squares() -> None:
    """One value a column, all others zero: s = (u.T H w) / (u.T H u)."""
    weight, gram = problem(2)
    scheme = Scheme(bits=8)
    start = nearest(weight, scheme)
    found = refine(weight, gram, start, scheme, sweeps=1)
    hessian = gram + DAMPING * level(gram) * np.eye(len(gram))
    points = found.values.astype(np.float64)
    wanted = np.einsum("ij,ij->j", points, hessian @ weight) / np.einsum("ij,ij->j", points, hessian @ points)
    # near its least the error is flat: what rounding leaves of it decides whether a step is taken
    np.testing.assert_allclose(found.scale, wanted, rtol=4 * np.finfo(np.float32).eps)


def test_what_is_exact_stays() -> None:
    weight, gram = problem(3)
    start = nearest(weight, Scheme(bits=4, group=4))
    found = refine(start.dense(), gram, start, Scheme(bits=4, group=4))
    np.testing.assert_array_equal(found.values, start.values)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (0, 3), (3, 0), (5, 2)])
def test_zeros_of_any_size_stay_zeros(shape: tuple[int, int], symmetric: bool) -> None:
    scheme = Scheme(bits=4, group=2, symmetric=symmetric)
    weight = np.zeros(shape, np.float32)
    found = refine(weight, np.ones((shape[0],) * 2), nearest(weight, scheme), scheme)
    np.testing.assert_array_equal(found.dense(), weight)


def test_inputs_that_are_always_zero_are_rounded_to_the_nearest() -> None:
    weight, gram = problem(4)
    gram[5], gram[:, 5] = 0.0, 0.0
    scheme = Scheme(bits=4)
    start = gptq(weight, gram, scheme)
    found = refine(weight, gram, start, scheme, rescale=False)
    np.testing.assert_array_equal(found.values[5], nearest(weight, scheme).values[5])


def test_what_does_not_fit_is_refused() -> None:
    weight, gram = problem(5)
    scheme = Scheme(bits=4, group=4)
    start = nearest(weight, scheme)
    for match, arguments, options in [
        (r"start \(16, 4\) as the weight is, found \(16, 5\)", (weight[:, 1:], gram, start, scheme), {}),
        (r"\(4, 8, 0, True\), found \(4, 4, 0, True\)", (weight, gram, start, Scheme(bits=4, group=8)), {}),
        (r"\(4, 4, 0, False\), found", (weight, gram, start, Scheme(bits=4, group=4, symmetric=False)), {}),
        ("at least 0 sweeps, found -1", (weight, gram, start, scheme), {"sweeps": -1}),
        ("not symmetric", (weight, np.triu(gram), start, scheme), {}),
    ]:
        with pytest.raises(ValueError, match=match):
            refine(*arguments, **options)  # type: ignore[arg-type]
