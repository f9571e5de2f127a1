"""Many small assignment problems at once: who gets what, each one thing, at the least cost in all.

Bertsekas, Auction Algorithms for Network Flow Problems, 1992, section 1: who has nothing bids for the best thing at its
price, by what it is better than the second best; with a least bid of e the cost is at most n e above the optimum.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...numerics.arrays import Floats

#: The least bids of the rounds, as shares of the spread of a problem's costs: early ones find prices fast.
_BIDS = (0.1, 0.01)


def assign(costs: Floats, *, slack: float = 1e-3) -> NDArray[np.int64]:
    """The thing of each, [problems, n], for costs [problems, n, n].

    slack: of each problem the sum is at most n * slack * (largest - smallest cost) above the least one. Raises
    ValueError for costs that are not square or not finite, and a slack that is not above zero.
    """
    if costs.ndim != 3 or costs.shape[1] != costs.shape[2]:
        raise ValueError(f"expected costs [problems, n, n], found {costs.shape}")
    if not np.isfinite(costs).all():
        raise ValueError("the costs hold NaN or infinity")
    if not slack > 0:
        raise ValueError(f"expected a slack above 0, found {slack}")
    problems, count, _ = costs.shape
    if count < 2 or not problems:
        return np.zeros((problems, count), np.int64)
    spread = costs.max((1, 2)) - costs.min((1, 2))
    spread[spread == 0] = 1.0
    prices = np.zeros((problems, count))
    has = np.zeros((problems, count), np.int64)
    for share in (*(share for share in _BIDS if share > slack), slack):
        has = _auction(costs, prices, share * spread)
    return has


def _auction(costs: Floats, prices: Floats, least: Floats) -> NDArray[np.int64]:
    """A round of bids until each has something; raises prices [problems, n]."""
    problems, count, _ = costs.shape
    has = np.full((problems, count), -1)
    owner = np.full((problems, count), -1)
    highest = np.full(problems * count, -np.inf)
    where, who = np.nonzero(has < 0)
    while where.size:
        worth = -costs[where, who] - prices[where]
        rows = np.arange(len(where))
        best = worth.argmax(1)
        most = worth[rows, best]
        worth[rows, best] = -np.inf
        bids = prices[where, best] + most - worth.max(1) + least[where]
        at = where * count + best
        np.maximum.at(highest, at, bids)
        # of bids that are equal the last takes it
        winner = np.full(len(highest), -1)
        won = bids == highest[at]
        winner[at[won]] = rows[won]
        taken = np.unique(at)
        chosen = winner[taken]
        place, thing = np.divmod(taken, count)
        before = owner[place, thing]
        out = before >= 0
        has[place[out], before[out]] = -1
        owner[place, thing], has[place, who[chosen]] = who[chosen], thing
        prices[place, thing] = bids[chosen]
        highest[taken] = -np.inf
        where, who = np.nonzero(has < 0)
    return has
