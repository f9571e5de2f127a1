"""What scores read of activations beside Gram matrices: how often units fire, how sure heads are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import onnx_ir as ir

from ...ir.axes import Role, places
from ...ir.errors import OptionError
from ..accumulator import Accumulator
from ..accumulators import Gram
from ..base import Context
from ..edit import Array
from ..numerics.arrays import Floats
from ..statistics import Want
from ..views import Dims
from .units import Units


class Firing(Accumulator):
    """How often each feature is above zero, `often` [features], in 0..1."""

    def __init__(self, features: int) -> None:
        self.features = features
        self.above: Floats = np.zeros(features)

    def add(self, array: Array) -> None:
        if array.ndim != 2 or array.shape[1] != self.features:
            raise ValueError(f"expected an array [tokens, {self.features}], found {list(array.shape)}")
        self.above += np.count_nonzero(np.asarray(array, np.float64) > 0, axis=0)
        self.count += len(array)

    def merge(self, other: Self) -> None:
        if self.features != other.features:
            raise ValueError(f"expected {self.features} features, found {other.features}")
        self.above += other.above
        self.count += other.count

    @property
    def often(self) -> Floats:
        return self.above / max(self.count, 1)

    @property
    def bytes(self) -> int:
        return self.above.nbytes


@dataclass(frozen=True)
class Surest:
    """The largest of the probabilities with which a query attends, [batch, heads, queries, keys] -> [.., heads]."""

    def __call__(self, array: Array, dims: Dims) -> tuple[Array, Dims]:
        found = np.moveaxis(array.max(-1), 1, -1)
        return found, None if dims is None else [dims[0], dims[2], dims[1]]


def firing(model: ir.Model, each: Units, context: Context) -> Floats | None:
    """How often each unit is above zero where it is read first; None where that cannot be told."""
    site = each.readers[0]
    axis = each.found.axis(site.activation, site.axis)
    owners = None if axis is None else places(axis, each.axis)
    if owners is None:
        return None
    want = Want(site.activation, Firing, len(owners), site.axis)
    found = context.statistics(model, [want]).of(site.activation, Firing, site.axis).often
    total = np.zeros(each.size)
    np.add.at(total, owners[owners >= 0], found[owners >= 0])
    return total / np.maximum(np.bincount(owners[owners >= 0], minlength=each.size), 1)


def _queries(node: ir.Node) -> int | None:
    """How many heads of queries an Attention has: [batch, heads, length, features] where no attribute tells."""
    if "q_num_heads" in node.attributes:
        return node.attributes["q_num_heads"].as_int()
    query = node.inputs[0]
    found = None if query is None or query.shape is None or len(query.shape) != 4 else query.shape[1]
    return found if isinstance(found, int) else None


def confidence(model: ir.Model, each: Units, context: Context) -> Floats:
    """The mean over queries of the largest probability, of each head; of heads that share keys, their mean.

    Source: Voita et al., Analyzing Multi-Head Self-Attention, 2019, section 4.1.
    """
    counting = [by for role, by in each.axis.roles if role is Role.HEADS and isinstance(by, ir.Node)]
    node = next((by for by in counting if by.op_type == "Attention"), None)
    if node is None:
        others = ", ".join(sorted({by.op_type for by in counting}))
        raise OptionError(
            f"score=confidence reads the probabilities of attention as one op, and the heads that {each.name} reads "
            f"are those of {others or 'no op'}: raise the attention first, or leave them out with ignore={each.name}, "
            "or choose another score"
        )
    copied = model.clone()
    twin = next(other for other in copied.graph if other.name == node.name and other.op_type == "Attention")
    twin.attributes["qk_matmul_output_mode"] = ir.AttrInt64("qk_matmul_output_mode", 3)
    twin.resize_outputs(4)
    seen = twin.outputs[3]
    seen.name, seen.type = f"{node.name}_probabilities", node.outputs[0].type
    query = twin.inputs[0]
    batch, length = (None, None) if query is None or query.shape is None else (query.shape[0], query.shape[-2])
    heads = _queries(node) or each.size
    seen.shape = ir.Shape([batch, heads, length, None])
    want = Want(seen, Gram, heads, view=Surest())
    means = context.statistics(copied, [want]).of(seen, Gram, view=Surest()).mean
    return np.asarray(means.reshape(each.size, -1).mean(1), np.float64)
