"""Put what is known about a value on it.

What the author of a model declared for its outputs stays; what follows for them stands beside it (`FOLLOWS`).
"""

from __future__ import annotations

import onnx_ir as ir

from .polynomial import Polynomial
from .shape_scope import FOLLOWS, Dims
from .shape_scope import known as known_dims


def write(value: ir.Value, dtype: ir.DataType | None, dims: Dims) -> bool:
    """Put a type and dimensions on a value where they are known, and say whether that is news."""
    changed = False
    if value.type is None and dtype is not None:
        value.type, changed = ir.TensorType(dtype), True
    if dims is None or not isinstance(value.type, ir.TensorType | None):
        return changed
    wanted: list[int | str | None] = [None if dim is None else _text(dim) for dim in dims]
    if value.is_graph_output() and value.shape is not None:
        had = list(value.shape)
        if len(had) != len(wanted):
            return changed
        old = [dim if isinstance(dim, int) else dim.value for dim in had]
        follows, before = wanted, known_dims(value)
        wanted = [new if dim is None else dim for dim, new in zip(old, wanted, strict=True)]
        follows = [dim if new is None else new for dim, new in zip(wanted, follows, strict=True)]
        value.meta[FOLLOWS] = (wanted, follows)
        changed |= before != follows
    if value.shape is None or [dim if isinstance(dim, int) else dim.value for dim in value.shape] != wanted:
        value.shape, changed = ir.Shape(wanted), True
    return changed


def _text(dim: Polynomial) -> int | str:
    return str(dim) if dim.constant is None else dim.constant
