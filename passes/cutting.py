"""Surgery on axes: take places of groups (`ir.axes`) out of every weight, attribute and shape that has them.

    fc1.weight [1536, 384]  fc1.bias [1536]  fc2.weight [384, 1536]        keep 1,024 of the group of 1,536
    fc1.weight [1024, 384]  fc1.bias [1024]  fc2.weight [384, 1024]

Nodes stay: what changes is what they are told. Numbers that a Reshape, Split, Slice or Expand is given follow, as do
counts of heads, units and groups of channels. Constants that others read are not changed under them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ..ir.atoms import exactly
from ..ir.axes import TARGETS, Axis, Dependencies, Mask, kept, length, target_of, teller
from ..ir.axes.axis import cut as pieces_of
from ..ir.axes.axis import split
from ..ir.constants import integers_of, tensor_of
from ..ir.polynomial import Polynomial
from .edit import Ledger, Tape, attribute, drop, reroute


def cut(found: Dependencies, keep: Mapping[Axis, Mask]) -> None:
    """Leave of each of these leaves the places that its mask names, in the model that `found` is of.

    A mask is as long as its leaf. Raises ValueError for one that is of another length, or keeps nothing. Holds are not
    looked at: whoever cuts knows what may be.
    """
    keep = {axis.root(): np.asarray(mask, np.bool_) for axis, mask in keep.items()}
    for axis, mask in keep.items():
        if mask.shape != (axis.count,):
            raise ValueError(f"expected a mask of {axis.count} places, found one of shape {list(mask.shape)}")
        if not mask.any():
            raise ValueError("nothing of an axis would be kept")
    keep = {axis: mask for axis, mask in keep.items() if not mask.all()}
    if not keep:
        return
    # what nodes are told is read off the model as it was
    told = [
        (node, rule)
        for node in found.model.graph
        if (rule := _TOLD.get(node.op_type)) is not None and not node.domain
    ]  # fmt: skip
    changes = [change for node, rule in told if (change := rule(_Cut(found, keep), node)) is not None]
    for value, axes in found.axes.items():
        if tensor_of(value) is not None:
            _take(value, axes, keep)
        elif value.shape is not None:
            _shorten(value, axes, keep)
    for change in changes:
        change()


#: What is to be done to a node once the weights are cut; None for nothing.
_Change = Callable[[], None]


class _Cut:
    """The axes of a model, and what of them stays."""

    def __init__(self, found: Dependencies, keep: Mapping[Axis, Mask]) -> None:
        self._found, self._keep = found, keep

    def axes(self, value: ir.Value | None) -> tuple[Axis, ...]:
        return () if value is None else self._found.axes.get(value, ())

    def length(self, axis: Axis) -> int | None:
        return length(axis, self._keep).constant

    def changed(self, axis: Axis) -> bool:
        return length(axis, self._keep) != axis.size


def _take(value: ir.Value, axes: Sequence[Axis], keep: Mapping[Axis, Mask]) -> None:
    tensor = tensor_of(value)
    masks = [kept(axis, keep) for axis in axes]
    if tensor is None or all(mask.all() for mask in masks):
        return
    array = tensor.numpy()
    for at, mask in enumerate(masks):
        if not mask.all():
            array = np.take(array, np.flatnonzero(mask), axis=at)
    made = ir.Tensor(array, dtype=tensor.dtype, name=value.name)
    value.shape = ir.Shape(array.shape)
    node = value.producer()
    if node is None:
        value.const_value = made
        return
    for name in [*node.attributes]:
        del node.attributes[name]
    node.attributes["value"] = ir.AttrTensor("value", made)
    value.const_value = None


def _shorten(value: ir.Value, axes: Sequence[Axis], keep: Mapping[Axis, Mask]) -> None:
    assert value.shape is not None
    sizes = [length(axis, keep) for axis in axes]
    if len(sizes) == len(value.shape) and any(size != axis.size for size, axis in zip(sizes, axes, strict=True)):
        value.shape = ir.Shape(
            [
                size.constant if size != axis.size and size.constant is not None else dim
                for size, axis, dim in zip(sizes, axes, value.shape, strict=True)
            ]
        )


def _target(found: _Cut, node: ir.Node) -> _Change | None:
    """Reshape, Expand, ConstantOfShape, Resize: the numbers that say what is cut."""
    axes = found.axes(node.outputs[0])
    target = target_of(node, len(axes)) if any(map(found.changed, axes)) else None
    if target is None:
        return None
    numbers: dict[int, int] = {}
    before = found.axes(node.inputs[0])
    keeps = node.op_type == "Reshape" and not attribute(node, "allowzero", 0)
    for at, axis in enumerate(axes):
        index, size = target.index(at), found.length(axis)
        if index is None or size is None or not found.changed(axis):
            continue
        said = target.said[index]
        if node.op_type == "Reshape" and said == -1:
            continue
        # zero stands for the size at the same place of the input, which may have changed alike
        if keeps and said == 0 and at < len(before) and found.length(before[at]) == size:
            continue
        numbers[index] = size
    return (lambda: _retell(node, target.value, numbers)) if numbers else None


def _retell(node: ir.Node, target: ir.Value, numbers: Mapping[int, int]) -> None:
    whole = integers_of(target)
    if whole is not None:
        _feed(node, TARGETS[node.op_type], [numbers.get(at, number) for at, number in enumerate(whole)], "shape")
        return
    tape, joined = Tape(), target.producer()
    assert joined is not None
    inputs = list(joined.inputs)
    for piece, value in enumerate(inputs):
        said = {
            told.at: number
            for at, number in numbers.items()
            if (told := teller(target, at)) is not None and told.piece == piece
        }
        old = integers_of(value)
        if said and old is not None:
            inputs[piece] = tape.constant([said.get(at, number) for at, number in enumerate(old)], "size")
    new = tape("Concat", *inputs, axis=0)
    new.type, new.shape = target.type, target.shape
    reroute(tape, node, target, new)


def _feed(node: ir.Node, index: int, numbers: Sequence[int], name: str) -> None:
    """Let one input of a node be these numbers; the same value elsewhere among its inputs stays."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    name = Ledger.of(graph).unique(f"{node.outputs[0].name}_{name}")
    made = ir.Value(name=name, const_value=ir.tensor(np.array(numbers, np.int64), name=name))
    made.shape, made.type = ir.Shape([len(numbers)]), ir.TensorType(ir.DataType.INT64)
    graph.register_initializer(made)
    old = node.inputs[index] if index < len(node.inputs) else None
    if old is None:
        node.resize_inputs(max(len(node.inputs), index + 1))
    node.replace_input_with(index, made)
    if old is not None:
        drop(old)


