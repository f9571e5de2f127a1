"""Sums of Kronecker products against Van Loan and Pitsianis: the nearest there is, and what it loses is known."""

from __future__ import annotations

import numpy as np
import pytest
from tersor.passes.factorize.methods.kronecker import kronecker, rearranged
from tersor.passes.factorize.methods.modes import balanced, even, fitting, parse
from tersor.passes.factorize.methods.network import Factor, Network, folded, merged

RNG = np.random.default_rng(3)
INS, OUTS = (4, 6), (3, 5)
MATRIX = RNG.standard_normal((24, 15))


def summed(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return sum(np.kron(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("terms", [1, 3, 11])
def test_what_is_lost_is_the_tail_of_the_rearranged_spectrum(terms: int) -> None:
    values = np.linalg.svd(rearranged(MATRIX, INS, OUTS), compute_uv=False)
    error = np.linalg.norm(MATRIX - summed(*kronecker(MATRIX, INS, OUTS, terms)))
    assert error == pytest.approx(np.linalg.norm(values[terms:]))


def test_the_rearranged_product_has_rank_one() -> None:
    a, b = RNG.standard_normal((4, 3)), RNG.standard_normal((6, 5))
    np.testing.assert_allclose(rearranged(np.kron(a, b), INS, OUTS), np.outer(a, b), atol=1e-12)


def test_a_sum_of_so_many_products_is_found() -> None:
    matrix = sum(np.kron(RNG.standard_normal((4, 3)), RNG.standard_normal((6, 5))) for _ in range(3))
    np.testing.assert_allclose(summed(*kronecker(matrix, INS, OUTS, 3)), matrix, atol=1e-12)


def test_no_other_product_is_nearer() -> None:
    best = np.linalg.norm(MATRIX - summed(*kronecker(MATRIX, INS, OUTS, 1)))
    for _ in range(200):
        a, b = RNG.standard_normal((4, 3)), RNG.standard_normal((6, 5))
        other = np.kron(a, b)
        other *= np.sum(other * MATRIX) / np.sum(other**2)
        assert np.linalg.norm(MATRIX - other) >= best


def test_all_terms_are_the_matrix() -> None:
    np.testing.assert_allclose(summed(*kronecker(MATRIX, INS, OUTS, 12)), MATRIX, atol=1e-12)


@pytest.mark.parametrize("terms", [0, 13])
def test_terms_of_nothing_and_above_full_are_refused(terms: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to 12 terms"):
        kronecker(MATRIX, INS, OUTS, terms)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        kronecker(np.full((4, 4), np.nan), (2, 2), (2, 2), 1)
    with pytest.raises(ValueError, match="two modes of rows"):
        kronecker(MATRIX, (24,), (3, 5), 1)
    with pytest.raises(ValueError, match="at least 24 rows"):
        kronecker(MATRIX, (4, 5), (3, 5), 1)


def test_a_network_is_what_its_factors_multiply_to() -> None:
    first, second = kronecker(MATRIX, INS, OUTS, 2)
    network = Network(
        (Factor(first, ("t", "i", "j")), Factor(second, ("t", "k", "l"))), ("i", "k"), ("j", "l"), (24, 15)
    )
    np.testing.assert_allclose(network.dense(), summed(first, second), atol=1e-12)
    assert (network.numbers, network.whole) == (2 * (12 + 30), (24, 15))


def test_factors_of_full_rank_are_multiplied() -> None:
    chain = [
        (RNG.standard_normal(sizes), labels) for sizes, labels in (((4, 4), "ar"), ((4, 6, 3), "rbs"), ((3, 5), "sc"))
    ]
    network = Network(tuple(Factor(array, tuple(labels)) for array, labels in chain), ("a", "b"), ("c",), (24, 5))
    found = merged(network)
    assert [each.labels for each in found.factors] == [("a", "b", "s"), ("s", "c")]
    np.testing.assert_allclose(found.dense(), network.dense(), atol=1e-12)
    # three factors of one label, as CP has them, hold more as two
    vectors = [Factor(RNG.standard_normal((size, 3)), (label, "r")) for size, label in ((4, "a"), (6, "b"), (5, "c"))]
    assert len(merged(Network(tuple(vectors), ("a", "b"), ("c",), (24, 5))).factors) == 3


def test_what_is_folded_is_padded_with_zeros() -> None:
    tensor = folded(MATRIX, (5, 5), (4, 4))
    assert tensor.shape == (5, 5, 4, 4)
    assert np.array_equal(tensor.reshape(25, 16)[:24, :15], MATRIX) and not tensor.reshape(25, 16)[24:].any()


@pytest.mark.parametrize(
    ("size", "count", "modes"),
    [(384, 2, (16, 24)), (384, 3, (6, 8, 8)), (36, 2, (6, 6)), (7, 2, (1, 7)), (1, 3, (1, 1, 1)), (60, 1, (60,))],
)
def test_dimensions_are_products_of_even_numbers(size: int, count: int, modes: tuple[int, ...]) -> None:
    assert balanced(size, count) == modes


@pytest.mark.parametrize("size", [30522, 61, 179, 7919, 384])
def test_primes_are_padded_by_little(size: int) -> None:
    found = fitting(size, 2)
    assert even(found) and size <= found[0] * found[1] <= 1.1 * size


def test_modes_are_read_and_refused() -> None:
    assert parse("16x24/32x48") == ((16, 24), (32, 48))
    for text in ("16x24", "16x/3", "axb/c", "0x4/2x2", "2/3/4"):
        with pytest.raises(ValueError, match="expected modes of inputs and of outputs"):
            parse(text)
    with pytest.raises(ValueError, match="at least 1"):
        balanced(0, 2)
