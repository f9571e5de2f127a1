"""Costs are checked against counts by hand, and against the same model written with other ops."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx_ir
import pytest
from tersor.ir.block import blocks
from tersor.ir.cost import cost
from tersor.ir.errors import OptionError
from tersor.ir.text import graph


def ones(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.ones(shape, np.float32)


def flops(*lines: str, inputs: dict[str, str], **constants: object) -> int:
    found = cost(graph(*lines, inputs=inputs, **constants))
    assert found.unknown == ()
    return int(found.flops)


LSTM = {"w": ones(2, 20, 6), "r": ones(2, 20, 5), "b": ones(2, 40)}
GRU = {"w": ones(1, 15, 6), "r": ones(1, 15, 5)}


@pytest.mark.parametrize(
    ("line", "inputs", "constants", "expected"),
    [
        ("y = MatMul(x, w)", {"x": "float[3, 4]"}, {"w": ones(4, 5)}, 2 * 3 * 4 * 5),
        ("y = MatMul(x, z)", {"x": "float[2, 3, 4]", "z": "float[2, 4, 5]"}, {}, 2 * 2 * 3 * 4 * 5),
        ("y = MatMul(x, z)", {"x": "float[4]", "z": "float[4]"}, {}, 2 * 4),
        ("y = Gemm(x, w, b)", {"x": "float[3, 4]"}, {"w": ones(4, 5), "b": ones(5)}, 2 * 3 * 4 * 5 + 3 * 5),
        ("y = Gemm{transA=1, transB=1}(x, w)", {"x": "float[4, 3]"}, {"w": ones(5, 4)}, 2 * 3 * 4 * 5),
        ("y = Conv(x, w, b)", {"x": "float[2, 3, 8, 8]"}, {"w": ones(5, 3, 3, 3), "b": ones(5)}, 2 * 5 * 36 * (54 + 1)),
        ("y = Conv{strides=[2], pads=[1, 1], group=2}(x, w)", {"x": "float[1, 4, 9]"}, {"w": ones(6, 2, 3)},
         6 * 5 * 12),
        ("y = ConvTranspose{strides=[2]}(x, w)", {"x": "float[1, 4, 9]"}, {"w": ones(4, 6, 3)}, 2 * 4 * 9 * 6 * 3),
        ("y = Relu(x)", {"x": "float[3, 4]"}, {}, 12),
        ("y = Add(x, z)", {"x": "float[3, 1]", "z": "float[4]"}, {}, 12),
        ("y = Softmax(x)", {"x": "float[3, 4]"}, {}, 60),
        ("y = LayerNormalization(x, g)", {"x": "float[3, 4]"}, {"g": ones(4)}, 84),
        ("y = ReduceMean(x, [1])", {"x": "float[3, 4]"}, {}, 12),
        ("y = MaxPool{kernel_shape=[2, 2]}(x)", {"x": "float[1, 1, 4, 4]"}, {}, 9 * 4),
        ("y = GlobalAveragePool(x)", {"x": "float[1, 2, 4, 4]"}, {}, 32),
        ("y = Transpose(x)", {"x": "float[3, 4]"}, {}, 0),
        ("y = LSTM{hidden_size=5, direction=bidirectional}(x, w, r, b)", {"x": "float[7, 3, 6]"}, LSTM,
         2 * 7 * 3 * (2 * 20 * (6 + 5) + 13 * 5)),
        ("y = GRU{hidden_size=5}(x, w, r)", {"x": "float[7, 3, 6]"}, GRU, 7 * 3 * (2 * 15 * (6 + 5) + 13 * 5)),
        ("y = Attention(q, k, v)", {"q": "float[2, 4, 6, 8]", "k": "float[2, 2, 9, 8]", "v": "float[2, 2, 9, 10]"}, {},
         2 * 4 * 6 * 9 * (2 * 8 + 2 * 10 + 5)),
        ("y = Attention{q_num_heads=4, kv_num_heads=2}(q, k, v, m)",
         {"q": "float[2, 6, 32]", "k": "float[2, 9, 16]", "v": "float[2, 9, 20]", "m": "float[6, 9]"}, {},
         2 * 4 * 6 * 9 * (2 * 8 + 2 * 10 + 5 + 1)),
        ("y = com.microsoft.MultiHeadAttention{num_heads=4}(q, k, v)",
         {"q": "float[2, 6, 32]", "k": "float[2, 9, 32]", "v": "float[2, 9, 32]"}, {}, 2 * 4 * 6 * 9 * (16 + 16 + 5)),
        ("y = com.microsoft.Attention{num_heads=4}(x, w, b)", {"x": "float[2, 6, 32]"},
         {"w": ones(32, 96), "b": ones(96)}, 2 * 6 * 96 * 65 + 2 * 4 * 6 * 6 * (16 + 16 + 5)),
        ("y = com.microsoft.FusedMatMul{transB=1}(x, w)", {"x": "float[3, 4]"}, {"w": ones(5, 4)}, 2 * 3 * 4 * 5),
        ("y = com.microsoft.DynamicQuantizeMatMul(x, w, s)", {"x": "float[3, 4]"},
         {"w": np.ones((4, 5), np.int8), "s": np.float32(1)}, 2 * 3 * 4 * 5),
        ("y = com.microsoft.MatMulNBits{K=4, N=5, bits=4, block_size=16}(x, w, s)", {"x": "float[3, 4]"},
         {"w": np.ones((5, 1, 2), np.uint8), "s": ones(5)}, 2 * 3 * 4 * 5),
    ],
    ids=lambda value: value.split("(")[0] if isinstance(value, str) else "",
)  # fmt: skip
def test_flops(line: str, inputs: dict[str, str], constants: dict[str, object], expected: int) -> None:
    assert flops(line, inputs=inputs, **constants) == expected


@pytest.mark.parametrize(
    ("fused", "lines"),
    [
        (["y = Softmax(x)"],
         ["m = ReduceMax(x, [1])", "d = Sub(x, m)", "e = Exp(d)", "s = ReduceSum(e, [1])", "y = Div(e, s)"]),
        (["y = Gelu(x)"],
         ["a = Div(x, 1.5)", "b = Erf(a)", "c = Add(b, 1.0)", "d = Mul(c, x)", "y = Mul(d, 0.5)"]),
        (["y = Gemm(x, w, b)"], ["m = MatMul(x, w)", "y = Add(m, b)"]),
        (["y = Attention(q, k, v)"],
         ["t = Transpose{perm=[0, 1, 3, 2]}(k)", "s = MatMul(q, t)", "p = Softmax(s)", "y = MatMul(p, v)"]),
    ],
)  # fmt: skip
def test_fusing_changes_no_figure(fused: list[str], lines: list[str]) -> None:
    inputs = {"x": "float[3, 4]"} | dict.fromkeys("qkv", "float[2, 4, 6, 8]")
    weights = {"w": ones(4, 5), "b": ones(5)}
    assert flops(*fused, inputs=inputs, **weights) == flops(*lines, inputs=inputs, **weights)


def test_flops_of_an_einsum() -> None:
    model = onnx_ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 23]>
        g (float[b, 3, 4] x, float[b, 4, 5] z) => (float[b, 3, 5] y) { y = Einsum<equation = "bij,bjk->bik">(x, z) }
    """)
    assert str(cost(model).flops) == f"{2 * 3 * 4 * 5}*b"


