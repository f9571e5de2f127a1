"""Normalizations with the sums that were fused into them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ...base import Miss
from ...edit import Tape
from .call import Build, Call, Table, added, alike, named, rank, size


def _layer_norm(call: Call) -> Build:
    """The standard op under another domain."""

    def build(tape: Tape) -> Sequence[ir.Value]:
        given = [value for value in (call[0], call[1], call[2]) if value is not None]
        names = call.kept("axis", "epsilon", "stash_type")
        node = tape.node("LayerNormalization", given, names, outputs=_count(call, 3))
        alike(node.outputs[0], call.need(0))
        return node.outputs

    return build


def _count(call: Call, most: int) -> int:
    """How many outputs have to be there for the last that is read."""
    return max((index + 1 for index in range(most) if call.reads(index)), default=1)


def _skip_layer_norm(call: Call) -> Build | Miss:
    """Layer norm of x + skip + bias; the sum is its fourth output."""
    fits = _skips(call)
    if fits is not None:
        return fits

    def build(tape: Tape) -> Sequence[ir.Value | None]:
        total = added(tape, call.need(0), call.need(1), call[4])
        inputs = [total, call.need(2), *([] if call[3] is None else [call[3]])]
        attributes = {"axis": -1, "epsilon": call.number("epsilon", 1e-12)}
        node = tape.node("LayerNormalization", inputs, attributes, outputs=_count(call, 3))
        alike(node.outputs[0], total)
        return [*node.outputs, *(None,) * (3 - len(node.outputs)), total]

    return build


def _skips(call: Call) -> Miss | None:
    """Whether the sum of x and skip has the shape of x: skip has it too, or lacks or has 1 as its batch."""
    x, skip = rank(call[0]), rank(call[1])
    if x is not None and skip is not None and skip > x:
        return Miss("skip", call.need(1).name or "", f"at most the {x} axes of the input")
    return None


def _skip_rms_norm(call: Call) -> Build | Miss:
    fits = _skips(call)
    if fits is not None:
        return fits
    if call.reads(1):
        return Miss("mean", call.node.outputs[1].name or "", "to be read by nobody: RMS normalization has no mean")

    def build(tape: Tape) -> Sequence[ir.Value | None]:
        total = added(tape, call.need(0), call.need(1), call[3])
        epsilon = call.number("epsilon", 1e-12)
        y = alike(tape("RMSNormalization", total, call.need(2), axis=-1, epsilon=epsilon), total)
        inverse = _inverse(tape, total, [-1], epsilon) if call.reads(2) else None
        return [y, None, inverse, total]

    return build


def _rms_norm(call: Call) -> Build | Miss:
    """SimplifiedLayerNormalization, in either domain: the type of the result is that of the scale."""
    x, scale, axis = call.need(0), call.need(1), call.integer("axis", -1)
    epsilon = call.number("epsilon", 1e-5)
    axes = rank(x)
    if call.reads(1) and axes is None:
        return Miss("rank", x.name or "", "an input of known rank, for the inverse of its root mean square")
    same = x.dtype is not None and x.dtype == scale.dtype

    def build(tape: Tape) -> Sequence[ir.Value | None]:
        given = x
        if not same:
            # in the wider of the two, then as the scale is
            wide = ir.DataType.DOUBLE if ir.DataType.DOUBLE in (x.dtype, scale.dtype) else ir.DataType.FLOAT
            given, weight = (tape("Cast", value, to=wide) for value in (x, scale))
            y = tape("CastLike", tape("RMSNormalization", given, weight, axis=axis, epsilon=epsilon), scale)
        else:
            y = tape("RMSNormalization", x, scale, axis=axis, epsilon=epsilon)
            alike(y, x)
        inverse = _inverse(tape, x, list(range(axis % (axes or 1), axes or 1)), epsilon) if call.reads(1) else None
        return [y, inverse]

    return build


def _inverse(tape: Tape, x: ir.Value, axes: list[int], epsilon: float) -> ir.Value:
    """1 / sqrt(mean(x^2) + epsilon), in float32."""
    wide = x if x.dtype == ir.DataType.FLOAT else tape("Cast", x, to=ir.DataType.FLOAT)
    mean = tape("ReduceMean", tape("Mul", wide, wide), tape.constant(axes, "axes"), keepdims=1)
    return tape("Reciprocal", tape("Sqrt", tape("Add", mean, tape.constant(epsilon))))


def _embed_layer_norm(call: Call) -> Build | Miss:
    """Layer norm of the sum of word, position and segment embeddings; how many tokens the mask shows; the sum."""
    ids, segments, words, places, table, gamma, beta, mask, positions = (call[index] for index in range(9))
    if words is None or places is None or ids is None:
        return Miss("inputs", call.node.name or "", "ids with tables of words and positions")
    if segments is not None and table is None:
        return Miss("segments", segments.name or "", "a table of segment embeddings")

    def build(tape: Tape) -> Sequence[ir.Value | None]:
        sequence = tape("Shape", ids, start=1, end=2)
        if positions is not None:
            rows = tape("Gather", places, positions, axis=0)
        else:
            zero, one = tape.constant(np.array(0, np.int64), "zero"), tape.constant(np.array(1, np.int64), "one")
            count = tape("Squeeze", sequence, tape.constant([0], "axes"))
            rows = tape("Gather", places, tape("Range", zero, count, one), axis=0)
        total = tape("Gather", words, ids, axis=0)
        total = tape("Add", total, rows)
        if segments is not None and table is not None:
            total = tape("Add", total, tape("Gather", table, segments, axis=0))
        total.type = words.type
        inputs = [value for value in (total, gamma, beta) if value is not None]
        y = tape("LayerNormalization", *inputs, axis=-1, epsilon=call.number("epsilon", 1e-12))
        y.type = words.type
        return [y, _lengths(tape, ids, mask) if call.reads(1) else None, total if call.reads(2) else None]

    return build


def _lengths(tape: Tape, ids: ir.Value, mask: ir.Value | None) -> ir.Value:
    """How many tokens the mask shows of each row, int32 [batch]; 0 without a mask, as ONNX Runtime has it."""
    if mask is None:
        batch = tape("Shape", ids, start=0, end=1)
        return tape("ConstantOfShape", batch, value=ir.tensor(np.zeros(1, np.int32)))
    total = tape("ReduceSum", mask, tape.constant([1], "axes"), keepdims=0)
    return total if mask.dtype == ir.DataType.INT32 else tape("Cast", total, to=ir.DataType.INT32)


def _group_norm(call: Call) -> Build | Miss:
    """Group norm, and SiLU where asked for."""
    refused = _grouped(call)
    if refused is not None:
        return refused
    return lambda tape: [_by_group(tape, call, call.need(0), call.need(0))]


def _grouped(call: Call) -> Miss | None:
    x = call.need(0)
    if rank(x) is None:
        return Miss("rank", x.name or "", "an input of known rank, to move its channels")
    if call.integer("activation") not in (0, 1):
        return Miss("activation", str(call.integer("activation")), "0 for none or 1 for SiLU")
    return None


def _by_group(tape: Tape, call: Call, total: ir.Value, x: ir.Value) -> ir.Value:
    """What is normalized, of the type and number of axes of x."""
    axes, last = rank(x) or 0, bool(call.integer("channels_last", 1))
    inner = tape("Transpose", total, perm=[0, axes - 1, *range(1, axes - 1)]) if last else total
    scale, shift = call.need(1), call.need(2)
    wide = inner if x.dtype == scale.dtype else tape("CastLike", inner, scale)
    groups, epsilon = call.integer("groups"), call.number("epsilon", 1e-5)
    y = tape("GroupNormalization", wide, scale, shift, num_groups=groups, epsilon=epsilon)
    y = tape("Mul", y, tape("Sigmoid", y)) if call.integer("activation") else y
    y = y if x.dtype == scale.dtype else tape("CastLike", y, x)
    return tape("Transpose", y, perm=[0, *range(2, axes), 1]) if last else y


def _skip_group_norm(call: Call) -> Build | Miss:
    """Group norm of x + skip + bias, skip [batch, channels] where it has two axes; the sum is its second output."""
    refused = _grouped(call)
    if refused is not None:
        return refused
    x, skip, axes = call.need(0), call.need(3), rank(call[0]) or 0
    if rank(skip) not in (2, axes):
        return Miss("skip", f"{skip.name}: rank {rank(skip)}", f"{axes} axes, or batch and channels alone")
    last = bool(call.integer("channels_last", 1))
    places = [axis for axis in range(1, axes) if axis != (axes - 1 if last else 1)]

    def build(tape: Tape) -> list[ir.Value]:
        inner = skip if rank(skip) == axes else tape("Unsqueeze", skip, tape.constant(places, "axes"))
        bias = call[4]
        if bias is not None and not last:
            bias = tape("Unsqueeze", bias, tape.constant([*range(1, axes - 1)], "axes"))
        total = added(tape, x, inner, bias)
        return [_by_group(tape, call, total, x), total]

    return build


def _gated_rms_norm(call: Call) -> Build | Miss:
    """RMS norm over runs of the scale's length, times silu(gate) or sigmoid(gate), in float32 at least."""
    x, scale, gate = (call.need(index) for index in range(3))
    run, width, axes, opened = size(scale, 0), size(x, -1), rank(x), call.text("activation", "silu")
    if opened not in ("silu", "swish", "sigmoid"):
        return Miss("activation", opened, "silu, swish or sigmoid")
    if axes is None or not isinstance(run, int) or not isinstance(width, int) or not run or width % run:
        return Miss("scale", f"{scale.name} [{run}] over {width}", "a length that divides the last axis, both known")
    epsilon = call.number("epsilon", 1e-5)

    def widened(tape: Tape, value: ir.Value) -> ir.Value:
        return value if x.dtype in _WIDE else tape("Cast", value, to=ir.DataType.FLOAT)

    def build(tape: Tape) -> list[ir.Value]:
        wide, weight, door = (widened(tape, value) for value in (x, scale, gate))
        if run != width:
            wide = tape("Reshape", wide, tape.constant([0] * (axes - 1) + [width // run, run], "shape"))
        y = tape("RMSNormalization", wide, weight, axis=-1, epsilon=epsilon)
        if run != width:
            y = tape("Reshape", y, tape.constant([0] * (axes - 1) + [width], "shape"))
        factor = tape("Sigmoid", door)
        y = tape("Mul", y, factor if opened == "sigmoid" else tape("Mul", door, factor))
        return [alike(y if x.dtype in _WIDE else tape("CastLike", y, x), x)]

    return build


_WIDE = (ir.DataType.FLOAT, ir.DataType.DOUBLE)

NORMS: Table = {
    # ONNX Runtime reads this one in the standard domain
    ("", "SimplifiedLayerNormalization"): _rms_norm,
    **named(
        {
            "SimplifiedLayerNormalization": _rms_norm,
            "LayerNormalization": _layer_norm,
            "SkipLayerNormalization": _skip_layer_norm,
            "SkipSimplifiedLayerNormalization": _skip_rms_norm,
            "EmbedLayerNormalization": _embed_layer_norm,
            "GroupNorm": _group_norm,
            "SkipGroupNorm": _skip_group_norm,
            "GatedRMSNorm": _gated_rms_norm,
        }
    ),
}
