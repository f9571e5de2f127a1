"""Shape rules against ONNX Runtime's own shapes on random sizes, and shape arithmetic as exporters write it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir
import pytest
from tersor.ir.errors import OptionError
from tersor.ir.feeds import random_feeds
from tersor.ir.runner import outside
from tersor.ir.shapes import infer
from tersor.ir.text import graph

W = np.ones((6, 4, 3), np.float32)

GRAPHS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "transpose": (("y = Transpose{perm=[2, 0, 1]}(x)",), "float[b, s, 4]"),
    "split a head": (
        ("n = Shape(x)", "h = Slice(n, [0], [2])", "t = Concat{axis=0}(h, [2, -1])", "y = Reshape(x, t)"),
        "float[b, s, 4]",
    ),
    "merge heads": (("y = Reshape(x, [0, -1])",), "float[b, s, 4]"),
    "gather a size": (
        ("n = Shape(x)", "s = Gather(n, 1)", "d = Mul(s, 2)", "u = Unsqueeze(d, [0])", "y = ConstantOfShape(u)"),
        "float[b, s]",
    ),
    "range of a size": (
        ("n = Shape{start=1, end=2}(x)", "s = Squeeze(n)", "y = Range(0, s, 1)"),
        "float[b, s]",
    ),
    "broadcast by Where": (
        (
            "n = Shape(x)", "o = ConstantOfShape(length)", "e = Equal(wanted, minus)", "t = Where(e, ones, wanted)",
            "r = Slice(x, [0], [1], [1])", "y = Expand(r, t)", "z = Add(o, 1.0)", "q = Identity(n)",
        ),
        "float[b, s]",
    ),
    "slice": (("y = Slice(x, [1], [-1], [1])",), "float[b, s, 4]"),
    "slice with a step": (("y = Slice(x, [0], [9223372036854775807], [1], [2])",), "float[b, s, 4]"),
    "slice a known axis": (("y = Slice(x, [-3], [9], [2])",), "float[b, s, 4]"),
    "backwards": (("y = Slice(x, [-1], [-9223372036854775807], [2], [-1])",), "float[b, s, 4]"),
    "split": (("(a, c) = Split{axis=2, num_outputs=2}(x)", "y = Concat{axis=1}(a, c, a)"), "float[b, s, 4]"),
    "pad": (("y = Pad(x, [0, 1, 0, 2])",), "float[b, s]"),
    "pad some axes": (("y = Pad(x, [1, 2], 0.0, [1])",), "float[b, s]"),
    "tile": (("y = Tile(x, [2, 3])",), "float[b, s]"),
    "flatten": (("y = Flatten{axis=2}(x)",), "float[b, s, 4]"),
    "squeeze and unsqueeze": (("u = Unsqueeze(x, [0, -1])", "y = Squeeze(u, [0])"), "float[b, s]"),
    "reduce": (("a = ReduceMax{keepdims=0}(x, [-1])", "y = ReduceSum(a, [0])"), "float[b, s, 4]"),
    "argmax": (("y = ArgMax{axis=1, keepdims=0}(x)",), "float[b, s]"),
    "top k": (("(y, i) = TopK{axis=1}(x, [3])",), "float[b, s]"),
    "one hot": (("i = Cast{to=INT64}(x)", "y = OneHot{axis=1}(i, 5, [0.0, 1.0])"), "float[b, s]"),
    "gather": (("y = Gather{axis=1}(x, [[0, 1], [1, 0]])",), "float[b, s]"),
    "gather elements": (("y = GatherElements{axis=1}(x, [[0, 1]])",), "float[b, s]"),
    "gather nd": (("y = GatherND(x, [[0, 1], [1, 0]])",), "float[b, s, 4]"),
    "conv": (("y = Conv{pads=[1, 1], strides=[2]}(x, w)",), "float[b, 4, s]"),
    "conv, same": (("y = Conv{auto_pad=SAME_UPPER, strides=[2]}(x, w)",), "float[b, 4, s]"),
    "conv, dilated": (("y = Conv{dilations=[3]}(x, w)",), "float[b, 4, s]"),
    "conv transpose": (
        ("t = Transpose{perm=[0, 1, 2]}(x)", "y = ConvTranspose{strides=[2], output_padding=[1]}(t, v)"),
        "float[b, 4, s]",
    ),
    "pool": (("y = MaxPool{kernel_shape=[3], strides=[2], ceil_mode=1}(x)",), "float[b, 4, s]"),
    "global pool": (("y = GlobalAveragePool(x)",), "float[b, 4, s]"),
    "product of batches": (("t = Transpose{perm=[0, 2, 1]}(x)", "y = MatMul(t, x)"), "float[b, s, 4]"),
    "matrix times vector": (("y = MatMul(x, vector)",), "float[b, s, 4]"),
    "gru": (("(y, h) = GRU{hidden_size=2}(x, gw, gr)",), "float[s, b, 4]"),
    "scatter": (("y = ScatterND(x, [[0]], row)",), "float[b, 3]"),
    "quantize": (("(q, c, z) = DynamicQuantizeLinear(x)", "y = DequantizeLinear(q, c, z)"), "float[b, s]"),
}  # fmt: skip

CONSTANTS: Mapping[str, object] = {
    "w": W, "v": np.ones((4, 2, 3), np.float32), "vector": np.ones(4, np.float32), "row": np.ones((1, 3), np.float32),
    "gw": np.ones((1, 6, 4), np.float32), "gr": np.ones((1, 6, 2), np.float32), "length": np.array([2]),
    "wanted": np.array([-1, 7]), "minus": np.array([-1, -1]), "ones": np.array([1, 1]),
}  # fmt: skip


def build(name: str) -> onnx_ir.Model:
    lines, kind = GRAPHS[name]
    words = " ".join(lines).replace("(", " ").replace(",", " ").replace(")", " ").split()
    used = {name: value for name, value in CONSTANTS.items() if name in words}
    model = graph(*lines, **used)
    # the shape is set afterwards, so that nothing but the rules knows the shapes in between
    (value,) = model.graph.inputs
    typed = graph("y = Identity(x)", inputs={"x": kind}).graph.inputs[0]
    value.shape, value.type = typed.shape, typed.type
    return model


@pytest.mark.parametrize("name", GRAPHS)
def test_the_rules_agree_with_the_runtime(name: str) -> None:
    model = build(name)
    symbolic = infer(model)
    for sizes in ({"b": 2, "s": 7}, {"b": 3, "s": 12}):
        sizes = {key: size for key, size in sizes.items() if key in symbolic.names}
        clone = model.clone()
        outputs = [value for node in clone.graph for value in node.outputs]
        clone.graph.outputs[:] = outputs
        annotated = graph_types(clone)
        found = outside(annotated)(random_feeds(model, sizes))
        for node in model.graph:
            for value in node.outputs:
                dims = symbolic.of(value)
                assert dims is not None, (name, value.name)
                numbers = tuple(None if dim is None else int(dim.at(sizes)) for dim in dims)
                assert numbers == found[value.name or ""].shape, (name, value.name)


def graph_types(model: onnx_ir.Model) -> onnx_ir.Model:
    """Element types, which outputs need, and no shapes."""
    types = infer(model).types
    for value in model.graph.outputs:
        dtype = types[value]
        assert dtype is not None
        value.type = onnx_ir.TensorType(dtype)
    return model


def test_the_numbers_in_shape_arithmetic() -> None:
    model = graph(
        "n = Shape(x)", "s = Gather(n, 1)", "h = Div(s, 2)", "p = Add(h, 1)", "u = Unsqueeze(p, [0])",
        "t = Concat{axis=0}(u, [4])", inputs={"x": "float[b, sequence]"},
    )  # fmt: skip
    shapes = infer(model)
    content = shapes.content(model.graph.outputs[0])
    assert content is not None and [str(number) for number in content] == ["(sequence//2) + 1", "4"]


def test_a_condition_on_shapes_decides_a_branch() -> None:
    model = onnx_ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 23]>
        g (float[b, s] x) => (y) <int64 one = {1}, int64 axis = {1}, int64[1] axes = {1}> {
            n = Shape(x)
            w = Gather(n, axis)
            c = Equal(w, one)
            y = If(c) <then_branch = t () => (p) { p = Squeeze(x, axes) }, else_branch = e () => (q) { q = Relu(x) }>
        }
    """)
    (output,) = model.graph.outputs
    assert infer(model).of(output) is None
    assert infer(model, {"s": 1}).of(output) == infer(model).of(model.graph.inputs[0])[:1]  # type: ignore[index]
    assert len(infer(model, {"s": 5}).of(output) or ()) == 2


def test_onnx_is_asked_where_a_rule_is_missing() -> None:
    model = graph("y = DepthToSpace{blocksize=2}(x)", "z = Relu(y)")
    value = model.graph.inputs[0]
    value.shape = onnx_ir.Shape(["b", 8, 3, 3])
    dims = infer(model).of(model.graph.outputs[0])
    assert dims is not None and [str(dim) for dim in dims[1:]] == ["2", "6", "6"]
    assert model.graph.outputs[0].shape is None


def test_refuses_an_unknown_dimension() -> None:
    with pytest.raises(OptionError, match="no dynamic dimension 'c'; known: b"):
        infer(graph("y = Relu(x)", inputs={"x": "float[b]"}), {"c": 1})
