"""What one ai.onnx Attention computes, for passes that write it as ops: heads, scale, and the mask as numbers.

    y = Attention{scale=s, softcap=c}(q, k, v, mask)
    y = Softmax(c tanh(s q k^T / c) + bias) v * keep        bias: nothing, or LOW where the mask hides a key

A masked score is finite, so that no row is NaN, and a row that may attend to nothing is zeroed by `keep`. Heads of keys
that groups of queries share are repeated.

Source: ONNX Attention-23 (operator and its errata on fully masked rows).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .base import Match, Miss
from .edit import Tape, attribute, constant_of

#: Added to a masked score: exp(low - x) is zero for any x, and neither low nor low + x overflows float32 or bfloat16.
LOW = float(np.finfo(np.float32).min) / 2

#: The inputs of Attention by position, those of opset 24 too.
INPUTS = ("query", "key", "value", "mask", "past_key", "past_value", "lengths")


@dataclass(frozen=True, kw_only=True)
class Heads(Match):
    """An Attention whose heads are known.

    rank: 3 for inputs [batch, sequence, heads * size], 4 for [batch, heads, sequence, size].
    key_heads: fewer than heads where groups of queries share one.
    scale: what the product of a query and a key is multiplied by.
    cap: what the scores are softly kept below, 0 for nothing.
    """

    rank: int
    heads: int
    key_heads: int
    scale: float
    cap: float


@dataclass(frozen=True)
class Mask:
    """What is added to the scores, and what the probabilities are multiplied by; None where there is nothing to do.

    rows: `keep` has one number for all keys of a row.
    """

    bias: ir.Value | None = None
    keep: ir.Value | None = None
    rows: bool = False


def heads_of(node: ir.Node) -> Heads | Miss:
    """The heads of an Attention of opset 23 whose scores nothing else reads."""
    given = dict(zip(INPUTS, node.inputs, strict=False))
    if given.get("lengths") is not None:
        return Miss("inputs", "nonpad_kv_seqlen", "none of opset 24's inputs")
    if len(node.outputs) > 3 and is_read(node.outputs[3]):
        return Miss("outputs", "the scores are read", "only the attended values to be read")
    query, key, value = node.inputs[:3]
    shape = None if query is None else query.shape
    if query is None or key is None or value is None or shape is None or query.dtype is None:
        return Miss("types", "query of unknown rank or dtype", "shapes and types to be inferred")
    heads, size = split(shape, attribute(node, "q_num_heads", 0))
    sizes = [split(value.shape, attribute(node, "kv_num_heads", 0)) for value in (key, value) if value.shape]
    key_heads = sizes[0][0] if len(sizes) == 2 else None
    if not heads or not key_heads or heads % key_heads:
        return Miss("heads", f"{heads} of queries, {key_heads} of keys", "known numbers, one a multiple of the other")
    if heads != key_heads and any(size is None for _, size in sizes):
        return Miss("size", f"{key.name}: {key.shape}", "heads of known size, for their keys are shared")
    scale, cap = node.attributes.get("scale"), node.attributes.get("softcap")
    if scale is None and size is None:
        return Miss("scale", "no scale and heads of unknown size", "one of the two")
    return Heads(
        node=node,
        rank=len(shape),
        heads=heads,
        key_heads=key_heads,
        scale=scale.as_float() if scale is not None else 1.0 / math.sqrt(size or 1),
        cap=0.0 if cap is None else cap.as_float(),
    )


def split(shape: ir.Shape, named: int) -> tuple[int | None, int | None]:
    """The number of heads and the size of one, None where unknown."""
    last = shape[-1] if isinstance(shape[-1], int) else None
    if len(shape) == 3:
        return (named, None if last is None else last // named) if named else (None, None)
    return (shape[1] if isinstance(shape[1], int) else None), last


def repeated(tape: Tape, value: ir.Value, found: Heads, given: ir.Value | None) -> ir.Value:
    """[batch, heads, sequence, size] of what has key_heads: each as often as there are queries that share it."""
    if found.heads == found.key_heads:
        return value
    assert given is not None and given.shape is not None
    _, size = split(given.shape, found.key_heads)
    assert size is not None
    apart = tape("Unsqueeze", value, tape.constant([2], "axis"))
    often = tape("Expand", apart, tape.constant([1, 1, found.heads // found.key_heads, 1, 1], "times"))
    return tape("Reshape", often, tape.constant([0, found.heads, -1, size], "shape"))


def mask_of(tape: Tape, found: Heads, mask: ir.Value | None, past_key: ir.Value | None) -> Mask:
    """The mask and the causal rule as numbers. A causal row always has its first key, so it needs no zeroing."""
    node, mask = found.node, _unexpanded(mask)
    causal = _causal(tape, node, found.rank, past_key) if attribute(node, "is_causal", 0) else None
    if mask is None:
        return Mask() if causal is None else Mask(_penalty(tape, node, causal))
    if mask.dtype == ir.DataType.BOOL:
        allowed = mask if causal is None else tape("And", mask, causal)
        return Mask(_penalty(tape, node, allowed), tape("Cast", allowed, to=_dtype(node)))
    if _bounded(mask) and causal is None:
        return Mask(mask)
    infinite = number(tape, node, -math.inf, "infinite")
    bias = mask if causal is None else tape("Where", causal, mask, infinite)
    if _bounded(mask):
        return Mask(bias)
    # OpenVINO's ReduceMax gives the lowest finite number for a row of minus infinity, so it is asked of 0 and 1.
    seen = tape("Cast", tape("Greater", bias, infinite), to=_dtype(node))
    any_seen = tape("ReduceMax", seen, tape.constant([-1], "axes"), keepdims=1)
    somewhere = tape("Cast", any_seen, to=int(ir.DataType.BOOL))
    return Mask(tape("Where", somewhere, bias, number(tape, node, 0.0, "zero")), any_seen, rows=True)


def number(tape: Tape, node: ir.Node, number: float, name: str) -> ir.Value:
    """A scalar of the query's dtype; what float16 cannot hold becomes its own lowest number."""
    kind = ir.DataType(_dtype(node))
    if kind == ir.DataType.FLOAT16 and math.isfinite(number):
        number = max(number, float(np.finfo(np.float16).min))
    return tape.constant(np.asarray(number, dtype=kind.numpy()), name)


