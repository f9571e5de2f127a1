"""A model as text and back: what is printed reads back as it was, and a line that cannot be read says so."""

from __future__ import annotations

import string

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tersor.ir.errors import ModelError
from tersor.ir.text import excerpt, format_model, format_node, graph, lines, parse_type, place

IDENTIFIERS = st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=6).map(lambda text: "n" + text)


def node_of(line: str) -> ir.Node:
    return next(iter(graph(line).graph))


@pytest.mark.parametrize(
    "line",
    [
        "y = Relu(x)",
        "y = Add(x, bias)",
        "(a, b) = Split{axis=1, num_outputs=2}(y)",
        "z = com.microsoft.BiasGelu(a, b)",
        "y = Clip(x, _, high)",
        "y = LSTM{direction=bidirectional, hidden_size=8}(x, w, r, _, lengths)",
        "(_, indices) = TopK{axis=-1}(x, k)",
        "y = Transpose{perm=[0, 2, 1]}(x)",
        "y = LeakyRelu{alpha=1.0}(x)",
        "y = Selu{alpha=1.6732632, gamma=1e-05}(x)",
        "y = Pad{mode=reflect}(x, pads)",
        "y = Einsum{equation='bij,bjk->bik'}(a, b)",
        "y = Upsample{scales=[1.0, 2.5]}(x)",
        "y = Of{words=['a, b', 'c}(']}(x)",
        "y = Of{text='float'}(x)",
        "y = Of{text='1'}(x)",
        "layer.0/add:0 = Add(layer.0/x, layer-norm)",
    ],
)
def test_a_line_reads_back_as_it_was_printed(line: str) -> None:
    assert format_node(node_of(line)) == line


def test_types_name_themselves_in_attributes() -> None:
    assert node_of("y = Cast{to=float16}(x)").attributes["to"].as_int() == ir.DataType.FLOAT16
    assert node_of("y = Cast{to=BOOL}(x)").attributes["to"].as_int() == ir.DataType.BOOL


@given(st.floats(width=32))
def test_a_float_attribute_keeps_every_bit(number: float) -> None:
    made = ir.node("LeakyRelu", [ir.Value(name="x")], {"alpha": number}, name="y")
    made.outputs[0].name = "y"
    again = node_of(format_node(made)).attributes["alpha"]
    assert again.type == ir.AttributeType.FLOAT
    np.testing.assert_array_equal(np.float32(again.as_float()), np.float32(number))


@given(st.text(st.characters(codec="utf-8"), max_size=12))
def test_a_text_attribute_keeps_every_letter(text: str) -> None:
    made = ir.node("Of", [ir.Value(name="x")], {"text": text}, name="y")
    made.outputs[0].name = "y"
    again = node_of(format_node(made)).attributes["text"]
    assert again.type == ir.AttributeType.STRING
    assert again.as_string() == text


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1),
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1),
)
def test_lists_keep_their_kind(whole: list[int], broken: list[float]) -> None:
    made = ir.node("Of", [ir.Value(name="x")], {"whole": whole, "broken": broken}, name="y")
    made.outputs[0].name = "y"
    again = node_of(format_node(made)).attributes
    assert list(again["whole"].as_ints()) == whole
    np.testing.assert_array_equal(np.float32(again["broken"].as_floats()), np.float32(broken))


@given(st.lists(st.tuples(IDENTIFIERS, st.sampled_from(["Add", "Mul", "Sub"])), min_size=1, max_size=8))
def test_a_chain_reads_back_line_by_line(steps: list[tuple[str, str]]) -> None:
    text, last = [], "x"
    for index, (name, op) in enumerate(steps):
        text.append(f"{name}_{index} = {op}({last}, w)")
        last = f"{name}_{index}"
    model = graph(*text)
    assert lines(model) == text
    assert [value.name for value in model.graph.inputs] == ["x", "w"]
    assert [value.name for value in model.graph.outputs] == [last]


def test_undefined_names_are_inputs_and_unread_values_outputs() -> None:
    model = graph("a = Relu(x)", "b = Add(a, w)", "c = Neg(a)", w=1.0)
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert [value.name for value in model.graph.outputs] == ["b", "c"]
    assert list(model.graph.initializers) == ["w"]
    assert [value.name for value in graph("a = Relu(x)", "b = Neg(a)", outputs=["a"]).graph.outputs] == ["a"]