def _split(found: _Cut, node: ir.Node) -> _Change | None:
    data = found.axes(node.inputs[0])
    at = attribute(node, "axis", 0)
    pieces = [found.axes(value)[at] for value in node.outputs if found.axes(value)]
    if len(pieces) < len(node.outputs) or not any(map(found.changed, pieces)) or not data:
        return None
    sizes = [found.length(piece) or 0 for piece in pieces]

    def change() -> None:
        node.attributes.pop("num_outputs", None)
        _feed(node, 1, sizes, "sizes")

    return change


def _slice(found: _Cut, node: ir.Node) -> _Change | None:
    data, made = found.axes(node.inputs[0]), found.axes(node.outputs[0])
    starts, ends, *rest = (integers_of(value) for value in node.inputs[1:])
    if not data or not made or starts is None or ends is None:
        return None
    axes = rest[0] if rest and rest[0] is not None else list(range(len(starts)))
    steps = rest[1] if len(rest) > 1 and rest[1] is not None else [1] * len(starts)
    new_starts, new_ends = list(starts), list(ends)
    for index, at in enumerate(axes):
        axis, piece = data[at], made[at]
        if not found.changed(axis) or axis.size == piece.size or axis.count is None or piece.count is None:
            continue
        size, count, start = axis.count, piece.count, starts[index]
        start = min(max(start + size * (start < 0), 0), size)
        if steps[index] == 1:
            parts = pieces_of(axis, [Polynomial.of(part) for part in (start, count, size - start - count)])
            new_starts[index] = 0 if parts is None else found.length(parts[0]) or 0
            new_ends[index] = new_starts[index] + (found.length(piece) or 0)
        else:
            # one of the innermost factor, which is as long as the step
            new_starts[index], new_ends[index] = start, found.length(axis) or 0
    if (new_starts, new_ends) == (list(starts), list(ends)):
        return None

    def change() -> None:
        _feed(node, 1, new_starts, "starts")
        _feed(node, 2, new_ends, "ends")

    return change


