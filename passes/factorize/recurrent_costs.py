"""What recurrent layers cost as they are and through fewer features: numbers or bytes that are stored, FLOPs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ...ir.cost import cost
from ...ir.flops import RECURRENCES
from ...ir.shape_scope import dim_of
from ...ir.shapes import Shapes, Visit, dimension_names, infer
from ...ir.site import Kind, Site
from ..budget import PROBE, costs_by_name
from ..edit import attribute
from .recurrences import RECURRENT, Item, count, held, projections, sizes, stepped

#: Whether the steps of an item's layer are written out at a rank, so that R is two products.
Stepped = Callable[[Item, int], bool]


class Spent(ABC):
    """What items cost: numbers, bytes, FLOPs with every dynamic dimension 32, or nanoseconds.

    less: what factors have to do for a rank to be one. known: what has to be for a layer to have a cost.
    """

    less: ClassVar[str]
    known: ClassVar[str]

    @abstractmethod
    def whole(self, item: Item) -> float:
        """Of an item as it is; 0 where that is not known."""

    @abstractmethod
    def of(self, item: Item, rank: int) -> float:
        """Of the same through so many features."""

    @abstractmethod
    def around(self, found: Sequence[Item]) -> tuple[float, float]:
        """What the model costs beside items, and what it cost at first, before any weight of a layer was factored."""

    def fits(self, found: Sequence[Item], share: float) -> bool:
        """Whether with these items as they are the model costs no more than a share of what it cost at first."""
        rest, first = self.around(found)
        return rest + sum(map(self.whole, found)) <= share * first


@dataclass(frozen=True)
class Stored(Spent):
    """Numbers of the weights of recurrent layers; or bytes of all weights of the model."""

    less: ClassVar[str] = "have fewer numbers"
    known: ClassVar[str] = "weights that are stored"
    model: ir.Model
    in_bytes: bool

    def whole(self, item: Item) -> float:
        return float(item.whole * self._width(item))

    def of(self, item: Item, rank: int) -> float:
        return float(item.size(rank) * self._width(item))

    def around(self, found: Sequence[Item]) -> tuple[float, float]:
        here = sum(map(self.whole, found))
        first, now = held(self.model, in_bytes=self.in_bytes)
        total = sum(costs_by_name(self.model, "bytes").values()) if self.in_bytes else here + now
        return total - here, total + first - now

    def _width(self, item: Item) -> int:
        return item.own.view.array().itemsize if self.in_bytes else 1


@dataclass(frozen=True)
class Multiplied(Spent):
    """FLOPs with weights of a model: total now, first before any weight of a recurrent layer was factored.

    rows: how often each recurrent node multiplies by a number of its weights, two for a multiply-add.
    """

    less: ClassVar[str] = "have fewer multiply-adds"
    known: ClassVar[str] = "shapes that are known; give the budget in bytes"
    rows: Mapping[ir.Node, float]
    total: float
    first: float
    loops: Stepped

    @classmethod
    def of_model(cls, model: ir.Model, loops: Stepped) -> Multiplied:
        dims = dict.fromkeys(dimension_names(model), PROBE)
        rows, total, gained = _rows(model, dims), sum(costs_by_name(model, "flops").values()), 0.0
        # what no site stands for: the products of calls, and those by projections that are computed
        inner = [each for each in cost(model, dims).nodes if stepped(each.top) and each.node.op_type == "MatMul"]
        total += sum(float(each.flops.constant or 0) for each in inner)
        for node, often in rows.items():
            uncounted, fewer = _saved(node)
            total, gained = total + often * uncounted, gained + often * fewer
        return cls(rows, total, total + gained, loops)

    def whole(self, item: Item) -> float:
        return sum(self._of(site) * item.features * item.ways * _outputs(site, item) for site in item.sites)

    def of(self, item: Item, rank: int) -> float:
        own = item.own
        if own.kind is Kind.RECURRENT_INPUT:
            return self._of(own) * item.size(rank)
        once = item.features * _read(own.node) + int(own.view.shape[1])
        # R is one weight still, computed at load, where the steps are not written out
        state = rank * once if self.loops(item, rank) else item.features * int(own.view.shape[1])
        above = (self._of(site) * rank * (item.features + _outputs(site, item)) for site in item.above)
        return item.ways * (self._of(own) * state + sum(above))

    def around(self, found: Sequence[Item]) -> tuple[float, float]:
        return self.total - sum(map(self.whole, found)), self.first

    def _of(self, site: Site) -> float:
        return self.rows.get(site.node, 0.0)


def _rows(model: ir.Model, dims: Mapping[str, int]) -> dict[ir.Node, float]:
    """How often recurrent layers multiply by a number of their weights; of those that have shapes, as sites have."""
    found: dict[ir.Node, float] = {}

    def see(shapes: Shapes, visit: Visit) -> None:
        # the first product of a call is that of its inputs
        inside = visit.node.op_type == "MatMul" and stepped(visit.top)
        if visit.times is None or not (visit.node.op_type in RECURRENT or inside):
            return
        try:
            time, batch = (dim_of(dim) for dim in shapes.input(visit.node, 0)[:2])
        except ValueError:
            return
        often = time * batch * visit.times * 2
        found.setdefault(visit.top if inside else visit.node, float(often.constant or 0))

    infer(model, dims, see)
    return found


def _saved(node: ir.Node) -> tuple[float, float]:
    """Of a layer through fewer features, for each row of its input: multiply-adds that `ir.cost` does not count at the
    layer, and how many fewer there are than of the weights as they were at first.
    """
    uncounted, fewer = 0.0, 0.0
    narrow, weight = projections(node.inputs[0]), node.inputs[1]
    if narrow and weight is not None:
        uncounted += sum(count(each) for each in narrow if each.producer() is not None)
        whole = math.prod(sizes(weight)[:2]) * sum(sizes(each)[0] for each in narrow)
        fewer += whole - sum(map(count, narrow)) - count(weight)
    if stepped(node):
        left, right = node.inputs[2], node.inputs[3]
        assert left is not None and right is not None
        ways, hidden = sizes(left)[0], sizes(right)[-2]
        uncounted += ways * hidden * RECURRENCES[node.op_type.removeprefix("Projected")][1] / 2
        fewer += math.prod(sizes(left)[:2]) * hidden - count(left) - count(right) * _read(node)
    return uncounted, fewer


def _outputs(site: Site, item: Item) -> int:
    """Columns that a direction's state, or the input, is multiplied by."""
    ways, gates = site.view.shape[:2]
    return int(gates) if site is item.own and site.kind is Kind.RECURRENT_HIDDEN else int(ways * gates)


def _read(node: ir.Node) -> int:
    """How often a step multiplies by the projection: a GRU that resets the state first does so again."""
    if node.op_type == "GRU":
        return 1 if attribute(node, "linear_before_reset", 0) else 2
    return 2 if node.op_type == "ProjectedGRU" and not node.overload.endswith("_before_reset") else 1