@pytest.mark.parametrize(
    ("literal", "array"),
    [
        ("1e-05", np.float32(1e-5)),
        ("-2.5", np.float32(-2.5)),
        ("3", np.int64(3)),
        ("[0, -1]", np.array([0, -1])),
        ("[[1.0], [2.0]]", np.array([[1.0], [2.0]], np.float32)),
        ("True", np.bool_(True)),
        ("-inf", np.float32(-np.inf)),
    ],
)
def test_arguments_may_be_literals(literal: str, array: np.ndarray) -> None:
    model = graph(f"y = Of(x, {literal})")
    (constant,) = model.graph.initializers.values()
    assert constant.const_value is not None
    found = constant.const_value.numpy()
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype


def test_types_and_shapes_follow_from_the_inputs() -> None:
    model = graph("y = MatMul(x, w)", inputs={"x": "float16[batch, 3, 4]"}, w=np.ones((4, 8), np.float16))
    assert (
        format_model(model) == "opset ai.onnx 23\n"
        "input x: float16[batch, 3, 4]\n"
        "output y: float16[batch, 3, 8]\n"
        "y = MatMul(x, w)"
    )


@pytest.mark.parametrize(
    ("text", "dtype", "shape"),
    [
        ("float", ir.DataType.FLOAT, None),
        ("int64[]", ir.DataType.INT64, []),
        (" bfloat16 [2, ?, n]", ir.DataType.BFLOAT16, [2, None, "n"]),
    ],
)
def test_a_type_is_a_dtype_and_dimensions(text: str, dtype: ir.DataType, shape: list[int | str | None] | None) -> None:
    kind, dims = parse_type(text)
    assert kind.dtype == dtype
    assert (None if dims is None else [d if isinstance(d, int) else d.value for d in dims]) == shape


@pytest.mark.parametrize("text", ["floaty[2]", "float[2", "[2]", ""])
def test_what_is_no_type_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match=r"is no type: write it like float\[batch, 4\]"):
        parse_type(text)


@pytest.mark.parametrize("line", ["Relu(x)", "y = Relu", "y = Relu{axis=1(x)", "y Relu(x)", ""])
def test_what_is_no_line_is_refused(line: str) -> None:
    with pytest.raises(ModelError, match=r"cannot read the line .*: write it like y = Op\{attr=1\}\(x, w\)"):
        graph(line)


def test_subgraphs_are_indented_under_their_node() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 23]>
        g (bool c, float[2] x) => (float[2] y) {
            y = If (c) <then_branch = t () => (float[2] a) { a = Relu (x) },
                        else_branch = e () => (float[2] b) { b = Neg (x) }>
        }"""
    )
    assert lines(model) == [
        "y = If{else_branch=<1 nodes>, then_branch=<1 nodes>}(c)",
        "  then_branch:",
        "    a = Relu(x)",
        "  else_branch:",
        "    b = Neg(x)",
    ]


def test_tensors_are_shown_by_dtype_and_shape() -> None:
    made = ir.node("Constant", [], {"value": ir.tensor(np.zeros((2, 3), np.int8))}, name="y")
    made.outputs[0].name = "y"
    assert format_node(made) == "y = Constant{value=<int8[2, 3]>}()"


def test_a_place_is_short() -> None:
    made = ir.node("Relu", [ir.Value(name="x")], name=None)
    made.outputs[0].name = "y"
    assert place(made) == "Relu at y"
    assert place(node_of("z = Neg(x)")) == "Neg at z"
    assert place(None) == "a graph input"


def test_an_excerpt_marks_the_node_among_its_neighbours() -> None:
    model = graph("a = Relu(x)", "b = Neg(a)", "c = Abs(b)", "d = Sqrt(c)")
    node = next(node for node in model.graph if node.op_type == "Neg")
    assert excerpt(node).splitlines() == ["  a = Relu(x)", "> b = Neg(a)", "  c = Abs(b)"]
