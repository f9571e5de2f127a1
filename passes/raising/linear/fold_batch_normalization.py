"""Fold a batch normalization, or the scale and shift that it came apart into, into the layer beside it.

    before   Conv(x, W, b) --> BatchNormalization(_, scale, shift, mean, variance){epsilon}
             Conv(x, W, b) --> Mul(_, a) --> Add(_, c)
             BatchNormalization(x, ...) --> Conv without padding
    after    Conv(x, W', b')

Exact, Ioffe & Szegedy, Batch Normalization, 2015, algorithm 2: y = a z + c for each channel, a = scale / sqrt(variance
+ epsilon), c = shift - a mean; W' = a W and b' = a b + c behind, W' = W a and b' = b + W c before. Computed in float64
when the weight is read. Left alone: statistics of the batch itself (training), convolutions with padding behind a
normalization, where the border is not shifted; weights and results that somebody else reads; half precision, which W'
may leave; statistics that give no finite scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ....ir.constants import is_constant, tensor_of
from ....ir.content import dimensions
from ...base import Match, Miss, Rewrite
from ...edit import Tape, attribute, constant_of, is_op, only_reader, replace

_Float = NDArray[np.float64]

#: A factor beyond may take a weight out of what float32 holds where the product with a small input is inside.
_LARGEST = 1e12


@dataclass(frozen=True)
class _Affine:
    """y = a z + c for each channel, [channels] each; what z is, and what y."""

    scale: _Float
    shift: _Float
    inner: ir.Value
    outer: ir.Value


@dataclass(frozen=True, kw_only=True)
class Folded(Match):
    """A weighted node, and what its weight and bias become."""

    target: ir.Node
    x: ir.Value
    output: ir.Value
    weight: Callable[[_Float], _Float]
    #: From the weight and the bias; the weight is only given where it is needed.
    bias: Callable[[Callable[[], _Float], _Float], _Float]
    channels: int


@dataclass(frozen=True, kw_only=True)
class FoldBatchNormalization(Rewrite):
    """Conv, ConvTranspose, Gemm or MatMul with a scale and a shift for each channel -> one node"""

    name: ClassVar[str] = "fold-batch-normalization"
    anchors: ClassVar[tuple[str, ...]] = ("BatchNormalization", "Mul", "Add")

    def match(self, node: ir.Node) -> Match | Miss:
        affine = _affine(node)
        if isinstance(affine, Miss):
            return affine
        behind = _behind(node, affine)
        if not isinstance(behind, Miss) or node.op_type != "BatchNormalization":
            return behind
        before = _before(node, affine)
        return behind if isinstance(before, Miss) and before.rule == "reader" else before

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Folded)
        target, tape = found.target, Tape()
        weight, bias = target.inputs[1], target.inputs[2] if len(target.inputs) > 2 else None
        assert weight is not None
        tensor = tensor_of(weight)
        assert tensor is not None
        old = None if bias is None else tensor_of(bias)

        def wide() -> _Float:
            return tensor.numpy().astype(np.float64)

        def row() -> _Float:
            if old is None:
                return np.zeros(found.channels)
            return np.broadcast_to(old.numpy().astype(np.float64).reshape(-1), (found.channels,))

        new_weight = tape.derived(
            weight.name or "weight", tensor.shape.numpy(), tensor.dtype, lambda: found.weight(wide())
        )
        name = (bias.name if bias is not None else f"{weight.name}_bias") or "bias"
        new_bias = tape.derived(name, (found.channels,), tensor.dtype, lambda: found.bias(wide, row()))
        if target.op_type == "MatMul":
            product = tape("MatMul", found.x, new_weight)
            product.type, product.shape = target.outputs[0].type, target.outputs[0].shape
            y = tape("Add", product, new_bias)
        else:
            y = tape.node(target.op_type, [found.x, new_weight, new_bias], target.attributes).outputs[0]
        replace(tape, [found.output], [y], matched=[found.node, target])
        for value, was in ((new_weight, weight), (new_bias, bias)):
            if was is not None and was.graph is None:
                # weights are spoken of by name
                value.name = was.name


def _affine(node: ir.Node) -> _Affine | Miss:
    """The scale and the shift of a node."""
    return _normalization(node) if node.op_type == "BatchNormalization" else _arithmetic(node)


def _normalization(node: ir.Node) -> _Affine | Miss:
    if attribute(node, "training_mode", 0) or any(
        value.uses() or value.is_graph_output() for value in node.outputs[1:]
    ):
        return Miss("statistics", f"BatchNormalization at {node.name}", "those of training, not of the batch")
    x, *given = node.inputs
    arrays = [constant_of(value) for value in given]
    if x is None or len(arrays) != 4 or any(array is None for array in arrays):
        return Miss("statistics", f"BatchNormalization at {node.name}", "constants")
    gain, shift, mean, variance = (np.asarray(array, np.float64) for array in arrays)
    epsilon = node.attributes.get("epsilon")
    with np.errstate(all="ignore"):
        scale = gain / np.sqrt(variance + (1e-5 if epsilon is None else np.float64(epsilon.as_float())))
        moved = shift - scale * mean
    if not (_bounded(scale) and _bounded(moved)):
        need = f"a scale and a shift of at most {_LARGEST:g} for each channel"
        return Miss("statistics", f"BatchNormalization at {node.name}", need)
    return _Affine(scale, moved, x, node.outputs[0])


def _bounded(array: NDArray[np.generic]) -> bool:
    return bool((np.abs(array.astype(np.float64)) <= _LARGEST).all())


def _arithmetic(node: ir.Node) -> _Affine | Miss:
    """z * a or z + c, a constant for each channel on axis 1 of what a convolution gives"""
    for inner, other in (tuple(node.inputs), tuple(node.inputs)[::-1]):
        made = None if inner is None else inner.producer()
        if inner is None or not is_op(made, "Conv", "ConvTranspose"):
            continue
        if not is_constant(other):
            return Miss("constant", f"{node.op_type} at {node.name}", "a finite constant", far=True)
        dims, own = dimensions(inner), dimensions(other)
        if dims is None or own is None or len(own) > len(dims) or not isinstance(dims[1], int):
            return Miss("channels", f"{node.op_type} at {node.name}", "one number for each channel")
        full = [1] * (len(dims) - len(own)) + list(own)
        if [dim for axis, dim in enumerate(full) if axis != 1] != [1] * (len(dims) - 1) or full[1] not in (1, dims[1]):
            return Miss("channels", f"{node.op_type} at {node.name}", "one number for each channel")
        array = constant_of(other)
        if array is None or not _bounded(array):
            return Miss("constant", f"{node.op_type} at {node.name}", f"a constant of at most {_LARGEST:g}")
        row = np.broadcast_to(array.astype(np.float64).reshape(-1), (dims[1],))
        zeros, ones = np.zeros(dims[1]), np.ones(dims[1])
        scale, shift = (row, zeros) if node.op_type == "Mul" else (ones, row)
        return _Affine(scale, shift, inner, node.outputs[0])
    return Miss("producer", f"{node.op_type} at {node.name}", "a convolution's result", far=True)


def _behind(node: ir.Node, affine: _Affine) -> Folded | Miss:
    """The normalization reads what the weighted node gives."""
    target = affine.inner.producer()
    if not is_op(target, "Conv", "ConvTranspose", "Gemm", "MatMul") or target.graph is not node.graph:
        return Miss("producer", affine.inner.name or "", "Conv, ConvTranspose, Gemm or MatMul")
    if only_reader(affine.inner) is not node:
        return Miss("result", affine.inner.name or "", "to be read here alone")
    refused = _foldable(target)
    if refused is not None:
        return refused
    scale, shift = affine.scale, affine.shift
    axis = _output_axis(target)
    if axis is None:
        return Miss("channels", f"{target.op_type} at {target.name}", "features on axis 1")
    weight = target.inputs[1]
    x = target.inputs[0]
    assert weight is not None and x is not None
    dims = [int(dim) for dim in weight.shape.numpy()] if weight.shape is not None else []
    groups = attribute(target, "group", 1) if target.op_type == "ConvTranspose" else 1
    if dims[axis] * groups != len(scale):
        return Miss("channels", f"{dims[axis] * groups} features", f"as many as the {len(scale)} channels")

    def scaled(array: _Float) -> _Float:
        if groups == 1:
            return array * _along(scale, axis, array.ndim)
        # [groups, in / groups, out / groups, ...] * [groups, 1, out / groups, 1, ...]
        parts = array.reshape(groups, dims[0] // groups, *dims[1:])
        whole: _Float = (parts * scale.reshape(groups, 1, dims[1], *[1] * (len(dims) - 2))).reshape(dims)
        return whole

    return Folded(
        node=node, target=target, x=x, output=affine.outer, weight=scaled,
        bias=lambda _, bias: bias * scale + shift, channels=len(scale),
    )  # fmt: skip


def _before(node: ir.Node, affine: _Affine) -> Folded | Miss:
    """The weighted node reads what the normalization gives."""
    target = only_reader(affine.outer)
    if not is_op(target, "Conv", "Gemm", "MatMul") or target.graph is not node.graph:
        return Miss("reader", affine.outer.name or "", "Conv, Gemm or MatMul alone")
    refused = _foldable(target)
    if refused is not None:
        return refused
    padded = any(_integers(target, "pads")) or _text(target, "auto_pad") not in ("", "NOTSET", "VALID")
    if target.op_type == "Conv" and padded:
        return Miss("padding", f"Conv at {target.name}", "none: its zeros would not be shifted")
    if target.op_type != "Conv" and len(dimensions(affine.outer) or ()) != 2:
        return Miss("channels", f"{target.op_type} at {target.name}", "features on axis 1")
    weight = target.inputs[1]
    assert weight is not None and weight.shape is not None
    dims = [int(dim) for dim in weight.shape.numpy()]
    groups = attribute(target, "group", 1) if target.op_type == "Conv" else 1
    swapped = target.op_type == "Conv" or bool(attribute(target, "transB", 0))
    features, channels = (dims[1] * groups, dims[0]) if swapped else (dims[0], dims[1])
    if features != len(affine.scale) or channels % groups:
        return Miss("channels", f"{features} features", f"as many as the {len(affine.scale)} channels")

    def per_weight(row: _Float, array: _Float) -> _Float:
        """What belongs to the input channel of each weight."""
        if not swapped:
            return row[:, None]
        rows = row.reshape(groups, 1, dims[1]).repeat(channels // groups, 1)
        whole: _Float = rows.reshape(dims[0], dims[1], *[1] * (array.ndim - 2))
        return whole

    def shifted(read: Callable[[], _Float], bias: _Float) -> _Float:
        array = read()
        alpha = target.attributes.get("alpha")
        moved = (array * per_weight(affine.shift, array)).sum(tuple(range(1, array.ndim)) if swapped else 0)
        total: _Float = bias + moved * (1.0 if alpha is None else alpha.as_float())
        return total

    return Folded(
        node=node, target=target, x=affine.inner, output=target.outputs[0],
        weight=lambda array: array * per_weight(affine.scale, array), bias=shifted, channels=channels,
    )  # fmt: skip


def _foldable(target: ir.Node) -> Miss | None:
    """Whether weight and bias are constants of its own, in a precision that the product stays in."""
    weight = target.inputs[1]
    if not _own(weight):
        return Miss("weight", f"{target.op_type} at {target.name}", "a constant that is read here alone")
    assert weight is not None
    if weight.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
        return Miss("dtype", f"{weight.name}: {weight.dtype}", "float32 or float64")
    bias = target.inputs[2] if len(target.inputs) > 2 else None
    if bias is not None and (not is_constant(bias) or any(dim != 1 for dim in (dimensions(bias) or [None])[:-1])):
        return Miss("bias", bias.name or "", "a constant, one number for each channel")
    beta = target.attributes.get("beta")
    if attribute(target, "transA", 0) or (beta is not None and beta.as_float() != 1.0):
        return Miss("bias", f"{target.op_type} at {target.name}", "an activation as it is, and a bias as it is")
    return None


def _output_axis(target: ir.Node) -> int | None:
    """Which axis of the weight is axis 1 of the result."""
    if target.op_type == "Conv":
        return 0
    if target.op_type == "ConvTranspose":
        return 1
    if target.op_type == "MatMul" and len(dimensions(target.outputs[0]) or ()) != 2:
        return None
    return 0 if attribute(target, "transB", 0) else 1


def _along(row: _Float, axis: int, axes: int) -> _Float:
    return row.reshape([-1 if index == axis else 1 for index in range(axes)])


def _own(value: ir.Value | None) -> bool:
    return value is not None and is_constant(value) and len(value.uses()) == 1 and not value.is_graph_output()


def _integers(node: ir.Node, name: str) -> Sequence[int]:
    found = node.attributes.get(name)
    return () if found is None else found.as_ints()


def _text(node: ir.Node, name: str) -> str:
    found = node.attributes.get(name)
    return "" if found is None else found.as_string()