def layer() -> onnx_ir.Model:
    return graph(
        "e = Gather(table, ids)", "h = MatMul(e, w)", "s = Add(h, b)", "t = Transpose{perm=[0, 2, 1]}(s)",
        "a = MatMul(s, t)", "r = Reshape(a, [0, -1])",
        inputs={"ids": "int64[batch, sequence]"}, table=ones(50, 8), w=ones(8, 6), b=ones(6),
    )  # fmt: skip


def test_symbolic_in_the_dynamic_dimensions() -> None:
    model = layer()
    found = cost(model)
    assert str(found.flops) == "12*batch*sequence*sequence + 102*batch*sequence"
    # the weight is 8 x 6, the bias 6, and the product of s [sequence, 6] with itself
    assert found.flops.at({"batch": 2, "sequence": 3}) == 2 * 3 * (2 * 8 * 6 + 6) + 2 * 2 * 3 * 3 * 6
    assert found.at({"batch": 2, "sequence": 3}) == cost(model, {"batch": 2, "sequence": 3})


def test_some_dimensions_given() -> None:
    assert str(cost(layer(), {"batch": 1}).flops) == "12*sequence*sequence + 102*sequence"


def test_numbers_when_all_are_given() -> None:
    found = cost(layer(), {"batch": 1, "sequence": 2})
    assert (int(found.flops), f"{found.flops:,}") == (252, "252")
    with pytest.raises(ValueError, match="give sizes for batch, sequence"):
        int(cost(layer()).flops)


def test_bytes_read_and_written() -> None:
    found = cost(layer(), {"batch": 2, "sequence": 3})
    elements = {"ids": 2 * 3 * 2, "e": 48, "h": 36, "s": 36, "t": 36, "a": 18}  # an int64 is two floats
    written = sum(elements[name] for name in "ehsta") * 4
    # the lookup reads the ids; the weights are no activations; the reshape moves nothing
    read = sum(elements[name] for name in ("ids", "e", "h", "s", "s", "t")) * 4
    assert (int(found.read), int(found.written), int(found.activation_bytes)) == (read, written, read + written)


def test_parameters_and_bytes_as_stored() -> None:
    packed = onnx_ir.tensor(np.zeros((10, 3), np.int8), dtype=onnx_ir.DataType.INT4)
    model = graph(
        "c = Cast{to=FLOAT}(q)", "m = MatMul(x, c)", "n = MatMul(x, w)", "o = MatMul(n, w)", "p = Add(o, shape)",
        inputs={"x": "float[2, 10]"}, q=np.zeros((10, 3), np.int8), w=ones(10, 10), shape=np.zeros(2, np.int64),
    )  # fmt: skip
    model.graph.initializers["q"].const_value = packed
    found = cost(model)
    assert found.parameters == 10 * 3 + 10 * 10  # shared weights once, 64-bit integers not
    assert found.bytes == 15 + 400 + 16
    assert [node.parameters for node in found.nodes] == [30, 0, 100, 0, 0]


