"""Linear CKA against the formula in features, and what it does not see."""

from __future__ import annotations

import numpy as np
import pytest
from tersor.passes.share.methods.similarity import cka

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((50, 8)), RNG.standard_normal((50, 5))


def by_features(one: np.ndarray, other: np.ndarray) -> float:
    """Kornblith et al., 2019, equation 3 in the form |Y.T X|^2 / (|X.T X| |Y.T Y|)."""
    a, b = one - one.mean(0), other - other.mean(0)
    return float(np.linalg.norm(b.T @ a) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)))


def test_is_the_formula_in_features() -> None:
    found = cka([X, Y])
    assert found[0, 1] == pytest.approx(by_features(X, Y))
    assert found == pytest.approx(found.T)
    assert np.diag(found) == pytest.approx([1.0, 1.0])


def test_does_not_see_rotation_scale_and_shift() -> None:
    turned = X @ np.linalg.qr(RNG.standard_normal((8, 8)))[0] * 3.0 + 7.0
    assert cka([X, turned])[0, 1] == pytest.approx(1.0)


def test_sees_a_stretch() -> None:
    assert cka([X, X * np.linspace(0.1, 5, 8)])[0, 1] < 0.95


def test_what_does_not_vary_is_like_nothing() -> None:
    assert cka([X, np.ones((50, 3))])[0, 1] == 0.0


@pytest.mark.parametrize("other", [np.zeros((49, 2)), np.full((50, 2), np.inf)])
def test_refuses(other: np.ndarray) -> None:
    with pytest.raises(ValueError):
        cka([X, other])
