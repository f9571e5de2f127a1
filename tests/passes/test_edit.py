"""Surgery keeps names, types, order, provenance, and leaves nothing behind."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.level import Level, violations
from tersor.ir.provenance import sources
from tersor.ir.text import graph, lines
from tersor.passes.edit import (
    Ledger,
    Tape,
    attribute,
    constant_of,
    integers_of,
    only_reader,
    replace,
    reroute,
    scalar_of,
    sweep,
)
from tersor.tests.support import inside_if, parse


def node(model: ir.Model, op: str) -> ir.Node:
    return next(node for node in model.graph.all_nodes() if node.op_type == op)


def as_gelu(model: ir.Model, op: str = "Tanh", **constants: float) -> None:
    """Replace the node `op` by Gelu behind a Mul with a new constant."""
    old, tape = node(model, op), Tape()
    x = old.inputs[0]
    for name, number in constants.items():
        x = tape("Mul", x, tape.constant(number, name))
    replace(tape, old.outputs, [tape("Gelu", x)])


def sound(model: ir.Model) -> list[str]:
    assert violations(model, Level.LOWERED) == []
    return lines(model)


class TestReplace:
    def test_readers_read_the_new_value_under_the_old_name(self) -> None:
        model = graph("t = Tanh(x)", "y = Add(t, t)", inputs={"x": "float[2]"})
        as_gelu(model)
        assert sound(model) == ["t = Gelu(x)", "y = Add(t, t)"]
        assert node(model, "Gelu").outputs[0].shape == ir.Shape([2])
        assert node(model, "Gelu").outputs[0].dtype == ir.DataType.FLOAT

    def test_a_graph_output_keeps_its_name_and_place(self) -> None:
        model = graph("y = Tanh(x)", "z = Neg(y)", outputs=["z", "y"])
        as_gelu(model)
        assert [value.name for value in model.graph.outputs] == ["z", "y"]
        assert sound(model) == ["y = Gelu(x)", "z = Neg(y)"]

    def test_new_values_and_constants_are_named_after_the_old_one(self) -> None:
        model = graph("y = Tanh(x)")
        as_gelu(model, scale=2.0)
        assert sound(model) == ["y/Mul = Mul(x, y/scale)", "y = Gelu(y/Mul)"]
        assert constant_of(model.graph.initializers["y/scale"]) == np.float32(2.0)

    def test_names_that_are_taken_get_a_number(self) -> None:
        model = graph("y/Mul = Abs(x)", "t = Add(y/Mul, y/scale)", "y = Tanh(t)", **{"y/scale": 1.0})
        as_gelu(model, scale=2.0, again=3.0)
        assert sound(model)[2:] == [
            "y/Mul_1 = Mul(t, y/scale_1)",
            "y/Mul_2 = Mul(y/Mul_1, y/again)",
            "y = Gelu(y/Mul_2)",
        ]

    def test_a_place_rewritten_again_takes_new_names(self) -> None:
        model = graph("y = Tanh(x)")
        as_gelu(model, scale=2.0)
        as_gelu(model, "Gelu", scale=3.0)
        assert sound(model) == [
            "y/Mul = Mul(x, y/scale)",
            "y/Mul_1 = Mul(y/Mul, y/scale_1)",
            "y = Gelu(y/Mul_1)",
        ]

    def test_exporters_own_names_do_not_clash(self) -> None:
        """onnx-ir would call the first unnamed value val_0, which torch's exporter does too."""
        model = graph("t = Add(x, val_0)", "y = Tanh(t)", val_0=1.0)
        as_gelu(model, scale=2.0)
        assert "val_0" not in sound(model)[1]

    def test_a_value_that_was_there_may_take_over(self) -> None:
        model = graph("a = Abs(x)", "t = Tanh(a)", "y = Neg(t)")
        old = node(model, "Tanh")
        replace(Tape(), old.outputs, [node(model, "Abs").outputs[0]])
        assert sound(model) == ["a = Abs(x)", "y = Neg(a)"]

    def test_what_only_the_old_node_read_goes(self) -> None:
        model = graph("a = Mul(x, w)", "b = Mul(x, v)", "t = Max(a, b)", "y = Neg(t)", "z = Neg(b)", w=1.0, v=2.0)
        old, tape = node(model, "Max"), Tape()
        replace(tape, old.outputs, [tape("Relu", model.graph.inputs[0])])
        assert sound(model) == ["b = Mul(x, v)", "t = Relu(x)", "y = Neg(t)", "z = Neg(b)"]
        assert list(model.graph.initializers) == ["v"]

    def test_new_nodes_come_before_the_earliest_they_replace(self) -> None:
        model = graph("(a, b) = Split{axis=0}(x)", "c = Neg(a)", "y = Add(c, b)", inputs={"x": "float[4]"})
        old, tape = node(model, "Split"), Tape()
        new = tape.node("Split", [tape("Relu", old.inputs[0])], {"axis": 0}, outputs=2)
        replace(tape, old.outputs, new.outputs)
        assert sound(model) == ["a/Relu = Relu(x)", "(a, b) = Split{axis=0}(a/Relu)", "c = Neg(a)", "y = Add(c, b)"]

    def test_two_values_of_two_nodes_go_together(self) -> None:
        model = graph("a = Sin(x)", "b = Cos(x)", "y = Add(a, b)")
        both, tape = [node(model, "Sin").outputs[0], node(model, "Cos").outputs[0]], Tape()
        new = tape.node("SinCos", [model.graph.inputs[0]], outputs=2)
        replace(tape, both, new.outputs)
        assert lines(model) == ["(a, b) = SinCos(x)", "y = Add(a, b)"]

    def test_provenance_is_that_of_everything_replaced(self) -> None:
        model = graph("a = Abs(x)", "t = Tanh(a)", "y = Neg(t)")
        old, tape = node(model, "Tanh"), Tape()
        replace(tape, old.outputs, [tape("Gelu", model.graph.inputs[0])])
        assert sources(node(model, "Gelu")) == ("t", "a")

    def test_in_a_branch_the_constants_stay_in_the_branch(self) -> None:
        model = inside_if(graph("t = Tanh(x)", "y = Neg(t)", inputs={"x": "float[2]"}))
        as_gelu(model, scale=2.0)
        as_gelu(model, scale=2.0)
        assert sound(model)[1:] == [
            "  else_branch:",
            "    t_else/Mul = Mul(x, t_else/scale)",
            "    t_else = Gelu(t_else/Mul)",
            "    y_else = Neg(t_else)",
            "  then_branch:",
            "    t_then/Mul = Mul(x, t_then/scale)",
            "    t_then = Gelu(t_then/Mul)",
            "    y_then = Neg(t_then)",
        ]
        assert not model.graph.initializers


