"""Multiply-adds of recurrent layers as they are and through fewer features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ...ir.cost import cost
from ...ir.shape_scope import dim_of
from ...ir.shapes import Shapes, Visit, dimension_names, infer
from ...ir.site import Kind, Site
from ...ir.walk import every_node
from ..budget import costs_by_name
from ..edit import attribute
from .recurrences import RECURRENT, Item, thin

#: Of every dynamic dimension, as `costs_by_name` counts.
PROBE = 32
#: What a feature of a state costs a step beside the products, as `ir.flops` counts it of the op.
_POINTWISE = {"LSTM": 13, "GRU": 13, "RNN": 3}


@dataclass(frozen=True)
class Multiplied:
    """FLOPs with weights of a model: total now, first before any weight of a recurrent layer was factored.

    rows: how often each recurrent node multiplies by a number of its weights, two for a multiply-add.
    """

    rows: Mapping[ir.Node, float]
    total: float
    first: float

    @classmethod
    def of_model(cls, model: ir.Model) -> Multiplied:
        sizes, rows = dict.fromkeys(dimension_names(model), PROBE), dict[ir.Node, float]()

        def see(shapes: Shapes, visit: Visit) -> None:
            # the first product of a call is that of its inputs
            stepped = visit.node.op_type == "MatMul" and _stepped(visit.top)
            if visit.times is not None and (visit.node.op_type in RECURRENT or stepped):
                try:
                    time, batch = (dim_of(dim) for dim in shapes.input(visit.node, 0)[:2])
                except ValueError:
                    # nor does `costs_by_name` count what has no shape
                    return
                often = time * batch * visit.times * 2
                rows.setdefault(visit.top if stepped else visit.node, float(often.constant or 0))

        infer(model, sizes, see)
        total = sum(costs_by_name(model, "flops").values())
        # what no site stands for: the products of calls, and those by projections that are computed
        inner = [each for each in cost(model, sizes).nodes if _stepped(each.top) and each.node.op_type == "MatMul"]
        total += sum(float(each.flops.constant or 0) for each in inner)
        gained = 0.0
        for node in every_node(model.graph):
            if node not in rows:
                continue
            narrow, weight = thin(node.inputs[0]), node.inputs[1]
            if narrow is not None and weight is not None:
                held = sum(map(_count, narrow))
                total += rows[node] * sum(_count(each) for each in narrow if each.producer() is not None)
                then = _shape(weight)[0] * _shape(weight)[1] * sum(_shape(each)[0] for each in narrow)
                gained += rows[node] * (then - held - _count(weight))
            if _stepped(node):
                left, right = node.inputs[2], node.inputs[3]
                assert left is not None and right is not None
                ways, hidden = _shape(left)[0], _shape(right)[-2]
                total += rows[node] / 2 * ways * hidden * _POINTWISE[node.op_type.removeprefix("Projected")]
                then = math.prod(_shape(left)[:2]) * hidden
                gained += rows[node] * (then - _count(left) - _count(right) * _read(node))
        return cls(rows, total, total + gained)

    def whole(self, item: Item) -> float:
        return sum(self._of(site) * item.features * item.ways * _outputs(site, item) for site in item.sites)

    def of(self, item: Item, rank: int, *, stepped: bool) -> float:
        """Through so many features. stepped: whether R is two products; it is one that is computed at load else."""
        own = item.own
        if own.kind is Kind.RECURRENT_INPUT:
            return self._of(own) * item.size(rank)
        once = item.features * _read(own.node) + int(own.view.shape[1])
        state = rank * once if stepped else item.features * int(own.view.shape[1])
        above = (self._of(site) * rank * (item.features + _outputs(site, item)) for site in item.above)
        return item.ways * (self._of(own) * state + sum(above))

    def around(self, found: Sequence[Item]) -> tuple[float, float]:
        """What the model costs beside items, and what it cost at first."""
        return self.total - sum(map(self.whole, found)), self.first

    def _of(self, site: Site) -> float:
        return self.rows.get(site.node, 0.0)


def _outputs(site: Site, item: Item) -> int:
    """Columns that a direction's state, or the input, is multiplied by."""
    ways, gates = site.view.shape[:2]
    return int(gates) if site is item.own and site.kind is Kind.RECURRENT_HIDDEN else int(ways * gates)


def _stepped(node: ir.Node) -> bool:
    return node.op_type.startswith("Projected") and node.op_type.removeprefix("Projected") in RECURRENT


def _read(node: ir.Node) -> int:
    """How often a step multiplies by the projection: a GRU that resets the state first does so again."""
    if node.op_type == "GRU":
        return 1 if attribute(node, "linear_before_reset", 0) else 2
    return 2 if node.op_type == "ProjectedGRU" and not node.overload.endswith("_before_reset") else 1


def _shape(value: ir.Value) -> tuple[int, ...]:
    assert value.shape is not None
    return tuple(dim for dim in value.shape if isinstance(dim, int))


def _count(value: ir.Value) -> int:
    return math.prod(_shape(value))
