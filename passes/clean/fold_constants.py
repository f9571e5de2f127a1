"""Compute at compile time what depends on constants alone.

    before   Constant, Concat(Constant, Constant) --> Reshape        after   initializer --> Reshape
    before   x: [n, 384], Shape(x) --> Gather(1) --> Sqrt            after   initializer

Exact: every folded op is evaluated by ONNX's reference semantics, and shape arithmetic by what is known of it. A layout
of a large weight is a view of it, not a copy; its cast, scale or sum is computed when its bytes are read. Left alone:
dequantization of stored weights (it would undo a quantization), random numbers, results much larger than what they are
computed from (`limit`), and what is itself an output of its graph.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import onnx_ir as ir

from ...ir.constants import STORED, tensor_of
from ...ir.content import numbers
from ...ir.level import SEMANTIC_OPSET, Level
from ...ir.provenance import sources
from ...ir.text import place
from ...ir.walk import every_graph, held_graphs
from ..base import Context, Finding, Outcome, Pass
from ..edit import Array, derived, sweep
from ..interop import RemoveUnread
from .deferred import Deferred, deferred
from .evaluate import evaluate

#: Ops that turn a small stored form into a larger one on purpose.
_EXPANDING = frozenset({"ConstantOfShape", "Expand", "Tile", "Range"})
_SMALL = 1 << 10
#: Bytes from which on a result is computed when it is read: biases, masks and tables are read often and below it,
#: weights seldom and above it.
_LARGE = 1 << 20
#: Ops that undo a quantization, draw random numbers or are no computation.
_KEPT = frozenset(
    {
        "DequantizeLinear",
        "Constant",
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
#: Types in which large weights are stored on purpose, and read as others.
_STORED = frozenset(
    {
        ir.DataType.INT4,
        ir.DataType.UINT4,
        ir.DataType.INT8,
        ir.DataType.UINT8,
        ir.DataType.FLOAT8E4M3FN,
        ir.DataType.FLOAT8E5M2,
    }
)
#: Ops that can give a number that is known though what they read is not all known.
_PICKING = frozenset({"Shape", "Size", "Gather", "Slice", "Where", "Div", "Sub", "Mod", "Min", "Max"})


@dataclass(frozen=True, kw_only=True)
class FoldConstants(Pass):
    """Compute at compile time what depends on constants alone.

    limit: the largest number of elements that a folded result may have, unless it takes the place of as many.
    """

    name: ClassVar[str] = "fold-constants"
    level: ClassVar[Level] = Level.IMPORTED
    limit: int = 1 << 26

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        opset = model.opset_imports.get("", SEMANTIC_OPSET)
        scopes = list(every_graph(model.graph))
        found = [finding for scope in scopes for finding in self._fold(scope, opset)]
        if RemoveUnread()(model).modified:
            found.append(Finding("what nobody reads"))
        return Outcome(tuple(found))

    def _fold(self, scope: ir.Graph, opset: int) -> Iterator[Finding]:
        later: dict[Hashable, ir.Value] = {}
        for node in scope:
            if node.domain or any(value.is_graph_output() for value in node.outputs) or _widens(node):
                continue
            if node.op_type == "Constant":
                tensor = tensor_of(node.outputs[0])
                if tensor is not None:
                    yield _settle(node, [tensor])
                continue
            large = self._later(node, opset)
            if large is not None:
                yield _settle_later(node, large, later)
                continue
            found = self._results(node, opset)
            if found is not None:
                yield _settle(node, [ir.Tensor(array) for array in found])

    def _later(self, node: ir.Node, opset: int) -> Deferred | None:
        """A large result of a form that is certain."""
        tensors = [None if value is None else _constant(value) for value in node.inputs]
        given = [tensor for tensor in tensors if tensor is not None]
        if not given or len(given) < len(tensors):
            return None
        found = deferred(node, given, opset)
        if found is None or found.bytes < _LARGE or not self._fits(node, prod(found.shape)):
            return None
        return found if _agrees(node.outputs[0], found.dtype, found.shape) else None

    def _results(self, node: ir.Node, opset: int) -> Sequence[Array] | None:
        if node.op_type in _KEPT or _holds_graph(node):
            return None
        given = [value for value in node.inputs if value is not None]
        if not given or any(_constant(value) is None for value in given):
            found = _known(node.outputs[0]) if node.op_type in _PICKING else None
            return None if found is None else [found]
        if not self._fits(node, _annotated(node.outputs[0])):
            return None
        results = evaluate(node, [None if value is None else _array(value) for value in node.inputs], opset)
        if results is None or any(array.dtype == object for array in results):
            return None
        kinds = ((ir.DataType.from_numpy(array.dtype), array.shape) for array in results)
        if not all(_agrees(value, *kind) for value, kind in zip(node.outputs, kinds, strict=False)):
            return None
        return results if self._fits(node, max(array.size for array in results)) else None

    def _fits(self, node: ir.Node, size: int | None) -> bool:
        """Whether a result of this size may be stored; one of unknown size is looked at when it is there."""
        if node.op_type in _EXPANDING:
            return size is not None and size <= _SMALL
        if size is None or size <= self.limit:
            return True
        sole = (value for value in node.inputs if value is not None and len(value.uses()) == 1)
        return size <= sum(tensor.size for tensor in map(_constant, sole) if tensor is not None)


def _settle(node: ir.Node, tensors: Sequence[ir.TensorProtocol]) -> Finding:
    """Let initializers of their names stand where the results were made."""
    finding, graph = Finding(place(node), sources(node)), node.graph
    assert isinstance(graph, ir.Graph)
    for before, tensor in zip(node.outputs, tensors, strict=False):
        if before.uses():
            name, before.name = before.name, None
            tensor.name = name
            known = before.type or ir.TensorType(tensor.dtype)
            after = ir.Value(name=name, type=known, shape=ir.Shape(tensor.shape.numpy()), const_value=tensor)
            before.replace_all_uses_with(after)
            graph.register_initializer(after)
    sweep([node])
    return finding


def _settle_later(node: ir.Node, found: Deferred, known: dict[Hashable, ir.Value]) -> Finding:
    """`_settle` for what is computed when it is read; the same computed twice is one."""
    options = tuple(sorted((name, repr(attr.value)) for name, attr in node.attributes.items()))
    key, result, graph = (node.op_type, options, tuple(node.inputs)), node.outputs[0], node.graph
    assert isinstance(graph, ir.Graph)
    if key in known:
        finding = Finding(place(node), sources(node))
        result.replace_all_uses_with(known[key])
        sweep([node])
        return finding
    name = result.name or ""
    finding = _settle(node, [derived(name, found.shape, found.dtype, found.compute)])
    if name in graph.initializers:
        known[key] = graph.initializers[name]
    return finding


def _widens(node: ir.Node) -> bool:
    """Whether a node reads a weight that is stored in few bits, or that a pass stores as another type on purpose."""
    if STORED in node.metadata_props:
        return True
    tensor = _constant(node.inputs[0]) if node.op_type == "Cast" and node.inputs[0] is not None else None
    return tensor is not None and tensor.dtype in _STORED and tensor.size > _SMALL


def _constant(value: ir.Value) -> ir.TensorProtocol | None:
    """What a constant holds; a default that the caller may override is none."""
    return None if value.is_graph_input() else value.const_value


def _array(value: ir.Value) -> Array:
    tensor = _constant(value)
    assert tensor is not None
    return tensor.numpy()


def _known(value: ir.Value) -> Array | None:
    """The result of shape arithmetic that names and numbers settle."""
    found = numbers(value)
    to = value.dtype or ir.DataType.INT64
    return found.astype(to.numpy()) if found is not None and to in (ir.DataType.INT64, ir.DataType.INT32) else None


def _annotated(value: ir.Value) -> int | None:
    """How many elements a value is known to have."""
    sizes = [dim for dim in value.shape or () if isinstance(dim, int)]
    return None if value.shape is None or len(sizes) < len(value.shape) else prod(sizes)


def _agrees(value: ir.Value, dtype: ir.DataType, shape: tuple[int, ...]) -> bool:
    """Whether a result is what the value is known to be; if not, someone is wrong, and the graph stays as it is."""
    if not value.name:
        return True
    if value.dtype not in (None, dtype):
        return False
    dims = [None if not isinstance(dim, int) else dim for dim in value.shape] if value.shape is not None else None
    return dims is None or (
        len(dims) == len(shape) and all(dim in (None, size) for dim, size in zip(dims, shape, strict=True))
    )


def _holds_graph(node: ir.Node) -> bool:
    return any(attr.is_ref() for attr in node.attributes.values()) or any(held_graphs(node))
