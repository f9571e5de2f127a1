"""Clipping ranges against their formulas in float64, on the samples or bin by bin."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tersor.passes.accumulators import Histogram, Range
from tersor.passes.quantize.methods.ranges import (
    Bounds,
    activation_grid,
    entropy,
    min_max,
    mse,
    percentile,
    squared_error,
)

RNG = np.random.default_rng(0)
Floats = NDArray[np.float64]
#: An even spread, tails of both sides, of one side, a peak at zero, and a few numbers far from the rest.
DATA: dict[str, Floats] = {
    "normal": RNG.standard_normal(5000),
    "cubes": RNG.standard_normal(5000) ** 3,
    "positive": RNG.exponential(size=5000),
    "negative": -RNG.exponential(size=5000),
    "relu": np.maximum(RNG.standard_normal(5000), 0),
    "skewed": np.concatenate([RNG.standard_normal(5000), RNG.uniform(5, 30, 20)]),
    "far": RNG.uniform(100, 101, 5000),
    "even": RNG.uniform(-1, 3, 5000),
}
METHODS: list[Callable[..., Bounds]] = [entropy, mse]


def seen(numbers: Floats, bins: int = 2048) -> Histogram:
    histogram = Histogram(bins)
    histogram.add(numbers)
    return histogram


def rounded(numbers: Floats, bounds: Bounds, bits: int, symmetric: bool) -> Floats:
    """What the grid over a range makes of numbers."""
    scale, zero = (float(each) for each in activation_grid(*bounds, bits=bits, symmetric=symmetric))
    bottom = -(2 ** (bits - 1)) if symmetric else 0
    values = np.clip(np.rint(numbers / scale) + zero, bottom, bottom + 2**bits - 1)
    return (values - zero) * scale


@settings(max_examples=50)
@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.integers(2, 16), st.booleans())
def test_a_grid_reaches_its_range_and_has_zero(one: float, other: float, bits: int, symmetric: bool) -> None:
    low, high = sorted((one, other))
    scale, zero = activation_grid(low, high, bits=bits, symmetric=symmetric)
    size = 8 if bits <= 8 else 16
    assert zero.dtype == f"{'' if symmetric else 'u'}int{size}"
    assert scale.dtype == np.float32
    bottom = -(2 ** (bits - 1)) if symmetric else 0
    ends = [(end - float(zero)) * float(scale) for end in (bottom, bottom + 2**bits - 1)]
    # the zero point is rounded, by half a step; the scale is rounded to float32
    slack = float(scale) * (0 if symmetric else 0.5) + max(abs(low), abs(high)) * 2 * np.finfo(np.float32).eps + 1e-37
    assert ends[0] <= min(low, 0) + slack
    assert ends[1] >= max(high, 0) - slack
    # and no further than it must, unless that is less than a scale can say
    assert symmetric or high - low < 1e-30 or ends[1] - ends[0] <= max(high, 0) - min(low, 0) + 2 * slack


def test_a_symmetric_grid_is_the_least_that_reaches_both_ends() -> None:
    assert float(activation_grid(-128.0, 100.0, symmetric=True)[0]) == 1.0
    assert float(activation_grid(-100.0, 127.0, symmetric=True)[0]) == 1.0


def test_arrays_of_ranges_give_a_grid_each() -> None:
    low, high = np.array([-1.0, 0.0, -3.0, 2.0]), np.array([1.0, 0.0, -1.0, 5.0])
    scale, zero = activation_grid(low, high, bits=4)
    each = [activation_grid(*pair, bits=4) for pair in zip(low, high, strict=True)]
    assert scale.tolist() == [float(one) for one, _ in each]
    assert zero.tolist() == [int(one) for _, one in each]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("constant", [0.0, 2.5, -2.5, 1e-42, -1e38, 3e38])
def test_a_constant_is_a_point_of_its_grid(constant: float, symmetric: bool) -> None:
    scale, _ = activation_grid(constant, constant, symmetric=symmetric)
    assert np.isfinite(1 / scale)
    found = rounded(np.array([constant]), (constant, constant), 8, symmetric)
    # a constant below the smallest normal number is zero
    assert abs(found[0] - constant) <= max(abs(constant) * np.finfo(np.float32).eps, np.finfo(np.float32).tiny)


@pytest.mark.parametrize(("low", "high"), [(1.0, 0.0), (np.nan, 1.0), (0.0, np.inf)])
def test_ranges_that_are_none_are_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="expected finite ranges in order, found"):
        activation_grid(low, high)


@pytest.mark.parametrize("bits", [1, 17])
def test_other_bits_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=f"expected 2 to 16 bits, found {bits}"):
        activation_grid(0.0, 1.0, bits=bits)
    for method in METHODS:
        with pytest.raises(ValueError, match=f"expected 2 to 16 bits, found {bits}"):
            method(seen(DATA["normal"]), bits=bits)


def test_min_max_is_what_was_seen() -> None:
    plain = Range()
    plain.add(DATA["skewed"])
    assert min_max(plain) == min_max(seen(DATA["skewed"])) == (DATA["skewed"].min(), DATA["skewed"].max())


def test_nothing_seen_is_refused() -> None:
    for method in (min_max, percentile, *METHODS):
        with pytest.raises(ValueError, match="expected the range of some numbers, found none seen"):
            method(Histogram())


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("fraction", [0.5, 0.9, 0.999, 1.0])
def test_percentiles_are_those_of_the_samples(data: str, fraction: float) -> None:
    """To within a bin: where within its bin a number lies is not known."""
    histogram = seen(DATA[data])
    found = percentile(histogram, fraction=fraction)
    low, high = np.quantile(DATA[data], [(1 - fraction) / 2, (1 + fraction) / 2], method="inverted_cdf")
    assert abs(found[0] - low) <= histogram.width
    assert abs(found[1] - high) <= histogram.width
    assert histogram.low <= found[0] <= found[1] <= histogram.high


def test_all_numbers_are_within_the_whole_percentile() -> None:
    for numbers in DATA.values():
        assert percentile(seen(numbers), fraction=1.0) == (numbers.min(), numbers.max())


def test_quantiles_in_one_bin_cut_nothing_off() -> None:
    numbers = np.zeros(1000, np.float32)
    numbers[:5] = [-2.0, 1.0, 3.0, 4.0, 5.0]
    assert percentile(seen(numbers), fraction=0.9) == (-2.0, 5.0)


@pytest.mark.parametrize("fraction", [0.0, 1.1, math.nan])
def test_other_fractions_are_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="a fraction above 0 and at most 1, found"):
        percentile(seen(DATA["normal"]), fraction=fraction)


def divergence(counts: list[int], start: int, stop: int, levels: int) -> float:
    """Migacz's loop body, naively."""
    window = counts[start:stop]
    reference = [float(count) for count in window]
    reference[0] += sum(counts[:start])
    reference[-1] += sum(counts[stop:])
    spread = [0.0] * len(window)
    for level in range(levels):
        first, last = level * len(window) // levels, (level + 1) * len(window) // levels
        filled = [index for index in range(first, last) if reference[index] > 0]
        for index in filled:
            spread[index] = sum(window[first:last]) / len(filled)
    if any(p > 0 and q == 0 for p, q in zip(reference, spread, strict=True)):
        return math.inf
    p, q = (np.array(each) / sum(each) for each in (reference, spread))
    return float(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0))


