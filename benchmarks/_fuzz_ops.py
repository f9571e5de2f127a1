"""Recipes for nodes on values of any shape: arithmetic, shapes, selection, reductions, types."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from tersor.benchmarks._fuzz_graph import DTYPES, FLOATS, Builder, Recipe, Unfit, Value, code_of

_UNARY = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Ceil", "Celu", "Cos", "Cosh", "Elu"),
    *("Erf", "Exp", "Floor", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish"),
    *("Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus"),
    *("Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Gelu"),
)
_BINARY = (
    *("Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater", "GreaterOrEqual", "Less"),
    *("LessOrEqual", "Mul", "Or", "Sub", "Xor", "PRelu"),
)
_REDUCED = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
_INTS = tuple(dtype for dtype in DTYPES if dtype.kind in "iu")
_INT64, _BOOL = np.dtype("int64"), np.dtype("bool")


def unary(g: Builder) -> None:
    op = g.choose(_UNARY)
    x = g.pick(g.types(op))
    kind = onnx.defs.OpSchema.AttrType.FLOAT
    floats = {name: g.number() for name, known in g.schema(op).attributes.items() if known.type == kind}
    flags = {"detect_negative": g.integer(0, 1), "detect_positive": g.integer(0, 1)} if op == "IsInf" else {}
    g.node(op, [x], **g.attributes(op, **floats, **flags, approximate="tanh" if op == "Gelu" else None))


def mate(g: Builder, x: Value, dtypes: Any = None, *, narrow: bool = False) -> Value:
    """A value that broadcasts with x; `narrow` to no more than x's shape."""
    shape = [1 if not g.integer(0, 3) else dim for dim in x.shape]
    shape = shape[g.integer(0, len(shape)) :] if g.flag() else shape
    if not narrow and g.integer(0, 5) == 5 and len(shape) < 4:
        shape = [g.integer(1, 2), *[1] * (x.rank - len(shape)), *shape]
    kinds = dtypes or [x.dtype]
    found = [v for v in g.known() if v.dtype in kinds and _broadcasts(v.shape, x.shape, narrow=narrow)]
    if found and g.integer(0, 2):
        return g.choose(found[::-1])  # type: ignore[no-any-return]
    return g.new(g.choose(kinds), shape)


def _broadcasts(a: tuple[int, ...], b: tuple[int, ...], *, narrow: bool) -> bool:
    try:
        joint = np.broadcast_shapes(a, b)
    except ValueError:
        return False
    return (not narrow or joint == b) and math.prod(joint) <= 1024


def binary(g: Builder) -> None:
    op = g.choose(_BINARY)
    x = g.pick(g.types(op))
    g.node(op, [x, mate(g, x, narrow=op == "PRelu")])


def shift(g: Builder) -> None:
    x = g.pick(g.types("BitShift"))
    bits = g.give(np.asarray(np.random.default_rng(g.integer(0, 9)).integers(0, 8, x.shape)).astype(x.dtype))
    g.node("BitShift", [x, bits], direction=g.choose(["LEFT", "RIGHT"]))


def remainder(g: Builder) -> None:
    x = g.pick(g.types("Mod"))
    g.node("Mod", [x, mate(g, x)], fmod=1 if x.dtype.kind == "f" else g.integer(0, 1))


def power(g: Builder) -> None:
    x = g.pick(g.types("Pow"))
    g.node("Pow", [x, mate(g, x, g.types("Pow", 1) if g.opset >= 12 else None)])


def several(g: Builder) -> None:
    op = g.choose(["Max", "Min", "Sum", "Mean"])
    x = g.pick(g.types(op))
    g.node(op, [x, *(mate(g, x, narrow=True) for _ in range(g.integer(0, 2)))])


def clip(g: Builder) -> None:
    if g.has("Clip", "min"):
        g.node("Clip", [g.pick(g.types("Clip"))], **g.attributes("Clip", min=g.number(), max=g.number()))
        return
    x = g.pick(g.types("Clip"))
    low, high = (g.pick([x.dtype], shape=()) if g.flag() else None for _ in range(2))
    g.node("Clip", [x, low, high])


def where(g: Builder) -> None:
    x = g.pick(g.types("Where", 1))
    y = mate(g, x)
    g.node("Where", [mate(g, x, [_BOOL]), x, y])


def cast(g: Builder) -> None:
    x, to = g.pick(g.types("Cast")), g.choose(DTYPES)
    g.node("Cast", [x], to=code_of(to))


