"""The levels: what each forbids is named in one sentence, and nothing else is."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.errors import PassError
from tersor.ir.level import Level, Port, Signature, check, detect, violations
from tersor.ir.text import graph
from tersor.tests.support import inside_if, parse

EVERY = pytest.mark.parametrize("level", list(Level))


def healthy() -> ir.Model:
    return graph("h = MatMul(x, w)", "y = Relu(h)", inputs={"x": "float[batch, 4]"}, w=np.ones((4, 4), np.float32))


@EVERY
def test_a_healthy_graph_violates_nothing(level: Level) -> None:
    assert violations(healthy(), level) == []
    assert violations(inside_if(healthy()), level) == []
    check(healthy(), level)


@EVERY
def test_an_order_that_cannot_run(level: Level) -> None:
    model = healthy()
    first, second = model.graph
    model.graph.remove(first)
    model.graph.insert_after(second, first)
    assert violations(model, level) == ["Relu at y: its input 'h' is not computed before it"]


def test_a_branch_that_reads_what_comes_later() -> None:
    model = parse(
        """g (bool c, float[2] x) => (float[2] y) {
            y = If (c) <then_branch = t () => (float[2] a) { a = Relu (late) },
                        else_branch = e () => (float[2] b) { b = Neg (x) }>
            late = Abs (x)
        }"""
    )
    found = violations(model, Level.IMPORTED)
    assert len(found) == 1 and found[0].endswith("its input 'late' is not computed before it")


def test_a_branch_does_not_see_into_the_other() -> None:
    model = inside_if(healthy())
    (holder,) = model.graph
    then, other = (holder.attributes[name].as_graph() for name in ("then_branch", "else_branch"))
    inner = next(node for node in other if node.op_type == "Relu")
    inner.replace_input_with(0, next(iter(then)).outputs[0])
    assert any("'h_then' is not computed before it" in sentence for sentence in violations(model, Level.IMPORTED))


def test_values_that_nothing_computes() -> None:
    model = healthy()
    relu = next(node for node in model.graph if node.op_type == "Relu")
    relu.replace_input_with(0, ir.Value(name="lost"))
    assert "Relu at y: its input 'lost' is not computed before it" in violations(model, Level.IMPORTED)
    model = healthy()
    model.graph.outputs[0] = ir.Value(name="nowhere")
    assert "the output 'nowhere' is not computed" in violations(model, Level.IMPORTED)


@EVERY
def test_names_that_stand_for_two_values(level: Level) -> None:
    model = healthy()
    next(iter(model.graph)).outputs[0].name = "x"
    assert violations(model, level) == ["two values are named 'x'"]


def test_names_of_branches_and_of_what_is_around_them() -> None:
    model = inside_if(healthy())
    (holder,) = model.graph
    next(iter(holder.attributes["then_branch"].as_graph())).outputs[0].name = "x"
    assert violations(model, Level.IMPORTED) == ["two values are named 'x'"]


def test_a_value_that_is_read_needs_a_name() -> None:
    model = healthy()
    next(iter(model.graph)).outputs[0].name = ""
    assert violations(model, Level.IMPORTED) == ["a value produced by MatMul at h has no name"]


@EVERY
def test_an_initializer_that_nobody_reads(level: Level) -> None:
    model = healthy()
    tensor = ir.tensor(np.zeros(2, np.float32), name="spare")
    model.graph.register_initializer(ir.Value(name="spare", const_value=tensor))
    assert violations(model, level) == ["nobody reads the initializer 'spare'"]


def test_an_initializer_that_is_an_output_is_read() -> None:
    model = healthy()
    model.graph.outputs.append(model.graph.initializers["w"])
    assert violations(model, Level.IMPORTED) == []


@EVERY
def test_a_domain_must_be_imported(level: Level) -> None:
    model = graph("y = com.microsoft.Gelu(x)")
    del model.opset_imports["com.microsoft"]
    assert violations(model, level) == ["Gelu at y: domain 'com.microsoft' is not imported"]


def test_function_bodies_are_held_to_the_same() -> None:
    model = parse(
        "g (float[2] x) => (float[2] y) { y = pkg.Twice (x) }",
        functions='<domain: "pkg", opset_import: ["": 23]> Twice (a) => (b) { b = Add (a, c)  c = Relu (a) }',
    )
    assert any("its input 'c' is not computed before it" in sentence for sentence in violations(model, Level.IMPORTED))


def test_only_the_semantic_level_has_one_opset() -> None:
    model = graph("y = Relu(x)", opset=18)
    assert violations(model, Level.IMPORTED) == violations(model, Level.LOWERED) == []
    assert violations(model, Level.SEMANTIC) == ["the semantic level is opset 23, the model imports 18"]


def test_check_raises_what_it_finds() -> None:
    with pytest.raises(PassError, match="the graph is not at the semantic level: the semantic level is opset 23"):
        check(graph("y = Relu(x)", opset=18), Level.SEMANTIC)


def test_a_signature_is_names_dtypes_and_shapes_in_order() -> None:
    signature = Signature.of(healthy())
    assert signature.inputs == (Port("x", ir.DataType.FLOAT, ("batch", 4)),)
    assert signature.outputs == (Port("y", ir.DataType.FLOAT, ("batch", 4)),)
    assert str(signature.inputs[0]) == "x: float[batch, 4]"
    assert str(Port("z", None, None)) == "z: ?[?]"


@pytest.mark.parametrize(
    ("shape", "allowed"),
    [
        (["batch", 4], True),
        ([2, 4], False),
        (["rows", 4], False),
        (["batch", None], False),
        (["batch"], False),
        (None, False),
    ],
)
def test_a_signature_may_not_change(shape: list[int | str | None] | None, allowed: bool) -> None:
    model = healthy()
    before = Signature.of(model)
    model.graph.outputs[0].shape = None if shape is None else ir.Shape(shape)
    found = violations(model, Level.IMPORTED, signature=before)
    assert (found == []) == allowed
    assert all(sentence.startswith("output was y: float[batch, 4], is y: float[") for sentence in found)


def test_a_signature_may_be_refined() -> None:
    model = graph("y = Relu(x)", inputs={"x": "float[?, 4]"})
    ports = (*model.graph.inputs, *model.graph.outputs)
    for value in ports:
        value.shape = ir.Shape([None, 4])
    before = Signature.of(model)
    for value in ports:
        value.shape = ir.Shape(["batch", 4])
    assert violations(model, Level.IMPORTED, signature=before) == []


def test_a_signature_keeps_names_order_and_dtypes() -> None:
    model = graph("a = Relu(x)", "b = Neg(x)", inputs={"x": "float[2]"})
    before = Signature.of(model)
    model.graph.outputs[:] = list(reversed(model.graph.outputs))
    assert violations(model, Level.IMPORTED, signature=before) == ["outputs were ['a', 'b'], are ['b', 'a']"]
    model.graph.outputs[:] = list(reversed(model.graph.outputs))
    model.graph.inputs[0].type = ir.TensorType(ir.DataType.DOUBLE)
    assert violations(model, Level.IMPORTED, signature=before) == ["input was x: float[2], is x: double[2]"]


@pytest.mark.parametrize(
    ("model", "level"),
    [
        (graph("y = Relu(x)"), Level.SEMANTIC),
        (graph("y = Relu(x)", opset=18), Level.IMPORTED),
        (graph("y = com.microsoft.BiasGelu(x, b)"), Level.IMPORTED),
        (graph("y = tersor.Codebook(x)"), Level.SEMANTIC),
    ],
)
def test_the_level_of_a_model_is_seen_in_its_ops(model: ir.Model, level: Level) -> None:
    assert detect(model) is level