def test_symmetric_entropy_is_the_least_of_all_windows() -> None:
    bits, levels = 5, 16
    for name in ("normal", "cubes", "relu", "negative", "skewed", "far", "even"):
        histogram = seen(DATA[name], 128)
        wide = histogram.through_zero()
        folded = np.zeros(129, int)
        for index, count in enumerate(wide.counts, wide.first):
            folded[index if index >= 0 else -1 - index] += count
        counts = np.trim_zeros(folded, "b").tolist()
        every = {stop: divergence(counts, 0, stop, levels) for stop in range(levels, len(counts) + 1)}
        low, high = entropy(histogram, bits=bits, symmetric=True)
        limit = max(-low, high)
        # the outermost bin ends at the largest number
        stop = min(math.ceil(limit / wide.width), len(counts))
        # the logarithm of a sum of some hundred terms
        assert every[stop] <= min(every.values()) + 1e3 * np.finfo(np.float64).eps, name


#: Bins that are empty where others are clipped onto them.
SPARSE = {f"sparse {seed}": np.random.default_rng(seed).standard_normal(60).round(1) ** 3 for seed in range(8)}


@pytest.mark.parametrize("data", ["normal", "cubes", "skewed", "even", "positive", "negative", "far", *SPARSE])
def test_entropy_moves_neither_end_for_a_lesser_divergence(data: str) -> None:
    bits, levels = 4, 16
    histogram = seen((DATA | SPARSE)[data], 64)
    wide = histogram.through_zero()
    zero, counts = -wide.first, wide.counts.tolist()
    low, high = entropy(histogram, bits=bits)
    start = int(np.flatnonzero(wide.edges == low)[0])
    stop = int(np.flatnonzero(wide.edges == high)[-1])
    least = divergence(counts, start, stop, levels)
    others = [(other, stop) for other in range(zero + 1)] + [(start, other) for other in range(zero, len(counts) + 1)]
    found = [divergence(counts, *window, levels) for window in others if window[1] - window[0] >= levels]
    assert least <= min(found) + 1e3 * np.finfo(np.float64).eps
    assert low <= 0 <= high


