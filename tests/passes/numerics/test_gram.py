"""Gram matrices: what is none is told, what is singular is damped."""

from __future__ import annotations

import numpy as np
import pytest
from tersor.passes.numerics.gram import check_gram, damped, factored, level


def _gram(rows: int = 6, tokens: int = 20) -> np.ndarray:
    inputs = np.random.default_rng(3).standard_normal((tokens, rows))
    return inputs.T @ inputs


def test_the_factor_is_that_of_the_raised_matrix() -> None:
    gram = _gram()
    raised, lower = damped(gram, 0.01)
    np.testing.assert_allclose(raised, gram + 0.01 * np.trace(gram) / 6 * np.eye(6), rtol=1e-15)
    assert not np.triu(lower, 1).any()
    np.testing.assert_allclose(lower @ lower.T, raised, rtol=0, atol=6 * np.finfo(float).eps * np.trace(raised))


def test_without_damping_a_positive_definite_matrix_is_as_it_was() -> None:
    np.testing.assert_array_equal(damped(_gram(), 0.0)[0], _gram())


def test_a_matrix_of_inputs_of_very_different_sizes_is_not_taken_for_singular() -> None:
    sizes = np.logspace(-12, 12, 6)
    gram = sizes[:, None] * _gram() * sizes
    np.testing.assert_array_equal(damped(gram, 0.0)[0], gram)


@pytest.mark.parametrize("tokens", [0, 1, 3, 5])
def test_a_singular_matrix_is_raised_until_it_has_a_factor(tokens: int) -> None:
    raised, lower = damped(_gram(tokens=tokens), 0.0)
    assert np.isfinite(np.linalg.inv(lower)).all()
    added = np.diagonal(raised) - np.diagonal(_gram(tokens=tokens))
    assert (added > 0).all()
    assert added.max() <= 1.1e-8 * level(_gram(tokens=tokens))


def test_inputs_that_are_always_zero_do_not_lower_the_damping() -> None:
    assert level(np.diag([4.0, 0.0, 2.0])) == 3.0
    assert level(np.zeros((2, 2))) == level(np.zeros((0, 0))) == 1.0


def test_a_matrix_that_one_times_its_mean_does_not_mend_is_refused() -> None:
    with pytest.raises(ValueError, match="not positive definite even with its diagonal raised by 1 times its mean"):
        damped(np.array([[1.0, 9.0], [9.0, 1.0]]), 0.01)


def test_damping_grows_tenfold() -> None:
    """Eigenvalues -0.05 and 2.05: 0.01 does not suffice, 0.1 does."""
    assert damped(np.array([[1.0, 1.05], [1.05, 1.0]]), 0.01)[0][0, 0] == 1.1


@pytest.mark.parametrize("damping", [-0.1, np.nan, np.inf])
def test_a_damping_that_is_none_is_refused(damping: float) -> None:
    with pytest.raises(ValueError, match="a damping of at least 0"):
        damped(_gram(), damping)


def test_rounding_of_float32_sums_is_evened_out() -> None:
    gram = _gram().astype(np.float32)
    gram[0, 1] = np.nextafter(gram[0, 1], np.float32(np.inf))
    found = check_gram(gram, 6)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, _gram(), rtol=0, atol=np.finfo(np.float32).eps * np.abs(_gram()).max())
    np.testing.assert_array_equal(found, found.T)


def test_what_is_no_gram_matrix_is_refused() -> None:
    gram = _gram()
    for bad, match in [
        (gram[:5], r"\[6, 6\] for a weight of 6 rows, found \(5, 6\)"),
        (np.where(np.eye(6) > 0, np.nan, gram), "NaN or infinity"),
        (np.tril(gram), "not symmetric"),
        (gram - 100 * np.eye(6), "on its diagonal"),
    ]:
        with pytest.raises(ValueError, match=match):
            check_gram(bad, 6)


@pytest.mark.parametrize("damping", [0.0, 0.1])
def test_factored_is_the_matrix_and_the_pivots_of_its_inverse(damping: float) -> None:
    x = np.random.default_rng(3).standard_normal((40, 7))
    raised = damped(x.T @ x, damping)[0]
    lower, pivots = factored(x.T @ x, damping)
    np.testing.assert_allclose(lower.T @ np.diag(pivots) @ lower, raised, rtol=1e-12)
    np.testing.assert_array_equal(np.diagonal(lower), 1)
    assert not np.triu(lower, 1).any()
    for start in range(7):
        # once the inputs before it are fixed
        assert 1 / pivots[start] == pytest.approx(np.linalg.inv(raised[start:, start:])[0, 0], rel=1e-10)
