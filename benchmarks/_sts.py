"""STS13: sentence pairs with a gold similarity, and how well cosine similarity ranks them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr
from tersor.examples import minilm
from tersor.examples.data import Run, data_file

PARTS = ("FNWN", "OnWN", "headlines")


@dataclass(frozen=True)
class Pairs:
    """Scored pairs: left[i] and right[i] are as alike as gold[i] says, 0 to 5."""

    left: tuple[str, ...]
    right: tuple[str, ...]
    gold: np.ndarray

    @property
    def texts(self) -> list[str]:
        """Every sentence, shortest first."""
        return sorted({*self.left, *self.right}, key=lambda text: (len(text), text))


def sts13() -> Pairs:
    """The three parts pooled; lines with an empty gold are not scored."""
    left, right, gold = [], [], []
    for part in PARTS:
        lines = data_file(f"sts/STS13-en-test/STS.input.{part}.txt").read_text(encoding="utf-8").split("\n")
        scores = data_file(f"sts/STS13-en-test/STS.gs.{part}.txt").read_text(encoding="utf-8").split("\n")
        for line, score in zip(lines, scores, strict=False):
            if score.strip():
                first, second, *_ = line.split("\t")
                left.append(first)
                right.append(second)
                gold.append(float(score))
    return Pairs(tuple(left), tuple(right), np.array(gold))


def spearman(run: Run, pairs: Pairs) -> tuple[float, np.ndarray]:
    """Spearman's rank correlation x 100, and the similarities behind it."""
    rows = dict(zip(pairs.texts, minilm.encode(run, pairs.texts), strict=True))
    similar = np.array([float(rows[a] @ rows[b]) for a, b in zip(pairs.left, pairs.right, strict=True)])
    return 100.0 * float(spearmanr(similar, pairs.gold).statistic), similar


def difference(a: np.ndarray, b: np.ndarray, gold: np.ndarray, *, draws: int = 500) -> tuple[float, float]:
    """95 % interval of Spearman(b) - Spearman(a), x 100, by bootstrap over pairs."""
    rng = np.random.default_rng(0)
    found = [_difference(a, b, gold, rng.integers(0, len(gold), len(gold))) for _ in range(draws)]
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def _difference(a: np.ndarray, b: np.ndarray, gold: np.ndarray, chosen: np.ndarray) -> float:
    before, after = (float(spearmanr(scores[chosen], gold[chosen]).statistic) for scores in (a, b))
    return 100.0 * (after - before)
