"""Attention, MultiHeadAttention and their one-token and quantized forms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ....ir.constants import is_constant
from ...base import Miss
from ...edit import Attribute, Tape
from ..qdq import dequantized
from .call import Build, Call, Table, ends, named, pieces, rank, size
from .masks import Scene, both, mask_of

_FILTER = -10000.0


@dataclass(frozen=True)
class _Parts:
    """Queries, keys and values: all [batch, sequence, hidden], or all [batch, heads, sequence, head]."""

    query: ir.Value
    key: ir.Value
    value: ir.Value
    split: bool = False

    @classmethod
    def of(cls, parts: Iterable[ir.Value]) -> _Parts:
        query, key, value = parts
        return cls(query, key, value)


def _attention(call: Call) -> Build | Miss:
    """Packed projection, attention, packed cache [2, batch, heads, sequence, head]."""
    weight = call.need(1)
    widths = call.integers("qkv_hidden_sizes") or _thirds(weight)
    if widths is None:
        return Miss("weight", weight.name or "", "a weight of known width, three parts side by side")
    x, bias = call.need(0), call[2]

    def project(tape: Tape) -> _Parts:
        if not is_constant(weight) or (bias is not None and not is_constant(bias)):
            packed = tape("MatMul", x, weight)
            packed = packed if bias is None else tape("Add", packed, bias)
            return _Parts.of(pieces(tape, packed, widths))
        biases = [None] * 3 if bias is None else pieces(tape, bias, widths)
        products = [tape("MatMul", x, part) for part in pieces(tape, weight, widths)]
        pairs = zip(products, biases, strict=True)
        return _Parts.of((product if part is None else tape("Add", product, part) for product, part in pairs))

    return _packed(call, x, call[3], call[4], call[5], call[6], project)


def _qattention(call: Call) -> Build | Miss:
    """Attention whose packed projection is an integer product: that product between dequantized sides."""
    x, weight, bias, x_scale, w_scale = (call.need(index) for index in range(5))
    widths = _thirds(weight)
    if widths is None or not is_constant(weight):
        return Miss("weight", weight.name or "", "a constant weight of known width, three parts side by side")

    def project(tape: Tape) -> _Parts:
        left = dequantized(tape, x, x_scale, call[6])
        scales, zeros = (_by_column(tape, value, widths) for value in (w_scale, call[7]))
        made = []
        for index, (part, shift) in enumerate(
            zip(pieces(tape, weight, widths), pieces(tape, bias, widths), strict=True)
        ):
            scale = scales[index]
            assert scale is not None
            made.append(tape("Add", tape("MatMul", left, dequantized(tape, part, scale, zeros[index], axis=1)), shift))
        return _Parts.of(made)

    return _packed(call, x, call[5], call[8], None, None, project, ir.DataType.FLOAT)


def _by_column(tape: Tape, value: ir.Value | None, widths: Sequence[int]) -> Sequence[ir.Value | None]:
    """What is one number for all columns, or one for each, divided as the columns are."""
    return [value] * 3 if value is None or size(value, -1) != sum(widths) else pieces(tape, value, widths)


def _thirds(weight: ir.Value) -> tuple[int, ...] | None:
    width = size(weight, -1)
    return (width // 3,) * 3 if isinstance(width, int) and width % 3 == 0 else None


def _packed(
    call: Call,
    x: ir.Value,
    mask: ir.Value | None,
    past: ir.Value | None,
    bias: ir.Value | None,
    filled: ir.Value | None,
    project: Callable[[Tape], _Parts],
    dtype: ir.DataType | None = None,
) -> Build | Miss:
    refused = _refused(call, filled)
    if refused is not None:
        return refused

    def total(tape: Tape) -> ir.Value:
        rows = ends(tape, x, 1)
        return rows if past is None else tape("Add", rows, ends(tape, past, 3))

    scene = Scene(x, lambda tape: ends(tape, x, 1), total, dtype or x.dtype or ir.DataType.FLOAT)
    hide = mask_of(mask, scene, call.number("mask_filter_value", _FILTER))
    if isinstance(hide, Miss):
        return hide

    def build(tape: Tape) -> Sequence[ir.Value | None]:
        parts = project(tape)
        cache = None
        if past is not None:
            places = [tape.constant(np.array(index, np.int64), "index") for index in (0, 1)]
            cache = (tape("Gather", past, places[0], axis=0), tape("Gather", past, places[1], axis=0))
        found = _attend(tape, call, parts, both(tape, hide(tape), bias), cache, call.reads(1))
        if not call.reads(1):
            return found[:1]
        axis = tape.constant([0], "axes")
        return [found[0], tape("Concat", *(tape("Unsqueeze", part, axis) for part in found[1:]), axis=0)]

    return build


def _refused(call: Call, filled: ir.Value | None = None) -> Miss | None:
    if call.integer("do_rotary"):
        return Miss("rotary", "do_rotary", "positions turned before the op, not inside it")
    if call.integer("past_present_share_buffer") or filled is not None:
        return Miss("cache", "a buffer of fixed length", "a cache that grows by what is new")
    return None


def _multi_head_attention(call: Call) -> Build | Miss:
    """Separate or packed projections, padding mask, bias, cache in and out."""
    inputs = tuple(call[index] for index in range(10))
    return _separate(call, *inputs)


def _decoder_masked(call: Call) -> Build | Miss:
    """The same of one new token, with its inputs in another order."""
    query, key, value, mask, added, past_key, past_value, filled, _, indirection, bias = (call[i] for i in range(11))
    if key is None:
        return Miss("query", "packed", "queries, keys and values apart")
    if not call.integer("past_present_share_buffer"):
        filled = None
    return _separate(call, query, key, value, bias, mask, added, past_key, past_value, filled, indirection)


def _separate(
    call: Call,
    query: ir.Value | None,
    key: ir.Value | None,
    value: ir.Value | None,
    bias: ir.Value | None,
    mask: ir.Value | None,
    attention_bias: ir.Value | None,
    past_key: ir.Value | None,
    past_value: ir.Value | None,
    filled: ir.Value | None,
    indirection: ir.Value | None,
) -> Build | Miss:
    assert query is not None
    refused = _refused(call, filled)
    if refused is not None:
        return refused
    if indirection is not None:
        return Miss("cache", indirection.name or "", "a decoder exported without the beam search around it")
    if call.reads(3):
        return Miss("scores", call.node.outputs[3].name or "", "to be read by nobody")
    ranks = rank(query), None if key is None else rank(key)
    if ranks not in ((3, 3), (3, 4), (3, 5), (5, None)) or (ranks[1] in (3, 4) and value is None):
        return Miss("rank", f"query of rank {ranks[0]}, key of rank {ranks[1]}", "one of the op's own layouts")
    widths = _widths(query, value if value is not None else key, bias, ranks)
    if isinstance(widths, Miss):
        return widths
    split = ranks[1] == 4
    keys = query if key is None else key

    def fresh(tape: Tape) -> ir.Value:
        return ends(tape, keys, 2 if split else 1)

    def total(tape: Tape) -> ir.Value:
        return tape("Add", ends(tape, past_key, 2), fresh(tape)) if past_key is not None else fresh(tape)

    scene = Scene(query, lambda tape: ends(tape, query, 1), total, query.dtype or ir.DataType.FLOAT)
    present = call.node.outputs[1] if len(call.node.outputs) > 1 else None
    hides_all = size(mask, 1) is not None and size(mask, 1) == size(present, 2)
    if mask is not None and past_key is not None and rank(mask) == 2 and not hides_all:
        return Miss("mask", f"{mask.name}: {size(mask, 1)} keys beside a cache", "a place for each key, cached or new")
    hide = mask_of(mask, scene, call.number("mask_filter_value", _FILTER))
    if isinstance(hide, Miss):
        return hide

    def build(tape: Tape) -> Sequence[ir.Value | None]:
        biases = None if bias is None else pieces(tape, bias, widths, 1 if split else 3)
        parts = _apart(tape, call, query, key, value, biases)
        cache = None if past_key is None or past_value is None else (past_key, past_value)
        added = both(tape, hide(tape), attention_bias)
        found = _attend(tape, call, parts, added, cache, call.reads(1) or call.reads(2))
        return [*found, *(None,) * (len(call.node.outputs) - len(found))]

    return build


def _widths(
    query: ir.Value, value: ir.Value | None, bias: ir.Value | None, ranks: tuple[int | None, int | None]
) -> tuple[int, ...] | Miss:
    """How a bias is divided among query, key and value."""
    whole = size(bias, 0)
    if bias is None:
        return ()
    if not isinstance(whole, int):
        return Miss("bias", bias.name or "", "a bias of known length")
    wide = size(query, -1)
    if ranks != (3, 3) and ranks != (3, 4):
        return (whole // 3,) * 3
    if not isinstance(wide, int):
        own = size(value, -1)
        wide = (whole - own) // 2 if ranks == (3, 3) and isinstance(own, int) else None
    if wide is None:
        return Miss("bias", bias.name or "", "a query of known width, to divide the bias by")
    return wide, wide, whole - 2 * wide


def _apart(
    tape: Tape,
    call: Call,
    query: ir.Value,
    key: ir.Value | None,
    value: ir.Value | None,
    biases: list[ir.Value] | None,
) -> _Parts:
    """Queries, keys and values of one layout, biases added."""
    heads = call.integer("num_heads")
    shifts: list[ir.Value | None] = [*(biases or ()), None, None, None]

    def shifted(x: ir.Value, index: int) -> ir.Value:
        shift = shifts[index]
        return x if shift is None else tape("Add", x, shift)

    if key is None:
        parts = _unpacked(tape, query, 3)
    elif value is None:
        parts = [query, *_unpacked(tape, key, 2)]
    elif rank(key) == 4:
        return _Parts(_to_heads(tape, shifted(query, 0), heads), key, value, split=True)
    else:
        parts = [query, key, value]
    return _Parts.of(shifted(part, index) for index, part in enumerate(parts))


def _unpacked(tape: Tape, packed: ir.Value, count: int) -> list[ir.Value]:
    """[batch, sequence, heads, count, head] as `count` times [batch, sequence, heads * head]"""
    cut = tape.node("Split", [packed], {"axis": 3, "num_outputs": count}, outputs=count)
    return [tape("Reshape", part, tape.constant([0, 0, -1], "shape")) for part in cut.outputs]


def _to_heads(tape: Tape, x: ir.Value, heads: int) -> ir.Value:
    wide = tape("Reshape", x, tape.constant([0, 0, heads, -1], "shape"))
    return tape("Transpose", wide, perm=[0, 2, 1, 3])


def _attend(
    tape: Tape,
    call: Call,
    parts: _Parts,
    mask: ir.Value | None,
    cache: tuple[ir.Value, ir.Value] | None,
    presents: bool,
) -> list[ir.Value]:
    """ai.onnx Attention; the result as [batch, sequence, hidden], and the caches after it where they are read."""
    heads, scale = call.integer("num_heads"), call.number("scale", 0.0)
    attributes: dict[str, Attribute] = {
        "scale": scale or None,
        "is_causal": call.integer("unidirectional") or None,
        "q_num_heads": None if parts.split else heads,
        "kv_num_heads": None if parts.split else heads,
    }
    inputs: list[ir.Value | None] = [parts.query, parts.key, parts.value]
    if mask is not None or cache is not None:
        inputs.append(mask)
    if cache is not None:
        inputs += cache
    node = tape.node("Attention", inputs, attributes, outputs=3 if presents and cache is not None else 1)
    result, *present = node.outputs
    if parts.split:
        moved = tape("Transpose", result, perm=[0, 2, 1, 3])
        result = tape("Reshape", moved, tape.constant([0, 0, -1], "shape"))
    if presents and cache is None:
        present = [
            tape("Identity", part) if parts.split else _to_heads(tape, part, heads) for part in (parts.key, parts.value)
        ]
    return [result, *present]


ATTENTION: Table = named(
    {
        "Attention": _attention,
        "DecoderMaskedSelfAttention": _attention,
        "QAttention": _qattention,
        "MultiHeadAttention": _multi_head_attention,
        "DecoderMaskedMultiHeadAttention": _decoder_masked,
    }
)
