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

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ...ir.level import Level
from ...passes.attending import INPUTS, Heads, by_head, heads_of, is_read, mask_of, merged, number, repeated
from ...passes.base import Match, Miss, Rewrite
from ...passes.edit import Tape, replace


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
        return heads_of(node)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Heads)
        node, tape = found.node, Tape()
        given = dict(zip(INPUTS, node.inputs, strict=False))
        query = _by_position(tape, given["query"], found.rank, found.heads)
        key, value = (_by_position(tape, given[name], found.rank, found.key_heads) for name in ("key", "value"))
        scaled = tape("Mul", query, number(tape, node, found.scale, "scale"))
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
            across = tape("Transpose", repeated(tape, shared, found, node.inputs[1]), perm=[0, 1, 3, 2])
        every = repeated(tape, values, found, node.inputs[2])
        scores = tape("MatMul", tape("Transpose", scaled, perm=[0, 2, 1, 3]), across)
        mask = mask_of(tape, found, given.get("mask"), past_key)
        if mask.bias is not None:
            scores = tape("Add", scores, mask.bias)
        shares = tape("Softmax", scores, axis=-1)
        if mask.keep is not None:
            shares = tape("Mul", shares, mask.keep)
        attended = tape("MatMul", shares, every)
        if found.rank == 3:
            attended = merged(tape, attended)
        pairs = [
            (old, new)
            for old, new in zip(node.outputs, (attended, keys, values), strict=False)
            if new is not None and (old is node.outputs[0] or is_read(old))
        ]
        replace(tape, [old for old, _ in pairs], [new for _, new in pairs], matched=[node])


def _by_position(tape: Tape, value: ir.Value | None, rank: int, heads: int) -> ir.Value:
    """[batch, sequence, heads, size], the transposition in front of `value` undone where there is one."""
    assert value is not None
    if rank == 3:
        return by_head(tape, value, heads)
    producer = value.producer()
    if producer is not None and producer.op_type == "Transpose" and _swaps_middle(producer):
        source = producer.inputs[0]
        assert source is not None
        return source
    return tape("Transpose", value, perm=[0, 2, 1, 3])


def _swaps_middle(node: ir.Node) -> bool:
    order = node.attributes.get("perm")
    return order is not None and list(order.as_ints()) == [0, 2, 1, 3]
