"""HQQ against its formula in float64, and against rounding to nearest in squared error, which it keeps grids by."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from tersor.passes.numerics.grid import Scheme, fit, nearest
from tersor.passes.quantize.methods.hqq import hqq
from tersor.passes.weights import Affine, Quantized

P = 0.7
ZEROS = st.sampled_from(["float", "integer"])
MATRICES = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 9), st.integers(1, 3)), elements=st.floats(-1e3, 1e3, width=32)
)


def heavy(rows: int, columns: int, seed: int = 0, dtype: type = np.float32) -> NDArray[np.floating]:
    """Weights with tails, as those of networks."""
    drawn = np.random.default_rng(seed).standard_t(4, (rows, columns)) * 0.02
    return drawn.astype(dtype)


def losses(weight: NDArray[np.floating], found: Quantized | Affine, group: int) -> NDArray[np.float64]:
    """sum |w - w'|^2 of each group, [groups, out]."""
    wide = np.abs(weight.astype(np.float64) - found.dense().astype(np.float64)) ** 2
    size = group or len(weight)
    return np.stack([wide[start : start + size].sum(0) for start in range(0, len(weight), size)])


def slack(weight: NDArray[np.floating], found: NDArray[np.float64], group: int) -> NDArray[np.float64]:
    """What rounding scales, offsets and sums to the dtype may add to squared errors: each weight's error moves by a few
    eps of the largest weight, |e + d|^2 <= |e|^2 + 2 |e| |d| + |d|^2.
    """
    eps = float(np.finfo(weight.dtype).eps)
    moved = np.sqrt(group or len(weight)) * 8 * eps * float(np.abs(weight).max(initial=0.0))
    added: NDArray[np.float64] = 2 * np.sqrt(found) * moved + moved**2
    return added


def naive(
    column: NDArray[np.float64],
    bits: int,
    start: tuple[float, float],
    p: float,
    beta: float,
    kappa: float,
    steps: int,
) -> tuple[float, float, float]:
    """The published iteration for one group, element by element: loss, scale and offset of the best iterate, or of the
    start, a scale and an offset; then four steps without an error variable.
    """
    top = 2**bits - 1

    def rounded(scale: float, offset: float) -> tuple[list[int], list[float]]:
        values = [min(max(round((w - offset) / scale), 0), top) for w in column]
        return values, [w - (scale * value + offset) for w, value in zip(column, values, strict=True)]

    def moved(scale: float, offset: float, power: float) -> float:
        total = 0.0
        for w, value, error in zip(column, *rounded(scale, offset), strict=True):
            size = abs(error) / scale
            shrunk = max(size - size ** (p - 1) / power, 0.0) if size > 0 and power > 0 else 0.0
            total += w - scale * np.sign(error) * shrunk - scale * value
        return total / len(column)

    def lost(scale: float, offset: float) -> tuple[float, float, float]:
        return sum(error**2 for error in rounded(scale, offset)[1]), scale, offset

    scale, offset = (max(column) - min(column)) / top, min(column)
    best = lost(*start)
    for _ in range(steps + 1):
        best = min(best, lost(scale, offset))
        offset = moved(scale, offset, beta)
        beta *= kappa
    for _ in range(4):
        best = min(best, lost(best[1], moved(best[1], best[2], 0.0)))
    return best


@pytest.mark.parametrize("p", [P, 1.0])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_with_the_scale_held_it_is_the_published_iteration(bits: int, p: float) -> None:
    weight = heavy(24, 5, bits, np.float64)
    scheme = Scheme(bits=bits, group=8, symmetric=False)
    found = hqq(weight, scheme, scales=False, p=p, beta=5.0, kappa=1.05, steps=12)
    scales, zeros = fit(weight, scheme)
    for group in range(3):
        for out in range(5):
            start = scales[group, out], -zeros[group, out] * scales[group, out]
            loss, scale, offset = naive(weight[8 * group : 8 * group + 8, out], bits, start, p, 5.0, 1.05, 12)
            np.testing.assert_allclose(losses(weight, found, 8)[group, out], loss, rtol=1e-9)
            np.testing.assert_allclose(found.levels.scale[group, out], scale, rtol=1e-12)
            np.testing.assert_allclose(found.offset[group, out], offset, rtol=1e-9)


