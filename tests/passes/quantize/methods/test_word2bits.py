"""Word2Bits' function, and scales of least squares."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from tersor.passes.quantize.methods.word2bits import word2bits

RNG = np.random.default_rng(0)
W = RNG.standard_normal((9, 11))


def paper(x: float, bits: int) -> float:
    if bits == 1:
        return 1 / 3 if x >= 0 else -1 / 3
    if x > 0.5:
        return 3 / 4
    if x >= 0:
        return 1 / 4
    return -1 / 4 if x >= -0.5 else -3 / 4


@pytest.mark.parametrize("bits", [1, 2])
def test_without_a_scale_it_is_the_papers_function(bits: int) -> None:
    weight = np.concatenate([W, [[0.0, -0.0, 0.5, -0.5, 0.5 + 1e-9, -0.5 - 1e-9, 9, -9, 0.25, -0.25, 0.3]]])
    wanted = np.vectorize(lambda x: paper(x, bits))(weight)
    np.testing.assert_array_equal(word2bits(weight, bits=bits, fit="none").dense(), wanted)


@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("fit", ["tensor", "rows"])
def test_no_scale_and_no_assignment_has_a_smaller_error(bits: int, fit: str) -> None:
    """All choices of levels for six weights, each with the scale that suits it best."""
    levels = {1: (1 / 3, -1 / 3), 2: (3 / 4, 1 / 4, -1 / 4, -3 / 4)}[bits]
    weight = RNG.standard_normal((1, 6))
    choices = np.array(list(product(levels, repeat=6)))
    scales = choices @ weight[0] / np.square(choices).sum(1)
    best = np.square(scales[:, None] * choices - weight).sum(1).min()
    found = word2bits(weight, bits=bits, fit=fit).dense()  # type: ignore[arg-type]
    np.testing.assert_allclose(np.square(found - weight).sum(), best, rtol=64 * np.finfo(float).eps)


def test_one_bit_scales_to_the_mean_magnitude() -> None:
    wanted = np.where(W >= 0, 1, -1) * np.abs(W).mean(1, keepdims=True)
    np.testing.assert_allclose(word2bits(W).dense(), wanted, rtol=16 * np.finfo(float).eps)


def test_rows_are_scaled_on_their_own() -> None:
    loud = W * np.exp2(np.arange(9))[:, None]
    for bits in (1, 2):
        found = word2bits(loud, bits=bits).dense()
        parts = [word2bits(row[None], bits=bits, fit="tensor").dense()[0] for row in loud]
        np.testing.assert_allclose(found, parts, rtol=8 * np.finfo(float).eps)
        np.testing.assert_array_equal(found, word2bits(W, bits=bits).dense() * np.exp2(np.arange(9))[:, None])


def test_more_bits_and_more_scales_have_a_smaller_error() -> None:
    errors = [
        float(np.square(word2bits(W, bits=bits, fit=fit).dense() - W).sum())  # type: ignore[arg-type]
        for bits in (1, 2)
        for fit in ("none", "tensor", "rows")
    ]
    assert all(more <= less for start in (0, 3) for less, more in pairwise(errors[start : start + 3]))
    assert errors[4] < errors[1] and errors[5] < errors[2]


@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("fit", ["tensor", "rows"])
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (1, 1), (3, 4)])
def test_small_shapes_and_constants(shape: tuple[int, int], fit: str, bits: int) -> None:
    for number in (0.0, 0.3, -2.0):
        weight = np.full(shape, number, np.float32)
        found = word2bits(weight, bits=bits, fit=fit).dense()  # type: ignore[arg-type]
        np.testing.assert_allclose(found, weight, rtol=4 * np.finfo(np.float32).eps)


@pytest.mark.parametrize(
    ("weight", "options", "message"),
    [
        (np.array([[1.0, np.nan]]), {}, "the weight holds NaN or infinity"),
        (np.ones(3), {}, "found 1 axes"),
        (W, {"bits": 0}, "found 0"),
        (W, {"bits": 3}, "expected 1 or 2 bits, found 3"),
        (W, {"fit": "columns"}, "expected none, tensor or rows, found columns"),
    ],
)
def test_bad_input(weight: np.ndarray, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        word2bits(weight, **options)  # type: ignore[arg-type]
