"""Raise products with one-hot vectors, and lookups of flattened ids, to one Gather.

    before   MatMul(OneHot(ids, depth, [0, 1]), table)                   table: [depth, hidden]
             MatMul(Cast(Equal(Unsqueeze(ids, -1), [0, .., depth - 1])), table)
             Reshape(Gather(table, Reshape(ids, [-1])), [batch, sequence, hidden])
    after    Gather(table, ids)                                          [batch, sequence, hidden]

Exact. The product has a row of zeros for an id that is not in the table, a Gather an error or another row; so ids must
provably be in it: truth values, clipped numbers, remainders, the places of maxima. (OneHot counts negative ids from the
end as Gather does.) A table with infinite numbers or NaN is left alone too, as 0 * inf is NaN in every row.

trust_indices: take ids for what a tokenizer makes, all of them in the table, where nothing proves it; exact for those.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ....ir.constants import tensor_of
from ....ir.content import dimensions
from ....ir.mapped import released
from ...base import Match, Miss, Rewrite
from ...edit import Array, Tape, attribute, integers_of, is_op, only_reader, replace, scalar_of
from .intervals import interval
from .tables import rows_of, stored_table, table_of, width_of

_VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
#: Integers that go into int64 whole.
_NARROW = (ir.DataType.INT8, ir.DataType.INT16, ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32)
_INDICES = (ir.DataType.INT32, ir.DataType.INT64)
#: Numbers of a table that are looked at at once.
_CHUNK = 1 << 22
#: What lies this far apart is as good as unknown.
_ANY = (1 << 32) - 1
#: Reshapes in a row.
_REACH = 4


@dataclass(frozen=True, kw_only=True)
class Embedded(Match):
    """The table, the ids, an axis of size one to take from them first, and the node that gives what a Gather gives."""

    table: ir.Value
    ids: ir.Value
    last: bool
    end: ir.Node


@dataclass(frozen=True)
class _OneHot:
    """Vectors with a one at the place of each id and zeros elsewhere; ids of `least` and more are in a table."""

    ids: ir.Value
    last: bool
    vectors: ir.Value
    depth: int
    least: int


@dataclass(frozen=True, kw_only=True)
class RaiseEmbedding(Rewrite):
    """One-hot vectors times a table -> Gather"""

    name: ClassVar[str] = "raise-embedding"
    subject: ClassVar[str] = "embedding"
    anchors: ClassVar[tuple[str, ...]] = ("OneHot", "Equal", "Gather")
    trust_indices: bool = False

    def match(self, node: ir.Node) -> Match | Miss:
        if node.op_type == "Gather":
            return _flattened(node)
        found = _one_hot(node) if node.op_type == "OneHot" else _compared(node)
        return found if isinstance(found, Miss) else self._product(node, found)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Embedded)
        tape, ids = Tape(), found.ids
        if found.last:
            ids = tape("Squeeze", ids, tape.constant([-1], "axes"))
            ids.type, ids.shape = found.ids.type, ir.Shape((dimensions(found.ids) or [])[:-1])
        if found.ids.dtype in _NARROW:
            shape, ids = ids.shape, tape("Cast", ids, to=ir.DataType.INT64)
            ids.type, ids.shape = ir.TensorType(ir.DataType.INT64), shape
        made = tape("Gather", found.table, ids, axis=0)
        replace(tape, found.end.outputs, [made], matched=[found.node, found.end])

    def _product(self, node: ir.Node, hot: _OneHot) -> Match | Miss:
        value = hot.vectors
        reader = only_reader(value)
        if is_op(reader, "Cast"):
            reader = only_reader(reader.outputs[0])
        if not is_op(reader, "MatMul", "Gemm") or reader.graph is not node.graph or not _is_plain(reader):
            return Miss("product", value.name or "", "one MatMul or plain Gemm that alone reads the one-hot vectors")
        table = reader.inputs[1]
        if table is None or stored_table(table) is None:
            return Miss("table", table.name or "" if table else "", "a constant table of floats on the right")
        if rows_of(table) != hot.depth:
            return Miss("depth", str(hot.depth), f"the {rows_of(table)} rows of {table.name}")
        if hot.ids.dtype not in (*_INDICES, *_NARROW):
            return Miss("ids", f"{hot.ids.name}: {hot.ids.dtype}", "integers that fit into int64")
        known = interval(hot.ids)
        inside = known is not None and hot.least <= known[0] and known[1] < hot.depth
        if not (inside or self.trust_indices):
            given = "any number" if known is None or known[1] - known[0] >= _ANY else f"{known[0]} to {known[1]}"
            need = f"ids of 0 to {hot.depth - 1}: proven, or made by a tokenizer (option trust-indices)"
            return Miss("range", f"{hot.ids.name}: {given}", need, near=True)
        if not _is_finite(table):
            return Miss("finite", table.name or "", "a table of finite numbers", near=True)
        return Embedded(node=node, table=table, ids=hot.ids, last=hot.last, end=reader)


def _is_plain(product: ir.Node) -> bool:
    """Whether a product is of its first two inputs as they are, and of nothing else."""
    alpha = product.attributes.get("alpha")
    turned = attribute(product, "transA", 0) or attribute(product, "transB", 0)
    biased = any(value is not None for value in product.inputs[2:])
    return not turned and not biased and (alpha is None or alpha.as_float() == 1)


def _one_hot(node: ir.Node) -> _OneHot | Miss:
    ids, depth, values = node.inputs
    count, pair = scalar_of(depth), tensor_of(values)
    dims = dimensions(ids)
    if ids is None or dims is None or attribute(node, "axis", -1) not in (-1, len(dims)):
        return Miss("axis", node.outputs[0].name or "", "one-hot vectors along a new last axis")
    if count is None or pair is None or pair.size != 2 or pair.numpy().tolist() != [0, 1]:
        return Miss("one-hot", node.outputs[0].name or "", "a constant depth, and values [0, 1]")
    return _OneHot(ids, False, node.outputs[0], int(count), -int(count))


def _compared(node: ir.Node) -> _OneHot | Miss:
    """Each id compared with every place."""
    for ids, places in (node.inputs, node.inputs[::-1]):
        dims, stored = dimensions(ids), tensor_of(places)
        if ids is None or dims is None or stored is None or not stored.dtype.is_integer():
            continue
        sizes = [int(size) for size in stored.shape.numpy()]
        count = prod(sizes)
        if not sizes or dims[-1:] != [1] or len(sizes) > len(dims) or sizes[-1] != count or count > _CHUNK:
            continue
        if not np.array_equal(stored.numpy().reshape(-1), np.arange(count)):
            continue
        vectors = _numbers(node.outputs[0])
        source = ids.producer()
        if is_op(source, "Unsqueeze") and integers_of(source.inputs[1]) in ([-1], [len(dims) - 1]):
            assert source.inputs[0] is not None
            return _OneHot(source.inputs[0], False, vectors, count, 0)
        return _OneHot(ids, True, vectors, count, 0)
    return Miss("one-hot", node.outputs[0].name or "", "ids [.., 1] compared with 0, 1, 2, ..")


def _numbers(truths: ir.Value) -> ir.Value:
    """Ones and zeros chosen by truth values, where that is what reads them."""
    reader = only_reader(truths)
    if not is_op(reader, "Where") or reader.inputs[0] is not truths:
        return truths
    one, zero = reader.inputs[1:]
    same = len(dimensions(reader.outputs[0]) or ()) == len(dimensions(truths) or ())
    return reader.outputs[0] if same and scalar_of(one) == 1 and scalar_of(zero) == 0 else truths


def _flattened(node: ir.Node) -> Match | Miss:
    """A lookup whose result is given the axes that its ids had before they were flattened."""
    table, ids, result = table_of(node), node.inputs[1], node.outputs[0]
    if table is None or ids is None:
        return Miss("table", result.name or "", "a lookup along the first axis of a constant table of floats", far=True)
    source = ids.producer()
    if not is_op(source, *_VIEWS):
        return Miss("ids", ids.name or "", "ids that were reshaped", far=True)
    dims: list[int | str | None] | None = None
    reader = only_reader(result)
    for _ in range(_REACH):
        if not is_op(reader, *_VIEWS) or reader.inputs[0] is not result or reader.graph is not node.graph:
            break
        result = reader.outputs[0]
        dims = dimensions(result)
        if dims and None not in dims and dims[-1] == width_of(table):
            for origin in _origins(ids):
                if dimensions(origin) == dims[:-1]:
                    return Embedded(node=node, table=table, ids=origin, last=False, end=reader)
        reader = only_reader(result)
    return Miss("shape", f"{result.name}: {dims}", "a reshape to the axes that the ids had, and the width of the table")


def _origins(ids: ir.Value) -> Iterator[ir.Value]:
    """What the ids are a reshape of, nearest first."""
    for _ in range(_REACH):
        node = ids.producer()
        if not is_op(node, *_VIEWS) or node.inputs[0] is None:
            return
        ids = node.inputs[0]
        yield ids


def _is_finite(table: ir.Value) -> bool:
    tensor = stored_table(table)
    assert tensor is not None
    array: Array = tensor.numpy()
    step = max(_CHUNK // max(array.shape[1], 1), 1)
    for start in range(0, len(array), step):
        part = array[start : start + step]
        with released(part):
            if not np.isfinite(part).all():
                return False
    return True