def _attention(found: _Cut, node: ir.Node) -> _Change | None:
    changes: dict[str, int | float] = {}
    query = node.inputs[0]
    axes = found.axes(query)
    size = axes[-1]
    for name, value in (("q_num_heads", query), ("kv_num_heads", node.inputs[1])):
        heads = attribute(node, name, 0)
        of = found.axes(value)
        if heads and len(of) == 3:
            factors = _factors(of[2], heads)
            changes[name] = found.length(factors[0]) or heads
            size = factors[1] if value is query else size
    if found.changed(size) and "scale" not in node.attributes and size.count:
        # the scores stay those of heads of the old size
        changes["scale"] = 1.0 / float(np.sqrt(size.count))
    return _attributes(node, changes)


def _rotary(found: _Cut, node: ir.Node) -> _Change | None:
    heads, data = attribute(node, "num_heads", 0), found.axes(node.inputs[0])
    if not heads or len(data) != 3:
        return None
    return _attributes(node, {"num_heads": found.length(_factors(data[2], heads)[0]) or heads})


def _recurrent(found: _Cut, node: ir.Node) -> _Change | None:
    recurrence = found.axes(node.inputs[2])
    return _attributes(node, {"hidden_size": found.length(recurrence[2]) or 0}) if recurrence else None


def _conv(found: _Cut, node: ir.Node) -> _Change | None:
    group, weight = attribute(node, "group", 1), found.axes(node.inputs[1])
    if group == 1 or not weight:
        return None
    return _attributes(node, {"group": found.length(_factors(weight[0], group)[0]) or group})


def _groups(found: _Cut, node: ir.Node) -> _Change | None:
    groups, data = attribute(node, "num_groups", 1), found.axes(node.inputs[0])
    if not data:
        return None
    return _attributes(node, {"num_groups": found.length(_factors(data[1], groups)[0]) or groups})


def _factors(axis: Axis, count: int) -> list[Axis]:
    number = Polynomial.of(count)
    inner = exactly(axis.size, number)
    parts = None if inner is None else split(axis, [number, inner])
    assert parts is not None, "the axes were found with this count"
    return parts


def _attributes(node: ir.Node, numbers: Mapping[str, int | float]) -> _Change | None:
    new = {
        name: number
        for name, number in numbers.items()
        if name not in node.attributes or node.attributes[name].value != number
    }
    if not new:
        return None

    def change() -> None:
        for name, number in new.items():
            made = ir.AttrInt64(name, number) if isinstance(number, int) else ir.AttrFloat32(name, number)
            node.attributes[name] = made

    return change


_TOLD: Mapping[str, Callable[[_Cut, ir.Node], _Change | None]] = {
    **dict.fromkeys(TARGETS, _target),
    "Split": _split,
    "Slice": _slice,
    "Attention": _attention,
    "RotaryEmbedding": _rotary,
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    **dict.fromkeys(("Conv", "ConvTranspose"), _conv),
    "GroupNormalization": _groups,
}
