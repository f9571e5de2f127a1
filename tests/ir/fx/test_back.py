"""FX -> ONNX: what `to_fx` made comes back as the ops, names and weights that it was made from, edits included."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
import tersor
import torch
from tersor.ir.dimensions import ranges, set_ranges
from tersor.ir.errors import ModelError
from tersor.ir.feeds import random_feeds
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.fx.ops import elementwise, reduce
from tersor.ir.level import Level, check, detect
from tersor.ir.text import graph, lines

INT4 = onnx_ir.DataType.INT4.numpy()
RNG = np.random.default_rng(0)


def weight(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def spelled_out(model: onnx_ir.Model) -> list[str]:
    """The graph's lines, ports and weights: what has to come back."""
    ports = [f"{v.name} {v.type} {v.shape}" for v in (*model.graph.inputs, *model.graph.outputs)]
    weights = [f"{k} {v.dtype}" for k, v in model.graph.initializers.items() if v.uses() or v.is_graph_output()]
    return [*lines(model), *ports, *sorted(weights)]


LAYERS = {
    "arithmetic": (["s = Shape(x)", "d = Gather(s, [0])", "c = Concat{axis=0}(d, [-1])", "y = Reshape(x, c)"], {}),
    "normalized": (
        ["n = LayerNormalization{axis=-1, epsilon=1e-05}(x, g, b)", "y = RMSNormalization(n, g)"],
        {"g": weight(8), "b": weight(8)},
    ),
    "attention": (
        ["y = Attention{is_causal=1, kv_num_heads=2, q_num_heads=2}(x, x, x)"],
        {},
    ),
    "cached attention": (
        ["(y, k, v) = Attention{kv_num_heads=1, q_num_heads=1}(x, x, x, _, p, p)"],
        {"p": weight(2, 1, 4, 8)},
    ),
    "rotary": (
        ["y = RotaryEmbedding{num_heads=2}(x, c, s)"],
        {"c": weight(2, 4, 2), "s": weight(2, 4, 2)},
    ),
    "linear": (
        [
            "h = MatMul(x, w)",
            "i = Add(h, b)",
            "j = Gelu{approximate=tanh}(i)",
            "r = Reshape(j, [-1, 8])",
            "y = Gemm{transB=1, alpha=0.5}(r, w, b)",
        ],
        {"w": weight(8, 8), "b": weight(8)},
    ),
    "bounds": (
        ["c = Clip(x, _, 6.0)", "p = Pad{mode=reflect}(c, [0, 0, 1, 0, 0, 1])", "y = Slice(p, [1], [-1], [2], [2])"],
        {},
    ),
    "top": (["(v, i) = TopK{axis=-1}(x, [3])", "(a, b) = Split{axis=-1, num_outputs=2}(v)"], {}),
    "recurrent": (
        [
            "(y, h, c) = LSTM{hidden_size=4, direction=bidirectional}(x, w, r, b)",
            "g = GRU{hidden_size=4}(x, u, s)",
        ],
        {
            "w": weight(2, 16, 8),
            "r": weight(2, 16, 4),
            "b": weight(2, 32),
            "u": weight(1, 12, 8),
            "s": weight(1, 12, 4),
        },
    ),
    "quantized": (
        ["d = DequantizeLinear{axis=0, block_size=4}(q, s, z)", "y = MatMul(x, d)", "u = QuantizeLinear(y, t, n)"],
        {
            "q": np.arange(-8, 8).repeat(4).reshape(8, 8).astype(INT4),
            "s": np.full((2, 8), 0.5, np.float32),
            "z": np.zeros((2, 8), INT4),
            "t": np.float32(0.1),
            "n": np.int8(3),
        },
    ),
    "resized": (["e = Unsqueeze(x, [0])", "y = Resize{mode=nearest}(e, _, [1.0, 1.0, 2.0, 2.0])"], {}),
    "contrib": (
        [
            "n = com.microsoft.BiasGelu(x, b)",
            "f = com.microsoft.FusedMatMul{alpha=2.0, transB=1}(n, w)",
            "y = Cast{to=FLOAT}(f)",
        ],
        {"w": weight(8, 8), "b": weight(8)},
    ),
    "scattered": (["y = ScatterElements{axis=2}(x, i, u)"], {"i": np.zeros((2, 4, 1), np.int64), "u": weight(2, 4, 1)}),
    "filled": (
        ["s = Shape(x)", "o = ConstantOfShape(s)", "m = Where(c, o, x)", "y = Cast{to=FLOAT16}(m)"],
        {"c": np.ones(8, bool)},
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_ops_names_and_types_come_back(name: str) -> None:
    text, constants = LAYERS[name]
    model = graph(*text, inputs={"x": "float[2, 4, 8]"}, **constants)
    module = to_fx(model)
    for again in (tersor.load(module), tersor.load(copy.deepcopy(module))):
        assert spelled_out(again) == spelled_out(model)
        check(again, detect(model))
        feeds = random_feeds(model)
        wanted, found = (Interpreter(to_fx(each)).run(feeds) for each in (model, again))
        for output, value in wanted.items():
            np.testing.assert_array_equal(found[output], value)


def test_dimensions_keep_names_and_ranges() -> None:
    model = graph("y = Relu(x)", inputs={"x": "float[batch, sequence]"})
    set_ranges(model, {"sequence": (2, 512)})
    again = tersor.load(to_fx(model))
    assert [str(dim) for dim in again.graph.inputs[0].shape or ()] == ["batch", "sequence"]
    assert [str(dim) for dim in again.graph.outputs[0].shape or ()] == ["batch", "sequence"]
    assert ranges(again) == {"sequence": (2, 512)}


@pytest.mark.parametrize("opset", [7, 11, 17, 21])
def test_old_opsets_stay_what_they_are(opset: int) -> None:
    model = graph("y = Softmax{axis=1}(x)", "z = Unsqueeze{axes=[0]}(y)" if opset < 13 else "z = Neg(y)", opset=opset)
    again = tersor.load(to_fx(model))
    assert again.opset_imports == model.opset_imports
    assert lines(again) == lines(model)


def test_trained_weights_flow_back() -> None:
    model = graph("y = MatMul(x, layer.weight)", inputs={"x": "float[2, 3]"}, **{"layer.weight": weight(3, 3)})
    module = to_fx(model, copy=True)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module(torch.ones(2, 3)).square().sum().backward()
    optimizer.step()
    tensor = tersor.load(module).graph.initializers["layer.weight"].const_value
    assert tensor is not None
    np.testing.assert_array_equal(tensor.numpy(), module.get_parameter("layer.weight").detach().numpy())
    before = model.graph.initializers["layer.weight"].const_value
    assert before is not None
    assert not np.array_equal(tensor.numpy(), before.numpy())


def find(module: torch.fx.GraphModule, name: str) -> torch.fx.Node:
    return next(node for node in module.graph.nodes if node.meta.get("onnx_name") == name)


def test_a_removed_node_is_gone() -> None:
    module = to_fx(graph("h = Relu(x)", "y = Neg(h)"))
    node = find(module, "h")
    node.replace_all_uses_with(find(module, "x"))
    module.graph.erase_node(node)
    assert lines(tersor.load(module)) == ["y = Neg(x)"]


def test_a_swapped_function_and_a_changed_argument_count() -> None:
    module = to_fx(graph("h = Relu(x)", "s = ReduceSum{keepdims=0}(h, [1])", "y = Clip(s, 0.0, 6.0)"))
    find(module, "h").target = elementwise.gelu
    find(module, "s").target = reduce.reduce_mean
    find(module, "s").kwargs = {"keepdims": 1}
    find(module, "y").args = (find(module, "s"), 0.0, 3.0)
    again = tersor.load(module)
    assert [line.partition("(")[0] for line in lines(again)] == ["h = Gelu", "s = ReduceMean{keepdims=1}", "y = Clip"]
    x = np.ones((2, 3), np.float32) * 9
    assert Interpreter(to_fx(again)).run({"x": x})["y"].tolist() == [[3], [3]]


def test_a_shape_that_an_edit_made_untrue_is_inferred_again() -> None:
    model = graph("s = ReduceSum{keepdims=0}(x, [1])", "y = Relu(s)", inputs={"x": "float[n, 3]"})
    module = to_fx(model)
    find(module, "s").kwargs = {"keepdims": 1}
    assert [str(dim) for dim in tersor.load(module).graph.outputs[0].shape or ()] == ["n", "1"]


def test_well_known_torch_functions_become_ops() -> None:
    module = to_fx(graph("y = Exp(x)", inputs={"x": "float[n, 2]"}))
    node = find(module, "y")
    (last,) = module.graph.find_nodes(op="output")
    with module.graph.inserting_before(last):
        doubled = module.graph.call_function(operator.mul, (node, 2))
        squashed = module.graph.call_method("sigmoid", (doubled,))
        moved = module.graph.call_function(torch.add, (squashed, node))
    last.args = (moved,)
    module.recompile()
    again = tersor.load(module)
    assert [node.op_type for node in again.graph] == ["Exp", "Mul", "Sigmoid", "Add"]
    assert [value.name for value in again.graph.outputs] == ["y"]
    x = np.ones((1, 2), np.float32)
    np.testing.assert_allclose(Interpreter(to_fx(again)).run({"x": x})["y"], module(torch.from_numpy(x)))


def test_foreign_torch_code_goes_through_the_exporter() -> None:
    model = graph(
        "h = MatMul(in put, w/0)", "y = Relu(h)", inputs={"in put": "float[batch, 3]"}, **{"w/0": weight(3, 3)}
    )
    module = to_fx(model)
    node = find(module, "h")
    module.add_module("extra", torch.nn.Linear(3, 3))
    with module.graph.inserting_after(node):
        added = module.graph.call_module("extra", (node,))
    node.replace_all_uses_with(added)
    added.args = (node,)
    module.recompile()
    again = tersor.load(module)
    assert [value.name for value in (*again.graph.inputs, *again.graph.outputs)] == ["in put", "y"]
    assert str((again.graph.inputs[0].shape or ())[0]) == "batch"
    assert "w/0" in again.graph.initializers
    assert module.training
    for batch in (1, 5):
        x = weight(batch, 3)
        found = Interpreter(to_fx(again)).run({"in put": x})["y"]
        np.testing.assert_allclose(found, module(torch.from_numpy(x)).detach(), rtol=1e-5, atol=1e-6)


def test_what_neither_way_can_write_says_why() -> None:
    module = to_fx(graph("y = Relu(x)"))
    node = find(module, "y")
    node.target = torch.special.airy_ai
    with pytest.raises(ModelError, match="input 'x' has no known type and shape") as caught:
        tersor.load(module)
    assert "airy_ai is no op of the tables" in caught.value.__notes__[0]


def test_what_has_no_known_shape_may_be_loaded_with_example_inputs() -> None:
    module = to_fx(graph("y = Relu(x)"))
    find(module, "y").target = torch.special.expit
    module.recompile()
    again = tersor.load(module, args=(torch.ones(2, 3),), dynamic={"x": {0: "batch"}})
    assert [node.op_type for node in again.graph] == ["Sigmoid"]
    assert module.training


def test_outputs_that_are_inputs_weights_or_one_value_twice() -> None:
    module = to_fx(graph("y = Relu(x)", "z = Neg(x)", outputs=["y", "z"], w=weight(2), inputs={"x": "float[2]"}))
    (last,) = module.graph.find_nodes(op="output")
    y, x = find(module, "y"), find(module, "x")
    last.args = ((y, y),)
    assert lines(tersor.load(module)) == ["y = Relu(x)", "z_1 = Neg(x)", "z = Identity(y)"]
    last.args = ((x, y),)
    again = tersor.load(module)
    assert [value.name for value in again.graph.outputs] == ["y", "z"]
    found = Interpreter(to_fx(again)).run({"x": np.array([-1, 1], np.float32)})
    assert [value.tolist() for value in found.values()] == [[-1, 1], [0, 1]]


@pytest.mark.parametrize("cast", ["half", "bfloat16", "double"])
def test_a_module_whose_weights_were_cast_is_a_model_of_that_type(cast: str) -> None:
    model = graph(
        "s = Mul(x, 0.5)",
        "h = MatMul(s, w)",
        "c = Clip(h, _, 6.0)",
        "n = Shape(c)",
        "y = Reshape(c, n)",
        inputs={"x": "float[batch, 3]"},
        w=np.ones((3, 3), np.float32),
    )
    module = getattr(to_fx(model, copy=True), cast)()
    again = tersor.load(module)
    dtype = {torch.half: "FLOAT16", torch.bfloat16: "BFLOAT16", torch.double: "DOUBLE"}[module.w.dtype]
    floats = {str(v.dtype) for v in (*again.graph.inputs, *again.graph.outputs, *(n.outputs[0] for n in again.graph))}
    assert floats == {dtype, "INT64"}
    onnx.checker.check_model(onnx_ir.to_proto(again), full_check=True)
    x = np.arange(6).reshape(2, 3).astype(onnx_ir.DataType[dtype].numpy())
    assert Interpreter(to_fx(again)).run({"x": x})["y"].astype(float).tolist() == [[1.5] * 3, [6] * 3]


def test_a_weight_of_another_shape_changes_what_is_declared() -> None:
    module = to_fx(graph("h = MatMul(x, w)", "y = Relu(h)", inputs={"x": "float[batch, 3]"}, w=weight(3, 3)))
    module.w = torch.nn.Parameter(torch.ones(3, 5))
    again = tersor.load(module)
    shapes = [[str(dim) for dim in value.shape or ()] for value in (again.graph[0].outputs[0], again.graph.outputs[0])]
    assert shapes == [["batch", "5"]] * 2


def test_outputs_keep_their_names_where_others_come_or_go() -> None:
    module = to_fx(graph("h = Neg(x)", "y = Relu(h)", outputs=["h", "y"], inputs={"x": "float[2]"}))
    (last,) = module.graph.find_nodes(op="output")
    h, y = find(module, "h"), find(module, "y")
    last.args = (y,)
    assert lines(tersor.load(module)) == ["h = Neg(x)", "y = Relu(h)"]
    assert [value.name for value in tersor.load(module).graph.outputs] == ["y"]
    last.args = ((find(module, "x"), y, h),)
    again = tersor.load(module)
    assert [value.name for value in again.graph.outputs] == ["output_0", "y", "h"]
    assert [str(value.dtype) for value in again.graph.outputs] == ["FLOAT"] * 3
    with pytest.raises(ModelError, match=r"3 outputs and had h, y when to_fx made it: .* to_fx\(tersor\.load"):
        Interpreter(module)
    assert len(Interpreter(to_fx(again)).run({"x": np.ones(2, np.float32)})) == 3


HEADER = '<ir_version: 10, opset_import: ["" : 21, "own" : 1]>'
CONTROL = {
    "if": """
g (float[N, M] x, bool c) => (float[N, M] y, int64[2] s) {
    k = Constant <value_floats = [2.0]> ()
    h = Relu (x)
    y, s = If (c) <
        then_branch = t () => (ty, ts) { ty = Mul (h, k)  ts = Shape (ty) },
        else_branch = e () => (ey, es) { ey = Neg (h)  es = Shape (h) }
    >
}
""",
    "loop": """
g (float[2] x, int64 n) => (float[2] last, float[K, 2] all) {
    yes = Constant <value = bool {1}> ()
    last, all = Loop (n, yes, x) <
        body = b (int64 i, bool c, float[2] a) => (d, out, row) {
            f = Cast <to = 1> (i)
            p = Add (a, f)
            out = Mul (p, x)
            row = Identity (out)
            d = Identity (c)
        }
    >
}
""",
    "scan": """
g (float[2] s, float[2, 3] x) => (float[2] last, float[3, 2] sums) {
    last, sums = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_input_directions = [1],
        body = b (float[2] a, float[2] c) => (out, row) { out = Add (a, c)  row = Identity (out) }
    > (s, x)
}
""",
    "scan of opset 8": """
g (float[B, 2] s, float[B, 3, 2] x, int64[B] n) => (float[B, 2] last, float[B, 3, 2] sums) {
    last, sums = Scan <num_scan_inputs = 1, directions = [1],
        body = b (float[2] a, float[2] c) => (out, row) { out = Add (a, c)  row = Neg (out) }
    > (n, s, x)
}
""",
}
FEEDS = {
    "scan of opset 8": {"s": weight(2, 2), "x": weight(2, 3, 2), "n": np.array([1, 3])},
    "if": {"x": weight(2, 3), "c": np.array(True)},
    "loop": {"x": weight(2), "n": np.array(3)},
    "scan": {"s": weight(2), "x": weight(2, 3)},
}


@pytest.mark.parametrize("name", CONTROL)
def test_control_flow_comes_back_with_its_bodies(name: str) -> None:
    header = HEADER.replace("21", "8") if name.endswith("8") else HEADER
    model = onnx_ir.from_onnx_text(f"{header}\n{CONTROL[name]}")
    again = tersor.load(to_fx(model))
    ops = [node.op_type for node in model.graph.all_nodes() if node.op_type != "Constant"]
    assert [node.op_type for node in again.graph.all_nodes()] == ops
    wanted, found = (Interpreter(to_fx(each)).run(FEEDS[name]) for each in (model, again))
    for output, value in wanted.items():
        np.testing.assert_array_equal(found[output], value)
    assert list(found) == [value.name for value in model.graph.outputs]
    onnx_ir.passes.common.CheckerPass()(again)
    assert lines(tersor.load(to_fx(again))) == lines(again)


def test_inlined_functions_come_back_inlined() -> None:
    text = """
    g (float[N] x) => (float[N] y) { h = own.scaled <factor = 3.0> (x)  y = own.scaled (h) }
    <domain: "own", opset_import: ["" : 21]>
    scaled <factor: float = 1.0> (a) => (b) { k = Constant <value_float: float = @factor> ()  b = Mul (a, k) }
    """
    again = tersor.load(to_fx(onnx_ir.from_onnx_text(f"{HEADER}\n{text}")))
    assert [node.op_type for node in again.graph] == ["Mul", "Mul"]
    assert Interpreter(to_fx(again)).run({"x": np.ones(2, np.float32)})["y"].tolist() == [3, 3]


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 23])
def test_minilm_comes_back_whole(minilm_onnx: Callable[[int], Path], opset: int) -> None:
    model = tersor.load(minilm_onnx(opset))
    again = tersor.load(to_fx(model))
    assert spelled_out(again) == spelled_out(model)
    assert detect(again) is (Level.SEMANTIC if opset == 23 else Level.IMPORTED)
    feeds = random_feeds(model)
    wanted, found = (Interpreter(to_fx(each)).run(feeds) for each in (model, again))
    np.testing.assert_array_equal(found["last_hidden_state"], wanted["last_hidden_state"])
