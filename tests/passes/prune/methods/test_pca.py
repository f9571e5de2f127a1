"""Principal directions against the singular vectors of the rows."""

from __future__ import annotations

import numpy as np
import pytest
from tersor.passes.prune.methods.pca import features, principal

RNG = np.random.default_rng(23)


def rows(count: int = 200, size: int = 12, rank: int = 12) -> np.ndarray:
    return RNG.standard_normal((count, rank)) @ np.diag(2.0 ** -np.arange(rank)) @ RNG.standard_normal((rank, size))


def test_principal_directions_are_the_first_right_singular_vectors() -> None:
    x = rows()
    basis = principal(x.T @ x, 5)
    first = np.linalg.svd(x)[2][:5]
    np.testing.assert_allclose(np.abs(first @ basis), np.eye(5), atol=1e-8)


def test_no_basis_loses_less() -> None:
    x = rows()
    values = np.linalg.svd(x)[1]
    basis = principal(x.T @ x, 5)
    assert np.linalg.norm(x - x @ basis @ basis.T) ** 2 == pytest.approx((values[5:] ** 2).sum())


@pytest.mark.parametrize("rank", [3, 12])
def test_centred_directions_have_no_mean(rank: int) -> None:
    x = rows(rank=rank)
    basis = principal(x.T @ x, 11, centred=True)
    np.testing.assert_allclose(basis.mean(0), 0, atol=1e-10)
    np.testing.assert_allclose(basis.T @ basis, np.eye(11), atol=1e-10)
    centred = x - x.mean(1, keepdims=True)
    np.testing.assert_allclose(x @ basis @ basis.T, centred, atol=1e-10)


def test_features_are_those_of_most_energy() -> None:
    x = rows()
    basis = features(x.T @ x, 4)
    assert sorted(basis.argmax(0)) == sorted(np.argsort(-(x**2).sum(0))[:4])
    assert set(basis.reshape(-1)) == {0.0, 1.0}


def test_centred_features_span_what_is_left_of_them() -> None:
    x = rows()
    centred = x - x.mean(1, keepdims=True)
    basis = features(x.T @ x, 4, centred=True)
    chosen = np.argsort(-(centred**2).sum(0))[:4]
    wanted = np.eye(12)[:, chosen] - 1 / 12
    np.testing.assert_allclose(basis @ (basis.T @ wanted), wanted, atol=1e-12)


@pytest.mark.parametrize(("kept", "centred"), [(0, False), (13, False), (12, True)])
def test_so_many_directions_as_there_are(kept: int, centred: bool) -> None:
    with pytest.raises(ValueError, match=f"expected 1 to {12 - centred} directions of 12 features, found {kept}"):
        principal(np.eye(12), kept, centred=centred)


def test_a_matrix_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="Gram matrix"):
        principal(np.full((3, 3), np.nan), 2)
