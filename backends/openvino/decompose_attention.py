"""Write Attention as the chain that OpenVINO's CPU plugin compiles into one kernel, with no guard behind it.

    before   y = Attention{scale=s}(Transpose(q), Transpose(k), Transpose(v), mask)
    after    p = Softmax(MatMul(Transpose(s * q), Transpose{0, 2, 3, 1}(k)) + Where(mask, 0, low))
             y = MatMul(p * Cast(mask), Transpose(v))

OpenVINO's frontend turns Attention into ScaledDotProductAttention and sets rows that came out as NaN to zero: an
IsNaN, a Select and a Transpose over the whole output that its CPU plugin cannot fuse. Here a masked score is finite, so
that no row is NaN, and a row that may attend to nothing is zeroed inside the kernel. What depends on the mask alone is
the same in every layer, and OpenVINO computes it once.

Heads of keys that groups of queries share are repeated, `Reshape(Expand(Unsqueeze(k)))`, behind the cache.

Exact, fully masked rows included: they are zero, as ONNX says. Left alone: soft caps and the debug output, which the
frontend expands itself, and heads of unknown number or size.

Sources: ONNX Attention-23 (operator and its errata on fully masked rows); the pattern of TokenizeMHASnippets
(openvino, src/common/snippets/include/snippets/pass/mha_tokenization.hpp), tried on OpenVINO 2026.4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ...ir.level import Level
from ...passes.base import Match, Miss, Rewrite
from ...passes.edit import Tape, attribute, constant_of, replace

#: Added to a masked score: exp(low - x) is zero for any x, and neither low nor low + x overflows float32 or bfloat16.
LOW = float(np.finfo(np.float32).min) / 2

_INPUTS = ("query", "key", "value", "mask", "past_key", "past_value", "lengths")


@dataclass(frozen=True, kw_only=True)
class Heads(Match):
    """An Attention whose heads are known.

    rank: 3 for inputs [batch, sequence, heads * size], 4 for [batch, heads, sequence, size].
    key_heads: fewer than heads where groups of queries share one.
    scale: what the product of a query and a key is multiplied by.
    """

    rank: int
    heads: int
    key_heads: int
    scale: float


@dataclass(frozen=True)
class Mask:
    """What is added to the scores, and what the probabilities are multiplied by; None where there is nothing to do."""

    bias: ir.Value | None = None
    keep: ir.Value | None = None


@dataclass(frozen=True, kw_only=True)
class DecomposeAttention(Rewrite):
    """Attention as the MatMul, Softmax, MatMul chain that OpenVINO runs as one kernel."""

    name: ClassVar[str] = "decompose-attention"
    level: ClassVar[Level] = Level.LOWERED
    anchors: ClassVar[tuple[str, ...]] = ("Attention",)

    def match(self, node: ir.Node) -> Match | Miss:
        cap = node.attributes.get("softcap")
        if cap is not None and cap.as_float() != 0.0:
            return Miss("softcap", str(cap.as_float()), "no soft cap")
        given = dict(zip(_INPUTS, node.inputs, strict=False))
        if given.get("lengths") is not None:
            return Miss("inputs", "nonpad_kv_seqlen", "none of opset 24's inputs")
        if len(node.outputs) > 3 and _read(node.outputs[3]):
            return Miss("outputs", "the scores are read", "only the attended values to be read")
        query, key, value = node.inputs[:3]
        shape = None if query is None else query.shape
        if query is None or key is None or value is None or shape is None or query.dtype is None:
            return Miss("types", "query of unknown rank or dtype", "shapes and types to be inferred")
        heads, size = _heads(shape, attribute(node, "q_num_heads", 0))
        sizes = [_heads(value.shape, attribute(node, "kv_num_heads", 0)) for value in (key, value) if value.shape]
        key_heads = sizes[0][0] if len(sizes) == 2 else None
        if not heads or not key_heads or heads % key_heads:
            return Miss(
                "heads", f"{heads} of queries, {key_heads} of keys", "known numbers, one a multiple of the other"
            )
        if heads != key_heads and any(size is None for _, size in sizes):
            return Miss("size", f"{key.name}: {key.shape}", "heads of known size, for their keys are shared")
        scale = node.attributes.get("scale")
        if scale is None and size is None:
            return Miss("scale", "no scale and heads of unknown size", "one of the two")
        factor = scale.as_float() if scale is not None else 1.0 / math.sqrt(size or 1)
        return Heads(node=node, rank=len(shape), heads=heads, key_heads=key_heads, scale=factor)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Heads)
        node, tape = found.node, Tape()
        given = dict(zip(_INPUTS, node.inputs, strict=False))
        query = _by_position(tape, given["query"], found.rank, found.heads)
        key, value = (_by_position(tape, given[name], found.rank, found.key_heads) for name in ("key", "value"))
        scaled = tape("Mul", query, _number(tape, node, found.scale, "scale"))
        values = tape("Transpose", value, perm=[0, 2, 1, 3])
        past_key, past_value = given.get("past_key"), given.get("past_value")
        if past_key is None or past_value is None:
            keys = None
            shared = tape("Transpose", key, perm=[0, 2, 1, 3]) if found.heads != found.key_heads else None
        else:
            shared = keys = tape("Concat", past_key, tape("Transpose", key, perm=[0, 2, 1, 3]), axis=2)
            values = tape("Concat", past_value, values, axis=2)
        if shared is None:
            across = tape("Transpose", key, perm=[0, 2, 3, 1])
        else:
            across = tape("Transpose", _repeated(tape, shared, found, node.inputs[1]), perm=[0, 1, 3, 2])
        every = _repeated(tape, values, found, node.inputs[2])
        scores = tape("MatMul", tape("Transpose", scaled, perm=[0, 2, 1, 3]), across)
        mask = _mask(tape, found, given.get("mask"), past_key)
        if mask.bias is not None:
            scores = tape("Add", scores, mask.bias)
        shares = tape("Softmax", scores, axis=-1)
        if mask.keep is not None:
            shares = tape("Mul", shares, mask.keep)
        attended = tape("MatMul", shares, every)
        if found.rank == 3:
            attended = tape(
                "Reshape", tape("Transpose", attended, perm=[0, 2, 1, 3]), tape.constant([0, 0, -1], "shape")
            )
        pairs = [
            (old, new)
            for old, new in zip(node.outputs, (attended, keys, values), strict=False)
            if new is not None and (old is node.outputs[0] or _read(old))
        ]
        replace(tape, [old for old, _ in pairs], [new for _, new in pairs], matched=[node])


def _heads(shape: ir.Shape, named: int) -> tuple[int | None, int | None]:
    """The number of heads and the size of one, None where unknown."""
    last = shape[-1] if isinstance(shape[-1], int) else None
    if len(shape) == 3:
        return (named, None if last is None else last // named) if named else (None, None)
    return (shape[1] if isinstance(shape[1], int) else None), last


def _repeated(tape: Tape, value: ir.Value, found: Heads, given: ir.Value | None) -> ir.Value:
    """[batch, heads, sequence, size] of what has key_heads: each as often as there are queries that share it."""
    if found.heads == found.key_heads:
        return value
    assert given is not None and given.shape is not None
    _, size = _heads(given.shape, found.key_heads)
    assert size is not None
    apart = tape("Unsqueeze", value, tape.constant([2], "axis"))
    often = tape("Expand", apart, tape.constant([1, 1, found.heads // found.key_heads, 1, 1], "times"))
    return tape("Reshape", often, tape.constant([0, found.heads, -1, size], "shape"))


def _by_position(tape: Tape, value: ir.Value | None, rank: int, heads: int) -> ir.Value:
    """[batch, sequence, heads, size], the transposition in front of `value` undone where there is one."""
    assert value is not None
    if rank == 3:
        return tape("Reshape", value, tape.constant([0, 0, heads, -1], "shape"))
    producer = value.producer()
    if producer is not None and producer.op_type == "Transpose" and _swaps_middle(producer):
        source = producer.inputs[0]
        assert source is not None
        return source
    return tape("Transpose", value, perm=[0, 2, 1, 3])


def _swaps_middle(node: ir.Node) -> bool:
    order = node.attributes.get("perm")
    return order is not None and list(order.as_ints()) == [0, 2, 1, 3]


def _mask(tape: Tape, found: Heads, mask: ir.Value | None, past_key: ir.Value | None) -> Mask:
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
    infinite = _number(tape, node, -math.inf, "infinite")
    bias = mask if causal is None else tape("Where", causal, mask, infinite)
    if _bounded(mask):
        return Mask(bias)
    # OpenVINO's ReduceMax gives the lowest finite number for a row of minus infinity, so it is asked of 0 and 1.
    seen = tape("Cast", tape("Greater", bias, infinite), to=_dtype(node))
    any_seen = tape("ReduceMax", seen, tape.constant([-1], "axes"), keepdims=1)
    somewhere = tape("Cast", any_seen, to=int(ir.DataType.BOOL))
    return Mask(tape("Where", somewhere, bias, _number(tape, node, 0.0, "zero")), any_seen)


def _penalty(tape: Tape, node: ir.Node, allowed: ir.Value) -> ir.Value:
    """Nothing where a key may be seen, else what no score outweighs."""
    return tape("Where", allowed, _number(tape, node, 0.0, "zero"), _number(tape, node, LOW, "low"))


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


def _number(tape: Tape, node: ir.Node, number: float, name: str) -> ir.Value:
    """A scalar of the query's dtype; what float16 cannot hold becomes its own lowest number."""
    kind = ir.DataType(_dtype(node))
    if kind == ir.DataType.FLOAT16 and math.isfinite(number):
        number = max(number, float(np.finfo(np.float16).min))
    return tape.constant(np.asarray(number, dtype=kind.numpy()), name)


def _dtype(node: ir.Node) -> int:
    query = node.inputs[0]
    assert query is not None and query.dtype is not None
    return int(query.dtype)


def _read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()