def test_large_weights_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    model = graph("y = MatMul(x, w)", inputs={"x": "float[n, 4]"}, w=ones(4, 4))

    def refuse(self: object) -> None:
        raise AssertionError("a weight was read")

    tensor = onnx_ir.LazyTensor(refuse, dtype=onnx_ir.DataType.FLOAT, shape=onnx_ir.Shape([4, 4]))  # type: ignore[arg-type]
    model.graph.initializers["w"].const_value = tensor
    model.graph.initializers["w"].shape = None
    assert (str(cost(model).flops), cost(model).bytes) == ("32*n", 64)


def test_what_is_not_known_is_listed() -> None:
    model = graph(
        "a = com.example.Magic(x)", "y = MatMul(a, w)", "z = Relu(x)", inputs={"x": "float[3, 4]"}, w=ones(4, 4)
    )
    found = cost(model)
    assert found.unknown == ("Magic at a: no rule", "MatMul at y: the shape is unknown")
    assert found.flops == 12 and "2 nodes not counted" in str(found)


def test_refuses_an_unknown_dimension() -> None:
    with pytest.raises(OptionError, match="no dynamic dimension 'bach'; did you mean batch"):
        cost(layer(), {"bach": 1})


BRANCHES = """
    <ir_version: 10, opset_import: ["" : 23]>
    g (float[n, 4] x, bool c) => (float[n, 4] y) <float[4, 4] w = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}> {
        y = If(c) <then_branch = t () => (float[n, 4] a) { a = Relu(x) },
                   else_branch = e () => (float[n, 4] b) { h = MatMul(x, w) b = Relu(h) }>
    }
"""


def test_the_dearer_branch_counts() -> None:
    model = onnx_ir.from_onnx_text(BRANCHES)
    found = cost(model)
    assert str(found.flops) == f"{2 * 4 * 4 + 4}*n"
    assert [node.top.op_type for node in found.nodes] == ["If", "If", "If"]


def test_a_scan_counts_each_trip() -> None:
    model = onnx_ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 23]>
        g (float[4] s, float[steps, 4] x) => (float[4] last, float[steps, 4] all) {
            last, all = Scan<num_scan_inputs = 1, body = b (float[4] h, float[4] u) => (float[4] n, float[4] o) {
                n = Add(h, u)
                o = Relu(n)
            }>(s, x)
        }
    """)
    assert str(cost(model).flops) == "8*steps"


def test_a_function_costs_what_its_call_needs() -> None:
    model = onnx_ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 23, "tersor" : 1]>
        g (float[n, 4] x, float[7] z) => (y, v) { y = tersor.Act <axis = 1> (x)  v = tersor.Act <axis = 0> (z) }
        <domain: "tersor", opset_import: ["" : 23]>
        Act <axis> (a) => (c) { b = ReduceSum <keepdims = 1> (a)  c = Concat <axis : int = @axis> (a, a) }
    """)
    found = cost(model)
    assert found.unknown == () and str(found.flops) == "4*n + 7"
    # two sums of one float each, and the concatenations [n, 8] and [14]
    assert str(found.written) == "32*n + 64"
    assert {node.top for node in found.nodes} == set(model.graph)


def test_the_cost_of_blocks_adds_up() -> None:
    weights = {f"w{at}": ones(4, 4) for at in range(3)}
    lines = [line for at in range(3) for line in (f"m{at} = MatMul(x{at}, w{at})", f"x{at + 1} = Add(x{at}, m{at})")]
    model = graph(*lines, "y = Relu(x3)", inputs={"x0": "float[n, 4]"}, **weights)
    whole = cost(model)
    parts = [whole.of(block.nodes) for block in blocks(model)]
    assert [str(part.flops) for part in parts] == ["36*n"] * 3
    assert [part.parameters for part in parts] == [16] * 3
    assert str(whole.flops) == f"{3 * 36 + 4}*n"


def test_unannotated_models_are_inferred_and_left_as_they_are() -> None:
    model = layer()
    wanted = cost(model)
    for node in model.graph:
        for value in node.outputs:
            value.shape = value.type = None
    assert cost(model) == wanted
    assert all(value.shape is None for node in model.graph for value in node.outputs)


def test_the_linear_layers_of_a_transformer_by_hand() -> None:
    """One BERT layer of MiniLM's size: the linear layers dominate as the textbook says."""
    width, inner, sequence = 384, 1536, 128
    shapes = [(width, width)] * 4 + [(width, inner), (inner, width)]
    lines, source = [], "x"
    for at, _ in enumerate(shapes):
        lines.append(f"y{at} = MatMul({source}, w{at})")
        source = f"y{at}"
    found = cost(
        graph(
            *lines, inputs={"x": f"float[{sequence}, {width}]"}, **{f"w{at}": ones(*s) for at, s in enumerate(shapes)}
        )
    )
    assert int(found.flops) == 2 * sequence * sum(map(prod, shapes))