def cast_like(g: Builder) -> None:
    g.node("CastLike", [g.pick(DTYPES), g.pick(DTYPES)])


def axes_of(g: Builder, op: str, axes: list[int]) -> tuple[list[Value], dict[str, Any]]:
    """Axes as the opset has them: an input or an attribute."""
    if not axes:
        return [], {}
    return ([], {"axes": axes}) if g.has(op, "axes") else ([g.ints(*axes)], {})


def reduction(g: Builder) -> None:
    op = f"Reduce{g.choose(_REDUCED)}"
    x = g.pick(g.types(op))
    given, axes = axes_of(g, op, g.axes(x.rank))
    flags = g.attributes(op, keepdims=g.integer(0, 1), noop_with_empty_axes=g.integer(0, 1))
    g.node(op, [x, *given], **axes, **flags)


def arg_reduction(g: Builder) -> None:
    op = g.choose(["ArgMax", "ArgMin"])
    x = g.pick(g.types(op), least=1)
    flags = {"axis": g.axis(x.rank), "keepdims": g.integer(0, 1), "select_last_index": g.integer(0, 1)}
    g.node(op, [x], **g.attributes(op, **flags))


def along(g: Builder) -> None:
    op = g.choose(["Softmax", "LogSoftmax", "Hardmax", "LpNormalization"])
    x = g.pick(g.types(op), least=1)
    g.node(op, [x], **g.attributes(op, axis=g.axis(x.rank), p=g.integer(1, 2)))


def cumulated(g: Builder) -> None:
    op = g.choose(["CumSum", "CumProd"]) if g.opset >= 26 else "CumSum"
    x = g.pick(g.types(op), least=1)
    axis = g.give(np.array(g.axis(x.rank), g.choose([np.int64, np.int32])))
    g.node(op, [x, axis], **g.attributes(op, exclusive=1, reverse=1))


def top(g: Builder) -> None:
    x = g.pick(g.types("TopK"), least=1)
    axis = g.axis(x.rank)
    k = g.integer(0, x.shape[axis])
    flags = g.attributes("TopK", largest=g.integer(0, 1), sorted=1)
    if g.has("TopK", "k"):
        g.node("TopK", [x], 2, axis=axis, k=max(k, 1))
    else:
        g.node("TopK", [x, g.ints(k)], 2, axis=axis, **flags)


def _indices(g: Builder, count: int, shape: tuple[int, ...], *, dtype: Any = None) -> Value:
    if not count and math.prod(shape):
        raise Unfit
    rng = np.random.default_rng(g.integer(0, 99))
    low = -count if g.opset >= 11 and g.flag() else 0
    found = rng.integers(low, max(count, 1), shape)
    return g.give(np.asarray(found).astype(dtype or g.choose([np.int64, np.int32])))


def gather(g: Builder) -> None:
    x = g.pick(DTYPES, least=1)
    axis = g.axis(x.rank)
    g.node(
        "Gather",
        [x, _indices(g, x.shape[axis], g.shape(most=2))],
        **g.attributes("Gather", axis=axis or None) or {"axis": axis},
    )


def gather_elements(g: Builder) -> None:
    x = g.pick(DTYPES, least=1)
    axis = g.axis(x.rank)
    shape = tuple(dim if i != axis % x.rank else g.choose([1, 2, 3]) for i, dim in enumerate(x.shape))
    g.node("GatherElements", [x, _indices(g, x.shape[axis], shape)], axis=axis)


def scatter_elements(g: Builder) -> None:
    op = "ScatterElements" if g.opset >= 11 else "Scatter"
    x = g.pick(g.types(op), least=1)
    axis = g.axis(x.rank)
    width = g.integer(0, x.shape[axis])
    shape = tuple(dim if i != axis % x.rank else width for i, dim in enumerate(x.shape))
    # each place once: what is written twice is undefined
    rows = np.broadcast_to(np.arange(width).reshape([-1 if i == axis % x.rank else 1 for i in range(x.rank)]), shape)
    how = g.choose(["none", "add", "mul", "max", "min"]) if g.opset >= 18 else None
    index = g.give(np.ascontiguousarray(rows))
    g.node(op, [x, index, g.pick([x.dtype], shape=shape)], **g.attributes(op, reduction=how), axis=axis)


