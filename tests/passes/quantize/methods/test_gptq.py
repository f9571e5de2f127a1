"""GPTQ against the recursion of the paper, which inverts what is left of the Hessian before every row."""

from __future__ import annotations

import numpy as np
import pytest
from tersor.passes.numerics.grid import Scheme, fit, nearest
from tersor.passes.quantize.methods.gptq import gptq
from tersor.passes.weights import Quantized
from tersor.tests.passes.quantize.methods.problems import DAMPING, SCHEMES, problem


def _error(found: Quantized, weight: np.ndarray, gram: np.ndarray) -> float:
    """|x w - x w'|^2"""
    off = found.dense().astype(np.float64) - weight
    return float(np.trace(off.T @ gram @ off))


def _damped(gram: np.ndarray) -> np.ndarray:
    return gram + DAMPING * np.diagonal(gram).mean() * np.eye(len(gram))


def _naive(weight: np.ndarray, gram: np.ndarray, scheme: Scheme, order: str) -> np.ndarray:
    """Algorithm 1, its inverses spelled out: w_F -= [H_F^-1]_:q / [H_F^-1]_qq * (w_q - round(w_q))."""
    hessian, moved = _damped(gram), weight.astype(np.float64)
    left = list(range(len(weight)) if order == "natural" else np.argsort(-np.diagonal(gram), kind="stable"))
    scale, zero = fit(weight, scheme)
    values = np.zeros(weight.shape, int)
    while left:
        row, size = left[0], scheme.group or len(weight)
        group = row // size
        if order == "natural" and row % size == 0:
            reached = fit(moved[row : row + size].astype(weight.dtype), scheme)
            scale[group], zero[group] = reached[0][0], reached[1][0]
        for column in range(weight.shape[1]):
            code = round(moved[row, column] / scale[group, column]) + zero[group, column]
            values[row, column] = min(max(code, scheme.low), scheme.high)
        rounded = (values[row] - zero[group]) * scale[group]
        inverse = np.linalg.inv(hessian[np.ix_(left, left)])
        moved[left] -= np.outer(inverse[:, 0] / inverse[0, 0], moved[row] - rounded)
        left.pop(0)
    return values


@pytest.mark.parametrize("order", ["activation", "natural"])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_the_values_are_those_of_the_papers_recursion(scheme: Scheme, order: str) -> None:
    for seed in range(5):
        weight, gram = problem(seed)
        found = gptq(weight, gram, scheme, order=order, damping=DAMPING)  # type: ignore[arg-type]
        np.testing.assert_array_equal(found.values, _naive(weight, gram, scheme, order))


@pytest.mark.parametrize("order", ["activation", "natural"])
@pytest.mark.parametrize("clip", [False, True])
def test_the_block_of_updates_changes_no_value(order: str, clip: bool) -> None:
    weight, gram = problem(0, rows=37)
    scheme = Scheme(bits=3, group=5)
    whole = gptq(weight, gram, scheme, order=order, clip=clip, block=1000)  # type: ignore[arg-type]
    for block in (1, 4, 5, 7, 16):
        found = gptq(weight, gram, scheme, order=order, clip=clip, block=block)  # type: ignore[arg-type]
        np.testing.assert_array_equal(found.values, whole.values)
        np.testing.assert_array_equal(found.scale, whole.scale)


@pytest.mark.parametrize("order", ["activation", "natural"])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_the_error_is_below_that_of_rounding_to_the_nearest_on_average(scheme: Scheme, order: str) -> None:
    """E |f|^2 is the same for both, and D_k <= gram_kk; over 40 layers chance is left no room."""
    ratios = []
    for seed in range(40):
        weight, gram = problem(seed)
        found = gptq(weight, gram, scheme, order=order)  # type: ignore[arg-type]
        ratios.append(_error(found, weight, gram) / _error(nearest(weight, scheme), weight, gram))
    assert np.mean(ratios) < 0.8


@pytest.mark.parametrize("order", ["activation", "natural"])
def test_the_error_is_at_most_a_quarter_of_squared_steps_where_nothing_is_cut_off(order: str) -> None:
    """tr(E.T (U D U.T) E) == sum of D_k |f_k|^2, |f_k| <= scale / 2; 8 bits leave room for what is passed on."""
    scheme = Scheme(bits=8, symmetric=False)
    for seed in range(20):
        weight, gram = problem(seed)
        weight = np.vstack([weight, 4 * np.abs(weight).max(0), -4 * np.abs(weight).max(0)])
        gram = np.pad(gram, (0, 2))
        gram[-1, -1] = gram[-2, -2] = 1e-3
        found = gptq(weight, gram, scheme, order=order, damping=DAMPING)  # type: ignore[arg-type]
        damped = _damped(gram)
        ranks = np.arange(len(gram)) if order == "natural" else np.argsort(-np.diagonal(gram), kind="stable")
        inverses = [np.linalg.inv(damped[np.ix_(ranks[k:], ranks[k:])])[0, 0] for k in range(len(ranks))]
        bound = sum(1 / inverse for inverse in inverses) * (found.scale.astype(np.float64) ** 2).sum() / 4
        assert _error(found, weight, damped) <= bound * (1 + len(gram) * np.finfo(np.float32).eps)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_without_correlation_it_is_rounding_to_the_nearest(scheme: Scheme) -> None:
    weight, _ = problem(1)
    gram = np.diag(np.random.default_rng(1).uniform(0.1, 10, len(weight)))
    for order in ("activation", "natural"):
        found, wanted = gptq(weight, gram, scheme, order=order), nearest(weight, scheme)  # type: ignore[arg-type]
        np.testing.assert_array_equal(found.values, wanted.values)
        np.testing.assert_array_equal(found.scale, wanted.scale)


