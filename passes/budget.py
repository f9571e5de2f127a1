"""How much of each part of a model stays under a budget: what levels cost, what they lose, and the best of both.

part           a group of units, or a branch of the residual stream as a whole
level          so many units of it stay; none: the branch is left out
cost           multiply-adds with weights, bytes of weights, or seconds on the target
loss           what the answers lose by this part at this level alone
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..ir.errors import OptionError
from .base import Curve
from .numerics.knapsack import knapsack

Unit = Literal["flops", "latency", "bytes"]

_TEXT = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(flops|latency|bytes)\s*")
#: Entries of the table from which the levels are chosen.
_CELLS = 1 << 22
#: What sums of floats may be off, as a share.
_EVEN = 1e-9
#: Points of a curve that a report draws.
_DRAWN = 64


@dataclass(frozen=True)
class Budget:
    """A share of what the model costs, in one unit."""

    share: float
    unit: Unit

    @classmethod
    def parse(cls, text: str) -> Budget:
        """From `0.45 flops`, `0.5 latency` or `0.6 bytes`. Raises OptionError for anything else.

        >>> Budget.parse("0.45 flops")
        Budget(share=0.45, unit='flops')
        """
        found = _TEXT.fullmatch(text)
        if found is None or not 0 < float(found[1]) <= 1:
            raise OptionError(
                "expected a budget such as '0.45 flops', '0.5 latency' or '0.6 bytes', a share above 0 and at most 1 "
                f"of what the model costs, found {text!r}"
            )
        unit: Unit = "flops" if found[2] == "flops" else "latency" if found[2] == "latency" else "bytes"
        return cls(float(found[1]), unit)


@dataclass(frozen=True)
class Level:
    """So many units of a part stay."""

    units: int
    cost: float
    loss: float


def chosen(
    parts: Sequence[Sequence[Level]], rest: float, budget: Budget, first: float | None = None
) -> tuple[list[Level], Curve]:
    """The level of each part that together lose least within the budget, and the curve on which they lie.

    parts: the levels of each, the whole one first. rest: what the model costs beside them. first: what the budget is a
    share of, the cost of all unless told. Raises OptionError where not
    even the least of all fits, with what is possible.
    """
    whole = rest + sum(levels[0].cost for levels in parts) if first is None else first
    # costs are rounded up to whole ones, so that the budget is kept
    sizes = [[math.ceil(level.cost - _EVEN * whole) for level in levels] for levels in parts]
    found = knapsack(sizes, [[level.loss for level in levels] for levels in parts], cells=_CELLS)
    room = math.floor(budget.share * whole * (1 + _EVEN) - rest)
    if room < found.least:
        least = (rest + found.least) / whole
        raise OptionError(
            f"a budget of {budget.share:g} {budget.unit} cannot be kept: pruning as far as the options allow leaves "
            f"{least:.3f} of it. Let more kinds of units go, or a smaller multiple stay"
        )
    taken = [levels[at] for levels, at in zip(parts, found.within(room), strict=True)]
    columns = found.columns
    drawn = columns[:: max(1, len(columns) // _DRAWN)]
    points = tuple((float((rest + found.least + int(at) * found.unit) / whole), float(found.best[at])) for at in drawn)
    spent = (rest + sum(level.cost for level in taken)) / whole
    curve = Curve(f"share of {budget.unit}", "drop predicted", points, (spent, sum(level.loss for level in taken)))
    return taken, curve
