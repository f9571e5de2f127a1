"""`diff`: what counts as a difference, what does not, and how nodes are matched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir
import pytest
from tersor.driver.diff import diff
from tersor.ir.text import graph
from tersor.tests.driver.support import Cli, dense

X = {"x": "float[batch, 8]"}


def chain(*ops: str) -> onnx_ir.Model:
    """x through unary ops, values named by their place."""
    lines = [f"v{index + 1} = {op}({'x' if index == 0 else f'v{index}'})" for index, op in enumerate(ops)]
    return graph(*lines, inputs=X)


class TestSame:
    def test_a_model_and_itself(self) -> None:
        assert diff(dense(), dense()).same

    def test_renamed_values_nodes_and_weights(self) -> None:
        other = dense()
        for node in other.graph:
            node.name = f"other_{node.name}"
            if not node.outputs[0].is_graph_output():
                node.outputs[0].name = f"other_{node.outputs[0].name}"
        for value in list(other.graph.initializers.values()):
            value.name = f"other_{value.name}"
        found = diff(dense(), other)
        assert found.same
        assert found.equal == 3

    def test_independent_nodes_in_another_order(self) -> None:
        first = graph("a = Relu(x)", "b = Exp(x)", "y = Add(a, b)", inputs=X)
        second = graph("b = Exp(x)", "a = Relu(x)", "y = Add(a, b)", inputs=X)
        assert diff(first, second).same


class TestDifferent:
    def test_another_op(self) -> None:
        found = diff(dense(), dense(slope=0.1))
        assert found.ops == {"LeakyRelu": (0, 1), "Relu": (1, 0)}
        assert [note.line for note in found.removed] == ["y = Relu(s)"]
        assert [note.line for note in found.added] == ["y = LeakyRelu{alpha=0.1}(s)"]
        assert found.weights == ()

    def test_another_attribute(self) -> None:
        (change,) = diff(dense(slope=0.1), dense(slope=0.2)).changed
        assert change.place == "LeakyRelu at y"
        (what,) = change.what
        assert what.startswith("alpha=0.1")
        assert "-> alpha=0.2" in what

    def test_another_weight(self) -> None:
        found = diff(dense(), dense(shift=0.5))
        assert found.changed == ()
        (weight,) = found.weights
        original = dense().graph.initializers["w"].const_value
        assert original is not None
        assert (weight.name, weight.before, weight.after) == ("w", "float[8, 4]", "float[8, 4]")
        assert weight.error == pytest.approx(0.5 / np.linalg.norm(original.numpy()))

    def test_weights_of_another_name_and_dtype_are_paired_by_their_reader(self) -> None:
        first = graph("c = Cast{to=1}(w)", "y = MatMul(x, c)", inputs=X, w=np.ones((8, 4), np.float16))
        second = graph("c = Cast{to=1}(q)", "y = MatMul(x, c)", inputs=X, q=np.ones((8, 4), np.int8))
        (weight,) = diff(first, second).weights
        assert (weight.name, weight.bytes, weight.error) == ("w -> q", (64, 32), None)

    def test_a_dropped_bias(self) -> None:
        without = graph("h = MatMul(x, w)", "y = Relu(h)", inputs=X, w=_weight())
        found = diff(dense(), without)
        assert [note.line for note in found.removed] == ["s = Add(h, b)"]
        (change,) = found.changed
        assert change.what == ("input 0: s (of Add) -> h (of MatMul)",)
        assert [(weight.name, weight.after) for weight in found.weights] == [("b", None)]

    def test_swapped_inputs(self) -> None:
        found = diff(graph("a = Relu(x)", "y = Sub(a, x)", inputs=X), graph("a = Relu(x)", "y = Sub(x, a)", inputs=X))
        (change,) = found.changed
        assert len(change.what) == 2

    def test_a_node_put_in_between_leaves_the_rest_matched(self) -> None:
        found = diff(chain("Relu", "Exp", "Neg", "Abs"), chain("Relu", "Exp", "Sigmoid", "Neg", "Abs"))
        assert [note.line for note in found.added] == ["v3 = Sigmoid(v2)"]
        assert found.removed == ()
        assert [change.place for change in found.changed] == ["Neg at v3"]

    def test_interface_and_opsets(self) -> None:
        first = graph("y = Relu(x)", inputs=X, opset=18)
        second = graph("y = Relu(x)", inputs={"x": "float[n, 8]"}, opset=23)
        found = diff(first, second)
        assert found.opsets == ("ai.onnx: 18 -> 23",)
        assert found.interface[0] == "input changed: x: float[batch, 8] -> x: float[n, 8]"


class TestCommand:
    @pytest.fixture
    def other(self, tmp_path: Path) -> Path:
        path = tmp_path / "other.onnx"
        onnx_ir.save(dense(shift=0.5), path)
        return path

    def test_equal_models_exit_with_zero(self, cli: Cli, dense_onnx: Path) -> None:
        ran = cli("diff", dense_onnx, dense_onnx, "--numeric")
        assert ran.code == 0, ran.err
        assert "The graphs are equal." in ran.out
        assert "within the tolerance" in ran.out

    def test_structure_exits_with_one(self, cli: Cli, dense_onnx: Path, other: Path) -> None:
        ran = cli("diff", dense_onnx, other)
        assert ran.code == 1
        assert "weights: 1 differ" in ran.out

    def test_numeric_names_the_first_diverging_value(self, cli: Cli, dense_onnx: Path, other: Path) -> None:
        ran = cli("diff", dense_onnx, other, "--numeric")
        assert ran.code == 1
        assert "first diverging value: 'h' of MatMul" in ran.out

    def test_numeric_judges_by_the_tolerance_alone(self, cli: Cli, dense_onnx: Path, other: Path) -> None:
        ran = cli("diff", dense_onnx, other, "--numeric", "--tolerance", "10", "--json")
        assert ran.code == 0
        assert ran.document["same"] is True
        structure = ran.document["structure"]
        assert isinstance(structure, dict)
        assert len(structure["weights"]) == 1

    def test_data_comes_from_a_file(self, cli: Cli, dense_onnx: Path, other: Path, tmp_path: Path) -> None:
        np.savez(tmp_path / "zeros.npz", x=np.zeros((2, 8), np.float32))
        ran = cli("diff", dense_onnx, other, "--numeric", "--data", "zeros.npz")
        assert ran.code == 0, ran.out

    def test_dimensions_do_not_go_with_data(self, cli: Cli, dense_onnx: Path, other: Path, tmp_path: Path) -> None:
        np.savez(tmp_path / "zeros.npz", x=np.zeros((2, 8), np.float32))
        ran = cli("diff", dense_onnx, other, "--numeric", "--data", "zeros.npz", "--dims", "batch=2")
        assert ran.code == 2
        assert "data brings its own sizes" in ran.err

    def test_lines_that_read_alike_are_not_shown_twice(self, cli: Cli, tmp_path: Path) -> None:
        onnx_ir.save(chain("Exp", "Relu", "Neg"), tmp_path / "a.onnx")
        onnx_ir.save(chain("Sin", "Relu", "Neg"), tmp_path / "b.onnx")
        ran = cli("diff", "a.onnx", "b.onnx")
        assert "Relu at v2: input 0: v1 (of Exp) -> v1 (of Sin)" in ran.out
        assert "= Relu(v1)" not in ran.out

    def test_long_lines_are_not_wrapped_where_there_is_no_terminal(self, cli: Cli, tmp_path: Path) -> None:
        onnx_ir.save(chain("Relu"), tmp_path / "a.onnx")
        onnx_ir.save(graph(f"{'v' * 300} = Exp(x)", inputs=X), tmp_path / "b.onnx")
        assert f"+ {'v' * 300} = Exp(x)" in cli("diff", "a.onnx", "b.onnx").out

    def test_limit(self, cli: Cli, tmp_path: Path) -> None:
        onnx_ir.save(chain(*["Relu"] * 6), tmp_path / "a.onnx")
        onnx_ir.save(chain(*["Exp"] * 6), tmp_path / "b.onnx")
        assert "and 4 more; --limit 0 shows all" in cli("diff", "a.onnx", "b.onnx", "--limit", "2").out
        assert "more" not in cli("diff", "a.onnx", "b.onnx", "--limit", "0").out


def _weight() -> np.ndarray:
    value = dense().graph.initializers["w"].const_value
    assert value is not None
    return value.numpy()
