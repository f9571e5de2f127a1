"""Recipes of several nodes: shape arithmetic as exporters write it, branches and loops."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper
from tersor.benchmarks._fuzz_graph import DTYPES, FLOATS, Builder, Recipe, Value
from tersor.benchmarks._fuzz_ops import axes_of, mate


def sizes(g: Builder) -> None:
    """What exporters write to compute a shape: Shape, Gather, arithmetic, Concat, Reshape."""
    x = g.pick(DTYPES, least=1)
    dims = g.one("Shape", [x])
    at = g.give(np.array(g.integer(0, x.rank - 1), np.int64), fixed=True)
    one = g.one("Gather", [dims, at], axis=0)
    number = g.give(np.array(g.integer(1, 3), np.int64), fixed=True)
    more = g.one(g.choose(["Add", "Mul", "Div", "Sub"]), [one, number])
    parts = []
    for part in (one, more) if g.flag() else (one,):
        given, axes = axes_of(g, "Unsqueeze", [0])
        parts.append(g.one("Unsqueeze", [part, *given], **axes))
    target = g.one("Concat", [*parts, g.give(np.array([-1], np.int64), fixed=True)], axis=0)
    if g.flag():
        g.node("Reshape", [x, target])
    else:
        g.node("ConstantOfShape", [parts[0]])


def branch(g: Builder) -> None:
    condition = g.pick([np.dtype("bool")], shape=())
    x = g.pick(FLOATS[:2])
    bodies = [_branch(g, x, f"{side}{len(g.nodes)}_") for side in ("t", "e")]
    g.node("If", [condition], then_branch=bodies[0], else_branch=bodies[1])


def _branch(g: Builder, x: Value, prefix: str) -> onnx.GraphProto:
    inner = Builder(g.draw, g.opset, outer=g, prefix=prefix)
    op = g.choose(["Abs", "Neg", "Exp", "Identity", "Shape"])
    inner.node(op, [x])
    inner.node("Cast", [Value(inner.nodes[0].output[0], x.dtype, x.shape)], to=1)
    output = helper.make_tensor_value_info(inner.nodes[-1].output[0], 1, None)
    return helper.make_graph(inner.nodes, prefix, [], [output])


def loop(g: Builder) -> None:
    x = g.pick([FLOATS[0]])
    count = g.give(np.array(g.integer(0, 3), np.int64)) if g.flag() else None
    p = f"l{len(g.nodes)}_"
    step = mate(g, x, narrow=True)
    code = int(helper.np_dtype_to_tensor_dtype(x.dtype))
    limit = g.give(np.array(g.integer(0, 3), np.int64), fixed=True)
    body = helper.make_graph(
        [
            helper.make_node(g.choose(["Add", "Sub", "Mul"]), [f"{p}s", step.name], [f"{p}o"], name=f"{p}1"),
            helper.make_node("Less", [f"{p}i", limit.name], [f"{p}k"], name=f"{p}2"),
            helper.make_node("Identity", [f"{p}o"], [f"{p}r"], name=f"{p}3"),
        ],
        p,
        [
            helper.make_tensor_value_info(f"{p}i", 7, []),
            helper.make_tensor_value_info(f"{p}c", 9, []),
            helper.make_tensor_value_info(f"{p}s", code, list(x.shape)),
        ],
        [
            helper.make_tensor_value_info(f"{p}k", 9, []),
            helper.make_tensor_value_info(f"{p}o", code, list(x.shape)),
            helper.make_tensor_value_info(f"{p}r", code, list(x.shape)),
        ],
    )
    g.node("Loop", [count, g.give(np.array(g.flag())), x], 2, body=body)


FLOW: tuple[Recipe, ...] = (sizes, sizes, branch, loop)
