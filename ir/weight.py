"""From what a node reads back to the constant it comes from, through nodes that only reshape, cast or dequantize.

W (initializer) --> DequantizeLinear --> Transpose --> (use)         root W, path (DequantizeLinear, Transpose)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Weight:
    """A constant as some node reads it: where it is stored, the nodes on the way, and the shape that arrives."""

    root: ir.Value
    path: tuple[ir.Node, ...]
    shape: tuple[int, ...]

    @property
    def dtype(self) -> ir.DataType:
        """The stored dtype."""
        return _tensor(self.root).dtype

    @property
    def swapped(self) -> bool:
        """Whether the last two axes arrive swapped."""
        return sum(node.op_type == "Transpose" for node in self.path) % 2 == 1

    def array(self) -> Array:
        """The constant as it arrives; a view of the stored array where the path only moves axes."""
        array: Array = _tensor(self.root).numpy()
        for node in self.path:
            array = _STEPS[node.op_type](node, array, False)
        return array

    def moved(self, array: Array) -> Array:
        """Another array of the stored shape with its axes as they arrive: no cast, and nothing dequantized."""
        for node in self.path:
            array = _STEPS[node.op_type](node, array, True)
        return array


def resolve(value: ir.Value) -> Weight | None:
    """The constant behind `value`, or None where it depends on anything else."""
    path: list[ir.Node] = []
    while _constant(value) is None:
        node = value.producer()
        if node is None or node.domain != "" or node.op_type not in _STEPS or not _others_constant(node):
            return None
        path.append(node)
        source = node.inputs[0]
        if source is None:
            return None
        value = source
    path.reverse()
    # shapes are tried out on one byte seen as the whole array
    ghost: Array = np.broadcast_to(np.zeros((), np.int8), _sizes(_tensor(value)))
    for node in path:
        ghost = _STEPS[node.op_type](node, ghost, True)
    return Weight(value, tuple(path), ghost.shape)


def _constant(value: ir.Value) -> ir.TensorProtocol | None:
    return ir.convenience.get_const_tensor(value)


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    tensor = _constant(value)
    assert tensor is not None  # resolve stops at constants only
    return tensor


def _sizes(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    return tuple(dim for dim in tensor.shape if isinstance(dim, int))


def _others_constant(node: ir.Node) -> bool:
    return all(value is None or _constant(value) is not None for value in node.inputs[1:])


def _argument(node: ir.Node, index: int) -> Array | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    tensor = None if value is None else _constant(value)
    return None if tensor is None else tensor.numpy()


def _keep(_: ir.Node, array: Array, __: bool) -> Array:
    return array


def _cast(node: ir.Node, array: Array, shape_only: bool) -> Array:
    return array if shape_only else array.astype(ir.DataType(node.attributes["to"].as_int()).numpy())


def _transpose(node: ir.Node, array: Array, _: bool) -> Array:
    return array.transpose(node.attributes["perm"].as_ints() if "perm" in node.attributes else None)


def _axes(node: ir.Node) -> tuple[int, ...] | None:
    given = _argument(node, 1)
    if given is not None:
        return tuple(int(axis) for axis in given.reshape(-1))
    return tuple(node.attributes["axes"].as_ints()) if "axes" in node.attributes else None


def _squeeze(node: ir.Node, array: Array, _: bool) -> Array:
    return np.squeeze(array, _axes(node))


def _unsqueeze(node: ir.Node, array: Array, _: bool) -> Array:
    return np.expand_dims(array, _axes(node) or ())


def _reshape(node: ir.Node, array: Array, _: bool) -> Array:
    target = _argument(node, 1)
    wanted = [] if target is None else [int(dim) for dim in target]
    literal = "allowzero" in node.attributes and node.attributes["allowzero"].as_int() == 1
    return array.reshape([array.shape[i] if dim == 0 and not literal else dim for i, dim in enumerate(wanted)])


def _dequantize(node: ir.Node, array: Array, shape_only: bool) -> Array:
    scale, zero = _argument(node, 1), _argument(node, 2)
    if shape_only or scale is None:
        return array
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
    block = node.attributes["block_size"].as_int() if "block_size" in node.attributes else 0
    wide = array.astype(np.float32)
    if zero is not None:
        wide = wide - _spread(zero.astype(np.float32), wide, axis, block)
    return (wide * _spread(scale.astype(np.float32), wide, axis, block)).astype(scale.dtype)


def _spread(parameter: NDArray[np.float32], array: Array, axis: int, block: int) -> NDArray[np.float32]:
    """Scale or zero point, broadcast against the array: per tensor, per channel of `axis`, or per block along it."""
    if block:
        return np.repeat(parameter, block, axis=axis).take(range(array.shape[axis]), axis=axis)
    if parameter.size == 1:
        return parameter.reshape(())
    shape = [1] * array.ndim
    shape[axis] = -1
    return parameter.reshape(shape)


_STEPS: Mapping[str, Callable[[ir.Node, Array, bool], Array]] = {
    "Identity": _keep,
    "Cast": _cast,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Reshape": _reshape,
    "DequantizeLinear": _dequantize,
}
