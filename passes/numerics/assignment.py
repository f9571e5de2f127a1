"""Linear assignment: who gets what, each one thing, at the least cost in all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..edit import Array
from .arrays import Floats, check

Order = NDArray[np.intp]

#: How often rows that lost their column bid anew before paths are sought for them.
_BIDDINGS = 2
#: Bids in a round, for each row.
_PATIENCE = 32
#: The least bids of the rounds, as shares of the spread of a problem's costs: early ones find prices fast.
_BIDS = (0.1, 0.01)


def least_assignment(cost: Array) -> Order:
    """The column of each row, [n], that makes the sum of cost[row, column] least; cost: [n, n].

    Column reduction, bids of the rows that are left, and shortest augmenting paths: O(n^3) at worst. Raises ValueError
    for costs that are no square, or not finite. Source: Jonker and Volgenant, A Shortest Augmenting Path Algorithm for
    Dense and Sparse Linear Assignment Problems, 1987.

    >>> least_assignment(np.array([[4.0, 1.0, 3.0], [2.0, 0.0, 5.0], [3.0, 2.0, 2.0]])).tolist()
    [1, 0, 2]
    """
    costs = check(cost)
    size = len(costs)
    if costs.shape[0] != costs.shape[1]:
        raise ValueError(f"expected as many columns as rows, found {list(costs.shape)}")
    state = _State(costs, costs.min(0) if size else np.zeros(0), np.full(size, -1), np.full(size, -1))
    for column, row in enumerate(costs.argmin(0) if size else ()):
        if state.column_of[row] < 0:
            state.give(int(row), column)
    free = [int(row) for row in np.flatnonzero(state.column_of < 0)]
    for _ in range(_BIDDINGS if size > 1 else 0):
        free = state.bid(free)
    for row in free:
        state.augment(row)
    return state.column_of.astype(np.intp)


def near_assignments(costs: Floats, *, slack: float = 1e-3) -> NDArray[np.int64]:
    """The column of each row of many small problems at once, [problems, n], for costs [problems, n, n].

    By auction: a row without a column bids for the best one at its price, by what it is better than the second best;
    with a least bid of e the cost is at most n e above the least. Source: Bertsekas, Auction Algorithms for Network
    Flow Problems, 1992, section 1.

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


class _State:
    """Some rows with columns of their own, and what each column takes off its costs: those rows are at their best."""

    def __init__(self, costs: Floats, prices: Floats, row_of: Order, column_of: Order) -> None:
        self.costs, self.prices = costs, prices
        self.row_of, self.column_of = row_of, column_of

    def give(self, row: int, column: int) -> None:
        self.row_of[column], self.column_of[row] = row, column

    def bid(self, free: Sequence[int]) -> list[int]:
        """Give each row its best column at the price at which the second is as good; the rows that are left."""
        left: list[int] = []
        queue, patience = list(free), _PATIENCE * len(self.costs)
        while queue:
            row = queue.pop()
            patience -= 1
            values = self.costs[row] - self.prices
            best = int(values.argmin())
            least, values[best] = values[best], np.inf
            second = int(values.argmin())
            dearer = least < values[second]
            if dearer:
                self.prices[best] -= values[second] - least
            elif self.row_of[best] >= 0:
                best = second
            loser = int(self.row_of[best])
            self.give(row, best)
            if loser >= 0:
                self.column_of[loser] = -1
                (queue if dearer and patience > 0 else left).append(loser)
        return left

    def augment(self, free: int) -> None:
        """Give a row a column along the shortest path to one that nobody has."""
        length = self.costs[free] - self.prices
        left, before = length.copy(), np.full(len(self.costs), free)
        reached = np.zeros(len(self.costs), np.bool_)
        while True:
            column = int(left.argmin())
            far, row = left[column], int(self.row_of[column])
            length[column], reached[column] = far, True
            if row < 0:
                break
            left[column] = np.inf
            through = self.costs[row] - self.prices
            through -= through[column] - far
            shorter = (through < left) & ~reached
            left[shorter], before[shorter] = through[shorter], row
        reached[column] = False
        self.prices[reached] += length[reached] - far
        while True:
            row = int(before[column])
            next_column = int(self.column_of[row])
            self.give(row, column)
            if row == free:
                return
            column = next_column


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
