"""Types and shapes on every value where they follow."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.content import dimensions
from tersor.ir.level import Signature
from tersor.ir.text import graph, lines
from tersor.passes.clean.infer_shapes import InferShapes
from tersor.tests.support import apply, inside_if

TEXT = ("h = MatMul(x, w)", "t = Transpose{perm=[0, 2, 1]}(h)", "y = Relu(t)")


def bare(*text: str, **inputs: str) -> ir.Model:
    """A model whose inputs alone are known."""
    weights = {"w": np.ones((4, 8), np.float32)} if any(", w)" in line for line in text) else {}
    model = graph(*text, inputs=inputs, **weights)
    for node in model.graph:
        for value in node.outputs:
            value.type = value.shape = None
    return model


def test_rewrites_names_and_numbers_onto_every_value() -> None:
    model = bare(*TEXT, x="float[batch, sequence, 4]")
    assert apply(InferShapes(), model) == list(TEXT)
    assert [dimensions(node.outputs[0]) for node in model.graph] == [
        ["batch", "sequence", 8],
        ["batch", 8, "sequence"],
        ["batch", 8, "sequence"],
    ]
    assert {node.outputs[0].dtype for node in model.graph} == {ir.DataType.FLOAT}


def test_rewrites_in_branches() -> None:
    model = inside_if(graph(*TEXT, inputs={"x": "float[batch, sequence, 4]"}, w=np.ones((4, 8), np.float32)))
    inner = [node for node in model.graph.all_nodes() if node.op_type == "Transpose"]
    for node in inner:
        node.outputs[0].shape = None
    apply(InferShapes(), model)
    assert [dimensions(node.outputs[0]) for node in inner] == [["batch", 8, "sequence"]] * 2


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (bare("y = Relu(x)", x="float"), "unknown rank"),
        (bare("y = custom.Op(x)", x="float[2]"), "unknown op"),
        (bare("s = custom.Sizes(x)", "y = Reshape(x, s)", x="float[2, 2]"), "target of unknown length"),
    ],
)
def test_leaves_what_does_not_follow(model: ir.Model, why: str) -> None:
    before = lines(model)
    assert apply(InferShapes(), model) == before
    assert dimensions(model.graph.outputs[0]) is None, why


def test_leaves_what_the_author_declared() -> None:
    model = bare("y = Relu(x)", x="float[?, 4]")
    model.graph.inputs[0].shape = ir.Shape([None, 4])
    model.graph.outputs[0].type, model.graph.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["rows", 4])
    before = Signature.of(model)
    apply(InferShapes(), model)
    assert Signature.of(model).outputs == before.outputs


def test_leaves_a_graph_that_contradicts_itself_running() -> None:
    model = bare("y = MatMul(x, w)", x="float[2, 5]")
    assert apply(InferShapes(), model) == ["y = MatMul(x, w)"]