class TestReroute:
    def test_one_input_is_fed_by_new_nodes(self) -> None:
        model = graph("y = Tanh(x)", "z = MatMul(y, w)", w=np.eye(2, dtype=np.float32))
        old, weight, tape = node(model, "MatMul"), model.graph.initializers["w"], Tape()
        reroute(tape, old, weight, tape("Neg", tape.weight(np.zeros((2, 2), np.float32), "w")))
        assert sound(model) == ["y = Tanh(x)", "z/Neg = Neg(w_1)", "z = MatMul(y, z/Neg)"]
        assert list(model.graph.initializers) == ["w_1"]
        assert sources(node(model, "Neg")) == ("z",)

    def test_an_old_value_that_others_read_stays(self) -> None:
        model = graph("y = Mul(w, x)", "z = Add(w, y)", w=1.0)
        old, tape = node(model, "Mul"), Tape()
        reroute(tape, old, model.graph.initializers["w"], tape("Abs", model.graph.inputs[0]))
        assert sound(model) == ["y/Abs = Abs(x)", "y = Mul(y/Abs, x)", "z = Add(w, y)"]

    def test_every_place_that_reads_the_value_is_fed(self) -> None:
        model = graph("y = Mul(w, w)", w=1.0)
        old, tape = node(model, "Mul"), Tape()
        reroute(tape, old, model.graph.initializers["w"], tape.constant(2.0))
        assert sound(model) == ["y = Mul(y/constant, y/constant)"]


class TestSweep:
    def test_a_dead_chain_goes_with_its_weights(self) -> None:
        model = graph("a = Mul(x, w)", "b = Neg(a)", "y = Relu(x)", outputs=["y"], w=1.0)
        assert [gone.op_type for gone in sweep([node(model, "Neg")])] == ["Neg", "Mul"]
        assert sound(model) == ["y = Relu(x)"]

    def test_what_is_read_or_an_output_stays(self) -> None:
        model = graph("a = Mul(x, w)", "b = Neg(a)", "c = Abs(a)", outputs=["b"], w=1.0)
        assert [gone.op_type for gone in sweep(model.graph)] == ["Abs"]
        assert sound(model) == ["a = Mul(x, w)", "b = Neg(a)"]

    def test_a_dead_if_lets_go_of_what_its_branches_read(self) -> None:
        model = inside_if(graph("a = Mul(x, w)", inputs={"x": "float[2]"}, w=np.ones(2, np.float32)))
        x = model.graph.inputs[1]
        relu = ir.node("Relu", [x])
        model.graph.append(relu)
        relu.outputs[0].name = "y"
        model.graph.outputs[:] = relu.outputs
        sweep([node(model, "If")])
        assert sound(model) == ["y = Relu(x)"]


