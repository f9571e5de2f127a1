"""Raise softmax attention to one Attention node.

    before   Q, K: [batch, heads, sequence, size]
             MatMul(scale * Q, Transpose(K)) + mask --> Softmax --> [NaN guard] --> MatMul(_, V)
    after    Attention(Q, K, V, mask){scale}

Exact: softmax(scale Q K^T + mask) V, Vaswani et al., Attention Is All You Need, 2017, equation 1. The walk starts at
the softmax and proves what lies between it and the two products that bracket it. A guard that turns NaN into zero goes
when the mask is finite, for then no row can be NaN. Left alone, with the reason: softmax over another axis,
probabilities that are read elsewhere, heads that differ in number, masks that are no addition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ...ir.content import Element, dimensions
from ..base import Match, Miss, Rewrite
from ..edit import Tape, attribute, constant_of, is_op, only_reader, replace, scalar_of


@dataclass(frozen=True, kw_only=True)
class Bracket(Match):
    """The two products around a softmax and what lies between."""

    query: ir.Value
    key: ir.Value
    #: Axes that bring `key` to [batch, heads, size, sequence] when it is not given as [batch, heads, sequence, size].
    key_perm: tuple[int, ...] | None
    value: ir.Value
    mask: ir.Value | None
    scale: float
    output: ir.Value


@dataclass(frozen=True)
class _Scores:
    """scale * product + mask, taken apart."""

    product: ir.Node
    scale: float
    mask: ir.Value | None


@dataclass(frozen=True, kw_only=True)
class RaiseAttention(Rewrite):
    """softmax(scale Q K^T + mask) V -> Attention"""

    name: ClassVar[str] = "raise-attention"
    anchors: ClassVar[tuple[str, ...]] = ("Softmax",)

    def match(self, node: ir.Node) -> Match | Miss:
        dims = dimensions(node.outputs[0])
        if dims is None or len(dims) != 4:
            return Miss("rank", node.outputs[0].name or "", "scores of shape [batch, heads, sequence, sequence]")
        if attribute(node, "axis", -1) not in (-1, 3):
            return Miss("axis", f"axis {attribute(node, 'axis', -1)}", "softmax over the last axis")
        scores = _take_apart(node.inputs[0])
        if isinstance(scores, Miss):
            return scores
        if scores.mask is not None and not _broadcasts(scores.mask, scores.product.outputs[0]):
            return Miss("mask", _sizes(scores.mask), f"sizes that broadcast to {_sizes(scores.product.outputs[0])}")
        product = _weighted_sum(node.outputs[0], scores.mask)
        if isinstance(product, Miss):
            return product
        query, key = scores.product.inputs
        assert query is not None and key is not None
        query, query_scale = _unscaled(query)
        key, key_scale = _unscaled(key)
        spelled = _untransposed(key)
        if isinstance(spelled, Miss):
            return spelled
        key, perm = spelled
        value = product.inputs[1]
        assert value is not None
        sizes = [_leading(query, None), _leading(key, perm), _leading(value, None)]
        batches, heads = {size[0] for size in sizes}, {size[1] for size in sizes}
        if len(heads) != 1 or not isinstance(sizes[0][1], int):
            return Miss("heads", ", ".join(str(size[1]) for size in sizes), "one known number of heads in Q, K and V")
        if len(batches) != 1 or None in batches:
            return Miss("batch", ", ".join(str(size[0]) for size in sizes), "one batch size in Q, K and V")
        return Bracket(
            node=node,
            query=query,
            key=key,
            key_perm=perm,
            value=value,
            mask=scores.mask,
            scale=scores.scale * query_scale * key_scale,
            output=product.outputs[0],
        )

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Bracket)
        tape = Tape()
        key = found.key if found.key_perm is None else tape("Transpose", found.key, perm=found.key_perm)
        inputs = [found.query, key, found.value, *([] if found.mask is None else [found.mask])]
        fused = tape("Attention", *inputs, scale=found.scale)
        replace(tape, [found.output], [fused], matched=[found.node])


def _take_apart(value: ir.Value | None) -> _Scores | Miss:
    """Walk from the softmax up through scaling and one added mask to the product of queries and keys."""
    scale, mask = 1.0, None
    node = None if value is None else value.producer()
    while node is not None and not node.domain:
        if node.op_type == "MatMul":
            if constant_of(node.inputs[0]) is not None or constant_of(node.inputs[1]) is not None:
                return Miss("scores", f"MatMul at {node.name} with a constant", "the product of two computed values")
            return _Scores(node, scale, mask)
        if node.op_type in ("Mul", "Div"):
            inner, factor = _scaling(node)
            if inner is None:
                return Miss("scale", f"{node.op_type} at {node.name}", "a constant scalar scale")
            # softmax(a (S + m)) = softmax(a S + a m): a scale outside the mask cannot move inside for free
            if mask is None and factor != 1.0 and _adds(inner):
                return Miss("scale", f"{node.op_type} at {node.name}", "a scale that is applied before the mask")
            scale, value = scale * factor, inner
        elif node.op_type == "Add":
            inner, added = _masked(node)
            if inner is None or mask is not None:
                return Miss("mask", f"Add at {node.name}", "one mask added to the product of queries and keys")
            mask, value = added, inner
        else:
            return Miss("scores", f"{node.op_type} at {node.name}", "Mul, Div, Add or the MatMul of queries and keys")
        node = value.producer()
    return Miss("scores", value.name or "" if value else "", "the MatMul of queries and keys")


def _weighted_sum(probabilities: ir.Value, mask: ir.Value | None) -> ir.Node | Miss:
    """The product with the values, behind a NaN guard if there is one."""
    value = probabilities
    readers = value.consumers()
    guard = next((node for node in readers if is_op(node, "Where")), None)
    if guard is not None:
        test = guard.inputs[0].producer() if guard.inputs[0] is not None else None
        asks = is_op(test, "IsNaN") and test.inputs[0] is value
        if not asks or scalar_of(guard.inputs[1]) != 0.0 or guard.inputs[2] is not value:
            return Miss("guard", f"Where at {guard.name}", "zeros where a probability is NaN")
        if len(readers) != 2 or value.is_graph_output():
            return Miss("probabilities", value.name or "", "to be read by the product with the values alone")
        if mask is not None and not _finite(mask):
            return Miss("guard", mask.name or "", "a mask that is provably finite, so that no row is NaN")
        value = guard.outputs[0]
    reader = only_reader(value)
    if reader is None:
        return Miss("probabilities", value.name or "", "to be read by the product with the values alone")
    if not is_op(reader, "MatMul") or reader.inputs[0] is not value:
        return Miss("values", f"{reader.op_type} at {reader.name}", "MatMul(probabilities, values)")
    return reader


def _finite(mask: ir.Value) -> bool:
    """Whether an additive mask holds finite numbers only: Where over finite constants."""
    array = constant_of(mask)
    if array is not None:
        return bool(np.isfinite(array).all())
    node = mask.producer()
    if node is None or node.domain:
        return False
    if node.op_type == "Where":
        return all(value is not None and _finite(value) for value in node.inputs[1:])
    return node.op_type in ("Expand", "Unsqueeze", "Reshape") and node.inputs[0] is not None and _finite(node.inputs[0])


def _scaling(node: ir.Node) -> tuple[ir.Value | None, float]:
    """(x, c) for x * c, c * x or x / c."""
    left, right = node.inputs
    factor = scalar_of(right)
    if factor is not None and factor != 0.0:
        return left, (1.0 / factor if node.op_type == "Div" else factor)
    factor = scalar_of(left)
    return (right, factor) if factor and node.op_type == "Mul" else (None, 1.0)


def _adds(value: ir.Value) -> bool:
    return is_op(value.producer(), "Add")


def _masked(node: ir.Node) -> tuple[ir.Value | None, ir.Value | None]:
    """(scores, mask): the scores are the side that comes from a product of two computed values."""
    left, right = node.inputs
    sides = [(left, right), (right, left)]
    found = [(inner, mask) for inner, mask in sides if inner is not None and _from_product(inner)]
    return found[0] if len(found) == 1 else (None, None)


def _from_product(value: ir.Value) -> bool:
    node = value.producer()
    while is_op(node, "Mul", "Div"):
        inner, _ = _scaling(node)
        node = None if inner is None else inner.producer()
    return is_op(node, "MatMul")


def _unscaled(value: ir.Value) -> tuple[ir.Value, float]:
    """Look through constant scalar factors, and through the transpose behind which one may hide."""
    scale = 1.0
    node = value.producer()
    while is_op(node, "Mul", "Div"):
        inner, factor = _scaling(node)
        if inner is None:
            break
        value, scale = inner, scale * factor
        node = value.producer()
    return value, scale


def _untransposed(key: ir.Value) -> tuple[ir.Value, tuple[int, ...] | None] | Miss:
    """The keys as [batch, heads, sequence, size], or what brings them there."""
    node = key.producer()
    if not is_op(node, "Transpose") or node.inputs[0] is None:
        return key, (0, 1, 3, 2)
    perm = tuple(node.attributes["perm"].as_ints()) if "perm" in node.attributes else ()
    if len(perm) != 4:
        return Miss("keys", f"Transpose at {node.name}", "keys of rank 4")
    if perm == (0, 1, 3, 2):
        return node.inputs[0], None
    # Transpose(K, p) read with its last two axes swapped is Transpose(K, p') with the last two of p swapped
    return node.inputs[0], (perm[0], perm[1], perm[3], perm[2])


def _leading(value: ir.Value, perm: tuple[int, ...] | None) -> tuple[Element, Element]:
    """Batch size and number of heads of [batch, heads, sequence, size], or of what `perm` brings there."""
    dims = dimensions(value)
    if dims is None or len(dims) != 4:
        return None, None
    first, second = (0, 1) if perm is None else perm[:2]
    return dims[first], dims[second]


def _broadcasts(mask: ir.Value, scores: ir.Value) -> bool:
    """Whether a mask, added to the scores, leaves their shape as it is, and has a place for each key."""
    own, wide = dimensions(mask), dimensions(scores)
    if own is None or wide is None or not 2 <= len(own) <= len(wide) or None in own:
        return False
    return own[-1] == wide[-1] and all(dim in (1, size) for dim, size in zip(own, wide[-len(own) :], strict=True))


def _sizes(value: ir.Value) -> str:
    return f"{value.name}: {dimensions(value)}"
