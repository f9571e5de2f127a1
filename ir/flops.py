"""Floating-point operations of each op: two for a multiply-add, one for any other operation on an element.

A fused op counts what its decomposition counts (LayerNormalization: mean, subtract, square, mean, divide, scale,
shift: seven an element), so that fusing changes no figure. What only moves data counts nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from .polynomial import Polynomial, product, total
from .shape_compute import COMPUTE, ELEMENTWISE, REDUCTIONS, SAME, einsum_sizes
from .shape_layout import LAYOUT
from .shape_scope import Dims, Scope, dim_of

Count = Callable[[ir.Node, Scope], Polynomial]

#: Gates of a recurrence, and what a feature of its state costs a step beside the two products.
RECURRENCES: Mapping[str, tuple[int, int]] = {"LSTM": (4, 13), "GRU": (3, 13), "RNN": (1, 3)}


def elements(dims: Dims) -> Polynomial:
    """How many elements a shape has; ValueError where it is not known."""
    if dims is None:
        raise ValueError("the shape is unknown")
    return product(map(dim_of, dims))


def _output(node: ir.Node, scope: Scope) -> Polynomial:
    return elements(scope.of(node.outputs[0]))


def _input(node: ir.Node, scope: Scope, index: int = 0) -> Polynomial:
    return elements(scope.input(node, index))


def _each(operations: int) -> Count:
    """So many for each element of the output."""
    return lambda node, scope: _output(node, scope) * operations


def _each_read(node: ir.Node, scope: Scope) -> Polynomial:
    return _input(node, scope)


def _nothing(_: ir.Node, __: Scope) -> Polynomial:
    return Polynomial.of(0)


def _variadic(node: ir.Node, scope: Scope) -> Polynomial:
    return _output(node, scope) * max(1, len(node.inputs) - 1)


def _matmul(node: ir.Node, scope: Scope) -> Polynomial:
    left = scope.input(node, 0)
    depth = dim_of(left[-2 if scope.integer(node, "transA", 0) and len(left) > 1 else -1])
    bias = {"Gemm": 2, "FusedGemm": 2, "DynamicQuantizeMatMul": 4, "MatMulIntegerToFloat": 6, "MatMulNBits": 5}
    added = int(scope.has(node, bias[node.op_type])) if node.op_type in bias else 0
    return _output(node, scope) * (depth * 2 + added)


def _conv(node: ir.Node, scope: Scope) -> Polynomial:
    quantized = node.op_type == "QLinearConv"
    weight = scope.input(node, 3 if quantized else 1)
    added = 0 if node.op_type == "ConvInteger" else int(scope.has(node, 8 if quantized else 2))
    return _output(node, scope) * (product(map(dim_of, weight[1:])) * 2 + added)


def _conv_transpose(node: ir.Node, scope: Scope) -> Polynomial:
    weight = scope.input(node, 1)
    work = _input(node, scope) * product(map(dim_of, weight[1:])) * 2
    return work + _output(node, scope) if scope.has(node, 2) else work


def _pool(node: ir.Node, scope: Scope) -> Polynomial:
    return _output(node, scope) * product(map(Polynomial.of, scope.integers(node, "kernel_shape", [])))


def _recurrent(node: ir.Node, scope: Scope) -> Polynomial:
    """For each step and direction the two products, and the elementwise work on gates and states."""
    gates, pointwise = RECURRENCES[node.op_type.removeprefix("DynamicQuantize")]
    data = scope.input(node, 0)
    hidden = Polynomial.of(scope.integer(node, "hidden_size", 0))
    ways = 2 if scope.string(node, "direction", "forward") == "bidirectional" else 1
    steps = dim_of(data[0]) * dim_of(data[1]) * ways
    return steps * hidden * ((dim_of(data[2]) + hidden) * (2 * gates) + pointwise)


def _einsum(node: ir.Node, scope: Scope) -> Polynomial:
    sizes, _ = einsum_sizes(node, scope)
    return product(map(dim_of, sizes.values())) * (2 * (len(node.inputs) - 1) or 1)


def _scores(batch: Polynomial, queries: Polynomial, keys: Polynomial, width: Polynomial, out: Polynomial) -> Polynomial:
    """Q K^T, softmax and the weighted sum of V for the heads in `batch`."""
    return batch * queries * keys * (width * 2 + out * 2 + 5)


def _attention(node: ir.Node, scope: Scope) -> Polynomial:
    query, key, value = (scope.input(node, index) for index in range(3))
    past = dim_of(scope.input(node, 4)[2]) if scope.has(node, 4) else Polynomial.of(0)
    added = 1 if scope.has(node, 3) else 0
    if len(query) == 4:
        batch, heads, queries, width = map(dim_of, query)
        keys, out = dim_of(key[2]) + past, dim_of(value[3])
    else:
        heads = Polynomial.of(scope.integer(node, "q_num_heads", 1))
        kv_heads = Polynomial.of(scope.integer(node, "kv_num_heads", 1))
        batch, queries = dim_of(query[0]), dim_of(query[1])
        width, keys, out = dim_of(query[2]) // heads, dim_of(key[1]) + past, dim_of(value[2]) // kv_heads
    return _scores(batch * heads, queries, keys, width, out) + batch * heads * queries * keys * added


def _multi_head(node: ir.Node, scope: Scope) -> Polynomial:
    query, key, value = (scope.input(node, index) for index in range(3))
    heads = Polynomial.of(scope.integer(node, "num_heads", 1))
    keys, out = (key[1], dim_of(value[2]) // heads) if len(key) == 3 else (key[2], dim_of(value[-1]))
    return _scores(dim_of(query[0]) * heads, dim_of(query[1]), dim_of(keys), dim_of(query[2]) // heads, out)


def _packed_attention(node: ir.Node, scope: Scope) -> Polynomial:
    data, weight = scope.input(node, 0), scope.input(node, 1)
    heads = Polynomial.of(scope.integer(node, "num_heads", 1))
    batch, queries, width = map(dim_of, data)
    packed = dim_of(weight[1])
    size = packed // 3 // heads
    return batch * queries * packed * (width * 2 + 1) + _scores(batch * heads, queries, queries, size, size)


def _grouped(node: ir.Node, scope: Scope) -> Polynomial:
    query, key = scope.input(node, 0), scope.input(node, 1)
    heads = Polynomial.of(scope.integer(node, "num_heads", 1))
    width = dim_of(query[2]) // heads
    past = dim_of(scope.input(node, 3)[2]) if scope.has(node, 3) else Polynomial.of(0)
    return _scores(dim_of(query[0]) * heads, dim_of(query[1]), dim_of(key[1]) + past, width, width)


_NORMS = {"LayerNormalization": 7, "RMSNormalization": 4, "SimplifiedLayerNormalization": 4, "Softmax": 5}
_NORMS |= {"InstanceNormalization": 7, "GroupNormalization": 7, "BatchNormalization": 4, "LogSoftmax": 6}
_SEVERAL = {"Gelu": 5, "Swish": 2, "RotaryEmbedding": 3, "DequantizeLinear": 2, "QuantizeLinear": 3, "Mish": 3}
_CONTRIB = {"BiasGelu": 6, "FastGelu": 8, "Gelu": 5, "QuickGelu": 3, "BiasAdd": 2, "SkipLayerNormalization": 8}
_CONTRIB |= {"SkipSimplifiedLayerNormalization": 5, "SimplifiedLayerNormalization": 4, "RotaryEmbedding": 3}
_CONTRIB |= {"DequantizeLinear": 2, "QuantizeLinear": 3, "GatherBlockQuantized": 2}

FLOPS: Mapping[tuple[str, str], Count] = {
    **dict.fromkeys(LAYOUT, _nothing),
    **{("", op): _each(1) for op in (*SAME, *ELEMENTWISE)},
    **{("", op): _each_read for op in REDUCTIONS},
    **{("", op): _variadic for op in ("Max", "Min", "Sum", "Mean")},
    **{("", op): _each(count) for op, count in (_NORMS | _SEVERAL).items()},
    **{("com.microsoft", op): _each(count) for op, count in _CONTRIB.items()},
    **{key: _matmul for key in COMPUTE if "Mat" in key[1] or "Gemm" in key[1]},
    **{key: _conv for key in COMPUTE if "Conv" in key[1] and key[1] != "ConvTranspose"},
    ("", "ConvTranspose"): _conv_transpose,
    **{("", op): _pool for op in ("MaxPool", "AveragePool", "LpPool")},
    **{("", op): _each_read for op in ("GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool", "TopK")},
    ("", "DynamicQuantizeLinear"): _each(5),
    **{("", op): _recurrent for op in ("LSTM", "GRU", "RNN")},
    ("com.microsoft", "DynamicQuantizeLSTM"): _recurrent,
    ("", "Einsum"): _einsum,
    ("", "Attention"): _attention,
    ("com.microsoft", "MultiHeadAttention"): _multi_head,
    **{("com.microsoft", op): _packed_attention for op in ("Attention", "QAttention")},
    ("com.microsoft", "GroupQueryAttention"): _grouped,
    **{("", op): _nothing for op in ("If", "Loop", "Scan", "NonZero")},
}

#: Ops that hand on the same bytes under another shape, or read no data at all.
_VIEWS = frozenset(("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Dropout", "Shape", "Size", "Constant"))
_HOLDERS = frozenset(("If", "Loop", "Scan"))
_LOOKUPS = ("Gather", "GatherElements", "GatherND", "GatherBlockQuantized", "Slice")


def traffic(node: ir.Node, scope: Scope) -> tuple[Polynomial, Polynomial]:
    """Bytes of activations that the node reads and writes; weights are not counted, a lookup reads what it returns.

    Raises ValueError where a shape or type is unknown.
    """
    if node.op_type in _VIEWS | _HOLDERS:
        return Polynomial.of(0), Polynomial.of(0)
    written = total(_bytes(value, scope) for value in node.outputs if value.name)
    read = [value for value in dict.fromkeys(node.inputs) if value is not None and not _is_constant(value)]
    if node.op_type in _LOOKUPS:
        looked_up = written if any(value is node.inputs[0] for value in read) else Polynomial.of(0)
        return looked_up + total(_bytes(value, scope) for value in read if value is not node.inputs[0]), written
    return total(_bytes(value, scope) for value in read), written


def _bytes(value: ir.Value, scope: Scope) -> Polynomial:
    dtype = scope.type_of(value)
    if dtype is None:
        raise ValueError("the type is unknown")
    return elements(scope.of(value)) * dtype.bitwidth // 8


def _is_constant(value: ir.Value) -> bool:
    return ir.convenience.get_const_tensor(value) is not None
