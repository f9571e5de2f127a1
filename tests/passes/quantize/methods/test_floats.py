"""Casts against tables of all numbers of a type: the nearest is taken."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tersor.passes.quantize.methods.floats import Eight, Half, adaptivfloat, cast, float8

RNG = np.random.default_rng(0)
Floats = NDArray[np.float64]
HALVES: list[Half] = ["float16", "bfloat16"]
EIGHTS: list[Eight] = ["float8_e4m3fn", "float8_e5m2"]
#: The widest and the narrowest dtype that a weight comes in.
KINDS = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]


def numbers_of(name: str) -> Floats:
    """All finite numbers of a type, ascending; of two zeros, one."""
    kind = np.dtype(getattr(ml_dtypes, name, None) or name)
    codes = np.arange(1 << 8 * kind.itemsize, dtype=f"u{kind.itemsize}").view(kind)
    with np.errstate(invalid="ignore"):  # of NaN
        return np.unique(codes[np.isfinite(codes)].astype(np.float64))


def samples(numbers: Floats) -> Floats:
    """Numbers of a type, the middles between them, and what is nearest to those."""
    picked = np.concatenate([numbers[:40], numbers[-40:], RNG.choice(numbers, min(500, len(numbers)))])
    at = np.clip(np.searchsorted(numbers, picked), 0, len(numbers) - 2)
    middles = (numbers[at] + numbers[at + 1]) / 2
    return np.concatenate([picked, middles, np.nextafter(middles, np.inf), np.nextafter(middles, -np.inf)])


def is_nearest(found: Floats, wanted: Floats, numbers: Floats) -> bool:
    at = np.clip(np.searchsorted(numbers, wanted), 1, len(numbers) - 1)
    least = np.minimum(np.abs(wanted - numbers[at - 1]), np.abs(wanted - numbers[at]))
    return bool(np.all(np.isin(found, numbers)) and np.all(np.abs(found - wanted) == least))


@pytest.mark.parametrize("dtype", HALVES)
def test_a_cast_gives_the_nearest_number(dtype: Half) -> None:
    """Of doubles too, next to a tie: rounded once."""
    wanted = samples(numbers_of(dtype))
    found = cast(wanted, dtype)
    assert found.dtype == dtype
    assert is_nearest(found.astype(np.float64), wanted, numbers_of(dtype))


@pytest.mark.parametrize("dtype", HALVES)
def test_ties_go_to_even_mantissas(dtype: Half) -> None:
    eps = float(ml_dtypes.finfo(dtype).eps)
    found = cast(np.array([1 + eps / 2, 1 + eps * 1.5, -1 - eps / 2]), dtype).astype(np.float64)
    assert found.tolist() == [1.0, 1 + 2 * eps, -1.0]


@pytest.mark.parametrize("dtype", HALVES)
def test_what_is_too_large_becomes_the_largest(dtype: Half) -> None:
    largest = float(ml_dtypes.finfo(dtype).max)
    found = cast(np.array([1e300, -1e300, largest * (1 + 1e-9)]), dtype).astype(np.float64)
    assert found.tolist() == [largest, -largest, largest]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", EIGHTS)
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_fp8_is_the_nearest_number_of_the_scaled_weight(dtype: Eight, axis: int | None, kind: type) -> None:
    weight = (RNG.standard_normal((16, 12)) * np.exp(RNG.standard_normal(12))).astype(kind)
    found = float8(weight, dtype, axis=axis)
    assert found.values.dtype == dtype
    assert found.scale.dtype == found.dense().dtype == kind
    scale = found.scale.astype(np.float64)
    shape = {None: (), 0: (16, 1), 1: (1, 12), -1: (1, 12)}[axis]
    scaled = weight.astype(np.float64) / scale.reshape(shape)
    assert is_nearest(found.values.astype(np.float64), scaled, numbers_of(dtype))


@pytest.mark.parametrize("dtype", EIGHTS)
def test_fp8_scales_put_the_largest_magnitude_on_the_largest_number(dtype: Eight) -> None:
    weight = RNG.standard_normal((30, 20)).astype(np.float32)
    largest = float(ml_dtypes.finfo(dtype).max)
    found = float8(weight, dtype, axis=1)
    np.testing.assert_allclose(found.scale, np.abs(weight).max(0) / largest, rtol=np.finfo(np.float32).eps)
    assert np.abs(found.values.astype(np.float32)).max(0).tolist() == [largest] * 20
    assert float8(weight, dtype).scale.shape == ()


@pytest.mark.parametrize("dtype", EIGHTS)
def test_fp8_rounds_doubles_once(dtype: Eight) -> None:
    """The largest magnitude fixes the scale at one."""
    numbers = numbers_of(dtype)
    wanted = np.append(np.clip(samples(numbers), numbers[0], numbers[-1]), numbers[-1])
    found = float8(wanted, dtype)
    assert found.scale == 1
    assert is_nearest(found.values.astype(np.float64), wanted, numbers)


def test_fp8_with_more_scales_errs_less_and_e4m3_less_than_e5m2() -> None:
    weight = RNG.standard_normal((64, 32)) * 10.0 ** RNG.integers(-3, 3, 32)
    errors = {
        (dtype, axis): float(np.mean(((float8(weight, dtype, axis=axis).dense() - weight) / weight) ** 2))
        for dtype in EIGHTS
        for axis in (None, 1)
    }
    assert errors["float8_e4m3fn", 1] < errors["float8_e4m3fn", None]
    assert errors["float8_e4m3fn", 1] < errors["float8_e5m2", 1]


def naive(weight: float, largest: float, bits: int, exponent: int) -> float:
    """Algorithm 1 of the paper, for one number."""
    mantissa = bits - exponent - 1
    most = math.floor(math.log2(largest))
    bias = most - (2**exponent - 1)
    least_value, most_value = 2.0**bias * (1 + 2.0**-mantissa), 2.0**most * (2 - 2.0**-mantissa)
    magnitude, sign = abs(weight), math.copysign(1.0, weight)
    if magnitude <= least_value / 2:
        return 0.0
    if magnitude < least_value:
        return sign * least_value
    power = math.floor(math.log2(magnitude))
    rounded = round(magnitude / 2.0**power * 2**mantissa) / 2**mantissa * 2.0**power
    return sign * min(rounded, most_value)


@given(st.integers(2, 8), st.data())
def test_adaptivfloat_is_the_papers_algorithm(bits: int, data: st.DataObject) -> None:
    exponent = data.draw(st.integers(1, bits - 1))
    seed, size = data.draw(st.integers(0, 1000)), 10.0 ** data.draw(st.integers(-6, 6))
    weight = np.random.default_rng(seed).standard_normal((5, 7)) ** 3 * size
    found = adaptivfloat(weight, bits=bits, exponent=exponent)
    largest = float(np.abs(weight).max())
    wanted = [[naive(float(number), largest, bits, exponent) for number in row] for row in weight]
    assert found.dense().tolist() == wanted
    assert found.bits == bits
    # of its two zeros, the positive one
    assert not found.indices[0][found.dense() == 0].any()


def test_adaptivfloat_takes_zero_where_it_is_as_near() -> None:
    """4 bits, 2 of exponent: 1.5 has exponent 0, so the bias is -3 and the smallest magnitude 2^-3 * 1.5 = 0.1875."""
    weight = np.array([[1.5, 0.09375, np.nextafter(0.09375, 1), -0.09375, -0.1]])
    assert adaptivfloat(weight, bits=4, exponent=2).dense().tolist() == [[1.5, 0.0, 0.1875, 0.0, -0.1875]]


@pytest.mark.parametrize(("bits", "exponent"), [(8, 3), (8, 7), (4, 2), (4, 3), (3, 1), (2, 1)])
def test_adaptivfloat_holds_the_nearest_number_of_its_table(bits: int, exponent: int) -> None:
    weight = RNG.standard_normal((40, 30)).astype(np.float32)
    found = adaptivfloat(weight, bits=bits, exponent=exponent)
    table = found.books[0, :, 0].astype(np.float64)
    assert found.books.shape == (1, 2**bits, 1)
    assert len(np.unique(table)) == 2**bits - 1
    assert np.array_equal(np.sort(table), np.sort(-table))
    assert is_nearest(found.dense().astype(np.float64), weight.astype(np.float64), np.unique(table))
    # bits, rounded up to bytes plane by plane, and the table
    assert found.bytes == bits * 1200 // 8 + 4 * 2**bits


def test_adaptivfloat_follows_powers_of_two() -> None:
    """Its exponents move with the largest magnitude: 2^k w has the codes of w."""
    weight = RNG.standard_normal((9, 9))
    one, other = adaptivfloat(weight), adaptivfloat(weight * 2.0**37)
    assert np.array_equal(one.indices, other.indices)
    assert np.array_equal(one.books * 2.0**37, other.books)


def test_adaptivfloat_errs_less_with_more_bits_and_less_than_fp8_where_exponents_differ() -> None:
    """Section 4 of the paper: with the bias of the tensor, three bits of exponent do, and the mantissa has one more."""
    weight = RNG.standard_normal((200, 100))
    errors = [float(np.mean((adaptivfloat(weight, bits=bits).dense() - weight) ** 2)) for bits in (4, 5, 6, 7, 8)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < np.mean((float8(weight).dense() - weight) ** 2)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_in_the_dtype_of_the_weight(kind: type) -> None:
    assert adaptivfloat(np.ones((2, 3), kind)).dense().dtype == kind


def test_zeros_stay_zeros() -> None:
    weight = np.zeros((3, 2), np.float32)
    assert not cast(weight, "bfloat16").any()
    assert float8(weight, axis=0).scale.tolist() == [1.0] * 3
    assert not float8(weight).dense().any()
    assert not adaptivfloat(weight).dense().any()


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_empty_weights_are_allowed(shape: tuple[int, int]) -> None:
    weight = np.zeros(shape, np.float32)
    assert cast(weight, "float16").shape == shape
    assert float8(weight, axis=1).dense().shape == shape
    assert adaptivfloat(weight).dense().shape == shape


def test_the_smallest_numbers_do_not_underflow_to_a_scale_of_zero() -> None:
    weight = np.array([[np.finfo(np.float32).smallest_subnormal, 0.0]], np.float32)
    for found in (float8(weight), float8(weight, "float8_e5m2", axis=0)):
        assert np.array_equal(found.dense(), weight)
    assert np.array_equal(adaptivfloat(weight).dense(), weight)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    weight = np.array([[1.0, bad]], np.float32)
    for quantize in (lambda each: cast(each, "float16"), float8, adaptivfloat):
        with pytest.raises(ValueError, match="the weight holds NaN or infinity"):
            quantize(weight)


@pytest.mark.parametrize(
    ("bits", "exponent", "why"),
    [
        (9, 3, "2 to 8 bits, found 9"),
        (1, 1, "2 to 8 bits, found 1"),
        (4, 4, "1 to 3 bits of exponent, found 4"),
        (4, 0, "found 0"),
    ],
)
def test_other_bits_are_refused(bits: int, exponent: int, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        adaptivfloat(np.ones((1, 1)), bits=bits, exponent=exponent)


def test_other_types_and_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected float16 or bfloat16, found int8"):
        cast(np.ones(1), "int8")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected float8_e4m3fn or float8_e5m2, found float16"):
        float8(np.ones(1), "float16")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"a weight \[rows, columns\], found 1 axes"):
        adaptivfloat(np.ones(3))
