"""Shape rules of ops that compute: products, convolutions, attention, recurrence, elementwise ops, control flow.

A rule yields the dimensions of one output after the other and may stop early; an error of lookup or arithmetic in it
means "unknown from here". Two different dynamic dimensions that meet in a broadcast must be equal for the model to
run, so the first is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce

import onnx_ir as ir

from .polynomial import Polynomial
from .shape_scope import ONE, Dims, Rule, Scope, dim_of, int_of

Dim = Polynomial | None


def broadcast(*shapes: tuple[Dim, ...], strict: bool = False) -> tuple[Dim, ...]:
    """Numpy's rule on polynomials. Of two dimensions that differ, either may be 1: `strict` leaves them unknown."""
    if all(shape == shapes[0] for shape in shapes[1:]) and None not in shapes[0]:
        return shapes[0]
    rank = max(map(len, shapes))
    padded = [(ONE,) * (rank - len(shape)) + shape for shape in shapes]
    meet = _meet_strictly if strict else _meet
    return tuple(reduce(meet, dims) for dims in zip(*padded, strict=True))


def _meet_strictly(left: Dim, right: Dim) -> Dim:
    if left == 1:
        return right
    if right == 1 or (left is not None and left == right):
        return left
    if limits(left, right):
        return right
    if limits(right, left):
        return left
    # a number other than 1 wins: the other is the same, or 1
    return next((dim for dim in (left, right) if dim is not None and dim.constant is not None), None)


def limits(table: Dim, size: Dim) -> tuple[Polynomial, ...]:
    """What bounds a size that a `Min` of it meets in a broadcast, which makes the two equal; empty where it does not.

    The smallest of several sizes is 1 where one of them is: if all others are 2 or more, only where `size` is.
    """
    if table is None or size is None or size not in table.smallest:
        return ()
    others = tuple(part for part in table.smallest if part != size)
    return others if all((part - 2).nonnegative for part in others) else ()


def _meet(left: Dim, right: Dim) -> Dim:
    if left == 1:
        return right
    if right == 1 or left == right:
        return left
    if left is None or right is None:
        known = left if right is None else right
        return known if known is not None and known.constant is not None else None
    return right if right.constant is not None else left