class TestReading:
    def test_constants_are_initializers_and_constant_nodes(self) -> None:
        model = parse(
            "g (float[2] x) => (float[2] y) <float[2] w = {1.0, 2.0}> "
            "{ c = Constant <value_float = 3.0> () t = Mul (x, w) y = Mul (t, c) }"
        )
        assert constant_of(model.graph.initializers["w"]).tolist() == [1.0, 2.0]
        assert scalar_of(node(model, "Constant").outputs[0]) == 3.0
        assert constant_of(node(model, "Mul").outputs[0]) is None
        assert constant_of(None) is None

    def test_the_default_of_an_input_is_no_constant(self) -> None:
        model = graph("y = Mul(x, w)", inputs={"w": "float[]"})
        value = model.graph.inputs[0]
        value.const_value = ir.tensor(np.float32(2.0), name="w")
        model.graph.register_initializer(value)
        assert constant_of(value) is None
        assert scalar_of(value) is None

    @pytest.mark.parametrize(
        ("array", "number"),
        [(np.float32(0.5), 0.5), (np.full((1, 1), 3), 3.0), (np.ones(2), None), (np.ones(0), None)],
    )
    def test_scalars_have_one_element(self, array: np.ndarray, number: float | None) -> None:
        assert scalar_of(graph("y = Mul(x, c)", c=array).graph.initializers["c"]) == number

    @pytest.mark.parametrize(
        ("array", "numbers"),
        [
            (np.array([1, -2]), [1, -2]),
            (np.uint8(3), [3]),
            (np.array([1.0]), None),
            (np.ones((1, 1), np.int64), None),
        ],
    )
    def test_integers_are_vectors_or_scalars(self, array: np.ndarray, numbers: list[int] | None) -> None:
        assert integers_of(graph("y = Mul(x, c)", c=array).graph.initializers["c"]) == numbers

    def test_an_only_reader_reads_a_value_that_is_no_output(self) -> None:
        model = graph("a = Abs(x)", "b = Mul(a, a)", "c = Neg(b)", "d = Relu(b)", "e = Sin(d)", outputs=["c", "d", "e"])
        assert only_reader(node(model, "Abs").outputs[0]) is node(model, "Mul")
        assert only_reader(node(model, "Mul").outputs[0]) is None
        assert only_reader(node(model, "Relu").outputs[0]) is None
        assert only_reader(node(model, "Sin").outputs[0]) is None

    def test_attributes_have_defaults(self) -> None:
        made = node(graph("y = Softmax{axis=1}(x)"), "Softmax")
        assert attribute(made, "axis", -1) == 1
        assert attribute(made, "other", 7) == 7


class TestTape:
    def test_numbers_become_the_dtypes_of_onnx(self) -> None:
        tape = Tape()
        assert [tape.constant(item).dtype for item in (1, 1.0, [1, 2], np.array(1, np.float16))] == [
            ir.DataType.INT64,
            ir.DataType.FLOAT,
            ir.DataType.INT64,
            ir.DataType.FLOAT16,
        ]

    def test_attributes_that_are_none_are_left_out(self) -> None:
        tape = Tape()
        tape("Softmax", ir.Value(name="x"), axis=None, other=1)
        assert list(tape.nodes[0].attributes) == ["other"]

    def test_a_lazy_tensor_is_read_when_it_is_asked_for(self) -> None:
        reads: list[int] = []

        def make() -> ir.Tensor:
            reads.append(1)
            return ir.Tensor(np.ones(3, np.float32))

        model, tape = graph("y = Tanh(x)"), Tape()
        tensor = ir.LazyTensor(make, dtype=ir.DataType.FLOAT, shape=ir.Shape([3]), name="w")
        replace(tape, node(model, "Tanh").outputs, [tape("Mul", model.graph.inputs[0], tape.lazy(tensor))])
        assert sound(model) == ["y = Mul(x, y/w)"]
        assert reads == []
        assert constant_of(model.graph.initializers["y/w"]).tolist() == [1.0] * 3
        assert reads == [1]


def test_a_clone_has_a_ledger_of_its_own() -> None:
    """Nodes placed in a model are no business of a rewrite of its clone."""
    model = graph("y = Tanh(x)")
    as_gelu(model)
    clone = model.clone()
    assert Ledger.of(clone.graph) is not Ledger.of(model.graph)
    assert Ledger.of(clone.graph).take_placed() == []


def test_a_ledger_belongs_to_its_graph_and_forgets_what_went() -> None:
    model = graph("y = Tanh(x)")
    ledger = Ledger.of(model.graph)
    assert Ledger.of(model.graph) is ledger
    assert ledger.unique("y") == "y_1"
    as_gelu(model)
    assert [placed.op_type for placed in ledger.take_placed()] == ["Gelu"]
    assert ledger.take_placed() == []