def is_read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _penalty(tape: Tape, node: ir.Node, allowed: ir.Value) -> ir.Value:
    """Nothing where a key may be seen, else what no score outweighs."""
    return tape("Where", allowed, number(tape, node, 0.0, "zero"), number(tape, node, LOW, "low"))


def _causal(tape: Tape, node: ir.Node, rank: int, past_key: ir.Value | None) -> ir.Value:
    """[queries, keys]: whether a query may see a key; the first query stands behind all past keys."""
    first, step = tape.constant(0, "first"), tape.constant(1, "step")
    queries, keys = (_length(tape, value, rank - 2) for value in node.inputs[:2])
    start, end = first, queries
    if past_key is not None:
        start = _length(tape, past_key, 2)
        end, keys = tape("Add", start, queries), tape("Add", start, keys)
    rows = tape("Unsqueeze", tape("Range", start, end, step), tape.constant([1], "axis"))
    columns = tape("Unsqueeze", tape("Range", first, keys, step), tape.constant([0], "axis"))
    return tape("GreaterOrEqual", rows, columns)


def _length(tape: Tape, value: ir.Value | None, axis: int) -> ir.Value:
    """The size of one dimension, a scalar."""
    return tape("Squeeze", tape("Shape", value, start=axis, end=axis + 1))


def _unexpanded(mask: ir.Value | None) -> ir.Value | None:
    """What an Expand in front of the mask reads: the scores broadcast it just as well."""
    producer = None if mask is None else mask.producer()
    return mask if producer is None or producer.op_type != "Expand" else _unexpanded(producer.inputs[0])


def _bounded(mask: ir.Value) -> bool:
    """Whether no element of an additive mask can be minus infinity: a constant, or a choice between constants."""
    producer = mask.producer()
    if producer is not None and producer.op_type == "Where":
        chosen = [constant_of(value) for value in producer.inputs[1:]]
    else:
        chosen = [constant_of(mask)]
    return all(array is not None and bool(np.isfinite(array.astype(np.float64)).all()) for array in chosen)


def _dtype(node: ir.Node) -> int:
    query = node.inputs[0]
    assert query is not None and query.dtype is not None
    return int(query.dtype)


def by_head(tape: Tape, value: ir.Value, heads: int) -> ir.Value:
    """[batch, sequence, heads, size] of [batch, sequence, heads * size]"""
    return tape("Reshape", value, tape.constant([0, 0, heads, -1], "shape"))


def merged(tape: Tape, value: ir.Value) -> ir.Value:
    """[batch, sequence, heads * size] of [batch, heads, sequence, size]"""
    return tape("Reshape", tape("Transpose", value, perm=[0, 2, 1, 3]), tape.constant([0, 0, -1], "shape"))
