"""Biases and angles of positions."""

from __future__ import annotations

import math
from itertools import groupby

import numpy as np
import onnx_ir as ir

from ...base import Miss
from ...edit import Attribute, Tape
from .call import Build, Call, Table, counted, like, named, one, rank, size


def _relative_position_bias(call: Call) -> Build | Miss:
    """T5's bias [1, heads, queries, keys]: a row of the table for the bucket of key - query, one bucket for each near
    distance, then ranges that grow with the logarithm (Raffel et al., 2020, section 2.1).
    """
    table, query, key = (call.need(index) for index in range(3))
    buckets, heads, longest = size(table, 0), size(table, 1), call.integer("max_distance")
    both = bool(call.integer("is_bidirectional"))
    if not isinstance(buckets, int) or not isinstance(heads, int):
        return Miss("table", table.name or "", "a table of known size, buckets and heads")
    count = buckets // (2 if both else 1)
    near = count // 2
    if not 0 < near < longest:
        return Miss(
            "distance", f"{longest} over {buckets} buckets", "a largest distance beyond what has its own bucket"
        )

    def ranges(tape: Tape, far: ir.Value) -> ir.Value:
        least = tape("Max", far, tape.constant(np.array(1, np.int64), "one"))
        share = tape("Div", tape("Cast", least, to=ir.DataType.FLOAT), tape.constant(float(near)))
        turn = tape("Div", tape("Log", share), tape.constant(math.log(longest / near)))
        steps = tape("Cast", tape("Mul", turn, tape.constant(float(count - near))), to=ir.DataType.INT64)
        last = tape.constant(np.array(count - 1, np.int64), "last")
        return tape("Min", tape("Add", steps, tape.constant(np.array(near, np.int64), "near")), last)

    def build(tape: Tape) -> list[ir.Value]:
        column, row = (counted(tape, _length(tape, end)) for end in (key, query))
        apart = tape("Sub", column, tape("Unsqueeze", row, tape.constant([1], "axes")))
        zero = tape.constant(np.array(0, np.int64), "zero")
        far = tape("Abs", apart) if both else tape("Max", tape("Neg", apart), zero)
        bucket = tape("Where", tape("Less", far, tape.constant(np.array(near), "near")), far, ranges(tape, far))
        if both:
            side = tape("Where", tape("Greater", apart, zero), tape.constant(np.array(count), "side"), zero)
            bucket = tape("Add", bucket, side)
        # the table is stored by head
        by_head = tape("Reshape", table, tape.constant([heads, buckets], "shape"))
        return [tape("Unsqueeze", tape("Gather", by_head, bucket, axis=1), tape.constant([0], "axes"))]

    return build


def _length(tape: Tape, count: ir.Value) -> ir.Value:
    """A number of rows, int64 [1]."""
    wide = count if count.dtype == ir.DataType.INT64 else tape("Cast", count, to=ir.DataType.INT64)
    return tape("Reshape", wide, tape.constant([1], "shape"))


