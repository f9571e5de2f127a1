"""Raise linear layers to MatMul(x, W) + b on x as it is, whatever the exporter's spelling.

    before   Reshape(x, [-1, in]) --> Gemm{transB, alpha, beta}(_, W, b) --> Reshape(_, [batch, sequence, out])
             MatMul(x, Transpose(W)),   Transpose(MatMul(W, Transpose(x)) + b)
             Transpose(1x1 Conv(Transpose(x), W, b))
    after    MatMul(x, W') --> Add(_, b')                            W': [in, out], b': [out]

Exact: the features of x lie on its last axis in all of them, and what stands around only moves or joins the others. W'
is a view of W, scaled when its bytes are read. Left alone: a Gemm of rank 2, which is whole as it stands; weights that
somebody else reads as well (a tied table would be stored twice); products that are read in their flat form; reshapes
whose target copies sizes of what they reshape; convolutions in groups or without transposes to cancel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ....ir.constants import is_constant, tensor_of
from ....ir.content import Element, content, dimensions
from ...base import Match, Miss, Rewrite
from ...edit import Array, Tape, attribute, is_op, only_reader, replace


@dataclass(frozen=True, kw_only=True)
class Linear(Match):
    """x [..., in] times a constant, read transposed where it is stored as [out, in], and what takes the result."""

    x: ir.Value
    weight: ir.Value
    flipped: bool
    alpha: float
    bias: ir.Value | None
    beta: float
    #: How many leading axes x keeps before the others are joined as its features; None where they are one axis.
    kept: int | None = None
    #: The values that are the result, and the reshapes that read it flat.
    outputs: tuple[ir.Value, ...]
    reshapes: tuple[ir.Node, ...] = ()


@dataclass(frozen=True)
class _Flat:
    """What was flattened to rank 2, which of the reshapes behind give its leading axes back, and all of those."""

    x: ir.Value
    outputs: tuple[ir.Value, ...]
    reshapes: tuple[ir.Node, ...]
    kept: int | None


@dataclass(frozen=True, kw_only=True)
class RaiseLinear(Rewrite):
    """linear layers -> MatMul(x, W) + b"""

    name: ClassVar[str] = "raise-linear"
    anchors: ClassVar[tuple[str, ...]] = ("Gemm", "MatMul", "Conv")

    def match(self, node: ir.Node) -> Match | Miss:
        if node.op_type == "Gemm":
            return _gemm(node)
        return _conv(node) if node.op_type == "Conv" else _matmul(node)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Linear)
        tape = Tape()
        turned = found.flipped or found.alpha != 1.0
        name = found.weight.name
        weight = _derived(tape, found.weight, found.flipped, found.alpha) if turned else found.weight
        x = found.x
        if found.kept is not None:
            features = _matrix(found.weight, found.flipped)[0]
            x = tape("Reshape", x, tape.constant([*[0] * found.kept, features], "shape"))
            x.type, x.shape = found.x.type, ir.Shape([*_leading(found), features])
        y = _shaped(tape("MatMul", x, weight), found)
        if found.bias is not None:
            plain = found.beta == 1.0 and len(found.bias.shape or ()) <= 1
            y = _shaped(tape("Add", y, found.bias if plain else _vector(tape, found.bias, found.beta)), found)
        others = [reader for reader in found.reshapes if reader.outputs[0] not in found.outputs]
        made = [tape("Reshape", y, reader.inputs[1]) for reader in others]
        old = [*found.outputs, *(reader.outputs[0] for reader in others)]
        replace(tape, old, [*(y for _ in found.outputs), *made], matched=[found.node])
        if turned and found.weight.graph is None:
            # weights are spoken of by name
            weight.name = name


def _shaped(y: ir.Value, found: Linear) -> ir.Value:
    """y, known to have the type and the leading axes of x."""
    y.type = found.x.type
    if found.x.shape is not None:
        y.shape = ir.Shape([*_leading(found), _matrix(found.weight, found.flipped)[1]])
    return y


def _leading(found: Linear) -> list[int | ir.SymbolicDim]:
    return list(found.x.shape or ())[: -1 if found.kept is None else found.kept]


def _gemm(node: ir.Node) -> Linear | Miss:
    """Reshape, Gemm, Reshape"""
    flat, weight = node.inputs[0], node.inputs[1]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if flat is None or weight is None or not is_constant(weight):
        return Miss("weight", weight.name or "" if weight is not None else "", "a constant")
    if attribute(node, "transA", 0):
        return Miss("features", "transA", "the features of the activation on its last axis")
    found = _unflattened(node, flat)
    if isinstance(found, Miss):
        return found
    flipped = bool(attribute(node, "transB", 0))
    alpha, beta = _number(node, "alpha"), _number(node, "beta")
    if bias is not None and not _is_row(bias):
        return Miss("bias", f"{bias.name}: {dimensions(bias)}", "one number for each output feature")
    if bias is not None and (beta != 1.0 or len(bias.shape or ()) > 1) and not is_constant(bias):
        return Miss("bias", bias.name or "", "a constant, to be scaled")
    if (flipped or alpha != 1.0) and not _own(weight):
        return Miss("weight", weight.name or "", "to be read here alone: it would be stored twice")
    return Linear(
        node=node, x=found.x, weight=weight, flipped=flipped, alpha=alpha, bias=bias, beta=beta,
        outputs=found.outputs, reshapes=found.reshapes, kept=found.kept,
    )  # fmt: skip


def _matmul(node: ir.Node) -> Linear | Miss:
    left, right = node.inputs
    assert left is not None and right is not None
    if is_constant(left) and not is_constant(right):
        return _from_the_left(node, left, right)
    turn = right.producer()
    if is_op(turn, "Transpose") and turn.inputs[0] is not None and is_constant(turn.inputs[0]):
        weight = turn.inputs[0]
        if _order(turn) != [1, 0]:
            return Miss("weight", f"{weight.name}: {dimensions(weight)}", "a matrix, turned")
        if not _own(weight) or only_reader(right) is not node:
            return Miss("weight", weight.name or "", "to be read here alone: it would be stored twice")
        return Linear(
            node=node, x=left, weight=weight, flipped=True, alpha=1.0, bias=None, beta=1.0, outputs=(node.outputs[0],)
        )
    if not is_constant(right):
        return Miss("weight", f"MatMul at {node.name}", "a constant side", far=True)
    found = _unflattened(node, left)
    if isinstance(found, Miss):
        return found
    return Linear(
        node=node, x=found.x, weight=right, flipped=False, alpha=1.0, bias=None, beta=1.0, outputs=found.outputs,
        reshapes=found.reshapes, kept=found.kept,
    )  # fmt: skip


def _from_the_left(node: ir.Node, weight: ir.Value, right: ir.Value) -> Linear | Miss:
    """(W x^T + b)^T = x W^T + b^T"""
    turn = right.producer()
    if len(dimensions(weight) or ()) != 2 or not is_op(turn, "Transpose") or not _swaps(turn):
        return Miss("activation", right.name or "", "to be turned before its product with the constant")
    assert turn.inputs[0] is not None
    result, bias = node.outputs[0], None
    reader = only_reader(result)
    if is_op(reader, "Add") and reader.graph is node.graph:
        side = reader.inputs[1 - _index(reader, result)]
        dims = dimensions(side)
        if side is None or not is_constant(side) or dims is None or len(dims) != 2 or dims[1] != 1:
            return Miss("bias", f"Add at {reader.name}", "one number for each output feature, [out, 1]")
        result, bias = reader.outputs[0], side
        reader = only_reader(result)
    if not is_op(reader, "Transpose") or not _swaps(reader) or reader.graph is not node.graph:
        return Miss("result", result.name or "", "to be turned back, and read by nobody before")
    if not _own(weight):
        return Miss("weight", weight.name or "", "to be read here alone: it would be stored twice")
    return Linear(
        node=node, x=turn.inputs[0], weight=weight, flipped=True, alpha=1.0, bias=bias, beta=1.0,
        outputs=(reader.outputs[0],),
    )  # fmt: skip


def _conv(node: ir.Node) -> Linear | Miss:
    """A convolution of one tap between two transposes that move the features to axis 1 and back."""
    x, weight = node.inputs[0], node.inputs[1]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    dims = dimensions(weight)
    if x is None or weight is None or not is_constant(weight) or dims is None or len(dims) != 3 or dims[2] != 1:
        larger = is_constant(weight) and dims is not None and dims[2:] != [1]
        return Miss("kernel", f"{dims}", "one tap along one axis, constant", far=larger)
    strides, pads = (_integers(node, name) for name in ("strides", "pads"))
    if attribute(node, "group", 1) != 1 or any(step != 1 for step in strides) or any(pads):
        return Miss("kernel", f"Conv at {node.name}", "all channels together, at each place, without padding")
    before, after = x.producer(), only_reader(node.outputs[0])
    if not is_op(before, "Transpose") or _order(before) != [0, 2, 1] or before.inputs[0] is None:
        return Miss("channels", x.name or "", "to be moved to axis 1 right before")
    if not is_op(after, "Transpose") or _order(after) != [0, 2, 1] or after.graph is not node.graph:
        return Miss("channels", node.outputs[0].name or "", "to be moved back right after")
    if not _own(weight):
        return Miss("weight", weight.name or "", "to be read here alone: it would be stored twice")
    return Linear(
        node=node, x=before.inputs[0], weight=weight, flipped=True, alpha=1.0, bias=bias, beta=1.0,
        outputs=(after.outputs[0],),
    )  # fmt: skip


def _unflattened(node: ir.Node, flat: ir.Value) -> _Flat | Miss:
    """What was flattened to rank 2, and the reshapes behind."""
    before = flat.producer()
    if not is_op(before, "Reshape") or before.inputs[0] is None:
        need = "an activation that is flattened, or a weight turned"
        return Miss("spelling", f"{node.op_type} at {node.name}", need, far=True)
    x, result = before.inputs[0], node.outputs[0]
    wide, narrow, out = dimensions(x), dimensions(flat), dimensions(result)
    if wide is None or narrow is None or out is None or len(narrow) != 2 or len(out) != 2 or len(wide) < 2:
        deeper = narrow is not None and len(narrow) != 2
        return Miss("rank", flat.name or "", "an activation of known rank, flattened to rank 2", far=deeper)
    lead = _features(wide, narrow[-1])
    if lead is None:
        return Miss("features", f"{wide} as {narrow}", "the last axes of the activation joined as features")
    readers = result.consumers()
    if (
        result.is_graph_output()
        or not readers
        or not all(_reshapes(reader, result) and reader.graph is node.graph for reader in readers)
    ):
        return Miss("result", result.name or "", "to be read by reshapes alone, whose targets copy no size of it")
    same = [reader.outputs[0] for reader in readers if dimensions(reader.outputs[0]) == [*wide[:lead], out[-1]]]
    if any(dim is None for dim in wide) or len(same) > 1:
        same = []
    return _Flat(x, tuple(same), tuple(dict.fromkeys(readers)), None if lead == len(wide) - 1 else lead)


def _features(dims: list[Element], width: Element) -> int | None:
    """How many leading axes there are before the last ones, all of known size, that make up the features."""
    count, size = len(dims), 1
    while isinstance(width, int) and size != width and count > 1:
        count -= 1
        step = dims[count]
        if not isinstance(step, int) or step == 0:
            return None
        size *= step
    return count if size == width and 0 < count < len(dims) else None


def _reshapes(reader: ir.Node, value: ir.Value) -> bool:
    """Whether it reshapes the value to sizes that do not depend on how it is cut into axes."""
    if not is_op(reader, "Reshape") or reader.inputs[0] is not value or reader.inputs[1] is value:
        return False
    target = content(reader.inputs[1])
    return target is not None and all(item is not None and item != 0 for item in target)


def _is_row(bias: ir.Value) -> bool:
    """Whether it adds one number to each output feature, or one to all."""
    dims = dimensions(bias)
    return dims is not None and len(dims) <= 2 and all(dim == 1 for dim in dims[:-1])


def _own(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()


def _number(node: ir.Node, name: str) -> float:
    found = node.attributes.get(name)
    return 1.0 if found is None else found.as_float()


def _integers(node: ir.Node, name: str) -> Sequence[int]:
    found = node.attributes.get(name)
    return () if found is None else found.as_ints()


def _order(node: ir.Node) -> list[int]:
    """The axes of a Transpose; reversed where it names none."""
    given = _integers(node, "perm")
    axes = len(dimensions(node.inputs[0]) or ())
    return list(given) if given else list(range(axes))[::-1]


def _swaps(node: ir.Node) -> bool:
    """Whether a Transpose swaps the last two axes and leaves the others."""
    order = _order(node)
    count = len(order)
    return count >= 2 and order == [*range(count - 2), count - 1, count - 2]


def _index(node: ir.Node, value: ir.Value) -> int:
    return 0 if node.inputs[0] is value else 1


def _matrix(value: ir.Value, flipped: bool) -> list[int]:
    """[in, out] of a constant stored as [in, out] or, flipped, [out, in, 1, ...]."""
    tensor = tensor_of(value)
    assert tensor is not None
    dims = [int(dim) for dim in tensor.shape.numpy()]
    return dims[1::-1] if flipped else dims


def _derived(tape: Tape, weight: ir.Value, flipped: bool, alpha: float) -> ir.Value:
    """The weight as [in, out], a view of what is stored; scaled when its bytes are read."""
    tensor = tensor_of(weight)
    assert tensor is not None
    shape = _matrix(weight, flipped)
    if alpha == 1.0 and not isinstance(tensor, ir.LazyTensor):
        view = tensor.numpy().reshape(shape[::-1]).T
        return tape.lazy(ir.Tensor(view, dtype=tensor.dtype, name=weight.name))

    def scaled() -> Array:
        array: Array = tensor.numpy()
        return _times(array.reshape(shape[::-1]).T if flipped else array, alpha)

    return tape.derived(weight.name or "weight", shape, tensor.dtype, scaled)


def _vector(tape: Tape, bias: ir.Value, beta: float) -> ir.Value:
    tensor = tensor_of(bias)
    assert tensor is not None

    def scaled() -> Array:
        return _times(tensor.numpy().reshape(-1), beta)

    return tape.derived(bias.name or "bias", [tensor.size], tensor.dtype, scaled)


def _times(array: Array, factor: float) -> Array:
    return array if factor == 1.0 else np.multiply(array, factor, dtype=np.float64).astype(array.dtype)
