"""Attention's own two products in 8 bits: queries, keys and values on calibrated grids, probabilities on one of [0, 1].

    before   y = Attention{scale=s}(q, k, v, mask)
    after    p = Softmax(s Q(q) Q(k)^T + bias)                      Q: QuantizeLinear, then DequantizeLinear
             y = Q(p) Q(v) * keep                   by row: y = Q(p / m) Q(v) * m * keep, m the largest p of the row

Lossy. The scores stay floats, and so does the softmax. `s` is in the step that queries are read back by. Of each
product the left side is on the grid that the options say, the right side on one of int8 around zero. A probability is
at most one whatever the data, so its grid needs no calibration: 255 steps, zero on it. A row that attends to 510
keys or more alike is zero on it, and none is by row, for which the numbers are gone over twice more. Rows that may
attend to nothing are zero, as ONNX says. A past is joined to what is new, and all of it rounded; what is kept for the
next run is not.

Left alone: what is not float32, queries, keys or values that are constant, subgraphs, a past whose present the model
does not name, what calibration never sees, and what `attending.heads_of` does not know.

Bhandare et al., Efficient 8-Bit Quantization of Transformer Neural Machine Language Translation Model, 2019; Zafrir et
al., Q8BERT: Quantized 8Bit BERT, 2019; rows whose largest is one: Zhang et al., SageAttention, 2024.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...ir.block import block_of
from ...ir.text import place
from ...ir.walk import every_node
from ..attending import INPUTS, Heads, Mask, by_head, heads_of, is_read, mask_of, merged, repeated
from ..base import Context, Finding, Miss, Pass
from ..choosing import left_out
from ..edit import Tape, is_constant, is_op, replace
from ..statistics import Statistics, Want
from .ranging import Grid, Ranging

#: The grid of probabilities: no softmax gives more than one, or less than zero.
SHARES = Grid(np.asarray(1 / 255, np.float32), np.asarray(0, np.uint8))


@dataclass(frozen=True)
class Attention:
    """One attention of a model, and the block that it is in."""

    node: ir.Node
    block: int | None = None

    @property
    def name(self) -> str:
        """What `only` and `ignore` know it by."""
        return self.node.name or self.node.outputs[0].name or ""

    @property
    def names(self) -> list[str]:
        return [self.name, "kind:attention", *([] if self.block is None else [f"block:{self.block}"])]

    @property
    def seen(self) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Queries, keys and values as calibration sees them, a past joined to the latter two."""
        query, key, value = self.node.inputs[:3]
        if _past(self.node):
            key, value = self.node.outputs[1:3]
        assert query is not None and key is not None and value is not None
        return query, key, value

    def finding(self, verdict: Heads | Miss) -> Finding:
        return Finding.at(self.node, verdict)


@dataclass(frozen=True)
class Grids:
    """Those of one attention's queries, keys and values."""

    query: Grid
    key: Grid
    value: Grid


@dataclass(frozen=True)
class Rounding:
    """How the grids are chosen: of the left side of a product, and of the right."""

    left: Ranging
    right: Ranging

    def wants(self, attention: Attention) -> tuple[Want, Want, Want]:
        query, key, value = attention.seen
        return self.left.want(query, 0, -1), self.right.want(key, 0, -1), self.right.want(value, 0, -1)

    def grids(self, attention: Attention, found: Statistics) -> Grids | Miss:
        """The grids, or which of the three has none."""
        made = [
            ranging.grid(found, want)
            for ranging, want in zip((self.left, self.right, self.right), self.wants(attention), strict=True)
        ]
        missed = next((each for each in made if isinstance(each, Miss)), None)
        return missed or Grids(*(each for each in made if isinstance(each, Grid)))


def attentions(
    made: Pass, model: ir.Model, context: Context | None, only: Collection[str], ignore: Collection[str]
) -> list[tuple[Attention, Heads | Miss]]:
    """Every Attention of the model, in graph order, with its heads or why it stays; the last reason: `Context.pays`."""
    blocks = block_of(model)
    found: list[tuple[Attention, Heads | Miss]] = []
    for node in every_node(model.graph):
        if not is_op(node, "Attention"):
            continue
        attention = Attention(node, blocks.get(node))
        verdict = left_out(attention.names, only, ignore) or _unfit(node, model) or heads_of(node)
        if isinstance(verdict, Heads) and context is not None and context.pays is not None:
            verdict = context.pays(made, model, attention) or verdict
        found.append((attention, verdict))
    return found


