"""The multiple-choice knapsack: one option for each item, the least cost within a size, for every size at once.

    least sum of cost[i][j_i]     so that     sum of size[i][j_i] <= budget

by dynamic programming over sizes, item after item:

    best_i(s) = least over j of best_(i-1)(s - size[i][j]) + cost[i][j]

Sizes are counted from the least option of each item, in units of their greatest common divisor. Where that gives a
table of more than `cells` entries the unit is coarser and sizes are rounded up to it, so that no answer is ever over
its budget: it costs no more than the best for a budget smaller by one unit for each item.

Dudzinski and Walukiewicz, Exact methods for the knapsack problem and its generalizations, 1987, section 5; Kellerer,
Pferschy and Pisinger, Knapsack Problems, 2004, section 11.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .arrays import Floats

#: Bytes that the table of choices takes at most.
_CELLS = 1 << 26


@dataclass(frozen=True)
class Frontier:
    """The least cost for every size, and the options behind it.

    least, unit: column c of the table stands for sizes up to least + c * unit. best: the least cost there, which never
    grows with c. choices: the option of each item in each column, given the columns of the items before, [items,
    columns]; steps: how many columns that option takes, for each item.
    """

    least: int
    unit: int
    best: Floats
    choices: NDArray[np.uint8]
    steps: tuple[tuple[int, ...], ...]

    @property
    def greatest(self) -> int:
        """The size from which on nothing is gained."""
        return self.least + int(self.columns[-1]) * self.unit

    @property
    def columns(self) -> NDArray[np.int64]:
        """The columns at which the cost falls: the Pareto frontier, smallest size first."""
        return np.flatnonzero(np.diff(self.best, prepend=np.inf) < 0)

    def within(self, size: int) -> list[int]:
        """The options of least cost whose sizes add up to no more than `size`.

        Raises ValueError where the least sizes of all items add up to more.
        """
        if size < self.least:
            raise ValueError(f"expected a budget of at least {self.least}, found {size}")
        return self.options(min((size - self.least) // self.unit, len(self.best) - 1))

    def costing(self, cost: float) -> list[int]:
        """The options of least size whose costs add up to no more than `cost`.

        Raises ValueError where those of the largest sizes add up to more.
        """
        column = int(np.searchsorted(-self.best, -cost))
        if column == len(self.best):
            raise ValueError(f"expected a cost of at least {self.best[-1]:g}, found {cost:g}")
        return self.options(column)

    def options(self, column: int) -> list[int]:
        """The option of each item in a column."""
        found: list[int] = []
        for chosen, steps in zip(reversed(self.choices), reversed(self.steps), strict=True):
            found.append(int(chosen[column]))
            column -= steps[found[-1]]
        return found[::-1]


def knapsack(sizes: Sequence[Sequence[int]], costs: Sequence[Sequence[float]], *, cells: int = _CELLS) -> Frontier:
    """The frontier of items with options of these sizes, integers, and costs, finite and at least 0.

    40 items of 8 options in 250 000 columns take about two seconds, 300 items in the most columns that `cells` allows,
    220 000, about fifteen. Raises ValueError where an item has no option, or more than 256, and for other numbers.

    >>> found = knapsack([[1, 2], [1, 3]], [[5.0, 1.0], [4.0, 1.0]])
    >>> found.within(5), found.within(4), found.costing(9.0)
    ([1, 1], [1, 0], [0, 0])
    """
    items = [_item(size, cost) for size, cost in zip(sizes, costs, strict=True)]
    least = sum(size[0] for size, _, _ in items)
    extra = [size - size[0] for size, _, _ in items]
    unit = math.gcd(*(int(number) for each in extra for number in each)) or 1
    most = sum(int(each[-1]) for each in extra)
    room = max(cells // max(len(items), 1) - len(items) - 1, 1)
    if most // unit > room:
        unit *= -(-most // (unit * room))
    steps = [-(-each // unit) for each in extra]
    columns = 1 + sum(int(each[-1]) for each in steps)
    best = np.zeros(columns)
    choices = np.zeros((len(items), columns), np.uint8)
    for chosen, step, (_, cost, option) in zip(choices, steps, items, strict=True):
        found = np.full(columns, np.inf)
        for start, price, index in zip(step.tolist(), cost, option, strict=True):
            tried = best[: columns - start] + price
            better = tried < found[start:]
            found[start:][better] = tried[better]
            chosen[start:][better] = index
        best = found
    taken = tuple(
        _steps(len(size), step, option) for size, step, (_, _, option) in zip(sizes, steps, items, strict=True)
    )
    return Frontier(int(least), unit, best, choices, taken)


def _item(size: Sequence[int], cost: Sequence[float]) -> tuple[NDArray[np.int64], Floats, NDArray[np.intp]]:
    """Sizes, costs and indices of the options that no other one beats, smallest first."""
    if len(size) != len(cost) or not 0 < len(size) <= 256:
        raise ValueError(f"expected as many costs as sizes, 1 to 256 for each item, found {len(size)} and {len(cost)}")
    integers, prices = np.asarray(size), np.asarray(cost, np.float64)
    if integers.dtype.kind not in "iu" or not np.isfinite(prices).all() or prices.min() < 0:
        raise ValueError(f"expected sizes that are integers and costs of at least 0, found {list(size)}, {list(cost)}")
    order = np.lexsort((prices, integers))
    before = np.minimum.accumulate(np.concatenate([[np.inf], prices[order][:-1]]))
    kept = order[prices[order] < before]
    return integers[kept].astype(np.int64), prices[kept], kept


def _steps(count: int, step: NDArray[np.int64], option: NDArray[np.intp]) -> tuple[int, ...]:
    """The columns that each of an item's options takes; none for options that are never chosen."""
    found = np.zeros(count, np.int64)
    found[option] = step
    return tuple(found.tolist())
