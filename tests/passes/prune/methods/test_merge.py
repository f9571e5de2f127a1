"""Merging neurons against the paper's algorithm, written out."""

from __future__ import annotations

import numpy as np
import pytest
from tersor.passes.prune.methods.merge import merge

RNG = np.random.default_rng(5)


def by_the_paper(
    incoming: np.ndarray, outgoing: np.ndarray, count: int, *, scaled: bool
) -> list[tuple[int, int, float]]:
    """Algorithm 1: the whole matrix of saliencies, its smallest entry, and the matrix again."""
    rows, out = incoming.astype(np.float64), outgoing.astype(np.float64).copy()
    alive, found = list(range(len(rows))), []
    for _ in range(count):
        best = (np.inf, 0, 0, 1.0)
        for i in alive:
            for j in alive:
                if i == j:
                    continue
                scale = max(0.0, float(rows[i] @ rows[j]) / float(rows[i] @ rows[i])) if scaled else 1.0
                saliency = float((out[j] ** 2).mean() * ((scale * rows[i] - rows[j]) ** 2).sum())
                best = min(best, (saliency, j, i, scale))
        saliency, j, i, scale = best
        out[i] += scale * out[j]
        alive.remove(j)
        found.append((j, i, saliency))
    return found


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_follows_the_algorithm(seed: int, scaled: bool) -> None:
    rng = np.random.default_rng(seed)
    incoming, outgoing = rng.standard_normal((14, 5)), rng.standard_normal((14, 3))
    found = merge(incoming, outgoing, 9, scaled=scaled)
    expected = by_the_paper(incoming, outgoing, 9, scaled=scaled)
    assert list(zip(found.gone.tolist(), found.into.tolist(), strict=True)) == [pair[:2] for pair in expected]
    np.testing.assert_allclose(found.saliencies, [pair[2] for pair in expected], rtol=1e-9)


def test_equal_units_cost_nothing_and_go_first() -> None:
    incoming = RNG.standard_normal((6, 8))
    twice = np.concatenate([incoming, incoming[[1, 4]]])
    found = merge(twice, RNG.standard_normal((8, 4)), 7, threshold=0.0)
    assert {frozenset(pair) for pair in zip(found.gone.tolist(), found.into.tolist(), strict=True)} == {
        frozenset((1, 6)), frozenset((4, 7)),
    }  # fmt: skip
    assert found.saliencies.tolist() == [0.0, 0.0]


def test_the_outputs_stay_where_units_are_multiples() -> None:
    def relu(x: np.ndarray) -> np.ndarray:
        return np.maximum(x, 0.0)

    base, x = RNG.standard_normal((5, 6)), RNG.standard_normal((20, 6))
    incoming = np.concatenate([base, 2.5 * base[:2], np.zeros((1, 6))])
    outgoing = RNG.standard_normal((8, 3))
    found = merge(incoming, outgoing, 7, scaled=True, threshold=1e-9)
    merged = outgoing.copy()
    for gone, into, scale in zip(found.gone, found.into, found.scale, strict=True):
        merged[into] += scale * merged[gone]
        merged[gone] = 0.0
    assert len(found.gone) == 3
    np.testing.assert_allclose(relu(x @ incoming.T) @ merged, relu(x @ incoming.T) @ outgoing, atol=1e-12)


def test_opposite_units_are_not_alike() -> None:
    found = merge(np.array([[1.0, 0.0], [-1.0, 0.0]]), np.ones((2, 1)), 1, scaled=True, threshold=0.5)
    assert len(found.gone) == 0


def test_a_chain_goes_on_with_what_was_added() -> None:
    incoming = np.array([[1.0], [1.1], [3.0]])
    found = merge(incoming, np.array([[1.0], [-1.0], [0.01]]), 2)
    assert (found.gone[0], found.into[0]) == (2, 1)
    assert found.scale.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("incoming", "outgoing", "count"), [((3, 2), (4, 2), 1), ((3, 2), (3, 2), 3), ((3,), (3, 1), 1)]
)
def test_refuses_what_does_not_fit(incoming: tuple[int, ...], outgoing: tuple[int, ...], count: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        merge(np.zeros(incoming), np.zeros(outgoing), count)
