"""What a model costs, part by part, and what of that a group of units saves that is cut.

y = (x @ A) @ B         A is cut by what x has too many of, B by what (x @ A) has, A by that too
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import onnx_ir as ir

from ...ir.errors import OptionError
from ...ir.site import Site
from ..base import Context
from ..budget import Budget, costs_by_name
from .part import part_of, seen_by
from .units import Key, Units

#: What a cost is of: a node or a weight by name, or a group of units.
Of = str | Key


def is_branch(each: Units, ending: Collection[ir.Node]) -> bool:
    """Whether a group lies in one branch, which can go with it. ending: the nodes that end branches."""
    return len(each.readers) == 1 and each.readers[0].node in ending


def costs(model: ir.Model, budget: Budget, taken: Sequence[Units], context: Context) -> dict[Of, float]:
    """FLOPs of the nodes with weights, bytes of the weights, or the nanoseconds of the parts that groups lie in."""
    if budget.unit == "latency":
        times = _nanoseconds(model, taken, context)
        return {each.key: time for each, time in zip(taken, times, strict=True)}
    found: dict[Of, float] = {}
    found.update(costs_by_name(model, budget.unit))
    return found


def _nanoseconds(model: ir.Model, taken: Sequence[Units], context: Context) -> list[float]:
    """What the parts that groups lie in take on the target, on the middle batch of the data."""
    if context.latency is None or context.calibration is None:
        raise OptionError("prune-budget: a latency is one of a target; compile for one, or give the budget in flops")
    if not taken:
        return []
    parts = [part_of(model, each) for each in taken]
    batches = context.calibration.batches
    feeds = seen_by(model, parts, batches[len(batches) // 2])
    given = [{value.name or "": feeds[value.name or ""] for value in part.graph.inputs} for part in parts]
    return [1e9 * context.latency(part, each) for part, each in zip(parts, given, strict=True)]


Side = Literal["made", "read"]


@dataclass(eq=False)
class Shares:
    """Which group saves what.

    Groups that share the outputs of a weight, or its inputs, save one beside the other. Two that cut both sides save
    less together than the sum: then those of the side that was named first count, so that the sum is never too much.
    """

    taken: Sequence[Units]
    unit: str
    _sides: dict[Of, Side] = field(default_factory=dict)
    _owners: dict[Of, int] = field(default_factory=dict)

    @classmethod
    def of(cls, taken: Sequence[Units], budget: Budget) -> Shares:
        made = cls(taken, budget.unit)
        for each in taken:
            for part, side in made._parts(each):
                made._sides.setdefault(part, side)
        return made

    def _parts(self, each: Units) -> list[tuple[Of, Side]]:
        return [*((self._part(site), "made") for site in each.makers), *((self._part(s), "read") for s in each.readers)]

    def _part(self, site: Site) -> str:
        return (site.weight.name if self.unit == "bytes" else site.node.name) or ""

    def saved(self, number: int, before: Mapping[Of, float], now: Mapping[Of, float]) -> float:
        """What one of the groups saves where alone it has been cut."""
        each = self.taken[number]
        if self.unit == "latency":
            return before[each.key] - now.get(each.key, 0.0)
        mine, total = set(self._parts(each)), 0.0
        for part, spent in before.items():
            less = spent - now.get(part, 0.0)
            if part in self._sides:
                counted = (part, self._sides[part]) in mine
            else:
                counted = less > 0 and self._owners.setdefault(part, number) == number
            total += less if counted else 0.0
        # a constant that stands for a branch is of no group
        return total - sum(spent for part, spent in now.items() if part not in before)
