"""What is gathered in pieces is what all the data at once would give."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from tersor.ir.errors import ModelError
from tersor.passes.accumulator import Accumulator
from tersor.passes.accumulators import AbsMax, AbsMean, FeatureRange, Gram, Histogram, Range, TokenCounts

RNG = np.random.default_rng(0)
PIECES = st.lists(
    arrays.arrays(np.float32, st.integers(0, 6), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
    min_size=1,
    max_size=6,
)
MAKERS: list[Callable[[], Accumulator]] = [
    Range,
    Histogram,
    *(lambda k=k: k(3) for k in (FeatureRange, AbsMax, AbsMean, Gram)),
]


def gathered(pieces: list[NDArray[np.float32]], bins: int) -> Histogram:
    seen = Histogram(bins)
    for piece in pieces:
        seen.add(piece)
    return seen


def state(seen: Histogram) -> tuple[object, ...]:
    return seen.low, seen.high, seen.exponent, seen.first, seen.counts.tolist(), seen.count


@settings(max_examples=50)
@given(PIECES, st.sampled_from([2, 3, 8, 64]))
def test_a_histogram_counts_each_number_in_its_bin(pieces: list[NDArray[np.float32]], bins: int) -> None:
    seen, numbers = gathered(pieces, bins), np.concatenate(pieces)
    assert len(seen.counts) <= bins
    assert seen.count == seen.counts.sum() == numbers.size
    expected = [0] * len(seen.counts)
    for number in numbers:
        expected[math.floor(math.ldexp(float(number), -seen.exponent)) - seen.first] += 1
    assert seen.counts.tolist() == expected


@settings(max_examples=50)
@given(PIECES, st.sampled_from([2, 8, 64]), st.randoms())
def test_a_histogram_does_not_depend_on_order_or_pieces(pieces: list[NDArray[np.float32]], bins: int, random) -> None:
    once = gathered([np.concatenate(pieces)], bins)
    cut = random.randint(0, len(pieces))
    left, right = gathered(pieces[:cut], bins), gathered(pieces[cut:], bins)
    left.merge(right)
    random.shuffle(pieces)
    assert state(gathered(pieces, bins)) == state(once) == state(left)


@settings(max_examples=50)
@given(PIECES, st.sampled_from([2, 8, 64]))
def test_the_edges_hold_what_was_seen(pieces: list[NDArray[np.float32]], bins: int) -> None:
    seen, numbers = gathered(pieces, bins), np.concatenate(pieces)
    if numbers.size:
        assert (seen.edges[0], seen.edges[-1]) == (seen.low, seen.high) == (numbers.min(), numbers.max())
        assert np.all(np.diff(seen.edges) >= 0)
        assert np.diff(seen.edges).max() <= seen.width


def test_bins_are_as_fine_as_the_data_allow() -> None:
    """Of widths that are powers of two, half the width would need more bins."""
    numbers = RNG.standard_normal(10000).astype(np.float32)
    seen = gathered([numbers], 512)
    half = seen.width / 2
    assert math.floor(seen.high / half) - math.floor(seen.low / half) + 1 > 512
    assert len(seen.counts) > 256


def test_signs_are_not_mixed() -> None:
    seen = gathered([np.array([-1e-30, 0.0, 1e-30, 1.0], np.float32)], 4)
    assert (seen.first, seen.width, seen.counts.tolist()) == (-1, 0.5, [1, 2, 0, 1])


@pytest.mark.parametrize("constant", [0.0, 3.7, -1e-38, 1e38])
def test_a_constant_has_one_bin_without_width(constant: float) -> None:
    seen = gathered([np.full(5, constant, np.float32)] * 2, 16)
    assert seen.counts.tolist() == [10]
    assert seen.edges.tolist() == [np.float32(constant)] * 2


def test_zeros_first_take_nothing_from_the_precision_of_what_follows() -> None:
    later = RNG.uniform(1, 2, 100).astype(np.float32)
    assert state(gathered([np.zeros(3, np.float32), later], 64)) == state(
        gathered([np.append(later, np.zeros(3, np.float32))], 64)
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8, np.int64, ml_dtypes.bfloat16])
def test_a_histogram_takes_any_dtype_and_layout(dtype: type) -> None:
    numbers = RNG.integers(-100, 100, (6, 40, 5)).astype(dtype)
    once, views = Histogram(32), Histogram(32)
    once.add(numbers.astype(np.float64))
    views.add(numbers[::2].transpose(2, 0, 1))
    views.add(numbers[1::2, ::-1])
    assert state(once) == state(views)


def test_finer_bins_merge_into_coarser_ones() -> None:
    numbers = RNG.standard_normal(1000).astype(np.float32)
    coarse = Histogram(16)
    coarse.merge(gathered([numbers], 64))
    assert state(coarse) == state(gathered([numbers], 16))


def test_bins_reach_to_zero_when_asked() -> None:
    seen = gathered([RNG.uniform(1000, 1001, 100).astype(np.float32)], 64)
    wide = seen.through_zero()
    assert (wide.low, wide.high, wide.first, wide.count) == (0.0, seen.high, 0, 100)
    assert len(wide.counts) <= 64
    assert wide.counts.sum() == wide.counts[-2:].sum() == 100
    both = gathered([np.array([-1.0, 2.0], np.float32)], 64)
    assert state(both.through_zero()) == state(both)
    assert Histogram().through_zero().count == 0


def test_the_largest_and_smallest_doubles_fit() -> None:
    huge = np.finfo(np.float64).max
    seen = gathered([np.array([-huge, 5e-324, huge])], 16)
    assert seen.counts.sum() == 3
    assert (seen.edges[0], seen.edges[-1]) == (-huge, huge)


@pytest.mark.parametrize("far", [-(2.0**1000), 2.0**1000])
def test_a_quotient_that_vanishes_keeps_to_the_bins(far: float) -> None:
    """The quotient of the least double by the width is zero, and zero is in the bin of the positive ones."""
    seen = gathered([np.array([-5e-324]), np.array([far]), np.array([-5e-324])], 4)
    assert seen.counts.sum() == 3
    assert seen.first + len(seen.counts) == (0 if far < 0 else 1 + int(far // seen.width))
    assert seen.counts[0 if far > 0 else -1] >= 1


def test_more_numbers_than_a_piece_are_all_counted() -> None:
    numbers = RNG.standard_normal((700, 1000)).astype(np.float32)
    seen = gathered([numbers], 2048)
    assert np.array_equal(seen.counts, np.histogram(numbers, _plain_edges(seen))[0])


def _plain_edges(seen: Histogram) -> NDArray[np.float64]:
    return (seen.first + np.arange(len(seen.counts) + 1)) * seen.width


def test_too_few_bins_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 bins, one for each sign, found 1"):
        Histogram(1)


@settings(max_examples=50)
@given(PIECES)
def test_a_range_is_the_extremes(pieces: list[NDArray[np.float32]]) -> None:
    seen, numbers = Range(), np.concatenate(pieces)
    for piece in pieces:
        seen.add(piece)
    assert seen.count == numbers.size
    assert (seen.low, seen.high) == (numbers.min(initial=np.inf), numbers.max(initial=-np.inf))


TOKENS = [RNG.standard_normal((count, 3)).astype(np.float32) * 5 for count in (4, 0, 1, 1500)]


def test_ranges_of_features_are_the_extremes_of_columns() -> None:
    seen, largest, mean, every = FeatureRange(3), AbsMax(3), AbsMean(3), np.concatenate(TOKENS)
    for piece in TOKENS:
        seen.add(piece)
        largest.add(piece)
        mean.add(piece)
    assert np.array_equal(seen.low, every.min(0))
    assert np.array_equal(seen.high, every.max(0))
    assert np.array_equal(largest.largest, np.abs(every).max(0))
    np.testing.assert_allclose(mean.mean, np.abs(every).mean(0, dtype=np.float64), rtol=1e-12)
    assert seen.count == largest.count == mean.count == 1505


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_a_gram_matrix_is_x_transposed_x(scale: float) -> None:
    """A sum of n products in float32 is within n eps of the sum of magnitudes, |x|.T @ |x|."""
    seen, wide = Gram(3), np.concatenate(TOKENS).astype(np.float64) * scale
    for piece in TOKENS:
        seen.add((piece * scale).astype(np.float32))
    eps = np.finfo(np.float32).eps
    naive = np.array([[sum(x[i] * x[j] for x in wide) for j in range(3)] for i in range(3)])
    assert np.all(np.abs(seen.matrix - naive) <= 1024 * eps * (np.abs(wide).T @ np.abs(wide)))
    assert np.array_equal(seen.matrix, seen.matrix.T)
    assert np.all(np.abs(seen.mean - wide.mean(0)) <= eps * np.abs(wide).mean(0))
    assert seen.count == 1505


def test_a_gram_matrix_of_nothing_and_of_zeros_is_zero() -> None:
    seen = Gram(2)
    assert seen.mean.tolist() == [0, 0]
    seen.add(np.zeros((4, 2), np.float32))
    assert not seen.matrix.any()
    assert seen.count == 4
    empty = Gram(0)
    empty.add(np.zeros((4, 0), np.float32))
    assert (empty.count, empty.matrix.shape) == (4, (0, 0))


def test_ids_are_counted() -> None:
    seen, ids = TokenCounts(7), RNG.integers(-7, 7, (3, 5, 4))
    seen.add(ids[:1])
    seen.add(ids[1:].astype(np.int32))
    assert seen.counts.tolist() == [int((ids % 7 == row).sum()) for row in range(7)]
    assert seen.count == 60


@pytest.mark.parametrize("bad", [7, -8])
def test_ids_outside_the_table_are_refused(bad: int) -> None:
    seen = TokenCounts(7)
    with pytest.raises(ModelError, match=f"ids below the 7 rows of a table, found {bad}"):
        seen.add(np.array([0, bad, 3]))
    with pytest.raises(ModelError, match="expected integer ids into a table of 7 rows, found float32"):
        seen.add(np.zeros(2, np.float32))
    assert not seen.counts.any()


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused_and_nothing_changes(
    make: Callable[[], Accumulator], bad: float
) -> None:
    seen, same = make(), make()
    good = RNG.standard_normal((4, 3)).astype(np.float32)
    spoiled = good * 100
    spoiled[2, 1] = bad
    seen.add(good)
    same.add(good)
    with pytest.raises(ModelError, match=rf"met {bad} in an activation, at \[2, 1\] of \[4, 3\], one of 1 numbers"):
        seen.add(spoiled)
    assert {name: np.asarray(value).tolist() for name, value in vars(seen).items()} == {
        name: np.asarray(value).tolist() for name, value in vars(same).items()
    }


@pytest.mark.parametrize("make", [*MAKERS, lambda: TokenCounts(8)])
def test_what_was_merged_is_what_was_seen_together(make: Callable[[], Accumulator]) -> None:
    left, right, both = make(), make(), make()
    pieces = [RNG.integers(0, 8, (count, 3)) for count in (4, 9)]
    for one, piece in zip((left, right), pieces, strict=True):
        one.add(piece)
        both.add(piece)
    left.merge(right)
    left.merge(make())
    assert left.count == both.count
    for name, value in vars(both).items():
        assert np.array_equal(vars(left)[name], value), name


@pytest.mark.parametrize("make", [*MAKERS, lambda: TokenCounts(8)])
def test_gathering_goes_on_after_a_pickle(make: Callable[[], Accumulator]) -> None:
    seen, piece = make(), RNG.integers(0, 8, (4, 3))
    seen.add(piece)
    read = pickle.loads(pickle.dumps(seen))
    for each in (seen, read):
        each.add(piece * 3 % 8)
    for name, value in vars(seen).items():
        assert np.array_equal(vars(read)[name], value), name


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Histogram(8), Histogram(4)),
        (Gram(2), Gram(3)),
        (AbsMax(2), AbsMax(3)),
        (AbsMean(2), AbsMean(3)),
        (TokenCounts(2), TokenCounts(3)),
    ],
)
def test_sizes_that_differ_do_not_merge(one: Accumulator, other: Accumulator) -> None:
    with pytest.raises(ValueError, match=r"expected .* found"):
        one.merge(other)


@pytest.mark.parametrize("shape", [(3,), (2, 4), (2, 2, 3)])
def test_arrays_of_another_width_are_refused(shape: tuple[int, ...]) -> None:
    for seen in (FeatureRange(3), AbsMax(3), AbsMean(3), Gram(3)):
        with pytest.raises(ValueError, match=r"expected an array \[tokens, 3\], found"):
            seen.add(np.zeros(shape, np.float32))


def test_memory_does_not_grow_with_the_data() -> None:
    piece = RNG.standard_normal((50, 3)).astype(np.float32)
    for make in MAKERS:
        seen = make()
        seen.add(piece)
        before = seen.bytes
        for factor in range(1, 20):
            seen.add(piece * factor)
        # a histogram has at most as many bins as it was given
        assert seen.bytes <= (2048 * 8 + 32 if isinstance(seen, Histogram) else before)
