"""What an integer input of a model is for, read from what the graph does with it.

ids  -> Cast -> Gather(table [30522, 384], .)        Index(30522)
mask -> Cast -> Sub(1, .) -> Mul(., -10000)          Mask
rate -> Equal(., 16000) -> If                        Literal(16000)
LSTM(x, W, R, b, lengths)                            Length(longest)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from .shapes import Shapes


@dataclass(frozen=True)
class Index:
    """Non-negative and less than `bound`."""

    bound: int


@dataclass(frozen=True)
class Mask:
    """Zeros and ones."""


@dataclass(frozen=True)
class Literal:
    """The one number that the graph asks for."""

    number: int


@dataclass(frozen=True)
class Length:
    """From 1 to `longest`."""

    longest: int


Role = Index | Mask | Literal | Length

#: Ops that hand their data on: the positions of the inputs that do.
_THROUGH: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("Identity", "Reshape", "Unsqueeze", "Squeeze", "Slice", "Transpose", "Expand", "Flatten"), (0,)),
    **dict.fromkeys(("Tile", "Pad", "Split", "Clip", "GatherElements", "GatherND", "Cast"), (0,)),
    "Gather": (0,),
    "Where": (1, 2),
}
_COMPARES = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "Not", "And", "Or", "Xor", "CumSum")
_MASK_INPUTS: Mapping[tuple[str, str], tuple[int, ...]] = {
    ("", "Attention"): (3,),
    ("com.microsoft", "Attention"): (3,),
    ("com.microsoft", "QAttention"): (5,),
    ("com.microsoft", "MultiHeadAttention"): (4,),
    ("com.microsoft", "EmbedLayerNormalization"): (7,),
}


def role_of(value: ir.Value, model: ir.Model, shapes: Shapes) -> Role | None:
    """The role of a graph input, None where its uses tell nothing.

    Where uses differ, an index wins (ids may also be compared with a padding id), then a length, a constant, a mask.
    """
    roles = list(_Follower(model, shapes).roles(value))
    indices = [role for role in roles if isinstance(role, Index)]
    if indices:
        return min(indices, key=lambda role: role.bound)
    order: tuple[type[Role], ...] = (Length, Literal, Mask) if _is_scalar(value) else (Length, Mask)
    return next((role for kind in order for role in roles if isinstance(role, kind)), None)


def below(role: Role | None) -> int | None:
    """The bound of an index, None for other roles."""
    return role.bound if isinstance(role, Index) else None


class _Follower:
    """Walks from a value to the uses that tell what it is."""

    def __init__(self, model: ir.Model, shapes: Shapes) -> None:
        self._shapes = shapes
        self._functions = {(body.domain, body.name, body.overload): body for body in model.functions.values()}

    def roles(self, start: ir.Value) -> Iterable[Role]:
        seen: set[tuple[ir.Value, int]] = set()
        todo = [(start, 0)]
        while todo:
            value, offset = todo.pop()
            if (value, offset) in seen:
                continue
            seen.add((value, offset))
            for use in value.uses():
                body = self._functions.get((use.node.domain, use.node.op_type, use.node.overload))
                if body is not None:
                    todo += [(body.inputs[use.idx], offset)] if use.idx < len(body.inputs) else []
                    continue
                role = self._role(use.node, use.idx, offset)
                if role is not None:
                    yield role
                added = self._added(use.node, use.idx)
                if added is not None:
                    todo.append((use.node.outputs[0], offset + added))
                elif use.node.domain == "" and (
                    use.node.op_type == "Concat" or use.idx in _THROUGH.get(use.node.op_type, ())
                ):
                    todo += [(output, offset) for output in use.node.outputs]

    def _role(self, node: ir.Node, index: int, offset: int) -> Role | None:
        if index in _MASK_INPUTS.get((node.domain, node.op_type), ()):
            return Mask()
        rule = _RULES.get(node.op_type) if node.domain == "" else None
        if rule is None and node.op_type == "GatherBlockQuantized":
            rule = _gather
        found = None if rule is None else rule(self, node, index)
        # what is added before the lookup is room that the index does not have
        return Index(max(1, found.bound - offset)) if isinstance(found, Index) else found

    def _added(self, node: ir.Node, index: int) -> int | None:
        """The most that an Add or Sub of a constant adds to an integer."""
        if node.domain != "" or node.op_type not in ("Add", "Sub") or (node.op_type == "Sub" and index == 1):
            return None
        numbers = self.constants(node, 1 - index)
        if not numbers:
            return None
        return max(numbers) if node.op_type == "Add" else -min(numbers)

    def constants(self, node: ir.Node, index: int) -> list[int]:
        """Numbers in a constant integer (or whole float) input; empty where it is computed or long."""
        value = node.inputs[index] if index < len(node.inputs) else None
        tensor = None if value is None else ir.convenience.get_const_tensor(value)
        if tensor is None or tensor.size > 64 or tensor.dtype.is_string():
            return []
        return [int(number) for number in tensor.numpy().reshape(-1).tolist() if abs(number) < 2**62]

    def size(self, node: ir.Node, index: int, axis: int) -> int | None:
        """Size of one axis of an input."""
        value = node.inputs[index] if index < len(node.inputs) else None
        dims = None if value is None else self._shapes.of(value)
        if not dims or not -len(dims) <= axis < len(dims):
            return None
        dim = dims[axis]
        return None if dim is None else dim.constant


def _gather(follower: _Follower, node: ir.Node, index: int) -> Role | None:
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    size = follower.size(node, 0, axis) if index == 1 else None
    return None if size is None else Index(size)


def _gather_nd(follower: _Follower, node: ir.Node, index: int) -> Role | None:
    sizes = [] if index != 1 else [follower.size(node, 0, axis) for axis in range(8)]
    known = [size for size in sizes if size is not None]
    return Index(min(known)) if known else None


def _one_hot(follower: _Follower, node: ir.Node, index: int) -> Role | None:
    depth = follower.constants(node, 1) if index == 0 else []
    return Index(depth[0]) if depth else None


def _recurrent(follower: _Follower, node: ir.Node, index: int) -> Role | None:
    size = follower.size(node, 0, 0) if index == 4 else None
    return None if size is None else Length(size)


def _cast(_: _Follower, node: ir.Node, __: int) -> Role | None:
    return Mask() if node.attributes["to"].as_int() == ir.DataType.BOOL else None


def _equal(follower: _Follower, node: ir.Node, index: int) -> Role | None:
    numbers = follower.constants(node, 1 - index)
    return Literal(numbers[0]) if len(numbers) == 1 and numbers[0] not in (0, 1) else Mask()


def _compare(_: _Follower, __: ir.Node, ___: int) -> Role | None:
    return Mask()


def _subtract(follower: _Follower, node: ir.Node, index: int) -> Role | None:
    return Mask() if index == 1 and follower.constants(node, 0) == [1] else None


def _where(_: _Follower, __: ir.Node, index: int) -> Role | None:
    return Mask() if index == 0 else None


def _is_scalar(value: ir.Value) -> bool:
    return value.shape is not None and all(dim == 1 for dim in value.shape)


_RULES: Mapping[str, Callable[[_Follower, ir.Node, int], Role | None]] = {
    "Gather": _gather,
    "GatherND": _gather_nd,
    "ScatterND": _gather_nd,
    "GatherElements": _gather,
    "ScatterElements": _gather,
    "OneHot": _one_hot,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    **dict.fromkeys(_COMPARES, _compare),
    "Equal": _equal,
    "Cast": _cast,
    "Sub": _subtract,
    "Where": _where,
}
