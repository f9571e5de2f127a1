"""Functions, subgraphs, and weights that are inputs or outputs too: what cannot be cut there is held."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.axes import dependencies
from tersor.ir.errors import ModelError
from tersor.ir.text import graph
from tersor.tests.ir.axes.support import assert_free_groups_can_be_cut, cuttable
from tersor.tests.support import parse

RNG = np.random.default_rng(0)

FUNCTIONS = {
    "elementwise": ("F (x) => (y) { s = Sigmoid (x)  y = Mul (x, s) }", [8]),
    "nested": ("G (x) => (y) { y = Relu (x) }\nF (x) => (y) { g = pkg.G (x)  y = pkg.G (g) }", [8]),
    "that reads its size": (
        "F (x) => (y) { s = Shape (x)  f = Cast <to = 1> (s)  t = ReduceMax <keepdims = 0> (f)  y = Mul (x, t) }",
        [],
    ),
    "with a constant of that size": (
        "F (x) => (y) { c = Constant <value_floats = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]> ()  y = Mul (x, c) }",
        [],
    ),
    "with a constant of size one": ("F (x) => (y) { c = Constant <value_floats = [2.0]> ()  y = Mul (x, c) }", [8]),
    "that is told a size": (
        "F (x) => (y) { s = Constant <value_ints = [-1, 2, 4]> ()  r = Reshape (x, s)  "
        "t = Transpose <perm = [0, 2, 1]> (r)  b = Constant <value_ints = [0, 8]> ()  y = Reshape (t, b) }",
        [],
    ),
    "that normalizes": ("F (x) => (y) { y = LpNormalization <axis = -1> (x) }", []),
    "that takes its axis from the call": ("F <axis> (x) => (y) { y = Softmax <axis: int = @axis> (x) }", []),
    "that turns it as the call says": (
        "F <axes> (x) => (y) { t = Transpose <perm: ints = @axes> (x)  y = Transpose <perm: ints = @axes> (t) }",
        [],
    ),
}


def called(functions: str, attributes: str = "") -> ir.Model:
    """A function between two layers of 8 units."""
    bodies = "\n".join(f'<domain: "pkg", opset_import: ["": 23, "pkg": 1]>\n{text}' for text in functions.split("\n"))
    text = f"""
    g (float[n, 5] x, float[5, 8] w, float[8, 3] v) => (float[n, 3] y) {{
        a = MatMul (x, w)
        b = pkg.F {attributes} (a)
        y = MatMul (b, v)
    }}"""
    return with_weights(parse(text, functions=bodies), "w", "v")


def with_weights(model: ir.Model, *names: str) -> ir.Model:
    """Inputs that are turned into initializers of seeded numbers."""
    rng = np.random.default_rng(0)
    for value in [value for value in model.graph.inputs if value.name in names]:
        assert value.shape is not None
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(rng.standard_normal(value.shape.numpy()).astype(np.float32), name=value.name)
        model.graph.register_initializer(value)
    return model


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    text, free = FUNCTIONS[name]
    attributes = {"F <axis>": "<axis = 1>", "F <axes>": "<axes = [1, 0]>"}.get(text[:8], "")
    found = dependencies(called(text, attributes))
    held = [(group.size, list(map(str, group.holds))) for group in found.groups]
    assert [group.size for group in found.groups if cuttable(group)] == free, held
    assert_free_groups_can_be_cut(lambda: called(text, attributes))


def test_a_function_called_with_two_sizes_ties_neither_to_the_other() -> None:
    swish = '<domain: "pkg", opset_import: ["": 23]>\nF (x) => (y) { s = Sigmoid (x)  y = Mul (x, s) }'

    def made() -> ir.Model:
        text = """
        g (float[n, 5] x, float[5, 8] w, float[8, 6] u, float[6, 3] v) => (float[n, 3] y) {
            a = MatMul (x, w)  b = pkg.F (a)  c = MatMul (b, u)  d = pkg.F (c)  y = MatMul (d, v)
        }"""
        return with_weights(parse(text, functions=swish), "w", "u", "v")

    assert assert_free_groups_can_be_cut(made) == [6, 8]


SUBGRAPHS = {
    "reads it": "b = If (c) <then_branch = t () => (p) { p = Relu (a) }, else_branch = e () => (q) { q = Tanh (a) }>",
    "gives it": "b = If (c) <then_branch = t () => (a) { }, else_branch = e () => (q) { q = Tanh (x8) }>",
    "goes round with it": "b = Loop (trips, go, a) "
    "<body = l (int64 i, bool k, float[n, 8] s) => (k2, z) { k2 = Identity (k)  z = Add (s, s) }>",
    "scans it": "f, b = Scan <num_scan_inputs = 1, "
    "body = l (float s, float[n] r) => (s2, r2) { s2 = Identity (s)  r2 = Relu (r) }, "
    "scan_input_axes = [1], scan_output_axes = [1]> (zero, a)",
}


@pytest.mark.parametrize("name", ["reads it", "gives it"])
def test_subgraphs_hold_what_they_read_or_give(name: str) -> None:
    text = f"""
    g (float[n, 5] x, float[n, 8] x8, bool c, float[5, 8] w, float[8, 3] v) => (float[n, 3] y) {{
        a = MatMul (x, w)
        {SUBGRAPHS[name]}
        y = MatMul (b, v)
    }}"""
    found = dependencies(with_weights(parse(text), "w", "v"))
    assert [group.size for group in found.groups if group.free] == []


@pytest.mark.parametrize("name", ["goes round with it", "scans it"])
def test_loops_hold_what_goes_through_them(name: str) -> None:
    text = f"""
    g (float[n, 5] x, int64 trips, bool go, float zero, float[5, 8] w, float[8, 3] v) => (float[n, 3] y) {{
        a = MatMul (x, w)
        {SUBGRAPHS[name]}
        y = MatMul (b, v)
    }}"""
    found = dependencies(with_weights(parse(text), "w", "v"))
    assert [group.size for group in found.groups if group.free] == []


def layers(**weights: object) -> ir.Model:
    given: dict[str, object] = {
        "w": RNG.standard_normal((5, 8)).astype(np.float32), "v": RNG.standard_normal((8, 3)).astype(np.float32)
    }  # fmt: skip
    lines = ("a = MatMul(x, w)", "b = Relu(a)", "y = MatMul(b, v)")
    return graph(*lines, inputs={"x": "float[n, 5]"}, outputs=["y"], **given, **weights)


def free(model: ir.Model) -> list[int]:
    return [group.size for group in dependencies(model).groups if group.free]


def test_a_weight_that_the_caller_may_override_is_held() -> None:
    model = layers()
    assert free(model) == [8]
    model.graph.inputs.append(model.graph.initializers["w"])
    assert free(model) == []


def test_a_weight_that_is_an_output_is_held() -> None:
    model = layers()
    model.graph.outputs.append(model.graph.initializers["v"])
    assert free(model) == []


def test_a_size_that_is_an_output_is_held() -> None:
    model = layers()
    shape = ir.node("Shape", [model.graph[0].outputs[0]])
    shape.outputs[0].name = "size"
    model.graph.append(shape)
    model.graph.outputs.append(shape.outputs[0])
    assert free(model) == []


def test_older_opsets_are_refused_with_what_to_do() -> None:
    model = layers()
    model.opset_imports[""] = 12
    with pytest.raises(ModelError, match=r"opset 13 or newer.*found 12.*--raise"):
        dependencies(model)


def test_parameters_of_a_unit_are_its_own() -> None:
    model = graph(
        "a = MatMul(x, w)", "b = MatMul(x, u)", "c = Concat{axis=-1}(a, b)", "y = MatMul(c, v)",
        inputs={"x": "float[n, 5]"}, outputs=["y"],
        w=np.ones((5, 8), np.float32), u=np.ones((5, 4), np.float32), v=np.ones((12, 3), np.float32),
    )  # fmt: skip
    assert {group.size: group.parameters for group in dependencies(model).groups if group.free} == {8: 8, 4: 8}


@pytest.mark.parametrize(("filled", "sizes"), [("", [8]), ("<value = float[1] {1.0}>", [])])
def test_what_is_added_to_each_unit_counts_without_weights(filled: str, sizes: list[int]) -> None:
    text = f"""
    g (float[n, 5] x, float[5, 8] w) => (float[n, 1] y) {{
        s = Constant <value_ints = [8]> ()
        last = Constant <value_ints = [-1]> ()
        a = MatMul (x, w)
        z = ConstantOfShape {filled} (s)
        b = Add (a, z)
        y = ReduceSum (b, last)
    }}"""
    assert free(with_weights(parse(text), "w")) == sizes