def _same(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    yield scope.input(node, 0)


def _elementwise(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    shapes = (scope.input(node, index) for index in range(len(node.inputs)) if scope.has(node, index))
    yield broadcast(*shapes, strict=scope.strict)


def matmul(left: tuple[Dim, ...], right: tuple[Dim, ...], *, strict: bool = False) -> tuple[Dim, ...]:
    """Shape of a product, one-dimensional operands included."""
    rows, columns = left[-2:-1], right[-1:] if len(right) > 1 else ()
    return broadcast(left[:-2], right[:-2], strict=strict) + rows + columns


def _matmul(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    left, right = scope.input(node, 0), scope.input(node, 1)
    if scope.integer(node, "transBatchA", 0) or scope.integer(node, "transBatchB", 0):
        return
    if scope.integer(node, "transA", 0):
        left = (*left[:-2], left[-1], left[-2])
    if scope.integer(node, "transB", 0):
        right = (*right[:-2], right[-1], right[-2])
    yield matmul(left, right, strict=scope.strict)


def _packed_matmul(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    yield (*scope.input(node, 0)[:-1], Polynomial.of(scope.integer(node, "N", 0)))


def _qlinear_matmul(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    yield matmul(scope.input(node, 0), scope.input(node, 3), strict=scope.strict)


def _conv(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    data, weight = scope.input(node, 0), scope.input(node, 3 if node.op_type == "QLinearConv" else 1)
    yield (data[0], weight[0], *_windows(node, scope, data[2:], [int_of(dim) for dim in weight[2:]]))


def _pool(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    data = scope.input(node, 0)
    yield (*data[:2], *_windows(node, scope, data[2:], scope.integers(node, "kernel_shape", [])))


def _windows(node: ir.Node, scope: Scope, data: tuple[Dim, ...], kernel: list[int]) -> Iterator[Dim]:
    ones, rank = [1] * len(kernel), len(kernel)
    strides, dilations = scope.integers(node, "strides", ones), scope.integers(node, "dilations", ones)
    pads = scope.integers(node, "pads", [0] * (2 * rank))
    automatic = scope.string(node, "auto_pad", "NOTSET")
    ceil = scope.integer(node, "ceil_mode", 0)
    for axis, dim in enumerate(data):
        if dim is None or (ceil and scope.strict):
            # whether the last window may start in the padding differs from opset to opset
            yield None
        elif automatic.startswith("SAME"):
            yield (dim + (strides[axis] - 1)) // strides[axis]
        else:
            around = 0 if automatic == "VALID" else pads[axis] + pads[axis + rank]
            room = dim + (around - dilations[axis] * (kernel[axis] - 1) - 1)
            yield (room + (strides[axis] - 1 if ceil else 0)) // strides[axis] + 1


def _conv_transpose(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    data, weight = scope.input(node, 0), scope.input(node, 1)
    rank = len(data) - 2
    ones, zeros = [1] * rank, [0] * rank
    strides, dilations = scope.integers(node, "strides", ones), scope.integers(node, "dilations", ones)
    pads, extra = scope.integers(node, "pads", zeros * 2), scope.integers(node, "output_padding", zeros)
    if scope.string(node, "auto_pad", "NOTSET") != "NOTSET" or "output_shape" in node.attributes:
        return
    spatial = []
    for axis, dim in enumerate(data[2:]):
        edge = extra[axis] + dilations[axis] * (int_of(weight[axis + 2]) - 1) + 1 - pads[axis] - pads[axis + rank]
        spatial.append((dim_of(dim) - 1) * strides[axis] + edge)
    yield (data[0], dim_of(weight[1]) * scope.integer(node, "group", 1), *spatial)


def _global_pool(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    data = scope.input(node, 0)
    yield (*data[:2], *(ONE for _ in data[2:]))


def _reduce(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    data = scope.input(node, 0)
    single = node.op_type in ("ArgMax", "ArgMin")
    axes = [scope.integer(node, "axis", 0)] if single else scope.constants(node, 1, "axes")
    if axes is None and scope.has(node, 1):
        raise ValueError("the axes are unknown")
    if not axes and scope.integer(node, "noop_with_empty_axes", 0):
        yield data
        return
    gone = {axis % len(data) for axis in axes or range(len(data))}
    keep = scope.integer(node, "keepdims", 1)
    yield tuple(ONE if axis in gone else dim for axis, dim in enumerate(data) if keep or axis not in gone)


def _dynamic_quantize(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    yield from (scope.input(node, 0), (), ())


def _recurrent(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    data = scope.input(node, 0)
    hidden = Polynomial.of(scope.integer(node, "hidden_size", 0))
    ways = Polynomial.of(2 if scope.string(node, "direction", "forward") == "bidirectional" else 1)
    batch_first = scope.integer(node, "layout", 0)
    batch, length = data[:2] if batch_first else (data[1], data[0])
    state = (batch, ways, hidden) if batch_first else (ways, batch, hidden)
    yield (batch, length, ways, hidden) if batch_first else (length, ways, batch, hidden)
    yield from (state, state)


def einsum_sizes(node: ir.Node, scope: Scope) -> tuple[dict[str, Dim], str]:
    """Size of each letter of an Einsum without ellipsis, and the letters of its output."""
    equation = scope.string(node, "equation", "").replace(" ", "")
    left, arrow, right = equation.partition("->")
    sizes: dict[str, Dim] = {}
    for index, letters in enumerate(left.split(",")):
        for letter, dim in zip(letters, scope.input(node, index), strict=True):
            sizes[letter] = _meet_strictly(sizes[letter], dim) if scope.strict and letter in sizes else dim
    return sizes, right if arrow else "".join(sorted(c for c in sizes if left.count(c) == 1))


def _einsum(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    sizes, letters = einsum_sizes(node, scope)
    yield tuple(sizes[letter] for letter in letters)


def _attention(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    query, key, value = (scope.input(node, index) for index in range(3))
    past = scope.input(node, 4)[2] if scope.has(node, 4) else ONE * 0
    if len(query) == 4:
        yield (*query[:3], value[3])
        heads, size, width, length = key[1], key[3], value[3], key[2]
    else:
        own = Polynomial.of(scope.integer(node, "q_num_heads", 1))
        heads = Polynomial.of(scope.integer(node, "kv_num_heads", 1))
        size, width, length = dim_of(key[2]) // heads, dim_of(value[2]) // heads, key[1]
        yield (query[0], query[1], width * own)
    total = dim_of(past) + dim_of(length)
    yield from ((query[0], heads, total, size), (query[0], heads, total, width))


def _fused_attention(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    """com.microsoft Attention and QAttention: packed weight [input, q + k + v]; MultiHeadAttention: three inputs."""
    data = scope.input(node, 0)
    if node.op_type == "MultiHeadAttention":
        if len(data) == 5:
            yield (*data[:2], dim_of(data[2]) * dim_of(data[4]))
        else:
            yield (
                (*data[:2], scope.input(node, 2)[2]) if scope.has(node, 2) and len(scope.input(node, 2)) == 3 else data
            )
        return
    sizes = scope.integers(node, "qkv_hidden_sizes", [])
    yield (*data[:2], Polynomial.of(sizes[2]) if sizes else dim_of(scope.input(node, 1)[1]) // 3)


def _grouped_attention(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    """com.microsoft GroupQueryAttention: queries alone, or with keys and values behind them."""
    data = scope.input(node, 0)
    if scope.has(node, 1):
        yield data
        return
    heads, groups = scope.integer(node, "num_heads", 1), scope.integer(node, "kv_num_heads", 1)
    yield (*data[:2], dim_of(data[2]) // (heads + 2 * groups) * heads)


def _embed(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    """com.microsoft EmbedLayerNormalization: states, lengths, the sum that was normalized."""
    ids, table = scope.input(node, 0), scope.input(node, 2)
    yield from ((*ids, table[1]), ids[:1], (*ids, table[1]))


def _if(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    branches = [node.attributes[name].as_graph() for name in scope.branches(node)]
    for values in zip(*(graph.outputs for graph in branches), strict=True):
        first, *others = (scope.of(value) for value in values)
        for dims in others:
            same_rank = first is not None and dims is not None and len(first) == len(dims)
            first = (
                tuple(a if a == b else None for a, b in zip(first or (), dims or (), strict=True))
                if same_rank
                else None
            )
        yield first


def _loop(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    body = node.attributes["body"].as_graph()
    scanned = 2 if node.op_type == "Loop" else scope.integer(node, "num_scan_inputs", 0)
    carried = len(node.inputs) - scanned
    results = body.outputs[1:] if node.op_type == "Loop" else body.outputs
    if node.op_type == "Scan" and len(node.inputs) != len(body.inputs):
        # before opset 9 it has its lengths first, and a batch
        return
    for index, value in enumerate(results):
        dims = scope.of(value)
        if index < carried and scope.strict:
            # of no round, the result is the state that it began with
            first = node.inputs[index + len(node.inputs) - carried if node.op_type == "Loop" else index]
            yield dims if first is not None and scope.of(first) == dims else None
        elif index < carried or dims is None:
            yield dims
        else:
            yield _stacked(dims, scope.trips(node), node, index - carried, scope)


def _stacked(dims: tuple[Dim, ...], trips: Dim, node: ir.Node, index: int, scope: Scope) -> Dims:
    """What the rounds gave, side by side. A Loop may end before its last round."""
    if scope.strict and node.op_type == "Loop":
        return (None, *dims)
    axes = scope.integers(node, "scan_output_axes", [])
    axis = axes[index] % (len(dims) + 1) if axes else 0
    return (*dims[:axis], trips, *dims[axis:])


def _ops(names: str) -> list[str]:
    return names.split()


#: Ops whose first output has the shape of the first input.
SAME = _ops(
    "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Ceil Celu Clip Cos Cosh CumSum DequantizeLinear Elu Erf Exp Floor "
    "Gelu HardSigmoid HardSwish Hardmax IsInf IsNaN LeakyRelu Log LogSoftmax Mish Neg Not QuantizeLinear Reciprocal "
    "Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softmax Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu "
    "LayerNormalization RMSNormalization BatchNormalization InstanceNormalization GroupNormalization LRN "
    "LpNormalization MeanVarianceNormalization RotaryEmbedding SimplifiedLayerNormalization"
)
ELEMENTWISE = _ops(
    "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min "
    "Mod Mul Or PRelu Pow Sub Sum Where Xor"
)
REDUCTIONS = _ops(
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
    "ReduceSumSquare ArgMax ArgMin"
)
CONTRIB_SAME = _ops(
    "BiasGelu FastGelu Gelu QuickGelu BiasAdd SkipLayerNormalization SkipSimplifiedLayerNormalization "
    "SimplifiedLayerNormalization RotaryEmbedding DequantizeLinear QuantizeLinear"
)
CONTRIB_MATMUL = _ops("FusedMatMul FusedGemm DynamicQuantizeMatMul MatMulIntegerToFloat")

COMPUTE: Mapping[tuple[str, str], Rule] = {
    **{("", op): _same for op in SAME},
    **{("com.microsoft", op): _same for op in CONTRIB_SAME},
    **{("", op): _elementwise for op in ELEMENTWISE},
    **{("", op): _reduce for op in REDUCTIONS},
    **{("", op): _matmul for op in ("MatMul", "MatMulInteger", "Gemm")},
    **{("com.microsoft", op): _matmul for op in CONTRIB_MATMUL},
    ("com.microsoft", "MatMulNBits"): _packed_matmul,
    ("", "QLinearMatMul"): _qlinear_matmul,
    **{("", op): _conv for op in ("Conv", "ConvInteger", "QLinearConv")},
    ("com.microsoft", "FusedConv"): _conv,
    ("", "ConvTranspose"): _conv_transpose,
    **{("", op): _pool for op in ("MaxPool", "AveragePool", "LpPool")},
    **{("", op): _global_pool for op in ("GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool")},
    ("", "DynamicQuantizeLinear"): _dynamic_quantize,
    **{("", op): _recurrent for op in ("LSTM", "GRU", "RNN")},
    ("com.microsoft", "DynamicQuantizeLSTM"): _recurrent,
    ("", "Einsum"): _einsum,
    ("", "Attention"): _attention,
    **{("com.microsoft", op): _fused_attention for op in ("Attention", "QAttention", "MultiHeadAttention")},
    ("com.microsoft", "GroupQueryAttention"): _grouped_attention,
    ("com.microsoft", "EmbedLayerNormalization"): _embed,
    ("", "If"): _if,
    ("", "Loop"): _loop,
    ("", "Scan"): _loop,
}
