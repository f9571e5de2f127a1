"""GroupQueryAttention and the rotary embedding that it shares with others.

Entry b of a batch has `lengths[b] + 1` tokens after this step, of which the last `rows` are new: row i stands at place
lengths[b] + 1 - rows + i, and its keys and values are written there in a cache that may be longer. A first prompt
starts at place 0, whatever padding it has on its right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ...base import Miss
from ...edit import Attribute, Tape
from .call import Build, Call, Table, counted, ends, like, named, one, pieces, rank, size


def _rotary_embedding(call: Call) -> Build | Miss:
    """The standard op, its positions [batch, sequence] spelled out where only the first is given, [1]."""
    x, positions, cosines, sines = (call.need(index) for index in range(4))
    axes, heads = rank(x), call.integer("num_heads")
    if call.integer("is_packed_batching"):
        return Miss("layout", "is_packed_batching", "a batch of rows of one length")
    if call.number("scale", 1.0) != 1.0:
        return Miss("scale", f"{call.number('scale', 1.0):g}", "1, the only one that ONNX Runtime's CPU kernel heeds")
    if axes not in (3, 4) or rank(positions) not in (1, 2):
        return Miss("rank", f"{x.name}: rank {axes}", "3 or 4 axes, and positions of known rank")
    if axes == 3 and not heads:
        wide, half = size(x, 2), size(cosines, 1)
        if not isinstance(wide, int) or not isinstance(half, int) or wide % (2 * half):
            return Miss("heads", f"{wide} features", "a number of heads, or widths that tell it")
        heads = wide // (2 * half)

    def build(tape: Tape) -> list[ir.Value]:
        places = positions
        if rank(positions) == 1:
            rows = counted(tape, ends(tape, x, axes - 2 if axes == 4 else 1))
            row = tape("Unsqueeze", tape("Add", positions, rows), tape.constant([0], "axes"))
            lead = tape("Concat", ends(tape, x, 0), tape.constant([1], "one"), axis=0)
            places = tape("Expand", row, lead)
        attributes: dict[str, Attribute] = {
            "interleaved": call.integer("interleaved") or None,
            "num_heads": heads if axes == 3 else None,
            "rotary_embedding_dim": call.integer("rotary_embedding_dim") or None,
        }
        return [one(tape, "RotaryEmbedding", [x, cosines, sines, places], attributes)]

    return build


@dataclass(frozen=True)
class _Places:
    """Where rows stand: the place of each [batch, rows], and of all that is cached; None without a cache."""

    of_rows: ir.Value
    longest: ir.Value | None
    start: ir.Value | None


def _group_query_attention(call: Call) -> Build | Miss:
    refused = _beyond(call)
    if refused is not None:
        return refused
    query, past_key, past_value = call.need(0), call[3], call[4]
    heads, groups = call.integer("num_heads"), call.integer("kv_num_heads")
    width = size(query, -1)
    if call[1] is None and not isinstance(width, int):
        return Miss("query", query.name or "", "a known width, to divide what is packed in it")
    head = width // (heads if call[1] is not None else heads + 2 * groups) if isinstance(width, int) else None
    turned = None
    if call.integer("do_rotary"):
        half = size(call[7], -1)
        if not isinstance(half, int):
            return Miss("rotary", call.need(7).name or "", "a table of cosines of known width")
        turned = 2 * half
    window = call.integer("local_window_size", -1)

    def build(tape: Tape) -> Sequence[ir.Value | None]:
        if call[1] is None:
            assert head is not None
            parts = pieces(tape, query, [heads * head, groups * head, groups * head])
        else:
            parts = [query, call.need(1), call.need(2)]
        places = _places(tape, call, query)
        split = [_to_heads(tape, part, count) for part, count in zip(parts, (heads, groups, groups), strict=True)]
        for index, norm in ((0, call[14]), (1, call[15])):
            if norm is not None:
                epsilon = call.number("qk_norm_epsilon", 1e-6)
                split[index] = tape("RMSNormalization", split[index], norm, axis=-1, epsilon=epsilon)
        if turned is not None:
            at = call[9] if call[9] is not None else places.of_rows
            attributes: dict[str, Attribute] = {
                "interleaved": call.integer("rotary_interleaved") or None,
                "rotary_embedding_dim": None if turned == head else turned,
            }
            split[:2] = [one(tape, "RotaryEmbedding", [x, call[7], call[8], at], attributes) for x in split[:2]]
        keys, values = split[1:]
        if past_key is not None and past_value is not None:
            keys, values = (_written(tape, past, x, places) for past, x in ((past_key, keys), (past_value, values)))
        mask = _mask(tape, call, places, window)
        whole = call[10] is None and places.longest is None
        settings: dict[str, Attribute] = {
            "scale": call.number("scale", 0.0) or None,
            "softcap": call.number("softcap", 0.0) or None,
            "is_causal": 1 if whole and window < 0 else None,
        }
        y = one(tape, "Attention", [split[0], keys, values, *([] if mask is None else [mask])], settings)
        joined = tape("Reshape", tape("Transpose", y, perm=[0, 2, 1, 3]), tape.constant([0, 0, -1], "shape"))
        return [joined, keys if call.reads(1) else None, values if call.reads(2) else None]

    return build


def _beyond(call: Call) -> Miss | None:
    """What ai.onnx Attention has no place for."""
    if call[11] is not None or call.integer("smooth_softmax", -1) == 1:
        return Miss("softmax", call.node.name or "", "a softmax whose denominator has no further term")
    if call.text("k_quant_type", "NONE") != "NONE" or call.text("v_quant_type", "NONE") != "NONE":
        return Miss("cache", "quantized", "a cache of floats")
    if call.integer("sliding_window_cache"):
        return Miss("cache", "of a sliding window", "a cache of all places")
    if call.reads(3):
        return Miss("scores", call.node.outputs[3].name or "", "to be read by nobody")
    if not call.integer("causal", 1):
        return Miss("causal", "0", "rows that see what stands before them")
    if (call[3] is None) != (call[4] is None):
        return Miss("cache", call.node.name or "", "keys and values of the past together")
    return None


def _to_heads(tape: Tape, x: ir.Value, heads: int) -> ir.Value:
    wide = tape("Reshape", x, tape.constant([0, 0, heads, -1], "shape"))
    return tape("Transpose", wide, perm=[0, 2, 1, 3])


def _places(tape: Tape, call: Call, query: ir.Value) -> _Places:
    count = ends(tape, query, 1)
    row = counted(tape, count)
    past = call[3]
    if past is None:
        lead = tape("Concat", ends(tape, query, 0), tape.constant([1], "one"), axis=0)
        return _Places(tape("Expand", tape("Unsqueeze", row, tape.constant([0], "axes")), lead), None, None)
    lengths = tape("Reshape", tape("Cast", call.need(5), to=ir.DataType.INT64), tape.constant([-1, 1], "shape"))
    after = tape("Add", lengths, tape.constant([1], "one"))
    start = tape("Max", tape("Sub", after, count), tape.constant([0], "zero"))
    total = tape("Reshape", tape("Cast", call.need(6), to=ir.DataType.INT64), tape.constant([1], "shape"))
    return _Places(tape("Add", start, row), tape("Max", ends(tape, past, 2), total), start)


def _written(tape: Tape, past: ir.Value, fresh: ir.Value, places: _Places) -> ir.Value:
    """The cache with the new rows from their start on, zero where there is neither."""
    assert places.longest is not None and places.start is not None
    before, count = ends(tape, past, 2), ends(tape, fresh, 2)
    none, more = tape.constant([0] * 6, "pads"), tape("Sub", places.longest, before)
    pads = tape("Concat", none, more, tape.constant([0], "zero"), axis=0)
    longer = tape("Pad", past, pads, like(tape, 0.0, past))
    # place j of the cache is row j - start of what is new, where there is such a row
    row = tape("Sub", counted(tape, places.longest), places.start)
    zero, one = tape.constant([0], "zero"), tape.constant([1], "one")
    new = tape("And", tape("GreaterOrEqual", row, zero), tape("Less", row, count))
    nearest = tape("Min", tape("Max", row, zero), tape("Sub", count, one))
    axes = tape.constant([1, 3], "axes")
    index = tape("Expand", tape("Unsqueeze", nearest, axes), tape("Shape", longer))
    taken = tape("GatherElements", fresh, index, axis=2)
    return tape("Where", tape("Unsqueeze", new, axes), taken, longer)


def _mask(tape: Tape, call: Call, places: _Places, window: int) -> ir.Value | None:
    """Which keys a row sees, bool [batch, 1, rows, keys], or a bias [batch, heads, rows, keys] with -inf elsewhere."""
    bias = call[10]
    if bias is None and places.longest is None and window < 0:
        return None
    count = places.longest if places.longest is not None else ends(tape, call.need(0), 1)
    column = counted(tape, count)
    row = tape("Unsqueeze", places.of_rows, tape.constant([1, 3], "axes"))
    seen = tape("LessOrEqual", column, row)
    if window > 0:
        first = tape("Sub", row, tape.constant([window], "window"))
        seen = tape("And", seen, tape("Greater", column, first))
    if bias is None:
        return seen
    # the bias covers the tokens there are, the cache may be longer
    more = tape("Sub", count, tape("Shape", bias, start=3, end=4))
    wide = tape("Pad", bias, tape("Concat", tape.constant([0] * 7, "pads"), more, axis=0), like(tape, 0.0, bias))
    return tape("Where", seen, wide, like(tape, float("-inf"), bias))


GROUPED: Table = named({"RotaryEmbedding": _rotary_embedding, "GroupQueryAttention": _group_query_attention})