def test_the_scale_of_the_gram_matrix_does_not_matter() -> None:
    weight, gram = problem(2)
    found, scaled = (gptq(weight, gram * factor, Scheme(bits=3, group=4)).values for factor in (1.0, 2.0**40))
    np.testing.assert_array_equal(found, scaled)


def test_columns_are_independent() -> None:
    weight, gram = problem(3)
    whole = gptq(weight, gram, Scheme(bits=3, group=4), clip=True)
    for column in range(weight.shape[1]):
        alone = gptq(weight[:, [column]], gram, Scheme(bits=3, group=4), clip=True)
        np.testing.assert_array_equal(alone.values[:, 0], whole.values[:, column])


@pytest.mark.parametrize("order", ["activation", "natural"])
@pytest.mark.parametrize("group", [0, 16])
def test_cutting_off_lowers_the_error_of_few_bits_on_average(order: str, group: int) -> None:
    scheme, errors = Scheme(bits=2, group=group), []
    for seed in range(30):
        weight, gram = problem(seed, rows=32, tokens=80)
        cut, kept = (gptq(weight, gram, scheme, order=order, clip=clip) for clip in (True, False))  # type: ignore[arg-type]
        errors.append((_error(cut, weight, gram), _error(kept, weight, gram)))
    assert np.mean([cut for cut, _ in errors]) < np.mean([kept for _, kept in errors])


def test_without_correlation_cutting_off_never_raises_the_error() -> None:
    """Then the search's sum of D_k |w_k - round(w_k)|^2 is the error itself, and the whole range is among the tried."""
    for seed in range(10):
        weight, gram = problem(seed)
        gram = np.diag(np.diagonal(gram))
        for scheme in SCHEMES:
            cut, kept = (gptq(weight, gram, scheme, clip=clip) for clip in (True, False))
            allowed = 1 + len(gram) * np.finfo(np.float32).eps
            assert _error(cut, weight, _damped(gram)) <= _error(kept, weight, _damped(gram)) * allowed


@pytest.mark.parametrize("order", ["activation", "natural"])
def test_an_input_that_is_always_zero_is_rounded_to_the_nearest_and_moves_nobody(order: str) -> None:
    weight, gram = problem(4)
    gram[5], gram[:, 5] = 0.0, 0.0
    found = gptq(weight, gram, Scheme(bits=4), order=order)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found.values[5], nearest(weight, Scheme(bits=4)).values[5])
    alone = np.delete(np.arange(len(weight)), 5)
    small = gptq(weight[alone], gram[np.ix_(alone, alone)], Scheme(bits=8), order=order)  # type: ignore[arg-type]
    weight[5] = 0.0
    np.testing.assert_array_equal(gptq(weight, gram, Scheme(bits=8), order=order).values[alone], small.values)  # type: ignore[arg-type]


def test_inputs_that_were_never_seen_give_the_nearest() -> None:
    weight, gram = problem(5)
    found = gptq(weight, np.zeros_like(gram), Scheme(bits=4, group=4), order="natural")
    np.testing.assert_array_equal(found.values, nearest(weight, Scheme(bits=4, group=4)).values)


@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_one_sample_is_enough(damping: float) -> None:
    weight, _ = problem(6)
    sample = np.random.default_rng(6).standard_normal((1, len(weight)))
    scheme = Scheme(bits=4)
    found = gptq(weight, sample.T @ sample, scheme, damping=damping)
    assert _error(found, weight, sample.T @ sample) < _error(nearest(weight, scheme), weight, sample.T @ sample)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("order", ["activation", "natural"])
@pytest.mark.parametrize("shape", [(1, 1), (0, 3), (3, 0), (5, 2)])
def test_zeros_of_any_size_stay_zeros(shape: tuple[int, int], order: str, symmetric: bool) -> None:
    scheme = Scheme(bits=4, group=2, symmetric=symmetric)
    for clip in (False, True):
        found = gptq(np.zeros(shape, np.float32), np.ones((shape[0],) * 2), scheme, order=order, clip=clip)  # type: ignore[arg-type]
        np.testing.assert_array_equal(found.dense(), np.zeros(shape, np.float32))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_answer_is_of_the_weights_dtype_and_inputs_stay_as_they_are(dtype: type) -> None:
    weight, gram = problem(7)
    weight, before = weight.astype(dtype), gram.copy()
    assert gptq(weight, gram, Scheme(bits=4, group=4), order="natural", clip=True).dense().dtype == dtype
    np.testing.assert_array_equal(gram, before)


def _refused(match: str, weight: np.ndarray, gram: np.ndarray, **options: object) -> None:
    with pytest.raises(ValueError, match=match):
        gptq(weight, gram, Scheme(bits=4), **options)  # type: ignore[arg-type]


def test_what_cannot_be_is_refused() -> None:
    weight, gram = problem(8)
    _refused("NaN or infinity", np.full_like(weight, np.nan), gram)
    _refused("1 axes", weight[0], gram)
    _refused(r"\[16, 16\] for a weight of 16 rows, found \(15, 15\)", weight, gram[1:, 1:])
    _refused("Gram matrix holds NaN", weight, np.full_like(gram, np.inf))
    _refused("not symmetric", weight, np.triu(gram))
    _refused("on its diagonal", weight, -gram)
    _refused("found -1", weight, gram, damping=-1)
    _refused("at least one row, found 0", weight, gram, block=0)
    _refused("activation or natural, found 'other'", weight, gram, order="other")


def test_a_matrix_that_no_damping_makes_positive_definite_is_refused() -> None:
    weight, gram = problem(9)
    gram[0, 1] = gram[1, 0] = 10 * np.abs(gram).max()
    _refused("not positive definite even with its diagonal raised by 1 times its mean", weight, gram)
