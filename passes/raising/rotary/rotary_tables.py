"""The tables of a rotation, cos or sin, brought to [batch, sequence, pairs].

    f --> Concat(f, f) --> Cos --> Mul(scale) --> Unsqueeze --> table      pairs:  f --> Cos --> Mul(scale)

A table often holds each number twice, once for each element of a pair. That it does is proven from what made it, or
read off a constant; the pairs are then what made it, applied to f.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ....ir.content import Element, content, dimensions
from ...base import Miss
from ...edit import Tape, attribute, constant_of, is_op, scalar_of
from .rotation import Index

#: Nodes between a table and what repeats it.
_REACH = 16

#: Each element by itself.
_UNARY = frozenset({"Cos", "Sin", "Cast", "Identity", "Neg", "Sqrt", "Exp", "Abs"})
_SCALED = frozenset({"Mul", "Div", "Add", "Sub"})


@dataclass(frozen=True)
class Table:
    """A table that each pair reads once.

    value: the table, its axes those of x that `roles` names: 0 batch, 1 heads, 2 sequence, 3 pairs.
    origin, chain: what pairs are made from, and the nodes that make `value` of it; None for `value` itself.
    picked: the elements of the last axis that are the pairs; None for all of them, in order.
    stretched: whether it is one table for all of a batch.
    """

    value: ir.Value
    roles: tuple[int, ...]
    origin: ir.Value | None = None
    chain: tuple[ir.Node, ...] = ()
    picked: slice | None = None
    stretched: bool = False


def table_of(table: ir.Value, first: Index, second: Index, roles: Sequence[int], x: Sequence[Element]) -> Table | Miss:
    """The table whose elements `first` and `second` are read for the two elements of each pair.

    roles: of the axes of x, last ones first come the table's. x: sizes of batch, heads, sequence and head of x.
    """
    dims = dimensions(table)
    assert dims is not None
    have = tuple(roles[len(roles) - len(dims) :])
    by_role = dict(zip(have, dims, strict=True))
    if by_role.get(1, 1) != 1:
        return Miss("table", _sizes(table), "one table for all heads")
    if 2 not in by_role or by_role[2] is None or by_role[2] != x[2]:
        return Miss("sequence", _sizes(table), f"a row for each of {x[2]} positions")
    batch = by_role.get(0, 1)
    if batch != 1 and (batch is None or batch != x[0]):
        return Miss("batch", _sizes(table), f"a table for each of {x[0]}, or one for all")
    value, have = _peeled(table, have)
    stretched = by_role.get(0, 1) == 1 and x[0] != 1
    pairs = _pairs(value, first, second)
    if isinstance(pairs, Miss):
        return pairs
    kept = tuple(role for index, role in enumerate(have) if index not in pairs.missing)
    if 2 not in kept:
        return Miss("table", _sizes(value), "an axis of positions")
    return Table(
        value,
        kept,
        pairs.origin,
        pairs.chain,
        pairs.picked,
        stretched,
    )


def written(tape: Tape, table: Table, shape: ir.Value | None) -> ir.Value:
    """The nodes that make [batch, sequence, pairs] of a table; `shape` is [batch, 1, 1] where one is stretched."""
    value = table.value if table.origin is None else table.origin
    if table.picked is not None:
        value = _picked(tape, value, table.picked)
    for node in table.chain:
        value = _again(tape, node, value)
    if 1 in table.roles:
        value = tape("Squeeze", value, tape.constant([table.roles.index(1)], "axes"))
    if 0 not in table.roles:
        value = tape("Unsqueeze", value, tape.constant([0], "axes"))
    if table.stretched:
        assert shape is not None
        value = tape("Expand", value, shape)
    return value


def _picked(tape: Tape, value: ir.Value, picked: slice) -> ir.Value:
    """Pairs of a table that is read whole: a constant's are a view of it."""
    array = constant_of(value)
    if array is not None:
        return tape.constant(array[..., picked], "pairs")
    bounds = [tape.constant([number], name) for number, name in ((picked.start, "start"), (picked.stop, "end"))]
    steps = [] if picked.step == 1 else [tape.constant([picked.step], "step")]
    return tape("Slice", value, *bounds, tape.constant([-1], "axes"), *steps)


