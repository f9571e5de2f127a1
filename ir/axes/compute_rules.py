"""How the axes of what an op computes are tied to those of what it reads: one line an op, or a short rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from ..polynomial import Polynomial
from ..shape_compute import ELEMENTWISE, REDUCTIONS, SAME
from ..text import place
from .axis import Axis, Role, Why, product, split, tie
from .scope import Axes, Rule, Ties


def _same(node: ir.Node, ties: Ties) -> Iterator[Axes]:
    yield ties.read(node, 0)


def _elementwise(node: ir.Node, ties: Ties) -> Iterator[Axes]:
    yield ties.broadcast(node, ties.given(node))


def _matmul(node: ir.Node, ties: Ties) -> Iterator[Axes]:
    left, right = ties.read(node, 0), ties.read(node, 1)
    ties.add_up(node, [ties.join(node, [left[-1], right[-2] if len(right) > 1 else right[0]])], 0, 1)
    batch = ties.broadcast(node, [left[:-2], right[:-2]])
    yield (*batch, *left[-2:-1], *(right[-1:] if len(right) > 1 else ()))


def _gemm(node: ir.Node, ties: Ties) -> Iterator[Axes]:
    left, right = ties.read(node, 0), ties.read(node, 1)
    rows, inner = left[::-1] if ties.integer(node, "transA", 0) else left
    other, columns = right[::-1] if ties.integer(node, "transB", 0) else right
    ties.add_up(node, [ties.join(node, [inner, other])], 0, 1)
    if ties.has(node, 2):
        ties.broadcast(node, [(rows, columns), ties.read(node, 2)])
    yield (rows, columns)


def _einsum(node: ir.Node, ties: Ties) -> Iterator[Axes]:
    equation = ties.string(node, "equation", "").replace(" ", "")
    if "." in equation:
        raise ValueError("an Einsum with an ellipsis")
    left, arrow, right = equation.partition("->")
    known: dict[str, Axis] = {}
    for index, letters in enumerate(left.split(",")):
        for letter, axis in zip(letters, ties.read(node, index), strict=True):
            known[letter] = ties.join(node, [known[letter], axis]) if letter in known else axis
    kept = right if arrow else sorted(letter for letter in known if left.count(letter) == 1)
    ties.add_up(node, [axis for letter, axis in known.items() if letter not in kept], *range(len(node.inputs)))
    yield tuple(known[letter] for letter in kept)


def _normalized(node: ir.Node, ties: Ties) -> Iterator[Axes]:
    """LayerNormalization and RMSNormalization: over the axes from `axis` on, scale and bias along them."""
    data = ties.read(node, 0)
    at = ties.integer(node, "axis", -1) % len(data)
    for axis in data[at:]:
        axis.hold(Why.NORMALIZED, place(node))
    ties.broadcast(node, [data[at:], *(ties.read(node, index) for index in (1, 2) if ties.has(node, index))])
    yield data
    yield from ((*data[:at], *(Axis(1) for _ in data[at:])) for _ in node.outputs[1:])


def _channels(node: ir.Node, ties: Ties) -> Iterator[Axes]:
    """BatchNormalization: each channel for itself. InstanceNormalization: over what is behind the channels."""
    data = ties.read(node, 0)
    for index in range(1, len(node.inputs)):
        if ties.has(node, index):
            ties.join(node, [data[1], ties.read(node, index)[0]])
    if node.op_type == "InstanceNormalization":
        for axis in data[2:]:
            axis.hold(Why.NORMALIZED, place(node))
    yield data


def _groups(node: ir.Node, ties: Ties) -> Iterator[Axes]:
    data = ties.read(node, 0)
    parts = split(data[1], _sizes(data[1], ties.integer(node, "num_groups", 1)))
    for axis in (*data[2:], *(parts[1:] if parts else data[1:2])):
        axis.hold(Why.NORMALIZED, place(node))
    for index in (1, 2):
        ties.join(node, [data[1], ties.read(node, index)[0]])
    yield data


def _lp_normalized(node: ir.Node, ties: Ties) -> Iterator[Axes]:
    data = ties.read(node, 0)
    data[ties.integer(node, "axis", -1)].hold(Why.NORMALIZED, place(node))
    yield data


def _along(node: ir.Node, ties: Ties) -> Iterator[Axes]:
    """Ops that mix what lies along `axis`, and keep it: Softmax, CumSum."""
    data = ties.read(node, 0)
    if node.op_type == "CumSum":
        at = ties.constants(node, 1, "")
        mixed = data if not at else [data[at[0]]]
    else:
        mixed = [data[ties.integer(node, "axis", -1)]]
    ties.hold(node, mixed, f"{node.op_type} goes over it")
    yield data


def _reduce(node: ir.Node, ties: Ties) -> Iterator[Axes]:
    """What adds up takes no notice of zeros; a mean divides by how many there are, and other ops may choose them."""
    data = ties.read(node, 0)
    single = node.op_type in ("ArgMax", "ArgMin")
    axes = [ties.integer(node, "axis", 0)] if single else ties.constants(node, 1, "axes")
    if axes is None and ties.has(node, 1):
        raise ValueError("axes that are not known")
    if not axes and ties.integer(node, "noop_with_empty_axes", 0):
        yield data
        return
    gone = {axis % len(data) for axis in axes or range(len(data))}
    for at in gone:
        if node.op_type == "ReduceMean":
            data[at].hold(Why.NORMALIZED, place(node))
        elif node.op_type in _ADDING:
            ties.add_up(node, [data[at]], 0)
        else:
            ties.hold(node, [data[at]], f"{node.op_type} goes over it")
    keep = ties.integer(node, "keepdims", 1)
    yield tuple(Axis(1) if at in gone else axis for at, axis in enumerate(data) if keep or at not in gone)


_ADDING = ("ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2")


def _conv(node: ir.Node, ties: Ties) -> Iterator[Axes]:
    data, weight = ties.read(node, 0), ties.read(node, 1)
    group = ties.integer(node, "group", 1)
    turned = node.op_type == "ConvTranspose"
    if group == 1:
        ties.join(node, [data[1], weight[0 if turned else 1]])
        channels = weight[1 if turned else 0]
    else:
        parts, outer = split(weight[0], _sizes(weight[0], group)), split(data[1], _sizes(data[1], group))
        if parts is None or outer is None:
            raise ValueError("groups that do not divide the channels")
        tie(parts[0], outer[0])
        tie(parts[1] if turned else weight[1], outer[1])
        channels = product([parts[0], weight[1]]) if turned else weight[0]
        parts[0].count_as(Role.CHANNELS, node)
    channels.count_as(Role.CHANNELS, node)
    ties.add_up(node, [data[1]], 0, 1)
    if ties.has(node, 2):
        ties.join(node, [channels, ties.read(node, 2)[0]])
    ties.hold(node, weight[2:], "the kernel")
    # windows along it: a shorter one would be another convolution
    ties.hold(node, data[2:], "windows slide over it")
    yield (data[0], channels, *_rest(node, ties, 2))


def _pool(node: ir.Node, ties: Ties) -> Iterator[Axes]:
    data = ties.read(node, 0)
    ties.hold(node, data[2:], "windows slide over it")
    if len(node.outputs) > 1 and node.outputs[1].name:
        ties.hold(node, data[:2], "elements are numbered across it")
    for _ in node.outputs:
        yield (*data[:2], *_rest(node, ties, 2))


def _rest(node: ir.Node, ties: Ties, start: int) -> tuple[Axis, ...]:
    made = ties.fresh(node.outputs[0], f"the windows of {place(node)}")
    if made is None:
        raise ValueError("an output of unknown rank")
    return made[start:]


def _recurrent(node: ir.Node, ties: Ties) -> Iterator[Axes]:
    """W [directions, gates * units, in], R [directions, gates * units, units], B [directions, 2 * gates * units]."""
    data, weight, recurrence = (ties.read(node, index) for index in range(3))
    units = recurrence[2]
    units.count_as(Role.UNITS, node)
    first = ties.integer(node, "layout", 0)
    ties.add_up(node, [ties.join(node, [data[2], weight[2]])], 0, 1)
    ties.add_up(node, [units], 2)
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[node.op_type]
    stacked = [(weight[1], gates), (recurrence[1], gates)]
    stacked += [(ties.read(node, 3)[1], 2 * gates)] if ties.has(node, 3) else []
    stacked += [(ties.read(node, 7)[1], 3)] if ties.has(node, 7) else []
    for axis, count in stacked:
        parts = split(axis, _sizes(axis, count)) if count > 1 else [axis]
        if parts is None:
            raise ValueError(f"weights that do not hold {count} gates")
        ties.hold(node, parts[:-1], "gates")
        tie(parts[-1], units)
    directions = ties.join(node, [ties.read(node, at)[0] for at in (1, 2, 3, 7) if ties.has(node, at)])
    batch, steps = (data[0], data[1]) if first else (data[1], data[0])
    for index in (5, 6):
        if ties.has(node, index):
            begun = ties.read(node, index)
            for axis, other in zip(begun, (batch, directions) if first else (directions, batch), strict=False):
                ties.join(node, [other, axis])
            ties.join(node, [units, begun[2]])
    ties.hold(node, [directions], "directions")
    ties.hold(node, [steps], "the recurrence goes over it")
    state = (batch, directions, units) if first else (directions, batch, units)
    yield (batch, steps, directions, units) if first else (steps, directions, batch, units)
    yield from (state, state)


def _attention(node: ir.Node, ties: Ties) -> Iterator[Axes]:
    """Heads of keys and values are shared by `heads // key_heads` of queries: heads = key_heads * group."""
    query, key, value = (ties.read(node, index) for index in range(3))
    if len(query) == 3:
        heads = Polynomial.of(ties.integer(node, "q_num_heads", 0))
        key_heads = Polynomial.of(ties.integer(node, "kv_num_heads", 0))
        rows = [
            _split_heads(axes[2], count)
            for axes, count in ((query, heads), (key, key_heads), (value, key_heads))
        ]  # fmt: skip
        lengths = [axes[1] for axes in (query, key, value)]
    else:
        rows = [[axes[1], axes[3]] for axes in (query, key, value)]
        lengths = [axes[2] for axes in (query, key, value)]
    (asked, size), (kept, key_size), (valued, width) = rows
    grouped = split(asked, _sizes_of(asked, kept))
    if grouped is None:
        raise ValueError(f"{asked!r} heads of queries for {kept!r} of keys")
    tie(grouped[0], kept)
    tie(kept, valued)
    tie(size, key_size)
    # the group is cut as one: it shares its keys
    ties.hold(node, grouped[1:], "queries that share a head of keys")
    kept.count_as(Role.HEADS, node)
    size.hold(Why.HEAD_SIZE, place(node))
    ties.add_up(node, [size], 0, 1)
    for features in (size, width):
        features.count_as(Role.HEAD_FEATURES, node)
    totals = [lengths[1], lengths[1]]
    for index, (heads_of, features) in ((4, (kept, size)), (5, (valued, width))):
        if ties.has(node, index):
            past = ties.read(node, index)
            tie(past[1], heads_of)
            tie(past[3], features)
            ties.join(node, [query[0], past[0]])
            ties.hold(node, [past[2]], "attention goes over it")
            totals[index - 4] = Axis(Polynomial.of(f"?{node.name}:total"))
    ties.hold(node, lengths, "attention goes over it")
    if ties.has(node, 3):
        mask = ties.read(node, 3)
        ties.hold(node, mask[-2:], "attention goes over it")
        if len(mask) > 2:
            ties.join(node, [asked, mask[-3]])
        if len(mask) > 3:
            ties.join(node, [query[0], mask[-4]])
    batch = ties.join(node, [query[0], key[0], value[0]])
    yield (batch, lengths[0], product([asked, width])) if len(query) == 3 else (batch, asked, lengths[0], width)
    yield (batch, kept, totals[0], size)
    yield (batch, valued, totals[1], width)
    yield (batch, asked, lengths[0], totals[0])


def _split_heads(axis: Axis, heads: Polynomial) -> list[Axis]:
    parts = split(axis, _sizes(axis, heads))
    if parts is None:
        raise ValueError(f"{axis!r} features in {heads} heads")
    return parts


def _rotary(node: ir.Node, ties: Ties) -> Iterator[Axes]:
    data = ties.read(node, 0)
    heads = ties.integer(node, "num_heads", 0)
    if len(data) == 4:
        size = data[3]
        data[1].count_as(Role.HEADS, node)
    else:
        counted, size = _split_heads(data[2], Polynomial.of(heads))
        counted.count_as(Role.HEADS, node)
    ties.hold(node, [size], "rotated by position")
    for index in (1, 2):
        ties.hold(node, ties.read(node, index), "angles")
    yield data


def _scaled(node: ir.Node, ties: Ties) -> Iterator[Axes]:
    """QuantizeLinear and DequantizeLinear: scales lie along `axis`, or are one."""
    data = ties.read(node, 0)
    at = ties.integer(node, "axis", 1)
    block = ties.integer(node, "block_size", 0)
    for index in (1, 2):
        if ties.has(node, index):
            scales = ties.read(node, index)
            if block:
                ties.hold(node, (*scales, *data), "blocks of one scale")
            elif len(scales) == 1 and len(data) > 0:
                ties.join(node, [data[at], scales[0]])
    yield data


def _sizes(axis: Axis, count: int | Polynomial) -> list[Polynomial]:
    """An axis in `count` parts of one size."""
    number = Polynomial.of(count) if isinstance(count, int) else count
    return [number, axis.size // number]


def _sizes_of(asked: Axis, kept: Axis) -> Sequence[Polynomial]:
    return _sizes(asked, kept.size) if asked.size != kept.size else [asked.size]


#: Of the ops whose output is shaped as their input, those that mix along axes that no rule here knows.
_MIXING = ("LRN", "MeanVarianceNormalization")

COMPUTE: Mapping[tuple[str, str], Rule] = {
    **{("", op): _same for op in SAME if op not in _MIXING},
    **{("", op): _elementwise for op in ELEMENTWISE},
    **{("", op): _reduce for op in REDUCTIONS},
    **{("", op): _along for op in ("Softmax", "LogSoftmax", "Hardmax", "CumSum")},
    **{("", op): _normalized for op in ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")},
    **{("", op): _channels for op in ("BatchNormalization", "InstanceNormalization")},
    **{("", op): _conv for op in ("Conv", "ConvTranspose")},
    **{("", op): _pool for op in ("MaxPool", "AveragePool", "LpPool")},
    **{("", op): _pool for op in ("GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool")},
    **{("", op): _recurrent for op in ("LSTM", "GRU", "RNN")},
    **{("", op): _scaled for op in ("QuantizeLinear", "DequantizeLinear")},
    ("", "MatMul"): _matmul,
    ("", "Gemm"): _gemm,
    ("", "Einsum"): _einsum,
    ("", "GroupNormalization"): _groups,
    ("", "LpNormalization"): _lp_normalized,
    ("", "Attention"): _attention,
    ("", "RotaryEmbedding"): _rotary,
}
