"""Recipes for layers: products, convolution, pooling, normalization, resizing, quantization, recurrence, attention."""

from __future__ import annotations

from typing import Any

import numpy as np
from tersor.benchmarks._fuzz_graph import FLOATS, Builder, Recipe, Unfit, Value

_BYTES = tuple(np.dtype(name) for name in ("uint8", "int8"))
_MS = "com.microsoft"


def matmul(g: Builder) -> None:
    a = g.pick(g.types("MatMul"), least=1)
    k, n = a.shape[-1], g.choose([2, 1, 3, 0])
    batch = a.shape[:-2] if g.flag() else ()
    g.node("MatMul", [a, g.pick([a.dtype], shape=(*batch, k, n) if g.integer(0, 4) else (k,))])


def gemm(g: Builder) -> None:
    a = g.pick(g.types("Gemm"), rank=2)
    flip, flop = g.integer(0, 1), g.integer(0, 1)
    m, k = a.shape[::-1] if flip else a.shape
    n = g.choose([2, 1, 3, 0])
    b = g.pick([a.dtype], shape=(n, k) if flop else (k, n))
    c = [g.pick([a.dtype], shape=g.choose([(m, n), (n,), (1, n), (m, 1), ()]))] if g.opset < 11 or g.flag() else []
    g.node("Gemm", [a, b, *c], transA=flip, transB=flop, **g.attributes("Gemm", alpha=g.number(), beta=g.number()))


def einsum(g: Builder) -> None:
    dtype = g.choose(g.types("Einsum"))
    equation, *shapes = g.choose(
        [
            ("ij,jk->ik", (2, 3), (3, 4)),
            ("bij,bkj->bik", (2, 3, 4), (2, 2, 4)),
            ("ii->i", (3, 3)),
            ("ij->ji", (2, 3)),
            ("i,j", (2,), (3,)),
            ("...j,j->...", (2, 3, 4), (4,)),
            ("ij->", (2, 3)),
            ("ijk,ijk->j", (2, 3, 2), (2, 3, 2)),
        ]
    )
    g.node("Einsum", [g.pick([dtype], shape=shape) for shape in shapes], equation=equation)


def windows(g: Builder, op: str, dims: tuple[int, ...], kernel: list[int]) -> dict[str, Any]:
    """Strides, dilations and pads with which at least one window fits."""
    n = len(dims)
    strides = [g.integer(1, 2) for _ in dims]
    dilations = [g.integer(1, 2) for _ in dims] if g.has(op, "dilations") and g.flag() else [1] * n
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    given: dict[str, Any] = {"strides": strides, **({"dilations": dilations} if max(dilations) > 1 else {})}
    if g.integer(0, 3) == 3 and max(dilations) == 1:
        return {**given, "auto_pad": g.choose(["SAME_UPPER", "SAME_LOWER", "VALID"])}
    pads = [g.integer(0, size - 1) for size in (*kernel, *kernel)]
    for i, dim in enumerate(dims):
        if dim + pads[i] + pads[i + n] < reach[i]:
            raise Unfit
    return {**given, "pads": pads}