def _again(tape: Tape, node: ir.Node, value: ir.Value) -> ir.Value:
    """A node of a chain, applied to another value."""
    source = _source(node)
    inputs = [value if item is source else item for item in node.inputs]
    return tape.node(node.op_type, inputs, dict(node.attributes)).outputs[0]


def _peeled(table: ir.Value, roles: tuple[int, ...]) -> tuple[ir.Value, tuple[int, ...]]:
    """The table before axes of size one were put in, and the roles that its own axes have."""
    value = table
    while True:
        node = value.producer()
        axes = content(node.inputs[1]) if is_op(node, "Unsqueeze") else None
        if node is None or axes is None or node.inputs[0] is None:
            return value, roles
        places = {axis % len(roles) for axis in axes if isinstance(axis, int)}
        kept = tuple(role for place, role in enumerate(roles) if place not in places)
        if len(places) != len(axes) or not {2, 3} <= set(kept):
            return value, roles
        value, roles = node.inputs[0], kept


@dataclass(frozen=True)
class _Pairs:
    """Where pairs come from, as `Table` says; missing: axes of size one that the origin does not have."""

    origin: ir.Value | None = None
    chain: tuple[ir.Node, ...] = ()
    picked: slice | None = None
    missing: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Spread:
    """origin[at] along the last axis; missing: axes of size one that were put in besides."""

    origin: ir.Value
    at: Index
    missing: tuple[int, ...] = ()


def _pairs(value: ir.Value, first: Index, second: Index) -> _Pairs | Miss:
    dims = dimensions(value)
    size = None if dims is None else dims[-1]
    whole = isinstance(size, int) and np.array_equal(first, np.arange(size))
    if np.array_equal(first, second) and whole:
        return _Pairs()
    chain: list[ir.Node] = []
    root: ir.Value | None = value
    while root is not None and len(chain) < _REACH:
        spread = _spread(root)
        if spread is not None:
            if not np.array_equal(spread.at[first], spread.at[second]):
                return Miss("table", _sizes(value), "the same number for both elements of a pair")
            count = dimensions(spread.origin)
            every = count is not None and np.array_equal(spread.at[first], np.arange(int(count[-1] or 0)))
            if every and not (chain and spread.missing):
                return _Pairs(spread.origin, tuple(chain[::-1]), missing=spread.missing)
            break
        array = None if np.array_equal(first, second) else constant_of(root)
        if array is not None:
            if array.ndim == 0 or array.shape[-1] != size or not np.array_equal(array[..., first], array[..., second]):
                return Miss("table", _sizes(value), "the same number for both elements of a pair")
            break
        node = root.producer()
        source = None if node is None else _source(node)
        if node is None or source is None:
            if np.array_equal(first, second):
                break
            return Miss("table", _sizes(value), "a table that provably repeats each number")
        chain.append(node)
        root = source
    else:
        return Miss("table", _sizes(value), "a table that provably repeats each number")
    picked = _regular(first)
    if picked is None:
        return Miss("table", _sizes(value), "pairs in order")
    array = constant_of(root) if root is not value and root is not None else None
    if array is not None and root is not None:
        # what feeds the chain is a constant: its pairs are, and the chain works on those
        return _Pairs(root, tuple(chain[::-1]), picked)
    return _Pairs(picked=picked)


def _regular(index: Index) -> slice | None:
    """The slice that an index is, where it goes up evenly."""
    steps = np.diff(index)
    if index.size == 0 or (steps.size and (steps[0] <= 0 or np.any(steps != steps[0]))):
        return None
    step = int(steps[0]) if steps.size else 1
    return slice(int(index[0]), int(index[-1]) + 1, step)