def test_a_level_of_clipped_numbers_alone_is_infinitely_bad() -> None:
    """P has a bin there that Q has not, so the window is never chosen."""
    numbers = np.concatenate([np.repeat(np.arange(16.0), 50), [100.0]])
    low, high = entropy(seen(numbers, 128), bits=4)
    counts = seen(numbers, 128).counts.tolist()
    assert divergence(counts, 0, 32, 16) == math.inf
    assert (low, high) in [(0.0, 16.0), (0.0, 100.0)]


def test_few_bins_are_not_clipped() -> None:
    histogram = seen(DATA["cubes"], 200)
    assert entropy(histogram, bits=8) == min_max(histogram)
    assert entropy(histogram, bits=9, symmetric=True) == min_max(histogram)


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize(("bits", "symmetric"), [(8, False), (8, True), (4, False), (3, True)])
def test_the_squared_error_of_a_grid_is_that_of_the_samples(data: str, bits: int, symmetric: bool) -> None:
    """A sample moves within its bin: by at most a width, so the root of the error changes by as much."""
    numbers, histogram = DATA[data], seen(DATA[data])
    for narrowed in (1.0, 0.5, 0.1):
        bounds = (histogram.low * narrowed, histogram.high * narrowed)
        scale, zero = activation_grid(*bounds, bits=bits, symmetric=symmetric)
        (found,) = squared_error(
            histogram, np.array([float(scale)]), np.array([float(zero)]), bits=bits, symmetric=symmetric
        )
        wanted = np.mean((rounded(numbers, bounds, bits, symmetric) - numbers) ** 2)
        assert abs(math.sqrt(found) - math.sqrt(wanted)) <= histogram.width


def test_the_squared_error_of_an_even_spread_is_a_twelfth_of_a_step() -> None:
    """The bins hold as many numbers each, so the spread is even exactly; 64 steps over whole bins."""
    numbers = np.arange(4096) + 0.5
    histogram = seen(np.concatenate([[0.0], numbers]), 64)
    histogram.counts[0] -= 1
    histogram.count -= 1
    histogram.high = 4096.0
    (error,) = squared_error(histogram, np.array([16.0]), np.array([0.0]))
    # 255 steps and a half of another reach 4088; the rest is clipped: the integral of (t - 255)^2 from 255 to 256
    wanted = 16.0**2 * (255 / 12 + 1 / 3) / 256
    assert error == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize(("bits", "symmetric"), [(8, False), (8, True), (4, False), (4, True), (2, False)])
