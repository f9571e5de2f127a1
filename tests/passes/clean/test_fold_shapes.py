"""Targets of Reshape and Expand that names and numbers settle."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from tersor.ir.text import graph, lines
from tersor.passes.clean.fold_shapes import FoldShapes
from tersor.passes.edit import integers_of
from tersor.tests.support import apply, holds, inside_if, misses

X = {"x": "float[batch, sequence, 8]"}
LEAD = ("s = Shape(x)", "lead = Slice(s, [0], [2])")


def to(*parts: str, inputs: dict[str, str] | None = None, before: tuple[str, ...] = LEAD) -> ir.Model:
    """A reshape to a target made of these parts."""
    return graph(*before, f"t = Concat{{axis=0}}({', '.join(parts)})", "y = Reshape(x, t)", inputs=inputs or X)


def target(model: ir.Model) -> list[int] | None:
    node = next(node for node in model.graph.all_nodes() if node.op_type == "Reshape")
    return integers_of(node.inputs[1])


class TestRewrites:
    @pytest.mark.parametrize(
        ("model", "wanted"),
        [
            (to("lead", "[2, 4]"), [0, 0, 2, 4]),
            (to("lead", "[2]", "k", inputs={**X, "k": "int64[1]"}), [0, 0, 2, -1]),
            (to("lead", "[-1, 4]"), [0, 0, -1, 4]),
            (to("[-1]", "[8]", before=()), [-1, 8]),
            (to("g", "[-1]", before=("s = Shape(x)", "g = Gather(s, [0])")), [0, -1]),
            (to("[1]", "g", "[-1]", before=("s = Shape(x)", "g = Gather(s, [1])")), [1, 0, -1]),
            (to("d", "[4]", before=("s = Shape(x)", "d = Div(s, [1, 1, 4])")), [0, 0, 2, 4]),
            (
                to("u", "[8]", before=("s = Shape(x)", "b = Gather(s, 0)", "q = Gather(s, 1)", "n = Mul(b, q)",
                                       "u = Unsqueeze(n, [0])")),
                [-1, 8],
            ),
        ],
    )  # fmt: skip
    def test_a_computed_target(self, model: ir.Model, wanted: list[int]) -> None:
        assert apply(FoldShapes(), model) == ["y = Reshape(x, y/shape)"]
        assert target(model) == wanted

    @pytest.mark.parametrize(
        "text",
        [
            ["t = Shape(x)", "r = Reshape(x, t)"],
            ["r = Reshape(x, [0, 0, 8])"],
            ["r = Reshape(x, [0, 0, -1])"],
            ["r = Reshape(x, [0, -1, 8])"],
            ["t = Shape(x)", "r = Expand(x, t)"],
            ["r = Expand(x, [1, 1, 1])"],
            ["r = Expand(x, [8])"],
            ["r = Expand(x, [1])"],
        ],
    )
    def test_a_target_that_the_value_already_has(self, text: list[str]) -> None:
        assert apply(FoldShapes(), graph(*text, "y = Relu(r)", inputs=X)) == ["y = Relu(x)"]

    def test_an_output_keeps_its_name(self) -> None:
        assert apply(FoldShapes(), graph("t = Shape(x)", "y = Reshape(x, t)", inputs=X)) == ["y = Identity(x)"]

    def test_chains_collapse(self) -> None:
        model = graph("a = Reshape(x, [0, 0, 8])", "b = Expand(a, [1])", "y = Neg(b)", inputs=X)
        assert apply(FoldShapes(), model) == ["y = Neg(x)"]

    def test_in_branches(self) -> None:
        model = inside_if(to("lead", "[2, 4]"))
        assert not any("Shape(" in line for line in apply(FoldShapes(), model))


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        (to("lead", "k", inputs={**X, "k": "int64[n]"}), "target"),
        (to("lead", "k", inputs={**X, "k": "int64[2]"}), "spelling"),
        (graph("y = Reshape(x, [0, 4, -1])", inputs=X), "constant"),
        (graph("y = Reshape(x, [-1, 8])", inputs=X), "constant"),
        (graph("s = Shape(x)", "t = Gather(s, [1, 0, 2])", "y = Reshape(x, t)", inputs=X), "spelling"),
        (to("[4]", "[-1]", "g", before=("s = Shape(x)", "g = Gather(s, [0])")), "spelling"),
        (graph("s = Shape(z)", "y = Reshape(x, s)", inputs={**X, "z": "float[rows, columns]"}), "spelling"),
        (graph("s = Shape(z)", "y = Reshape(x, s)", inputs={"x": "float", "z": "float[rows, columns]"}), "spelling"),
        (to("lead", "[2, 4]", inputs={"x": "float[0, n, 8]"}), "zero-size"),
        (to("s", "[0]", inputs={**X, "z": "float[4]"}, before=("s = Shape(z)",)), "spelling"),
        (graph("s = Shape(z)", "y = Expand(x, s)", inputs={**X, "z": "float[batch, sequence, 8, 2]"}), "expand"),
        (graph("y = Expand(x, [4, 1, 8])", inputs=X), "expand"),
        (graph("y = Expand(x, [2, 1, 1, 1])", inputs=X), "expand"),
        (graph("s = Shape(z)", "y = Expand(x, s)", inputs={"x": "float", "z": "float[4]"}), "expand"),
        (graph("y = Expand(x, [1])", inputs={"x": "float[]"}), "expand"),
    ],
)  # fmt: skip
def test_leaves_alone(model: ir.Model, rule: str) -> None:
    (miss,) = misses(FoldShapes(), model)
    assert miss.rule == rule
    before = lines(model)
    assert apply(FoldShapes(), model) == before


def test_leaves_unnamed_dimensions_alone() -> None:
    model = to("lead", "[8]", inputs={"x": "float[batch, sequence, 8]"})
    for value in (*model.graph.inputs, *(value for node in model.graph for value in node.outputs)):
        if value.name == "x":
            value.shape = ir.Shape([None, None, 8])
    (miss,) = misses(FoldShapes(), model)
    assert (miss.rule, miss.value) == ("spelling", "[None, None, 8] to [None, None, 8]")


def test_leaves_a_reshape_of_another_domain() -> None:
    assert misses(FoldShapes(), graph("y = my.Reshape(x)", "z = my.Expand(x, x)")) == []


@pytest.mark.parametrize(
    "model",
    [
        to("lead", "[2, 4]"),
        to("lead", "[-1, 4]"),
        graph("s = Shape(x)", "d = Div(s, [1, 1, 4])", "t = Concat{axis=0}(d, [4])", "y = Reshape(x, t)", inputs=X),
        graph("t = Shape(x)", "r = Expand(x, t)", "y = Relu(r)", inputs=X),
        inside_if(to("lead", "[2, 4]")),
    ],
)
@pytest.mark.parametrize("sizes", [{}, {"batch": 1, "sequence": 1}, {"batch": 3, "sequence": 7}])
def test_holds(model: ir.Model, sizes: dict[str, int]) -> None:
    assert holds(FoldShapes(), model, sizes) == 0.0


def test_a_known_target_that_no_constant_spells_is_no_miss_to_report() -> None:
    (known,) = misses(FoldShapes(), graph("s = Shape(x)", "t = Gather(s, [1, 0, 2])", "y = Reshape(x, t)", inputs=X))
    (unknown,) = misses(FoldShapes(), to("lead", "k", inputs={**X, "k": "int64[2]"}))
    assert (known.far, unknown.far) == (True, False)