def published(column: NDArray[np.float64], bits: int) -> float:
    """The squared error of the published solver as it ends by itself: 20 steps, errors in the weights' own unit, beta
    from 10, until the mean error no longer falls.
    """
    top, beta, least = 2**bits - 1, 10.0, np.inf
    scale = (column.max() - column.min()) / top
    zero = np.rint(-column.min() / scale)
    for _ in range(20):
        values = np.clip(np.rint(column / scale + zero), 0, top)
        error = column - scale * (values - zero)
        size = np.maximum(np.abs(error), 1e-8)
        kept = np.sign(error) * np.maximum(size - size ** (P - 1) / beta, 0.0)
        zero = (values - (column - kept) / scale).mean()
        beta *= 1.01
        if np.abs(error).mean() >= least:
            break
        least = np.abs(error).mean()
    values = np.clip(np.rint(column / scale + zero), 0, top)
    return float(((column - scale * (values - zero)) ** 2).sum())


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("scales", [True, False])
def test_it_loses_less_than_the_published_solver_as_that_ends(bits: int, scales: bool) -> None:
    weight = heavy(128, 16, bits, np.float64)
    found = hqq(weight, Scheme(bits=bits, group=32, symmetric=False), scales=scales)
    theirs = [published(weight[start : start + 32, out], bits) for start in range(0, 128, 32) for out in range(16)]
    assert losses(weight, found, 32).sum() < sum(theirs)


@given(MATRICES, st.integers(2, 8), st.integers(0, 5), ZEROS, st.booleans())
def test_no_group_is_worse_than_rounded_to_nearest(
    weight: NDArray[np.float32], bits: int, group: int, zero: Literal["float", "integer"], scales: bool
) -> None:
    scheme = Scheme(bits=bits, group=group, symmetric=False)
    found = losses(weight, hqq(weight, scheme, zero=zero, scales=scales, steps=4), group)
    plain = losses(weight, nearest(weight, scheme), group)
    assert np.all(found <= plain + slack(weight, plain, group))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_freer_the_grid_the_less_is_lost(bits: int) -> None:
    """On heavy tails: rounding, integer zeros, real zeros; and fitting scales beats holding them."""
    weight = heavy(128, 48, bits)
    scheme = Scheme(bits=bits, group=32, symmetric=False)
    plain, integer = nearest(weight, scheme), hqq(weight, scheme, zero="integer")
    real, held = hqq(weight, scheme), hqq(weight, scheme, scales=False)
    totals = [float(losses(weight, found, 32).sum()) for found in (plain, integer, held, real)]
    assert totals[3] < totals[2] < totals[0]
    assert totals[3] < totals[1] < totals[0]


def test_the_errors_of_a_group_add_up_to_nothing() -> None:
    """What all inputs have in common goes through unharmed."""
    weight = heavy(128, 16, 3, np.float64)
    scheme = Scheme(bits=4, group=32, symmetric=False)
    sums = [
        np.abs((found.dense() - weight).reshape(4, 32, 16).sum(1)).mean()
        for found in (hqq(weight, scheme), nearest(weight, scheme))
    ]
    assert sums[0] < 0.1 * sums[1]


def test_more_steps_lose_less() -> None:
    """In all; a group may settle elsewhere, but never where it is worse off than without a step."""
    weight = heavy(64, 16)
    scheme = Scheme(bits=3, group=16, symmetric=False)
    none, *more = (losses(weight, hqq(weight, scheme, steps=steps), 16) for steps in (0, 2, 5, 20))
    for each in more:
        assert np.all(each <= none + slack(weight, none, 16))
    totals = [each.sum() for each in (none, *more)]
    assert totals == sorted(totals, reverse=True)


@pytest.mark.parametrize("zero", ["float", "integer"])
def test_the_unit_of_the_weights_does_not_matter(zero: Literal["float", "integer"]) -> None:
    weight = heavy(32, 8)
    scheme = Scheme(bits=3, group=16, symmetric=False)
    # a power of two changes no rounding
    np.testing.assert_array_equal(
        hqq(weight * np.float32(1024), scheme, zero=zero).dense(), hqq(weight, scheme, zero=zero).dense() * 1024
    )


