"""Annotations that hold for every size; ONNX's own inference may know no more."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import ShapeInferencePass
from tersor.benchmarks._layers import layered
from tersor.ir.content import Element, dimensions
from tersor.ir.shape_annotate import annotate
from tersor.ir.text import graph
from tersor.tests.passes.corpus import CORPUS
from tersor.tests.support import parse

X = {"x": "float[batch, sequence, 8]"}


def bare(model: ir.Model) -> ir.Model:
    """Only inputs and outputs are annotated."""
    kept = set(model.graph.outputs)
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value not in kept:
                value.type = value.shape = None
    return model


def last(*text: str, inputs: dict[str, str] | None = None, **constants: object) -> list[Element] | None:
    model = bare(graph(*text, "end = my.Sink(y)", inputs=inputs or X, **constants))
    annotate(model)
    return dimensions(next(node.outputs[0] for node in model.graph if node.outputs[0].name == "y"))


@pytest.mark.parametrize(
    ("text", "inputs", "expected"),
    [
        (["y = Concat{axis=1}(x, x)"], X, ["batch", "2*sequence", 8]),
        (["y = Reshape(x, [0, -1, 4])"], X, ["batch", "2*sequence", 4]),
        (["y = Concat{axis=1}(p, x)"], {**X, "p": "float[batch, past, 8]"}, ["batch", "past + sequence", 8]),
        (["y = Add(x, p)"], {**X, "p": "float[8]"}, ["batch", "sequence", 8]),
        (["y = Add(x, p)"], {**X, "p": "float[1, 1, 1]"}, ["batch", "sequence", 8]),
        (["y = Slice(x, [0], [9223372036854775807], [1])"], X, ["batch", "sequence", 8]),
        (["y = Slice(x, [0], [2], [2])"], X, ["batch", "sequence", 2]),
        (
            ["s = Shape{start=1, end=2}(x)", "y = Slice(p, [0], s, [0])"],
            {**X, "p": "float[512]"},
            ["Min(512, sequence)"],
        ),
        (["y = Slice(x, [0], [4], [1])"], X, ["batch", "Min(4, sequence)", 8]),
        (["y = Slice(x, [-4], [9223372036854775807], [1])"], X, ["batch", "Min(4, sequence)", 8]),
        (["n = Shape{start=0, end=1}(x)", "k = Squeeze(n)", "y = Range(0, k, 1)"], X, ["batch"]),
        (["y = NonZero(x)"], X, [3, "unk__0"]),
        (["z = NonZero(x)", "y = Neg(z)"], X, [3, "unk__0"]),
        (["y = com.microsoft.BiasGelu(x, p)"], {**X, "p": "float[8]"}, ["batch", "sequence", 8]),
        (["y = DepthToSpace{blocksize=2}(p)"], {"p": "float[1, 8, 3, 3]"}, [1, 2, 6, 6]),
    ],
)
def test_what_follows(text: list[str], inputs: dict[str, str], expected: list[Element]) -> None:
    assert last(*text, inputs=inputs) == expected


@pytest.mark.parametrize(
    ("text", "inputs", "axis", "why"),
    [
        (["y = Add(x, p)"], {**X, "p": "float[rows, 1, 8]"}, 0, "either of two names may be 1"),
        (["y = Slice(x, [0], k, [1])"], {**X, "k": "int64[1]"}, 1, "the end is data"),
        (["y = Slice(x, [0], [4], k)"], {**X, "k": "int64[1]"}, 2, "which axis is data"),
        (["y = Split(x, k)"], {**X, "k": "int64[2]"}, 0, "the sizes are data"),
        (["y = MaxPool{kernel_shape=[2], strides=[2], ceil_mode=1}(x)"], X, 2, "opsets differ"),
    ],
)
def test_what_some_sizes_do_not_bear_out(text: list[str], inputs: dict[str, str], axis: int, why: str) -> None:
    found = last(*text, inputs=inputs)
    assert found is not None and str(found[axis]).startswith("unk__"), why


TARGET = ("a = Shape{start=1, end=2}(x)", "b = Mul(a, a)", "t = Concat{axis=0}(a, b)")


@pytest.mark.parametrize(
    ("text", "x", "expected"),
    [
        # a zero in the target is the dimension at its place: (1, 0) of (1, 0, 4)
        ([*TARGET, "y = Reshape(x, t)"], "float[n, m, 4]", ["unk__0", "unk__1"]),
        ([*TARGET, "y = Reshape{allowzero=1}(x, t)"], "float[n, m, 4]", ["m", "m*m"]),
        (["a = Shape(p)", "y = Reshape(x, a)"], "float[n, 4]", ["unk__0", 4]),
        (["a = Shape{end=1}(p)", "t = Concat{axis=0}(a, [4])", "y = Reshape(x, t)"], "float[n*m, 4]", ["m", 4]),
        (["a = Shape(p)", "t = Concat{axis=0}(a, [-1])", "y = Reshape(x, t)"], "float[n, 4]", ["unk__0", 4, "unk__1"]),
        # what has the elements of x is as empty as it
        (["a = Shape{start=1, end=2}(x)", "t = Concat{axis=0}([4], a, [-1])", "y = Reshape(x, t)"], "float[n, m, 4]",
         [4, "m", "n"]),
    ],
)  # fmt: skip
def test_a_computed_target_that_may_be_zero(text: list[str], x: str, expected: list[Element]) -> None:
    assert last(*text, inputs={"x": x, "p": "float[m, 4]"}) == expected


def test_squeezing_whatever_is_one_has_no_rank() -> None:
    assert last("y = Squeeze(x)") is None


def test_a_name_gives_way_to_the_formula_that_it_stands_for() -> None:
    model = graph("c = Concat{axis=1}(x, x)", "m = my.Op(c)", "y = Relu(m)", inputs=X)
    joined, other, _ = (node.outputs[0] for node in model.graph)
    joined.shape, other.shape = ir.Shape(["batch", "both", 8]), ir.Shape(["both + 1"])
    annotate(model)
    assert (dimensions(joined), dimensions(other)) == (["batch", "2*sequence", 8], ["2*sequence + 1"])


def test_what_is_declared_stays() -> None:
    model = graph("h = Relu(x)", "y = Neg(h)", inputs=X)
    inner, result = (node.outputs[0] for node in model.graph)
    inner.shape, result.shape = ir.Shape(["batch", 3, 8]), ir.Shape(["rows", None, 8])
    annotate(model)
    assert (dimensions(inner), result.shape) == (["batch", 3, 8], ir.Shape(["rows", 3, 8]))


LOOP = """g (float[n, 4] x, int64 k) => (float[a, b] y) {{
    go = Constant <value = bool {{1}}> ()
    h = Loop (k, go, x) <body = b (int64 i, bool c, float s) => (bool d, float t) {{ d = Identity (c)  t = {step} }}>
    y = Relu (h) }}"""


@pytest.mark.parametrize(
    ("step", "inside", "after"),
    [("Neg (s)", ["n", 4], ["n", 4]), ("Concat <axis = 0> (s, s)", [None, 4], ["unk__0", "unk__1"])],
)
def test_the_state_of_a_loop_may_change_its_shape(step: str, inside: list[Element], after: list[Element]) -> None:
    model = bare(parse(LOOP.format(step=step)))
    annotate(model)
    nodes = {node.op_type: node for node in model.graph.all_nodes()}
    assert dimensions(nodes[step.split()[0]].outputs[0]) == inside
    assert dimensions(nodes["Loop"].outputs[0]) in (after, None)


@pytest.mark.parametrize("name", sorted({*CORPUS, "layered"}))
def test_onnx_knows_no_more_and_nothing_else(name: str) -> None:
    mine = bare(layered(300) if name == "layered" else CORPUS[name]())
    theirs = mine.clone()
    annotate(mine)
    ShapeInferencePass(check_type=False, strict_mode=False)(theirs)
    pairs = zip(mine.graph.all_nodes(), theirs.graph.all_nodes(), strict=True)
    for value, other in ((a, b) for left, right in pairs for a, b in zip(left.outputs, right.outputs, strict=True)):
        assert other.type is None or value.type == other.type, value.name
        found, known = dimensions(value), dimensions(other)
        assert known is None or (found is not None and len(found) == len(known)), value.name
        for dim, wanted in zip(found or (), known or (), strict=False):
            assert not isinstance(wanted, int) or dim == wanted, value.name


def test_a_second_time_finds_nothing() -> None:
    model = bare(layered(300))
    assert annotate(model) > 0
    assert annotate(model) == 0


def test_annotations_are_those_of_a_run() -> None:
    from tersor.ir.runner import runner

    model = bare(graph("c = Concat{axis=1}(x, x)", "r = Reshape(c, [0, -1, 2])", "y = Relu(r)", inputs=X))
    annotate(model)
    (result,) = runner(model)({"x": np.ones((2, 3, 8), np.float32)}).values()
    assert dimensions(model.graph.node(1).outputs[0]) == ["batch", "8*sequence", 2]
    assert result.shape == (2, 24, 2)


def test_what_follows_for_an_output_stands_beside_what_its_author_declared() -> None:
    model = graph("y = Concat{axis=1}(p, x)", inputs={**X, "p": "float[batch, past, 8]"})
    (output,) = model.graph.outputs
    output.shape = ir.Shape(["batch", "Concaty_dim_1", 8])
    annotate(model)
    assert list(output.shape) == ["batch", "Concaty_dim_1", 8]
    assert dimensions(output) == ["batch", "past + sequence", 8]
    assert not annotate(model)
    output.shape = ir.Shape(["batch", "n", 8])
    assert dimensions(output) == ["batch", "n", 8]