def gather_nd(g: Builder) -> None:
    x = g.pick(DTYPES, least=1)
    batch = g.integer(0, x.rank - 1) if g.opset >= 12 else 0
    depth = g.integer(1, x.rank - batch)
    reach = min(x.shape[batch : batch + depth])
    index = _indices(g, reach, (*x.shape[:batch], g.choose([1, 2]), depth), dtype=np.int64)
    g.node("GatherND", [x, index], **({"batch_dims": batch} if batch else {}))


def scatter_nd(g: Builder) -> None:
    x = g.pick(g.types("ScatterND"), least=1)
    if not x.shape[0]:
        raise Unfit
    rows = np.arange(g.integer(0, x.shape[0])).reshape(-1, 1)
    how = g.choose(["none", "add", "mul", "max", "min"]) if g.opset >= 18 else None
    updates = g.pick([x.dtype], shape=(len(rows), *x.shape[1:]))
    g.node("ScatterND", [x, g.give(rows), updates], **g.attributes("ScatterND", reduction=how))


def slice_(g: Builder) -> None:
    x = g.pick(DTYPES, least=1)
    axes = g.axes(x.rank) or [0]
    bounds = [[g.choose([0, 1, -1, 2, -3, 5, -7, 2**31 - 1, -(2**31)]) for _ in axes] for _ in range(2)]
    if g.has("Slice", "starts"):
        g.node("Slice", [x], starts=bounds[0], ends=bounds[1], axes=axes)
        return
    steps = [g.choose([1, 2, -1, -2]) for _ in axes]
    rest = [g.ints(*axes), *([g.ints(*steps)] if g.flag() else [])]
    g.node("Slice", [x, *(g.ints(*part) for part in bounds), *rest])


def split(g: Builder) -> None:
    x = g.pick(DTYPES, least=1)
    axis = g.axis(x.rank)
    size = x.shape[axis]
    count = g.integer(1, 3)
    if g.flag() or (g.opset < 18 and size % count):
        sizes = [size - g.integer(0, size)]
        sizes.append(size - sizes[0])
        given = {"split": sizes} if g.has("Split", "split") else {}
        g.node("Split", [x, *([] if given else [g.ints(*sizes)])], 2, axis=axis, **given)
    else:
        g.node("Split", [x], count, axis=axis, **({"num_outputs": count} if g.opset >= 18 else {}))


def concat(g: Builder) -> None:
    x = g.pick(DTYPES, least=1)
    axis = g.axis(x.rank)
    shapes = [
        [g.choose([1, 0, 2]) if i == axis % x.rank else dim for i, dim in enumerate(x.shape)]
        for _ in range(g.integer(0, 2))
    ]
    g.node("Concat", [x, *(g.pick([x.dtype], shape=shape) for shape in shapes)], axis=axis)


def pad(g: Builder) -> None:
    x = g.pick(g.types("Pad"), least=1)
    mode = g.choose(["constant", "reflect", "edge", "wrap"] if g.opset >= 19 else ["constant", "reflect", "edge"])
    room = [0, 1, 2, 3, -1] if mode == "constant" else [0, 1]
    if mode != "constant" and min(x.shape) < 2:
        raise Unfit
    pads = [g.choose(room) for _ in range(2 * x.rank)]
    if g.has("Pad", "pads"):
        g.node("Pad", [x], pads=pads, mode=mode, **g.attributes("Pad", value=g.number()))
        return
    value = g.pick([x.dtype], shape=()) if g.flag() else None
    g.node("Pad", [x, g.ints(*pads), *([value] if value else [])], mode=mode)


