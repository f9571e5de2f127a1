"""Intervals of few runs by Student's t, whose quantiles are computed here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95


@dataclass(frozen=True)
class Mean:
    """The mean of some runs and the ends of its 95 % interval; from one run both are infinite."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        count, mean = len(values), math.fsum(values) / len(values)
        if count < 2:
            return cls(mean, -math.inf, math.inf)
        half = quantile(count - 1) * deviation(values) / math.sqrt(count)
        return cls(mean, mean - half, mean + half)

    def __str__(self) -> str:
        """The mean and half of the interval's width."""
        known = math.isfinite(self.high)
        return f"{self.mean:.4g} ± {self.high - self.mean:.2g}" if known else f"{self.mean:.4g}"


def deviation(values: Sequence[float]) -> float:
    """The standard deviation of a sample; NaN of one value."""
    count = len(values)
    if count < 2:
        return math.nan
    mean = math.fsum(values) / count
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))


def within(t: float, freedom: int) -> float:
    """The probability of |T| <= t, T of Student's distribution (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    if freedom % 2 == 0:
        return sine * _series(cosine, 1, freedom - 1, 1.0)
    return 2 / math.pi * (angle + (sine * _series(cosine, 2, freedom - 1, cosine) if freedom > 1 else 0.0))


def _series(cosine: float, first: int, end: int, term: float) -> float:
    """term (1 + first / (first + 1) cos^2 (1 + (first + 2) / (first + 3) cos^2 (...)))."""
    total = term
    for factor in range(first, end - 1, 2):
        term *= cosine * cosine * factor / (factor + 1)
        total += term
    return total


def quantile(freedom: int, level: float = LEVEL) -> float:
    """The t within which |T| lies with probability `level`.

    >>> round(quantile(2), 3)
    4.303
    """
    low, high = 0.0, 1.0
    while within(high, freedom) < level:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle, freedom) < level else (low, middle)
    return high