def test_no_range_has_a_lesser_squared_error(data: str, bits: int, symmetric: bool) -> None:
    """Of 6400 ranges, tried one by one; the search stops at steps of a thousandth, near which errors are flat."""
    histogram = seen(DATA[data], 128)
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    parts = np.linspace(0.0125, 1, 80)
    lows, highs = (each.reshape(-1) for each in np.meshgrid(low * parts, high * parts))
    if symmetric:
        lows, highs = np.maximum(low, -parts * max(high, -low)), np.minimum(high, parts * max(high, -low))
    scale, zero = activation_grid(lows, highs, bits=bits, symmetric=symmetric)
    wide = [each.astype(np.float64) for each in (scale, zero)]
    errors = [
        squared_error(histogram, *(each[start : start + 1000] for each in wide), bits=bits, symmetric=symmetric)
        for start in range(0, len(lows), 1000)
    ]
    own = [
        np.atleast_1d(each.astype(np.float64))
        for each in activation_grid(*mse(histogram, bits=bits, symmetric=symmetric), bits=bits, symmetric=symmetric)
    ]
    (least,) = squared_error(histogram, *own, bits=bits, symmetric=symmetric)
    assert least <= np.concatenate(errors).min() * 1.02


@pytest.mark.parametrize("numbers", [[0.0], [5e-324], [-5e-324, 1e-320]])
@pytest.mark.parametrize("method", METHODS)
def test_numbers_that_all_but_vanish_have_a_range(method: Callable[..., Bounds], numbers: list[float]) -> None:
    assert activation_grid(*method(seen(np.array(numbers))))[0] > 0


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("symmetric", [False, True])
def test_squared_errors_fall_with_bits(data: str, symmetric: bool) -> None:
    histogram = seen(DATA[data])
    errors = []
    for bits in (2, 4, 8):
        found = rounded(DATA[data], mse(histogram, bits=bits, symmetric=symmetric), bits, symmetric)
        errors.append(float(np.sqrt(np.mean((found - DATA[data]) ** 2))))
    assert all(less <= more + histogram.width for more, less in itertools.pairwise(errors))
    assert errors[-1] < errors[0] / 5 or data == "far"


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.integers(2, 8), st.booleans())
def test_no_clipping_is_never_better(seed: int, bits: int, symmetric: bool) -> None:
    """As the histogram has it; scales are compared as float32 holds them."""
    histogram = seen(np.random.default_rng(seed).standard_normal(50) ** 3)
    found, whole = (
        squared_error(
            histogram,
            *(
                np.atleast_1d(each.astype(np.float64))
                for each in activation_grid(*bounds, bits=bits, symmetric=symmetric)
            ),
            bits=bits,
            symmetric=symmetric,
        )[0]
        for bounds in (mse(histogram, bits=bits, symmetric=symmetric), min_max(histogram))
    )
    assert found <= whole * (1 + 1e3 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("data", DATA)
def test_clipping_by_mse_beats_no_clipping(data: str, symmetric: bool) -> None:
    """On what the histogram knows; a bin's width off on the samples."""
    histogram, numbers = seen(DATA[data]), DATA[data]
    plain, clipped = (
        math.sqrt(np.mean((rounded(numbers, method(histogram, **options), 4, symmetric) - numbers) ** 2))
        for method, options in ((min_max, {}), (mse, {"bits": 4, "symmetric": symmetric}))
    )
    assert clipped <= plain + 2 * histogram.width
    if data in ("normal", "cubes", "skewed"):
        assert clipped < 0.9 * plain


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("constant", [0.0, 2.5, -1e-3, 1e38, 1e-30])
def test_constants_are_kept(method: Callable[..., Bounds], symmetric: bool, constant: float) -> None:
    bounds = method(seen(np.full(7, constant)), symmetric=symmetric)
    found = rounded(np.array([constant]), bounds, 8, symmetric)
    # half a step of the grid over it, at the worst
    assert abs(found[0] - constant) <= abs(constant) / 255


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_scale_of_the_data_is_one_of_the_range(method: Callable[..., Bounds], symmetric: bool) -> None:
    numbers = DATA["cubes"]
    one, other = (method(seen(numbers * factor), symmetric=symmetric) for factor in (1.0, 2.0**20))
    np.testing.assert_allclose(np.multiply(one, 2.0**20), other, rtol=1e-12)