def _gated_bias(call: Call) -> Build | Miss:
    """A bias of positions times a gate of each query (WavLM, Chen et al., 2022, section 3.1)."""
    query, shift, bias, weight, added, eco = (call.need(index) for index in range(6))
    heads, width = call.integer("num_heads"), size(weight, -1)
    if call[6] is not None:
        return Miss("layout", call.need(6).name or "", "sequences padded to one length, not packed end to end")
    if not isinstance(width, int) or width % 2 or not heads:
        return Miss("weight", weight.name or "", "a weight of known width, two halves side by side")

    def build(tape: Tape) -> list[ir.Value]:
        wide = tape("Reshape", tape("Add", query, shift), tape.constant([0, 0, heads, -1], "shape"))
        split = tape("Transpose", wide, perm=[0, 2, 1, 3])
        projected = tape("Add", tape("MatMul", split, weight), added)
        pairs = tape("Reshape", projected, tape.constant([0, 0, 0, 2, width // 2], "shape"))
        gates = tape("Sigmoid", tape("ReduceSum", pairs, tape.constant([-1], "axes"), keepdims=0))
        update, reset = tape.node("Split", [gates], {"axis": -1, "num_outputs": 2}, outputs=2).outputs
        inner = tape("Sub", tape("Mul", reset, eco), like(tape, 1.0, query))
        gate = tape("Add", tape("Mul", update, inner), like(tape, 2.0, query))
        return [tape("Mul", gate, bias)]

    return build


def _gemma_rotary(call: Call) -> Build:
    """x cos + turned sin of queries and of keys, by angles [batch, sequence, head]"""
    angles, query, query_turned, key, key_turned = (call.need(index) for index in range(5))

    def build(tape: Tape) -> list[ir.Value | None]:
        axis = tape.constant([1], "axes")
        circle = [tape(op, angles) for op in ("Cos", "Sin")]
        if angles.dtype != query.dtype:
            circle = [tape("CastLike", part, query) for part in circle]
        cosines, sines = (tape("Unsqueeze", part, axis) for part in circle)
        pairs = ((query, query_turned), (key, key_turned))
        return [
            tape("Add", tape("Mul", x, cosines), tape("Mul", turned, sines)) if call.reads(index) else None
            for index, (x, turned) in enumerate(pairs)
        ]

    return build


def _multimodal_rotary(call: Call) -> Build | Miss:
    """RotaryEmbedding whose tables are picked, pair by pair, by time, height or width: positions [3, batch, sequence].

    The pairs are divided in three runs, or round in threes as far as a section reaches, time taking what is left.
    """
    x, positions, cosines, sines = (call.need(index) for index in range(4))
    axes, heads, half, sections = rank(x), call.integer("num_heads"), size(cosines, 1), call.integers("mrope_section")
    if call.integer("is_packed_batching"):
        return Miss("layout", "is_packed_batching", "a batch of rows of one length")
    if call.number("scale", 1.0) != 1.0:
        return Miss("scale", f"{call.number('scale', 1.0):g}", "1")
    if axes not in (3, 4):
        return Miss("rank", f"{x.name}: rank {axes}", "3 or 4 axes")
    if not isinstance(half, int) or len(sections) != 3 or sum(sections) != half or min(sections) < 0:
        return Miss("sections", str([*sections]), f"three sizes that add up to the {half} columns of the tables")
    if axes == 3 and not heads:
        return Miss("heads", "none given", "a number of heads, which ONNX Runtime needs of three axes")
    runs = _runs(sections, call.integer("mrope_layout"))

    def build(tape: Tape) -> list[ir.Value]:
        circle = [_picked(tape, table, positions, runs) for table in (cosines, sines)]
        attributes: dict[str, Attribute] = {
            "interleaved": call.integer("interleaved") or None,
            "num_heads": heads if axes == 3 else None,
            "rotary_embedding_dim": call.integer("rotary_embedding_dim") or None,
        }
        return [one(tape, "RotaryEmbedding", [x, *circle], attributes)]

    return build


def _runs(sections: tuple[int, ...], layout: int) -> list[tuple[int, int]]:
    """Which of the three positions turns how many pairs, in order."""
    half = sum(sections)
    if layout == 0:
        stream = [axis for axis, count in enumerate(sections) for _ in range(count)]
    else:
        stream = [axis if axis and pair < 3 * sections[axis] else 0 for pair in range(half) for axis in (pair % 3,)]
    return [(axis, len([*same])) for axis, same in groupby(stream)]


def _picked(tape: Tape, table: ir.Value, positions: ir.Value, runs: list[tuple[int, int]]) -> ir.Value:
    """Columns of a table, each at the positions of its run: [batch, sequence, pairs]."""
    rows = tape("Gather", table, positions, axis=0)
    if len(runs) == 1:
        only = tape.constant(np.array(runs[0][0], np.int64), "index")
        return tape("Gather", rows, only, axis=0)
    stream = np.repeat([axis for axis, _ in runs], [count for _, count in runs])
    lead = tape("Concat", tape.constant([1], "one"), tape("Shape", rows, start=1), axis=0)
    index = tape("Expand", tape.constant(stream.astype(np.int64), "stream"), lead)
    return tape("Squeeze", tape("GatherElements", rows, index, axis=0), tape.constant([0], "axes"))


POSITIONS: Table = named(
    {
        "RelativePositionBias": _relative_position_bias,
        "GatedRelativePositionBias": _gated_bias,
        "GemmaRotaryEmbedding": _gemma_rotary,
        "MRotaryEmbedding": _multimodal_rotary,
    }
)
