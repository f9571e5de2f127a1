"""NormalFloat against its definition and the published numbers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import norm
from tersor.passes.quantize.methods.normal_float import levels, normal_float
from tersor.passes.weights import Quantized

RNG = np.random.default_rng(0)
W = RNG.standard_normal((6, 100)).astype(np.float32)

#: QLoRA, appendix E.
PUBLISHED = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip


def test_four_bits_are_the_published_numbers() -> None:
    """Those were computed in float32, from probabilities rounded to it: a quantile moves by eps / density."""
    last = 1 - (1 / 30 + 1 / 32) / 2
    slack = 2 * np.finfo(np.float32).eps / norm.pdf(norm.ppf(last))
    np.testing.assert_allclose(levels(4), PUBLISHED, rtol=0, atol=slack)


@pytest.mark.parametrize("bits", range(2, 9))
def test_levels_are_quantiles_of_both_halves(bits: int) -> None:
    half = 1 << (bits - 1)
    last = 1 - (1 / (2 * (2 * half - 1)) + 1 / (4 * half)) / 2
    above, below = norm.ppf(np.linspace(0.5, last, half + 1)), norm.ppf(np.linspace(1 - last, 0.5, half))
    wanted = np.concatenate([below[:-1], above]) / above[-1]
    # both compute the quantile to a few units in the last place, of numbers up to 1 over the least probability left
    np.testing.assert_allclose(levels(bits), wanted, rtol=0, atol=8 * np.finfo(np.float64).eps / (1 - last))
    assert len(levels(bits)) == 2 * half
    assert levels(bits)[half - 1] == 0
    assert (np.diff(levels(bits)) > 0).all()
    assert levels(bits)[0] == -1 and levels(bits)[-1] == 1


@pytest.mark.parametrize("block", [0, 1, 32, 64, 100, 200])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_each_weight_is_the_nearest_level_of_its_block(bits: int, block: int) -> None:
    found = normal_float(W, bits=bits, block=block).dense()
    size = block or 100
    for row in range(6):
        for start in range(0, 100, size):
            part = W[row, start : start + size].astype(np.float64)
            scale = np.abs(part).max()
            grid = levels(bits) * scale
            for number, got in zip(part, found[row, start : start + size], strict=True):
                # the level and its product with the scale are rounded
                slack = 4 * np.finfo(np.float32).eps * scale
                assert abs(float(got) - number) <= np.abs(grid - number).min() + slack


def test_the_largest_of_a_block_and_zero_are_exact() -> None:
    weight = W.copy()
    weight[:, 7] = 0
    found = normal_float(weight).dense()
    assert not found[:, 7].any()
    at = np.abs(weight[:, :64]).argmax(1)
    np.testing.assert_array_equal(found[range(6), at], weight[range(6), at])


def test_more_bits_and_smaller_blocks_have_a_smaller_error() -> None:
    def error(**options: int) -> float:
        return float(np.square(normal_float(W, **options).dense() - W).sum())

    by_bits = [error(bits=bits) for bits in range(2, 9)]
    by_block = [error(block=block) for block in (100, 50, 10, 5, 1)]
    for errors in (by_bits, by_block):
        assert all(more < less for less, more in pairwise(errors))


def test_normal_weights_err_less_than_with_even_levels() -> None:
    """What the levels are for (QLoRA, section 3), over blocks of 64."""
    weight = RNG.standard_normal((64, 256))
    scale = np.abs(weight.reshape(-1, 64)).max(1).repeat(64).reshape(weight.shape)
    even = np.rint(weight / scale * 7) / 7 * scale
    assert np.square(normal_float(weight).dense() - weight).sum() < np.square(even - weight).sum()


class TestDouble:
    def test_scales_are_within_half_a_step(self) -> None:
        weight = RNG.standard_normal((40, 640)).astype(np.float32) * RNG.uniform(0.1, 2, (40, 1)).astype(np.float32)
        scale = normal_float(weight, double=True).scale
        assert isinstance(scale, Quantized)
        wanted = np.abs(weight.reshape(-1, 64)).max(1).astype(np.float64)
        found = scale.dense().astype(np.float64)
        for start in range(0, wanted.size, 256):
            part = slice(start, start + 256)
            step = wanted[part].max() / 255
            # an integer below 256 and its step in float32
            assert np.abs(found[part] - wanted[part]).max() <= step * (0.5 + 256 * np.finfo(np.float32).eps)

    def test_costs_an_eighth_of_a_bit_for_each_weight(self) -> None:
        """8 / 64 + 32 / (64 * 256) instead of 32 / 64 (QLoRA, section 3)."""
        weight = RNG.standard_normal((256, 64)).astype(np.float32)
        plain, double = normal_float(weight), normal_float(weight, double=True)
        assert plain.bytes - 16 * 4 == weight.size * (4 + 32 / 64) / 8
        assert double.bytes - 16 * 4 == weight.size * (4 + 8 / 64 + 32 / (64 * 256)) / 8

    def test_weights_are_rounded_to_the_scales_that_are_stored(self) -> None:
        found = normal_float(W, double=True)
        assert isinstance(found.scale, Quantized)
        scale = found.scale.dense().astype(np.float64).reshape(6, 2).repeat(64, 1)[:, :100]
        nearest = np.abs(levels(4) * scale[..., None] - W[..., None].astype(np.float64)).min(2)
        slack = 4 * np.finfo(np.float32).eps * scale
        assert np.all(np.abs(found.dense() - W) <= nearest + slack)

    def test_a_faint_block_beside_a_loud_one_is_not_lost(self) -> None:
        """A scale of 0.4 steps becomes one step, not zero; the nearest level to 0.4 of that is 0.44."""
        weight = np.ones((1, 128), np.float32)
        weight[0, :64] = 0.4 / 255
        eps = 4 * np.finfo(np.float32).eps
        np.testing.assert_allclose(normal_float(weight, double=True).dense()[0, :64], levels(4)[12] / 255, rtol=eps)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_zeros_and_the_smallest_numbers(dtype: type, double: bool) -> None:
    assert not normal_float(np.zeros((2, 70), dtype), double=double).dense().any()
    weight = np.zeros((2, 70), dtype)
    weight[1, 3] = np.finfo(dtype).smallest_subnormal
    found = normal_float(weight, double=double).dense()
    assert found.dtype == dtype
    assert np.isfinite(found).all()
    assert not found[0].any()


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("block", [0, 2, 3])
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (1, 1)])
def test_small_shapes(shape: tuple[int, int], block: int, double: bool) -> None:
    weight = np.full(shape, -0.5, np.float32)
    found = normal_float(weight, block=block, double=double).dense()
    assert found.shape == shape
    np.testing.assert_allclose(found, weight, rtol=2 * np.finfo(np.float32).eps)


@pytest.mark.parametrize(
    ("weight", "options", "message"),
    [
        (np.array([[1.0, np.nan]]), {}, "the weight holds NaN or infinity"),
        (np.ones((2, 2, 2)), {}, "found 3 axes"),
        (W, {"bits": 1}, "expected 2 to 8 bits, found 1"),
        (W, {"block": -1}, "expected a block of at least one column, or 0 for whole rows, found -1"),
    ],
)
def test_bad_input(weight: np.ndarray, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normal_float(weight, **options)  # type: ignore[arg-type]


def test_levels_need_two_bits() -> None:
    with pytest.raises(ValueError, match="expected 2 to 8 bits, found 1"):
        levels(1)