def convolution(g: Builder) -> None:
    op = g.choose(["Conv", "ConvTranspose"])
    dtype = g.choose(g.types(op))
    x = g.pick([dtype], least=3, most=4)
    group = g.choose([n for n in (1, 2, 3) if x.shape[1] and x.shape[1] % n == 0] or [None])
    if group is None or 0 in x.shape[2:]:
        raise Unfit
    kernel = [g.integer(1, min(3, dim)) for dim in x.shape[2:]]
    out = group * g.integer(1, 2)
    shape = (out, x.shape[1] // group) if op == "Conv" else (x.shape[1], out // group)
    bias = [g.pick([dtype], shape=(out,))] if g.flag() else []
    flags = windows(g, op, x.shape[2:], kernel)
    if op == "ConvTranspose" and "pads" in flags:
        flags["output_padding"] = [g.integer(0, step - 1) for step in flags["strides"]]
    g.node(op, [x, g.pick([dtype], shape=(*shape, *kernel)), *bias], group=group, **flags)


def pool(g: Builder) -> None:
    op = g.choose(["MaxPool", "AveragePool", "LpPool"])
    x = g.pick(g.types(op), least=3, most=4)
    if 0 in x.shape:
        raise Unfit
    kernel = [g.integer(1, min(3, dim)) for dim in x.shape[2:]]
    flags = windows(g, op, x.shape[2:], kernel)
    more = g.attributes(op, ceil_mode=g.integer(0, 1), count_include_pad=g.integer(0, 1), p=g.integer(1, 3))
    outputs = g.integer(1, 2) if op == "MaxPool" and g.opset >= 8 else 1
    order = g.attributes(op, storage_order=g.integer(0, 1)) if outputs == 2 else {}
    g.node(op, [x], outputs, kernel_shape=kernel, **flags, **more, **order)


def global_pool(g: Builder) -> None:
    op = g.choose(["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
    g.node(op, [g.pick(g.types(op), least=3)], **g.attributes(op, p=g.integer(1, 3)))


def layer_norm(g: Builder) -> None:
    op = g.choose(["LayerNormalization", "RMSNormalization"])
    x = g.pick(g.types(op), least=1)
    axis = g.axis(x.rank)
    scale = g.pick([x.dtype], shape=x.shape[axis:])
    bias = [g.pick([x.dtype], shape=scale.shape)] if op == "LayerNormalization" and g.flag() else []
    outputs = g.integer(1, 3) if op == "LayerNormalization" else 1
    g.node(op, [x, scale, *bias], outputs, axis=axis, **g.attributes(op, epsilon=0.01))


def channel_norm(g: Builder) -> None:
    op = g.choose(["BatchNormalization", "InstanceNormalization", "LRN", "MeanVarianceNormalization"])
    x = g.pick(g.types(op), least=4 if op == "MeanVarianceNormalization" else 3)
    c = (x.shape[1],)
    if op == "LRN":
        g.node(op, [x], size=g.choose([1, 3, 5]), **g.attributes(op, alpha=0.1, beta=0.5, bias=2.0))
    elif op == "MeanVarianceNormalization":
        g.node(op, [x])
    else:
        if op == "InstanceNormalization" and 0 in x.shape:
            # ONNX Runtime 1.31 dies of it
            raise Unfit
        rest = [g.pick([x.dtype], shape=c) for _ in range(2)]
        if op == "BatchNormalization":
            rest += [g.pick([x.dtype], shape=c), g.give(np.linspace(0.5, 2, c[0]).astype(x.dtype))]
        g.node(op, [x, *rest], **g.attributes(op, epsilon=0.01))


def resize(g: Builder) -> None:
    op = "Resize" if g.opset >= 10 else "Upsample"
    x = g.pick([FLOATS[0]], rank=4)
    if 0 in x.shape:
        raise Unfit
    scales = np.array([1, 1, *(g.choose([2.0, 1.0, 1.5, 0.5, 0.75]) for _ in range(2))], np.float32)
    if op == "Upsample":
        scales = np.ceil(scales)
    mode = g.choose(["nearest", "linear", "cubic"] if g.opset >= 11 else ["nearest", "linear"])
    if op == "Upsample" and g.opset < 9:
        g.node(op, [x], mode=mode, scales=scales.tolist())
        return
    if g.opset < 11:
        g.node(op, [x, g.give(scales, fixed=True)], mode=mode)
        return
    shapes = ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"]
    flags: dict[str, Any] = {"coordinate_transformation_mode": g.choose(shapes)}
    if mode == "nearest":
        flags["nearest_mode"] = g.choose(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
    if mode == "cubic":
        flags |= g.attributes(op, cubic_coeff_a=-0.5, exclude_outside=1)
    roi = g.give(np.zeros(0, np.float32), fixed=True) if g.opset < 13 else None
    if g.flag():
        g.node(op, [x, roi, g.give(scales, fixed=True)], mode=mode, **flags)
    else:
        empty = g.give(np.zeros(0, np.float32), fixed=True) if g.opset < 13 else None
        sizes = g.ints(*x.shape[:2], *(g.integer(1, 5) for _ in range(2)))
        g.node(op, [x, roi, empty, sizes], mode=mode, **flags)


def grid_sample(g: Builder) -> None:
    x = g.pick([FLOATS[0]], rank=4)
    if 0 in x.shape:
        raise Unfit
    grid = g.new(FLOATS[0], (x.shape[0], g.integer(1, 3), g.integer(1, 3), 2))
    kinds = ["linear", "nearest", "cubic"] if g.opset >= 20 else ["bilinear", "nearest", "bicubic"]
    flags = g.attributes("GridSample", align_corners=1, padding_mode=g.choose(["zeros", "border", "reflection"]))
    g.node("GridSample", [x, grid], mode=g.choose(kinds), **flags)


def space(g: Builder) -> None:
    op = g.choose(["DepthToSpace", "SpaceToDepth"])
    dtype = g.choose([dtype for dtype in g.types(op) if dtype in FLOATS])
    x = g.pick([dtype], shape=(1, 4, 2, 4))
    g.node(op, [x], blocksize=2, **g.attributes(op, mode="CRD"))


def reverse_sequence(g: Builder) -> None:
    x = g.pick(g.types("ReverseSequence"), least=2)
    batch = g.integer(0, 1)
    lengths = g.give(np.full(x.shape[batch], min(x.shape[1 - batch], g.integer(1, 3)), np.int64))
    g.node("ReverseSequence", [x, lengths], batch_axis=batch, time_axis=1 - batch)


def quantize(g: Builder) -> None:
    x = g.pick([FLOATS[0]])
    if g.opset >= 11 and g.integer(0, 3) == 3:
        g.node("DynamicQuantizeLinear", [x], 3)
        return
    axis = g.axis(x.rank) if g.opset >= 13 and x.rank and g.flag() else None
    shape = () if axis is None else (x.shape[axis],)
    scale = g.give(np.linspace(0.05, 0.5, int(np.prod(shape))).astype(np.float32).reshape(shape))
    zero = g.give(np.asarray(np.full(shape, g.integer(0, 9))).astype(g.choose(_BYTES)))
    flags = {} if axis is None else {"axis": axis}
    found = g.node("QuantizeLinear", [x, scale, zero], **flags)
    if found:
        g.node("DequantizeLinear", [found[0], scale, zero], **flags)


def integer_product(g: Builder) -> None:
    a = g.pick(_BYTES, rank=2)
    b = g.pick(_BYTES, shape=(a.shape[1], g.integer(1, 3)))
    zeros = [g.give(np.array(g.integer(0, 9), part.dtype)) if g.flag() else None for part in (a, b)]
    if g.flag():
        g.node("MatMulInteger", [a, b, *zeros])
        return
    scale = g.give(np.array(0.1, np.float32))
    first, second = (zero or g.give(np.array(0, part.dtype)) for zero, part in zip(zeros, (a, b), strict=True))
    result = g.give(np.array(3, g.choose(_BYTES)))
    g.node("QLinearMatMul", [a, scale, first, b, scale, second, scale, result])


def recurrence(g: Builder) -> None:
    op, gates = g.choose([("LSTM", 4), ("GRU", 3), ("RNN", 1)])
    x = g.pick([FLOATS[0]], rank=3)
    if 0 in x.shape:
        raise Unfit
    hidden, direction = g.integer(1, 2), g.choose(["forward", "reverse", "bidirectional"])
    d = 2 if direction == "bidirectional" else 1
    rows = gates * hidden
    weights: list[Value | None] = [g.pick([x.dtype], shape=(d, rows, n)) for n in (x.shape[2], hidden)]
    optional: list[Value | None] = [
        g.pick([x.dtype], shape=(d, 2 * rows)) if g.flag() else None,
        g.give(np.full(x.shape[1], g.integer(1, x.shape[0]), np.int32)) if g.flag() else None,
        g.pick([x.dtype], shape=(d, x.shape[1], hidden)) if g.flag() else None,
    ]
    flags = g.attributes(op, linear_before_reset=1, clip=1.5, input_forget=1 if op == "LSTM" else None)
    g.node(op, [x, *weights, *optional], 3 if op == "LSTM" else 2, hidden_size=hidden, direction=direction, **flags)


def attention(g: Builder) -> None:
    batch, heads, rows, total, width = 1, 2, g.integer(1, 3), g.integer(1, 4), 4
    dtype = g.choose([FLOATS[0], FLOATS[0], FLOATS[2]])
    q = g.pick([dtype], shape=(batch, heads, rows, width))
    k, v = (g.pick([dtype], shape=(batch, heads, total, width)) for _ in range(2))
    mask = [g.pick([dtype, np.dtype("bool")], shape=(rows, total))] if g.flag() else []
    g.node("Attention", [q, k, v, *mask], **g.attributes("Attention", is_causal=1, scale=0.3, softcap=2.0))


def losses(g: Builder) -> None:
    op = g.choose(["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"])
    x = g.pick([FLOATS[0]], least=2, most=3)
    if not x.shape[1]:
        raise Unfit
    target = g.give(np.full((x.shape[0], *x.shape[2:]), g.integer(0, x.shape[1] - 1), np.int64))
    weight = [g.give(np.linspace(0.5, 1, x.shape[1]).astype(np.float32))] if g.flag() else []
    g.node(op, [x, target, *weight], **g.attributes(op, reduction=g.choose(["mean", "sum", "none"]), ignore_index=1))


def transforms(g: Builder) -> None:
    op = g.choose(["DFT", "HannWindow", "HammingWindow", "BlackmanWindow", "EyeLike"])
    if op == "EyeLike":
        g.node(op, [g.pick(g.types(op), rank=2)], **g.attributes(op, k=g.integer(-3, 3), dtype=g.choose([1, 7, 11])))
    elif op != "DFT":
        g.node(op, [g.give(np.array(g.integer(1, 6), np.int64))], **g.attributes(op, periodic=0))
    else:
        x = g.pick([FLOATS[0]], shape=(g.integer(1, 2), g.integer(1, 5), g.integer(1, 2)))
        flags = (
            {"onesided": 1} if x.shape[2] == 1 and g.flag() else {"inverse": 1} if x.shape[2] == 2 and g.flag() else {}
        )
        g.node(op, [x], **flags, **({"axis": 1} if g.opset < 20 else {}))


def contrib(g: Builder) -> None:
    x = g.pick([FLOATS[0]], least=2, most=3)
    if 0 in x.shape:
        raise Unfit
    op = g.choose(["Gelu", "QuickGelu", "BiasGelu", "FastGelu", "FusedMatMul", "SkipLayerNormalization", "FusedGemm"])
    last = x.shape[-1]
    if op in ("BiasGelu", "FastGelu"):
        g.node(op, [x, g.pick([x.dtype], shape=(last,))], domain=_MS)
    elif op == "FusedMatMul":
        g.node(op, [x, g.pick([x.dtype], shape=(3, last))], domain=_MS, transB=1, alpha=g.number())
    elif op == "SkipLayerNormalization":
        if x.rank != 3:
            raise Unfit
        g.node(op, [x, g.pick([x.dtype], shape=x.shape), g.pick([x.dtype], shape=(last,))], domain=_MS)
    elif op == "FusedGemm":
        if x.rank != 2:
            raise Unfit
        g.node(
            op, [x, g.pick([x.dtype], shape=(last, 2))], domain=_MS, activation=g.choose(["Relu", "Tanh", "Sigmoid"])
        )
    else:
        g.node(op, [x], domain=_MS)


def folded(g: Builder) -> None:
    if g.opset < 18:
        raise Unfit
    op = g.choose(["Col2Im", "CenterCropPad", "GroupNormalization"])
    if op == "Col2Im":
        x = g.pick([FLOATS[0]], shape=(1, 4, 4))
        g.node(op, [x, g.ints(3, 3), g.ints(2, 2)])
    elif op == "CenterCropPad":
        x = g.pick(FLOATS, least=1)
        axes = g.axes(x.rank) or [0]
        g.node(op, [x, g.ints(*(g.integer(1, 5) for _ in axes))], axes=axes)
    else:
        x = g.pick([FLOATS[0]], shape=(2, 4, 3))
        size = 2 if g.opset < 21 else 4
        g.node(op, [x, *(g.pick([x.dtype], shape=(size,)) for _ in range(2))], num_groups=2)


LAYERS: tuple[Recipe, ...] = (
    *(
        matmul,
        matmul,
        gemm,
        einsum,
        convolution,
        convolution,
        pool,
        pool,
        global_pool,
        layer_norm,
        channel_norm,
        resize,
    ),
    *(
        grid_sample,
        space,
        reverse_sequence,
        quantize,
        integer_product,
        recurrence,
        attention,
        losses,
        transforms,
        contrib,
    ),
    folded,
)