def round_products(heads: Heads, grids: Grids, *, by_row: bool = False) -> None:
    """Write the attention as two products of rounded operands; by row: each row of probabilities over its largest."""
    node, tape = heads.node, Tape()
    given = dict(zip(INPUTS, node.inputs, strict=False))
    query, past_key = given["query"], given.get("past_key")
    assert query is not None
    across, every, present = _keys_and_values(tape, heads, grids)
    rounded = _heads_apart(tape, grids.query.rounded(tape, query, times=heads.scale), heads.rank, heads.heads)
    scores = _capped(tape, tape("MatMul", rounded, across), heads.cap)
    mask = mask_of(tape, heads, given.get("mask"), past_key)
    if mask.bias is not None:
        scores = tape("Add", scores, mask.bias)
    shares, largest = tape("Softmax", scores, axis=-1), None
    if by_row:
        largest = _row_max(tape, shares)
        shares = tape("Div", shares, largest)
    attended = tape("MatMul", SHARES.rounded(tape, shares, name=f"{node.outputs[0].name}_shares"), every)
    for factor in (largest, _seen(tape, mask)):
        attended = attended if factor is None else tape("Mul", attended, factor)
    if heads.rank == 3:
        attended = merged(tape, attended)
    pairs = [(old, new) for old, new in zip(node.outputs, (attended, *present), strict=False) if new is not None]
    replace(tape, [old for old, _ in pairs], [new for _, new in pairs], matched=[node])


def _keys_and_values(
    tape: Tape, heads: Heads, grids: Grids
) -> tuple[ir.Value, ir.Value, tuple[ir.Value | None, ir.Value | None]]:
    """Keys [batch, heads, size, keys] and values [batch, heads, keys, size], rounded, and what is kept of them."""
    node, (key, value) = heads.node, heads.node.inputs[1:3]
    past_key, past_value = (*node.inputs, None, None, None)[4:6]
    assert key is not None and value is not None

    def apart(x: ir.Value) -> ir.Value:
        return _heads_apart(tape, x, heads.rank, heads.key_heads)

    if past_key is not None and past_value is not None:
        kept = tape("Concat", past_key, apart(key), axis=2), tape("Concat", past_value, apart(value), axis=2)
        keys, values = (
            grid.rounded(tape, x, name=old.name or "")
            for grid, x, old in zip((grids.key, grids.value), kept, node.outputs[1:3], strict=True)
        )
        across = tape("Transpose", repeated(tape, keys, heads, key), perm=[0, 1, 3, 2])
        return across, repeated(tape, values, heads, value), kept
    read = [*(is_read(output) for output in node.outputs[1:3]), False, False]
    present = (
        tape("Identity", apart(key)) if read[0] else None,
        tape("Identity", apart(value)) if read[1] else None,
    )
    keys, values = grids.key.rounded(tape, key), apart(grids.value.rounded(tape, value))
    if heads.rank == 3 and heads.heads == heads.key_heads:
        across = tape("Transpose", by_head(tape, keys, heads.heads), perm=[0, 2, 3, 1])
    else:
        across = tape("Transpose", repeated(tape, apart(keys), heads, key), perm=[0, 1, 3, 2])
    return across, repeated(tape, values, heads, value), present


def _unfit(node: ir.Node, model: ir.Model) -> Miss | None:
    """Why it cannot be computed in few bits."""
    if node.graph is not model.graph:
        return Miss("subgraph", place(node), "an attention that is computed once at every run")
    for name, value in zip(INPUTS, node.inputs[:3], strict=False):
        if value is None or value.dtype != ir.DataType.FLOAT:
            kind = "unknown" if value is None or value.dtype is None else value.dtype.name.lower()
            return Miss("dtype", f"{name} of {kind}", "queries, keys and values of float")
        if is_constant(value):
            return Miss("constant", value.name or "", "queries, keys and values that are computed")
    if _past(node) and not all(_name(node, at) for at in (1, 2)):
        return Miss("cache", node.inputs[4].name or "" if node.inputs[4] else "", "present keys and values as outputs")
    return None


def _past(node: ir.Node) -> bool:
    return any(value is not None for value in node.inputs[4:6])


def _name(node: ir.Node, at: int) -> str:
    return (node.outputs[at].name or "") if len(node.outputs) > at else ""


def _heads_apart(tape: Tape, value: ir.Value, rank: int, heads: int) -> ir.Value:
    """[batch, heads, sequence, size]"""
    return value if rank == 4 else tape("Transpose", by_head(tape, value, heads), perm=[0, 2, 1, 3])


def _capped(tape: Tape, scores: ir.Value, cap: float) -> ir.Value:
    """c tanh(x / c)"""
    if not cap:
        return scores
    limit = tape.constant(np.asarray(cap, np.float32), "cap")
    return tape("Mul", tape("Tanh", tape("Div", scores, limit)), limit)


def _seen(tape: Tape, mask: Mask) -> ir.Value | None:
    """One where a row may attend to anything, else zero: [.., queries, 1]."""
    return mask.keep if mask.keep is None or mask.rows else _row_max(tape, mask.keep)


def _row_max(tape: Tape, value: ir.Value) -> ir.Value:
    return tape("ReduceMax", value, tape.constant([-1], "axes"), keepdims=1)
