"""Through how many features weights are computed: what ranks cost and lose, and the best of them beside each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from ..ir.errors import OptionError
from .base import Miss, Pass
from .budget import Budget
from .numerics.arrays import Floats
from .numerics.knapsack import knapsack

#: Ranks that are weighed of a weight, ways of siblings beside each other, and entries of the table that those are of.
_RANKS, _WAYS, _CELLS = 120, 120, 1 << 20
#: Parts that costs are counted in where siblings are weighed against each other.
_FINE = 1 << 12


def amount(made: Pass, *names: str) -> str | None:
    """Which of the options of a pass says how much stays, by name; None where none is told.

    names: of options that are None or empty unless told: `ratio`, `energy`, `rank`, `budget`. Raises OptionError where
    several are, and for a share, a rank or a budget that is none.
    """
    told = {name: value for name in names if (value := getattr(made, name)) is not None and value != ""}
    if len(told) > 1:
        raise OptionError(
            f"{made.name}: expected one of {', '.join(names[:-1])} and {names[-1]}, found {' and '.join(told)}"
        )
    for name, value in told.items():
        if name in ("ratio", "energy") and not 0 < value <= 1:
            raise OptionError(f"{made.name}: expected a {name} above 0 and at most 1, found {value:g}")
        if name == "rank" and value < 1:
            raise OptionError(f"{made.name}: expected a rank of at least 1, found {value}")
        if name == "budget":
            Budget.parse(value)
    return next(iter(told), None)


@dataclass(frozen=True)
class Way:
    """How a group is computed.

    ranks: one for all of it, or one for each of its parts; None for weights that stay as they are. cost: in the unit of
    the budget. loss: what is predicted to be lost.
    """

    ranks: tuple[int | None, ...]
    cost: float
    loss: float

    @property
    def whole(self) -> bool:
        """Whether all stays as it is."""
        return all(rank is None for rank in self.ranks)


def step_of(multiple: int, most: int) -> int:
    """What ranks are multiples of: of a weight with few features no more than a quarter of them."""
    return max(1, min(multiple, most // 4))


def grid(multiple: int, most: int, count: int = _RANKS) -> list[int]:
    """Ranks up to the full one, smallest first; evenly so many of them where there are more."""
    step = step_of(multiple, most)
    every = np.arange(step, most + 1, step)
    taken = np.linspace(0, len(every) - 1, min(len(every), count)).round().astype(np.int64)
    return [int(rank) for rank in every[taken]]


def ways(lost: Floats, ranks: Sequence[int], whole: float, cost: Callable[[int], float]) -> list[Way]:
    """The weight as it is, and each of the ranks that costs less. lost: by rank, from 0 on."""
    found = [Way((rank,), cost(rank), float(lost[rank])) for rank in ranks]
    return [Way((None,), whole, 0.0), *(way for way in found if way.cost < whole)]


def highest(ranks: Sequence[int], able: Callable[[int], bool]) -> int:
    """The highest of the ranks, in order, that is able, as all below such a one are; 0 where the least is not."""
    if able(ranks[-1]):
        return ranks[-1]
    if not able(ranks[0]):
        return 0
    low, high = 0, len(ranks) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if able(ranks[middle]) else (low, middle)
    return ranks[low]


def fastest(ranks: Sequence[int], slow: Callable[[int], Miss | None]) -> int | Miss:
    """The highest of the ranks, in order, that is not slower than the whole; why the least is, where none pays.

    More features take longer.
    """
    misses: dict[int, Miss | None] = {}

    def pays(rank: int) -> bool:
        misses[rank] = slow(rank)
        return misses[rank] is None

    return highest(ranks, pays) or misses[ranks[0]] or ranks[0]


def apart(members: Sequence[Sequence[Way]], count: int = _WAYS) -> list[Way]:
    """So many of the best ways of members beside each other, from the least cost to the greatest. members: the ways of
    each, the whole one first.
    """
    unit = sum(each[0].cost for each in members) / _FINE
    sizes = [[round(way.cost / unit) for way in each] for each in members]
    found = knapsack(sizes, [[way.loss for way in each] for each in members], cells=_CELLS)
    drawn = found.columns[np.unique(np.linspace(0, len(found.columns) - 1, count).round().astype(np.int64))]
    made = []
    for column in drawn:
        taken = [each[at] for each, at in zip(members, found.options(int(column)), strict=True)]
        ranks = tuple(chain.from_iterable(way.ranks for way in taken))
        made.append(Way(ranks, sum(way.cost for way in taken), sum(way.loss for way in taken)))
    return made
