"""SparseGPT against its own algorithm, and against least squares on what is kept, in float64."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from tersor.passes.prune.methods.magnitude import magnitude
from tersor.passes.prune.methods.patterns import Pattern
from tersor.passes.prune.methods.surgeon import refitted, surgeon

INPUTS, OUTPUTS = 32, 12
RNG = np.random.default_rng(0)
#: Inputs that are correlated and of several sizes, and the matrix that makes them.
X = RNG.standard_normal((400, INPUTS)) @ (
    RNG.standard_normal((INPUTS, INPUTS)) / 3 + np.diag(RNG.uniform(0.2, 3, INPUTS))
)
GRAM = X.T @ X
W = RNG.standard_normal((INPUTS, OUTPUTS))
PATTERNS = ["free", "2:4", "1:4", "4x4", "bank:16"]


def error(weight: np.ndarray, given: np.ndarray = W, x: np.ndarray = X) -> float:
    return float(np.linalg.norm(x @ (given - weight)))


def sparsegpt(
    weight: np.ndarray, gram: np.ndarray, sparsity: float, block: int, group: int, damping: float
) -> np.ndarray:
    """Algorithm 1 of Frantar and Alistarh 2023 on W [out, in], by the inverse; `group` 0 is a whole block."""
    w, columns = weight.T.copy(), len(gram)
    damped = gram + damping * np.mean(np.diag(gram)) * np.eye(columns)
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    mask = np.ones_like(w, bool)
    for start in range(0, columns, block):
        errors = np.zeros((len(w), min(block, columns - start)))
        for j in range(start, min(start + block, columns)):
            run = group or block
            if (j - start) % run == 0:
                part = slice(j, min(j + run, columns))
                scores = w[:, part] ** 2 / np.diag(upper)[part] ** 2
                if group:
                    gone = np.argsort(scores, axis=1)[:, : round(sparsity * group)]
                    np.put_along_axis(mask[:, part], gone, False, axis=1)
                else:
                    flat = np.ones(scores.size, bool)
                    flat[np.argsort(scores, axis=None)[: round(sparsity * scores.size)]] = False
                    mask[:, part] = flat.reshape(scores.shape)
            lost = np.where(mask[:, j], 0.0, w[:, j]) / upper[j, j]
            errors[:, j - start] = lost
            w[:, j : start + block] -= lost[:, None] * upper[j, j : start + block]
        w[:, start + block :] -= errors @ upper[start : start + block, start + block :]
    return np.where(mask, w, 0.0).T


@pytest.mark.parametrize("damping", [0.0, 0.01, 0.1])
@pytest.mark.parametrize(
    ("pattern", "group", "block"), [("free", 0, 8), ("free", 0, 32), ("free", 0, 12), ("2:4", 4, 16), ("bank:8", 8, 16)]
)
def test_it_is_the_algorithm_of_the_paper(pattern: str, group: int, block: int, damping: float) -> None:
    found = surgeon(W, GRAM, 0.5, Pattern.of(pattern), block=block, damping=damping)
    wanted = sparsegpt(W, GRAM, 0.5, block, group, damping)
    np.testing.assert_array_equal(found.mask, wanted != 0)
    np.testing.assert_allclose(found.weight, wanted, atol=1e-9)


def test_the_first_weight_to_go_is_the_surgeons() -> None:
    """Hassibi and Stork 1993, equation 5: the least w^2 / [H^-1]_qq, and w -= w_q / [H^-1]_qq H^-1_:q for the rest.

    In a layer of one output, whose first input alone goes, everything behind it is free.
    """
    inverse = np.linalg.inv(GRAM)
    weight = W[:, :1].copy()
    weight[0] = 1e-6
    found = surgeon(weight, GRAM, 1 / INPUTS, Pattern(), block=INPUTS, damping=0.0)
    assert np.flatnonzero(~found.mask[:, 0]).tolist() == [0]
    wanted = weight[:, 0] - weight[0, 0] / inverse[0, 0] * inverse[:, 0]
    np.testing.assert_allclose(found.weight[1:, 0], wanted[1:], rtol=1e-6)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_its_error_lies_between_the_exact_one_and_that_of_magnitude(pattern: str) -> None:
    found = surgeon(W, GRAM, 0.5, Pattern.of(pattern), block=8, damping=0.0)
    best = np.zeros_like(W)
    for output in range(OUTPUTS):
        kept = np.flatnonzero(found.mask[:, output])
        best[kept, output] = np.linalg.lstsq(X[:, kept], X @ W[:, output], rcond=None)[0]
    (mask,) = magnitude([W], 0.5, "uniform", Pattern.of(pattern))
    assert error(best) <= error(found.weight) < error(W * mask)
    np.testing.assert_allclose(refitted(W, GRAM, found.mask, damping=0.0), best, atol=1e-8)


def test_no_choice_is_better_than_the_best_of_all() -> None:
    """Every pair of six inputs is tried."""
    x, weight = X[:, :6], W[:6, :1]

    def least(kept: tuple[int, ...]) -> float:
        answer = np.linalg.lstsq(x[:, kept], x @ weight, rcond=None)[0]
        return float(np.linalg.norm(x @ weight - x[:, kept] @ answer))

    best = min(least(kept) for kept in combinations(range(6), 4))
    found = surgeon(weight, x.T @ x, 1 / 3, Pattern(), block=6, damping=0.0)
    fitted = refitted(weight, x.T @ x, found.mask, damping=0.0)
    assert best <= error(fitted, weight, x) * (1 + 1e-9)
    assert error(fitted, weight, x) <= error(found.weight, weight, x) * (1 + 1e-9)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_pattern_is_kept(pattern: str) -> None:
    found = surgeon(W, GRAM, 0.5, Pattern.of(pattern), block=10)
    mask = found.weight != 0
    np.testing.assert_array_equal(mask, found.mask)
    if pattern == "2:4":
        assert (mask.reshape(-1, 4, OUTPUTS).sum(1) == 2).all()
    if pattern == "bank:16":
        assert (mask.reshape(-1, 16, OUTPUTS).sum(1) == 8).all()
    if pattern == "4x4":
        assert np.isin(mask.reshape(-1, 4, OUTPUTS // 4, 4).sum((1, 3)), (0, 16)).all()


def test_inputs_without_correlation_are_pruned_as_by_wanda() -> None:
    """Nothing can make up for anything, and saliencies are |w|^2 |x|^2."""
    sizes = RNG.uniform(0.1, 2.0, INPUTS)
    found = surgeon(W, np.diag(sizes), 0.5, Pattern(), block=INPUTS, damping=0.0)
    scores = W**2 * sizes[:, None]
    np.testing.assert_array_equal(found.mask, scores >= np.sort(scores, axis=None)[scores.size // 2])
    np.testing.assert_array_equal(found.weight, np.where(found.mask, W, 0))


def test_weights_of_inputs_that_are_always_zero_go_first() -> None:
    gram = GRAM.copy()
    gram[[3, 20]], gram[:, [3, 20]] = 0, 0
    found = surgeon(W * 100, gram, 0.5, Pattern(), block=16)
    assert not found.mask[[3, 20]].any()
    assert np.isfinite(found.weight).all()


def test_equal_inputs_are_damped() -> None:
    x = np.repeat(X[:, :16], 2, axis=1)
    found = surgeon(W, x.T @ x, 0.5, Pattern(), block=32, damping=0.0)
    assert error(found.weight, x=x) < error(magnitude([W], 0.5, "uniform", Pattern())[0] * W, x=x)


@pytest.mark.parametrize("shape", [(0, 4), (8, 0)])
def test_an_empty_weight(shape: tuple[int, int]) -> None:
    assert surgeon(np.zeros(shape), np.eye(shape[0]), 0.5, Pattern()).weight.shape == shape


@pytest.mark.parametrize(
    ("weight", "gram", "options", "message"),
    [
        (W, GRAM, {"block": 0}, "expected a block of at least one row, found 0"),
        (W, GRAM, {"sparsity": 1.5}, "expected a sparsity from 0 to 1, found 1.5"),
        (W, GRAM, {"pattern": Pattern(group=(2, 5))}, r"inputs in multiples of 5, found \[32, 12\]"),
        (W, GRAM[:4], {}, "expected a Gram matrix"),
        (W, GRAM, {"damping": -1.0}, "expected a damping of at least 0"),
        (W * np.nan, GRAM, {}, "NaN or infinity"),
    ],
)
def test_bad_input(weight: np.ndarray, gram: np.ndarray, options: dict[str, object], message: str) -> None:
    given = {"sparsity": 0.5, "pattern": Pattern()} | options
    with pytest.raises(ValueError, match=message):
        surgeon(weight, gram, **given)  # type: ignore[arg-type]
