"""Attributes and constant inputs that no operator allows, found before torch reads them its own way.

torch takes some of them for something else: it wraps an axis that is out of range around, leaves a size that cannot be
squeezed, and reads -1 as "keep". What depends on the feeds is left to the run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import onnx_ir as oir

from .host import flat, rank
from .scope import Held, OnHost, Stored

_REDUCTIONS = frozenset({"none", "add", "mul", "max", "min"})
_DIRECTIONS = frozenset({"forward", "reverse", "bidirectional"})
_LOSSES = frozenset({"none", "mean", "sum"})

#: (op or "", attribute) -> the texts it may be.
TEXTS: Mapping[tuple[str, str], Collection[str]] = {
    ("", "auto_pad"): frozenset({"NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"}),
    ("LSTM", "direction"): _DIRECTIONS,
    ("GRU", "direction"): _DIRECTIONS,
    ("RNN", "direction"): _DIRECTIONS,
    ("BitShift", "direction"): frozenset({"LEFT", "RIGHT"}),
    ("Pad", "mode"): frozenset({"constant", "reflect", "edge", "wrap"}),
    ("Resize", "mode"): frozenset({"nearest", "linear", "cubic"}),
    ("DepthToSpace", "mode"): frozenset({"DCR", "CRD"}),
    ("TensorScatter", "mode"): frozenset({"linear", "circular"}),
    ("Gelu", "approximate"): frozenset({"none", "tanh"}),
    ("ScatterElements", "reduction"): _REDUCTIONS,
    ("ScatterND", "reduction"): _REDUCTIONS,
    ("SoftmaxCrossEntropyLoss", "reduction"): _LOSSES,
    ("NegativeLogLikelihoodLoss", "reduction"): _LOSSES,
}

#: Attributes whose numbers are counts of something there must be one of.
POSITIVE = frozenset(
    {
        *("kernel_shape", "strides", "dilations", "group", "num_groups", "blocksize", "hidden_size", "num_outputs"),
        *("q_num_heads", "kv_num_heads", "sample_size"),
    }
)

#: Attributes that are counts of elements too, and may be zero or below.
_AMOUNTS = POSITIVE | {"pads", "output_padding"}

#: More elements than any tensor has along an axis; torch's kernels multiply such numbers without looking.
_MOST = 1 << 40

#: Ops whose `axis` addresses an axis of the first input.
_ALONG = frozenset(
    {
        *("Concat", "Gather", "GatherElements", "ScatterElements", "Scatter", "Split", "Compress", "Unique", "TopK"),
        *("Softmax", "LogSoftmax", "Hardmax", "ArgMax", "ArgMin"),
        *("LayerNormalization", "RMSNormalization", "LpNormalization"),
    }
)

#: Ops whose second input is axes of the first one.
_AXES = frozenset({"Squeeze", *(f"Reduce{kind}" for kind in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2"))})

#: Ops whose input of this number holds sizes or counts, none of which may be negative.
_SIZES: Mapping[str, int] = {"Expand": 1, "ConstantOfShape": 0, "Tile": 1, "CenterCropPad": 1}


def check(node: oir.Node, attributes: Mapping[str, object], inputs: Sequence[Held | None]) -> None:
    """Raise ValueError for an attribute or a constant input that the operator does not allow."""
    op = node.op_type
    for name, value in attributes.items():
        allowed = TEXTS.get((op, name)) or TEXTS.get(("", name))
        if allowed is not None and value not in allowed:
            raise ValueError(f"{name} is {value!r}; expected one of {', '.join(sorted(allowed))}")
        numbers = value if isinstance(value, tuple) else (value,)
        if name in POSITIVE and any(isinstance(number, int) and number < 1 for number in numbers):
            raise ValueError(f"{name} is {_shown(value)}; expected 1 or more")
        if name in _AMOUNTS and any(isinstance(number, int) and abs(number) > _MOST for number in numbers):
            raise ValueError(f"{name} is {_shown(value)}; expected at most 2^40")
    deep = _rank(node, inputs)
    if deep is not None:
        _check_axes(op, attributes, inputs, deep)
    sizes = _numbers(inputs, _SIZES[op]) if op in _SIZES else None
    if sizes is not None and any(size < 0 for size in sizes):
        raise ValueError(f"the sizes are {sizes}; expected none below 0")
    if op == "Slice":
        bounds = [bound for i in range(1, 5) if (bound := _numbers(inputs, i)) is not None]
        if len({len(bound) for bound in bounds}) > 1:
            raise ValueError(f"starts, ends, axes and steps are of different lengths: {bounds}")
        if 0 in (_numbers(inputs, 4) or ()):
            raise ValueError("a step is 0")


def _check_axes(op: str, attributes: Mapping[str, object], inputs: Sequence[Held | None], deep: int) -> None:
    axis = attributes.get("axis")
    if op in _ALONG and isinstance(axis, int):
        _in_range([axis], deep)
    perm = attributes.get("perm")
    if op == "Transpose" and isinstance(perm, tuple) and sorted(perm) != list(range(deep)):
        raise ValueError(f"perm is {_shown(perm)}; expected each of the {deep} axes once")
    given = attributes.get("axes")
    axes = list(given) if isinstance(given, tuple) else _numbers(inputs, 1)
    if axes is None:
        return
    if op in _AXES:
        _in_range(axes, deep)
    elif op == "Unsqueeze":
        _in_range(axes, deep + len(axes))
    elif op == "Slice" and (places := _numbers(inputs, 3)) is not None:
        _in_range(places, deep)


def _in_range(axes: Sequence[int], deep: int) -> None:
    for axis in axes:
        if not -deep <= axis < deep:
            raise ValueError(f"axis {axis} is out of range for rank {deep}")
    if len({axis % deep for axis in axes}) < len(axes):
        raise ValueError(f"axes {list(axes)} name one axis twice")


def _rank(node: oir.Node, inputs: Sequence[Held | None]) -> int | None:
    """How many axes the first input has, where that is known."""
    held = inputs[0] if inputs else None
    if isinstance(held, Stored):
        return len(held.tensor.shape)
    if isinstance(held, OnHost):
        return rank(held.value) if held.literal else None  # type: ignore[arg-type]
    value = node.inputs[0] if node.inputs else None
    return None if value is None or value.shape is None else value.shape.rank()


def _numbers(inputs: Sequence[Held | None], index: int) -> list[int] | None:
    """An input's numbers, where they are known."""
    held = inputs[index] if index < len(inputs) else None
    if not isinstance(held, OnHost) or not held.literal:
        return None
    return [int(leaf) for leaf in flat(held.value)]  # type: ignore[arg-type]


def _shown(value: object) -> str:
    return str(list(value) if isinstance(value, tuple) else value)
