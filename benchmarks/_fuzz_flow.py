"""Recipes of several nodes: shape arithmetic as exporters write it, branches and loops."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper
from tersor.benchmarks._fuzz_graph import DTYPES, FLOATS, Builder, Recipe, Unfit, Value, code_of
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
    code = code_of(x.dtype)
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


def scan(g: Builder) -> None:
    """A state that adds up what is read along an axis, and what it was at each step."""
    if g.opset < 8:
        raise Unfit
    x = g.pick([FLOATS[0], FLOATS[1]], least=1, most=3)
    early = g.opset == 8
    if early:
        # opset 8 has a batch in front of all, and of what a body sees nothing
        x = g.new(x.dtype, (g.integer(1, 2), *x.shape))
    axis = 0 if early else g.integer(0, x.rank - 1)
    along = 1 if early else axis
    shape = tuple(dim for i, dim in enumerate(x.shape) if i != along and not (early and i == 0))
    if not early and 0 in x.shape:
        raise Unfit
    p = f"s{len(g.nodes)}_"
    code = code_of(x.dtype)
    state = g.new(x.dtype, (*x.shape[:1], *shape) if early else shape)
    body = helper.make_graph(
        [
            helper.make_node(g.choose(["Add", "Sub", "Mul", "Max"]), [f"{p}s", f"{p}x"], [f"{p}o"], name=f"{p}1"),
            helper.make_node("Identity", [f"{p}o"], [f"{p}r"], name=f"{p}2"),
        ],
        p,
        [helper.make_tensor_value_info(f"{p}{name}", code, list(shape)) for name in "sx"],
        [helper.make_tensor_value_info(f"{p}{name}", code, list(shape)) for name in "or"],
    )
    if early:
        lengths = g.give(np.full(x.shape[0], g.integer(0, x.shape[1]), np.int64)) if g.flag() else None
        g.node("Scan", [lengths, state, x], 2, body=body, num_scan_inputs=1)
        return
    flags: dict[str, list[int]] = {}
    if axis or g.flag():
        flags["scan_input_axes"] = [axis - x.rank if g.opset >= 11 and g.flag() else axis]
    flags |= g.attributes("Scan", scan_input_directions=[1], scan_output_directions=[1], scan_output_axes=[x.rank - 1])  # type: ignore[arg-type]
    g.node("Scan", [state, x], 2, body=body, num_scan_inputs=1, **flags)


def called(g: Builder) -> None:
    """A model-local function with an attribute that its caller may leave out, called once or twice."""
    x = g.pick([FLOATS[0]], least=1)
    name = f"f{len(g.root().functions)}"
    slope = helper.make_node("LeakyRelu", ["a"], ["h"])
    given = onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    slope.attribute.append(given)
    body = [slope, helper.make_node(g.choose(["Add", "Mul", "Sub"]), ["h", "b"], ["c"])]
    opsets = [helper.make_opsetid("", g.opset)]
    g.root().functions.append(helper.make_function("own", name, ["a", "b"], ["c"], body, opsets, ["slope"]))
    flags = {"slope": g.number()} if g.flag() else {}
    other = mate(g, x, narrow=True)
    g.node(name, [x, other], domain="own", **flags)
    if g.flag():
        g.node(name, [Value(g.nodes[-1].output[0], x.dtype, x.shape), x], domain="own", slope=0.25)


FLOW: tuple[Recipe, ...] = (sizes, sizes, branch, loop, scan, called)