def reshape(g: Builder) -> None:
    x = g.pick(DTYPES)
    size = math.prod(x.shape)
    rows = g.choose([n for n in (1, 2, 3, 4, 5) if size % n == 0])
    kept = [0, -1] if x.rank and size and g.flag() else None
    shape = kept or g.choose(
        [[rows, size // rows], [size], [-1] if size else [0], [rows, 1, -1] if size else [size, 1]]
    )
    flags = {"allowzero": 1} if g.opset >= 14 and 0 in shape and not kept else {}
    g.node("Reshape", [x, g.ints(*shape)], **flags)


def squeeze(g: Builder) -> None:
    x = g.pick(DTYPES)
    ones = [i for i, dim in enumerate(x.shape) if dim == 1]
    given, axes = axes_of(
        g, "Squeeze", [i - x.rank if g.flag() and g.opset >= 11 else i for i in ones] if g.flag() else []
    )
    g.node("Squeeze", [x, *given], **axes)


def unsqueeze(g: Builder) -> None:
    x = g.pick(DTYPES, most=3)
    place = g.integer(0, x.rank) if g.opset < 11 else g.integer(-x.rank - 1, x.rank)
    given, axes = axes_of(g, "Unsqueeze", [place])
    g.node("Unsqueeze", [x, *given], **axes)


def layout(g: Builder) -> None:
    op = g.choose(["Transpose", "Flatten", "Identity", "Shape", "Size"])
    x = g.pick(DTYPES)
    if op == "Transpose":
        perm = g.draw(_permutations(x.rank))
        g.node(op, [x], **g.attributes(op, perm=perm or None))
    elif op == "Flatten":
        axis = g.integer(0 if g.opset < 11 else -x.rank, x.rank)
        g.node(op, [x], **(g.attributes(op, axis=axis) if x.rank else {"axis": 0}))
    elif op == "Shape":
        g.node(op, [x], **g.attributes(op, start=g.integer(-5, 5), end=g.integer(-5, 5)))
    else:
        g.node(op, [x])


def _permutations(rank: int) -> Any:
    from hypothesis import strategies

    return strategies.permutations(range(rank))


def grown(g: Builder) -> None:
    op = g.choose(["Expand", "Tile"])
    x = g.pick(g.types(op), least=1, most=3)
    if op == "Tile":
        g.node(op, [x, g.ints(*(g.choose([1, 2, 0, 3]) for _ in x.shape))])
        return
    shape = [g.choose([1, dim, 2]) if dim == 1 else g.choose([1, dim]) for dim in x.shape]
    g.node(op, [x, g.ints(*[2] * g.integer(0, 1), *shape)])


def triangle(g: Builder) -> None:
    x = g.pick(g.types("Trilu"), least=2)
    k = [g.give(np.array(g.integer(-3, 3), np.int64))] if g.flag() else []
    g.node("Trilu", [x, *k], **g.attributes("Trilu", upper=0))


def filled(g: Builder) -> None:
    array = np.zeros(1, g.choose([dtype for dtype in DTYPES if dtype.name != "int8"])) + np.int8(g.integer(0, 1))
    value = numpy_helper.from_array(array.astype(array.dtype))
    shapes = [
        v
        for v in g.known()
        if v.dtype == _INT64
        and v.rank == 1
        and v.constant is not None
        and (v.constant >= 0).all()
        and (v.constant < 6).all()
    ]
    dims = g.choose(shapes) if shapes and g.flag() else g.ints(*g.shape(most=3))
    g.node("ConstantOfShape", [dims], **g.attributes("ConstantOfShape", value=value))


def picked_out(g: Builder) -> None:
    op = g.choose(["NonZero", "Unique", "Compress"])
    x = g.pick(g.types(op), least=1)
    axis = g.axis(x.rank) if g.flag() else None
    if op == "NonZero":
        g.node(op, [x])
    elif op == "Unique":
        g.node(op, [x], g.integer(1, 4), **g.attributes(op, axis=axis, sorted=g.integer(0, 1)))
    else:
        size = math.prod(x.shape) if axis is None else x.shape[axis]
        chosen = g.give(np.arange(g.integer(0, size)) % 2 == 0)
        g.node(op, [x, chosen], **({} if axis is None else {"axis": axis}))


def one_hot(g: Builder) -> None:
    places = g.pick([_INT64, np.dtype("int32"), FLOATS[0]], most=2)
    values = g.pick(DTYPES, shape=(2,))
    g.node(
        "OneHot",
        [places, g.ints(g.integer(1, 5)), values],
        **g.attributes("OneHot", axis=g.integer(-places.rank - 1, places.rank)),
    )


def counted(g: Builder) -> None:
    dtype = g.choose([_INT64, np.dtype("int32"), FLOATS[0], np.dtype("float64")])
    start, limit, delta = g.integer(-3, 3), g.integer(-5, 6), g.choose([1, 2, -1, 3])
    g.node("Range", [g.give(np.array(value, dtype)) for value in (start, limit, delta)])


ANY_SHAPE: tuple[Recipe, ...] = (
    *(unary, unary, unary, binary, binary, binary, shift, remainder, power, several, clip, where, cast, cast_like),
    *(reduction, reduction, arg_reduction, along, cumulated, top, gather, gather_elements, scatter_elements, gather_nd),
    *(scatter_nd, slice_, split, concat, pad, reshape, squeeze, unsqueeze, layout, grown, triangle, filled, picked_out),
    *(one_hot, counted),
)
