"""What a graph must hold to be taken in, and how it is tidied."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tersor.ir.errors import ModelError
from tersor.ir.level import Level, violations
from tersor.ir.load import load
from tersor.ir.text import lines

FLOAT = TensorProto.FLOAT


def _proto(
    *nodes: onnx.NodeProto,
    inputs: tuple[str, ...] = ("x",),
    outputs: tuple[str, ...] = ("y",),
    weights: dict[str, np.ndarray] | None = None,
    opsets: dict[str, int] | None = None,
    ir_version: int = 10,
    functions: tuple[onnx.FunctionProto, ...] = (),
) -> onnx.ModelProto:
    body = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(name, FLOAT, ["n"]) for name in inputs],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in (opsets or {"": 18}).items()]
    return helper.make_model(body, opset_imports=imports, ir_version=ir_version, functions=list(functions))


def _names(values: object) -> list[str]:
    return [value.name for value in values]  # type: ignore[attr-defined]


relu = helper.make_node("Relu", ["x"], ["y"], "relu")


@pytest.mark.parametrize("opset", [7, 9, 13, 17, 23, onnx.defs.onnx_opset_version()])
@pytest.mark.parametrize("ir_version", [3, 8, 13])
def test_reads_old_and_new_opsets_and_ir_versions(opset: int, ir_version: int) -> None:
    model = load(_proto(relu, opsets={"": opset}, ir_version=ir_version))
    assert lines(model) == ["y = Relu(x)"]
    assert model.opset_imports == {"": opset}
    assert violations(model, Level.IMPORTED) == []


def test_sorts_nodes_also_of_subgraphs() -> None:
    branch = helper.make_graph(
        [helper.make_node("Relu", ["s"], ["t"]), helper.make_node("Neg", ["h"], ["s"])],
        "b",
        [],
        [helper.make_tensor_value_info("t", FLOAT, None)],
    )
    proto = _proto(
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
        helper.make_node("Cast", ["h"], ["c"], to=TensorProto.BOOL),
        helper.make_node("Abs", ["x"], ["h"]),
    )
    model = load(proto)
    assert [node.op_type for node in model.graph] == ["Abs", "Cast", "If"]
    assert [node.op_type for node in list(model.graph)[2].attributes["then_branch"].as_graph()] == ["Neg", "Relu"]
    assert violations(model, Level.IMPORTED) == []  # also: both branches named their values alike


def test_names_nodes_uniquely() -> None:
    proto = _proto(
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"], "same"),
        helper.make_node("Relu", ["b"], ["c"], "same"),
        helper.make_node("Relu", ["c"], ["y"], "Relu_1"),
    )
    assert _names(load(proto).graph) == ["Relu_2", "same", "same_1", "Relu_1"]


def test_adds_missing_imports_of_contrib_domains() -> None:
    gelu = helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")
    model = load(_proto(gelu))
    assert model.opset_imports == {"": 18, "com.microsoft": 1}
    assert lines(model) == ["y = com.microsoft.Gelu(x)"]


def test_keeps_layer_normalization_that_onnx_runtime_wrote_into_an_old_opset() -> None:
    node = helper.make_node("LayerNormalization", ["x", "w"], ["y"])
    assert len(load(_proto(node, weights={"w": np.ones(3, np.float32)}, opsets={"": 12})).graph) == 1


def test_reads_functions_and_imports_what_they_import() -> None:
    body = [
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Gelu", ["a"], ["b"], domain="com.microsoft"),
    ]
    function = helper.make_function("local", "Twice", ["a"], ["c"], body, [helper.make_opsetid("", 18)])
    call = helper.make_node("Twice", ["x"], ["y"], domain="local")
    model = load(_proto(call, functions=(function,)))
    assert [node.op_type for node in next(iter(model.functions.values()))] == ["Gelu", "Relu"]
    assert model.opset_imports == {"": 18, "local": 1, "com.microsoft": 1}


def test_before_ir_4_weights_are_no_inputs() -> None:
    node = helper.make_node("Add", ["x", "w"], ["y"])
    weights = {"w": np.ones(3, np.float32)}
    old = load(_proto(node, inputs=("x", "w"), weights=weights, ir_version=3))
    new = load(_proto(node, inputs=("x", "w"), weights=weights, ir_version=8))
    assert _names(old.graph.inputs) == ["x"]
    assert old.ir_version == 4
    assert _names(new.graph.inputs) == ["x", "w"]


def test_drops_weights_that_nobody_reads() -> None:
    model = load(_proto(relu, weights={"w": np.ones(3, np.float32)}))
    assert not model.graph.initializers


def test_refuses_opsets_that_are_too_new() -> None:
    with pytest.raises(ModelError, match=r"is of opset 999; opsets 7 to .*export it at an older opset"):
        load(_proto(relu, opsets={"": 999}))


def test_converts_opsets_that_are_too_old() -> None:
    model = load(_proto(helper.make_node("Dropout", ["x"], ["y"], is_test=1), opsets={"": 6}))
    assert model.opset_imports == {"": 7}
    assert [list(node.attributes) for node in model.graph] == [[]]


def test_slopes_by_channel_of_old_opsets_broadcast() -> None:
    proto = _proto(helper.make_node("PRelu", ["x", "w"], ["y"]), weights={"w": np.ones(3, np.float32)}, opsets={"": 6})
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 3, "h", "w"]))
    model = load(proto)
    assert [node.op_type for node in model.graph] == ["Unsqueeze", "PRelu"]
    assert model.graph.node(0).attributes["axes"].value == (1, 2)


def test_refuses_old_opsets_that_cannot_be_converted() -> None:
    node = helper.make_node("Upsample", ["x"], ["y"], width_scale=2.0, height_scale=2.0)
    with pytest.raises(ModelError, match="of opset 1, opsets from 7 on are read, and ONNX's version converter cannot"):
        load(_proto(node, opsets={"": 1}))


def test_refuses_a_model_without_opset() -> None:
    proto = _proto(relu)
    del proto.opset_import[:]
    with pytest.raises(ModelError, match="imports no opset of the standard domain"):
        load(proto)


def _branch(node: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph([node], "b", [], [helper.make_tensor_value_info(node.output[0], FLOAT, None)])


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (
            _proto(helper.make_node("Add", ["x", "b"], ["a"], "p"), helper.make_node("Relu", ["a"], ["b"], "q"),
                   helper.make_node("Relu", ["b"], ["y"])),
            "the graph has a cycle: (Add at p -> Relu at q -> Add at p|Relu at q -> Add at p -> Relu at q);",
        ),
        (
            _proto(helper.make_node("If", ["c"], ["y"], "if", then_branch=_branch(
                helper.make_node("Relu", ["y"], ["t"], "in")), else_branch=_branch(relu)),
                weights={"c": np.array(True)}),
            "the graph has a cycle: .*If at if",
        ),
        (
            _proto(helper.make_node("Rellu", ["x"], ["a"], "p"), helper.make_node("Rellu", ["a"], ["b"], "q"),
                   helper.make_node("Zwiebel", ["b"], ["y"], "r")),
            r"3 unknown operators\. Rellu is no operator of ONNX \(did you mean .*Relu.*\): Rellu at p, Rellu at q; "
            "Zwiebel is no operator of ONNX: Zwiebel at r",
        ),
        (_proto(helper.make_node("Gelu", ["x"], ["y"], "g")), "Gelu is not in opset 18, it came with opset 20"),
        (
            _proto(helper.make_node("If", ["c"], ["y"], then_branch=_branch(
                helper.make_node("Zwiebel", ["x"], ["t"], "in")), else_branch=_branch(
                    helper.make_node("Relu", ["x"], ["u"]))), weights={"c": np.array(True)}),
            "1 unknown operator. Zwiebel is no operator of ONNX: Zwiebel at in",
        ),
        (_proto(helper.make_node("Op", ["x"], ["y"], domain="acme")), "acme::Op is of a domain nobody knows"),
        (_proto(helper.make_node("Add", ["x", "z"], ["y"], "add")), "nobody produces 'z', read by Add at add"),
        (_proto(relu, outputs=("y", "q")), "nobody produces the output 'q'"),
        (_proto(relu, outputs=("y", "y")), "output 'y' is listed more than once"),
        (_proto(relu, inputs=("x", "x")), "input 'x' is listed more than once"),
        (_proto(relu, relu), "no valid ONNX graph: Output 'y' is redeclared"),
        (_proto(helper.make_node("Relu", ["x"], ["x"]), outputs=("x",)), "Output 'x' is redeclared"),
    ],
    ids=["cycle", "cycle-through-subgraph", "unknown", "too-new", "unknown-inside", "domain", "unproduced-input",
         "unproduced-output", "output-twice", "input-twice", "produced-twice", "in-place"],
)  # fmt: skip
def test_refuses_broken_graphs(proto: onnx.ModelProto, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load(proto)
    assert str(caught.value).startswith("the ModelProto")


def _declared(*dims: int) -> onnx.ModelProto:
    proto = _proto(relu)
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", FLOAT, dims))
    return proto


def test_a_dimension_of_minus_one_is_not_known() -> None:
    shape = load(_declared(-1, 3)).graph.inputs[0].shape
    assert shape is not None
    assert [dim if isinstance(dim, int) else dim.value for dim in shape] == [None, 3]


def test_refuses_negative_dimensions() -> None:
    with pytest.raises(ModelError, match=r"negative dimensions: 'x' of shape \[-2, 3\]"):
        load(_declared(-2, 3))
    weight = onnx.TensorProto(name="w", dims=[-1, 3], data_type=FLOAT, float_data=[1, 2, 3])
    proto = _proto(helper.make_node("Add", ["x", "w"], ["y"]))
    proto.graph.initializer.append(weight)
    with pytest.raises(ModelError, match=r"negative dimensions: 'w' of shape \[-1, 3\]"):
        load(proto)
