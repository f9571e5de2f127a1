"""How much of each part of a model stays under a budget: what levels cost, what they lose, and the best of both.

part           what something may be taken from: a group of units, a branch of the residual stream, a weight
level          so much of it stays: so many units, such a rank
cost           multiply-adds with weights, bytes or numbers of weights, or seconds on the target
loss           what the answers lose by this part at this level alone
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import onnx_ir as ir

from ..ir.constants import tensor_of
from ..ir.cost import cost
from ..ir.errors import OptionError
from ..ir.shapes import dimension_names
from ..ir.site import Kind, sites
from ..ir.walk import every_node
from .base import Curve
from .numerics.knapsack import knapsack

Unit = Literal["flops", "latency", "bytes", "weights"]

_TEXT = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(flops|latency|bytes)\s*")
#: Of every dynamic dimension, where FLOPs are weighed against each other.
PROBE = 32
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


class Priced(Protocol):
    """What a level costs and what is lost by it."""

    @property
    def cost(self) -> float: ...

    @property
    def loss(self) -> float: ...


L = TypeVar("L", bound=Priced)


@dataclass(frozen=True)
class Level:
    """So many units of a part stay."""

    units: int
    cost: float
    loss: float


def costs_by_name(model: ir.Model, unit: Unit) -> dict[str, float]:
    """What a model costs, by name: multiply-adds of the nodes with weights, or bytes of the weights."""
    if unit == "bytes":
        read = (value for node in every_node(model.graph) for value in node.inputs)
        tensors = {value.name or "": tensor for value in read if value and (tensor := tensor_of(value)) is not None}
        return {name: float(tensor.nbytes) for name, tensor in tensors.items() if _holds_weights(tensor.dtype)}
    nodes = {site.node for site in sites(model) if site.kind is not Kind.EMBEDDING}
    flops = cost(model, dict.fromkeys(dimension_names(model), PROBE)).nodes
    return {each.node.name or "": float(each.flops.constant or 0) for each in flops if each.node in nodes}


def _holds_weights(dtype: ir.DataType) -> bool:
    """Of what types weights are: indices, shapes and masks are of others."""
    return dtype.is_floating_point() or (dtype.bitwidth <= 8 and dtype not in (ir.DataType.BOOL, ir.DataType.STRING))


def chosen(
    parts: Sequence[Sequence[L]], rest: float, budget: Budget, first: float | None = None, *, advice: str
) -> tuple[list[L], Curve]:
    """The level of each part that together lose least within the budget, and the curve on which they lie.

    parts: the levels of each, the whole one first. rest: what the model costs beside them. first: what the budget is a
    share of, the cost of all unless told. advice: what to do where not even the least of all fits. Raises OptionError
    there, with what is possible.
    """
    whole = rest + sum(levels[0].cost for levels in parts) if first is None else first
    # costs are rounded up to whole ones, so that the budget is kept
    sizes = [[math.ceil(level.cost - _EVEN * whole) for level in levels] for levels in parts]
    found = knapsack(sizes, [[level.loss for level in levels] for levels in parts], cells=_CELLS)
    room = math.floor(budget.share * whole * (1 + _EVEN) - rest)
    if room < found.least:
        least = (rest + found.least) / whole
        raise OptionError(
            f"a budget of {budget.share:g} {budget.unit} cannot be kept: going as far as the options allow leaves "
            f"{least:.3f} of it. {advice}"
        )
    taken = [levels[at] for levels, at in zip(parts, found.within(room), strict=True)]
    columns = found.columns
    drawn = columns[:: max(1, len(columns) // _DRAWN)]
    points = tuple((float((rest + found.least + int(at) * found.unit) / whole), float(found.best[at])) for at in drawn)
    spent = (rest + sum(level.cost for level in taken)) / whole
    curve = Curve(f"share of {budget.unit}", "drop predicted", points, (spent, sum(level.loss for level in taken)))
    return taken, curve
