"""Store once the initializers that are equal byte for byte: tied tables, repeated biases and masks.

    before   a = W1, b = W2, W1 equal to W2             after   a = b = W1

Exact. Tensors of one dtype and shape are told apart by a few sampled elements; only those that agree there are read
whole, so weights stay memory-mapped and are never copied to be compared. Left alone: tensors that differ in any byte
(0.0 and -0.0 differ), strings, and initializers that are inputs or outputs of the graph.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ...ir.level import Level
from ..base import Context, Finding, Outcome, Pass
from ..edit import Array, drop

#: Elements that are looked at before two tensors are compared whole.
_SAMPLES = 16


@dataclass(frozen=True, kw_only=True)
class ShareIdentical(Pass):
    """Store identical initializers once."""

    name: ClassVar[str] = "share-identical"
    level: ClassVar[Level] = Level.IMPORTED

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        scopes = (model.graph, *model.graph.subgraphs())
        return Outcome(tuple(finding for scope in scopes for finding in _share(scope)))


def _share(graph: ir.Graph) -> list[Finding]:
    alike: defaultdict[tuple[object, ...], list[ir.Value]] = defaultdict(list)
    found: list[Finding] = []
    for value in list(graph.initializers.values()):
        key = _fingerprint(value)
        if key is None:
            continue
        twin = next((other for other in alike[key] if _equal(other, value)), None)
        if twin is None:
            alike[key].append(value)
            continue
        found.append(Finding(f"{value.name} is {twin.name}"))
        value.replace_all_uses_with(twin)
        drop(value)
    return found


def _fingerprint(value: ir.Value) -> tuple[object, ...] | None:
    tensor = value.const_value
    if tensor is None or tensor.dtype == ir.DataType.STRING or value.is_graph_input() or value.is_graph_output():
        return None
    array = tensor.numpy()
    places = np.unique(np.linspace(0, max(array.size - 1, 0), _SAMPLES).astype(np.int64))
    # where the array is a view in another order, flattening it would copy it
    sampled = array[np.unravel_index(places, array.shape)] if array.size and array.ndim else array
    return tensor.dtype, tuple(array.shape), sampled.tobytes()


def _equal(a: ir.Value, b: ir.Value) -> bool:
    assert a.const_value is not None and b.const_value is not None
    left, right = a.const_value.numpy(), b.const_value.numpy()
    return left is right or bool(np.array_equal(_bits(left), _bits(right)))


def _bits(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