def _source(node: ir.Node) -> ir.Value | None:
    """The value that a node treats element by element, or moves whole rows of; None for any other node."""
    if node.domain or len(node.outputs) != 1:
        return None
    dims, after = dimensions(node.inputs[0]) if node.inputs else None, dimensions(node.outputs[0])
    if node.op_type in _UNARY:
        return node.inputs[0]
    if node.op_type in _SCALED:
        for item, other in (tuple(node.inputs), tuple(node.inputs[::-1])):
            if item is not None and scalar_of(other) is not None and len(dimensions(other) or ()) <= len(after or ()):
                return item
        return None
    if dims is None or after is None:
        return None
    if node.op_type == "Unsqueeze":
        axes = content(node.inputs[1])
        known = axes is not None and all(isinstance(axis, int) and axis % len(after) != len(after) - 1 for axis in axes)
        return node.inputs[0] if known else None
    if node.op_type == "Squeeze" and len(node.inputs) > 1:
        axes = content(node.inputs[1])
        known = axes is not None and all(isinstance(axis, int) and axis % len(dims) != len(dims) - 1 for axis in axes)
        return node.inputs[0] if known else None
    if node.op_type == "Gather":
        return node.inputs[0] if attribute(node, "axis", 0) % len(dims) != len(dims) - 1 else None
    if node.op_type == "Slice" and len(node.inputs) > 3:
        axes = content(node.inputs[3])
        known = axes is not None and all(isinstance(axis, int) and axis % len(dims) != len(dims) - 1 for axis in axes)
        return node.inputs[0] if known else None
    if node.op_type == "Transpose":
        perm = node.attributes.get("perm")
        return node.inputs[0] if perm is not None and perm.as_ints()[-1] == len(dims) - 1 else None
    return None


def _spread(value: ir.Value) -> _Spread | None:
    """What a value repeats along its last axis; None where it is no repetition."""
    node = value.producer()
    dims = dimensions(value)
    if node is None or node.domain or not dims or not isinstance(dims[-1], int) or not node.inputs:
        return None
    size, last = dims[-1], len(dims) - 1
    source = node.inputs[0]
    before = dimensions(source)
    if source is None or before is None:
        return None
    if node.op_type == "Concat" and node.attributes["axis"].as_int() in (-1, last):
        same = all(item is source for item in node.inputs) and len(node.inputs) > 1
        if not same or not isinstance(before[-1], int) or not before[-1]:
            return None
        return _Spread(source, np.arange(size) % before[-1])
    if node.op_type == "Tile" and len(before) == len(dims) and isinstance(before[-1], int) and before[-1]:
        counts = content(node.inputs[1])
        alone = counts is not None and all(count == 1 for count in counts[:-1]) and counts[-1] != 1
        return _Spread(source, np.arange(size) % before[-1]) if alone else None
    if node.op_type == "Gather" and attribute(node, "axis", 0) in (-1, last) and len(before) == len(dims):
        indices = content(node.inputs[1])
        wanted = [index for index in indices or () if isinstance(index, int)]
        if len(wanted) != size or not isinstance(before[-1], int):
            return None
        return _Spread(source, np.asarray(wanted) % before[-1])
    return _interleaved(node, dims) if node.op_type == "Reshape" else None


def _interleaved(node: ir.Node, dims: Sequence[Element]) -> _Spread | None:
    """Reshape(Expand | Tile | Concat of f[.., None]) repeats each element of f."""
    inner = node.inputs[0].producer() if node.inputs[0] is not None else None
    if not is_op(inner, "Expand", "Tile", "Concat") or inner.inputs[0] is None:
        return None
    wide, axis = dimensions(inner.outputs[0]), inner.inputs[0].producer()
    if wide is None or not is_op(axis, "Unsqueeze") or axis.inputs[0] is None:
        return None
    origin, places = axis.inputs[0], content(axis.inputs[1])
    have, count = dimensions(origin), wide[-1]
    if have is None or not isinstance(count, int) or count < 2 or not isinstance(have[-1], int) or not have[-1]:
        return None
    inserted = {place % len(wide) for place in places or () if isinstance(place, int)}
    if len(wide) - 1 not in inserted or len(inserted) != len(places or ()) or None in have:
        return None
    if len(wide) != len(have) + len(inserted):
        return None
    lengths = iter(have)
    narrow = [1 if index in inserted else next(lengths) for index in range(len(wide) - 1)]
    if wide[:-1] != narrow:
        return None
    if inner.op_type == "Concat" and (
        any(item is not inner.inputs[0] for item in inner.inputs)
        or inner.attributes["axis"].as_int() not in (-1, len(wide) - 1)
    ):
        return None
    if narrow[-1] != have[-1] or dims[-1] != have[-1] * count or list(dims[:-1]) != narrow[:-1]:
        return None
    return _Spread(origin, np.arange(have[-1] * count) // count, tuple(sorted(inserted - {len(wide) - 1})))


def _sizes(value: ir.Value) -> str:
    return f"{value.name}: {dimensions(value)}"