def test_more_bits_lose_less() -> None:
    weight = heavy(64, 16)
    totals = [
        float(losses(weight, hqq(weight, Scheme(bits=bits, group=16, symmetric=False)), 16).sum())
        for bits in (2, 3, 4, 6, 8)
    ]
    assert totals == sorted(totals, reverse=True)


def test_real_zeros_need_not_reach_zero() -> None:
    """Weights of one sign: the grid spans their own range, 1/15 of it a step, where integers have to start at zero."""
    weight = np.linspace(100, 101, 16, dtype=np.float32)[:, None]
    scheme = Scheme(bits=4, symmetric=False)
    found, plain = hqq(weight, scheme), nearest(weight, scheme)
    assert np.abs(found.dense() - weight).max() <= 4 * np.finfo(np.float32).eps * 101
    assert np.abs(plain.dense() - weight).max() > 0.4


def test_symmetric_grids_fit_their_scale() -> None:
    weight = heavy(64, 16)
    scheme = Scheme(bits=3, group=16)
    found = hqq(weight, scheme, zero="integer")
    assert found.zero is None
    assert found.values.dtype == np.int8
    assert losses(weight, found, 16).sum() < losses(weight, nearest(weight, scheme), 16).sum()


def test_a_held_scale_with_integer_zeros_is_rounding_to_nearest() -> None:
    weight = heavy(40, 6)
    scheme = Scheme(bits=4, group=16, symmetric=False)
    found, plain = hqq(weight, scheme, zero="integer", scales=False), nearest(weight, scheme)
    np.testing.assert_array_equal(found.dense(), plain.dense())


@pytest.mark.parametrize("zero", ["float", "integer"])
@pytest.mark.parametrize("group", [0, 1, 4, 7, 100])
@pytest.mark.parametrize("rows", [0, 1, 7, 8])
def test_shapes(rows: int, group: int, zero: Literal["float", "integer"]) -> None:
    weight = heavy(rows, 3)
    scheme = Scheme(bits=4, group=group, symmetric=False)
    found = hqq(weight, scheme, zero=zero)
    assert found.dense().shape == (rows, 3)
    assert found.dense().dtype == np.float32
    groups = len(scheme.groups(rows))
    scale = found.levels.scale if isinstance(found, Affine) else found.scale
    assert scale.shape == ((groups, 3) if group else (3,))
    assert hqq(weight[:, :0], scheme, zero=zero).dense().shape == (rows, 0)


@pytest.mark.parametrize("zero", ["float", "integer"])
@pytest.mark.parametrize("constant", [0.0, 0.25, -3e-39, 1e30])
def test_constant_weights(zero: Literal["float", "integer"], constant: float) -> None:
    weight = np.full((8, 2), constant, np.float32)
    weight[:, 1] = 0.0
    dense = hqq(weight, Scheme(bits=4, group=4, symmetric=False), zero=zero).dense()
    np.testing.assert_allclose(dense, weight, rtol=4 * np.finfo(np.float32).eps, atol=1e-44)


@pytest.mark.parametrize("zero", ["float", "integer"])
def test_half_precision_keeps_its_dtype(zero: Literal["float", "integer"]) -> None:
    weight = heavy(64, 8, dtype=np.float16)
    scheme = Scheme(bits=4, group=16, symmetric=False)
    found = hqq(weight, scheme, zero=zero)
    assert found.dense().dtype == np.float16
    plain = losses(weight, nearest(weight, scheme), 16)
    assert np.all(losses(weight, found, 16) <= plain + slack(weight, plain, 16))
    extreme = np.array([[32000.0], [-32000.0], [0.0], [100.0]], np.float16)
    assert np.isfinite(hqq(extreme, Scheme(bits=2, symmetric=False), zero=zero).dense()).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 0.0}, "expected p in"),
        ({"p": 1.5}, "expected p in"),
        ({"beta": 0.0}, "expected p in"),
        ({"kappa": 0.9}, "expected p in"),
        ({"steps": -1}, "expected p in"),
        ({"zero": "float"}, "expected a scheme that is not symmetric"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hqq(np.ones((2, 2), np.float32), Scheme(bits=4), **{"zero": "integer", **options})  # type: ignore[call-overload]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        hqq(np.array([[1.0], [bad]], np.float32), Scheme(bits=4, symmetric=False))
