"""How far a bias may bring the scores it is added to, read from what computes it.

m = Where(c, 0, -10000) * 2          |m| <= 20000
m = GatherElements(q r^T, index)     data, as queries times keys are: taken to be as near to zero as those
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ....ir.constants import is_constant, tensor_of
from ....ir.layout import scaling
from ...edit import scalar_of

#: Larger constants are not read.
_READ = 1 << 20

#: Nodes visited for one bias.
_REACH = 64

#: Ops whose elements are those of their first input.
_PICKS = frozenset(
    {"Reshape", "Transpose", "Unsqueeze", "Squeeze", "Flatten", "Identity", "Expand", "Tile", "Slice", "Neg"}
    | {"Gather", "GatherElements", "GatherND"}
)


def magnitude(value: ir.Value | None) -> float | None:
    """The largest number, sign aside, that constants bring into a value; None where it may hold any."""
    return _Bounds().of(value)


def is_open_or_shut(value: ir.Value | None) -> bool:
    """Whether a bias holds nothing but zero and minus infinity: Where(c, 0, -inf), however arranged."""
    for _ in range(_REACH):
        node = None if value is None else value.producer()
        if node is None or node.domain:
            return False
        if node.op_type == "Where":
            return {scalar_of(side) for side in node.inputs[1:]} <= {0.0, -np.inf}
        # a truth value on the way would make a number of infinity
        casts = node.op_type == "Cast" and ir.DataType(node.attributes["to"].as_int()).is_floating_point()
        if not casts and node.op_type not in _PICKS - {"Neg"}:
            return False
        value = node.inputs[0]
    return False


class _Bounds:
    def __init__(self) -> None:
        self._known: dict[ir.Value, float | None] = {}

    def of(self, value: ir.Value | None) -> float | None:
        if value is None:
            return None
        if value not in self._known:
            if len(self._known) == _REACH:
                return None
            # a value on the way to itself
            self._known[value] = None
            self._known[value] = self._read(value)
        return self._known[value]

    def _read(self, value: ir.Value) -> float | None:
        tensor = tensor_of(value)
        if tensor is not None:
            return _largest(tensor)
        node = value.producer()
        if node is None or node.domain:
            return None
        if node.op_type == "MatMul":
            return None if any(is_constant(side) for side in node.inputs) else 0.0
        if node.op_type == "Cast":
            read = node.inputs[0]
            return 1.0 if read is not None and read.dtype is ir.DataType.BOOL else self.of(read)
        if node.op_type in ("Mul", "Div"):
            inner, factor = scaling(node)
            found = self.of(inner)
            return None if found is None else found * abs(factor)
        if node.op_type in ("Add", "Sub", "Where"):
            sides = [self.of(side) for side in node.inputs[-2:]]
            known = [side for side in sides if side is not None]
            if len(known) < len(sides):
                return None
            return max(known) if node.op_type == "Where" else sum(known)
        return self.of(node.inputs[0]) if node.op_type in _PICKS else None


def _largest(tensor: ir.TensorProtocol) -> float | None:
    if tensor.size > _READ or not tensor.size or not (tensor.dtype.is_floating_point() or tensor.dtype.is_integer()):
        return None
    found = float(np.abs(np.asarray(tensor.numpy(), np.float64)).max())
    return None if np.isnan(found) else found
