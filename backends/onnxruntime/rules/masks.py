"""Attention masks that only say which keys are padding: what ONNX Runtime's fused attention takes as [batch, keys].

For a query that a boolean mask leaves no key at all ONNX defines no number: it would be the softmax of nothing but
minus infinities. The fused kernels give the mean of the values there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ....ir.content import content, dimensions
from ....passes.edit import attribute, is_op, scalar_of

#: What the fused kernels add at padding for a boolean mask.
LOWEST = float(np.finfo(np.float32).min)
#: Below it the fused kernels no longer tell padding from what a causal mask hides.
_DISTINCT = -1e30


@dataclass(frozen=True)
class KeyPadding:
    """True at the keys that count, [batch, keys], and what is added to the scores of the others."""

    keep: ir.Value
    fill: float


def key_padding(node: ir.Node) -> KeyPadding | None:
    """The padding mask behind the [batch, 1, 1, keys] mask of a 3-D Attention, boolean or additive; None when it has
    another one, or its sizes are not those of queries and keys.

    An additive mask beside a causal one leaves a query whose keys are all padding with the mean over those that are not
    in its future, which the fused kernels know only when padding is not as low as can be.
    """
    found = None if len(node.inputs) < 4 or node.inputs[3] is None else _behind(node.inputs[3])
    query, key = dimensions(node.inputs[0]), dimensions(node.inputs[1])
    if found is None or query is None or key is None or None in (query[0], key[1]):
        return None
    additive = node.inputs[3] is not None and node.inputs[3].dtype != ir.DataType.BOOL
    if additive and found.fill < _DISTINCT and attribute(node, "is_causal", 0):
        return None
    return found if dimensions(found.keep) == [query[0], key[1]] else None


def _behind(mask: ir.Value) -> KeyPadding | None:
    if mask.dtype == ir.DataType.BOOL:
        keep = _keys(mask)
        return None if keep is None else KeyPadding(keep, LOWEST)
    node = mask.producer()
    if not is_op(node, "Where") or node.inputs[0] is None:
        return None
    fill = scalar_of(node.inputs[2])
    keep = _keys(node.inputs[0])
    if keep is None or fill is None or scalar_of(node.inputs[1]) != 0.0 or not np.isfinite(fill):
        return None
    return KeyPadding(keep, fill)


def _keys(mask: ir.Value) -> ir.Value | None:
    node = mask.producer()
    if not is_op(node, "Unsqueeze") or content(node.inputs[1]) != [1, 2]:
        return None
    dims = dimensions(node.inputs[0])
    return node.inputs[0] if dims is not None and len(dims) == 2 else None
