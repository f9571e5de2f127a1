"""Shape arithmetic, read without running it; ONNX's own evaluator is the oracle."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from tersor.ir.content import Content, content, dimensions, truth
from tersor.ir.text import graph

X = {"x": "float[batch, sequence, 384]"}
SMALL = st.lists(st.integers(-9, 9), min_size=0, max_size=4)


def last(*lines: str, opset: int = 23, **constants: object) -> Content | None:
    return content(graph(*lines, inputs=X, opset=opset, **constants).graph.outputs[-1])


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["y = Shape(x)"], ["batch", "sequence", 384]),
        (["y = Shape{start=1}(x)"], ["sequence", 384]),
        (["y = Shape{start=-2, end=-1}(x)"], ["sequence"]),
        (["y = Shape{start=2, end=1}(x)"], []),
        (["s = Shape(x)", "y = Gather(s, 1)"], ["sequence"]),
        (["s = Shape(x)", "y = Gather(s, [-1, 0])"], [384, "batch"]),
        (["s = Shape(x)", "y = Slice(s, [0], [2])"], ["batch", "sequence"]),
        (["s = Shape(x)", "y = Slice(s, [-1], [-9], [0], [-1])"], [384, "sequence", "batch"]),
        (["s = Shape(x)", "y = Slice(s, [1], [9223372036854775807])"], ["sequence", 384]),
        (["s = Shape(x)", "h = Slice(s, [0], [2])", "y = Concat{axis=0}(h, [12, 32])"], ["batch", "sequence", 12, 32]),
        (["s = Shape(x)", "g = Gather(s, 2)", "d = Div(g, 12)", "y = Unsqueeze(d, [0])"], [32]),
        (["s = Shape(x)", "y = Mul(s, [1, 1, 2])"], ["batch", "sequence", 768]),
        (["s = Shape(x)", "y = Add(s, 0)"], ["batch", "sequence", 384]),
        (["s = Shape(x)", "y = Sub(s, [0, 1, 1])"], ["batch", "sequence - 1", 383]),
        (["s = Shape(x)", "y = Sub(0, s)"], ["-batch", "-sequence", -384]),
        (["s = Shape(x)", "y = Div(1, s)"], ["(1//batch)", "(1//sequence)", 0]),
        (["s = Shape(x)", "d = Sub(s, 1)", "y = Div(d, 2)"], [None, None, 191]),
        (["s = Shape(x)", "m = Mul(s, 12)", "y = Div(m, 4)"], ["3*batch", "3*sequence", 1152]),
        (["s = Shape(x)", "y = Mod(s, 5)"], ["-5*(batch//5) + batch", "-5*(sequence//5) + sequence", 4]),
        (["s = Shape(x)", "h = Slice(s, [0], [2])", "y = ReduceProd{keepdims=0}(h)"], ["batch*sequence"]),
        (["s = Shape(x)", "a = Gather(s, 0)", "b = Gather(s, 1)", "y = Add(b, a)"], ["batch + sequence"]),
        (["s = Shape(x)", "y = Max(s, 0)"], ["batch", "sequence", 384]),
        (["s = Shape(x)", "y = Min(s, 1)"], ["Min(1, batch)", "Min(1, sequence)", 1]),
        (["s = Shape(x)", "c = Equal(s, -1)", "y = Where(c, [1, 1, 1], s)"], ["batch", "sequence", 384]),
        (["s = Shape(x)", "c = Equal(s, 1)", "y = Where(c, 7, s)"], [None, None, 384]),
        (["s = Shape(x)", "c = Equal(s, 1)", "y = Where(c, s, s)"], ["batch", "sequence", 384]),
        (
            ["s = Shape(x)", "k = NonZero(x)", "h = Shape(k)", "y = Concat{axis=0}(s, h)"],
            ["batch", "sequence", 384, 3, "unk__0"],
        ),
        (["y = Div([-7, 7, 1], [2, -2, 0])"], [-3, -3, None]),
        (["s = Shape(x)", "y = Cast{to=INT32}(s)"], ["batch", "sequence", 384]),
        (["s = Shape(x)", "y = Reshape(s, [-1])"], ["batch", "sequence", 384]),
        (["s = Shape(x)", "y = Where([True, False, True], s, -1)"], ["batch", -1, 384]),
        (["s = Shape(x)", "y = Where(True, 5, s)"], [5, 5, 5]),
    ],
)
def test_arithmetic_over_names_and_numbers(lines: list[str], expected: Content) -> None:
    assert last(*lines) == expected


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["y = Relu(x)"], "not shape arithmetic"),
        (["y = Identity(x)"], "not integers"),
        (["s = Shape(x)", "y = Cast{to=FLOAT}(s)"], "a float"),
        (["s = Shape(x)", "y = Gather(s, [7])"], "an index outside"),
        (["s = Shape(x)", "y = Reshape(s, [3, 1])"], "a matrix"),
        (["s = Shape(x)", "y = Unsqueeze(s, [0])"], "a matrix"),
        (["a = Unsqueeze([1, 2], [1])", "y = Concat{axis=1}(a, a)"], "a matrix, whose elements lie in another order"),
        (["s = Shape(x)", "y = Add(s, [1, 2])"], "lengths that do not broadcast"),
        (["s = Shape(x)", "y = Where([True, False], s, s)"], "lengths that do not broadcast"),
        (["s = Shape(x)", "y = Equal(s, s)"], "no numbers"),
        (["s = Shape(x)", "u = Unsqueeze(s, [1])", "y = Gather(u, 0)"], "rows of a matrix"),
        (["s = Shape(x)", "y = Cast{to=INT8}(s)"], "numbers that may wrap around"),
        (["s = Shape(x)", "y = my.Add(s, s)"], "an op of another domain"),
        (["s = Shape(x)", "y = Slice(s, [0], [9], [0], [0])"], "a step of zero"),
    ],
)
def test_what_is_not_known_is_none(lines: list[str], why: str) -> None:
    assert last(*lines) is None, why


def test_a_slice_of_an_older_opset() -> None:
    assert last("s = Shape(x)", "y = Slice{starts=[0], ends=[1]}(s)", opset=9) == ["batch"]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["s = Shape(x)", "y = Equal(s, -1)"], False),
        (["s = Shape(x)", "y = Equal(s, s)"], True),
        (["s = Shape(x)", "e = Equal(s, s)", "y = Not(e)"], False),
        (["s = Shape(x)", "y = Less(s, 0)"], False),
        (["s = Shape(x)", "y = Equal(s, 384)"], None),
        (["s = Shape(x)", "y = Greater(s, 0)"], None),
    ],
)
def test_truths(lines: list[str], expected: bool | None) -> None:
    assert truth(graph(*lines, inputs=X).graph.outputs[-1]) is expected


@pytest.mark.parametrize("spelling", ["s1 + s0", "s0+s1", "s0 + 1*s1"])
def test_a_formula_has_one_spelling(spelling: str) -> None:
    (value,) = graph("y = Relu(x)", inputs={"x": "float[n]"}).graph.inputs
    value.shape = ir.Shape([spelling, "batch-size"])
    assert dimensions(value) == ["s0 + s1", "batch-size"]


def test_shared_arithmetic_is_read_once() -> None:
    chain = ["v0 = Shape(x)", *(f"v{i + 1} = Add(v{i}, v{i})" for i in range(30))]
    assert last(*chain) == [f"{2**30}*batch", f"{2**30}*sequence", 384 * 2**30]


def test_an_unknown_rank_gives_an_unknown_shape() -> None:
    model = graph("y = Shape(x)")
    assert content(model.graph.outputs[0]) is None
    assert dimensions(model.graph.inputs[0]) is None
    assert dimensions(None) is None


def test_an_unnamed_dimension_is_unknown_and_never_equals_another() -> None:
    model = graph("y = Shape(x)", inputs={"x": "float[?, 4]"})
    assert content(model.graph.outputs[0]) == [None, 4]


def test_the_default_of_an_input_is_no_content() -> None:
    model = graph("y = Identity(k)", inputs={"k": "int64[2]"})
    (value,) = model.graph.inputs
    value.const_value = ir.tensor(np.array([1, 2]), name="k")
    model.graph.register_initializer(value)
    assert content(value) is None


def test_long_vectors_hold_data() -> None:
    assert last("y = Identity(k)", k=np.arange(64)) == list(range(64))
    assert last("y = Identity(k)", k=np.arange(65)) is None


def test_very_long_chains_are_something_else() -> None:
    chain = ["v0 = Shape(x)", *(f"v{i + 1} = Add(v{i}, 1)" for i in range(40))]
    assert last(*chain) is None


@given(st.sampled_from(["Add", "Sub", "Mul", "Div"]), SMALL, SMALL)
def test_arithmetic_is_that_of_onnx(op: str, left: list[int], right: list[int]) -> None:
    model = graph(f"y = {op}(a, b)", a=np.array(left, np.int64), b=np.array(right, np.int64))
    found = content(model.graph.outputs[0])
    if found is None:
        assert len(left) != len(right) and 1 not in (len(left), len(right))
        return
    size = np.broadcast_shapes((len(left),), (len(right),))
    assert len(found) == size[0]
    # C++ divides toward zero, Python toward minus infinity: the law is stated in floats
    exact = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply}.get(op, lambda a, b: np.trunc(a / b))
    for value, a, b in zip(found, np.broadcast_to(left, size), np.broadcast_to(right, size), strict=True):
        assert value == (None if op == "Div" and b == 0 else exact(a, b))


@given(st.integers(-12, 12), st.integers(-12, 12), st.integers(-3, 3).filter(bool))
def test_slices_are_those_of_onnx(start: int, end: int, step: int) -> None:
    model = graph(f"y = Slice(a, [{start}], [{end}], [0], [{step}])", a=np.arange(6))
    (value,) = model.graph.outputs
    value.type = ir.TensorType(ir.DataType.INT64)
    (expected,) = ReferenceEvaluator(ir.to_proto(model)).run(None, {})
    assert content(value) == expected.tolist()
